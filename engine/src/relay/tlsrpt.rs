//! Reports to other domains about what sessions towards them have met (TLSRPT, RFC 8460): once a
//! day, to whom a domain names in `_smtp._tls`; as mail through the queue, signed as our own words
//! are, or over HTTPS.
//!
//! Reports are told about days that are over, in UTC, where `reports.tls` says so. A report that
//! can't be sent is gone: it tells of what is past. What is for an address of ours is delivered.
//! It goes whatever the domain's policy is (section 5.3), since it may tell of just that
//! policy's failure.

use super::sts::Web;
use super::tally::{Applied, DAY_SECONDS, Days, Kind, Met, Sessions, merge};
use crate::auth::dns::Resolver;
use crate::config::Config;
use crate::mesh::ShardHandle;
use crate::metrics::count;
use crate::operations::{Fault, on, unix_now};
use crate::queue::notices::{self, Fate};
use crate::reports::letter::Letter;
use crate::shard::Shard;
use crate::when::time_text;
use flate2::Compression;
use flate2::write::GzEncoder;
use protocols::Address;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Addressees of a domain that are heeded.
const ADDRESSEES_MAX: usize = 4;
/// After midnight; not all at once.
const SPREAD_SECONDS: u64 = 3600;

/// To whom a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressee {
    Mail(String),
    Web(String),
}

/// Section 3: `None` unless there is one record that is well-formed.
pub fn addressees(texts: &[Vec<u8>]) -> Option<Vec<Addressee>> {
    let rest = |text: &Vec<u8>| {
        let rest = std::str::from_utf8(text).ok()?.strip_prefix("v=TLSRPTv1")?;
        rest.trim_start().strip_prefix(';').map(str::to_owned)
    };
    let mut records = texts.iter().filter_map(rest);
    let (fields, None) = (records.next()?, records.next()) else { return None };
    let rua = fields.split(';').find_map(|field| field.trim().strip_prefix("rua="))?;
    let one = |uri: &str| {
        let uri = uri.trim();
        if uri.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) {
            return Some(Addressee::Web(uri.to_owned()));
        }
        let (scheme, address) = uri.split_once(':')?;
        let address = address.split('?').next()?.replace("%40", "@");
        let is_address = Address::parse(address.as_bytes()).is_some();
        (scheme.eq_ignore_ascii_case("mailto") && is_address).then_some(Addressee::Mail(address))
    };
    Some(rua.split(',').filter_map(one).take(ADDRESSEES_MAX).collect())
}

/// One day of a domain, as section 4.4 has it.
pub fn body(
    config: &Config,
    id: &str,
    (day, domain): (u64, &str),
    policies: &BTreeMap<Applied, Sessions>,
) -> Value {
    let failure = |(met, count): (&Met, &u64)| {
        let mut told = json!({
            "result-type": met.failed,
            "receiving-mx-hostname": met.host,
            "failed-session-count": count,
            "failure-reason-code": met.reason,
        });
        if let Some(address) = met.address {
            told["receiving-ip"] = json!(address.to_string());
        }
        told
    };
    let policy = |(applied, sessions): (&Applied, &Sessions)| {
        let mut told = json!({ "policy-type": applied.kind, "policy-domain": domain });
        if applied.kind != Kind::NoPolicyFound {
            told["policy-string"] = json!(applied.lines);
            told["mx-host"] = json!(applied.mx);
        }
        json!({
            "policy": told,
            "summary": {
                "total-successful-session-count": sessions.successful,
                "total-failure-session-count": sessions.failed(),
            },
            "failure-details": sessions.failures.iter().map(failure).collect::<Vec<_>>(),
        })
    };
    let time = |seconds: u64| time_text(seconds * 1000);
    json!({
        "organization-name": config.reports.reporter(&config.hostname),
        "date-range": {
            "start-datetime": time(day * DAY_SECONDS),
            "end-datetime": time((day + 1) * DAY_SECONDS - 1),
        },
        "contact-info": config.reports.from(&config.hostname),
        "report-id": id,
        "policies": policies.iter().map(policy).collect::<Vec<_>>(),
    })
}

fn packed(body: &Value) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory can't fail.
    let _ = packer.write_all(body.to_string().as_bytes());
    packer.finish().unwrap_or_default()
}

