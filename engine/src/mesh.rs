//! Asking another core to do something, and awaiting its answer.
//!
//! Cores share nothing. What one wants of another is a closure that runs on the other's executor
//! with the other's [`Shard`]; only its captures and its answer cross. Requests wait in one bounded
//! queue for each core, so a core that falls behind makes the others answer `Busy` instead of
//! growing; answers in another, which is never longer than what has been asked.
//!
//! A core that is awake looks into its queues by itself ([`Inbox::turn`]); only one that sleeps has
//! to be woken, by its [`Doorbell`].
//!
//! **Never await another thread in a task that is itself awaited** (a `glommio::Task`): in
//! glommio-ng 0.12 the other thread's last waker and the join handle race to free the task, and one
//! of them uses it after that. Here no waker crosses between cores: the answer is a message, too.
//! In one place one does ([`delivery`](crate::delivery), `streaming`: pieces of a large body, in a
//! bounded channel). The tasks at both of its ends are detached, and a core that naps hears of it
//! when its nap is over.

use crate::readiness::Doorbell;
use crate::shard::Shard;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests that may wait at one core. It takes all that are there in each of its turns, so full
/// means that as many have come within one. How many it has under way is not bounded here: the
/// store admits no more than it has room for.
const REQUESTS_MAX: usize = 4096;

/// Work that has been sent to a core.
type Request = Box<dyn FnOnce(Rc<Shard>) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What became of the question with this number. `None`: nobody will ever answer it.
struct Answer {
    number: u64,
    value: Option<Box<dyn Any + Send>>,
}

/// The way to one core. Cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct ShardHandle {
    requests: flume::Sender<Request>,
    answers: flume::Sender<Answer>,
    doorbell: Arc<Doorbell>,
}

/// What has been sent to a core.
#[derive(Debug)]
pub struct Inbox {
    requests: flume::Receiver<Request>,
    answers: flume::Receiver<Answer>,
    doorbell: Arc<Doorbell>,
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

/// A core's queues and the handle to it. `doorbell` wakes that core.
pub fn channel(doorbell: Doorbell) -> (ShardHandle, Inbox) {
    let (requests, incoming_requests) = flume::bounded(REQUESTS_MAX);
    let (answers, incoming_answers) = flume::unbounded();
    let doorbell = Arc::new(doorbell);
    let inbox = Inbox {
        requests: incoming_requests,
        answers: incoming_answers,
        doorbell: Arc::clone(&doorbell),
    };
    (ShardHandle { requests, answers, doorbell }, inbox)
}

impl ShardHandle {
    /// Runs `work` on that core and awaits its answer. For threads that are no cores; a core asks
    /// through its [`Mesh`].
    pub async fn ask<R, W, F>(&self, work: W) -> Result<R, Unreachable>
    where
        R: Send + 'static,
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.tell(move |shard| async move {
            // The asker may have gone: then nobody wants the answer.
            let _ = answer.send(work(shard).await);
        })?;
        answered.await.map_err(|_| Unreachable)
    }

    /// Blocks while the core's queue is full: for a thread that has the time, and must be heard.
    pub fn await_room(&self) {
        while self.requests.is_full() && !self.requests.is_disconnected() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs `work` on that core; nobody waits for it.
    pub fn tell<W, F>(&self, work: W) -> Result<(), Unreachable>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let request: Request = Box::new(move |shard| Box::pin(work(shard)));
        self.requests.try_send(request).map_err(|_| Unreachable)?;
        self.doorbell.ring();
        Ok(())
    }
}

/// Asks a core until it takes it, for what nobody can ask for any more: again after each `rest`,
/// until that fails.
pub async fn insist<R, E, A, B>(
    mut ask: impl FnMut() -> A,
    mut rest: impl FnMut() -> B,
) -> Result<R, E>
where
    A: Future<Output = Result<R, Unreachable>>,
    B: Future<Output = Result<(), E>>,
{
    loop {
        if let Ok(answer) = ask().await {
            return Ok(answer);
        }
        rest().await?;
    }
}

/// A core's view of all cores.
#[derive(Debug)]
pub struct Mesh {
    own: u16,
    handles: Vec<ShardHandle>,
    /// Questions that wait for their answers, by number. Numbers are never used again.
    asked: RefCell<HashMap<u64, Rc<Question>>>,
    next: Cell<u64>,
}

#[derive(Debug, Default)]
struct Question {
    answer: RefCell<Option<Answer>>,
    waker: RefCell<Option<Waker>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({})", self.number)
    }
}

impl Mesh {
    pub fn new(own: u16, handles: Vec<ShardHandle>) -> Mesh {
        Mesh { own, handles, asked: RefCell::default(), next: Cell::new(0) }
    }

