//! The thread that cases run on, and who ends their runs: [`Worker`].
//!
//! A guest may never come out by itself, so another thread brings the vCPU out that runs, again and again. And libFuzzer looks at the
//! time in a signal's handler, which must not interrupt a guest's code: here are none of those that put a handler aside from it
//! (`preload::interpose`).

use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use host_user::fixup;
use preload::object::Object;

use crate::case::{Case, World};
use crate::input::Input;

/// How long a run lasts that does not end by itself, or twice as long.
const PATIENCE: Duration = Duration::from_micros(500);

/// Which vCPU runs.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<Option<Arc<Object>>>>);

impl Running {
    fn set(&self, vcpu: Option<Arc<Object>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = vcpu;
    }

    /// Notes it as long as `run` lasts.
    pub fn during<T>(&self, vcpu: &Arc<Object>, run: impl FnOnce() -> T) -> T {
        self.set(Some(Arc::clone(vcpu)));
        let result = run();
        self.set(None);
        result
    }

    fn end(&self) {
        if let Some(vcpu) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            vcpu.end_run();
        }
    }
}

/// The thread.
pub struct Worker {
    cases: Sender<Vec<u8>>,
    done: Receiver<()>,
    running: Running,
}

impl Worker {
    /// Starts it.
    #[must_use]
    pub fn start() -> Self {
        let (cases, to_make) = channel::<Vec<u8>>();
        let (made, done) = channel();
        let running = Running::default();
        let of_it = running.clone();
        thread::spawn(move || {
            block_signals();
            // After libFuzzer's, which are told of all other faults, and keep the input.
            fixup::install();
            let world = World::new(of_it);
            for bytes in to_make {
                Case::new(&world, Input::new(&bytes)).make();
                if made.send(()).is_err() {
                    break;
                }
            }
        });
        Self { cases, done, running }
    }

    /// Makes a case.
    ///
    /// # Panics
    /// When it has ended the thread.
    pub fn run(&mut self, bytes: &[u8]) {
        self.cases.send(bytes.to_vec()).expect("it is there");
        loop {
            match self.done.recv_timeout(PATIENCE) {
                Ok(()) => return,
                Err(RecvTimeoutError::Timeout) => self.running.end(),
                Err(RecvTimeoutError::Disconnected) => panic!("a case has failed"),
            }
        }
    }
}

/// Has no signal reach this thread but those that are its own fault.
fn block_signals() {
    let mut set = MaybeUninit::uninit();
    let faults =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];
    // SAFETY: the first call fills the set, the others change or read it. None fails with these arguments.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for fault in faults {
            libc::sigdelset(set.as_mut_ptr(), fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}
