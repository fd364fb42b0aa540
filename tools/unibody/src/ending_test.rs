use std::io;

use super::*;

fn ended(machine: Ending, console: &Console) -> Ended<'_> {
    let received = Written::default();
    Ended { machine, session: None, stop: None, console, received, without_init: false }
}

fn text(ended: &Ended<'_>) -> String {
    status(ended).unwrap_err().to_string()
}

fn state(rip: u64) -> Box<State> {
    Box::new(State { rip, cr2: 0xdead_b000, ..State::at_reset() })
}

#[test]
fn the_command_s_end_is_the_status() {
    let console = Console::default();
    let written = Written { stdout: 3, stderr: 1 };
    let status_of = |session: SessionEnd| {
        let session = Some(session);
        status(&Ended { session, received: written, ..ended(Ending::PowerOff, &console) })
    };
    assert_eq!(status_of(SessionEnd::Exited { status: 7, written }), Ok(7));
    assert_eq!(status_of(SessionEnd::Killed { signal: 9, written }), Ok(137));
    let message = "cannot run 'x': No such file or directory".to_string();
    assert_eq!(status_of(SessionEnd::NotStarted { errno: 2, message: message.clone() }), Ok(127));
    assert_eq!(status_of(SessionEnd::NotStarted { errno: 13, message }), Ok(126));
    let error = status_of(SessionEnd::Failed { message: "cannot mount proc".into() }).unwrap_err();
    assert!(error.to_string().starts_with("unibody: the guest's init failed: cannot mount proc"));
    let more = Written { stdout: 4, stderr: 1 };
    let error = status_of(SessionEnd::Exited { status: 0, written: more }).unwrap_err();
    assert!(error.to_string().contains("3 of 4 bytes of stdout"), "{error}");
}

#[test]
fn a_person_s_own_end_of_it_is_no_failure() {
    let console = Console::default();
    let status_of =
        |stop: &Stop| status(&Ended { stop: Some(stop), ..ended(Ending::Stopped, &console) });
    assert_eq!(status_of(&Stop::Signal(2)), Ok(130));
    assert_eq!(status_of(&Stop::Signal(15)), Ok(143));
    assert_eq!(status_of(&Stop::Quit), Ok(0));
    let full = Stop::Output(io::ErrorKind::StorageFull.into());
    let error = status_of(&full).unwrap_err().to_string();
    assert_eq!(error, "unibody: cannot write the command's output: the disk is full");
}

#[test]
fn a_signal_that_the_command_has_outlived_does_not_change_its_status() {
    let console = Console::default();
    let stop = Stop::Signal(15);
    let written = Written::default();
    let session = Some(SessionEnd::Exited { status: 3, written });
    let ended = Ended { session, stop: Some(&stop), ..ended(Ending::Stopped, &console) };
    assert_eq!(status(&ended), Ok(3));
}

#[test]
fn a_panic_is_quoted_whatever_ended_the_machine() {
    let mut console = Console::default();
    console.add(
        b"[ 1.0] before\n[ 1.5] Kernel panic - not syncing: No working init found.\n[ 1.6] after\n",
    );
    let halted = Ending::Halted { state: state(1) };
    for machine in [Ending::Reset, Ending::Panicked, halted, Ending::Stopped] {
        let told = text(&ended(machine, &console));
        let mut lines = told.lines();
        assert_eq!(
            lines.next(),
            Some(
                "unibody: the guest's kernel panicked: Kernel panic - not syncing: No working init found"
            )
        );
        assert!(told.contains("\n  [ 1.0] before\n"), "{told}");
    }
}

