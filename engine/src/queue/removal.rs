//! Messages leave the queue: those of one moment by one record, hence one flush.
//!
//! There is one expunge at a time, for all that has ended in the meantime and within
//! [`GATHERED_FOR`]. Sessions, and submissions, go on meanwhile. None begins while a backup asks
//! the cores for its plans ([`Standstill`]).

use super::{ACCOUNT, MAILBOX, Queue, SPACE, key};
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use storage::{Error, Uid};
use tokio::sync::oneshot;

/// A crash within it has what was taken sent again; much shorter, and each message takes a
/// flush of its own.
pub const GATHERED_FOR: Duration = Duration::from_millis(20);

/// No backup holds up what was done with messages any longer.
pub const STANDSTILL_MAX: Duration = Duration::from_secs(10);

type Told = oneshot::Sender<Result<(), Error>>;

/// Of one core: what waits to be removed.
#[derive(Debug, Default)]
pub struct Removals {
    waiting: RefCell<Vec<(Uid, Told)>>,
    under_way: Cell<bool>,
    standstills: RefCell<Vec<Weak<Standstill>>>,
}

/// While it lives, and at most [`STANDSTILL_MAX`], a core that knows of it records nothing of what
/// was done with queued messages: neither that they have left, nor who has them.
///
/// The plans of a backup are of as many moments as there are cores, while mail that has waited in
/// the queue of core A goes to its home on core B: first it is durable there, then A records it.
/// Were B's plan from before the first and A's from behind the second, the backup had the message
/// nowhere. So all cores know of the standstill before the first plan, and it ends behind the last:
///
/// - A's plan has the record: then it was begun before A knew of the standstill, hence the delivery
///   was durable before any plan, and B's plan has it, whichever was first.
/// - A's plan does not have it: then the message is in A's queue, whether B's plan has it or not.
///   Where it has, so has it the mark that is set in the same record ([`crate::relay::delivered`]):
///   after a restore B is asked for that, and gets it no second time. No core forgets such a mark
///   while the message is in the queue.
#[derive(Debug)]
pub struct Standstill {
    until: Instant,
}

impl Standstill {
    pub fn begin() -> Arc<Standstill> {
        Arc::new(Standstill { until: Instant::now() + STANDSTILL_MAX })
    }

    /// Whether it was kept until now by all who know of it.
    pub fn is_kept(&self) -> bool {
        Instant::now() < self.until
    }
}

impl Queue {
    /// From now on this core keeps it.
    pub fn stand_still(&self, standstill: Weak<Standstill>) {
        let mut all = self.removals.standstills.borrow_mut();
        all.retain(|one| one.strong_count() > 0);
        all.push(standstill);
    }

    /// Returns when what was done with a message may be recorded.
    pub(super) async fn moves(&self) {
        self.removals.moves().await;
    }
}

impl Removals {
    async fn moves(&self) {
        while self.stands_still() {
            glommio::timer::sleep(GATHERED_FOR).await;
        }
    }

    fn stands_still(&self) -> bool {
        let mut all = self.standstills.borrow_mut();
        all.retain(|one| one.upgrade().is_some_and(|one| one.is_kept()));
        !all.is_empty()
    }
}

/// The message is nobody's any more. Returns once that is durable; with an error it is there as
/// before, and still its caller's.
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
        removals.moves().await;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor;
    use crate::queue::message::Progress;
    use crate::queue::{load, record};
    use crate::server::Server;
    use bytes::Bytes;
    use futures_lite::future::poll_once;
    use glommio::LocalExecutorBuilder;
    use std::future::Future;
    use std::pin::pin;
    use storage::{Body, Delivery, Flags, Placement, UnixMillis};

    #[test]
    fn what_was_done_is_recorded_when_the_last_standstill_is_over_and_no_later() {
        let outcome = executor::run(LocalExecutorBuilder::default(), async {
            let removals = Removals::default();
            assert_eq!(poll_once(removals.moves()).await, Some(()));
            let (one, other) = (Standstill::begin(), Standstill::begin());
            for standstill in [&one, &other] {
                removals.standstills.borrow_mut().push(Arc::downgrade(standstill));
            }
            drop(one);
            assert_eq!(poll_once(removals.moves()).await, None, "the other lasts");
            assert!(other.is_kept());
            // Who breaks off lets go, and so does who takes too long.
            drop(other);
            removals.moves().await;
            let endless = Arc::new(Standstill { until: Instant::now() });
            removals.standstills.borrow_mut().push(Arc::downgrade(&endless));
            removals.moves().await;
            assert!(!endless.is_kept());
        });
        outcome.expect("runs");
    }

    /// What it comes to, and that it does not before the standstill is over, though
    /// it has the time.
    async fn kept_by<F: Future>(shard: &Shard, work: F) -> F::Output {
        let standstill = Standstill::begin();
        shard.queue.stand_still(Arc::downgrade(&standstill));
        let mut work = pin!(work);
        for _ in 0..10 {
            assert!(poll_once(&mut work).await.is_none(), "done within a standstill");
            glommio::timer::sleep(GATHERED_FOR).await;
        }
        drop(standstill);
        work.await
    }

    #[test]
    fn within_a_standstill_neither_progress_is_recorded_nor_a_message_removed() {
        let (dir, server) = Server::on_trial("standstill");
        let both = server.ask(0, |shard| async move {
            load(&shard).await.unwrap();
            let placement = Placement {
                account: ACCOUNT,
                mailbox: MAILBOX,
                prefix: Vec::new(),
                flags: Flags::default(),
                keywords: Vec::new(),
            };
            let (internal_date, body) = (UnixMillis(0), Body::Whole(Bytes::from_static(b"x")));
            let (placements, summary) = (vec![placement], Vec::new());
            let delivery = Delivery { placements, internal_date, summary, body };
            let (placed, _durable) = shard.store.deliver(delivery).await.unwrap();
            let uid = placed[0].uid;
            let progress = Progress { held: true, ..Progress::default() };
            kept_by(&shard, record(&shard, uid, &progress)).await.unwrap();
            assert!(shard.store.get(SPACE, &key(uid)).is_some());
            assert!(shard.store.entry(ACCOUNT, MAILBOX, uid).is_ok());
            kept_by(&shard, remove(&shard, uid)).await.unwrap();
            assert!(shard.store.entry(ACCOUNT, MAILBOX, uid).is_err());
        });
        both.unwrap();
        server.stop();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
