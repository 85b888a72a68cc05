//! A TLS report of somebody else's (RFC 8460 section 4): JSON, read within bounds.

use super::digest::{About, Digest, FAILURES_MAX, Failure, Tls, line};
use super::unpack::Fault;
use crate::auth::dkim::tags;
use crate::when::parse_time;
use serde::Deserialize;

/// Domains that one report is about.
const POLICIES_MAX: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Report {
    #[serde(default)]
    organization_name: String,
    date_range: DateRange,
    report_id: String,
    policies: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DateRange {
    start_datetime: String,
    end_datetime: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    policy: Policy,
    summary: Sums,
    #[serde(default)]
    failure_details: Vec<Details>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Policy {
    #[serde(default)]
    policy_type: String,
    /// Some reporters leave it out where there is no policy.
    #[serde(default)]
    policy_domain: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sums {
    #[serde(default)]
    total_successful_session_count: u64,
    #[serde(default)]
    total_failure_session_count: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Details {
    result_type: String,
    #[serde(default)]
    receiving_mx_hostname: Option<String>,
    failed_session_count: u64,
    #[serde(default)]
    failure_reason_code: Option<String>,
}

/// One digest for each policy that it tells of.
pub fn read(json: &[u8]) -> Result<Vec<Digest>, Fault> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    let report: Report = serde_json::from_slice(json)
        .map_err(|_| "the JSON is damaged, or no TLS report (RFC 8460)")?;
    if report.policies.len() > POLICIES_MAX {
        return Err("it has more than 100 policies");
    }
    if report.policies.is_empty() {
        return Err("it has no policies");
    }
    let id = line(&report.report_id);
    if id.is_empty() {
        return Err("it has no report-id");
    }
    let seconds = |text: &str| parse_time(text, 0).ok().map(|millis| millis / 1000);
    let is_date = |text: &str| text.contains('T') || text.contains(' ');
    let read = |text: &str| seconds(text).filter(|_| is_date(text));
    let begin = read(&report.date_range.start_datetime).ok_or("it does not say when it begins")?;
    let end = read(&report.date_range.end_datetime)
        .filter(|end| *end >= begin)
        .ok_or("it does not say when it ends")?;
    let organization = line(&report.organization_name);
    let digest = |entry: Entry| -> Result<Digest, Fault> {
        let domain = tags::domain(entry.policy.policy_domain.as_bytes())
            .ok_or("it does not say about which domain it is")?;
        let mut tls = Tls {
            policy: line(&entry.policy.policy_type),
            passed: entry.summary.total_successful_session_count,
            failed: entry.summary.total_failure_session_count,
            failures: Vec::new(),
            more: 0,
        };
        for details in entry.failure_details {
            if tls.failures.len() == FAILURES_MAX {
                tls.more = tls.more.saturating_add(details.failed_session_count);
                continue;
            }
            tls.failures.push(Failure {
                what: line(&details.result_type),
                host: line(details.receiving_mx_hostname.as_deref().unwrap_or_default()),
                sessions: details.failed_session_count,
                code: line(details.failure_reason_code.as_deref().unwrap_or_default()),
            });
        }
        let about = About::Tls(tls);
        let (organization, id) = (organization.clone(), id.clone());
        Ok(Digest { domain, organization, id, begin, end, about })
    };
    let named = report.policies.into_iter().filter(|entry| !entry.policy.policy_domain.is_empty());
    let mut digests: Vec<Digest> = Vec::new();
    for entry in named {
        let digest = digest(entry)?;
        match digests.iter_mut().find(|known| is_same(known, &digest)) {
            Some(known) => add(known, digest),
            None => digests.push(digest),
        }
    }
    if digests.is_empty() { Err("it does not say about which domain it is") } else { Ok(digests) }
}

/// Whether both are about one domain and one kind of policy.
fn is_same(one: &Digest, other: &Digest) -> bool {
    match (&one.about, &other.about) {
        (About::Tls(tls), About::Tls(more)) => {
            one.domain == other.domain && tls.policy == more.policy
        }
        (About::Tls(_) | About::Dmarc(_), _) => false,
    }
}

fn add(known: &mut Digest, other: Digest) {
    let (About::Tls(tls), About::Tls(more)) = (&mut known.about, other.about) else { return };
    tls.passed = tls.passed.saturating_add(more.passed);
    tls.failed = tls.failed.saturating_add(more.failed);
    tls.more = tls.more.saturating_add(more.more);
    for failure in more.failures {
        if tls.failures.len() < FAILURES_MAX {
            tls.failures.push(failure);
        } else {
            tls.more = tls.more.saturating_add(failure.sessions);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn json(domain: &str, id: &str) -> String {
        format!(
            r#"{{"organization-name":"Big","date-range":{{"start-datetime":"2026-09-20T00:00:00Z",
            "end-datetime":"2026-09-20T23:59:59Z"}},"contact-info":"x@big.test","report-id":"{id}","policies":
            [{{"policy":{{"policy-type":"sts","policy-string":["version: STSv1"],"policy-domain":"{domain}",
            "mx-host":["mx.a.test"]}},"summary":{{"total-successful-session-count":40,
            "total-failure-session-count":3}},"failure-details":[{{"result-type":"certificate-expired",
            "sending-mta-ip":"2001:db8::1","receiving-mx-hostname":"mx.a.test","failed-session-count":3,
            "failure-reason-code":"X\r\nY"}}]}}]}}"#
        )
    }

    #[test]
    fn sums_and_failures_are_read() {
        let digests = read(json("A.test", "r1").as_bytes()).unwrap();
        let [digest] = digests.as_slice() else { panic!("one policy") };
        assert_eq!((digest.domain.as_str(), digest.end - digest.begin), ("a.test", 86_399));
        let About::Tls(tls) = &digest.about else { panic!("another kind") };
        assert_eq!((tls.policy.as_str(), tls.passed, tls.failed), ("sts", 40, 3));
        assert_eq!(
            (tls.failures[0].what.as_str(), tls.failures[0].sessions),
            ("certificate-expired", 3)
        );
        assert_eq!(tls.failures[0].code, "X  Y");
    }

    #[test]
    fn what_reporters_leave_out_is_nothing() {
        let bare = r#"{"policy":{"policy-type":"no-policy-found"},"summary":{"total-successful-session-count":1}}"#;
        let with = json("a.test", "r1")
            .replace("\"policies\":\n            [", &format!("\"policies\":[{bare},"));
        assert_eq!(read(with.as_bytes()).unwrap(), read(json("a.test", "r1").as_bytes()).unwrap());
        let fewer = json("a.test", "r1").replace("\"total-failure-session-count\":3", "\"x\":3");
        let About::Tls(tls) = read(fewer.as_bytes()).unwrap().remove(0).about else { panic!() };
        assert_eq!((tls.passed, tls.failed), (40, 0));
    }

    #[test]
    fn two_policies_of_one_kind_are_one() {
        let text = json("a.test", "r1");
        let (head, policy) = text.split_once("[{").unwrap();
        let policy = policy.strip_suffix("]}").unwrap();
        let twice = format!("{head}[{{{policy},{{{policy}]}}");
        let digests = read(twice.as_bytes()).unwrap();
        let [Digest { about: About::Tls(tls), .. }] = digests.as_slice() else { panic!("one") };
        assert_eq!((tls.passed, tls.failed, tls.failures.len()), (80, 6, 2));
    }

    #[test]
    fn what_is_no_report_is_named() {
        let good = json("a.test", "r1");
        for (text, words) in [
            (good.replace("\"r1\"", "\"\""), "report-id"),
            (good.replace("a.test\",\n", "no domain\",\n"), "which domain"),
            (good.replace("2026-09-20T00:00:00Z", "7d"), "begins"),
            (good.replace("2026-09-20T23:59:59Z", "2025-01-01T00:00:00Z"), "ends"),
            (good.replace(":40", ":-40"), "damaged"),
            (good.replace("\"policy-domain\"", "\"x\""), "which domain"),
            ("{}".to_owned(), "damaged"),
            ("[".repeat(100_000), "damaged"),
        ] {
            let fault = read(text.as_bytes()).unwrap_err();
            assert!(fault.contains(words), "{words}: {fault}");
        }
        for cut in 0..good.len() {
            assert!(read(&good.as_bytes()[..cut]).is_err());
        }
    }
}
