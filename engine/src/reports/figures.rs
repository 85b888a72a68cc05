//! What others report about our domains: key space 21 of shard 0's log, one pair for each report,
//! so that one that comes twice counts once. Sums are made when somebody asks.
//!
//! | key | value |
//! |---|---|
//! | domain, NUL, day (u32, big-endian), `d` or `t`, the reporter's domain, NUL, 12 octets of SHA-256 of the report's id | a [`Digest`] in JSON |
//!
//! Who may report can say what they like; so each reporter has a limit for a domain's day, and so
//! have all together.

use super::digest::{About, Digest, Source};
use crate::shard::Shard;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use storage::store::Space;

pub const SPACE: Space = Space(21);
/// Reports that are kept, and their octets.
pub const REPORTS_MAX: usize = 50_000;
pub const BYTES_MAX: usize = 32 << 20;
/// About one domain's day, of one reporter, and of all.
const OF_ONE_REPORTER_MAX: usize = 24;
const OF_ONE_DAY_MAX: usize = 1000;
/// Sources that are shown.
const SHOWN_MAX: usize = 500;
/// A clock may be wrong by so many seconds.
const AHEAD_MAX: u64 = 2 * 86_400;
/// Keys that go in one record.
const CHUNK: usize = 500;

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    pub reports: usize,
    pub bytes: usize,
}

fn day_prefix(domain: &str, day: u32) -> Vec<u8> {
    [domain.as_bytes(), b"\0", &day.to_be_bytes()].concat()
}

fn reporter_prefix(digest: &Digest, reporter: &str) -> Vec<u8> {
    let kind = match digest.about {
        About::Dmarc(_) => b'd',
        About::Tls(_) => b't',
    };
    [&day_prefix(&digest.domain, digest.day()), &[kind][..], reporter.as_bytes(), b"\0"].concat()
}

pub fn key(digest: &Digest, reporter: &str) -> Bytes {
    // One TLS report may tell of several policies of a domain.
    let id = match &digest.about {
        About::Dmarc(_) => digest.id.clone(),
        About::Tls(tls) => format!("{}\0{}", digest.id, tls.policy),
    };
    let hash = sha2::Sha256::digest(id);
    Bytes::from([&reporter_prefix(digest, reporter), &hash[..12]].concat())
}

/// The domain, the day, and the reporter.
fn read_key(key: &[u8]) -> Option<(&str, u32, &str)> {
    let at = memchr::memchr(0, key)?;
    let domain = std::str::from_utf8(key.get(..at)?).ok()?;
    let day = u32::from_be_bytes(key.get(at + 1..at + 5)?.try_into().ok()?);
    let rest = key.get(at + 6..)?;
    let reporter = rest.get(..memchr::memchr(0, rest)?)?;
    Some((domain, day, std::str::from_utf8(reporter).ok()?))
}

/// How much is kept: of use at the start.
pub fn held(shard: &Shard) -> Held {
    let all = shard.store.scan(SPACE);
    Held { reports: all.len(), bytes: all.iter().map(|(key, value)| key.len() + value.len()).sum() }
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    New,
    /// It was there.
    Known,
    Refused(String),
}

/// On shard 0, by one at a time.
pub async fn take(shard: &Shard, reporter: &str, digest: Digest, now: u64) -> Taken {
    let keep = shard.config.reports.keep.0.as_secs();
    if digest.end > now + AHEAD_MAX || digest.begin.saturating_add(keep) < now {
        return Taken::Refused("it is about a time that is long ago, or yet to come".to_owned());
    }
    let key = key(&digest, reporter);
    if shard.store.get(SPACE, &key).is_some() {
        return Taken::Known;
    }
    let count = |prefix: &[u8]| shard.store.scan_prefix(SPACE, prefix).len();
    if count(&reporter_prefix(&digest, reporter)) >= OF_ONE_REPORTER_MAX {
        return Taken::Refused(format!("{reporter} has sent {OF_ONE_REPORTER_MAX} about that day"));
    }
    if count(&day_prefix(&digest.domain, digest.day())) >= OF_ONE_DAY_MAX {
        return Taken::Refused(format!("there are {OF_ONE_DAY_MAX} about that day"));
    }
    let value = Bytes::from(serde_json::to_vec(&digest).unwrap_or_default());
    let mut held = shard.reports.held.get();
    held.reports += 1;
    held.bytes += key.len() + value.len();
    if held.reports > REPORTS_MAX || held.bytes > BYTES_MAX {
        let what = "there is no room for more reports; shorten reports.keep".to_owned();
        return Taken::Refused(what);
    }
    match shard.store.put(SPACE, vec![(key, Some(value))]).await {
        Ok(_) => {
            shard.reports.held.set(held);
            Taken::New
        }
        Err(error) => Taken::Refused(format!("it could not be written: {error}")),
    }
}

