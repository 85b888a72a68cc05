//! `kura collect`: outside mailboxes, as an operator adds them, looks at them, has them visited
//! now, and removes them. Runs on shard 0, which knows the addresses; the work is done on the
//! account's home shard. No answer holds a password.

use super::keys::{self, Key};
use super::source::{Change, Protocol, Secret, Source, Tls};
use crate::operations::{Fault, existing_account, on, unix_now};
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;
use storage::AccountId;

/// Of one account.
const SOURCES_MAX: usize = 100;
/// A visit that was wished for is waited for; each takes `session_longest` at the most, and there
/// may be others before it.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "collect", rename_all = "snake_case")]
pub enum CollectRequest {
    /// Without a name it is called as its host.
    Add {
        source: Box<Source>,
    },
    List {
        account: Option<String>,
    },
    Show {
        account: String,
        name: String,
    },
    /// Without an account, everybody's; without a name, all of the account's. Answers when the
    /// visits are over.
    Run {
        account: Option<String>,
        name: Option<String>,
    },
    Remove {
        account: String,
        name: String,
    },
    /// What was collected from there stays known.
    Change {
        account: String,
        name: String,
        change: Box<Change>,
    },
}

impl CollectRequest {
    /// Whether it reads what it then writes, or needs an account to stay.
    pub(crate) fn takes_turns(&self) -> bool {
        match self {
            CollectRequest::Add { .. }
            | CollectRequest::Remove { .. }
            | CollectRequest::Change { .. } => true,
            // These visits may take long.
            CollectRequest::List { .. }
            | CollectRequest::Show { .. }
            | CollectRequest::Run { .. } => false,
        }
    }
}

pub(crate) async fn execute(shard: &Rc<Shard>, request: CollectRequest) -> Result<Value, Fault> {
    match request {
        CollectRequest::Add { source } => add(shard, *source).await,
        CollectRequest::List { account } => list(shard, account).await,
        CollectRequest::Show { account, name } => {
            at(shard, &account, name, |shard, key, source| async move {
                Ok(shown(&shard, key, &source))
            })
            .await
        }
        CollectRequest::Run { account, name } => run(shard, account, name).await,
        CollectRequest::Change { account, name, change } => {
            at(shard, &account, name, |shard, key, source| async move {
                let before = (source.host.clone(), source.user.clone());
                let source = change.apply(source);
                source.check()?;
                if before != (source.host.clone(), source.user.clone()) {
                    if shard.collecting.is_running(key) {
                        return Err("it is being visited; say it again in a minute".to_owned());
                    }
                    let doubted = keys::doubt(&shard, key).await;
                    doubted.map_err(|error| error.to_string())?;
                }
                let put = keys::put_source(&shard, key, &source).await;
                put.map_err(|error| error.to_string())?;
                if shard.collecting.runs.get() {
                    let due = source.every.map(|_| unix_now());
                    shard.collecting.know_anew(key, &source.host, due);
                }
                Ok(shown(&shard, key, &source))
            })
            .await
        }
        CollectRequest::Remove { account, name } => {
            at(shard, &account, name, |shard, key, source| async move {
                // First forgotten: a visit that is under way writes nothing more.
                shard.collecting.forget(key);
                keys::remove(&shard, key).await.map_err(|error| error.to_string())?;
                Ok(json!({ "account": source.account, "name": source.name }))
            })
            .await
        }
    }
}

async fn add(shard: &Rc<Shard>, mut source: Source) -> Result<Value, Fault> {
    let (address, account) = existing_account(shard, &source.account)?;
    source.account = address;
    let is_named = !source.name.is_empty();
    if !is_named {
        source.name = source.host.clone();
    }
    source.check()?;
    let id = account.id();
    on(shard, account.shard, move |shard| async move {
        let others = keys::of(&shard, id);
        if others.len() >= SOURCES_MAX {
            return Err(format!("the account has {SOURCES_MAX} outside mailboxes already; remove one first"));
        }
        let is_taken = |name: &str| others.iter().any(|(_, other)| other.name == name);
        if is_named && is_taken(&source.name) {
            return Err(format!(
                "{} has an outside mailbox called {:?} already; choose another --name, or remove that one first",
                source.account, source.name
            ));
        }
        let host = source.name.clone();
        let mut number = 2;
        while is_taken(&source.name) {
            source.name = format!("{host}-{number}");
            number += 1;
        }
        let key = keys::add(&shard, id, &source).await.map_err(|error| error.to_string())?;
        let due = source.every.map(|_| unix_now());
        if shard.collecting.runs.get() {
            shard.collecting.know(key, &source.host, due);
        }
        let (account, name, host) = (&source.account, &source.name, &source.host);
        tracing::info!(target: crate::NOTICE, account, name, host, "an outside mailbox was added");
        Ok(shown(&shard, key, &source))
    })
    .await
}

/// Whose: one account, or all of them by their home.
fn homes(shard: &Shard, account: Option<&str>) -> Result<Vec<(u16, Option<AccountId>)>, Fault> {
    match account {
        Some(address) => {
            let (_, account) = existing_account(shard, address)?;
            Ok(vec![(account.shard, Some(account.id()))])
        }
        None => Ok((0..shard.mesh.cores()).map(|home| (home, None)).collect()),
    }
}

fn found(shard: &Shard, account: Option<AccountId>) -> Vec<(Key, Source)> {
    account.map_or_else(|| keys::all(shard), |account| keys::of(shard, account))
}

