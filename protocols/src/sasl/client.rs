//! SASL, client side: what is said to another server to log in there. The base64 lines around it
//! are those of every protocol.
//!
//! | mechanism | first response | challenge | becomes |
//! |---|---|---|---|
//! | SCRAM-SHA-256 | client-first | server-first | [`Reaction::Derive`], then client-final |
//! | | | server-final | an empty response; only now may the server say that we are in |
//! | PLAIN | all of it | any | failure |
//! | LOGIN | none | any, twice | the user, the password |
//! | OAUTHBEARER | all of it | any | `^A`, since it is the text of a refusal |
//! | XOAUTH2 | all of it | any | an empty response, for the same reason |
//!
//! RFC 4616, RFC 5802 with 7677, RFC 7628; LOGIN and XOAUTH2 are their vendors'. Names and
//! passwords go as they are, without SASLprep.

use super::scram::hmac;
use crate::wire::remote::{Trouble, shown};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// RFC 7677 section 4 sets the least; a server that asks for less would like to guess the password.
const ITERATIONS_MIN: u32 = 4096;
/// Half a second of a core: who asks for more wants to keep us busy.
const ITERATIONS_MAX: u32 = 1_000_000;
const SALT_OCTETS_MAX: usize = 256;
const NONCE_OCTETS_MAX: usize = 512;
/// Of the text in which a server says why a token is no good.
const REFUSAL_OCTETS_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    ScramSha256,
    Plain,
    Login,
    OauthBearer,
    Xoauth2,
}

impl Mechanism {
    /// Those of passwords, and those of tokens, the better ones first.
    pub const ALL: [Mechanism; 5] = [
        Mechanism::ScramSha256,
        Mechanism::Plain,
        Mechanism::Login,
        Mechanism::OauthBearer,
        Mechanism::Xoauth2,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::OauthBearer => "OAUTHBEARER",
            Mechanism::Xoauth2 => "XOAUTH2",
        }
    }

    /// Whoever listens learns nothing of use.
    fn is_safe_in_clear(self) -> bool {
        self == Mechanism::ScramSha256
    }

    fn takes(self, secret: &Secret) -> bool {
        let takes_token = matches!(self, Mechanism::OauthBearer | Mechanism::Xoauth2);
        takes_token == matches!(secret, Secret::Token(_))
    }
}

/// How we prove who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Password(String),
    /// An OAuth 2.0 access token.
    Token(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::Password(_) => "Password",
            Secret::Token(_) => "Token",
        })
    }
}

/// What is to be said in the course of a login, kept until the server asks for it. It is not shown,
/// as [`Secret`] is not: whoever logs a machine logs no password.
#[derive(Default, Clone, PartialEq, Eq)]
pub(crate) struct Hidden(pub(crate) Vec<u8>);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hidden({} octets)", self.0.len())
    }
}

/// Who we are on that server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub secret: Secret,
    /// Fresh for each connection, printable and without commas: for SCRAM.
    pub nonce: String,
    /// Passwords and tokens may go without TLS: the operator's explicit choice.
    pub in_clear: bool,
}

/// What a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offered(u8);

impl Offered {
    fn bit(mechanism: Mechanism) -> u8 {
        match mechanism {
            Mechanism::ScramSha256 => 1,
            Mechanism::Plain => 2,
            Mechanism::Login => 4,
            Mechanism::OauthBearer => 8,
            Mechanism::Xoauth2 => 16,
        }
    }

    /// Names that we don't know are passed over.
    pub fn add(&mut self, name: &[u8]) {
        let named = |one: &Mechanism| one.name().as_bytes().eq_ignore_ascii_case(name);
        if let Some(mechanism) = Mechanism::ALL.into_iter().find(named) {
            self.0 |= Offered::bit(mechanism);
        }
    }

    #[must_use]
    pub fn has(self, mechanism: Mechanism) -> bool {
        self.0 & Offered::bit(mechanism) != 0
    }

    /// The best of `known` that the server offers, and that our secret goes with.
    ///
    /// # Errors
    /// [`Trouble::NoLogin`], or [`Trouble::LoginInClear`] when TLS is what is missing.
    pub fn choose(
        self,
        login: &Login,
        encrypted: bool,
        known: &[Mechanism],
    ) -> Result<Mechanism, Trouble> {
        let fits =
            |one: &Mechanism| self.has(*one) && known.contains(one) && one.takes(&login.secret);
        let mut fitting = Mechanism::ALL.into_iter().filter(fits).peekable();
        if fitting.peek().is_none() {
            return Err(Trouble::NoLogin);
        }
        let may = |one: &Mechanism| encrypted || login.in_clear || one.is_safe_in_clear();
        fitting.find(may).ok_or(Trouble::LoginInClear)
    }
}

