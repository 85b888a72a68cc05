//! What an account may send, how much it has sent, and whether it is still its owner who sends.
//!
//! | file | what |
//! |---|---|
//! | [`settings`] | what the operator says: `[submission]`, `kura account limits` |
//! | [`usage`] | what was sent lately, against the limits; pure |
//! | [`hijack`] | whether somebody else sends in an account's name; pure |
//! | [`suspects`] | what follows: who is told, and how it ends |
//! | [`waiting`] | how much of an account's mail is on hold or left for later |
//!
//! An account is counted at home, so its limit is one, however many cores its sessions are
//! on; that costs a message a hop. A message counts from its `DATA` on, and not any more when
//! it is not taken.
//!
//! Key space 43 of the home shard: the account's number (u32, big-endian), and in JSON what was
//! counted ([`Usage`]). It is written every [`WRITTEN_EVERY`] seconds at the most, and at the stop,
//! so a crash forgets what was sent in that time, and no more. That an account is suspected is
//! durable before its message is answered.

pub mod hijack;
pub mod settings;
pub mod suspects;
pub mod usage;
pub mod waiting;

use crate::NOTICE;
use crate::directory::{Account, Directory};
use crate::filter::written;
use crate::metrics::count;
use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use hijack::{Rule, Sending, Watch};
use protocols::smtp::Refusal;
use serde::{Deserialize, Serialize};
use settings::{Action, Limits};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use storage::store::Space;
use storage::{AccountId, Error};
use suspects::Suspected;
use usage::{Amounts, Over};

pub const SPACE: Space = Space(43);
const WRITTEN_EVERY: u64 = 600;
/// Accounts of which one core has the amounts at hand: some 10 MiB at most. Others are read
/// from the log again.
const AT_HAND_MAX: usize = 30_000;
/// Recipients of a message that are looked up.
const LOOKED_UP_MAX: usize = 1000;

/// Who has caused a message to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Somebody who has logged in.
    Login,
    /// A script of the account, hence whoever has written to it.
    Script,
}

/// What one account has sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Usage {
    by_login: Amounts,
    by_script: Amounts,
    watch: Watch,
}

impl Usage {
    fn by(&mut self, by: By) -> &mut Amounts {
        match by {
            By::Login => &mut self.by_login,
            By::Script => &mut self.by_script,
        }
    }
}

/// On each core: of the accounts that are at home there.
#[derive(Debug, Default)]
pub struct Submitting {
    pub waiting: waiting::Waiting,
    at_hand: RefCell<HashMap<AccountId, Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    usage: Usage,
    /// When it was last put into the log.
    written: u64,
    /// How often it was changed, and how often it had been when it was last put into the log.
    changes: u64,
    changes_written: u64,
}

impl Counted {
    fn is_written(&self) -> bool {
        self.changes == self.changes_written
    }
}

fn key(account: AccountId) -> Bytes {
    Bytes::copy_from_slice(&account.0.to_be_bytes())
}

/// Where an account is counted, and what it may send.
struct Of {
    account: AccountId,
    home: u16,
    address: String,
    limits: Limits,
}

impl Of {
    fn login(shard: &Shard, user: &str) -> Option<Of> {
        let directory: &Directory = &shard.directory.borrow();
        let (address, account) = directory.login(user)?;
        Some(Of {
            account: account.id(),
            home: account.shard,
            address: address.to_owned(),
            limits: limits_of(shard, account),
        })
    }
}

/// Its own, or else everybody's.
pub fn limits_of(shard: &Shard, account: &Account) -> Limits {
    account.limits.unwrap_or_else(|| shard.config.submission.limits())
}

/// That a message may leave. It counts; if it was not taken in the end, which is so unless
/// [`Permit::used`] says otherwise, that is taken back.
#[derive(Debug)]
pub struct Permit {
    shard: Rc<Shard>,
    home: u16,
    account: AccountId,
    by: By,
    recipients: u32,
    /// Of these, the ones whom the account has not written to.
    strangers: u32,
    is_used: bool,
}

