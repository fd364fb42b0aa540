//! [`Published`]: ports of the host's that lead to the guest. They are there before the guest is: who connects meanwhile waits.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, accept_with, bind, listen, recvfrom,
    socket_with, sockopt,
};

use crate::socket::send_at_once;

/// How many programs may wait for the guest at one port.
const BACKLOG: i32 = 1024;

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host's that leads to one of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// What of.
    pub transport: Transport,
    /// Where on the host.
    pub host: SocketAddr,
    /// The guest's port.
    pub guest: u16,
}

/// A port can't be published.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct Error {
    /// Which.
    pub port: Port,
    /// Why.
    pub source: io::Error,
}

/// A published port.
pub struct Listener {
    /// Which.
    pub port: Port,
    /// The host's socket.
    pub socket: Arc<OwnedFd>,
}

/// All of them.
#[derive(Default)]
pub struct Published(Vec<Listener>);

fn open(port: &Port) -> Result<OwnedFd, Errno> {
    let family = if port.host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match port.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if port.transport == Transport::Tcp {
        // Connections of a guest that has just ended are no obstacle.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &port.host)?;
    if port.transport == Transport::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

impl Published {
    /// Has the host's ports lead here.
    ///
    /// # Errors
    /// When one of them is another program's, or not this user's to have.
    pub fn bind(ports: &[Port]) -> Result<Self, Error> {
        let bind = |port: &Port| match open(port) {
            Ok(socket) => Ok(Listener { port: *port, socket: Arc::new(socket) }),
            Err(error) => Err(Error { port: *port, source: error.into() }),
        };
        ports.iter().map(bind).collect::<Result<_, _>>().map(Self)
    }

    /// Each of them, in the order in which they were given.
    pub fn listeners(&self) -> &[Listener] {
        &self.0
    }
}

impl Listener {
    /// A program that has connected, if there is one.
    ///
    /// # Errors
    /// When this process has too many files open: the program still waits.
    pub fn accept(&self) -> Result<Option<OwnedFd>, Errno> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match retry_on_intr(|| accept_with(&*self.socket, flags)) {
                Ok(socket) => {
                    send_at_once(&socket);
                    return Ok(Some(socket));
                }
                Err(Errno::AGAIN) => return Ok(None),
                // It is gone already.
                Err(Errno::CONNABORTED | Errno::PROTO) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A datagram, and who sent it, if there is one.
    pub fn receive(&self, bytes: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let received = retry_on_intr(|| recvfrom(&*self.socket, &mut *bytes, RecvFlags::empty()));
        let (size, _, from) = received.ok()?;
        Some((size, SocketAddr::try_from(from?).ok()?))
    }
}
