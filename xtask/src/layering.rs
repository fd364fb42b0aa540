//! `cargo xtask layering`: which crate may use which.
//!
//! [`LAYERS`] is the one place that says so; ARCHITECTURE.md explains it. Tests obey it, too. Of
//! the crates that the kernel compiles it also checks what they take from outside the
//! tree, that they are `no_std`, and that they know neither kernel nor user space.

use crate::{Command, process, tree};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The command.
pub const COMMAND: Command =
    Command { name: "layering", about: "check which crate uses which", run: |_| check() };

/// A crate and what it may use.
struct Layer {
    name: &'static str,
    /// Crates of the tree.
    may_use: &'static [&'static str],
    /// Compiled into the kernel: all that it may take from outside the tree.
    in_kernel: Option<&'static [&'static str]>,
}

/// All crates, from below to above.
const LAYERS: &[Layer] = &[
    Layer { name: "abi", may_use: &[], in_kernel: Some(&[]) },
    Layer { name: "selftest", may_use: &[], in_kernel: Some(&[]) },
    // `spin` is for the test bodies only: the lock of a host that has none.
    Layer { name: "virt", may_use: &["abi", "selftest"], in_kernel: Some(&["lock_api", "spin"]) },
    Layer {
        name: "arch-x86",
        may_use: &["abi", "selftest", "virt"],
        in_kernel: Some(&["iced-x86", "lock_api", "spin"]),
    },
    // `spin` is for its tests only.
    Layer { name: "engine-svm", may_use: &["arch-x86", "virt"], in_kernel: Some(&["lock_api"]) },
    // Which of the processor's virtualizations there is: who uses one need not know.
    Layer { name: "engine-hardware", may_use: &["arch-x86", "engine-svm"], in_kernel: Some(&[]) },
    Layer {
        name: "kmod",
        may_use: &["abi", "arch-x86", "engine-hardware", "selftest", "virt"],
        in_kernel: Some(&["lock_api"]),
    },
    Layer { name: "engine-soft", may_use: &["arch-x86", "virt"], in_kernel: None },
    Layer { name: "host-user", may_use: &["virt"], in_kernel: None },
    Layer {
        name: "hv",
        may_use: &["abi", "arch-x86", "engine-soft", "host-user", "virt"],
        in_kernel: None,
    },
    Layer { name: "guest-protocol", may_use: &[], in_kernel: None },
    Layer { name: "guest-init", may_use: &["guest-protocol"], in_kernel: None },
    // In the place of a published crate that is linked with a system library.
    Layer { name: "capng", may_use: &[], in_kernel: None },
    // A process of its own: what it shares with the others goes through a socket.
    Layer { name: "share-server", may_use: &[], in_kernel: None },
    Layer { name: "embed", may_use: &[], in_kernel: None },
    // Its build script builds guest-init, for another place: no dependency of cargo's.
    Layer { name: "guest-image", may_use: &["embed"], in_kernel: None },
    // A second one, beside hv, that makes machines of the core.
    Layer {
        name: "preload",
        may_use: &["abi", "arch-x86", "engine-soft", "host-user", "virt"],
        in_kernel: None,
    },
    // In a workspace of its own.
    Layer {
        name: "fuzz",
        may_use: &[
            "abi",
            "arch-x86",
            "guest-protocol",
            "host-user",
            "hv",
            "preload",
            "user-net",
            "virt",
            "vmm",
        ],
        in_kernel: None,
    },
    // Its build script builds preload, as a library that other programs load.
    Layer { name: "preload-image", may_use: &["embed"], in_kernel: None },
    Layer { name: "userland", may_use: &[], in_kernel: None },
    Layer { name: "user-net", may_use: &[], in_kernel: None },
    Layer { name: "tap", may_use: &[], in_kernel: None },
    Layer { name: "vmm", may_use: &["guest-protocol", "hv", "tap", "user-net"], in_kernel: None },
    Layer {
        name: "unibody",
        // What other people's programs its tests run, `userland` builds.
        may_use: &[
            "guest-image",
            "guest-protocol",
            "hv",
            "preload-image",
            "share-server",
            "tap",
            "user-net",
            "userland",
            "vmm",
        ],
        in_kernel: None,
    },
    // Tests that need several of the above.
    Layer { name: "guests", may_use: &["hv"], in_kernel: None },
    Layer { name: "differential", may_use: &["arch-x86", "engine-soft", "virt"], in_kernel: None },
    Layer {
        name: "benches",
        may_use: &["guest-image", "guest-protocol", "hv", "vmm"],
        in_kernel: None,
    },
    // What tests in the nest run, `userland` builds.
    Layer { name: "xtask", may_use: &["userland"], in_kernel: None },
];

/// What a kernel-compiled source may make depend on its configuration.
const CONFIGURATIONS: &[&str] = &["cfg(test)", "cfg(feature = \"selftest\")"];

/// A crate of the tree.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, from the top of the tree.
    pub folder: String,
    /// The roots of its library and programs, from the top of the tree.
    pub roots: Vec<String>,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    in_tree: bool,
    for_tests: bool,
}

/// Checks all crates.
pub fn check() -> Result<()> {
    let packages = packages()?;
    let mut defects = Vec::new();
    for package in &packages {
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == package.name) else {
            defects.push(format!("{}: is not in the table of xtask/src/layering.rs", package.name));
            continue;
        };
        defects.extend(uses(layer, package));
        if layer.in_kernel.is_some() {
            defects.extend(sources(package)?);
        }
    }
    for layer in LAYERS {
        if !packages.iter().any(|package| package.name == layer.name) {
            defects.push(format!("{}: is in the table, but there is no such crate", layer.name));
        }
    }
    if !defects.is_empty() {
        bail!("\n  {}", defects.join("\n  "));
    }
    println!("{} crates, each uses only what it may", packages.len());
    Ok(())
}

