//! Whose mail an account has sorted: its own word about a sender goes before the score.
//!
//! What one user sorts moves nobody else's mail, and costs one small record for each command. Key space 6 of
//! the account's home shard, by its number (u32, big-endian); the value has one entry for each sender, the one
//! sorted last at the end, at most [`SENDERS_MAX`]:
//!
//! | bytes | |
//! |---|---|
//! | 8 | the beginning of SHA-256 of the address in `From`, in lower case |
//! | 1 | 0: wanted, 1: spam |
//!
//! An address in `From` is easily forged: that a sender is wanted counts only where DMARC does not fail.

use super::classifier::Class;
use super::key;
use super::mail::Mail;
use crate::quarantine::Reason;
use crate::shard::Shard;
use std::rc::Rc;
use storage::store::Space;
use storage::{AccountId, Error};

pub const SPACE: Space = Space(6);
/// Senders whom one account's word is kept of: 4.5 KB.
const SENDERS_MAX: usize = 500;
const ENTRY_BYTES: usize = 9;

/// An address in `From`, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender([u8; 8]);

impl Sender {
    /// `None`: nobody, or several fields of which everybody picks another.
    pub fn of(mail: &Mail<'_>) -> Option<Sender> {
        let address = &mail.from.address;
        (mail.count("From") == 1 && !address.is_empty()).then(|| Sender::named(address))
    }

    /// By its address in lower case.
    pub(super) fn named(address: &str) -> Sender {
        let digest = ring::digest::digest(&ring::digest::SHA256, address.as_bytes());
        Sender(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }

    pub(super) fn bytes(self) -> [u8; 8] {
        self.0
    }
}

fn entries(value: &[u8]) -> impl Iterator<Item = (Sender, Class)> + '_ {
    value.chunks_exact(ENTRY_BYTES).filter_map(|entry| {
        let (name, class) = entry.split_first_chunk::<8>()?;
        let class = if class == [0] { Class::Wanted } else { Class::Spam };
        Some((Sender(*name), class))
    })
}

/// What `value` becomes once these have been sorted.
fn sorted(value: &[u8], changes: &[(Sender, Class)]) -> Vec<u8> {
    let mut all: Vec<(Sender, Class)> = entries(value).collect();
    for &(sender, class) in changes {
        all.retain(|(known, _)| *known != sender);
        all.push((sender, class));
    }
    let kept = &all[all.len().saturating_sub(SENDERS_MAX)..];
    let mut value = Vec::with_capacity(kept.len() * ENTRY_BYTES);
    for (Sender(name), class) in kept {
        value.extend_from_slice(name);
        value.push(u8::from(*class == Class::Spam));
    }
    value
}

/// Where a message goes, unless an account has said otherwise of its sender.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filing {
    /// Also where it is kept back.
    pub is_junk: bool,
    /// Why it is kept back, if it is.
    pub kept: Option<Reason>,
    /// `None`: what accounts have said does not count.
    pub sender: Option<Sender>,
    /// DMARC fails: it need not be from whom it says.
    pub is_doubtful: bool,
}

/// Where it goes then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where its owner wants mail.
    Usual,
    Junk,
    Quarantine(Reason),
}

impl Filing {
    pub fn junk() -> Filing {
        Filing { is_junk: true, ..Filing::default() }
    }

    /// Kept back; an earlier reason stays.
    pub fn keep_back(&mut self, reason: Reason) {
        self.is_junk = true;
        self.kept = self.kept.or(Some(reason));
    }

    /// A virus was found in it: where it is kept back, be it for something else, its reader can't let it out.
    pub fn hold_virus(&mut self) {
        self.kept = self.kept.map(|_| Reason::Virus);
    }

    /// On the account's home shard: where it goes, and the field that says why if the account itself has decided that.
    pub fn decide(self, shard: &Shard, account: AccountId) -> (Place, &'static str) {
        self.given(self.sender.and_then(|sender| opinion(shard, account, sender)))
    }

    /// That a sender is wanted goes before the score, be it how it may; that it is not makes nothing less bad.
    fn given(self, said: Option<Class>) -> (Place, &'static str) {
        match (said, self.kept) {
            (Some(Class::Wanted), _) if !self.is_doubtful => {
                (Place::Usual, "X-Spam-Sender: wanted\r\n")
            }
            (_, Some(reason)) => (Place::Quarantine(reason), ""),
            (Some(Class::Spam), None) => (Place::Junk, "X-Spam-Sender: unwanted\r\n"),
            (Some(Class::Wanted) | None, None) => {
                (if self.is_junk { Place::Junk } else { Place::Usual }, "")
            }
        }
    }
}