/// What is answered to a challenge.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the server waits for its response"]
pub enum Reaction {
    /// Before base64.
    Respond(Vec<u8>),
    /// Compute this, then [`Exchange::derived`].
    Derive(Derivation),
    /// The server does not keep to the mechanism; send `*`.
    Cancel(&'static str),
}

/// Work of milliseconds and more: not for a thread that serves others. RFC 5802 section 2.2, Hi().
#[derive(Clone, PartialEq, Eq)]
pub struct Derivation {
    pub password: String,
    pub salt: Vec<u8>,
    /// At most a million.
    pub iterations: u32,
}

impl std::fmt::Debug for Derivation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Derivation").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// A password, salted.
#[derive(Clone, PartialEq, Eq)]
pub struct Salted([u8; 32]);

impl Salted {
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Salted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salted")
    }
}

impl Derivation {
    #[must_use]
    pub fn run(&self) -> Salted {
        let key = self.password.as_bytes();
        let mut last = hmac(key, &[self.salt.as_slice(), &[0, 0, 0, 1]].concat());
        let mut sum = last;
        for _ in 1..self.iterations {
            last = hmac(key, &last);
            sum.iter_mut().zip(last).for_each(|(sum, last)| *sum ^= last);
        }
        Salted(sum)
    }
}

/// One run of one mechanism.
pub struct Exchange {
    state: State,
    /// What the server said against a token.
    refusal: Option<String>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

enum State {
    /// Nothing more is expected than the server's word.
    Said,
    LoginUser {
        user: String,
        password: String,
    },
    LoginPassword {
        password: String,
    },
    /// A challenge tells why the token is refused; this is the answer to it.
    Bearer {
        acknowledgement: &'static [u8],
    },
    ServerFirst {
        first_bare: String,
        nonce: String,
        password: String,
    },
    Deriving {
        first_bare: String,
        server_first: Vec<u8>,
        nonce: Vec<u8>,
    },
    ServerFinal {
        signature: [u8; 32],
    },
    /// The server has proved that it knows the password.
    Proved,
    Over,
}

impl Exchange {
    /// The exchange, and the first response: `None` when the server speaks first.
    #[must_use]
    pub fn start(mechanism: Mechanism, login: &Login) -> (Exchange, Option<Vec<u8>>) {
        let user = login.user.as_str();
        let secret = match &login.secret {
            Secret::Password(secret) | Secret::Token(secret) => secret.as_str(),
        };
        let (state, response) = match mechanism {
            Mechanism::Plain => (State::Said, Some(format!("\0{user}\0{secret}"))),
            Mechanism::Login => {
                (State::LoginUser { user: user.into(), password: secret.into() }, None)
            }
            Mechanism::OauthBearer => {
                let name = escape(user);
                let response = format!("n,a={name},\u{1}auth=Bearer {secret}\u{1}\u{1}");
                (State::Bearer { acknowledgement: b"\x01" }, Some(response))
            }
            Mechanism::Xoauth2 => {
                let response = format!("user={user}\u{1}auth=Bearer {secret}\u{1}\u{1}");
                (State::Bearer { acknowledgement: b"" }, Some(response))
            }
            Mechanism::ScramSha256 => {
                let first_bare = format!("n={},r={}", escape(user), login.nonce);
                let response = format!("n,,{first_bare}");
                let nonce = login.nonce.clone();
                (State::ServerFirst { first_bare, nonce, password: secret.into() }, Some(response))
            }
        };
        (Exchange { state, refusal: None }, response.map(String::into_bytes))
    }

