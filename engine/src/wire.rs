//! The write side of a connection, as a session sees it.

use protocols::Outbox;
use std::io;

/// CONTRACT STUB: the outbox, and a way to send it half-way through a long answer.
#[derive(Debug)]
pub struct Wire<'c> {
    pub outbox: &'c mut Outbox,
}

impl Wire<'_> {
    /// Sends the outbox when it has grown past 64 KiB; otherwise returns at once. An error means that
    /// the peer is gone or too slow: the session gives up what it was doing.
    #[allow(clippy::unused_async)]
    pub async fn relieve(&mut self) -> io::Result<()> {
        Ok(())
    }
}