fn opinion(shard: &Shard, account: AccountId, sender: Sender) -> Option<Class> {
    let value = shard.store.get(SPACE, &key(account))?;
    let mut known = entries(&value);
    known.find(|(known, _)| *known == sender).map(|(_, class)| class)
}

/// On the account's home shard.
pub async fn remember(
    shard: &Rc<Shard>,
    account: AccountId,
    changes: &[(Sender, Class)],
) -> Result<(), Error> {
    // Two commands of one account read the same value, or the first would be forgotten.
    let _turn = shard.learning_turn.lock().await;
    let before = shard.store.get(SPACE, &key(account)).unwrap_or_default();
    let after = sorted(&before, changes);
    if after != before {
        let _durable = shard.store.put(SPACE, vec![(key(account), Some(after.into()))]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: usize) -> Sender {
        Sender::named(&format!("{number}@a.test"))
    }

    fn known(value: &[u8], number: usize) -> Option<Class> {
        entries(value).find(|(known, _)| *known == sender(number)).map(|(_, class)| class)
    }

    #[test]
    fn the_last_word_counts_and_the_oldest_is_forgotten_first() {
        let mut value = Vec::new();
        for number in 0..SENDERS_MAX {
            value = sorted(&value, &[(sender(number), Class::Spam)]);
        }
        value = sorted(&value, &[(sender(0), Class::Wanted)]);
        value = sorted(&value, &[(sender(7), Class::Wanted)]);
        assert_eq!(known(&value, 7), Some(Class::Wanted));
        assert_eq!(value.len(), SENDERS_MAX * ENTRY_BYTES);
        let more: Vec<_> = (900..905).map(|number| (sender(number), Class::Spam)).collect();
        value = sorted(&value, &more);
        assert_eq!(value.len(), SENDERS_MAX * ENTRY_BYTES);
        assert_eq!(known(&value, 0), Some(Class::Wanted));
        assert_eq!(known(&value, 904), Some(Class::Spam));
        assert_eq!((known(&value, 5), known(&value, 6)), (None, Some(Class::Spam)));
        assert_eq!(known(&value[..20], 1), None, "a value cut short harms nothing");
    }

    #[test]
    fn an_accounts_word_goes_before_the_score_but_not_before_a_proof_that_is_missing() {
        let kept = |is_doubtful| {
            let mut filing = Filing { is_doubtful, ..Filing::default() };
            filing.keep_back(Reason::Spam);
            filing.keep_back(Reason::Outbreak);
            filing
        };
        let quarantine = Place::Quarantine(Reason::Spam);
        let junk = Filing::junk();
        for (filing, said, place) in [
            (kept(false), None, quarantine),
            (kept(false), Some(Class::Spam), quarantine),
            (kept(false), Some(Class::Wanted), Place::Usual),
            (kept(true), Some(Class::Wanted), quarantine),
            (junk, None, Place::Junk),
            (junk, Some(Class::Wanted), Place::Usual),
            (Filing::default(), Some(Class::Spam), Place::Junk),
            (Filing::default(), None, Place::Usual),
        ] {
            assert_eq!(filing.given(said).0, place, "{filing:?} {said:?}");
        }
    }

    #[test]
    fn what_is_kept_back_for_its_score_and_holds_a_virus_is_kept_back_for_the_virus() {
        let mut filing = Filing::default();
        filing.hold_virus();
        assert_eq!(filing.given(None).0, Place::Usual, "that is for the operator to say");
        filing.keep_back(Reason::Spam);
        filing.hold_virus();
        assert_eq!(filing.given(None).0, Place::Quarantine(Reason::Virus));
    }

    #[test]
    fn a_sender_is_one_address_however_it_is_written() {
        let of = |header: &str| Sender::of(&Mail::read(format!("{header}\r\n\r\nx").as_bytes()));
        let ann = of("From: Ann <Ann@A.test>");
        assert!(ann.is_some());
        assert_eq!(ann, of("From: \"A. Nother\" <ann@a.test>"));
        assert_ne!(ann, of("From: bob@a.test"));
        for none in ["Subject: x", "From: nobody", "From: ann@a.test\r\nFrom: bob@a.test"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
