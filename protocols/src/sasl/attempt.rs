//! One attempt to log in, as AUTH and AUTHENTICATE carry it: an [`Exchange`] whose messages travel
//! as lines of base64. RFC 4954 section 4 (SMTP), RFC 5034 section 4 (POP3), RFC 3501 section 6.2.2
//! with RFC 4959 (IMAP).
//!
//! | the peer sends | becomes |
//! |---|---|
//! | no initial response | the mechanism's first challenge |
//! | `=` as initial response | an empty response |
//! | `*` | [`Fault::Cancelled`] |
//! | what is not base64 | [`Fault::NotBase64`] |
//! | base64 | what the mechanism makes of it |
//!
//! An attempt is consumed by each line and handed back with the turn that goes on, so nobody can
//! answer to one that is over. What is different from protocol to protocol stays with them: when a
//! login is legal, how a challenge is marked (`334`, `+`), what a failure costs.

use super::{Credentials, Exchange, Failure, Mechanism, Progress, ScramKeys};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A run of one mechanism that awaits a line of the peer's, or keys.
#[derive(Debug)]
pub struct Attempt {
    exchange: Exchange,
}

/// What the protocol does next.
#[derive(Debug)]
#[must_use = "the peer, or the engine, is to be asked"]
pub enum Turn {
    /// Write this, then give the peer's next line to [`Attempt::line`].
    Challenge(Challenge),
    /// Ask the engine whether this is right; the attempt is over either way.
    Password(Credentials),
    /// Ask the engine for this user's keys, then go on with [`Attempt::keys`].
    Keys(Attempt, String),
    /// This user's proof is right; the engine may still say no.
    Proved(String),
    /// The proof is wrong, or acting for another was asked: as a wrong password.
    Disproved,
    /// The attempt is over, and by the peer's fault.
    Fault(Fault),
}

#[derive(Debug)]
pub struct Challenge {
    pub attempt: Attempt,
    /// In base64, without the protocol's mark and line end.
    pub base64: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Cancelled,
    NotBase64,
    /// Not of the mechanism's form.
    Malformed,
}

impl Fault {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Fault::Cancelled => "Login cancelled",
            Fault::NotBase64 => "That is not base64",
            Fault::Malformed => "Malformed authentication",
        }
    }
}

impl Attempt {
    /// `initial` is the initial response as it stands in the command.
    pub fn start(mechanism: Mechanism, initial: Option<&[u8]>) -> Turn {
        let (exchange, challenge) = Exchange::start(mechanism);
        let attempt = Attempt { exchange };
        match initial {
            Some(b"=") => attempt.respond(b""),
            Some(initial) => attempt.line(initial),
            None => Turn::Challenge(attempt.challenge(challenge)),
        }
    }

    /// Takes a line of the peer's, without its end.
    pub fn line(self, line: &[u8]) -> Turn {
        if line == b"*" {
            return Turn::Fault(Fault::Cancelled);
        }
        match STANDARD.decode(line) {
            Ok(response) => self.respond(&response),
            Err(_) => Turn::Fault(Fault::NotBase64),
        }
    }

    /// Gives the keys that [`Turn::Keys`] asked for; `nonce` is fresh and printable.
    ///
    /// # Errors
    /// [`Fault::Malformed`] when no keys were asked for.
    pub fn keys(mut self, keys: ScramKeys, nonce: &str) -> Result<Challenge, Fault> {
        match self.exchange.keys(keys, nonce) {
            Progress::Challenge(challenge) => Ok(self.challenge(&challenge)),
            Progress::Password(_)
            | Progress::Keys { .. }
            | Progress::Verified { .. }
            | Progress::Failed(_) => Err(Fault::Malformed),
        }
    }

    fn respond(mut self, response: &[u8]) -> Turn {
        match self.exchange.respond(response) {
            Progress::Challenge(challenge) => Turn::Challenge(self.challenge(&challenge)),
            Progress::Password(credentials) => Turn::Password(credentials),
            Progress::Keys { user } => Turn::Keys(self, user),
            Progress::Verified { user } => Turn::Proved(user),
            Progress::Failed(Failure::Wrong) => Turn::Disproved,
            Progress::Failed(Failure::Malformed) => Turn::Fault(Fault::Malformed),
        }
    }

