//! Whether a modelled state and what is seen are the same; identifiers that the model does not know
//! yet are taken from what is seen.

use super::checker::Rot;
use super::model::{Account, Group, Mailbox, Message, World};
use super::observation::{
    Observation, SeenAccount, SeenBuried, SeenMailbox, SeenMessage, summary_of,
};
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::Error;

/// A retention that never ends within a case.
pub(super) const LONG_MILLIS: u64 = 3_600_000;

/// The model with nothing unknown left.
pub(super) struct Resolved {
    pub(super) world: World,
    /// Letters that cannot be read any more.
    pub(super) spoiled: BTreeSet<u32>,
}

/// The first difference, for a person to read.
pub(super) type Difference = String;

pub(super) fn resolve(
    group: Group,
    model: &World,
    whole: &Observation,
    rot: Rot,
) -> Result<Resolved, Difference> {
    let seen = whole;
    let mut resolved = Resolved { world: model.clone(), spoiled: BTreeSet::new() };
    match group {
        Group::Keys => match_pairs(model, seen)?,
        Group::Account(id) => {
            match (resolved.world.accounts.get_mut(&id), seen.accounts.get(&id)) {
                (Some(account), Some(seen)) => {
                    match_account(account, seen, rot, &mut resolved.spoiled)?;
                    match_gone(account, whole, rot, seen, &mut resolved.spoiled)?;
                }
                (None, None) => {}
                (Some(_), None) => return Err("the account is not there".to_owned()),
                (None, Some(_)) => return Err("the account should not be there".to_owned()),
            }
        }
    }
    Ok(resolved)
}

fn match_pairs(model: &World, seen: &Observation) -> Result<(), Difference> {
    if model.pairs == seen.pairs {
        return Ok(());
    }
    let differs = |key: &&(u8, bytes::Bytes)| model.pairs.get(*key) != seen.pairs.get(*key);
    let keys: BTreeSet<_> = model.pairs.keys().chain(seen.pairs.keys()).filter(differs).collect();
    Err(format!("keys differ from what was put: {keys:?}"))
}

fn match_account(
    model: &mut Account,
    seen: &SeenAccount,
    rot: Rot,
    spoiled: &mut BTreeSet<u32>,
) -> Result<(), Difference> {
    if !model.mailboxes.keys().eq(seen.mailboxes.keys()) {
        let model: Vec<_> = model.mailboxes.keys().collect();
        let seen: Vec<_> = seen.mailboxes.keys().collect();
        return Err(format!("mailboxes {seen:?} instead of {model:?}"));
    }
    if model.subscriptions != seen.subscriptions {
        let (seen, model) = (&seen.subscriptions, &model.subscriptions);
        return Err(format!("subscriptions {seen:?} instead of {model:?}"));
    }
    if model.held != seen.held {
        return Err(format!("on hold: {} instead of {}", seen.held, model.held));
    }
    if model.quota != seen.usage.quota {
        return Err(format!("quota {:?} instead of {:?}", seen.usage.quota, model.quota));
    }
    for ((name, model), seen) in model.mailboxes.iter_mut().zip(seen.mailboxes.values()) {
        match_mailbox(Rc::make_mut(model), seen, rot, spoiled)
            .map_err(|difference| format!("{name:?}: {difference}"))?;
    }
    Ok(())
}

/// What was expunged from INBOX, within the retention, is there to be brought back.
fn match_gone(
    model: &mut Account,
    whole: &Observation,
    rot: Rot,
    seen: &SeenAccount,
    spoiled: &mut BTreeSet<u32>,
) -> Result<(), Difference> {
    if let Some(uid) = seen.buried.keys().find(|uid| !model.gone.contains_key(uid)) {
        return Err(format!("UID {} can be brought back, but it was not expunged", uid.0));
    }
    for (uid, gone) in &model.gone {
        let letter = gone.message.letter.number;
        let buried = seen.buried.get(uid);
        if let Some(SeenBuried { flags, keywords, .. }) = buried
            && (*flags, keywords) != (gone.message.flags, &gone.message.keywords)
        {
            let expected = (gone.message.flags, &gone.message.keywords);
            return Err(format!(
                "UID {} (letter {letter}) has gone with {:?} instead of {expected:?}",
                uid.0,
                (flags, keywords)
            ));
        }
        match buried.map(|buried| &buried.content) {
            None if gone.is_due(whole.now.0, whole.retention_millis, whole.tight) => {
                return Err(format!(
                    "UID {} (letter {letter}), gone since {} and {}kept, can't be brought back at {}",
                    uid.0,
                    gone.at,
                    if gone.kept { "" } else { "not " },
                    whole.now.0
                ));
            }
            Some(Some(Ok(bytes))) => match_bytes(&gone.message, bytes)?,
            Some(Some(Err(Error::Corrupt { .. }))) if rot == Rot::OneByte => {
                spoiled.insert(letter);
            }
            // It was looked at, and then its time was over.
            Some(Some(Err(Error::NoSuchMessage(_)))) if whole.retention_millis < LONG_MILLIS => {}
            Some(Some(Err(error))) => {
                return Err(format!("letter {letter}, which has gone, cannot be read: {error}"));
            }
            Some(None) | None => {}
        }
    }
    model.gone.retain(|uid, _| seen.buried.contains_key(uid));
    for gone in model.gone.values_mut() {
        gone.certain = true;
        gone.kept |= model.held;
    }
    Ok(())
}

