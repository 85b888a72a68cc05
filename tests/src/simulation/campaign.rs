//! Many cases in a row: every operation of a workload, every kind of trouble.

use super::simulator::{Case, Failure, Trouble, count_operations, crash, run};
use storage::Sabotage;

/// Different remains judged for each crash.
const SURVIVORS: u32 = 2;
/// Operations between two that fail with EIO, and spoiled bytes for each workload.
const FAILURES_EVERY: usize = 9;
const SPOILED_BYTES: u32 = 8;

/// Everything that can befall the workload of one seed: a crash at every operation, EIO at some, a
/// few spoiled bytes. Returns how many troubles were survived; stops early when `is_over`.
pub fn sweep(
    seed: u64,
    sabotage: Option<Sabotage>,
    is_over: &dyn Fn() -> bool,
) -> Result<u64, Failure> {
    let operations = count_operations(seed, sabotage)?;
    let mut survived = 0;
    for operation in 1..=operations {
        if is_over() {
            return Ok(survived);
        }
        survived += crash(seed, operation, SURVIVORS, sabotage)?;
    }
    for operation in (1..=operations).step_by(FAILURES_EVERY) {
        run(Case { seed, trouble: Trouble::Failure { operation }, sabotage })?;
        survived += 1;
    }
    for which in 0..SPOILED_BYTES {
        run(Case { seed, trouble: Trouble::Rot { which }, sabotage })?;
        survived += 1;
    }
    Ok(survived)
}
