//! What a run is given: the message, and what the script may ask that the message does not say.

use super::program::{Include, Script};
use crate::Address;
use crate::message::Summary;

/// A message on its way into a mailbox.
#[derive(Debug, Clone, Copy)]
pub struct Mail<'m> {
    /// From its first octet, as much as is at hand: the whole header at least, and what of the body
    /// [`Script::looks_at_body`] may look at. What is missing matches nothing.
    pub raw: &'m [u8],
    pub summary: &'m Summary,
    /// Octets of the whole message.
    pub octets: u64,
    /// `None`: the null path.
    pub sender: Option<&'m Address>,
    pub recipient: &'m Address,
}

/// Answers of the account and the host. The same question has the same answer throughout a run.
pub trait World {
    /// A script that [`Script::includes`] has named, already compiled.
    ///
    /// # Errors
    /// Why it can't be run: it is not there, or does not compile.
    fn script(&self, include: &Include) -> Result<&Script, Missing>;

    fn mailbox_exists(&self, mailbox: &str) -> bool;

    /// Whether the mailbox, or any if none is named, has this special use (as `\Junk`).
    fn special_use_exists(&self, mailbox: Option<&str>, attribute: &str) -> bool;

    /// Whether a mark with this key was set and its period is not over.
    fn is_duplicate(&self, key: &[u8; 32]) -> bool;

    /// Now, in seconds since 1970-01-01 UTC.
    fn unix_seconds(&self) -> i64;

    /// The user's time zone, in minutes east of Greenwich.
    fn zone_minutes(&self) -> i16 {
        0
    }

    /// Addresses that are the user's own, beside the recipient's: who writes to one of them is
    /// answered by `vacation`.
    fn is_own_address(&self, address: &str) -> bool;

    /// How much of spam it is, 0 to 100; `None`: nobody has looked.
    fn spam_percent(&self) -> Option<u8>;

    /// RFC 5235: 1 is clean, 2 was cleaned, 3 was cleaned perhaps, 4 is suspected, 5 is a
    /// virus; `None`: nobody has looked.
    fn virus(&self) -> Option<u8>;

    /// Items of RFC 5183 section 4: `domain`, `host`, `location`, `phase`, `remote-host`,
    /// `remote-ip`, `version`; `None`: not known.
    fn environment(&self, item: &str) -> Option<String>;
}

/// Why an included script can't be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    NotFound,
    /// It is there and does not compile.
    Faulty,
}
