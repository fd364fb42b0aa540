//! What is behind a serial line on the host's side: a queue of bytes to the guest, and
//! a queue of bytes from it, each bounded.
//!
//! A [`Queue`] lies between a vCPU's thread and a thread that reads or writes a file: neither
//! waits for a single byte of the other's.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many bytes a queue holds before whoever fills it waits.
pub const CAPACITY: usize = 256 << 10;

/// A bounded queue of bytes between two threads.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    /// The queue is no longer empty, or closed.
    filled: Condvar,
    /// The queue has room again, or was closed.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
    /// Someone has taken bytes that it has not finished with.
    taken: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes; waits while the queue is full. Bytes for a closed queue are dropped.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        while state.bytes.len() >= CAPACITY && !state.closed {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        let was_empty = state.bytes.is_empty();
        state.bytes.extend(bytes);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Takes up to `most` bytes, if there are any.
    pub fn take(&self, most: usize) -> Vec<u8> {
        let mut state = self.lock();
        let was_full = state.bytes.len() >= CAPACITY;
        let count = state.bytes.len().min(most);
        let bytes = state.bytes.drain(..count).collect();
        if was_full {
            self.drained.notify_all();
        }
        bytes
    }

    /// Waits for bytes and gives all of them to `work`. Gives false once the queue is closed
    /// and empty.
    pub fn serve(&self, work: impl FnOnce(&[u8])) -> bool {
        let mut state = self.lock();
        while state.bytes.is_empty() {
            if state.closed {
                return false;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let bytes: Vec<u8> = state.bytes.drain(..).collect();
        state.taken = true;
        self.drained.notify_all();
        drop(state);
        work(&bytes);
        self.lock().taken = false;
        self.drained.notify_all();
        true
    }

    /// No more bytes come. What is there can still be taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Waits until everything was served.
    pub fn drain(&self) {
        let mut state = self.lock();
        while !state.bytes.is_empty() || state.taken {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_and_the_queue_stays_bounded() {
        let queue = Arc::new(Queue::default());
        let sent: Vec<u8> = (0..3 * CAPACITY).map(|n| (n % 251) as u8).collect();
        let producer = {
            let (queue, sent) = (Arc::clone(&queue), sent.clone());
            std::thread::spawn(move || {
                sent.chunks(1000).for_each(|chunk| queue.push(chunk));
                queue.close();
            })
        };
        let mut received = Vec::new();
        while queue.serve(|bytes| {
            assert!(bytes.len() < CAPACITY + 1000);
            received.extend_from_slice(bytes);
        }) {}
        producer.join().unwrap();
        assert!(received == sent);
    }

    #[test]
    fn drain_waits_for_the_bytes_being_served() {
        let queue = Arc::new(Queue::default());
        let done = Arc::new(Mutex::new(false));
        queue.push(b"x");
        let server = {
            let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
            std::thread::spawn(move || {
                queue.serve(|_| {
                    std::thread::yield_now();
                    *done.lock().unwrap() = true;
                })
            })
        };
        queue.drain();
        assert!(*done.lock().unwrap());
        assert!(server.join().unwrap());
    }

    #[test]
    fn a_closed_queue_takes_nothing_and_keeps_nobody_waiting() {
        let queue = Queue::default();
        queue.push(b"ab");
        queue.close();
        queue.push(b"c");
        assert_eq!(queue.take(1), b"a");
        assert!(queue.serve(|bytes| assert_eq!(bytes, b"b")));
        assert!(!queue.serve(|_| unreachable!()));
    }
}
