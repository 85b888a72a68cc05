//! Other domains' MTA-STS policies: fetched, kept, fetched again. RFC 8461 sections
//! 3.3, 5 and 10.2.
//!
//! | `_mta-sts` in DNS | known and not expired | then |
//! |---|---|---|
//! | the same `id` | yes | what is known |
//! | another `id` | yes | what is fetched, or what is known if that fails |
//! | an `id` | no | what is fetched, or no policy if that fails |
//! | none, or DNS does not say | yes | what is known: who can silence DNS must not be able to take a policy back |
//! | none, or DNS does not say | no | no policy |
//!
//! Without certificates to believe in nothing can be fetched; what is known holds all the same.
//!
//! A policy comes over HTTPS from a host whose certificate is valid; neither redirects nor more
//! than [`POLICY_BYTES_MAX`] are followed. Where that fails, it is not tried again for
//! [`FAILED_SECONDS`]. Policies are fetched anew each day, used or not, so that they do not expire.
//!
//! Kept in key space 12 of shard 0's log: the domain, and [`Kept`] as JSON. At most [`KEPT_MAX`]:
//! then who has not been sent mail for the longest time is forgotten.

use crate::auth::dns::{Missing, Resolver, name};
use crate::config::Relay;
use crate::domain::mta_sts::{POLICY_BYTES_MAX, Policy, record_id, url};
use crate::domain::settings::PolicyMode;
use crate::mesh::ShardHandle;
use crate::operations::unix_now;
use crate::relay::proofs::insist;
use crate::relay::tally::Failed;
use crate::relay::tls::Trust;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::store::Space;
use tokio::sync::Semaphore;

pub const SPACE: Space = Space(12);
const KEPT_MAX: usize = 10_000;
/// Domains of which is remembered that their policy can't be had.
const FAILED_MAX: usize = 10_000;
const FAILED_SECONDS: u64 = 300;
/// Fetched at once; others wait.
const FETCHES_MAX: usize = 8;
/// Section 3.3.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
const REFRESH_SECONDS: u64 = 86_400;
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// What nobody has needed for so long expires in its time.
const UNUSED_SECONDS: u64 = 90 * 86_400;

/// One domain's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub id: String,
    pub policy: Policy,
    /// Unix seconds.
    pub fetched: u64,
    pub used: u64,
}

impl Kept {
    fn is_valid(&self, now: u64) -> bool {
        // Fetched in the future: the clock has been set back, and that must not take the
        // protection away.
        now.saturating_sub(self.fetched) < self.policy.max_age
    }

    fn is_due(&self, now: u64) -> bool {
        let after = REFRESH_SECONDS.min(self.policy.max_age / 2);
        (self.fetched > now || now - self.fetched >= after)
            && now.saturating_sub(self.used) < UNUSED_SECONDS
    }
}

/// On the control plane.
pub struct Policies {
    /// `None`: they are not obeyed; or why none can be fetched.
    web: Option<Result<Web, String>>,
    resolver: Resolver,
    /// Whose log keeps them; tests have none.
    shard: Option<ShardHandle>,
    known: Mutex<Known>,
    fetches: Semaphore,
}

#[derive(Default)]
struct Known {
    kept: HashMap<String, Kept>,
    /// When, which `id`, and why.
    failed: HashMap<String, (u64, String, String)>,
    /// One fetch of a domain's at a time.
    busy: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

/// Why there is no policy where there is an `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfetched(pub String);

const WRONG: &str = "its MTA-STS policy is wrong";

impl Unfetched {
    /// As reports call it.
    pub fn result(&self) -> Failed {
        if self.0.starts_with(WRONG) {
            Failed::StsPolicyInvalid
        } else if self.0.contains("certificate") {
            Failed::StsWebpkiInvalid
        } else {
            Failed::StsPolicyFetch
        }
    }
}

impl Policies {
    pub fn new(settings: &Relay, resolver: &Resolver, shard: ShardHandle) -> Policies {
        let wanted = settings.enabled && settings.mta_sts;
        let web = wanted.then(|| Web::new(settings, resolver));
        if let Some(Err(fault)) = &web {
            tracing::error!(
                fault,
                "MTA-STS policies can't be fetched: those that are not known yet protect nobody; set relay.ca_file, or \
                 relay.mta_sts = false"
            );
        }
        Policies {
            web,
            resolver: resolver.clone(),
            shard: Some(shard),
            known: Mutex::default(),
            fetches: Semaphore::new(FETCHES_MAX),
        }
    }

