//! Test bodies of [`super::inbox`].

use alloc::vec::Vec;

use selftest::{cases, check, check_eq};

use super::inbox::{Inbox, request};

fn interrupts(inbox: &Inbox) -> Vec<(u8, bool)> {
    let mut taken = Vec::new();
    inbox.take_interrupts(|vector, level| taken.push((vector, level)));
    taken
}

cases! {
    fn interrupts_come_out_once_with_their_trigger_mode() {
        let inbox = Inbox::default();
        check!(!inbox.is_full());
        for (vector, level) in [(0x20, false), (0x3f, true), (0x40, false), (0xff, true)] {
            inbox.post_interrupt(vector, level);
        }
        inbox.post_interrupt(0x20, false);
        check!(inbox.is_full());
        check_eq!(inbox.take(0).request, request::INTERRUPT);
        check_eq!(interrupts(&inbox), [(0x20, false), (0x3f, true), (0x40, false), (0xff, true)]);
        check!(interrupts(&inbox).is_empty());
        check!(!inbox.is_full());
        // The mode is that of the last post.
        inbox.post_interrupt(0xff, false);
        check_eq!(interrupts(&inbox), [(0xff, false)]);
    }

    fn requests_are_taken_together_or_kept() {
        let inbox = Inbox::default();
        inbox.post(request::NMI);
        inbox.post(request::EXIT);
        inbox.post_startup(0x9a);
        let mail = inbox.take(request::EXIT);
        check_eq!((mail.request, mail.startup_vector), (request::NMI | request::STARTUP, 0x9a));
        check!(inbox.is_full());
        check_eq!(inbox.take(0).request, request::EXIT);
    }
}
