//! What AMD's processors do otherwise than everybody else's in 64-bit mode. Which the guest has follows
//! from the host; in compatibility mode see [`crate::compatibility`].
//! See: AMD APM vol. 3, 1.2.2, CALL (near), RET (near), PREFETCH; Intel SDM vol. 2, the same.

use guests::programs::{end, report};
use guests::x86::gpr;
use guests::{Guest, Hypervisor, at, code_asm::*};

/// Whether the processor says that it is AMD's (or Hygon's).
pub fn is_amd<H: Hypervisor>(engine: &H) -> bool {
    let log = Guest::with_program(engine, |a| {
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.mov(eax, ebx)?;
        report(a)?;
        end(a)
    })
    .run();
    [*b"Auth", *b"Hygo"].contains(&log.values[0].to_le_bytes())
}

guests::on_every_engine! {
    /// With an operand-size prefix they have 16 bits on AMD's.
    fn near_branches(engine) {
        let amd = is_amd(engine);
        // CALL; JMP, both by 0xbffa from the end of what Intel's take for it.
        let call = [0x66, 0xe8, 0xfa, 0xbf, 0, 0];
        let jump = [0x66, 0xe9, 0xfa, 0xbf, 0, 0];
        for (code, pushed) in [(call, true), (jump, false)] {
            let mut guest = Guest::new(engine);
            guest.memory.write(at::CODE, &code);
            let targets = [at::CODE16 - 2, at::CODE + 0xc000];
            for (n, target) in (1..).zip(targets) {
                guest.code(target, |a| {
                    // RAX is what was pushed: the word is zero-extended by what lies below.
                    a.mov(edx, at::STACK as u32)?;
                    a.sub(edx, esp)?;
                    a.movzx(ecx, word_ptr(rsp))?;
                    a.mov(eax, n)?;
                    report(a)?;
                    a.mov(eax, edx)?;
                    report(a)?;
                    a.mov(eax, ecx)?;
                    report(a)?;
                    end(a)
                });
            }
            let mut state = guest.long_mode();
            state.gprs[usize::from(gpr::RSP)] = at::STACK;
            let expected = match (amd, pushed) {
                (true, true) => [1, 2, at::CODE as u32 as u16 as u32 + 4],
                (true, false) => [1, 0, 0],
                (false, true) => [2, 8, at::CODE as u32 as u16 as u32 + 6],
                (false, false) => [2, 0, 0],
            };
            assert_eq!(guest.run_from(&state).values, expected, "{code:x?}");
        }
    }

    /// RET with an operand-size prefix.
    fn near_returns(engine) {
        let amd = is_amd(engine);
        let targets = [at::CODE16, at::DATA | at::CODE16];
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(rax, targets[1])?;
            a.push(rax)?;
            a.db(&[0x66, 0xc3])
        });
        for (n, target) in (1..).zip(targets) {
            guest.code(target, |a| {
                a.mov(eax, n)?;
                report(a)?;
                a.mov(eax, at::STACK as u32)?;
                a.sub(eax, esp)?;
                report(a)?;
                end(a)
            });
        }
        let mut state = guest.long_mode();
        state.gprs[usize::from(gpr::RSP)] = at::STACK;
        assert_eq!(guest.run_from(&state).values, if amd { [1, 6] } else { [2, 0] });
    }

    /// 0F 0D with a register.
    fn prefetches_of_registers(engine) {
        let amd = is_amd(engine);
        let log = Guest::with_program(engine, |a| {
            a.db(&[0x0f, 0x0d, 0xc8])?;
            end(a)
        })
        .run();
        assert_eq!(log.faults(), if amd { vec![(6, 0)] } else { vec![] });
    }
}
