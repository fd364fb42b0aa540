//! Builds `guest/init` as a small static program and puts it at `$OUT_DIR/init`.
//!
//! "Static" is the gnu target with `crt-static`: it needs nothing that a host with a C compiler
//! lacks.

use embed::Inner;

/// A fixed address instead of a relocatable program: init is alone in its address space, and the
/// guest need not relocate it at each start.
const RUSTFLAGS: &[&str] = &["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];

/// What the program is made of, relative to the workspace's root.
const SOURCES: &[&str] =
    &["guest/init/src", "guest/init/Cargo.toml", "guest/protocol/src", "guest/protocol/Cargo.toml"];

fn main() {
    let init = Inner {
        package: "guest-init",
        profile: "guest",
        rustflags: RUSTFLAGS,
        cargo: &["build"],
        file: "guest-init",
        sources: SOURCES,
        depth: 2,
    };
    init.build("init");
}
