//! ioeventfds, the writes that signal an event, and irqfds, the events that raise an interrupt.

use std::sync::Arc;

use guests::programs::{end, report_number};
use guests::x86::{Answer, Data, Exit, gpr};
use guests::{Guest, Hypervisor, IcedError, Log, Vm, at, code_asm::*, port};
use hv::{Error, Event, EventFd, IoAddress, IoEventFd};

use crate::apic::{MASKED, enable_x2apic, handler, register, reporting_handler, window, write};
use crate::ioapic::redirect;
use crate::waking;

/// A port of nobody's.
const PORT: u16 = port::FREE as u16;
/// An address of nobody's.
const PLACE: u64 = at::NOWHERE;
/// By a write to this port the guest hands over to the host.
const ASK: u32 = 0xd8;
/// An input of the I/O APIC.
const INPUT: u32 = 5;
/// Its vector.
const VECTOR: u32 = 0x61;

// See: Linux, include/uapi/asm-generic/errno-base.h.
const ENOENT: i32 = 2;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

fn event() -> EventFd {
    EventFd::new().expect("an eventfd")
}

fn one(at: IoAddress, size: u8, data: Option<u64>) -> IoEventFd {
    IoEventFd { at, size, data, event: event() }
}

fn on_port(size: u8, data: Option<u64>) -> IoEventFd {
    one(IoAddress::Port(PORT), size, data)
}

fn on_mmio(size: u8, data: Option<u64>) -> IoEventFd {
    one(IoAddress::Mmio(PLACE), size, data)
}

/// Adds it; gives its event.
fn add<H: Hypervisor>(guest: &Guest<H>, new: &IoEventFd) -> EventFd {
    guest.vm.add_ioeventfd(new.clone()).expect("an ioeventfd");
    new.event.clone()
}

/// Why it is refused.
fn refusal(result: Result<(), Error>) -> Option<i32> {
    match result {
        Ok(()) => None,
        Err(Error::Event { error, .. }) => error.raw_os_error(),
        Err(other) => panic!("{other}"),
    }
}

/// Runs the guest to its end, and calls `asked` whenever it hands over; gives what else came out.
fn run<H: Hypervisor>(guest: &mut Guest<H>, mut asked: impl FnMut(&Guest<H>)) -> (Vec<Exit>, Log) {
    let (mut log, mut exits) = (Log::default(), Vec::new());
    loop {
        match guest.run_to_exit(Answer::None, &mut log) {
            Exit::Out { port: number, .. } if u32::from(number) == port::END => {
                return (exits, log);
            }
            Exit::Out { port: number, .. } if u32::from(number) == ASK => asked(guest),
            exit => exits.push(exit),
        }
    }
}

