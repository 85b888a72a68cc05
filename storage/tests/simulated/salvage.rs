//! Salvage: whatever of a damaged store verifies is in the fresh one, as it was; and the source stays as it is.

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

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        spare_segments: 1,
        spare_segments_max: 3,
        checkpoint_log_bytes_min: 96 << 10,
        checkpoint_log_bytes_max: 96 << 10,
        ..Options::for_tests()
    }
}

/// What anybody can see: mailboxes by account and name, with UIDVALIDITY and next UID, messages with flags
/// and checksum, and what can be brought back. Not MODSEQs: they begin anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    pairs: String,
    mailboxes: BTreeMap<(u32, String), (u32, u32)>,
    messages: BTreeMap<(u32, String, u32), String>,
    buried: BTreeSet<(u32, String, u32)>,
}

async fn seen(store: &Store<Sim>) -> Seen {
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

/// Mail for two accounts, copied, moved, flagged, expunged; long enough that compaction frees segments and
/// a base is written.
async fn live(store: &Store<Sim>, seed: u64) {
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
fn lived(seed: u64) -> (Sim, Seen) {
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

fn contents(sim: &Sim) -> BTreeMap<String, Vec<u8>> {
    let names = sim.files().into_iter().map(|file| file.name);
    names.map(|name| (name.clone(), sim.contents(&name).expect("a file"))).collect()
}

fn with_contents(files: &BTreeMap<String, Vec<u8>>) -> Sim {
    let sim = Sim::new(7);
    for (name, bytes) in files {
        sim.put_file(name, bytes.clone());
    }
    sim
}

/// Salvages, and opens the result anew.
fn salvaged(files: &BTreeMap<String, Vec<u8>>) -> (SalvageReport, Seen) {
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
        let report = salvage(&from, 0, &store).await;
        store.close().await.expect("closes");
        *place.borrow_mut() = Some(report);
    });
    while !executor.is_finished(task) {
        // The two disks know nothing of each other.
        assert!(executor.turn() | reader.turn(), "nothing goes on");
    }
    result.borrow_mut().take().expect("an outcome")
}

fn salvaged_from(source: &Sim, afterwards: Options) -> (SalvageReport, Seen) {
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
fn assert_part(part: &Seen, whole: &Seen, what: &str) {
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

fn is_segment(name: &str) -> bool {
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

#[test]
fn headers_of_segments_and_batches_are_not_needed() {
    let (sim, expected) = lived(4);
    let mut files = contents(&sim);
    files.retain(|name, _| is_segment(name) || name == "superblock");
    for bytes in files.values_mut().filter(|bytes| bytes.starts_with(b"KURASEG")) {
        for block in bytes.chunks_mut(4096) {
            if block.starts_with(b"KURASEG") || block.starts_with(b"KBAT") {
                block[20] ^= 0xFF;
            }
        }
    }
    let (report, seen) = salvaged(&files);
    assert_eq!(seen, expected, "{report:?}");
    assert!(report.damage.len() > 3, "{report:?}");
}

#[test]
fn a_flipped_byte_costs_what_it_hits_and_nothing_else() {
    for seed in 0..8 {
        let (sim, expected) = lived(20 + seed % 2);
        let mut files = contents(&sim);
        let mut random = Random::new(seed);
        // With and without the index.
        if seed % 3 == 0 {
            files.retain(|name, _| is_segment(name));
        }
        let mut flips = 0;
        for bytes in files.values_mut().filter(|bytes| bytes.starts_with(b"KURASEG")) {
            for _ in 0..2 {
                let at = random.index(bytes.len());
                bytes[at] ^= 1 << random.index(8);
                flips += 1;
            }
        }
        let (report, seen) = salvaged(&files);
        let what = format!("seed {seed}, {report:?}");
        if report.begun_with == "the records alone" || report.records_lost > 0 {
            // A record that says what became of others is gone: these show as they were before.
            let lost = (expected.messages.len() as u64).saturating_sub(seen.messages.len() as u64);
            assert!(lost <= 4 * flips, "{lost} lost: {what}");
            continue;
        }
        assert_part(&seen, &expected, &what);
        let there = seen.messages.len() as u64;
        assert_eq!(there + report.messages_lost, expected.messages.len() as u64, "{what}");
        // Copies are hurt together.
        assert!(report.messages_lost <= 4 * flips, "{what}");
    }
}

/// As much as zeroes in its place would, be it the first of its segment, and be there many.
#[test]
fn an_unreadable_sector_costs_what_is_in_its_block_and_nothing_else() {
    let (sim, expected) = lived(24);
    let mut whole = contents(&sim);
    // Without an index to begin with, too: what was found of a record that is hurt counts for more then.
    for with_index in [true, false] {
        if !with_index {
            whole.retain(|name, _| is_segment(name) || name == "superblock");
        }
        let is_used = |bytes: &[u8]| bytes.starts_with(b"KURASEG");
        let used = whole.iter().filter(|(_, bytes)| is_used(bytes)).map(|(name, _)| name.clone());
        let used: Vec<String> = used.collect();
        for (number, victim) in used.iter().enumerate().step_by(3) {
            let blocks = whole[victim].len() / 4096;
            let hurt: Vec<usize> = match number % 4 {
                0 => vec![0],
                1 => vec![1 + number % (blocks - 1)],
                2 => (0..blocks).step_by(5).collect(),
                _ => vec![0, 1, blocks / 2, blocks / 2 + 1],
            };
            let (mut rotten, source) = (whole.clone(), with_contents(&whole));
            for block in &hurt {
                let range = block * 4096..(block + 1) * 4096;
                rotten.get_mut(victim).expect("there")[range.clone()].fill(0xFF);
                // One sector of it.
                let sector = range.start as u64 + 512;
                assert!(source.make_unreadable(victim, sector..sector + 512));
            }
            let (by_rot, seen_by_rot) = salvaged(&rotten);
            let (report, seen) = salvaged_from(&source, options());
            let what = format!("{victim}, blocks {hurt:?}, index {with_index}: {report:?}");
            assert!(seen == seen_by_rot, "{what}, not as with rot: {by_rot:?}");
            assert_eq!(report.messages_lost, by_rot.messages_lost, "{what}");
            assert_eq!(report.segments_missing, by_rot.segments_missing, "{what}");
            let first = hurt[0] * 4096;
            let line = format!("{victim}: bytes {first} to ");
            assert!(report.damage.iter().any(|damage| damage.starts_with(&line)), "{what}");
            if with_index {
                assert_part(&seen, &expected, &what);
                let there = seen.messages.len() as u64;
                assert_eq!(there + report.messages_lost, expected.messages.len() as u64, "{what}");
            }
        }
    }
}

#[test]
fn a_segment_that_is_missing_or_cut_short_costs_its_own_messages() {
    for seed in 0..6 {
        let (sim, expected) = lived(30 + seed % 2);
        let mut files = contents(&sim);
        let used: Vec<String> = files
            .iter()
            .filter(|(_, bytes)| bytes.starts_with(b"KURASEG"))
            .map(|(name, _)| name.clone())
            .collect();
        let victim = &used[(seed as usize * 7) % used.len()];
        if seed % 2 == 0 {
            files.remove(victim);
        } else {
            let bytes = files.get_mut(victim).expect("there");
            bytes.truncate(bytes.len() / 3 + 100);
        }
        let (report, seen) = salvaged(&files);
        let what = format!("seed {seed}, {victim}, {report:?}");
        // The checkpoint is whole and as of the end: all is known of what is lost.
        assert_part(&seen, &expected, &what);
        let there = seen.messages.len() as u64;
        assert_eq!(there + report.messages_lost, expected.messages.len() as u64, "{what}");
        assert_eq!(seen.mailboxes, expected.mailboxes, "{what}");
    }
}

/// It looks like a spare then. With the index and without.
#[test]
fn a_segment_whose_header_is_zeroed_costs_nothing_and_is_named() {
    for seed in 0..2 {
        let (sim, expected) = lived(70 + seed);
        let whole = contents(&sim);
        let (mut named, mut silent) = (0, 0);
        let used = whole.iter().filter(|(_, bytes)| bytes.starts_with(b"KURASEG"));
        for (name, bytes) in used.step_by(4) {
            for with_index in [true, false] {
                let mut files = whole.clone();
                let mut erased = bytes.clone();
                erased[..4096].fill(0);
                files.insert(name.clone(), erased);
                if !with_index {
                    files.retain(|name, _| is_segment(name) || name == "superblock");
                }
                let (report, seen) = salvaged(&files);
                let what = format!("seed {seed}, {name}, index {with_index}: {report:?}");
                assert_eq!(seen, expected, "{what}");
                assert_eq!((report.messages_lost, report.records_lost), (0, 0), "{what}");
                assert_eq!(report.segments_missing, 0, "{what}");
                let is_named = report.damage.iter().any(|line| line.starts_with(name.as_str()));
                *(if is_named { &mut named } else { &mut silent }) += 1;
            }
        }
        // Silent are those that nothing needs any more.
        assert!(named > silent, "{named} named, {silent} not");
    }
}

#[test]
fn what_is_missing_is_named_and_counted_and_in_a_sound_store_nothing_is() {
    let (sim, _) = lived(72);
    let whole = contents(&sim);
    let (report, _) = salvaged(&whole);
    assert_eq!((report.segments_missing, &report.damage), (0, &vec![]), "{report:?}");
    let used = whole.iter().filter(|(_, bytes)| bytes.starts_with(b"KURASEG"));
    let mut missed = 0;
    for (name, _) in used.step_by(4) {
        let mut files = whole.clone();
        files.remove(name);
        let (report, _) = salvaged(&files);
        let is_named = report.damage.iter().any(|line| line.contains("missing"));
        assert_eq!(is_named, report.segments_missing > 0, "{name}: {report:?}");
        assert!(is_named || report.messages_lost == 0, "{name}: {report:?}");
        missed += u32::from(is_named);
    }
    assert!(missed > 1, "{missed}");
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

/// As an operator would leave it who has put a copy back from a backup. Either may have the lower number, and each
/// may have what rot has taken of the other.
#[test]
fn of_two_files_that_are_one_segment_all_is_saved_that_either_holds() {
    let sim = Sim::new(74);
    let (disk, copies) = (sim.clone(), Rc::new(RefCell::new(BTreeMap::new())));
    let place = Rc::clone(&copies);
    let expected = on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        for number in 0..30 {
            if number == 10 {
                *place.borrow_mut() = contents(&disk);
            }
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 900)).await.expect("one");
        }
        seen(&store).await
    });
    let files = contents(&sim);
    let is_older = |(name, bytes): &(&String, &Vec<u8>)| {
        bytes.starts_with(b"KURASEG\0") && files.get(*name) != Some(*bytes)
    };
    let older =
        copies.borrow().iter().find(is_older).map(|(name, bytes)| (name.clone(), bytes.clone()));
    let (name, older) = older.expect("a segment that was written on");
    for (copy, rots) in [("log-00000000", false), ("log-00000099", false), ("log-00000000", true)] {
        let mut files = files.clone();
        let live = files.get_mut(&name).expect("there");
        if rots {
            // Some mail that the copy has.
            let at = live.windows(7).position(|w| w == b"mary of").expect("a summary") + 300;
            live[at] ^= 1;
        }
        files.insert(copy.to_owned(), older.clone());
        let (report, seen) = salvaged(&files);
        assert_eq!(seen.messages, expected.messages, "copy as {copy}: {report:?}");
        assert_eq!((report.messages_lost, report.records_lost), (0, 0), "{report:?}");
        assert!(report.damage.iter().any(|line| line.contains("is segment")), "{report:?}");
    }
}

#[test]
fn a_directory_with_a_store_in_it_is_not_salvaged_into() {
    let (sim, _) = lived(50);
    let source = sim.clone();
    let refused = on_sim(&sim, options(), |store| async move { salvage(&source, 0, &store).await });
    assert!(refused.expect_err("refuses").to_string().contains("empty directory"));
}

/// Nobody ever saw a witness of them: the newest segment is lost before anything else was written.
#[test]
fn uids_of_a_lost_newest_segment_are_not_given_out_again() {
    let sim = Sim::new(61);
    let before = on_sim_unclosed(&sim, options(), |store, _| async move {
        live(&store, 61).await;
        seen(&store).await
    });
    let before = before.expect("comes to its end");
    let mut files = contents(&sim.after_kill());
    let id = |bytes: &[u8]| u32::from_le_bytes(bytes[12..16].try_into().expect("four"));
    let of_log = files.iter().filter(|(_, bytes)| bytes.starts_with(b"KURASEG") && bytes[9] == 0);
    let newest = of_log.max_by_key(|(_, bytes)| id(bytes)).expect("one").0.clone();
    files.remove(&newest);
    let (report, seen) = salvaged(&files);
    assert!(report.segments_missing > 0, "{report:?}");
    for (place, (_, next)) in &before.mailboxes {
        let now = seen.mailboxes.get(place).map(|(_, next)| *next);
        assert!(now.is_none_or(|now| now >= *next), "{place:?}: {now:?}, {next} was next");
    }
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

#[test]
fn uids_are_not_reused_after_the_last_messages_are_lost() {
    let (sim, expected) = lived(60);
    let place = (BOB.0, "INBOX".to_owned());
    let (_, next) = expected.mailboxes[&place];
    let there = expected
        .messages
        .keys()
        .filter(|(account, name, _)| (*account, name.as_str()) == (BOB.0, "INBOX"));
    let last = there.map(|(_, _, uid)| *uid).max().expect("a message");
    assert!(next > last + 1, "the last one was expunged");
    let (_, seen) = salvaged(&contents(&sim));
    assert_eq!(seen.mailboxes[&place].1, next);
}
