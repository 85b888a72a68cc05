//! What an operator can ask of a server, running or stopped.
//!
//! The commands send a [`Request`] through the control socket of a running server, or open the
//! store of a stopped one and carry it out in their own process: either way it is this code, on
//! shard 0, which alone writes the directory, one change after the other. A change is durable
//! before any core sees it. What is about the past, the queue and scripts stands with these:
//! `remembering`, [`crate::queue::operations`], [`crate::sieve::operations`],
//! [`crate::filter::operations`].

mod accounts;
mod aliases;
mod dkim;
mod domains;
mod store;

pub(crate) use accounts::{existing_account, make_at_home};
pub use dkim::DkimRequest;

use crate::collect::{self, operations::CollectRequest};
use crate::course::Course;
use crate::directory::{self, Pair};
use crate::filter;
use crate::filter::operations::SpamRequest;
use crate::mesh::{self, Unreachable};
use crate::passwords::{self, StoredPassword};
use crate::policy::networks::{Fences, Lists};
use crate::quarantine::{self, operations::QuarantineRequest};
use crate::queue;
use crate::remembering::{self, Removed, Which};
use crate::reports::operations::ReportsRequest;
use crate::shard::Shard;
use crate::sieve::operations::SieveRequest;
use crate::sieve::{self, SystemScripts};
use crate::submission::settings::LimitsChange;
use crate::{certificates, tls, trace};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A core that was too busy to hear of a change of the directory.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Request {
    /// Without a postmaster, the first domain's is this one's too; without an abuse
    /// address, the postmaster.
    DomainAdd {
        domain: String,
        #[serde(default)]
        postmaster: Option<String>,
        #[serde(default)]
        abuse: Option<String>,
        /// Makes no DKIM keys, which take a second.
        #[serde(default)]
        without_dkim: bool,
    },
    /// What DNS has to say of a domain.
    DomainRecords {
        domain: String,
    },
    Dkim(DkimRequest),
    DomainList,
    DomainShow {
        domain: String,
    },
    DomainRemove {
        domain: String,
    },
    /// Without a password, one is made up and returned.
    AccountAdd {
        address: String,
        password: Option<String>,
        quota_bytes: Option<u64>,
        quota_messages: Option<u64>,
    },
    AccountList {
        domain: Option<String>,
    },
    AccountPasswd {
        address: String,
        password: Option<String>,
    },
    AccountQuota {
        address: String,
        quota_bytes: Option<u64>,
        quota_messages: Option<u64>,
    },
    /// Sets what it may send, if that is said; in any case shows it.
    AccountLimits {
        address: String,
        change: LimitsChange,
    },
    /// Sets whose mail it may send, if that is said; in any case shows it.
    AccountSendAs {
        address: String,
        senders: Vec<String>,
    },
    AccountRemove {
        address: String,
    },
    AliasAdd {
        alias: String,
        targets: Vec<String>,
        /// Whether an alias of that name may be there already.
        #[serde(default)]
        replace: bool,
    },
    AliasList,
    AliasRemove {
        alias: String,
    },
    /// Users' scripts.
    Sieve(SieveRequest),
    /// Loads all certificates, and the operator's scripts, anew.
    Reload,
    Spam(SpamRequest),
    /// How sessions towards others could be encrypted; or tells them now.
    TlsReport {
        send: bool,
    },
    /// What has become of messages that came since then (Unix milliseconds).
    Trace {
        who: String,
        since: u64,
    },
    StoreStats,
    StoreVerify {
        #[serde(skip)]
        course: Arc<Course>,
    },
    /// Lists what has gone since then, in Unix milliseconds; or brings it back.
    StoreUndelete {
        account: String,
        since: u64,
        mailbox: Option<String>,
        uids: Option<Vec<(u32, u32)>>,
        apply: bool,
        over_quota: bool,
        removed: Removed,
        /// Writes it to a directory, an absolute path.
        export: Option<PathBuf>,
        #[serde(skip)]
        course: Arc<Course>,
    },
    /// Shows the account as it was, or writes it to a directory, an absolute path.
    StoreRestoreAt {
        account: String,
        at: u64,
        export: Option<PathBuf>,
        over_quota: bool,
        removed: Removed,
        #[serde(skip)]
        course: Arc<Course>,
    },
    HoldAdd {
        address: String,
    },
    HoldRemove {
        address: String,
        removed: Removed,
    },
    HoldList,
    /// A round in the background.
    StoreScrubBegin,
    StoreScrubStatus,
    /// A round on the store of a stopped server: as fast as its disk goes.
    StoreScrub,
    /// Stored mail is scanned once more, in the background.
    StoreRescanBegin,
    StoreRescanStatus,
    /// In the background.
    StoreCompactBegin,
    StoreCompactStatus,
    /// On the store of a stopped server.
    StoreCompact,
    /// With a place: what comes behind it, of all.
    QueueList {
        which: queue::operations::Which,
        #[serde(default)]
        behind: Option<queue::operations::Place>,
    },
    QueueShow {
        id: String,
    },
    QueueSay {
        which: queue::operations::Which,
        word: queue::Word,
    },
    /// Mail that is kept back.
    Quarantine(QuarantineRequest),
    /// Outside mailboxes.
    Collect(CollectRequest),
    /// Of others, and to others.
    Reports(ReportsRequest),
}

