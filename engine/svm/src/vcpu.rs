//! [`SvmVcpu`]: one virtual processor, its VMCB and what of its state is not in there.
//!
//! Neighbours: `regs`, its registers; `enter`, the way into guest code and out; `resolve`, pages that it reached.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use arch_x86::emulate::debug::{dr6, dr7};
use arch_x86::engine::{EngineVcpu, Entry, Event, Features, Intercept};
use arch_x86::exception::Exception;
use arch_x86::hardware::{GuestFpu, Platform};
use arch_x86::mmu::Limits;
use arch_x86::regs::{Attr, Regs, Seg, Segment, SysReg, Table, cr0, xcr0};
use virt::Errno;
use virt::dirty_ring::DirtyRing;
use virt::memory::View;

use crate::asid::Assigned;
use crate::engine::Shared;
use crate::events;
use crate::intercepts::Intercepts;
use crate::nested::table::Reserve;
use crate::processor::{Native, Processor};
use crate::resolve::Waiting;
use crate::vmcb::clean;
use crate::vmcb::page::VmcbPage;

/// The guest's PAT, as after a reset. The run loop keeps what the guest writes; memory types are write-back's but for this.
const PAT: u64 = 0x0007_0406_0007_0406;

/// One virtual processor.
pub struct SvmVcpu<P: Platform, C: Processor = Native> {
    pub(crate) shared: Arc<Shared<P, C>>,
    pub(crate) id: u32,
    /// Tells it from all others of the host, and from itself before it had branches forgotten.
    pub(crate) number: u64,

    // The guest's state.
    pub(crate) vmcb: VmcbPage<P::Pages>,
    /// By their encoding. RAX and RSP are the VMCB's.
    pub(crate) gprs: [u64; 16],
    /// CR0's bits that the processor does not have: CD and NW.
    pub(crate) cr0_hidden: u64,
    /// CR4, as the guest has it.
    pub(crate) cr4: u64,
    /// DR0 to DR3.
    pub(crate) breakpoints: [u64; 4],
    /// DR6. The VMCB's says what an exception adds.
    pub(crate) dr6: u64,
    pub(crate) tsc_aux: u64,
    /// SPEC_CTRL.
    pub(crate) speculation_control: u64,
    pub(crate) xcr0: u64,
    pub(crate) fpu: P::Fpu,
    /// What comes out. NMIs' blocking is part of it.
    pub(crate) intercepts: Intercepts,

    // What is kept between two entries.
    pub(crate) view: View,
    pub(crate) reserve: Reserve<P::Pages>,
    pub(crate) asid: Assigned,
    /// Translations are to be dropped.
    pub(crate) flush: bool,
    /// How often they were because of the nested tables.
    pub(crate) flushes: u64,
    /// What `prepare` is to do.
    pub(crate) waiting: Waiting,
    /// The host has nothing at this guest-physical address.
    pub(crate) bad: Option<u64>,
    pub(crate) undelivered: Option<Event>,
    /// The #DB that comes when `undelivered`, whose delivery raised it, was delivered.
    pub(crate) behind: Option<Exception>,
}

