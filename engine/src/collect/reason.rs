//! Why a visit failed, and what mends it.

use crate::tls::fault_words;
use protocols::imap::client as imap;
use protocols::pop3::client as pop3;
use protocols::wire::remote::Trouble;
use serde::{Deserialize, Serialize};
use std::io;
use storage::Error;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub kind: Kind,
    /// What happened, in words; with the server's own where it said something.
    pub why: String,
}

/// What a remedy goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nobody there, or the connection broke.
    Unreachable,
    /// It is there, and says nothing.
    Mute,
    /// It says: not now.
    Busy,
    /// The visit took too long.
    Slow,
    Certificate,
    NoTls,
    /// It has encryption, and wants it.
    WantsTls,
    Login,
    /// The token's file can't be read.
    Token,
    FolderGone,
    /// It lacks what collecting takes.
    Unable,
    /// It does not keep to the protocol, or floods.
    Broken,
    TooMany,
    /// The mailbox here is full.
    OverQuota,
    /// Our store, or what looks at mail, can't go on now.
    Here,
}

impl Kind {
    pub fn may_mend_itself(self) -> bool {
        match self {
            Kind::Unreachable
            | Kind::Mute
            | Kind::Busy
            | Kind::Slow
            | Kind::Broken
            | Kind::Here => true,
            Kind::Certificate
            | Kind::NoTls
            | Kind::WantsTls
            | Kind::Login
            | Kind::Token
            | Kind::FolderGone
            | Kind::Unable
            | Kind::TooMany
            | Kind::OverQuota => false,
        }
    }

    pub fn remedy(self) -> &'static str {
        match self {
            Kind::Unreachable => {
                "If the other server was switched off or renamed, have the collecting set up anew with its \
                 new name; otherwise there is nothing to do."
            }
            Kind::Mute => {
                "It sends no greeting, as ports do that speak TLS from the first octet (993 and 995): if this is one, \
                 have the collecting set up with --tls implicit. Otherwise it may be overloaded."
            }
            Kind::Busy => {
                "Another program may hold the mailbox open all the time. End it, or let it look less often."
            }
            Kind::Slow => {
                "The connection may be too slow for a large message. Delete or move that message on the \
                 other server, or have a size limit set."
            }
            Kind::Certificate => {
                "The other server does not prove who it is, so nothing was said to it. If its name was changed, \
                 have the collecting set up with the new one; otherwise ask whoever runs it to mend its certificate."
            }
            Kind::NoTls => {
                "The other server offers no encryption. Have the collecting set up with the encryption that it \
                 has, or, if you accept that others can read along, without."
            }
            Kind::WantsTls => {
                "The other server takes nobody's password without encryption. Have the collecting set up with it: \
                 --tls starttls, or --tls implicit where it has a port of its own for that."
            }
            Kind::Login => {
                "User name or password are wrong over there. If you have changed the password, have the collecting \
                 set up with the new one. Many providers want a password of its own for each program, made \
                 on their web site, and have to be told there that POP3 or IMAP may be used."
            }
            Kind::Token => {
                "The file with the token is missing or empty. Have its renewal looked after."
            }
            Kind::FolderGone => {
                "The folder was renamed or deleted over there. Have the collecting set up with its new name."
            }
            Kind::Unable => {
                "The other server can't do what collecting takes. Try the other protocol (POP3 or IMAP)."
            }
            Kind::Broken => {
                "The other server is out of order. If that stays so, ask whoever runs it."
            }
            Kind::TooMany => {
                "More messages lie there than are looked through. Delete or move some of them over \
                 there, or have those that were collected deleted."
            }
            Kind::OverQuota => "Your mailbox here is full. Delete what you don't need any more.",
            Kind::Here => "This is our own trouble; your mail is safe where it is.",
        }
    }
}

impl Reason {
    pub fn new(kind: Kind, why: impl Into<String>) -> Reason {
        Reason { kind, why: why.into() }
    }

    pub fn socket(error: &io::Error) -> Reason {
        Reason::new(Kind::Unreachable, format!("can't be reached: {error}"))
    }

    pub fn tls(error: &io::Error) -> Reason {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let is_certificate = matches!(inner, Some(rustls::Error::InvalidCertificate(_)));
        let kind = if is_certificate { Kind::Certificate } else { Kind::Broken };
        Reason::new(kind, fault_words(error))
    }
}

fn kind_of(trouble: Trouble) -> Kind {
    match trouble {
        Trouble::Lost => Kind::Unreachable,
        Trouble::Silent => Kind::Slow,
        Trouble::NoTls | Trouble::LoginInClear => Kind::NoTls,
        Trouble::LoginNeedsTls => Kind::WantsTls,
        Trouble::NoLogin | Trouble::NotOffered(_) => Kind::Unable,
        Trouble::Login(_) | Trouble::Ours(_) => Kind::Login,
        Trouble::TooMuch(_) | Trouble::Garbage(_) | Trouble::OutOfStep(_) => Kind::Broken,
        Trouble::Refused => Kind::Busy,
    }
}

/// Of a listing.
const TOO_MANY: [&str; 2] = ["messages in the maildrop", "messages in the mailbox"];

impl From<&pop3::Failure> for Reason {
    fn from(failure: &pop3::Failure) -> Reason {
        let kind = match failure.trouble {
            _ if failure.is_wrong_login() => Kind::Login,
            Trouble::TooMuch(what) if TOO_MANY.contains(&what) => Kind::TooMany,
            Trouble::Lost | Trouble::Silent if failure.stage == pop3::Stage::Greeting => Kind::Mute,
            other => kind_of(other),
        };
        Reason::new(kind, failure.to_string())
    }
}

impl From<&imap::Failure> for Reason {
    fn from(failure: &imap::Failure) -> Reason {
        let kind = match failure.trouble {
            _ if failure.is_wrong_login() => Kind::Login,
            Trouble::TooMuch(what) if TOO_MANY.contains(&what) => Kind::TooMany,
            Trouble::Lost | Trouble::Silent if failure.stage == imap::Stage::Greeting => Kind::Mute,
            other => kind_of(other),
        };
        Reason::new(kind, failure.to_string())
    }
}

impl From<Error> for Reason {
    fn from(error: Error) -> Reason {
        let kind = if error == Error::OverQuota { Kind::OverQuota } else { Kind::Here };
        Reason::new(kind, error.to_string())
    }
}