impl Request {
    /// How far it has come, of what takes long and is given up with the command that asked for it.
    pub fn course(&self) -> Option<&Arc<Course>> {
        match self {
            Request::StoreVerify { course }
            | Request::StoreUndelete { export: Some(_), course, .. }
            | Request::StoreRestoreAt { export: Some(_), course, .. } => Some(course),
            _ => None,
        }
    }

    /// Where to it writes.
    pub fn export(&self) -> Option<&Path> {
        match self {
            Request::StoreUndelete { export, .. } | Request::StoreRestoreAt { export, .. } => {
                export.as_deref()
            }
            _ => None,
        }
    }

    fn changes_directory(&self) -> bool {
        match self {
            Request::DomainAdd { .. }
            | Request::DomainRemove { .. }
            | Request::AccountAdd { .. }
            | Request::AccountPasswd { .. }
            | Request::AccountQuota { .. }
            | Request::AccountLimits { .. }
            | Request::AccountSendAs { .. }
            | Request::AccountRemove { .. }
            | Request::AliasAdd { .. }
            | Request::AliasRemove { .. }
            | Request::HoldAdd { .. }
            | Request::HoldRemove { .. } => true,
            Request::Dkim(request) => request.changes_directory(),
            Request::Collect(request) => request.takes_turns(),
            Request::DomainList
            | Request::DomainShow { .. }
            | Request::DomainRecords { .. }
            | Request::AccountList { .. }
            | Request::AliasList
            | Request::Sieve(_)
            | Request::Reload
            | Request::Spam(_)
            | Request::TlsReport { .. }
            | Request::Trace { .. }
            | Request::StoreStats
            | Request::StoreVerify { .. }
            | Request::StoreUndelete { .. }
            | Request::StoreRestoreAt { .. }
            | Request::HoldList
            | Request::StoreScrubBegin
            | Request::StoreScrubStatus
            | Request::StoreScrub
            | Request::StoreRescanBegin
            | Request::StoreRescanStatus
            | Request::StoreCompactBegin
            | Request::StoreCompactStatus
            | Request::StoreCompact
            | Request::Quarantine(_)
            | Request::QueueList { .. }
            | Request::QueueShow { .. }
            | Request::QueueSay { .. }
            | Request::Reports(_) => false,
        }
    }
}

/// One line for the operator: what is wrong, and how to mend it.
pub type Fault = String;

