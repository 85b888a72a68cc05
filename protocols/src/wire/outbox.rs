//! The bytes that a machine wants sent, in order.
//!
//! The driver sends it when the machine needs input, so that the replies to pipelined
//! commands leave in one packet (RFC 2920 section 3.2), and in between whenever it grows past
//! its own threshold.

use std::fmt;

/// A growing run of bytes to send. `write!` works on it and can't fail.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
}

impl Outbox {
    #[must_use]
    pub fn new() -> Outbox {
        Outbox::default()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// For encoders that write many small pieces; they only append.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets what was sent, and gives memory back when there is much of it: idle
    /// sessions are many.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(0);
    }

    /// Takes all bytes out, leaving the outbox empty.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl fmt::Write for Outbox {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
