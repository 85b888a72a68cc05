//! Messages leave the queue: those of one moment by one record, hence one flush.
//!
//! There is one expunge at a time, for all that has ended in the meantime and within [`GATHERED_FOR`]. Sessions, and
//! submissions, go on meanwhile.

use super::{ACCOUNT, MAILBOX, SPACE, key};
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use storage::{Error, Uid};
use tokio::sync::oneshot;

/// A crash within it has what was taken sent again; much shorter, and each message takes a flush of its own.
pub const GATHERED_FOR: Duration = Duration::from_millis(20);

type Told = oneshot::Sender<Result<(), Error>>;

/// Of one core: what waits to be removed.
#[derive(Debug, Default)]
pub struct Removals {
    waiting: RefCell<Vec<(Uid, Told)>>,
    under_way: Cell<bool>,
}

/// The message is nobody's any more. Returns once that is durable; with an error it is there as before, and
/// still its caller's.
pub async fn remove(shard: &Rc<Shard>, uid: Uid) -> Result<(), Error> {
    let removals = &shard.queue.removals;
    let (told, answer) = oneshot::channel();
    removals.waiting.borrow_mut().push((uid, told));
    if !removals.under_way.replace(true) {
        let shard = Rc::clone(shard);
        glommio::spawn_local(async move { run(&shard).await }).detach();
    }
    answer.await.unwrap_or(Err(Error::Busy))
}

async fn run(shard: &Shard) {
    let removals = &shard.queue.removals;
    loop {
        glommio::timer::sleep(GATHERED_FOR).await;
        let (uids, waiting): (Vec<Uid>, Vec<_>) = removals.waiting.take().into_iter().unzip();
        if uids.is_empty() {
            removals.under_way.set(false);
            return;
        }
        let expunged = shard.store.expunge(ACCOUNT, MAILBOX, &uids).await.map(drop);
        if expunged.is_ok() {
            uids.iter().for_each(|uid| shard.queue.left(*uid));
        }
        for told in waiting {
            let _ = told.send(expunged.clone());
        }
        if expunged.is_ok() {
            forget_progress(shard, &uids).await;
        }
    }
}

/// Without it, the next start does it.
async fn forget_progress(shard: &Shard, uids: &[Uid]) {
    let keys = uids.iter().map(|uid| key(*uid));
    let known = keys.filter(|key| shard.store.get(SPACE, key).is_some());
    let pairs: Vec<_> = known.map(|key| (key, None)).collect();
    if !pairs.is_empty()
        && let Err(error) = shard.store.put(SPACE, pairs).await
    {
        tracing::debug!(%error, "progress of messages that have left stays until the next start");
    }
}
