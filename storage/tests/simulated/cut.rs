//! Files of the log that are shorter than they were, cut anywhere: in batches of
//! several blocks, too.

use crate::common::*;
use crate::faults::{files, refusal, remove, segments};
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::Sim;
use storage::{Error, Options, Store, UnixMillis};

const MESSAGES: u32 = 40;
/// Each of them is a batch of three blocks.
const BODY_BYTES: usize = 9000;

/// So that the log is read from its start.
fn without_checkpoints() -> Options {
    Options {
        checkpoint_log_bytes_min: 8 << 20,
        checkpoint_log_bytes_max: 8 << 20,
        // The simulated clock runs fast.
        retention: Duration::from_secs(3600 * 24 * 400),
        ..Options::for_tests()
    }
}

/// The time after each message.
async fn fill(store: &Store<Sim>) -> Vec<UnixMillis> {
    with_accounts(store).await;
    let mut times = Vec::new();
    for number in 0..MESSAGES {
        let one = delivery(vec![placement(ALICE, INBOX)], number, BODY_BYTES);
        store.deliver(one).await.expect("delivers");
        times.push(store.device().now());
        store.device().sleep(Duration::from_secs(1)).await;
    }
    times
}

#[test]
fn a_segment_that_is_cut_anywhere_is_refused_or_told_of_or_nothing_of_it_is_missed() {
    let filled = Sim::new(11);
    on_sim_unclosed(&filled, without_checkpoints(), |store, _| async move { fill(&store).await })
        .expect("fills");
    let pristine = filled.after_crash();
    // Upkeep may have had its reasons for one all the same, at a time of its own.
    let checkpoints = pristine.files().into_iter().map(|file| file.name);
    let checkpoints = checkpoints.filter(|name| name.starts_with("checkpoint"));
    checkpoints.for_each(|name| remove(&pristine, &name));
    let (mut refused, mut told, mut whole) = (0, 0, 0);
    assert!(
        segments(&pristine).count() > 2,
        "several segments, so that later ones prove the earlier"
    );
    for (name, bytes) in segments(&pristine) {
        // At each block, and inside of each.
        for length in (4096..bytes.len()).step_by(2048) {
            let sim = pristine.after_crash();
            sim.cut(&name, length as u64);
            let before = files(&sim);
            if let Some(reason) = refusal(&sim) {
                let cut = format!("{name}, which is segment");
                assert!(reason.contains(&cut) && reason.contains("is cut off after"), "{reason}");
                assert!(reason.contains("kura store salvage"), "{reason}");
                assert!(files(&sim) == before, "{name} at {length}: something was changed");
                refused += 1;
                continue;
            }
            let looked = on_sim(&sim.after_crash(), without_checkpoints(), |store| async move {
                let mut missed = 0;
                let uids = store.uids(ALICE, INBOX).expect("uids");
                assert_eq!(uids.len(), MESSAGES as usize);
                for uid in uids {
                    let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await;
                    missed += u32::from(read.is_err());
                }
                (missed, store.recovery().damage.clone())
            });
            let (missed, damage) = looked;
            if missed > 0 {
                // It is behind a checkpoint.
                let is_told = |line: &String| {
                    line.starts_with(&name) && line.contains(&format!(" {missed} messages"))
                };
                assert!(damage.len() == 1 && damage.iter().all(is_told), "{missed}: {damage:?}");
                told += 1;
                continue;
            }
            assert_eq!(damage, Vec::<String>::new(), "{name} cut at {length}");
            whole += 1;
        }
    }
    assert!(refused > 100 && whole > 0, "{refused} refused, {told} told, {whole} whole");
}

