//! What an operator puts into the store by hand hides no mail: a file twice, or an
//! older copy of one.

use crate::common::*;
use crate::faults::{files, is_segment, logs, refusal, remove, segment_id, segments};
use std::cell::RefCell;
use std::rc::Rc;
use storage::Options;
use storage::device::sim::Sim;

const MESSAGES: u32 = 60;

/// Names and contents.
type Files = Vec<(String, Vec<u8>)>;

/// A store that was closed in order; and its files as they were after each fifth message.
fn filled(close: bool) -> (Sim, Vec<Files>) {
    let sim = Sim::new(21);
    let earlier = Rc::new(RefCell::new(Vec::new()));
    let (disk, place) = (sim.clone(), Rc::clone(&earlier));
    let fill = move |store: storage::Store<Sim>| async move {
        with_accounts(&store).await;
        for number in 0..MESSAGES {
            if number % 5 == 0 {
                place.borrow_mut().push(logs(&disk));
            }
            let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
            store.deliver(one).await.expect("delivers");
        }
    };
    if close {
        on_sim(&sim, Options::for_tests(), fill);
    } else {
        on_sim_unclosed(
            &sim,
            Options::for_tests(),
            move |store, _| async move { fill(store).await },
        );
    }
    (sim.after_crash(), earlier.take())
}

/// Segments as they were at some time, each with what it is now: it has gone on since.
fn older_copies<'e>(
    pristine: &Sim,
    earlier: &'e [Files],
) -> impl Iterator<Item = (&'e str, &'e Vec<u8>, Vec<u8>)> {
    earlier.iter().flatten().filter(|(_, older)| is_segment(older)).filter_map(|(name, older)| {
        let now = pristine.contents(name)?;
        (now[..4096] == older[..4096] && now != *older).then_some((name.as_str(), older, now))
    })
}

async fn good(store: &storage::Store<Sim>) -> u32 {
    let mut good = 0;
    for uid in store.uids(ALICE, INBOX).expect("uids") {
        let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await;
        good += u32::from(read.is_ok_and(|bytes| bytes == message(ALICE, uid.0 - 1, 2500)));
    }
    good
}

/// The checkpoints know what the superblock would have told.
#[test]
fn without_a_superblock_an_end_of_the_log_that_is_missing_or_older_is_refused() {
    let (pristine, earlier) = filled(true);
    let newest = segments(&pristine).max_by_key(|(_, bytes)| segment_id(bytes));
    let (newest, _) = newest.expect("a segment");
    let older = older_copies(&pristine, &earlier).find(|(name, ..)| *name == newest);
    let (_, older, _) = older.expect("an older copy");
    for put_back in [None, Some(older)] {
        let sim = pristine.after_crash();
        remove(&sim, &newest);
        remove(&sim, "superblock");
        if let Some(older) = put_back {
            sim.put_file(&newest, older.clone());
        }
        let before = files(&sim);
        let reason = refusal(&sim).expect("refused");
        assert!(
            reason.contains("checkpoint-") && reason.contains("its newest part is missing"),
            "{reason}"
        );
        assert!(files(&sim) == before, "something was changed");
    }
    // All of the log is there.
    let sim = pristine.after_crash();
    remove(&sim, "superblock");
    let left = on_sim(&sim, Options::for_tests(), |store| async move { good(&store).await });
    assert_eq!(left, MESSAGES);
}

#[test]
fn two_files_that_are_one_segment_are_refused_and_both_are_named() {
    for close in [true, false] {
        let (pristine, earlier) = filled(close);
        for (name, older) in earlier.iter().flatten().filter(|(_, bytes)| is_segment(bytes)) {
            let is_there = |now: &Vec<u8>| now[..4096] == older[..4096];
            if !pristine.contents(name).as_ref().is_some_and(is_there) {
                continue;
            }
            for copy in ["log-00000000", "log-00000077"] {
                let sim = pristine.after_crash();
                sim.put_file(copy, older.clone());
                let before = files(&sim);
                let reason = refusal(&sim).expect("refuses");
                assert!(reason.contains(copy) && reason.contains(name.as_str()), "{reason}");
                assert!(reason.contains("kura store salvage"), "{reason}");
                assert!(files(&sim) == before, "{copy}: something was changed");
                remove(&sim, copy);
                assert_eq!(refusal(&sim), None, "{copy} taken away");
            }
        }
    }
}

/// Of those that are not replayed, too. What is replayed up to where the copy ends tells what
/// is lost, loudly.
#[test]
fn an_older_copy_in_the_place_of_a_file_is_refused_or_told_of_and_the_file_can_be_put_back() {
    let (mut refused, mut told, mut older_refused) = (0, 0, 0);
    for close in [true, false] {
        let (pristine, earlier) = filled(close);
        for (name, older, now) in older_copies(&pristine, &earlier) {
            let sim = pristine.after_crash();
            sim.put_file(name, older.clone());
            let before = files(&sim);
            if let Some(reason) = refusal(&sim) {
                assert!(reason.contains(name) && reason.contains("older copy"), "{reason}");
                assert!(files(&sim) == before, "{name}: something was changed");
                refused += 1;
                let newest = segments(&pristine).map(|(_, log)| segment_id(&log)).max();
                older_refused += u32::from(newest > Some(segment_id(&now)));
            } else {
                let left = on_sim_unclosed(&sim, Options::for_tests(), |store, _| async move {
                    (good(&store).await, store.stats().recovery_damage)
                });
                let (good, damage) = left.expect("comes to its end");
                // Without a checkpoint nothing but the log says how far the last segment went; and
                // a block at its end may have rotted.
                assert!(good + 1 >= MESSAGES || damage > 0 || !close, "{name}: {good} good");
                told += 1;
            }
            let mended = pristine.after_crash();
            mended.put_file(name, now);
            assert_eq!(refusal(&mended), None);
        }
    }
    assert!(
        refused > 5 && older_refused > 2,
        "{refused} refused, {older_refused} of older ones, {told} told"
    );
}

