//! What the process and the [`super::monitor`] share: the memory behind the guest's RAM.
//!
//! [`Area`] is this process's mapping of it, [`place`] says what lies where. Its neighbours are
//! [`super::vmcb`], which fills the control block, and [`super::stale`], whose list is here too.

use std::io;

use hv::x86::State;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap, MemoryRegionAddress};

use super::monitor;
use super::vmcb::{self, Vmcb};
use crate::layout::{RAM, port};

/// Guest-physical addresses of the monitor's own memory, and its size.
pub mod place {
    use crate::layout::RAM;

    /// The root of the monitor's page tables; another table follows.
    pub const TABLES: u64 = RAM;
    /// Interrupt descriptor table.
    pub const IDT: u64 = RAM + 0x3000;
    /// Global descriptor table.
    pub const GDT: u64 = RAM + 0x3800;
    /// The program.
    pub const CODE: u64 = RAM + 0x4000;
    /// The guest's control block.
    pub const VMCB: u64 = RAM + 0x5000;
    /// Where VMRUN keeps the monitor's own registers.
    pub const HOST_SAVE: u64 = RAM + 0x6000;
    /// General-purpose registers, in the order of their encoding.
    pub const GPRS: u64 = RAM + 0x7000;
    /// DR0 to DR3, and what the monitor loads DR7 with.
    pub const DEBUG: u64 = RAM + 0x7080;
    /// The x87 and SSE registers.
    pub const FX: u64 = RAM + 0x7200;
    /// Which ports are intercepted: three pages.
    pub const PORTS: u64 = RAM + 0x8000;
    /// Which MSRs are: two pages.
    pub const MSRS: u64 = RAM + 0xb000;
    /// Top of the stack.
    pub const STACK: u64 = RAM + 0x1_0000;
    /// What is to be written again: see [`crate::qemu::stale`].
    pub const STALE: u64 = RAM + 0x1_0000;
    /// How many bytes the list may have.
    pub const STALE_SIZE: u64 = 0xf_0000;
    /// Size of all.
    pub const SIZE: u64 = 0x10_0000;
}

/// DR7: accesses to debug registers fault.
const GENERAL_DETECT: u64 = 1 << 13;

/// What QEMU's own chips answer, as those of the core do for the other engines: the 8259s, the 8254,
/// port 0x61; and the ports that the trace shows.
const NOT_INTERCEPTED: [(u32, u32); 7] =
    [(0x20, 2), (0x40, 4), (0x61, 1), (0xa0, 2), (0x4d0, 2), (port::VALUE, 4), (port::TRAP, 4)];

/// The memory that the process and the monitor share.
pub struct Area(GuestRegionMmap);

impl Area {
    /// Makes it behind the RAM that `file` is, and writes the monitor and its tables.
    pub fn new(file: &FileOffset) -> io::Result<Self> {
        file.file().set_len(file.start() + RAM + place::SIZE)?;
        let file = FileOffset::from_arc(file.arc().clone(), file.start() + RAM);
        let region =
            GuestRegionMmap::from_range(GuestAddress(RAM), place::SIZE as usize, Some(file))
                .map_err(io::Error::other)?;
        let area = Self(region);
        area.write_monitor()?;
        area.write_intercepts()?;
        Ok(area)
    }

    /// Writes `bytes` at `gpa`.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_slice(bytes, MemoryRegionAddress(gpa - RAM)).map_err(io::Error::other)
    }

    fn write_u64(&self, gpa: u64, value: u64) -> io::Result<()> {
        self.write(gpa, &value.to_le_bytes())
    }

    fn read<const N: usize>(&self, gpa: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_slice(&mut bytes, MemoryRegionAddress(gpa - RAM)).map_err(io::Error::other)?;
        Ok(bytes)
    }

    fn read_u64(&self, gpa: u64) -> io::Result<u64> {
        self.read(gpa).map(u64::from_le_bytes)
    }

    fn write_monitor(&self) -> io::Result<()> {
        // RAM, and the GiB whose end is the ROM.
        self.write_u64(place::TABLES, (place::TABLES + 0x1000) | 3)?;
        for n in [0, 3] {
            self.write_u64(place::TABLES + 0x1000 + n * 8, n << 30 | 0x83)?;
        }
        for (n, entry) in (0..).zip(monitor::GDT) {
            self.write_u64(place::GDT + n * 8, entry)?;
        }
        let monitor = monitor::program();
        for (n, word) in (0..).zip(monitor.gate) {
            self.write_u64(place::IDT + u64::from(monitor::VECTOR) * 16 + n * 8, word)?;
        }
        self.write(place::CODE, &monitor.bytes)
    }

    fn write_intercepts(&self) -> io::Result<()> {
        let mut map = [0xff_u8; 0x3000];
        for (first, count) in NOT_INTERCEPTED {
            for port in first..first + count {
                map[port as usize / 8] &= !(1 << (port % 8));
            }
        }
        self.write(place::PORTS, &map)?;
        // Reading EFER: see `vmcb::READ_OF_EFER`.
        let (byte, bit) = vmcb::READ_OF_EFER;
        self.write(place::MSRS + byte, &[bit])
    }

    /// Writes the guest's registers for the next run.
    pub fn write_state(&self, state: &State) -> io::Result<()> {
        self.write(place::VMCB, Vmcb::new(state).bytes())?;
        for (n, value) in (0..).zip(state.gprs) {
            self.write_u64(place::GPRS + n * 8, value)?;
        }
        for (n, value) in (0..).zip(&state.debug[..4]) {
            self.write_u64(place::DEBUG + n * 8, *value)?;
        }
        // With general detect the monitor could not load it a second time.
        self.write_u64(place::DEBUG + 4 * 8, state.debug[5] & !GENERAL_DETECT)?;
        self.write(place::FX, &state.fx.0)
    }

    /// Reads the guest's registers, into what of `state` stays as it was set, and the exit.
    pub fn read_state(&self, state: &mut State) -> io::Result<vmcb::Exit> {
        let vmcb = Vmcb::from(self.read(place::VMCB)?);
        for (n, value) in (0..).zip(&mut state.gprs) {
            *value = self.read_u64(place::GPRS + n * 8)?;
        }
        for (n, value) in (0..).zip(&mut state.debug[..4]) {
            *value = self.read_u64(place::DEBUG + n * 8)?;
        }
        state.fx.0 = self.read(place::FX)?;
        vmcb.read_state(state);
        Ok(vmcb.exit())
    }
}
