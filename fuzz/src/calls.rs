//! Ioctls among the steps: any of them with anything, and such as are near to what is right.
//!
//! What an argument names besides is made something that may be named: see `Case::redirect`.

use abi::device::{DEV_TYPE_VFIO, DeviceAttr, EnableCap};
use abi::encoding::Encoded;
use abi::ioctl::{self, argument_size};
use arch_x86::ioctl::offered::{Descriptor, OFFERED};

use crate::arena::{ARGUMENTS, PAGE, RAM};
use crate::case::{Case, check_answer};
use crate::objects::Object;
use crate::signals::INTERRUPT;

/// What gets state, and what sets it, and how many bytes of it there are.
const PAIRS: [(Descriptor, u32, u32, usize); 16] = [
    (Descriptor::Vcpu, ioctl::GET_REGS, ioctl::SET_REGS, 144),
    (Descriptor::Vcpu, ioctl::GET_SREGS, ioctl::SET_SREGS, 312),
    (Descriptor::Vcpu, ioctl::GET_SREGS2, ioctl::SET_SREGS2, 320),
    (Descriptor::Vcpu, ioctl::GET_LAPIC, ioctl::SET_LAPIC, 1024),
    (Descriptor::Vcpu, ioctl::GET_MP_STATE, ioctl::SET_MP_STATE, 4),
    (Descriptor::Vcpu, ioctl::GET_VCPU_EVENTS, ioctl::SET_VCPU_EVENTS, 64),
    (Descriptor::Vcpu, ioctl::GET_FPU, ioctl::SET_FPU, 416),
    (Descriptor::Vcpu, ioctl::GET_XSAVE, ioctl::SET_XSAVE, 1024),
    (Descriptor::Vcpu, ioctl::GET_XCRS, ioctl::SET_XCRS, 48),
    (Descriptor::Vcpu, ioctl::GET_DEBUGREGS, ioctl::SET_DEBUGREGS, 128),
    (Descriptor::Vcpu, ioctl::GET_NESTED_STATE, ioctl::SET_NESTED_STATE, 128),
    (Descriptor::Vm, ioctl::GET_IRQCHIP, ioctl::SET_IRQCHIP, 256),
    (Descriptor::Vm, ioctl::GET_PIT2, ioctl::SET_PIT2, 112),
    (Descriptor::Vm, ioctl::GET_CLOCK, ioctl::SET_CLOCK, 48),
    // A processor as the device offers it, with something else about it.
    (Descriptor::Vcpu, ioctl::GET_CPUID2, ioctl::SET_CPUID2, 1024),
    (Descriptor::Vcpu, ioctl::TRANSLATE, ioctl::TRANSLATE, 8),
];

/// Where registers are that do something, and how many there are from there on.
const REGISTERS: [(u32, u32); 14] = [
    (0x10, 1),
    (0x1b, 1),
    (0x3a, 2),
    (0x48, 2),
    (0x10a, 1),
    (0x174, 3),
    (0x179, 3),
    (0x1a0, 1),
    (0x200, 0x100),
    (0x400, 0x80),
    (0x6e0, 1),
    (0x800, 0x40),
    (0xc000_0080, 5),
    (0xc000_0100, 5),
];
/// KVM's own: the clocks, end of interrupt, stolen time.
const OWN_REGISTERS: [u32; 9] = [
    0x11,
    0x12,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
    0x4b56_4d05,
    0xc001_0015,
];

/// Where bitmaps and the like are that an argument names.
const ELSEWHERE: usize = ARGUMENTS / 2;

