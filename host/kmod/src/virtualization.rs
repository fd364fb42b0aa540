//! [`Switch`]: the processors' virtualization, on while there are VMs.
//!
//! The kernel switches it on for each processor that is there or comes, and off for each that goes, through [`unibody_processor_up`] and its neighbour. It
//! is switched off as well when the machine reboots.
//!
//! Not implemented: suspending the machine while there are VMs, and a crash that starts another kernel (kexec).

use alloc::sync::Arc;
use core::ffi::c_int;

use lock_api::Mutex;
use virt::Errno;

use crate::lock::SpinLock;
use crate::sleep_lock::SleepLock;

// SAFETY: these are the glue's functions (glue/hotplug.c), which take numbers.
unsafe extern "C" {
    /// Up on each processor, from now on; a state, or a negative error number. Process context.
    safe fn unibody_processors_begin() -> c_int;
    /// Down on each, and no more of it.
    safe fn unibody_processors_end(state: c_int);
    safe fn unibody_reboot_begin() -> c_int;
    safe fn unibody_reboot_end();
}

/// What is switched on and off: a processor's virtualization, whosever it is.
pub trait Switched: Send + Sync + 'static {
    /// On, for the processor that this runs on, with interrupts off.
    ///
    /// # Errors
    /// `EBUSY` if another hypervisor has it, and others.
    fn on(&self, processor: u32) -> Result<(), Errno>;
    /// Off, likewise.
    fn off(&self, processor: u32);
}

/// What is on now, if anything.
static ON: Mutex<SpinLock, Option<Arc<dyn Switched>>> = Mutex::new(None);

/// How many VMs there are, and by which state the kernel knows of it.
#[derive(Default)]
struct Users {
    count: usize,
    state: c_int,
}

/// Switches the virtualization on and off.
pub struct Switch {
    switched: Arc<dyn Switched>,
    users: SleepLock<Users>,
}

impl Switch {
    /// One that is off.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(switched: Arc<dyn Switched>) -> Result<Self, Errno> {
        Ok(Self { switched, users: SleepLock::new(Users::default())? })
    }

    /// Has it be on until that is dropped. Process context.
    ///
    /// # Errors
    /// `EBUSY` if another one's is on, and what keeps it from being switched on.
    pub fn on(self: &Arc<Self>) -> Result<On, Errno> {
        let mut users = self.users.lock()?;
        if users.count == 0 {
            occupy(&self.switched)?;
            let state = unibody_processors_begin();
            if state < 0 {
                forget();
                return Err(Errno(-state));
            }
            // It cannot fail.
            unibody_reboot_begin();
            users.state = state;
        }
        users.count += 1;
        Ok(On(Arc::clone(self)))
    }

    fn off(&self) {
        let mut users = self.users.wait();
        users.count -= 1;
        if users.count == 0 {
            unibody_reboot_end();
            unibody_processors_end(users.state);
            forget();
        }
    }
}

/// Says what is on.
///
/// # Errors
/// `EBUSY` if something is.
fn occupy(switched: &Arc<dyn Switched>) -> Result<(), Errno> {
    let mut on = ON.lock();
    if on.is_some() {
        return Err(Errno::EBUSY);
    }
    *on = Some(Arc::clone(switched));
    Ok(())
}

/// Nothing is on.
fn forget() {
    let old = ON.lock().take();
    drop(old);
}

/// That it is on.
pub struct On(Arc<Switch>);

impl Drop for On {
    fn drop(&mut self) {
        self.0.off();
    }
}

/// A processor is there. Called by `glue/hotplug.c` on it, with interrupts off. Gives 0 or a negative error number.
#[unsafe(no_mangle)]
extern "C" fn unibody_processor_up(processor: u32) -> c_int {
    let done = ON.lock().as_ref().map_or(Ok(()), |switched| switched.on(processor));
    done.map_or_else(|errno| -errno.0, |()| 0)
}

/// It goes, or the machine does. Called by `glue/hotplug.c` on it, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn unibody_processor_down(processor: u32) {
    if let Some(switched) = &*ON.lock() {
        switched.off(processor);
    }
}
