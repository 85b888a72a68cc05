//! What a try makes of a message: verdicts into standings, and when all its recipients have been
//! tried, what is recorded and who is told.

use super::protection::Way;
use super::session::Lost;
use crate::NOTICE;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::queue::message::{Envelope, Outcome, Progress, Standing};
use crate::queue::report::Action;
use crate::queue::{self, Counts, notices, schedule};
use crate::relay::settings::Relay;
use crate::shard::Shard;
use crate::submission;
use protocols::smtp::client::{self, Failure, Stage, Verdict};
use protocols::wire::remote::Trouble;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use storage::Uid;

/// By the recipient's index.
type Standings = BTreeMap<usize, Standing>;

/// One try of one message, at all of its recipients' destinations.
#[derive(Debug)]
pub struct Attempt {
    pub uid: Uid,
    pub envelope: Envelope,
    /// As it may be recorded at any time: who failed waits in it, until the sender has been told.
    progress: RefCell<Progress>,
    /// Transactions that are not over.
    pub open: Cell<usize>,
    /// Somebody was asked to take it, at one destination at least.
    is_tried: Cell<bool>,
    /// Who failed in this try: their sender does not know yet.
    failed: RefCell<Standings>,
    /// Taken by a server that will not tell the sender, who wants to hear of it.
    relayed: RefCell<Standings>,
    /// Something was taken that is not recorded yet.
    unrecorded: Cell<bool>,
    /// Recipients that this try has served.
    served: Cell<usize>,
}

impl Attempt {
    pub fn new(uid: Uid, envelope: Envelope, progress: Progress) -> Attempt {
        Attempt {
            uid,
            envelope,
            progress: RefCell::new(progress),
            open: Cell::new(0),
            is_tried: Cell::new(false),
            failed: RefCell::default(),
            relayed: RefCell::default(),
            unrecorded: Cell::new(false),
            served: Cell::new(0),
        }
    }

    /// Which accounts behind a recipient of ours have not had it yet; none: nobody has.
    pub fn left(&self, index: usize) -> Vec<u32> {
        self.progress.borrow().recipients.get(index).map_or_else(Vec::new, |one| one.left.clone())
    }

    /// What came of trying. `tells`: the server reports deliveries itself where that is wanted.
    pub fn set(&self, counts: &Counts, index: usize, standing: Standing, tells: bool) {
        self.is_tried.set(true);
        self.stands(counts, index, standing, tells);
    }

    /// No session has come to take it: that is no try.
    pub fn set_unserved(&self, counts: &Counts, index: usize) {
        let why = "no connection was free for it: as many as may be made, or as the server lets in, are busy with other mail";
        // RFC 3463 section 3.5: congestion.
        self.stands(counts, index, Standing::new(Outcome::Waiting, "4.4.5", why), true);
    }

    fn stands(&self, counts: &Counts, index: usize, standing: Standing, tells: bool) {
        let Some(recipient) = self.envelope.recipients.get(index) else { return };
        let (id, to) = (&self.envelope.id, &recipient.to);
        let Standing { outcome, status, why, host, said, way, left: _, is_shared: _ } = &standing;
        let recorded = match outcome {
            Outcome::Delivered => {
                count(&counts.delivered);
                self.unrecorded.set(true);
                self.served.set(self.served.get() + 1);
                tracing::info!(id, %to, host, way, said, "sent");
                // How it was said is in the log, and of no use any more.
                let words = String::new;
                Standing { why: words(), said: words(), ..standing.clone() }
            }
            Outcome::Failed => {
                count(&counts.failed);
                tracing::info!(target: NOTICE, id, %to, host, status, why, "not sent: it failed for good");
                Standing { outcome: Outcome::Waiting, ..standing.clone() }
            }
            Outcome::Waiting => {
                count(&counts.deferred);
                tracing::info!(id, %to, host, status, why, "not sent yet");
                standing.clone()
            }
        };
        if let Some(place) = self.progress.borrow_mut().recipients.get_mut(index) {
            *place = recorded;
        }
        match standing.outcome {
            Outcome::Delivered if !tells && recipient.notifies('s') => {
                self.relayed.borrow_mut().insert(index, standing);
            }
            Outcome::Failed => drop(self.failed.borrow_mut().insert(index, standing)),
            Outcome::Delivered | Outcome::Waiting => {}
        }
    }

