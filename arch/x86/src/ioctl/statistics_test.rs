//! Test bodies of statistics: what is counted, and what their descriptors read as.

use abi::encoding::Encoded;
use abi::ioctl::GET_STATS_FD;
use abi::stats::{NAME_SIZE, StatsDesc, StatsHeader, TYPE_CUMULATIVE, TYPE_INSTANT, UNIT_BOOLEAN};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use selftest::{Failure, cases, check, check_eq};
use virt::host::{Expire, Timer};
use virt::ioctl::{New, StatisticsFile};
use virt::statistics::Statistics;
use virt::{Errno, Host};

use super::caller::Caller;
use super::run::run;
use super::run_test::Shared;
use crate::engine::Intercept;
use crate::machine::Machine;
use crate::statistics::{VcpuStatistic, VcpuStatistics};
use crate::vcpu::inbox::request;
use crate::vcpu::run_test::{CODE, TestVcpu, enable_apic, engine, host_error, out, set_if};
use crate::vcpu::scripted::{Scripted, TestHost};
use crate::vcpu::{Answer, Exit};

/// The file that a call gives who makes descriptors, and what the call answers.
fn file_of(
    call: impl FnOnce(&mut dyn FnMut(StatisticsFile) -> Result<u32, Errno>) -> Result<u32, Errno>,
) -> (Option<StatisticsFile>, Result<u32, Errno>) {
    let mut file = None;
    let answer = call(&mut |made| {
        file = Some(made);
        Ok(7)
    });
    (file, answer)
}