    #[cfg(test)]
    pub fn none(resolver: &Resolver) -> Policies {
        Policies {
            web: None,
            resolver: resolver.clone(),
            shard: None,
            known: Mutex::default(),
            fetches: Semaphore::new(FETCHES_MAX),
        }
    }

    /// What the log has. Before the first question.
    pub async fn load(&self) {
        let Some(shard) = self.shard.as_ref().filter(|_| self.web.is_some()) else { return };
        let pairs = insist(shard, |shard| shard.store.scan(SPACE)).await;
        let read = |(domain, value): (Bytes, Bytes)| {
            let domain = String::from_utf8(domain.to_vec()).ok()?;
            Some((domain, serde_json::from_slice(&value).ok()?))
        };
        self.known(|known| known.kept.extend(pairs.into_iter().filter_map(read)));
    }

    /// The policy that holds for a domain now.
    pub async fn of(&self, domain: &str) -> Result<Option<Policy>, Unfetched> {
        let Some(web) = &self.web else { return Ok(None) };
        let texts = self.resolver.texts(&format!("_mta-sts.{domain}")).await;
        let id = texts.ok().and_then(|texts| record_id(&texts));
        let now = unix_now();
        let valid = self.known(|known| {
            let kept = known.kept.get_mut(domain).filter(|kept| kept.is_valid(now))?;
            kept.used = now;
            Some(kept.clone())
        });
        let Some(id) = id else { return Ok(valid.map(|kept| kept.policy)) };
        if let Some(kept) = valid.as_ref().filter(|kept| kept.id == id) {
            return Ok(Some(kept.policy.clone()));
        }
        let fetched = match web {
            Ok(web) => self.fetched(web, domain, &id, now).await,
            Err(fault) => Err(fault.clone()),
        };
        match (fetched, valid) {
            (Ok(policy), _) => Ok(Some(policy)),
            (Err(why), Some(kept)) => {
                tracing::info!(
                    domain,
                    why,
                    "its new MTA-STS policy can't be had: the one before goes on"
                );
                Ok(Some(kept.policy))
            }
            (Err(why), None) => Err(Unfetched(why)),
        }
    }

    /// Of several who want the same, one fetches it.
    async fn fetched(&self, web: &Web, domain: &str, id: &str, now: u64) -> Result<Policy, String> {
        let turn = self.known(|known| {
            // Those whom nobody waits for any more, also of questions that were given up.
            known.busy.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(known.busy.entry(domain.to_owned()).or_default())
        });
        let _held = turn.lock().await;
        let known = self.known(|known| {
            let kept = known.kept.get(domain).filter(|kept| kept.id == id && kept.is_valid(now));
            let failed = known.failed.get(domain);
            let failed = failed.filter(|(at, of, _)| of == id && now < at + FAILED_SECONDS);
            kept.map(|kept| Ok(kept.policy.clone()))
                .or_else(|| failed.map(|(_, _, why)| Err(why.clone())))
        });
        match known {
            Some(known) => known,
            None => self.fetch(web, domain, id).await,
        }
    }

    async fn fetch(&self, web: &Web, domain: &str, id: &str) -> Result<Policy, String> {
        let Ok(_place) = self.fetches.acquire().await else {
            return Err("the server is stopping".to_owned());
        };
        let gave_up = Some("it was not there within the time that others wait for it".to_owned());
        let mut failure = Failure { policies: self, domain, id, why: gave_up };
        let text = web.get(&url(domain)).await;
        let now = unix_now();
        let policy =
            text.and_then(|text| Policy::parse(&text).map_err(|fault| format!("{WRONG}: {fault}")));
        match policy {
            Ok(policy) => {
                failure.why = None;
                let mode = policy.mode.name();
                tracing::info!(domain, id, mode, mx = ?policy.mx, "an MTA-STS policy was fetched");
                let kept =
                    Kept { id: id.to_owned(), policy: policy.clone(), fetched: now, used: now };
                self.keep(domain, kept).await;
                Ok(policy)
            }
            Err(why) => {
                failure.why = Some(why.clone());
                Err(why)
            }
        }
    }

