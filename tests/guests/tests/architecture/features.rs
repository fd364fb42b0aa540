//! CPUID, MSRs, the time stamp counter and KVM's clock: what is offered works, what is not is not there.
//! See: Intel SDM vol. 2, CPUID; Linux, Documentation/virt/kvm/x86/{cpuid,msr}.rst.

use std::time::{Duration, Instant};

use guests::programs::{end, report};
use guests::x86::{Seg, State, SysReg, cr4, efer, gpr, msr};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, states};

use crate::apic::{read_msr, write_msr};

/// EAX, EBX, ECX and EDX.
type Leaf = [u32; 4];
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

fn ask(a: &mut CodeAssembler, function: u32, index: u32) -> Result<(), IcedError> {
    a.mov(eax, function)?;
    a.mov(ecx, index)?;
    a.cpuid()?;
    report(a)?;
    for register in [ebx, ecx, edx] {
        a.mov(eax, register)?;
        report(a)?;
    }
    Ok(())
}

/// The answers to questions.
fn cpuid<H: Hypervisor>(engine: &H, questions: &[(u32, u32)]) -> Vec<Leaf> {
    let mut guest = Guest::with_program(engine, |a| {
        for (function, index) in questions {
            ask(a, *function, *index)?;
        }
        end(a)
    });
    let values = guest.run().values;
    values.chunks_exact(4).map(|leaf| [leaf[0], leaf[1], leaf[2], leaf[3]]).collect()
}

/// The exceptions of a program in `state`.
fn faults_in<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<(u32, u32)> {
    guest.code(state.rip, |a| {
        program(a)?;
        end(a)
    });
    guest.run_from(state).faults()
}

fn faults<H: Hypervisor>(
    guest: &mut Guest<H>,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<(u32, u32)> {
    let state = guest.long_mode();
    faults_in(guest, &state, program)
}

/// Instructions, and the bit of CPUID that offers them: function, register, bit.
const OPTIONAL: [(&str, &[u8], u32, usize, u32); 30] = [
    ("movbe", &[0x0f, 0x38, 0xf0, 0x04, 0x25, 0, 0, 5, 0], 1, ECX, 22),
    ("popcnt", &[0xf3, 0x0f, 0xb8, 0xc0], 1, ECX, 23),
    ("cmpxchg16b", &[0x48, 0x0f, 0xc7, 0x0c, 0x25, 0, 0, 5, 0], 1, ECX, 13),
    ("pshufb", &[0x66, 0x0f, 0x38, 0x00, 0xc0], 1, ECX, 9),
    ("ptest", &[0x66, 0x0f, 0x38, 0x17, 0xc0], 1, ECX, 19),
    ("pcmpistri", &[0x66, 0x0f, 0x3a, 0x63, 0xc0, 0], 1, ECX, 20),
    ("aesenc", &[0x66, 0x0f, 0x38, 0xdc, 0xc0], 1, ECX, 25),
    ("pclmulqdq", &[0x66, 0x0f, 0x3a, 0x44, 0xc0, 0], 1, ECX, 1),
    ("monitor", &[0x0f, 0x01, 0xc8], 1, ECX, 3),
    ("rdrand", &[0x0f, 0xc7, 0xf0], 1, ECX, 30),
    ("vaddps", &[0xc5, 0xf8, 0x58, 0xc0], 1, ECX, 28),
    ("vfmadd132ps", &[0xc4, 0xe2, 0x79, 0x98, 0xc0], 1, ECX, 12),
    ("vpaddd of 256 bits", &[0xc5, 0xfd, 0xfe, 0xc0], 7, EBX, 5),
    ("vaddps of 512 bits", &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc0], 7, EBX, 16),
    ("rdseed", &[0x0f, 0xc7, 0xf8], 7, EBX, 18),
    ("andn", &[0xc4, 0xe2, 0x78, 0xf2, 0xc0], 7, EBX, 3),
    ("pdep", &[0xc4, 0xe2, 0x7b, 0xf5, 0xc0], 7, EBX, 8),
    ("adcx", &[0x66, 0x0f, 0x38, 0xf6, 0xc0], 7, EBX, 19),
    ("clac", &[0x0f, 0x01, 0xca], 7, EBX, 20),
    ("clflushopt", &[0x66, 0x0f, 0xae, 0x3c, 0x25, 0, 0, 5, 0], 7, EBX, 23),
    ("clwb", &[0x66, 0x0f, 0xae, 0x34, 0x25, 0, 0, 5, 0], 7, EBX, 24),
    ("sha1msg1", &[0x0f, 0x38, 0xc9, 0xc0], 7, EBX, 29),
    ("rdpid", &[0xf3, 0x0f, 0xc7, 0xf8], 7, ECX, 22),
    ("rdpkru", &[0x0f, 0x01, 0xee], 7, ECX, 4),
    ("tpause", &[0x66, 0x0f, 0xae, 0xf0], 7, ECX, 5),
    ("serialize", &[0x0f, 0x01, 0xe8], 7, EDX, 14),
    ("rdtscp", &[0x0f, 0x01, 0xf9], 0x8000_0001, EDX, 27),
    ("vmrun", &[0x0f, 0x01, 0xd8], 0x8000_0001, ECX, 2),
    ("extrq", &[0x66, 0x0f, 0x79, 0xc0], 0x8000_0001, ECX, 6),
    ("3DNow!", &[0x0f, 0x0f, 0xc0, 0x9e], 0x8000_0001, EDX, 31),
];

