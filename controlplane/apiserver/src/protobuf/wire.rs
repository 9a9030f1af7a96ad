//! The protobuf wire format (<https://protobuf.dev/programming-guides/encoding/>): fields one by one, without copying.

use super::Wrong;

/// Longest varint in bytes: 64 bits in groups of seven.
const VARINT_MAX: usize = 10;

/// Walks over the fields of a message.
pub(super) struct Reader<'a>(&'a [u8]);

/// The value of a field as it is on the wire.
pub(super) enum Scalar<'a> {
    Varint(u64),
    Fixed64(u64),
    /// No field that we know has this type.
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// The next field with its number; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Scalar<'a>)>, Wrong> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| Wrong::Wire)?;
        let scalar = match tag & 7 {
            0 => Scalar::Varint(self.varint()?),
            1 => Scalar::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Wrong::Truncated)?;
                Scalar::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Scalar::Fixed32
            }
            // Groups: never used by Kubernetes.
            _ => return Err(Wrong::Wire),
        };
        Ok(Some((number, scalar)))
    }

    fn varint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0_u64;
        for (index, byte) in self.0.iter().enumerate().take(VARINT_MAX) {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(Wrong::Truncated)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Wrong::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        self.take(N)?.try_into().map_err(|_| Wrong::Truncated)
    }
}

impl<'a> Scalar<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8], Wrong> {
        match self {
            Scalar::Bytes(bytes) => Ok(bytes),
            Scalar::Varint(_) | Scalar::Fixed64(_) | Scalar::Fixed32 => Err(Wrong::Wire),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, Wrong> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Wrong::Text)
    }

    /// A whole number; negative ones are two's complement in 64 bits.
    pub(super) fn integer(&self) -> Result<i64, Wrong> {
        match self {
            Scalar::Varint(value) => Ok(value.cast_signed()),
            Scalar::Fixed64(_) | Scalar::Fixed32 | Scalar::Bytes(_) => Err(Wrong::Wire),
        }
    }

    pub(super) fn double(&self) -> Result<f64, Wrong> {
        match self {
            Scalar::Fixed64(bits) => Ok(f64::from_bits(*bits)),
            Scalar::Varint(_) | Scalar::Fixed32 | Scalar::Bytes(_) => Err(Wrong::Wire),
        }
    }
}
