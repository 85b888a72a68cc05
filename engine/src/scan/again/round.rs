//! One round over the mail of one core: account after account, mailbox after mailbox, message
//! after message, by their numbers. What comes meanwhile was scanned when it came; what goes is
//! skipped; what is moved is met again. In quarantine all is scanned that somebody may release,
//! whenever it came.
//!
//! A message takes the way of large ones that arrive: piece by piece, the next one when clamd has
//! taken the one before. It bypasses the cache of verdicts, which is for mail that comes in; what
//! was found clean in this round is remembered here.

use super::super::cache::Key;
use super::super::clamd::BEHIND;
use super::super::desk::{BUSY, PIECES_IN_FLIGHT_MAX, Piece, SLOW, Stream};
use super::super::settings::Action;
use super::super::verdict::{Outcome, Verdict, Version};
use super::progress::{self, DAY_MILLIS, Progress, Round};
use super::{Fate, is_stopping, rest, until_stopping, version};
use crate::NOTICE;
use crate::core::give_way;
use crate::delivery::unix_millis;
use crate::quarantine::{Reason, kept, recalled};
use crate::shard::{PIECE_BYTES, Shard};
use bytes::Bytes;
use futures_lite::future::or;
use ring::digest::{Context, SHA256};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::{AccountId, Error, MailboxId, MailboxInfo, MessageEntry};

/// UIDs whose entries are looked at between two chances for others.
const UIDS_AT_ONCE: u32 = 4096;
/// How far the round is is written so often.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Bodies that were found clean, remembered in one round: the same message to many is scanned once.
const CLEAN_MAX: usize = 50_000;
/// A message on which scanners fail so often is left out, where they answer otherwise.
const TRIES_MAX: u32 = 3;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A scanner rests for its share, but not longer than this for one message.
const REST_MAX: Duration = Duration::from_secs(60);
/// Over an account. A second one sees what was moved during the first; the last of so many is as
/// good as one that ends.
const PASSES_MAX: usize = 100;
/// More than these, and more than one of so many that were scanned, and an operator is to look
/// before a round goes on: signatures may be wrong.
const PULLED_BACK_MAX: u64 = 100;
const PULLED_BACK_ONE_OF: u64 = 10;
/// What the scanner may take beyond its own deadline to say that it was too late.
const GRACE: Duration = Duration::from_secs(2);

/// Goes on with the round under way, to its end or until the core stops.
pub(super) async fn run(shard: &Rc<Shard>, progress: &mut Progress) -> Result<(), Error> {
    let Some(round) = progress.round.clone() else { return Ok(()) };
    let since = since(shard);
    let mut walk = Walk {
        shard,
        since,
        arrived_after: progress.arrived_after(since),
        clean: HashSet::new(),
        round,
        saved: Instant::now(),
        progress,
    };
    // Where a restart goes on.
    walk.save().await?;
    let has_ended = walk.accounts().await?;
    if !has_ended {
        return walk.save().await;
    }
    let Walk { round, progress, .. } = walk;
    let Round { version, scanned, pulled_back, .. } = round;
    progress.done = version.or(progress.done.take());
    progress.round = None;
    progress::save(shard, progress).await?;
    let again = &shard.again;
    again.rounds.set(again.rounds.get() + 1);
    tracing::info!(target: NOTICE, shard = shard.id, scanned, pulled_back, "stored mail was scanned again");
    Ok(())
}

/// Mail that was received then or later is scanned again, Unix milliseconds.
pub(super) fn since(shard: &Shard) -> u64 {
    let days = shard.config.scan.again.days;
    unix_millis().0.saturating_sub(days.saturating_mul(DAY_MILLIS))
}

fn is_too_much(round: &Round) -> bool {
    let Round { scanned, pulled_back, .. } = round;
    *pulled_back > PULLED_BACK_MAX && *pulled_back > scanned / PULLED_BACK_ONE_OF
}