    /// A transaction is over.
    pub async fn settle(&self, shard: &Rc<Shard>) {
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() > 0 {
            self.record_taken(shard).await;
        } else {
            self.conclude(shard).await;
        }
    }

    /// What was taken, before anything else is done. If that can't be recorded now,
    /// it is at the end.
    async fn record_taken(&self, shard: &Shard) {
        if !self.unrecorded.replace(false) {
            return;
        }
        let progress = self.progress.borrow().clone();
        if let Err(error) = queue::record(shard, self.uid, &progress).await {
            tracing::warn!(id = self.envelope.id, %error, "can't record yet that a queued message was taken");
            self.unrecorded.set(true);
        }
    }

    /// All have been tried.
    async fn conclude(&self, shard: &Rc<Shard>) {
        let now = unix_now();
        let relay = &shard.config.relay;
        let start = self.progress.borrow().start();
        if schedule::is_expired(relay, start, now) {
            for (index, last) in self.waiting() {
                let patience = relay.expire.text();
                let at_last = match &*last.why {
                    "" => "no connection was free for it",
                    why => why,
                };
                let why = format!("not delivered within {patience}; at last: {at_last}");
                let status = if last.status.is_empty() { "4.4.7" } else { &last.status };
                let given_up =
                    Standing::new(Outcome::Failed, status, &why).by(&last.host, &last.said);
                self.stands(&shard.queue.counts, index, given_up, true);
            }
        }
        let waiting = self.waiting();
        let (failed, relayed) = (self.failed.take(), self.relayed.take());
        if let Some(user) = self.envelope.account.as_ref().filter(|_| self.envelope.by_login) {
            let refused = failed.values().filter(|one| one.is_refused()).count();
            let served = self.served.get();
            if refused + served > 0 {
                submission::answered(shard, user, served, refused);
            }
        }
        let is_late = schedule::is_delayed(relay, start, now)
            && !waiting.is_empty()
            && !self.progress.borrow().told_of_delay;
        if !failed.is_empty() || !relayed.is_empty() || is_late {
            self.record_taken(shard).await;
        }
        match self.tell(shard, &failed, Action::Failed).await {
            Ok(()) => self.fail(failed),
            Err(error) => {
                tracing::warn!(id = self.envelope.id, %error, "its sender can't be told of a failure yet");
            }
        }
        // These tell of nothing that has to be done: they are not tried again.
        let _ = self.tell(shard, &relayed, Action::Relayed).await;
        if is_late && self.tell(shard, &waiting, Action::Delayed).await.is_ok() {
            self.progress.borrow_mut().told_of_delay = true;
        }
        queue::finish(shard, self.uid, self.over(relay, now)).await;
    }

    /// How far the message has come with it, and when it is tried next.
    fn over(&self, relay: &Relay, now: u64) -> Progress {
        let mut progress = self.progress.take();
        progress.attempts += u32::from(self.is_tried.get());
        let age = now.saturating_sub(progress.start());
        let tries = progress.attempts.max(schedule::tries_within(relay, age));
        progress.next = now + schedule::wait(relay, tries, self.uid.0);
        progress
    }

    /// Who waits for another try.
    fn waiting(&self) -> Standings {
        let (progress, failed) = (self.progress.borrow(), self.failed.borrow());
        let waiting = progress.waiting().filter(|index| !failed.contains_key(index));
        waiting.map(|index| (index, progress.recipients[index].clone())).collect()
    }

    /// Their sender knows.
    fn fail(&self, failed: Standings) {
        let mut progress = self.progress.borrow_mut();
        for (index, standing) in failed {
            progress.recipients[index] = standing;
        }
    }

    async fn tell(
        &self,
        shard: &Rc<Shard>,
        of: &Standings,
        action: Action,
    ) -> Result<(), storage::Error> {
        if of.is_empty() {
            return Ok(());
        }
        let start = self.progress.borrow().start();
        notices::tell(shard, self.uid, &self.envelope, start, of, action).await
    }
}

/// Whether its sender is to be told, even though there was no place to try it again.
pub fn owes_word(relay: &Relay, progress: &Progress, now: u64) -> bool {
    let start = progress.start();
    schedule::is_expired(relay, start, now)
        || !progress.told_of_delay && schedule::is_delayed(relay, start, now)
}

/// What a server's verdict is for us. Where it is in doubt whether a message was taken, it is sent
/// again (RFC 1047: twice is better than not at all).
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

