//! From a transaction's bytes to durable mailboxes.
//!
//! | file | what |
//! |---|---|
//! | [`intake`] | a message's bytes as they arrive; from the session's core to the home shards |
//! | `streaming` | a large one's, into the log of a home shard |
//! | `filing` | on a home shard: what its scripts say, and the records that come of it |
//! | `together` | all who share an answer, or none |
//! | `sending` | what leaves a mailbox for another, and what is kept because it can't |
//! | [`forwarding`] | what is for an address of ours, but somebody's on another host |
//! | `payload` | a copy on its way from one mailbox to another |
//! | `answering` | what scripts tell the sender: replies, rejections |
//! | `notes` | the messages that we write ourselves |
//!
//! The order of things is the promise: bytes, log, sync, [`Durable`], reply. Where recipients share
//! an answer, all of their shards have room for the message before any of them writes it, and what
//! one has filed is taken back when another fails nevertheless (`together`). The session asks about
//! quotas before anybody has the message.

mod answering;
mod filing;
pub mod forwarding;
pub mod intake;
pub(crate) mod notes;
mod payload;
mod sending;
mod streaming;
mod together;

pub(crate) use filing::put_into_inbox;
pub use intake::{Intake, Scrutiny, Stamp, Trace};
pub use sending::{Failure, settle};
pub use together::Copies;

use crate::directory::Home;
use crate::domain::sealing;
use crate::filter::senders::Filing;
use crate::sieve::Answering;
use crate::sieve::marks::Mark;
use bytes::Bytes;
use payload::Payload;
use protocols::Address;
use protocols::sieve::Reply;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::store::Space;
use storage::{AccountId, Durable, Error, MailboxId, Uid, UnixMillis};

/// An account that gets a message, and the recipient of the envelope by which it does.
#[derive(Debug, Clone)]
pub struct To {
    pub home: Home,
    pub address: Address,
}

/// What is known of a message beside its bytes; the same for all recipients.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// As in the log.
    pub id: String,
    /// `None`: the null path.
    pub sender: Option<Address>,
    /// `None`: it was written here.
    pub peer: Option<IpAddr>,
    pub judged: Judged,
    /// Whether scripts look at it.
    pub scripts: bool,
    /// A rejection can be the session's answer: nobody else gets the message by the same answer.
    pub alone: bool,
    /// Recipients on other hosts get it by the same answer.
    pub others: bool,
    /// What is sent on because of it goes in the same way (RFC 8689 section 4.3).
    pub require_tls: bool,
    /// It was collected from another server, for one account.
    pub collected: Option<Arc<Collected>>,
    /// It waited in the queue, and comes to each account once.
    pub once: Option<Arc<Once>>,
}

/// That an account has a message: set in the record that files it. What a script files in several
/// records, sends on or throws away has no one record, and is not marked.
#[derive(Debug)]
pub struct Once {
    pub space: Space,
    /// Behind it comes the account's number, in four octets, the highest first.
    pub key: Bytes,
    pub value: Bytes,
}

impl Once {
    pub fn mark(&self, account: AccountId) -> (Bytes, Bytes) {
        let key = [&self.key[..], &account.0.to_be_bytes()].concat();
        (key.into(), self.value.clone())
    }
}

/// What is known of a message that was collected.
#[derive(Debug)]
pub struct Collected {
    /// What is set in the record that files it; nothing where others get it, too, whose
    /// homes are elsewhere.
    pub space: Space,
    pub pairs: Vec<(Bytes, Option<Bytes>)>,
    /// In the place of INBOX, where no script says otherwise.
    pub mailbox: Option<Mailbox>,
    /// As it had them there.
    pub flags: Vec<String>,
    /// Milliseconds since 1970; `None`: now.
    pub internal_date: Option<u64>,
}

/// A mailbox by its use, or else by its name; it is made if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub name: String,
    /// Such as `\Sent`.
    pub special_use: Option<String>,
}

impl Mailbox {
    pub fn named(name: String) -> Mailbox {
        Mailbox { name, special_use: None }
    }
}

/// What was found out about a message. A redirect of it is no better.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// Into the mailbox for junk, where there is one and no script says otherwise?
    pub filing: Filing,
    /// 0 to 100, where junk begins; `None`: nobody has looked.
    pub spam_percent: Option<u8>,
    /// As RFC 5235 section 3.3 has it: 1 is clean, 5 is a virus. `None`: nobody has
    /// looked, or could tell.
    pub virus: Option<u8>,
    /// It may claim a domain of ours that it is not from. To pass it on would have it pass there,
    /// since it leaves from here.
    pub own_name: OwnName,
    /// For whoever it is passed on to, where that is sealed.
    pub found: Option<Arc<sealing::Found>>,
}

/// Whether a message of a stranger claims a domain of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OwnName {
    /// It does not, or it is from there, or nobody has looked.
    #[default]
    Fine,
    /// It does, or may, and whether it is from there could not be found out now.
    Unknown,
    /// It does, or nobody can say whom it names, and DMARC does not say that it is from there.
    Forged,
}

/// What became of a message at one account's home.
pub type Outcome = Result<Filed, Error>;

#[derive(Debug)]
pub struct Filed {
    /// `None`: no mailbox of the account has it, and that is not all that its owner wants.
    durable: Option<Durable>,
    /// A mailbox of the account has it, and keeps it.
    has_copy: bool,
    /// All mailboxes that have it.
    places: Vec<(MailboxId, Uid)>,
    /// The owner refuses it, in these words.
    rejected: Option<String>,
    redirects: Vec<Redirect>,
    reply: Option<(Box<Reply>, Answering)>,
    /// Put into INBOX only so that it can be redirected.
    lent: Option<(MailboxId, Uid, Durable)>,
    /// To be set once all of it has been carried out.
    marks: Vec<Mark>,
}

/// A copy to another address.
#[derive(Debug)]
struct Redirect {
    to: Address,
    payload: Payload,
}

pub fn unix_millis() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixMillis(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}
