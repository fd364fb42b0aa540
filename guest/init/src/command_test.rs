//! Tests of a command's environment.

use guest_protocol::{Start, Terminal, User, WindowSize};

use crate::command::environment;

fn value(start: &Start, name: &str) -> Option<String> {
    let found: Vec<_> = environment(start).into_iter().filter(|(known, _)| known == name).collect();
    assert!(found.len() <= 1, "{name} is there more than once");
    found.into_iter().next().map(|(_, value)| value.into_string().unwrap())
}

#[test]
fn the_host_has_the_last_word() {
    let env = [("TERM", "xterm"), ("EMPTY", ""), ("PATH", "/first"), ("PATH", "/last")];
    let env = env.map(|(name, value)| (name.into(), value.into())).to_vec();
    let start = Start { env, ..Start::default() };
    assert_eq!(value(&start, "TERM").as_deref(), Some("xterm"));
    assert_eq!(value(&start, "EMPTY").as_deref(), Some(""));
    assert_eq!(value(&start, "PATH").as_deref(), Some("/last"));
    assert_eq!(value(&start, "HOME").as_deref(), Some("/root"));
}

#[test]
fn defaults_depend_on_user_and_terminal() {
    let pipes = Start::default();
    assert_eq!(value(&pipes, "TERM"), None);
    assert_eq!(value(&pipes, "USER").as_deref(), Some("root"));
    let size = WindowSize { rows: 24, cols: 80 };
    let start = Start {
        user: Some(User { uid: 1000, gid: 1000, groups: vec![] }),
        terminal: Some(Terminal { size, stderr_apart: false }),
        ..Start::default()
    };
    assert_eq!(value(&start, "TERM").as_deref(), Some("vt100"));
    assert_eq!(value(&start, "HOME").as_deref(), Some("/"));
    assert_eq!(value(&start, "USER"), None);
}
