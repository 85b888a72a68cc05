//! Backups: what is in one, and what it is called.
//!
//! ```text
//! TARGET/kura-backup.json              whose backups these are; written first
//! TARGET/objects/G/shard-N/PIECE       a piece of a segment, without its trailing zeroes; never changes
//! TARGET/files/SHA-256                 a small file: layout, configuration, certificates and their keys
//! TARGET/manifests/TIME.json           one backup: all of its pieces and files; written last, and named behind all others
//! ```
//!
//! A piece is `SEGMENT-FROM-TO-BYTES-SHA256`. What has landed in a segment never changes, so a name
//! with the same segment, from and to is the same piece, and a backup reads and sends only pieces
//! that are not there: that makes it incremental, and lets one that broke off go on. It holds for
//! what one data directory has written on and on: one that was restored, copied or rolled back goes
//! on differently under the same numbers. So pieces lie below `G`, the *generation*, which only a
//! directory goes on with that was there when the last backup to this place began ([`begun`]); any
//! other begins a new one, if it is told to.
//!
//! A backup counts once its manifest is there; its last line is the checksum of all before it.

pub mod begun;
pub mod manifest;
pub mod progress;
pub mod prune;
pub mod restore;
pub mod serve;
pub mod source;
pub mod take;
pub mod target;

pub use manifest::Manifest;

use crate::hex;
use protocols::message::date::read_rfc3339;
use sha2::{Digest, Sha256};

/// One line for the operator.
pub type Fault = String;

/// Pieces are read, sent and verified whole, a few at once.
pub const PIECE_BYTES: u64 = 8 << 20;

pub fn sha256(bytes: &[u8]) -> String {
    hex::text(Sha256::digest(bytes))
}

/// Whose backups these are: the same after a restore, another for each store. It is shown where the
/// salt is not to be: in the marker, which stands alone, and in what operators are told and pass
/// on. Whoever can read the manifests has the salt anyway.
pub fn store_id(salt: u64) -> String {
    let mut id = sha256(&[&b"kura store "[..], &salt.to_le_bytes()].concat());
    id.truncate(16);
    id
}

/// The generation of a data directory with this secret, in places that were begun before
/// there were tokens.
pub fn generation(secret: &[u8; 32]) -> String {
    let mut id = sha256(&[&b"kura generation "[..], secret].concat());
    id.truncate(16);
    id
}

/// `20261125T170532123Z`: as text, times sort.
pub fn time_name(unix_millis: u64) -> String {
    let seconds = crate::when::time_text(unix_millis).replace(['-', ':', 'Z'], "");
    format!("{seconds}{:03}Z", unix_millis % 1000)
}

/// The time that a backup is named after.
pub fn named_time(name: &str) -> Option<u64> {
    let digits = name.strip_suffix('Z')?.replacen('T', "", 1);
    if digits.len() != 17 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    let date = format!("{}-{}-{}", part(0, 4), part(4, 6), part(6, 8));
    let time = format!("{}:{}:{}.{}", part(8, 10), part(10, 12), part(12, 14), part(14, 17));
    read_rfc3339(&format!("{date}T{time}Z"))
}

/// What the next backup is called: the time as of which it is, since whoever looks for one looks
/// for what is in it; but behind all that are there, since they are kept and restored by their
/// order, and the clock may have been ahead when they were made.
pub fn next_name(now_unix_millis: u64, newest: Option<&str>) -> String {
    let least = newest.and_then(named_time).map_or(0, |newest| newest.saturating_add(1));
    time_name(now_unix_millis.max(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_in_which_backups_were_made() {
        for millis in [0, 951_782_400_123, 1_764_090_332_001] {
            assert_eq!(named_time(&time_name(millis)), Some(millis));
        }
        for name in ["", "Z", "20251125T170532Z", "2025112ÄT170532123Z", "before the move"] {
            assert_eq!(named_time(name), None, "{name}");
        }
        let now = 1_764_090_332_001;
        assert_eq!(next_name(now, None), "20251125T170532001Z");
        assert_eq!(next_name(now, Some("20251124T170532001Z")), "20251125T170532001Z");
        assert_eq!(next_name(now, Some("20251125T170532001Z")), "20251125T170532002Z");
        assert_eq!(next_name(now, Some("20371231T235959999Z")), "20380101T000000000Z");
        assert_eq!(next_name(now, Some("before the move")), "20251125T170532001Z");
    }

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(time_name(0), "19700101T000000000Z");
        assert_eq!(time_name(951_782_400_123), "20000229T000000123Z");
        assert_eq!(time_name(1_764_090_332_001), "20251125T170532001Z");
    }

    #[test]
    fn what_a_store_is_called_says_nothing_about_its_salt() {
        assert_ne!(store_id(1), store_id(2));
        assert_eq!(store_id(7).len(), 16);
        assert_ne!(generation(&[1; 32]), generation(&[2; 32]));
    }
}
