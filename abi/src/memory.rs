//! Guest memory. Neighbours: [`crate::ioctl`].
//!
//! See: api.rst 4.35 (`KVM_SET_USER_MEMORY_REGION`), 4.140 (`KVM_SET_USER_MEMORY_REGION2`), 4.8 (`KVM_GET_DIRTY_LOG`),
//! 4.116 (`KVM_REGISTER_COALESCED_MMIO`), 4.117 (`KVM_CLEAR_DIRTY_LOG`), 8.29 (`KVM_CAP_DIRTY_LOG_RING`).

/// In [`UserspaceMemoryRegion::flags`]: note which pages are written.
pub const MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
/// In [`UserspaceMemoryRegion::flags`]: a write is MMIO.
pub const MEM_READONLY: u32 = 1 << 1;

/// A memory slot: `struct kvm_userspace_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserspaceMemoryRegion {
    /// Its number; the upper half is the address space.
    pub slot: u32,
    /// `MEM_…`.
    pub flags: u32,
    /// Where the guest sees it.
    pub guest_phys_addr: u64,
    /// Size in bytes; 0 removes the slot.
    pub memory_size: u64,
    /// Where the caller has it.
    pub userspace_addr: u64,
}

/// The same, with memory that the caller has no mapping of: `struct kvm_userspace_memory_region2`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserspaceMemoryRegion2 {
    /// As [`UserspaceMemoryRegion::slot`].
    pub slot: u32,
    /// As [`UserspaceMemoryRegion::flags`].
    pub flags: u32,
    /// As [`UserspaceMemoryRegion::guest_phys_addr`].
    pub guest_phys_addr: u64,
    /// As [`UserspaceMemoryRegion::memory_size`].
    pub memory_size: u64,
    /// As [`UserspaceMemoryRegion::userspace_addr`].
    pub userspace_addr: u64,
    /// Where in the descriptor it begins.
    pub guest_memfd_offset: u64,
    /// The descriptor of such memory.
    pub guest_memfd: u32,
    /// Zero.
    pub pad1: u32,
    /// Zero.
    pub pad2: [u64; 14],
}

/// Asks for the pages written since the last time: `struct kvm_dirty_log`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyLog {
    /// The slot.
    pub slot: u32,
    /// Zero.
    pub padding1: u32,
    /// Address in the caller's memory: one bit for each page.
    pub dirty_bitmap: u64,
}

/// Forgets that pages were written: `struct kvm_clear_dirty_log`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClearDirtyLog {
    /// The slot.
    pub slot: u32,
    /// How many pages.
    pub num_pages: u32,
    /// The first: a multiple of 64.
    pub first_page: u64,
    /// Address in the caller's memory: one bit for each page.
    pub dirty_bitmap: u64,
}

/// Addresses whose writes may wait: `struct kvm_coalesced_mmio_zone`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalescedMmioZone {
    /// The first.
    pub addr: u64,
    /// How many.
    pub size: u32,
    /// 1: ports, 0: memory.
    pub pio: u32,
}

/// A write that waited: `struct kvm_coalesced_mmio`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalescedMmio {
    /// Where to.
    pub phys_addr: u64,
    /// Bytes.
    pub len: u32,
    /// 1: a port, 0: memory.
    pub pio: u32,
    /// What.
    pub data: [u8; 8],
}

/// What precedes the writes in the ring's page: `struct kvm_coalesced_mmio_ring` without them.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoalescedMmioRing {
    /// The oldest, moved by the caller.
    pub first: u32,
    /// One past the newest, moved by the hypervisor.
    pub last: u32,
}

/// A page that a vCPU has written to, in its ring: `struct kvm_dirty_gfn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirtyGfn {
    /// `DIRTY_GFN_…`: whose the entry is.
    pub flags: u32,
    /// The slot; the upper half is the address space.
    pub slot: u32,
    /// The page's number in the slot.
    pub offset: u64,
}

/// In [`DirtyGfn::flags`]: the entry is there, for the caller to collect.
pub const DIRTY_GFN_DIRTY: u32 = 1 << 0;
/// In [`DirtyGfn::flags`]: the caller has collected it.
pub const DIRTY_GFN_RESET: u32 = 1 << 1;

/// The page of a vCPU's mapping at which its ring of dirty pages begins.
pub const DIRTY_LOG_PAGE_OFFSET: u32 = 64;

/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: asking for the log takes no marks, `KVM_CLEAR_DIRTY_LOG` does.
pub const DIRTY_LOG_MANUAL_PROTECT_ENABLE: u32 = 1 << 0;
/// With that: a new log has all marks.
pub const DIRTY_LOG_INITIALLY_SET: u32 = 1 << 1;

/// The ring's page in a vCPU's mapping.
pub const COALESCED_MMIO_PAGE_OFFSET: u32 = 2;
