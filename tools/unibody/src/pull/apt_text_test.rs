use super::*;

#[test]
fn offers_are_read_with_their_versions() {
    let printed = "'http://deb.debian.org/debian/pool/main/b/busybox/busybox-static_1.35.0-4%2bdeb12u1%2bb1_amd64.deb' busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb 928188 SHA256:3D3F\n\
        Reading lists...\n\
        'http://x/a.deb' ../a_1_amd64.deb 5 SHA256:00\n\
        'file:/repo/b_2_amd64.deb' b_2_amd64.deb 7 MD5Sum:00\n";
    let offers = offers(printed);
    assert_eq!(offers.len(), 2);
    assert_eq!(offers[0].name, "busybox-static");
    assert_eq!(offers[0].version, "1:1.35.0-4+deb12u1+b1");
    assert_eq!(offers[0].file, "busybox-static_1%3a1.35.0-4+deb12u1+b1_amd64.deb");
    assert_eq!((offers[0].size, offers[0].sha256.as_deref()), (928_188, Some("3d3f")));
    assert_eq!((offers[1].size, offers[1].sha256.as_deref()), (7, None));
}

#[test]
fn dependencies_are_read_without_versions_and_alternatives() {
    let printed = "Package: linux-image-virtual\n\
        Depends: linux-image-6.8.0-31-generic (= 6.8.0-31.31), linux-firmware:any | firmware, kmod\n\
        Pre-Depends: dpkg\n\
        Recommends: thermald\n";
    let names = ["linux-image-6.8.0-31-generic", "linux-firmware", "kmod", "dpkg"];
    assert_eq!(dependencies(printed), names);
}

#[test]
fn an_unreachable_source_is_told_from_one_that_can_not_be_trusted() {
    let printed = "Err:1 http://deb.debian.org/debian bookworm InRelease\n\
        \x20 Temporary failure resolving 'deb.debian.org'\n\
        W: Failed to fetch http://deb.debian.org/debian/dists/bookworm/InRelease  Temporary failure resolving 'deb.debian.org'\n\
        W: GPG error: http://x.example/apt stable InRelease: The following signatures couldn't be verified\n\
        E: The repository 'http://y.example/apt stable InRelease' is not signed.\n\
        E: The repository 'http://z.example/apt stable Release' does not have a Release file.\n\
        W: OpenPGP signature verification failed: http://v.example stable InRelease: Missing key\n\
        W: Some index files failed to download. They have been ignored, or old ones used instead.\n";
    let troubles = troubles(printed);
    let seen: Vec<(&str, bool)> =
        troubles.iter().map(|trouble| (trouble.source.as_str(), trouble.is_signature)).collect();
    let expected = [
        ("http://deb.debian.org/debian/dists/bookworm/InRelease", false),
        ("http://x.example/apt stable InRelease", true),
        ("http://y.example/apt stable InRelease", true),
        ("http://z.example/apt stable Release", false),
        ("http://v.example stable InRelease", true),
    ];
    assert_eq!(seen, expected);
    assert_eq!(troubles[0].reason, "Temporary failure resolving 'deb.debian.org'");
}

#[test]
fn a_trouble_concerns_the_files_of_its_source_only() {
    let trouble =
        |source: &str| Trouble { source: source.into(), reason: String::new(), is_signature: true };
    let uri = "http://deb.debian.org/debian-security/pool/l/linux.deb";
    assert!(
        trouble("http://deb.debian.org/debian-security bookworm-security InRelease").concerns(uri)
    );
    assert!(trouble("http://deb.debian.org/debian-security/dists/x/InRelease").concerns(uri));
    assert!(!trouble("http://deb.debian.org/debian bookworm InRelease").concerns(uri));
    assert!(!trouble("https://deb.nodesource.com/node_20.x nodistro InRelease").concerns(uri));
    assert!(!trouble("").concerns(uri));
}

#[test]
fn the_first_error_is_found() {
    assert_eq!(first_error("W: a\nE: b\nE: c\n"), "b");
    assert_eq!(first_error("something\nelse\n\n"), "else");
    assert_eq!(first_error(""), "it does not say why");
    assert!(is_disk_full("E: Write error - write (28: No space left on device)"));
    assert!(!is_disk_full("E: Failed to fetch"));
}