impl Permit {
    pub fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_used {
            return;
        }
        let Permit { account, by, recipients, strangers, .. } = *self;
        // Who is too busy to hear of it counts too much: it is over in an hour.
        let _ = self.shard.mesh.tell(self.home, move |shard| async move {
            let take_back = |usage: &mut Usage| {
                usage.by(by).take_back(unix_now(), recipients);
                if by == By::Login {
                    usage.watch.take_back(unix_now(), recipients, strangers);
                }
            };
            shard.submitting.with(&shard, account, take_back);
        });
    }
}

/// Why a message may not leave.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotNow {
    #[error("the account's home shard is busy")]
    Busy,
    /// In words for the user.
    #[error("{words}")]
    Over { words: String, is_for_good: bool },
    /// The same: what it has waiting here.
    #[error("{words}")]
    Full { words: String },
}

impl NotNow {
    pub fn refusal(self) -> Refusal {
        match self {
            NotNow::Busy => Refusal::BUSY,
            NotNow::Over { words, is_for_good: true } => Refusal::POLICY.saying(words),
            NotNow::Over { words, is_for_good: false } => Refusal::TOO_MUCH.saying(words),
            NotNow::Full { words } => Refusal::MAILBOX_FULL.saying(words),
        }
    }
}

/// What somebody who has logged in is about to send.
#[derive(Debug)]
pub struct Message<'m> {
    pub user: &'m str,
    pub recipients: Vec<String>,
    /// How many of these are at home.
    pub at_home: usize,
    /// Recipients that were refused since the message before.
    pub refused: u32,
    pub peer: IpAddr,
}

/// Before a message is sent by a login. The permit is `None` where there is no such account, and
/// nothing is counted; besides, why the message is to be held.
pub async fn permit(
    shard: &Rc<Shard>,
    message: Message<'_>,
) -> Result<(Option<Permit>, Option<Suspected>), NotNow> {
    let Some(of) = Of::login(shard, message.user) else { return Ok((None, None)) };
    let Message { mut recipients, at_home, refused, peer, .. } = message;
    let at_home = u32::try_from(at_home).unwrap_or(u32::MAX);
    let count = u32::try_from(recipients.len()).unwrap_or(u32::MAX);
    recipients.truncate(LOOKED_UP_MAX);
    let (account, address) = (of.account, of.address.clone());
    let watch = move |shard: Rc<Shard>| async move {
        let settings = &shard.config.submission.hijack;
        if settings.action == Action::Off {
            // Whoever looks again begins anew.
            suspects::drop_suspicion(&shard, account);
            return (None, 0);
        }
        let strangers = written::strangers(&shard, account, &recipients).unwrap_or(0);
        let strangers = u32::try_from(strangers).unwrap_or(u32::MAX);
        let sending = Sending { recipients: count, strangers, at_home, refused, peer };
        let sends = |usage: &mut Usage| usage.watch.sends(unix_now(), sending, settings);
        (suspects::watch(&shard, account, &address, sends).await, strangers)
    };
    reserve(shard, of, By::Login, count, watch).await
}

/// Before a script of `address` has a message leave.
pub async fn permit_script(shard: &Rc<Shard>, address: &str) -> Result<Option<Permit>, NotNow> {
    let Some(of) = Of::login(shard, address) else { return Ok(None) };
    let (permit, _) = reserve(shard, of, By::Script, 1, |_| async { (None, 0) }).await?;
    Ok(permit)
}

/// Counts a message at the account's home, where `then` follows if it may be sent.
async fn reserve<W, F>(
    shard: &Rc<Shard>,
    of: Of,
    by: By,
    recipients: u32,
    then: W,
) -> Result<(Option<Permit>, Option<Suspected>), NotNow>
where
    W: FnOnce(Rc<Shard>) -> F + Send + 'static,
    F: Future<Output = (Option<Suspected>, u32)> + 'static,
{
    let Of { account, home, address, limits } = of;
    let reserve = move |shard: Rc<Shard>| async move {
        let now = unix_now();
        let reserve = |usage: &mut Usage| -> Result<(), Over> {
            let amounts = usage.by(by);
            amounts.check(now, recipients, &limits)?;
            amounts.add(now, recipients);
            Ok(())
        };
        shard.submitting.with(&shard, account, reserve)?;
        let noted = then(Rc::clone(&shard)).await;
        shard.submitting.write_behind(&shard, account, now);
        Ok::<_, Over>(noted)
    };
    match shard.mesh.ask(home, reserve).await {
        Ok(Ok((held, strangers))) => {
            let shard = Rc::clone(shard);
            let permit = Permit { shard, home, account, by, recipients, strangers, is_used: false };
            Ok((Some(permit), held))
        }
        Ok(Err(over)) => {
            count(&shard.metrics.submission.limited);
            let words = over.words(&address);
            tracing::info!(target: NOTICE, account = address, recipients, why = words, "over its limit");
            Err(NotNow::Over { words, is_for_good: over.until.is_none() })
        }
        Err(_) => Err(NotNow::Busy),
    }
}

