//! The end of the log: what rot and a full disk make of it, and what the next
//! openings make of that.

use crate::common::*;
use crate::faults::{MESSAGES, count_good, logs};
use crate::unreadable::filled;
use storage::Options;
use storage::device::sim::Sim;

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
            let sim = filled(2, false);
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