impl<P: Platform, C: Processor> SvmVcpu<P, C> {
    /// One at reset. Process context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(shared: Arc<Shared<P, C>>, id: u32) -> Result<Self, Errno> {
        let platform = &shared.svm.platform;
        let mut vmcb = VmcbPage::new(platform)?;
        vmcb.iopm_base = shared.svm.permissions.ports();
        vmcb.msrpm_base = shared.svm.permissions.registers();
        vmcb.nested_paging = 1;
        vmcb.nested_cr3 = shared.nested.root();
        events::set_window(&mut vmcb, false);
        let mut vcpu = Self {
            id,
            number: shared.svm.vcpus.fetch_add(1, Ordering::Relaxed),
            vmcb,
            gprs: [0; 16],
            cr0_hidden: 0,
            cr4: 0,
            breakpoints: [0; 4],
            dr6: 0,
            tsc_aux: 0,
            speculation_control: 0,
            xcr0: 0,
            fpu: platform.fpu()?,
            intercepts: Intercepts::default(),
            view: shared.memory.view(),
            reserve: Reserve::default(),
            asid: Assigned::default(),
            flush: false,
            flushes: shared.nested.flushes(),
            waiting: Waiting::Nothing,
            bad: None,
            undelivered: None,
            behind: None,
            shared,
        };
        vcpu.reset_pat();
        vcpu.reset();
        vcpu.update_intercepts();
        Ok(vcpu)
    }

    /// Sets the registers as they are after a reset: as [`State::at_reset`](arch_x86::regs::State::at_reset), which is large for a stack.
    /// Vector registers are so already.
    fn reset(&mut self) {
        self.set_rip(0xfff0);
        self.set_rflags(0);
        self.set_efer(0);
        self.set_cr0(cr0::CD | cr0::NW | cr0::ET);
        self.set_cr4(0);
        let data = Segment { base: 0, limit: 0xffff, selector: 0, attr: Attr(0x93) };
        for seg in Seg::ALL {
            self.set_segment(
                seg,
                match seg {
                    Seg::Cs => {
                        Segment { base: 0xffff_0000, selector: 0xf000, attr: Attr(0x9b), ..data }
                    }
                    Seg::Ldtr => Segment { attr: Attr(0x82), ..data },
                    Seg::Tr => Segment { attr: Attr(0x8b), ..data },
                    _ => data,
                },
            );
        }
        let table = Table { base: 0, limit: 0xffff };
        self.set_gdtr(table);
        self.set_idtr(table);
        self.set_dr(6, dr6::FIXED);
        self.set_dr(7, dr7::FIXED);
        self.set_sysreg(SysReg::Xcr0, xcr0::X87);
    }

    /// Sets the guest's PAT.
    pub(crate) fn reset_pat(&mut self) {
        self.vmcb.g_pat = PAT;
        self.vmcb.clean = 0;
    }

    /// Sets the VMCB's intercepts, which something changed.
    pub(crate) fn update_intercepts(&mut self) {
        self.intercepts.write(&self.shared.svm.features, &mut self.vmcb);
    }
}

impl<P: Platform, C: Processor> EngineVcpu for SvmVcpu<P, C> {
    fn load(&mut self) {
        self.fpu.load();
    }

    fn put(&mut self) {
        self.fpu.put();
    }

    fn prepare(&mut self) -> Result<(), Errno> {
        self.resolve()
    }

    fn enter(&mut self, entry: &Entry, request: &AtomicU32) -> Intercept {
        self.run(entry, request)
    }

    fn take_undelivered(&mut self) -> Option<Event> {
        self.undelivered.take()
    }

    fn set_exception_intercepts(&mut self, vectors: u32) {
        self.intercepts.exceptions = vectors;
        self.update_intercepts();
    }

    fn set_features(&mut self, features: Features) {
        self.intercepts.offered = features;
        self.update_intercepts();
    }

    // Deviation: which bits of an entry are reserved is the processor's to say.
    fn set_limits(&mut self, _limits: Limits) {}

    fn set_speculation_control(&mut self, value: u64) {
        self.speculation_control = value;
    }

    fn forget_branches(&mut self) {
        // As another one it comes to each processor behind a barrier.
        self.number = self.shared.svm.vcpus.fetch_add(1, Ordering::Relaxed);
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.set(clean::INTERCEPTS, |vmcb| &mut vmcb.tsc_offset, offset);
    }

    fn set_dirty_ring(&mut self, ring: Arc<DirtyRing>) {
        self.view.set_ring(ring);
    }

    fn tsc(&self) -> u64 {
        self.shared.svm.platform.tsc().wrapping_add(self.vmcb.tsc_offset)
    }

    fn flush_tlb(&mut self) {
        self.flush = true;
    }
}
