//! [`Regions`]: the memory that a machine was given, held as long as its slots point there.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

use crate::Error;

/// The regions of a machine.
#[derive(Debug, Default)]
pub(crate) struct Regions(Mutex<Vec<Arc<GuestRegionMmap>>>);

/// Where a region is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The slot's number.
    pub id: u32,
    /// Guest-physical.
    pub gpa: u64,
    /// In bytes.
    pub size: u64,
    /// In this process.
    pub hva: u64,
}

impl Regions {
    /// Holds one more, if `set` makes a slot of it: it must not be freed while that has its address.
    ///
    /// # Errors
    /// [`Error::Memory`], with why `set` refuses.
    pub fn add(
        &self,
        region: Arc<GuestRegionMmap>,
        set: impl FnOnce(Place) -> io::Result<()>,
    ) -> Result<(), Error> {
        let (gpa, size) = (region.start_addr().raw_value(), region.len());
        let refused = |error| Error::Memory { gpa, size, error };
        let address = region.get_host_address(MemoryRegionAddress(0));
        let address = address.map_err(|error| refused(io::Error::other(error)))?;
        let mut regions = self.0.lock();
        let place = Place { id: regions.len() as u32, gpa, size, hva: address as u64 };
        regions.push(region);
        set(place).map_err(|error| {
            regions.pop();
            refused(error)
        })
    }

    /// A byte of the guest's memory, if there is one.
    pub fn read_byte(&self, gpa: u64) -> Option<u8> {
        let regions = self.0.lock();
        let mut found = regions.iter().filter_map(|region| {
            region.to_region_addr(GuestAddress(gpa)).map(|address| (region, address))
        });
        found.next().and_then(|(region, address)| region.read_obj(address).ok())
    }
}