    fn challenge(self, challenge: &[u8]) -> Challenge {
        Challenge { attempt: self, base64: STANDARD.encode(challenge) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(turn: Turn) -> (Attempt, String) {
        match turn {
            Turn::Challenge(Challenge { attempt, base64 }) => (attempt, base64),
            other => panic!("no challenge: {other:?}"),
        }
    }

    fn password(turn: Turn) -> (String, Vec<u8>) {
        match turn {
            Turn::Password(Credentials { user, password }) => (user, password),
            other => panic!("no password: {other:?}"),
        }
    }

    fn fault(turn: Turn) -> Fault {
        match turn {
            Turn::Fault(fault) => fault,
            other => panic!("no fault: {other:?}"),
        }
    }

    #[test]
    fn an_initial_response_saves_the_first_challenge() {
        let plain = b"AGFubgBzZWNyZXQ=";
        let expected = ("ann".to_owned(), b"secret".to_vec());
        assert_eq!(password(Attempt::start(Mechanism::Plain, Some(plain))), expected);
        let (attempt, first) = challenge(Attempt::start(Mechanism::Plain, None));
        assert_eq!(first, "");
        assert_eq!(password(attempt.line(plain)), expected);
    }

    #[test]
    fn challenges_are_base64() {
        let (attempt, user) = challenge(Attempt::start(Mechanism::Login, None));
        assert_eq!(user, "VXNlcm5hbWU6");
        let (attempt, password_wanted) = challenge(attempt.line(b"YW5u"));
        assert_eq!(password_wanted, "UGFzc3dvcmQ6");
        assert_eq!(password(attempt.line(b"")), ("ann".to_owned(), Vec::new()));
    }

    /// `=` stands for nothing as initial response alone; a line of it is not base64.
    #[test]
    fn an_equals_sign_is_an_empty_initial_response() {
        assert_eq!(fault(Attempt::start(Mechanism::Plain, Some(b"="))), Fault::Malformed);
        let (attempt, _) = challenge(Attempt::start(Mechanism::Plain, None));
        assert_eq!(fault(attempt.line(b"=")), Fault::NotBase64);
    }

    #[test]
    fn a_star_cancels_and_what_is_not_base64_is_refused() {
        for (line, expected) in [
            (&b"*"[..], Fault::Cancelled),
            (b"**", Fault::NotBase64),
            (b"AGFubgBzZWNyZXQ", Fault::NotBase64),
            (b"YW5u", Fault::Malformed),
        ] {
            assert_eq!(fault(Attempt::start(Mechanism::Plain, Some(line))), expected, "{line:?}");
            let (attempt, _) = challenge(Attempt::start(Mechanism::Plain, None));
            assert_eq!(fault(attempt.line(line)), expected, "{line:?}");
        }
    }

    #[test]
    fn keys_go_to_who_asked_for_them_alone() {
        let keys = ScramKeys {
            salt: vec![1; 16],
            iterations: 4096,
            stored_key: [0; 32],
            server_key: [0; 32],
        };
        let first = b"biwsbj1hbm4scj14"; // n,,n=ann,r=x
        let Turn::Keys(attempt, user) = Attempt::start(Mechanism::ScramSha256, Some(first)) else {
            panic!("no keys wanted");
        };
        assert_eq!(user, "ann");
        let next = attempt.keys(keys.clone(), "y").unwrap();
        assert_eq!(next.base64, STANDARD.encode("r=xy,s=AQEBAQEBAQEBAQEBAQEBAQ==,i=4096"));
        let (attempt, _) = challenge(Attempt::start(Mechanism::Plain, None));
        assert_eq!(attempt.keys(keys, "y").unwrap_err(), Fault::Malformed);
    }

    #[test]
    fn acting_for_another_is_disproved() {
        let bob = STANDARD.encode("bob\0ann\0secret");
        let turn = Attempt::start(Mechanism::Plain, Some(bob.as_bytes()));
        assert!(matches!(turn, Turn::Disproved), "{turn:?}");
    }
}