/// A message that `user` sends names these in `From`, who are not the account. Why it is to
/// be held, if it is.
pub async fn claims(shard: &Rc<Shard>, user: &str, authors: Vec<String>) -> Option<Suspected> {
    if shard.config.submission.hijack.action == Action::Off {
        return None;
    }
    let Of { account, home, address, .. } = Of::login(shard, user)?;
    let claims = move |shard: Rc<Shard>| async move {
        let claims = |usage: &mut Usage| {
            let settings = &shard.config.submission.hijack;
            let mut claims = |author: &String| usage.watch.claims(unix_now(), author, settings);
            authors.iter().filter(|author| claims(author)).count() > 0
        };
        suspects::watch(&shard, account, &address, claims).await
    };
    shard.mesh.ask(home, claims).await.ok()?
}

/// Of what `user` has sent so many recipients have been served, and so many are refused for good.
pub fn answered(shard: &Rc<Shard>, user: &str, served: usize, refused: usize) {
    if shard.config.submission.hijack.action == Action::Off {
        return;
    }
    let Some(Of { account, home, address, .. }) = Of::login(shard, user) else { return };
    let [served, refused] = [served, refused].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    // A shard that is too busy to hear of it has other worries.
    let _ = shard.mesh.tell(home, move |shard| async move {
        let settings = &shard.config.submission.hijack;
        let answered =
            |usage: &mut Usage| usage.watch.is_answered(unix_now(), served, refused, settings);
        suspects::watch(&shard, account, &address, answered).await;
    });
}

impl Submitting {
    /// On the home shard of `account`.
    fn with<R>(&self, shard: &Shard, account: AccountId, work: impl FnOnce(&mut Usage) -> R) -> R {
        let mut at_hand = self.at_hand.borrow_mut();
        if at_hand.len() >= AT_HAND_MAX && !at_hand.contains_key(&account) {
            // What is in the log is read again when it is asked for.
            at_hand.retain(|_, counted| !counted.is_written());
            let mut is_kept = false;
            if at_hand.len() >= AT_HAND_MAX {
                at_hand.retain(|_, counted| {
                    is_kept = !is_kept;
                    is_kept || counted.usage.watch.suspicion.is_some()
                });
            }
        }
        let counted = at_hand.entry(account).or_insert_with(|| Counted {
            usage: recorded(shard, account).unwrap_or_default(),
            written: unix_now(),
            changes: 0,
            changes_written: 0,
        });
        counted.changes += 1;
        work(&mut counted.usage)
    }

    /// Puts what was counted into the log, if it was not lately; nobody waits for it.
    fn write_behind(&self, shard: &Rc<Shard>, account: AccountId, now: u64) {
        // The first message of an account is written at once: from then on it has a past.
        let is_known = shard.store.get(SPACE, &key(account)).is_some();
        let at_hand = self.at_hand.borrow();
        let written = at_hand.get(&account).map_or(0, |counted| counted.written);
        drop(at_hand);
        if is_known && now < written + WRITTEN_EVERY {
            return;
        }
        let shard = Rc::clone(shard);
        let write = async move {
            if let Err(error) = shard.submitting.write(&shard, account).await {
                tracing::debug!(account = account.0, %error, "what it has sent is not recorded");
            }
        };
        glommio::spawn_local(write).detach();
    }

    /// Puts what was counted into the log.
    async fn write(&self, shard: &Shard, account: AccountId) -> Result<(), Error> {
        let (value, changes) = {
            let mut at_hand = self.at_hand.borrow_mut();
            let Some(counted) = at_hand.get_mut(&account) else { return Ok(()) };
            counted.written = unix_now();
            (Bytes::from(encode(&counted.usage)), counted.changes)
        };
        let _durable = shard.store.put(SPACE, vec![(key(account), Some(value))]).await?;
        if let Some(counted) = self.at_hand.borrow_mut().get_mut(&account) {
            counted.changes_written = counted.changes_written.max(changes);
        }
        Ok(())
    }

