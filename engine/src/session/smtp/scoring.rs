//! What a stranger's mail has to pass beyond its envelope: lists in DNS, the spam
//! score, greylisting.

use super::SmtpSession;
use super::arrival::{Recipient, refusal};
use super::stages::Stages;
use crate::auth::verdict::{Finding, Method, Outcome, Verdict as Authentication};
use crate::delivery::{Intake, Scrutiny, unix_millis};
use crate::directory::Home;
use crate::filter::classifier::Class;
use crate::filter::own::Scored;
use crate::filter::rspamd::{self, desk::Asked};
use crate::filter::senders::{Filing, Sender};
use crate::filter::settings::Learn;
use crate::filter::sorting;
use crate::filter::verdict::{Action, Verdict};
use crate::filter::{self, Envelope, Hit, written};
use crate::metrics::count;
use crate::policy::connect;
use crate::policy::greylist::{self, Triple};
use crate::policy::lists::Inquiry;
use crate::policy::screening::Offence;
use crate::policy::settings::{DnsList, HoneypotAction};
use crate::quarantine::Reason;
use crate::shard::Shard;
use protocols::smtp::{Refusal, Role};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A sixth of a millisecond of rules, a few where a text is made to cost much. To cross over costs
/// less than the rest.
const JUDGED_ON_CORE_BYTES_MAX: u64 = 4 << 10;

/// Whom a message is for.
struct Addressees {
    names: Vec<String>,
    homes: Vec<Home>,
}

/// Some mail servers of small devices speak too early.
const EARLY_TALKER: f64 = 2.5;
const HONEYPOT: f64 = 20.0;

impl SmtpSession {
    /// Whether the client is another server's, and nobody that we know.
    pub(super) fn is_stranger(&self) -> bool {
        self.role == Role::Mx
            && self.machine.user().is_none()
            && !connect::is_friend(&self.shard, self.peer.address.ip())
    }

    /// Asks the lists in DNS once in a session, with the first recipient who exists.
    pub(super) async fn check_lists(&mut self) -> Result<(), Refusal> {
        let config = Arc::clone(&self.shard.config);
        let lists = &config.policy.dns_lists;
        if lists.is_empty() || !self.is_stranger() {
            return Ok(());
        }
        let peer = self.peer.address.ip();
        if self.listed.is_none() {
            let deadline = Instant::now() + Duration::from_secs(config.dns.timeout_seconds * 2);
            let inquiry = Inquiry { peer, lists: lists.clone(), deadline };
            self.listed = Some(self.shard.auth.look_up(&self.shard, inquiry).await);
        }
        let on = |found: &(&DnsList, &bool)| *found.1 && found.0.refuse;
        match lists.iter().zip(self.listed.iter().flatten()).find(on) {
            Some((list, _)) => {
                count(&self.shard.metrics.listed_refused);
                let zone = &list.zone;
                Err(Refusal::POLICY.saying(format!("{peer} is on the block list {zone}")))
            }
            None => Ok(()),
        }
    }

    /// What the lists add to a message's score.
    fn list_hits(&self) -> Vec<Hit> {
        let lists = self.shard.config.policy.dns_lists.iter();
        let listed = lists.zip(self.listed.iter().flatten()).filter(|(_, listed)| **listed);
        let hit = |(list, _): (&DnsList, &bool)| {
            let zone = list.zone.to_uppercase();
            let name: String =
                zone.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let rule = format!("LIST_{name}");
            let reason = format!("the client is on the list {}", list.zone);
            Hit { rule, score: list.score, reason, of_content: false }
        };
        listed.map(hit).collect()
    }

    /// What the client has done before this message came.
    fn conduct(&self) -> Vec<Hit> {
        let hit = |rule: &str, score, reason: &str| Hit {
            rule: rule.to_owned(),
            score,
            reason: reason.to_owned(),
            of_content: false,
        };
        let early = hit("EARLY_TALKER", EARLY_TALKER, "the client spoke before it was greeted");
        let trapped = hit("HONEYPOT", HONEYPOT, "the client wrote to an address that nobody uses");
        let early = self.is_early.then_some(early);
        early.into_iter().chain(self.trapped.map(|_| trapped)).collect()
    }

