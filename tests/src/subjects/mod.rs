//! Machines with a small world around each: the same question always gets the same answer.
//!
//! In every world there are the users `ann` (password `secret`) and `user` (password `pencil`,
//! whose SCRAM keys are those of RFC 7677's example), and logins by `busy` find no room.

mod imap;
mod imap_client;
mod managesieve;
mod pop3;
mod pop3_client;
mod smtp;
mod smtp_client;

pub use imap::ImapSubject;
pub use imap_client::ImapClientSubject;
pub use managesieve::ManageSieveSubject;
pub use pop3::Pop3Subject;
pub use pop3_client::Pop3ClientSubject;
pub use smtp::SmtpSubject;
pub use smtp_client::{Parcel, SmtpClientFacts, SmtpClientSubject, login, parcel};

use protocols::sasl::{Credentials, ScramKeys};
use protocols::wire::remote::Tls;

/// The client's nonce in the example of RFC 7677.
pub const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

/// What a client does about TLS, by its name in a transcript: `never`, `active`, `required` or, as
/// when nothing is said, `offered`.
///
/// # Panics
/// When it is another.
#[must_use]
pub fn tls_of(name: &str) -> Tls {
    match name {
        "never" => Tls::Never,
        "active" => Tls::Active,
        "required" => Tls::Required,
        "offered" | "" => Tls::WhenOffered,
        other => panic!("tls: {other}"),
    }
}

/// RFC 7677 section 3: user `user`, password `pencil`. Everyone has these keys.
#[must_use]
pub fn scram_keys() -> ScramKeys {
    ScramKeys {
        salt: SALT.to_vec(),
        iterations: 4096,
        stored_key: STORED_KEY,
        server_key: SERVER_KEY,
    }
}

/// The server's part of the nonce in the same example.
pub const SCRAM_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

const SALT: [u8; 16] = [
    0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81,
];
const STORED_KEY: [u8; 32] = [
    0x58, 0x6e, 0x5d, 0xf2, 0x83, 0xe6, 0xdc, 0xeb, 0x5c, 0x3e, 0x79, 0x1d, 0x8b, 0x85, 0x28, 0xec,
    0x19, 0x1e, 0x66, 0x40, 0x45, 0xce, 0x97, 0x17, 0x92, 0xe2, 0xe6, 0xb5, 0xbb, 0x13, 0xe2, 0xa6,
];
const SERVER_KEY: [u8; 32] = [
    0xc1, 0xf3, 0xcb, 0xc1, 0xc1, 0x3a, 0x9d, 0x35, 0xa1, 0x4c, 0x09, 0x90, 0xee, 0xd9, 0x76, 0x29,
    0xea, 0x22, 0x58, 0x63, 0xe5, 0x66, 0xa4, 0x31, 0x4a, 0xb9, 0x9f, 0x3f, 0x00, 0xe5, 0xd9, 0xd5,
];

/// What the world thinks of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Welcome,
    Wrong,
    Busy,
}

fn check(credentials: &Credentials) -> Verdict {
    match (credentials.user.as_str(), credentials.password.as_slice()) {
        ("ann", b"secret") | ("user", b"pencil") => Verdict::Welcome,
        ("busy", _) => Verdict::Busy,
        (_, _) => Verdict::Wrong,
    }
}
