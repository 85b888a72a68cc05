//! That DNSSEC has worked once is remembered, so that a restart gives nobody who stands between a second chance to keep it
//! off: a pair on shard 0, beside the policies of other domains, under the root's own name.

use super::sts::SPACE;
use crate::NOTICE;
use crate::auth::dns::Resolver;
use crate::config::Config;
use crate::mesh::ShardHandle;
use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use std::fmt::Write;
use std::rc::Rc;

/// No domain that mail goes to.
const KEY: &[u8] = b".";

/// Reads what is remembered, before the first question. With `dns.dnssec = "off"` it is forgotten: whoever switches it on
/// again has another resolver.
pub async fn recall(config: &Config, resolver: &Resolver, shard: &ShardHandle) {
    let known = shard.ask(|shard| async move { shard.store.get(SPACE, KEY) }).await;
    let at =
        known.ok().flatten().and_then(|value| String::from_utf8(value.to_vec()).ok()?.parse().ok());
    let Some(at) = at else { return };
    if config.dns.dnssec == crate::auth::settings::Dnssec::Off {
        record(shard, None).await;
    } else {
        resolver.root_was_proved(at);
    }
}

/// Writes it, each time that it is proved anew, which is once in a server's life.
pub async fn remember(resolver: Resolver, shard: ShardHandle) {
    resolver.root_is_proved().await;
    record(&shard, Some(Bytes::from(unix_now().to_string()))).await;
}

async fn record(shard: &ShardHandle, value: Option<Bytes>) {
    let is_forgotten = value.is_none();
    let put = move |shard: Rc<Shard>| async move {
        let pairs = vec![(Bytes::from_static(KEY), value)];
        shard.store.put(SPACE, pairs).await.map(drop).map_err(|error| error.to_string())
    };
    match shard.ask(put).await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(()) if is_forgotten => {
            tracing::info!(target: NOTICE, "DNSSEC: that it has worked is forgotten (dns.dnssec = \"off\")");
        }
        Ok(()) => {}
        Err(error) => tracing::warn!(error, "DNSSEC: that it works could not be remembered"),
    }
}

/// For metrics; nothing where nothing is to be proved.
pub fn metrics_text(resolver: &Resolver) -> String {
    let Some((proved, demanded)) = resolver.proofs() else { return String::new() };
    let mut text = "# HELP kura_dnssec DNSSEC: whether the root's keys have been proved since the start, and whether nothing is believed without\n\
                    # TYPE kura_dnssec gauge\n"
        .to_owned();
    for (what, is_so) in [("proved", proved), ("demanded", demanded)] {
        let _ = writeln!(text, "kura_dnssec{{is=\"{what}\"}} {}", u8::from(is_so));
    }
    text
}