/// Section 5.3.
fn letter(
    config: &Config,
    id: &str,
    (day, domain): (u64, &str),
    to: &str,
    report: &[u8],
) -> Vec<u8> {
    let host = config.hostname.as_str();
    let (begin, end) = (day * DAY_SECONDS, (day + 1) * DAY_SECONDS - 1);
    Letter {
        organization: config.reports.reporter(host),
        from: &config.reports.from(host),
        to,
        subject: &format!("Report Domain: {domain} Submitter: {host} Report-ID: <{id}>"),
        message_id: id,
        // The queue reads the last one, too.
        fields: &format!(
            "TLS-Report-Domain: {domain}\r\nTLS-Report-Submitter: {host}\r\nTLS-Required: No\r\n"
        ),
        report_type: Some("tlsrpt"),
        now: unix_now(),
        words: &format!(
            "How well mail from {host} could be encrypted on its way to {domain} on\r\n\
             {on}, for programs to read. It is sent because {domain} asks for it (_smtp._tls).\r\n",
            on = &time_text(begin * 1000)[..10],
        ),
        file_name: &format!("{host}!{domain}!{begin}!{end}.json.gz"),
        file_type: "application/tlsrpt+gzip",
        file: report,
    }
    .text()
}

/// `kura domain tls-report`, on shard 0: what all cores have counted, or a line for each
/// report that goes now.
pub async fn operate(shard: &Rc<Shard>, send: bool) -> Result<Value, Fault> {
    if send {
        if !shard.config.relay.enabled {
            return Err("reports go to other hosts; set relay.enabled = true".to_owned());
        }
        return shard.hosts.report(shard).await.map(|said| json!(said));
    }
    let mut days = Days::new();
    for core in 0..shard.mesh.cores() {
        let part = |shard: Rc<Shard>| async move { Ok::<_, Fault>(shard.queue.tally.look()) };
        merge(&mut days, on(shard, core, part).await?);
    }
    let config = Arc::clone(&shard.config);
    let write = move || {
        let told = |((day, domain), policies): (&(u64, String), _)| {
            let id = format!("{day}.{domain}");
            body(&config, &id, (*day, domain), policies)
        };
        days.iter().map(told).collect()
    };
    Ok(glommio::executor().spawn_blocking(write).await)
}

/// On the control plane.
pub struct Reporter {
    config: Arc<Config>,
    resolver: Resolver,
    cores: Vec<ShardHandle>,
    /// Once it is needed.
    web: tokio::sync::OnceCell<Web>,
}

impl Reporter {
    pub fn new(config: &Arc<Config>, resolver: &Resolver, cores: &[ShardHandle]) -> Reporter {
        Reporter {
            config: Arc::clone(config),
            resolver: resolver.clone(),
            cores: cores.to_vec(),
            web: tokio::sync::OnceCell::new(),
        }
    }

    /// The configuration, and shard 0.
    pub fn home(&self) -> Option<(&Config, &ShardHandle)> {
        self.cores.first().map(|shard| (&*self.config, shard))
    }

    /// Until the server stops.
    pub async fn each_day(self: Arc<Reporter>) {
        let spread = u64::from(std::process::id()) % SPREAD_SECONDS;
        loop {
            let now = unix_now();
            let next = (now / DAY_SECONDS + 1) * DAY_SECONDS + spread;
            tokio::time::sleep(Duration::from_secs(next - now)).await;
            let days = self.taken(unix_now() / DAY_SECONDS).await;
            if self.config.reports.tls {
                self.report(days).await;
            }
        }
    }

    /// What was counted until now is told: the operator says so. A line for each domain
    /// that wants to know.
    pub async fn report_now(&self) -> Vec<String> {
        self.report(self.taken(u64::MAX).await).await
    }

    /// What was counted before that day, which is forgotten.
    async fn taken(&self, before: u64) -> Days {
        let mut days = Days::new();
        for core in &self.cores {
            let taken = core.ask(move |shard| async move { shard.queue.tally.take(before) }).await;
            merge(&mut days, taken.unwrap_or_default());
        }
        days
    }

    async fn report(&self, days: Days) -> Vec<String> {
        let mut said = Vec::new();
        for ((day, domain), policies) in days {
            let texts = self.resolver.texts(&format!("_smtp._tls.{domain}")).await;
            let wanted = texts.ok().and_then(|texts| addressees(&texts)).unwrap_or_default();
            if wanted.is_empty() {
                continue;
            }
            let host = &self.config.hostname;
            let id = format!("{day}.{}.{domain}@{host}", unix_now());
            // The control plane has others to answer meanwhile.
            let write = {
                let (config, id, domain) = (Arc::clone(&self.config), id.clone(), domain.clone());
                move || packed(&body(&config, &id, (day, &domain), &policies))
            };
            let Ok(report) = tokio::task::spawn_blocking(write).await else { continue };
            for addressee in wanted {
                let (to, sent) = match addressee {
                    Addressee::Mail(to) => {
                        let text = letter(&self.config, &id, (day, &domain), &to, &report);
                        let sent = self.mail(&to, text).await;
                        (to, sent)
                    }
                    Addressee::Web(url) => {
                        let sent = self.post(&url, report.clone()).await;
                        (url, sent)
                    }
                };
                match sent {
                    Ok(()) => tracing::info!(domain, to, "a report about TLS was sent"),
                    Err(ref why) => tracing::warn!(domain, to, why, "a report about TLS is lost"),
                }
                let end = sent.map_or_else(|why| format!("lost: {why}"), |()| "sent".to_owned());
                said.push(format!("{domain} to {to}: {end}"));
            }
        }
        said
    }

