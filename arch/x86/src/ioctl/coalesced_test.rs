//! Test bodies of writes that may wait, and of the ring that they wait in.

use abi::encoding::Encoded;
use abi::exit;
use abi::ioctl::{REGISTER_COALESCED_MMIO, UNREGISTER_COALESCED_MMIO};
use abi::memory::{CoalescedMmio, CoalescedMmioRing, CoalescedMmioZone};
use abi::run::Details;
use selftest::{Failure, cases, check, check_eq};
use virt::coalesced::{self, Coalesced, Zone};
use virt::ioctl::{Mapping, put_into_ring};
use virt::{Errno, Host};

use super::caller::Caller;
use super::run::run;
use super::run_test::Shared;
use crate::engine::Intercept;
use crate::regs::{Regs, gpr};
use crate::statistics::VcpuStatistic;
use crate::vcpu::run_test::{CODE, TestVcpu, engine, host_error, long_mode, out};
use virt::statistics::Statistics;

/// Where the ring is in the mapping.
const RING: usize = 0x2000;
/// How many writes it has room for.
const ROOM: u32 = 169;
/// Where a device is.
const DEVICE: u64 = 0xd000_0000;

/// The ring's numbers: where the caller is, and where the newest write is.
fn numbers(shared: &Shared) -> CoalescedMmioRing {
    let mut bytes = [0; CoalescedMmioRing::SIZE];
    shared.load(RING, &mut bytes);
    CoalescedMmioRing::decode(&bytes)
}

fn set_numbers(shared: &Shared, first: u32, last: u32) {
    let mut bytes = [0; CoalescedMmioRing::SIZE];
    CoalescedMmioRing { first, last }.encode(&mut bytes);
    shared.store(RING, &bytes);
}

/// A write that waits.
fn entry(shared: &Shared, at: usize) -> CoalescedMmio {
    let mut bytes = [0; CoalescedMmio::SIZE];
    shared.load(RING + 8 + 24 * at, &mut bytes);
    CoalescedMmio::decode(&bytes)
}

fn waiting(phys_addr: u64, pio: u32, bytes: &[u8]) -> CoalescedMmio {
    let mut data = [0; 8];
    data[..bytes.len()].copy_from_slice(bytes);
    CoalescedMmio { phys_addr, len: bytes.len() as u32, pio, data }
}

fn zone(addr: u64, size: u32, pio: u32) -> CoalescedMmioZone {
    CoalescedMmioZone { addr, size, pio }
}

fn with_vcpu() -> Result<(Caller, TestVcpu, Shared), Failure> {
    let (caller, vcpu) = Caller::with_vcpu()?;
    Ok((caller, vcpu, Shared::new()))
}

/// The guest writes a doubleword to the device, by an instruction of 11 bytes.
fn store(caller: &Caller, vcpu: &mut TestVcpu, offset: u64, value: u8) -> Result<(), Failure> {
    // mov dword [0x600000], value
    let code = [0xc7, 0x04, 0x25, offset as u8, 0x00, 0x60, 0x00, value, 0, 0, 0];
    let rip = vcpu.engine().rip() + 11 * vcpu.engine().script.len() as u64;
    check_eq!(caller.fixture.host.write(rip, &code), Ok(()));
    let fault = Intercept::NestedFault { gpa: DEVICE + offset, write: true };
    engine(vcpu).then(move |_, _| fault);
    Ok(())
}

/// Runs, and checks why it comes out.
fn comes_out(vcpu: &mut TestVcpu, shared: &Shared, reason: u32) -> Result<Details, Failure> {
    check_eq!(run(vcpu, 0, shared), Ok(0));
    check_eq!(shared.reason(), reason);
    Ok(shared.details())
}

/// A step that writes AL to a port.
fn out_to(
    port: u16,
    value: u64,
) -> impl FnMut(&mut crate::regs::State, &crate::engine::Entry) -> Intercept {
    move |state, _| {
        state.gprs[usize::from(gpr::RAX)] = value;
        Intercept::Out { port, size: 1, len: 1 }
    }
}

