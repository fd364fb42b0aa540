//! [`SoftEngine`]: the software CPU of one VM, and what its vCPUs share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arch_x86::cpuid::Instructions;
use arch_x86::engine::Engine;
use lock_api::RawMutex;
use virt::Errno;
use virt::memory::{Memory, View};

use crate::code_map::CodeMap;
use crate::jit::Jit;
use crate::modes::Modes;
use crate::polled::Polled;
use crate::ram::Probe;
use crate::vcpu::SoftVcpu;
use crate::vector::{self, Extension};

/// How much the software CPU may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Decoded instructions (32 bytes each, and about as much again for what they are found by) that all
    /// vCPUs together may keep.
    pub code_instructions: usize,
    /// Pages with decoded code (a bit over 4 KiB each) that all vCPUs together may keep.
    pub code_pages: usize,
    /// Bytes of translated code that all vCPUs together may keep; 0: nothing is translated.
    pub translated: usize,
    /// How many times a block is interpreted before it is translated.
    pub patience: u32,
    /// Translated code counts instructions, and it is measured how long translating takes, at some cost. The
    /// interpreter always counts.
    pub counted: bool,
    /// Each translated block is executed by the interpreter, too, and has to do the same. Not with more than
    /// one vCPU: another one could change memory in between.
    pub lockstep: bool,
    /// Whoever writes to memory otherwise than by guest code says so, by [`Engine::wrote`]. If not, what was decoded is compared with
    /// memory after each time that somebody might have.
    pub writes_are_told: bool,
    /// For tests: how code is executed otherwise than usual.
    pub modes: Modes,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            code_instructions: 512 << 10,
            code_pages: 3072,
            translated: 32 << 20,
            patience: 32,
            counted: false,
            lockstep: false,
            writes_are_told: false,
            modes: Modes::USUAL,
        }
    }
}

/// Where the slots come from.
pub(crate) trait Slots: Send + std::marker::Sync {
    fn view(&self) -> View;
}

impl<R: RawMutex + Send + std::marker::Sync> Slots for Memory<R> {
    fn view(&self) -> View {
        Memory::view(self)
    }
}

/// What the vCPUs of one VM share.
pub(crate) struct Shared {
    pub memory: Arc<dyn Slots>,
    pub options: Options,
    /// Who is asked whether a page of a slot is there.
    pub probe: Option<Probe>,
    /// How many vCPUs share the limits of `options`.
    pub vcpus: AtomicUsize,
    /// Held during a locked access that crosses a page: see `SoftVcpu::update_across`.
    pub split_lock: Mutex<()>,
}

/// Bits of [`Sync::waiting`].
mod waiting {
    /// An invalidation.
    pub const INVALIDATION: u32 = 1 << 0;
    /// The VMM's request word has changed.
    pub const KICK: u32 = 1 << 1;
}

/// Lets one thread wait until a vCPU no longer uses an old mapping.
#[derive(Default)]
pub(crate) struct Sync {
    /// The vCPU is in guest code.
    inside: AtomicBool,
    /// What the vCPU is to come out of translated code for: bits of [`waiting`].
    polled: Polled,
    /// Of which pages there may be decoded code.
    pub code: CodeMap,
    /// How many invalidations were asked for, and how many of them are done.
    asked: AtomicU64,
    done: AtomicU64,
}

impl Sync {
    /// The vCPU enters guest code.
    pub fn enter(&self) {
        // Sequentially consistent, as `ask`: either this sees that an invalidation waits, or
        // `ask` sees that the vCPU is inside.
        self.inside.store(true, Ordering::SeqCst);
    }

    /// The vCPU has left guest code.
    pub fn leave(&self) {
        self.inside.store(false, Ordering::Release);
    }

    /// Not 0 if the run loop has something to look at.
    #[inline(always)]
    pub fn waiting(&self) -> u32 {
        self.polled.word()
    }

    /// Whether an invalidation waits for the vCPU.
    pub fn wants_invalidation(&self) -> bool {
        self.waiting() & waiting::INVALIDATION != 0
    }

    /// Has the vCPU come to its run loop, by its own thread.
    pub fn look(&self) {
        self.polled.set(waiting::KICK);
    }

    /// The vCPU looks at the request word from now on.
    pub fn take_kick(&self) {
        self.polled.clear(waiting::KICK);
    }

    /// What translated code looks at.
    pub const fn polled(&self) -> &Polled {
        &self.polled
    }

    /// Invalidates by calling `invalidate`, and tells who waits.
    pub fn acknowledge(&self, invalidate: impl FnOnce()) {
        // In this order: what is asked for meanwhile sets the bit again.
        self.polled.clear(waiting::INVALIDATION);
        let asked = self.asked.load(Ordering::SeqCst);
        invalidate();
        self.done.store(asked, Ordering::Release);
    }

    /// Asks for an invalidation and waits until it is done, or certain to be done before
    /// the vCPU executes guest code again.
    fn ask(&self) {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.polled.set(waiting::INVALIDATION);
        while self.inside.load(Ordering::SeqCst) && self.done.load(Ordering::Acquire) < ticket {
            // At the end of its block, microseconds from now if it has a processor.
            std::thread::yield_now();
        }
    }
}

/// Brings one vCPU out of guest code, without a lock: also from a signal's handler on its own thread.
#[derive(Clone)]
pub struct Kicker(Arc<Sync>);

impl Kicker {
    pub(crate) fn of(sync: &Arc<Sync>) -> Self {
        Self(Arc::clone(sync))
    }

