//! Recipients of ours whose message has waited in the queue: for the time that its sender wants, or for its release. They get it
//! as they would have at once, through their scripts; what becomes of it is a standing, as of any other recipient.
//!
//! Who shares an address has the message once somebody of them has it: the sender is told of the others, and nothing is delivered again.
//! A crash between a delivery and its record delivers twice, as it does to other servers.

use super::outcome::Attempt;
use crate::delivery::{self, Failure, Intake, Judged, Stamp, To};
use crate::directory::{Home, Resolution};
use crate::queue::message::{Envelope, Outcome, Standing};
use crate::queue::{ACCOUNT, MAILBOX};
use crate::shard::Shard;
use protocols::Address;
use protocols::message::received::return_path;
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::{Durable, Error};

/// Octets of a message that are under way at once.
const PIECE_BYTES: u64 = 256 << 10;

/// Whether a recipient is one of ours.
pub fn is_ours(shard: &Shard, to: &str) -> bool {
    shard.directory.borrow().resolve(to) != Resolution::NotOurs
}

/// Delivers to these recipients of `attempt`, and says of each what came of it.
pub async fn deliver(shard: &Rc<Shard>, attempt: &Attempt, indices: &[usize]) {
    let mut reached: Vec<(usize, Address, BTreeSet<Home>)> = Vec::new();
    for &index in indices {
        let to = &attempt.envelope.recipients[index].to;
        match reach(shard, to) {
            Some((address, homes)) => reached.push((index, address, homes)),
            None => {
                let why = "there is no such user here any more";
                let failed = Standing::new(Outcome::Failed, "5.1.1", why);
                attempt.set(&shard.queue.counts, index, failed, true);
            }
        }
    }
    let with = |address: &Address, home: &Home| To { home: home.clone(), address: address.clone() };
    let mut to: Vec<To> = reached
        .iter()
        .flat_map(|(_, address, homes)| homes.iter().map(move |home| with(address, home)))
        .collect();
    // Two recipients may share a home: it gets the message once.
    to.sort_by(|one, other| one.home.cmp(&other.home));
    to.dedup_by_key(|to| to.home.account);
    let results = bring(shard, attempt, &to).await;
    for (index, _, homes) in reached {
        let result = |home: &Home| {
            let at = to.iter().position(|to| to.home.account == home.account);
            at.map_or(Err(Failure::Store(Error::Busy)), |at| results[at].clone())
        };
        let standing = standing(homes.iter().map(|home| (home.address.as_str(), result(home))));
        attempt.set(&shard.queue.counts, index, standing, true);
    }
}

/// Who has that address.
fn reach(shard: &Shard, to: &str) -> Option<(Address, BTreeSet<Home>)> {
    let address = Address::parse(to.as_bytes())?;
    match shard.directory.borrow().resolve(to) {
        // Copies for who is elsewhere are messages of their own.
        Resolution::Local(reached) if !reached.homes.is_empty() => Some((address, reached.homes)),
        Resolution::Local(_) | Resolution::NoSuchUser | Resolution::NotOurs => None,
    }
}

/// One result for each.
async fn bring(shard: &Rc<Shard>, attempt: &Attempt, to: &[To]) -> Vec<Result<Durable, Failure>> {
    if to.is_empty() {
        return Vec::new();
    }
    let Envelope { id, sender, require_tls, .. } = &attempt.envelope;
    let sender_text = sender.as_deref().unwrap_or_default();
    let shards = to.iter().map(|to| to.home.shard);
    let mut intake = Intake::of_account(shard, shards, &return_path(sender_text));
    let poured = async {
        let mut from = 0;
        loop {
            let piece = from..from + PIECE_BYTES;
            let piece = shard.store.read(ACCOUNT, MAILBOX, attempt.uid, piece).await?;
            if piece.is_empty() {
                return Ok::<(), Error>(());
            }
            from += piece.len() as u64;
            intake.push(&piece).await?;
        }
    };
    if let Err(error) = poured.await {
        return to.iter().map(|_| Err(Failure::Store(error.clone()))).collect();
    }
    let envelope = delivery::Envelope {
        id: id.clone(),
        sender: sender.as_ref().and_then(|sender| Address::parse(sender.as_bytes())),
        peer: None,
        judged: Judged::default(),
        scripts: true,
        alone: to.len() == 1,
        collected: None,
        others: false,
        require_tls: *require_tls,
    };
    delivery::settle(intake, to, &[], &Stamp::default(), envelope).await
}

/// What became of one recipient, by what became of the accounts behind it.
fn standing<'a>(results: impl Iterator<Item = (&'a str, Result<Durable, Failure>)>) -> Standing {
    let (mut is_taken, mut failed) = (false, None::<(&str, Failure)>);
    for (account, result) in results {
        match result {
            Ok(_) => is_taken = true,
            Err(failure) => failed = failed.or(Some((account, failure))),
        }
    }
    let Some((account, failure)) = failed else {
        return Standing::new(Outcome::Delivered, "2.0.0", "").by("here", "");
    };
    let (status, why) = match &failure {
        Failure::Rejected(text) => ("5.7.1", format!("{account} refuses it: {text}")),
        Failure::Store(Error::OverQuota) => ("4.2.2", format!("the mailbox of {account} is full")),
        Failure::Store(error) => ("4.3.0", format!("the mailbox of {account}: {error}")),
    };
    match (is_taken, &failure) {
        // To try again would bring it to the others again.
        (true, Failure::Store(_)) => {
            let status = status.replacen('4', "5", 1);
            let why = format!("{why}; others behind that address have it");
            Standing::new(Outcome::Failed, &status, &why)
        }
        (_, Failure::Rejected(_)) => Standing::new(Outcome::Failed, status, &why),
        (false, Failure::Store(_)) => Standing::new(Outcome::Waiting, status, &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_not_take_it_now_is_asked_again_unless_others_behind_the_address_have_it() {
        let full = || Err(Failure::Store(Error::OverQuota));
        let refused = || Err(Failure::Rejected("no".to_owned()));
        let said = |results: Vec<(&str, Result<Durable, Failure>)>| standing(results.into_iter());
        let waits = said(vec![("a@b", full())]);
        assert_eq!((waits.outcome, waits.status.as_str()), (Outcome::Waiting, "4.2.2"));
        let failed = said(vec![("a@b", refused())]);
        assert_eq!((failed.outcome, failed.status.as_str()), (Outcome::Failed, "5.7.1"));
        assert_eq!(failed.why, "a@b refuses it: no");
    }
}
