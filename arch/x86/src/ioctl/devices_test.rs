//! Test bodies of KVM_CREATE_DEVICE and the device for VFIO, which `virt` has.

use abi::device::{
    CREATE_DEVICE_TEST, CreateDevice, DEV_TYPE_VFIO, DeviceAttr, VFIO_GROUP, VFIO_GROUP_ADD,
    VFIO_GROUP_DEL,
};
use abi::encoding::Encoded;
use abi::ioctl::{
    CREATE_DEVICE, GET_DEVICE_ATTR, GET_REGS, HAS_DEVICE_ATTR, SET_DEVICE_ATTR, argument_size,
};
use selftest::{cases, check_eq};
use virt::Errno;
use virt::ioctl::{New, vfio};

use super::caller::{ARGUMENT, BAD, Caller, VFIO};
use crate::vcpu::scripted::TestHost;

/// From the argument to where the attribute's value is.
const VALUE: u64 = 0x100;

const DEVICE: CreateDevice = CreateDevice { type_: DEV_TYPE_VFIO, fd: 0, flags: 0 };

/// Has an attribute of the device be set, to a descriptor.
fn set(caller: &Caller, attr: u64, descriptor: i32) -> Result<u32, Errno> {
    caller.put(VALUE, &descriptor);
    ask(caller, SET_DEVICE_ATTR, VFIO_GROUP, attr)
}

fn ask(caller: &Caller, number: u32, group: u32, attr: u64) -> Result<u32, Errno> {
    caller.put(0, &DeviceAttr { flags: 0, group, attr, addr: ARGUMENT + VALUE });
    vfio(&caller.fixture.vm, number, ARGUMENT)
}

cases! {
    fn a_machine_has_one_device_for_vfio() {
        let caller = Caller::new()?;
        for type_ in [0, 1, 3, 5, 8, u32::MAX] {
            check_eq!(caller.set_vm(CREATE_DEVICE, &CreateDevice { type_, ..DEVICE }), Err(Errno::ENODEV));
        }
        check_eq!(caller.vm(CREATE_DEVICE, BAD), Err(Errno::EFAULT));
        check_eq!(caller.set_vm(CREATE_DEVICE, &DEVICE), Ok(0));
        check_eq!(caller.at::<CreateDevice>(0), CreateDevice { fd: VFIO, ..DEVICE });
        check_eq!(caller.set_vm(CREATE_DEVICE, &DEVICE), Err(Errno::EBUSY));
    }

    fn what_is_only_asked_is_not_made() {
        let caller = Caller::new()?;
        let asked = CreateDevice { flags: CREATE_DEVICE_TEST, fd: 5, ..DEVICE };
        for _ in 0..2 {
            check_eq!(caller.set_vm(CREATE_DEVICE, &asked), Ok(0));
            check_eq!(caller.at::<CreateDevice>(0), asked);
        }
        let unknown = CreateDevice { type_: 1, ..asked };
        check_eq!(caller.set_vm(CREATE_DEVICE, &unknown), Err(Errno::ENODEV));
        check_eq!(caller.set_vm(CREATE_DEVICE, &DEVICE), Ok(0));
        // There could be one, whether there is one or not.
        check_eq!(caller.set_vm(CREATE_DEVICE, &asked), Ok(0));
    }

    fn a_device_without_a_descriptor_is_not_there() {
        let caller = Caller::new()?;
        caller.put(0, &DEVICE);
        let refuse = |_: New| Err(Errno::ENOSPC);
        let refused = super::vm(&caller.fixture.vm, CREATE_DEVICE, ARGUMENT, refuse);
        check_eq!(refused, Err(Errno::ENOSPC));
        check_eq!(caller.set_vm(CREATE_DEVICE, &DEVICE), Ok(0));
    }

    fn groups_are_added_once_and_removed() {
        let caller = Caller::new()?;
        let [one, two] = TestHost::GROUPS;
        for _ in 0..2 {
            check_eq!(set(&caller, VFIO_GROUP_DEL, one), Err(Errno::ENOENT));
            check_eq!(set(&caller, VFIO_GROUP_ADD, one), Ok(0));
            // By another descriptor, too.
            check_eq!(set(&caller, VFIO_GROUP_ADD, one + 1), Err(Errno::EEXIST));
            check_eq!(set(&caller, VFIO_GROUP_DEL, two), Err(Errno::ENOENT));
            check_eq!(set(&caller, VFIO_GROUP_ADD, two), Ok(0));
            check_eq!(set(&caller, VFIO_GROUP_DEL, one + 1), Ok(0));
            check_eq!(set(&caller, VFIO_GROUP_DEL, one), Err(Errno::ENOENT));
            check_eq!(set(&caller, VFIO_GROUP_DEL, two), Ok(0));
        }
    }

    fn what_is_no_group_is_not_added() {
        let caller = Caller::new()?;
        for event in [0, TestHost::OTHER as i32] {
            check_eq!(set(&caller, VFIO_GROUP_ADD, event), Err(Errno::EINVAL));
            check_eq!(set(&caller, VFIO_GROUP_DEL, event), Err(Errno::ENOENT));
        }
        for none in [-1, 6, i32::MAX, i32::MIN] {
            check_eq!(set(&caller, VFIO_GROUP_ADD, none), Err(Errno::EBADF));
            check_eq!(set(&caller, VFIO_GROUP_DEL, none), Err(Errno::EBADF));
        }
    }

    fn attributes_are_the_groups_and_only_set() {
        let caller = Caller::new()?;
        let vm = &caller.fixture.vm;
        for number in [SET_DEVICE_ATTR, HAS_DEVICE_ATTR] {
            check_eq!(vfio(vm, number, BAD), Err(Errno::EFAULT));
            for (group, attr) in [(0, 1), (2, 1), (VFIO_GROUP, 0), (VFIO_GROUP, 3), (1, 1 << 32)] {
                check_eq!(ask(&caller, number, group, attr), Err(Errno::ENXIO));
            }
        }
        for attr in [VFIO_GROUP_ADD, VFIO_GROUP_DEL] {
            check_eq!(ask(&caller, HAS_DEVICE_ATTR, VFIO_GROUP, attr), Ok(0));
            caller.put(0, &DeviceAttr { flags: 0, group: VFIO_GROUP, attr, addr: BAD });
            check_eq!(vfio(vm, SET_DEVICE_ATTR, ARGUMENT), Err(Errno::EFAULT));
        }
        check_eq!(vfio(vm, GET_DEVICE_ATTR, BAD), Err(Errno::EPERM));
        for number in [GET_REGS, CREATE_DEVICE, 0, u32::MAX] {
            check_eq!(vfio(vm, number, ARGUMENT), Err(Errno::ENOTTY));
        }
        check_eq!(argument_size(CREATE_DEVICE), CreateDevice::SIZE);
    }
}
