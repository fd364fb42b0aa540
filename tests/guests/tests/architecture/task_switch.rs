//! Hardware task switches of protected mode. See: Intel SDM vol. 3, chapter 8; AMD APM vol. 2, chapter 12.

use guests::layout::resume;
use guests::paging::{Format, Tables, pte};
use guests::programs::{end, report, report_number};
use guests::x86::{Seg, State, cr0, rflags};
use guests::{Guest, Hypervisor, IcedError, at, code_asm::*, selector, states};

/// The tasks besides the first one, whose descriptors are in GDT entries that long mode would use.
const WIDE: u16 = selector::CODE;
const NARROW: u16 = selector::CONFORMING;
/// A task gate for [`WIDE`].
const GATE: u16 = selector::USER_CODE & !3;
const WIDE_TSS: u64 = at::DATA;
const NARROW_TSS: u64 = at::DATA + 0x100;
/// Where the tasks start: below 64 KiB, as a task of 16 bits has to.
const WIDE_ENTRY: u64 = 0xd000;
const NARROW_ENTRY: u64 = 0xd800;
const WIDE_STACK: u64 = 0x6_8000;
const NARROW_STACK: u64 = 0xf000;
/// DR6: task switch.
const BT: u32 = 1 << 15;

/// What a 32-bit TSS can be written with: EIP and EFLAGS, ESP, and the segments ES to GS.
struct Task {
    cr3: u32,
    entry: u64,
    flags: u64,
    stack: u64,
    segments: [u16; 6],
}

impl Task {
    fn kernel() -> Self {
        let data = selector::DATA;
        let segments = [data, selector::CODE32, data, data, 0, 0];
        Self { cr3: 0, entry: WIDE_ENTRY, flags: rflags::FIXED, stack: WIDE_STACK, segments }
    }

    fn write<H: Hypervisor>(&self, guest: &Guest<H>) {
        let mut words = [0_u32; 26];
        words[1] = at::STACK0 as u32 - 0x1000;
        words[2] = selector::DATA.into();
        words[7] = self.cr3;
        words[8] = self.entry as u32;
        words[9] = self.flags as u32;
        for (n, word) in (0x10..).zip(&mut words[10..18]) {
            *word = n;
        }
        words[14] = self.stack as u32;
        for (word, selector) in words[18..24].iter_mut().zip(self.segments) {
            *word = selector.into();
        }
        words[25] = 0x68 << 16;
        guest.memory.write(WIDE_TSS, &words.map(u32::to_le_bytes).concat());
    }
}

/// A guest whose GDT has the tasks; the first one's own TSS is [`at::TSS32`].
fn with_tasks<H: Hypervisor>(engine: &H) -> (Guest<H>, State) {
    let guest = Guest::new(engine);
    let describe = |selector: u16, descriptor: u64| {
        guest.memory.write_u64(at::GDT + u64::from(selector), descriptor);
    };
    describe(selector::TSS32, states::system_descriptor(at::TSS32, 0x67, 0x8b));
    describe(WIDE, states::system_descriptor(WIDE_TSS, 0x67, 0x89));
    describe(NARROW, states::system_descriptor(NARROW_TSS, 0x2b, 0x81));
    describe(GATE, u64::from(WIDE) << 16 | 0xe5 << 40);
    Task::kernel().write(&guest);
    let mut words = [0_u16; 22];
    words[7] = NARROW_ENTRY as u16;
    words[8] = rflags::FIXED as u16;
    words[13] = NARROW_STACK as u16;
    words[17..21].copy_from_slice(&[
        selector::DATA,
        selector::CODE32,
        selector::DATA,
        selector::DATA,
    ]);
    guest.memory.write(NARROW_TSS, &words.map(u16::to_le_bytes).concat());
    (guest, states::protected_mode())
}

/// A far JMP (`0xea`) or CALL (`0x9a`).
fn far(a: &mut CodeAssembler, opcode: u8, selector: u16) -> Result<(), IcedError> {
    let [low, high] = selector.to_le_bytes();
    a.db(&[opcode, 0, 0, 0, 0, low, high])
}

fn program<H: Hypervisor>(
    guest: &Guest<H>,
    address: u64,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    guest.code_of_bits(32, address, address, program);
}

/// A task gate in the IDT.
fn task_gate<H: Hypervisor>(guest: &Guest<H>, vector: u64, task: u16) {
    guest.memory.write_u64(at::IDT32 + vector * 8, u64::from(task) << 16 | 0xe5 << 40);
}

