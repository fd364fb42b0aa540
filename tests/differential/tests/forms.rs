//! The forms of instructions that are tested.

use std::collections::HashSet;

use arch_x86::regs::rflags;
use differential::coverage::Coverage;
use differential::forms::{Forms, Kind, Permits, behind_wait};
use differential::generate;
use differential::vendor::Vendor;
use iced_x86::{Code, CpuidFeature, EncodingKind};

#[test]
fn what_programs_use_is_among_them() {
    let forms = Forms::new(Kind::Integer, Vendor::host(), Permits::ALL);
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
fn what_vector_programs_use_is_among_them() {
    let forms = Forms::new(Kind::Vector, Vendor::host(), Permits::ALL);
    let is_everywhere = |code: &Code| {
        code.op_code().encoding() == EncodingKind::Legacy || is_x86_feature_detected!("avx2")
    };
    for code in [
        Code::Addps_xmm_xmmm128,
        Code::Pshufb_mm_mmm64,
        Code::Maskmovdqu_rDI_xmm_xmm,
        Code::Ldmxcsr_m32,
        Code::Fxrstor64_m512byte,
        Code::Fnsave_m108byte,
        Code::Fbstp_m80bcd,
        Code::Fcomi_st0_sti,
        Code::Wait,
        Code::Emms,
        Code::VEX_Vaddps_ymm_ymm_ymmm256,
        Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm,
        Code::VEX_Vpgatherqq_ymm_vm64y_ymm,
        Code::VEX_Vmaskmovps_m256_ymm_ymm,
    ]
    .into_iter()
    .filter(is_everywhere)
    {
        assert!(forms.codes.contains(&code), "{code:?}");
    }
}

#[test]
fn every_form_of_what_any_host_has_is_tested_or_named() {
    for vendor in Vendor::ALL {
        let coverage = Coverage::new(vendor, Permits::ALL);
        if vendor == Vendor::host() {
            println!("{coverage}");
        }
        let (tested, all) = coverage.figure();
        let full = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("sha");
        assert!(tested * 100 >= all * if full { 95 } else { 60 }, "{coverage}");
        // What the engine executes on every host.
        let basic = |feature: &CpuidFeature| {
            use CpuidFeature::{FPU, FPU287, FPU387, FXSR, MMX, SSE, SSE2};
            matches!(feature, FPU | FPU287 | FPU387 | FXSR | MMX | SSE | SSE2)
        };
        let lost =
            coverage.not_executed.iter().filter(|code| code.cpuid_features().iter().all(basic));
        assert_eq!(lost.collect::<Vec<_>>(), Vec::<&Code>::new());
    }
}

#[test]
fn near_branches_have_16_bits_on_amds_only() {
    let [amd, intel] = Vendor::ALL.map(|vendor| Forms::new(Kind::Integer, vendor, Permits::ALL));
    for code in
        [Code::Je_rel8_16, Code::Jmp_rel16, Code::Call_rm16, Code::Retnw, Code::Jrcxz_rel8_16]
    {
        assert!(amd.codes.contains(&code) && !intel.codes.contains(&code), "{code:?}");
    }
    // 47 near branches, and UD0 without operands.
    assert_eq!(Coverage::new(Vendor::Intel, Permits::ALL).not_this_vendors.len(), 48);
}

#[test]
fn prefixes_that_branches_ignore_occur() {
    let forms = Forms::new(Kind::Integer, Vendor::Intel, Permits::ALL);
    let mut missing = HashSet::from([
        Code::Je_rel8_64,
        Code::Je_rel32_64,
        Code::Jmp_rel8_64,
        Code::Jmp_rel32_64,
        Code::Call_rel32_64,
        Code::Call_rm64,
        Code::Jmp_rm64,
        Code::Retnq,
        Code::Retnq_imm16,
        Code::Loop_rel8_64_RCX,
        Code::Jrcxz_rel8_64,
    ]);
    for case in (0..200_000).map(|seed| generate::case(seed, &forms, true)) {
        for (instruction, bytes) in case.instructions().zip(&case.code) {
            if bytes[0] == 0x66 {
                missing.remove(&instruction.code());
            }
        }
        if missing.is_empty() {
            return;
        }
    }
    panic!("{missing:?}");
}

#[test]
fn every_form_occurs() {
    for vendor in Vendor::ALL {
        every_form_of_a_kind_occurs(Kind::Integer, vendor);
        every_form_of_a_kind_occurs(Kind::Vector, vendor);
    }
}

fn every_form_of_a_kind_occurs(kind: Kind, vendor: Vendor) {
    let forms = Forms::new(kind, vendor, Permits::ALL);
    let mut missing: HashSet<Code> = forms.codes.iter().copied().collect();
    let mut seed = 0;
    while !missing.is_empty() && seed < 100_000 {
        let mut last = Code::INVALID;
        for instruction in generate::case(seed, &forms, true).instructions() {
            let code = instruction.code();
            missing.remove(&code);
            if last == Code::Wait {
                missing.retain(|missing| behind_wait(*missing) != Some(code));
            }
            last = code;
        }
        seed += 1;
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_seed_stands_for_one_case() {
    let kinds =
        [Kind::Integer, Kind::Vector].map(|kind| Forms::new(kind, Vendor::host(), Permits::ALL));
    for (seed, forms) in (0..2000).flat_map(|seed| kinds.iter().map(move |forms| (seed, forms))) {
        let (one, other) = (generate::case(seed, forms, true), generate::case(seed, forms, true));
        assert_eq!((one.rip, &one.code, one.gprs), (other.rip, &other.code, other.gprs));
        assert!(one.vector == other.vector && one.patches == other.patches);
        assert!(one.rflags & rflags::IF != 0);
        for instruction in one.instructions() {
            let calls = instruction.code() == Code::Int_imm8 && instruction.immediate8() == 0x80;
            assert!(
                !calls && instruction.code() != Code::Int1 && instruction.code() != Code::Syscall
            );
        }
    }
}
