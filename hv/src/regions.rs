//! [`Regions`]: the memory that a machine was given, held as long as its slots point there; and what of it is asked by
//! [`MemoryId`].
//!
//! What a back end does to its slots is done while the list is locked: so slots change one after the other.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use vm_memory::{Address, Bytes, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use crate::Error;
use crate::host_error::explain;

/// A region of a machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryId {
    slot: u32,
    /// No two regions of a machine have the same: what was removed is not taken for what has its slot now.
    serial: u64,
}

impl MemoryId {
    /// For a back end: the region that is the machine's `serial`th, in a slot of the back end's.
    #[must_use]
    pub const fn new(slot: u32, serial: u64) -> Self {
        Self { slot, serial }
    }
}

/// How a machine is given a region of memory. By default the guest may write to it, and it is not noted where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFlags {
    /// The guest may read and execute it. A write is an exit, as if nothing was there ([`Exit::MmioWrite`](crate::x86::Exit)), and changes
    /// nothing.
    pub read_only: bool,
    /// The pages that the guest writes to are noted: see [`Vm::take_dirty`](crate::Vm::take_dirty).
    pub log_dirty: bool,
}

/// Why something can't be done to a machine's memory, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// EEXIST.
    #[error(
        "there is other memory of the guest's in this place: take another address, or remove that first"
    )]
    Overlaps,
    /// EINVAL.
    #[error(
        "address and size have to be whole pages of 4096 bytes, at most 2^31 - 1 of them, all at addresses that the guest's \
         processor has: align them, or divide it"
    )]
    NotPages,
    /// More than there may be.
    #[error("the guest has {most} regions of memory, as many as it can: remove one, or join some")]
    TooMany {
        /// How many there may be.
        most: usize,
    },
    /// ENOMEM.
    #[error("the host is out of memory: end something else that runs there, or take less")]
    HostMemory,
    /// The region's own protection.
    #[error("this process may not {access} it: map it otherwise{}", if *access == "write to" { ", or add it read-only" } else { "" })]
    Protected {
        /// What it may not do.
        access: &'static str,
    },
    /// There is no log.
    #[error("its writes are not logged: switch that on first")]
    NotLogged,
    /// Anything else.
    #[error("{}", explain(.0))]
    Host(io::Error),
}

impl From<io::Error> for Refused {
    /// What a back end's slots refuse, as KVM's do. See: Linux, Documentation/virt/kvm/api.rst, 4.35.
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EEXIST) => Self::Overlaps,
            Some(libc::EINVAL) => Self::NotPages,
            Some(libc::ENOMEM) => Self::HostMemory,
            _ => Self::Host(error),
        }
    }
}

/// Where a region is, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The slot's number.
    pub slot: u32,
    /// Guest-physical.
    pub gpa: u64,
    /// In bytes.
    pub size: u64,
    /// In this process.
    pub hva: u64,
    pub flags: MemoryFlags,
}

impl Place {
    fn refused(&self, action: &'static str, reason: impl Into<Refused>) -> Error {
        Error::Memory { action, gpa: self.gpa, size: self.size, reason: reason.into() }
    }
}

/// A region that a slot points to.
#[derive(Debug)]
struct Held {
    serial: u64,
    place: Place,
    region: Arc<GuestRegionMmap>,
}

#[derive(Debug, Default)]
struct All {
    /// By slot.
    held: Vec<Option<Held>>,
    /// Those that have none.
    free: Vec<u32>,
    /// How many there ever were.
    added: u64,
}

impl All {
    fn get(&mut self, id: MemoryId, action: &'static str) -> Result<&mut Held, Error> {
        let held = self.held.get_mut(id.slot as usize).and_then(Option::as_mut);
        held.filter(|held| held.serial == id.serial).ok_or(Error::NoMemory { action })
    }
}

/// The regions of a machine.
#[derive(Debug)]
pub(crate) struct Regions {
    all: Mutex<All>,
    most: usize,
}

/// What is tried, as an error says it.
mod action {
    pub const ADD: &str = "add";
    pub const MOVE: &str = "move";
    pub const REMOVE: &str = "remove";
    pub const LOG: &str = "change the logging of writes to";
    pub const TAKE: &str = "tell the dirty pages of";
}

impl Regions {
    /// None, of a back end that has so many slots at most.
    pub fn new(most: usize) -> Self {
        Self { all: Mutex::default(), most }
    }