/// The same for a program, with these registers and an event each for `new`: gives their counts, and the exits.
fn counts<H: Hypervisor>(
    engine: &H,
    new: &[IoEventFd],
    registers: &[(u8, u64)],
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> (Vec<u64>, Vec<Exit>) {
    let mut guest = Guest::with_registers(engine, registers, program);
    let events: Vec<_> = new.iter().map(|one| add(&guest, one)).collect();
    let (exits, _) = run(&mut guest, |_| panic!("nothing is asked for"));
    (events.iter().map(EventFd::take).collect(), exits)
}

fn out(size: u8, bytes: &[u8]) -> Exit {
    Exit::Out { port: PORT, size, data: Data::new(bytes) }
}

fn store(bytes: &[u8]) -> Exit {
    Exit::MmioWrite { gpa: PLACE, data: Data::new(bytes) }
}

/// Hands over to the host.
fn ask(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(ASK, al)
}

/// The input interrupts, and the program hands over.
fn with_input(a: &mut CodeAssembler) -> Result<(), IcedError> {
    enable_x2apic(a)?;
    redirect(a, INPUT, VECTOR)?;
    ask(a)
}

/// Its handler counts at [`at::DATA`].
fn counting_handler<H: Hypervisor>(guest: &Guest<H>) {
    handler(guest, VECTOR as u8, |a| {
        a.inc(dword_ptr(at::DATA))?;
        write(a, register::END_OF_INTERRUPT, 0)
    });
}

/// Waits, spinning, until it has counted so far.
fn wait_until(a: &mut CodeAssembler, count: u32) -> Result<(), IcedError> {
    crate::apic::wait_for(a, at::DATA, count, false)?;
    a.cli()
}

guests::on_every_irqchip! {
    fn a_write_of_any_size_signals(engine) {
        let new = [on_port(0, None), on_mmio(0, None)];
        let registers = [(gpr::RDX, PORT.into()), (gpr::RBX, PLACE)];
        let (counts, exits) = counts(engine, &new, &registers, |a| {
            a.out(dx, al)?;
            a.out(dx, ax)?;
            a.out(dx, eax)?;
            a.mov(byte_ptr(rbx), al)?;
            a.mov(word_ptr(rbx), ax)?;
            a.mov(dword_ptr(rbx), eax)?;
            a.mov(qword_ptr(rbx), rax)
        });
        assert_eq!((counts, exits), (vec![3, 4], vec![]));
    }

    fn a_write_of_another_size_or_elsewhere_is_an_exit(engine) {
        let new = [on_port(2, None), on_mmio(4, None)];
        let registers = [(gpr::RDX, PORT.into()), (gpr::RBX, PLACE), (gpr::RAX, 0x4433_2211)];
        let (counts, exits) = counts(engine, &new, &registers, |a| {
            a.out(dx, al)?;
            a.out(dx, ax)?;
            a.out(dx, eax)?;
            a.inc(edx)?;
            a.out(dx, ax)?;
            a.mov(byte_ptr(rbx), al)?;
            a.mov(dword_ptr(rbx), eax)?;
            a.mov(qword_ptr(rbx), rax)
        });
        assert_eq!(counts, [1, 1]);
        let next = Exit::Out { port: PORT + 1, size: 2, data: Data::new(&[0x11, 0x22]) };
        let bytes = [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0];
        let expected = [out(1, &bytes[..1]), out(4, &bytes[..4]), next, store(&bytes[..1]), store(&bytes)];
        assert_eq!(exits, expected);
    }

    fn a_read_is_an_exit(engine) {
        let new = [on_port(1, None), on_mmio(4, None)];
        let registers = [(gpr::RDX, PORT.into()), (gpr::RBX, PLACE)];
        let (counts, exits) = counts(engine, &new, &registers, |a| {
            a.in_(al, dx)?;
            a.mov(eax, dword_ptr(rbx))
        });
        assert_eq!(counts, [0, 0]);
        let read = Exit::MmioRead { gpa: PLACE, size: 4 };
        assert_eq!(exits, [Exit::In { port: PORT, size: 1, count: 1 }, read]);
    }

    fn the_value_chooses_the_event(engine) {
        let values = [Some(7), Some(0x1_0000)];
        let new = values.map(|value| on_port(4, value)).into_iter();
        let new: Vec<_> = new.chain(values.map(|value| on_mmio(8, value))).collect();
        let registers = [(gpr::RDX, PORT.into()), (gpr::RBX, PLACE)];
        let (counts, exits) = counts(engine, &new, &registers, |a| {
            for value in [7, 0x1_0000, 8, 7] {
                a.mov(eax, value)?;
                a.out(dx, eax)?;
                a.mov(qword_ptr(rbx), rax)?;
            }
            // Its low half is right.
            a.bts(rax, 40)?;
            a.mov(qword_ptr(rbx), rax)
        });
        assert_eq!(counts, [2, 1, 2, 1]);
        let expected = [out(4, &[8, 0, 0, 0]), store(&[8, 0, 0, 0, 0, 0, 0, 0]), store(&[7, 0, 0, 0, 0, 1, 0, 0])];
        assert_eq!(exits, expected);
    }

    fn each_element_of_a_string_counts(engine) {
        let registers = [(gpr::RDX, PORT.into()), (gpr::RCX, 100), (gpr::RSI, at::DATA)];
        let (counts, exits) = counts(engine, &[on_port(2, None)], &registers, |a| a.rep().outsw());
        assert_eq!((counts, exits), (vec![100], vec![]));
    }

    fn each_element_of_a_string_is_matched(engine) {
        let registers = [(gpr::RDX, PORT.into()), (gpr::RCX, 4), (gpr::RSI, at::DATA)];
        let (counts, exits) = counts(engine, &[on_port(1, Some(1))], &registers, |a| {
            a.mov(dword_ptr(at::DATA), 0x0102_0101)?;
            a.rep().outsb()
        });
        assert_eq!((counts, exits), (vec![3], vec![out(1, &[2])]));
    }

    fn what_is_removed_is_an_exit_again(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            a.mov(edx, u32::from(PORT))?;
            a.mov(ebx, PLACE as u32)?;
            for _ in 0..3 {
                a.out(dx, al)?;
                a.mov(byte_ptr(rbx), al)?;
                ask(a)?;
            }
            end(a)
        });
        let both = [on_port(1, None), on_mmio(1, None)];
        let mut changes = [true, false].into_iter();
        let (exits, _) = run(&mut guest, |guest| match changes.next() {
            Some(true) => drop(both.each_ref().map(|one| add(guest, one))),
            Some(false) => for one in &both {
                guest.vm.remove_ioeventfd(one).expect("it is there");
                assert_eq!(refusal(guest.vm.remove_ioeventfd(one)), Some(ENOENT));
            },
            None => {}
        });
        let exit = [out(1, &[0]), store(&[0])];
        assert_eq!(exits, [exit, exit].concat());
        assert_eq!(both.map(|one| one.event.take()), [1, 1]);
    }

    fn two_for_one_write_and_what_no_write_can_be_are_refused(engine) {
        let guest = Guest::new(engine);
        let result = |new: IoEventFd| refusal(guest.vm.add_ioeventfd(new));
        for at in [IoAddress::Port(PORT), IoAddress::Mmio(PLACE)] {
            assert_eq!(result(one(at, 4, Some(1))), None);
            assert_eq!(result(one(at, 4, Some(1))), Some(EEXIST));
            assert_eq!(result(one(at, 4, None)), Some(EEXIST));
            assert_eq!(result(one(at, 0, None)), Some(EEXIST));
            assert_eq!(result(one(at, 4, Some(2))), None);
            assert_eq!(result(one(at, 1, None)), None);
            assert_eq!(result(one(at, 3, None)), Some(EINVAL));
            assert_eq!(result(one(at, 0, Some(1))), Some(EINVAL));
        }
        assert_eq!(result(one(IoAddress::Mmio(u64::MAX), 2, None)), Some(EINVAL));
        let other = IoEventFd { event: event(), ..on_port(1, None) };
        assert_eq!(refusal(guest.vm.remove_ioeventfd(&other)), Some(ENOENT));
    }

    fn an_event_interrupts_as_often_as_it_is_signalled(engine) {
        const TIMES: u32 = 100;
        let mut guest = Guest::with_program(engine, |a| {
            with_input(a)?;
            for count in 1..=TIMES {
                wait_until(a, count)?;
                ask(a)?;
            }
            window(a)?;
            end(a)
        });
        counting_handler(&guest);
        let event = event();
        guest.vm.add_irqfd(INPUT, &event).expect("an irqfd");
        let mut left = TIMES;
        run(&mut guest, |_| if left > 0 {
            left -= 1;
            event.signal();
        });
        assert_eq!((guest.memory.read_u32(at::DATA), event.take()), (TIMES, 0));
    }

    fn an_event_wakes_hlt(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            redirect(a, INPUT, VECTOR)?;
            waking::halt_each_round(a)
        });
        handler(&guest, VECTOR as u8, |a| {
            waking::count(a)?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        let event = event();
        guest.vm.add_irqfd(INPUT, &event).expect("an irqfd");
        assert_eq!(waking::run(&mut guest, move || event.signal()), [waking::ROUNDS]);
    }

    fn what_was_signalled_before_counts(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            with_input(a)?;
            wait_until(a, 1)?;
            end(a)
        });
        counting_handler(&guest);
        let event = event();
        event.signal();
        run(&mut guest, |guest| guest.vm.add_irqfd(INPUT, &event).expect("an irqfd"));
        assert_eq!(guest.memory.read_u32(at::DATA), 1);
    }

    /// The interrupt is what the entry says at the time.
    fn an_event_follows_its_inputs_entry(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            enable_x2apic(a)?;
            redirect(a, INPUT, VECTOR | MASKED)?;
            for vector in [VECTOR, VECTOR + 1] {
                redirect(a, INPUT, vector)?;
                ask(a)?;
                crate::apic::wait_for(a, at::DATA, vector, true)?;
                a.cli()?;
            }
            end(a)
        });
        for vector in [VECTOR, VECTOR + 1] {
            handler(&guest, vector as u8, |a| {
                report_number(a, vector)?;
                a.mov(dword_ptr(at::DATA), vector as i32)?;
                write(a, register::END_OF_INTERRUPT, 0)
            });
        }
        let event = event();
        guest.vm.add_irqfd(INPUT, &event).expect("an irqfd");
        let (_, log) = run(&mut guest, |_| event.signal());
        assert_eq!(log.values, [VECTOR, VECTOR + 1]);
    }

    /// What is signalled then stays with the event. Another one, which comes later, shows that it is not under way.
    fn an_event_that_is_removed_interrupts_no_more(engine) {
        let mut guest = Guest::with_program(engine, |a| {
            with_input(a)?;
            redirect(a, INPUT + 1, VECTOR + 1)?;
            wait_until(a, 1)?;
            ask(a)?;
            crate::apic::wait_for(a, at::DATA + 8, 1, false)?;
            end(a)
        });
        counting_handler(&guest);
        handler(&guest, VECTOR as u8 + 1, |a| {
            a.inc(dword_ptr(at::DATA + 8))?;
            write(a, register::END_OF_INTERRUPT, 0)
        });
        let (removed, kept) = (event(), event());
        guest.vm.add_irqfd(INPUT, &removed).expect("an irqfd");
        guest.vm.add_irqfd(INPUT + 1, &kept).expect("an irqfd");
        let mut first = true;
        run(&mut guest, |guest| {
            if !std::mem::take(&mut first) {
                guest.vm.remove_irqfd(INPUT, &removed).expect("it is there");
                kept.signal();
            }
            removed.signal();
        });
        assert_eq!((guest.memory.read_u32(at::DATA), removed.take(), kept.take()), (1, 1, 0));
    }

    fn one_event_raises_one_interrupt(engine) {
        let guest = Guest::new(engine);
        let event = event();
        assert_eq!(refusal(guest.vm.add_irqfd(INPUT, &event)), None);
        assert_eq!(refusal(guest.vm.add_irqfd(INPUT, &event)), Some(EBUSY));
        assert_eq!(refusal(guest.vm.add_irqfd(INPUT + 1, &event)), Some(EBUSY));
        // Two events may raise the same.
        assert_eq!(refusal(guest.vm.add_irqfd(INPUT, &self::event())), None);
        // Not there; and there.
        assert_eq!(refusal(guest.vm.remove_irqfd(INPUT + 1, &event)), None);
        assert_eq!(refusal(guest.vm.add_irqfd(INPUT + 1, &event)), Some(EBUSY));
        assert_eq!(refusal(guest.vm.remove_irqfd(INPUT, &event)), None);
        assert_eq!(refusal(guest.vm.add_irqfd(INPUT + 1, &event)), None);
        // Wired to nothing.
        assert_eq!(refusal(guest.vm.add_irqfd(5000, &self::event())), None);
    }

    /// Events that are signalled while the machine goes away do no harm.
    fn a_machine_ends_with_its_events(engine) {
        let event = event();
        let signalled = event.clone();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let device = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
                signalled.signal();
                std::thread::yield_now();
            }
        });
        for _ in 0..10 {
            let mut guest = Guest::with_program(engine, |a| {
                enable_x2apic(a)?;
                redirect(a, INPUT, VECTOR)?;
                window(a)?;
                end(a)
            });
            reporting_handler(&guest, VECTOR as u8);
            guest.vm.add_irqfd(INPUT, &event).expect("no other machine has it any more");
            guest.run();
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        device.join().expect("no panic");
    }
}
