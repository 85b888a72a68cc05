//! Runs a future on an executor of this thread, glommio's, which does not sleep over work.
//!
//! glommio-ng 0.12 goes to sleep with runnable tasks in its queue when its preemption timer has already fired as it
//! begins a turn, which happens where the host takes the processor away for a moment. Seen as starts and commands
//! that hung. A timer that is always armed wakes it; and before the first turn, in which that one is armed, there
//! is no preemption.

use futures_lite::future::or;
use glommio::{LocalExecutorBuilder, timer};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(5);

/// Longer than a first turn takes. Later the latency of a queue counts, where it has one.
const PREEMPTION: Duration = Duration::from_secs(3600);

pub fn run<T>(builder: LocalExecutorBuilder, future: impl Future<Output = T>) -> Result<T, String> {
    let executor = builder.preempt_timer(PREEMPTION).make().map_err(|error| {
        format!("no executor: {error}; raise the locked-memory limit (ulimit -l) to 8192 or more")
    })?;
    Ok(executor.run(or(future, tick())))
}

async fn tick<T>() -> T {
    loop {
        timer::sleep(TICK).await;
    }
}
