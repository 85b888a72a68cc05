//! The end of the log: what rot, a full disk and a sender make of it, and what the next openings
//! make of that, and tell.

use crate::common::*;
use crate::faults::{MESSAGES, count_good, filled, flip_somewhere, logs, segment_id, segments};
use crate::unreadable;
use storage::device::Device;
use storage::device::sim::{Executor, Random, Sim};
use storage::{Options, Space, Store};

/// Where the last batch stands, or the one so many before it.
pub fn last_batch_but(sim: &Sim, later: usize) -> (String, u64) {
    let mut batches = Vec::new();
    for (name, log) in logs(sim) {
        for (number, block) in (0_u64..).zip(log.chunks(4096)) {
            if block.starts_with(b"KBAT") {
                let lsn = u64::from_le_bytes(block[16..24].try_into().expect("eight"));
                batches.push((lsn, name.clone(), number * 4096));
            }
        }
    }
    batches.sort();
    let (_, name, offset) = batches.into_iter().nth_back(later).expect("a batch");
    (name, offset)
}

/// The header of the last batch rots, its records are saved: nothing is written over them, however
/// often the store is opened and closed before mail comes in again.
#[test]
fn what_was_saved_behind_the_last_rotten_header_is_never_written_over() {
    for idle in 1..4 {
        for close in [true, false] {
            let sim = unreadable::filled(2, false);
            // Superblocks that testify for the last batch.
            on_sim_unclosed(&sim, Options::for_tests(), |_, _| async {}).expect("opens");
            let mut sim = sim.after_crash();
            let (name, offset) = last_batch_but(&sim, 0);
            assert!(sim.flip(&name, offset + 20, 1));
            for _ in 0..idle {
                sim = sim.after_crash();
                if close {
                    on_sim(&sim, Options::for_tests(), |_| async {});
                } else {
                    on_sim_unclosed(&sim, Options::for_tests(), |_, _| async {}).expect("opens");
                }
                sim = sim.after_crash();
            }
            on_sim(&sim, Options::for_tests(), |store| async move {
                for number in 0..5 {
                    let one = delivery(vec![placement(BOB, INBOX)], number, 2500);
                    store.deliver(one).await.expect("delivers");
                }
            });
            let (good, bad, report, _) = count_good(&sim.after_crash());
            assert_eq!((good, bad), (MESSAGES, 0), "{idle}, {close}: {report:?}");
        }
    }
}

#[test]
fn a_full_disk_does_not_make_closing_fail() {
    let sim = Sim::new(11);
    let disk = sim.clone();
    on_sim(&sim, Options::for_tests(), move |store| async move {
        with_accounts(&store).await;
        for number in 0..MESSAGES {
            let one = delivery(vec![placement(ALICE, INBOX)], number, 2500);
            store.deliver(one).await.expect("delivers");
        }
        disk.set_capacity(Some(0));
    });
    // What closing says of the last batches it says on a full disk, too.
    let sim = sim.after_crash();
    let (name, offset) = last_batch_but(&sim, 0);
    assert!(sim.flip(&name, offset + 1000, 1));
    let (good, bad, report, _) = count_good(&sim);
    assert_eq!((good, bad), (MESSAGES - 1, 1), "{report:?}");
    assert!(!report.is_empty());
}

/// What a sender can guess of a batch header is everything but the salt.
fn forged_header() -> [u8; storage::format::BATCH_HEADER_BYTES] {
    let header = storage::format::BatchHeader {
        shard: 0,
        segment: storage::format::SegmentId(1),
        run: 1,
        first_lsn: storage::Lsn(1 << 40),
        durable: storage::Lsn(1 << 40),
        sealed: storage::UnixMillis(0),
        records: 1,
        bytes: 100,
        salt: 0,
    };
    let mut bytes = [0; storage::format::BATCH_HEADER_BYTES];
    header.encode_into(&mut bytes);
    bytes
}

/// Delivers four messages full of such headers, `shift` bytes from their start, until
/// the disk crashes.
fn deliver_forged(sim: &Sim, shift: usize) {
    let body = [vec![0; shift], forged_header().repeat(100)].concat();
    let executor = Executor::new(sim);
    let (disk, spawner) = (sim.clone(), executor.clone());
    executor.block_on(async move {
        let store = Store::open(disk, Options::for_tests()).await.expect("opens");
        let running = store.clone();
        spawner.spawn(async move { running.run().await });
        with_accounts(&store).await;
        for _ in 0..4 {
            let mut one = delivery(vec![placement(ALICE, INBOX)], 1, 1);
            one.body = storage::Body::Whole(body.clone().into());
            store.deliver(one).await.expect("delivers");
        }
    });
}

