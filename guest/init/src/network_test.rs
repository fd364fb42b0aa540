//! Tests of what is found out and written before a card is set up.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;

use guest_protocol::Addresses;

use crate::network::{find_card, lease, resolver};

#[test]
fn the_card_is_the_first_that_is_a_device() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(find_card(&folder.path().join("none")), None);
    for name in ["lo", "sit0", "eth1", "eth0"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    assert_eq!(find_card(folder.path()), None);
    for name in ["eth1", "eth0"] {
        symlink("/", folder.path().join(name).join("device")).unwrap();
    }
    assert_eq!(find_card(folder.path()).as_deref(), Some("eth0"));
}

#[test]
fn names_are_asked_of_the_resolver_and_looked_for_in_domains() {
    let mut addresses = Addresses { dns: [10, 0, 2, 3], ..Addresses::default() };
    assert_eq!(resolver(&addresses), "nameserver 10.0.2.3\n");
    addresses.search = vec![b"a.example".to_vec(), b"b".to_vec()];
    assert_eq!(resolver(&addresses), "search a.example b\nnameserver 10.0.2.3\n");
}

#[test]
fn a_lease_is_read_as_far_as_it_makes_sense() {
    let all = HashMap::from([
        ("ip", "192.0.2.7"),
        ("mask", "20"),
        ("router", "192.0.2.1 192.0.2.2"),
        ("dns", "192.0.2.3"),
        ("domain", "a.example"),
        ("mtu", "9000"),
    ]);
    let read = |left_out: &str| {
        lease(|name| all.get(name).filter(|_| name != left_out).map(|text| text.to_string()))
    };
    let expected = Addresses {
        guest: [192, 0, 2, 7],
        prefix: 20,
        gateway: [192, 0, 2, 1],
        dns: [192, 0, 2, 3],
        search: vec![b"a.example".to_vec()],
        mtu: 9000,
    };
    assert_eq!(read(""), Some(expected.clone()));
    assert_eq!(read("mtu"), Some(Addresses { mtu: 0, ..expected.clone() }));
    assert_eq!(read("router"), Some(Addresses { gateway: [0; 4], ..expected }));
    assert_eq!(read("ip"), None);
    assert_eq!(read("mask"), None);
}
