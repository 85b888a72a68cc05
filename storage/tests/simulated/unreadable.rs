//! Sectors that can't be read any more, and what they cost: what is in them, and nothing else.

use crate::common::*;
use std::collections::BTreeMap;
use std::time::Duration;
use storage::buffer::Buffer;
use storage::device::Device;
use storage::device::sim::{Executor, Sim};
use storage::{Options, Store, Uid};

const MESSAGES: u32 = 60;
const BLOCK: u64 = 4096;

/// The readable ones of a file's first blocks.
fn readable(sim: &Sim, name: &'static str, blocks: u64) -> Vec<u64> {
    let disk = sim.clone();
    let reading = async move {
        let file = disk.open(name).await.expect("opens");
        let mut readable = Vec::new();
        for block in 0..blocks {
            if disk.read(&file, block * 4096, Buffer::with_capacity(4096)).await.is_ok() {
                readable.push(block);
            }
        }
        readable
    };
    Executor::new(sim).block_on(reading).expect("comes to its end")
}

fn maps(sim: &Sim, name: &'static str) -> bool {
    let disk = sim.clone();
    let mapping = async move { disk.map(name).await.is_ok() };
    Executor::new(sim).block_on(mapping).expect("comes to its end")
}

#[test]
fn an_unreadable_range_of_the_simulated_disk_stays_until_it_is_written() {
    let sim = Sim::new(1);
    sim.put_file("file", vec![7; 6 * 4096]);
    assert!(maps(&sim, "file"));
    assert!(sim.make_unreadable("file", 4096 + 512..3 * 4096));
    assert!(!sim.make_unreadable("nothing", 0..1));
    for _ in 0..2 {
        assert_eq!(readable(&sim, "file", 6), [0, 3, 4, 5]);
        assert!(!maps(&sim, "file"));
    }
    assert_eq!(readable(&sim.after_kill(), "file", 6), [0, 3, 4, 5]);
    let sim = Sim::new(2);
    sim.put_file("file", vec![7; 6 * 4096]);
    sim.make_unreadable("file", 4096..3 * 4096);
    let sim = sim.after_crash();
    assert_eq!(readable(&sim, "file", 6), [0, 3, 4, 5]);
    let disk = sim.clone();
    let writing = async move {
        let file = disk.open("file").await.expect("opens");
        disk.write_durably(&file, 4096, Buffer::zeroed(4096)).await.0.expect("writes");
    };
    Executor::new(&sim).block_on(writing);
    assert_eq!(readable(&sim, "file", 6), [0, 1, 3, 4, 5]);
}

/// Each message is in a block of its own, and nothing is behind the last.
async fn fill(store: Store<Sim>) -> Store<Sim> {
    with_accounts(&store).await;
    for number in 0..MESSAGES {
        let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
        store.deliver(one).await.expect("delivers");
    }
    store
}

pub fn filled(seed: u64, close: bool) -> Sim {
    let sim = Sim::new(seed);
    if close {
        on_sim(&sim, Options::for_tests(), |store| async move { drop(fill(store).await) });
    } else {
        on_sim_unclosed(&sim, Options::for_tests(), |store, _| fill(store)).expect("fills");
    }
    sim.after_crash()
}

/// Which of so many messages are not there as they were.
async fn bad(store: &Store<Sim>, messages: u32) -> Vec<u32> {
    let mut bad = Vec::new();
    for number in 0..messages {
        let read = store.read(ALICE, INBOX, Uid(number + 1), 0..u64::MAX).await;
        if read.as_ref().is_ok_and(|read| *read == message(ALICE, number, 2500)) {
            continue;
        }
        assert!(read.is_err(), "message {number} is another one");
        bad.push(number);
    }
    bad
}

