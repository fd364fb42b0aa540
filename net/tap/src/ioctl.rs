//! The system calls on a queue of a TAP interface.
//!
//! See: Linux, include/uapi/linux/if_tun.h, include/uapi/linux/if.h.

use std::fs::File;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

/// What the host may leave to the guest.
pub mod offload {
    /// Checksums.
    pub const CHECKSUM: usize = 0x01;
    /// Segmentation of TCP on IPv4.
    pub const TSO4: usize = 0x02;
    /// On IPv6.
    pub const TSO6: usize = 0x04;
    /// With congestion notification.
    pub const ECN: usize = 0x08;
}

/// Of an interface: TAP, no protocol before frames, a header of virtio's before them, several queues; and of a queue, that it is used or not.
mod flag {
    pub const TAP: i16 = 0x0002;
    pub const NO_PI: i16 = 0x1000;
    pub const VNET_HDR: i16 = 0x4000;
    pub const MULTI_QUEUE: i16 = 0x0100;
    pub const ATTACH_QUEUE: i16 = 0x0200;
    pub const DETACH_QUEUE: i16 = 0x0400;
}

const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
const SET_OFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const SET_HEADER_SIZE: Opcode = opcode::write::<i32>(b'T', 216);
const SET_QUEUE: Opcode = opcode::write::<i32>(b'T', 217);

/// `struct ifreq`: the name of an interface, and flags.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

fn request(name: &str, flags: i16) -> Request {
    let mut request = Request { name: [0; 16], flags, rest: [0; 22] };
    // The last byte is its end.
    request.name[..15].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    request
}

/// Makes the file a queue of the interface.
pub fn set_interface(file: &File, name: &str, several: bool) -> Result<(), Errno> {
    let several = if several { flag::MULTI_QUEUE } else { 0 };
    let mut request = request(name, flag::TAP | flag::NO_PI | flag::VNET_HDR | several);
    // SAFETY: the call reads and writes a `struct ifreq` of 40 bytes, as this is, of any bytes, and keeps no pointer.
    unsafe { ioctl(file, Updater::<SET_INTERFACE, Request>::new(&mut request)) }
}

/// Uses the queue, or leaves it to itself.
pub fn attach_queue(file: &File, attached: bool) -> Result<(), Errno> {
    let request = request("", if attached { flag::ATTACH_QUEUE } else { flag::DETACH_QUEUE });
    // SAFETY: the call reads a `struct ifreq` of 40 bytes, as this is.
    unsafe { ioctl(file, Setter::<SET_QUEUE, Request>::new(request)) }
}

/// Says how large the header before each frame is.
pub fn set_header_size(file: &File, size: i32) -> Result<(), Errno> {
    // SAFETY: the call reads an int, as this is.
    unsafe { ioctl(file, Setter::<SET_HEADER_SIZE, i32>::new(size)) }
}

/// Says what the host may leave out of frames: some of [`offload`].
pub fn set_offload(file: &File, flags: usize) -> Result<(), Errno> {
    // SAFETY: the call takes its argument as a number.
    unsafe { ioctl(file, IntegerSetter::<SET_OFFLOAD>::new_usize(flags)) }
}
