//! `kura queue`: what waits, why, and what the operator makes of it. Runs on shard 0, asks all.

use super::message::{Envelope, Outcome, Progress};
use super::{ACCOUNT, MAILBOX, Word, command, recorded};
use crate::directory;
use crate::operations::{Fault, on, unix_now};
use crate::relay::route::{route_of, yields};
use crate::shard::Shard;
use crate::submission::hijack::Suspicion;
use crate::submission::suspects;
use crate::when::time_text;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;
use storage::Uid;

/// Looks again at the cores once an account's mail is released.
const SWEEPS_MAX: u32 = 10;

/// Which messages; nothing given: all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Which {
    pub ids: Vec<String>,
    /// Of a recipient.
    pub domain: Option<String>,
    /// Who sent it: the address it comes from, or the account.
    pub sender: Option<String>,
    /// Who has logged in and sent it, or whose script or alias passes it on.
    #[serde(default)]
    pub account: Option<String>,
    /// Seconds that it waits at least.
    pub older_than: Option<u64>,
    pub held: bool,
    /// On hold since somebody else may have sent it.
    #[serde(default)]
    pub suspected: bool,
}

impl Which {
    /// With the account's address as it is recorded, however it was written.
    fn canonical(mut self) -> Which {
        let canonical = |account: String| directory::canonical(&account).unwrap_or(account);
        self.account = self.account.map(canonical);
        self
    }

    /// Whether `word` is meant for a message that fits. By a filter only what is on hold is released, since a time that its sender
    /// wants is no hold; and what somebody else may have sent, only where the account is named, or that.
    fn means(&self, word: Word, progress: &Progress, is_to_be_held: bool) -> bool {
        let is_named = self.suspected || self.account.is_some();
        word != Word::Release
            || !self.ids.is_empty()
            || ((progress.held || is_to_be_held) && (is_named || !progress.is_suspected()))
    }

    fn fits(&self, envelope: &Envelope, progress: &Progress, now: u64) -> bool {
        let id = self.ids.is_empty() || self.ids.contains(&envelope.id);
        let domain = self.domain.as_ref().is_none_or(|domain| {
            envelope.recipients.iter().any(|one| one.domain().eq_ignore_ascii_case(domain))
        });
        let sender = self.sender.as_ref().is_none_or(|sender| {
            let is = |one: &Option<String>| {
                one.as_ref().is_some_and(|one| one.eq_ignore_ascii_case(sender))
            };
            is(&envelope.sender) || is(&envelope.account)
        });
        let account = self.account.as_ref().is_none_or(|account| {
            envelope.account.as_ref().is_some_and(|one| one.eq_ignore_ascii_case(account))
        });
        let age = self.older_than.is_none_or(|least| now >= envelope.arrived + least);
        let held = !self.held || progress.held;
        let suspected = !self.suspected || progress.is_suspected();
        id && domain && sender && account && age && held && suspected
    }

    /// What can't be read has no more than its name, and is meant by that or with everything.
    fn fits_unreadable(&self, name: &str) -> bool {
        if !self.ids.is_empty() {
            return self.ids.iter().any(|id| id == name);
        }
        self.is_whole_of(None) && !self.held && !self.suspected
    }

    /// Whether all messages of an account are meant, or all there are.
    fn is_whole_of(&self, account: Option<&String>) -> bool {
        let Which { ids, domain, sender, account: of, older_than, held: _, suspected: _ } = self;
        ids.is_empty()
            && domain.is_none()
            && sender.is_none()
            && older_than.is_none()
            && of.as_ref() == account
    }
}

struct Found {
    uid: Uid,
    envelope: Envelope,
    progress: Progress,
}

/// A message whose envelope is damaged; named by shard and UID.
struct Unreadable {
    uid: Uid,
    name: String,
    fault: String,
}

/// On this shard.
async fn find(shard: &Shard, which: &Which) -> Result<(Vec<Found>, Vec<Unreadable>), String> {
    let now = unix_now();
    // A store of before, or of a stopped server: there is no queue yet.
    let uids = shard.store.uids(ACCOUNT, MAILBOX).unwrap_or_default();
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for uid in uids {
        match recorded(shard, uid).await {
            Ok((envelope, mut progress)) if which.fits(&envelope, &progress, now) => {
                add_shared(shard, &envelope, &mut progress);
                found.push(Found { uid, envelope, progress });
            }
            Ok(_) => {}
            // It was delivered meanwhile.
            Err(_) if shard.store.entry(ACCOUNT, MAILBOX, uid).is_err() => {}
            Err(fault) => {
                let name = format!("{:x}.uid{}", shard.id, uid.0);
                if which.fits_unreadable(&name) {
                    unreadable.push(Unreadable { uid, name, fault });
                }
            }
        }
    }
    Ok((found, unreadable))
}

