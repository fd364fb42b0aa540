//! A guest's shell on a terminal.

mod support;

use support::OnTerminal;

#[test]
fn the_shell_is_interactive_and_its_status_comes_back() {
    let mut terminal = OnTerminal::start("exec $RUN");
    terminal.wait_for("# ");
    terminal.type_keys("tty; echo six times seven is $((6 * 7))\r");
    terminal.wait_for("six times seven is 42");
    assert!(terminal.shown().contains("/dev/pts/"), "{}", terminal.shown());
    terminal.type_keys("exit 5\r");
    assert_eq!(terminal.end().0, Some(5));
}

#[test]
fn an_interrupt_key_reaches_the_guests_program_and_not_ours() {
    let mut terminal = OnTerminal::start("exec $RUN");
    terminal.wait_for("# ");
    terminal.type_keys("sh -c 'echo asl''eep; exec sleep 1000'\r");
    terminal.wait_for("asleep");
    terminal.type_keys("\x03");
    terminal.wait_for("^C");
    terminal.type_keys("echo sta''tus $?\r");
    terminal.wait_for("status 130");
    terminal.type_keys("exit\r");
    terminal.end();
}

#[test]
fn the_window_has_the_size_of_the_hosts() {
    let mut terminal = OnTerminal::start("stty rows 33 cols 111; exec $RUN");
    terminal.wait_for("# ");
    terminal.type_keys("stty size\r");
    terminal.wait_for("33 111");
    terminal.type_keys("exit\r");
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn the_escape_key_lists_the_keys_and_quits_and_the_terminal_is_restored() {
    let script = "stty -a > /tmp/unibody-tty-$$; $RUN; echo status $?; \
                  stty -a | cmp - /tmp/unibody-tty-$$ && echo restored; rm /tmp/unibody-tty-$$";
    let mut terminal = OnTerminal::start(script);
    terminal.wait_for("# ");
    terminal.type_keys("\x01h");
    terminal.wait_for("quit");
    terminal.type_keys("\x01x");
    let (_, shown) = terminal.end();
    assert!(shown.contains("restored"), "{shown}");
}

#[test]
fn a_signal_ends_the_guest_and_the_terminal_is_restored() {
    let script = "stty -a > /tmp/unibody-tty-$$; \
                  $RUN; echo status $?; \
                  stty -a | cmp - /tmp/unibody-tty-$$ && echo restored; rm /tmp/unibody-tty-$$";
    let terminal = OnTerminal::start(script);
    terminal.wait_for("# ");
    terminal.terminate_program();
    let (_, shown) = terminal.end();
    assert!(shown.contains("status 143"), "{shown}");
    assert!(shown.contains("restored"), "{shown}");
}