/// Reports about days before this one go.
pub async fn forget(shard: &Shard, before: u32) -> Result<(), storage::Error> {
    let is_old = |key: &Bytes| read_key(key).is_none_or(|(_, day, _)| day < before);
    let mut old: Vec<(Bytes, usize)> = shard
        .store
        .scan(SPACE)
        .into_iter()
        .filter(|(key, _)| is_old(key))
        .map(|(key, value)| (key.clone(), key.len() + value.len()))
        .collect();
    while !old.is_empty() {
        let some = old.split_off(old.len().saturating_sub(CHUNK));
        let (reports, bytes) = (some.len(), some.iter().map(|(_, bytes)| bytes).sum::<usize>());
        let _ =
            shard.store.put(SPACE, some.into_iter().map(|(key, _)| (key, None)).collect()).await?;
        let held = shard.reports.held.get();
        shard.reports.held.set(Held {
            reports: held.reports.saturating_sub(reports),
            bytes: held.bytes.saturating_sub(bytes),
        });
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Sums {
    passed: u64,
    failed: u64,
    reports: u64,
    tls_passed: u64,
    tls_failed: u64,
    reporters: BTreeSet<String>,
}

impl Sums {
    fn add(&mut self, digest: &Digest, reporter: &str) {
        match &digest.about {
            About::Dmarc(dmarc) => {
                self.passed = self.passed.saturating_add(dmarc.passed);
                self.failed = self.failed.saturating_add(dmarc.failed);
            }
            About::Tls(tls) => {
                self.tls_passed = self.tls_passed.saturating_add(tls.passed);
                self.tls_failed = self.tls_failed.saturating_add(tls.failed);
            }
        }
        self.reports += 1;
        self.reporters.insert(reporter.to_owned());
    }

    fn json(&self) -> Value {
        json!({
            "passed": self.passed,
            "failed": self.failed,
            "tls_passed": self.tls_passed,
            "tls_failed": self.tls_failed,
            "reports": self.reports,
            "reporters": self.reporters.len(),
        })
    }
}

fn digests(pairs: &[(Bytes, Bytes)], since: u32) -> impl Iterator<Item = (u32, &str, Digest)> {
    pairs.iter().filter_map(move |(key, value)| {
        let (_, day, reporter) = read_key(key)?;
        if day < since {
            return None;
        }
        Some((day, reporter, serde_json::from_slice(value).ok()?))
    })
}

/// For each domain and day. Off the core: there may be many.
pub fn list(pairs: &[(Bytes, Bytes)], since: u32) -> Value {
    let mut sums: BTreeMap<(String, std::cmp::Reverse<u32>), Sums> = BTreeMap::new();
    for (day, reporter, digest) in digests(pairs, since) {
        let key = (digest.domain.clone(), std::cmp::Reverse(day));
        sums.entry(key).or_default().add(&digest, reporter);
    }
    let row = |((domain, day), sums): ((String, std::cmp::Reverse<u32>), Sums)| {
        let mut row = sums.json();
        row["domain"] = json!(domain);
        row["day"] = json!(date(day.0));
        row
    };
    Value::Array(sums.into_iter().map(row).collect())
}

/// Of a source that fails.
#[derive(Debug, Default)]
struct Failing {
    messages: u64,
    dispositions: BTreeMap<String, u64>,
    passed_for: BTreeSet<String>,
    reporters: BTreeSet<String>,
}

impl Failing {
    fn add(&mut self, source: Source, reporter: &str) {
        self.messages = self.messages.saturating_add(source.messages);
        let of = self.dispositions.entry(source.disposition).or_default();
        *of = of.saturating_add(source.messages);
        self.passed_for.extend(source.passed_for);
        self.reporters.insert(reporter.to_owned());
    }
}

/// Everything that is known of one domain. Off the core.
pub fn show(pairs: &[(Bytes, Bytes)], domain: &str, since: u32) -> Value {
    let mut days: BTreeMap<u32, Sums> = BTreeMap::new();
    let mut reporters: BTreeMap<String, (String, Sums)> = BTreeMap::new();
    let mut sources: BTreeMap<(IpAddr, String), Failing> = BTreeMap::new();
    let mut failures: BTreeMap<(String, String, String), (u64, BTreeSet<String>)> = BTreeMap::new();
    let mut more = 0_u64;
    for (day, reporter, digest) in digests(pairs, since) {
        days.entry(day).or_default().add(&digest, reporter);
        let known = reporters.entry(reporter.to_owned()).or_default();
        known.0.clone_from(&digest.organization);
        known.1.add(&digest, reporter);
        match digest.about {
            About::Dmarc(dmarc) => {
                more = more.saturating_add(dmarc.more);
                for source in dmarc.sources {
                    let key = (source.address, source.from.clone());
                    sources.entry(key).or_default().add(source, reporter);
                }
            }
            About::Tls(tls) => {
                for failure in tls.failures {
                    let key = (failure.what, failure.host, tls.policy.clone());
                    let known = failures.entry(key).or_default();
                    known.0 = known.0.saturating_add(failure.sessions);
                    known.1.insert(reporter.to_owned());
                }
            }
        }
    }
    let mut sources: Vec<_> = sources.into_iter().collect();
    sources.sort_by_key(|(key, failing)| (std::cmp::Reverse(failing.messages), key.clone()));
    let beyond = sources.iter().skip(SHOWN_MAX).map(|(_, failing)| failing.messages);
    let more = beyond.fold(more, u64::saturating_add);
    sources.truncate(SHOWN_MAX);
    let mut failures: Vec<_> = failures.into_iter().collect();
    failures.sort_by_key(|(_, (sessions, _))| std::cmp::Reverse(*sessions));
    failures.truncate(SHOWN_MAX);
    let day = |(day, sums): (u32, Sums)| {
        let mut row = sums.json();
        row["day"] = json!(date(day));
        row
    };
    let reporter = |(name, (organization, sums)): (String, (String, Sums))| {
        let mut row = sums.json();
        row["reporter"] = json!(name);
        row["organization"] = json!(organization);
        row
    };
    let source = |((address, from), failing): ((IpAddr, String), Failing)| {
        json!({
            "address": address.to_string(),
            "from": from,
            "messages": failing.messages,
            "dispositions": failing.dispositions,
            "passed_for": failing.passed_for,
            "reporters": failing.reporters,
        })
    };
    let failure = |((what, host, policy), (sessions, reporters)): (
        (String, String, String),
        (u64, BTreeSet<String>),
    )| {
        json!({ "what": what, "host": host, "policy": policy, "sessions": sessions, "reporters": reporters })
    };
    json!({
        "domain": domain,
        "since": date(since),
        "days": days.into_iter().rev().map(day).collect::<Vec<_>>(),
        "reporters": reporters.into_iter().map(reporter).collect::<Vec<_>>(),
        "sources": sources.into_iter().map(source).collect::<Vec<_>>(),
        "more_messages": more,
        "tls_failures": failures.into_iter().map(failure).collect::<Vec<_>>(),
    })
}

/// What is kept about one domain.
pub fn of_domain(shard: &Shard, domain: &str) -> Vec<(Bytes, Bytes)> {
    shard.store.scan_prefix(SPACE, &[domain.as_bytes(), b"\0"].concat())
}

fn date(day: u32) -> String {
    let (year, month, day) = protocols::message::date::Day(i64::from(day)).civil();
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::feedback::tests::{one, xml};
    use crate::reports::{feedback, tlsrpt};

    fn pair(digest: &Digest, reporter: &str) -> (Bytes, Bytes) {
        (key(digest, reporter), Bytes::from(serde_json::to_vec(digest).unwrap()))
    }

    fn dmarc(id: &str, records: &str) -> Digest {
        feedback::read(xml("a.test", id, records).as_bytes()).unwrap()
    }

    #[test]
    fn a_report_is_known_by_its_reporter_and_id() {
        let digest = dmarc("r1", "");
        let known = key(&digest, "big.test");
        assert_eq!(known, key(&dmarc("r1", &one("192.0.2.1", "1", "pass", "pass")), "big.test"));
        // Nobody takes the place of another's report.
        assert_ne!(known, key(&digest, "evil.test"));
        assert_ne!(known, key(&dmarc("r2", ""), "big.test"));
        assert_eq!(read_key(&known), Some(("a.test", digest.day(), "big.test")));
        assert_eq!(read_key(b"a.test\0"), None);
        assert_eq!(read_key(b""), None);
    }

    #[test]
    fn sums_over_reports_are_right() {
        let failing = one("192.0.2.7", "31", "fail", "fail");
        let passing = one("192.0.2.1", "40", "pass", "fail");
        let tls = tlsrpt::read(tlsrpt::tests::json("a.test", "t1").as_bytes()).unwrap().remove(0);
        let pairs = [
            pair(&dmarc("r1", &(failing.clone() + &passing)), "big.test"),
            pair(&dmarc("r2", &failing), "small.test"),
            pair(&tls, "big.test"),
        ];
        let listed = list(&pairs, 0);
        let rows = listed.as_array().unwrap();
        let dmarc_day = rows.iter().find(|row| row["failed"] == 62).unwrap();
        assert_eq!(dmarc_day["day"], "2026-09-22");
        assert_eq!((&dmarc_day["passed"], &dmarc_day["reporters"]), (&json!(40), &json!(2)));
        assert!(rows.iter().any(|row| row["tls_failed"] == 3 && row["tls_passed"] == 40));
        let shown = show(&pairs, "a.test", 0);
        assert_eq!(shown["sources"][0]["messages"], 62);
        assert_eq!(shown["sources"][0]["dispositions"], json!({ "none": 62 }));
        assert_eq!(shown["sources"][0]["passed_for"], json!(["list.test"]));
        assert_eq!(shown["reporters"].as_array().unwrap().len(), 2);
        assert_eq!(shown["tls_failures"][0]["what"], "certificate-expired");
        assert_eq!(list(&pairs, u32::MAX), json!([]));
    }
}