/// Whether an error is one of reading this message: others are scanned all the same.
fn is_of_this_message(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Read { .. })
}

/// A mailbox.
struct Place<'p> {
    account: AccountId,
    address: &'p str,
    info: &'p MailboxInfo,
    /// It is the quarantine.
    is_kept: bool,
}

/// Under way.
struct Walk<'w> {
    shard: &'w Rc<Shard>,
    /// Mail that was received then or later, Unix milliseconds.
    since: u64,
    /// Or that has a higher modseq.
    arrived_after: u64,
    clean: HashSet<Key>,
    round: Round,
    saved: Instant,
    progress: &'w mut Progress,
}

impl Walk<'_> {
    async fn save(&mut self) -> Result<(), Error> {
        self.saved = Instant::now();
        self.progress.round = Some(self.round.clone());
        progress::save(self.shard, self.progress).await.map(drop)
    }

    /// False: the core stops, or an operator is to look first.
    async fn accounts(&mut self) -> Result<bool, Error> {
        for (id, address) in accounts_from(self.shard, self.round.account) {
            if id.0 > self.round.account {
                self.round.account = id.0;
                self.round.seen.clear();
            }
            self.shard.again.account.borrow_mut().clone_from(&address);
            match self.account(id, &address).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                // It was removed meanwhile.
                Err(Error::NoSuchAccount(_)) => {}
                Err(error) => return Err(error),
            }
            give_way().await;
        }
        Ok(true)
    }

    /// Until no mailbox has grown: what is moved meanwhile comes to lie behind where
    /// the round has been.
    async fn account(&mut self, account: AccountId, address: &str) -> Result<bool, Error> {
        let store = &self.shard.store;
        let began = unix_millis().0;
        for pass in 0..PASSES_MAX {
            // What shows the past can't be changed, and is no place of its own.
            let mut mailboxes = store.mailboxes(account)?;
            mailboxes.retain(|info| !info.read_only);
            let quarantine = store.quarantine(account)?;
            let kept_in = quarantine.as_ref().map(|info| info.id);
            mailboxes.extend(quarantine);
            // What came since then was scanned when it came.
            let before = if pass == 0 { u64::MAX } else { began };
            let mut has_grown = false;
            for info in mailboxes {
                let place =
                    Place { account, address, info: &info, is_kept: kept_in == Some(info.id) };
                match self.mailbox(&place, before, &mut has_grown).await {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(Error::NoSuchMailbox(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if !has_grown {
                break;
            }
        }
        Ok(true)
    }

    /// What has come into a mailbox since the round was there.
    async fn mailbox(
        &mut self,
        place: &Place<'_>,
        before: u64,
        has_grown: &mut bool,
    ) -> Result<bool, Error> {
        let store = &self.shard.store;
        let (account, id) = (place.account, place.info.id);
        let end = store.status(account, id)?.uid_next.0;
        let mut next = self.round.seen.get(&id.0).copied().unwrap_or(0);
        *has_grown |= next < end;
        while next < end {
            let last = next.saturating_add(UIDS_AT_ONCE).min(end);
            for entry in store.entries(account, id, next..=last)? {
                if !place.is_kept && !self.is_young(&entry) || entry.internal_date.0 >= before {
                    continue;
                }
                if is_stopping(self.shard) {
                    return Ok(false);
                }
                self.round.seen.insert(id.0, entry.uid.0);
                if place.is_kept && !self.may_be_released(place, &entry).await? {
                    continue;
                }
                let Some(fate) = self.message(place, &entry).await? else {
                    return Ok(false);
                };
                self.shard.again.note(fate);
                self.round.scanned += 1;
                self.round.pulled_back += u64::from(fate == Fate::PulledBack);
                self.round.seen.insert(id.0, entry.uid.0.saturating_add(1));
                if !self.round.is_trusted && is_too_much(&self.round) {
                    self.round.is_paused = true;
                    return Ok(false);
                }
                if self.saved.elapsed() >= SAVE_EVERY {
                    self.save().await?;
                }
            }
            next = last.saturating_add(1);
            self.round.seen.insert(id.0, next);
            give_way().await;
        }
        Ok(true)
    }

    /// Received, or filed here, lately: a client may put mail into a mailbox under any date.
    fn is_young(&self, entry: &MessageEntry) -> bool {
        entry.internal_date.0 >= self.since || entry.modseq.0 > self.arrived_after
    }

    /// Of mail in quarantine what is known to do harm stays there anyway.
    async fn may_be_released(
        &self,
        place: &Place<'_>,
        entry: &MessageEntry,
    ) -> Result<bool, Error> {
        match kept::note(self.shard, place.account, place.info.id, entry).await {
            Ok(note) => Ok(!note.reason.is_harmful()),
            Err(error) if is_of_this_message(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `None`: the core stops.
    async fn message(
        &mut self,
        place: &Place<'_>,
        entry: &MessageEntry,
    ) -> Result<Option<Fate>, Error> {
        let (account, address, info) = (place.account, place.address, place.info);
        let message = Message { shard: self.shard, account, mailbox: info.id, entry };
        if message.body_bytes() > self.shard.config.scan.stream_bytes_max {
            return Ok(Some(Fate::Unscanned));
        }
        let mut tries = 0;
        loop {
            let started = Instant::now();
            let scanned = or(async { Some(self.scan(&message).await) }, async {
                until_stopping(self.shard).await;
                None
            });
            let Some(scanned) = scanned.await else { return Ok(None) };
            let (verdict, body) = match scanned {
                Ok(Scanned::Known) => return Ok(Some(Fate::Known)),
                Ok(Scanned::Now(verdict, body)) => (verdict, body),
                Err(Error::NoSuchMessage(_) | Error::NoSuchMailbox(_)) => {
                    return Ok(Some(Fate::Gone));
                }
                // The scrub tells whose it is.
                Err(error) if is_of_this_message(&error) => {
                    let (mailbox, uid) = (&info.name, entry.uid.0);
                    tracing::warn!(account = address, mailbox, uid, %error, "not scanned again");
                    return Ok(Some(Fate::Unscanned));
                }
                Err(error) => return Err(error),
            };
            self.rest(started.elapsed(), message.body_bytes()).await;
            let why = match &verdict.outcome {
                Outcome::Clean if self.is_behind(&verdict) => BEHIND,
                Outcome::Clean => {
                    self.scanner_answers();
                    if self.clean.len() < CLEAN_MAX {
                        self.clean.insert(body);
                    }
                    return Ok(Some(Fate::Clean));
                }
                Outcome::TooLarge => return Ok(Some(Fate::Unscanned)),
                Outcome::Found(_) => {
                    self.scanner_answers();
                    return self.found(place, entry, &verdict, &body).await;
                }
                Outcome::Unknown(why) => why.as_str(),
            };
            // Those say nothing of the message.
            tries += u32::from(![BEHIND, BUSY, SLOW].contains(&why));
            if !self.await_scanner(why == BEHIND).await {
                return Ok(None);
            }
            if tries >= TRIES_MAX {
                let (uid, why) = (entry.uid.0, verdict.brief());
                tracing::warn!(
                    account = address,
                    mailbox = info.name,
                    uid,
                    why,
                    "not scanned again"
                );
                return Ok(Some(Fate::Unscanned));
            }
        }
    }

    /// Whether somebody has looked who knows less than the round is for. Of one server what it has
    /// is all there is.
    fn is_behind(&self, verdict: &Verdict) -> bool {
        let several = self.shard.config.scan.clamd.len() > 1;
        several && self.round.version.as_ref().is_some_and(|least| verdict.version.is_behind(least))
    }

    fn scanner_answers(&self) {
        *self.shard.again.failed.borrow_mut() = None;
    }

    /// Without one nothing is to be had from going on. False: the core stops.
    async fn await_scanner(&self, is_behind: bool) -> bool {
        let fail = |why: String| *self.shard.again.failed.borrow_mut() = Some(why);
        if is_behind {
            let version = self.round.version.as_ref().map(Version::brief).unwrap_or_default();
            fail(format!("no scanner that answers has the signatures of this round, {version}"));
        }
        loop {
            rest(self.shard, TRY_AGAIN_AFTER).await;
            if is_stopping(self.shard) {
                return false;
            }
            if version(self.shard).await.is_some() {
                if !is_behind {
                    self.scanner_answers();
                }
                return true;
            }
            fail("no scanner answers".to_owned());
        }
    }

    async fn found(
        &self,
        place: &Place<'_>,
        entry: &MessageEntry,
        verdict: &Verdict,
        body: &Key,
    ) -> Result<Option<Fate>, Error> {
        let (account, address, info) = (place.account, place.address, place.info);
        let (mailbox, uid, scan) = (&info.name, entry.uid.0, verdict.brief());
        let is_only_told = self.shard.config.scan.found == Action::Mark;
        if is_only_told || progress::is_let_out(self.shard, account, body) {
            tracing::info!(target: NOTICE, account = address, mailbox, uid, scan, "found in stored mail, and left there");
            return Ok(Some(Fate::Left));
        }
        if place.is_kept {
            let done = recalled::condemn(self.shard, account, info.id, entry, &scan).await;
            return match done {
                Ok(()) => {
                    tracing::info!(target: NOTICE, account = address, quarantine_uid = uid, scan, "found in quarantine");
                    Ok(Some(Fate::KeptBack))
                }
                Err(Error::NoSuchMessage(_)) => Ok(Some(Fate::Gone)),
                Err(error) => Err(error),
            };
        }
        let moved = recalled::pull_back(self.shard, account, info, entry.uid, &scan).await;
        match moved {
            Ok(Some(kept)) => {
                self.shard.metrics.quarantine.kept(Reason::Virus);
                tracing::info!(
                    target: NOTICE,
                    account = address,
                    mailbox,
                    uid,
                    quarantine_uid = kept.0,
                    scan,
                    "pulled back into quarantine"
                );
                Ok(Some(Fate::PulledBack))
            }
            Ok(None) | Err(Error::NoSuchMessage(_) | Error::NoSuchMailbox(_)) => {
                Ok(Some(Fate::Gone))
            }
            Err(error) => Err(error),
        }
    }

    /// Leaves scanner and disk to others for what is not our share.
    async fn rest(&self, took: Duration, bytes: u64) {
        let share = u32::try_from(self.shard.config.scan.again.share_percent).unwrap_or(100);
        let scanner = took * (100_u32.saturating_sub(share)) / share.max(1);
        let rate = self.shard.scrub_bytes_per_second().max(1);
        let disk = Duration::from_millis(bytes.saturating_mul(1000) / rate).saturating_sub(took);
        rest(self.shard, scanner.max(disk).min(REST_MAX)).await;
    }

    async fn scan(&self, message: &Message<'_>) -> Result<Scanned, Error> {
        let first = message.piece(0).await?;
        if first.len() as u64 == message.body_bytes() {
            let body = super::super::cache::key(&first);
            if self.clean.contains(&body) {
                return Ok(Scanned::Known);
            }
        }
        give_way().await;
        let shard = self.shard;
        let patience = Duration::from_secs(shard.config.scan.answer_seconds) + GRACE;
        let unknown = |why: &str| Ok(Scanned::Now(Verdict::unknown(why), Key::default()));
        let (pieces, arriving) = flume::bounded(PIECES_IN_FLIGHT_MAX);
        let (reply, answer) = shard.mesh.open_question::<Verdict>();
        let until = Instant::now() + patience;
        let least = self.round.version.clone();
        if !shard.scan.desk().stream(Stream { pieces: arriving, until, least, reply }) {
            return unknown(BUSY);
        }
        let mut hash = Context::new(&SHA256);
        let (mut piece, mut sent) = (first, 0);
        loop {
            hash.update(&piece);
            sent += piece.len() as u64;
            let is_last = sent >= message.body_bytes() || piece.is_empty();
            let (reply, taken) = shard.mesh.open_question::<()>();
            if pieces.try_send(Piece::Bytes(piece, reply)).is_err() {
                // Its answer says why.
                break;
            }
            // Taken, or not wanted any more: its answer says which.
            let taken = async {
                let _ = taken.await;
                true
            };
            let late = async {
                glommio::timer::sleep(patience).await;
                false
            };
            if !or(taken, late).await {
                return unknown("takes nothing in time");
            }
            if is_last {
                let _ = pieces.try_send(Piece::End);
                break;
            }
            piece = message.piece(sent).await?;
        }
        let late = async {
            glommio::timer::sleep(patience).await;
            Verdict::unknown("no answer in time")
        };
        let answer = async { answer.await.unwrap_or_else(|_| Verdict::unknown("not answered")) };
        let verdict = or(answer, late).await;
        let mut body = Key::default();
        body.copy_from_slice(hash.finish().as_ref());
        Ok(Scanned::Now(verdict, body))
    }
}

enum Scanned {
    Known,
    /// With the hash of its body.
    Now(Verdict, Key),
}

/// A stored message without what stands in front of it for this recipient alone.
struct Message<'m> {
    shard: &'m Shard,
    account: AccountId,
    mailbox: MailboxId,
    entry: &'m MessageEntry,
}

impl Message<'_> {
    fn body_bytes(&self) -> u64 {
        u64::from(self.entry.bytes).saturating_sub(self.entry.prefix_bytes.into())
    }

    async fn piece(&self, from: u64) -> Result<Bytes, Error> {
        let start = from.saturating_add(self.entry.prefix_bytes.into());
        let range: Range<u64> = start..start.saturating_add(PIECE_BYTES);
        self.shard.store.read(self.account, self.mailbox, self.entry.uid, range).await
    }
}

/// Those who are at home here, by number.
fn accounts_from(shard: &Shard, first: u32) -> Vec<(AccountId, String)> {
    let directory = shard.directory.borrow();
    let here = directory.accounts().filter(|(_, account)| account.shard == shard.id);
    let mut accounts: Vec<(AccountId, String)> =
        here.map(|(address, account)| (account.id(), address.clone())).collect();
    accounts.retain(|(id, _)| id.0 >= first);
    accounts.sort_unstable();
    accounts
}

/// The hash by which a body is known, wherever it lies.
pub async fn body_hash(
    shard: &Shard,
    account: AccountId,
    mailbox: MailboxId,
    entry: &MessageEntry,
) -> Result<Key, Error> {
    let message = Message { shard, account, mailbox, entry };
    let mut hash = Context::new(&SHA256);
    let mut from = 0;
    while from < message.body_bytes() {
        let piece = message.piece(from).await?;
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        from += piece.len() as u64;
        give_way().await;
    }
    let mut body = Key::default();
    body.copy_from_slice(hash.finish().as_ref());
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_can_not_be_read_does_not_end_a_round_and_a_store_that_has_halted_does() {
        let (what, place) = ("EIO".to_owned(), String::new());
        assert!(is_of_this_message(&Error::Read { what, place: place.clone() }));
        assert!(is_of_this_message(&Error::Corrupt { what: "a body", place }));
        assert!(!is_of_this_message(&Error::Halted));
        assert!(!is_of_this_message(&Error::Busy));
    }

    #[test]
    fn only_much_of_what_was_scanned_and_many_messages_are_too_much() {
        let round = |scanned, pulled_back| Round { scanned, pulled_back, ..Round::default() };
        assert!(!is_too_much(&round(100, 100)));
        assert!(is_too_much(&round(101, 101)));
        assert!(!is_too_much(&round(5000, 500)));
        assert!(is_too_much(&round(5000, 501)));
    }
}
