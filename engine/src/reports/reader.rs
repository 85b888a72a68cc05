//! Reports of others, read once they have been delivered: on the home core of the account
//! that got the mail.
//!
//! A delivery leaves a note of where the mail is; a task reads it there, the blocking pool unpacks
//! and parses it, and shard 0 keeps what it says. Notes are in memory. So the newest mail of these
//! accounts is looked at when the server starts: what was read before is known by its id.

use super::digest::Digest;
use super::figures::{self, Taken};
use super::mail::{self, MAIL_BYTES_MAX};
use crate::NOTICE;
use crate::delivery::To;
use crate::directory::{Home, Resolution};
use crate::metrics::count;
use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use storage::{AccountId, Error, MailboxId, Placed, Uid};

/// Notes of a core. Beyond these, mail is not read until the server starts again.
const NOTES_MAX: usize = 1000;
/// Of each mailbox, when the server starts.
const LOOKED_BACK: usize = 100;
/// How often notes are looked at.
const EVERY: Duration = Duration::from_millis(500);
/// What one read asks the store for.
const PIECE_BYTES: u64 = 1 << 20;

/// Where a mail is.
#[derive(Debug, Clone)]
pub struct Note {
    account: AccountId,
    address: String,
    mailbox: MailboxId,
    uid: Uid,
    /// It has just come to an address of `reports.read`; else it may be any mail of the account.
    is_new: bool,
}

/// Called with every delivery, so it does next to nothing for those that are none of ours.
pub(crate) fn arrived(shard: &Shard, to: &To, placed: Placed) {
    let settings = &shard.config.reports;
    if settings.read.is_empty() || !settings.reads(to.address.as_str()) {
        return;
    }
    let mut notes = shard.reports.notes.borrow_mut();
    if notes.len() >= NOTES_MAX {
        tracing::warn!(
            account = to.home.address,
            "too many reports at once: one is not read before the next start"
        );
        return;
    }
    notes.push_back(Note {
        account: to.home.account,
        address: to.home.address.clone(),
        mailbox: placed.mailbox,
        uid: placed.uid,
        is_new: true,
    });
}

/// Until the server stops.
pub async fn run(shard: Rc<Shard>) {
    if shard.config.reports.read.is_empty() {
        return;
    }
    look_back(&shard);
    while !shard.watchdog.stopping() {
        let note = shard.reports.notes.borrow_mut().pop_front();
        match note {
            Some(note) => read(&shard, &note).await,
            None => glommio::timer::sleep(EVERY).await,
        }
    }
}

fn look_back(shard: &Shard) {
    let homes = |address: &String| match shard.directory.borrow().resolve(address) {
        Resolution::Local(reached) => reached.homes.into_iter().collect(),
        Resolution::NoSuchUser | Resolution::NotOurs => {
            if shard.id == 0 {
                tracing::warn!(address, "reports.read names an address that nobody has");
            }
            Vec::new()
        }
    };
    let mut homes: Vec<Home> = shard.config.reports.read.iter().flat_map(homes).collect();
    homes.retain(|home| home.shard == shard.id);
    homes.sort();
    homes.dedup();
    for home in homes {
        for mailbox in shard.store.mailboxes(home.account).unwrap_or_default() {
            let uids = shard.store.uids(home.account, mailbox.id).unwrap_or_default();
            let newest = uids.into_iter().rev().take(LOOKED_BACK);
            let mut notes = shard.reports.notes.borrow_mut();
            let room = NOTES_MAX.saturating_sub(notes.len());
            notes.extend(newest.take(room).map(|uid| Note {
                account: home.account,
                address: home.address.clone(),
                mailbox: mailbox.id,
                uid,
                is_new: false,
            }));
        }
    }
}

async fn read(shard: &Rc<Shard>, note: &Note) {
    let message = match message(shard, note).await {
        Ok(Some(message)) => message,
        Ok(None) => {
            if note.is_new {
                tracing::info!(target: NOTICE, account = note.address, uid = note.uid.0, "a mail to an address of reports.read is larger than any report, and is not read");
            }
            return;
        }
        // It has been moved or expunged meanwhile.
        Err(Error::NoSuchMessage(_) | Error::NoSuchMailbox(_) | Error::NoSuchAccount(_)) => return,
        Err(error) => {
            tracing::warn!(account = note.address, uid = note.uid.0, %error, "a report could not be read");
            return;
        }
    };
    let hostname = shard.config.hostname.clone();
    let found = glommio::executor().spawn_blocking(move || mail::read(&message, &hostname)).await;
    let refused = |reason: &str| {
        // What was there before the start was told when it came, and private mail is
        // nobody's business.
        if !note.is_new {
            return;
        }
        count(&shard.reports.counts.refused);
        tracing::info!(target: NOTICE, account = note.address, uid = note.uid.0, from = found.reporter, reason, "a report is not counted");
    };
    if !found.faults.is_empty() {
        refused(&found.faults.join("; "));
    }
    for digest in found.digests {
        if !is_ours(shard, &digest.domain) {
            refused(&format!("it is about {}, which is no domain of this host", digest.domain));
            continue;
        }
        let (domain, id) = (digest.domain.clone(), digest.id.clone());
        match keep(shard, &found.reporter, digest).await {
            Some(Taken::New) => {
                count(&shard.reports.counts.read);
                tracing::info!(domain, from = found.reporter, id, "a report was counted");
            }
            Some(Taken::Known) => {
                tracing::debug!(domain, from = found.reporter, id, "a report was counted before");
            }
            Some(Taken::Refused(why)) => refused(&why),
            None => refused("shard 0 is busy"),
        }
    }
}

/// A subdomain may be reported about by itself.
fn is_ours(shard: &Shard, domain: &str) -> bool {
    let directory = shard.directory.borrow();
    let mut name = Some(domain);
    while let Some(here) = name {
        if directory.domain(here).is_some() {
            return true;
        }
        name = here.split_once('.').map(|(_, above)| above);
    }
    false
}

async fn keep(shard: &Rc<Shard>, reporter: &str, digest: Digest) -> Option<Taken> {
    let reporter = reporter.to_owned();
    let work = move |shard: Rc<Shard>| async move {
        let _turn = shard.reports.figures_turn.lock().await;
        figures::take(&shard, &reporter, digest, unix_now()).await
    };
    shard.mesh.ask(0, work).await.ok()
}

/// `None`: it is too large to be one.
async fn message(shard: &Shard, note: &Note) -> Result<Option<Bytes>, Error> {
    let mut whole: Vec<u8> = Vec::new();
    loop {
        let from = whole.len() as u64;
        let range = from..from + PIECE_BYTES;
        let piece = shard.store.read(note.account, note.mailbox, note.uid, range).await?;
        if piece.is_empty() {
            return Ok(Some(Bytes::from(whole)));
        }
        if from + piece.len() as u64 > MAIL_BYTES_MAX {
            return Ok(None);
        }
        whole.extend_from_slice(&piece);
    }
}
