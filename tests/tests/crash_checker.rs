//! The judge sees what it should: every way of lying about a store is noticed, and an honest
//! account passes. Without these, a simulator that finds nothing would prove nothing.

use bytes::Bytes;
use kura_tests::simulation::checker::{Rot, judge};
use kura_tests::simulation::journal::Journal;
use kura_tests::simulation::model::Message;
use kura_tests::simulation::observation::{Observation, SeenMailbox, SeenMessage};
use kura_tests::simulation::operation::{Operation, Target};
use kura_tests::simulation::simulator::after_a_workload;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::{AccountId, Flags, MailboxId, Modseq, Uid};

/// Of operations.
const KINDS: usize = 17;

/// A journal whose base is a lively store, and a true look at that store.
fn honest() -> (Journal, Observation) {
    (1..)
        .map(|seed| after_a_workload(seed).expect("a sound store"))
        .find(|(_, seen)| busiest(&mut seen.clone()).messages.len() >= 3 && !seen.pairs.is_empty())
        .expect("one of all seeds")
}

fn busiest(seen: &mut Observation) -> &mut SeenMailbox {
    let mailboxes = seen.accounts.values_mut().flat_map(|account| account.mailboxes.values_mut());
    mailboxes.max_by_key(|mailbox| mailbox.messages.len()).expect("a mailbox")
}

fn newest(seen: &mut Observation) -> &mut SeenMessage {
    busiest(seen).messages.values_mut().next_back().expect("a message")
}

/// What the judge says of a store that shows something else than it should.
fn verdict(lie: impl FnOnce(&mut Observation)) -> Result<(), String> {
    let (mut journal, mut seen) = honest();
    lie(&mut seen);
    judge(&mut journal, seen, Rot::None)
}

#[track_caller]
fn assert_noticed(what: &str, lie: impl FnOnce(&mut Observation)) {
    assert!(verdict(lie).is_err(), "unnoticed: {what}");
}

#[test]
fn the_workloads_do_everything_and_every_end_occurs() {
    let mut ends: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    let (mut landed, mut lost) = (0, 0);
    let (mut backups, mut broken_off, mut looks_back) = (0, 0, 0);
    for seed in 1..=400 {
        let (journal, _) = after_a_workload(seed).expect("a sound store");
        backups += journal.tally.backups;
        broken_off += journal.tally.backups_broken_off;
        looks_back += journal.tally.looks_back;
        for ((kind, end), count) in &journal.tally.ends {
            ends.entry(kind).or_default()[*end as usize] += count;
        }
        landed += journal.tally.maybes_landed;
        lost += journal.tally.maybes_lost;
    }
    println!("[acknowledged, refused, maybe]: {ends:?}; maybes landed {landed}, lost {lost}");
    assert_eq!(ends.len(), KINDS, "{ends:?}");
    for (kind, [acknowledged, _, maybe]) in &ends {
        assert!(*acknowledged >= 20 && *maybe >= 1, "{kind}: {ends:?}");
    }
    assert!(landed >= 20 && lost >= 20, "{landed} {lost}");
    println!(
        "{backups} backups compared, {broken_off} broken off, {looks_back} accounts looked back at"
    );
    assert!(backups >= 50 && broken_off >= 20 && looks_back >= 50);
}

#[test]
fn where_mail_churns_segments_are_emptied_and_freed_all_the_time() {
    let (mut moved, mut freed, mut idle) = (0, 0, 0);
    for seed in (3..=120).step_by(3) {
        let (journal, _) = after_a_workload(seed).expect("a sound store");
        moved += journal.tally.bytes_moved;
        freed += journal.tally.segments_freed;
        idle += u64::from(journal.tally.bytes_moved == 0 || journal.tally.segments_freed == 0);
    }
    println!("40 workloads moved {moved} bytes and freed {freed} segments; {idle} were idle");
    assert!(moved > 40 * 50_000 && freed > 40 * 4 && idle <= 4);
}

#[test]
fn an_honest_account_passes() {
    assert_eq!(verdict(|_| {}), Ok(()));
}

/// Nobody has heard of these deliveries yet: they are taken out of what is known, and issued. How
/// many there are.
fn unheard_of(journal: &mut Journal, seen: &Observation, most: usize) -> usize {
    let of_account = seen.accounts.iter().flat_map(|(id, account)| {
        account.mailboxes.iter().map(move |(name, mailbox)| (*id, name, mailbox))
    });
    let (account, name, mailbox) =
        of_account.max_by_key(|(_, _, mailbox)| mailbox.messages.len()).expect("a mailbox");
    let base = journal.base.accounts.get_mut(&account).expect("the account");
    let base = Rc::make_mut(base.mailboxes.get_mut(name).expect("the mailbox"));
    let uids: Vec<Uid> = base.messages.keys().copied().take(most).collect();
    let taken: Vec<Message> = uids.iter().filter_map(|uid| base.messages.remove(uid)).collect();
    for message in &taken {
        deliver(journal, account, mailbox.info.id, message);
    }
    taken.len()
}

fn deliver(journal: &mut Journal, account: AccountId, mailbox: MailboxId, message: &Message) {
    let target = Target {
        account,
        mailbox,
        prefix: message.prefix.clone(),
        flags: message.flags,
        keywords: message.keywords.iter().cloned().collect(),
    };
    let (letter, targets) = (Rc::clone(&message.letter), vec![target]);
    journal.issue(Operation::Deliver { letter, targets, streamed: false });
}

