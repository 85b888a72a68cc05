//! Where cores ask for a second opinion, and the control plane gets it.
//!
//! The queue is bounded, and so are the questions under way; what finds no place is not known, at
//! once. A core waits until the deadline and no longer, whatever becomes of the control plane.

use super::servers::Servers;
use super::{Outcome, Question};
use crate::mesh::Reply;
use crate::shard::Shard;
use futures_lite::future::or;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Each holds at most one session's buffer.
const WAITING_MAX: usize = 1024;
/// What the control plane may take, beyond the deadline, to say that it was too late.
const GRACE: Duration = Duration::from_secs(2);

/// The cores' end.
#[derive(Clone)]
pub struct Desk {
    questions: flume::Sender<(Question, Reply)>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.questions.len()).finish()
    }
}

/// What has been asked, for the control plane.
pub type Jobs = flume::Receiver<(Question, Reply)>;

pub fn desk() -> (Desk, Jobs) {
    let (questions, jobs) = flume::bounded(WAITING_MAX);
    (Desk { questions }, jobs)
}

/// The answer, which comes while other things are done.
pub type Asked = Pin<Box<dyn Future<Output = Outcome>>>;

impl Desk {
    /// Asks now; the future only waits.
    pub fn ask(&self, shard: &Rc<Shard>, question: Question) -> Asked {
        let until = question.until + GRACE;
        let (reply, answer) = shard.mesh.open_question();
        if self.questions.try_send((question, reply)).is_err() {
            return Box::pin(async { Outcome::Unknown("too busy".to_owned()) });
        }
        Box::pin(async move {
            let answered = async {
                answer.await.unwrap_or_else(|_| Outcome::Unknown("not answered".to_owned()))
            };
            let late = async {
                glommio::timer::sleep(until.saturating_duration_since(Instant::now())).await;
                Outcome::Unknown("no answer in time".to_owned())
            };
            or(answered, late).await
        })
    }
}

/// Asks, until every core has gone.
pub async fn serve(jobs: Jobs, servers: Arc<Servers>) {
    let places = Arc::new(Semaphore::new(servers.places));
    while let Ok((question, reply)) = jobs.recv_async().await {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let servers = Arc::clone(&servers);
        tokio::spawn(async move {
            reply.answer(if Instant::now() < question.until {
                servers.ask(&question).await
            } else {
                Outcome::Unknown("too busy".to_owned())
            });
            drop(place);
        });
    }
}
