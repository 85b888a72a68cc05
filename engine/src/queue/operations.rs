//! `kura queue`: what waits, why, and what the operator makes of it. Runs on shard 0, asks all.

use super::message::{Envelope, Outcome, Progress};
use super::{ACCOUNT, MAILBOX, Word, command, recorded};
use crate::core::give_way;
use crate::directory;
use crate::operations::{Fault, on, unix_now};
use crate::relay::route::{route_of, yields};
use crate::shard::Shard;
use crate::submission::hijack::Suspicion;
use crate::submission::suspects;
use crate::when::time_text;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::rc::Rc;
use storage::Uid;

/// Looks again at the cores once an account's mail is released.
const SWEEPS_MAX: u32 = 10;
/// Listed at the most, those that have waited longest; the command says how many there
/// are. Of all, a page.
const LISTED_MAX: usize = 1000;
/// Messages of a core that are looked at, and told something, before others have their turn. What
/// they are told together takes a flush or two.
const AT_ONCE: usize = 256;
/// The sender of notices.
const NOBODY: &str = "<>";
/// In the name of what can't be read, behind the core's.
const UNREADABLE: &str = "uid";

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
    /// Who sent it, or waits for it.
    #[serde(default)]
    pub party: Option<String>,
}

/// How far a list of all has come: behind this message of this core.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Place {
    core: u16,
    uid: u32,
}

impl Which {
    /// With the account's address as it is recorded, however it was written.
    fn canonical(mut self) -> Which {
        let canonical = |account: String| directory::canonical(&account).unwrap_or(account);
        self.account = self.account.map(canonical);
        self
    }

