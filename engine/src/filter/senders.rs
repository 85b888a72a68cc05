//! Whose mail an account has sorted: its own word about a sender goes before the score.
//!
//! What one user sorts moves nobody else's mail, and costs one small record for each command. Key
//! space 6 of the account's home shard, by its number (u32, big-endian); the value has one entry
//! for each sender, the one sorted last at the end, at most [`SENDERS_MAX`]:
//!
//! | bytes | |
//! |---|---|
//! | 8 | the beginning of SHA-256 of the address in `From`, in lower case |
//! | 1 | 0: wanted, 1: spam |
//!
//! An address in `From` is easily forged: that a sender is wanted counts only where
//! DMARC does not fail.

use super::classifier::Class;
use super::mail::Mail;
use super::own::Scored;
use super::settings::Spam;
use super::{is_gone, key};
use crate::quarantine::Reason;
use crate::shard::Shard;
use std::rc::Rc;
use std::sync::Arc;
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

pub(super) fn count(value: &[u8]) -> usize {
    entries(value).count()
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

/// Where a message goes, unless an account has said otherwise of its sender, or by
/// what it has sorted.
#[derive(Debug, Clone, Default)]
pub struct Filing {
    /// Also where it is kept back.
    pub is_junk: bool,
    /// Why it is kept back, if it is.
    pub kept: Option<Reason>,
    /// `None`: what accounts have said does not count.
    pub sender: Option<Sender>,
    /// DMARC fails: it need not be from whom it says.
    pub is_doubtful: bool,
    /// `None`: it goes where it goes whatever an account has sorted.
    pub scored: Option<Arc<Scored>>,
}

/// The same for one account: where, and the field that says why if the account itself
/// has decided that.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub place: Place,
    pub why: String,
    /// As [`Verdict::percent`](super::verdict::Verdict::percent), for this account; `None`: its
    /// sorting does not count.
    pub percent: Option<u8>,
}

impl Decision {
    fn new(place: Place, why: &str) -> Decision {
        Decision { place, why: why.to_owned(), percent: None }
    }
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

    /// A virus was found in it: where it is kept back, be it for something else, its reader
    /// can't let it out.
    pub fn hold_virus(&mut self) {
        self.kept = self.kept.map(|_| Reason::Virus);
        if self.kept.is_some() {
            self.scored = None;
        }
    }

    /// On the account's home shard. So many models may still be worked out for this message.
    pub async fn decide(
        &self,
        shard: &Shard,
        account: AccountId,
        models_left: &mut usize,
    ) -> Decision {
        let said = self.sender.and_then(|sender| opinion(shard, account, sender));
        let points = match &self.scored {
            Some(scored) => scored.points(shard, account, models_left).await,
            None => 0.0,
        };
        let points = if self.is_doubtful { points.max(0.0) } else { points };
        let percent = self.scored.as_ref().map(|scored| {
            let percent = 100.0 * (scored.score + points) / shard.config.spam.junk_at;
            percent.clamp(0.0, 100.0) as u8
        });
        let decision = self.given(said, points, &shard.config.spam);
        if !decision.why.is_empty() {
            let why = decision.why.trim_end();
            tracing::info!(account = account.0, why, place = ?decision.place, "filed by the account's own word");
        }
        Decision { percent, ..decision }
    }

    /// That a sender is wanted goes before the score, be it how it may; that it is not makes
    /// nothing less bad.
    fn given(&self, said: Option<Class>, points: f64, spam: &Spam) -> Decision {
        match (said, self.kept) {
            (Some(Class::Wanted), _) if !self.is_doubtful => {
                Decision::new(Place::Usual, "X-Spam-Sender: wanted\r\n")
            }
            (Some(Class::Spam), None) => Decision::new(Place::Junk, "X-Spam-Sender: unwanted\r\n"),
            (None, _) if points != 0.0 => self.scored_by(points, spam),
            _ => Decision::new(self.place(), ""),
        }
    }

    fn place(&self) -> Place {
        match self.kept {
            Some(reason) => Place::Quarantine(reason),
            None if self.is_junk => Place::Junk,
            None => Place::Usual,
        }
    }

