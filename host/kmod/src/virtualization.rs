//! [`Switch`]: the processors' virtualization, on while there are VMs.
//!
//! The kernel switches it on for each processor that is there or comes, and off for each that goes, through [`unibody_processor_up`] and its neighbour. It
//! is switched off as well when the machine reboots, and not on any more from then on; and when the kernel crashes, so that the machine, or
//! another kernel (kexec), can start: by [`unibody_crash`](crate::unibody_crash), or by the kernel itself, whose older versions do (`glue/hotplug.c`).
//!
//! Not implemented: suspending or hibernating the machine while there are VMs, which is refused, with a line in the log.

use alloc::sync::Arc;
use core::ffi::c_int;

use lock_api::Mutex;
use virt::Errno;

use crate::lock::SpinLock;
use crate::printk::{Level, print};
use crate::sleep_lock::SleepLock;

// SAFETY: these are the glue's functions (glue/hotplug.c), which take numbers.
unsafe extern "C" {
    /// Up on each processor, from now on; a state, or a negative error number. Process context.
    safe fn unibody_processors_begin() -> c_int;
    /// Down on each, and no more of it.
    safe fn unibody_processors_end(state: c_int);
    /// Tells of the machine's sleep and reboot from now on. 0, or a negative error number. Process context.
    safe fn unibody_power_begin() -> c_int;
    /// When it returns it tells no more, nor just now.
    safe fn unibody_power_end();
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

/// What is on, and what keeps it from being switched on.
struct Now {
    on: Option<Arc<dyn Switched>>,
    /// The machine sleeps, or is about to.
    sleeps: bool,
    /// It reboots, and does not come back from that.
    reboots: bool,
}

static NOW: Mutex<SpinLock, Now> = Mutex::new(Now { on: None, sleeps: false, reboots: false });

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
    /// `EBUSY` if another one's is on, or the machine sleeps or reboots; and what keeps it from being switched on.
    pub fn on(self: &Arc<Self>) -> Result<On, Errno> {
        let mut users = self.users.lock()?;
        if NOW.lock().reboots {
            return Err(Errno::EBUSY);
        }
        if users.count == 0 {
            occupy(&self.switched)?;
            let state = unibody_processors_begin();
            if state < 0 {
                forget();
                return Err(Errno(-state));
            }
            users.state = state;
        }
        users.count += 1;
        Ok(On(Arc::clone(self)))
    }

    fn off(&self) {
        let mut users = self.users.wait();
        users.count -= 1;
        if users.count == 0 {
            unibody_processors_end(users.state);
            forget();
        }
    }
}

/// Says what is on.
///
/// # Errors
/// `EBUSY` if something is, or the machine sleeps.
fn occupy(switched: &Arc<dyn Switched>) -> Result<(), Errno> {
    let mut now = NOW.lock();
    if now.on.is_some() || now.sleeps {
        return Err(Errno::EBUSY);
    }
    now.on = Some(Arc::clone(switched));
    Ok(())
}

/// Nothing is on.
fn forget() {
    let old = NOW.lock().on.take();
    drop(old);
}

/// That it is on.
pub struct On(Arc<Switch>);

impl Drop for On {
    fn drop(&mut self) {
        self.0.off();
    }
}

/// Is told from now on of what the machine does. Process context, once.
///
/// # Errors
/// The kernel's.
pub fn begin() -> Result<(), Errno> {
    match unibody_power_begin() {
        0 => Ok(()),
        refused => Err(Errno(-refused)),
    }
}

/// Undoes [`begin`].
pub fn end() {
    unibody_power_end();
}

/// A processor is there. Called by `glue/hotplug.c` on it, with interrupts off. Gives 0 or a negative error number.
#[unsafe(no_mangle)]
extern "C" fn unibody_processor_up(processor: u32) -> c_int {
    let now = NOW.lock();
    let done = match &now.on {
        None => Ok(()),
        // Those that are there were switched off, or are about to be.
        Some(_) if now.reboots => Err(Errno::EBUSY),
        Some(switched) => switched.on(processor),
    };
    done.map_or_else(|errno| -errno.0, |()| 0)
}

/// It goes, or the machine does. Called by `glue/hotplug.c` on it, with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn unibody_processor_down(processor: u32) {
    if let Some(switched) = &NOW.lock().on {
        switched.off(processor);
    }
}

/// The machine is about to reboot. Called by `glue/hotplug.c`, which has each processor go then.
#[unsafe(no_mangle)]
pub extern "C" fn unibody_reboot_begins() {
    NOW.lock().reboots = true;
}

/// The machine is about to sleep, or to have another kernel's memory. Called by `glue/hotplug.c` in process context. Gives whether it may.
#[unsafe(no_mangle)]
pub extern "C" fn unibody_sleep_begins() -> bool {
    let may = {
        let mut now = NOW.lock();
        now.sleeps = now.on.is_none();
        now.sleeps
    };
    if !may {
        print!(Level::Info, "the machine cannot sleep while there are VMs");
    }
    may
}

/// It has slept, or does not after all. Called likewise.
#[unsafe(no_mangle)]
pub extern "C" fn unibody_sleep_ends() {
    NOW.lock().sleeps = false;
}

/// As if the machine did not reboot after all, for the tests.
#[cfg(feature = "selftest")]
pub fn pretend_no_reboot() {
    NOW.lock().reboots = false;
}
