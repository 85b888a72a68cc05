//! What a salvage saves of a log of which something is lost: bytes, blocks, headers, files.

use crate::common::*;
use crate::faults::segment_id;
use crate::salvage::{
    assert_part, contents, is_segment, live, lived, options, salvaged, salvaged_from, seen,
    with_contents,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::device::sim::{Random, Sim};
use storage::salvage::SalvageReport;

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
    // Without an index to begin with, too: what was found of a record that is hurt
    // counts for more then.
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

/// As an operator would leave it who has put a copy back from a backup. Either may have the lower
/// number, and each may have what rot has taken of the other.
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

/// All that it holds verifies.
#[test]
fn an_older_copy_of_a_segment_is_named() {
    let sim = Sim::new(75);
    let (disk, copies) = (sim.clone(), Rc::new(RefCell::new(Vec::new())));
    let taken = Rc::clone(&copies);
    on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        for number in 0..120 {
            if number % 10 == 5 {
                taken.borrow_mut().push(contents(&disk));
            }
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 900)).await.expect("one");
        }
    });
    let files = contents(&sim);
    let (whole, _) = salvaged(&files);
    let names_one = |report: &SalvageReport| {
        report.damage.iter().find(|line| line.contains("this is an older copy")).cloned()
    };
    assert_eq!(names_one(&whole), None);
    let mut named = BTreeSet::new();
    for (name, older) in copies.borrow().iter().flatten() {
        let is_it = older.starts_with(b"KURASEG\0")
            && files.get(name).is_some_and(|now| now[..4096] == older[..4096] && now != older);
        if !is_it {
            continue;
        }
        let mut files = files.clone();
        files.insert(name.clone(), older.clone());
        let (report, _) = salvaged(&files);
        if (report.messages_lost, report.records_lost) == (0, 0) {
            // What came into it later had gone again.
            continue;
        }
        let line = names_one(&report).unwrap_or_else(|| panic!("{name}: {report:?}"));
        assert!(line.starts_with(name.as_str()), "{line}");
        named.insert(name.clone());
    }
    assert!(named.len() > 2, "{named:?}");
}

/// By their names.
type Files = BTreeMap<String, Vec<u8>>;

/// Several segments of them, and some in the newest.
const MESSAGES: u32 = 66;

/// Some messages, each in a block; the newest file of the log.
fn some_messages(seed: u64, close: bool) -> (Files, String) {
    let sim = Sim::new(seed);
    let fill = |store: storage::Store<Sim>| async move {
        with_accounts(&store).await;
        for number in 0..MESSAGES {
            store.deliver(delivery(vec![placement(ALICE, INBOX)], number, 900)).await.expect("one");
        }
    };
    if close {
        on_sim(&sim, options(), fill);
    } else {
        on_sim_unclosed(&sim, options(), move |store, _| fill(store)).expect("fills");
    }
    let files = contents(&sim.after_crash());
    // Cold ones are no part of the log.
    let used = files.iter().filter(|(_, bytes)| bytes.starts_with(b"KURASEG\0") && bytes[9] == 0);
    let newest = used.max_by_key(|(_, bytes)| segment_id(bytes)).expect("a segment").0.clone();
    (files, newest)
}

type Harm<'h> = &'h dyn Fn(&mut Files);

#[test]
fn an_end_of_the_log_that_is_missing_is_said_where_no_figure_can_tell() {
    let (files, newest) = some_messages(76, false);
    let (whole, all) = salvaged(&files);
    assert_eq!((all.messages.len(), &whole.end_missing), (MESSAGES as usize, &None));
    let cut = |files: &mut Files| files.get_mut(&newest).expect("there").truncate(8192);
    let gone = |files: &mut Files| drop(files.remove(&newest));
    let superblock_too = |files: &mut Files| {
        gone(files);
        files.remove("superblock");
    };
    let all_else_too = |files: &mut Files| {
        gone(files);
        files.retain(|name, _| name.starts_with("log-"));
    };
    let ways: [(Harm<'_>, &str); 4] = [
        (&cut, "the newest, is cut off after 8192 of 65536 bytes"),
        (&gone, "the newest, has no file"),
        (&superblock_too, "it had gone on behind what there is"),
        (&all_else_too, "the superblock is missing"),
    ];
    for (harm, words) in ways {
        let mut files = files.clone();
        harm(&mut files);
        let (report, seen) = salvaged(&files);
        let known = seen.messages.len() as u64 + report.messages_lost;
        assert!(known < u64::from(MESSAGES), "{words}: the figures tell: {report:?}");
        let missing = report.end_missing.as_ref().unwrap_or_else(|| panic!("{words}: {report:?}"));
        assert!(missing.what.contains(words), "{missing:?}");
        assert!(report.end.lsn < whole.end.lsn && report.end.time <= whole.end.time, "{report:?}");
        assert!(missing.reached.is_none_or(|reached| reached > report.end.lsn), "{report:?}");
    }
}

/// Where the store was closed in order, the figures tell.
#[test]
fn an_end_that_is_missing_of_a_log_that_was_closed_is_counted() {
    let (mut files, newest) = some_messages(77, true);
    files.get_mut(&newest).expect("there").truncate(8192);
    let (report, seen) = salvaged(&files);
    assert_eq!(report.end_missing, None);
    assert!(report.messages_lost > 0);
    assert_eq!(
        seen.messages.len() as u64 + report.messages_lost,
        u64::from(MESSAGES),
        "{report:?}"
    );
}