/// Nobody there took the message, or let us in.
pub fn not_reached(name: &str, address: SocketAddr, lost: &Lost, way: &Way) -> Standing {
    let said = match lost {
        Lost::Failed(failure) => failure.heard.as_ref().map(ToString::to_string),
        Lost::Socket(_) | Lost::Tls(_) => None,
    };
    let has_no_tls =
        |failure: &Failure| failure.stage == Stage::StartTls || failure.trouble == Trouble::NoTls;
    let (status, because) = match lost {
        Lost::Tls(_) => ("4.7.5", true),
        Lost::Failed(failure) if has_no_tls(failure) => ("4.7.4", true),
        Lost::Failed(_) | Lost::Socket(_) => ("4.4.1", false),
    };
    let mut why = format!("{name} ({address}) {lost}");
    if because && !way.may_do_without {
        why += &format!("; TLS is asked for by {}", way.words);
    }
    Standing::new(Outcome::Waiting, status, &why).by(name, &said.unwrap_or_default())
}

/// The server takes no more recipients at once, and has taken others (RFC 5321 section 4.5.3.1.10).
pub fn is_crowded(verdict: &Verdict) -> bool {
    verdict.outcome == client::Outcome::Later
        && verdict.stage == Stage::Recipient
        && verdict.heard.as_ref().is_some_and(|heard| matches!(heard.code, 452 | 552))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::message::Recipient;
    use protocols::smtp::RecipientParams;

    fn attempt(recipients: usize) -> Attempt {
        let recipient =
            |number| Recipient::new(format!("u{number}@there.test"), &RecipientParams::default());
        let envelope = Envelope {
            id: "0.1".into(),
            sender: Some("ann@here.test".into()),
            account: None,
            recipients: (0..recipients).map(recipient).collect(),
            octets: 1,
            ..Envelope::default()
        };
        let progress = Progress::of(&envelope);
        Attempt::new(Uid(1), envelope, progress)
    }

    fn standing(outcome: Outcome) -> Standing {
        Standing::new(outcome, "2.0.0", "in words").by("mx.there.test", "what it said")
    }

    fn outcomes(attempt: &Attempt) -> Vec<Outcome> {
        attempt.progress.borrow().recipients.iter().map(|one| one.outcome).collect()
    }

    #[test]
    fn what_nobody_was_asked_to_take_was_not_tried() {
        let (relay, counts) = (Relay::default(), Counts::default());
        let first = relay.retry_first.0.as_secs();
        for is_tried in [false, true] {
            let attempt = attempt(2);
            attempt.set_unserved(&counts, 0);
            if is_tried {
                attempt.set(&counts, 1, standing(Outcome::Waiting), false);
            }
            let over = attempt.over(&relay, 0);
            assert_eq!(
                (over.attempts, &*over.recipients[0].status),
                (u32::from(is_tried), "4.4.5")
            );
            assert!((first * 7 / 8..=first).contains(&over.next), "{}", over.next);
        }
    }

    #[test]
    fn who_failed_waits_in_what_is_recorded_until_the_sender_knows() {
        let attempt = attempt(3);
        let counts = Counts::default();
        attempt.set(&counts, 0, standing(Outcome::Delivered), true);
        attempt.set(&counts, 1, standing(Outcome::Failed), true);
        attempt.set(&counts, 2, standing(Outcome::Waiting), true);
        use Outcome::{Delivered, Failed, Waiting};
        assert_eq!(outcomes(&attempt), [Delivered, Waiting, Waiting]);
        assert!(attempt.unrecorded.get());
        assert_eq!(attempt.waiting().into_keys().collect::<Vec<_>>(), [2]);
        let failed = attempt.failed.take();
        assert_eq!(failed[&1], standing(Failed));
        attempt.fail(failed);
        assert_eq!(outcomes(&attempt), [Delivered, Failed, Waiting]);
    }

    #[test]
    fn what_was_said_to_a_delivery_is_not_kept() {
        let attempt = attempt(1);
        attempt.set(&Counts::default(), 0, standing(Outcome::Delivered), false);
        let progress = attempt.progress.borrow();
        let kept = &progress.recipients[0];
        assert_eq!((kept.why.as_str(), kept.said.as_str()), ("", ""));
        assert_eq!(kept.host, "mx.there.test");
        assert!(progress.is_over());
    }
}
