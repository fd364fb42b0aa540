//! The forms of instructions that are tested.

use std::collections::HashSet;

use arch_x86::regs::rflags;
use differential::forms::{Forms, Kind};
use differential::generate;
use iced_x86::{Code, FlowControl};

#[test]
fn what_programs_use_is_among_them() {
    let forms = Forms::new(Kind::Integer, true);
    for code in [
        Code::Add_rm64_r64,
        Code::Mov_r64_imm64,
        Code::Cmpxchg16b_m128,
        Code::Imul_r64_rm64_imm32,
        Code::Div_rm8,
        Code::Movsq_m64_m64,
        Code::Scasb_AL_m8,
        Code::Jrcxz_rel8_64,
        Code::Call_rm64,
        Code::Enterq_imm16_imm8,
        Code::VEX_Pdep_r64_r64_rm64,
        Code::Movbe_m64_r64,
        Code::Adox_r64_rm64,
        Code::Popfq,
    ] {
        assert!(forms.codes.contains(&code), "{code:?}");
    }
    assert!(!forms.codes.contains(&Code::Syscall));
}

#[test]
fn every_form_occurs() {
    let forms = Forms::new(Kind::Integer, true);
    let mut missing: HashSet<Code> = forms.codes.iter().copied().collect();
    let mut seed = 0;
    while !missing.is_empty() && seed < 100_000 {
        for instruction in generate::case(seed, &forms, true).instructions() {
            missing.remove(&instruction.code());
        }
        seed += 1;
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_seed_stands_for_one_case() {
    let forms = Forms::new(Kind::Integer, true);
    for seed in 0..1000 {
        let (one, other) = (generate::case(seed, &forms, true), generate::case(seed, &forms, true));
        assert_eq!((one.rip, &one.code, one.gprs), (other.rip, &other.code, other.gprs));
        assert!(one.rflags & rflags::IF != 0);
        let far = |i: iced_x86::Instruction| i.flow_control() == FlowControl::Interrupt;
        assert!(!one.instructions().any(|i| far(i) && i.code() != Code::Int3));
    }
}