#[test]
fn mail_that_imitates_a_batch_is_not_believed() {
    let trial = Sim::new(1);
    deliver_forged(&trial, 0);
    let forged = forged_header();
    let logs = trial.files().into_iter().filter_map(|file| trial.contents(&file.name));
    let place = |log: Vec<u8>| log.windows(forged.len()).position(|bytes| bytes == forged);
    let found = logs.filter_map(place).next().expect("the mail is in the log");
    // One of the headers then stands at the start of a block.
    let shift = (forged.len() - found % forged.len()) % forged.len();
    for seed in 0..20 {
        for operation in 1..80 {
            let sim = Sim::new(seed);
            sim.crash_at(operation);
            deliver_forged(&sim, shift);
            let survivor = sim.after_crash();
            on_sim(&survivor, Options::for_tests(), |store| async move {
                assert_eq!(store.recovery().lost_records, 0, "{:?}", store.recovery());
                let receipt = store.put(Space(1), vec![]).await.expect("puts");
                assert!(receipt.lsn().0 < 100, "{receipt:?}");
            });
        }
    }
}

/// As `kura store verify` on a stopped store does: the server that is started afterwards
/// has to tell, too.
#[test]
fn what_opening_found_is_found_again_until_something_is_logged() {
    let mut tried = 0;
    for seed in 0..80 {
        let sim = filled(seed, false);
        let Some(place) = flip_somewhere(&sim, &mut Random::new(seed)) else { continue };
        // Space is asked back, and what is remembered is over, as soon as the store is open.
        let look = || {
            on_sim(
                &sim,
                Options { checkpoint_log_bytes_min: 4096, ..Options::for_tests() },
                |store| async move {
                    store.device().sleep(std::time::Duration::from_secs(60)).await;
                    (store.recovery().damage.clone(), store.verify().await.expect("verifies").bad)
                },
            )
        };
        let (damage, bad) = look();
        // What a file's first block has lost is told at each opening anyway.
        let is_told = |what: &String| {
            what.contains("the header of log-") || what.contains("says which segment it is")
        };
        if damage.is_empty() || damage.iter().any(is_told) {
            continue;
        }
        let checkpoints = |sim: &Sim| {
            let names = sim.files().into_iter().map(|file| file.name);
            names.filter(|name| name.starts_with("checkpoint")).collect::<Vec<_>>()
        };
        let before = checkpoints(&sim);
        let again = look();
        assert!(
            !again.0.is_empty() && again.1.len() >= bad.len(),
            "{place}: {damage:?}, {again:?}"
        );
        assert_eq!(checkpoints(&sim), before);
        // A server that goes on with new mail has told of it.
        on_sim(&sim, Options::for_tests(), |store| async move {
            assert!(store.stats().recovery_damage > 0);
            let one = delivery(vec![placement(ALICE, INBOX)], 1000, 300);
            store.deliver(one).await.expect("delivers");
        });
        assert_ne!(checkpoints(&sim), before);
        assert!(look().0.is_empty(), "{place}");
        tried += 1;
    }
    assert!(tried > 5, "{tried} tried");
}

/// It can't be told from what a crash leaves unfinished, and is the only trace of a disk that
/// lies about flushes.
#[test]
fn what_does_not_verify_at_the_end_of_the_log_is_told_with_its_place() {
    let left = filled(5, false);
    let unfinished = |sim: &Sim| {
        on_sim_unclosed(sim, Options::for_tests(), |store, _| async move {
            store.recovery().unfinished.clone()
        })
        .expect("comes to its end")
    };
    assert_eq!(unfinished(&left.after_crash()), None, "the end is in order");
    let (name, end) = end_of_log(&left);
    let block = end - 4096;
    // In the header of the last batch; in what it holds.
    for at in [block + 8, block + 100] {
        let sim = left.after_crash();
        sim.flip(&name, at, 1);
        let told = unfinished(&sim).expect("is told");
        assert!(told.contains(&format!("({name}) at {block}, LSN ")), "{told}");
        on_sim(&sim, Options::for_tests(), |store| async move {
            let one = delivery(vec![placement(ALICE, INBOX)], 1000, 300);
            store.deliver(one).await.expect("delivers");
        });
        assert_eq!(unfinished(&sim.after_crash()), None, "the log has gone on");
    }
}

/// The file in which the log ends, and where.
fn end_of_log(sim: &Sim) -> (String, u64) {
    let (name, log) = segments(sim).max_by_key(|(_, log)| segment_id(log)).expect("one");
    let of_it = |block: &[u8]| block.starts_with(b"KBAT") && block[8..12] == log[12..16];
    let last = log.chunks(4096).rposition(of_it).expect("a batch");
    (name, (last as u64 + 1) * 4096)
}
