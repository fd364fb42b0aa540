use super::*;
use crate::modules::fixture::fill;

/// A folder as `make modules_install INSTALL_MOD_PATH=DIR` leaves it, for these releases.
fn installed(releases: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for release in releases {
        fill(&folder.path().join("lib/modules").join(release), &[("modules.dep", b"")]);
    }
    folder
}

fn reason(told: &Path, release: Option<&str>) -> String {
    find(told, release).unwrap_err().to_string()
}

#[test]
fn modules_are_found_where_they_were_installed_to_and_in_their_own_folder() {
    let folder = installed(&["6.1.0", "6.2.0+"]);
    let own = folder.path().join("lib/modules/6.1.0");
    let expected = (own.clone(), "6.1.0".to_string());
    assert_eq!(find(folder.path(), Some("6.1.0")).unwrap(), expected);
    assert_eq!(find(&own, Some("6.1.0")).unwrap(), expected);
    assert_eq!(find(&own, None).unwrap(), expected, "the folder says what the kernel doesn't");
    // Of another name: whoever has moved it knows what it is.
    let moved = tempfile::tempdir().unwrap();
    fill(moved.path(), &[("modules.order", b"")]);
    assert_eq!(find(moved.path(), Some("6.3")).unwrap(), (moved.path().into(), "6.3".into()));
}

#[test]
fn the_only_ones_are_those_of_a_kernel_that_does_not_say_its_release() {
    let folder = installed(&["6.1.0"]);
    assert_eq!(find(folder.path(), None).unwrap().1, "6.1.0");
    let two = installed(&["6.1.0", "6.2.0"]);
    let why = reason(two.path(), None);
    assert_eq!(why, "there are no modules in it, but of 6.1.0, 6.2.0");
}

#[test]
fn modules_of_another_release_are_named() {
    let folder = installed(&["6.1.0"]);
    let why = reason(folder.path(), Some("6.2.0"));
    assert_eq!(why, "there are no modules of 6.2.0 in it, but of 6.1.0");
    let why = reason(&folder.path().join("lib/modules/6.1.0"), Some("6.2.0"));
    assert_eq!(why, "its modules are of 6.1.0, the kernel is 6.2.0");
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(reason(empty.path(), Some("6.2.0")), "there are no modules of 6.2.0 in it");
    let why = reason(&empty.path().join("none"), Some("6.2.0"));
    assert!(why.ends_with("/none': no such file"), "{why}");
}
