//! Bodies about waiting and waking, and the lock.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use lock_api::Mutex;
use selftest::{Outcome, check, check_eq};

use super::{LIMIT, MS, Place, given};
use crate::host::{Expire, Host, Parker, Timer};

/// Nobody waits for what is there.
pub fn a_wait_for_what_is_there_ends_at_once<P: Place>() -> Outcome {
    let parker = given(P::host().parker())?;
    let mut asked = 0;
    parker.park(&mut || {
        asked += 1;
        true
    });
    check_eq!(asked, 1);
    Ok(())
}

/// A wake-up is kept for the wait that comes after it.
pub fn a_wake_up_before_the_wait_counts<P: Place>() -> Outcome {
    let parker = given(P::host().parker())?;
    for _ in 0..3 {
        parker.unpark();
        parker.unpark();
        parker.park(&mut || false);
    }
    Ok(())
}

/// The wait goes on until there is a reason to end it.
pub fn a_wake_up_ends_the_wait<P: Place>() -> Outcome {
    let host = P::host();
    let waker =
        Arc::new(Waker::<P> { parker: given(host.parker())?, ready: AtomicBool::new(false) });
    let timer = given(host.timer(waker.clone()))?;
    for wait in [0, 1000, MS, 20 * MS] {
        waker.ready.store(false, Ordering::SeqCst);
        let deadline = host.now() + wait;
        timer.arm(deadline);
        while !waker.ready.load(Ordering::SeqCst) {
            waker.parker.park(&mut || waker.ready.load(Ordering::SeqCst));
        }
        check!(host.now() >= deadline);
    }
    Ok(())
}

/// Be it before, during or after the look at what is waited for.
pub fn no_wake_up_is_lost<P: Place>() -> Outcome {
    let host = P::host();
    let waker =
        Arc::new(Waker::<P> { parker: given(host.parker())?, ready: AtomicBool::new(false) });
    let timer = given(host.timer(waker.clone()))?;
    let start = host.now();
    for n in 0..500 {
        waker.ready.store(false, Ordering::SeqCst);
        timer.arm(host.now() + n * 100);
        while !waker.ready.load(Ordering::SeqCst) {
            waker.parker.park(&mut || waker.ready.load(Ordering::SeqCst));
        }
    }
    check!(host.now() - start < LIMIT);
    Ok(())
}

/// Who has it has it alone.
pub fn a_lock_excludes<P: Place>() -> Outcome {
    let lock = Mutex::<<P::Host as Host>::RawMutex, u32>::new(5);
    let other = Mutex::<<P::Host as Host>::RawMutex, u32>::new(6);
    let held = lock.lock();
    check!(lock.is_locked() && lock.try_lock().is_none());
    let nested = other.try_lock();
    check!(nested.is_some());
    drop(nested);
    check!(other.try_lock().is_some());
    check!(lock.try_lock().is_none());
    drop(held);
    check_eq!(lock.try_lock().map(|held| *held), Some(5));
    check!(!lock.is_locked());
    Ok(())
}

/// A timer's call comes before or after, not in between.
pub fn a_lock_excludes_timers<P: Place>() -> Outcome {
    let host = P::host();
    let adder = Arc::new(Adder::<P> { sum: Mutex::new((0, 0)), calls: AtomicU32::new(0) });
    let timer = given(host.timer(adder.clone()))?;
    let mut own = 0;
    for n in 0..2000 {
        timer.arm(host.now() + n % 20 * 500);
        adder.add();
        own += 1;
    }
    timer.disarm();
    // The last call may be under way.
    let limit = host.now() + LIMIT;
    let (sum, expected) = loop {
        let calls = adder.calls.load(Ordering::SeqCst);
        let sum = *adder.sum.lock();
        if sum.0 == own + calls || host.now() > limit {
            break (sum, own + calls);
        }
        host.yield_now();
    };
    check_eq!(sum, (expected, expected));
    Ok(())
}

/// Nothing came in.
pub fn nobody_is_interrupted_without_a_signal<P: Place>() -> Outcome {
    let host = P::host();
    for _ in 0..100 {
        check!(!host.is_interrupted());
        host.yield_now();
    }
    Ok(())
}

/// Wakes who waits.
struct Waker<P: Place> {
    parker: <P::Host as Host>::Parker,
    ready: AtomicBool,
}

impl<P: Place> Expire for Waker<P> {
    fn expired(&self) {
        self.ready.store(true, Ordering::SeqCst);
        self.parker.unpark();
    }
}

/// Two sums that are the same whenever the lock is free.
struct Adder<P: Place> {
    sum: Mutex<<P::Host as Host>::RawMutex, (u32, u32)>,
    calls: AtomicU32,
}

impl<P: Place> Adder<P> {
    fn add(&self) {
        let mut sum = self.sum.lock();
        let before = sum.0;
        sum.1 += 1;
        for _ in 0..20 {
            core::hint::spin_loop();
        }
        sum.0 = before + 1;
    }
}

impl<P: Place> Expire for Adder<P> {
    fn expired(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.add();
    }
}
