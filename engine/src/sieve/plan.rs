//! A run of an account's scripts on a message, and what it comes to, in the terms of
//! who carries it out.

use super::compiled::compiled;
use super::world::AccountWorld;
use super::{Answering, limits, marks};
use crate::delivery::{Envelope, To};
use crate::filter::senders::{Decision, Place};
use crate::metrics::count;
use crate::shard::Shard;
use protocols::Address;
use protocols::message::Summary;
use protocols::sieve::{Action, Edited, Mail, Outcome, Reply, ReplyCopy, Script, run_in_turn};
use std::sync::Arc;

/// What is to be done with a message for one account. Nothing at all: it is thrown away.
#[derive(Debug, Default)]
pub struct Plan {
    pub filings: Vec<Filing>,
    /// Each address with the header that the copy gets.
    pub redirects: Vec<(Address, Edited)>,
    /// The text of a rejection; then there is nothing else.
    pub reject: Option<String>,
    pub reply: Option<(Box<Reply>, Answering)>,
    pub marks: Vec<marks::Mark>,
    /// What the owner of the script has to know.
    pub error: Option<String>,
}

/// Into one mailbox.
#[derive(Debug, Clone)]
pub struct Filing {
    pub target: Target,
    pub flags: Vec<String>,
    pub header: Edited,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Where mail goes that nobody says anything about.
    Keep,
    Mailbox {
        name: String,
        create: bool,
        special_use: Option<String>,
    },
}

impl Plan {
    /// What happens without a script.
    #[must_use]
    pub fn keep() -> Plan {
        let filing = Filing { target: Target::Keep, flags: Vec::new(), header: None };
        Plan { filings: vec![filing], ..Plan::default() }
    }
}

impl From<ReplyCopy> for Filing {
    fn from(copy: ReplyCopy) -> Filing {
        let ReplyCopy { mailbox, flags, create, special_use } = copy;
        let target = Target::Mailbox { name: mailbox, create, special_use };
        Filing { target, flags, header: None }
    }
}

/// A message as scripts see it: from its first octet as much as is at hand, and its size.
#[derive(Debug)]
pub struct Seen {
    pub raw: bytes::Bytes,
    pub summary: Summary,
    pub octets: u64,
}

/// Runs the operator's scripts and the account's active one, in turn.
pub fn plan(shard: &Shard, to: &To, envelope: &Envelope, decision: &Decision, seen: &Seen) -> Plan {
    let system = shard.sieve.system();
    let (account, address) = (to.home.account, &to.home.address);
    let compiled = compiled(shard, account, &system, address);
    let (before, after) = system.around(address);
    let mut broken = None;
    let active = match &compiled.active {
        Some(Ok(script)) => Some(script),
        Some(Err(fault)) => {
            broken = Some(format!("the active script does not compile any more: {fault}"));
            None
        }
        None => None,
    };
    let own_turn = active.map(|_| before.len());
    let scripts = before.iter().chain(active).chain(&after).map(Arc::as_ref);
    let scripts: Vec<&Script> = scripts.collect();
    let world = AccountWorld {
        shard,
        to,
        envelope,
        decision,
        compiled: &compiled,
        system: &system,
        unix_seconds: crate::operations::unix_now(),
    };
    let mail = Mail {
        raw: &seen.raw,
        summary: &seen.summary,
        octets: seen.octets,
        sender: envelope.sender.as_ref(),
        recipient: &to.address,
    };
    let outcome = run_in_turn(&scripts, &mail, &world, &limits());
    count(&shard.metrics.sieve_runs);
    if outcome.error.is_some() || broken.is_some() {
        count(&shard.metrics.sieve_errors);
    }
    report(to, envelope, &outcome, own_turn);
    let own_error = outcome.error.as_ref().filter(|error| Some(error.turn) == own_turn);
    let error = broken.or_else(|| own_error.map(ToString::to_string));
    let (mut plan, reply) = from(shard, outcome);
    plan.error = error;
    let vacation = marks::Kind::Vacation;
    let reply = reply.filter(|reply| {
        // Its sender is likely not who it says.
        decision.place == Place::Usual
            && !marks::is_set(shard, account, vacation, &reply.key, world.unix_seconds)
    });
    plan.reply = reply.and_then(|reply| {
        let answering = shard.sieve.begin_answer(shard.mesh.own(), account, reply.key)?;
        Some((reply, answering))
    });
    plan
}

/// And the reply that is wanted.
fn from(shard: &Shard, outcome: Outcome) -> (Plan, Option<Box<Reply>>) {
    let (mut plan, mut wanted) = (Plan::default(), None);
    let actions = &shard.metrics.sieve_actions;
    if outcome.actions.is_empty() {
        count(&actions.discard);
    }
    for action in outcome.actions {
        match action {
            Action::Keep { flags, header } => {
                count(&actions.keep);
                plan.filings.push(Filing { target: Target::Keep, flags, header });
            }
            Action::FileInto { mailbox, flags, create, special_use, copy: _, header } => {
                count(&actions.fileinto);
                let target = Target::Mailbox { name: mailbox, create, special_use };
                plan.filings.push(Filing { target, flags, header });
            }
            Action::Redirect { address, copy: _, header } => {
                count(&actions.redirect);
                plan.redirects.push((address, header));
            }
            Action::Reject { text, extended: _ } => {
                count(&actions.reject);
                plan.reject = Some(text);
            }
            Action::Vacation(reply) => {
                count(&actions.vacation);
                wanted = Some(reply);
            }
        }
    }
    let mark = |mark: protocols::sieve::DuplicateMark| marks::Mark {
        kind: marks::Kind::Duplicate,
        key: mark.key,
        period: mark.period,
    };
    plan.marks = outcome.duplicates.into_iter().map(mark).collect();
    (plan, wanted)
}

/// One line for each run, and a warning for each error of the operator's own scripts.
fn report(to: &To, envelope: &Envelope, outcome: &Outcome, own_turn: Option<usize>) {
    let (id, account) = (&envelope.id, &to.home.address);
    let did = || {
        let told = |action: &Action| match action {
            Action::Keep { .. } => "keep".to_owned(),
            Action::FileInto { mailbox, .. } => format!("fileinto {mailbox}"),
            Action::Redirect { address, .. } => format!("redirect {address}"),
            Action::Reject { .. } => "reject".to_owned(),
            Action::Vacation(reply) => format!("vacation {}", reply.to),
        };
        let told: Vec<String> = outcome.actions.iter().map(told).collect();
        if told.is_empty() { "discard".to_owned() } else { told.join(", ") }
    };
    match &outcome.error {
        None => tracing::info!(id, account, did = did(), "sieve"),
        Some(error) if Some(error.turn) == own_turn => {
            tracing::info!(target: crate::NOTICE, id, account, %error, did = did(), "sieve script failed");
        }
        Some(error) => {
            tracing::warn!(id, account, %error, did = did(), "a script of the config file's [sieve] failed");
        }
    }
}
