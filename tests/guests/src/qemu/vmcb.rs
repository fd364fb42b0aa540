//! The control block of a guest that QEMU's SVM runs: [`Vmcb`], from [`State`] and back.
//! See: AMD APM vol. 2, appendix B.

use hv::x86::{Attr, Seg, Segment, State, SysReg, Table, efer, gpr};

use super::area::place;

/// Offsets of the control area.
mod control {
    pub const INTERCEPTS: usize = 0x00c;
    pub const SVM_INTERCEPTS: usize = 0x010;
    pub const PORTS: usize = 0x040;
    pub const MSRS: usize = 0x048;
    pub const ASID: usize = 0x058;
    pub const TLB: usize = 0x05c;
    pub const EXIT_CODE: usize = 0x070;
    pub const EXIT_INFO1: usize = 0x078;
    pub const EXIT_INFO2: usize = 0x080;
}

/// Offsets of the saved registers.
mod save {
    use super::{Seg, SysReg};

    pub const SEGMENTS: [(Seg, usize); 8] = [
        (Seg::Es, 0x400),
        (Seg::Cs, 0x410),
        (Seg::Ss, 0x420),
        (Seg::Ds, 0x430),
        (Seg::Fs, 0x440),
        (Seg::Gs, 0x450),
        (Seg::Ldtr, 0x470),
        (Seg::Tr, 0x490),
    ];
    pub const GDTR: usize = 0x460;
    pub const IDTR: usize = 0x480;
    pub const CPL: usize = 0x4cb;
    pub const EFER: usize = 0x4d0;
    pub const CR4: usize = 0x548;
    pub const CR3: usize = 0x550;
    pub const CR0: usize = 0x558;
    pub const DR7: usize = 0x560;
    pub const DR6: usize = 0x568;
    pub const RFLAGS: usize = 0x570;
    pub const RIP: usize = 0x578;
    pub const RSP: usize = 0x5d8;
    pub const RAX: usize = 0x5f8;
    pub const CR2: usize = 0x640;
    /// TSC_AUX and XCR0 are not here: the monitor leaves them alone.
    pub const SYSREGS: [(SysReg, usize); 8] = [
        (SysReg::Star, 0x600),
        (SysReg::Lstar, 0x608),
        (SysReg::Cstar, 0x610),
        (SysReg::Sfmask, 0x618),
        (SysReg::KernelGsBase, 0x620),
        (SysReg::SysenterCs, 0x628),
        (SysReg::SysenterEsp, 0x630),
        (SysReg::SysenterEip, 0x638),
    ];
}

/// The byte and the bit of the MSR permission map for RDMSR of EFER. A guest can only run with EFER.SVME
/// on, and is not to see it.
pub const READ_OF_EFER: (u64, u8) = (0x820, 1);

/// HLT, ports, MSRs and shutdown; and VMRUN, which must be.
const INTERCEPTS: u32 = 1 << 24 | 1 << 27 | 1 << 28 | 1 << 31;
const SVM_INTERCEPTS: u32 = 1;

/// A task's type: it is busy. A processor's own TR always says so, but QEMU aborts when an exception looks
/// for an inner stack and finds it.
const BUSY: u16 = 2;

/// Why the guest came out.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// The reason.
    pub code: u32,
    /// What belongs to it.
    pub info1: u64,
    /// The next instruction, for ports.
    pub info2: u64,
}

impl Exit {
    /// HLT.
    pub const HLT: u32 = 0x78;
    /// A port.
    pub const PORT: u32 = 0x7b;
    /// RDMSR, WRMSR.
    pub const MSR: u32 = 0x7c;
    /// A triple fault.
    pub const SHUTDOWN: u32 = 0x7f;
    /// VMRUN does not take the state.
    pub const INVALID: u32 = !0;
}

/// A control block.
pub struct Vmcb([u8; 0x1000]);

impl From<[u8; 0x1000]> for Vmcb {
    fn from(bytes: [u8; 0x1000]) -> Self {
        Self(bytes)
    }
}

