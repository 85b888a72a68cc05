//! Checkpoints that leave in earlier files what has not changed: what they cost, and what rot in
//! one of the files does.

use crate::common::*;
use std::rc::Rc;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Random, Sim};
use storage::{FlagChange, FlagMode, Flags, MessageEntry, Options, Store, Uid};

const MESSAGES: u32 = 12_000;
const ROW_BYTES: u64 = 48;

/// More than the files that a checkpoint may refer to: its own, and those that wait
/// for their removal.
const FILES_MAX: usize = 16 + 1 + 16;

fn options() -> Options {
    Options {
        segment_bytes: 8 << 20,
        pending_bytes_max: 1 << 20,
        checkpoint_log_bytes_min: 256 << 10,
        checkpoint_log_bytes_max: 256 << 10,
        ..Options::for_tests()
    }
}

fn checkpoints(sim: &Sim) -> Vec<(String, u64)> {
    let files = sim.files().into_iter().filter(|file| file.name.starts_with("checkpoint"));
    let mut files: Vec<_> = files.map(|file| (file.name, file.bytes)).collect();
    files.sort();
    files
}

async fn deliver(store: &Store<Sim>, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let one = delivery(vec![placement(ALICE, INBOX)], number, 100);
        store.deliver(one).await.expect("delivers");
    }
}

async fn see(store: &Store<Sim>, uids: &[Uid]) {
    let seen = FlagChange { mode: FlagMode::Add, flags: Flags::SEEN, keywords: vec![] };
    store.change_flags(ALICE, INBOX, uids, &seen, None).await.expect("changes");
}

fn entries(store: &Store<Sim>) -> Vec<MessageEntry> {
    store.entries(ALICE, INBOX, 1..=u32::MAX).expect("alice")
}

/// A large mailbox, seen through many checkpoints, with changes here and there.
fn grown(seed: u64) -> (Sim, Vec<MessageEntry>) {
    let sim = Sim::new(seed);
    let entries = on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        let mut random = Random::new(seed);
        for step in 0..MESSAGES / 500 {
            deliver(&store, step * 500..(step + 1) * 500).await;
            let there = u64::from((step + 1) * 500);
            let some: Vec<Uid> = (0..3).map(|_| Uid(random.below(there) as u32 + 1)).collect();
            see(&store, &some).await;
            store
                .expunge(ALICE, INBOX, &[Uid(random.below(there) as u32 + 1)])
                .await
                .expect("gone");
        }
        entries(&store)
    });
    (sim, entries)
}

/// Goes on until the newest checkpoint is one that leaves most rows where they are.
fn refer_to_older_files(sim: &Sim) {
    // A base that is due when the store is closed wants a whole checkpoint: not here.
    on_sim(sim, options(), |store| async move {
        for _ in 0..1_000 {
            store.device().sleep(Duration::from_millis(2)).await;
        }
    });
    // Nor what was changed here and there behind the newest one: behind the next there is
    // only what is new.
    let (disk, old) = (sim.clone(), checkpoints(sim));
    on_sim(sim, options(), |store| async move {
        while checkpoints(&disk).last() == old.last() {
            deliver(&store, 0..10).await;
        }
    });
}

#[test]
fn a_checkpoint_costs_what_has_changed() {
    let (sim, _) = grown(1);
    refer_to_older_files(&sim);
    // Now and then one gives up a file that is garbage for the most part, and writes what was
    // still needed of it.
    let mut costs = Vec::new();
    for _ in 0..5 {
        let before = checkpoints(&sim);
        on_sim(&sim, options(), |store| async move { deliver(&store, 0..10).await });
        let newest = checkpoints(&sim).pop().expect("one");
        assert!(before.last() < Some(&newest), "{newest:?} is not new: {before:?}");
        costs.push(newest.1);
    }
    costs.sort_unstable();
    let whole = u64::from(MESSAGES) * ROW_BYTES;
    assert!(costs[2] < whole / 5, "{costs:?} of {whole}");
    let mut after = checkpoints(&sim);
    after.pop();
    let elsewhere: u64 = after.iter().map(|(_, bytes)| bytes).sum();
    assert!(elsewhere > whole * 9 / 10, "the other rows stay where they are: {after:?}");
}

#[test]
fn rows_in_older_files_come_back_as_they_were() {
    for seed in 0..3 {
        let (sim, expected) = grown(seed);
        let disk = sim.clone();
        let setbacks = on_sim(&sim, options(), move |store| async move {
            assert!(entries(&store) == expected, "seed {seed}");
            assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
            (store.recovery().setbacks.clone(), store.recovery().records)
        });
        assert_eq!(setbacks, (vec![], 0), "from the checkpoint alone: {:?}", checkpoints(&disk));
    }
}

#[test]
fn files_and_their_garbage_are_bounded() {
    let sim = Sim::new(4);
    let (disk, whole) = (sim.clone(), 4_000 * ROW_BYTES);
    on_sim(&sim, options(), move |store| async move {
        with_accounts(&store).await;
        deliver(&store, 0..4_000).await;
        let mut random = Random::new(4);
        for round in 0..60 {
            // Every block changes sooner or later, some often.
            let uids: Vec<Uid> = (0..4).map(|_| Uid(random.below(4_000) as u32 + 1)).collect();
            let mode = if round % 2 == 0 { FlagMode::Add } else { FlagMode::Remove };
            let change = FlagChange { mode, flags: Flags::FLAGGED, keywords: vec![] };
            store.change_flags(ALICE, INBOX, &uids, &change, None).await.expect("changes");
            deliver(&store, 4_000 + round * 20..4_000 + (round + 1) * 20).await;
            let files = checkpoints(&disk);
            let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
            // Two checkpoints' worth, each with as much garbage as rows; and what is not rows.
            assert!(files.len() <= FILES_MAX && bytes < 5 * whole + (1 << 20), "{files:?}");
        }
    });
}

#[test]
fn rot_in_any_of_the_files_costs_nothing() {
    let (pristine, expected) = grown(5);
    let expected = Rc::new(expected);
    for (name, bytes) in checkpoints(&pristine) {
        let sim = pristine.after_crash();
        sim.flip(&name, bytes / 2, 0x10);
        let expected = Rc::clone(&expected);
        on_sim(&sim, options(), move |store| async move {
            assert!(entries(&store) == *expected, "with {name} rotten");
        });
    }
}

#[test]
fn a_scrub_reads_all_files_that_the_newest_checkpoint_refers_to() {
    for seed in 6..12 {
        let (sim, _) = grown(seed);
        refer_to_older_files(&sim);
        let disk = sim.clone();
        let rotten = on_sim_unclosed(&sim, options(), move |store, _| async move {
            let files = checkpoints(&disk);
            for (name, bytes) in &files {
                assert!(disk.flip(name, bytes / 2, 0x10));
            }
            let mut found = Vec::new();
            store.scrub(None, |_, findings| found.extend(findings)).await.expect("scrubs");
            let named = |name: &str| found.iter().any(|one| one.place.contains(name));
            let (newest, _) = files.last().expect("a checkpoint");
            assert!(named(newest), "{newest} of {files:?}");
            files.iter().filter(|(name, _)| named(name)).count()
        });
        let rotten = rotten.expect("it comes to its end");
        assert!(rotten > 1, "{rotten} of {:?}", checkpoints(&sim));
    }
}
