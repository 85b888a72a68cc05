//! What is asked of a message between its last octet and its delivery, each stage after the other:
//! who has sent it, how much it looks like spam ([`scoring`](super::scoring)), what the scan has
//! found. Each may refuse it for everybody, have it filed as junk, and add fields.

use super::SmtpSession;
use super::arrival::{Recipient, refusal};
use crate::auth::results;
use crate::auth::settings::DmarcQuarantine;
use crate::auth::verdict::{Disposition, Method, Outcome, Verdict};
use crate::auth::verify::Question;
use crate::delivery::{Intake, Judged, OwnName, Scrutiny, Stamp};
use crate::domain::sealing;
use crate::filter::senders::Filing;
use crate::policy::connect;
use crate::policy::screening::Offence;
use crate::quarantine::Reason;
use crate::scan;
use crate::scan::session::{Origin, Scan};
use crate::scan::settings::Action;
use protocols::smtp::Refusal;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Error;

/// What one stage hands to the next: authentication, score, scan, in this order.
pub(super) struct Stages<'t> {
    pub(super) from: &'t str,
    pub(super) recipients: &'t [Recipient],
    /// For fields beside a body that is in the log already.
    pub(super) room: usize,
    pub(super) stamp: &'t mut Stamp,
    pub(super) judged: Judged,
}

impl Stages<'_> {
    /// Adds a field, beside the body only if it fits.
    pub(super) fn add_whole(&mut self, field: &str) {
        self.add(field, |room| if field.len() <= room { field.to_owned() } else { String::new() });
    }

    /// Adds a field; `cut` makes it fit so much room.
    pub(super) fn add(&mut self, whole: &str, cut: impl FnOnce(usize) -> String) {
        self.stamp.fields += whole;
        self.stamp.beside += &cut(self.room.saturating_sub(self.stamp.beside.len()));
    }
}

impl SmtpSession {
    /// Who has sent it, and what follows where that is a lie.
    pub(super) async fn authenticate(
        &self,
        intake: &mut Intake,
        stages: &mut Stages<'_>,
        verdict: &mut Option<Verdict>,
    ) -> Result<(), Refusal> {
        let auth = &self.shard.config.auth;
        if intake.scrutiny() != Scrutiny::All || !auth.verify {
            return Ok(());
        }
        let found = self.verify(intake, stages.from.to_owned()).await;
        let found = verdict.insert(found.map_err(|error| refusal(&error))?);
        match found.disposition(auth.dmarc_of(&found.author_domain, stages.from)) {
            Disposition::Reject => {
                connect::note(&self.shard, self.peer.address.ip(), Offence::RefusedMessage);
                return Err(Refusal::POLICY.saying(found.refusal()));
            }
            Disposition::Junk => match auth.dmarc_quarantine {
                DmarcQuarantine::Junk => stages.judged.filing.is_junk = true,
                DmarcQuarantine::Quarantine => stages.judged.filing.keep_back(Reason::Dmarc),
            },
            Disposition::Deliver => {}
        }
        stages.judged.own_name = self.own_name(found);
        let hostname = &self.shard.config.hostname;
        if auth.arc_seal {
            stages.judged.found = Some(Arc::new(sealing::Found::of(hostname, found)));
        }
        stages.add(&results::field(hostname, found, usize::MAX), |room| {
            results::field(hostname, found, room)
        });
        stages.add_whole(&found.received_spf);
        Ok(())
    }

    /// Who can keep DMARC from an answer, by a header that is too large for us or by questions that
    /// take too long, must not gain what `fail` would deny.
    fn own_name(&self, found: &Verdict) -> OwnName {
        let author = &found.author_domain;
        let dmarc = found.findings.iter().find(|one| one.method == Method::Dmarc);
        match dmarc.map(|one| one.outcome) {
            // It is not asked for.
            None => OwnName::Fine,
            Some(Outcome::Pass) => OwnName::Fine,
            Some(_) if !author.is_empty() && !self.is_related(author) => OwnName::Fine,
            // A domain without a policy: nobody looks whether its senders are its own.
            Some(Outcome::None) if !author.is_empty() => OwnName::Fine,
            Some(Outcome::TempError) => OwnName::Unknown,
            Some(_) => OwnName::Forged,
        }
    }

    /// Whether a domain is one of ours, or stands above or below one: what one of them sends
    /// aligns with the other.
    fn is_related(&self, domain: &str) -> bool {
        let directory = self.shard.directory.borrow();
        let mut names = std::iter::successors(Some(domain), |name| {
            name.split_once('.').map(|(_, above)| above)
        });
        let below = format!(".{domain}");
        names.any(|name| directory.domain(name).is_some())
            || directory.domains().any(|(ours, _)| ours.ends_with(&below))
    }

    /// What the scan has found, and what follows from it.
    pub(super) async fn scanned(
        &self,
        scan: Scan,
        stages: &mut Stages<'_>,
        verdict: Option<&Verdict>,
        scanned: &mut Option<scan::verdict::Findings>,
        others: bool,
    ) -> Result<(), Refusal> {
        let origin = verdict.map(|verified| Origin {
            peer: self.peer.address.ip(),
            sender: stages.from,
            recipients: stages.recipients.len(),
            verified,
        });
        let found = scanned.insert(scan.findings(origin).await);
        stages.judged.virus = found.virustest();
        let (action, words) = found.action(&self.shard.config.scan);
        match action {
            Action::Reject => return Err(Refusal::POLICY.saying(words)),
            Action::Defer => return Err(Refusal::BUSY.saying(words)),
            // Recipients on other hosts share the answer, and nothing that leaves can be kept back.
            Action::Quarantine if others => {
                return Err(found.refusal(&self.shard.config.scan, words));
            }
            // Whoever it is from: friends send viruses, too.
            Action::Quarantine => {
                stages.judged.filing = Filing::default();
                stages.judged.filing.keep_back(found.reason(&self.shard.config.scan));
            }
            Action::Junk => {
                let kept = stages.judged.filing.kept;
                stages.judged.filing = Filing { kept, ..Filing::junk() };
            }
            Action::Mark => {}
        }
        if found.has_virus() {
            stages.judged.filing.hold_virus();
        }
        stages.add_whole(&found.field(&self.shard.config.hostname));
        Ok(())
    }

    /// Asks the control plane who has sent the message, and awaits it until the deadline.
    async fn verify(&self, intake: &mut Intake, from: String) -> Result<Verdict, Error> {
        let evidence = intake.evidence().await?;
        let config = &self.shard.config;
        let question = Question {
            peer: Some(self.peer.address.ip()),
            helo: self.machine.hello().to_owned(),
            mail_from: from,
            receiver: config.hostname.clone(),
            evidence,
            dmarc: config.auth.dmarc,
            received_spf: config.auth.received_spf,
            trusted_sealers: config.auth.trusted_sealers.clone(),
            deadline: Instant::now() + Duration::from_secs(config.auth.deadline_seconds),
        };
        let started = Instant::now();
        let verdict = self.shard.auth.ask(&self.shard, question).await;
        self.shard.metrics.verified(&verdict, started.elapsed());
        Ok(verdict)
    }
}
