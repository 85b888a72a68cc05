//! Where cores ask about messages, and the control plane answers.
//!
//! Verification waits for DNS and multiplies big numbers; neither holds a core. The queue is
//! bounded: when it is full, the answer is that nothing is known, at once. A core waits until the
//! deadline and no longer, whatever becomes of the control plane.

use super::dns::Resolver;
use super::verdict::Verdict;
use super::verify::{Question, verify};
use crate::mesh::Reply;
use crate::policy::lists::{Inquiry, look_up};
use crate::reports::destinations::{self, Destinations};
use crate::shard::Shard;
use futures_lite::future::or;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const QUESTIONS_WAITING_MAX: usize = 4096;
/// Under way at once; each has a few questions to DNS.
const QUESTIONS_AT_ONCE_MAX: usize = 512;
/// What the control plane may take, beyond the deadline, to say that it was too late.
const GRACE: Duration = Duration::from_secs(2);

pub enum Job {
    Verify(Question, Reply),
    LookUp(Inquiry, Reply),
    Destinations(destinations::Inquiry, Reply),
}

/// The cores' end.
#[derive(Clone)]
pub struct Desk {
    jobs: flume::Sender<Job>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.jobs.len()).finish()
    }
}

/// What has been asked, for the control plane.
pub type Jobs = flume::Receiver<Job>;

pub fn desk() -> (Desk, Jobs) {
    let (jobs, asked) = flume::bounded(QUESTIONS_WAITING_MAX);
    (Desk { jobs }, asked)
}

impl Desk {
    pub async fn ask(&self, shard: &Rc<Shard>, question: Question) -> Verdict {
        let patience = question.deadline.saturating_duration_since(Instant::now()) + GRACE;
        let (reply, answer) = shard.mesh.open_question();
        if self.jobs.try_send(Job::Verify(question, reply)).is_err() {
            return Verdict::unknown("too busy");
        }
        let answered = async { answer.await.unwrap_or_else(|_| Verdict::unknown("not answered")) };
        let late = async {
            glommio::timer::sleep(patience).await;
            Verdict::unknown("no answer in time")
        };
        or(answered, late).await
    }
}

impl Desk {
    /// For each list in DNS, whether the client is on it. What is not known in time is no.
    pub async fn look_up(&self, shard: &Rc<Shard>, inquiry: Inquiry) -> Vec<bool> {
        let patience = inquiry.deadline.saturating_duration_since(Instant::now()) + GRACE;
        let nowhere = vec![false; inquiry.lists.len()];
        let (reply, answer) = shard.mesh.open_question();
        if self.jobs.try_send(Job::LookUp(inquiry, reply)).is_err() {
            return nowhere;
        }
        let answered = async { answer.await.ok() };
        let late = async {
            glommio::timer::sleep(patience).await;
            None
        };
        or(answered, late).await.unwrap_or(nowhere)
    }
}

impl Desk {
    /// Who wants the reports of a domain. What is not known in time may be known later.
    pub async fn destinations(
        &self,
        shard: &Rc<Shard>,
        inquiry: destinations::Inquiry,
    ) -> Destinations {
        let patience = inquiry.deadline.saturating_duration_since(Instant::now()) + GRACE;
        let silent = || Destinations { is_silent: true, ..Destinations::default() };
        let (reply, answer) = shard.mesh.open_question();
        if self.jobs.try_send(Job::Destinations(inquiry, reply)).is_err() {
            return silent();
        }
        let answered = async { answer.await.unwrap_or_else(|_| silent()) };
        let late = async {
            glommio::timer::sleep(patience).await;
            silent()
        };
        or(answered, late).await
    }

    /// Whether there is a control plane: a command that has opened the store has none.
    pub fn is_served(&self) -> bool {
        !self.jobs.is_disconnected()
    }
}

/// Answers, until every core has gone.
pub async fn serve(jobs: Jobs, resolver: Resolver) {
    let places = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE_MAX));
    while let Ok(job) = jobs.recv_async().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let resolver = resolver.clone();
        tokio::spawn(async move {
            match job {
                Job::Verify(question, reply) => reply.answer(verify(&resolver, &question).await),
                Job::LookUp(inquiry, reply) => reply.answer(look_up(&resolver, &inquiry).await),
                Job::Destinations(inquiry, reply) => {
                    reply.answer(destinations::find(&resolver, &inquiry).await);
                }
            }
            drop(place);
        });
    }
}
