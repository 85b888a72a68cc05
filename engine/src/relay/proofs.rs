//! That DNSSEC has worked once is remembered, so that a restart gives nobody who stands between a
//! second chance to keep it off: a pair on shard 0, beside the policies of other domains, under the
//! root's own name. It goes with the host, not with the data: what a backup brings to another place
//! is forgotten there.

use super::sts::SPACE;
use crate::NOTICE;
use crate::auth::dns::Resolver;
use crate::config::Config;
use crate::mesh::{self, ShardHandle};
use crate::shard::Shard;
use bytes::Bytes;
use std::convert::Infallible;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

/// No domain that mail goes to.
const KEY: &[u8] = b".";
/// What shard 0 can't do now is tried again after so long.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const RECORD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Reads what is remembered, before the first question: until shard 0 answers, nobody else gets an
/// answer either. With `dns.dnssec = "off"` it is forgotten: whoever switches it on again has
/// another resolver.
pub async fn recall(config: &Config, resolver: &Resolver, shard: &ShardHandle) {
    let known = insist(shard, |shard| shard.store.get(SPACE, KEY)).await;
    // What can't be read was a proof all the same.
    let read = |value: Bytes| std::str::from_utf8(&value).ok().and_then(|at| at.parse().ok());
    let Some(at) = known.map(|value| read(value).unwrap_or(1)) else { return };
    if config.dns.dnssec != crate::auth::settings::Dnssec::Off {
        return resolver.root_was_proved(at);
    }
    let forget = move |shard: Rc<Shard>| async move { forget(&shard).await };
    match shard.ask(forget).await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(_) => {
            tracing::info!(target: NOTICE, "DNSSEC: that it has worked is forgotten (dns.dnssec = \"off\")");
        }
        Err(error) => tracing::error!(
            error,
            "DNSSEC: that it has worked can't be forgotten (dns.dnssec = \"off\"); the next start tries again"
        ),
    }
}

/// What the log of shard 0 has, as soon as its core says so.
pub(super) async fn insist<T: Send + 'static>(shard: &ShardHandle, look: fn(&Shard) -> T) -> T {
    let mut has_failed = false;
    let rest = || {
        if !std::mem::replace(&mut has_failed, true) {
            tracing::error!(
                "what is known of other hosts can't be read yet, the core that has it being busy; until then no mail leaves"
            );
        }
        async {
            tokio::time::sleep(AGAIN_AFTER).await;
            Ok::<(), Infallible>(())
        }
    };
    let Ok(found) =
        mesh::insist(|| shard.ask(move |shard| async move { look(&shard) }), rest).await;
    found
}

/// Looks at the start and each hour whether it works, and writes when it did last, until
/// the server stops.
pub async fn remember(resolver: Resolver, shard: ShardHandle) {
    let mut recorded = None;
    loop {
        let proved = resolver.look_at_root().await;
        if let Some(at) = proved.filter(|_| recorded != proved) {
            if let Err(error) = record(&shard, Some(Bytes::from(at.to_string()))).await {
                tracing::error!(
                    error,
                    "DNSSEC: that it works could not be remembered, so after a restart it may be kept off; it is tried again"
                );
                tokio::time::sleep(RECORD_AGAIN_AFTER).await;
                continue;
            }
            recorded = proved;
        }
        resolver.rest_from_root().await;
    }
}

async fn record(shard: &ShardHandle, value: Option<Bytes>) -> Result<(), String> {
    let put = move |shard: Rc<Shard>| async move { put(&shard, value).await };
    shard.ask(put).await.unwrap_or_else(|error| Err(error.to_string()))
}

async fn put(shard: &Shard, value: Option<Bytes>) -> Result<(), String> {
    let pairs = vec![(Bytes::from_static(KEY), value)];
    shard.store.put(SPACE, pairs).await.map(drop).map_err(|error| error.to_string())
}

/// On shard 0: whether there was something to forget.
pub async fn forget(shard: &Shard) -> Result<bool, String> {
    if shard.store.get(SPACE, KEY).is_none() {
        return Ok(false);
    }
    put(shard, None).await.map(|()| true)
}

/// For metrics; nothing where nothing is to be proved.
pub fn metrics_text(resolver: &Resolver) -> String {
    let Some((proved, demanded)) = resolver.proofs() else { return String::new() };
    let mut text = "# HELP kura_dnssec DNSSEC: whether the root's keys were proved when that was asked last, at most an hour ago, and whether nothing is believed without\n\
                    # TYPE kura_dnssec gauge\n"
        .to_owned();
    for (what, is_so) in [("proved", proved), ("demanded", demanded)] {
        let _ = writeln!(text, "kura_dnssec{{is=\"{what}\"}} {}", u8::from(is_so));
    }
    text
}
