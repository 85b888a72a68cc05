//! One round over the mail of one core: account after account, mailbox after mailbox, message after message, by their
//! numbers. What comes meanwhile was scanned when it came; what goes is skipped.
//!
//! A message takes the way of large ones that arrive: piece by piece, the next one when clamd has taken the one before. It
//! bypasses the cache of verdicts, which is for mail that comes in; what was found clean in this round is remembered here.

use super::super::cache::Key;
use super::super::desk::{PIECES_IN_FLIGHT_MAX, Piece, Stream};
use super::super::settings::Action;
use super::super::verdict::{Outcome, Verdict};
use super::progress::{self, Progress, Round};
use super::{Fate, is_stopping, rest, version};
use crate::NOTICE;
use crate::core::give_way;
use crate::delivery::unix_millis;
use crate::quarantine::{Reason, recalled};
use crate::shard::Shard;
use bytes::Bytes;
use futures_lite::future::or;
use ring::digest::{Context, SHA256};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::{AccountId, Error, MailboxId, MailboxInfo, MessageEntry};

/// Read at once.
const PIECE_BYTES: u64 = 256 << 10;
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
const DAY_MILLIS: u64 = 86_400_000;
/// What the scanner may take beyond its own deadline to say that it was too late.
const GRACE: Duration = Duration::from_secs(2);

/// Goes on with the round under way, to its end or until the core stops.
pub(super) async fn run(shard: &Rc<Shard>, progress: &mut Progress) -> Result<(), Error> {
    let Some(round) = progress.round.clone() else { return Ok(()) };
    let days = shard.config.scan.again.days;
    let mut walk = Walk {
        shard,
        since: unix_millis().0.saturating_sub(days.saturating_mul(DAY_MILLIS)),
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

/// Under way.
struct Walk<'w> {
    shard: &'w Rc<Shard>,
    /// Mail that was received then or later, Unix milliseconds.
    since: u64,
    clean: HashSet<Key>,
    round: Round,
    saved: Instant,
    progress: &'w mut Progress,
}

impl Walk<'_> {
    async fn save(&mut self) -> Result<(), Error> {
        self.saved = Instant::now();
        self.progress.round = Some(self.round.clone());
        progress::save(self.shard, self.progress).await
    }

    /// False: the core stops.
    async fn accounts(&mut self) -> Result<bool, Error> {
        for (id, address) in accounts_from(self.shard, self.round.account) {
            if id.0 > self.round.account {
                (self.round.account, self.round.mailbox, self.round.uid) = (id.0, 0, 0);
            }
            self.shard.again.account.borrow_mut().clone_from(&address);
            match self.mailboxes(id, &address).await {
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

    async fn mailboxes(&mut self, account: AccountId, address: &str) -> Result<bool, Error> {
        // The quarantine is not among them. What shows the past can't be changed, and is no place of its own.
        let mut mailboxes = self.shard.store.mailboxes(account)?;
        mailboxes.retain(|info| !info.read_only && info.id.0 >= self.round.mailbox);
        mailboxes.sort_unstable_by_key(|info| info.id);
        for info in mailboxes {
            if info.id.0 > self.round.mailbox {
                (self.round.mailbox, self.round.uid) = (info.id.0, 0);
            }
            match self.messages(account, address, &info).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(Error::NoSuchMailbox(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    async fn messages(
        &mut self,
        account: AccountId,
        address: &str,
        info: &MailboxInfo,
    ) -> Result<bool, Error> {
        let store = &self.shard.store;
        let end = store.status(account, info.id)?.uid_next.0;
        while self.round.uid < end {
            let first = self.round.uid;
            let last = first.saturating_add(UIDS_AT_ONCE);
            for entry in store.entries(account, info.id, first..=last)? {
                if entry.internal_date.0 < self.since {
                    continue;
                }
                if is_stopping(self.shard) {
                    return Ok(false);
                }
                self.round.uid = entry.uid.0;
                let Some(fate) = self.message(account, address, info, &entry).await? else {
                    return Ok(false);
                };
                self.shard.again.note(fate);
                self.round.scanned += 1;
                self.round.pulled_back += u64::from(fate == Fate::PulledBack);
                self.round.uid = entry.uid.0.saturating_add(1);
                if self.saved.elapsed() >= SAVE_EVERY {
                    self.save().await?;
                }
            }
            self.round.uid = last.saturating_add(1);
            give_way().await;
        }
        Ok(true)
    }

    /// `None`: the core stops.
    async fn message(
        &mut self,
        account: AccountId,
        address: &str,
        info: &MailboxInfo,
        entry: &MessageEntry,
    ) -> Result<Option<Fate>, Error> {
        let message = Message { shard: self.shard, account, mailbox: info.id, entry };
        if message.body_bytes() > self.shard.config.scan.stream_bytes_max {
            return Ok(Some(Fate::Unscanned));
        }
        let mut tries = 0;
        loop {
            let started = Instant::now();
            let (verdict, body) = match self.scan(&message).await {
                Ok(Scanned::Known) => return Ok(Some(Fate::Known)),
                Ok(Scanned::Now(verdict, body)) => (verdict, body),
                Err(Error::NoSuchMessage(_) | Error::NoSuchMailbox(_)) => {
                    return Ok(Some(Fate::Gone));
                }
                // The scrub tells whose it is.
                Err(Error::Corrupt { .. }) => return Ok(Some(Fate::Unscanned)),
                Err(error) => return Err(error),
            };
            self.rest(started.elapsed(), message.body_bytes()).await;
            match verdict.outcome {
                Outcome::Clean => {
                    if self.clean.len() < CLEAN_MAX {
                        self.clean.insert(body);
                    }
                    return Ok(Some(Fate::Clean));
                }
                Outcome::TooLarge => return Ok(Some(Fate::Unscanned)),
                Outcome::Found(_) => {
                    return self.found(account, address, info, entry, &verdict, &body).await;
                }
                Outcome::Unknown(_) => {}
            }
            tries += 1;
            if !self.await_scanner().await {
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

    /// Without one nothing is to be had from going on. False: the core stops.
    async fn await_scanner(&self) -> bool {
        loop {
            rest(self.shard, TRY_AGAIN_AFTER).await;
            if is_stopping(self.shard) {
                return false;
            }
            let failed = &self.shard.again.failed;
            if version(self.shard).await.is_some() {
                *failed.borrow_mut() = None;
                return true;
            }
            *failed.borrow_mut() = Some("no scanner answers".to_owned());
        }
    }

    async fn found(
        &self,
        account: AccountId,
        address: &str,
        info: &MailboxInfo,
        entry: &MessageEntry,
        verdict: &Verdict,
        body: &Key,
    ) -> Result<Option<Fate>, Error> {
        let (mailbox, uid, scan) = (&info.name, entry.uid.0, verdict.brief());
        let is_only_told = self.shard.config.scan.found == Action::Mark;
        if is_only_told || progress::is_let_out(self.shard, account, body) {
            tracing::info!(target: NOTICE, account = address, mailbox, uid, scan, "found in stored mail, and left there");
            return Ok(Some(Fate::Left));
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
        if !shard.scan.desk().stream(Stream { pieces: arriving, until, reply }) {
            return unknown("too busy");
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
