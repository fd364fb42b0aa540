//! Events: what is injected into the guest, [`inject`]; and what an exit kept from being delivered, [`undelivered`].
//!
//! The window for interrupts is a virtual interrupt of the highest priority ([`set_window`]): the processor comes out where it would take
//! it, before it does. The one for NMIs needs nothing: while they are blocked IRET comes out, and the run loop executes it, and with
//! that ends the blocking.
//!
//! INT3's and INTO's exceptions are injected as such, with RIP behind the instruction, as the run loop sets it: no next RIP is needed. When the
//! guest's own one was not delivered RIP is still at the instruction, which is executed again, as INT n is.
//!
//! See: AMD APM vol. 2, 15.7.2 (EXITINTINFO), 15.20 (EVENTINJ), 15.21.4 (virtual interrupts).

use arch_x86::emulate::debug::dr6;
use arch_x86::engine::Event;
use arch_x86::exception::{self, Exception};
use arch_x86::regs::cr0;

use crate::vmcb::{Vmcb, clean, virtual_interrupt};

/// Fields of EVENTINJ and EXITINTINFO.
pub mod field {
    #![allow(missing_docs, reason = "the names are the manual's")]
    pub const INTERRUPT: u64 = 0;
    pub const NMI: u64 = 2 << 8;
    pub const EXCEPTION: u64 = 3 << 8;
    pub const TYPE: u64 = 7 << 8;
    pub const ERROR_VALID: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
    pub const ERROR_SHIFT: u32 = 32;
}

/// Has VMRUN deliver an event first. What goes with it in CR2, DR6 and DR7 is for the caller to set.
pub fn inject(vmcb: &mut Vmcb, event: Event) {
    vmcb.event_injection = field::VALID
        | match event {
            Event::Interrupt { vector } => field::INTERRUPT | u64::from(vector),
            Event::Nmi => field::NMI | u64::from(exception::NMI),
            Event::Exception(exception) => {
                // In real mode none has an error code.
                let error = exception.error.filter(|_| vmcb.cr0 & cr0::PE != 0);
                let code = error
                    .map_or(0, |error| field::ERROR_VALID | u64::from(error) << field::ERROR_SHIFT);
                field::EXCEPTION | u64::from(exception.vector & 0x1f) | code
            }
        };
}

/// The event whose delivery the exit kept from being finished. `injected` is the one that VMRUN was to deliver.
pub fn undelivered(vmcb: &Vmcb, guest_dr6: u64, injected: Option<Event>) -> Option<Event> {
    let info = vmcb.exit_int_info;
    if info & field::VALID == 0 {
        return None;
    }
    let vector = info as u8;
    match info & field::TYPE {
        field::INTERRUPT => Some(Event::Interrupt { vector }),
        field::NMI => Some(Event::Nmi),
        field::EXCEPTION => {
            let was_injected =
                matches!(injected, Some(Event::Exception(own)) if own.vector == vector);
            if matches!(vector, exception::BP | exception::OF) && !was_injected {
                return None;
            }
            let error = (info >> field::ERROR_SHIFT) as u32;
            Some(Event::Exception(Exception {
                vector,
                error: (info & field::ERROR_VALID != 0).then_some(error),
                // The registers have it already.
                payload: match vector {
                    exception::PF => vmcb.cr2,
                    exception::DB => guest_dr6 & dr6::WRITABLE,
                    _ => 0,
                },
            }))
        }
        // INT n, which is executed again.
        _ => None,
    }
}

/// Has the guest come out as soon as it is open for an interrupt, or not.
pub fn set_window(vmcb: &mut Vmcb, on: bool) {
    let window =
        virtual_interrupt::IRQ | virtual_interrupt::PRIORITY | virtual_interrupt::IGNORE_TPR;
    let word = virtual_interrupt::MASKING | if on { window } else { 0 };
    vmcb.set(clean::INTERRUPT, |vmcb| &mut vmcb.virtual_interrupt, word);
}