#[test]
fn each_other_end_has_its_line() {
    let mut console = Console::default();
    console.add(b"last words\n");
    let told = text(&ended(Ending::TripleFault { state: state(0xffff_ffff_8100_0000) }, &console));
    assert!(told.contains("triple fault at RIP 0xffffffff81000000, CR2 0xdeadb000"), "{told}");
    assert!(told.ends_with("\n  last words"), "{told}");
    let lost = text(&ended(Ending::TripleFault { state: state(State::at_reset().rip) }, &console));
    assert!(lost.contains("triple fault; this host's KVM does not tell where"), "{lost}");
    let told = text(&ended(Ending::Halted { state: state(0x1000) }, &console));
    assert!(told.contains("halted with interrupts off, at RIP 0x1000"), "{told}");
    assert!(text(&ended(Ending::Reset, &console)).contains("it reset itself"));
    assert!(text(&ended(Ending::PowerOff, &console)).contains("it switched itself off"));
    let told = text(&ended(Ending::Panicked, &console));
    assert!(told.contains("kernel panicked: nothing on its console says why"), "{told}");
    let failed = Ending::Failed(hv::Error::BadMemory { gpa: 0x5000 });
    assert!(text(&ended(failed, &console)).contains("0x5000"));
    let failed = Ending::Failed(hv::Error::Stuck {
        vcpu: 1,
        why: "KVM's internal error 3".into(),
        rip: 0x1_0000,
        bytes: hv::kvm::vcpu::Bytes(vec![0xcd, 0x20]),
    });
    let told = text(&ended(failed, &console));
    for part in
        ["processor 1", "at 0x10000 (instruction bytes: cd 20): KVM's internal error 3", "dmesg"]
    {
        assert!(told.contains(part), "'{part}' is not in: {told}");
    }
    let report = "interpreter and JIT disagree on inc eax (ff c0) at RIP 0x1000".to_string();
    let told = text(&ended(Ending::Failed(hv::Error::Diverged { report }), &console));
    assert!(told.contains("translated wrongly: interpreter and JIT disagree on inc eax"), "{told}");
    assert!(told.contains("please report it"), "{told}");
}

#[test]
fn an_own_init_may_switch_the_guest_off() {
    let console = Console::default();
    for machine in [Ending::PowerOff, Ending::Reset] {
        assert_eq!(status(&Ended { without_init: true, ..ended(machine, &console) }), Ok(0));
    }
    let fault = Ending::TripleFault { state: state(0) };
    assert!(status(&Ended { without_init: true, ..ended(fault, &console) }).is_err());
}

#[test]
fn a_lacking_instruction_is_shown_with_its_bytes() {
    let console = Console::default();
    let mut long = state(0x40_1000);
    long.efer = efer::LMA;
    long.segments[Seg::Cs as usize].attr = Attr(Attr::P | Attr::S | Attr::CODE | Attr::L);
    let bytes = vec![0x48, 0x01, 0xd8];
    let told = text(&ended(Ending::Unsupported { bytes: bytes.clone(), state: long }, &console));
    assert!(told.contains("add rax,rbx (48 01 d8) at RIP 0x401000"), "{told}");
    assert!(told.contains("Please report"), "{told}");
    let real = Ending::Unsupported { bytes: vec![0x01, 0xd8], state: state(0x7c00) };
    assert!(text(&ended(real, &console)).contains("add ax,bx (01 d8)"));
    let nothing = Ending::Unsupported { bytes: Vec::new(), state: state(0xfd00_0000) };
    let told = text(&ended(nothing, &console));
    assert!(told.contains("there is no memory to execute at RIP 0xfd000000"), "{told}");
}

#[test]
fn a_debug_exit_has_qemu_s_status_whatever_else_was_said() {
    let mut console = Console::default();
    for (value, expected) in [(0, 1), (0x10, 0x21), (0x7f, 0xff), (0x80, 1), (u32::MAX, 0xff)] {
        assert_eq!(status(&ended(Ending::Exit { value }, &console)), Ok(expected));
    }
    console.add(b"Kernel panic - not syncing: a test of panics\n");
    assert_eq!(status(&ended(Ending::Exit { value: 0x10 }, &console)), Ok(0x21));
    let full = Stop::Output(io::ErrorKind::StorageFull.into());
    let unwritten = Ended { stop: Some(&full), ..ended(Ending::Exit { value: 0 }, &console) };
    assert!(status(&unwritten).is_err());
}