/// Asking for the past reads the log of a store that is running: a file cut under it is told of.
#[test]
fn the_past_in_a_segment_that_was_cut_under_a_running_store_is_refused_or_whole() {
    let (mut refused, mut whole) = (0, 0);
    for number in 0.. {
        let sim = Sim::new(12);
        let disk = sim.clone();
        let looked = on_sim_unclosed(&sim, without_checkpoints(), move |store, _| async move {
            let times = fill(&store).await;
            let mut asked = Vec::new();
            for at in times.into_iter().skip(9).step_by(10) {
                asked.push((at, store.as_of(ALICE, at).await.expect("remembered")));
            }
            let (name, log) = segments(&disk).nth(number)?;
            let (mut refused, mut whole) = (0, 0);
            for length in (4096..log.len()).step_by(2048).rev() {
                disk.cut(&name, length as u64);
                for (at, before) in &asked {
                    match store.as_of(ALICE, *at).await {
                        Ok(past) => {
                            assert!(past == *before, "{name} cut at {length}");
                            whole += 1;
                        }
                        // The base from which the log is read was in it.
                        Err(Error::Corrupt { what: "a base", .. }) => {}
                        Err(Error::Corrupt { place, .. }) => {
                            assert!(place.contains(&name) && place.contains("cut off"), "{place}");
                            refused += 1;
                        }
                        Err(other) => panic!("{name} cut at {length}: {other}"),
                    }
                }
            }
            Some((refused, whole))
        });
        let Some(counts) = looked.expect("comes to its end") else { break };
        (refused, whole) = (refused + counts.0, whole + counts.1);
    }
    assert!(refused > 100 && whole > 0, "{refused} refused, {whole} whole");
}

/// What is not read to open, cold segments among it, does not keep the store from opening: it is
/// told at once, each time, with how many messages that costs, as for a file that is missing.
#[test]
fn an_older_file_that_is_cut_is_told_at_opening_with_what_that_costs() {
    let sim = Sim::new(13);
    let kept = on_sim(&sim, small_store(), |store| async move {
        with_accounts(&store).await;
        let mut kept = Vec::new();
        for number in 0..500 {
            let length = if number % 40 == 0 { 30_000 } else { 2500 };
            let one = delivery(vec![placement(ALICE, INBOX)], number, length);
            let uid = store.deliver(one).await.expect("delivers").0[0].uid;
            if number % 5 == 0 {
                kept.push((uid, number, length));
            } else {
                store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
            }
        }
        kept
    });
    let pristine = sim.after_crash();
    // Log, cold.
    let (mut refused, mut told, mut whole) = (0, [0, 0], 0);
    for (name, bytes) in segments(&pristine) {
        for length in (4096..bytes.len()).step_by(3 * 2048) {
            let sim = pristine.after_crash();
            sim.cut(&name, length as u64);
            if let Some(reason) = refusal(&sim) {
                assert!(reason.contains(&format!("{name}, which is segment")), "{reason}");
                refused += 1;
                continue;
            }
            for opening in 0..2 {
                let kept = kept.clone();
                let look = |store: Store<Sim>, _| async move {
                    let mut missed = 0;
                    for (uid, number, length) in kept {
                        match store.read(ALICE, INBOX, uid, 0..u64::MAX).await {
                            Ok(read) => assert!(read == message(ALICE, number, length)),
                            Err(_) => missed += 1,
                        }
                    }
                    (missed, store.recovery().damage.clone())
                };
                let looked = on_sim_unclosed(&sim.after_crash(), small_store(), look);
                let (missed, damage) = looked.expect("comes to its end");
                let what = format!("{name} cut at {length}, opening {opening}: {damage:?}");
                if missed == 0 {
                    assert!(damage.is_empty(), "{what}");
                    whole += 1;
                    continue;
                }
                let cut = format!(
                    "is cut off after {length} of {} bytes: {missed} messages",
                    bytes.len()
                );
                let [line] = damage.as_slice() else { panic!("{what}, {missed} missed") };
                assert!(line.starts_with(&name) && line.contains(&cut), "{what}, {missed} missed");
                assert!(line.contains("kura store salvage"), "{what}");
                told[usize::from(bytes[9])] += 1;
            }
        }
    }
    assert!(refused > 0 && told[0] > 5 && told[1] > 5 && whole > 0, "{refused}, {told:?}, {whole}");
}
