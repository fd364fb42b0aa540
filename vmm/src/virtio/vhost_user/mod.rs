//! A device that another process is: [`FrontEnd`] speaks vhost-user with it, and [`Relay`] passes the guest's requests on.
//!
//! That process never sees the guest's queues. Chains are taken from those here, checked as those of each device are, and put into a `ring` of
//! this process' own; what comes back is checked, too. So a driver that does wrong is told by the device that the guest sees, whoever has
//! written to the guest's memory is known (see [`Wrote`](crate::memory::Wrote)), and a process that does wrong, or is gone, is one whose
//! requests fail ([`Lost`]): the guest goes on.
//!
//! It has all of the guest's memory, which for that has to be in a file ([`Device::needs_file`](super::Device::needs_file)). Before a reset
//! is over it has stopped to use it, or has been ended.
//!
//! See: QEMU, `docs/interop/vhost-user.rst`.

mod relay;
mod ring;

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Once, Weak};
use std::time::Duration;

use hv::host_error::explain;
use hv::{Event, EventFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd as Kick};

pub use self::relay::{Refuse, Relay};
use self::ring::{Layout, Ring};
use super::feature::VERSION_1;

/// Where the process finds the rings, in its eyes: where no guest has memory.
const PLACE: GuestAddress = GuestAddress(1 << 50);

/// Of an eventfd: no program that is started has it, and nobody waits.
const FLAGS: i32 = EFD_CLOEXEC | EFD_NONBLOCK;