/// Where nothing is recorded of a recipient that waits, it is what is known of the destination.
fn add_shared(shard: &Shard, envelope: &Envelope, progress: &mut Progress) {
    if progress.attempts == 0 {
        return;
    }
    let Progress { recipients, .. } = progress;
    for (recipient, standing) in envelope.recipients.iter().zip(recipients) {
        if standing.outcome == Outcome::Waiting && standing.status.is_empty() {
            let route = route_of(&shard.config.smart_hosts, envelope, recipient);
            let known = shard.queue.unreached.why(&route);
            let known = known.or_else(|| {
                let goes_on = yields(envelope).then(|| route.unprotected())?;
                shard.queue.unreached.why(&goes_on)
            });
            *standing = known.unwrap_or_default();
        }
    }
}

/// One row for each message.
pub async fn list(shard: &Rc<Shard>, which: Which) -> Result<Value, Fault> {
    let which = which.canonical();
    let mut rows = Vec::new();
    for home in 0..shard.mesh.cores() {
        let which = which.clone();
        let part = move |shard: Rc<Shard>| async move {
            let (found, unreadable) = find(&shard, &which).await?;
            let now = unix_now();
            let mut rows: Vec<Value> = found.iter().map(|one| row(&shard, one, now)).collect();
            let row = |one: &Unreadable| json!({ "id": one.name, "why": one.fault });
            rows.extend(unreadable.iter().map(row));
            Ok::<_, Fault>(rows)
        };
        rows.extend(on(shard, home, part).await?);
    }
    rows.sort_by_key(|row| row["arrived"].as_u64());
    Ok(Value::Array(rows))
}

fn row(shard: &Shard, found: &Found, now: u64) -> Value {
    let Found { uid, envelope, progress } = found;
    let waiting: Vec<&str> =
        progress.waiting().map(|index| envelope.recipients[index].to.as_str()).collect();
    json!({
        "id": envelope.id,
        "sender": envelope.sender.as_deref().unwrap_or("<>"),
        "recipients": waiting,
        "octets": envelope.octets,
        "arrived": envelope.arrived,
        "waits": now.saturating_sub(envelope.arrived),
        "attempts": progress.attempts,
        "next": if progress.held { Value::Null } else { json!(progress.next) },
        "held": progress.held,
        "release": (progress.start() > now).then(|| progress.start()),
        "why": why(shard, *uid, envelope, progress, now),
    })
}

/// Why a message waits, in words.
fn why(shard: &Shard, uid: Uid, envelope: &Envelope, progress: &Progress, now: u64) -> String {
    let mut said = progress.waiting().map(|index| progress.recipients[index].why.as_str());
    let said = said.find(|why| !why.is_empty()).unwrap_or_default();
    if progress.held {
        let suspected = envelope.suspected.as_ref().filter(|_| progress.released_at == 0);
        let because = suspected.map_or_else(String::new, |why| {
            format!(": {} {why}", envelope.account.as_deref().unwrap_or_default())
        });
        let words = format!("on hold until it is released{because}; {said}");
        return words.trim_end_matches("; ").to_owned();
    }
    if progress.start() > now {
        return format!(
            "is released at {}, as its sender wants",
            time_text(progress.start() * 1000)
        );
    }
    if shard.queue.is_under_way(uid) {
        return format!("is being sent; before: {said}").trim_end_matches("; before: ").to_owned();
    }
    // What was met before the start may be in the log alone.
    match (said, progress.next.saturating_sub(now)) {
        ("", 0) => "has not been tried yet, or not since the start".to_owned(),
        ("", wait) if progress.attempts == 0 => {
            format!("is tried in {wait} s; has not been yet, or not since the start")
        }
        ("", wait) => format!("is tried again in {wait} s"),
        (said, 0) => format!("is tried again now; {said}"),
        (said, wait) => format!("is tried again in {wait} s; {said}"),
    }
}

/// Everything that is known of one message.
pub async fn show(shard: &Rc<Shard>, id: String) -> Result<Value, Fault> {
    for home in 0..shard.mesh.cores() {
        let which = Which { ids: vec![id.clone()], ..Which::default() };
        let part = move |shard: Rc<Shard>| async move {
            let (found, unreadable) = find(&shard, &which).await?;
            if let Some(Unreadable { name, fault, .. }) = unreadable.first() {
                return Err(format!("{name}: {fault} (`kura queue remove {name}` takes it away)"));
            }
            let now = unix_now();
            let Some(one) = found.first() else { return Ok(None) };
            let mut shown = row(&shard, one, now);
            let recipients = one.envelope.recipients.iter().zip(&one.progress.recipients);
            let recipient =
                |(recipient, standing): (&super::message::Recipient, &super::message::Standing)| {
                    let outcome = match standing.outcome {
                        Outcome::Waiting => "waiting",
                        Outcome::Delivered => "delivered",
                        Outcome::Failed => "failed",
                    };
                    json!({
                        "address": recipient.to, "outcome": outcome, "status": standing.status,
                        "host": standing.host, "why": standing.why, "way": standing.way,
                    })
                };
            shown["recipients"] = recipients.map(recipient).collect();
            shown["account"] = json!(one.envelope.account);
            shown["shard"] = json!(shard.id);
            Ok::<_, Fault>(Some(shown))
        };
        if let Some(shown) = on(shard, home, part).await? {
            return Ok(shown);
        }
    }
    Err(format!("no message {id} is in the queue (`kura queue list` shows what is)"))
}