    async fn post(&self, url: &str, report: Vec<u8>) -> Result<(), String> {
        let made = async || {
            let (config, resolver) = (Arc::clone(&self.config), self.resolver.clone());
            // It reads the certificates of all authorities that the host knows.
            let make = move || Web::new(&config.relay, &resolver);
            tokio::task::spawn_blocking(make).await.map_err(|error| error.to_string())?
        };
        let web = self.web.get_or_try_init(made).await?;
        web.post(url, "application/tlsrpt+gzip", report).await
    }

    /// Nobody reads that a report has not arrived, so it comes from the null path.
    async fn mail(&self, to: &str, text: Vec<u8>) -> Result<(), String> {
        let core = self.cores.first().ok_or("there is no core")?;
        let to = to.to_owned();
        let send = move |shard: Rc<Shard>| async move {
            match notices::send(&shard, shard.next_id(), &to, false, text).await {
                Ok(Fate::Taken) => {
                    count(&shard.reports.counts.sent);
                    Ok(())
                }
                Ok(Fate::Dropped(why)) => Err(why),
                Err(error) => Err(error.to_string()),
            }
        };
        core.ask(send).await.map_err(|error| error.to_string())?
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::{Failed, Tally};
    use super::*;

    fn read(texts: &[&str]) -> Option<Vec<Addressee>> {
        addressees(&texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    #[test]
    fn who_wants_reports_says_so_in_one_record() {
        let mail = |to: &str| Addressee::Mail(to.to_owned());
        assert_eq!(read(&["v=TLSRPTv1; rua=mailto:tls@a.test"]), Some(vec![mail("tls@a.test")]));
        let both =
            "v=TLSRPTv1;rua=https://a.test/v1,MAILTO:t%40a.test!10m,mailto:t@a.test?subject=x;";
        let web = Addressee::Web("https://a.test/v1".into());
        assert_eq!(read(&["x", both]), Some(vec![web, mail("t@a.test")]));
        for wrong in [
            &["v=TLSRPTv1; rua=mailto:a@a.test", "v=TLSRPTv1; rua=mailto:b@a.test"][..],
            &["v=TLSRPTv2; rua=mailto:a@a.test"],
            &["v=TLSRPTv1; x=y"],
            &[],
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        assert_eq!(read(&["v=TLSRPTv1; rua=ftp://a.test,mailto:<x>"]), Some(Vec::new()));
    }

    #[test]
    fn a_report_tells_of_each_policy() {
        let tally = Tally::default();
        let lines = vec!["version: STSv1".to_owned()];
        let sts = Applied { kind: Kind::Sts, lines, mx: vec!["mx.a.test".into()], fault: None };
        let met = Met {
            failed: Failed::CertificateExpired,
            host: "mx.a.test".into(),
            address: Some("192.0.2.1".parse().unwrap()),
            reason: "old".into(),
        };
        tally.count(DAY_SECONDS, "a.test", &sts, Some(met));
        tally.count(DAY_SECONDS, "a.test", &sts, None);
        tally.count(DAY_SECONDS, "a.test", &Applied::default(), None);
        let config: Config = toml::from_str("hostname = 'h.test'\ndata_dir = '.'").unwrap();
        let days = tally.take(2);
        let told = body(&config, "1@h.test", (1, "a.test"), &days[&(1, "a.test".to_owned())]);
        assert_eq!(told["date-range"]["start-datetime"], "1970-01-02T00:00:00Z");
        assert_eq!(told["date-range"]["end-datetime"], "1970-01-02T23:59:59Z");
        let first = &told["policies"][0];
        assert_eq!(first["policy"]["policy-type"], "sts");
        assert_eq!(first["policy"]["mx-host"], json!(["mx.a.test"]));
        assert_eq!(first["summary"]["total-successful-session-count"], 1);
        assert_eq!(first["summary"]["total-failure-session-count"], 1);
        let failure = &first["failure-details"][0];
        assert_eq!(failure["result-type"], "certificate-expired");
        assert_eq!(failure["receiving-ip"], "192.0.2.1");
        assert_eq!(told["policies"][1]["policy"]["policy-type"], "no-policy-found");
        let fetch = serde_json::to_value(Failed::StsPolicyFetch).unwrap();
        assert_eq!(fetch, "sts-policy-fetch-error");
    }
}
