//! The thread that cases run on, and who ends their runs: [`Worker`].
//!
//! A guest may never come out by itself, so another thread brings the vCPU out that runs, again and again. And libFuzzer looks at the
//! time in a signal's handler, which must not interrupt a guest's code: here are none of those that put a handler aside from it
//! (`preload::interpose`), so no such signal reaches the thread ([`signals`]).

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use host_user::fixup;
use virt::ioctl::Mapping;

use crate::case::{Case, World};
use crate::input::Input;
use crate::objects::{self, IMMEDIATE_EXIT, Vcpu};
use crate::signals::{self, Thread};

/// How long a run lasts at most.
const PATIENCE: Duration = Duration::from_micros(500);
/// And in the kernel, which may have to do with a processor of QEMU's, that takes as long to get into a guest.
const KERNELS_PATIENCE: Duration = Duration::from_millis(4);

/// A vCPU, and the thread that runs it.
struct Run(Arc<Vcpu>, Thread);

/// Which vCPU runs.
#[derive(Clone, Default)]
pub struct Running(Arc<Mutex<Option<Run>>>);

impl Running {
    fn set(&self, run: Option<Run>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = run;
    }

    /// Notes it as long as `run` lasts, which this thread makes.
    pub fn during<T>(&self, vcpu: &Arc<Vcpu>, run: impl FnOnce() -> T) -> T {
        let mut immediate_exit = [0];
        vcpu.pages.load(IMMEDIATE_EXIT, &mut immediate_exit);
        self.set(Some(Run(Arc::clone(vcpu), Thread::this())));
        let result = run();
        self.set(None);
        // Who has ended it has nothing to say about the next one.
        vcpu.pages.store(IMMEDIATE_EXIT, &immediate_exit);
        result
    }

    fn end(&self) {
        if let Some(Run(vcpu, thread)) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            vcpu.end_run(*thread);
        }
    }
}

/// The thread.
pub struct Worker {
    cases: Sender<Vec<u8>>,
    done: Receiver<()>,
    running: Running,
    patience: Duration,
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
            let world = World::new(of_it);
            signals::set_up(world.is_kernels());
            // After libFuzzer's, which are told of all other faults, and keep the input.
            fixup::install();
            for bytes in to_make {
                Case::new(&world, Input::new(&bytes)).make();
                if made.send(()).is_err() {
                    break;
                }
            }
        });
        let patience = if objects::chosen().is_some() { KERNELS_PATIENCE } else { PATIENCE };
        Self { cases, done, running, patience }
    }

    /// Makes a case.
    ///
    /// # Panics
    /// When it has ended the thread.
    pub fn run(&mut self, bytes: &[u8]) {
        self.cases.send(bytes.to_vec()).expect("it is there");
        loop {
            match self.done.recv_timeout(self.patience) {
                Ok(()) => return,
                Err(RecvTimeoutError::Timeout) => self.running.end(),
                Err(RecvTimeoutError::Disconnected) => panic!("a case has failed"),
            }
        }
    }
}
