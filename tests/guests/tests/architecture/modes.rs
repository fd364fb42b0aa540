//! From mode to mode: real, protected, compatibility and 64-bit, and between levels.
//! See: AMD APM vol. 2, 14.6; vol. 3, SYSCALL, SYSRET, IRET.

use guests::programs::{end, report, report_number};
use guests::x86::{State, SysReg, cr0, cr4, efer, gpr, rflags};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, selector, states};

/// Where the parts of the way through the modes lie, and the pointers to their descriptor tables.
const STAGE: u64 = 0x1000;
const GDT_POINTER: u64 = 0xb100;
const REAL_IDT_POINTER: u64 = 0xb110;

/// A far jump: to 16 bits of offset, or to 32 with the operand-size prefix where code is 16-bit.
fn far_jump(
    a: &mut CodeAssembler,
    wide: bool,
    selector: u16,
    offset: u64,
) -> Result<(), IcedError> {
    let offset = (offset as u32).to_le_bytes();
    let prefix: &[u8] = if wide && a.bitness() == 16 { &[0x66] } else { &[] };
    let offset = if wide { &offset[..] } else { &offset[..2] };
    a.db(&[prefix, &[0xea], offset, &selector.to_le_bytes()].concat())
}

/// A far return of 64-bit mode.
fn far_return(a: &mut CodeAssembler, selector: u16, offset: u64) -> Result<(), IcedError> {
    a.push(i32::from(selector))?;
    a.push(offset as i32)?;
    a.db(&[0x48, 0xcb])
}

/// User mode with what SYSCALL needs: to [`at::CODE`].
fn with_syscall<H: Hypervisor>(guest: &Guest<H>) -> State {
    let mut state = states::user(guest.long_mode());
    let star = u64::from(selector::CODE) << 32 | u64::from(selector::USER_CODE32) << 48;
    state.sysregs[SysReg::Star as usize] = star;
    state.sysregs[SysReg::Lstar as usize] = at::CODE;
    state.sysregs[SysReg::Cstar as usize] = at::CODE + 0x800;
    state.sysregs[SysReg::Sfmask as usize] = rflags::IF | rflags::DF;
    state
}

/// Reports CS and SS.
fn report_segments(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, cs)?;
    report(a)?;
    a.mov(eax, ss)?;
    report(a)
}

const USER_CS: u32 = selector::USER_CODE as u32;
const USER_CS32: u32 = selector::USER_CODE32 as u32;
const USER_SS: u32 = selector::USER_DATA as u32;

const GP: [(u32, u32); 1] = [(13, 0)];

/// Sets and clears bits of a control register in 64-bit mode; gives the exceptions.
fn faults<H: Hypervisor>(
    guest: &mut Guest<H>,
    register: u8,
    set: u64,
    clear: u64,
) -> Vec<(u32, u32)> {
    guest.code(at::CODE, |a| {
        let read = [0x0f, 0x20, 0xc0 | register << 3];
        a.db(&read)?;
        a.mov(rcx, !clear)?;
        a.and(rax, rcx)?;
        a.mov(rcx, set)?;
        a.or(rax, rcx)?;
        let write = [0x0f, 0x22, 0xc0 | register << 3];
        a.db(&write)?;
        end(a)
    });
    let state = guest.long_mode();
    guest.run_from(&state).faults()
}

