//! The signed links of a digest, and what follows when somebody opens one.
//!
//! A link is its own proof: version, action, account, message (UID and since when it is kept) and
//! an end, under HMAC-SHA-256 with a key of this host that is made once and kept in the directory's
//! key space (`q:links`). So nothing has to be remembered of links that were sent, and nobody who
//! can't read the account's mail has one. Looking at a link changes nothing, since programs that
//! scan mail look at all of them (RFC 8058 section 1); its page has a button.
//!
//! What is not signed by us is answered alike, whatever it says: nobody learns whether an
//! account or a message exists. Whether a link was used is not noted either: the message is
//! not there any more.

use super::actions;
use super::kept;
use super::{By, Reason};
use crate::host_key::HostKey;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::shard::Shard;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use std::rc::Rc;
use storage::{AccountId, Error, Uid};

const VERSION: u8 = 1;
const PAYLOAD_BYTES: usize = 26;
const PROOF_BYTES: usize = 32;
/// In front of what is signed: the key is used for nothing else, should it ever be.
const PURPOSE: &[u8] = b"kura quarantine link\0";
/// Where the key is in the directory.
pub const KEY_NAME: &str = "links";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Release,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub action: Action,
    pub account: AccountId,
    pub uid: Uid,
    /// Since when the message is kept, in Unix seconds: a UID alone might come again in a store
    /// that was restored.
    pub since: u64,
    /// Good before then, in Unix seconds.
    pub until: u64,
}

impl Link {
    fn payload(&self) -> [u8; PAYLOAD_BYTES] {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[0] = VERSION;
        payload[1] = self.action as u8;
        payload[2..6].copy_from_slice(&self.account.0.to_be_bytes());
        payload[6..10].copy_from_slice(&self.uid.0.to_be_bytes());
        payload[10..18].copy_from_slice(&self.since.to_be_bytes());
        payload[18..26].copy_from_slice(&self.until.to_be_bytes());
        payload
    }

    /// As it stands in the address of its page.
    pub fn token(&self, key: &HostKey) -> String {
        let payload = self.payload();
        let proof = hmac::sign(&key.signing(), &[PURPOSE, &payload].concat());
        URL_SAFE_NO_PAD.encode([&payload, proof.as_ref()].concat())
    }

    /// `None`: we did not sign it. In the same time, whatever is wrong with the proof.
    pub fn open(token: &str, key: &HostKey) -> Option<Link> {
        if token.len() > 2 * (PAYLOAD_BYTES + PROOF_BYTES) {
            return None;
        }
        let octets = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (payload, proof) = octets.split_first_chunk::<PAYLOAD_BYTES>()?;
        hmac::verify(&key.signing(), &[PURPOSE, payload].concat(), proof).ok()?;
        let action = match (payload[0], payload[1]) {
            (VERSION, 0) => Action::Release,
            (VERSION, 1) => Action::Delete,
            _ => return None,
        };
        let number = |from: usize, to: usize| {
            payload[from..to].iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet))
        };
        Some(Link {
            action,
            account: AccountId(u32::try_from(number(2, 6)).ok()?),
            uid: Uid(u32::try_from(number(6, 10)).ok()?),
            since: number(10, 18),
            until: number(18, 26),
        })
    }
}

/// What whoever opens a link gets to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What would be done, to which message.
    Ask {
        action: Action,
        from: String,
        subject: String,
        why: &'static str,
    },
    Done(Action),
    /// Released, deleted or expunged before.
    Gone,
    Expired,
    /// Not one of ours.
    Forged,
    /// It is for the operator to let it out.
    Harmful(Reason),
    Busy,
}

