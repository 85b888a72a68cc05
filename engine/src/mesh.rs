//! Asking another core to do something, and awaiting its answer.
//!
//! Cores share nothing. What one wants of another is a closure that runs on the other's executor with
//! the other's [`Shard`]; only its captures and its answer cross. Each core has one bounded queue, so
//! a core that falls behind makes the others answer `Busy` instead of growing.
//!
//! **Never await another thread in a task that is itself awaited** (a `glommio::Task`): in glommio-ng
//! 0.12 the other thread's last waker and the join handle race to free the task, and one of them uses
//! it after that. Detached tasks, as all sessions and requests are, have no join handle and no race.

use crate::shard::Shard;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use tokio::sync::oneshot;

/// Requests that may wait at one core. Full means at least this many transactions under way there,
/// each at most one session buffer: the store's own admission limit is reached long before.
const REQUESTS_MAX: usize = 4096;

/// Work that has been sent to a core.
pub type Request = Box<dyn FnOnce(Rc<Shard>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The way to one core. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct ShardHandle {
    requests: flume::Sender<Request>,
}

/// The core did not take the request: it is too far behind, or it is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the core is busy or stopping")]
pub struct Unreachable;

impl std::fmt::Debug for ShardHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardHandle").field("waiting", &self.requests.len()).finish()
    }
}

/// A core's queue and the handle to it.
pub fn channel() -> (ShardHandle, flume::Receiver<Request>) {
    let (sender, receiver) = flume::bounded(REQUESTS_MAX);
    (ShardHandle { requests: sender }, receiver)
}

impl ShardHandle {
    /// Sends `work` to that core, at once; the future is its answer. So one task may have several
    /// cores at work, and needs no helper tasks for it.
    pub fn ask<R, W, F>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<R, Unreachable>> + use<R, W, F>
    where
        R: Send + 'static,
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let sent = self.tell(move |shard| async move {
            // The asker may have gone: then nobody wants the answer.
            let _ = answer.send(work(shard).await);
        });
        async move {
            sent?;
            answered.await.map_err(|_| Unreachable)
        }
    }

    /// Runs `work` on that core; nobody waits for it.
    pub fn tell<W, F>(&self, work: W) -> Result<(), Unreachable>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let request: Request = Box::new(move |shard| Box::pin(work(shard)));
        self.requests.try_send(request).map_err(|_| Unreachable)
    }
}
