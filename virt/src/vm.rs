//! One virtual machine: its memory, its interrupt routes and its architecture's part.

use alloc::sync::Arc;

use lock_api::Mutex;

use crate::arch::Arch;
use crate::host::{Errno, Host};
use crate::memory::{Memory, Slot};
use crate::routing::{Route, Routes};

/// The lock of a host.
pub type Lock<A> = <<A as Arch>::Host as Host>::RawMutex;

/// One virtual machine.
///
/// Lock order: the routes' lock, then (released) whatever the architecture takes.
pub struct Vm<A: Arch> {
    memory: Arc<Memory<Lock<A>>>,
    routes: Mutex<Lock<A>, Arc<Routes>>,
    arch: A,
}

impl<A: Arch> Vm<A> {
    /// Makes a machine around its architecture's part, with the default routes.
    ///
    /// `memory` is the one that `arch` (and its engine) look into.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(memory: Arc<Memory<Lock<A>>>, arch: A) -> Result<Self, Errno> {
        let routes = Mutex::new(Arc::new(A::default_routes()?));
        Ok(Self { memory, routes, arch })
    }

    /// The architecture's part.
    pub fn arch(&self) -> &A {
        &self.arch
    }

    /// The memory slots.
    pub fn memory(&self) -> &Memory<Lock<A>> {
        &self.memory
    }

    /// Adds a memory slot. Process context.
    ///
    /// # Errors
    /// As [`Memory::insert`].
    pub fn add_slot(&self, slot: Slot) -> Result<(), Errno> {
        self.memory.insert(slot)?;
        self.arch.memory_changed(slot.gpa, slot.size);
        Ok(())
    }

    /// Removes a memory slot; when this returns no vCPU uses it any more. Process context.
    ///
    /// # Errors
    /// As [`Memory::remove`].
    pub fn remove_slot(&self, id: u32) -> Result<(), Errno> {
        let slot = self.memory.remove(id)?;
        self.arch.memory_changed(slot.gpa, slot.size);
        Ok(())
    }

    /// Replaces the interrupt routes. Process context.
    pub fn set_routes(&self, routes: Routes) {
        let routes = Arc::new(routes);
        let old = core::mem::replace(&mut *self.routes.lock(), routes);
        drop(old);
    }

    /// Sets the level of a global system interrupt. A GSI without a route is
    /// connected to nothing. Atomic context.
    pub fn set_irq(&self, gsi: u32, level: bool) {
        let routes = Arc::clone(&self.routes.lock());
        for route in routes.of(gsi) {
            match route {
                Route::Pin(pin) => self.arch.set_pin(pin, level),
                Route::Msi { address, data } if level => self.arch.send_msi(address, data),
                Route::Msi { .. } => {}
            }
        }
    }
}
