use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use host_user::own_descriptor::OwnDescriptor;
use rustix::io::fcntl_dupfd_cloexec;

use super::*;

/// One of the library's own. No other test has numbers as high.
fn own(number: RawFd) -> OwnDescriptor {
    let file = OwnedFd::from(File::open("/dev/null").unwrap());
    OwnDescriptor::from(fcntl_dupfd_cloexec(file.as_fd(), number).unwrap())
}

#[test]
fn a_range_is_divided_around_the_librarys_own() {
    let parts = |first, last| others(first, last).collect::<Vec<_>>();
    assert_eq!(parts(700, 800), [(700, 800)]);
    let _own = [own(710), own(711), own(720), own(800)];
    assert_eq!(parts(700, 800), [(700, 709), (712, 719), (721, 799)]);
    assert_eq!(parts(710, 720), [(712, 719)]);
    assert_eq!(parts(721, u32::MAX), [(721, 799), (801, u32::MAX)]);
    for (first, last) in [(710, 710), (710, 711), (720, 700)] {
        assert_eq!(parts(first, last), []);
    }
    assert_eq!(parts(u32::MAX, u32::MAX), [(u32::MAX, u32::MAX)]);
}
