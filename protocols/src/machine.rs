//! The contract between a protocol and whoever drives it.
//!
//! A machine is driven with [`Machine::step`] until it answers [`Step::NeedInput`] or
//! [`Step::Close`]. Every event that carries a ticket is answered, through the machine's own
//! `answer_*` method, before the next step; a ticket is `#[must_use]`, can't be cloned and is
//! consumed by the answer, so one command has one reply.
//!
//! # Laws, proved for every machine by one generic test (`tests/src/laws.rs`)
//!
//! 1. **Cuts do not matter**: any cut of the byte stream into pieces gives the same
//!    events and bytes.
//! 2. **All at once equals one at a time**: pipelining changes nothing but the timing.
//! 3. **No input panics.**
//! 4. **Memory stays bounded**: what a machine keeps between steps is under its stated limit.
//! 5. **One reply per command.**
//! 6. `NeedInput` is answered only when `input` is empty: the machine keeps what it can't use yet,
//!    so that the driver needs no buffer while a session is idle.

use std::{fmt, marker::PhantomData, time::Duration};

/// Milliseconds on a monotonic clock whose origin is the driver's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// The instant `duration` after this one; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Tick {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Tick(self.0.saturating_add(milliseconds))
    }

    /// How long from `earlier` to this instant; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A question that a machine has asked. `Question` is an uninhabited marker type of the protocol,
/// so that a ticket for one question can't be spent on another.
#[must_use = "the machine waits for its answer: spend the ticket with an `answer_*` method"]
pub struct Ticket<Question> {
    question: PhantomData<fn() -> Question>,
}

impl<Question> Ticket<Question> {
    /// Only machines ask.
    pub(crate) fn issue() -> Ticket<Question> {
        Ticket { question: PhantomData }
    }
}

impl<Question> fmt::Debug for Ticket<Question> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Ticket")
    }
}

impl<Question> PartialEq for Ticket<Question> {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl<Question> Eq for Ticket<Question> {}

/// What a machine wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<E> {
    /// All input is consumed. Send what is in the outbox, then read more.
    NeedInput,
    /// Something happened that the machine can't decide alone. Answer it before the next step.
    Event(E),
    /// Send the outbox, drop what is left of the input (RFC 3207 section 4.2: bytes that were
    /// pipelined behind STARTTLS are an attack), do the handshake, call `tls_started`.
    StartTls,
    /// Send the outbox, then close the connection.
    Close,
}

/// A protocol without sockets or clocks.
pub trait Machine {
    /// What the machine asks of the world; may borrow message bytes from the input.
    type Event<'i>;

    /// Consumes from the front of `input`, appends replies to `output`.
    fn step<'i>(
        &mut self,
        now: crate::Tick,
        input: &mut &'i [u8],
        output: &mut crate::Outbox,
    ) -> Step<Self::Event<'i>>;

    /// When `step` must be called again, input or not; `None`: only on input. Past its deadline, a
    /// step with empty input writes the protocol's farewell and closes; a client's tells first what
    /// has come to nothing.
    fn deadline(&self) -> Option<Tick>;

    /// The handshake that [`Step::StartTls`] asked for is complete.
    fn tls_started(&mut self, now: Tick);
}
