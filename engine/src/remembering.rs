//! What an operator can ask about the past: bringing expunged mail back, an account as
//! it was, and holds.
//!
//! Runs on shard 0, which knows the addresses; the work is done on the account's home shard. A
//! hold is kept in the directory too, so that the mail of an account that was removed is still
//! found by its address.

use crate::course::Course;
use crate::directory::Held;
use crate::export;
use crate::operations::{Fault, change, existing_account, on, pair, unix_now};
use crate::quarantine::recalled;
use crate::shard::Shard;
use crate::trace::written;
use crate::when::time_text;
use protocols::message::Summary;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use storage::format::UidRange;
use storage::store::{Buried, Undelete};
use storage::{AccountId, Error, Uid, UnixMillis};

/// Listed at the most; the command says how many more there are.
const LISTED_MAX: usize = 1000;
/// Of a subject or an address, in a list.
const TEXT_CHARS_MAX: usize = 60;

/// Of whom an operator speaks: who has an address, or an account on hold that had it
/// and was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removed {
    #[default]
    No,
    /// The only one that there is.
    Only,
    /// By its number.
    Number(u32),
}

/// An account of which something may be remembered.
struct Known {
    id: AccountId,
    home: u16,
    /// It was removed, and is on hold.
    is_removed: bool,
    /// Other accounts had the address before, were removed, and are on hold: their numbers,
    /// the newest first.
    forerunners: Vec<u32>,
}

/// The account at an address; or one that was removed, if it is on hold. Where there are both,
/// `removed` asks for the latter; where there are several, for one of them by its number.
fn anyone(shard: &Shard, address: &str, removed: Removed) -> Result<Known, Fault> {
    let found = existing_account(shard, address);
    let address = address.to_lowercase();
    let there = found.as_ref().map(|(_, account)| account.id).ok();
    let directory = shard.directory.borrow();
    let gone: Vec<&Held> = directory.held(&address).filter(|held| there != Some(held.id)).collect();
    match found {
        Ok((_, account)) if removed == Removed::No => Ok(Known {
            id: account.id(),
            home: account.shard,
            is_removed: false,
            forerunners: gone.iter().map(|held| held.id).collect(),
        }),
        Err(fault) if gone.is_empty() => Err(fault),
        Ok(_) | Err(_) => one_of(&gone, &address, removed).map(|held| Known {
            id: AccountId(held.id),
            home: held.shard,
            is_removed: true,
            forerunners: Vec::new(),
        }),
    }
}

/// Which of those that had an address and were removed is meant.
fn one_of<'h>(gone: &[&'h Held], address: &str, removed: Removed) -> Result<&'h Held, Fault> {
    match (removed, gone) {
        (_, []) => Err(format!("no account that had the address {address} before is on hold")),
        (Removed::No | Removed::Only, [only]) => Ok(only),
        (Removed::No | Removed::Only, several) => Err(format!(
            "{} accounts that had the address {address} were removed and are on hold; say which: {}",
            several.len(),
            numbered(several)
        )),
        (Removed::Number(number), _) => {
            let found = gone.iter().copied().find(|held| held.id == number);
            found.ok_or_else(|| {
                format!(
                    "no account with the number {number} had the address {address}, was removed and is on hold; there is {}",
                    numbered(gone)
                )
            })
        }
    }
}

