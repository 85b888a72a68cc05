//! Many cases in a row: every operation of a workload, every kind of trouble, every planted bug.

use super::simulator::{Case, Failure, Trouble, count_operations, crash, run};
use std::ops::Range;
use storage::Sabotage;

/// Different remains judged for each crash.
const SURVIVORS: u32 = 2;
/// Operations between two at which the process is killed, or that fail with EIO.
const KILLS_EVERY: usize = 5;
const FAILURES_EVERY: usize = 9;
/// For each workload.
const SPOILED_BYTES: u32 = 8;

/// Every bug that can be planted, by the name that `--planted` takes.
pub const PLANTED: [Sabotage; 11] = [
    Sabotage::SkipSync,
    Sabotage::AcknowledgeEarly,
    Sabotage::ReuseUid,
    Sabotage::ForgetTail,
    Sabotage::TrustTornTail,
    Sabotage::NameCheckpointEarly,
    Sabotage::FreeEarly,
    Sabotage::ForgetCopies,
    Sabotage::FreeUnreplayed,
    Sabotage::ForgetYoung,
    Sabotage::PlanWithoutHold,
];

/// A crash at every operation of the seed's workload. Returns how many crashes were survived, those
/// during recovery included; stops early when `is_over`.
pub fn crash_everywhere(
    seed: u64,
    sabotage: Option<Sabotage>,
    is_over: &dyn Fn() -> bool,
) -> Result<u64, Failure> {
    let mut survived = 0;
    for operation in 1..=count_operations(seed, sabotage)? {
        if is_over() {
            break;
        }
        survived += crash(seed, operation, SURVIVORS, sabotage)?;
    }
    Ok(survived)
}

/// Everything that can befall the workload of one seed: a crash at every operation, kills
/// and EIO at some, a few spoiled bytes. Returns how many troubles were survived; stops
/// early when `is_over`.
pub fn sweep(
    seed: u64,
    sabotage: Option<Sabotage>,
    is_over: &dyn Fn() -> bool,
) -> Result<u64, Failure> {
    let mut survived = crash_everywhere(seed, sabotage, is_over)?;
    let operations = 1..=count_operations(seed, sabotage)?;
    let kills = operations.clone().step_by(KILLS_EVERY);
    let kills = kills.map(|operation| Trouble::Kill { operation });
    let failures = operations.step_by(FAILURES_EVERY);
    let failures = failures.map(|operation| Trouble::Failure { operation });
    let spoiled = (0..SPOILED_BYTES).map(|which| Trouble::Rot { which });
    for trouble in kills.chain(failures).chain(spoiled) {
        if is_over() {
            break;
        }
        run(Case { seed, trouble, sabotage })?;
        survived += 1;
    }
    Ok(survived)
}

/// Looks for a planted bug until it shows. `None`: it went unseen in all these seeds.
#[must_use]
pub fn hunt(bug: Sabotage, mut seeds: Range<u64>) -> Option<Failure> {
    seeds.find_map(|seed| crash_everywhere(seed, Some(bug), &|| false).err())
}
