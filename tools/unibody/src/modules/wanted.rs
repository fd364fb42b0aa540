//! Which modules a guest needs: [`Wanted`].
//!
//! What is loaded at the start is what its devices need ([`Driver`]); what it may be asked for later, it finds ([`FILE_SYSTEMS`]).

/// A driver that a device of the guest needs, or who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Of virtio's devices that are on PCI.
    Pci,
    /// Of virtio-blk.
    Block,
    /// Of virtio-net.
    Network,
    /// Of sockets for frames, as DHCP takes them.
    Packet,
    /// Of virtio-console.
    Console,
    /// Of virtio-rng.
    Rng,
    /// Of virtio-balloon.
    Balloon,
    /// Of virtio-vsock.
    Vsock,
    /// Of virtio-fs.
    FileSystem,
    /// Of what lies over a file system.
    Overlay,
    /// Of the device by which a kernel tells that it panics.
    Panic,
    /// Of the device by which it tells what a dump of its memory is read by.
    FwCfg,
}

impl Driver {
    /// All of them.
    pub(crate) const ALL: [Driver; 12] = [
        Driver::Pci,
        Driver::Block,
        Driver::Network,
        Driver::Packet,
        Driver::Console,
        Driver::Rng,
        Driver::Balloon,
        Driver::Vsock,
        Driver::FileSystem,
        Driver::Overlay,
        Driver::Panic,
        Driver::FwCfg,
    ];

    /// The module that has it, if it isn't part of the kernel. The kernel's names for them have been the same since Linux 4.8; virtiofs is since 5.4.
    fn module(self) -> &'static str {
        match self {
            Driver::Pci => "virtio_pci",
            Driver::Block => "virtio_blk",
            Driver::Network => "virtio_net",
            Driver::Packet => "af_packet",
            Driver::Console => "virtio_console",
            Driver::Rng => "virtio_rng",
            Driver::Balloon => "virtio_balloon",
            Driver::Vsock => "vmw_vsock_virtio_transport",
            Driver::FileSystem => "virtiofs",
            Driver::Overlay => "overlay",
            Driver::Panic => "pvpanic_mmio",
            Driver::FwCfg => "qemu_fw_cfg",
        }
    }
}

/// What there is to mount with. FAT's names of files are in the code pages and character sets that the kernel's configuration, or an option
/// of the mount, names.
const FILE_SYSTEMS: [&str; 12] = [
    "ext4",
    "xfs",
    "btrfs",
    "squashfs",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_cp850",
    "nls_ascii",
    "nls_iso8859_1",
    "nls_utf8",
    // A file as a disk.
    "loop",
];

/// What of a kernel's modules a guest is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What init loads before the command runs.
    pub(crate) drivers: Vec<Driver>,
    /// What init loads while the command runs: what nobody waits for.
    pub(crate) later: Vec<Driver>,
    /// Whether file systems are there to be loaded when they are mounted.
    pub(crate) file_systems: bool,
}

impl Wanted {
    /// Everything that this program knows a use for.
    pub(crate) fn everything() -> Wanted {
        Wanted { drivers: Driver::ALL.to_vec(), later: Vec::new(), file_systems: true }
    }

    /// Whether it is nothing at all.
    pub(crate) fn is_nothing(&self) -> bool {
        self.drivers.is_empty() && self.later.is_empty() && !self.file_systems
    }

    /// The modules that are loaded before the command runs.
    pub(super) fn loaded(&self) -> Vec<&'static str> {
        self.drivers.iter().map(|driver| driver.module()).collect()
    }

    /// The modules that are loaded while it runs.
    pub(super) fn loaded_later(&self) -> Vec<&'static str> {
        self.later.iter().map(|driver| driver.module()).collect()
    }

    /// All that it names.
    pub(super) fn all(&self) -> Vec<&'static str> {
        let offered = self.offered().iter().copied();
        self.loaded().into_iter().chain(self.loaded_later()).chain(offered).collect()
    }

    /// The modules that are there to be loaded.
    pub(super) fn offered(&self) -> &'static [&'static str] {
        if self.file_systems { &FILE_SYSTEMS } else { &[] }
    }
}