/// For how long an answer is waited for. What the process does meanwhile are single requests of the guest's.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the process is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// It has ended.
    #[error("its process has ended")]
    Gone,
    /// It says what it can't.
    #[error("its process has answered what it was not asked")]
    Unasked,
    /// It says nothing, or that it can't.
    #[error("its process can't be spoken with: {0}")]
    Protocol(#[from] vhost::Error),
    /// This process lacks what it takes.
    #[error("its process can't be given what it needs: {}", explain(.0))]
    Host(#[from] io::Error),
}

/// The other process.
pub trait Server: Send + Sync {
    /// Ends it. When this returns it does nothing any more.
    fn end(&self);
    /// The person should know that it is lost.
    fn tell(&self, why: &Lost);
}

/// This side of a connection to a server.
pub struct FrontEnd {
    connection: Frontend,
    stream: UnixStream,
    server: Arc<dyn Server>,
    /// What the server signals when it is done with something.
    call: Kick,
    /// The same.
    event: EventFd,
    /// Complete when it is ended, and what it does no more looked at.
    lost: Once,
}

impl FrontEnd {
    /// The side of a connection to a server that is for this process.
    ///
    /// # Errors
    /// When this process has too many files open, or the host has no thread left.
    pub fn new(stream: UnixStream, queues: u64, server: Arc<dyn Server>) -> io::Result<Arc<Self>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let call = Kick::new(FLAGS)?;
        let new = Arc::new(Self {
            connection: Frontend::from_stream(stream.try_clone()?, queues),
            stream: stream.try_clone()?,
            server,
            event: EventFd::of(call.as_raw_fd())?,
            call,
            lost: Once::new(),
        });
        let watched = Arc::downgrade(&new);
        let watch = move || watch(&stream, &watched);
        std::thread::Builder::new().name("server".into()).spawn(watch)?;
        Ok(new)
    }

    /// What is signalled when the server is done with something, or lost.
    #[must_use]
    pub fn event(&self) -> EventFd {
        self.event.clone()
    }

    /// Waits until the server is there.
    ///
    /// # Errors
    /// When it isn't.
    pub fn greet(&self) -> Result<(), Lost> {
        let mut connection = self.connection.clone();
        connection.set_owner()?;
        let offered = connection.get_features()?;
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if offered & protocol != 0 {
            let offered = connection.get_protocol_features()?;
            connection.set_protocol_features(offered & VhostUserProtocolFeatures::REPLY_ACK)?;
            // From now on what it can't do is heard of.
            connection.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        Ok(connection.set_features(offered & (VERSION_1 | protocol))?)
    }

    /// Whether it is lost: it has ended, and accesses no memory.
    fn is_lost(&self) -> bool {
        self.lost.is_completed()
    }

    /// There is no going on with it. When this returns it is ended.
    pub fn lose(&self, why: &Lost) {
        self.lost.call_once(|| {
            self.server.end();
            self.server.tell(why);
        });
        // What waits for its answers is to be refused.
        self.event.signal();
    }

    /// Has it serve rings of these sizes from now on; a queue that the driver does not use has none.
    fn start(
        &self,
        memory: &GuestMemoryMmap,
        sizes: &[Option<u16>],
    ) -> Result<Vec<Option<(Ring, Kick)>>, Lost> {
        let layouts: Vec<_> = sizes.iter().map(|size| size.map(Layout::new)).collect();
        let bytes = layouts.iter().flatten().map(|layout| layout.bytes()).sum();
        let region = Arc::new(region(bytes)?);
        let regions = memory.iter().chain([&*region]);
        let infos: Result<Vec<_>, _> =
            regions.map(VhostUserMemoryRegionInfo::from_guest_region).collect();
        self.connection.set_mem_table(&infos?)?;
        let mut start = 0;
        let ring = |(number, layout): (usize, Option<Layout>)| -> Result<_, Lost> {
            let Some(layout) = layout else { return Ok(None) };
            let kick = Kick::new(FLAGS)?;
            let address = region.as_ptr() as u64 + start;
            self.offer(number, sizes[number].unwrap_or_default(), layout, address, &kick)?;
            let ring = Ring::new(Arc::clone(&region), start, layout);
            start += layout.bytes();
            Ok(Some((ring, kick)))
        };
        layouts.into_iter().enumerate().map(ring).collect()
    }

    /// Tells it of a ring at an address of this process'.
    fn offer(
        &self,
        number: usize,
        size: u16,
        layout: Layout,
        address: u64,
        kick: &Kick,
    ) -> Result<(), Lost> {
        let mut connection = self.connection.clone();
        connection.set_vring_num(number, size)?;
        connection.set_vring_base(number, 0)?;
        let config = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: address + layout.descriptors(),
            used_ring_addr: address + layout.used(),
            avail_ring_addr: address + layout.available(),
            log_addr: None,
        };
        connection.set_vring_addr(number, &config)?;
        connection.set_vring_call(number, &self.call)?;
        connection.set_vring_kick(number, kick)?;
        Ok(connection.set_vring_enable(number, true)?)
    }

    /// Has it serve these rings no more. When this returns it does not; else it is ended.
    pub fn stop(&self, queues: usize) {
        if self.is_lost() {
            return;
        }
        let stopped =
            (0..queues).try_for_each(|number| self.connection.get_vring_base(number).map(drop));
        if let Err(error) = stopped {
            self.lose(&error.into());
        }
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        // Whoever watches it wakes up.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Waits until a server is not connected any more.
fn watch(stream: &UnixStream, front_end: &Weak<FrontEnd>) {
    // That alone is told, whatever is asked for. A signal of the process' cuts it short.
    while poll(&mut [PollFd::new(stream, PollFlags::empty())], None).is_err() {}
    if let Some(front_end) = front_end.upgrade() {
        front_end.lose(&Lost::Gone);
    }
}

/// Memory for rings, in a file that the server is given.
fn region(bytes: u64) -> Result<GuestRegionMmap, Lost> {
    let file = rustix::fs::memfd_create("rings", MemfdFlags::CLOEXEC).map_err(io::Error::from)?;
    let file = File::from(file);
    let bytes = bytes.next_multiple_of(4096);
    file.set_len(bytes)?;
    let mapping = MmapRegion::from_file(FileOffset::new(file, 0), bytes as usize)
        .map_err(io::Error::other)?;
    GuestRegionMmap::new(mapping, PLACE)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
        .map_err(Lost::Host)
}
