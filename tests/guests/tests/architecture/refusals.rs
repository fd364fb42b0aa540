//! What a machine does not take, and where a vCPU can't go on: said with what to do.

use guests::x86::{Answer, Exit};
use guests::{Error, Guest, Log, Vm, at, code_asm::*};
use hv::{Irqchip, VmConfig};

/// The message of an error.
fn refused<T>(result: Result<T, Error>) -> String {
    result.err().expect("it can't be done").to_string()
}

guests::on_every_engine! {
    fn a_vcpu_is_made_once_and_where_there_is_place(engine) {
        let guest = Guest::with_cpus(engine, 2);
        let twice = refused(guest.vm.create_vcpu(1));
        assert!(twice.contains("cannot make vCPU 1: the machine has it already: "), "{twice}");
        for id in [2, u32::MAX] {
            let beyond = refused(guest.vm.create_vcpu(id));
            let told = format!("cannot make vCPU {id}: the machine has no place for it: ");
            assert!(beyond.contains(&told), "{beyond}");
        }
    }

    fn more_vcpus_than_there_can_be_are_refused(engine) {
        for cpus in [1 << 20, u32::MAX] {
            let many = refused(engine.create_vm(VmConfig { cpus, irqchip: Irqchip::default() }));
            assert!(many.contains("a guest has at most ") && many.contains("fewer"), "{many}");
        }
    }

    /// An instruction that can't be fetched is none that an engine has.
    fn a_jump_to_where_there_is_no_memory_comes_out_there(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rax, at::NOWHERE)?;
            a.jmp(rax)
        });
        let exit = guest.run_to_exit(Answer::None, &mut Log::default());
        assert!(matches!(exit, Exit::Unsupported { len: 0, .. }), "{exit:?}");
        assert_eq!(guest.state().rip, at::NOWHERE);
    }
}
