//! What the client machines have in common: how they are to encrypt, and what can be wrong with the
//! server that they talk to.

use crate::Tick;
use std::time::Duration;

/// What is done about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// The connection is encrypted already.
    Active,
    /// Not asked for, offered or not: the operator's explicit choice, or a handshake
    /// that failed before.
    Never,
    WhenOffered,
    /// Nothing of worth is said without it.
    Required,
}

/// What is wrong with a server. `Display` completes "the server …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It said no; its words stand beside.
    #[error("refused")]
    Refused,
    #[error("closed the connection")]
    Lost,
    #[error("did not answer in time")]
    Silent,
    /// It said something that is not an answer.
    #[error("answered with {0}")]
    Garbage(&'static str),
    /// It answered something else, or more, than what was asked.
    #[error("broke the protocol: {0}")]
    OutOfStep(&'static str),
    #[error("sent more than the limit: {0}")]
    TooMuch(&'static str),
    #[error("does not offer TLS, which is required")]
    NoTls,
    #[error("offers no way to log in with what we have")]
    NoLogin,
    #[error("wants the password without encryption")]
    LoginInClear,
    #[error("takes no password without encryption")]
    LoginNeedsTls,
    /// What it said in the course of a login.
    #[error("failed at the login: {0}")]
    Login(&'static str),
    /// Something that is needed and that it does not have.
    #[error("does not offer {0}")]
    NotOffered(&'static str),
    /// Our side could not go on: what was to be sent can't be read, or can't be said
    /// in this protocol.
    #[error("could not be sent what was meant for it: {0}")]
    Ours(&'static str),
}

/// The whole of a message, or of a long answer, however it drips.
pub const WHOLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Text of a server's as it may be shown and kept: without control characters, at
/// most so many octets.
#[must_use]
pub fn shown(text: &[u8], octets_max: usize) -> String {
    let text = String::from_utf8_lossy(text.get(..octets_max.saturating_mul(2)).unwrap_or(text));
    let plain = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut plain: String = plain.collect();
    plain.truncate(plain.floor_char_boundary(octets_max));
    plain
}

/// When a server has to have answered. Its octets gain no time, its answers do.
#[derive(Debug, Default)]
pub struct Patience {
    deadline: Option<Tick>,
    /// When a long answer must be whole.
    whole: Option<Tick>,
}

impl Patience {
    /// A piece of what was asked for has come, or something was asked: the clock starts anew at the
    /// next [`Patience::waits`].
    pub fn renew(&mut self) {
        self.deadline = None;
    }

    /// An answer is over: the next one has its own whole time.
    pub fn answered(&mut self) {
        self.deadline = None;
        self.whole = None;
    }

    /// The machine awaits input, for `timeout` at most.
    pub fn waits(&mut self, now: Tick, timeout: Duration) {
        self.deadline.get_or_insert(now.after(timeout));
        self.whole.get_or_insert(now.after(WHOLE_TIMEOUT));
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        match (self.deadline, self.whole) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    #[must_use]
    pub fn is_over(&self, now: Tick) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }
}
