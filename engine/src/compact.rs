//! Compaction of one core's store at an operator's wish.

use crate::shard::Shard;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use storage::store::Compacted;

/// The last wish, or the one that is being carried out.
#[derive(Debug, Default)]
pub struct Compact {
    running: Cell<bool>,
    done: Cell<Compacted>,
    failed: RefCell<Option<String>>,
}

impl Compact {
    /// `buried_bytes`: of mail that has gone and is remembered.
    pub fn status(&self, buried_bytes: u64) -> Value {
        let done = self.done.get();
        json!({
            "running": self.running.get(),
            "log_bytes_before": done.log_bytes_before,
            "log_bytes": done.log_bytes,
            "log_live_bytes": done.log_live_bytes,
            "bytes_moved": done.bytes_moved,
            "segments_freed": done.segments_freed,
            "buried_bytes": buried_bytes,
            "failed": *self.failed.borrow(),
        })
    }
}

/// Returns when nothing more is to be had; one that runs already counts.
pub async fn run(shard: &Rc<Shard>) {
    let compact = &shard.compact;
    if compact.running.replace(true) {
        return;
    }
    *compact.failed.borrow_mut() = None;
    compact.done.set(Compacted::default());
    match shard.store.compact(|so_far| compact.done.set(so_far)).await {
        Ok(done) => compact.done.set(done),
        Err(error) => *compact.failed.borrow_mut() = Some(error.to_string()),
    }
    compact.running.set(false);
}

/// In the background.
pub fn begin(shard: &Rc<Shard>) {
    let shard = Rc::clone(shard);
    glommio::spawn_local(async move { run(&shard).await }).detach();
}
