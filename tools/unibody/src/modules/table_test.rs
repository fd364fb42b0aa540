use proptest::prelude::*;

use super::*;

/// A table of `name: what it depends on`.
fn table(modules: &[(&str, &[&str])]) -> Table {
    let mut table = Table::default();
    for (name, depends) in modules {
        let depends = depends.iter().map(|name| name.to_string()).collect();
        table.add(name.to_string(), Module { path: format!("kernel/{name}.ko"), depends });
    }
    table
}

fn names<'a>(closure: &Closure<'a>) -> Vec<&'a str> {
    closure.modules.iter().map(|(name, _)| *name).collect()
}

#[test]
fn each_comes_once_and_after_what_it_depends_on() {
    let table = table(&[
        ("virtio", &["virtio_ring"]),
        ("virtio_ring", &[]),
        ("virtio_blk", &["virtio", "virtio_ring"]),
        ("virtio_rng", &["virtio"]),
        ("other", &[]),
    ]);
    let closure = table.closure(&["virtio-blk", "virtio_rng", "virtio_blk"]).unwrap();
    assert_eq!(names(&closure), ["virtio_ring", "virtio", "virtio_blk", "virtio_rng"]);
    assert!(closure.missing.is_empty());
}

#[test]
fn what_is_built_in_is_left_out_and_what_is_nowhere_is_named() {
    let mut table = table(&[("a", &["core", "gone"]), ("b", &["gone"])]);
    table.set_builtin(["core".to_string(), "whole".to_string()]);
    let closure = table.closure(&["a", "b", "whole", "not-there"]).unwrap();
    assert_eq!(names(&closure), ["a", "b"]);
    let missing = |name: &str, of: Option<&str>| Missing {
        name: name.into(),
        for_module: of.map(Into::into),
    };
    let expected =
        [missing("gone", Some("a")), missing("gone", Some("b")), missing("not_there", None)];
    assert_eq!(closure.missing, expected);
}

#[test]
fn a_circle_is_an_error_that_names_it() {
    let circle = table(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]);
    let error = circle.closure(&["a"]).unwrap_err().to_string();
    assert_eq!(error, "the modules depend on each other in a circle: b, c");
    let itself = table(&[("a", &["a"])]);
    assert!(matches!(itself.closure(&["a"]), Err(Error::Circle(_))));
}

#[test]
fn a_chain_may_be_long() {
    let names: Vec<String> = (0..60_000).map(|n| format!("m{n}")).collect();
    let mut table = Table::default();
    for (index, name) in names.iter().enumerate() {
        let depends = names.get(index + 1).cloned().into_iter().collect();
        table.add(name.clone(), Module { path: format!("{name}.ko"), depends });
    }
    assert_eq!(table.closure(&["m0"]).unwrap().modules.len(), names.len());
}

#[test]
fn wishes_are_met_as_far_as_they_can_be() {
    let mut table = table(&[("fs", &[]), ("crc32c_intel", &["simd"]), ("simd", &[]), ("x", &[])]);
    table.aliases.push(("crc32c".into(), "crc32c_intel".into()));
    let wishes = ["crc32c", "nowhere", "x"].map(str::to_string);
    table.soft.insert("fs".into(), wishes.into_iter().collect());
    let closure = table.generous_closure(&["fs"]).unwrap();
    assert_eq!(names(&closure), ["fs", "simd", "crc32c_intel", "x"]);
    assert!(closure.missing.is_empty());
    assert_eq!(names(&table.closure(&["fs"]).unwrap()), ["fs"]);
}

proptest! {
    /// Whatever depends on what: an order in which each can be loaded, or a circle.
    #[test]
    fn the_order_is_one_to_load_in(edges in prop::collection::vec((0usize..12, 0usize..14), 0..30)) {
        let mut table = Table::default();
        for name in 0..12 {
            let depends = edges.iter().filter(|(from, _)| *from == name);
            let depends = depends.map(|(_, to)| format!("m{to}")).collect();
            table.add(format!("m{name}"), Module { path: format!("m{name}.ko"), depends });
        }
        if let Ok(closure) = table.closure(&["m0", "m1", "m2"]) {
            let order = names(&closure);
            for (index, (_, module)) in closure.modules.iter().enumerate() {
                for dependency in module.depends.iter().filter(|name| table.find(name).is_some()) {
                    prop_assert!(order[..index].contains(&dependency.as_str()));
                }
                prop_assert!(!order[..index].contains(&order[index]));
            }
        } else {
            prop_assert!(!edges.is_empty());
        }
    }
}
