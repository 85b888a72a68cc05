//! Servers of other programs that look at our mail (clamd, rspamd): which of them answer, and how
//! the operator hears of it.
//!
//! A server that has failed rests: it is asked last for a while. That it fails is told once, and
//! that it answers again. Runs on the control plane.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A server that has failed is asked last for so long.
const REST: Duration = Duration::from_secs(5);

/// Whether one server answers.
#[derive(Debug)]
pub struct Resting {
    /// Of which program, and where.
    program: &'static str,
    server: String,
    until: Mutex<Option<Instant>>,
}

impl Resting {
    pub fn new(program: &'static str, server: String) -> Resting {
        Resting { program, server, until: Mutex::default() }
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        // A panic elsewhere aborts the server; in tests the state is as good as before.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn server(&self) -> &str {
        &self.server
    }

    pub fn is_resting(&self, now: Instant) -> bool {
        self.until().is_some_and(|until| now < until)
    }

    /// Whether it has answered when it was last asked.
    pub fn answers(&self) -> bool {
        self.until().is_none()
    }

    /// Whether it is news.
    fn begin(&self) -> bool {
        self.until().replace(Instant::now() + REST).is_none()
    }

    pub fn has_failed(&self, why: &str) {
        if self.begin() {
            tracing::warn!(server = %self.server, why, "{} can't be used", self.program);
        }
    }

    pub fn has_answered(&self) {
        if self.until().take().is_some() {
            tracing::info!(target: crate::NOTICE, server = %self.server, "{} answers again", self.program);
        }
    }

    /// Asks once, at the start, whether it is there. If not, that is said with `meanwhile`, what
    /// mail meets without it, and it is asked again until it answers. There are so many
    /// `servers` of the program.
    pub async fn greet<A>(&self, servers: usize, meanwhile: &str, ask: impl Fn() -> A)
    where
        A: Future<Output = Result<(), String>>,
    {
        let Err(why) = ask().await else { return };
        let others = match servers {
            1 => "",
            _ => "the others are asked; where none answers, ",
        };
        // Mail may have found it down before.
        if self.begin() {
            let program = self.program;
            tracing::warn!(server = %self.server, why, "{program} does not answer: {others}{meanwhile}");
        }
        while !self.answers() {
            tokio::time::sleep(REST).await;
            if ask().await.is_ok() {
                self.has_answered();
            }
        }
    }
}
