//! Test bodies of the table that Linux's KVM is given.

use selftest::{cases, check, check_eq};
use virt::Errno;

use super::{Leaf, Table, kernel_table};

/// What a kernel answers: with these bits everywhere.
fn table(vendor: [u8; 12], deadline: bool, place: [u32; 2]) -> Result<Table, Errno> {
    let [_, ebx, edx, ecx] = [0, 0, 4, 8].map(|at: usize| {
        u32::from_le_bytes([vendor[at], vendor[at + 1], vendor[at + 2], vendor[at + 3]])
    });
    let leaf = move |function, index| -> Leaf {
        match (function, index) {
            (0 | 0x8000_0000, _) => [0x20, ebx, ecx, edx],
            (0x4000_0000, _) => [0x4000_0001, 1, 2, 3],
            (1, _) => [0xb0_0f21, 0x2_0800, 0x0120_2000, 0x178b_fbff],
            (4, 0) => [0xfc00_4121, 5, 6, 7],
            (4, 3) => [0xfc00_4163, 5, 6, 7],
            (7, 0) => [2, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff],
            (0x8000_0001, _) => [0, 0, 1 << 22 | 1 << 1 | 1, 0xff],
            (0x8000_0008, _) => [0x3030, 77, 0x7fff, 0],
            (0xd, 5) => [64, 832, 0, 0],
            (0xb | 0x1f | 0x8000_001e, _) => [9; 4],
            _ => [0; 4],
        }
    };
    let questions = [
        (0, None),
        (1, None),
        (4, Some(0)),
        (4, Some(1)),
        (4, Some(3)),
        (7, Some(0)),
        (0xb, Some(0)),
        (0xd, Some(5)),
        (0x1f, Some(0)),
        (0x4000_0000, None),
        (0x8000_0000, None),
        (0x8000_0001, None),
        (0x8000_0008, None),
        (0x8000_001e, None),
    ];
    kernel_table(questions.into_iter(), leaf, deadline, place, 2_500_000)
}

cases! {
    fn what_the_kernel_supports_is_offered() {
        let amd = table(*b"AuthenticAMD", true, [2, 4]).unwrap_or_default();
        check_eq!(amd.answer(7, 0), [2, u32::MAX, u32::MAX, u32::MAX]);
        check_eq!(amd.answer(0xd, 5), [64, 832, 0, 0]);
        check_eq!(amd.answer(0x8000_0008, 0)[..2], [0x3030, 77]);
        check_eq!(amd.answer(0x4000_0000, 0), [0x4000_0010, 1, 2, 3]);
        check_eq!(amd.answer(0x4000_0010, 0), [2_500_000, 1_000_000, 0, 0]);
        check_eq!(amd.answer(0x15, 0), [0; 4]);
        let intel = table(*b"GenuineIntel", true, [2, 4]).unwrap_or_default();
        check_eq!(intel.answer(0x15, 0), [1000, 2_500_000, 1_000_000, 0]);
    }

    fn the_machines_topology_is_its_own() {
        let amd = table(*b"AuthenticAMD", false, [2, 4]).unwrap_or_default();
        // 4 processors, of which it is the third; a hypervisor, no deadline.
        check_eq!(amd.answer(1, 0), [0xb0_0f21, 0x0204_0800, 0x8120_2000, 0x178b_fbff]);
        check_eq!(amd.answer(0xb, 1), [2, 4, 2 << 8 | 1, 2]);
        check_eq!(amd.answer(0x8000_0008, 0)[2], 2 << 12 | 3);
        check_eq!(amd.answer(0x8000_0001, 0)[2], 1 << 1 | 1);
        check_eq!((amd.answer(0x1f, 0), amd.answer(0x8000_001e, 0)), ([0; 4], [0; 4]));
        let alone = table(*b"AuthenticAMD", true, [0, 1]).unwrap_or_default();
        check_eq!(alone.answer(1, 0)[2] >> 24 & 1, 1);
        check_eq!(alone.answer(1, 0)[3] >> 28 & 1, 0);
        check_eq!(alone.answer(0x8000_0001, 0)[2], 1);
        // The third level is everyone's.
        let intel = table(*b"GenuineIntel", true, [1, 4]).unwrap_or_default();
        check_eq!(intel.answer(4, 0)[0], 0x0121 | 3 << 26);
        check_eq!(intel.answer(4, 3)[0], 0x0163 | 3 << 14 | 3 << 26);
        check!(intel.get(4, 1).is_none());
        check_eq!(intel.answer(0x8000_0008, 0)[2], 0);
    }
}