fn match_mailbox(
    model: &mut Mailbox,
    seen: &SeenMailbox,
    rot: Rot,
    spoiled: &mut BTreeSet<u32>,
) -> Result<(), Difference> {
    let identity = (seen.info.id, seen.info.uid_validity);
    if model.identity.is_some_and(|known| known != identity) {
        return Err(format!("is {identity:?} instead of {:?}", model.identity));
    }
    model.identity = Some(identity);
    if model.special_use != seen.info.special_use {
        return Err(format!("is {:?} instead of {:?}", seen.info.special_use, model.special_use));
    }
    if let Some(uid) = model.messages.keys().find(|uid| !seen.messages.contains_key(uid)) {
        let letter = model.messages.get(uid).map_or(0, |message| message.letter.number);
        return Err(format!("UID {} (letter {letter}) is gone", uid.0));
    }
    for (uid, message) in &seen.messages {
        let expected = match model.messages.get(uid) {
            Some(expected) => expected.clone(),
            None => take_unnumbered(model, message).ok_or_else(|| {
                let told = |m: &Message| (m.letter.number, m.flags, m.keywords.clone());
                let may_be: Vec<_> = model.unnumbered.iter().chain(&model.unsure).map(told).collect();
                format!(
                    "UID {} (letter {}, {:?} {:?}) should not be there; undeleted may be {may_be:?}",
                    uid.0, message.number, message.flags, message.keywords
                )
            })?,
        };
        match_message(&expected, message, rot, spoiled)
            .map_err(|difference| format!("UID {} {difference}", uid.0))?;
        model.messages.insert(*uid, expected);
    }
    model.unsure.clear();
    match model.unnumbered.first() {
        Some(missing) => Err(format!("letter {} is missing", missing.letter.number)),
        None => Ok(()),
    }
}

/// One of the messages that nobody was told the UID of, if it looks like this.
fn take_unnumbered(model: &mut Mailbox, seen: &SeenMessage) -> Option<Message> {
    let alike = |message: &Message| {
        message.letter.number == seen.number
            && message.flags == seen.flags
            && message.keywords == seen.keywords
            && message.prefix.len() == usize::from(seen.entry.prefix_bytes)
    };
    if let Some(place) = model.unnumbered.iter().position(alike) {
        return Some(model.unnumbered.remove(place));
    }
    let place = model.unsure.iter().position(alike)?;
    Some(model.unsure.remove(place))
}

fn match_message(
    model: &Message,
    seen: &SeenMessage,
    rot: Rot,
    spoiled: &mut BTreeSet<u32>,
) -> Result<(), Difference> {
    let number = model.letter.number;
    if seen.number != number {
        return Err(format!("is letter {} instead of {number}", seen.number));
    }
    if (seen.flags, &seen.keywords) != (model.flags, &model.keywords) {
        let seen = (seen.flags, &seen.keywords);
        return Err(format!("has flags {seen:?} instead of {:?}", (model.flags, &model.keywords)));
    }
    let sizes = (u64::from(seen.entry.bytes), usize::from(seen.entry.prefix_bytes));
    if sizes != (model.bytes(), model.prefix.len()) {
        return Err(format!("has sizes {sizes:?}, {} bytes were sent", model.bytes()));
    }
    match &seen.content {
        None => Ok(()),
        Some(Ok((bytes, summary))) => {
            if summary[..] != summary_of(number)[..] {
                return Err(format!("has summary {summary:?}, its letter is {number}"));
            }
            match_bytes(model, bytes)
        }
        Some(Err(Error::Corrupt { .. })) if rot == Rot::OneByte => {
            spoiled.insert(number);
            Ok(())
        }
        Some(Err(error)) => Err(format!("(letter {number}) cannot be read: {error}")),
    }
}

fn match_bytes(model: &Message, bytes: &[u8]) -> Result<(), Difference> {
    let same =
        bytes.strip_prefix(&model.prefix[..]).is_some_and(|body| body == &model.letter.body[..]);
    if same {
        return Ok(());
    }
    let expected = model.prefix.iter().chain(model.letter.body.iter());
    let at = expected.zip(bytes).take_while(|(sent, read)| sent == read).count();
    Err(format!("(letter {}) has other bytes than were sent, from {at}", model.letter.number))
}
