//! What an operator can ask about the users' scripts. Runs on shard 0, which knows the addresses;
//! the work is done on the account's home shard.

use super::scripts::{self, Listed, Refused};
use crate::operations::{Fault, existing_account, on};
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "sieve", rename_all = "snake_case")]
pub enum SieveRequest {
    List {
        account: String,
    },
    Put {
        account: String,
        name: String,
        script: String,
        activate: bool,
    },
    Get {
        account: String,
        name: String,
    },
    /// `None`: no script is active from then on.
    Activate {
        account: String,
        name: Option<String>,
    },
    Remove {
        account: String,
        name: String,
    },
}

pub(crate) async fn execute(shard: &Rc<Shard>, request: SieveRequest) -> Result<Value, Fault> {
    match request {
        SieveRequest::List { account } => {
            let (_, account) = existing_account(shard, &account)?;
            let id = account.id();
            let list =
                move |shard: Rc<Shard>| async move { Ok::<_, Fault>(scripts::list(&shard, id)) };
            let listed = on(shard, account.shard, list).await?;
            let row = |Listed { name, is_active, octets }: Listed| json!({ "name": name, "active": is_active, "bytes": octets });
            Ok(Value::Array(listed.into_iter().map(row).collect()))
        }
        SieveRequest::Put { account, name, script, activate } => {
            let (address, account) = existing_account(shard, &account)?;
            let (id, kept) = (account.id(), name.clone());
            let warnings = on(shard, account.shard, move |shard| async move {
                let put = scripts::put(&shard, id, &name, script.into_bytes(), activate).await;
                put.map_err(|refused| explain(&refused, &name))
            })
            .await?;
            let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            Ok(
                json!({ "account": address, "name": kept, "active": activate, "warnings": warnings }),
            )
        }
        SieveRequest::Get { account, name } => {
            let (_, account) = existing_account(shard, &account)?;
            let (id, wanted) = (account.id(), name.clone());
            let get = move |shard: Rc<Shard>| async move {
                let found = scripts::get(&shard, id, &wanted);
                found.ok_or_else(|| explain(&Refused::NotFound, &wanted))
            };
            let script = on(shard, account.shard, get).await?;
            Ok(json!({ "name": name, "script": String::from_utf8_lossy(&script) }))
        }
        SieveRequest::Activate { account, name } => {
            let (address, account) = existing_account(shard, &account)?;
            let (id, wanted) = (account.id(), name.clone());
            on(shard, account.shard, move |shard| async move {
                let done = scripts::set_active(&shard, id, wanted.as_deref()).await;
                done.map_err(|refused| explain(&refused, wanted.as_deref().unwrap_or_default()))
            })
            .await?;
            Ok(json!({ "account": address, "active": name }))
        }
        SieveRequest::Remove { account, name } => {
            let (address, account) = existing_account(shard, &account)?;
            let (id, gone) = (account.id(), name.clone());
            on(shard, account.shard, move |shard| async move {
                let done = scripts::remove(&shard, id, &gone).await;
                done.map_err(|refused| explain(&refused, &gone))
            })
            .await?;
            Ok(json!({ "account": address, "name": name }))
        }
    }
}

fn explain(refused: &Refused, name: &str) -> Fault {
    match refused {
        Refused::NotFound => {
            format!(
                "there is no script {name:?}; `kura sieve list --account ADDRESS` shows those there are"
            )
        }
        Refused::Active => format!(
            "script {name:?} is active; activate another one first, or none \
             (`kura sieve activate --account ADDRESS --none`)"
        ),
        Refused::Faulty(_) => format!("script {name:?} does not compile:\n{refused}"),
        other => format!("script {name:?}: {other}"),
    }
}
