use proptest::prelude::*;

use super::super::fixture;
use super::*;

/// Parses a file that is there as a whole.
fn parse(file: &[u8]) -> Result<BzImage, Error> {
    super::parse(file, file.len() as u64)
}

fn payload<'a>(file: &'a [u8], image: &BzImage) -> &'a [u8] {
    &file[image.payload.start as usize..image.payload.end as usize]
}

#[test]
fn header_payload_and_version_are_found() {
    let file = fixture::bzimage(b"payload\x34\x12\0\0");
    let image = parse(&file).unwrap();
    assert_eq!(payload(&file, &image), b"payload\x34\x12\0\0");
    assert_eq!(image.version.as_deref(), Some("6.1.0-test (x) #1"));
    assert_eq!({ image.header.version }, 0x20f);
    assert_eq!({ image.header.cmdline_size }, 2047);
    assert_eq!({ image.header.initrd_addr_max }, 0x7fff_ffff);
}

#[test]
fn fields_beyond_the_headers_end_are_zero() {
    let mut file = fixture::bzimage(b"payload");
    file[0x264..0x26c].fill(0xee);
    file[0x201] = 0x66; // The header ends at 0x268.
    let header = parse(&file).unwrap().header;
    assert_eq!({ header.handover_offset }, 0xeeee_eeee);
    assert_eq!({ header.kernel_info_offset }, 0);
}

#[test]
fn no_setup_sectors_mean_four() {
    let mut file = fixture::bzimage(b"payload");
    file[0x1f1] = 0;
    let needed = 5 * 512 + 0x10 + 7;
    assert_eq!(parse(&file).unwrap_err(), Error::Truncated { length: file.len() as u64, needed });
    file.splice(1024..1024, [0; 3 * 512]);
    let image = parse(&file).unwrap();
    assert_eq!(payload(&file, &image), b"payload");
}

#[test]
fn what_is_unusable_is_named() {
    let file = fixture::bzimage(b"payload");
    assert_eq!(parse(b"MZ").unwrap_err(), Error::NoHeader);
    assert!(matches!(parse(&file[..0x240]), Err(Error::Truncated { length: 0x240, .. })));
    assert!(matches!(parse(&file[..file.len() - 1]), Err(Error::Truncated { .. })));
    // What lies beyond the head is not looked at, but has to be there.
    assert!(super::parse(&file[..1024], file.len() as u64).is_ok());
    assert!(super::parse(&file[..1024], file.len() as u64 - 1).is_err());

    let with = |offset: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        parse(&file).unwrap_err()
    };
    let old = with(0x206, &0x20bu16.to_le_bytes());
    assert!(old.to_string().contains("boot protocol is 2.11:"), "{old}");
    assert_eq!(with(0x236, &[0]), Error::ThirtyTwoBit);
    assert_eq!(with(0x24c, &[0; 4]), Error::NoPayload);
    assert!(matches!(with(0x24c, &[0xff; 4]), Error::Truncated { .. }));
}

#[test]
fn a_version_without_an_end_is_none() {
    let mut file = fixture::bzimage(b"payload");
    file[0x300..0x400].fill(b'x');
    assert_eq!(parse(&file).unwrap().version, None);
    file[0x20e..0x210].fill(0xff);
    assert_eq!(parse(&file).unwrap().version, None);
}

proptest! {
    #[test]
    fn arbitrary_headers_do_no_harm(
        header in prop::collection::vec(any::<u8>(), 0x100),
        length in 0usize..2048,
    ) {
        let mut file = vec![0u8; 2048];
        file[0x1f1..0x2f1].copy_from_slice(&header);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x207] = 2;
        let _ = parse(&file[..length]);
    }

    #[test]
    fn damaged_images_do_no_harm(offset in 0x1f1usize..0x270, value: u8) {
        let mut file = fixture::bzimage(b"payload");
        file[offset] = value;
        if let Ok(image) = parse(&file) {
            prop_assert!(image.payload.start < image.payload.end);
            prop_assert!(image.payload.end <= file.len() as u64);
        }
    }
}
