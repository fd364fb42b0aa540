//! Virtual-8086 mode: what IOPL allows, the I/O permission map, and events on their way out and back.
//! See: AMD APM vol. 2, 8.10; Intel SDM vol. 3, 21.2.

use guests::layout::resume;
use guests::programs::{end, report};
use guests::x86::{Answer, Exit, Seg, State, SysReg, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, port, selector, states};

/// Bit 1 of an error code: it is about an entry of the IDT.
const IDT: u32 = 2;
const CODE: u32 = (at::CODE >> 4) as u32;

/// Runs one instruction at the start of CS; gives vector and error code of what it raises at itself.
fn raised<H: Hypervisor>(guest: &mut Guest<H>, state: &State, bytes: &[u8]) -> (u32, u32) {
    // The guest ends where there is no exception.
    guest.memory.write(at::CODE, &[bytes, &[0xe6, port::END as u8]].concat());
    let log = guest.run_from(state);
    let [trap] = log.traps[..] else { panic!("one exception, not {log:x?}") };
    assert_eq!((trap.rip, trap.cs), (0, CODE), "{bytes:x?}: {trap:x?}");
    assert_ne!(u64::from(trap.flags) & rflags::VM, 0);
    (trap.vector, trap.error)
}

/// Runs a program to its end.
fn run<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Log {
    guest.code_of_bits(16, at::CODE, 0, |a| {
        program(a)?;
        end(a)
    });
    guest.run_from(state)
}

/// Lets level 3 use a gate of protected mode.
fn open_gate<H: Hypervisor>(guest: &Guest<H>, vector: u64) {
    let gate = states::gate32(at::STUBS32 + vector * 16) | 3 << 45;
    guest.memory.write_u64(at::IDT32 + vector * 8, gate);
}