/// On shard 0: what a link leads to; `act`: its button was pressed.
pub async fn answer(shard: Rc<Shard>, token: String, act: bool) -> Answer {
    let key = shard.directory.borrow().host_key(KEY_NAME).cloned();
    let Some(link) = key.and_then(|key| Link::open(&token, &key)) else {
        count(&shard.metrics.quarantine.forged);
        return Answer::Forged;
    };
    if link.until <= unix_now() {
        return Answer::Expired;
    }
    let home = {
        let directory = shard.directory.borrow();
        let mut accounts = directory.accounts();
        accounts.find(|(_, one)| one.id() == link.account).map(|(_, one)| one.shard)
    };
    let Some(home) = home else { return Answer::Gone };
    let asked = shard.mesh.ask(home, move |shard| async move { at_home(&shard, link, act).await });
    asked.await.unwrap_or(Answer::Busy)
}

async fn at_home(shard: &Rc<Shard>, link: Link, act: bool) -> Answer {
    let Link { action, account, uid, since, .. } = link;
    let quarantine = shard.store.quarantine(account).ok().flatten().map(|info| info.id);
    let Some(quarantine) = quarantine else { return Answer::Gone };
    let Ok(entry) = shard.store.entry(account, quarantine, uid) else { return Answer::Gone };
    let note = match kept::note(shard, account, quarantine, &entry).await {
        Ok(note) => note,
        Err(Error::NoSuchMessage(_)) => return Answer::Gone,
        Err(error) => {
            tracing::warn!(account = account.0, uid = uid.0, %error, "a link could not be followed");
            return Answer::Busy;
        }
    };
    if note.since / 1000 != since {
        return Answer::Gone;
    }
    if action == Action::Release && note.reason.is_harmful() {
        return Answer::Harmful(note.reason);
    }
    if !act {
        return match kept::look(shard, account, quarantine, &entry).await {
            Ok(kept) => {
                let why = kept.reason.words();
                Answer::Ask { action, from: kept.from, subject: kept.subject, why }
            }
            Err(_) => Answer::Busy,
        };
    }
    let done = match action {
        Action::Release => {
            let released = actions::release(shard, account, &[uid], false, By::Link).await;
            released.map(|released| released.released.len())
        }
        Action::Delete => {
            actions::delete(shard, account, &[uid], By::Link).await.map(|gone| gone.len())
        }
    };
    match done {
        Ok(0) => Answer::Gone,
        Ok(_) => Answer::Done(action),
        Err(error) => {
            tracing::warn!(account = account.0, uid = uid.0, %error, "a link could not be followed");
            Answer::Busy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link {
            action: Action::Delete,
            account: AccountId(70_000),
            uid: Uid(7),
            since: 1_795_711_599,
            until: 1_798_303_599,
        }
    }

    #[test]
    fn a_link_is_what_was_signed_and_nothing_else() {
        let key = HostKey([7; 32]);
        let token = link().token(&key);
        assert_eq!(Link::open(&token, &key), Some(link()));
        assert_eq!(Link::open(&token, &HostKey([8; 32])), None);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            // The last digit has bits that stand for nothing; then it is no base64 at all.
            assert_eq!(Link::open(&forged, &key), None, "{at}");
        }
        for cut in 0..token.len() {
            assert_eq!(Link::open(&token[..cut], &key), None);
        }
        assert_eq!(Link::open(&(token.clone() + "AAAA"), &key), None);
        assert_eq!(Link::open(&"A".repeat(100_000), &key), None);
    }

    #[test]
    fn every_part_is_bound() {
        let key = HostKey([7; 32]);
        let others = [
            Link { action: Action::Release, ..link() },
            Link { account: AccountId(70_001), ..link() },
            Link { uid: Uid(8), ..link() },
            Link { since: 0, ..link() },
            Link { until: u64::MAX, ..link() },
        ];
        for other in others {
            assert_ne!(other.token(&key), link().token(&key));
            // One payload with the other's proof.
            let mut octets = URL_SAFE_NO_PAD.decode(link().token(&key)).unwrap();
            octets[..PAYLOAD_BYTES].copy_from_slice(&other.payload());
            assert_eq!(Link::open(&URL_SAFE_NO_PAD.encode(octets), &key), None);
        }
    }
}