/// What a crate uses and may not.
fn uses(layer: &Layer, package: &Package) -> Vec<String> {
    let mut defects = Vec::new();
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        if dependency.in_tree {
            // A crate names itself to switch on its features for its own tests.
            let for_own_tests = dependency.for_tests && (name == layer.name || name == "selftest");
            if !for_own_tests && !layer.may_use.contains(&name) {
                defects.push(format!("{} uses {name}, which its layer may not", layer.name));
            }
        } else if let Some(allowed) = layer.in_kernel
            && !dependency.for_tests
            && !allowed.contains(&name)
        {
            defects.push(format!("{} uses {name}, and is compiled into the kernel", layer.name));
        }
    }
    defects
}

/// What the sources of a crate that the kernel compiles may not have.
fn sources(package: &Package) -> Result<Vec<String>> {
    let mut defects = Vec::new();
    let read = |file: &str| {
        fs::read_to_string(tree::root().join(file)).with_context(|| format!("cannot read '{file}'"))
    };
    for root in &package.roots {
        if !read(root)?.contains("#![no_std]") {
            defects.push(format!("{root}: is compiled into the kernel, and not no_std"));
        }
    }
    let prefix = format!("{}/src/", package.folder);
    let sources = tree::files()?;
    for file in sources.iter().filter(|file| file.starts_with(&prefix) && file.ends_with(".rs")) {
        for (index, line) in read(file)?.lines().enumerate() {
            if has_other_configuration(line) {
                defects.push(format!("{file}:{}: depends on a configuration", index + 1));
            }
        }
    }
    Ok(defects)
}

/// Whether the line has a `cfg` besides the permitted ones.
fn has_other_configuration(line: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with("//") {
        return false;
    }
    let mut line = line.to_owned();
    for permitted in CONFIGURATIONS {
        line = line.replace(permitted, "");
    }
    ["cfg(", "cfg!(", "cfg_attr("].iter().any(|word| line.contains(word))
}

/// All crates of the tree, the module's and the fuzz targets' included, as cargo knows them.
pub fn packages() -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for manifest in ["Cargo.toml", "host/kmod/Cargo.toml", "fuzz/Cargo.toml"] {
        let mut cargo = process::cargo();
        cargo.current_dir(tree::root());
        cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]);
        cargo.args(["--manifest-path", manifest]);
        let output = process::capture(&mut cargo)?;
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let described = metadata["packages"].as_array().context("metadata without packages")?;
        for package in described {
            packages.push(describe(package)?);
        }
    }
    Ok(packages)
}

fn describe(package: &Value) -> Result<Package> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("metadata lacks a name");
    let manifest = relative(&text(&package["manifest_path"])?)?;
    let mut roots = Vec::new();
    for target in package["targets"].as_array().into_iter().flatten() {
        let kinds = target["kind"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if kinds.into_iter().any(|kind| matches!(kind, "lib" | "bin" | "staticlib")) {
            roots.push(relative(&text(&target["src_path"])?)?);
        }
    }
    let mut dependencies = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        dependencies.push(Dependency {
            name: text(&dependency["name"])?,
            in_tree: dependency["path"].is_string(),
            for_tests: dependency["kind"].as_str() == Some("dev"),
        });
    }
    let folder = manifest.trim_end_matches("Cargo.toml").trim_end_matches('/').to_owned();
    Ok(Package { name: text(&package["name"])?, folder, roots, dependencies })
}

/// A path from the top of the tree.
fn relative(path: &str) -> Result<String> {
    let root = tree::root().canonicalize()?;
    let inside = Path::new(path).canonicalize()?;
    let inside = inside.strip_prefix(&root).with_context(|| format!("'{path}' is elsewhere"))?;
    Ok(inside.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Dependency, Layer, Package, has_other_configuration, uses};

    fn defects(name: &str, in_tree: bool, for_tests: bool) -> Vec<String> {
        let layer = Layer { name: "virt", may_use: &["selftest"], in_kernel: Some(&["lock_api"]) };
        let package = Package {
            name: "virt".into(),
            folder: "virt".into(),
            roots: Vec::new(),
            dependencies: vec![Dependency { name: name.into(), in_tree, for_tests }],
        };
        uses(&layer, &package)
    }

    #[test]
    fn what_is_allowed_is_no_defect() {
        assert!(defects("selftest", true, false).is_empty());
        assert!(defects("lock_api", false, false).is_empty());
        assert!(defects("virt", true, true).is_empty());
        assert!(defects("proptest", false, true).is_empty());
    }

    #[test]
    fn what_is_not_is_one() {
        assert_eq!(defects("arch-x86", true, false).len(), 1);
        assert_eq!(defects("arch-x86", true, true).len(), 1);
        assert_eq!(defects("libc", false, false).len(), 1);
    }

    #[test]
    fn only_tests_depend_on_a_configuration() {
        assert!(!has_other_configuration("#[cfg(test)]"));
        assert!(!has_other_configuration("    #[cfg(feature = \"selftest\")]"));
        assert!(!has_other_configuration("//! no `cfg(unix)` here"));
        assert!(has_other_configuration("#[cfg(target_os = \"linux\")]"));
        assert!(has_other_configuration("if cfg!(feature = \"kernel\") {"));
    }
}
