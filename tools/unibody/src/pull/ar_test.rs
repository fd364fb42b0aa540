use std::io::Read;

use proptest::prelude::*;

use super::*;

/// An archive of these members, as dpkg-deb writes them.
pub(crate) fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for (name, data) in members {
        let length = data.len();
        bytes.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{length:<10}`\n", 0, 0, 0, 100644).bytes(),
        );
        bytes.extend_from_slice(data);
        if length % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn members(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut archive = Archive::new(bytes)?;
    let mut found = Vec::new();
    while let Some(name) = archive.next_member()? {
        let mut data = Vec::new();
        archive.contents().read_to_end(&mut data).map_err(Error::Read)?;
        found.push((name, data));
    }
    Ok(found)
}

#[test]
fn members_of_odd_and_even_size_are_read() {
    let bytes = archive(&[("a", b"odd"), ("bb/", b"even"), ("c", b"")]);
    let found = members(&bytes).unwrap();
    let expected = [("a", b"odd".as_slice()), ("bb", b"even"), ("c", b"")];
    assert!(found.iter().map(|(n, d)| (n.as_str(), d.as_slice())).eq(expected));
}

#[test]
fn what_is_not_read_is_passed_over() {
    let bytes = archive(&[("a", b"first"), ("b", b"second")]);
    let mut archive = Archive::new(bytes.as_slice()).unwrap();
    assert_eq!(archive.next_member().unwrap().as_deref(), Some("a"));
    assert_eq!(archive.next_member().unwrap().as_deref(), Some("b"));
    assert_eq!(archive.next_member().unwrap(), None);
}

#[test]
fn an_archive_that_is_cut_off_is_an_error_wherever_that_is() {
    let bytes = archive(&[("a", b"odd"), ("b", b"data")]);
    let whole = members(&bytes).unwrap();
    for length in 0..bytes.len() {
        match members(&bytes[..length]) {
            // After a whole member it looks like an archive that ends there.
            Ok(found) => assert!(found.len() < whole.len() && whole.starts_with(&found)),
            Err(Error::Magic) => assert!(length < MAGIC.len()),
            Err(_) => {}
        }
    }
}

#[test]
fn a_size_that_is_no_number_is_an_error() {
    for size in ["-1", "+1", "0x1", "1 1", "99999999999"] {
        let mut bytes = archive(&[("a", b"data")]);
        bytes[56..66].copy_from_slice(&format!("{size:<10}").as_bytes()[..10]);
        assert!(members(&bytes).is_err(), "{size}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let with_magic = [MAGIC.as_slice(), &bytes].concat();
        let _ = members(&bytes);
        let _ = members(&with_magic);
    }

    #[test]
    fn a_damaged_archive_is_read_or_refused(place in 0usize..200, byte: u8) {
        let mut bytes = archive(&[("debian-binary", b"2.0\n"), ("data.tar", &[7; 64])]);
        let place = place % bytes.len();
        bytes[place] = byte;
        let _ = members(&bytes);
    }
}
