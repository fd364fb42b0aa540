//! [`Features`]: what of SVM the processor has. All but nested paging is used where it is there, and not needed.
//!
//! See: AMD APM vol. 2, 15.1.1, 15.4; vol. 3, CPUID leafs 8000_0001, 8000_0008 and 8000_000A.

use arch_x86::hardware::Unusable;

use crate::processor::Processor;

/// What the processor has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The VMCB has the RIP of the next instruction.
    pub next_rip: bool,
    /// It looks at the clean bits.
    pub clean_bits: bool,
    /// It can flush the translations of one ASID.
    pub flush_by_asid: bool,
    /// EXITINFO1 has the general-purpose register of a MOV CR.
    pub decode_assists: bool,
    /// It counts PAUSEs.
    pub pause_filter: bool,
    /// It counts only those in a tight loop.
    pub pause_filter_threshold: bool,
    /// INVPCID and the like can be intercepted: the third word of intercepts is there.
    pub invpcid: bool,
    /// RDTSCP, or RDPID, and with either TSC_AUX.
    pub tsc_aux: bool,
    /// XSAVE, and with it XCR0.
    pub xsave: bool,
    /// XSAVES, and with it XSS.
    pub xsaves: bool,
    /// Indirect branches can be kept from being predicted by what ran before (IBPB).
    pub prediction_barrier: bool,
    /// The bits that SPEC_CTRL has; 0: there is none.
    pub speculation_control: u64,
    /// The number of address spaces, the host's among them.
    pub asids: u32,
}

/// Firmware keeps it from being switched on. See: AMD APM vol. 2, 15.30.1.
const VM_CR_SVMDIS: u64 = 1 << 4;

/// SPEC_CTRL's bits by leaf 8000_0008's EBX: IBRS, STIBP, SSBD, PSFD. See: AMD APM vol. 2, 3.2.9.
const fn speculation_control(ebx: u32) -> u64 {
    let [ibrs, stibp, ssbd, psfd] = [ebx >> 14 & 1, ebx >> 15 & 1, ebx >> 24 & 1, ebx >> 28 & 1];
    (ibrs | stibp << 1 | ssbd << 2 | psfd << 7) as u64
}

impl Features {
    /// Looks what the processor has.
    ///
    /// # Errors
    /// If it lacks what is needed, or it is locked.
    pub fn of(processor: &impl Processor) -> Result<Self, Unusable> {
        let extended = |function: u32| {
            let highest = processor.cpuid(0x8000_0000, 0)[0];
            if function <= highest { processor.cpuid(function, 0) } else { [0; 4] }
        };
        let has = |word: u32, bit: u32| word >> bit & 1 != 0;
        let [_, _, ecx, edx] = extended(0x8000_0001);
        if !has(ecx, 2) {
            return Err(Unusable::Lacks("SVM"));
        }
        if processor.vm_cr() & VM_CR_SVMDIS != 0 {
            return Err(Unusable::Locked);
        }
        let [_, asids, _, svm] = extended(0x8000_000a);
        if !has(svm, 0) {
            return Err(Unusable::Lacks("nested paging"));
        }
        if asids < 2 {
            return Err(Unusable::Lacks("address space identifiers"));
        }
        let highest = processor.cpuid(0, 0)[0];
        let basic = |function, index| {
            if function <= highest { processor.cpuid(function, index) } else { [0; 4] }
        };
        let [leaf1, leaf7] = [basic(1, 0), basic(7, 0)];
        let speculation = extended(0x8000_0008)[1];
        let xsave = has(leaf1[2], 26) && has(leaf1[2], 27);
        Ok(Self {
            next_rip: has(svm, 3),
            clean_bits: has(svm, 5),
            flush_by_asid: has(svm, 6),
            decode_assists: has(svm, 7),
            pause_filter: has(svm, 10),
            pause_filter_threshold: has(svm, 10) && has(svm, 12),
            invpcid: has(leaf7[1], 10),
            tsc_aux: has(edx, 27) || has(leaf7[2], 22),
            xsave,
            xsaves: xsave && has(basic(0xd, 1)[0], 3),
            prediction_barrier: has(speculation, 12),
            speculation_control: speculation_control(speculation),
            asids,
        })
    }
}