/// All that the file has, in reads of so many bytes.
fn contents(file: &StatisticsFile, piece: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut buffer = vec![0xaa; piece];
        match file.read(all.len() as u64, &mut buffer) {
            0 => return all,
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The text at an offset.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What a VMM reads of a statistic: its name, its flags and its value.
type Read = (String, u32, u64);

/// The name and the statistics that a file has, checked as a VMM would read it.
fn decode(bytes: &[u8]) -> Result<(String, Vec<Read>), Failure> {
    let header = StatsHeader::decode(bytes);
    check_eq!((header.flags, header.name_size, header.id_offset), (0, NAME_SIZE as u32, 24));
    check_eq!(header.desc_offset, 24 + NAME_SIZE as u32);
    let size = StatsDesc::SIZE as u32;
    check_eq!(header.data_offset, header.desc_offset + header.num_desc * size);
    check_eq!(bytes.len(), header.data_offset as usize + 8 * header.num_desc as usize);
    let mut all = Vec::new();
    for n in 0..header.num_desc {
        let found = StatsDesc::decode(&bytes[(header.desc_offset + n * size) as usize..]);
        check_eq!((found.exponent, found.size, found.offset), (0, 1, 8 * n));
        check_eq!((found.bucket_size, found.name[NAME_SIZE - 1]), (0, 0));
        let value = u64::decode(&bytes[(header.data_offset + found.offset) as usize..]);
        all.push((text(&found.name), found.flags, value));
    }
    Ok((text(&bytes[24..]), all))
}

/// What is counted of this sort.
fn value(vcpu: &TestVcpu, what: VcpuStatistic) -> u64 {
    vcpu.statistics().value(what as usize)
}

/// Looks whether the vCPU waits when time passes, and has it come out.
struct Look {
    statistics: Arc<VcpuStatistics>,
    machine: Arc<Machine<Scripted, TestHost>>,
    seen: spin::Mutex<Option<u64>>,
}

impl Expire for Look {
    fn expired(&self) {
        *self.seen.lock() = Some(self.statistics.value(VcpuStatistic::Blocking as usize));
        self.machine.post(0, request::EXIT);
    }
}

cases! {
    fn a_machines_statistics_are_a_file() {
        let caller = Caller::new()?;
        let vm = &caller.fixture.vm;
        let (file, answer) = file_of(|make| super::vm(vm, GET_STATS_FD, 0, |new| match new {
            New::Statistics(file) => make(file),
            New::Vcpu(_) | New::Vfio => Err(Errno::EINVAL),
        }));
        check_eq!(answer, Ok(7));
        let file = host_error(file.ok_or(Errno::EBADF))?;
        let whole = contents(&file, 4096);
        let (name, statistics) = decode(&whole)?;
        check_eq!(name, "kvm");
        let before = vec![(String::from("remote_tlb_flush"), TYPE_CUMULATIVE, 1)];
        check_eq!(statistics, before);
        check_eq!(vm.remove_slot(0), Ok(()));
        check_eq!(decode(&contents(&file, 4096))?.1[0].2, 2);
    }

    fn what_is_read_in_pieces_is_the_same() {
        let (_caller, mut vcpu) = Caller::with_vcpu()?;
        let id = vcpu.id();
        let (file, answer) = file_of(|make| super::vcpu(&mut vcpu, GET_STATS_FD, 0, make));
        check_eq!(answer, Ok(7));
        let file = host_error(file.ok_or(Errno::EBADF))?;
        let whole = contents(&file, 0x1000);
        check_eq!(decode(&whole)?.0, alloc::format!("kvm/vcpu-{id}"));
        for piece in [1, 7, 24, 48, 64, 100, whole.len() - 1, whole.len() + 1] {
            check!(contents(&file, piece) == whole, "{piece}");
        }
        for offset in [whole.len() as u64, u64::MAX, u64::MAX - 8, 1 << 63] {
            check_eq!(file.read(offset, &mut [0; 8]), 0, "{offset:x}");
        }
        check_eq!(file.read(0, &mut vec![0; whole.len() + 1]), whole.len());
        check_eq!(file.read(0, &mut []), 0);
        let mut last = [0xaa; 9];
        check_eq!(file.read(whole.len() as u64 - 8, &mut last), 8);
        check_eq!(last[8], 0xaa);
    }

    fn it_outlives_the_vcpu_and_who_makes_descriptors_may_have_none() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let none = |_: StatisticsFile| Err(Errno::ENOMEM);
        let nothing = |_: New| Err(Errno::ENOMEM);
        check_eq!(super::vcpu(&mut vcpu, GET_STATS_FD, 0, none), Err(Errno::ENOMEM));
        check_eq!(super::vm(&caller.fixture.vm, GET_STATS_FD, 0, nothing), Err(Errno::ENOMEM));
        let file = StatisticsFile::of_vcpu(u32::MAX, vcpu.statistics().clone());
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        drop(vcpu);
        drop(caller);
        let (name, all) = decode(&contents(&file, 512))?;
        check_eq!(name, "kvm/vcpu-4294967295");
        check_eq!(all.iter().find(|one| one.0 == "io_exits").map(|one| one.2), Some(1));
        let blocking = all.iter().find(|one| one.0 == "blocking");
        check_eq!(blocking.map(|one| one.1), Some(TYPE_INSTANT | UNIT_BOOLEAN));
        let unique = (1..all.len()).all(|at| !all[..at].iter().any(|one| one.0 == all[at].0));
        check!(unique, "none is there twice");
    }

    fn exits_are_counted_by_what_they_are_for() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        use VcpuStatistic::{Exits, Hypercalls, InsnEmulation, IoExits, IrqWindowExits, MmioExits, NmiWindowExits, SignalExits};
        // mov [0x600010], eax
        check_eq!(caller.fixture.host.write(CODE + 3, &[0x89, 0x04, 0x25, 0x10, 0x00, 0x60, 0x00]), Ok(()));
        engine(&mut vcpu).then(|_, _| Intercept::Hypercall { len: 3 });
        engine(&mut vcpu).then(|_, _| Intercept::InterruptWindow);
        engine(&mut vcpu).then(|_, _| Intercept::NmiWindow);
        engine(&mut vcpu).then(|_, _| Intercept::NestedFault { gpa: 0xd000_0010, write: true });
        let shared = Shared::new();
        check_eq!(run(&mut vcpu, 0, &shared), Ok(0));
        engine(&mut vcpu).then(out);
        check_eq!(run(&mut vcpu, 0, &shared), Ok(0));
        caller.fixture.vm.arch().machine().post(0, request::EXIT);
        check_eq!(run(&mut vcpu, 0, &shared), Err(Errno::EINTR));
        for (what, times) in [
            (Exits, 5), (Hypercalls, 1), (InsnEmulation, 1), (IoExits, 1), (IrqWindowExits, 1), (NmiWindowExits, 1),
            (MmioExits, 1), (SignalExits, 1),
        ] {
            check_eq!(value(&vcpu, what), times, "{what:?}");
        }
    }

    fn a_halt_and_what_ends_it_are_counted() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        use VcpuStatistic::{Blocking, HaltExits, HaltWakeup, IrqInjections, NmiInjections};
        enable_apic(&mut vcpu)?;
        let machine = Arc::clone(caller.fixture.vm.arch().machine());
        engine(&mut vcpu).then(move |state, _| {
            set_if(state, true);
            if let Some(published) = machine.vcpu(0) {
                published.inbox.post_interrupt(0x41, false);
            }
            Intercept::Halt { len: 1 }
        });
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        vcpu.nmi();
        // One that is not delivered does not count until it is.
        engine(&mut vcpu).gives_back = true;
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        check_eq!(value(&vcpu, NmiInjections), 0);
        engine(&mut vcpu).gives_back = false;
        engine(&mut vcpu).then(out);
        check!(matches!(vcpu.run(Answer::None), Exit::Out { .. }));
        for (what, times) in [(HaltExits, 1), (HaltWakeup, 1), (IrqInjections, 1), (NmiInjections, 1), (Blocking, 0)] {
            check_eq!(value(&vcpu, what), times, "{what:?}");
        }
    }

    fn one_that_waits_is_blocking() {
        let (caller, mut vcpu) = Caller::with_vcpu()?;
        let machine = Arc::clone(caller.fixture.vm.arch().machine());
        let look = Arc::new(Look { statistics: Arc::clone(vcpu.statistics()), machine, seen: spin::Mutex::new(None) });
        let timer = host_error(caller.fixture.host.timer(Arc::clone(&look) as _))?;
        timer.arm(TestHost::START + 1);
        engine(&mut vcpu).then(|state, _| {
            set_if(state, true);
            Intercept::Halt { len: 1 }
        });
        check_eq!(vcpu.run(Answer::None), Exit::Interrupted);
        check_eq!(*look.seen.lock(), Some(1));
        check_eq!(value(&vcpu, VcpuStatistic::Blocking), 0);
    }
}