    /// Holds one more, if `add` makes a slot of it.
    ///
    /// # Errors
    /// [`Error::Memory`], with why not.
    pub fn add(
        &self,
        region: Arc<GuestRegionMmap>,
        flags: MemoryFlags,
        add: impl FnOnce(Place) -> io::Result<()>,
    ) -> Result<MemoryId, Error> {
        let (gpa, size) = (region.start_addr().raw_value(), region.len());
        let mut place = Place { slot: 0, gpa, size, hva: 0, flags };
        let host = region.get_host_address(MemoryRegionAddress(0));
        place.hva = match host {
            Ok(host) => host as u64,
            Err(error) => return Err(place.refused(action::ADD, io::Error::other(error))),
        };
        if let Some(access) = lacking(region.prot(), flags) {
            return Err(place.refused(action::ADD, Refused::Protected { access }));
        }
        let mut all = self.all.lock();
        place.slot = match all.free.pop() {
            Some(slot) => slot,
            None if all.held.len() < self.most => {
                all.held.push(None);
                all.held.len() as u32 - 1
            }
            None => return Err(place.refused(action::ADD, Refused::TooMany { most: self.most })),
        };
        all.added += 1;
        let serial = all.added;
        // Before the slot has its address.
        all.held[place.slot as usize] = Some(Held { serial, place, region });
        if let Err(error) = add(place) {
            all.held[place.slot as usize] = None;
            all.free.push(place.slot);
            return Err(place.refused(action::ADD, error));
        }
        Ok(MemoryId::new(place.slot, serial))
    }

    /// Notes another address of a region, if `set` moves its slot there.
    ///
    /// # Errors
    /// [`Error::Memory`], with why not; [`Error::NoMemory`].
    pub fn relocate(
        &self,
        id: MemoryId,
        gpa: u64,
        set: impl FnOnce(Place) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut all = self.all.lock();
        let held = all.get(id, action::MOVE)?;
        let place = Place { gpa, ..held.place };
        set(place).map_err(|error| place.refused(action::MOVE, error))?;
        held.place = place;
        Ok(())
    }

    /// Notes whether a region is logged, if `set` has its slot so.
    ///
    /// # Errors
    /// [`Error::Memory`], with why not; [`Error::NoMemory`].
    pub fn log_dirty(
        &self,
        id: MemoryId,
        log_dirty: bool,
        set: impl FnOnce(Place) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut all = self.all.lock();
        let held = all.get(id, action::LOG)?;
        let place = Place { flags: MemoryFlags { log_dirty, ..held.place.flags }, ..held.place };
        set(place).map_err(|error| place.refused(action::LOG, error))?;
        held.place = place;
        Ok(())
    }

    /// The log of a region that has one, which `take` takes.
    ///
    /// # Errors
    /// [`Error::Memory`], with why not; [`Error::NoMemory`].
    pub fn take_dirty(
        &self,
        id: MemoryId,
        take: impl FnOnce(Place) -> io::Result<Vec<u64>>,
    ) -> Result<Vec<u64>, Error> {
        let mut all = self.all.lock();
        let place = all.get(id, action::TAKE)?.place;
        if !place.flags.log_dirty {
            return Err(place.refused(action::TAKE, Refused::NotLogged));
        }
        take(place).map_err(|error| place.refused(action::TAKE, error))
    }

    /// Lets a region go, when `remove` has removed its slot: nothing points there any more then.
    ///
    /// # Errors
    /// [`Error::Memory`], with why not, and it is held on; [`Error::NoMemory`].
    pub fn remove(
        &self,
        id: MemoryId,
        remove: impl FnOnce(Place) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut all = self.all.lock();
        let place = all.get(id, action::REMOVE)?.place;
        remove(place).map_err(|error| place.refused(action::REMOVE, error))?;
        let held = all.held[id.slot as usize].take();
        all.free.push(id.slot);
        drop(all);
        // It may be unmapped now, which takes a while.
        drop(held);
        Ok(())
    }

    /// A byte of the guest's memory, if there is one.
    pub fn read_byte(&self, gpa: u64) -> Option<u8> {
        let all = self.all.lock();
        let mut found = all.held.iter().flatten().filter_map(|held| {
            let offset = gpa.checked_sub(held.place.gpa)?;
            (offset < held.place.size).then_some((&held.region, MemoryRegionAddress(offset)))
        });
        found.next().and_then(|(region, address)| region.read_obj(address).ok())
    }
}

