use super::program::port;
use super::script::{Direction, SECTIONS};
use super::scripted::{self, Act, Scripted, out};
use super::*;
use crate::in_process::InProcess;
use crate::x86::{Data, Exit};

const FAST: u64 = 1_000_000_000;

/// The time that the thread was executed, of which a busy machine takes nothing away. Nothing is ever late.
#[derive(Clone, Copy)]
struct ThreadTime;

impl Clock for ThreadTime {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.try_into().unwrap()
    }

    fn wait(&self, events: &Receiver<Event>, _: Duration) -> Result<Event, RecvTimeoutError> {
        // The program ends by itself.
        events.recv().map_err(|_| RecvTimeoutError::Disconnected)
    }
}

fn tried(scripted: &Scripted) -> Outcome {
    scripted::tried(scripted).unwrap()
}

fn seen(outcome: &Outcome, check: Check) -> &Seen {
    &outcome.findings.iter().find(|finding| finding.check == check).unwrap().seen
}

fn others_are_right(outcome: &Outcome, check: Check) -> bool {
    Check::ALL.iter().all(|other| *other == check || *seen(outcome, *other) == Seen::Right)
}

#[test]
fn the_software_cpu_does_all_right() {
    for hypervisor in [InProcess::INTERPRETER, InProcess::default()] {
        let outcome = probe_by(&hypervisor, &ThreadTime).unwrap();
        let all_right = outcome.findings.iter().all(|finding| finding.seen == Seen::Right);
        assert!(all_right && outcome.speed > Some(100_000), "{outcome:?}");
    }
}

#[test]
fn the_jit_is_fit() {
    if InProcess::default().lacks_jit().is_some() {
        eprintln!("this host lets no code be translated: not tested");
        return;
    }
    let outcome = probe_by(&InProcess::default(), &ThreadTime).unwrap();
    assert!(outcome.is_fit(), "{outcome:?}");
}

#[test]
fn what_does_all_right_and_is_fast_is_fit() {
    let outcome = tried(&Scripted::right(FAST));
    assert_eq!(outcome.flaw(), None, "{outcome:?}");
    assert!(outcome.is_fit() && outcome.speed > Some(SPEED_FLOOR));
}

#[test]
fn each_wrong_value_is_found_in_its_check_and_the_others_are_tried() {
    for (n, section) in SECTIONS.iter().enumerate() {
        for (m, step) in section.steps.iter().enumerate() {
            if step.direction == Direction::In {
                continue;
            }
            let mut wrong = Scripted::right(FAST);
            let mut bytes = step.bytes.to_vec();
            *bytes.last_mut().unwrap() ^= 0x80;
            wrong.sections[n][m] = Act::Exit(out(step.port, step.size, &bytes));
            let outcome = tried(&wrong);
            let Some(Flaw::Wrong(check, what)) = outcome.flaw() else { panic!("{outcome:?}") };
            assert_eq!(check, section.check);
            assert!(what.starts_with(step.what) && what.contains(" instead of 0x"), "{what}");
            assert!(others_are_right(&outcome, check), "{outcome:?}");
        }
    }
}

#[test]
fn an_access_that_is_not_the_one_that_has_to_come_is_found() {
    for (n, section) in SECTIONS.iter().enumerate() {
        for (m, step) in section.steps.iter().enumerate() {
            let mut wrong = Scripted::right(FAST);
            // Of another size; too long; nothing at all.
            // An exit holds no more than so much; then it is of another size again.
            let longer = [step.bytes, &[0]].concat();
            let longer = if longer.len() <= Data::MAX {
                out(step.port, step.size, &longer)
            } else {
                out(step.port, 8, step.bytes)
            };
            let stray = match step.direction {
                Direction::In => [
                    Exit::In { port: step.port, size: 8, count: 1 },
                    Exit::In { port: step.port, size: step.size, count: 200 },
                    Exit::In { port: step.port, size: step.size, count: 0 },
                ],
                Direction::Out => {
                    [out(step.port, 8, step.bytes), longer, out(step.port, step.size, &[])]
                }
            };
            for exit in stray {
                wrong.sections[n][m] = Act::Exit(exit);
                let outcome = tried(&wrong);
                assert!(matches!(seen(&outcome, section.check), Seen::Wrong(_)), "{outcome:?}");
            }
        }
    }
}

