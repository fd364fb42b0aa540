//! What is behind a serial line, or a port of a console, on the host's side: a queue of bytes to the guest, and a queue of bytes from it,
//! each bounded ([`Ends`]).
//!
//! A [`Queue`] lies between a device and a thread that reads or writes a file: neither waits for a single byte of the other's. A UART waits
//! for room in it, on the vCPU's thread; a virtio device is told by an event ([`Queue::tell_of_room`]). A UART and a port may have the same
//! ends: the guest uses one of them.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hv::{Event, EventFd};

/// How many bytes a queue holds before whoever fills it waits.
pub const CAPACITY: usize = 256 << 10;

/// The host's ends of a line.
#[derive(Clone, Default)]
pub struct Ends {
    /// Where the guest's bytes go.
    pub output: Arc<Queue>,
    /// Where bytes for the guest come from.
    pub input: Arc<Queue>,
}

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
    /// Signalled when bytes have come.
    on_bytes: Option<EventFd>,
    /// Signalled when there is room, once there was not enough of it.
    on_room: Option<EventFd>,
    lacks_room: bool,
}

impl State {
    /// Bytes have come, or no more of them do.
    fn tell_of_bytes(&self) {
        self.on_bytes.iter().for_each(Event::signal);
    }

    /// There is room, or none is needed any more.
    fn tell_of_room(&mut self) {
        if std::mem::take(&mut self.lacks_room) {
            self.on_room.iter().for_each(Event::signal);
        }
    }
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
        self.add(&mut state, bytes);
    }

    /// Adds as many bytes as there is room for, and gives how many. If that is not all of them, the event of
    /// [`tell_of_room`](Self::tell_of_room) is signalled when there is more. A closed queue takes, and drops, all.
    pub fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        if state.closed {
            return bytes.len();
        }
        let count = CAPACITY.saturating_sub(state.bytes.len()).min(bytes.len());
        state.lacks_room |= count < bytes.len();
        if count > 0 {
            self.add(&mut state, &bytes[..count]);
        }
        count
    }

    /// Waits until there is room, or no more is needed, but not for longer.
    pub fn wait_for_room(&self, limit: Duration) {
        let is_full = |state: &mut State| state.bytes.len() >= CAPACITY && !state.closed;
        let state = self.drained.wait_timeout_while(self.lock(), limit, is_full);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }

    fn add(&self, state: &mut State, bytes: &[u8]) {
        let was_empty = state.bytes.is_empty();
        state.bytes.extend(bytes);
        if was_empty {
            self.filled.notify_one();
            state.tell_of_bytes();
        }
    }

    /// Has an event signalled when there is something to [`take`](Self::take) after there was nothing.
    pub fn tell_of_bytes(&self, event: EventFd) {
        self.lock().on_bytes = Some(event);
    }

    /// Has an event signalled when there is room after [`offer`](Self::offer) found too little.
    pub fn tell_of_room(&self, event: EventFd) {
        self.lock().on_room = Some(event);
    }

    /// Takes up to `most` bytes, if there are any.
    pub fn take(&self, most: usize) -> Vec<u8> {
        let mut state = self.lock();
        let was_full = state.bytes.len() >= CAPACITY;
        let count = state.bytes.len().min(most);
        let bytes = state.bytes.drain(..count).collect();
        state.tell_of_room();
        if was_full {
            self.drained.notify_all();
        }
        bytes
    }

    /// Whether there is nothing to take now.
    pub fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
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
        let bytes = Vec::from(std::mem::take(&mut state.bytes));
        state.taken = true;
        state.tell_of_room();
        self.drained.notify_all();
        drop(state);
        work(&bytes);
        self.lock().taken = false;
        self.drained.notify_all();
        true
    }

    /// No more bytes come. What is there can still be taken.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.tell_of_room();
        drop(state);
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
    fn who_waits_for_room_goes_on_when_there_is_some_and_not_much_later_if_there_is_none() {
        let queue = Arc::new(Queue::default());
        queue.wait_for_room(Duration::MAX);
        assert_eq!(queue.offer(&vec![0; CAPACITY + 1]), CAPACITY);
        queue.wait_for_room(Duration::from_millis(1));
        let taker = {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.take(1).len())
        };
        queue.wait_for_room(Duration::MAX);
        assert_eq!(taker.join().unwrap(), 1);
        assert_eq!(queue.offer(&[0; 2]), 1);
        queue.close();
        queue.wait_for_room(Duration::MAX);
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
    fn what_does_not_fit_is_told_of_when_there_is_room() {
        let (queue, room) = (Queue::default(), EventFd::new().unwrap());
        queue.tell_of_room(room.clone());
        assert_eq!(queue.offer(&vec![1; CAPACITY - 1]), CAPACITY - 1);
        assert_eq!(queue.offer(b"ab"), 1);
        assert_eq!(queue.offer(b"b"), 0);
        assert_eq!(room.take(), 0);
        assert_eq!(queue.take(1), [1]);
        assert_eq!((room.take(), queue.offer(b"b")), (1, 1));
        assert!(queue.serve(|bytes| assert!(bytes.ends_with(b"ab") && bytes.len() == CAPACITY)));
        assert_eq!(room.take(), 0, "nobody has lacked it since");
        assert_eq!(queue.offer(&vec![1; CAPACITY + 1]), CAPACITY);
        queue.close();
        assert_eq!((room.take(), queue.offer(b"dropped")), (1, 7));
    }

    #[test]
    fn the_first_bytes_are_told_of() {
        let (queue, bytes) = (Queue::default(), EventFd::new().unwrap());
        queue.tell_of_bytes(bytes.clone());
        queue.push(b"a");
        assert_eq!(bytes.take(), 1);
        queue.push(b"b");
        assert_eq!(bytes.take(), 0, "they come after some that are still there");
        assert_eq!(queue.take(9), b"ab");
        assert_eq!((queue.offer(b"c"), bytes.take()), (1, 1));
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