async fn list(shard: &Rc<Shard>, account: Option<String>) -> Result<Value, Fault> {
    let mut rows = Vec::new();
    for (home, account) in homes(shard, account.as_deref())? {
        let part = move |shard: Rc<Shard>| async move {
            let all = found(&shard, account);
            Ok::<_, Fault>(all.iter().map(|(key, source)| shown(&shard, *key, source)).collect())
        };
        let some: Vec<Value> = on(shard, home, part).await?;
        rows.extend(some);
    }
    let place = |row: &Value| {
        (row["account"].as_str().map(str::to_owned), row["name"].as_str().map(str::to_owned))
    };
    rows.sort_by_key(place);
    Ok(Value::Array(rows))
}

/// Has visits made, and says what came of them.
async fn run(
    shard: &Rc<Shard>,
    account: Option<String>,
    name: Option<String>,
) -> Result<Value, Fault> {
    if !shard.collecting.runs.get() {
        return Err(match shard.config.collect.enabled {
            true => {
                "the server is not running; start it with `kura serve`, mail is collected by it"
                    .to_owned()
            }
            false => {
                "[collect] enabled = false in the config file; nothing is collected".to_owned()
            }
        });
    }
    if let (Some(account), Some(name)) = (&account, &name) {
        // It says so if there is none.
        at(shard, account, name.clone(), |_, _, _| async { Ok(Value::Null) }).await?;
    }
    let mut wished = Vec::new();
    for (home, account) in homes(shard, account.as_deref())? {
        let name = name.clone();
        let part = move |shard: Rc<Shard>| async move {
            let all = found(&shard, account).into_iter();
            let all =
                all.filter(|(_, source)| name.as_ref().is_none_or(|name| source.name == *name));
            let wish = |(key, _): (Key, Source)| {
                let standing = keys::standing(&shard, key);
                let visit = shard.collecting.hurry(key)?;
                Some((key, visit, standing.collected, standing.deleted))
            };
            Ok::<_, Fault>(all.filter_map(wish).collect::<Vec<_>>())
        };
        wished.extend(on(shard, home, part).await?.into_iter().map(|one| (home, one)));
    }
    let (mut rows, wished_for) = (Vec::new(), wished.len());
    for (home, (key, visit, collected, deleted)) in wished {
        loop {
            let over = move |shard: Rc<Shard>| async move {
                let stops = shard.watchdog.stopping();
                if stops {
                    return Err("the server stops".to_owned());
                }
                Ok::<_, Fault>(shard.collecting.is_over(key, visit))
            };
            if on(shard, home, over).await? {
                break;
            }
            glommio::timer::sleep(LOOK_AGAIN).await;
        }
        let row = move |shard: Rc<Shard>| async move {
            let Some(source) = keys::source(&shard, key) else { return Ok(None) };
            let standing = keys::standing(&shard, key);
            let mut row = shown(&shard, key, &source);
            row["now_collected"] = json!(standing.collected.saturating_sub(collected));
            row["now_deleted"] = json!(standing.deleted.saturating_sub(deleted));
            Ok::<_, Fault>(Some(row))
        };
        rows.extend(on(shard, home, row).await?);
    }
    if rows.is_empty() && wished_for > 0 {
        return Err("what was to be visited was removed meanwhile".to_owned());
    }
    Ok(Value::Array(rows))
}

/// Does something with one source, at its home.
async fn at<W, F>(shard: &Rc<Shard>, account: &str, name: String, work: W) -> Result<Value, Fault>
where
    W: FnOnce(Rc<Shard>, Key, Source) -> F + Send + 'static,
    F: Future<Output = Result<Value, Fault>> + 'static,
{
    let (address, account) = existing_account(shard, account)?;
    let id = account.id();
    on(shard, account.shard, move |shard| async move {
        let found = keys::of(&shard, id).into_iter().find(|(_, source)| source.name == name);
        let Some((key, source)) = found else {
            return Err(format!(
                "{address} has no outside mailbox called {name:?}; `kura collect list {address}` shows those there are"
            ));
        };
        work(shard, key, source).await
    })
    .await
}

/// Without what is secret.
fn shown(shard: &Shard, key: Key, source: &Source) -> Value {
    let standing = keys::standing(shard, key);
    let collecting = &shard.collecting;
    let due = collecting.due_of(key);
    let state = match (collecting.is_running(key), standing.failures) {
        (true, _) => "being visited",
        (false, 0) if standing.last_success.is_none() => "not visited yet",
        (false, 0) => "ok",
        (false, _) => "failing",
    };
    json!({
        "account": source.account,
        "name": source.name,
        "protocol": match source.protocol { Protocol::Pop3 => "pop3", Protocol::Imap => "imap" },
        "host": source.host,
        "port": source.port,
        "tls": match source.tls { Tls::Implicit => "implicit", Tls::Starttls => "starttls", Tls::Off => "off" },
        "user": source.user,
        "login": match &source.secret {
            Secret::Password(_) => "password".to_owned(),
            Secret::TokenFile(file) => format!("token in {}", file.display()),
        },
        "every": source.every,
        "messages": source.leave.text(),
        "size_max": source.octets_max,
        "mailbox": source.mailbox,
        "folders": source.folders,
        "all_folders": source.all_folders,
        "split": source.split,
        "state": state,
        "collected": standing.collected,
        "deleted": standing.deleted,
        "last_visit": standing.last_visit,
        "last_success": standing.last_success,
        "next": due,
        "failures": standing.failures,
        "failing_since": standing.failing_since,
        "why": standing.why.as_ref().filter(|_| standing.failures > 0),
        "remedy": standing.kind.filter(|_| standing.failures > 0).map(super::reason::Kind::remedy),
        "remark": standing.remark,
        "shard": shard.id,
    })
}