guests::on_every_processor! {
    fn what_needs_iopl_3(engine) {
        let mut guest = Guest::new(engine);
        open_gate(&guest, 0x80);
        let sensitive: [&[u8]; 8] = [
            &[0xfa], // CLI
            &[0xfb], // STI
            &[0x9c], // PUSHF
            &[0x9d], // POPF
            &[0x66, 0x9c],
            &[0x66, 0x9d],
            &[0xcd, 0x80], // INT n
            &[0xcf], // IRET
        ];
        for iopl in 0..3 {
            let state = states::virtual_8086(iopl);
            for bytes in sensitive {
                assert_eq!(raised(&mut guest, &state, bytes), (13, 0), "{bytes:x?} {iopl}");
            }
        }
    }

    fn with_iopl_3_flags_are_the_programs_but_for_iopl_and_vm(engine) {
        let mut guest = Guest::new(engine);
        let log = run(&mut guest, &states::virtual_8086(3), |a| {
            a.sti()?;
            a.pushf()?;
            a.pop(ax)?;
            a.movzx(eax, ax)?;
            report(a)?;
            a.cli()?;
            // IOPL can't be changed, NT can; VM is not seen.
            a.push(0x4202)?;
            a.popf()?;
            a.pushfd()?;
            a.pop(eax)?;
            report(a)?;
            // By IRET too.
            a.push(2)?;
            a.push(cs)?;
            let mut next = a.create_label();
            a.call(next)?;
            a.set_label(&mut next)?;
            // POP AX; ADD AX, 7; PUSH AX; IRET: to behind it.
            a.db(&[0x58, 0x83, 0xc0, 0x06, 0x50, 0xcf])?;
            a.pushf()?;
            a.pop(ax)?;
            a.movzx(eax, ax)?;
            report(a)
        });
        assert_eq!((log.values, log.traps), (vec![0x3202, 0x7202, 0x3002], vec![]));
    }

    fn int3_and_into_ask_the_gate_not_iopl(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::virtual_8086(0);
        state.rflags |= rflags::OF;
        assert_eq!(raised(&mut guest, &state, &[0xcc]), (13, 3 * 8 + IDT));
        assert_eq!(raised(&mut guest, &state, &[0xce]), (13, 4 * 8 + IDT));
        open_gate(&guest, 3);
        guest.memory.write(at::CODE, &[0xcc]);
        let trap = guest.run_from(&state).traps[0];
        assert_eq!((trap.vector, trap.rip, trap.cs), (3, 1, CODE));
    }

    fn what_is_the_kernels_and_what_does_not_exist(engine) {
        let mut guest = Guest::new(engine);
        let state = states::virtual_8086(3);
        let privileged: [&[u8]; 12] = [
            &[0xf4], // HLT
            &[0x0f, 0x20, 0xc0], // MOV from CR0
            &[0x0f, 0x22, 0xc0], // MOV to CR0
            &[0x0f, 0x21, 0xc0], // MOV from DR0
            &[0x0f, 0x01, 0x16, 0, 0], // LGDT
            &[0x0f, 0x01, 0x1e, 0, 0], // LIDT
            &[0x0f, 0x01, 0xf0], // LMSW
            &[0x0f, 0x06], // CLTS
            &[0x0f, 0x09], // WBINVD
            &[0x0f, 0x32], // RDMSR
            &[0x0f, 0x30], // WRMSR
            &[0x0f, 0x35], // SYSEXIT
        ];
        for bytes in privileged {
            assert_eq!(raised(&mut guest, &state, bytes), (13, 0), "{bytes:x?}");
        }
        let missing: [&[u8]; 6] = [
            &[0x0f, 0x02, 0xc0], // LAR
            &[0x0f, 0x00, 0xe0], // VERR
            &[0x0f, 0x00, 0xc0], // SLDT
            &[0x0f, 0x00, 0xd0], // LLDT
            &[0x63, 0xc0], // ARPL
            &[0xf0, 0x90], // LOCK NOP
        ];
        for bytes in missing {
            assert_eq!(raised(&mut guest, &state, bytes), (6, 0), "{bytes:x?}");
        }
        // SMSW and SGDT are anybody's.
        let log = run(&mut guest, &state, |a| {
            a.smsw(ax)?;
            a.and(eax, 1)?;
            report(a)
        });
        assert_eq!(log.values, [1]);
    }

    fn segments_are_of_64_kib(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::virtual_8086(3);
        state.gprs[usize::from(gpr::RAX)] = 0x1_0000;
        state.gprs[usize::from(gpr::RBP)] = 0xffff;
        assert_eq!(raised(&mut guest, &state, &[0xa1, 0xff, 0xff]), (13, 0), "MOV AX, [0xffff]");
        assert_eq!(raised(&mut guest, &state, &[0x67, 0x8a, 0x00]), (13, 0), "MOV AL, [EAX]");
        assert_eq!(raised(&mut guest, &state, &[0x8b, 0x46, 0x00]), (12, 0), "MOV AX, [BP]");
    }

    fn segments_are_loaded_as_in_real_mode(engine) {
        let mut guest = Guest::new(engine);
        let state = states::virtual_8086(3);
        guest.memory.write(at::DATA, &[0x11, 0x22, 0x33]);
        // Code can be written to.
        let log = run(&mut guest, &state, |a| {
            a.xor(eax, eax)?;
            a.mov(ax, (at::DATA >> 4) as u32 as i32)?;
            a.mov(es, ax)?;
            a.mov(al, byte_ptr(2).es())?;
            report(a)?;
            a.mov(byte_ptr(0x800).cs(), 0x44)?;
            a.mov(al, byte_ptr(0x800).cs())?;
            report(a)
        });
        assert_eq!(log.values, [0x5033, 0x5044]);
    }

    /// Whatever IOPL is: only the map counts.
    fn the_permission_map_decides_about_ports(engine) {
        let mut guest = Guest::new(engine);
        let map = at::TSS32 + 0x68;
        let mut state = states::virtual_8086(3);
        state.gprs[usize::from(gpr::RDX)] = 0xd7;
        let close = |guest: &Guest<H>, port: u64| {
            guest.memory.write(map, &[0; 0x21]);
            guest.memory.write(map + port / 8, &[1 << (port % 8)]);
        };
        close(&guest, 0xd7);
        assert_eq!(raised(&mut guest, &state, &[0xec]), (13, 0), "IN AL, DX");
        assert_eq!(raised(&mut guest, &state, &[0x6e]), (13, 0), "OUTSB");
        // All ports of an access count, across bytes of the map.
        close(&guest, 0xd8);
        assert_eq!(raised(&mut guest, &state, &[0xed]), (13, 0), "IN AX, DX");
        close(&guest, 0xda);
        assert_eq!(raised(&mut guest, &state, &[0x66, 0xed]), (13, 0), "IN EAX, DX");
        // The map is read in words: its last byte is for no port.
        guest.memory.write(map, &[0; 0x21]);
        state.segments[Seg::Tr as usize].limit = 0x68 + 0xd0 / 8;
        assert_eq!(raised(&mut guest, &state, &[0xec]), (13, 0), "the last byte");
        state.segments[Seg::Tr as usize].limit = 0x66;
        assert_eq!(raised(&mut guest, &state, &[0xec]), (13, 0), "no map");
        close(&guest, 0xdb);
        guest.memory.write(at::CODE, &[0x66, 0xed, 0xe6, 0xe0]);
        state.segments[Seg::Tr as usize].limit = 0x68 + 0x20;
        let mut log = Log::default();
        guest.set_state(&state);
        let exit = guest.run_to_exit(Answer::None, &mut log);
        assert!(matches!(exit, Exit::In { port: 0xd7, size: 4, .. }), "{exit:?} {log:?}");
    }

    fn events_leave_all_segments_on_the_inner_stack_and_come_back(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::virtual_8086(0);
        for (n, seg) in (1..).zip([Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs]) {
            state.segments[seg as usize].selector = n;
            state.segments[seg as usize].base = u64::from(n) << 4;
        }
        // The handler reports its stack from the error code up, and its own data segments.
        let address = at::HANDLERS + 0x100;
        guest.code_of_bits(32, address, address, |a| {
            for offset in (0..10).map(|n| n * 4) {
                a.mov(eax, dword_ptr(esp + offset))?;
                report(a)?;
            }
            for segment in [ds, es, fs, gs] {
                a.mov(eax, segment)?;
                report(a)?;
            }
            a.add(esp, 4)?;
            a.add(dword_ptr(esp), 1)?;
            a.iretd()
        });
        guest.memory.write_u64(at::IDT32 + 13 * 8, states::gate32(address));
        // HLT; then what shows that all is as before.
        let log = run(&mut guest, &state, |a| {
            a.hlt()?;
            a.mov(eax, gs)?;
            report(a)
        });
        let (flags, resume) = (state.rflags as u32, rflags::RF as u32);
        assert_eq!(log.values[..3], [0, 0, CODE]);
        assert_eq!(log.values[3] & !resume, flags);
        assert_eq!(log.values[4..10], [0x5000, 0, 1, 2, 3, 4]);
        assert_eq!(log.values[10..], [0, 0, 0, 0, 4]);
    }

    fn faults_are_pushed_with_the_resume_flag(engine) {
        let mut guest = Guest::new(engine);
        guest.memory.write(at::CODE, &[0xf4]);
        let trap = guest.run_from(&states::virtual_8086(0)).traps[0];
        assert_ne!(u64::from(trap.flags) & rflags::RF, 0);
    }

    fn handlers_are_of_level_0(engine) {
        let mut guest = Guest::new(engine);
        let state = states::virtual_8086(3);
        open_gate(&guest, 0x80);
        let gate = states::gate32(at::STUBS32) | 3 << 45;
        let conforming = gate & !(0xffff << 16) | u64::from(selector::USER_CODE32) << 16;
        guest.memory.write_u64(at::IDT32 + 0x80 * 8, conforming);
        let error = u32::from(selector::USER_CODE32 & !3);
        assert_eq!(raised(&mut guest, &state, &[0xcd, 0x80]), (13, error));
    }

    fn single_step(engine) {
        let mut guest = Guest::new(engine);
        guest.resume(resume::SAME);
        open_gate(&guest, 0x80);
        let mut state = states::virtual_8086(3);
        state.rflags |= rflags::TF;
        // NOP; INT 0x80, whose handler is not stepped; NOP; OUT.
        guest.memory.write(at::CODE, &[0x90, 0xcd, 0x80, 0x90, 0xe6, port::END as u8]);
        let log = guest.run_from(&state);
        let stops: Vec<_> = log.traps.iter().map(|trap| (trap.vector, trap.rip)).collect();
        assert_eq!(stops, [(1, 1), (0x80, 3), (1, 4)]);
        assert!(log.traps.iter().all(|trap| u64::from(trap.flags) & rflags::VM != 0));
    }

    fn sysenter_leaves_it(engine) {
        let mut guest = Guest::new(engine);
        let mut state = states::virtual_8086(0);
        assert_eq!(raised(&mut guest, &state, &[0x0f, 0x34]), (13, 0), "no selector");
        let address = at::HANDLERS + 0x100;
        guest.code_of_bits(32, address, address, |a| {
            a.mov(eax, cs)?;
            report(a)?;
            a.mov(eax, esp)?;
            report(a)?;
            end(a)
        });
        state.sysregs[SysReg::SysenterCs as usize] = u64::from(selector::CODE32);
        state.sysregs[SysReg::SysenterEsp as usize] = at::STACK;
        state.sysregs[SysReg::SysenterEip as usize] = address;
        guest.memory.write(at::CODE, &[0x0f, 0x34]);
        let log = guest.run_from(&state);
        assert_eq!(log.values, [selector::CODE32.into(), at::STACK as u32]);
        assert_eq!(guest.state().rflags & rflags::VM, 0);
    }
}
