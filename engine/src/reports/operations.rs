//! What an operator can ask about reports. On shard 0.

use super::{figures, send};
use crate::auth::dkim::tags;
use crate::operations::Fault;
use crate::shard::Shard;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::rc::Rc;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reports", rename_all = "snake_case")]
pub enum ReportsRequest {
    /// Sums by domain and day, from this day (counted from 1970) on.
    List { domain: Option<String>, since: u32 },
    /// Everything about one domain.
    Show { domain: String, since: u32 },
    /// What is counted so far leaves now.
    Send,
}

pub(crate) async fn execute(shard: &Rc<Shard>, request: ReportsRequest) -> Result<Value, Fault> {
    match request {
        ReportsRequest::List { domain, since } => {
            let pairs = match domain {
                Some(domain) => figures::of_domain(shard, &named(&domain)?),
                None => shard.store.scan(figures::SPACE),
            };
            Ok(glommio::executor().spawn_blocking(move || figures::list(&pairs, since)).await)
        }
        ReportsRequest::Show { domain, since } => {
            let domain = named(&domain)?;
            let pairs = figures::of_domain(shard, &domain);
            let show = move || figures::show(&pairs, &domain, since);
            Ok(glommio::executor().spawn_blocking(show).await)
        }
        ReportsRequest::Send => {
            if !shard.config.relay.enabled {
                return Err("reports go to other hosts; set relay.enabled = true".to_owned());
            }
            if !shard.auth.is_served() {
                return Err("the server sends reports; start it first".to_owned());
            }
            super::tell_all(shard).await;
            let round = send::round(shard, true).await;
            serde_json::to_value(round).map_err(|error| error.to_string())
        }
    }
    .map(|value| if value.is_null() { json!({}) } else { value })
}

fn named(domain: &str) -> Result<String, Fault> {
    tags::domain(domain.as_bytes())
        .ok_or_else(|| format!("{domain:?} is no domain; write it like example.org"))
}