/// Every block of every file, one after the other: the store opens, misses what was in it and tells
/// so, and goes on.
#[test]
fn whatever_block_is_gone_the_store_opens_without_what_was_in_it_and_goes_on() {
    let mut cost = BTreeMap::<(String, bool, usize), u32>::new();
    for close in [true, false] {
        let pristine = filled(7, close);
        for file in pristine.files() {
            for block in 0..file.bytes.div_ceil(BLOCK) {
                let what = format!("{} block {block}, close {close}", file.name);
                let sim = pristine.after_crash();
                assert!(sim.make_unreadable(&file.name, block * BLOCK..(block + 1) * BLOCK));
                let tried = what.clone();
                let (lost, later) = on_sim(&sim, Options::for_tests(), move |store| async move {
                    let lost = bad(&store, MESSAGES).await;
                    assert!(lost.len() <= 1, "{tried}: {lost:?}");
                    let told = store.recovery().damage.len()
                        + store.recovery().setbacks.len()
                        + store.verify().await.expect("verifies").bad.len();
                    assert!(lost.is_empty() || told > 0, "{tried}: nobody is told of {lost:?}");
                    let mut later = Vec::new();
                    for number in 100..105 {
                        let one = delivery(vec![placement(BOB, INBOX)], number, 2500);
                        let (placed, _) = store.deliver(one).await.expect("delivers");
                        later.push((number, placed[0].uid));
                    }
                    (lost, later)
                });
                let kind = file.name.split('-').next().expect("a word").to_owned();
                *cost.entry((kind, close, lost.len())).or_default() += 1;
                // As if the cable had been loose: what was saved is not harmed by what is back.
                let sim = sim.after_crash();
                for whole in sim.files() {
                    sim.put_file(&whole.name, sim.contents(&whole.name).expect("there"));
                }
                on_sim(&sim, Options::for_tests(), move |store| async move {
                    let still = bad(&store, MESSAGES).await;
                    assert!(still.iter().all(|one| lost.contains(one)), "{what}: {still:?}");
                    for (number, uid) in later {
                        let read = store.read(BOB, INBOX, uid, 0..u64::MAX).await.expect(&what);
                        assert!(read == message(BOB, number, 2500), "{what}: {number}");
                    }
                });
            }
        }
    }
    let lost = |close| cost.get(&("log".to_owned(), close, 1)).copied().unwrap_or(0);
    assert!(lost(true) > 40 && lost(false) > 40, "most blocks hold a message: {cost:?}");
}

/// Where these bytes lie in the log.
fn place_of(sim: &Sim, wanted: &[u8]) -> (String, u64) {
    let logs = sim.files().into_iter().filter(|file| file.name.starts_with("log-"));
    let mut found = logs.filter_map(|file| {
        let content = sim.contents(&file.name)?;
        let at = content.windows(wanted.len()).position(|bytes| bytes == wanted)?;
        Some((file.name, at as u64))
    });
    found.next_back().expect("it is somewhere")
}

#[test]
fn an_unreadable_sector_under_a_live_record_keeps_its_segment_and_no_other() {
    let sim = Sim::new(5);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        let deliver = async |number: u32| {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
            store.deliver(one).await.expect("delivers").0[0].uid
        };
        let mut kept = Vec::new();
        for number in 0..30 {
            let uid = deliver(number).await;
            if number % 6 == 0 {
                kept.push((uid, number));
            } else {
                store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
            }
        }
        let (name, at) = place_of(&disk, &body(6, 2500)[..100]);
        assert!(disk.make_unreadable(&name, at..at + 512));
        for number in 100..700 {
            let uid = deliver(number).await;
            store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
        }
        for _ in 0..400 {
            store.device().sleep(Duration::from_millis(2)).await;
        }
        let stats = store.stats();
        assert_eq!((stats.segments_spoiled, stats.given_up), (1, 0), "{stats:?}");
        assert!(stats.segments_freed > 10 && stats.segments < 12, "{stats:?}");
        for (uid, number) in kept {
            let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await;
            assert_eq!(read.is_ok(), number != 6, "{number}: {read:?}");
        }
    });
}

#[test]
fn a_checkpoint_that_can_not_be_read_is_a_setback_at_opening_and_found_by_the_scrub() {
    let sim = filled(9, true);
    let newest = sim.files().into_iter().rfind(|file| file.name.starts_with("checkpoint"));
    let newest = newest.expect("a checkpoint");
    let disk = sim.clone();
    on_sim(&sim, Options::for_tests(), move |store| async move {
        assert!(store.recovery().setbacks.is_empty());
        let last = newest.bytes / BLOCK - 1;
        assert!(disk.make_unreadable(&newest.name, last * BLOCK..newest.bytes));
        let mut findings = Vec::new();
        store.scrub(None, |_, found| findings.extend(found)).await.expect("goes through");
        assert!(findings.iter().any(|found| found.place.contains(&newest.name)), "{findings:?}");
        let bad = store.verify().await.expect("verifies").bad;
        assert!(bad.iter().any(|place| place.contains(&newest.name)), "{bad:?}");
    });
    // What the closing has written since refers to none of it, or is not used.
    on_sim(&sim.after_crash(), Options::for_tests(), |store| async move {
        assert_eq!(bad(&store, MESSAGES).await, Vec::<u32>::new());
    });
}