#[test]
fn many_deliveries_that_nobody_heard_of_are_judged_in_no_more_ways_than_can_be_told_apart() {
    const SEEN: usize = 8;
    let several = (1..=400).map(|seed| after_a_workload(seed).expect("a sound store"));
    let (mut journal, seen) = several
        .into_iter()
        .find(|(journal, seen)| unheard_of(&mut journal.clone(), seen, SEEN) == SEEN)
        .expect("a mailbox with as many letters");
    assert_eq!(unheard_of(&mut journal, &seen, SEEN), SEEN);
    // As many more that have not landed, of all orders in which they could have.
    let (account, mailbox) = *journal.known_mailboxes.first().expect("one");
    for _ in 0..30 {
        let letter = journal.next_letter(100);
        let (prefix, flags) = (Bytes::new(), Flags::default());
        let message = Message { letter, prefix, flags, keywords: BTreeSet::new() };
        deliver(&mut journal, account, mailbox, &message);
    }
    let before = journal.tally.clone();
    assert_eq!(judge(&mut journal, seen, Rot::None), Ok(()));
    let tally = &journal.tally;
    assert_eq!(tally.maybes_landed - before.maybes_landed, SEEN as u64);
    assert_eq!(tally.maybes_lost - before.maybes_lost, 30);
}

#[test]
fn a_lost_message_is_noticed_even_when_all_counts_agree() {
    assert_noticed("a message is gone", |seen| {
        let mailbox = busiest(seen);
        let (_, gone) = mailbox.messages.pop_last().expect("a message");
        let bytes = u64::from(gone.entry.bytes);
        mailbox.status.messages -= 1;
        mailbox.status.bytes -= bytes;
        mailbox.status.unseen -= u32::from(!gone.flags.contains(Flags::SEEN));
        mailbox.status.deleted -= u32::from(gone.flags.contains(Flags::DELETED));
        let id = mailbox.info.clone();
        let account = seen
            .accounts
            .values_mut()
            .find(|account| account.mailboxes.values().any(|mailbox| mailbox.info == id));
        let account = account.expect("the mailbox's account");
        account.usage.messages -= 1;
        account.usage.bytes -= bytes;
        seen.messages -= 1;
        seen.live_bytes -= bytes;
    });
}

#[test]
fn a_message_twice_or_another_in_its_place_is_noticed() {
    assert_noticed("a double", |seen| {
        let mailbox = busiest(seen);
        let mut double = mailbox.messages.values().next_back().expect("a message").clone();
        double.entry.uid = Uid(double.entry.uid.0 + 1);
        mailbox.messages.insert(double.entry.uid, double);
    });
    assert_noticed("another letter under a UID", |seen| newest(seen).number += 1);
}

#[test]
fn other_bytes_are_noticed() {
    assert_noticed("one byte of a body", |seen| {
        let Some(Ok((bytes, _))) = &mut newest(seen).content else { panic!("it was read") };
        let mut changed = bytes.to_vec();
        *changed.last_mut().expect("a byte") ^= 1;
        *bytes = changed.into();
    });
    assert_noticed("a byte too many", |seen| {
        let Some(Ok((bytes, _))) = &mut newest(seen).content else { panic!("it was read") };
        *bytes = [&bytes[..], b"!"].concat().into();
    });
    assert_noticed("another summary", |seen| {
        let Some(Ok((_, summary))) = &mut newest(seen).content else { panic!("it was read") };
        *summary = Bytes::from_static(b"summary of something");
    });
}

#[test]
fn flags_modseqs_and_uids_that_fall_back_are_noticed() {
    assert_noticed("a flag", |seen| {
        let message = newest(seen);
        message.flags = Flags(message.flags.0 ^ Flags::FLAGGED.0);
    });
    assert_noticed("a keyword", |seen| {
        newest(seen).keywords.insert("never".to_owned());
    });
    assert_noticed("a lower MODSEQ", |seen| {
        let entry = &mut newest(seen).entry;
        entry.modseq = Modseq(entry.modseq.0 - 1);
    });
    assert_noticed("a lower UIDNEXT", |seen| {
        let mailbox = busiest(seen);
        mailbox.status.uid_next = Uid(mailbox.status.uid_next.0 - 1);
    });
    assert_noticed("another UIDVALIDITY", |seen| {
        let mailbox = busiest(seen);
        mailbox.info.uid_validity += 1;
        mailbox.status.uid_validity += 1;
    });
}

#[test]
fn counts_that_are_off_by_one_are_noticed() {
    assert_noticed("unseen", |seen| busiest(seen).status.unseen += 1);
    assert_noticed("deleted", |seen| busiest(seen).status.deleted += 1);
    assert_noticed("bytes of a mailbox", |seen| busiest(seen).status.bytes += 1);
    assert_noticed("messages in all", |seen| seen.messages += 1);
    assert_noticed("usage", |seen| {
        seen.accounts.values_mut().next().expect("an account").usage.bytes += 1;
    });
    assert_noticed("a limit", |seen| {
        let account = seen.accounts.values_mut().next().expect("an account");
        account.usage.quota.messages_max = Some(1_000_000);
    });
}

#[test]
fn lost_keys_names_and_accounts_are_noticed() {
    assert_noticed("a key", |seen| drop(seen.pairs.pop_first()));
    assert_noticed("a value", |seen| {
        *seen.pairs.values_mut().next().expect("a pair") = Bytes::from_static(b"something else");
    });
    assert_noticed("a subscription", |seen| {
        let account = seen.accounts.values_mut().next().expect("an account");
        account.subscriptions.insert("nowhere".to_owned());
    });
    assert_noticed("an account", |seen| drop(seen.accounts.pop_first()));
    assert_noticed("what verify said", |seen| {
        seen.verified.as_mut().expect("verified").bad.push("something".to_owned());
    });
}
