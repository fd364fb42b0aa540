use super::*;

const OFFERED: u64 = feature::COMMON | 1 << 5;

fn common() -> Common {
    Common::new(OFFERED, &[256, 64])
}

fn read(common: &Common, offset: u64, size: usize) -> u64 {
    let mut bytes = [0; 8];
    common.read(offset, &mut bytes[..size], Elsewhere::default());
    u64::from_le_bytes(bytes)
}

fn write(common: &mut Common, offset: u64, size: usize, value: u64) -> Option<Action> {
    common.write(offset, &value.to_le_bytes()[..size])
}

fn take(common: &mut Common, features: u64) {
    for half in 0..2 {
        write(common, register::DRIVER_FEATURE_SELECT, 4, half);
        write(common, register::DRIVER_FEATURE, 4, features >> (half * 32) & 0xffff_ffff);
    }
}

#[test]
fn features_are_offered_in_halves() {
    let mut common = common();
    for (select, expected) in
        [(0, OFFERED & 0xffff_ffff), (1, OFFERED >> 32), (2, 0), (u32::MAX, 0)]
    {
        write(&mut common, register::DEVICE_FEATURE_SELECT, 4, select.into());
        assert_eq!(read(&common, register::DEVICE_FEATURE, 4), expected);
    }
}

#[test]
fn features_that_were_not_offered_are_not_ok() {
    for (features, expected) in [
        (feature::VERSION_1, status::FEATURES_OK),
        (feature::VERSION_1 | 1 << 5, status::FEATURES_OK),
        (feature::VERSION_1 | 1 << 6, 0),
        (feature::EVENT_IDX, 0),
        (0, 0),
    ] {
        let mut common = common();
        take(&mut common, features);
        write(&mut common, register::STATUS, 1, (1 | 2 | status::FEATURES_OK).into());
        assert_eq!(
            read(&common, register::STATUS, 1),
            u64::from(1 | 2 | expected),
            "{features:#x}"
        );
        let ready = write(&mut common, register::STATUS, 1, 0xf);
        // Who goes on as if nothing was wrong says that it has the features once more.
        assert_eq!(ready, (expected != 0).then_some(Action::Activate));
    }
}

#[test]
fn the_driver_is_ready_once() {
    let mut common = common();
    take(&mut common, feature::VERSION_1);
    write(&mut common, register::STATUS, 1, 0xb);
    assert_eq!(write(&mut common, register::STATUS, 1, 0xf), Some(Action::Activate));
    assert_eq!(write(&mut common, register::STATUS, 1, 0xf), None);
    take(&mut common, u64::MAX);
    assert_eq!(common.features(), feature::VERSION_1, "too late");
    assert_eq!(write(&mut common, register::STATUS, 1, 0), Some(Action::Reset));
    assert_eq!((common.features(), read(&common, register::STATUS, 1)), (0, 0));
}

#[test]
fn queues_are_set_up_one_by_one_and_stay_so() {
    let mut common = common();
    assert_eq!(read(&common, register::QUEUES, 2), 2);
    write(&mut common, register::QUEUE_SELECT, 2, 1);
    assert_eq!(read(&common, register::QUEUE_SIZE, 2), 64);
    for (size, expected) in [(128, 64), (48, 64), (0, 64), (16, 16)] {
        write(&mut common, register::QUEUE_SIZE, 2, size);
        assert_eq!(read(&common, register::QUEUE_SIZE, 2), expected);
    }
    write(&mut common, register::QUEUE_RINGS, 4, 0x1000);
    write(&mut common, register::QUEUE_RINGS + 4, 4, 0x2);
    write(&mut common, register::QUEUE_RINGS + 8, 8, 0x3000);
    write(&mut common, register::QUEUE_RINGS + 16, 4, 0x4000);
    write(&mut common, register::QUEUE_ENABLE, 2, 1);
    write(&mut common, register::QUEUE_RINGS, 4, 0x9000);
    write(&mut common, register::QUEUE_ENABLE, 2, 0);
    let queues = common.queues().unwrap();
    assert!(queues[0].is_none());
    let queue = queues[1].as_ref().unwrap();
    assert_eq!(
        (queue.desc_table(), queue.avail_ring(), queue.used_ring()),
        (0x2_0000_1000, 0x3000, 0x4000)
    );
    assert_eq!((queue.size(), queue.event_idx_enabled()), (16, false));
    assert_eq!(read(&common, register::QUEUE_NOTIFY_OFF, 2), 1);

    write(&mut common, register::QUEUE_SELECT, 2, 2);
    assert_eq!(read(&common, register::QUEUE_SIZE, 2), 0, "there is none");
    write(&mut common, register::QUEUE_ENABLE, 2, 1);
    write(&mut common, register::QUEUE_RINGS, 8, u64::MAX);
}

#[test]
fn rings_in_odd_places_are_no_queue() {
    let mut common = common();
    write(&mut common, register::QUEUE_RINGS, 8, 0x1001);
    write(&mut common, register::QUEUE_ENABLE, 2, 1);
    assert!(common.queues().is_err());
}

#[test]
fn no_access_is_out_of_bounds() {
    let mut common = common();
    for offset in (0..0x80).chain([u64::MAX, 1 << 32]) {
        for size in 1..=8 {
            for select in [0, 1, 2, 0xffff] {
                write(&mut common, register::QUEUE_SELECT, 2, select);
                read(&common, offset, size);
                write(&mut common, offset, size, u64::MAX);
            }
        }
    }
}