    /// Takes a decoded challenge.
    pub fn challenge(&mut self, challenge: &[u8]) -> Reaction {
        let (next, reaction) = match std::mem::replace(&mut self.state, State::Over) {
            State::LoginUser { user, password } => {
                (State::LoginPassword { password }, Reaction::Respond(user.into_bytes()))
            }
            State::LoginPassword { password } => {
                (State::Said, Reaction::Respond(password.into_bytes()))
            }
            State::Bearer { acknowledgement } => {
                self.refusal = Some(shown(challenge, REFUSAL_OCTETS_MAX));
                (State::Over, Reaction::Respond(acknowledgement.to_vec()))
            }
            State::ServerFirst { first_bare, nonce, password } => {
                match server_first(challenge, &nonce, password) {
                    Ok((nonce, derivation)) => {
                        let server_first = challenge.to_vec();
                        (
                            State::Deriving { first_bare, server_first, nonce },
                            Reaction::Derive(derivation),
                        )
                    }
                    Err(fault) => (State::Over, Reaction::Cancel(fault)),
                }
            }
            State::ServerFinal { signature } => {
                let given =
                    challenge.strip_prefix(b"v=").and_then(|text| STANDARD.decode(text).ok());
                if given.as_deref() == Some(&signature) {
                    (State::Proved, Reaction::Respond(Vec::new()))
                } else {
                    (State::Over, Reaction::Cancel("it did not prove that it knows the password"))
                }
            }
            State::Said | State::Proved | State::Deriving { .. } | State::Over => {
                (State::Over, Reaction::Cancel("it asked for more than the mechanism has"))
            }
        };
        self.state = next;
        reaction
    }

    /// What [`Reaction::Derive`] asked for; gives the response.
    #[must_use]
    pub fn derived(&mut self, salted: &Salted) -> Vec<u8> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let State::Deriving { first_bare, server_first, nonce } = state else { return Vec::new() };
        let without_proof = [b"c=biws,r=".as_slice(), &nonce].concat();
        let auth_message =
            [first_bare.as_bytes(), b",", &server_first, b",", &without_proof].concat();
        let client_key = hmac(&salted.0, b"Client Key");
        let stored_key: [u8; 32] = Sha256::digest(client_key).into();
        let mut proof = hmac(&stored_key, &auth_message);
        proof.iter_mut().zip(client_key).for_each(|(proof, key)| *proof ^= key);
        let signature = hmac(&hmac(&salted.0, b"Server Key"), &auth_message);
        self.state = State::ServerFinal { signature };
        [without_proof.as_slice(), b",p=", STANDARD.encode(proof).as_bytes()].concat()
    }

    /// The server says that we are in. False: it has left out what it had to prove.
    #[must_use]
    pub fn may_end(&self) -> bool {
        matches!(self.state, State::Said | State::Proved | State::Bearer { .. })
    }

    /// What it said against our token.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

/// RFC 5802 section 5.1.
fn escape(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// `r=nonce,s=salt,i=iterations[,extensions]`; gives the nonce and the work to do.
fn server_first(
    message: &[u8],
    our_nonce: &str,
    password: String,
) -> Result<(Vec<u8>, Derivation), &'static str> {
    const MALFORMED: &str = "its first SCRAM message is malformed";
    let mut attributes = message.split(|&byte| byte == b',');
    let mut next = |name: &[u8]| attributes.next().and_then(|text| text.strip_prefix(name));
    let (Some(nonce), Some(salt), Some(iterations)) = (next(b"r="), next(b"s="), next(b"i="))
    else {
        return Err(MALFORMED);
    };
    let printable = nonce.iter().all(|byte| (0x21..=0x7e).contains(byte));
    let extends = nonce.starts_with(our_nonce.as_bytes()) && nonce.len() > our_nonce.len();
    if !printable || !extends || nonce.len() > NONCE_OCTETS_MAX {
        return Err("its SCRAM nonce does not extend ours");
    }
    let salt = STANDARD.decode(salt).map_err(|_| MALFORMED)?;
    let digits = std::str::from_utf8(iterations).map_err(|_| MALFORMED)?;
    let iterations = digits.parse::<u32>().map_err(|_| MALFORMED)?;
    if salt.is_empty() || salt.len() > SALT_OCTETS_MAX {
        return Err(MALFORMED);
    }
    if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
        return Err("it wants too few or too many SCRAM iterations");
    }
    Ok((nonce.to_vec(), Derivation { password, salt, iterations }))
}

/// A response as it stands in a command: `=` for an empty one (RFC 4954 section 4, RFC 4959).
#[must_use]
pub fn initial_base64(response: &[u8]) -> String {
    if response.is_empty() { "=".into() } else { STANDARD.encode(response) }
}

/// A response on a line of its own.
#[must_use]
pub fn response_base64(response: &[u8]) -> String {
    STANDARD.encode(response)
}

/// A challenge as it stands behind `334` or `+`. Some servers say nothing, or words, when a
/// mechanism's first challenge is empty.
#[must_use]
pub fn challenge_octets(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim_ascii()).ok()
}