impl Vmcb {
    /// The one for a guest in `state`.
    pub fn new(state: &State) -> Self {
        let mut vmcb = Self([0; 0x1000]);
        vmcb.set(control::INTERCEPTS, &INTERCEPTS.to_le_bytes());
        vmcb.set(control::SVM_INTERCEPTS, &SVM_INTERCEPTS.to_le_bytes());
        vmcb.set_u64(control::PORTS, place::PORTS);
        vmcb.set_u64(control::MSRS, place::MSRS);
        vmcb.set(control::ASID, &1_u32.to_le_bytes());
        // Flush all: the process may have changed page tables.
        vmcb.set(control::TLB, &[1]);
        for (seg, at) in save::SEGMENTS {
            let mut segment = state.segments[seg as usize];
            if seg == Seg::Tr {
                segment.attr.0 &= !BUSY;
            }
            vmcb.set(at, &segment.selector.to_le_bytes());
            vmcb.set(at + 2, &segment.attr.0.to_le_bytes());
            vmcb.set(at + 4, &segment.limit.to_le_bytes());
            vmcb.set_u64(at + 8, segment.base);
        }
        for (table, at) in [(state.gdtr, save::GDTR), (state.idtr, save::IDTR)] {
            vmcb.set(at + 4, &u32::from(table.limit).to_le_bytes());
            vmcb.set_u64(at + 8, table.base);
        }
        for (reg, at) in save::SYSREGS {
            vmcb.set_u64(at, state.sysregs[reg as usize]);
        }
        vmcb.set(save::CPL, &[state.cpl]);
        for (at, value) in [
            (save::EFER, state.efer | efer::SVME),
            (save::CR4, state.cr4),
            (save::CR3, state.cr3),
            (save::CR0, state.cr0),
            (save::DR7, state.debug[5]),
            (save::DR6, state.debug[4]),
            (save::RFLAGS, state.rflags),
            (save::RIP, state.rip),
            (save::RSP, state.gprs[usize::from(gpr::RSP)]),
            (save::RAX, state.gprs[usize::from(gpr::RAX)]),
            (save::CR2, state.cr2),
        ] {
            vmcb.set_u64(at, value);
        }
        vmcb
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Why the guest came out.
    pub fn exit(&self) -> Exit {
        Exit {
            code: self.u32(control::EXIT_CODE),
            info1: self.u64(control::EXIT_INFO1),
            info2: self.u64(control::EXIT_INFO2),
        }
    }

    /// The registers that it holds.
    pub fn read_state(&self, state: &mut State) {
        for (seg, at) in save::SEGMENTS {
            state.segments[seg as usize] = Segment {
                selector: self.u16(at),
                attr: Attr(self.u16(at + 2)),
                limit: self.u32(at + 4),
                base: self.u64(at + 8),
            };
        }
        state.segments[Seg::Tr as usize].attr.0 |= BUSY;
        let table = |at| Table { limit: self.u16(at + 4), base: self.u64(at + 8) };
        state.gdtr = table(save::GDTR);
        state.idtr = table(save::IDTR);
        for (reg, at) in save::SYSREGS {
            state.sysregs[reg as usize] = self.u64(at);
        }
        state.cpl = self.0[save::CPL];
        state.efer = self.u64(save::EFER) & !efer::SVME;
        state.cr4 = self.u64(save::CR4);
        state.cr3 = self.u64(save::CR3);
        state.cr0 = self.u64(save::CR0);
        state.cr2 = self.u64(save::CR2);
        state.debug[4] = self.u64(save::DR6);
        state.debug[5] = self.u64(save::DR7);
        state.rflags = self.u64(save::RFLAGS);
        state.rip = self.u64(save::RIP);
        state.gprs[usize::from(gpr::RSP)] = self.u64(save::RSP);
        state.gprs[usize::from(gpr::RAX)] = self.u64(save::RAX);
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.set(at, &value.to_le_bytes());
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|n| self.0[at + n])
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.get(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }
}

#[cfg(test)]
mod tests {
    use super::Vmcb;
    use crate::states;

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut state = states::virtual_8086(2);
        for (n, value) in (1..).zip(&mut state.sysregs[..8]) {
            *value = n * 0x1_0000_0001;
        }
        for (n, segment) in (1..).zip(&mut state.segments) {
            segment.base = n << 40;
            segment.limit = n as u32 * 0x1001;
        }
        (state.cr2, state.cr3, state.rip) = (3, 4, 5);
        state.debug[4..].copy_from_slice(&[0xffff_0ff1, 0x455]);
        let mut read = state.clone();
        read.segments = crate::x86::State::at_reset().segments;
        (read.cr0, read.cr2, read.cr3, read.cr4, read.rip, read.cpl) = (0, 0, 0, 0, 0, 0);
        (read.rflags, read.gdtr, read.idtr) = (0, Default::default(), Default::default());
        read.debug[4..].fill(0);
        read.sysregs[..8].fill(0);
        Vmcb::new(&state).read_state(&mut read);
        assert_eq!(read, state);
    }
}