impl Case<'_> {
    /// Any call, mostly of its own descriptor, with any argument.
    pub(crate) fn any_call(&mut self) {
        let (which, how) = (self.input.u8(), self.input.u8());
        let offered = OFFERED[usize::from(self.input.u8()) % OFFERED.len()];
        let mut of = offered.of;
        let mut number = offered.number;
        if how & 0xf0 == 0xf0 {
            of = self.input.one_of(&[Descriptor::Device, Descriptor::Vm, Descriptor::Vcpu]);
        }
        if how & 0xf0 == 0xe0 {
            number ^= 1 << (self.input.u8() % 32);
        }
        // These are steps of their own.
        if matches!(number, ioctl::RUN | ioctl::CREATE_VM | ioctl::CREATE_VCPU) {
            return;
        }
        let argument = match how % 8 {
            0 => u64::from(self.input.u16()),
            // Not one that is somebody else's.
            1 => self.input.u64() | 1 << 47,
            // At the end, or behind it.
            2 if number != ioctl::SET_SIGNAL_MASK => {
                self.world.arena.argument(ARGUMENTS - usize::from(self.input.u16()) % PAGE)
            }
            // What is there already.
            3 => self.argument(),
            4 => {
                self.world.arena.write_argument(0, &[0; 4 * PAGE]);
                self.put_argument(number)
            }
            _ => self.put_argument(number),
        };
        self.redirect(number);
        if let Some((_, Some(made))) = self.call(of, which, number, argument)
            && number == ioctl::CREATE_DEVICE
        {
            self.attributes(&made);
        }
    }

    /// Calls of a VM's device.
    fn attributes(&mut self, device: &Object) {
        let all = [ioctl::SET_DEVICE_ATTR, ioctl::HAS_DEVICE_ATTR, ioctl::GET_DEVICE_ATTR];
        for _ in 0..self.input.u8() % 4 {
            let number = self.input.one_of(&all);
            let argument = self.put_argument(number);
            if !self.input.u8().is_multiple_of(8) {
                let attribute = DeviceAttr { flags: 0, group: 1, attr: 1, addr: argument + 0x100 };
                let mut bytes = [0; DeviceAttr::SIZE];
                attribute.encode(&mut bytes);
                self.world.arena.write_argument(0, &bytes);
            }
            self.redirect(number);
            let (answer, _) = device.ioctl(number, argument, true);
            check_answer(answer, || format!("a device {number:#x}"));
        }
    }

    fn argument(&self) -> u64 {
        self.world.arena.argument(0)
    }

    /// Bytes of the input as an argument, with something of a list behind it.
    fn put_argument(&mut self, number: u32) -> u64 {
        let behind = usize::from(self.input.u8());
        let bytes = self.input.bytes(argument_size(number) + behind);
        self.world.arena.write_argument(0, bytes);
        self.argument()
    }

    /// Gets something, and sets it with some bytes of it changed.
    pub(crate) fn change_state(&mut self) {
        let (of, get, set, size) = self.input.one_of(&PAIRS);
        let (which, changes) = (self.input.u8(), self.input.u8() % 6);
        let arena = &self.world.arena;
        match get {
            ioctl::GET_CPUID2 => arena.write_argument(0, &[0, 1, 0, 0]),
            ioctl::GET_NESTED_STATE => arena.write_argument(4, &128_u32.to_le_bytes()),
            ioctl::GET_IRQCHIP => arena.write_argument(0, &[which / 16 % 4, 0, 0, 0]),
            _ => {}
        }
        let offered = get == ioctl::GET_CPUID2 && which & 0x80 != 0;
        let (from, get) =
            if offered { (Descriptor::Device, ioctl::GET_SUPPORTED_CPUID) } else { (of, get) };
        drop(self.call(from, which, get, self.argument()));
        for _ in 0..changes {
            let offset = usize::from(self.input.u16()) % size;
            let byte = self.input.u8();
            self.world.arena.write_argument(offset, &[byte]);
        }
        drop(self.call(of, which, set, self.argument()));
    }

    /// Sets one or several model-specific registers, and gets them.
    pub(crate) fn set_register(&mut self) {
        let which = self.input.u8();
        let count = 1 + self.input.u8() % 4;
        self.world.arena.write_argument(0, &u64::from(count).to_le_bytes());
        for n in 0..usize::from(count) {
            let number = match self.input.u8() % 8 {
                0 => self.input.u32(),
                1 | 2 => self.input.one_of(&OWN_REGISTERS),
                _ => {
                    let (first, count) = self.input.one_of(&REGISTERS);
                    first + u32::from(self.input.u8()) % count
                }
            };
            let mut entry = [0; 16];
            entry[..4].copy_from_slice(&number.to_le_bytes());
            entry[8..].copy_from_slice(&self.input.u64().to_le_bytes());
            self.world.arena.write_argument(8 + 16 * n, &entry);
        }
        for number in [ioctl::SET_MSRS, ioctl::GET_MSRS] {
            drop(self.call(Descriptor::Vcpu, which, number, self.argument()));
        }
    }

    /// Switches a capability of the first VM on.
    pub(crate) fn enable(&mut self, cap: u32, value: u64) {
        let enable = EnableCap { cap, flags: 0, args: [value, 0, 0, 0], pad: [0; 64] };
        let mut bytes = [0; EnableCap::SIZE];
        enable.encode(&mut bytes);
        self.world.arena.write_argument(0, &bytes);
        drop(self.call(Descriptor::Vm, 0, ioctl::ENABLE_CAP, self.argument()));
    }

    /// Makes what the argument names something that may be named: memory of the arena's, or an address that nobody has.
    fn redirect(&mut self, number: u32) {
        let arena = &self.world.arena;
        let descriptors = self.world.descriptors();
        let descriptor = |offset: usize| {
            let one = arena.argument_word(offset) as usize % descriptors.len();
            arena.write_argument(offset, &descriptors[one].to_le_bytes());
        };
        let pointer = |offset: usize| {
            let address = arena.argument_word(offset);
            if address < 1 << 47 && address > 16 {
                let to = arena.argument(ELSEWHERE + address as usize % ELSEWHERE);
                arena.write_argument(offset, &to.to_le_bytes());
            }
        };
        match number {
            ioctl::SET_USER_MEMORY_REGION | ioctl::SET_USER_MEMORY_REGION2 => {
                let (size, address) = (arena.argument_word(16), arena.argument_word(24));
                // The kernel's half is nobody's.
                if address < 1 << 47 {
                    let start = (address as usize).min(RAM) / PAGE * PAGE % RAM;
                    let size = size.min((RAM - start) as u64);
                    let address = arena.ram(start) + address % 16;
                    arena.write_argument(16, &size.to_le_bytes());
                    arena.write_argument(24, &address.to_le_bytes());
                }
            }
            ioctl::GET_DIRTY_LOG => pointer(8),
            ioctl::CLEAR_DIRTY_LOG | ioctl::HAS_DEVICE_ATTR => pointer(16),
            ioctl::GET_DEVICE_ATTR | ioctl::SET_DEVICE_ATTR => pointer(16),
            ioctl::X86_SET_MSR_FILTER => (0..16).for_each(|range| pointer(24 + 24 * range)),
            ioctl::IRQFD => [0, 12].into_iter().for_each(descriptor),
            ioctl::IOEVENTFD => descriptor(20),
            // The one kind that there is, mostly.
            ioctl::CREATE_DEVICE if !arena.argument_word(8).is_multiple_of(8) => {
                arena.write_argument(0, &DEV_TYPE_VFIO.to_le_bytes());
                arena.write_argument(8, &[0; 4]);
            }
            // Signals are blocked here, but for what ends a run.
            ioctl::SET_SIGNAL_MASK => {
                let mask = 0xffff_ffff_ffff_fb00_u64 & !(1 << (INTERRUPT - 1));
                arena.write_argument(4, &mask.to_le_bytes());
            }
            _ => {}
        }
    }
}
