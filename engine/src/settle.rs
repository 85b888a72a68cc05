//! What a store that was restored or salvaged needs before it serves: its queue on hold, since what
//! waited may have left all the same; no DNSSEC proofs demanded, which the resolver of this place
//! may not have; after a salvage a directory of addresses that fits the shards.
//!
//! The layout says that it is due, from the moment that the store has its place until all of it is
//! durable. Whoever opens the store first does it: the command that made it or, where that was
//! broken off, a server or any other command. Twice does no harm.

use crate::collect::operations::CollectRequest;
use crate::layout::After;
use crate::operations::{self, Fault, Request};
use crate::queue::Word;
use crate::queue::operations::Which;
use crate::relay::proofs;
use crate::salvage;
use crate::shard::Shard;
use serde_json::Value;
use std::rc::Rc;

/// What was done, and what an operator has to know of a store that was restored or salvaged.
#[derive(Debug, Default)]
pub struct Settled {
    /// Messages that waited to leave, now on hold: they may have left since.
    pub held: u64,
    /// Mailboxes that mail is collected from.
    pub sources: usize,
    /// What a salvage made fit together ([`salvage::mend`]).
    pub mended: Value,
}

/// Runs on shard 0.
pub async fn settle(shard: Rc<Shard>, after: After) -> Result<Settled, Fault> {
    let mended = match after {
        After::Restore => Value::Null,
        After::Salvage => salvage::mend(Rc::clone(&shard)).await?,
    };
    let hold = Request::QueueSay { which: Which::default(), word: Word::Hold };
    let held = operations::execute(Rc::clone(&shard), hold).await?;
    proofs::forget(&shard).await?;
    let list = Request::Collect(CollectRequest::List { account: None });
    let sources = operations::execute(shard, list).await?;
    let held = held["messages"].as_u64().unwrap_or(0);
    Ok(Settled { held, sources: sources.as_array().map_or(0, Vec::len), mended })
}

impl Settled {
    /// For who had not asked for it: a server, or a command, that found it undone.
    pub fn told(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "this store was restored or salvaged by a command that was broken off before its end. What waited to leave ({} messages) is on \
             hold, since it may have left after all: see `kura queue list`, then `kura queue release` or `remove`",
            self.held
        )];
        let list = |key: &str| self.mended[key].as_array().cloned().unwrap_or_default();
        // The passwords that they were given are not for a log.
        lines.extend(list("named").iter().filter_map(|one| one["address"].as_str()).map(|address| {
            format!("an account whose address is lost is {address} now; set its password (kura account passwd)")
        }));
        let emptied = list("emptied");
        let emptied = emptied.iter().filter_map(Value::as_str);
        lines.extend(emptied.map(|address| format!("{address} is there, but its mail is lost")));
        lines
    }
}
