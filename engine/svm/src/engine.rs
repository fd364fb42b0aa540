//! [`SvmEngine`]: SVM for the vCPUs of one machine, and what they share; and who takes pages away from them.

use alloc::sync::Arc;

use arch_x86::cpuid::Instructions;
use arch_x86::engine::Engine;
use arch_x86::hardware::{HostPages, Platform};
use arch_x86::regs::xcr0;
use virt::{Errno, Memory};

use crate::nested::Nested;
use crate::presence::Presence;
use crate::processor::{Native, Processor};
use crate::vcpu::SvmVcpu;
use crate::virtualization::Svm;

/// What the vCPUs of one machine share.
pub struct Shared<P: Platform, C: Processor> {
    pub(crate) svm: Arc<Svm<P, C>>,
    pub(crate) memory: Arc<Memory<P::RawMutex>>,
    pub(crate) nested: Nested<P>,
    pub(crate) presence: Presence,
}

impl<P: Platform, C: Processor> Shared<P, C> {
    /// Returns when no processor can use what was taken out of the nested tables. Not with interrupts off.
    fn flush(&self) {
        self.nested.flush(|| {
            self.presence.processors().for_each(|at| self.svm.platform.interrupt_and_wait(at));
        });
    }
}

/// SVM for one machine.
pub struct SvmEngine<P: Platform, C: Processor = Native> {
    pub(crate) shared: Arc<Shared<P, C>>,
}

impl<P: Platform, C: Processor> SvmEngine<P, C> {
    pub(crate) fn new(
        svm: Arc<Svm<P, C>>,
        memory: Arc<Memory<P::RawMutex>>,
    ) -> Result<Self, Errno> {
        let nested = Nested::new(&svm.platform, svm.processor.cr4(), memory.view())?;
        let presence = Presence::new()?;
        Ok(Self { shared: Arc::new(Shared { svm, memory, nested, presence }) })
    }
}

/// Instructions on general-purpose, x87, SSE and AVX registers, which are the state that a guest has.
const KNOWN: Instructions = Instructions {
    // SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, AVX, F16C, RDRAND.
    leaf1_ecx: 0x72d8_3203,
    // FPU, MMX, FXSR, SSE, SSE2.
    leaf1_edx: 0x0780_0001,
    // BMI1, AVX2, BMI2, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA.
    leaf7_ebx: 1 << 3 | 1 << 5 | 1 << 8 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 29,
    // VAES, VPCLMULQDQ.
    leaf7_ecx: 1 << 9 | 1 << 10,
    leaf7_edx: 0,
    // LAHF, LZCNT, PREFETCHW.
    extended1_ecx: 1 << 0 | 1 << 5 | 1 << 8,
    extended1_edx: 0,
    leaf_d1_eax: 0,
    // IBPB; IBRS, STIBP, and how they are best used (16 to 19); SSBD, PSFD; IBPB covers returns.
    extended8_ebx: 1 << 12 | 0x3f << 14 | 1 << 24 | 1 << 28 | 1 << 30,
    // IBPB covers all kinds of branches.
    extended21_eax: 1 << 28,
};

/// What CPUID offers on every host, and a guest has only if the processor does.
const NATIVE: Instructions = Instructions {
    // PCID, XSAVE.
    leaf1_ecx: 1 << 17 | 1 << 26,
    leaf1_edx: 0,
    // FSGSBASE, SMEP, INVPCID, SMAP.
    leaf7_ebx: 1 << 0 | 1 << 7 | 1 << 10 | 1 << 20,
    // UMIP, LA57, RDPID.
    leaf7_ecx: 1 << 2 | 1 << 16 | 1 << 22,
    // SERIALIZE.
    leaf7_edx: 1 << 14,
    // LAHF in 64-bit mode.
    extended1_ecx: 1 << 0,
    // 1 GiB pages, RDTSCP.
    extended1_edx: 1 << 26 | 1 << 27,
    // XSAVEOPT, XSAVEC, XGETBV of register 1.
    leaf_d1_eax: 0b111,
    // XSAVE and XRSTOR always have the last x87 instruction; no speculative store bypass, no branch type confusion.
    extended8_ebx: 1 << 2 | 1 << 26 | 1 << 29,
    // LFENCE serialises, null selectors clear the base, no SRSO.
    extended21_eax: 1 << 2 | 1 << 6 | 1 << 29,
};