    fn note_failure(&self, domain: &str, id: &str, why: String) {
        tracing::info!(domain, id, why, "an MTA-STS policy can't be had");
        let now = unix_now();
        self.known(|known| {
            if known.failed.len() >= FAILED_MAX {
                known.failed.retain(|_, (at, ..)| now < *at + FAILED_SECONDS);
            }
            if known.failed.len() < FAILED_MAX {
                known.failed.insert(domain.to_owned(), (now, id.to_owned(), why));
            }
        });
    }

    /// In memory, and in the log: without that it would be fetched again after a restart.
    async fn keep(&self, domain: &str, kept: Kept) {
        let value = serde_json::to_vec(&kept).expect("a policy has string keys only");
        let mut pairs = vec![(domain.to_owned(), Some(Bytes::from(value)))];
        self.known(|known| {
            known.failed.remove(domain);
            if known.kept.len() >= KEPT_MAX && !known.kept.contains_key(domain) {
                let least = known.kept.iter().min_by_key(|(_, kept)| kept.used);
                if let Some(least) = least.map(|(domain, _)| domain.clone()) {
                    known.kept.remove(&least);
                    pairs.push((least, None));
                }
            }
            known.kept.insert(domain.to_owned(), kept);
        });
        self.record(pairs).await;
    }

    async fn record(&self, pairs: Vec<(String, Option<Bytes>)>) {
        let Some(shard) = &self.shard else { return };
        let pairs = pairs.into_iter().map(|(domain, value)| (Bytes::from(domain), value)).collect();
        let put = move |shard: std::rc::Rc<crate::shard::Shard>| async move {
            shard.store.put(SPACE, pairs).await.map(drop).map_err(|error| error.to_string())
        };
        let done = shard.ask(put).await.unwrap_or_else(|error| Err(error.to_string()));
        if let Err(error) = done {
            tracing::warn!(
                error,
                "MTA-STS policies could not be written; after a restart they are fetched again"
            );
        }
    }

    /// Keeps them fresh, until the server stops.
    pub async fn refresh(self: Arc<Policies>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(Ok(web)) = &self.web else { return };
            let now = unix_now();
            let (due, over) = self.known(|known| {
                let over: Vec<String> = known
                    .kept
                    .iter()
                    .filter(|(_, kept)| !kept.is_valid(now))
                    .map(|(domain, _)| domain.clone())
                    .collect();
                over.iter().for_each(|domain| drop(known.kept.remove(domain)));
                let due = known.kept.iter().filter(|(_, kept)| kept.is_due(now));
                (due.map(|(domain, kept)| (domain.clone(), kept.clone())).collect::<Vec<_>>(), over)
            });
            if !over.is_empty() {
                self.record(over.into_iter().map(|domain| (domain, None)).collect()).await;
            }
            // One after the other: there is a day for it.
            for (domain, kept) in due {
                let texts = self.resolver.texts(&format!("_mta-sts.{domain}")).await;
                let Some(id) = texts.ok().and_then(|texts| record_id(&texts)) else { continue };
                let fetched = web.get(&url(&domain)).await;
                if let Ok(Ok(policy)) = fetched.map(|text| Policy::parse(&text)) {
                    let used = kept.used;
                    self.keep(&domain, Kept { id, policy, fetched: unix_now(), used }).await;
                }
            }
        }
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Policies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Policies")
    }
}

/// Of a fetch: noted when that is over, or given up because whoever asked has waited long enough,
/// be it for other things.
struct Failure<'f> {
    policies: &'f Policies,
    domain: &'f str,
    id: &'f str,
    why: Option<String>,
}

impl Drop for Failure<'_> {
    fn drop(&mut self) {
        if let Some(why) = self.why.take() {
            self.policies.note_failure(self.domain, self.id, why);
        }
    }
}

/// HTTPS as section 3.3 wants it.
pub(super) struct Web(reqwest::Client);

impl Web {
    pub(super) fn new(settings: &Relay, resolver: &Resolver) -> Result<Web, String> {
        Web::found_by(settings, Names(resolver.clone()))
    }

    fn found_by(
        settings: &Relay,
        names: impl reqwest::dns::Resolve + 'static,
    ) -> Result<Web, String> {
        let trust = Trust::valid(settings.ca_file.as_ref())?;
        reqwest::Client::builder()
            .tls_backend_preconfigured((*trust.config()).clone())
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(FETCH_TIMEOUT)
            .dns_resolver(Arc::new(names))
            .build()
            .map(Web)
            .map_err(|error| error.to_string())
    }