/// What an operator's word came to.
#[derive(Debug, Default, Clone, Copy)]
struct Said {
    messages: u64,
    /// Of these, what has to wait until a try is over.
    later: u64,
    /// What fits, and stays on hold all the same.
    left: u64,
}

/// Says the same of all messages that fit.
pub async fn say(shard: &Rc<Shard>, which: Which, word: Word) -> Result<Value, Fault> {
    let which = which.canonical();
    let account = which.account.clone().filter(|_| word == Word::Release);
    // First, so that nothing more is held.
    let trusted = match account.filter(|account| which.is_whole_of(Some(account))) {
        Some(account) => trust(shard, &account).await?,
        None => None,
    };
    let mut all = say_once(shard, &which, word).await?;
    // A core that was asked early may hold by now what came to it meanwhile.
    for _ in 0..SWEEPS_MAX {
        let last = match trusted {
            Some(_) => say_once(shard, &which, word).await?,
            None => break,
        };
        (all.messages, all.later) = (all.messages + last.messages, all.later + last.later);
        if last.messages == 0 {
            break;
        }
    }
    let Said { messages, later, left } = all;
    if let Some((address, home, suspicion)) = trusted.clone().filter(|_| messages > 0) {
        let tell = move |shard: Rc<Shard>| async move {
            suspects::tell_owner(&shard, &address, &suspicion).await
        };
        if let Err(fault) = on(shard, home, tell).await {
            tracing::warn!(fault, "an account's owner is not told that its mail was kept back");
        }
    }
    if messages == 0 && !which.ids.is_empty() {
        return Err("no such message is in the queue (`kura queue list` shows what is)".to_owned());
    }
    Ok(
        json!({ "messages": messages, "under_way": later, "trusted": trusted.is_some(), "suspected": left }),
    )
}

/// On all cores.
async fn say_once(shard: &Rc<Shard>, which: &Which, word: Word) -> Result<Said, Fault> {
    let mut all = Said::default();
    for home in 0..shard.mesh.cores() {
        let which = which.clone();
        let part = move |shard: Rc<Shard>| async move {
            let (found, unreadable) = find(&shard, &which).await?;
            let is_meant =
                |one: &Found| which.means(word, &one.progress, shard.queue.is_to_be_held(one.uid));
            let (found, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_meant);
            let left = others.iter().filter(|one| one.progress.is_suspected()).count();
            let mut named: Vec<(Uid, String)> =
                found.into_iter().map(|one| (one.uid, one.envelope.id)).collect();
            // Nothing else can be done with them; who names one is told so.
            if word == Word::Remove || !which.ids.is_empty() {
                named.extend(unreadable.into_iter().map(|one| (one.uid, one.name)));
            }
            let mut said = Said { left: left as u64, ..Said::default() };
            for (uid, id) in named {
                let waits = match command(&shard, uid, word).await {
                    Ok(waits) => waits,
                    // It was delivered meanwhile.
                    Err(_) if shard.store.entry(ACCOUNT, MAILBOX, uid).is_err() => continue,
                    Err(fault) => return Err(format!("{id}: {fault}")),
                };
                (said.messages, said.later) = (said.messages + 1, said.later + u64::from(waits));
                tracing::info!(target: crate::NOTICE, id, ?word, "an operator's word about a queued message");
            }
            Ok::<_, Fault>(said)
        };
        let Said { messages, later, left } = on(shard, home, part).await?;
        all.messages += messages;
        all.later += later;
        all.left += left;
    }
    Ok(all)
}

/// Who releases all that an account has sent says that it was its owner. Whose suspicion that ends, if there was one.
async fn trust(shard: &Rc<Shard>, address: &str) -> Result<Option<Trusted>, Fault> {
    let known = shard
        .directory
        .borrow()
        .login(address)
        .map(|(name, account)| (name.to_owned(), account.clone()));
    let Some((address, account)) = known else { return Ok(None) };
    let (home, id, name) = (account.shard, account.id(), address.clone());
    let trust = move |shard| async move { suspects::trust(&shard, id, &name, true).await };
    let suspicion = on(shard, home, trust).await?;
    Ok(suspicion.map(|suspicion| (address, home, suspicion)))
}

/// An account, its home, and of what it was suspected.
type Trusted = (String, u16, Suspicion);