    /// Whether `word` is meant for a message that fits. By a filter only what is on hold is
    /// released, since a time that its sender wants is no hold; and what somebody else may have
    /// sent, only where the account is named, or that.
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
        let party = self.party.as_ref().is_none_or(|party| {
            let is = |one: &str| one.eq_ignore_ascii_case(party);
            is(envelope.sender.as_deref().unwrap_or(NOBODY))
                || progress.waiting().any(|index| is(&envelope.recipients[index].to))
        });
        id && domain && sender && account && age && held && suspected && party
    }

    /// Whether everything that is in the queue fits.
    fn is_everything(&self) -> bool {
        self.is_whole_of(None) && !self.held && !self.suspected
    }

    /// What there is to look at on a core, behind `uid` and at most `count`. Each name begins with
    /// the core that has given it, and has the message in its queue.
    fn candidates(&self, shard: &Shard, uid: Uid, count: usize) -> Vec<Uid> {
        let here = |id: &&String| core_of(id).is_none_or(|core| core == shard.id);
        let named = self.ids.iter().filter(here).map(|id| uid_of(id));
        match named.collect::<Option<BTreeSet<Uid>>>().filter(|_| !self.ids.is_empty()) {
            Some(named) => named.into_iter().filter(|one| *one > uid).take(count).collect(),
            // A store of before, or of a stopped server: there is no queue yet.
            None => shard.store.uids_behind(ACCOUNT, MAILBOX, uid, count).unwrap_or_default(),
        }
    }

    /// The same of all.
    fn all_candidates(&self, shard: &Shard) -> Vec<Uid> {
        self.candidates(shard, Uid(0), usize::MAX)
    }

    /// What can't be read has no more than its name, and is meant by that or with everything.
    fn fits_unreadable(&self, name: &str) -> bool {
        if !self.ids.is_empty() {
            return self.ids.iter().any(|id| id == name);
        }
        self.is_everything()
    }

    /// Whether all messages of an account are meant, or all there are.
    fn is_whole_of(&self, account: Option<&String>) -> bool {
        let Which { ids, domain, sender, account: of, older_than, held: _, suspected: _, party } =
            self;
        ids.is_empty()
            && domain.is_none()
            && sender.is_none()
            && older_than.is_none()
            && party.is_none()
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

fn core_of(id: &str) -> Option<u16> {
    u16::from_str_radix(id.split_once('.')?.0, 16).ok()
}

fn uid_of(id: &str) -> Option<Uid> {
    id.split_once('.')?.1.strip_prefix(UNREADABLE)?.parse().ok().map(Uid)
}

/// Those of `uids` that fit, on this shard.
async fn look(shard: &Shard, which: &Which, uids: &[Uid]) -> Vec<Result<Found, Unreadable>> {
    let now = unix_now();
    let mut found = Vec::new();
    for &uid in uids {
        match recorded(shard, uid).await {
            Ok((envelope, mut progress)) if which.fits(&envelope, &progress, now) => {
                add_shared(shard, &envelope, &mut progress);
                found.push(Ok(Found { uid, envelope, progress }));
            }
            Ok(_) => {}
            // It was delivered meanwhile.
            Err(_) if shard.store.entry(ACCOUNT, MAILBOX, uid).is_err() => {}
            Err(fault) => {
                let name = format!("{:x}.{UNREADABLE}{}", shard.id, uid.0);
                if which.fits_unreadable(&name) {
                    found.push(Err(Unreadable { uid, name, fault }));
                }
            }
        }
    }
    give_way().await;
    found
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

/// One row for each message, of those that have waited longest.
pub async fn list(shard: &Rc<Shard>, which: Which) -> Result<Value, Fault> {
    let which = which.canonical();
    let (mut rows, mut all) = (Vec::new(), 0);
    for home in 0..shard.mesh.cores() {
        let which = which.clone();
        let part = move |shard: Rc<Shard>| async move {
            let (mut rows, mut all) = (Vec::new(), 0);
            // In the order in which they came.
            let mut uids = which.all_candidates(&shard);
            if which.is_everything() && uids.len() > LISTED_MAX {
                all += uids.split_off(LISTED_MAX).len();
            }
            for uids in uids.chunks(AT_ONCE) {
                let found = look(&shard, &which, uids).await;
                all += found.len();
                let room = LISTED_MAX.saturating_sub(rows.len());
                rows.extend(found.iter().take(room).map(|one| row_of(&shard, one)));
            }
            Ok::<_, Fault>((rows, all))
        };
        let (some, count) = on(shard, home, part).await?;
        rows.extend(some);
        all += count;
    }
    rows.sort_by_key(|row: &Value| row["arrived"].as_u64());
    rows.truncate(LISTED_MAX);
    Ok(json!({ "cut": all > rows.len(), "messages": rows, "all": all }))
}

/// The next rows for who wants all of them, however many there are: core by core, behind `place`.
pub async fn page(shard: &Rc<Shard>, which: Which, place: Place) -> Result<Value, Fault> {
    let which = which.canonical();
    let part = move |shard: Rc<Shard>| async move {
        let (mut rows, mut last) = (Vec::new(), Uid(place.uid));
        while rows.len() <= LISTED_MAX - AT_ONCE {
            let uids = which.candidates(&shard, last, AT_ONCE);
            match uids.last() {
                Some(uid) => last = *uid,
                None => return Ok((rows, None)),
            }
            let found = look(&shard, &which, &uids).await;
            rows.extend(found.iter().map(|one| row_of(&shard, one)));
        }
        Ok::<_, Fault>((rows, Some(last.0)))
    };
    let (rows, last) = on(shard, place.core, part).await?;
    let next = match last {
        Some(uid) => Some(Place { uid, ..place }),
        None => Some(Place { core: place.core + 1, uid: 0 }),
    };
    let next = next.filter(|next| next.core < shard.mesh.cores());
    Ok(json!({ "messages": rows, "next": next }))
}

fn row_of(shard: &Shard, found: &Result<Found, Unreadable>) -> Value {
    match found {
        Ok(found) => row(shard, found, unix_now()),
        Err(Unreadable { name, fault, .. }) => json!({ "id": name, "why": fault }),
    }
}

fn row(shard: &Shard, found: &Found, now: u64) -> Value {
    let Found { uid, envelope, progress } = found;
    let waiting: Vec<&str> =
        progress.waiting().map(|index| envelope.recipients[index].to.as_str()).collect();
    json!({
        "id": envelope.id,
        "sender": envelope.sender.as_deref().unwrap_or(NOBODY),
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
            let mut found = Vec::new();
            for uids in which.all_candidates(&shard).chunks(AT_ONCE) {
                found = look(&shard, &which, uids).await;
                if !found.is_empty() {
                    break;
                }
            }
            let one = match found.first() {
                Some(Ok(one)) => one,
                Some(Err(Unreadable { name, fault, .. })) => {
                    let remedy = format!("`kura queue remove {name}` takes it away");
                    return Err(format!("{name}: {fault} ({remedy})"));
                }
                None => return Ok(None),
            };
            let mut shown = row(&shard, one, unix_now());
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

impl Said {
    fn add(&mut self, more: Said) {
        self.messages += more.messages;
        self.later += more.later;
        self.left += more.left;
    }
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
            let mut said = Said::default();
            for uids in which.all_candidates(&shard).chunks(AT_ONCE) {
                let found = look(&shard, &which, uids).await;
                said.add(say_to(&shard, &which, word, found).await?);
            }
            Ok::<_, Fault>(said)
        };
        all.add(on(shard, home, part).await?);
    }
    Ok(all)
}

/// To those of `found` that are meant, all at once: so they share flushes.
async fn say_to(
    shard: &Rc<Shard>,
    which: &Which,
    word: Word,
    found: Vec<Result<Found, Unreadable>>,
) -> Result<Said, Fault> {
    let mut said = Said::default();
    let mut named = Vec::new();
    for one in found {
        match one {
            Ok(Found { uid, envelope, progress }) => {
                if which.means(word, &progress, shard.queue.is_to_be_held(uid)) {
                    named.push((uid, envelope.id));
                } else {
                    said.left += u64::from(progress.is_suspected());
                }
            }
            // Nothing else can be done with them; who names one is told so.
            Err(Unreadable { uid, name, .. }) if word == Word::Remove || !which.ids.is_empty() => {
                named.push((uid, name));
            }
            Err(_) => {}
        }
    }
    let done = join_all(named.iter().map(|(uid, _)| command(shard, *uid, word))).await;
    for ((uid, id), done) in named.into_iter().zip(done) {
        let waits = match done {
            Ok(waits) => waits,
            // It was delivered meanwhile.
            Err(_) if shard.store.entry(ACCOUNT, MAILBOX, uid).is_err() => continue,
            Err(fault) => return Err(format!("{id}: {fault}")),
        };
        (said.messages, said.later) = (said.messages + 1, said.later + u64::from(waits));
        tracing::info!(target: crate::NOTICE, id, ?word, "an operator's word about a queued message");
    }
    Ok(said)
}

/// Who releases all that an account has sent says that it was its owner. Whose suspicion that ends,
/// if there was one.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_on_which_core_its_message_is_and_what_cant_be_read_which_it_is() {
        for (id, core, uid) in [
            ("0.5a3b1c", Some(0), None),
            ("1f.uid70000", Some(31), Some(Uid(70_000))),
            ("1f.uid", Some(31), None),
            ("x.uid7", None, Some(Uid(7))),
            ("7", None, None),
        ] {
            assert_eq!((core_of(id), uid_of(id)), (core, uid), "{id}");
        }
    }

    #[test]
    fn only_who_says_nothing_means_everything() {
        assert!(Which::default().is_everything());
        let some = [
            Which { ids: vec!["0.1".to_owned()], ..Which::default() },
            Which { older_than: Some(0), ..Which::default() },
            Which { party: Some("ann@a.test".to_owned()), ..Which::default() },
            Which { held: true, ..Which::default() },
            Which { suspected: true, ..Which::default() },
        ];
        assert!(!some.iter().any(Which::is_everything));
    }
}
