//! That what differs is found: registers reach the processor and come back, and each is compared.

use differential::case::{Case, End, Outcome};
use differential::compare::differences;
use differential::forms::{Forms, Kind, Permits};
use differential::generate;
use differential::guest::Guest;
use differential::host::Host;
use differential::latitude::Free;
use differential::layout::{CODE, IMAGE};
use differential::vendor::Vendor;

/// A NOP on registers of a random case.
fn nop(seed: u64, forms: &Forms) -> Case {
    let case = generate::case(seed, forms, false);
    Case { rip: CODE, code: vec![vec![0x90]], rflags: 0x202, ..case }
}

#[test]
fn the_host_leaves_vector_registers_as_they_were_loaded() {
    let forms = Forms::new(Kind::Vector, Vendor::host(), Permits::NONE);
    let (mut host, mut outcome) = (Host::new(), Outcome::default());
    for seed in 0..100 {
        let case = nop(seed, &forms);
        host.run(&case, &[0; IMAGE], &mut outcome);
        assert_eq!(outcome.end, End::Exception { vector: 3, error: 0 });
        let (vector, loaded) = (&outcome.vector, &case.vector);
        if is_x86_feature_detected!("avx") {
            assert_eq!(vector.upper, loaded.upper);
        }
        let expected = Outcome { vector: vector.clone(), ..Outcome::default() };
        let mut actual = Outcome { vector: loaded.clone(), ..Outcome::default() };
        actual.vector.upper = vector.upper;
        assert_eq!(differences(&expected, &actual, &Free::default()), "", "seed {seed}");
    }
}

#[test]
fn a_case_starts_with_null_selectors() {
    let forms = Forms::new(Kind::Integer, Vendor::host(), Permits::NONE);
    let (mut host, mut outcome) = (Host::new(), Outcome::default());
    // MOV DS, EAX with Linux's selector of flat data.
    let mut load = Case { code: vec![vec![0x8e, 0xd8]], ..nop(1, &forms) };
    load.gprs[0] = 0x2b;
    for (case, expected) in [(&load, [0, 0x2b, 0, 0]), (&nop(2, &forms), [0; 4])] {
        host.run(case, &[0; IMAGE], &mut outcome);
        assert_eq!(outcome.end, End::Exception { vector: 3, error: 0 });
        assert_eq!(outcome.selectors, expected);
    }
}

#[test]
fn the_jit_translates_and_the_interpreter_does_not() {
    let forms = Forms::new(Kind::Integer, Vendor::host(), Permits::NONE);
    let (mut interpreter, mut jit) = (Guest::interpreter(), Guest::jit());
    let mut outcome = Outcome::default();
    for n in 1..=10 {
        // ADD EAX, n; one that is there no longer is not executed again.
        let case = Case { code: vec![vec![0x83, 0xc0, n]], ..nop(1, &forms) };
        for guest in [&mut interpreter, &mut jit] {
            guest.run(&case, &[0; IMAGE], &mut outcome);
            assert_eq!(outcome.end, End::Exception { vector: 3, error: 0 });
            let sum = (case.gprs[0] as u32).wrapping_add(n.into());
            assert_eq!(outcome.gprs[0], sum.into());
        }
        // The case, and the handler of INT3 once.
        assert_eq!((interpreter.translated(), jit.translated()), (0, u64::from(n) + 1));
    }
}

#[test]
fn selectors_are_compared() {
    let outcome = |ds| Outcome { selectors: [0, ds, 0, 0], ..Outcome::default() };
    let differ = |one, other| differences(&outcome(one), &outcome(other), &Free::default());
    assert!(differ(0x2b, 0).contains("ds") && differ(0x2b, 0x28).contains("ds"));
    // The level of a null one does not last.
    assert_eq!(differ(3, 0), "");
}

#[test]
fn every_vector_register_is_compared() {
    let changes: [fn(&mut Outcome); 8] = [
        |outcome| outcome.vector.fx.set_xmm(15, 1 << 127),
        |outcome| outcome.vector.upper[7] = 1,
        |outcome| outcome.vector.set_st(7, 1 << 79),
        |outcome| outcome.vector.set_control(0x37e, 0),
        |outcome| outcome.vector.set_control(0x37f, 1 << 14),
        |outcome| outcome.vector.set_tags(0x80),
        |outcome| outcome.vector.fx.set_mxcsr(0x1f81),
        |outcome| outcome.image[IMAGE - 1] = 1,
    ];
    for change in changes {
        let (same, mut changed) = (Outcome::default(), Outcome::default());
        change(&mut changed);
        assert_eq!(differences(&same, &changed, &Free::default()).lines().count(), 1);
        assert_eq!(differences(&same, &same, &Free::default()), "");
    }
}

#[test]
fn what_is_free_is_not_compared() {
    let (same, mut changed) = (Outcome::default(), Outcome::default());
    changed.vector.set_control(0x37f, 7 << 11);
    changed.vector.fx.set_mxcsr(0x1fa0);
    changed.image[5] = 1;
    let mut free = Free { fsw: 7 << 11, mxcsr: 1 << 5, ..Free::default() };
    free.memory.push(4..6);
    assert_eq!(differences(&same, &changed, &free), "");
}
