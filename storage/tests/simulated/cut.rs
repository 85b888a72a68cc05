//! Files of the log that are shorter than they were, cut anywhere: in batches of several blocks, too.

use crate::common::*;
use crate::faults::{files, logs, refusal};
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
fn a_segment_that_is_cut_anywhere_is_refused_or_nothing_of_it_is_missed() {
    let filled = Sim::new(11);
    on_sim_unclosed(&filled, without_checkpoints(), |store, _| async move { fill(&store).await })
        .expect("fills");
    let pristine = filled.after_crash();
    let (mut refused, mut whole) = (0, 0);
    let segments = || logs(&pristine).into_iter().filter(|(_, log)| log.starts_with(b"KURASEG\0"));
    assert!(segments().count() > 2, "several segments, so that later ones prove the earlier");
    for (name, bytes) in segments() {
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
            let left = on_sim(&sim.after_crash(), without_checkpoints(), |store| async move {
                let left = store.status(ALICE, INBOX).expect("there").messages;
                (left, store.stats().recovery_damage)
            });
            assert_eq!(left, (MESSAGES, 0), "{name} cut at {length}");
            whole += 1;
        }
    }
    assert!(refused > 100 && whole > 0, "{refused} refused, {whole} whole");
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
            let segments = logs(&disk).into_iter().filter(|(_, log)| log.starts_with(b"KURASEG\0"));
            let (name, log) = segments.into_iter().nth(number)?;
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
