//! Salvage: whatever of a damaged store verifies is in the fresh one, as it was; and the
//! source stays as it is.
//! `salvage_lost` is about what is lost of the log.

use crate::common::*;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use storage::device::sim::{Executor, Random, Sim};
use storage::salvage::{SalvageReport, salvage};
use storage::store::Undelete;
use storage::{
    Body, Delivery, Error, FlagChange, FlagMode, Flags, Options, Space, Store, UnixMillis,
};

pub(crate) fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        spare_segments_max: 3,
        checkpoint_log_bytes_min: 96 << 10,
        checkpoint_log_bytes_max: 96 << 10,
        ..Options::for_tests()
    }
}

/// What anybody can see: mailboxes by account and name, with UIDVALIDITY and next UID, messages
/// with flags and checksum, and what can be brought back. Not MODSEQs: they begin anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pairs: String,
    pub(crate) mailboxes: BTreeMap<(u32, String), (u32, u32)>,
    pub(crate) messages: BTreeMap<(u32, String, u32), String>,
    buried: BTreeSet<(u32, String, u32)>,
}

pub(crate) async fn seen(store: &Store<Sim>) -> Seen {
    let mut seen = Seen { pairs: format!("{:?}", store.scan(Space(1))), ..Seen::default() };
    for account in store.accounts() {
        let mut mailboxes = store.mailboxes(account).expect("mailboxes");
        mailboxes.extend(store.quarantine(account).expect("an account"));
        for mailbox in mailboxes {
            let status = store.status(account, mailbox.id).expect("status");
            let place = (account.0, mailbox.name.clone());
            seen.mailboxes.insert(place, (status.uid_validity, status.uid_next.0));
            for entry in store.entries(account, mailbox.id, 1..=u32::MAX).expect("entries") {
                let bytes = store.read(account, mailbox.id, entry.uid, 0..u64::MAX).await;
                let summary = store.summary(account, mailbox.id, entry.uid).await;
                let keywords: BTreeSet<&String> = (0..mailbox.keywords.len())
                    .filter(|number| entry.flags.0 >> (8 + number) & 1 == 1)
                    .map(|number| &mailbox.keywords[number])
                    .collect();
                let line = format!(
                    "{} {keywords:?} {:?} {summary:?} {:?}",
                    entry.flags.0 & 0xFF,
                    entry.internal_date,
                    bytes.map(|bytes| crc32fast::hash(&bytes))
                );
                seen.messages.insert((account.0, mailbox.name.clone(), entry.uid.0), line);
            }
        }
        let all = Undelete { since: UnixMillis(0), mailbox: None, uids: None };
        let (buried, _) = store.buried(account, &all, 10_000).expect("buried");
        seen.buried.extend(buried.iter().map(|b| (account.0, b.mailbox_name.clone(), b.uid.0)));
    }
    seen
}

/// Mail for two accounts, copied, moved, flagged, expunged; long enough that compaction frees
/// segments and a base is written.
pub(crate) async fn live(store: &Store<Sim>, seed: u64) {
    let mut random = Random::new(seed);
    with_accounts(store).await;
    let work = store.create_mailbox(BOB, "Work/2026", None).await.expect("creates").0;
    let old = store.create_mailbox(ALICE, "Old", None).await.expect("creates").0;
    let doomed = store.create_mailbox(ALICE, "Doomed", None).await.expect("creates").0;
    for number in 0..700 {
        let length = if number % 60 == 0 { 40_000 } else { 100 + random.index(2_500) };
        let places = match number % 5 {
            0 => vec![placement(ALICE, INBOX), placement(BOB, work)],
            1 => vec![placement(BOB, INBOX)],
            _ => vec![placement(ALICE, INBOX)],
        };
        store.deliver(delivery(places, number, length)).await.expect("delivers");
        let uids = store.uids(ALICE, INBOX).expect("uids");
        let one = uids[random.index(uids.len())];
        match number % 9 {
            0 => {
                let (mode, keywords) = (FlagMode::Add, vec![format!("k{}", number % 4)]);
                let change = FlagChange { mode, flags: Flags::SEEN, keywords };
                store.change_flags(ALICE, INBOX, &[one], &change, None).await.expect("flags");
            }
            3 => drop(store.copy(ALICE, INBOX, &[one], old).await.expect("copies")),
            6 => drop(store.move_messages(ALICE, INBOX, &[one], old).await.expect("moves")),
            _ => {}
        }
        if number % 100 == 7 {
            store.copy(ALICE, INBOX, &uids[..1], doomed).await.expect("copies");
        }
        if number % 40 == 11 {
            let kept = store.make_quarantine(BOB).await.expect("makes");
            let one = delivery(vec![placement(BOB, kept)], number, 300);
            let (placed, _) = store.deliver(one).await.expect("delivers");
            if number % 80 == 11 {
                store.move_messages(BOB, kept, &[placed[0].uid], INBOX).await.expect("releases");
            }
        }
        if uids.len() > 50 {
            store.expunge(ALICE, INBOX, &uids[5..25]).await.expect("expunges");
        }
    }
    store.delete_mailbox(ALICE, "Doomed").await.expect("deletes");
    let pair = (b"key".to_vec().into(), Some("value".into()));
    store.put(Space(1), vec![pair]).await.expect("puts");
    // What was given out last has gone: it must not be given out again.
    let last = *store.uids(BOB, INBOX).expect("uids").last().expect("one");
    store.expunge(BOB, INBOX, &[last]).await.expect("expunges");
}

