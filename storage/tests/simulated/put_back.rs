//! What an operator puts into the store by hand hides no mail: a file twice, or an older copy of one.

use crate::common::*;
use crate::faults::{files, logs, refusal, remove};
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

fn is_segment(bytes: &[u8]) -> bool {
    bytes.starts_with(b"KURASEG\0")
}

async fn good(store: &storage::Store<Sim>) -> u32 {
    let mut good = 0;
    for uid in store.uids(ALICE, INBOX).expect("uids") {
        let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await;
        good += u32::from(read.is_ok_and(|bytes| bytes == message(ALICE, uid.0 - 1, 2500)));
    }
    good
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

/// Of those that are not replayed, too. What is replayed up to where the copy ends tells what is lost, loudly.
#[test]
fn an_older_copy_in_the_place_of_a_file_is_refused_or_told_of_and_the_file_can_be_put_back() {
    let (mut refused, mut told, mut older_refused) = (0, 0, 0);
    for close in [true, false] {
        let (pristine, earlier) = filled(close);
        for (name, older) in earlier.iter().flatten().filter(|(_, bytes)| is_segment(bytes)) {
            let Some(now) = pristine.contents(name) else { continue };
            if now[..4096] != older[..4096] || now == *older {
                continue;
            }
            let sim = pristine.after_crash();
            sim.put_file(name, older.clone());
            let before = files(&sim);
            if let Some(reason) = refusal(&sim) {
                assert!(
                    reason.contains(name.as_str()) && reason.contains("older copy"),
                    "{reason}"
                );
                assert!(files(&sim) == before, "{name}: something was changed");
                refused += 1;
                let newest = logs(&pristine).into_iter().filter(|(_, log)| is_segment(log));
                let id = |log: &[u8]| u32::from_le_bytes(log[12..16].try_into().expect("four"));
                let newest = newest.map(|(_, log)| id(&log)).max();
                older_refused += u32::from(newest > Some(id(&now)));
            } else {
                let left = on_sim_unclosed(&sim, Options::for_tests(), |store, _| async move {
                    (good(&store).await, store.stats().recovery_damage)
                });
                let (good, damage) = left.expect("comes to its end");
                // Without a checkpoint nothing but the log says how far the last segment went; and a block at its
                // end may have rotted.
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