fn report_task(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, 0)?;
    a.str(ax)?;
    report(a)
}

/// Runs an instruction whose double fault goes to a task.
fn check_double_fault<H: Hypervisor>(
    guest: &mut Guest<H>,
    state: &State,
    instruction: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    task_gate(guest, 8, WIDE);
    program(guest, at::CODE, |a| {
        instruction(a)?;
        end(a)
    });
    program(guest, WIDE_ENTRY, |a| {
        report_task(a)?;
        a.pop(eax)?;
        report(a)?;
        end(a)
    });
    assert_eq!(guest.run_from(state).values, [WIDE.into(), 0]);
    assert_eq!(guest.memory.read_u32(WIDE_TSS), u32::from(selector::TSS32));
    assert_eq!(guest.memory.read_u32(at::TSS32 + 0x20), at::CODE as u32);
}

guests::on_every_processor! {
    fn tasks_call_each_other_and_return(engine) {
        let (mut guest, state) = with_tasks(engine);
        program(&guest, at::CODE, |a| {
            a.mov(ebx, 0x1234_5678)?;
            a.mov(esi, 2)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            far(a, 0x9a, WIDE)?;
            report_task(a)?;
            a.mov(eax, ebx)?;
            report(a)?;
            a.dec(esi)?;
            a.jnz(again)?;
            end(a)
        });
        program(&guest, WIDE_ENTRY, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            report_task(a)?;
            // The registers are the TSS's, the first time.
            a.mov(eax, ebx)?;
            report(a)?;
            a.mov(ebx, 99)?;
            far(a, 0x9a, NARROW)?;
            // To the caller; a later call goes on behind it.
            a.iretd()?;
            a.jmp(again)
        });
        program(&guest, NARROW_ENTRY, |a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            report_task(a)?;
            a.pushfd()?;
            a.pop(eax)?;
            report(a)?;
            a.iretd()?;
            a.jmp(again)
        });
        let (wide, narrow, first) = (WIDE.into(), NARROW.into(), selector::TSS32.into());
        let nested = (rflags::FIXED | rflags::NT) as u32;
        let expected = [
            wide, 0x13, narrow, nested, first, 0x1234_5678,
            wide, 99, narrow, nested, first, 0x1234_5678,
        ];
        assert_eq!(guest.run_from(&state).values, expected);
        assert_eq!(guest.memory.read::<1>(at::GDT + u64::from(NARROW) + 5), [0x81]);
        assert_eq!(guest.memory.read::<1>(at::GDT + u64::from(selector::TSS32) + 5), [0x8b]);
        assert_ne!(guest.state().cr0 & cr0::TS, 0);
    }

    fn jumps_leave_no_way_back(engine) {
        let (mut guest, mut state) = with_tasks(engine);
        state.debug[5] = 0x455;
        program(&guest, at::CODE, |a| {
            far(a, 0xea, WIDE)?;
            report_number(a, 3)?;
            end(a)
        });
        program(&guest, WIDE_ENTRY, |a| {
            a.pushfd()?;
            a.pop(eax)?;
            report(a)?;
            a.mov(eax, dr7)?;
            report(a)?;
            far(a, 0xea, selector::TSS32)
        });
        assert_eq!(guest.run_from(&state).values, [rflags::FIXED as u32, 0x400, 3]);
    }

    fn the_fpu_is_not_the_new_tasks_yet(engine) {
        let (mut guest, state) = with_tasks(engine);
        program(&guest, at::CODE, |a| far(a, 0xea, WIDE));
        program(&guest, WIDE_ENTRY, |a| a.fnop());
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (vec![(7, 0)], WIDE_ENTRY));
    }

    fn double_faults_go_to_tasks(engine) {
        let (mut guest, mut state) = with_tasks(engine);
        // The vector of general protection is beyond the limit.
        state.idtr.limit = 9 * 8 - 1;
        check_double_fault(&mut guest, &state, |a| a.int(0x80));
    }

    /// The classic: the stack is beyond the limit, for the handler too.
    fn a_lost_stack_is_a_double_fault_with_a_stack_of_its_own(engine) {
        let (mut guest, mut state) = with_tasks(engine);
        state.segments[Seg::Ss as usize].limit = 0xfff;
        check_double_fault(&mut guest, &state, |a| a.push(eax));
    }

    fn exceptions_go_to_tasks_and_come_back(engine) {
        let (mut guest, state) = with_tasks(engine);
        task_gate(&guest, 13, WIDE);
        program(&guest, at::CODE, |a| {
            a.mov(eax, u32::from(selector::BEYOND))?;
            a.mov(ds, ax)?;
            report_number(a, 5)?;
            end(a)
        });
        program(&guest, WIDE_ENTRY, |a| {
            a.pop(eax)?;
            report(a)?;
            // Mends the task that faulted: EAX in its TSS.
            a.mov(dword_ptr(at::TSS32 + 0x28), u32::from(selector::DATA))?;
            a.iretd()
        });
        assert_eq!(guest.run_from(&state).values, [selector::BEYOND.into(), 5]);
    }

    fn interrupts_from_user_mode_and_back(engine) {
        let (mut guest, state) = with_tasks(engine);
        task_gate(&guest, 0x80, NARROW);
        program(&guest, at::USER_CODE, |a| {
            a.int(0x80)?;
            a.mov(eax, cs)?;
            report(a)?;
            a.mov(eax, ss)?;
            report(a)?;
            far(a, 0x9a, GATE | 3)
        });
        program(&guest, NARROW_ENTRY, |a| {
            a.mov(eax, cs)?;
            report(a)?;
            // What is in the upper half is not told.
            a.movzx(eax, sp)?;
            report(a)?;
            a.iretd()
        });
        program(&guest, WIDE_ENTRY, |a| {
            report_number(a, 7)?;
            end(a)
        });
        let expected = [
            selector::CODE32.into(),
            NARROW_STACK as u32,
            selector::USER_CODE32.into(),
            selector::USER_DATA.into(),
            7,
        ];
        let mut user = states::user(state);
        // FS and GS are lost to a task of 16 bits only if it saves them.
        user.rflags |= rflags::AC;
        assert_eq!(guest.run_from(&user).values, expected);
        assert_eq!(guest.memory.read_u32(at::TSS32 + 0x24), user.rflags as u32);
    }

    fn each_task_has_its_page_tables(engine) {
        let (mut guest, mut state) = with_tasks(engine);
        let memory = guest.memory.clone();
        let linear = at::FREE;
        let root = |n: u64, value: u64| {
            let mut tables = Tables::new(&memory, Format::Legacy32, at::MORE_TABLES + n * 0x1_0000);
            tables.identity(&memory, 0, 1 << 20, 0x1000, pte::P | pte::W);
            tables.map(&memory, linear, at::FREE + n * 0x1000, 0x1000, pte::P | pte::W);
            memory.write_u64(at::FREE + n * 0x1000, value);
            tables.root()
        };
        state.cr3 = root(0, 0x11);
        state.cr0 |= cr0::PG;
        // It is never saved.
        guest.memory.write(at::TSS32 + 0x1c, &(state.cr3 as u32).to_le_bytes());
        Task { cr3: root(1, 0x22) as u32, ..Task::kernel() }.write(&guest);
        program(&guest, at::CODE, |a| {
            a.mov(eax, dword_ptr(linear))?;
            report(a)?;
            far(a, 0x9a, WIDE)?;
            a.mov(eax, dword_ptr(linear))?;
            report(a)?;
            end(a)
        });
        program(&guest, WIDE_ENTRY, |a| {
            a.mov(eax, dword_ptr(linear))?;
            report(a)?;
            a.iretd()
        });
        assert_eq!(guest.run_from(&state).values, [0x11, 0x22, 0x11]);
        // A TSS that is not mapped is the old task's page fault.
        guest.memory.write_u64(at::GDT + u64::from(WIDE), states::system_descriptor(0x70_0000, 0x67, 0x89));
        program(&guest, at::CODE, |a| far(a, 0xea, WIDE));
        // Which part of it is read first is the processor's affair.
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].cr2 & !0xfff), (vec![(14, 0)], 0x70_0000));
        assert_eq!(log.traps[0].rip, at::CODE);
    }

    fn a_fault_before_the_switch_is_the_instructions_and_one_after_it_the_tasks(engine) {
        let (mut guest, state) = with_tasks(engine);
        program(&guest, at::CODE, |a| far(a, 0xea, WIDE));
        let bad = u32::from(selector::BEYOND);
        let segments = |place: usize, selector: u16| {
            let mut task = Task::kernel();
            task.segments[place] = selector;
            task
        };
        segments(3, selector::BEYOND).write(&guest);
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (vec![(10, bad)], WIDE_ENTRY));
        let (mut guest, state) = with_tasks(engine);
        program(&guest, at::CODE, |a| far(a, 0xea, WIDE));
        segments(0, selector::ABSENT_DATA).write(&guest);
        let error = selector::ABSENT_DATA.into();
        assert_eq!(guest.run_from(&state).faults(), [(11, error)]);
        let (mut guest, state) = with_tasks(engine);
        program(&guest, at::CODE, |a| far(a, 0xea, WIDE));
        let descriptor = states::system_descriptor(WIDE_TSS, 0x66, 0x89);
        guest.memory.write_u64(at::GDT + u64::from(WIDE), descriptor);
        let log = guest.run_from(&state);
        assert_eq!((log.faults(), log.traps[0].rip), (vec![(10, WIDE.into())], at::CODE));
        guest.memory.write(at::GDT + u64::from(WIDE) + 5, &[0x8b]);
        assert_eq!(guest.run_from(&state).faults(), [(13, WIDE.into())], "busy");
        // A return to what is no task.
        program(&guest, at::CODE, |a| a.iretd());
        let mut nested = state;
        nested.rflags |= rflags::NT;
        guest.memory.write(at::TSS32, &selector::DATA.to_le_bytes());
        assert_eq!(guest.run_from(&nested).faults(), [(10, selector::DATA.into())]);
    }

    fn the_trap_flag_of_a_tss(engine) {
        let (mut guest, state) = with_tasks(engine);
        guest.resume(resume::SAME);
        guest.memory.write(WIDE_TSS + 0x64, &[1]);
        program(&guest, at::CODE, |a| far(a, 0xea, WIDE));
        program(&guest, WIDE_ENTRY, end);
        let log = guest.run_from(&state);
        let [trap] = log.traps[..] else { panic!("{log:x?}") };
        assert_eq!((trap.vector, trap.rip, trap.dr6 & !0xffff_0ff0), (1, WIDE_ENTRY, BT));
    }

    fn virtual_8086_mode_as_a_task(engine) {
        let (mut guest, state) = with_tasks(engine);
        let code = (at::CODE >> 4) as u16;
        Task {
            cr3: 0,
            entry: 0x800,
            flags: rflags::FIXED | rflags::VM | rflags::IOPL,
            stack: 0x5000,
            segments: [1, code, 0, 2, 3, 4],
        }
        .write(&guest);
        task_gate(&guest, 0x80, selector::TSS32);
        // It is busy: nobody but IRET gets there. The handler is a task of 16 bits then.
        task_gate(&guest, 0x81, NARROW);
        program(&guest, at::CODE, |a| {
            far(a, 0x9a, WIDE)?;
            end(a)
        });
        guest.code_of_bits(16, at::CODE + 0x800, 0x800, |a| {
            a.int(0x81)?;
            a.int(0x80)
        });
        program(&guest, NARROW_ENTRY, |a| {
            for offset in [0x20, 0x24, 0x48, 0x4c, 0x5c] {
                a.mov(eax, dword_ptr(WIDE_TSS + offset))?;
                report(a)?;
            }
            a.iretd()
        });
        let log = guest.run_from(&state);
        let flags = (rflags::FIXED | rflags::VM | rflags::IOPL | rflags::NT) as u32;
        assert_eq!(log.values, [0x802, flags, 1, code.into(), 4]);
        assert_eq!(log.faults(), [(13, selector::TSS32.into())]);
        assert_eq!((log.traps[0].rip, log.traps[0].cs), (0x802, code.into()));
    }

    fn long_mode_has_none(engine) {
        let mut guest = Guest::new(engine);
        let state = states::compatibility(guest.tables.root());
        guest.memory.write(at::GDT + u64::from(selector::TSS) + 5, &[0x89]);
        for opcode in [0xea, 0x9a] {
            program(&guest, at::CODE, |a| far(a, opcode, selector::TSS));
            assert_eq!(guest.run_from(&state).faults(), [(13, selector::TSS.into())]);
        }
        let mut nested = state;
        nested.rflags |= rflags::NT;
        program(&guest, at::CODE, |a| a.iretd());
        assert_eq!(guest.run_from(&nested).faults(), [(13, 0)]);
    }
}