/// It is copied into the log for a base: what can't be copied must not keep the log from being
/// freed, nor fill it.
#[test]
fn a_checkpoint_that_can_not_be_read_is_no_base_and_the_next_one_is() {
    let sim = Sim::new(12);
    let disk = sim.clone();
    on_sim(&sim, small_store(), move |store| async move {
        with_accounts(&store).await;
        let churn = async |from: u32| {
            for number in from..from + 200 {
                let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
                let (placed, _) = store.deliver(one).await.expect("delivers");
                store.expunge(ALICE, INBOX, &[placed[0].uid]).await.expect("expunges");
            }
        };
        churn(0).await;
        for file in disk.files().iter().filter(|file| file.name.starts_with("checkpoint")) {
            assert!(disk.make_unreadable(&file.name, 0..512));
        }
        let before = store.stats();
        for round in 1..5 {
            churn(round * 200).await;
        }
        for _ in 0..400 {
            store.device().sleep(Duration::from_millis(2)).await;
        }
        let stats = store.stats();
        assert!(stats.segments_freed > before.segments_freed + 20, "{before:?}, {stats:?}");
        assert!(stats.segments < 12 && stats.bytes_based > before.bytes_based, "{stats:?}");
    });
    on_sim(&sim.after_crash(), small_store(), |store| async move {
        assert_eq!(store.verify().await.expect("verifies").bad, Vec::<String>::new());
    });
}

/// Mail in several checkpoints, whose rows refer to one another, and a log of which compaction has
/// freed the start: without any checkpoint there is the base.
fn lived() -> (Sim, Vec<(Uid, u32)>) {
    let sim = Sim::new(31);
    let kept = on_sim_unclosed(&sim, small_store(), |store, _| async move {
        with_accounts(&store).await;
        let mut kept = Vec::new();
        for number in 0..900 {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
            let uid = store.deliver(one).await.expect("delivers").0[0].uid;
            if number % 9 == 0 {
                kept.push((uid, number));
            } else {
                store.expunge(ALICE, INBOX, &[uid]).await.expect("expunges");
            }
        }
        assert!(store.stats().segments_freed > 10 && store.stats().bytes_based > 0);
        kept
    });
    (sim.after_kill(), kept.expect("comes to its end"))
}

/// What the process has ended for (SIGBUS) is met by the next opening: whichever sectors of
/// checkpoints are gone, and be there none left, nothing is missing, each is told of, and
/// the store goes on.
#[test]
fn whichever_sectors_of_checkpoints_are_gone_the_next_opening_works_and_nothing_is_missing() {
    let (pristine, kept) = lived();
    let files: Vec<_> =
        pristine.files().into_iter().filter(|one| one.name.starts_with("checkpoint")).collect();
    assert!(files.len() > 1, "{files:?}");
    let blocks = |number: usize| (0..files[number].bytes.div_ceil(BLOCK)).map(move |b| (number, b));
    let all: Vec<(usize, u64)> = (0..files.len()).flat_map(blocks).collect();
    let mut sets: Vec<Vec<(usize, u64)>> = all.iter().map(|one| vec![*one]).collect();
    sets.extend((0..files.len()).map(|number| blocks(number).collect()));
    // The first, the last and every other one of each.
    sets.push((0..files.len()).map(|number| (number, 0)).collect());
    sets.push((0..files.len()).filter_map(|number| blocks(number).next_back()).collect());
    sets.push(all.iter().copied().step_by(2).collect());
    sets.push(all);
    let (mut without, mut from_base) = (0, 0);
    for gone in sets {
        let sim = pristine.after_crash();
        for (number, block) in &gone {
            sim.make_unreadable(&files[*number].name, block * BLOCK..(block + 1) * BLOCK);
        }
        let what = format!("{gone:?}");
        for opening in 0..3 {
            let (kept, what) = (kept.clone(), format!("{what}, opening {opening}"));
            let setbacks = on_sim(&sim, small_store(), move |store| async move {
                for (uid, number) in kept {
                    let read = store.read(ALICE, INBOX, uid, 0..u64::MAX).await.expect(&what);
                    assert!(read == message(ALICE, number, 2500), "{what}: {number}");
                }
                let one = delivery(vec![placement(BOB, INBOX)], 1, 2500);
                store.deliver(one).await.expect(&what);
                assert_eq!(store.recovery().damage, Vec::<String>::new(), "{what}");
                store.recovery().setbacks.clone()
            });
            let is_named = |setback: &String| {
                files.iter().any(|file| setback.contains(&file.name))
                    && setback.contains("os error 5")
            };
            assert!(setbacks.iter().all(is_named), "{setbacks:?}");
            match opening {
                0 => {
                    without += u32::from(!setbacks.is_empty());
                    from_base += u32::from(setbacks.len() > 1);
                }
                _ => assert!(setbacks.is_empty(), "{setbacks:?} once more"),
            }
        }
    }
    assert!(without > 3 && from_base > 1, "{without} without the newest, {from_base} without any");
}
