//! Laws that need no model of the operations: counts equal a recount, numbers only grow, and what
//! changed since the last look is exactly what the store says has changed.

use super::checker::{Rot, Violation};
use super::journal::Journal;
use super::observation::{Observation, SeenAccount, SeenMailbox};
use std::collections::BTreeSet;
use storage::{AccountId, Changes, Flags, Uid};

pub(super) fn check(journal: &Journal, seen: &Observation, rot: Rot) -> Result<(), Violation> {
    let (mut messages, mut bytes) = (0, 0);
    for (id, account) in &seen.accounts {
        let within = |what: Violation| format!("account {}: {what}", id.0);
        check_account(journal, *id, account).map_err(within)?;
        messages += account.usage.messages;
        bytes += account.usage.bytes;
    }
    if (seen.messages, seen.live_bytes) != (messages, bytes) {
        let kept = (seen.messages, seen.live_bytes);
        return Err(format!("the store counts {kept:?}, its accounts {:?}", (messages, bytes)));
    }
    if seen.orphans > 0 {
        return Err(format!("{} records refer to nothing", seen.orphans));
    }
    // A power cut alone costs nothing that was synced: no checkpoint, no batch. What we take away
    // ourselves is told of.
    let (taken, others): (Vec<_>, Vec<_>) = seen
        .setbacks
        .iter()
        .partition(|setback| setback.starts_with("superblock in a simulated disk is missing"));
    if let (Some(setback), Rot::None) = (others.first(), rot) {
        return Err(format!("opening found {setback}"));
    }
    if taken.len() != usize::from(journal.superblock_is_forgotten) {
        return Err(format!("of a superblock that was taken away, opening says {taken:?}"));
    }
    if let (Some(report), Rot::None) = (&seen.verified, rot)
        && let Some(bad) = report.bad.first()
    {
        return Err(format!("verify finds {bad} (and {} more)", report.bad.len() - 1));
    }
    match &journal.last {
        Some(last) => check_growth(last, seen),
        None => Ok(()),
    }
}

fn check_account(journal: &Journal, id: AccountId, account: &SeenAccount) -> Result<(), Violation> {
    let (mut messages, mut bytes) = (0, 0);
    for (name, mailbox) in &account.mailboxes {
        let within = |what: Violation| format!("{name:?}: {what}");
        check_mailbox(mailbox).map_err(within)?;
        let identity = (id, mailbox.info.id, mailbox.info.uid_validity);
        let (next, told) = (mailbox.status.uid_next, journal.highest_uid(identity));
        if next <= told {
            return Err(within(format!("UIDNEXT is {}, but UID {} was told", next.0, told.0)));
        }
        if mailbox.status.highest_modseq > account.highest_modseq {
            return Err(within("a MODSEQ is above the account's highest".to_owned()));
        }
        messages += u64::from(mailbox.status.messages);
        bytes += mailbox.status.bytes;
    }
    let kept = (account.usage.messages, account.usage.bytes);
    if kept != (messages, bytes) {
        return Err(format!("usage is {kept:?}, a recount says {:?}", (messages, bytes)));
    }
    Ok(())
}

fn check_mailbox(mailbox: &SeenMailbox) -> Result<(), Violation> {
    let count = |is_counted: &dyn Fn(Flags) -> bool| {
        mailbox.messages.values().filter(|message| is_counted(message.flags)).count()
    };
    let status = &mailbox.status;
    let kept = [status.messages, status.unseen, status.deleted].map(|count| count as usize);
    let counted = [
        mailbox.messages.len(),
        count(&|flags| !flags.contains(Flags::SEEN)),
        count(&|flags| flags.contains(Flags::DELETED)),
    ];
    let bytes: u64 = mailbox.messages.values().map(|message| u64::from(message.entry.bytes)).sum();
    if kept != counted || status.bytes != bytes {
        return Err(format!(
            "counts {kept:?}, {} bytes; recount {counted:?}, {bytes}",
            status.bytes
        ));
    }
    if status.uid_validity != mailbox.info.uid_validity {
        return Err("has two UIDVALIDITYs".to_owned());
    }
    let last = mailbox.messages.keys().next_back().copied().unwrap_or(Uid(0));
    if status.uid_next <= last {
        return Err(format!("UIDNEXT is {}, UID {} is there", status.uid_next.0, last.0));
    }
    match mailbox.messages.values().find(|m| m.entry.modseq > status.highest_modseq) {
        Some(message) => Err(format!("UID {} has a MODSEQ too high", message.entry.uid.0)),
        None => Ok(()),
    }
}

