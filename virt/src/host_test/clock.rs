//! Bodies about time and timers.

use alloc::sync::Arc;

use lock_api::Mutex;
use selftest::{Outcome, check, check_eq};

use super::{Count, LIMIT, MS, Place, given, wait_until};
use crate::host::{Expire, Host, Timer};

/// All clocks go forward, and the wall clock knows what year it is about.
pub fn clocks_go_forward<P: Place>() -> Outcome {
    let host = P::host();
    let (now, wall, tsc) = (host.now(), host.wall_clock(), host.tsc());
    check!(wall > 1_577_836_800_000 * MS, "it is {wall} ns since 1970");
    for _ in 0..100 {
        let before = host.now();
        check!(host.now() >= before);
    }
    wait_until(&host, now + 2 * MS);
    check!(host.wall_clock() - wall >= MS, "{} ns", host.wall_clock() - wall);
    check!(host.tsc() > tsc);
    Ok(())
}

/// The time stamp counter counts about as often as is said.
pub fn the_counter_has_its_frequency<P: Place>() -> Outcome {
    let host = P::host();
    let (tsc, now) = (host.tsc(), host.now());
    wait_until(&host, now + 20 * MS);
    let (ticks, elapsed) = (host.tsc() - tsc, host.now() - now);
    let expected = elapsed / 1000 * u64::from(host.tsc_khz()) / 1000;
    check!(ticks.abs_diff(expected) < expected / 10, "{ticks} ticks, not {expected}");
    Ok(())
}

/// It fires when it is due, and no second time.
pub fn a_timer_fires_once_and_not_before_its_time<P: Place>() -> Outcome {
    let host = P::host();
    let time = Arc::new(At::<P>::new(&host));
    let timer = given(host.timer(time.clone()))?;
    for _ in 0..3 {
        let count = time.count.get();
        let deadline = host.now() + 3 * MS;
        timer.arm(deadline);
        time.count.wait(&host, count + 1);
        check_eq!(time.count.get(), count + 1);
        let fired = *time.last.lock();
        check!(fired >= deadline, "{} ns too early", deadline - fired);
        wait_until(&host, host.now() + 5 * MS);
        check_eq!(time.count.get(), count + 1);
    }
    Ok(())
}

/// A deadline may have passed.
pub fn a_timer_that_is_overdue_fires_at_once<P: Place>() -> Outcome {
    let host = P::host();
    let count = Arc::new(Count::default());
    let timer = given(host.timer(count.clone()))?;
    for (n, deadline) in [0, 1, host.now()].into_iter().enumerate() {
        timer.arm(deadline);
        count.wait(&host, n as u32 + 1);
        check_eq!(count.get(), n as u32 + 1);
    }
    // One that never comes is no deadline that has passed.
    for never in [u64::MAX, u64::MAX / 2, 1 << 63] {
        timer.arm(never);
        wait_until(&host, host.now() + MS);
        check_eq!(count.get(), 3, "{never:#x}");
    }
    Ok(())
}

/// The last deadline counts, be it later or earlier.
pub fn a_timer_that_is_armed_again_has_one_deadline<P: Place>() -> Outcome {
    let host = P::host();
    let time = Arc::new(At::<P>::new(&host));
    let timer = given(host.timer(time.clone()))?;
    let now = host.now();
    timer.arm(now + 200 * MS);
    timer.arm(now + 250 * MS);
    timer.arm(now + 220 * MS);
    time.count.wait(&host, 1);
    let fired = *time.last.lock();
    check!(fired >= now + 220 * MS, "after {} ns", fired - now);
    wait_until(&host, now + 260 * MS);
    check_eq!(time.count.get(), 1);
    Ok(())
}

/// What a timer calls may arm it, again and again.
pub fn a_timer_may_be_armed_by_what_it_calls<P: Place>() -> Outcome {
    let host = P::host();
    let again = Arc::new(Again::<P> {
        host: host.clone(),
        count: Count::default(),
        timer: Mutex::new(None),
    });
    let timer = Arc::new(given(host.timer(again.clone()))?);
    *again.timer.lock() = Some(timer.clone());
    timer.arm(host.now() + MS);
    again.count.wait(&host, 5);
    wait_until(&host, host.now() + 5 * MS);
    let kept = again.timer.lock().take();
    check_eq!(again.count.get(), 5);
    drop((kept, timer));
    Ok(())
}

