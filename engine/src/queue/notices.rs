//! Tells senders: notices are made, and put on their way, to users of ours at once and to others
//! through the queue. From the null path, so that none is ever about another.

use super::message::{Envelope, Recipient, Standing};
use super::report::{About, Action, Report};
use super::{ACCOUNT, MAILBOX, author::Author, intake::Submission};
use crate::delivery::{self, Failure, Intake, Judged, Stamp, To, forwarding};
use crate::directory::{Reached, Resolution};
use crate::operations::unix_now;
use crate::shard::Shard;
use protocols::Address;
use protocols::message::field;
use protocols::message::received::return_path;
use protocols::smtp::RecipientParams;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use storage::{Error, Uid};

/// What comes back of a message, at most.
const HEADER_BYTES_MAX: u64 = 64 << 10;
const WHOLE_BYTES_MAX: u64 = 256 << 10;

/// `start`: since when it is tried. Tells the sender of those of `standings` (by the recipient's
/// index) of which it wants to hear. Returns once that is durable; without a sender, or where
/// nobody wants to hear, there is nothing to do.
pub async fn tell(
    shard: &Rc<Shard>,
    uid: Uid,
    envelope: &Envelope,
    start: u64,
    standings: &BTreeMap<usize, Standing>,
    action: Action,
) -> Result<(), Error> {
    let letter = match action {
        Action::Failed => 'f',
        Action::Delayed => 'd',
        Action::Relayed => 's',
    };
    let Some(sender) = &envelope.sender else { return Ok(()) };
    // Not by the way that others have to take.
    let original = forwarding::teller(shard, sender).map(|sender| sender.to_string());
    let sender = original.as_ref().unwrap_or(sender);
    let named = standings.iter().filter_map(|(index, standing)| {
        envelope.recipients.get(*index).map(|recipient| (recipient, standing))
    });
    let recipients: Vec<(&Recipient, &Standing)> =
        named.filter(|(recipient, _)| recipient.notifies(letter)).collect();
    if recipients.is_empty() {
        return Ok(());
    }
    let about = about(shard, uid, envelope, action).await?;
    let config = &shard.config;
    let id = shard.next_id();
    let report = Report {
        action,
        hostname: &config.hostname,
        id: &id,
        to: sender,
        envelope,
        recipients,
        now: unix_now(),
        until: start + config.relay.expire.0.as_secs(),
        about: &about,
    };
    send(shard, id.clone(), sender, envelope.require_tls, report.text()).await.map(drop)
}

/// The header, or all of a message whose sender asked for it (RFC 3461 section 4.3). Of a damaged
/// one the sender hears all the same.
async fn about(
    shard: &Shard,
    uid: Uid,
    envelope: &Envelope,
    action: Action,
) -> Result<About, Error> {
    // RFC 8689 section 5: what required TLS does not go back whole.
    let wanted = envelope.ret_full == Some(true) && !envelope.require_tls;
    let wanted = wanted && action == Action::Failed;
    let is_whole = wanted && envelope.octets <= WHOLE_BYTES_MAX;
    let octets_max = if is_whole { WHOLE_BYTES_MAX } else { HEADER_BYTES_MAX };
    let piece = match shard.store.read(ACCOUNT, MAILBOX, uid, 0..octets_max).await {
        Ok(piece) => piece,
        Err(Error::Corrupt { .. } | Error::Read { .. }) => return Ok(About::Damaged),
        Err(error) => return Err(error),
    };
    if is_whole {
        return Ok(About::Whole(piece));
    }
    Ok(About::Header(piece.slice(..field::header(&piece).len())))
}

/// What became of a notice.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Durable: in a mailbox, or in the queue.
    Taken,
    /// It has nowhere to go, for this reason, which is logged.
    Dropped(String),
}

fn dropped(to: &str, why: String) -> Fate {
    tracing::warn!(to, why, "a notice has nowhere to go");
    Fate::Dropped(why)
}

/// From the null path to `to`. An address of ours that is nobody's any more: it is dropped, and
/// logged. What tells of a message that requires TLS requires it, too (RFC 8689 section 5).
pub(crate) async fn send(
    shard: &Rc<Shard>,
    id: String,
    to: &str,
    require_tls: bool,
    message: Vec<u8>,
) -> Result<Fate, Error> {
    let resolution = shard.directory.borrow().resolve(to);
    match resolution {
        Resolution::Local(Reached { homes, outside }) if !homes.is_empty() => {
            let Some(address) = Address::parse(to.as_bytes()) else {
                return Ok(dropped(to, "the address can't be read".to_owned()));
            };
            if !outside.is_empty() {
                tracing::debug!(to, "a notice goes to those here alone");
            }
            let mut intake = Intake::of_ours(shard, homes.iter().map(|home| home.shard));
            intake.push(return_path("").as_bytes()).await?;
            intake.push(&message).await?;
            let envelope = delivery::Envelope {
                id,
                sender: None,
                peer: None,
                judged: Judged::default(),
                scripts: true,
                alone: homes.len() == 1,
                collected: None,
                once: None,
                others: false,
                require_tls,
            };
            let to_homes = homes.into_iter().map(|home| To { home, address: address.clone() });
            let recipients: Rc<[To]> = to_homes.collect();
            let mut refused = None;
            let stamp = Stamp::default();
            let (results, copies) =
                delivery::settle(intake, &recipients, &[], &stamp, envelope).await;
            copies.stay().await;
            for result in results {
                match result {
                    Ok(_) => return Ok(Fate::Taken),
                    Err(failure) => refused = Some(failure),
                }
            }
            match refused {
                // To wait for room would keep the message, too.
                Some(Failure::Store(error @ (Error::OverQuota | Error::NoSuchAccount(_)))) => {
                    Ok(dropped(to, error.to_string()))
                }
                Some(Failure::Store(error)) => Err(error),
                Some(Failure::Rejected(text)) => {
                    Ok(dropped(to, format!("its recipient refuses it: {text}")))
                }
                None => Ok(dropped(to, "nobody is there".to_owned())),
            }
        }
        Resolution::NoSuchUser => Ok(dropped(to, "there is no such user here".to_owned())),
        reached @ (Resolution::NotOurs | Resolution::Local(_)) => {
            let recipients = match reached {
                Resolution::Local(Reached { outside, .. }) => outside,
                _ => BTreeSet::from([to.to_owned()]),
            };
            let recipient = |to: String| Recipient::new(to, &RecipientParams::default());
            let envelope = Envelope {
                id,
                sender: None,
                account: None,
                recipients: recipients.into_iter().map(recipient).collect(),
                arrived: unix_now(),
                smtp_utf8: !to.is_ascii(),
                require_tls,
                ..Envelope::default()
            };
            let mut submission = Submission::new(shard, Author::Ourselves, envelope, String::new());
            submission.push(&message).await?;
            submission.finish().await.map(|_| Fate::Taken)
        }
    }
}
