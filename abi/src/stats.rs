//! What the descriptor of `KVM_GET_STATS_FD` reads as. Neighbours: [`crate::ioctl`].
//!
//! A header, then a name for the whole, then a description of each statistic with its name, then all values, of 64 bits. The header
//! says where each part is.
//!
//! See: api.rst 4.133 (`KVM_GET_STATS_FD`).

/// Bytes of each name that this hypervisor gives.
pub const NAME_SIZE: usize = 48;

/// The first part: `struct kvm_stats_header`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsHeader {
    /// Zero.
    pub flags: u32,
    /// Bytes of each name, with the zero behind it.
    pub name_size: u32,
    /// How many statistics there are.
    pub num_desc: u32,
    /// Where the name of the whole is.
    pub id_offset: u32,
    /// Where the descriptions are.
    pub desc_offset: u32,
    /// Where the values are.
    pub data_offset: u32,
}

/// In [`StatsDesc::flags`]: a value that only grows.
pub const TYPE_CUMULATIVE: u32 = 0;
/// In [`StatsDesc::flags`]: a value that goes up and down.
pub const TYPE_INSTANT: u32 = 1;
/// In [`StatsDesc::flags`]: a number of something.
pub const UNIT_NONE: u32 = 0;
/// In [`StatsDesc::flags`]: 0 or 1.
pub const UNIT_BOOLEAN: u32 = 4 << 4;

/// What a statistic is: `struct kvm_stats_desc`, with its name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsDesc {
    /// `TYPE_…`, `UNIT_…`, and the base of the exponent: 0 is ten.
    pub flags: u32,
    /// The unit is the base to this power.
    pub exponent: i16,
    /// How many values it has.
    pub size: u16,
    /// Where they are, from the first value on.
    pub offset: u32,
    /// For a histogram only.
    pub bucket_size: u32,
    /// Its name, with a zero behind it.
    pub name: [u8; NAME_SIZE],
}
