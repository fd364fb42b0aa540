//! Tests of what comes out, and of the permission maps.

use arch_x86::emulate::Feature;
use arch_x86::engine::Features as Offered;
use arch_x86::exception;
use arch_x86::hardware::Pages;

use crate::features::Features;
use crate::intercepts::Intercepts;
use crate::nested::table;
use crate::permissions::Permissions;
use crate::test_platform::{TestPages, TestPlatform};
use crate::vmcb::clean;
use crate::vmcb::page::VmcbPage;

const FEATURES: Features = Features {
    next_rip: false,
    clean_bits: false,
    flush_by_asid: false,
    decode_assists: false,
    pause_filter: true,
    pause_filter_threshold: true,
    invpcid: true,
    tsc_aux: true,
    xsave: true,
    xsaves: true,
    prediction_barrier: false,
    speculation_control: 0,
    asids: 8,
};

fn usual() -> Intercepts {
    Intercepts { offered: Offered::ALL, ..Intercepts::default() }
}

fn written(intercepts: Intercepts, features: &Features) -> VmcbPage<TestPages> {
    let mut vmcb = VmcbPage::new(&TestPlatform::new()).expect("memory");
    intercepts.write(features, &mut vmcb);
    vmcb
}

#[test]
fn what_always_comes_out() {
    let vmcb = written(usual(), &FEATURES);
    // Reads of CR8; writes of CR4 and CR8.
    assert_eq!(vmcb.intercept_cr, 1 << 8 | 1 << 20 | 1 << 24);
    assert_eq!(vmcb.intercept_dr, u32::MAX);
    assert_eq!(vmcb.intercept_exceptions, 1 << 1 | 1 << 6 | 1 << 17 | 1 << 18);
    // INTR, NMI, SMI, INIT, CR0, RDPMC, CPUID, RSM, INVD, PAUSE, HLT, INVLPGA, ports, MSRs, shutdown.
    let first = [0, 1, 2, 3, 5, 15, 18, 19, 22, 23, 24, 26, 27, 28, 31];
    let first: u32 = first.iter().map(|bit| 1 << bit).sum();
    // SVM's instructions, INT1, WBINVD, MONITOR, MWAIT, XSETBV, RDPRU.
    let second = 0x7f7f;
    assert_eq!(vmcb.intercepts, [first, second, 0]);
    assert_eq!((vmcb.pause_filter_count, vmcb.pause_filter_threshold), (3000, 128));
}

#[test]
fn what_comes_out_at_times() {
    let base = written(usual(), &FEATURES);
    let bits = |intercepts: Intercepts| {
        let vmcb = written(intercepts, &FEATURES);
        let words = [0, 1, 2].map(|n| vmcb.intercepts[n] ^ base.intercepts[n]);
        (
            vmcb.intercept_cr ^ base.intercept_cr,
            vmcb.intercept_exceptions ^ base.intercept_exceptions,
            words,
        )
    };
    assert_eq!(bits(Intercepts { cr0_differs: true, ..usual() }), (1 | 1 << 16, 0, [0; 3]));
    assert_eq!(bits(Intercepts { cr4_differs: true, ..usual() }), (1 << 4, 0, [0; 3]));
    assert_eq!(bits(Intercepts { nmi_blocked: true, ..usual() }), (0, 0, [1 << 20, 0, 0]));
    assert_eq!(bits(Intercepts { window: true, ..usual() }), (0, 0, [1 << 4, 0, 0]));
    let offered = Offered::ALL.with(Feature::Rdtscp, false);
    assert_eq!(bits(Intercepts { offered, ..usual() }), (0, 0, [0, 1 << 7, 0]));
    let offered = Offered::ALL.with(Feature::Invpcid, false);
    assert_eq!(bits(Intercepts { offered, ..usual() }), (0, 0, [0, 0, 1 << 2]));
    let exceptions = 1 << exception::BP | 1 << exception::PF;
    assert_eq!(bits(Intercepts { exceptions, ..usual() }), (0, exceptions, [0; 3]));
    // Vector 2 is no exception's, and what is not defined stays 0.
    let exceptions = u32::MAX;
    let all = 0x000f_7dfb & !(1 << 1 | 1 << 6 | 1 << 17 | 1 << 18);
    assert_eq!(bits(Intercepts { exceptions, ..usual() }), (0, all, [0; 3]));
}

#[test]
fn a_processor_without_the_third_word_gets_none() {
    let offered = Offered::default();
    let features =
        Features { invpcid: false, pause_filter: false, pause_filter_threshold: false, ..FEATURES };
    let vmcb = written(Intercepts { offered, ..usual() }, &features);
    assert_eq!(vmcb.intercepts[2], 0);
    assert_eq!(vmcb.intercepts[0] & 1 << 23, 0);
    assert_eq!((vmcb.pause_filter_count, vmcb.pause_filter_threshold), (0, 0));
}

#[test]
fn the_processor_reads_them_again_only_if_they_changed() {
    let mut vmcb = written(usual(), &FEATURES);
    vmcb.clean = clean::ALL;
    usual().write(&FEATURES, &mut vmcb);
    assert_eq!(vmcb.clean, clean::ALL);
    Intercepts { window: true, ..usual() }.write(&FEATURES, &mut vmcb);
    assert_eq!(vmcb.clean, clean::ALL & !clean::INTERCEPTS);
}

#[test]
fn the_maps_let_nothing_pass() {
    let permissions = Permissions::new(&TestPlatform::new()).expect("memory");
    let (ports, registers) = permissions.maps();
    assert_eq!(
        (ports.physical(), registers.physical()),
        (permissions.ports(), permissions.registers())
    );
    let bit = |map: &TestPages, at: usize| table::byte(map, at / 8) >> (at % 8) & 1 != 0;
    // The last are for accesses of several bytes that begin at the last port.
    for port in [0, 0x3f8, 0xcf8, 0xcfc, 0xffff, 0x1_0000, 0x1_0002] {
        assert!(bit(ports, port), "{port:#x}");
    }
    // Two bits each, the read's first: 0 to 1fff, c0000000 to c0001fff, c0010000 to c0011fff.
    let number = |msr: usize| match msr {
        0..=0x1fff => msr,
        0xc000_0000..=0xc000_1fff => 0x2000 + (msr & 0x1fff),
        _ => 0x4000 + (msr & 0x1fff),
    };
    let (tsc, efer, fs, kernel_gs, vm_cr) =
        (0x10, 0xc000_0080, 0xc000_0100, 0xc000_0102, 0xc001_0114);
    for msr in [0, tsc, 0x1fff, 0xc000_0000, efer, fs, kernel_gs, 0xc001_0000, vm_cr, 0xc001_1fff] {
        assert!(bit(registers, number(msr) * 2) && bit(registers, number(msr) * 2 + 1), "{msr:#x}");
    }
}