/// Carries out `request`. Runs on shard 0.
pub async fn execute(shard: Rc<Shard>, request: Request) -> Result<Value, Fault> {
    let _turn = match request.changes_directory() {
        true => Some(shard.directory_turn.lock().await),
        false => None,
    };
    match request {
        Request::DomainAdd { domain, postmaster, abuse, without_dkim } => {
            domains::add(&shard, &domain, postmaster, abuse, without_dkim).await
        }
        Request::DomainRecords { domain } => domains::records(&shard, &domain).await,
        Request::Dkim(request) => dkim::execute(&shard, request).await,
        Request::DomainList => Ok(domains::list(&shard)),
        Request::DomainShow { domain } => domains::show(&shard, &domain),
        Request::DomainRemove { domain } => domains::remove(&shard, &domain).await,
        Request::AccountAdd { address, password, quota_bytes, quota_messages } => {
            accounts::add(&shard, &address, password, quota_bytes, quota_messages).await
        }
        Request::AccountList { domain } => accounts::list(&shard, domain).await,
        Request::AccountPasswd { address, password } => {
            accounts::passwd(&shard, &address, password).await
        }
        Request::AccountQuota { address, quota_bytes, quota_messages } => {
            accounts::set_quota(&shard, &address, quota_bytes, quota_messages).await
        }
        Request::AccountLimits { address, change } => {
            accounts::limits(&shard, &address, change).await
        }
        Request::AccountSendAs { address, senders } => {
            accounts::send_as(&shard, &address, senders).await
        }
        Request::AccountRemove { address } => accounts::remove(&shard, &address).await,
        Request::AliasAdd { alias, targets, replace } => {
            aliases::add(&shard, &alias, targets, replace).await
        }
        Request::AliasList => Ok(aliases::list(&shard)),
        Request::AliasRemove { alias } => aliases::remove(&shard, &alias).await,
        Request::Sieve(request) => sieve::operations::execute(&shard, request).await,
        Request::Reload => reload(&shard).await,
        Request::Spam(request) => filter::operations::execute(&shard, request).await,
        Request::TlsReport { send } => crate::relay::tlsrpt::operate(&shard, send).await,
        Request::Trace { who, since } => trace::trace(&shard, &who, since).await,
        Request::StoreStats => store::stats(&shard).await,
        Request::StoreVerify { course } => store::verify(&shard, course).await,
        Request::StoreUndelete {
            account,
            since,
            mailbox,
            uids,
            apply,
            over_quota,
            removed,
            export,
            course,
        } => {
            remembering::refuse_future(since)?;
            let which = Which { address: account, since, mailbox, uids };
            match export {
                Some(to) => remembering::export_buried(&shard, which, removed, to, course).await,
                None if apply => remembering::undelete(&shard, which, over_quota).await,
                None => remembering::undelete_list(&shard, which, removed).await,
            }
        }
        Request::StoreRestoreAt { account, at, export, over_quota, removed, course } => {
            let to = export.map(|to| (to, course));
            remembering::restore_at(&shard, &account, at, to, over_quota, removed).await
        }
        Request::HoldAdd { address } => remembering::hold_add(&shard, &address).await,
        Request::HoldRemove { address, removed } => {
            remembering::hold_remove(&shard, &address, removed).await
        }
        Request::HoldList => Ok(remembering::hold_list(&shard)),
        Request::StoreScrubBegin => {
            for home in 0..shard.mesh.cores() {
                let begin = |shard: Rc<Shard>| async move {
                    shard.scrub.begin();
                    Ok::<(), Fault>(())
                };
                on(&shard, home, begin).await?;
            }
            Ok(json!({}))
        }
        Request::StoreScrubStatus => store::scrub_status(&shard).await,
        Request::StoreRescanBegin => {
            for home in 0..shard.mesh.cores() {
                let begin = |shard: Rc<Shard>| async move { crate::scan::again::begin(&shard) };
                on(&shard, home, begin).await?;
            }
            Ok(json!({}))
        }
        Request::StoreRescanStatus => store::rescan_status(&shard).await,
        Request::StoreCompactBegin => {
            for home in 0..shard.mesh.cores() {
                let begin = |shard: Rc<Shard>| async move {
                    crate::compact::begin(&shard);
                    Ok::<(), Fault>(())
                };
                on(&shard, home, begin).await?;
            }
            Ok(json!({}))
        }
        Request::StoreCompactStatus => store::compact_status(&shard).await,
        Request::StoreCompact => {
            for home in 0..shard.mesh.cores() {
                let compact = |shard: Rc<Shard>| async move {
                    crate::compact::run(&shard).await;
                    Ok::<(), Fault>(())
                };
                on(&shard, home, compact).await?;
            }
            store::compact_status(&shard).await
        }
        Request::QueueList { which, behind: None } => queue::operations::list(&shard, which).await,
        Request::QueueList { which, behind: Some(place) } => {
            queue::operations::page(&shard, which, place).await
        }
        Request::QueueShow { id } => queue::operations::show(&shard, id).await,
        Request::QueueSay { which, word } => queue::operations::say(&shard, which, word).await,
        Request::Quarantine(request) => quarantine::operations::execute(&shard, request).await,
        Request::Collect(request) => collect::operations::execute(&shard, request).await,
        Request::Reports(request) => crate::reports::operations::execute(&shard, request).await,
        Request::StoreScrub => {
            for home in 0..shard.mesh.cores() {
                let round = |shard: Rc<Shard>| async move {
                    crate::scrub::round(&shard, None).await;
                    Ok::<(), Fault>(())
                };
                on(&shard, home, round).await?;
            }
            store::scrub_status(&shard).await
        }
    }
}

