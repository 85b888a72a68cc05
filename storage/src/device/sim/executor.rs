//! A deterministic executor of one thread: runs what is ready, and when nothing is, lets the
//! simulated disk complete one operation, or the clock go on.

use super::Sim;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Number of a spawned task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskId(usize);

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Clones share the tasks, so a task can spawn others.
#[derive(Clone)]
pub struct Executor {
    sim: Sim,
    tasks: Rc<RefCell<Vec<Option<Task>>>>,
    ready: Arc<Ready>,
}

/// The queue of tasks to poll. A mutex only because wakers have to be `Send`.
#[derive(Default)]
struct Ready {
    queue: Mutex<VecDeque<usize>>,
}

impl Ready {
    fn push(&self, task: usize) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.contains(&task) {
            queue.push_back(task);
        }
    }

    fn pop(&self) -> Option<usize> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Executor({} tasks)", self.tasks.borrow().len())
    }
}

impl Executor {
    #[must_use]
    pub fn new(sim: &Sim) -> Executor {
        Executor { sim: sim.clone(), tasks: Rc::default(), ready: Arc::default() }
    }

    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        tasks.push(Some(Box::pin(future)));
        let task = tasks.len() - 1;
        self.ready.push(task);
        TaskId(task)
    }

    /// Drops a task where it stands, as a closed connection drops its session.
    pub fn cancel(&self, task: TaskId) {
        let dropped = self.tasks.borrow_mut()[task.0].take();
        drop(dropped);
    }

    /// Whether the task has come to its end or was cancelled.
    #[must_use]
    pub fn is_finished(&self, task: TaskId) -> bool {
        self.tasks.borrow()[task.0].is_none()
    }

    /// Runs until `future` is done. `None`: the disk crashed, or nothing could make progress.
    pub fn block_on<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let place = Rc::clone(&result);
        let task = self.spawn(async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        });
        while !self.is_finished(task) {
            if !self.turn() {
                self.cancel(task);
                break;
            }
        }
        result.borrow_mut().take()
    }

    /// Runs until nothing can make progress, or the disk has crashed.
    pub fn run_until_idle(&self) {
        while self.turn() {}
    }

    /// Polls one task, or completes one operation, or advances the clock. False: nothing to do.
    pub fn turn(&self) -> bool {
        if self.sim.is_crashed() {
            return false;
        }
        match self.ready.pop() {
            Some(task) => {
                self.poll(task);
                true
            }
            None => self.sim.step(),
        }
    }

    fn poll(&self, task: usize) {
        let Some(mut future) = self.tasks.borrow_mut()[task].take() else { return };
        let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(&self.ready) }));
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => drop(future),
            Poll::Pending => self.tasks.borrow_mut()[task] = Some(future),
        }
    }
}