/// A store that has lived, closed in order, and what was to be seen in it.
pub(crate) fn lived(seed: u64) -> (Sim, Seen) {
    let sim = Sim::new(seed);
    let seen = on_sim(&sim, options(), move |store| async move {
        live(&store, seed).await;
        let stats = store.stats();
        assert!(stats.segments_freed > 0 && stats.bytes_based > 0, "{stats:?}");
        seen(&store).await
    });
    (sim, seen)
}

#[test]
fn packed_bodies_come_out_as_they_were_received() {
    let packing = || Options { zstd_level: 1, ..options() };
    let sim = Sim::new(71);
    let expected = on_sim(&sim, packing(), move |store| async move {
        live(&store, 71).await;
        for number in 0..200 {
            // Whole ones, and ones in pieces.
            let line = format!("Line {number} of what people write to each other.\r\n");
            let body = Bytes::from(line.repeat(if number % 20 == 0 { 900 } else { 30 }));
            let one = delivery(vec![placement(BOB, INBOX)], 700 + number, 10);
            let one = Delivery { body: Body::Whole(body), ..one };
            store.deliver(one).await.expect("delivers");
        }
        assert!(store.stats().packed_bodies > 100, "{:?}", store.stats());
        seen(&store).await
    });
    for afterwards in [options(), packing()] {
        let (report, seen) = salvaged_with(&contents(&sim), afterwards);
        assert_eq!(seen, expected, "{report:?}");
        assert_eq!(report.messages_lost, 0, "{report:?}");
    }
}

#[test]
fn what_can_be_brought_back_can_be_brought_back_still() {
    let remembering = || Options { retention: Duration::from_secs(86_400 * 300), ..options() };
    let sim = Sim::new(70);
    let expected = on_sim(&sim, remembering(), move |store| async move {
        live(&store, 70).await;
        store.set_hold(BOB, true).await.expect("holds");
        seen(&store).await
    });
    assert!(expected.buried.len() > 100, "{}", expected.buried.len());
    assert!(expected.buried.iter().any(|(_, name, _)| name == "Doomed"));
    let (report, seen) = salvaged_with(&contents(&sim), remembering());
    assert_eq!(seen, expected, "{report:?}");
    assert_eq!(report.buried, expected.buried.len() as u64);
    assert_eq!((report.buried_lost, report.messages_lost), (0, 0), "{report:?}");
}

pub(crate) fn contents(sim: &Sim) -> BTreeMap<String, Vec<u8>> {
    let names = sim.files().into_iter().map(|file| file.name);
    names.map(|name| (name.clone(), sim.contents(&name).expect("a file"))).collect()
}

pub(crate) fn with_contents(files: &BTreeMap<String, Vec<u8>>) -> Sim {
    let sim = Sim::new(7);
    for (name, bytes) in files {
        sim.put_file(name, bytes.clone());
    }
    sim
}

/// Salvages, and opens the result anew.
pub(crate) fn salvaged(files: &BTreeMap<String, Vec<u8>>) -> (SalvageReport, Seen) {
    salvaged_with(files, options())
}

fn salvaged_with(files: &BTreeMap<String, Vec<u8>>, afterwards: Options) -> (SalvageReport, Seen) {
    salvaged_from(&with_contents(files), afterwards)
}

