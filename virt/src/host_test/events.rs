//! Bodies about events and who watches them.

use alloc::sync::Arc;

use selftest::{Failure, Outcome, check, check_eq};

use super::{Count, LIMIT, MS, Place, given, wait_until};
use crate::host::{Errno, Event, Host};

/// A new event of a place's; its descriptor, and one of something else, are closed when this is dropped.
struct Opened<P: Place> {
    event: <P::Host as Host>::Event,
    descriptors: [i32; 2],
}

impl<P: Place> Opened<P> {
    fn new(host: &P::Host) -> Result<Self, Failure> {
        let descriptors = P::descriptors()?;
        match host.event(descriptors[0]) {
            Ok(event) => Ok(Self { event, descriptors }),
            Err(errno) => {
                descriptors.into_iter().for_each(P::close);
                given(Err(errno))
            }
        }
    }

    fn take(&self) -> u64 {
        P::take(&self.event)
    }
}

impl<P: Place> Drop for Opened<P> {
    fn drop(&mut self) {
        self.descriptors.into_iter().for_each(P::close);
    }
}

/// Whichever handle it is.
pub fn an_event_is_equal_to_itself_alone<P: Place>() -> Outcome {
    let host = P::host();
    let (one, other) = (Opened::<P>::new(&host)?, Opened::<P>::new(&host)?);
    let again = given(host.event(one.descriptors[0]))?;
    check!(one.event == again && again == one.event.clone());
    check!(one.event != other.event && again != other.event);
    Ok(())
}

/// Until somebody reads the count.
pub fn signals_are_counted<P: Place>() -> Outcome {
    let host = P::host();
    let one = Opened::<P>::new(&host)?;
    check_eq!(one.take(), 0);
    one.event.signal();
    one.event.clone().signal();
    given(host.event(one.descriptors[0]))?.signal();
    check_eq!((one.take(), one.take()), (3, 0));
    Ok(())
}

/// And what is none, too.
pub fn a_descriptor_of_something_else_is_refused<P: Place>() -> Outcome {
    let host = P::host();
    let one = Opened::<P>::new(&host)?;
    check_eq!(host.event(one.descriptors[1]).err(), Some(Errno::EINVAL));
    for none in [-1, i32::MIN, i32::MAX] {
        check_eq!(host.event(none).err(), Some(Errno::EBADF), "{none}");
    }
    Ok(())
}

/// Each for its own event, and takes the count.
pub fn who_watches_is_called<P: Place>() -> Outcome {
    let host = P::host();
    let (one, other) = (Opened::<P>::new(&host)?, Opened::<P>::new(&host)?);
    let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
    let first = given(host.watch(&one.event, counts[0].clone()))?;
    let second = given(host.watch(&other.event, counts[1].clone()))?;
    for n in 1..50 {
        one.event.signal();
        counts[0].wait(&host, n);
        check_eq!(counts[0].get(), n);
        other.event.signal();
        counts[1].wait(&host, n);
        check_eq!(counts[1].get(), n);
    }
    check_eq!((one.take(), other.take()), (0, 0));
    drop((first, second));
    Ok(())
}

/// Once.
pub fn what_was_signalled_before_counts<P: Place>() -> Outcome {
    let host = P::host();
    let one = Opened::<P>::new(&host)?;
    let count = Arc::new(Count::default());
    one.event.signal();
    one.event.signal();
    let watch = given(host.watch(&one.event, count.clone()))?;
    count.wait(&host, 1);
    wait_until(&host, host.now() + 2 * MS);
    check_eq!((count.get(), one.take()), (1, 0));
    drop(watch);
    Ok(())
}

/// The event keeps its signals then, and somebody else may watch it.
pub fn who_watches_no_more_is_not_called<P: Place>() -> Outcome {
    let host = P::host();
    let one = Opened::<P>::new(&host)?;
    let count = Arc::new(Count::default());
    for _ in 0..3 {
        let calls = count.get();
        let watch = given(host.watch(&one.event, count.clone()))?;
        one.event.signal();
        count.wait(&host, calls + 1);
        drop(watch);
        one.event.signal();
        wait_until(&host, host.now() + 2 * MS);
        check_eq!((count.get(), one.take()), (calls + 1, 1));
    }
    // Who has called it has let go of it, or soon does.
    let limit = host.now() + LIMIT;
    while Arc::strong_count(&count) > 1 && host.now() < limit {
        host.yield_now();
    }
    check_eq!(Arc::strong_count(&count), 1);
    Ok(())
}

/// As long as there is a handle.
pub fn an_event_outlives_its_descriptor<P: Place>() -> Outcome {
    let host = P::host();
    let mut one = Opened::<P>::new(&host)?;
    let count = Arc::new(Count::default());
    let watch = given(host.watch(&one.event, count.clone()))?;
    P::close(one.descriptors[0]);
    // Of none.
    one.descriptors[0] = -1;
    one.event.signal();
    count.wait(&host, 1);
    check_eq!(count.get(), 1);
    drop(watch);
    one.event.signal();
    check_eq!(one.take(), 1);
    Ok(())
}