/// Whatever is read again at opening: there the next segment, or what was durable, tells how
/// far the file went.
#[test]
fn an_older_copy_of_what_is_replayed_is_refused_in_the_same_words() {
    let mut refused = [0, 0];
    for close in [true, false] {
        let (pristine, earlier) = filled(close);
        let checkpoints = pristine.files().into_iter().map(|file| file.name);
        let checkpoints = checkpoints.filter(|name| name.starts_with("checkpoint"));
        checkpoints.for_each(|name| remove(&pristine, &name));
        let newest = segments(&pristine).map(|(_, log)| segment_id(&log)).max().expect("a log");
        for (name, older, now) in older_copies(&pristine, &earlier) {
            let sim = pristine.after_crash();
            sim.put_file(name, older.clone());
            let before = files(&sim);
            if let Some(reason) = refusal(&sim) {
                let words = "what came then is missing. Either this is an older copy of the file";
                let is_named =
                    reason.contains(&format!("{name}, which is segment {} of", segment_id(&now)));
                assert!(is_named && reason.contains(words), "{reason}");
                assert!(reason.contains("kura store salvage"), "{reason}");
                assert!(files(&sim) == before, "{name}: something was changed");
                refused[usize::from(segment_id(&now) == newest)] += 1;
            } else {
                let left = on_sim_unclosed(&sim, Options::for_tests(), |store, _| async move {
                    (good(&store).await, store.stats().recovery_damage)
                });
                let (good, damage) = left.expect("comes to its end");
                // A block at its end may have rotted; and without an orderly close nothing but the
                // newest segment says how far it went.
                let is_told = good + 1 == MESSAGES && damage > 0;
                let is_newest = !close && segment_id(&now) == newest;
                assert!(is_told || is_newest, "{name}: {good} good, {damage} damaged");
            }
            let mended = pristine.after_crash();
            mended.put_file(name, now);
            assert_eq!(refusal(&mended), None);
        }
    }
    assert!(refused[0] > 5 && refused[1] > 1, "{refused:?} refused, of the newest the second");
}

/// It looks like an older copy: so both are said, and where.
#[test]
fn a_last_block_that_the_disk_has_made_zeroes_is_refused_with_its_place() {
    let pristine = Sim::new(23);
    on_sim(&pristine, Options::for_tests(), |store| async move {
        with_accounts(&store).await;
        // Where a long one does not fit any more, a segment ends behind a short one.
        for number in 0..120 {
            let length = if number % 2 == 0 { 2500 } else { 14_000 };
            let one = delivery(vec![placement(ALICE, INBOX)], number, length);
            store.deliver(one).await.expect("delivers");
        }
    });
    let mut refused = 0;
    for (name, mut log) in segments(&pristine) {
        let last = (4096..log.len()).step_by(4096).rfind(|at| log[*at..].starts_with(b"KBAT"));
        let Some(last) = last else { continue };
        log[last..last + 4096].fill(0);
        // Only what is one block as a whole leaves nothing behind.
        if log[last..].iter().any(|byte| *byte != 0) {
            continue;
        }
        let sim = pristine.after_crash();
        sim.put_file(&name, log);
        let Some(reason) = refusal(&sim) else { continue };
        let place = format!("{name}, which is segment ");
        let offset = format!("ends at byte {last} with LSN ");
        assert!(reason.contains(&place) && reason.contains(&offset), "{reason}");
        assert!(reason.contains("older copy") && reason.contains("the disk has lost"), "{reason}");
        assert!(reason.contains("kura store salvage"), "{reason}");
        refused += 1;
    }
    assert!(refused > 0);
}

/// In a file that was another segment before, too: behind the last batch stands what that has left.
#[test]
fn a_last_batch_whose_header_has_rotted_makes_no_older_copy_of_its_segment() {
    let sim = Sim::new(22);
    on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        for number in 0..600 {
            let length = 2000 + number as usize * 997 % 5000;
            let one = delivery(vec![placement(ALICE, INBOX)], number, length);
            let (placed, _) = store.deliver(one).await.expect("delivers");
            if number < 500 {
                store.expunge(ALICE, INBOX, &[placed[0].uid]).await.expect("expunges");
            }
        }
    });
    let (mut hurt, mut left_over) = (0, 0);
    for (name, log) in segments(&sim) {
        let is_batch =
            |at: &usize| log[*at..].starts_with(b"KBAT") && log[at + 8..][..4] == log[12..16];
        let Some(last) = (4096..log.len()).step_by(4096).rfind(is_batch) else {
            continue;
        };
        let of_another =
            |at: usize| log[at..].starts_with(b"KBAT") && log[at + 8..][..4] != log[12..16];
        left_over += usize::from((last..log.len()).step_by(4096).any(of_another));
        let rotten = sim.after_crash();
        rotten.flip(&name, last as u64 + 17, 0x10);
        assert_eq!(refusal(&rotten), None, "{name} at {last}");
        hurt += 1;
    }
    assert!(hurt > 3 && left_over > 0, "{hurt} segments of the log, {left_over} with left-overs");
}
