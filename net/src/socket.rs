//! The host's sockets, none of which ever waits; and [`Watch`], which tells what has happened to them.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt,
};

use crate::ready::Source;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A socket that is about to be connected.
///
/// # Errors
/// When that is known to fail.
pub fn stream(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = socket_with(family(to), SocketType::STREAM, FLAGS, None)?;
    send_at_once(&socket);
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Sends what is written without waiting for more: the guest has done that already.
pub fn send_at_once(socket: &OwnedFd) {
    // It is a matter of speed only.
    let _ = sockopt::set_tcp_nodelay(socket, true);
}

/// A socket for datagrams to one address.
///
/// # Errors
/// When there is no way to it, or no descriptor left.
pub fn datagrams(to: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = socket_with(family(to), SocketType::DGRAM, FLAGS, None)?;
    connect(&socket, &to)?;
    Ok(socket)
}

/// A socket for echoes to one address.
///
/// # Errors
/// As [`datagrams`]; and when the host does not let this user have one (`net.ipv4.ping_group_range`).
pub fn echoes(to: Ipv4Addr) -> Result<OwnedFd, Errno> {
    let protocol: Option<Protocol> = Some(ipproto::ICMP);
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, FLAGS, protocol)?;
    connect(&socket, &SocketAddr::from((to, 0)))?;
    Ok(socket)
}

/// What has happened to a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Reading is worth a try.
    pub readable: bool,
    /// Writing is.
    pub writable: bool,
}

/// Sockets that are watched. What happens to one is told once.
pub struct Watch {
    epoll: OwnedFd,
}

/// How many events are taken at a time.
const EVENTS: usize = 256;

impl Watch {
    /// Of none yet.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll })
    }

    /// Watches a socket until it is closed.
    ///
    /// # Errors
    /// When the host has no room for it.
    pub fn add(&self, socket: impl AsFd, source: Source) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, epoll::EventData::new_u64(source.token()), flags)
    }

    /// Tells what has happened since, without waiting.
    pub fn take(&self, mut tell: impl FnMut(Source, Happened)) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut room = [const { MaybeUninit::uninit() }; EVENTS];
        loop {
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut room, Some(&now)) else { return };
            for event in &*events {
                let (flags, data) = (event.flags, event.data);
                let ended = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                let readable = ended | epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
                let writable = ended | epoll::EventFlags::OUT;
                let happened = Happened {
                    readable: flags.intersects(readable),
                    writable: flags.intersects(writable),
                };
                tell(Source::of(data.u64()), happened);
            }
            if events.len() < EVENTS {
                return;
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Sends without waiting; who is gone is an error, and no signal.
///
/// # Errors
/// The host's; [`Errno::AGAIN`] if it has no room now.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    retry_on_intr(|| rustix::net::send(socket, bytes, rustix::net::SendFlags::NOSIGNAL))
}

/// Receives without waiting.
///
/// # Errors
/// The host's; [`Errno::AGAIN`] if there is nothing now.
pub fn receive(socket: &OwnedFd, bytes: &mut [u8]) -> Result<usize, Errno> {
    retry_on_intr(|| {
        rustix::net::recv(socket, &mut *bytes, rustix::net::RecvFlags::empty())
            .map(|(size, _)| size)
    })
}