    /// How many cores there are.
    pub fn cores(&self) -> u16 {
        u16::try_from(self.handles.len()).expect("a shard has a number of 16 bits")
    }

    /// To this core itself.
    pub fn own(&self) -> &ShardHandle {
        &self.handles[usize::from(self.own)]
    }

    /// Runs `work` on core `home`; nobody waits for it.
    pub fn tell<W, F>(&self, home: u16, work: W) -> Result<(), Unreachable>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        self.handles.get(usize::from(home)).ok_or(Unreachable)?.tell(work)
    }

    /// Sends `work` to core `home`, at once; the future is its answer. So one task may have several
    /// cores at work, and needs no helper tasks for it.
    pub fn ask<R, W, F>(
        self: &Rc<Self>,
        home: u16,
        work: W,
    ) -> impl Future<Output = Result<R, Unreachable>> + use<R, W, F>
    where
        R: Send + 'static,
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = R> + 'static,
    {
        let (reply, answer) = self.open_question();
        let sent = self.tell(home, move |shard| async move { reply.answer(work(shard).await) });
        async move {
            sent?;
            answer.await
        }
    }

    /// A question that somebody else answers, on whatever thread: through the [`Reply`]. The
    /// future is the answer.
    pub fn open_question<R: Send + 'static>(
        self: &Rc<Self>,
    ) -> (Reply, impl Future<Output = Result<R, Unreachable>> + use<R>) {
        let number = self.next.get();
        self.next.set(number + 1);
        let reply = Reply { to: self.own().clone(), number, value: None };
        let question = Rc::new(Question::default());
        self.asked.borrow_mut().insert(number, Rc::clone(&question));
        let asked = Asked { mesh: Rc::clone(self), number, question };
        let answer = async move {
            let answer = asked.await.ok_or(Unreachable)?;
            Ok(*answer.downcast().expect("the answer to this question"))
        };
        (reply, answer)
    }

    fn settle(&self, answer: Answer) {
        // Who asked may have gone.
        let asked = self.asked.borrow();
        let Some(question) = asked.get(&answer.number) else { return };
        *question.answer.borrow_mut() = Some(answer);
        if let Some(waker) = question.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Sends its answer when it is dropped, so that a request that never ran is answered, too.
pub struct Reply {
    to: ShardHandle,
    number: u64,
    value: Option<Box<dyn Any + Send>>,
}

impl Reply {
    pub fn answer<R: Send + 'static>(mut self, value: R) {
        self.value = Some(Box::new(value));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let _ = self.to.answers.send(Answer { number: self.number, value: self.value.take() });
        self.to.doorbell.ring();
    }
}

/// Waits for an answer.
struct Asked {
    mesh: Rc<Mesh>,
    number: u64,
    question: Rc<Question>,
}

impl Future for Asked {
    type Output = Option<Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(answer) = self.question.answer.borrow_mut().take() {
            return Poll::Ready(answer.value);
        }
        *self.question.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.mesh.asked.borrow_mut().remove(&self.number);
    }
}

impl Inbox {
    /// Takes what is there, each request as a task of its own, so that one that waits for the disk
    /// holds up nobody. Whether there was anything.
    pub fn turn(&self, shard: &Rc<Shard>) -> bool {
        let mut found = false;
        for answer in self.answers.drain() {
            shard.mesh.settle(answer);
            found = true;
        }
        for request in self.requests.drain() {
            glommio::spawn_local(request(Rc::clone(shard))).detach();
            found = true;
        }
        found
    }

    /// To be asked before the core sleeps: from now on the doorbell is heard, until
    /// [`Inbox::awake`].
    /// `false`: something has come, there is no time to sleep.
    pub fn may_sleep(&self) -> bool {
        self.doorbell.listen();
        self.answers.is_empty() && self.requests.is_empty()
    }

    /// The core looks by itself again.
    pub fn awake(&self) {
        self.doorbell.ignore();
    }
}

#[cfg(test)]
mod tests {
    use super::{Unreachable, insist};
    use futures_lite::future::block_on;
    use std::cell::Cell;
    use std::future::ready;

    #[test]
    fn a_busy_core_is_asked_until_it_takes_it_or_there_is_no_more_rest() {
        let (asked, rested) = (Cell::new(0), Cell::new(0));
        let ask = || {
            asked.set(asked.get() + 1);
            ready(if asked.get() < 3 { Err(Unreachable) } else { Ok("done") })
        };
        let rest = || {
            rested.set(rested.get() + 1);
            ready(if rested.get() < 4 { Ok(()) } else { Err("stops") })
        };
        assert_eq!(block_on(insist(ask, rest)), Ok("done"));
        assert_eq!((asked.get(), rested.get()), (3, 2));
        let busy = || ready(Err::<(), _>(Unreachable));
        assert_eq!(block_on(insist(busy, rest)), Err("stops"));
    }
}