/// It keeps quiet.
pub fn a_timer_that_is_disarmed_does_not_fire<P: Place>() -> Outcome {
    let host = P::host();
    let (count, later) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let (timer, other) = (given(host.timer(count.clone()))?, given(host.timer(later.clone()))?);
    let now = host.now();
    timer.arm(now + 200 * MS);
    other.arm(now + 220 * MS);
    timer.disarm();
    timer.disarm();
    later.wait(&host, 1);
    check_eq!((count.get(), later.get()), (0, 1));
    // It still is a timer.
    timer.arm(host.now());
    count.wait(&host, 1);
    check_eq!(count.get(), 1);
    Ok(())
}

/// It keeps quiet for ever, and lets go of what it would call.
pub fn a_timer_that_is_dropped_does_not_fire<P: Place>() -> Outcome {
    let host = P::host();
    let (count, later) = (Arc::new(Count::default()), Arc::new(Count::default()));
    let (timer, other) = (given(host.timer(count.clone()))?, given(host.timer(later.clone()))?);
    let now = host.now();
    timer.arm(now + 200 * MS);
    other.arm(now + 220 * MS);
    drop(timer);
    check_eq!(Arc::strong_count(&count), 1);
    later.wait(&host, 1);
    check_eq!((count.get(), later.get()), (0, 1));
    Ok(())
}

/// What a timer calls may have the last hold on it, as a machine has that is gone but for that call.
pub fn a_timer_may_be_dropped_by_what_it_calls<P: Place>() -> Outcome {
    let host = P::host();
    let last = Arc::new(Last::<P> { count: Count::default(), timer: Mutex::new(None) });
    let timer = given(host.timer(last.clone()))?;
    timer.arm(u64::MAX);
    let mut held = last.timer.lock();
    timer.arm(host.now() + 2 * MS);
    *held = Some(timer);
    drop(held);
    last.count.wait(&host, 1);
    check_eq!(last.count.get(), 1);
    check!(last.timer.lock().is_none());
    // The timer lets go of it.
    let limit = host.now() + LIMIT;
    while Arc::strong_count(&last) > 1 && host.now() < limit {
        host.yield_now();
    }
    check_eq!((Arc::strong_count(&last), last.count.get()), (1, 1));
    Ok(())
}

/// A thread arms a timer while it fires: no deadline is lost.
pub fn a_timer_that_fires_often_is_armed_meanwhile<P: Place>() -> Outcome {
    let host = P::host();
    let count = Arc::new(Count::default());
    let timer = given(host.timer(count.clone()))?;
    for n in 0..2000 {
        timer.arm(host.now() + (n % 50) * 200);
        if n % 7 == 0 {
            timer.disarm();
        }
    }
    let before = count.get();
    timer.arm(host.now());
    count.wait(&host, before + 1);
    check!(count.get() > before);
    Ok(())
}

/// Notes when it is called.
struct At<P: Place> {
    host: P::Host,
    count: Count,
    last: Mutex<<P::Host as Host>::RawMutex, u64>,
}

impl<P: Place> At<P> {
    fn new(host: &P::Host) -> Self {
        Self { host: host.clone(), count: Count::default(), last: Mutex::new(0) }
    }
}

impl<P: Place> Expire for At<P> {
    fn expired(&self) {
        *self.last.lock() = self.host.now();
        self.count.expired();
    }
}

type Held<P, T> = Mutex<<<P as Place>::Host as Host>::RawMutex, Option<T>>;
type TimerOf<P> = <<P as Place>::Host as Host>::Timer;

/// Arms its timer again until it was called five times.
struct Again<P: Place> {
    host: P::Host,
    count: Count,
    timer: Held<P, Arc<TimerOf<P>>>,
}

impl<P: Place> Expire for Again<P> {
    fn expired(&self) {
        self.count.expired();
        if self.count.get() < 5
            && let Some(timer) = &*self.timer.lock()
        {
            timer.arm(self.host.now() + MS);
        }
    }
}

/// Drops its timer.
struct Last<P: Place> {
    count: Count,
    timer: Held<P, TimerOf<P>>,
}

impl<P: Place> Expire for Last<P> {
    fn expired(&self) {
        // Armed, it fires no more when it is dropped.
        if let Some(timer) = self.timer.lock().take() {
            timer.arm(0);
        }
        self.count.expired();
    }
}