guests::on_every_engine! {
    fn what_cpuid_offers_runs_and_what_it_does_not_is_an_invalid_opcode(engine) {
        let mut guest = Guest::new(engine);
        for (name, bytes, function, register, bit) in OPTIONAL {
            let offered = cpuid(engine, &[(function, 0)])[0][register] >> bit & 1 != 0;
            let expected = if offered { vec![] } else { vec![(6, 0)] };
            let mut state = guest.long_mode();
            state.cr4 |= cr4::OSXSAVE;
            state.sysregs[SysReg::Xcr0 as usize] = 7;
            if name == "monitor" || name.starts_with("tpause") {
                state.gprs[usize::from(gpr::RAX)] = at::DATA;
            }
            assert_eq!(faults_in(&mut guest, &state, |a| a.db(bytes)), expected, "{name}");
        }
    }

    fn bits_of_cr4_come_with_their_feature(engine) {
        // VME, PVI, UMIP, VMXE, SMXE, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE, CET.
        let bits = [
            (0, 1, EDX, 1), (1, 1, EDX, 1), (11, 7, ECX, 2), (13, 1, ECX, 5), (14, 1, ECX, 6),
            (16, 7, EBX, 0), (17, 1, ECX, 17), (18, 1, ECX, 26), (20, 7, EBX, 7), (21, 7, EBX, 20),
            (22, 7, ECX, 3), (23, 7, ECX, 7),
        ];
        let mut guest = Guest::new(engine);
        for (bit, function, register, offers) in bits {
            let offered = cpuid(engine, &[(function, 0)])[0][register] >> offers & 1 != 0;
            let expected = if offered { vec![] } else { vec![(13, 0)] };
            let seen = faults(&mut guest, |a| {
                a.mov(rax, cr4)?;
                a.bts(rax, bit)?;
                a.mov(cr4, rax)
            });
            assert_eq!(seen, expected, "bit {bit}");
        }
    }

    fn lzcnt_and_tzcnt_are_older_instructions_where_they_are_not_offered(engine) {
        // BSR and BSF of 8: 3 and 3; LZCNT and TZCNT: 28 and 3.
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(ecx, 8)?;
            a.lzcnt(eax, ecx)?;
            report(a)?;
            a.tzcnt(eax, ecx)?;
            report(a)?;
            end(a)
        });
        let lzcnt = cpuid(engine, &[(0x8000_0001, 0)])[0][ECX] >> 5 & 1 != 0;
        assert_eq!(guest.run().values, [if lzcnt { 28 } else { 3 }, 3]);
    }

    fn leaves_agree_with_each_other(engine) {
        let questions =
            [(0, 0), (1, 0), (7, 0), (0x8000_0000, 0), (0x8000_0001, 0), (0x8000_0008, 0)];
        let [basic, one, seven, extended, extended1, sizes] = cpuid(engine, &questions)[..] else {
            panic!("six answers")
        };
        assert!(basic[0] >= 0xb && extended[0] >= 0x8000_0008);
        // FPU, PSE, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, FXSR, SSE, SSE2.
        let needed = 1 | 0x3 << 3 | 7 << 4 | 3 << 8 | 1 << 11 | 1 << 13 | 3 << 15 | 7 << 24;
        assert_eq!(one[EDX] & needed, needed);
        assert_ne!(one[ECX] >> 31, 0, "a hypervisor is there");
        // PCID, x2APIC, TSC deadline; SMEP, ERMS, INVPCID, SMAP; SYSCALL, NX, long mode.
        assert_eq!(one[ECX] & (1 << 17 | 1 << 21 | 1 << 24), 1 << 17 | 1 << 21 | 1 << 24);
        assert_eq!(seven[EBX] & (1 << 7 | 1 << 9 | 1 << 10 | 1 << 20), 1 << 7 | 1 << 9 | 1 << 10 | 1 << 20);
        let long = 1 << 11 | 1 << 20 | 1 << 29;
        assert_eq!(extended1[EDX] & long, long);
        // AVX needs XSAVE, and AVX2 needs AVX.
        let (xsave, avx) = (one[ECX] >> 26 & 1, one[ECX] >> 28 & 1);
        assert!(avx <= xsave && seven[EBX] >> 5 & 1 <= avx);
        assert!((32..=52).contains(&(sizes[0] & 0xff)), "{sizes:x?}");
        let five_levels = seven[ECX] >> 16 & 1 != 0;
        assert_eq!(sizes[0] >> 8 & 0xff, if five_levels { 57 } else { 48 });
    }

    fn cpuid_follows_control_registers_and_has_no_answers_beyond(engine) {
        let answers = cpuid(engine, &[(1, 0), (0x8000_ffff, 0), (0x4000_0000, 0), (0x4000_0001, 0)]);
        assert_eq!(answers[0][ECX] >> 27 & 1, 0, "OSXSAVE is off");
        let text: Vec<u8> = answers[2][1..].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(text, b"KVMKVMKVM\0\0\0");
        assert_ne!(answers[3][0] >> 3 & 1, 0, "the clock");
        // The low halves of the registers are written as 32 bits: the upper ones are cleared.
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rbx, -1_i64)?;
            a.mov(eax, 1)?;
            a.cpuid()?;
            a.mov(rax, rbx)?;
            a.shr(rax, 32)?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run().values, [0]);
    }

    fn topology_and_identity_of_each_processor(engine) {
        let mut guest = Guest::with_cpus(engine, 3);
        guest.code(at::CODE, |a| {
            ask(a, 1, 0)?;
            ask(a, 0xb, 0)?;
            ask(a, 0xb, 1)?;
            end(a)
        });
        let values = guest.run().values;
        assert_eq!(values[EBX] >> 24, 0, "initial APIC ID");
        assert_eq!(values[EBX] >> 16 & 0xff, 3, "processors");
        // One thread a core; the package's level counts all.
        assert_eq!((values[5], values[6] >> 8 & 0xff), (1, 1));
        assert_eq!((values[8], values[9], values[10] >> 8 & 0xff), (2, 3, 2));
    }

    fn msrs_that_do_not_exist_are_general_protection(engine) {
        let mut guest = Guest::new(engine);
        for index in [0x1234, 0xc000_0fff, 0x4b56_4dff, 0xffff_ffff] {
            assert_eq!(faults(&mut guest, |a| read_msr(a, index)), [(13, 0)], "{index:#x}");
            assert_eq!(faults(&mut guest, |a| write_msr(a, index, 0)), [(13, 0)], "{index:#x}");
        }
    }

    fn msrs_refuse_what_they_cannot_hold(engine) {
        let mut guest = Guest::new(engine);
        let not_canonical = 1 << 60;
        let refused = [
            (msr::EFER, 1 << 2),
            (msr::EFER, efer::LMA | efer::NXE),
            (msr::LSTAR, not_canonical),
            (msr::CSTAR, not_canonical),
            (msr::KERNEL_GS_BASE, not_canonical),
            (msr::FS_BASE, not_canonical),
            (msr::GS_BASE, not_canonical),
            (msr::PAT, 2),
            (msr::MTRR_CAP, 0),
            (msr::MTRR_DEFAULT_TYPE, 1 << 12),
            (msr::APIC_BASE, 1),
            (msr::MTRR_FIX64K, 2),
        ];
        for (index, value) in refused {
            let seen = faults(&mut guest, |a| write_msr(a, index, value));
            assert_eq!(seen, [(13, 0)], "{index:#x} {value:#x}");
        }
    }

    fn msrs_keep_what_is_written(engine) {
        let mut guest = Guest::new(engine);
        let kept = [
            (msr::STAR, 0x0123_4567_89ab_cdef),
            (msr::LSTAR, 0xffff_8000_1234_5678),
            (msr::CSTAR, 0x1234_5678),
            (msr::SFMASK, 0x4_7700),
            (msr::KERNEL_GS_BASE, 0xffff_8000_0000_1000),
            (msr::FS_BASE, at::DATA),
            (msr::GS_BASE, 0xffff_8888_0000_0000),
            (msr::SYSENTER_CS, 0x10),
            (msr::SYSENTER_ESP, 0xffff_8000_0000_2000),
            (msr::SYSENTER_EIP, 0xffff_8000_0000_3000),
            (msr::TSC_AUX, 77),
            (msr::PAT, 0x0007_0406_0007_0406),
            (msr::MTRR_DEFAULT_TYPE, 0xc06),
        ];
        for (index, value) in kept {
            guest.code(at::CODE, |a| {
                write_msr(a, index, value)?;
                a.xor(eax, eax)?;
                a.xor(edx, edx)?;
                a.rdmsr()?;
                report(a)?;
                a.mov(eax, edx)?;
                report(a)?;
                end(a)
            });
            let state = guest.long_mode();
            let values = guest.run_from(&state).values;
            assert_eq!(values, [value as u32, (value >> 32) as u32], "{index:#x}");
        }
        // They are the ones that instructions use.
        let state = guest.state();
        assert_eq!(state.sysregs[SysReg::Lstar as usize], 0);
        guest.memory.write_u64(at::DATA + 8, 0x5555);
        guest.code(at::CODE, |a| {
            write_msr(a, msr::FS_BASE, at::DATA)?;
            a.mov(eax, dword_ptr(8).fs())?;
            report(a)?;
            write_msr(a, msr::TSC_AUX, 9)?;
            a.rdtscp()?;
            a.mov(eax, ecx)?;
            report(a)?;
            end(a)
        });
        let state = guest.long_mode();
        assert_eq!(guest.run_from(&state).values, [0x5555, 9]);
        assert_eq!(guest.state().segments[Seg::Fs as usize].base, at::DATA);
    }

    fn fs_and_gs_bases_have_instructions(engine) {
        let mut guest = Guest::new(engine);
        let mut state = guest.long_mode();
        assert_eq!(faults_in(&mut guest, &state, |a| a.rdfsbase(rax)), [(6, 0)]);
        state.cr4 |= cr4::FSGSBASE;
        guest.code(at::CODE, |a| {
            a.mov(rdx, at::DATA)?;
            a.wrgsbase(rdx)?;
            a.rdgsbase(rax)?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run_from(&state).values, [at::DATA as u32]);
    }

    fn the_time_stamp_counter_never_goes_back_and_can_be_set(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.rdtsc()?;
            a.mov(esi, eax)?;
            a.mov(edi, edx)?;
            for _ in 0..50 {
                a.rdtsc()?;
                a.cmp(eax, esi)?;
                a.mov(ecx, edx)?;
                a.sbb(ecx, edi)?;
                a.setb(r8b)?;
                a.or(r9b, r8b)?;
                a.mov(esi, eax)?;
                a.mov(edi, edx)?;
            }
            a.movzx(eax, r9b)?;
            report(a)?;
            write_msr(a, msr::TSC, 5 << 32)?;
            a.rdtsc()?;
            a.mov(eax, edx)?;
            report(a)?;
            write_msr(a, msr::TSC_ADJUST, 0)?;
            a.rdtsc()?;
            a.mov(eax, edx)?;
            report(a)?;
            end(a)
        });
        let values = guest.run().values;
        assert_eq!((values[0], values[1]), (0, 5));
        assert!(values[2] < 5, "as it was without the adjustment");
    }

    fn cr4_tsd_keeps_the_counter_from_user_mode(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::user(guest.long_mode());
        assert_eq!(faults_in(&mut guest, &state, |a| a.rdtsc()), []);
        state.cr4 |= cr4::TSD;
        assert_eq!(faults_in(&mut guest, &state, |a| a.rdtsc()), [(13, 0)]);
        assert_eq!(faults_in(&mut guest, &state, |a| a.rdtscp()), [(13, 0)]);
    }

    fn a_hypercall_that_is_not_offered_says_so(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(eax, 1000)?;
            a.vmmcall()?;
            report(a)?;
            end(a)
        });
        assert_eq!(guest.run().values, [-1000_i32 as u32]);
    }

    /// Reads the clock twice, the guest's way; the host compares with its own.
    fn kvms_clock_runs_like_the_hosts(engine) {
        let before = Instant::now();
        let mut guest = Guest::with_program(engine, |a| {
            write_msr(a, msr::KVM_SYSTEM_TIME_NEW, at::DATA | 1)?;
            for _ in 0..2 {
                a.rdtsc()?;
                report(a)?;
                a.mov(eax, edx)?;
                report(a)?;
                // A while.
                let mut wait = a.create_label();
                a.mov(ecx, 1_000_000)?;
                a.set_label(&mut wait)?;
                a.dec(ecx)?;
                a.jnz(wait)?;
            }
            end(a)
        });
        let values = guest.run().values;
        let limit = before.elapsed();
        let tsc = |n: usize| u64::from(values[n]) | u64::from(values[n + 1]) << 32;
        let version = guest.memory.read_u32(at::DATA);
        let (base, time) = (guest.memory.read_u64(at::DATA + 8), guest.memory.read_u64(at::DATA + 16));
        let multiplier = guest.memory.read_u32(at::DATA + 24);
        let [shift, flags]: [u8; 2] = guest.memory.read(at::DATA + 28);
        let nanoseconds = |tsc: u64| {
            let delta = u128::from(tsc.checked_sub(base).expect("later than the clock was set"));
            let shift = i32::from(shift as i8);
            let delta = if shift < 0 { delta >> -shift } else { delta << shift };
            time + ((delta * u128::from(multiplier)) >> 32) as u64
        };
        let (first, second) = (nanoseconds(tsc(0)), nanoseconds(tsc(2)));
        assert_eq!((version % 2, flags & 1), (0, 1), "complete, and stable");
        assert!(first < second);
        // Half a percent for the frequency's rounding, and the clocks' granularity.
        let limit = limit + limit / 200 + Duration::from_millis(1);
        assert!(Duration::from_nanos(second) <= limit, "{first} {second} {limit:?}");
    }

    fn kvms_wall_clock_is_todays(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            write_msr(a, msr::KVM_WALL_CLOCK_NEW, at::DATA)?;
            end(a)
        });
        guest.run();
        let version = guest.memory.read_u32(at::DATA);
        let seconds = u64::from(guest.memory.read_u32(at::DATA + 4));
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).expect("a clock that is set").as_secs();
        assert_eq!(version % 2, 0);
        assert!(now - 200 <= seconds && seconds <= now + 1, "{seconds} {now}");
    }
}
