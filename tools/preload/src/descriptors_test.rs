use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::device::Device;
use crate::options::Options;

use super::*;

fn device() -> Held {
    Held::new(Object::device(Device::new(Options::default())))
}

/// How many references there are, of the object's own and entries'.
fn count(object: &Held) -> u64 {
    object.counted().count.load(Ordering::SeqCst)
}

#[test]
fn a_descriptor_is_of_what_was_put_there_last() {
    let descriptors = Descriptors::new();
    for number in [-1, 0, 5, 511, 512, i32::MAX] {
        assert!(descriptors.get(number).is_none() && !descriptors.has(number));
        assert!(descriptors.remove(number).is_none());
    }
    let (one, other) = (device(), device());
    descriptors.insert(600, one.clone()).unwrap();
    assert!(descriptors.has(600) && !descriptors.has(601));
    assert_eq!(count(&one), 1 + PREPAID);
    descriptors.insert(600, other.clone()).unwrap();
    assert_eq!((count(&one), count(&other)), (1, 1 + PREPAID));
    let found = descriptors.get(600).unwrap().object();
    assert!(found.0 == other.0);
    drop((descriptors.remove(600), found));
    assert_eq!(count(&other), 1);
    assert!(descriptors.insert(i32::MAX, one).is_err());
    assert!(descriptors.insert(-1, other).is_err());
}

#[test]
fn what_is_removed_stays_as_long_as_somebody_has_it() {
    let descriptors = Descriptors::new();
    let object = device();
    descriptors.insert(3, object.clone()).unwrap();
    descriptors.insert(4, object.clone()).unwrap();
    let first = descriptors.get(3).unwrap();
    let second = descriptors.get(3).unwrap();
    drop(descriptors.remove(3));
    assert_eq!(count(&object), 3 + PREPAID, "with what was taken");
    drop(first);
    assert_eq!(count(&object), 2 + PREPAID);
    // Put there again, and given back to an entry of which it was not taken.
    descriptors.insert(3, object.clone()).unwrap();
    let third = descriptors.get(3).unwrap();
    drop((second, third));
    descriptors.remove_range(3, u32::MAX);
    assert_eq!(count(&object), 1);
}

#[test]
fn who_uses_an_object_and_who_removes_it_do_not_meet() {
    const ENOUGH: u64 = 3000;
    let descriptors = Arc::new(Descriptors::new());
    let (over, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let object = device();
    let users: Vec<_> = (0..3)
        .map(|_| {
            let descriptors = Arc::clone(&descriptors);
            let (over, seen) = (Arc::clone(&over), Arc::clone(&seen));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let Some(found) = descriptors.get(7) else { continue };
                    assert!(count_of(&found) >= 1);
                    if seen.fetch_add(1, Ordering::Relaxed) % 3 == 0 {
                        drop(found.object());
                    }
                }
            })
        })
        .collect();
    let mut rounds = 0;
    while rounds < 100_000 || seen.load(Ordering::Relaxed) < ENOUGH {
        descriptors.insert(7, object.clone()).unwrap();
        drop(descriptors.remove(7));
        rounds += 1;
    }
    over.store(true, Ordering::Relaxed);
    users.into_iter().for_each(|user| user.join().unwrap());
    assert_eq!(count(&object), 1);
}

fn count_of(reference: &Reference<'_>) -> u64 {
    reference.counted().count.load(Ordering::SeqCst)
}

#[test]
fn a_range_is_taken_out() {
    let descriptors = Descriptors::new();
    let objects = [1, 600, 601, 5000].map(|number| {
        let object = device();
        descriptors.insert(number, object.clone()).unwrap();
        object
    });
    let held = || objects.each_ref().map(|object| count(object) != 1);
    descriptors.remove_range(2, 600);
    assert_eq!(held(), [true, false, true, true]);
    descriptors.remove_range(0, u32::MAX);
    assert_eq!(held(), [false; 4]);
}