/// In leaf 8000_0021's EAX: EFER can switch it on, which no guest's can. Deviation.
const AUTOMATIC_IBRS: u32 = 1 << 8;

/// What needs the upper halves of vector registers.
const AVX: Instructions = Instructions {
    // FMA, AVX, F16C.
    leaf1_ecx: 1 << 12 | 1 << 28 | 1 << 29,
    leaf1_edx: 0,
    // AVX2.
    leaf7_ebx: 1 << 5,
    // VAES, VPCLMULQDQ.
    leaf7_ecx: 1 << 9 | 1 << 10,
    leaf7_edx: 0,
    extended1_ecx: 0,
    extended1_edx: 0,
    leaf_d1_eax: 0,
    extended8_ebx: 0,
    extended21_eax: 0,
};

impl<P: Platform, C: Processor> SvmEngine<P, C> {
    /// What is AVX's, where the host has that switched off: no guest can have it then, whatever CPUID says.
    fn without_avx(&self) -> Instructions {
        let svm = &self.shared.svm;
        let has = svm.features.xsave && svm.processor.xcr0() & xcr0::AVX != 0;
        if has { Instructions::default() } else { AVX }
    }
}

impl<P: Platform, C: Processor> Engine for SvmEngine<P, C> {
    type Vcpu = SvmVcpu<P, C>;

    fn create_vcpu(&self, id: u32) -> Result<Self::Vcpu, Errno> {
        self.shared.presence.add(id)?;
        SvmVcpu::new(Arc::clone(&self.shared), id)
    }

    fn instructions(&self) -> Instructions {
        let processor = &self.shared.svm.processor;
        let has = KNOWN.on(&|function, index| processor.cpuid(function, index));
        let off = self.without_avx();
        Instructions {
            leaf1_ecx: has.leaf1_ecx & !off.leaf1_ecx,
            leaf7_ebx: has.leaf7_ebx & !off.leaf7_ebx,
            leaf7_ecx: has.leaf7_ecx & !off.leaf7_ecx,
            ..has
        }
    }

    fn lacks(&self) -> Instructions {
        let processor = &self.shared.svm.processor;
        let has = NATIVE.on(&|function, index| processor.cpuid(function, index));
        let off = self.without_avx();
        Instructions {
            leaf1_ecx: NATIVE.leaf1_ecx & !has.leaf1_ecx | off.leaf1_ecx,
            leaf1_edx: NATIVE.leaf1_edx & !has.leaf1_edx,
            leaf7_ebx: NATIVE.leaf7_ebx & !has.leaf7_ebx | off.leaf7_ebx,
            leaf7_ecx: NATIVE.leaf7_ecx & !has.leaf7_ecx | off.leaf7_ecx,
            leaf7_edx: NATIVE.leaf7_edx & !has.leaf7_edx,
            extended1_ecx: NATIVE.extended1_ecx & !has.extended1_ecx,
            extended1_edx: NATIVE.extended1_edx & !has.extended1_edx,
            leaf_d1_eax: NATIVE.leaf_d1_eax & !has.leaf_d1_eax,
            extended8_ebx: NATIVE.extended8_ebx & !has.extended8_ebx,
            extended21_eax: NATIVE.extended21_eax & !has.extended21_eax | AUTOMATIC_IBRS,
        }
    }

    fn invalidate(&self, start: u64, size: u64) {
        let shared = &*self.shared;
        while !shared.nested.adopt(|| shared.memory.view()) {
            shared.svm.platform.yield_now();
        }
        shared.nested.renew(start, start.saturating_add(size));
        shared.flush();
    }

    fn kick(&self, id: u32) {
        if let Some(processor) = self.shared.presence.processor(id) {
            self.shared.svm.platform.interrupt(processor);
        }
    }
}

impl<P: Platform, C: Processor> HostPages for SvmEngine<P, C> {
    fn change(&self, start: u64, end: u64) {
        self.shared.nested.change(start, end);
        self.shared.flush();
    }

    fn changed(&self, _start: u64, _end: u64) {
        self.shared.nested.changed();
    }
}
