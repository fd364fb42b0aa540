//! What is done when the library is loaded: the C library's functions are looked up.

use super::{calls, contents, device, lives, mappings, sends, signals};

/// Called by the dynamic loader, with the feature `interpose`.
#[used]
#[cfg_attr(feature = "interpose", unsafe(link_section = ".init_array"))]
static START: extern "C" fn() = start;

extern "C" fn start() {
    device::look_up();
    calls::IOCTL.look_up();
    contents::look_up();
    mappings::look_up();
    for one in [&lives::CLOSE, &lives::DUP] {
        one.look_up();
    }
    lives::DUP2.look_up();
    lives::DUP3.look_up();
    lives::FCNTL.look_up();
    lives::FCNTL64.look_up();
    lives::CLOSE_RANGE.look_up();
    lives::CLOSEFROM.look_up();
    sends::SENDMSG.look_up();
    sends::SENDMMSG.look_up();
    signals::SIGACTION.look_up();
}