/// Salvages, whatever comes of it.
fn salvaged_into(target: &Sim, source: &Sim) -> Result<SalvageReport, Error> {
    let executor = Executor::new(target);
    let reader = Executor::new(source);
    let result = Rc::new(RefCell::new(None));
    let (place, disk, from, spawner) =
        (Rc::clone(&result), target.clone(), source.clone(), executor.clone());
    let task = executor.spawn(async move {
        let options = Options { retention: Duration::ZERO, ..options() };
        let store = Store::open(disk, options).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        let (mut last, mut falls_back) = ((0, 0), false);
        let show = |done: u64, total: u64| {
            falls_back |= done < last.0 || done > total;
            last = (done, total);
        };
        let report = salvage(&from, 0, &store, show).await;
        let (done, total) = last;
        assert!(!falls_back && (report.is_err() || done == total), "{done} of {total}");
        store.close().await.expect("closes");
        *place.borrow_mut() = Some(report);
    });
    while !executor.is_finished(task) {
        // The two disks know nothing of each other.
        assert!(executor.turn() | reader.turn(), "nothing goes on");
    }
    result.borrow_mut().take().expect("an outcome")
}

pub(crate) fn salvaged_from(source: &Sim, afterwards: Options) -> (SalvageReport, Seen) {
    let (files, target) = (contents(source), Sim::new(11));
    // What salvage does not write is what an ordinary opening has to give.
    let report = salvaged_into(&target, source).expect("salvages");
    assert!(contents(source) == files, "the source was touched");
    let seen = on_sim(&target, afterwards, |store| async move {
        let report = store.verify().await.expect("verifies");
        assert_eq!(report.bad, Vec::<String>::new());
        seen(&store).await
    });
    for (account, tally) in &report.by_account {
        let there = seen.messages.keys().filter(|(owner, ..)| *owner == account.0).count();
        assert_eq!(tally.saved, there as u64, "{account:?}: {report:?}");
    }
    let lost: u64 = report.by_account.values().map(|tally| tally.lost).sum();
    assert_eq!(lost, report.messages_lost, "{report:?}");
    (report, seen)
}

/// Everything that is there is as it was, and nothing more is there.
pub(crate) fn assert_part(part: &Seen, whole: &Seen, what: &str) {
    for (place, line) in &part.messages {
        assert_eq!(whole.messages.get(place), Some(line), "{what}: {place:?}");
    }
    for (place, (uid_validity, uid_next)) in &part.mailboxes {
        let (was, next) = whole.mailboxes.get(place).expect("a mailbox that was");
        assert_eq!(uid_validity, was, "{what}: {place:?}");
        assert!(uid_next >= next, "{what}: {place:?}: UIDs come again");
    }
}

/// All is as it was, but that identifiers have jumped: how the store ended was not known.
fn assert_jumped(seen: &Seen, whole: &Seen, what: &str) {
    let mut seen = seen.clone();
    for (place, (_, next)) in &mut seen.mailboxes {
        let (_, was) = whole.mailboxes.get(place).expect("a mailbox that was");
        assert!(*next >= was + (1 << 26), "{what}: {place:?}: next is {next}, and was {was}");
        *next = *was;
    }
    assert!(seen == *whole, "{what}");
}

pub(crate) fn is_segment(name: &str) -> bool {
    name.starts_with("log-")
}

#[test]
fn a_sound_store_comes_out_whole_however_its_index_fares() {
    for seed in 0..3 {
        let (sim, expected) = lived(seed);
        let sound = contents(&sim);
        let (report, seen) = salvaged(&sound);
        assert_eq!(seen, expected, "seed {seed}: untouched");
        assert_eq!((report.messages_lost, report.records_lost), (0, 0), "{report:?}");
        assert_eq!(report.messages, expected.messages.len() as u64);
        // Checkpoints and superblock gone: the base is there.
        let mut bare = sound.clone();
        bare.retain(|name, _| is_segment(name));
        let (report, seen) = salvaged(&bare);
        assert_jumped(&seen, &expected, &format!("seed {seed}: segments alone, {report:?}"));
        // The same, damaged rather than gone.
        let mut rotten = sound.clone();
        for (name, bytes) in &mut rotten {
            if !is_segment(name) {
                bytes.iter_mut().step_by(100).for_each(|byte| *byte ^= 0x10);
            }
        }
        let (_, seen) = salvaged(&rotten);
        assert_jumped(&seen, &expected, &format!("seed {seed}: rotten index"));
    }
}