    /// Where a report goes that is not mailed (RFC 8460 section 5.4).
    pub(super) async fn post(&self, url: &str, kind: &str, body: Vec<u8>) -> Result<(), String> {
        let sent = self.0.post(url).header(reqwest::header::CONTENT_TYPE, kind).body(body).send();
        let answer = sent.await.map_err(|error| error.to_string())?;
        match answer.status().is_success() {
            true => Ok(()),
            false => Err(format!("it answers {}", answer.status().as_u16())),
        }
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let fault = |error: reqwest::Error| {
            let mut inner: &dyn std::error::Error = &error;
            while let Some(source) = inner.source() {
                inner = source;
            }
            format!("{url} can't be fetched: {inner}")
        };
        let mut answer = self.0.get(url).send().await.map_err(fault)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("{url} answers {}", answer.status().as_u16()));
        }
        let kind = answer.headers().get(reqwest::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("text/plain") {
            return Err(format!("{url} is not text/plain"));
        }
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(fault)? {
            text.extend_from_slice(&piece);
            if text.len() > POLICY_BYTES_MAX {
                return Err(format!("{url} is longer than {POLICY_BYTES_MAX} octets"));
            }
        }
        Ok(text)
    }
}

/// The same resolver as for everything else.
struct Names(Resolver);

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, asked: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let mut found: Vec<SocketAddr> = Vec::new();
            let mut missing = Missing::NoSuchName;
            if let Some(name) = name(asked.as_str()) {
                for v4 in [true, false] {
                    match resolver.addresses(name.clone(), v4).await {
                        Ok(some) => {
                            found.extend(some.into_iter().map(|one| SocketAddr::new(one, 0)))
                        }
                        Err(why) => missing = why,
                    }
                }
            }
            if found.is_empty() {
                let what = format!("no address of {} ({missing:?})", asked.as_str());
                return Err(what.into());
            }
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Of a domain whose policy is in force or on trial.
pub fn binds(policy: &Option<Policy>) -> Option<&Policy> {
    policy.as_ref().filter(|policy| policy.mode != PolicyMode::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(max_age: u64) -> Kept {
        let policy = Policy { mode: PolicyMode::Enforce, mx: vec!["mx.a.test".into()], max_age };
        Kept { id: "1".into(), policy, fetched: 1_000_000, used: 1_000_000 }
    }

    #[test]
    fn a_policy_is_fetched_anew_before_it_expires() {
        let week = kept(604_800);
        assert!(week.is_valid(1_000_000) && week.is_valid(1_604_799) && !week.is_valid(1_604_800));
        assert!(!week.is_due(1_086_399) && week.is_due(1_086_400));
        // Of a future that was a clock's mistake.
        assert!(week.is_valid(999_999) && week.is_due(999_999));
        let hour = kept(3600);
        assert!(!hour.is_due(1_001_799) && hour.is_due(1_001_800));
        let forgotten = kept(31_557_600);
        assert!(!forgotten.is_due(1_000_000 + UNUSED_SECONDS));
        let text = serde_json::to_vec(&week).unwrap();
        assert_eq!(serde_json::from_slice::<Kept>(&text).unwrap(), week);
    }

    struct Silent;

    impl reqwest::dns::Resolve for Silent {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(std::future::pending())
        }
    }

    #[test]
    fn a_fetch_that_is_given_up_has_failed_and_is_not_begun_anew_at_once() {
        let dir = std::env::temp_dir().join(format!("kura-sts-{}", std::process::id()));
        crate::certificates::self_signed(&dir, &["ca.test".to_owned()]).unwrap();
        let ca_file = Some(crate::certificates::directory(&dir).join("ca.test/chain.pem"));
        let web = Web::found_by(&Relay { ca_file, ..Relay::default() }, Silent).unwrap();
        let policies = Policies::none(&Resolver::from_zone(HashMap::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let moment = Duration::from_millis(20);
            let first = policies.fetched(&web, "a.test", "1", unix_now());
            assert!(tokio::time::timeout(moment, first).await.is_err(), "nobody answers");
            let why = policies.fetched(&web, "a.test", "1", unix_now()).await.unwrap_err();
            assert!(why.contains("within the time"), "{why}");
            // Another policy may be had.
            let other = policies.fetched(&web, "a.test", "2", unix_now());
            assert!(tokio::time::timeout(moment, other).await.is_err(), "nobody answers");
        });
        std::fs::remove_dir_all(dir).unwrap();
    }
}
