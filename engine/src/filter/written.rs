//! Whom an account has written to: mail from there is expected.
//!
//! What leaves by an account's login makes its recipients known to that account alone. Key space 40
//! of its home shard, by its number (u32, big-endian); the value has the beginning of SHA-256 of
//! each address in lower case (8 bytes), the one written to last at the end, at most [`KNOWN_MAX`].
//!
//! Anybody can put a known address into `From`: it counts only where DMARC proves it
//! ([`scoring`](crate::session::smtp)), and only when each account that the message is for has
//! written there, since one verdict is for all.

use super::Hit;
use super::senders::Sender;
use super::{is_gone, key};
use crate::directory::Home;
use crate::shard::Shard;
use std::collections::HashSet;
use std::rc::Rc;
use storage::store::Space;
use storage::{AccountId, Error};

pub const SPACE: Space = Space(40);
/// Addresses that one account knows: 4 KB.
const KNOWN_MAX: usize = 500;
const ENTRY_BYTES: usize = 8;
/// Recipients of one message that become known: who writes to more writes to nobody in particular.
const LEARNED_MAX: usize = 50;
/// Accounts that are asked about one message.
const ASKED_MAX: usize = 16;

/// What `value` becomes once these have been written to; `None`: nothing is to be written. Who is
/// among the newer half stays where it is, or each message to a friend would be a record.
fn with(value: &[u8], more: &[Sender]) -> Option<Vec<u8>> {
    let mut all: Vec<[u8; ENTRY_BYTES]> = value.as_chunks().0.to_vec();
    let before = all.len();
    let newer = all.get(before.saturating_sub(KNOWN_MAX / 2)..).unwrap_or_default().to_vec();
    let mut is_changed = false;
    for sender in more.iter().map(|sender| sender.bytes()) {
        if newer.contains(&sender) {
            continue;
        }
        all.retain(|known| *known != sender);
        all.push(sender);
        is_changed = true;
    }
    let kept = &all[all.len().saturating_sub(KNOWN_MAX)..];
    is_changed.then(|| kept.concat())
}

/// Somebody who has logged in as `user` has sent a message to these.
pub fn learn<'a>(shard: &Rc<Shard>, user: &str, recipients: impl Iterator<Item = &'a str>) {
    if shard.config.spam.written_to == 0.0 {
        return;
    }
    let home = {
        let directory = shard.directory.borrow();
        directory.login(user).map(|(_, account)| (account.id(), account.shard))
    };
    let Some((account, home)) = home else { return };
    let senders: Vec<Sender> =
        recipients.take(LEARNED_MAX).map(|one| Sender::named(&one.to_lowercase())).collect();
    // A shard that is too busy to hear of it has other worries.
    let _ = shard.mesh.tell(home, move |shard| async move {
        if let Err(error) = remember(&shard, account, &senders).await {
            tracing::warn!(account = account.0, %error, "whom it has written to was not remembered");
        }
    });
}

/// On the account's home shard.
pub(super) async fn remember(
    shard: &Rc<Shard>,
    account: AccountId,
    senders: &[Sender],
) -> Result<(), Error> {
    // Two messages of one account read the same value, or the first would be forgotten.
    let _turn = shard.learning_turn.lock().await;
    if is_gone(shard, account) {
        return Ok(());
    }
    let before = shard.store.get(SPACE, &key(account)).unwrap_or_default();
    if let Some(after) = with(&before, senders) {
        let _durable = shard.store.put(SPACE, vec![(key(account), Some(after.into()))]).await?;
    }
    Ok(())
}

/// The rule, where all of these have written to the sender, whom the caller has proof of.
pub async fn hit(shard: &Rc<Shard>, homes: Vec<Home>, sender: Sender) -> Option<Hit> {
    let score = shard.config.spam.written_to;
    if score == 0.0 || homes.is_empty() || homes.len() > ASKED_MAX {
        return None;
    }
    for Home { shard: home, account, .. } in homes {
        let ask = move |shard: Rc<Shard>| async move { knows(&shard, account, sender) };
        if !matches!(shard.mesh.ask(home, ask).await, Ok(true)) {
            return None;
        }
    }
    let reason = "who it is for has written to its sender before".to_owned();
    Some(Hit { rule: "WRITTEN_TO".to_owned(), score, reason, of_content: false })
}

/// How many of these an account has not written to; on its home shard. `None`: nobody remembers
/// whom accounts write to.
pub fn strangers(shard: &Shard, account: AccountId, to: &[String]) -> Option<usize> {
    if shard.config.spam.written_to == 0.0 {
        return None;
    }
    let value = shard.store.get(SPACE, &key(account)).unwrap_or_default();
    let known: HashSet<[u8; ENTRY_BYTES]> = value.as_chunks().0.iter().copied().collect();
    let is_unknown = |one: &&String| !known.contains(&Sender::named(&one.to_lowercase()).bytes());
    Some(to.iter().filter(is_unknown).count())
}

fn knows(shard: &Shard, account: AccountId, sender: Sender) -> bool {
    let value = shard.store.get(SPACE, &key(account)).unwrap_or_default();
    value.as_chunks().0.contains(&sender.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: usize) -> Sender {
        Sender::named(&format!("{number}@a.test"))
    }

    #[test]
    fn the_last_ones_are_known_and_a_friend_costs_one_record() {
        let mut value = Vec::new();
        for number in 0..KNOWN_MAX + 10 {
            value = with(&value, &[sender(number)]).unwrap();
        }
        let known = |value: &[u8], number| value.as_chunks().0.contains(&sender(number).bytes());
        assert_eq!(value.len(), KNOWN_MAX * ENTRY_BYTES);
        assert!(!known(&value, 9) && known(&value, 10) && known(&value, KNOWN_MAX + 9));
        assert_eq!(with(&value, &[sender(KNOWN_MAX)]), None, "it is among the newer ones");
        let renewed = with(&value, &[sender(10)]).unwrap();
        assert_eq!(renewed.len(), value.len());
        assert!(renewed.ends_with(&sender(10).bytes()));
        let twice = with(&[], &[sender(1), sender(1)]).unwrap();
        assert_eq!(twice.len(), ENTRY_BYTES);
        assert_eq!(with(&[1, 2, 3], &[sender(1)]).unwrap().len(), ENTRY_BYTES, "cut short");
    }
}
