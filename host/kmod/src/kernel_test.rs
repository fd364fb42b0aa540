//! Bodies about what is the kernel's alone: interrupts, signals, memory that is given up in atomic context, processors.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use ::selftest::{cases, check, check_eq};
use arch_x86::hardware::Platform;
use lock_api::Mutex;
use virt::Host;
use virt::host::{Expire, Parker, Timer};
use virt::host_test::{Count, LIMIT, MS, given};

use crate::deferred;
use crate::kernel::Kernel;
use crate::lock::SpinLock;

// SAFETY: these are the glue's functions (glue/selftest.c), which change a mark of this thread's at most.
unsafe extern "C" {
    safe fn unibody_interrupts_are_off() -> bool;
    /// As if a signal had come in, or not.
    safe fn unibody_pretend_signal(there: bool);
}

/// Gives memory of `vmalloc`'s up when it is called.
struct Giver(Mutex<SpinLock, Option<Vec<u8>>>);

impl Expire for Giver {
    fn expired(&self) {
        drop(self.0.lock().take());
    }
}

/// Notes the context that it is called in.
#[derive(Default)]
struct Context {
    called: AtomicBool,
    may_sleep: AtomicBool,
}

impl Expire for Context {
    fn expired(&self) {
        self.may_sleep.store(deferred::may_sleep(), Ordering::SeqCst);
        self.called.store(true, Ordering::SeqCst);
    }
}

fn wait_for(condition: impl Fn() -> bool) -> bool {
    let limit = Kernel.now() + LIMIT;
    while !condition() && Kernel.now() < limit {
        Kernel.yield_now();
    }
    condition()
}

cases! {
    fn a_lock_turns_interrupts_off_and_leaves_them_as_they_were() {
        let (one, other) = (Mutex::<SpinLock, _>::new(()), Mutex::<SpinLock, _>::new(()));
        check!(!unibody_interrupts_are_off() && deferred::may_sleep());
        let held = one.lock();
        check!(unibody_interrupts_are_off() && !deferred::may_sleep());
        let nested = other.try_lock();
        check!(nested.is_some());
        check!(one.try_lock().is_none());
        drop(nested);
        check!(unibody_interrupts_are_off());
        drop(held);
        check!(!unibody_interrupts_are_off() && deferred::may_sleep());
        check!(one.try_lock().is_some());
        check!(!unibody_interrupts_are_off() && deferred::may_sleep());
    }

    fn a_timer_calls_in_atomic_context() {
        let context = Arc::new(Context::default());
        let timer = given(Kernel.timer(context.clone()))?;
        timer.arm(Kernel.now());
        check!(wait_for(|| context.called.load(Ordering::SeqCst)));
        check!(!context.may_sleep.load(Ordering::SeqCst));
    }

    fn memory_may_be_given_up_in_atomic_context() {
        // A sum that shows that it was there.
        let large = || -> Vec<u8> { alloc::vec![7; 9 << 20] };
        for _ in 0..3 {
            let giver = Arc::new(Giver(Mutex::new(Some(large()))));
            let timer = given(Kernel.timer(giver.clone()))?;
            timer.arm(Kernel.now());
            check!(wait_for(|| giver.0.lock().is_none()));
            let lock = Mutex::<SpinLock, _>::new(large());
            let old = core::mem::take(&mut *lock.lock());
            let held = lock.lock();
            drop(old);
            check!(unibody_interrupts_are_off());
            drop(held);
        }
    }

    fn timers_may_be_given_up_in_atomic_context() {
        let count = Arc::new(Count::default());
        for n in 0..200 {
            let timer = given(Kernel.timer(count.clone()))?;
            timer.arm(Kernel.now() + n * 50);
            Kernel.without_interrupts(|| drop(timer));
        }
        check!(wait_for(|| Arc::strong_count(&count) == 1));
    }

    fn a_signal_ends_a_wait_and_is_told() {
        let parker = given(Kernel.parker())?;
        check!(!Kernel.is_interrupted());
        unibody_pretend_signal(true);
        let (wanted, interrupted) = (Kernel.is_wanted(), Kernel.is_interrupted());
        parker.park(&mut || false);
        unibody_pretend_signal(false);
        check!(wanted && interrupted);
        check!(!Kernel.is_interrupted());
    }

    fn processors_are_interrupted_and_waited_for() {
        let count = Kernel.processors();
        check!(count > 0);
        let own = Kernel.on_processor(|own| {
            let off = Kernel.without_interrupts(|| unibody_interrupts_are_off());
            (own, off && !deferred::may_sleep() && !unibody_interrupts_are_off())
        });
        check!(own.0 < count && own.1);
        for _ in 0..50 {
            // Also of those that are not there.
            for processor in 0..count + 2 {
                Kernel.interrupt(processor);
                Kernel.interrupt_and_wait(processor);
            }
        }
        Kernel.interrupt_and_wait(u32::MAX);
    }

    fn a_processor_interrupts_itself_with_interrupts_off() {
        // It is taken when they are on again.
        for _ in 0..50 {
            let off = Kernel.on_processor(|own| {
                Kernel.without_interrupts(|| {
                    Kernel.interrupt(own);
                    unibody_interrupts_are_off()
                })
            });
            check!(off && !unibody_interrupts_are_off());
        }
    }

    fn a_waiting_thread_is_woken_by_a_timer_and_not_by_its_own_looks() {
        struct Wake(<Kernel as Host>::Parker);
        impl Expire for Wake {
            fn expired(&self) {
                self.0.unpark();
            }
        }
        let wake = Arc::new(Wake(given(Kernel.parker())?));
        let timer = given(Kernel.timer(wake.clone()))?;
        let start = Kernel.now();
        timer.arm(start + 50 * MS);
        let mut looks = 0;
        wake.0.park(&mut || {
            looks += 1;
            false
        });
        // It slept meanwhile.
        check!(looks < 5, "{looks} looks");
        check!(Kernel.now() - start >= 50 * MS);
        check_eq!(Box::new(wake).0.park(&mut || true), ());
    }
}
