//! Reading and writing little-endian fields. Reading never panics: the disk may hold anything.

/// Bytes that verify, but do not say anything that this version understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Appends fields to a vector.
#[derive(Debug, Default)]
pub struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { bytes: Vec::with_capacity(bytes) }
    }

    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A count of elements; their number is bounded long before by the record's own bound.
    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("a count that the record's bound allows"));
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A length, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// `None` is the largest number, which no limit ever is.
    pub fn optional_u64(&mut self, value: Option<u64>) {
        self.u64(value.unwrap_or(u64::MAX));
    }
}

/// Takes fields from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Reader<'b> {
        Reader { rest: bytes }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn raw(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(Malformed("ends in the middle of a field"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(Malformed("ends in the middle of a number"))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of elements of at least `element_bytes` each: a lie is caught before it allocates.
    pub fn count(&mut self, element_bytes: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count.saturating_mul(element_bytes) > self.rest.len() {
            return Err(Malformed("counts more elements than there are bytes"));
        }
        Ok(count)
    }

    pub fn bytes(&mut self) -> Result<&'b [u8], Malformed> {
        let length = self.u32()? as usize;
        self.raw(length)
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed("is not UTF-8"))
    }

    pub fn optional_u64(&mut self) -> Result<Option<u64>, Malformed> {
        let value = self.u64()?;
        Ok((value != u64::MAX).then_some(value))
    }

    /// Nothing may be left: what this version does not know, it must not half-apply.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("has bytes left over")) }
    }
}
