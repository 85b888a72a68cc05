//! What a session is: a protocol machine, and answers to its events.
//!
//! The connection loop (`connection.rs`) owns the socket, drives the machine and calls here. A
//! session never touches the socket; it answers events, and writes through [`Wire`].

use crate::wire::Wire;
use protocols::Machine;

/// What the connection loop does after an event has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    /// Sends what is written, then takes the connection to the core that owns the data.
    MoveTo(u16),
    Close,
}

/// One TCP life of one protocol.
#[allow(async_fn_in_trait)] // one core, static dispatch: no Send bound is wanted
pub trait Session: Sized + 'static {
    type Machine: Machine;
    /// What travels when the session moves to another core.
    type Luggage: Send + 'static;

    fn machine(&mut self) -> &mut Self::Machine;

    /// Answers one event of the machine, through the machine's own `answer_*` methods, before it
    /// returns. Long answers call [`Wire::relieve`] between parts, so that memory stays bounded.
    async fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        wire: &mut Wire<'_>,
    ) -> Next;

    /// Resolves when there is something to say that nobody asked for (IDLE). Raced against the
    /// socket and the deadline, so it must not lose anything when dropped half-way.
    async fn news(&self) {
        std::future::pending().await
    }

    /// Says it.
    async fn tell(&mut self, _wire: &mut Wire<'_>) -> Next {
        Next::Continue
    }

    fn pack(self) -> Self::Luggage;
    fn unpack(luggage: Self::Luggage, shard: &std::rc::Rc<crate::shard::Shard>) -> Self;
}
