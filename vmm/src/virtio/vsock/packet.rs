//! [`Header`]: what each packet between driver and device begins with.
//!
//! See: VIRTIO 1.2, 5.10.6.

/// Bytes of a header.
pub const SIZE: usize = 44;

/// The most bytes of data that a packet has: Linux's limit, in either direction.
pub const MOST_DATA: usize = 64 << 10;

/// The kind of socket that there is: bytes in order.
pub const STREAM: u16 = 1;

/// What a packet is for. See: VIRTIO 1.2, 5.10.6.
pub mod op {
    /// To connect.
    pub const REQUEST: u16 = 1;
    /// That is accepted.
    pub const RESPONSE: u16 = 2;
    /// There is no such connection any more, or none is accepted.
    pub const RST: u16 = 3;
    /// There will be no more data, as the flags say.
    pub const SHUTDOWN: u16 = 4;
    /// Data.
    pub const RW: u16 = 5;
    /// How much room there is.
    pub const CREDIT_UPDATE: u16 = 6;
    /// To be told how much there is.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`]: who sends it will receive, or send, no more.
pub mod ended {
    /// Receives no more.
    pub const RECEIVE: u32 = 1 << 0;
    /// Sends no more.
    pub const SEND: u32 = 1 << 1;
    /// Neither.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// A packet's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who sends it.
    pub source: u64,
    /// Who is to receive it.
    pub destination: u64,
    /// The sender's port.
    pub source_port: u32,
    /// The receiver's.
    pub destination_port: u32,
    /// Bytes of data behind it.
    pub size: u32,
    /// The kind of socket.
    pub kind: u16,
    /// One of [`op`].
    pub op: u16,
    /// Of that.
    pub flags: u32,
    /// How many bytes the sender's buffer for this connection holds.
    pub allocated: u32,
    /// How many bytes have left that buffer, ever; it wraps.
    pub forwarded: u32,
}

impl Header {
    /// Out of the bytes in a guest's memory.
    #[must_use]
    pub fn decode(bytes: &[u8; SIZE]) -> Self {
        let mut rest = bytes.as_slice();
        let mut next = |size: usize| {
            let (field, behind) = rest.split_at(size);
            rest = behind;
            field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        Self {
            source: next(8),
            destination: next(8),
            source_port: next(4) as u32,
            destination_port: next(4) as u32,
            size: next(4) as u32,
            kind: next(2) as u16,
            op: next(2) as u16,
            flags: next(4) as u32,
            allocated: next(4) as u32,
            forwarded: next(4) as u32,
        }
    }

    /// The bytes for a guest's memory.
    #[must_use]
    pub fn encode(&self) -> [u8; SIZE] {
        let parts: [&[u8]; 10] = [
            &self.source.to_le_bytes(),
            &self.destination.to_le_bytes(),
            &self.source_port.to_le_bytes(),
            &self.destination_port.to_le_bytes(),
            &self.size.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.allocated.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ];
        let mut bytes = [0; SIZE];
        let to = bytes.iter_mut().zip(parts.into_iter().flatten());
        to.for_each(|(to, from)| *to = *from);
        bytes
    }

    /// The answer to this that there is no such connection.
    #[must_use]
    pub fn reset(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_driver_has_them() {
        let bytes: [u8; SIZE] = std::array::from_fn(|at| at as u8 + 1);
        let header = Header::decode(&bytes);
        assert_eq!(header.source, 0x0807_0605_0403_0201);
        assert_eq!((header.source_port, header.destination_port), (0x1413_1211, 0x1817_1615));
        assert_eq!((header.size, header.kind, header.op), (0x1c1b_1a19, 0x1e1d, 0x201f));
        assert_eq!((header.allocated, header.forwarded), (0x2827_2625, 0x2c2b_2a29));
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn a_reset_goes_back_to_where_the_packet_came_from() {
        let header =
            Header { source: 3, destination: 2, source_port: 10, size: 7, ..Header::default() };
        let reset = Header { destination_port: 11, kind: 9, ..header }.reset();
        assert_eq!((reset.source, reset.destination), (2, 3));
        assert_eq!((reset.source_port, reset.destination_port), (11, 10));
        assert_eq!((reset.kind, reset.op, reset.size), (9, op::RST, 0));
    }
}