fn check_growth(last: &Observation, seen: &Observation) -> Result<(), Violation> {
    for (id, account) in &seen.accounts {
        let Some(before) = last.accounts.get(id) else { continue };
        if account.highest_modseq < before.highest_modseq {
            return Err(format!("account {}: its highest MODSEQ fell", id.0));
        }
        for mailbox in account.mailboxes.values() {
            let info = &mailbox.info;
            let same = |other: &&SeenMailbox| other.info.id == info.id;
            let Some(earlier) = before.mailboxes.values().find(same) else { continue };
            let within = |what| format!("account {}, {:?}: {what}", id.0, info.name);
            if earlier.info.uid_validity != info.uid_validity {
                return Err(within("its UIDVALIDITY changed".to_owned()));
            }
            if mailbox.status.uid_next < earlier.status.uid_next {
                return Err(within("its UIDNEXT fell".to_owned()));
            }
            check_modseqs(earlier, mailbox).map_err(within)?;
            if let Some(changes) = seen.changes.get(&(*id, info.id)) {
                check_changes(earlier, mailbox, changes).map_err(within)?;
            }
        }
    }
    Ok(())
}

fn check_modseqs(earlier: &SeenMailbox, mailbox: &SeenMailbox) -> Result<(), Violation> {
    let mut changed = earlier.messages.len() != mailbox.messages.len();
    for (uid, message) in &mailbox.messages {
        let Some(before) = earlier.messages.get(uid) else {
            changed = true;
            continue;
        };
        let was = before.entry.modseq;
        let is = message.entry.modseq;
        let differs = (before.flags, &before.keywords) != (message.flags, &message.keywords);
        changed |= differs;
        if is < was || (differs && is == was) {
            return Err(format!("UID {} changed, its MODSEQ was {} and is {}", uid.0, was.0, is.0));
        }
    }
    let (was, is) = (earlier.status.highest_modseq, mailbox.status.highest_modseq);
    if is < was || (changed && is == was) {
        return Err(format!("it changed, its highest MODSEQ was {} and is {}", was.0, is.0));
    }
    Ok(())
}

/// A client that applies the changes to what it knew must know what is there.
fn check_changes(
    earlier: &SeenMailbox,
    mailbox: &SeenMailbox,
    changes: &Changes,
) -> Result<(), Violation> {
    if !changes.complete {
        return Err("the store has forgotten what vanished".to_owned());
    }
    if changes.highest_modseq != mailbox.status.highest_modseq {
        return Err("two highest MODSEQs".to_owned());
    }
    let since = earlier.status.highest_modseq;
    let told: BTreeSet<Uid> = changes.changed.iter().map(|entry| entry.uid).collect();
    let news = mailbox.messages.values().filter(|message| message.entry.modseq > since);
    let expected: BTreeSet<Uid> = news.map(|message| message.entry.uid).collect();
    if told != expected {
        return Err(format!("changed since {}: told {told:?}, are {expected:?}", since.0));
    }
    let vanished: BTreeSet<Uid> = changes.vanished.iter().copied().collect();
    if let Some(uid) = vanished.iter().find(|uid| mailbox.messages.contains_key(uid)) {
        return Err(format!("UID {} is said to have vanished, and is there", uid.0));
    }
    let is_untold = |uid: &&Uid| !mailbox.messages.contains_key(uid) && !vanished.contains(uid);
    match earlier.messages.keys().find(is_untold) {
        Some(uid) => Err(format!("UID {} vanished, and nobody is told", uid.0)),
        None => Ok(()),
    }
}