/// The worst: neither checkpoint nor base, and the records that made the accounts are long gone.
#[test]
fn mail_of_which_nothing_is_known_is_saved_all_the_same() {
    let (sim, expected) = lived(40);
    let mut files = contents(&sim);
    files.retain(|name, _| is_segment(name));
    for bytes in files.values_mut() {
        for at in (0..bytes.len() - 48).step_by(8) {
            // Kinds 17 and 18: pieces of checkpoints, and bases.
            if bytes[at..].starts_with(b"KR\x11") || bytes[at..].starts_with(b"KR\x12") {
                bytes[at + 9] ^= 1;
            }
        }
    }
    let (report, seen) = salvaged(&files);
    assert_eq!(report.begun_with, "the records alone");
    assert_eq!(report.accounts_made_up, [ALICE, BOB], "{report:?}");
    assert!(report.messages_salvaged > 0, "{report:?}");
    assert!(seen.mailboxes.keys().any(|(_, name)| name == "Salvaged"), "{:?}", seen.mailboxes);
    // Every message, by its content.
    let bodies = |seen: &Seen| -> BTreeSet<String> {
        let body = |line: &String| line.rsplit_once(' ').map(|(_, body)| body.to_owned());
        seen.messages.values().filter_map(body).collect()
    };
    let missing: Vec<String> = bodies(&expected).difference(&bodies(&seen)).cloned().collect();
    let of_missing = |line: &&String| missing.iter().any(|body| line.ends_with(body.as_str()));
    let lines: Vec<_> = expected.messages.iter().filter(|(_, line)| of_missing(line)).collect();
    assert!(lines.is_empty(), "{lines:?}, {report:?}");
}

/// Rots the record that made the mailbox, wherever it stands.
fn forget_making_of(files: &mut BTreeMap<String, Vec<u8>>, mailbox: &str) {
    let mut hits = 0;
    for bytes in files.values_mut() {
        for at in (0..bytes.len().saturating_sub(256)).step_by(8) {
            let is_it = bytes[at..].starts_with(b"KR\x04")
                && bytes[at..at + 256]
                    .windows(mailbox.len())
                    .any(|name| name == mailbox.as_bytes());
            if is_it {
                bytes[at + 50] ^= 1;
                hits += 1;
            }
        }
    }
    assert_eq!(hits, 1, "the record is not there once");
}

#[test]
fn what_is_remembered_of_a_mailbox_without_a_name_can_be_brought_back_still() {
    let remembering = || Options { retention: Duration::from_secs(86_400 * 300), ..options() };
    for kept in [3, 0] {
        let sim = Sim::new(73);
        on_sim(&sim, remembering(), move |store| async move {
            with_accounts(&store).await;
            let lost = store.create_mailbox(ALICE, "Forgotten", None).await.expect("creates").0;
            for number in 0..kept + 2 {
                let one = delivery(vec![placement(ALICE, lost)], number, 300);
                store.deliver(one).await.expect("delivers");
            }
            let uids = store.uids(ALICE, lost).expect("uids");
            store.expunge(ALICE, lost, &uids[kept as usize..]).await.expect("expunges");
            assert_eq!(seen(&store).await.buried.len(), 2);
        });
        let mut files = contents(&sim);
        files.retain(|name, _| is_segment(name));
        forget_making_of(&mut files, "Forgotten");
        let (report, seen) = salvaged_with(&files, remembering());
        let of_salvaged = |place: &(u32, String, u32)| place.1 == "Salvaged";
        assert_eq!(seen.messages.keys().filter(|place| of_salvaged(place)).count(), kept as usize);
        assert_eq!(seen.buried.iter().filter(|place| of_salvaged(place)).count(), 2, "{report:?}");
        assert_eq!((report.buried, report.buried_lost), (2, 0), "{report:?}");
        assert_eq!(report.messages_salvaged, u64::from(kept), "{report:?}");
        let is_there = seen.mailboxes.contains_key(&(ALICE.0, "Salvaged".to_owned()));
        assert_eq!(is_there, kept > 0, "{:?}", seen.mailboxes);
    }
}

#[test]
fn a_directory_with_a_store_in_it_is_not_salvaged_into() {
    let (sim, _) = lived(50);
    let source = sim.clone();
    let refused =
        on_sim(
            &sim,
            options(),
            |store| async move { salvage(&source, 0, &store, |_, _| ()).await },
        );
    assert!(refused.expect_err("refuses").to_string().contains("empty directory"));
}

#[test]
fn a_store_of_a_newer_version_is_not_salvaged_by_one_that_does_not_know_it() {
    let sim = Sim::new(51);
    on_sim(&sim, options(), |store| async move { with_accounts(&store).await });
    let mut bytes = sim.contents("superblock").expect("a superblock");
    bytes[8] += 1;
    let checksum = crc32fast::hash(&bytes[..56]);
    bytes[56..60].copy_from_slice(&checksum.to_le_bytes());
    sim.put_file("superblock", bytes);
    let refused = salvaged_into(&Sim::new(11), &sim).expect_err("refuses").to_string();
    assert!(refused.contains("newer Kura"), "{refused}");
}
