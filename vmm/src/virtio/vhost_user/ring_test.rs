//! The device's side of a ring is `virtio-queue`'s here, and then one that does wrong.

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

use super::*;

const SIZE: u16 = 8;
const LAYOUT: Layout = Layout::new(SIZE);
/// Where the ring's memory starts in the device's eyes, and the ring in that.
const PLACE: u64 = 1 << 20;
const START: u64 = 64;

/// An address, a size, and whether it is written to.
type Described = (u64, u32, bool);

struct Device {
    memory: GuestMemoryMmap,
    region: Arc<GuestRegionMmap>,
    queue: Queue,
}

fn ring() -> (Ring, Device) {
    let mapping = MmapRegion::new(0x1000).unwrap();
    let region = Arc::new(GuestRegionMmap::new(mapping, GuestAddress(PLACE)).unwrap());
    let ram = GuestRegionMmap::new(MmapRegion::new(0x1_0000).unwrap(), GuestAddress(0)).unwrap();
    let regions = vec![Arc::new(ram), Arc::clone(&region)];
    let memory = GuestMemoryMmap::from_arc_regions(regions).unwrap();
    let mut queue = Queue::new(SIZE).unwrap();
    let at = |part| GuestAddress(PLACE + START + part);
    queue.try_set_desc_table_address(at(LAYOUT.descriptors())).unwrap();
    queue.try_set_avail_ring_address(at(LAYOUT.available())).unwrap();
    queue.try_set_used_ring_address(at(LAYOUT.used())).unwrap();
    queue.set_ready(true);
    assert!(queue.is_valid(&memory));
    assert!(START + LAYOUT.bytes() <= region.len());
    (Ring::new(Arc::clone(&region), START, LAYOUT), Device { memory, region, queue })
}

impl Device {
    /// The next chain: its head, and its buffers' addresses, sizes, and whether they are written to.
    fn pop(&mut self) -> Option<(u16, Vec<Described>)> {
        let chain = self.queue.iter(&self.memory).unwrap().next()?;
        let head = chain.head_index();
        Some((head, chain.map(|d| (d.addr().0, d.len(), d.is_write_only())).collect()))
    }

    fn push(&mut self, head: u16, size: u32) {
        self.queue.add_used(&self.memory, head, size).unwrap();
    }

    /// Writes to the used ring what no queue would.
    fn claim(&self, count: u16, head: u32, size: u32) {
        let at = |offset| MemoryRegionAddress(START + LAYOUT.used() + offset);
        self.region.write_obj([head.to_le(), size.to_le()], at(4)).unwrap();
        self.region.write_obj(count.to_le(), at(2)).unwrap();
    }
}

fn chain(readable: &[(u64, u32)], writable: &[(u64, u32)]) -> Chain {
    let buffers =
        |all: &[(u64, u32)]| all.iter().map(|&(address, size)| Buffer { address, size }).collect();
    Chain::of(buffers(readable), buffers(writable))
}

#[test]
fn chains_go_to_the_device_as_they_are_and_come_back_in_any_order() {
    let (mut ring, mut device) = ring();
    let one = chain(&[(0x100, 40), (0x2000, 8)], &[(0x3000, 4096)]);
    let two = chain(&[(0x500, 1)], &[]);
    // More often than there are descriptors, and than the counts have numbers.
    for _ in 0..40_000 {
        ring.put(one.clone()).unwrap();
        ring.put(two.clone()).unwrap();
        let (first, buffers) = device.pop().unwrap();
        assert_eq!(buffers, [(0x100, 40, false), (0x2000, 8, false), (0x3000, 4096, true)]);
        let (second, buffers) = device.pop().unwrap();
        assert_eq!(buffers, [(0x500, 1, false)]);
        assert!(device.pop().is_none() && ring.take().unwrap().is_none());
        device.push(second, 0);
        device.push(first, 4096);
        assert_eq!(ring.take(), Ok(Some((two.clone(), 0))));
        assert_eq!(ring.take(), Ok(Some((one.clone(), 4096))));
        assert_eq!(ring.take(), Ok(None));
    }
}

#[test]
fn what_does_not_fit_in_waits_until_something_came_back() {
    let (mut ring, mut device) = ring();
    let large = chain(&[(0x100, 1); 5], &[]);
    assert!(ring.has_room(&large));
    ring.put(large.clone()).unwrap();
    assert!(!ring.has_room(&large) && ring.can_hold(&large));
    assert!(ring.has_room(&chain(&[(0, 1); 3], &[])));
    assert!(!ring.can_hold(&chain(&[(0, 1); 5], &[(0, 1); 4])));
    let (head, _) = device.pop().unwrap();
    device.push(head, 0);
    ring.take().unwrap().unwrap();
    assert!(ring.has_room(&large));
}

#[test]
fn answers_to_what_was_not_asked_are_none() {
    let asked = |device: &mut dyn FnMut(&mut Device, u16)| {
        let (mut ring, mut other) = ring();
        ring.put(chain(&[(0x100, 40)], &[(0x200, 100), (0x300, 28)])).unwrap();
        let (head, _) = other.pop().unwrap();
        device(&mut other, head);
        ring.take().map(|taken| taken.map(|(_, size)| size))
    };
    assert_eq!(asked(&mut |device, head| device.claim(1, head.into(), 128)), Ok(Some(128)));
    assert_eq!(asked(&mut |device, head| device.claim(1, head.into(), 129)), Err(Unasked));
    assert_eq!(asked(&mut |device, head| device.claim(2, head.into(), 1)), Err(Unasked));
    assert_eq!(asked(&mut |device, head| device.claim(0xffff, head.into(), 1)), Err(Unasked));
    for other in [1, u32::from(SIZE), u32::MAX] {
        let wrong = |device: &mut Device, head: u16| device.claim(1, u32::from(head) ^ other, 1);
        assert_eq!(asked(&mut { wrong }), Err(Unasked), "{other}");
    }
}

#[test]
fn what_is_given_up_is_what_the_device_has() {
    let (mut ring, mut device) = ring();
    let chains = [chain(&[(0x100, 1)], &[]), chain(&[(0x200, 2)], &[]), chain(&[(0x300, 3)], &[])];
    chains.iter().for_each(|chain| ring.put(chain.clone()).unwrap());
    let (head, _) = device.pop().unwrap();
    device.push(head, 0);
    ring.take().unwrap().unwrap();
    let mut left = ring.give_up();
    left.sort_by_key(|chain| chain.readable[0].address);
    assert_eq!(left, chains[1..]);
    assert!(ring.give_up().is_empty());
}
