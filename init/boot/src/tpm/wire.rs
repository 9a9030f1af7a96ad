//! Big-endian fields and the TPM's sized buffers, written and read. Called by the commands; a reader never runs past its end.

use super::Fault;

/// Bytes that are still to be read.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Fault::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N)?.try_into().expect("because as many bytes were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: two bytes of length and the content.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A big number of at most 32 bytes; TPMs leave leading zeros out.
    pub(super) fn number(&mut self) -> Result<[u8; 32], Fault> {
        let digits = self.sized()?;
        let mut number = [0; 32];
        let start =
            number.len().checked_sub(digits.len()).ok_or(Fault::Malformed("a number is longer than 32 bytes"))?;
        number[start..].copy_from_slice(digits);
        Ok(number)
    }

    pub(super) fn expect_u16(&mut self, wanted: u16, what: &'static str) -> Result<(), Fault> {
        if self.u16()? == wanted { Ok(()) } else { Err(Fault::Malformed(what)) }
    }

    pub(super) fn expect_u32(&mut self, wanted: u32, what: &'static str) -> Result<(), Fault> {
        if self.u32()? == wanted { Ok(()) } else { Err(Fault::Malformed(what)) }
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.0.is_empty() { Ok(()) } else { Err(Fault::Malformed("something follows its end")) }
    }
}

/// Bytes that are being written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A TPM2B.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).expect("because everything that is sent is some hundred bytes long");
        self.u16(length).bytes(bytes)
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}
