//! For build scripts: builds a crate of the tree for another place than the outer build is for, to be embedded: [`Inner`].
//!
//! The inner cargo has a target folder of its own beside what the outer one builds, because the outer one holds the lock of its own
//! while this runs. All profiles of the outer build share it: what is embedded is the same.
#![forbid(unsafe_code)]

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is embedded is for such machines, whatever the outer build is for.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What is to be built, and how.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// The package's name.
    pub package: &'a str,
    /// A profile of the workspace.
    pub profile: &'a str,
    /// What the compiler is told.
    pub rustflags: &'a [&'a str],
    /// What cargo is told: a command, and options of it.
    pub cargo: &'a [&'a str],
    /// The file that it makes.
    pub file: &'a str,
    /// Folders that it is made of, from the top of the tree; the workspace's own files are known.
    pub sources: &'a [&'a str],
    /// How many folders below the top of the tree the package is whose build script this is.
    pub depth: usize,
}

impl Inner<'_> {
    /// Builds it, and puts the file at `name` in `OUT_DIR`.
    ///
    /// # Panics
    /// If it cannot be built: a build script has no other way to say why.
    pub fn build(&self, name: &str) {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
        let root = package.ancestors().nth(self.depth).expect("it is that deep");
        for source in self.sources.iter().chain(&["Cargo.toml", "Cargo.lock"]) {
            let source = root.join(source);
            assert!(source.exists(), "'{}' is not there", source.display());
            println!("cargo::rerun-if-changed={}", source.display());
        }
        let built = self.run(root, &target_folder(&out).join("embedded").join(self.package));
        fs::copy(&built, out.join(name))
            .unwrap_or_else(|error| panic!("cannot copy '{}': {error}", built.display()));
    }

    /// Runs cargo and returns where the file is.
    fn run(&self, root: &Path, target_dir: &Path) -> PathBuf {
        let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
        for (name, _) in env::vars_os() {
            if is_about_the_outer_build(&name) {
                cargo.env_remove(name);
            }
        }
        cargo
            .current_dir(root)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags.join("\x1f"))
            .args(self.cargo)
            // The outer cargo has brought the lock file up to date. Nothing needs the network: the outside dependencies are
            // ones of the tool's as well, so that they have been downloaded by now.
            .args(["--quiet", "--locked", "--package", self.package])
            .args(["--profile", self.profile, "--target", TARGET, "--target-dir"])
            .arg(target_dir);
        let output = cargo.output().unwrap_or_else(|error| panic!("cannot run cargo: {error}"));
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("cannot build {}:\n{said}", self.package);
        }
        target_dir.join(TARGET).join(self.profile).join(self.file)
    }
}

/// The outer build's target folder, or what it has in there for one target: `OUT_DIR` is `PROFILE/build/PACKAGE/out` below it.
fn target_folder(out: &Path) -> &Path {
    out.ancestors().nth(4).expect("OUT_DIR is deep in the target folder")
}

/// Whether a variable says how the outer build is done: its flags, profile and wrappers, such as
/// clippy's or a coverage tool's, are not for what is embedded. What says where cargo's cache and the
/// toolchain are stays.
fn is_about_the_outer_build(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    let exact = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_TARGET_DIR",
        "CLIPPY_ARGS",
        "LLVM_PROFILE_FILE",
    ];
    let prefixes =
        ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_FEATURE_", "CARGO_CFG_"];
    exact.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_outer_build_stays_there() {
        let outer = |name: &str| is_about_the_outer_build(OsStr::new(name));
        assert!(outer("RUSTFLAGS") && outer("CARGO_FEATURE_X") && outer("CARGO_TARGET_DIR"));
        assert!(!outer("CARGO_HOME") && !outer("PATH") && !outer("RUSTUP_TOOLCHAIN"));
    }

    #[test]
    fn all_profiles_share_a_folder() {
        let folder = |out: &'static str| target_folder(Path::new(out));
        assert_eq!(folder("/t/debug/build/image-0123/out"), Path::new("/t"));
        assert_eq!(folder("/t/release/build/image-4567/out"), Path::new("/t"));
        assert_eq!(folder("/t/triple/release/build/image-89/out"), Path::new("/t/triple"));
    }
}
