//! Recipients of ours whose message has waited in the queue: for the time that its sender wants, or
//! for its release. They get it as they would have at once, through their scripts; what becomes of
//! it is a standing, as of any other recipient.
//!
//! Of who shares an address those who could not have it now are asked again, and nobody else: who
//! that is, is part of the standing. Who has it when a crash comes before that is recorded in the
//! queue, is known from its home ([`delivered`]).

use super::delivered;
use super::outcome::Attempt;
use crate::delivery::{self, Failure, Intake, Judged, Once, Stamp, To};
use crate::directory::{Home, Resolution};
use crate::queue::message::{Envelope, Outcome, Standing};
use crate::queue::{ACCOUNT, MAILBOX};
use crate::shard::{PIECE_BYTES, Shard};
use protocols::Address;
use protocols::message::received::return_path;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use storage::Error;

/// Accounts behind an address that are asked again while others have the message.
const LEFT_MAX: usize = 100;

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
            Some((address, mut homes)) => {
                let left = attempt.left(index);
                homes.retain(|home| left.is_empty() || left.contains(&home.account.0));
                reached.push((index, address, homes));
            }
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
        let standing = standing(
            homes.iter().map(|home| (home, result(home))),
            !attempt.left(index).is_empty(),
        );
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

/// One result for each. Who has it from before a crash has it.
async fn bring(shard: &Rc<Shard>, attempt: &Attempt, to: &[To]) -> Vec<Result<(), Failure>> {
    let once = delivered::once(shard.id, attempt.uid, &attempt.envelope.id);
    let known = delivered::known(shard, &once, to).await;
    let without = to.iter().zip(&known).filter(|(_, known)| matches!(known, Ok(false)));
    let without: Rc<[To]> = without.map(|(to, _)| to.clone()).collect();
    let mut brought = pour(shard, attempt, once, &without).await.into_iter();
    let result = |known: Result<bool, Failure>| match known {
        Ok(true) => Ok(()),
        Ok(false) => brought.next().unwrap_or(Err(Failure::Store(Error::Busy))),
        Err(failure) => Err(failure),
    };
    known.into_iter().map(result).collect()
}

/// One result for each.
async fn pour(
    shard: &Rc<Shard>,
    attempt: &Attempt,
    once: Once,
    to: &Rc<[To]>,
) -> Vec<Result<(), Failure>> {
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
        once: Some(Arc::new(once)),
        others: false,
        require_tls: *require_tls,
    };
    let (results, copies) = delivery::settle(intake, to, &[], &Stamp::default(), envelope).await;
    copies.stay().await;
    results.into_iter().map(|result| result.map(drop)).collect()
}

/// What became of one recipient, by what became of the accounts behind it. Those who are asked
/// again stand in it, where others have it by now; `is_again`: since an earlier try.
fn standing<'a>(
    results: impl Iterator<Item = (&'a Home, Result<(), Failure>)>,
    is_again: bool,
) -> Standing {
    let mut is_taken = is_again;
    let mut failed: Vec<(&Home, Failure)> = Vec::new();
    for (home, result) in results {
        match result {
            Ok(_) => is_taken = true,
            Err(failure) => failed.push((home, failure)),
        }
    }
    let waits = |(_, failure): &&(&Home, Failure)| matches!(failure, Failure::Store(_));
    // Who is asked again tells; then those who refuse do so again, and the sender hears of it.
    let Some((home, failure)) = failed.iter().find(waits).or(failed.first()) else {
        return Standing::new(Outcome::Delivered, "2.0.0", "").by("here", "");
    };
    let account = &home.address;
    let (outcome, status, why) = match failure {
        Failure::Rejected(text) => {
            (Outcome::Failed, "5.7.1", format!("{account} refuses it: {text}"))
        }
        Failure::Store(Error::OverQuota) => {
            (Outcome::Waiting, "4.2.2", format!("the mailbox of {account} is full"))
        }
        Failure::Store(error) => {
            (Outcome::Waiting, "4.3.0", format!("the mailbox of {account}: {error}"))
        }
    };
    if outcome == Outcome::Waiting && is_taken && failed.len() > LEFT_MAX {
        // To try all of them again would bring it to the others again.
        let why = format!("{why}; others behind that address have it");
        return Standing::new(Outcome::Failed, &status.replacen('4', "5", 1), &why);
    }
    let mut standing = Standing::new(outcome, status, &why);
    if outcome == Outcome::Waiting && is_taken {
        standing.left = failed.iter().map(|(home, _)| home.account.0).collect();
    }
    standing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_can_not_take_it_now_is_asked_again_and_nobody_else() {
        let full = || Err(Failure::Store(Error::OverQuota));
        let refused = || Err(Failure::Rejected("no".to_owned()));
        let home = |number: u32| Home {
            address: format!("{number}@b"),
            account: storage::AccountId(number),
            shard: 0,
        };
        let said = |results: Vec<Result<(), Failure>>, is_again| {
            let homes: Vec<Home> = (1..).map(home).take(results.len()).collect();
            standing(homes.iter().zip(results), is_again)
        };
        let waits = said(vec![full()], false);
        assert_eq!((waits.outcome, waits.status.as_str()), (Outcome::Waiting, "4.2.2"));
        assert_eq!(waits.left, Vec::<u32>::new(), "all of them");
        let failed = said(vec![refused()], false);
        assert_eq!((failed.outcome, failed.status.as_str()), (Outcome::Failed, "5.7.1"));
        assert_eq!(failed.why, "1@b refuses it: no");
        let waits = said(vec![refused(), full()], false);
        assert_eq!(waits.why, "the mailbox of 2@b is full");
        let again = said(vec![full()], true);
        assert_eq!((again.outcome, again.left), (Outcome::Waiting, vec![1]));
        assert_eq!(said(Vec::new(), true).outcome, Outcome::Delivered);
    }
}