guests::on_every_processor! {
    /// Real mode, protected mode, long mode's compatibility mode, 64-bit mode, and back.
    fn into_long_mode_and_back_to_real_mode(engine) {
        let mut guest = Guest::new(engine);
        let root = guest.tables.root() as u32;
        let stage = |n: u64| at::CODE + n * STAGE;
        let pointer = |limit: u16, base: u64| {
            [&limit.to_le_bytes()[..], &(base as u32).to_le_bytes()].concat()
        };
        guest.memory.write(GDT_POINTER, &pointer(selector::BEYOND - 1, at::GDT));
        guest.memory.write(REAL_IDT_POINTER, &pointer(0x3ff, 0));
        guest.code_of_bits(16, stage(0), 0, |a| {
            report_number(a, 1)?;
            a.lgdt(fword_ptr(GDT_POINTER as u32))?;
            a.mov(eax, cr0)?;
            a.or(eax, 1)?;
            a.mov(cr0, eax)?;
            far_jump(a, true, selector::CODE32, stage(1))
        });
        guest.code_of_bits(32, stage(1), stage(1), |a| {
            a.mov(eax, u32::from(selector::DATA))?;
            a.mov(ds, ax)?;
            a.mov(ss, ax)?;
            a.mov(esp, at::STACK as u32)?;
            report_number(a, 2)?;
            a.mov(eax, (cr4::PAE | cr4::PGE) as u32)?;
            a.mov(cr4, eax)?;
            a.mov(eax, root)?;
            a.mov(cr3, eax)?;
            a.mov(ecx, 0xc000_0080_u32)?;
            a.rdmsr()?;
            a.or(eax, (efer::LME | efer::NXE) as i32)?;
            a.wrmsr()?;
            a.mov(eax, cr0)?;
            a.or(eax, 0x8000_0000_u32)?;
            a.mov(cr0, eax)?;
            // Compatibility mode: EFER.LMA is on.
            a.rdmsr()?;
            report(a)?;
            far_jump(a, true, selector::CODE, stage(2))
        });
        guest.code(stage(2), |a| {
            a.mov(rax, 0x1_0000_0003_u64)?;
            a.shr(rax, 32)?;
            report(a)?;
            far_return(a, selector::CODE32, stage(3))
        });
        guest.code_of_bits(32, stage(3), stage(3), |a| {
            // Paging off ends long mode.
            a.mov(eax, cr0)?;
            a.and(eax, 0x7fff_ffff)?;
            a.mov(cr0, eax)?;
            a.mov(ecx, 0xc000_0080_u32)?;
            a.rdmsr()?;
            report(a)?;
            far_jump(a, true, selector::CODE16, stage(4) & 0xffff)
        });
        // The 16-bit code segment has base 0: this stage is below 64 KiB.
        guest.code_of_bits(16, stage(4) & 0xffff, stage(4) & 0xffff, |a| {
            a.mov(eax, u32::from(selector::DATA16))?;
            a.mov(ds, ax)?;
            a.mov(ss, ax)?;
            a.lidt(fword_ptr(REAL_IDT_POINTER as u32))?;
            a.mov(eax, cr0)?;
            a.and(eax, !1)?;
            a.mov(cr0, eax)?;
            far_jump(a, false, (stage(5) >> 4) as u16, 0)
        });
        guest.memory.write(at::REAL_VECTORS + 0x21 * 4, &[0, 0, 0, 0x16]);
        guest.code_of_bits(16, stage(5), 0, |a| {
            a.xor(ax, ax)?;
            a.mov(ss, ax)?;
            a.mov(sp, 0x5000)?;
            a.int(0x21)?;
            a.mov(ax, cs)?;
            a.movzx(eax, ax)?;
            report(a)?;
            end(a)
        });
        guest.code_of_bits(16, stage(6), 0, |a| {
            report_number(a, 6)?;
            a.iret()
        });
        let values = guest.run_from(&states::real_mode()).values;
        let long = (efer::LME | efer::LMA | efer::NXE) as u32;
        let not_active = (efer::LME | efer::NXE) as u32;
        assert_eq!(values, [1, 2, long, 1, not_active, 6, (stage(5) >> 4) as u32]);
        assert_eq!(guest.state().cr0 & (cr0::PE | cr0::PG), 0);
    }

    fn real_mode_has_its_vectors(engine) {
        let mut guest = Guest::new(engine);
        // The handler is at 0x3000:0; it reports the instruction's offset.
        for vector in [0, 6] {
            guest.memory.write(at::REAL_VECTORS + vector * 4, &[0, 0, 0, 0x30]);
        }
        guest.code_of_bits(16, 0x3_0000, 0, |a| {
            a.pop(ax)?;
            a.movzx(eax, ax)?;
            report(a)?;
            end(a)
        });
        // UD2; DIV CL.
        let programs: [&[u8]; 2] = [&[0x90, 0x0f, 0x0b], &[0x90, 0xf6, 0xf1]];
        for program in programs {
            guest.memory.write(at::CODE, program);
            assert_eq!(guest.run_from(&states::real_mode()).values, [1]);
        }
    }

    fn control_registers_take_what_they_have(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 0, 0, 0), []);
        assert_eq!(faults(&mut guest, 3, 5, 0), []);
    }

    fn reserved_bits_of_cr4_are_checked(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 4, 1 << 31, 0), GP);
    }

    fn long_mode_cannot_be_left_by_cr0(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 0, 0, cr0::PG), GP, "paging off in 64-bit mode");
        assert_eq!(faults(&mut guest, 0, 0, cr0::PE), GP, "paging without protection");
    }

    fn bits_of_cr0_are_checked(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 0, cr0::NW, 0), GP, "NW without CD");
        assert_eq!(faults(&mut guest, 0, 1 << 32, 0), GP, "reserved");
    }

    fn the_depth_of_page_tables_stays_while_paging_is_on(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 4, 0, cr4::PAE), GP);
        assert_eq!(faults(&mut guest, 4, cr4::LA57, 0), GP, "five levels");
    }

    fn reserved_bits_of_cr3_are_checked(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 3, 1 << 60, 0), GP);
    }

    fn process_contexts_can_be_switched_on(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 4, cr4::PCIDE, 0), []);
    }

    /// What the policy does not offer does not exist, whatever the processor has.
    fn protection_keys_are_not_offered(engine) {
        let mut guest = Guest::new(engine);
        assert_eq!(faults(&mut guest, 4, 1 << 22, 0), GP);
    }

    fn syscall_and_sysret(engine) {
        let mut guest = Guest::new(engine);
        let [after] = guest.labelled(at::USER_CODE, |a| {
            let mut after = a.create_label();
            a.std()?;
            a.syscall()?;
            a.set_label(&mut after)?;
            report_segments(a)?;
            end(a)?;
            Ok([after])
        });
        guest.code(at::CODE, |a| {
            report_segments(a)?;
            a.mov(rax, rcx)?;
            report(a)?;
            a.mov(rax, r11)?;
            report(a)?;
            a.pushfq()?;
            a.pop(rax)?;
            report(a)?;
            a.cld()?;
            a.sysretq()
        });
        let state = with_syscall(&guest);
        // The kernel has no stack of its own here: it uses the user's, which it may.
        let values = guest.run_from(&state).values;
        let flags = (rflags::FIXED | rflags::DF | rflags::IOPL) as u32;
        let masked = flags & !(rflags::DF as u32);
        let kernel = [u32::from(selector::CODE), u32::from(selector::DATA)];
        let expected = [kernel[0], kernel[1], after as u32, flags, masked, USER_CS, USER_SS];
        assert_eq!(values, expected);
        assert_eq!(guest.state().rflags & rflags::DF, rflags::DF, "R11's");
    }

    fn syscall_keeps_flags_that_are_not_masked(engine) {
        let mut guest = Guest::new(engine);
        guest.code(at::USER_CODE, |a| a.syscall());
        guest.code(at::CODE, |a| {
            a.pushfq()?;
            a.pop(rax)?;
            report(a)?;
            end(a)
        });
        let mut state = with_syscall(&guest);
        state.rflags |= rflags::STATUS | rflags::DF;
        let flags = rflags::FIXED | rflags::STATUS | rflags::IOPL;
        assert_eq!(guest.run_from(&state).values, [flags as u32]);
    }

    fn sysret_to_compatibility_mode(engine) {
        let mut guest = Guest::new(engine);
        guest.code(at::CODE, |a| {
            a.mov(ecx, (at::USER_CODE + 0x100) as u32)?;
            a.mov(r11, rflags::FIXED | rflags::IOPL)?;
            a.sysret()
        });
        // DEC EAX, then another; in 64-bit mode these would be REX prefixes.
        guest.memory.write(at::USER_CODE + 0x100, &[0x31, 0xc0, 0x48, 0x48]);
        guest.code_of_bits(32, at::USER_CODE + 0x104, 0, |a| {
            report(a)?;
            report_segments(a)?;
            end(a)
        });
        let mut state = with_syscall(&guest);
        let user = state.sysregs;
        state = guest.long_mode();
        state.sysregs = user;
        assert_eq!(guest.run_from(&state).values, [!1, USER_CS32, USER_SS]);
    }

    fn syscall_needs_to_be_enabled_and_sysret_needs_level_0(engine) {
        let mut guest = Guest::new(engine);
        let mut state = with_syscall(&guest);
        state.efer &= !efer::SCE;
        guest.code(at::USER_CODE, |a| a.syscall());
        assert_eq!(guest.run_from(&state).faults(), [(6, 0)]);
        state.efer |= efer::SCE;
        guest.code(at::USER_CODE, |a| a.sysretq());
        assert_eq!(guest.run_from(&state).faults(), [(13, 0)]);
    }

    fn iret_to_user_mode_and_back_by_an_interrupt(engine) {
        for (code, bits) in [(selector::USER_CODE, 64), (selector::USER_CODE32, 32)] {
            let mut guest = Guest::with_program(engine, |a| {
                a.push(i32::from(selector::USER_DATA))?;
                a.push(at::USER_STACK as i32)?;
                a.push((rflags::FIXED | rflags::IOPL) as i32)?;
                a.push(i32::from(code))?;
                a.push(at::USER_CODE as i32)?;
                a.iretq()
            });
            guest.code_of_bits(bits, at::USER_CODE, at::USER_CODE, |a| {
                report_segments(a)?;
                a.int(0x80)
            });
            guest.handler(0x80, |a| {
                report_segments(a)?;
                // The frame is on the stack of the TSS, whatever the interrupted code's width.
                a.mov(rax, rsp)?;
                report(a)?;
                a.mov(rax, qword_ptr(rsp + 8))?;
                report(a)?;
                end(a)
            });
            let address = at::HANDLERS + 0x8000;
            guest.gate(0x80, states::gate(address, 0, 3));
            let frame = (at::STACK0 - 40) as u32;
            let code = u32::from(code);
            let kernel = u32::from(selector::CODE);
            assert_eq!(guest.run().values, [code, USER_SS, kernel, 0, frame, code]);
        }
    }

    fn iret_clears_data_segments_that_user_mode_may_not_use(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(eax, u32::from(selector::DATA))?;
            a.mov(ds, ax)?;
            a.mov(eax, u32::from(selector::USER_DATA))?;
            a.mov(es, ax)?;
            a.push(i32::from(selector::USER_DATA))?;
            a.push(at::USER_STACK as i32)?;
            a.push((rflags::FIXED | rflags::IOPL) as i32)?;
            a.push(i32::from(selector::USER_CODE))?;
            a.push(at::USER_CODE as i32)?;
            a.iretq()
        });
        guest.code(at::USER_CODE, |a| {
            for segment in [ds, es] {
                a.mov(eax, segment)?;
                report(a)?;
            }
            end(a)
        });
        assert_eq!(guest.run().values, [0, USER_SS]);
    }

    fn user_mode_cannot_raise_its_io_privilege(engine) {
        let mut guest = Guest::new(engine);
        guest.code(at::USER_CODE, |a| {
            a.push((rflags::IOPL | rflags::IF | rflags::FIXED) as i32)?;
            a.popfq()?;
            a.pushfq()?;
            a.pop(rax)?;
            a.int(0x80)
        });
        guest.reporting_gate(0x80, 0, 3);
        let mut state = states::user(guest.long_mode());
        state.rflags &= !rflags::IOPL;
        guest.run_from(&state);
        let seen = guest.state().gprs[usize::from(gpr::RAX)];
        assert_eq!(seen & (rflags::IOPL | rflags::IF), 0);
    }

    fn swapgs_exchanges_the_bases(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            for _ in 0..2 {
                a.swapgs()?;
                a.mov(eax, dword_ptr(0).gs())?;
                report(a)?;
            }
            end(a)
        });
        guest.memory.write_u64(at::DATA, 1);
        guest.memory.write_u64(at::DATA + 8, 2);
        let mut state = guest.long_mode();
        state.segments[guests::x86::Seg::Gs as usize].base = at::DATA;
        state.sysregs[SysReg::KernelGsBase as usize] = at::DATA + 8;
        assert_eq!(guest.run_from(&state).values, [2, 1]);
    }

    fn protected_mode_changes_stacks_between_levels(engine) {
        let mut guest = Guest::new(engine);
        guest.code_of_bits(32, at::USER_CODE, 0, |a| a.int(0x80));
        let address = at::HANDLERS + 0x100;
        guest.code_of_bits(32, address, address, |a| {
            report_segments(a)?;
            a.mov(eax, esp)?;
            report(a)?;
            for offset in [0, 4, 12, 16] {
                a.mov(eax, dword_ptr(esp + offset))?;
                report(a)?;
            }
            end(a)
        });
        guest.memory.write_u64(at::IDT32 + 0x80 * 8, states::gate32(address) | 3 << 45);
        let state = states::user(states::protected_mode());
        let values = guest.run_from(&state).values;
        let inner = [u32::from(selector::CODE32), u32::from(selector::DATA), at::STACK0 as u32 - 20];
        let outer = [at::USER_CODE as u32 + 2, USER_CS32, at::USER_STACK as u32, USER_SS];
        assert_eq!(values, [inner.as_slice(), &outer].concat());
    }
}
