//! Exceptions while another is delivered: double faults, and shutdown.
//! See: Intel SDM vol. 3, 6.15, interrupt 8; AMD APM vol. 2, 8.2.9.

use guests::x86::{Answer, Exit, gpr};
use guests::{Guest, Hypervisor, IcedError, Log, at, code_asm::*, states};

/// Nothing is mapped here.
const UNMAPPED: u64 = 0x7000_0000;
/// Bit 1 of an error code: it is about an entry of the IDT.
const IDT: u32 = 2;
/// Bit 0: no instruction asked for the event.
const EXTERNAL: u32 = 1;

/// Runs a program whose exception `vector` has no handler that is present.
fn check_double_fault<H: Hypervisor>(
    engine: &H,
    vector: u8,
    program: fn(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let mut guest = Guest::with_program(engine, program);
    guest.reporting_gate(8, 2, 0);
    let mut gate = states::gate(at::STUBS, 0, 0);
    gate[0] &= !(1 << 47);
    guest.gate(vector, gate);
    let mut state = guest.long_mode();
    state.gprs[usize::from(gpr::RBP)] = 1 << 47;
    state.idtr.limit = 0x40 * 16 - 1;
    assert_eq!(guest.run_from(&state).faults(), [(8, 0)], "{vector}");
    let stack = guest.state().gprs[usize::from(gpr::RSP)];
    assert_eq!(stack & !0xfff, at::IST, "{stack:#x}");
}

/// An invalid opcode, whose handler is not present.
fn without_handler<H: Hypervisor>(engine: &H) -> Guest<H> {
    let guest = Guest::with_program(engine, |a| a.ud2());
    let mut gate = states::gate(at::STUBS, 0, 0);
    gate[0] &= !(1 << 47);
    guest.gate(6, gate);
    guest
}

guests::on_every_processor! {
    /// #PF and contributory faults while another is delivered.
    fn double_faults_go_to_their_own_stack(engine) {
        check_double_fault(engine, 0, |a| a.div(ecx));
        check_double_fault(engine, 13, |a| a.int(0x40));
        check_double_fault(engine, 14, |a| a.mov(eax, dword_ptr(UNMAPPED)));
    }

    fn a_stack_fault_becomes_a_double_fault(engine) {
        check_double_fault(engine, 12, |a| a.mov(eax, dword_ptr(rbp)));
    }

    fn a_benign_exception_that_cannot_be_delivered_is_replaced(engine) {
        let mut guest = without_handler(engine);
        let vectors: Vec<_> = guest.run().traps.iter().map(|trap| trap.vector).collect();
        assert_eq!(vectors, [11]);
    }

    fn the_error_code_says_that_it_was_an_event(engine) {
        let mut guest = without_handler(engine);
        assert_eq!(guest.run().faults(), [(11, 6 * 8 + IDT + EXTERNAL)]);
    }

    /// The stack is unmapped: the page fault of the push becomes a double fault, on its own stack.
    fn an_overflown_stack_is_a_double_fault_with_its_address(engine) {
        let mut guest = Guest::with_program(engine, |a| a.push(rax));
        guest.reporting_gate(8, 2, 0);
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RSP)] = UNMAPPED + 0x10;
        let log = guest.run_from(&state);
        assert_eq!(log.faults(), [(8, 0)]);
        assert_eq!(log.traps[0].cr2 & !0xfff, UNMAPPED);
        assert_eq!(log.traps[0].rip, at::CODE);
    }

    fn a_fault_in_the_delivery_of_a_double_fault_shuts_down(engine) {
        let mut guest = Guest::with_program(engine, |a| a.ud2());
        let mut state = guest.long_mode();
        state.idtr.limit = 0;
        guest.set_state(&state);
        assert_eq!(guest.run_to_exit(Answer::None, &mut Log::default()), Exit::Shutdown);
        let state = guest.state();
        assert_eq!(state.rip, at::CODE, "at the instruction to blame");
    }
}