    /// Has the vCPU look at its request word.
    pub fn kick(&self) {
        self.0.polled.set(waiting::KICK);
    }
}

/// The software CPU of one VM.
pub struct SoftEngine {
    shared: Arc<Shared>,
    vcpus: Mutex<Vec<(u32, Arc<Sync>)>>,
}

impl SoftEngine {
    /// The software CPU over the slots of `memory`.
    ///
    /// # Safety
    /// Every slot that is ever in `memory` lies at a host virtual address where that many bytes are
    /// mapped readable, and writable unless the slot is read-only, from before it is
    /// inserted until it has been removed and [`Engine::invalidate`] has
    /// returned. No Rust reference to any of these bytes lives meanwhile. Where nothing is mapped, an access is a fault of the
    /// process's, which [`probing`](Self::probing) makes rare.
    pub unsafe fn new<R: RawMutex + Send + std::marker::Sync + 'static>(
        memory: Arc<Memory<R>>,
        options: Options,
    ) -> Self {
        // The two ways are compared by how far they come, too.
        let counted = options.counted || options.lockstep;
        let options = Options { counted, ..options };
        let shared = Shared {
            memory,
            options,
            probe: None,
            vcpus: AtomicUsize::new(0),
            split_lock: Mutex::new(()),
        };
        Self { shared: Arc::new(shared), vcpus: Mutex::default() }
    }

    /// Has `probe` asked whether a page is there when a vCPU finds it in a slot: where it is not, an access comes out
    /// as [`Intercept::BadMemory`](arch_x86::engine::Intercept), and is no fault of the process. To be said before there are vCPUs.
    ///
    /// # Panics
    /// When there are.
    #[must_use]
    pub fn probing(mut self, probe: Probe) -> Self {
        let shared =
            Arc::get_mut(&mut self.shared).expect("nobody shares it before there are vCPUs");
        shared.probe = Some(probe);
        self
    }

    /// Whether this host lets code be translated.
    ///
    /// # Errors
    /// The host's reason.
    pub fn can_translate() -> std::io::Result<()> {
        Jit::new(0, true).map(drop)
    }
}

/// What `arch_x86::emulate` has, beside what CPUID always offers.
const INTEGER: Instructions = Instructions {
    // CMPXCHG16B, MOVBE, POPCNT, RDRAND.
    leaf1_ecx: 1 << 13 | 1 << 22 | 1 << 23 | 1 << 30,
    leaf1_edx: 0,
    // BMI1, BMI2, RDSEED, ADX, CLFLUSHOPT, CLWB.
    leaf7_ebx: 1 << 3 | 1 << 8 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 24,
    leaf7_ecx: 0,
    leaf7_edx: 0,
    // LAHF, LZCNT, PREFETCHW.
    extended1_ecx: 1 << 0 | 1 << 5 | 1 << 8,
    extended1_edx: 0,
    leaf_d1_eax: 0,
    extended8_ebx: 0,
    extended21_eax: 0,
};

impl Engine for SoftEngine {
    type Vcpu = SoftVcpu;

    fn create_vcpu(&self, id: u32) -> Result<SoftVcpu, Errno> {
        let sync = Arc::new(Sync::default());
        let mut vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of vCPUs that are gone are nobody else's.
        vcpus.retain(|(_, sync)| Arc::strong_count(sync) > 1);
        vcpus.push((id, Arc::clone(&sync)));
        self.shared.vcpus.store(vcpus.len(), Ordering::Relaxed);
        Ok(SoftVcpu::new(Arc::clone(&self.shared), sync))
    }

    fn instructions(&self) -> Instructions {
        instructions()
    }

    fn invalidate(&self, _start: u64, _size: u64) {
        // All is dropped: slots change seldom.
        let vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (_, sync) in vcpus {
            sync.ask();
        }
    }

    fn wrote(&self, start: u64, size: u64) {
        let vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        vcpus.iter().for_each(|(_, sync)| sync.code.wrote(start, size));
    }

    fn kick(&self, id: u32) {
        // Translated code looks at one word.
        let vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, sync) in vcpus.iter().filter(|(of, _)| *of == id) {
            sync.polled.set(waiting::KICK);
        }
    }
}

/// The instructions that the software CPU runs on this host, beside those that every host's does.
#[must_use]
pub fn instructions() -> Instructions {
    vector::offered().fold(INTEGER, |all, extension| match extension {
        // FPU, MMX, FXSR, SSE, SSE2.
        Extension::Base => Instructions { leaf1_edx: all.leaf1_edx | 0x0780_0001, ..all },
        Extension::Sse3 => Instructions { leaf1_ecx: all.leaf1_ecx | 1, ..all },
        Extension::Pclmulqdq => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 1, ..all },
        Extension::Ssse3 => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 9, ..all },
        Extension::Sse41 => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 19, ..all },
        Extension::Sse42 => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 20, ..all },
        Extension::Aes => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 25, ..all },
        Extension::Sha => Instructions { leaf7_ebx: all.leaf7_ebx | 1 << 29, ..all },
        Extension::Avx => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 28, ..all },
        Extension::Fma => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 12, ..all },
        Extension::F16c => Instructions { leaf1_ecx: all.leaf1_ecx | 1 << 29, ..all },
        Extension::Avx2 => Instructions { leaf7_ebx: all.leaf7_ebx | 1 << 5, ..all },
        Extension::Vaes => Instructions { leaf7_ecx: all.leaf7_ecx | 1 << 9, ..all },
        Extension::Vpclmulqdq => Instructions { leaf7_ecx: all.leaf7_ecx | 1 << 10, ..all },
    })
}