/// What a mapping of this protection does not allow, of what the guest will do.
fn lacking(protection: i32, flags: MemoryFlags) -> Option<&'static str> {
    let may = |bit| protection & bit != 0;
    if !may(libc::PROT_READ) {
        Some("read")
    } else if !may(libc::PROT_WRITE) && !flags.read_only {
        Some("write to")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;

    fn region(gpa: u64) -> Arc<GuestRegionMmap> {
        let region = GuestRegionMmap::from_range(GuestAddress(gpa), 0x2000, None);
        Arc::new(region.expect("memory"))
    }

    fn fails(number: i32) -> impl Fn(Place) -> io::Result<()> {
        move |_| Err(io::Error::from_raw_os_error(number))
    }

    #[test]
    fn a_region_is_held_as_long_as_its_slot_is_there() {
        let (regions, memory) = (Regions::new(2), region(0x4000));
        let add = |set: &dyn Fn(Place) -> io::Result<()>| {
            regions.add(Arc::clone(&memory), MemoryFlags::default(), set)
        };
        let held = || Arc::strong_count(&memory) > 1;
        add(&fails(libc::EEXIST)).unwrap_err();
        assert!(!held());
        let id = add(&|place| {
            assert_eq!((place.slot, place.gpa, place.size), (0, 0x4000, 0x2000));
            assert!(held(), "before there is a slot");
            Ok(())
        });
        let id = id.unwrap();
        regions.remove(id, fails(libc::ENOMEM)).unwrap_err();
        assert!(held(), "the slot is still there");
        regions
            .remove(id, |_| {
                assert!(held());
                Ok(())
            })
            .unwrap();
        assert!(!held());
        // Its number is used again, and is not it.
        let next = add(&|place| {
            assert_eq!(place.slot, 0);
            Ok(())
        })
        .unwrap();
        regions.remove(id, |_| Ok(())).unwrap_err();
        regions.remove(next, |_| Ok(())).unwrap();
    }

    #[test]
    fn what_did_not_work_has_changed_nothing() {
        let regions = Regions::new(2);
        let id = regions.add(region(0x4000), MemoryFlags::default(), |_| Ok(())).unwrap();
        regions.relocate(id, 0x8000, fails(libc::EEXIST)).unwrap_err();
        assert_eq!((regions.read_byte(0x5fff), regions.read_byte(0x8000)), (Some(0), None));
        regions.log_dirty(id, true, fails(libc::ENOMEM)).unwrap_err();
        regions.take_dirty(id, |_| Ok(vec![])).unwrap_err();
        regions.relocate(id, 0x8000, |_| Ok(())).unwrap();
        assert_eq!((regions.read_byte(0x5fff), regions.read_byte(0x9fff)), (None, Some(0)));
        regions
            .log_dirty(id, true, |place| {
                assert!(place.flags.log_dirty);
                Ok(())
            })
            .unwrap();
        assert_eq!(regions.take_dirty(id, |_| Ok(vec![5])).unwrap(), [5]);
    }

    /// What was tried, what went wrong, what to do.
    #[test]
    fn an_error_says_what_to_do() {
        let regions = Regions::new(1);
        let id = regions.add(region(0x4000), MemoryFlags::default(), |_| Ok(())).unwrap();
        let says = |error: Error, parts: &[&str]| {
            let text = error.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        };
        for (number, reason, advice) in [
            (libc::EEXIST, "other memory of the guest's in this place", "take another address"),
            (libc::EINVAL, "have to be whole pages of 4096 bytes", "align them"),
            (libc::ENOMEM, "the host is out of memory", "take less"),
            (libc::EIO, "input/output error", ""),
        ] {
            let error = regions.relocate(id, 0x8000, fails(number)).unwrap_err();
            says(
                error,
                &["cannot move memory of the guest at 0x8000 (8192 bytes)", reason, advice],
            );
        }
        let error = regions.add(region(0), MemoryFlags::default(), |_| Ok(())).unwrap_err();
        says(error, &["cannot add", "has 1 regions of memory, as many as it can", "remove one"]);
        let error = regions.take_dirty(id, |_| Ok(vec![])).unwrap_err();
        says(error, &["cannot tell the dirty pages of", "are not logged", "switch that on first"]);
        regions.remove(id, |_| Ok(())).unwrap();
        let error = regions.remove(id, |_| Ok(())).unwrap_err();
        says(error, &["cannot remove", "does not have", "name what was added"]);
    }

    #[test]
    fn a_mapping_allows_what_the_guest_may_do() {
        let read_only = MemoryFlags { read_only: true, ..MemoryFlags::default() };
        let both = libc::PROT_READ | libc::PROT_WRITE;
        for (protection, plain, for_reading) in [
            (both, None, None),
            (libc::PROT_READ, Some("write to"), None),
            (libc::PROT_WRITE, Some("read"), Some("read")),
            (libc::PROT_NONE, Some("read"), Some("read")),
        ] {
            assert_eq!(lacking(protection, MemoryFlags::default()), plain);
            assert_eq!(lacking(protection, read_only), for_reading);
        }
    }
}