    /// With so many points of the account's own. What it does not like goes into its Junk, never
    /// into quarantine, which is the operator's; and what was kept back or is junk for something
    /// else than its score stays that.
    fn scored_by(&self, points: f64, spam: &Spam) -> Decision {
        let before = self.place();
        let Some(scored) = &self.scored else { return Decision::new(before, "") };
        let score = scored.score + points;
        let by_score = if spam.quarantine_at > 0.0 && score >= spam.quarantine_at {
            Place::Quarantine(Reason::Spam)
        } else if score >= spam.junk_at {
            Place::Junk
        } else {
            Place::Usual
        };
        let place = match (before, by_score) {
            (Place::Usual, Place::Junk | Place::Quarantine(_)) => Place::Junk,
            (Place::Quarantine(Reason::Spam), Place::Junk | Place::Usual)
            | (Place::Junk, Place::Usual) => by_score,
            (before, _) => before,
        };
        if place == before {
            return Decision::new(place, "");
        }
        let answer = if place == Place::Usual { "No" } else { "Yes" };
        let why = format!(
            "X-Spam-Account: {answer}, score={score:.1} required={:.1} tests=OWN_CLASSIFIER={points:.1}\r\n",
            spam.junk_at
        );
        Decision { place, why, percent: None }
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
    if is_gone(shard, account) {
        return Ok(());
    }
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
            (junk.clone(), None, Place::Junk),
            (junk, Some(Class::Wanted), Place::Usual),
            (Filing::default(), Some(Class::Spam), Place::Junk),
            (Filing::default(), None, Place::Usual),
        ] {
            let decided = filing.given(said, 0.0, &Spam::default());
            assert_eq!(decided.place, place, "{filing:?} {said:?}");
        }
    }

    #[test]
    fn what_an_account_has_sorted_moves_what_its_score_alone_has_moved() {
        let spam = Spam { quarantine_at: 8.0, ..Spam::default() };
        let tokens = super::super::tokens::Tokens::default();
        let scored = |score| Some(Arc::new(Scored::new(score, None, &tokens, 0)));
        let usual = |score| Filing { scored: scored(score), ..Filing::default() };
        let junk = |score| Filing { scored: scored(score), ..Filing::junk() };
        let mut kept = junk(9.0);
        kept.keep_back(Reason::Spam);
        let dmarc = Filing { kept: Some(Reason::Dmarc), ..kept.clone() };
        let deaf = Filing { scored: None, ..kept.clone() };
        let mut virus = kept.clone();
        virus.hold_virus();
        let quarantine = Place::Quarantine;
        for (filing, points, place) in [
            (usual(2.0), 2.5, Place::Usual),
            (usual(2.0), 3.5, Place::Junk),
            (usual(4.0), 9.0, Place::Junk),
            (junk(6.0), -0.5, Place::Junk),
            (junk(6.0), -1.5, Place::Usual),
            (junk(6.0), 5.0, Place::Junk),
            (kept.clone(), -2.0, Place::Junk),
            (kept.clone(), -5.0, Place::Usual),
            (kept, 1.0, quarantine(Reason::Spam)),
            (dmarc, -9.0, quarantine(Reason::Dmarc)),
            (virus, -9.0, quarantine(Reason::Virus)),
            (deaf, -9.0, quarantine(Reason::Spam)),
        ] {
            let decided = filing.given(None, points, &spam);
            assert_eq!(decided.place, place, "{filing:?} {points}");
            assert_eq!(decided.why.is_empty(), place == filing.place());
        }
        let why = usual(2.0).given(None, 3.5, &spam).why;
        assert_eq!(why, "X-Spam-Account: Yes, score=5.5 required=5.0 tests=OWN_CLASSIFIER=3.5\r\n");
        // A word about the sender goes before all that.
        assert_eq!(junk(6.0).given(Some(Class::Spam), -9.0, &spam).place, Place::Junk);
    }

    #[test]
    fn what_is_kept_back_for_its_score_and_holds_a_virus_is_kept_back_for_the_virus() {
        let given = |filing: &Filing| filing.given(None, 0.0, &Spam::default()).place;
        let mut filing = Filing::default();
        filing.hold_virus();
        assert_eq!(given(&filing), Place::Usual, "that is for the operator to say");
        filing.keep_back(Reason::Spam);
        filing.hold_virus();
        assert_eq!(given(&filing), Place::Quarantine(Reason::Virus));
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
