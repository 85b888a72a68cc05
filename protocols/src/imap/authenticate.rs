//! AUTHENTICATE: the exchange of challenges and responses. RFC 3501 section 6.2.2, RFC 4959.
//! PLAIN is RFC 4616; LOGIN is what old clients speak.

use super::lexer::Fault;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
}

impl Mechanism {
    pub(super) fn named(name: &str) -> Option<Mechanism> {
        match name {
            "PLAIN" => Some(Mechanism::Plain),
            "LOGIN" => Some(Mechanism::Login),
            _ => None,
        }
    }
}

/// An exchange that waits for the client.
#[derive(Debug)]
pub(super) struct Sasl {
    tag: Vec<u8>,
    awaited: Awaited,
}

#[derive(Debug)]
enum Awaited {
    Plain,
    LoginUser,
    LoginPassword { user: Vec<u8> },
}

pub(super) enum SaslStep {
    /// The challenge in base64.
    Challenge(Sasl, &'static str),
    Credentials {
        tag: Vec<u8>,
        user: String,
        password: Vec<u8>,
    },
    Fault {
        tag: Vec<u8>,
        fault: Fault,
    },
}

impl Sasl {
    pub(super) fn start(tag: Vec<u8>, mechanism: Mechanism, initial: Option<&[u8]>) -> SaslStep {
        let awaited = match mechanism {
            Mechanism::Plain => Awaited::Plain,
            Mechanism::Login => Awaited::LoginUser,
        };
        let sasl = Sasl { tag, awaited };
        match (initial, mechanism) {
            // An empty initial response is written `=`.
            (Some(b"="), _) => sasl.take(Vec::new()),
            (Some(response), _) => sasl.respond(response),
            (None, Mechanism::Plain) => SaslStep::Challenge(sasl, ""),
            // "Username:"
            (None, Mechanism::Login) => SaslStep::Challenge(sasl, "VXNlcm5hbWU6"),
        }
    }

    /// Takes a line of the client's.
    pub(super) fn respond(self, line: &[u8]) -> SaslStep {
        if line == b"*" {
            return SaslStep::Fault { tag: self.tag, fault: Fault("Cancelled") };
        }
        match STANDARD.decode(line) {
            Ok(response) => self.take(response),
            Err(_) => SaslStep::Fault { tag: self.tag, fault: Fault("That is not base64") },
        }
    }

    fn take(self, response: Vec<u8>) -> SaslStep {
        let Sasl { tag, awaited } = self;
        match awaited {
            Awaited::Plain => match plain(&response) {
                Some((user, password)) => credentials(tag, user, password.to_vec()),
                None => SaslStep::Fault { tag, fault: Fault("Malformed PLAIN response") },
            },
            Awaited::LoginUser => {
                let awaited = Awaited::LoginPassword { user: response };
                // "Password:"
                SaslStep::Challenge(Sasl { tag, awaited }, "UGFzc3dvcmQ6")
            }
            Awaited::LoginPassword { user } => credentials(tag, &user, response),
        }
    }
}

/// `[authzid] NUL authcid NUL passwd`; acting for another user is not offered.
fn plain(response: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut pieces = response.split(|byte| *byte == 0);
    let (authorize, user, password) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let own = authorize.is_empty() || authorize == user;
    (pieces.next().is_none() && own && !user.is_empty()).then_some((user, password))
}

fn credentials(tag: Vec<u8>, user: &[u8], password: Vec<u8>) -> SaslStep {
    match std::str::from_utf8(user) {
        Ok(user) => SaslStep::Credentials { tag, user: user.to_owned(), password },
        Err(_) => SaslStep::Fault { tag, fault: Fault("The user name is not UTF-8") },
    }
}