    /// Puts all that has been counted since into the log. Whoever was removed
    /// meanwhile is forgotten.
    pub async fn write_all(&self, shard: &Shard) {
        let changed: Vec<AccountId> = {
            let at_hand = self.at_hand.borrow();
            let changed = at_hand.iter().filter(|(_, counted)| !counted.is_written());
            changed.map(|(account, _)| *account).collect()
        };
        for account in changed {
            if shard.store.usage(account).is_err() {
                self.forget(account);
            } else if let Err(error) = self.write(shard, account).await {
                tracing::debug!(account = account.0, %error, "what it has sent is not recorded");
            }
        }
    }

    fn forget(&self, account: AccountId) {
        self.at_hand.borrow_mut().remove(&account);
    }
}

/// Writes what the core's accounts have sent, as long as it runs.
pub async fn keep(shard: Rc<Shard>) {
    while !shard.watchdog.stopping() {
        glommio::timer::sleep(Duration::from_secs(WRITTEN_EVERY)).await;
        shard.submitting.write_all(&shard).await;
    }
}

fn recorded(shard: &Shard, account: AccountId) -> Option<Usage> {
    serde_json::from_slice(&shard.store.get(SPACE, &key(account))?).ok()
}

fn encode(usage: &Usage) -> Vec<u8> {
    serde_json::to_vec(usage).expect("what is counted has string keys only")
}

/// On the home shard of an account that is removed.
pub async fn forget(shard: &Shard, account: AccountId) -> Result<(), Error> {
    shard.submitting.forget(account);
    if shard.store.get(SPACE, &key(account)).is_some() {
        let _durable = shard.store.put(SPACE, vec![(key(account), None)]).await?;
    }
    Ok(())
}

/// What is known of an account; on its home shard.
fn known(shard: &Shard, account: AccountId) -> Usage {
    let at_hand = shard.submitting.at_hand.borrow();
    let usage = at_hand.get(&account).map(|counted| counted.usage.clone());
    usage.or_else(|| recorded(shard, account)).unwrap_or_default()
}

/// Messages and recipients that an account has sent within a day; on its home shard.
pub fn sent_today(shard: &Shard, account: AccountId) -> (u64, u64) {
    known(shard, account).by_login.of_day(unix_now())
}

/// Counters of one core.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that an account was over its limit for.
    limited: Cell<u64>,
    /// Accounts, by the rule that has found them.
    suspected: [Cell<u64>; Rule::ALL.len()],
    /// Messages that are held for that.
    held: Cell<u64>,
}

impl Counts {
    pub fn held(&self) {
        count(&self.held);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            limited: self.limited.get(),
            suspected: self.suspected.each_ref().map(Cell::get),
            held: self.held.get(),
        }
    }
}

/// The counters of one or several cores at one moment.
#[derive(Debug)]
pub struct Snapshot {
    limited: u64,
    suspected: [u64; Rule::ALL.len()],
    held: u64,
}

impl Snapshot {
    pub fn merge(&mut self, other: &Snapshot) {
        self.limited += other.limited;
        self.suspected.iter_mut().zip(other.suspected).for_each(|(i, f)| *i += f);
        self.held += other.held;
    }

    /// Prometheus text format 0.0.4.
    pub fn write(&self, text: &mut String) {
        let mut family = |name: &str, help: &str, rows: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (label, value) in rows {
                let _ = writeln!(text, "{name}{label} {value}");
            }
        };
        let one = |value| [(String::new(), value)];
        let name = "kura_submission_limited_total";
        let help =
            "Messages that were not taken, or not sent on, since an account was over its limit";
        family(name, help, &one(self.limited));
        let rows = Rule::ALL.iter().zip(self.suspected);
        let rows: Vec<(String, u64)> =
            rows.map(|(rule, value)| (format!("{{rule=\"{}\"}}", rule.name()), value)).collect();
        let name = "kura_submission_suspected_total";
        family(name, "Accounts that somebody else seems to send from, by rule", &rows);
        let name = "kura_submission_held_total";
        family(name, "Messages of such accounts that wait to be released", &one(self.held));
    }
}