    /// Asks rspamd, which works while the sender is looked up and the scanner works.
    pub(super) async fn ask_second(
        &self,
        intake: &mut Intake,
        stages: &Stages<'_>,
        id: &str,
    ) -> Result<Option<Asked>, Refusal> {
        let spam = &self.shard.config.spam;
        if intake.scrutiny() != Scrutiny::All || !spam.enabled || spam.rspamd.is_empty() {
            return Ok(None);
        }
        let message = intake.at_hand().await.map_err(|error| refusal(&error))?;
        let Some(message) = message.filter(|all| all.len() as u64 <= spam.rspamd_bytes_max) else {
            return Ok(Some(Box::pin(async { rspamd::Outcome::TooLarge })));
        };
        let question = rspamd::Question {
            message,
            peer: self.peer.address.ip(),
            helo: self.machine.hello().to_owned(),
            mail_from: stages.from.to_owned(),
            recipients: stages.recipients.iter().map(|one| one.address.to_string()).collect(),
            id: id.to_owned(),
            until: Instant::now() + Duration::from_secs(spam.rspamd_seconds),
        };
        Ok(Some(self.shard.rspamd.ask(&self.shard, question)))
    }

    /// How much it looks like spam, and what follows from that.
    pub(super) async fn score(
        &self,
        intake: &mut Intake,
        stages: &mut Stages<'_>,
        auth: Option<&Authentication>,
        second: Option<Asked>,
        verdict: &mut Option<Verdict>,
    ) -> Result<(), Refusal> {
        if intake.scrutiny() != Scrutiny::All || !self.shard.config.spam.enabled {
            return Ok(());
        }
        let names = stages.recipients.iter().map(|one| one.address.to_string()).collect();
        let homes = stages.recipients.iter().flat_map(|one| one.homes.iter().cloned()).collect();
        let to = Addressees { names, homes };
        let (found, sender, scored) = self.judge(intake, stages.from, to, auth, second).await?;
        stages.add(&found.fields(usize::MAX), |room| found.fields(room));
        stages.judged.spam_percent = Some(found.percent());
        if self.trapped.is_some() {
            // Whatever it looks like, and whoever wants mail from there.
            stages.judged.filing = Filing::junk();
            *verdict = Some(found);
            if self.trapped == Some(HoneypotAction::Train) {
                let message = intake.beginning().await.map_err(|error| refusal(&error))?;
                sorting::learn_message(&self.shard, message, Class::Spam);
            }
            return Ok(());
        }
        let filing = &mut stages.judged.filing;
        if !filing.is_junk {
            filing.scored = scored;
        }
        match found.action {
            Action::Junk => filing.is_junk = true,
            Action::Quarantine => filing.keep_back(Reason::Spam),
            Action::Accept | Action::Tag | Action::Reject => {}
        }
        filing.sender = sender;
        filing.is_doubtful = auth.is_some_and(|auth| dmarc_is(auth, Outcome::Fail));
        let found = verdict.insert(found);
        if found.action == Action::Reject {
            connect::note(&self.shard, self.peer.address.ip(), Offence::RefusedMessage);
            return Err(Refusal::POLICY.saying(found.refusal()));
        }
        let score = found.score;
        if self.must_come_again(score, auth, stages.from, stages.recipients).await {
            count(&self.shard.metrics.greylisted);
            return Err(Refusal::COME_AGAIN);
        }
        Ok(())
    }