/// How to name each of them.
fn numbered(held: &[&Held]) -> String {
    let one = |held: &&Held| {
        format!("--removed={} (on hold since {})", held.id, time_text(held.since_unix * 1000))
    };
    held.iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(crate) struct Which {
    pub(crate) address: String,
    pub(crate) since: u64,
    pub(crate) mailbox: Option<String>,
    pub(crate) uids: Option<Vec<(u32, u32)>>,
}

impl Which {
    fn wanted(&self) -> Undelete {
        let range = |(first, last): &(u32, u32)| UidRange { first: Uid(*first), last: Uid(*last) };
        Undelete {
            since: UnixMillis(self.since),
            mailbox: self.mailbox.clone(),
            uids: self.uids.as_ref().map(|uids| uids.iter().map(range).collect()),
        }
    }
}

pub(crate) async fn undelete_list(
    shard: &Rc<Shard>,
    which: Which,
    removed: Removed,
) -> Result<Value, Fault> {
    let Known { id, home, is_removed, forerunners } = anyone(shard, &which.address, removed)?;
    let wanted = which.wanted();
    let (rows, all) = on(shard, home, move |shard| async move {
        let (buried, all) = match shard.store.buried(id, &wanted, LISTED_MAX) {
            // It was removed, and had no mail.
            Err(Error::NoSuchAccount(_)) => (Vec::new(), 0),
            found => found?,
        };
        let mut rows = Vec::with_capacity(buried.len());
        for one in buried {
            let summary = shard.store.buried_summary(id, one.mailbox, one.uid).await;
            let (from, subject) = summary.map(|bytes| headline(&bytes)).unwrap_or_default();
            rows.push(row(&one, &from, &subject));
        }
        Ok::<_, Error>((rows, all))
    })
    .await?;
    Ok(json!({
        "account": which.address.to_lowercase(), "messages": rows, "all": all,
        "is_removed": is_removed, "forerunners": forerunners,
    }))
}

/// A wrong year would look like lost mail.
pub(crate) fn refuse_future(time: u64) -> Result<(), Fault> {
    match time > crate::delivery::unix_millis().0 {
        true => Err(format!("{} is in the future; nobody knows yet", time_text(time))),
        false => Ok(()),
    }
}

fn row(one: &Buried, from: &str, subject: &str) -> Value {
    json!({
        "mailbox": one.mailbox_name,
        "uid": one.uid.0,
        "expunged": time_text(one.gone.0),
        "bytes": one.bytes,
        "from": from,
        "subject": subject,
    })
}

/// From and subject as they stand in the header, as far as they are text.
fn headline(summary: &[u8]) -> (String, String) {
    let Ok(summary) = Summary::decode(summary) else { return Default::default() };
    let Some(envelope) = summary.envelope() else { return Default::default() };
    let text = |bytes: &[u8]| -> String {
        let text = String::from_utf8_lossy(bytes);
        text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
    };
    let from = envelope.from.first().map(|address| {
        let part = |part: &Option<Vec<u8>>| part.as_deref().map(text).unwrap_or_default();
        format!("{}@{}", part(&address.mailbox), part(&address.host))
    });
    let subject = envelope.subject.as_deref().map(written);
    (from.unwrap_or_default(), subject.unwrap_or_default())
}

/// Writes what has gone to the directory `to`.
pub(crate) async fn export_buried(
    shard: &Rc<Shard>,
    which: Which,
    removed: Removed,
    to: PathBuf,
    course: Arc<Course>,
) -> Result<Value, Fault> {
    let Known { id, home, .. } = anyone(shard, &which.address, removed)?;
    let (wanted, name) = (which.wanted(), which.address.to_lowercase());
    on(shard, home, move |shard| async move {
        let past = shard.store.buried_account(id, &wanted).map_err(|error| match error {
            Error::NoSuchAccount(_) => format!("nothing is kept of {name}: it had no mail"),
            other => other.to_string(),
        })?;
        let (messages, damaged) = export::maildir(&shard, &past, &to, &course).await?;
        Ok::<_, Fault>(json!({
            "account": name, "directory": to.display().to_string(),
            "mailboxes": past.mailboxes.len(), "messages": messages, "damaged": damaged,
        }))
    })
    .await
}

pub(crate) async fn undelete(
    shard: &Rc<Shard>,
    which: Which,
    over_quota: bool,
) -> Result<Value, Fault> {
    let (_, account) = existing_account(shard, &which.address).map_err(|fault| {
        match anyone(shard, &which.address, Removed::Only) {
            Ok(_) => format!(
                "{fault}; it was removed, and its mail is on hold: --export DIR writes it to a directory"
            ),
            Err(_) => fault,
        }
    })?;
    let (id, wanted) = (account.id(), which.wanted());
    let (back, _durable) = on(shard, account.shard, move |shard| async move {
        let noted = recalled::buried(&shard, id).map_err(|error| error.to_string())?;
        let back = shard.store.undelete(id, &wanted, over_quota).await;
        // Also what has come back before an error.
        if let Some(noted) = noted
            && let Err(error) = recalled::carry_over(&shard, id, &noted).await
        {
            tracing::warn!(account = id.0, %error, "what lies in quarantine again has lost its reason");
        }
        back.map_err(|error| match error {
            Error::OverQuota => {
                "the account's quota has no room for all of them; choose fewer with \
                 --mailbox or --uid, or give --over-quota"
                    .to_owned()
            }
            other => other.to_string(),
        })
    })
    .await?;
    let messages: u64 = back.iter().map(|(_, messages)| messages).sum();
    let mailboxes: Vec<Value> = back
        .into_iter()
        .map(|(mailbox, messages)| json!({ "mailbox": mailbox, "messages": messages }))
        .collect();
    Ok(
        json!({ "account": which.address.to_lowercase(), "messages": messages, "mailboxes": mailboxes }),
    )
}

/// Shows the account as it was in a tree of its own, or writes it to `to`.
pub(crate) async fn restore_at(
    shard: &Rc<Shard>,
    address: &str,
    at: u64,
    to: Option<(PathBuf, Arc<Course>)>,
    over_quota: bool,
    removed: Removed,
) -> Result<Value, Fault> {
    refuse_future(at)?;
    let (id, home) = match to {
        Some(_) => anyone(shard, address, removed).map(|known| (known.id, known.home))?,
        None => existing_account(shard, address).map(|(_, one)| (one.id(), one.shard))?,
    };
    let root = format!("Restored {}", time_text(at).replace(':', "."));
    let address = address.to_lowercase();
    let name = address.clone();
    on(shard, home, move |shard| async move {
        let past = shard.store.as_of(id, UnixMillis(at)).await;
        let mut past = past.map_err(|error| explain(&error, &name, at))?;
        // What was kept back from its owner then is not handed over now.
        past.mailboxes.retain(|mailbox| mailbox.name != storage::index::names::QUARANTINE);
        if let Some((to, course)) = to {
            let (messages, damaged) = export::maildir(&shard, &past, &to, &course).await?;
            return Ok(json!({
                "account": name, "at": time_text(at), "directory": to.display().to_string(),
                "mailboxes": past.mailboxes.len(), "messages": messages, "damaged": damaged,
                "records_lost": past.records_lost,
            }));
        }
        let shown = shard.store.show(&past, &root, over_quota).await;
        let (messages, missing, _durable) = shown.map_err(|error| match error {
            Error::OverQuota => {
                "the account's quota has no room for a second look at its mail; give \
                 --over-quota, or --export it to a directory"
                    .to_owned()
            }
            Error::MailboxExists(name) => {
                format!("there is a mailbox {name:?} already; delete it first")
            }
            Error::MailboxName(..) | Error::Limit(_) => {
                format!("{error}; nothing was made: --export it to a directory instead")
            }
            other => other.to_string(),
        })?;
        Ok::<_, Fault>(json!({
            "account": name, "at": time_text(at), "tree": root,
            "mailboxes": past.mailboxes.len(), "messages": messages, "damaged": missing,
            "records_lost": past.records_lost,
        }))
    })
    .await
}

fn explain(error: &Error, address: &str, at: u64) -> Fault {
    match error {
        Error::NotRemembered(Some(oldest)) => format!(
            "{} is before what is remembered; the oldest time to go back to is {}",
            time_text(at),
            time_text(oldest.0 + 999)
        ),
        Error::NotRemembered(None) => {
            "nothing is remembered; set `retention` in the config file's [store]".to_owned()
        }
        Error::NoSuchAccount(_) => format!("{address} was not there at {}", time_text(at)),
        other => other.to_string(),
    }
}

pub(crate) async fn hold_add(shard: &Rc<Shard>, address: &str) -> Result<Value, Fault> {
    let (address, account) = existing_account(shard, address)?;
    let id = account.id();
    on(
        shard,
        account.shard,
        move |shard| async move { shard.store.set_hold(id, true).await.map(drop) },
    )
    .await?;
    let mut held: Vec<Held> = shard.directory.borrow().held(&address).cloned().collect();
    if held.iter().all(|one| one.id != account.id) {
        let since_unix = unix_now();
        held.insert(
            0,
            Held { id: account.id, shard: account.shard, since_unix, forerunners: Vec::new() },
        );
        put_held(shard, &address, held).await?;
    }
    Ok(json!({ "address": address, "held": true }))
}

/// All that are on hold at an address, the newest first.
pub(crate) async fn put_held(
    shard: &Rc<Shard>,
    address: &str,
    held: Vec<Held>,
) -> Result<(), Fault> {
    let mut held = held.into_iter().map(|one| Held { forerunners: Vec::new(), ..one });
    let newest = held.next().map(|newest| {
        let mut forerunners: Vec<Held> = held.collect();
        forerunners.reverse();
        Held { forerunners, ..newest }
    });
    change(shard, vec![pair("h:", address, newest.as_ref())]).await
}

/// `removed`: of an account that was removed, with which its mail goes for good.
pub(crate) async fn hold_remove(
    shard: &Rc<Shard>,
    address: &str,
    removed: Removed,
) -> Result<Value, Fault> {
    let address = address.to_lowercase();
    let there = existing_account(shard, &address).map(|(_, account)| account.id).ok();
    let mut held: Vec<Held> = shard.directory.borrow().held(&address).cloned().collect();
    if held.is_empty() {
        return Err(format!("{address} is not on hold; `kura account hold list` shows who is"));
    }
    let gone: Vec<&Held> = held.iter().filter(|one| there != Some(one.id)).collect();
    let id = match removed {
        Removed::No => there.filter(|there| held.iter().any(|one| one.id == *there)).ok_or_else(|| {
            let which: Vec<String> = match gone[..] {
                [_] => vec!["--removed".to_owned()],
                _ => gone.iter().map(|one| format!("--removed={}", one.id)).collect(),
            };
            let (first, all) = (&which[0], which.join(" or "));
            format!(
                "what is on hold is the mail of an account that had the address {address} and was removed: with the \
                 hold it is gone for good. Write it to a directory first (`kura store undelete --account {address} \
                 --since 3650d {first} --export DIR`), then add {all}"
            )
        })?,
        Removed::Only | Removed::Number(_) => one_of(&gone, &address, removed)?.id,
    };
    let Some(position) = held.iter().position(|one| one.id == id) else {
        return Err(format!("{address} is not on hold"));
    };
    let Held { shard: home, .. } = held.remove(position);
    on(shard, home, move |shard| async move {
        match shard.store.set_hold(AccountId(id), false).await {
            // Removed, and nothing of it was left.
            Ok(_) | Err(Error::NoSuchAccount(_)) => Ok(()),
            Err(other) => Err(other),
        }
    })
    .await?;
    put_held(shard, &address, held).await.map_err(|fault| {
        format!(
            "the hold on {address} is off, but `kura account hold list` names it still, since that could not be written ({fault}): \
             run this again"
        )
    })?;
    Ok(
        json!({ "address": address, "held": false, "removed": removed != Removed::No, "number": id }),
    )
}

pub(crate) fn hold_list(shard: &Shard) -> Value {
    let directory = shard.directory.borrow();
    let rows = directory.holds().map(|(address, held)| {
        let is_there = directory.account(address).is_some_and(|account| account.id == held.id);
        json!({
            "address": address,
            "since": time_text(held.since_unix * 1000),
            "account": if is_there { "there" } else { "removed" },
            "number": held.id,
        })
    });
    Value::Array(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_of_several_removed_accounts_is_meant_is_said_by_its_number() {
        let held = |id| Held { id, shard: 0, since_unix: 0, forerunners: Vec::new() };
        let (older, newer) = (held(4), held(9));
        let found = |gone: &[&Held], removed| one_of(gone, "gus@a.test", removed).map(|one| one.id);
        assert_eq!(found(&[&newer], Removed::No), Ok(9));
        assert_eq!(found(&[&newer], Removed::Only), Ok(9));
        assert_eq!(found(&[&newer, &older], Removed::Number(4)), Ok(4));
        assert_eq!(found(&[&newer, &older], Removed::Number(9)), Ok(9));
        for removed in [Removed::No, Removed::Only] {
            let said = found(&[&newer, &older], removed).unwrap_err();
            assert!(said.contains("2 accounts that had the address gus@a.test"), "{said}");
            assert!(
                said.contains("--removed=9 (on hold since 1970-") && said.contains("--removed=4"),
                "{said}"
            );
        }
        let said = found(&[&newer, &older], Removed::Number(5)).unwrap_err();
        assert!(said.contains("number 5") && said.contains("--removed=9"), "{said}");
        assert!(found(&[], Removed::Only).unwrap_err().contains("before is on hold"));
    }
}
