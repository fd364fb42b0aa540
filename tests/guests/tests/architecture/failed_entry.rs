//! A state that the processor does not enter a guest in: only hardware virtualization has such.

use guests::x86::{Answer, Attr, Seg};
use guests::{Guest, Hypervisor, Vcpu, programs};

/// 64-bit code that is 32-bit code as well, which a hypervisor does not look for. See: AMD APM vol. 2, 15.5.1.
fn a_processor_that_refuses_to_enter_says_why_and_where(engine: &impl Hypervisor) {
    let mut guest = Guest::with_program(engine, programs::end);
    let mut state = guest.long_mode();
    let code = &mut state.segments[Seg::Cs as usize].attr;
    *code = Attr(code.0 | Attr::L | Attr::DB);
    guest.set_state(&state);
    let error = guest.vcpus[0].run(Answer::None).expect_err("no way in").to_string();
    // Where that is, the processor of the nest does not keep.
    let rip = guest.state().rip;
    let bytes: Vec<_> = guest.memory.read::<15>(rip).map(|byte| format!("{byte:02x}")).into();
    for part in [
        &format!("processor 0 of the guest cannot go on at {rip:#x}"),
        &format!("(instruction bytes: {}): ", bytes.join(" ")),
        "refuses to enter the guest, with reason 0xffffffff",
        ": the guest's registers are no valid state",
    ] {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

mod kvm {
    #[test]
    fn a_processor_that_refuses_to_enter_says_why_and_where() {
        super::a_processor_that_refuses_to_enter_says_why_and_where(&guests::kvm::open());
    }
}

mod module {
    #[test]
    fn a_processor_that_refuses_to_enter_says_why_and_where() {
        super::a_processor_that_refuses_to_enter_says_why_and_where(&guests::kvm::open_module());
    }
}
