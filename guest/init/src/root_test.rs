//! Tests of what is left where the host's files are not the root.

use guest_protocol::{Access, Mount, Start, User};

use crate::root::do_without;

#[test]
fn without_the_root_nothing_of_it_is_asked_for() {
    let env = [("HOME", "/home/me"), ("TERM", "xterm"), ("PATH", "/opt/bin")];
    let env = env.map(|(name, value)| (name.into(), value.into())).to_vec();
    let mount = |access| Mount { tag: b"share0".into(), target: b"/src".into(), access };
    let mut start = Start {
        argv: vec![b"id".into()],
        env,
        cwd: Some(b"/home/me".into()),
        user: Some(User { uid: 1000, gid: 1000, groups: vec![27] }),
        mounts: vec![mount(Access::CopyOnWrite), mount(Access::ReadOnly)],
        ..Start::default()
    };
    do_without(&mut start);
    let left = Start {
        argv: vec![b"id".into()],
        env: vec![(b"TERM".into(), b"xterm".into())],
        mounts: vec![mount(Access::ReadOnly)],
        ..Start::default()
    };
    assert_eq!(start, left);
}
