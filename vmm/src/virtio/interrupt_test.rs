use super::*;
use crate::pci::msix::control;

#[derive(Default)]
struct Seen {
    line: Mutex<Vec<bool>>,
    messages: Mutex<Vec<u32>>,
}

fn interrupt(queues: usize) -> (Arc<Seen>, Interrupt) {
    let seen = Arc::new(Seen::default());
    let (line, send) = (Arc::clone(&seen), Arc::clone(&seen));
    let interrupt = Interrupt::new(
        queues,
        Arc::new(move |level| line.line.lock().unwrap().push(level)),
        Arc::new(move |message| send.messages.lock().unwrap().push(message.data)),
    );
    (seen, interrupt)
}

fn enable_messages(interrupt: &Interrupt, vectors: u32) {
    interrupt.with_msix(|msix| {
        for vector in 0..vectors {
            let at = u64::from(vector) * 16;
            msix.write_table(at + 8, &vector.to_le_bytes());
            msix.write_table(at + 12, &[0; 4]);
        }
        msix.set_control(control::ENABLE)
    });
}

#[test]
fn the_line_is_up_until_the_status_is_read() {
    let (seen, interrupt) = interrupt(2);
    interrupt.queue(1);
    interrupt.configuration();
    assert!(interrupt.is_line_up());
    assert_eq!(interrupt.take_status(), 3);
    assert_eq!(interrupt.take_status(), 0);
    assert_eq!(*seen.line.lock().unwrap(), [true, true, false, false]);
    assert!(seen.messages.lock().unwrap().is_empty());
}

#[test]
fn a_line_that_is_disabled_comes_up_when_it_is_not_any_more() {
    let (seen, interrupt) = interrupt(1);
    interrupt.set_line_disabled(true);
    interrupt.queue(0);
    interrupt.set_line_disabled(false);
    assert_eq!(*seen.line.lock().unwrap(), [false, false, true]);
}

#[test]
fn messages_are_sent_to_the_vectors_that_were_set() {
    let (seen, interrupt) = interrupt(2);
    enable_messages(&interrupt, 3);
    interrupt.set_vector(None, 0);
    interrupt.set_vector(Some(0), 1);
    interrupt.set_vector(Some(1), 2);
    interrupt.queue(1);
    interrupt.queue(0);
    interrupt.queue(7);
    interrupt.configuration();
    assert_eq!(*seen.messages.lock().unwrap(), [2, 1, 0]);
    assert!(seen.line.lock().unwrap().is_empty());
}

#[test]
fn a_vector_that_there_is_not_is_none() {
    let (seen, interrupt) = interrupt(1);
    enable_messages(&interrupt, 2);
    for vector in [2, 100, NO_VECTOR] {
        interrupt.set_vector(Some(0), vector);
        assert_eq!(interrupt.vector(Some(0)), NO_VECTOR);
    }
    interrupt.set_vector(Some(9), 0);
    interrupt.queue(0);
    assert!(seen.messages.lock().unwrap().is_empty());
}

#[test]
fn a_reset_is_asked_for_once_and_forgotten_by_it() {
    let (seen, interrupt) = interrupt(1);
    interrupt.ask_for_reset();
    interrupt.ask_for_reset();
    assert!(interrupt.needs_reset());
    assert_eq!(*seen.line.lock().unwrap(), [true]);
    interrupt.reset();
    assert!(!interrupt.needs_reset() && !interrupt.is_line_up());
}
