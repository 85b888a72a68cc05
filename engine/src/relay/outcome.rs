//! What a try makes of a message: verdicts into standings, and when all its recipients have been tried,
//! what is recorded and who is told.

use crate::NOTICE;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::queue::message::{Envelope, Outcome, Progress, Standing};
use crate::queue::report::Action;
use crate::queue::{self, notices, schedule};
use crate::shard::Shard;
use protocols::smtp::client::{self, Stage, Verdict};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use storage::{Error, Uid};

/// One try of one message, at all of its recipients' destinations.
#[derive(Debug)]
pub struct Attempt {
    pub uid: Uid,
    pub envelope: Envelope,
    pub progress: RefCell<Progress>,
    /// Transactions that are not over.
    pub open: Cell<usize>,
    /// Recipients that failed in this try: their sender does not know yet.
    failed: RefCell<Vec<usize>>,
    /// Taken by a server that will not tell the sender, who wants to hear of it.
    relayed: RefCell<Vec<usize>>,
    /// Something was taken that is not recorded yet.
    unrecorded: Cell<bool>,
}

impl Attempt {
    pub fn new(uid: Uid, envelope: Envelope, progress: Progress) -> Attempt {
        Attempt {
            uid,
            envelope,
            progress: RefCell::new(progress),
            open: Cell::new(0),
            failed: RefCell::default(),
            relayed: RefCell::default(),
            unrecorded: Cell::new(false),
        }
    }

    /// `tells`: the server reports deliveries itself where that is wanted.
    pub fn set(&self, shard: &Shard, index: usize, standing: Standing, tells: bool) {
        let Some(recipient) = self.envelope.recipients.get(index) else { return };
        let counts = &shard.queue.counts;
        let (id, to) = (&self.envelope.id, &recipient.to);
        let Standing { status, why, host, .. } = &standing;
        match standing.outcome {
            Outcome::Delivered => {
                count(&counts.delivered);
                self.unrecorded.set(true);
                if !tells && recipient.notifies('s') {
                    self.relayed.borrow_mut().push(index);
                }
                tracing::info!(id, %to, host, said = standing.said, "sent");
            }
            Outcome::Failed => {
                count(&counts.failed);
                self.failed.borrow_mut().push(index);
                tracing::info!(target: NOTICE, id, %to, host, status, why, "not sent: it failed for good");
            }
            Outcome::Waiting => {
                count(&counts.deferred);
                tracing::info!(id, %to, host, status, why, "not sent yet");
            }
        }
        if let Some(place) = self.progress.borrow_mut().recipients.get_mut(index) {
            *place = standing;
        }
    }

    /// A transaction is over.
    pub async fn settle(&self, shard: &Rc<Shard>) {
        self.open.set(self.open.get().saturating_sub(1));
        let done = if self.open.get() > 0 {
            self.record_taken(shard).await
        } else {
            self.conclude(shard).await
        };
        if let Err(error) = done {
            // What was taken is sent again after a restart; the store has halted or is full.
            let id = &self.envelope.id;
            tracing::error!(id, %error, "can't record what became of a queued message");
        }
    }

    /// What was taken is recorded; failures are not before their sender has been told.
    async fn record_taken(&self, shard: &Shard) -> Result<(), Error> {
        if !self.unrecorded.replace(false) {
            return Ok(());
        }
        let mut progress = self.progress.borrow().clone();
        for &index in &*self.failed.borrow() {
            progress.recipients[index].outcome = Outcome::Waiting;
        }
        queue::record(shard, self.uid, &progress).await
    }

    async fn conclude(&self, shard: &Rc<Shard>) -> Result<(), Error> {
        let now = unix_now();
        let relay = &shard.config.relay;
        let arrived = self.envelope.arrived;
        let waiting: Vec<usize> = self.progress.borrow().waiting().collect();
        if schedule::is_expired(relay, arrived, now) {
            for &index in &waiting {
                let last = self.progress.borrow().recipients[index].clone();
                let patience = relay.expire.text();
                let why = format!("not delivered within {patience}; at last: {}", last.why);
                let status = if last.status.is_empty() { "4.4.7" } else { &last.status };
                let given_up =
                    Standing::new(Outcome::Failed, status, &why).by(&last.host, &last.said);
                self.set(shard, index, given_up, true);
            }
        }
        let failed = std::mem::take(&mut *self.failed.borrow_mut());
        let relayed = std::mem::take(&mut *self.relayed.borrow_mut());
        let waits = !self.progress.borrow().is_over();
        let late = waits
            && !self.progress.borrow().told_of_delay
            && schedule::is_delayed(relay, arrived, now);
        if !(failed.is_empty() && relayed.is_empty()) || late {
            failed.clone_into(&mut self.failed.borrow_mut());
            self.record_taken(shard).await?;
            self.failed.borrow_mut().clear();
        }
        if let Err(error) = self.tell(shard, &failed, Action::Failed).await {
            tracing::warn!(id = self.envelope.id, %error, "its sender can't be told of a failure yet");
            let mut progress = self.progress.borrow_mut();
            failed.iter().for_each(|&index| progress.recipients[index].outcome = Outcome::Waiting);
        }
        // These tell of nothing that has to be done: they are not tried again.
        let _ = self.tell(shard, &relayed, Action::Relayed).await;
        if late && self.tell(shard, &waiting, Action::Delayed).await.is_ok() {
            self.progress.borrow_mut().told_of_delay = true;
        }
        let mut progress = self.progress.borrow().clone();
        if progress.is_over() {
            return queue::remove(shard, self.uid).await;
        }
        progress.attempts += 1;
        progress.next = now + schedule::wait(relay, progress.attempts, self.uid.0);
        queue::put_back(shard, self.uid, progress).await
    }

    async fn tell(&self, shard: &Rc<Shard>, of: &[usize], action: Action) -> Result<(), Error> {
        if of.is_empty() {
            return Ok(());
        }
        let progress = self.progress.borrow().clone();
        notices::tell(shard, self.uid, &self.envelope, &progress, of, action).await
    }
}

/// What a server's verdict is for us. Where it is in doubt whether a message was taken, it is sent again
/// (RFC 1047: twice is better than not at all).
pub fn standing(verdict: &Verdict, host: &str) -> Standing {
    let outcome = match verdict.outcome {
        client::Outcome::Delivered => Outcome::Delivered,
        client::Outcome::Failed => Outcome::Failed,
        client::Outcome::Later | client::Outcome::InDoubt => Outcome::Waiting,
    };
    let said = verdict.heard.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut why = format!("{host}: {verdict}");
    if verdict.outcome == client::Outcome::InDoubt {
        why += "; it may have been taken all the same";
    }
    Standing::new(outcome, &verdict.status.to_string(), &why).by(host, &said)
}

/// The server takes no more recipients at once, and has taken others (RFC 5321 section 4.5.3.1.10).
pub fn is_crowded(verdict: &Verdict) -> bool {
    verdict.outcome == client::Outcome::Later
        && verdict.stage == Stage::Recipient
        && verdict.heard.as_ref().is_some_and(|heard| matches!(heard.code, 452 | 552))
}