    /// Greylisting, for doubtful mail of strangers.
    async fn must_come_again(
        &self,
        score: f64,
        auth: Option<&Authentication>,
        from: &str,
        recipients: &[Recipient],
    ) -> bool {
        let greylist = &self.shard.config.policy.greylist;
        let proven = auth.is_some_and(|auth| dmarc_is(auth, Outcome::Pass));
        if !greylist.enabled || proven || score < greylist.from_score || !self.is_stranger() {
            return false;
        }
        let recipient = recipients.first().map(|one| one.address.to_string()).unwrap_or_default();
        let triple = Triple::of(self.peer.address.ip(), from, &recipient);
        let now = unix_millis().0 / 1000;
        let ask =
            move |shard: Rc<Shard>| async move { greylist::decide(&shard, now, triple).await };
        // Who can't be asked lets it pass.
        matches!(self.shard.mesh.ask(0, ask).await, Ok(greylist::Answer::Wait))
    }

    /// Gives the message a score. A large one takes long enough that the blocking pool does it.
    async fn judge(
        &self,
        intake: &mut Intake,
        mail_from: &str,
        to: Addressees,
        auth: Option<&Authentication>,
        second: Option<Asked>,
    ) -> Result<(Verdict, Option<Sender>, Option<Arc<Scored>>), Refusal> {
        let started = Instant::now();
        let Addressees { names: recipients, homes } = to;
        let is_proven = auth.is_some_and(|auth| dmarc_is(auth, Outcome::Pass));
        let findings = auth.map(|auth| auth.findings.as_slice()).unwrap_or_default();
        let auth: Vec<_> = findings.iter().map(|one| (one.method, one.outcome)).collect();
        let unix_seconds = i64::try_from(unix_millis().0 / 1000).unwrap_or(i64::MAX);
        let message = intake.beginning().await.map_err(|error| refusal(&error))?;
        let rules = Arc::clone(&self.shard.rules);
        let mail_from = mail_from.to_owned();
        let judge = move || {
            let (mail_from, recipients, auth) = (&mail_from, &recipients, &auth);
            let envelope = Envelope { mail_from, recipients, auth, unix_seconds };
            filter::judge(&rules, &message, &envelope)
        };
        let found = if intake.bytes() <= JUDGED_ON_CORE_BYTES_MAX {
            judge()
        } else {
            glommio::executor().spawn_blocking(judge).await
        };
        let mut found = found.judged_by(&self.shard.learned.borrow().classifier);
        found.hits.extend(self.list_hits());
        let (spam, taken) = (&self.shard.config.spam, started.elapsed());
        let second = match second {
            Some(asked) => Some(asked.await),
            None => None,
        };
        if let Some(second) = &second {
            self.shard.metrics.rspamd.note(second);
            match second {
                rspamd::Outcome::Answered(opinion) => found.hits.extend(opinion.hits(spam)),
                rspamd::Outcome::TooLarge => {}
                rspamd::Outcome::Unknown(why) => tracing::debug!(why, "no second opinion"),
            }
            if second.defers(spam) {
                let words = "The spam filter has not answered, try again later";
                return Err(Refusal::BUSY.saying(words.to_owned()));
            }
        }
        found.hits.extend(self.conduct());
        if let Some(sender) = found.sender
            && is_proven
        {
            found.hits.extend(written::hit(&self.shard, homes, sender).await);
        }
        let mut verdict = Verdict::new(found.hits, spam);
        if self.trapped.is_some() {
            verdict.action = Action::Junk;
        } else if let Some(second) = &second {
            second.insist(spam, &mut verdict);
        }
        self.shard.metrics.judged(&verdict, taken);
        let key = self.shard.sample_key();
        let scored = || Arc::new(Scored::new(verdict.score, found.margin, &found.tokens, key));
        let scored = (spam.learn != Learn::Nobody).then(scored);
        Ok((verdict, found.sender, scored))
    }
}

fn dmarc_is(auth: &Authentication, outcome: Outcome) -> bool {
    let found = |one: &Finding| one.method == Method::Dmarc && one.outcome == outcome;
    auth.findings.iter().any(found)
}
