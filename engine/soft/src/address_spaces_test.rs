//! Which PCIDs are remembered, and which make room.

use crate::address_spaces::{AddressSpaces, SPACES, Switched};

#[test]
fn a_pcid_is_found_again_where_it_was() {
    let mut spaces = AddressSpaces::new(5);
    assert!(spaces.is_current(5));
    let own = spaces.current();
    let other = spaces.switch(6);
    assert!(!other.known && other.space != own && spaces.is_current(6));
    assert_eq!(spaces.switch(5), Switched { space: own, known: true });
    assert_eq!(spaces.switch(6), Switched { known: true, ..other });
    assert_eq!(spaces.switch(6), Switched { known: true, ..other });
}

#[test]
fn the_one_used_longest_ago_makes_room() {
    let mut spaces = AddressSpaces::new(0);
    let mut at: Vec<_> = (0..SPACES as u16).map(|pcid| spaces.switch(pcid).space).collect();
    at.sort_unstable();
    assert_eq!(at, (0..SPACES).collect::<Vec<_>>(), "each has its own");
    assert!(spaces.switch(0).known);
    let new = spaces.switch(100);
    assert!(!new.known);
    assert!(spaces.switch(0).known);
    assert_eq!(spaces.switch(1), Switched { known: false, space: spaces.current() });
    assert!(spaces.switch(100).known);
    assert!(!spaces.switch(2).known, "1 has come back instead of it");
}

#[test]
fn what_is_forgotten_is_not_known_and_makes_room_first() {
    let mut spaces = AddressSpaces::new(0);
    for pcid in 1..SPACES as u16 {
        spaces.switch(pcid);
    }
    spaces.forget(3);
    spaces.forget(77);
    assert!(!spaces.switch(50).known);
    for pcid in [0, 1, 2, 4, 5, 6] {
        assert!(spaces.switch(pcid).known, "{pcid}");
    }
    assert!(!spaces.switch(3).known);
}

#[test]
fn the_current_one_is_not_forgotten() {
    let mut spaces = AddressSpaces::new(0);
    let other = spaces.switch(1);
    spaces.forget(1);
    assert!(spaces.is_current(1));
    spaces.forget_others();
    assert_eq!(spaces.switch(1), Switched { known: true, ..other });
    assert!(!spaces.switch(0).known);
}