async fn reload(shard: &Rc<Shard>) -> Result<Value, Fault> {
    let config = Arc::clone(&shard.config);
    let (config, scripts, fences, listed) = glommio::executor()
        .spawn_blocking(move || {
            let tls = tls::server_config(&config.data_dir).map_err(|error| error.to_string())?;
            let scripts = SystemScripts::load(&config).map_err(|error| error.to_string())?;
            let lists = Lists::read(&config).map_err(|error| error.to_string())?;
            let fences = Fences::of(&config, &lists);
            let listed = certificates::list(&config.data_dir).map_err(|error| error.to_string())?;
            Ok::<_, Fault>((tls, Arc::new(scripts), Arc::new(fences), listed))
        })
        .await?;
    for home in 0..shard.mesh.cores() {
        let config = config.clone();
        let (scripts, fences) = (Arc::clone(&scripts), Arc::clone(&fences));
        on(shard, home, move |shard| async move {
            shard.set_tls(config);
            shard.sieve.set_system(scripts);
            *shard.fences.borrow_mut() = fences;
            Ok::<(), Fault>(())
        })
        .await?;
    }
    tracing::info!("certificates, scripts and lists of networks loaded anew");
    Ok(json!({ "certificates": listed.good.len() }))
}

// ── shared ───────────────────────────────────────────────────────────────────────────────────────

/// Runs `work` on core `home` and turns its error into a line for the operator.
pub(crate) async fn on<R, E, W, F>(shard: &Rc<Shard>, home: u16, work: W) -> Result<R, Fault>
where
    R: Send + 'static,
    E: ToString,
    W: FnOnce(Rc<Shard>) -> F + Send + 'static,
    F: Future<Output = Result<R, E>> + 'static,
{
    expect_core(shard, home)?;
    asked(shard, home, work).await.map_err(|error| format!("shard {home}: {error}"))?
}

/// The same for what nobody can ask for any more: again while the core is too busy, until
/// the server stops.
pub(crate) async fn insist<R, E, W, F>(shard: &Rc<Shard>, home: u16, work: W) -> Result<R, Fault>
where
    R: Send + 'static,
    E: ToString,
    W: FnOnce(Rc<Shard>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<R, E>> + 'static,
{
    expect_core(shard, home)?;
    let mut is_told = false;
    let rest = || {
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(
                shard = home,
                "a core is too busy to hear of what is done already; it is told again until it has"
            );
        }
        async move {
            glommio::timer::sleep(TELL_AGAIN_AFTER).await;
            if shard.watchdog.stopping() { Err(Unreachable) } else { Ok(()) }
        }
    };
    let done = mesh::insist(|| asked(shard, home, work.clone()), rest).await;
    done.map_err(|error| format!("shard {home}: {error}"))?
}

fn expect_core(shard: &Shard, home: u16) -> Result<(), Fault> {
    match home < shard.mesh.cores() {
        true => Ok(()),
        false => Err(format!("shard {home} does not exist on this host")),
    }
}

fn asked<R, E, W, F>(
    shard: &Rc<Shard>,
    home: u16,
    work: W,
) -> impl Future<Output = Result<Result<R, Fault>, Unreachable>> + use<R, E, W, F>
where
    R: Send + 'static,
    E: ToString,
    W: FnOnce(Rc<Shard>) -> F + Send + 'static,
    F: Future<Output = Result<R, E>> + 'static,
{
    shard.mesh.ask(home, move |shard| {
        let future = work(shard);
        async move { future.await.map_err(|error| error.to_string()) }
    })
}

/// Writes pairs to the log, then tells every core. What is durable can't be taken back, and a core
/// that has not heard of it would let in whoever was removed: so this ends when all have heard it,
/// or the server stops.
pub(crate) async fn change(shard: &Rc<Shard>, pairs: Vec<Pair>) -> Result<(), Fault> {
    let _ = shard
        .store
        .put(directory::SPACE, pairs.clone())
        .await
        .map_err(|error| error.to_string())?;
    let tell = move |shard: Rc<Shard>| async move {
        shard.directory.borrow_mut().apply(&pairs);
        Ok::<(), Fault>(())
    };
    // At once: a busy one keeps nobody else from hearing it. Where the server stops, the
    // next start reads it.
    let _ = join_all((0..shard.mesh.cores()).map(|core| insist(shard, core, tell.clone()))).await;
    Ok(())
}

pub(crate) fn pair<T: Serialize>(kind: &str, name: &str, value: Option<&T>) -> Pair {
    let value = value.map(|value| {
        Bytes::from(serde_json::to_vec(value).expect("directory values have string keys only"))
    });
    (Bytes::from(format!("{kind}{name}")), value)
}

pub(crate) fn password_or_new(password: Option<String>) -> Result<(String, bool), Fault> {
    match password {
        Some(password) if password.len() > passwords::BYTES_MAX => Err(format!(
            "a password has at most {} bytes; choose a shorter one",
            passwords::BYTES_MAX
        )),
        Some(password) => Ok((password, false)),
        None => Ok((passwords::generate(), true)),
    }
}

pub(crate) async fn hash(password: &str) -> StoredPassword {
    let password = password.as_bytes().to_vec();
    glommio::executor().spawn_blocking(move || StoredPassword::new(&password)).await
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
