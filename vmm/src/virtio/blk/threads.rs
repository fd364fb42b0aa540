//! [`Threads`]: what may take long and is not the ring's is done by threads, several at once. They are started when there is something to do.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

/// Some threads. Dropped, they do what they have begun, and end.
pub struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    most: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for one.
    idle: usize,
    is_over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next one to do, or none when it is over.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl Threads {
    /// At most so many.
    pub fn new(most: usize) -> Self {
        Self { shared: Arc::default(), threads: Vec::new(), most }
    }

    /// Has there be a thread for one job more, if there may be, or any at all.
    ///
    /// # Errors
    /// When the host has no thread left, and there is none yet.
    pub fn make_room(&mut self) -> io::Result<()> {
        let are_enough = {
            let state = self.shared.lock();
            state.idle > state.jobs.len()
        };
        if are_enough || self.threads.len() >= self.most {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let work = move || {
            while let Some(job) = shared.next() {
                job();
            }
        };
        match std::thread::Builder::new().name("disk-request".into()).spawn(work) {
            Ok(thread) => self.threads.push(thread),
            Err(error) if self.threads.is_empty() => return Err(error),
            // Those that there are do it.
            Err(_) => (),
        }
        Ok(())
    }

    /// Has one of them do something. There is to be [room](Self::make_room) for it.
    pub fn run(&mut self, job: impl FnOnce() + Send + 'static) {
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.changed.notify_one();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // What it panicked of it has said.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn run(threads: &mut Threads, job: impl FnOnce() + Send + 'static) {
        threads.make_room().unwrap();
        threads.run(job);
    }

    #[test]
    fn as_many_are_done_at_once_as_there_may_be_threads() {
        let mut threads = Threads::new(3);
        let (told, heard) = channel();
        let (go_on, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for number in 0..5 {
            let (told, wait) = (told.clone(), Arc::clone(&wait));
            let work = move || {
                told.send(number).unwrap();
                let _ = wait.lock().unwrap().recv_timeout(LIMIT);
            };
            run(&mut threads, work);
        }
        let mut begun: Vec<i32> = (0..3).map(|_| heard.recv_timeout(LIMIT).unwrap()).collect();
        begun.sort_unstable();
        assert_eq!(begun, [0, 1, 2]);
        assert_eq!(heard.try_recv().ok(), None, "there is no fourth thread");
        for _ in 0..5 {
            go_on.send(()).unwrap();
        }
        begun = (0..2).map(|_| heard.recv_timeout(LIMIT).unwrap()).collect();
        begun.sort_unstable();
        assert_eq!(begun, [3, 4]);
    }

    #[test]
    fn what_was_begun_is_done_when_they_are_dropped() {
        let mut threads = Threads::new(1);
        let (told, heard) = channel();
        let (begins, has_begun) = channel();
        let (go_on, wait) = channel::<()>();
        let first = told.clone();
        run(&mut threads, move || {
            begins.send(()).unwrap();
            let _ = wait.recv_timeout(LIMIT);
            first.send("first").unwrap();
        });
        run(&mut threads, move || told.send("second").unwrap());
        has_begun.recv_timeout(LIMIT).unwrap();
        let dropping = std::thread::spawn(move || drop(threads));
        assert_eq!(heard.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        go_on.send(()).unwrap();
        assert_eq!(heard.recv_timeout(LIMIT), Ok("first"));
        dropping.join().unwrap();
    }

    #[test]
    fn a_job_that_panics_takes_no_other_with_it() {
        let mut threads = Threads::new(2);
        let (told, heard) = channel();
        run(&mut threads, || panic!("as it is meant to"));
        run(&mut threads, move || told.send(7).unwrap());
        assert_eq!(heard.recv_timeout(LIMIT), Ok(7));
    }
}
