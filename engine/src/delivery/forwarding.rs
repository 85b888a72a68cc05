//! Mail for an address of ours that is somebody's on another host: aliases with such targets.
//!
//! It is taken like all other mail, past the same questions, and goes into the queue of this core
//! before its sender is answered, in a message of its own for each such alias, since each leaves
//! its name on it (`Delivered-To`): whoever has passed here under that name once does not again.
//! The words of strangers stay as they are but for what we found out about them, which stands
//! above. What can't be sent on goes back to its sender, through the queue, since nobody here has
//! a mailbox for it.
//!
//! The envelope's sender is rewritten (SRS, [`srs`]) unless it is a domain of ours. So is that of
//! what scripts redirect ([`super::sending`]).

use crate::directory::Reached;
use crate::host_key;
use crate::operations::unix_now;
use crate::queue::author::Author;
use crate::queue::intake::Submission;
use crate::queue::message;
use crate::relay::srs::{self, Fault, Rewriter};
use crate::shard::Shard;
use protocols::Address;
use protocols::message::received::delivered_to;
use protocols::smtp::RecipientParams;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Recipients of one transaction that are forwarded: each holds a buffer while the message arrives.
pub const FORWARDS_MAX: usize = 10;

/// Where else a message for an address of ours goes.
#[derive(Debug)]
pub struct Forward {
    /// The address, as it is left on the message.
    pub name: String,
    to: BTreeSet<String>,
    params: RecipientParams,
}

impl Forward {
    /// `None`: nowhere else.
    pub fn of(address: &Address, reached: &Reached, params: &RecipientParams) -> Option<Forward> {
        if reached.outside.is_empty() {
            return None;
        }
        let mut params = params.clone();
        // Whoever is told of a failure knows this address, and not where it leads.
        params.original =
            params.original.or_else(|| Some(("rfc822".to_owned(), address.to_string())));
        let name = address.to_string().to_lowercase();
        Some(Forward { name, to: reached.outside.clone(), params })
    }

    /// Without those whom `other` has already; `None`: that are all.
    pub fn without(mut self, other: Option<&Forward>) -> Option<Forward> {
        if let Some(other) = other {
            self.to.retain(|to| !other.to.contains(to));
        }
        (!self.to.is_empty()).then_some(self)
    }

    /// The copy for there. `envelope` is that of the transaction, `trace` our `Received`.
    pub fn begin(
        &self,
        shard: &Rc<Shard>,
        envelope: message::Envelope,
        through: &Address,
        trace: &str,
    ) -> Submission {
        let recipient = |to: &String| message::Recipient::new(to.clone(), &self.params);
        let recipients: Vec<_> = self.to.iter().map(recipient).collect();
        let by_account = envelope.account.is_some();
        let parsed = |text: &String| Address::parse(text.as_bytes());
        let sender = match envelope.sender.as_ref().and_then(parsed) {
            Some(sender) if !by_account => Some(sender_abroad(shard, &sender, through)),
            _ => envelope.sender.clone(),
        };
        let names = recipients.iter().map(|one| &one.to).chain(&sender);
        let envelope = message::Envelope {
            smtp_utf8: envelope.smtp_utf8 || names.into_iter().any(|name| !name.is_ascii()),
            sender,
            account: envelope.account.or_else(|| Some(self.name.clone())),
            recipients,
            ..envelope
        };
        let author = if by_account { Author::Account } else { Author::Stranger };
        let trace = delivered_to(&self.name) + trace;
        Submission::new(shard, author, envelope, trace).sealed_by(through)
    }
}

/// Before the first sender is rewritten on this core: `false`: not now.
pub async fn is_ready(shard: &Rc<Shard>) -> bool {
    if !shard.config.relay.srs || shard.directory.borrow().host_key(srs::KEY_NAME).is_some() {
        return true;
    }
    let ask = |shard: Rc<Shard>| async move { host_key::key(&shard, srs::KEY_NAME).await };
    match shard.mesh.ask(0, ask).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::error!(error, "no key to rewrite senders with");
            false
        }
        Err(_) => false,
    }
}

/// The sender of a message that was for `through`, an address of ours, as the message leaves.
pub fn sender_abroad(shard: &Shard, sender: &Address, through: &Address) -> String {
    let relay = &shard.config.relay;
    let directory = shard.directory.borrow();
    let key = directory.host_key(srs::KEY_NAME).filter(|_| relay.srs);
    let (Some(key), None) = (key, directory.domain(&srs::domain_of(sender))) else {
        return sender.to_string();
    };
    let rewriter = Rewriter { key, days: relay.srs_days(), now: unix_now() };
    let domain = relay.srs_domain.clone().unwrap_or_else(|| srs::domain_of(through));
    match rewriter.rewrite(sender, &domain) {
        Some(rewritten) => rewritten.to_string(),
        None => {
            tracing::info!(%sender, "too long to be rewritten; it leaves as it is");
            sender.to_string()
        }
    }
}

/// Whom a rewritten address of ours stands for; `None`: it is none. Also where senders are not
/// rewritten any more.
pub fn stands_for(shard: &Shard, address: &Address) -> Option<Result<Address, Fault>> {
    let days = shard.config.relay.srs_days();
    rewriter_of(shard, address, days)
}

/// The same for what we ourselves have to tell that sender, however late.
pub fn teller(shard: &Shard, sender: &str) -> Option<Address> {
    const ALWAYS: u64 = 1022;
    rewriter_of(shard, &Address::parse(sender.as_bytes())?, ALWAYS)?.ok()
}

fn rewriter_of(shard: &Shard, address: &Address, days: u64) -> Option<Result<Address, Fault>> {
    if !srs::is_rewritten(address) {
        return None;
    }
    let directory = shard.directory.borrow();
    let domain = srs::domain_of(address);
    let is_ours =
        directory.domain(&domain).is_some() || shard.config.relay.srs_domain == Some(domain);
    let key = directory.host_key(srs::KEY_NAME).filter(|_| is_ours)?;
    Rewriter { key, days, now: unix_now() }.stands_for(address)
}
