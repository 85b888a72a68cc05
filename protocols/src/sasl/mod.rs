//! SASL, server side, for every protocol: RFC 4422's exchange of challenges and responses, without
//! its transport. An [`Attempt`] adds the base64 lines that all protocols carry it in.
//!
//! | state | response | becomes |
//! |---|---|---|
//! | PLAIN, fresh | one message | password to check |
//! | LOGIN, fresh | user name, unless given at once | asks for the password |
//! | LOGIN, user known | password | password to check |
//! | SCRAM, fresh | client-first | keys wanted |
//! | SCRAM, keys given | client-final | verified, one empty response outstanding; or failed |
//! | SCRAM, verified | empty | done |
//!
//! [`client`] is the other side.

pub mod attempt;
pub mod client;
#[cfg(test)]
mod client_tests;
pub mod scram;

pub use attempt::{Attempt, Challenge, Fault, Turn};
pub use scram::ScramKeys;

use scram::Scram;

/// RFC 4954 section 4: the longest line of an exchange, in base64. Tickets of some
/// mechanisms are long.
pub const LINE_OCTETS_MAX: usize = 12_288;
/// Longest decoded response: what a line of that length holds.
pub const RESPONSE_BYTES_MAX: usize = 9216;
const _: () = assert!(RESPONSE_BYTES_MAX / 3 * 4 == LINE_OCTETS_MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
    ScramSha256,
}

impl Mechanism {
    /// Strongest first: the order in which they are offered.
    pub const ALL: [Mechanism; 3] = [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
        }
    }

    #[must_use]
    pub fn named(name: &[u8]) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|one| one.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// What the exchange needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Send this (before base64) and await a response.
    Challenge(Vec<u8>),
    /// Check this password; the exchange is over either way.
    Password(Credentials),
    /// Look up these keys, then call [`Exchange::keys`].
    Keys { user: String },
    /// The peer has proved that it knows the password of this user.
    Verified { user: String },
    /// The exchange is over; no fault of the password's form is told apart from a wrong one.
    Failed(Failure),
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Whom to act as; empty or equal to `user`, anything else is refused before it gets here.
    pub user: String,
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not of the mechanism's form.
    Malformed,
    /// Of the right form, but the proof is wrong, or acting for another was asked.
    Wrong,
}

/// What the engine says to a password, or to a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    Welcome,
    Wrong,
    Busy,
}

/// One run of one mechanism.
#[derive(Debug)]
pub struct Exchange {
    state: State,
}

#[derive(Debug)]
enum State {
    Plain,
    LoginUser,
    LoginPassword { user: String },
    Scram(Box<Scram>),
    Over,
}

impl Exchange {
    /// The exchange, and the challenge to send when the peer gave no initial response.
    #[must_use]
    pub fn start(mechanism: Mechanism) -> (Exchange, &'static [u8]) {
        let (state, challenge): (State, &[u8]) = match mechanism {
            Mechanism::Plain => (State::Plain, b""),
            Mechanism::Login => (State::LoginUser, b"Username:"),
            Mechanism::ScramSha256 => (State::Scram(Box::new(Scram::new())), b""),
        };
        (Exchange { state }, challenge)
    }

    /// Takes a decoded response.
    pub fn respond(&mut self, response: &[u8]) -> Progress {
        if response.len() > RESPONSE_BYTES_MAX {
            self.state = State::Over;
            return Progress::Failed(Failure::Malformed);
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => plain(response),
            State::LoginUser => match user_name(response) {
                Some(user) => {
                    self.state = State::LoginPassword { user };
                    Progress::Challenge(b"Password:".to_vec())
                }
                None => Progress::Failed(Failure::Malformed),
            },
            State::LoginPassword { user } => {
                Progress::Password(Credentials { user, password: response.to_vec() })
            }
            State::Scram(mut scram) => {
                let progress = scram.respond(response);
                self.state = State::Scram(scram);
                progress
            }
            State::Over => Progress::Failed(Failure::Malformed),
        }
    }

    /// Gives the keys that [`Progress::Keys`] asked for; `nonce` is fresh and printable.
    pub fn keys(&mut self, keys: ScramKeys, nonce: &str) -> Progress {
        match &mut self.state {
            State::Scram(scram) => scram.keys(keys, nonce),
            State::Plain | State::LoginUser | State::LoginPassword { .. } | State::Over => {
                Progress::Failed(Failure::Malformed)
            }
        }
    }
}

/// RFC 4616: `[authzid] NUL authcid NUL passwd`.
fn plain(message: &[u8]) -> Progress {
    let mut fields = message.split(|&byte| byte == 0);
    let (Some(acting_as), Some(user), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Progress::Failed(Failure::Malformed);
    };
    let Some(name) = user_name(user) else { return Progress::Failed(Failure::Malformed) };
    // Nobody acts for another here.
    if !acting_as.is_empty() && acting_as != user {
        return Progress::Failed(Failure::Wrong);
    }
    Progress::Password(Credentials { user: name, password: password.to_vec() })
}

fn user_name(bytes: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(bytes).ok()?;
    let fine = !name.is_empty() && name.len() <= 512 && !name.chars().any(char::is_control);
    fine.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Progress {
        Progress::Password(Credentials { user: user.into(), password: password.into() })
    }

    #[test]
    fn plain_gives_user_and_password() {
        let (mut exchange, challenge) = Exchange::start(Mechanism::Plain);
        assert!(challenge.is_empty());
        assert_eq!(exchange.respond(b"\0ann@x\0secret"), password("ann@x", "secret"));
        assert_eq!(exchange.respond(b"\0ann@x\0secret"), Progress::Failed(Failure::Malformed));
    }

    #[test]
    fn plain_for_another_is_wrong_and_odd_forms_are_malformed() {
        let respond = |message: &[u8]| Exchange::start(Mechanism::Plain).0.respond(message);
        assert_eq!(respond(b"bob\0ann\0secret"), Progress::Failed(Failure::Wrong));
        assert_eq!(respond(b"ann\0ann\0secret"), password("ann", "secret"));
        for odd in [&b""[..], b"ann", b"\0ann", b"\0\0secret", b"\0a\0b\0c", b"\0\xff\0b"] {
            assert_eq!(respond(odd), Progress::Failed(Failure::Malformed), "{odd:?}");
        }
    }

    #[test]
    fn login_asks_for_the_password() {
        let (mut exchange, challenge) = Exchange::start(Mechanism::Login);
        assert_eq!(challenge, b"Username:");
        assert_eq!(exchange.respond(b"ann"), Progress::Challenge(b"Password:".to_vec()));
        assert_eq!(exchange.respond(b"secret"), password("ann", "secret"));
    }

    #[test]
    fn an_endless_response_is_malformed() {
        let (mut exchange, _) = Exchange::start(Mechanism::Plain);
        assert_eq!(exchange.respond(&[b'a'; 10_000]), Progress::Failed(Failure::Malformed));
    }
}