#[test]
fn what_went_astray_is_told_and_the_rest_is_tried() {
    let mut bytes = [0; 15];
    bytes[..3].copy_from_slice(&[0xf0, 0x48, 0x0f]);
    for (exit, told) in [
        (Exit::Unsupported { bytes, len: 3 }, "it can't execute an instruction (f0 48 0f)"),
        (Exit::Shutdown, "it shut down"),
        (Exit::Halted, "it halted"),
        (out(port::FAULT, 1, &[6]), "there was exception 6"),
        (out(0x80, 1, &[6]), "it wrote to port 0x80 unasked"),
        (Exit::MmioWrite { gpa: 0x9000, data: Data::new(&[1]) }, "0x9000 is taken"),
    ] {
        for (n, section) in SECTIONS.iter().enumerate() {
            let mut astray = Scripted::right(FAST);
            astray.sections[n][0] = Act::Exit(exit);
            let outcome = tried(&astray);
            let Some(Flaw::Wrong(check, what)) = outcome.flaw() else { panic!("{outcome:?}") };
            assert_eq!(check, section.check);
            assert!(what.starts_with(told), "{what}");
            assert!(others_are_right(&outcome, check) && outcome.speed.is_some(), "{outcome:?}");
        }
    }
}

#[test]
fn what_can_not_go_on_ends_the_probe() {
    for (act, told) in [
        (Act::Fail, "out of order"),
        (Act::Exit(Exit::In { port: 0x60, size: 1, count: 1 }), "it read port 0x60 unasked"),
        (Act::Exit(Exit::MmioRead { gpa: 0x9000, size: 4 }), "0x9000 is taken for a device"),
        (Act::Exit(Exit::BadMemory { gpa: 0x9000 }), "it can't reach memory at 0x9000"),
    ] {
        let mut dead = Scripted::right(FAST);
        dead.sections[1][2] = act;
        let outcome = tried(&dead);
        let Seen::Wrong(what) = seen(&outcome, Check::Paging) else { panic!("{outcome:?}") };
        assert!(what.contains(told), "{what}");
        assert_eq!(*seen(&outcome, Check::Interrupt), Seen::Nothing);
        assert!(!outcome.is_fit() && outcome.speed.is_none());
    }
}

#[test]
fn a_string_may_come_in_pieces_and_a_signal_at_any_time() {
    let mut pieces = Scripted::right(FAST);
    let ports = &mut pieces.sections[3];
    let strings = ports.iter().position(|act| {
        matches!(act, Act::Exit(Exit::In { port: port::STRING, size: 1, count: 8 }))
    });
    let first = strings.unwrap();
    let read = |count| Act::Exit(Exit::In { port: port::STRING, size: 1, count });
    let write = |bytes: &[u8]| Act::Exit(out(port::STRING, 1, bytes));
    let new = [read(3), Act::Exit(Exit::Interrupted), read(5), write(b"unibod"), write(b"y\n")];
    ports.splice(first..first + 2, new);
    assert_eq!(tried(&pieces).flaw(), None);
}

/// As is seen in the wild: ring 0 is emulated by the host's kernel, which lacks an instruction.
#[test]
fn emulation_of_an_instruction_at_a_time_is_too_slow() {
    let mut emulated = Scripted::right(140_000);
    emulated.sections[4] = vec![Act::Exit(Exit::Unsupported { bytes: [0; 15], len: 0 })];
    let outcome = tried(&emulated);
    let Some(Flaw::Slow(speed)) = outcome.flaw() else { panic!("{outcome:?}") };
    assert!((100_000..3_000_000).contains(&speed), "{speed}");
    assert!(matches!(seen(&outcome, Check::Atomic), Seen::Wrong(_)));
    assert!(others_are_right(&outcome, Check::Atomic));
}

#[test]
fn what_hangs_is_late() {
    for act in [Act::Hang, Act::Stuck] {
        let mut hanging = Scripted::right(FAST);
        hanging.sections[2][1] = act;
        let outcome = tried(&hanging);
        assert_eq!(outcome.flaw(), Some(Flaw::Late));
        assert_eq!(*seen(&outcome, Check::Interrupt), Seen::Nothing);
        assert!(outcome.elapsed >= LIMITS.checks, "{outcome:?}");
    }
}

#[test]
fn a_loop_that_does_not_count_is_found() {
    let mut wrong = Scripted::right(FAST);
    wrong.sections[5].pop();
    wrong.sections[5].push(Act::Exit(Exit::Shutdown));
    let outcome = tried(&wrong);
    assert_eq!(outcome.flaw(), Some(Flaw::Wrong(Check::Loop, "it shut down")));
    assert_eq!(outcome.speed, None);
}

#[test]
fn a_machine_that_can_not_be_made_is_an_error() {
    let error = probe(&Scripted::new(Vec::new())).unwrap_err();
    assert_eq!(error.to_string(), "cannot make vCPU 0: no room");
}

#[test]
fn a_speed_is_by_the_second() {
    assert_eq!(speed(1_000, Duration::from_micros(1)), 1_000_000_000);
    assert_eq!(speed(8_000, Duration::from_millis(8)), 1_000_000);
    assert_eq!(speed(1, Duration::ZERO), 1_000_000_000);
}
