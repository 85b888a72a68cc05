//! The power fails at every operation of recorded workloads, at least ten thousand times in all.
//!
//! Failure: the panic's text is the command that replays the case alone.

use kura_tests::simulation::{Case, Failure, Trouble, campaign, count_operations, run};
use std::sync::atomic::{AtomicU64, Ordering};

const CRASHES_MIN: u64 = 10_000;

/// Hands out numbers from `first` to as many threads as there are cores, until `work` says that it is
/// enough or fails.
fn on_all_cores(first: u64, work: impl Fn(u64) -> Result<bool, Failure> + Sync) {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    match work(next.fetch_add(1, Ordering::Relaxed)) {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(failure) => panic!("{failure}"),
                    }
                }
            });
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails_at_any_operation() {
    let crashes = AtomicU64::new(0);
    on_all_cores(1, |seed| {
        if crashes.load(Ordering::Relaxed) >= CRASHES_MIN {
            return Ok(false);
        }
        crashes.fetch_add(campaign::crash_everywhere(seed, None, &|| false)?, Ordering::Relaxed);
        Ok(true)
    });
    println!("{} crashes survived", crashes.load(Ordering::Relaxed));
    assert!(crashes.load(Ordering::Relaxed) >= CRASHES_MIN);
}

#[test]
fn what_was_seen_after_a_kill_survives_a_power_cut() {
    on_all_cores(4_000, |seed| {
        for operation in 1..=count_operations(seed, None)? {
            run(Case { seed, trouble: Trouble::Kill { operation }, sabotage: None })?;
        }
        Ok(seed < 4_003)
    });
}

#[test]
fn nothing_acknowledged_is_lost_when_any_operation_fails() {
    on_all_cores(5_000, |seed| {
        for operation in 1..=count_operations(seed, None)? {
            run(Case { seed, trouble: Trouble::Failure { operation }, sabotage: None })?;
        }
        Ok(seed < 5_002)
    });
}

#[test]
fn a_spoiled_byte_costs_at_most_one_letter() {
    on_all_cores(6_000, |seed| {
        for which in 0..20 {
            run(Case { seed, trouble: Trouble::Rot { which }, sabotage: None })?;
        }
        Ok(seed < 6_030)
    });
}
