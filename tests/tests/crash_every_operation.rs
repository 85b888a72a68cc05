//! The power fails at every operation of recorded workloads, at least ten thousand times in all.
//!
//! Failure: the panic's text is the command that replays the case alone.

use kura_tests::simulation::journal::{End, Tally};
use kura_tests::simulation::simulator::{after_a_workload, churns};
use kura_tests::simulation::{Case, Failure, Trouble, campaign, count_operations, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const CRASHES_MIN: u64 = 10_000;

/// Of the workloads that churn, which have several times as many operations, the shortest two are
/// crashed at every operation; `crash-hours` takes the others.
const CHURNING: [u64; 2] = [93, 165];

/// Workloads of which each operation fails once. Together they do whatever a failure may
/// befall; a test says so.
const FAILING: [u64; 5] = [165, 5, 7, 43, 194];

/// Hands out seeds to as many threads as there are cores, until there are no more or `work` fails.
fn on_all_cores(
    seeds: impl IntoIterator<Item = u64, IntoIter: Send>,
    work: impl Fn(u64) -> Result<(), Failure> + Sync,
) {
    let seeds = Mutex::new(seeds.into_iter());
    let next = || seeds.lock().ok().and_then(|mut seeds| seeds.next());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    if let Err(failure) = work(seed) {
                        panic!("{failure}");
                    }
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails_at_any_operation() {
    let crashes = AtomicU64::new(0);
    let calm = (1..).filter(|seed| !churns(*seed));
    let enough = || crashes.load(Ordering::Relaxed) >= CRASHES_MIN;
    on_all_cores(CHURNING.into_iter().chain(calm.take_while(|_| !enough())), |seed| {
        crashes.fetch_add(campaign::crash_everywhere(seed, None, &|| false)?, Ordering::Relaxed);
        Ok(())
    });
    println!("{} crashes survived", crashes.load(Ordering::Relaxed));
    assert!(enough());
}

#[test]
fn what_was_seen_after_a_kill_survives_a_power_cut() {
    on_all_cores([165, 4_000, 4_001, 4_003], |seed| {
        for operation in 1..=count_operations(seed, None)? {
            run(Case { seed, trouble: Trouble::Kill { operation }, sabotage: None })?;
        }
        Ok(())
    });
}

#[test]
fn the_workloads_that_fail_undelete_hold_back_up_look_back_and_compact() {
    let tallies: Vec<Tally> = FAILING
        .iter()
        .map(|seed| after_a_workload(*seed).expect("a sound store").0.tally)
        .collect();
    let acknowledged = |kind: &'static str| -> u64 {
        let count = |tally: &Tally| tally.ends.get(&(kind, End::Acknowledged)).copied();
        tallies.iter().filter_map(count).sum()
    };
    for kind in ["undelete", "hold", "expunge", "copy", "move", "deliver a stream", "put"] {
        assert!(acknowledged(kind) >= 2, "{kind}: choose other seeds");
    }
    let sum = |value: fn(&Tally) -> u64| tallies.iter().map(value).sum::<u64>();
    assert!(sum(|tally| tally.backups) >= 3, "choose other seeds");
    assert!(sum(|tally| tally.looks_back) >= 3, "choose other seeds");
    assert!(sum(|tally| tally.bytes_moved) > 0 && sum(|tally| tally.segments_freed) > 0);
}

#[test]
fn nothing_acknowledged_is_lost_when_any_operation_fails() {
    on_all_cores(FAILING, |seed| {
        for operation in 1..=count_operations(seed, None)? {
            run(Case { seed, trouble: Trouble::Failure { operation }, sabotage: None })?;
        }
        Ok(())
    });
}

#[test]
fn a_spoiled_byte_costs_at_most_one_letter() {
    on_all_cores(6_000..=6_030, |seed| {
        for which in 0..20 {
            run(Case { seed, trouble: Trouble::Rot { which }, sabotage: None })?;
        }
        Ok(())
    });
}
