//! The lists of test bodies, as user space and as the kernel ran them.
//!
//! User space is asked through its test programs, which run a body because it
//! is there; the kernel runs those that a crate has put in its `SELFTESTS`. So a
//! file that was forgotten there is found.

use crate::{process, tree};
use anyhow::{Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

/// The crates that have lists, by package and by library name.
const CRATES: &[(&str, &str)] = &[("virt", "virt"), ("arch-x86", "arch_x86")];

/// How many bodies ran, by the file's module path, as `virt::memory_test`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// The files.
    pub files: BTreeMap<String, usize>,
}

impl Lists {
    /// Bodies of all files.
    pub fn bodies(&self) -> usize {
        self.files.values().sum()
    }

    /// Of them, those about the module's own services.
    pub fn own(&self) -> usize {
        self.files.iter().filter(|(file, _)| file.starts_with(OWN)).map(|(_, count)| count).sum()
    }
}

/// Runs the bodies in user space. Fails if one fails.
///
/// With `workspace`, the test programs are those that the whole workspace's tests consist of. They
/// differ in their dependencies' features, so each way compiles what the other has not.
pub fn in_user_space(workspace: bool) -> Result<Lists> {
    let mut cargo = process::cargo();
    cargo.current_dir(tree::root());
    cargo.args(["test", "--lib", "--no-run", "--message-format=json"]);
    if workspace {
        cargo.arg("--workspace");
    } else {
        cargo.args(CRATES.iter().flat_map(|(package, _)| ["--package", package]));
    }
    let built = process::capture(cargo.stderr(Stdio::inherit()))?;
    let messages = String::from_utf8_lossy(&built.stdout);
    let mut lists = Lists::default();
    for (package, library) in CRATES {
        let Some(program) = test_program(&messages, library) else {
            bail!("cargo has made no test program of '{package}'");
        };
        let mut tests = Command::new(program);
        tests.current_dir(tree::root()).args(["--format=pretty", "--color=never"]);
        let output = process::capture(&mut tests)?;
        count_passed(library, &String::from_utf8_lossy(&output.stdout), &mut lists);
    }
    Ok(lists)
}

/// The test program of a library, from cargo's messages.
fn test_program(messages: &str, library: &str) -> Option<String> {
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_the_library = message["target"]["name"] == library
            && message["target"]["kind"][0] == "lib"
            && message["profile"]["test"] == true;
        is_the_library.then(|| message["executable"].as_str().map(str::to_owned))?
    };
    messages.lines().find_map(program)
}

/// Counts the lines `test memory_test::in_user_space::overlaps ... ok`.
fn count_passed(library: &str, output: &str, lists: &mut Lists) {
    for line in output.lines() {
        let Some(test) = line.strip_prefix("test ").and_then(|test| test.strip_suffix(" ... ok"))
        else {
            continue;
        };
        if let Some((module, _)) = test.split_once("::in_user_space::") {
            *lists.files.entry(format!("{library}::{module}")).or_default() += 1;
        }
    }
}

/// The module's own bodies, about what the kernel alone has.
const OWN: &str = "unibody::";

/// Fails unless the kernel ran exactly what user space ran, its own bodies aside.
pub fn compare(user: &Lists, kernel: &Lists) -> Result<()> {
    let files: BTreeSet<&String> = user.files.keys().chain(kernel.files.keys()).collect();
    let mut difference = String::new();
    for file in files.into_iter().filter(|file| !file.starts_with(OWN)) {
        let count = |lists: &Lists| lists.files.get(file).copied().unwrap_or(0);
        let (in_user, in_kernel) = (count(user), count(kernel));
        if in_user != in_kernel {
            difference.push_str(&format!(
                "\n  {file}: {in_user} in user space, {in_kernel} in the kernel"
            ));
        }
    }
    if !difference.is_empty() {
        bail!(
            "user space and the kernel ran different test bodies:{difference}\n\
             Each file's CASES belongs, once, in its crate's SELFTESTS (src/lib.rs)"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Lists, compare, count_passed};

    #[test]
    fn bodies_are_counted_by_file_and_other_tests_are_not() {
        let mut lists = Lists::default();
        let output = "test a::b_test::in_user_space::one ... ok\n\
                      test a::b_test::in_user_space::two ... ok\n\
                      test a::tests::other ... ok\n";
        count_passed("virt", output, &mut lists);
        assert_eq!(lists.bodies(), 2);
        assert_eq!(lists.files["virt::a::b_test"], 2);
    }

    #[test]
    fn a_forgotten_file_is_named() {
        let user = Lists { files: [("virt::a_test".into(), 2)].into() };
        assert!(compare(&user, &user).is_ok());
        let error = compare(&user, &Lists::default()).expect_err("the kernel ran nothing");
        assert!(error.to_string().contains("virt::a_test: 2 in user space, 0 in the kernel"));
    }
}
