//! [`Svm`]: the processors' SVM while the module is loaded; and [`Local`], what there is for each of them.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arch_x86::hardware::{Pages, Platform, Unusable, Virtualization};
use virt::{Errno, Memory};

use crate::asid::Asids;
use crate::engine::SvmEngine;
use crate::features::Features;
use crate::permissions::Permissions;
use crate::processor::{Native, Processor};

/// What there is for one processor. All but making it is done there, with interrupts off or the thread kept there.
pub struct Local<G> {
    /// SVM is on: guests may be run.
    on: AtomicBool,
    asids: Asids,
    /// Where VMRUN keeps the host's state.
    save_area: G,
    /// Where VMSAVE keeps the rest of it.
    host: G,
    /// The vCPU that was here last, by its number.
    last: AtomicU64,
    /// The host's TSC_AUX and XSS, which do not change.
    tsc_aux: AtomicU64,
    xss: AtomicU64,
}

impl<G: Pages> Local<G> {
    fn new(platform: &impl Platform<Pages = G>, asids: u32) -> Result<Self, Errno> {
        Ok(Self {
            on: AtomicBool::new(false),
            asids: Asids::new(asids),
            save_area: platform.pages(1)?,
            host: platform.pages(1)?,
            last: AtomicU64::new(u64::MAX),
            tsc_aux: AtomicU64::new(0),
            xss: AtomicU64::new(0),
        })
    }

    /// Whether SVM is on. With interrupts off it stays so: it is switched on and off there, by an interrupt.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Its ASIDs.
    pub fn asids(&self) -> &Asids {
        &self.asids
    }

    /// Where VMSAVE keeps what the processor has of the host.
    pub fn host(&self) -> u64 {
        self.host.physical()
    }

    /// The host's TSC_AUX.
    pub fn tsc_aux(&self) -> u64 {
        self.tsc_aux.load(Ordering::Relaxed)
    }

    /// The host's XSS.
    pub fn xss(&self) -> u64 {
        self.xss.load(Ordering::Relaxed)
    }

    /// A vCPU is here from now on. Whether another one was before.
    pub fn is_new(&self, number: u64) -> bool {
        self.last.swap(number, Ordering::Relaxed) != number
    }
}

/// SVM on all processors.
pub struct Svm<P: Platform, C: Processor = Native> {
    pub(crate) platform: P,
    pub(crate) processor: C,
    pub(crate) features: Features,
    pub(crate) permissions: Permissions<P::Pages>,
    /// How many vCPUs were made so far.
    pub(crate) vcpus: AtomicU64,
    locals: Box<[Local<P::Pages>]>,
}

impl<P: Platform, C: Processor> Svm<P, C> {
    /// The same as [`Virtualization::new`], on a processor that is handed in.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn on(platform: P, processor: C) -> Result<Self, Unusable> {
        let features = Features::of(&processor)?;
        let mut locals = Vec::new();
        let count = platform.processors();
        locals.try_reserve_exact(count as usize).map_err(|_| Unusable::Host(Errno::ENOMEM))?;
        for _ in 0..count {
            locals.push(Local::new(&platform, features.asids).map_err(Unusable::Host)?);
        }
        let permissions = Permissions::new(&platform).map_err(Unusable::Host)?;
        let locals = locals.into_boxed_slice();
        Ok(Self { platform, processor, features, permissions, vcpus: AtomicU64::new(0), locals })
    }

    /// What there is for a processor.
    pub(crate) fn local(&self, processor: u32) -> Option<&Local<P::Pages>> {
        self.locals.get(processor as usize)
    }
}

impl<P: Platform, C: Processor + Default> Virtualization<P> for Svm<P, C> {
    type Engine = SvmEngine<P, C>;

    fn new(platform: P) -> Result<Self, Unusable> {
        Self::on(platform, C::default())
    }

    fn enable(&self, processor: u32) -> Result<(), Unusable> {
        let local = self.local(processor).ok_or(Unusable::Host(Errno::EINVAL))?;
        if self.processor.is_on() {
            return Err(Unusable::InUse);
        }
        self.processor.switch_on(local.save_area.physical());
        local.asids.restart();
        if self.features.tsc_aux {
            local.tsc_aux.store(self.processor.tsc_aux(), Ordering::Relaxed);
        }
        if self.features.xsaves {
            local.xss.store(self.processor.xss(), Ordering::Relaxed);
        }
        local.on.store(true, Ordering::Release);
        Ok(())
    }

    fn disable(&self, processor: u32) {
        // A reboot does so while guests are run: who comes to the processor later must not try.
        if let Some(local) = self.local(processor) {
            local.on.store(false, Ordering::SeqCst);
        }
        self.processor.switch_off();
    }

    fn crash() {
        C::default().switch_off();
    }

    fn engine(self: &Arc<Self>, memory: Arc<Memory<P::RawMutex>>) -> Result<Self::Engine, Errno> {
        SvmEngine::new(Arc::clone(self), memory)
    }
}
