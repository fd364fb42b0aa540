//! [`Connection`]: a guest's connection ([`Peer`]), and the host's socket that its bytes go to and come from.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown, sockopt};
use smoltcp::socket::tcp::State;

use super::peer::{Ends, Peer};
use crate::packet::{Frame, Link};
use crate::socket::{Happened, receive, send};

/// How long the host may take to connect, and the guest to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection.
pub struct Connection {
    /// Between whom.
    pub ends: Ends,
    /// When it is looked after, if nothing happens before.
    pub timer: Option<Duration>,
    peer: Peer,
    socket: OwnedFd,
    /// The host's socket is not connected yet.
    is_connecting: bool,
    /// Until when it has to be, and the guest has to have answered.
    limit: Duration,
    /// Reading, or writing, is worth a try.
    is_readable: bool,
    is_writable: bool,
    /// The host has been told that the guest sends no more.
    is_shut: bool,
    /// The guest has been told that the host sends no more.
    is_ended: bool,
}

impl Connection {
    /// One that the guest has asked for, by a packet that `peer` has yet to be given.
    pub fn outward(ends: Ends, peer: Peer, socket: OwnedFd, now: Duration) -> Self {
        let mut connection = Self::inward(ends, peer, socket, now);
        connection.is_connecting = true;
        connection
    }

    /// One that a program on the host has asked for.
    pub fn inward(ends: Ends, peer: Peer, socket: OwnedFd, now: Duration) -> Self {
        Self {
            ends,
            timer: None,
            peer,
            socket,
            is_connecting: false,
            limit: now + PATIENCE,
            is_readable: false,
            is_writable: false,
            is_shut: false,
            is_ended: false,
        }
    }

    /// Something has happened to the socket.
    pub fn wake(&mut self, happened: Happened) {
        self.is_readable |= happened.readable;
        self.is_writable |= happened.writable;
        if self.is_connecting && happened.writable {
            self.is_connecting = false;
            match sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => self.peer.accept(),
                _ => self.peer.socket().abort(),
            }
        }
    }

    /// Takes a packet of the guest's. Gives whether `frame` is an answer.
    pub fn receive(
        &mut self,
        packet: &[u8],
        link: &Link,
        frame: &mut Frame,
        now: Duration,
    ) -> bool {
        let is_answer = self.peer.receive(packet, link, frame, now);
        self.pass_to_host();
        is_answer
    }

    /// Gives the host what came from the guest, as much as it takes, and the end of it.
    fn pass_to_host(&mut self) {
        while self.is_writable && self.peer.socket().can_recv() {
            let socket = &self.socket;
            let given = self.peer.socket().recv(|bytes| match send(socket, bytes) {
                Ok(size) => (size, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match given {
                Ok(Ok(())) => {}
                Ok(Err(Errno::AGAIN)) => self.is_writable = false,
                // It does not want any more.
                _ => {
                    self.peer.socket().abort();
                    return;
                }
            }
        }
        if !self.is_shut && self.guest_has_ended() {
            self.is_shut = true;
            // Who is gone already knows.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Whether the guest sends no more, and the host has all of it.
    fn guest_has_ended(&mut self) -> bool {
        let peer = self.peer.socket();
        let is_before = self.is_connecting
            || matches!(peer.state(), State::Listen | State::SynSent | State::SynReceived);
        // One that is closed without the host's end was reset.
        let is_reset = peer.state() == State::Closed && !self.is_ended;
        !is_before && !is_reset && !peer.may_recv() && peer.recv_queue() == 0
    }

    /// Takes of the host what there is room for, and the end of it.
    fn take_from_host(&mut self) {
        while !self.is_connecting && self.is_readable && self.peer.socket().can_send() {
            let socket = &self.socket;
            let taken = self.peer.socket().send(|room| match receive(socket, room) {
                Ok(size) => (size, Ok(size)),
                Err(error) => (0, Err(error)),
            });
            match taken {
                Ok(Ok(0)) => {
                    self.is_readable = false;
                    self.is_ended = true;
                    self.peer.socket().close();
                }
                Ok(Ok(_)) => {}
                Ok(Err(Errno::AGAIN)) => self.is_readable = false,
                _ => {
                    self.is_readable = false;
                    self.peer.socket().abort();
                }
            }
        }
    }

    /// Makes `frame` what is to be sent to the guest next. Gives whether there is something.
    pub fn next(&mut self, link: &Link, frame: &mut Frame, now: Duration) -> bool {
        if self.limit().is_some_and(|limit| limit <= now) {
            self.is_connecting = false;
            self.peer.socket().abort();
        }
        self.pass_to_host();
        self.take_from_host();
        self.peer.next(link, frame, now)
    }

    /// Until when something has to have happened.
    fn limit(&mut self) -> Option<Duration> {
        let state = self.peer.socket().state();
        let is_answered = !matches!(state, State::Listen | State::SynSent | State::SynReceived);
        (!is_answered).then_some(self.limit)
    }

    /// When [`next`](Self::next) may have something though nothing else has happened.
    pub fn deadline(&mut self, now: Duration) -> Option<Duration> {
        // As long as there is no connection to the host nothing is to be sent, whatever TCP thinks.
        let own = if self.is_connecting { None } else { self.peer.deadline(now) };
        [own, self.limit()].into_iter().flatten().min()
    }

    /// Whether it may be forgotten: nothing more is to be said to the guest, nor is there something that the host has not taken.
    pub fn is_over(&mut self) -> bool {
        let has_rest = self.is_ended && self.peer.socket().recv_queue() > 0;
        self.peer.is_over() && !has_rest
    }
}

impl Drop for Connection {
    /// The host learns whether the guest has ended it in good order: else, as when the guest is switched off, it is a reset.
    fn drop(&mut self) {
        if !self.is_shut {
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}
