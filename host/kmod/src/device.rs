//! What the device's node is: [`Device`], generic over the processors' virtualization, and [`register`], with the node's name.
//!
//! The node is `/dev/unibody`, or with the module's parameter `device=kvm` it is `/dev/kvm`, with the number that programs know it by. Only root may
//! open it unless somebody else is let.
//!
//! What CPUID offers is the processor's own, under the core's policy. Deviation: what the kernel was told not to use of it (`clearcpuid`) is
//! offered as well.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::{CStr, c_char, c_int};

use arch_x86::cpuid::Leaf;
use arch_x86::hardware::{Unusable, Virtualization};
use arch_x86::ioctl::{System, system};
use lock_api::Mutex;
use virt::{Errno, Memory};

use crate::descriptor::{Object, install};
use crate::kernel::Kernel;
use crate::lock::SpinLock;
use crate::printk::{Level, may_print, print};
use crate::virtualization::{Switch, Switched};
use crate::vm::Vm;

// SAFETY: these are the glue's functions (glue/descriptor.c), with these types.
unsafe extern "C" {
    /// The name that the node is to have: a string.
    safe fn unibody_node_name() -> *const c_char;
    /// Makes the node, with the number of Linux's own or any. 0, or a negative error number.
    safe fn unibody_node_register(kvms: bool) -> c_int;
    safe fn unibody_node_deregister();
}

/// The processors' virtualization, and what is known of it.
pub struct Device<V> {
    pub(crate) virtualization: Arc<V>,
    pub(crate) switch: Arc<Switch>,
    system: System<Kernel>,
}

/// Reads the processor's own CPUID.
pub(crate) fn hardware(function: u32, index: u32) -> Leaf {
    let leaf = core::arch::x86_64::__cpuid_count(function, index);
    [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
}

/// A virtualization as what is switched on and off.
struct Processors<V>(Arc<V>);

impl<V: Virtualization<Kernel>> Switched for Processors<V> {
    fn on(&self, processor: u32) -> Result<(), Errno> {
        self.0.enable(processor).map_err(|unusable| {
            if unusable == Unusable::InUse && may_print() {
                print!(
                    Level::Error,
                    "processor {processor} is another hypervisor's: no virtual machine can be made. End those of the other, as Linux's \
                     KVM, or unload it"
                );
            }
            errno(unusable)
        })
    }

    fn off(&self, processor: u32) {
        self.0.disable(processor);
    }
}

/// The error number of why it cannot be used.
fn errno(unusable: Unusable) -> Errno {
    match unusable {
        // What Linux's own module is refused with then: EOPNOTSUPP.
        Unusable::Lacks(_) | Unusable::Locked => Errno(95),
        Unusable::InUse => Errno::EBUSY,
        Unusable::Host(errno) => errno,
    }
}

impl<V: Virtualization<Kernel>> Device<V> {
    /// The virtualization, if it can be used. Process context.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if it cannot, and what the host lacks.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let virtualization = Arc::new(V::new(Kernel).map_err(|unusable| {
            print!(Level::Error, "the processor's virtualization cannot be used: {unusable:?}");
            errno(unusable)
        })?);
        let switch = Arc::new(Switch::new(Arc::new(Processors(Arc::clone(&virtualization))))?);
        // One that runs nothing says what any would.
        let system =
            System::of(Kernel, hardware, &virtualization.engine(Arc::new(Memory::default()))?);
        Ok(Arc::new(Self { virtualization, switch, system }))
    }
}

/// A descriptor of the device's.
struct Opened<V>(Arc<Device<V>>);

impl<V: Virtualization<Kernel>> Object for Opened<V> {
    fn ioctl(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        system(&self.0.system, number, argument, || install(c"kvm-vm", Vm::new(&self.0)?))
    }
}

/// Whatever the node is of.
trait Node: Send + Sync {
    /// One that a file can have.
    fn open(self: Arc<Self>) -> Box<dyn Object>;
}

impl<V: Virtualization<Kernel>> Node for Device<V> {
    fn open(self: Arc<Self>) -> Box<dyn Object> {
        Box::new(Opened(self))
    }
}

impl Object for Box<dyn Object> {
    fn ioctl(&self, number: u32, argument: u64) -> Result<u32, Errno> {
        (**self).ioctl(number, argument)
    }
}

/// What the node is of, while there is one.
static NODE: Mutex<SpinLock, Option<Arc<dyn Node>>> = Mutex::new(None);

/// Makes the node, for whoever opens it to have VMs of this virtualization. Process context, once.
///
/// # Errors
/// `EINVAL` for a name that it cannot have, `EBUSY` if there is such a node, and as [`Device::new`].
pub fn register<V: Virtualization<Kernel>>() -> Result<(), Errno> {
    // SAFETY: it is a string, which stays as it is while the module is there.
    let kvms = match unsafe { CStr::from_ptr(unibody_node_name()) }.to_bytes() {
        b"unibody" => false,
        b"kvm" => true,
        _ => return Err(Errno::EINVAL),
    };
    *NODE.lock() = Some(Device::<V>::new()?);
    match unibody_node_register(kvms) {
        0 => Ok(()),
        refused => {
            forget();
            Err(Errno(-refused))
        }
    }
}

/// Takes the node away. Whoever has opened it holds the module, so nobody has.
pub fn deregister() {
    if NODE.lock().is_some() {
        unibody_node_deregister();
        forget();
    }
}

fn forget() {
    let old = NODE.lock().take();
    drop(old);
}

/// What a file of the node's has.
///
/// # Errors
/// `ENXIO` if it is just being taken away.
pub fn open() -> Result<Box<dyn Object>, Errno> {
    let node = NODE.lock().clone().ok_or(Errno::ENXIO)?;
    Ok(node.open())
}

/// A descriptor of the device's, as whoever opens the node has.
#[cfg(feature = "selftest")]
pub fn descriptor<V: Virtualization<Kernel>>(device: &Arc<Device<V>>) -> Result<u32, Errno> {
    install(c"kvm", Opened(Arc::clone(device)))
}