cases! {
    fn writes_to_a_range_wait_until_there_is_another_exit() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.set_vm(REGISTER_COALESCED_MMIO, &zone(DEVICE, 0x14, 0)), Ok(0));
        for (offset, value) in [(0, 1), (0x10, 2), (4, 3)] {
            store(&caller, &mut vcpu, offset, value)?;
        }
        engine(&mut vcpu).then(out);
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!(numbers(&shared), CoalescedMmioRing { first: 0, last: 3 });
        for (at, (offset, value)) in [(0, 1), (0x10, 2), (4, 3)].into_iter().enumerate() {
            check_eq!(entry(&shared, at), waiting(DEVICE + offset, 0, &[value, 0, 0, 0]));
        }
        check_eq!(vcpu.statistics().value(VcpuStatistic::MmioExits as usize), 0);
        // All of a write has to lie in it.
        store(&caller, &mut vcpu, 0x11, 4)?;
        let mmio = comes_out(&mut vcpu, &shared, exit::MMIO)?.mmio();
        check_eq!((mmio.phys_addr, mmio.is_write), (DEVICE + 0x11, true));
        check_eq!(numbers(&shared).last, 3);
        check_eq!(vcpu.statistics().value(VcpuStatistic::MmioExits as usize), 1);
    }

    fn a_range_ends_where_a_part_of_it_is_taken_back() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        for zone in [zone(DEVICE, 0x10, 0), zone(DEVICE, 0x20, 0), zone(DEVICE, 4, 1)] {
            check_eq!(caller.set_vm(REGISTER_COALESCED_MMIO, &zone), Ok(0));
        }
        // It lies in the second one only.
        check_eq!(caller.set_vm(UNREGISTER_COALESCED_MMIO, &zone(DEVICE + 0xc, 8, 0)), Ok(0));
        store(&caller, &mut vcpu, 0x8, 1)?;
        store(&caller, &mut vcpu, 0x10, 1)?;
        comes_out(&mut vcpu, &shared, exit::MMIO)?;
        check_eq!((numbers(&shared).last, entry(&shared, 0).phys_addr), (1, DEVICE + 8));
        check_eq!(caller.set_vm(UNREGISTER_COALESCED_MMIO, &zone(DEVICE, 0x10, 0)), Ok(0));
        store(&caller, &mut vcpu, 0, 1)?;
        comes_out(&mut vcpu, &shared, exit::MMIO)?;
        check_eq!(numbers(&shared).last, 1);
        for wrong in [REGISTER_COALESCED_MMIO, UNREGISTER_COALESCED_MMIO] {
            check_eq!(caller.set_vm(wrong, &zone(DEVICE, 4, 2)), Err(Errno::EINVAL));
        }
    }

    fn a_full_ring_is_an_exit_and_so_is_one_that_is_none() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.set_vm(REGISTER_COALESCED_MMIO, &zone(0x3f0, 8, 1)), Ok(0));
        for n in 0..ROOM + 1 {
            engine(&mut vcpu).then(out_to(0x3f2, n.into()));
        }
        let io = comes_out(&mut vcpu, &shared, exit::IO)?.io();
        check_eq!((io.port, io.size, io.count), (0x3f2, 1, 1));
        check_eq!(numbers(&shared).last, ROOM);
        for n in [0, ROOM - 1] {
            check_eq!(entry(&shared, n as usize), waiting(0x3f2, 1, &[n as u8]));
        }
        // The caller takes one: it goes on at the beginning.
        set_numbers(&shared, 1, ROOM);
        for _ in 0..2 {
            engine(&mut vcpu).then(out_to(0x3f7, 0x77));
        }
        comes_out(&mut vcpu, &shared, exit::IO)?;
        check_eq!(numbers(&shared), CoalescedMmioRing { first: 1, last: 0 });
        check_eq!(entry(&shared, ROOM as usize), waiting(0x3f7, 1, &[0x77]));
        for (first, last) in [(0, ROOM + 1), (0, u32::MAX), (7, 6), (0, ROOM)] {
            set_numbers(&shared, first, last);
            engine(&mut vcpu).then(out_to(0x3f7, 0));
            comes_out(&mut vcpu, &shared, exit::IO)?;
            check_eq!(numbers(&shared), CoalescedMmioRing { first, last });
        }
        // What the caller says of itself is its own business.
        set_numbers(&shared, u32::MAX, 3);
        check!(put_into_ring(&shared, 0, false, &[1; 9]));
        check_eq!((numbers(&shared).last, entry(&shared, 3).len), (4, 8));
    }

    fn the_elements_of_a_string_that_have_no_room_are_an_exit() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.set_vm(REGISTER_COALESCED_MMIO, &zone(0x500, 2, 1)), Ok(0));
        // rep outsw
        check_eq!(caller.fixture.host.write(CODE, &[0xf3, 0x66, 0x6f]), Ok(()));
        check_eq!(caller.fixture.host.write(0x5000, &[1, 2, 3, 4, 5, 6]), Ok(()));
        for (register, value) in [(gpr::RSI, 0x5000), (gpr::RDX, 0x500), (gpr::RCX, 3)] {
            engine(&mut vcpu).set_gpr(register, value);
        }
        set_numbers(&shared, 0, ROOM - 2);
        engine(&mut vcpu).then(|_, _| Intercept::StringIo);
        let io = comes_out(&mut vcpu, &shared, exit::IO)?.io();
        check_eq!((io.port, io.size, io.count, numbers(&shared).last), (0x500, 2, 1, ROOM));
        check_eq!(entry(&shared, ROOM as usize - 1), waiting(0x500, 1, &[3, 4]));
        let mut data = [0; 2];
        shared.load(0x1000, &mut data);
        check_eq!(data, [5, 6]);
    }

    fn what_completes_an_exit_may_wait_too() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.set_vm(REGISTER_COALESCED_MMIO, &zone(DEVICE, 0x1000, 0)), Ok(0));
        // add [0x600010], eax
        check_eq!(caller.fixture.host.write(CODE, &[0x01, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00]), Ok(()));
        engine(&mut vcpu).set_gpr(gpr::RAX, 5);
        engine(&mut vcpu).then(|_, _| Intercept::NestedFault { gpa: DEVICE + 0x10, write: true });
        check!(!comes_out(&mut vcpu, &shared, exit::MMIO)?.mmio().is_write);
        shared.store(1, &[1]);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
        check_eq!((numbers(&shared).last, entry(&shared, 0).data[0]), (1, 5));
        check_eq!(vcpu.engine().rip(), CODE + 7);
    }

    fn all_vcpus_of_a_machine_have_one_ring() {
        let (caller, mut vcpu, shared) = with_vcpu()?;
        check_eq!(caller.set_vm(REGISTER_COALESCED_MMIO, &zone(DEVICE, 0x1000, 0)), Ok(0));
        let mut other = host_error(caller.fixture.vcpu(1))?;
        long_mode(&caller.fixture, &mut other)?;
        for (n, vcpu) in [&mut vcpu, &mut other].into_iter().enumerate() {
            vcpu.set_activity(crate::vcpu::Activity::Running);
            store(&caller, vcpu, 0, n as u8)?;
            engine(vcpu).then(out);
            comes_out(vcpu, &shared, exit::IO)?;
        }
        check_eq!((numbers(&shared).last, entry(&shared, 0).data[0], entry(&shared, 1).data[0]), (2, 0, 1));
    }

    fn ranges_are_limited_by_their_sort() {
        let all = Coalesced::<spin::Mutex<()>>::default();
        let zone = |ports, first, size| Zone { ports, first, size };
        let yes = || true;
        check!(!all.keep(&zone(false, 0, 1), yes), "there is none");
        for n in 0..coalesced::MAX as u64 {
            check_eq!(all.add(zone(false, 16 * n, 16)), Ok(()));
        }
        check_eq!(all.add(zone(false, 0, 16)), Err(Errno::ENOSPC));
        check_eq!(all.add(zone(true, 0, 16)), Ok(()));
        check!(all.keep(&zone(false, 32, 16), yes) && !all.keep(&zone(false, 32, 16), || false));
        check!(!all.keep(&zone(false, 31, 2), yes), "in two");
        // Ends are computed without wrapping around.
        check_eq!(all.add(zone(true, u64::MAX - 1, 16)), Ok(()));
        check!(!all.keep(&zone(true, u64::MAX - 1, 1), yes) && !all.keep(&zone(true, u64::MAX, 2), yes));
        all.remove(&zone(true, 0, 1));
        check!(!all.keep(&zone(true, 0, 1), yes) && all.keep(&zone(false, 0, 1), yes));
    }
}
