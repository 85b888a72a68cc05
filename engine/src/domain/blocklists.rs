//! Does a blocklist in DNS name this host or the domain? RFC 5782.
//!
//! Asked are the lists by which strangers are kept out here (`policy.dns_lists`, but for allow
//! lists), and those of `dns.blocklists`. A list that has died looks like one that names nobody,
//! and one whose domain has been taken over like one that names everybody. So each is believed only
//! as far as its test entries go (section 5):
//!
//! | asked about | has to be listed | must not be |
//! |---|---|---|
//! | IPv4 addresses | 127.0.0.2 | 127.0.0.1 |
//! | IPv6 addresses | ::FFFF:7F00:2 | ::FFFF:7F00:1 |
//! | domains | TEST | INVALID |
//!
//! Which of the three it has says what it lists; all are asked for, whatever is known of this
//! host. Lists that serve no public resolvers, or not so many questions, say so by answers that
//! mean nothing else.

use super::check::{Asking, Finding, Verdict};
use super::records::{Facts, Kind, Record, What, is_documentation, is_public};
use crate::auth::dns::{self, Missing, Resolver};
use crate::auth::settings::Network;
use crate::config::Config;
use crate::policy::lists::backwards;
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

const LISTS_AT_ONCE: usize = 8;
/// Octets of what a list says of why (TXT).
const REASON_CHARS_MAX: usize = 300;

#[derive(Debug, Clone)]
struct List {
    zone: String,
    /// Answers that mean "listed"; without them all that RFC 5782 has.
    answers: Option<Vec<Network>>,
    /// The key of the config file that names it.
    key: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subjects {
    V4,
    V6,
    Domains,
}

impl Subjects {
    fn words(self) -> &'static str {
        match self {
            Subjects::V4 => "IPv4 addresses",
            Subjects::V6 => "IPv6 addresses",
            Subjects::Domains => "domains",
        }
    }
}

/// What a list says of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Listed(Vec<IpAddr>),
    Not,
    /// It does not serve us.
    Refused(IpAddr),
    /// No list says that.
    Odd(IpAddr),
    Silent,
}

/// What its test entries say of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Alive,
    /// It has no entries of that kind, or none at all.
    Empty,
    ListsAll(Vec<IpAddr>),
    Refuses(IpAddr),
    Silent,
}

fn lists(config: &Config) -> Vec<List> {
    let of_policy = config.policy.dns_lists.iter().filter(|list| list.refuse || list.score > 0.0);
    let mut lists: Vec<List> = of_policy
        .map(|list| List {
            zone: list.zone.clone(),
            answers: Some(list.answers.clone()),
            key: "policy.dns_lists",
        })
        .collect();
    for zone in &config.dns.blocklists {
        if lists.iter().all(|list| list.zone != *zone) {
            lists.push(List { zone: zone.clone(), answers: None, key: "dns.blocklists" });
        }
    }
    lists
}

/// `None`: no list is named.
pub async fn check(asking: &Asking<'_>, facts: &Facts, config: &Config) -> Option<Vec<Finding>> {
    let lists = lists(config);
    if lists.is_empty() {
        return None;
    }
    let addresses = addresses(asking.resolver, facts).await;
    let names = BTreeSet::from([facts.domain.clone(), facts.hostname.clone()]);
    let (addresses, names) = (&addresses, &names);
    let asked = lists
        .into_iter()
        .map(|list| async move { one_list(asking.resolver, &list, addresses, names).await });
    let found: Vec<Vec<Finding>> = stream::iter(asked).buffered(LISTS_AT_ONCE).collect().await;
    Some(found.concat())
}

/// Those of this host, known here or told by DNS, that the world can reach.
async fn addresses(resolver: &Resolver, facts: &Facts) -> BTreeSet<IpAddr> {
    let mut addresses: BTreeSet<IpAddr> = facts.addresses.iter().copied().collect();
    if let Some(name) = dns::name(&facts.hostname) {
        for v4 in [true, false] {
            addresses.extend(resolver.addresses(name.clone(), v4).await.unwrap_or_default());
        }
    }
    // Nobody has those of documentation but who says so.
    addresses.retain(|address| is_public(*address) || is_documentation(*address));
    addresses
}

async fn one_list(
    resolver: &Resolver,
    list: &List,
    addresses: &BTreeSet<IpAddr>,
    names: &BTreeSet<String>,
) -> Vec<Finding> {
    let mut kinds = Vec::new();
    for kind in [Subjects::V4, Subjects::V6, Subjects::Domains] {
        kinds.push((kind, state(resolver, list, kind).await));
    }
    let about_list = |verdict, found: Vec<String>, why: String| {
        finding(&list.zone, &list.zone, verdict, found, why)
    };
    let mut findings = Vec::new();
    let mend = format!("take it out of {}", list.key);
    if let Some((_, State::ListsAll(answers))) =
        kinds.iter().find(|(_, state)| matches!(state, State::ListsAll(_)))
    {
        let why = format!(
            "it lists even what no list may (RFC 5782 section 5): its domain is somebody else's now, or the resolver makes \
             answers up; {mend}"
        );
        return vec![about_list(Verdict::Wrong, texts(answers), why)];
    }
    let is_alive = kinds.iter().any(|(_, state)| *state == State::Alive);
    if !is_alive {
        let refusal = kinds.iter().find_map(|(_, state)| match state {
            State::Refuses(answer) => Some(*answer),
            _ => None,
        });
        let is_silent = kinds.iter().any(|(_, state)| *state == State::Silent);
        return vec![match refusal {
            Some(answer) => about_list(
                Verdict::Unknown,
                vec![answer.to_string()],
                "it refuses to answer this resolver, as lists do to public ones and to who asks too much: ask through one of \
                 your own (dns.servers, or --resolver)"
                    .to_owned(),
            ),
            None if is_silent => about_list(
                Verdict::Unknown,
                Vec::new(),
                "the resolver does not answer, or fails".to_owned(),
            ),
            None => about_list(
                Verdict::Missing,
                Vec::new(),
                format!("none of its test entries is there (RFC 5782 section 5): it is dead; {mend}"),
            ),
        }];
    }
    let mut not_asked = Vec::new();
    for (kind, state) in kinds {
        let subjects: Vec<(String, String)> = match kind {
            Subjects::Domains => names.iter().map(|name| (name.clone(), name.clone())).collect(),
            Subjects::V4 | Subjects::V6 => addresses
                .iter()
                .filter(|address| address.is_ipv4() == (kind == Subjects::V4))
                .map(|address| (address.to_string(), backwards(*address)))
                .collect(),
        };
        match state {
            State::Alive if subjects.is_empty() => {
                not_asked.push(format!("{} (none of this host is known)", kind.words()));
            }
            State::Alive => {
                for (subject, label) in subjects {
                    findings.push(about(resolver, list, &subject, &label).await);
                }
            }
            State::Silent => findings.push(about_list(
                Verdict::Unknown,
                Vec::new(),
                "the resolver does not answer, or fails".to_owned(),
            )),
            // A list of domains has no addresses, and most of addresses have neither
            // IPv6 nor domains.
            State::Empty | State::Refuses(_) | State::ListsAll(_) if !subjects.is_empty() => {
                not_asked.push(format!("{} (it lists none)", kind.words()));
            }
            State::Empty | State::Refuses(_) | State::ListsAll(_) => {}
        }
    }
    if !not_asked.is_empty() {
        let why = format!("it was not asked about {}", not_asked.join(" and "));
        findings.push(about_list(Verdict::Ok, Vec::new(), why));
    }
    findings
}

/// About one address or domain of ours.
async fn about(resolver: &Resolver, list: &List, subject: &str, label: &str) -> Finding {
    let name = format!("{label}.{}", list.zone);
    let is_policy = list.key == "policy.dns_lists";
    match ask(resolver, list, &name).await {
        Said::Not => {
            finding(&name, "", Verdict::Ok, Vec::new(), format!("{subject} is not listed"))
        }
        Said::Listed(answers) => {
            let mut found = texts(&answers);
            // RFC 5782 section 2.1: why, for people.
            let reasons = resolver.texts(&name).await.unwrap_or_default();
            found.extend(reasons.iter().take(3).map(|reason| {
                let text = String::from_utf8_lossy(reason);
                text.chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect()
            }));
            let why = format!(
                "{subject} is listed by {}: others may refuse its mail; mend what it is listed for, then ask the list to take it \
                 off",
                list.zone
            );
            finding(&name, "", Verdict::Wrong, found, why)
        }
        Said::Refused(answer) => {
            let why = "the list refuses to answer this resolver".to_owned();
            finding(&name, "", Verdict::Unknown, vec![answer.to_string()], why)
        }
        Said::Odd(answer) if is_policy => {
            let why = format!("{subject} is known there, but not by an answer that counts here");
            finding(&name, "", Verdict::Ok, vec![answer.to_string()], why)
        }
        Said::Odd(answer) => {
            let why = "no list answers with such an address".to_owned();
            finding(&name, "", Verdict::Unknown, vec![answer.to_string()], why)
        }
        Said::Silent => {
            let why = "the resolver does not answer, or fails".to_owned();
            finding(&name, "", Verdict::Unknown, Vec::new(), why)
        }
    }
}

async fn state(resolver: &Resolver, list: &List, kind: Subjects) -> State {
    let (listed, not_listed) = match kind {
        Subjects::V4 => {
            (backwards(Ipv4Addr::new(127, 0, 0, 2).into()), backwards(Ipv4Addr::LOCALHOST.into()))
        }
        Subjects::V6 => {
            let of = |address: Ipv4Addr| backwards(address.to_ipv6_mapped().into());
            (of(Ipv4Addr::new(127, 0, 0, 2)), of(Ipv4Addr::LOCALHOST))
        }
        Subjects::Domains => ("test".to_owned(), "invalid".to_owned()),
    };
    let (listed, not_listed) =
        (format!("{listed}.{}", list.zone), format!("{not_listed}.{}", list.zone));
    match tokio::join!(ask(resolver, list, &listed), ask(resolver, list, &not_listed)) {
        (Said::Refused(answer), _) | (_, Said::Refused(answer)) => State::Refuses(answer),
        (_, Said::Listed(answers)) => State::ListsAll(answers),
        (_, Said::Odd(answer)) => State::ListsAll(vec![answer]),
        (Said::Silent, _) | (_, Said::Silent) => State::Silent,
        (Said::Listed(_) | Said::Odd(_), Said::Not) => State::Alive,
        (Said::Not, Said::Not) => State::Empty,
    }
}

async fn ask(resolver: &Resolver, list: &List, name: &str) -> Said {
    let Some(name) = dns::name(name) else { return Said::Not };
    match resolver.addresses(name, true).await {
        Ok(answers) => read(list, &answers),
        Err(Missing::NoRecords | Missing::NoSuchName) => Said::Not,
        Err(Missing::Failed) => Said::Silent,
    }
}

fn read(list: &List, answers: &[IpAddr]) -> Said {
    let known = list.answers.as_deref().unwrap_or_default();
    // Many name all of 127.0.0.0/8 as answers; who means a refusal says so by that very address.
    let is_named = |answer: &IpAddr| {
        known.iter().any(|network| {
            let (first, last, _) = network.ends();
            first == last && first == *answer
        })
    };
    let refusal = answers.iter().find(|answer| is_refusal(**answer) && !is_named(answer));
    if let Some(answer) = refusal {
        return Said::Refused(*answer);
    }
    let counts = |answer: &IpAddr| match &list.answers {
        Some(known) => known.iter().any(|network| network.contains(*answer)),
        None => answer.is_loopback(),
    };
    let listed: Vec<IpAddr> = answers.iter().copied().filter(counts).collect();
    match answers.first() {
        _ if !listed.is_empty() => Said::Listed(listed),
        Some(answer) => Said::Odd(*answer),
        None => Said::Not,
    }
}

/// Answers by which lists say that they don't serve who asks, or not what was asked.
fn is_refusal(answer: IpAddr) -> bool {
    match answer {
        IpAddr::V4(answer) => matches!(
            answer.octets(),
            [127, 255, 255, _] | [127, 0, 0, 1] | [127, 0, 0, 255] | [127, 0, 1, 255]
        ),
        IpAddr::V6(_) => false,
    }
}

fn texts(answers: &[IpAddr]) -> Vec<String> {
    answers.iter().map(ToString::to_string).collect()
}

fn finding(name: &str, value: &str, verdict: Verdict, found: Vec<String>, why: String) -> Finding {
    let record = Record {
        what: What::Blocklist,
        name: name.to_owned(),
        kind: Kind::A,
        value: value.to_owned(),
        optional: false,
        note: String::new(),
    };
    Finding { record, verdict, found, why, set: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dns::Zone;
    use hickory_resolver::proto::rr::rdata::{A, TXT};
    use hickory_resolver::proto::rr::{RData, RecordType};

    const MAPPED_2: &str = "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0";
    const V6: &str = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2";

    fn zone(records: &[(&str, &str)]) -> Zone {
        let mut zone = Zone::new();
        for (name, address) in records {
            let data = RData::A(A(address.parse().unwrap()));
            zone.entry((format!("{name}.bl.test."), RecordType::A)).or_default().push(data);
        }
        let reason = RData::TXT(TXT::new(vec!["sent\nspam".to_owned()]));
        zone.insert(("1.2.0.192.bl.test.".to_owned(), RecordType::TXT), vec![reason]);
        zone
    }

    const BOTH: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

    fn asked(records: &[(&str, &str)], answers: Option<&str>) -> Vec<(Verdict, Vec<String>)> {
        let found = about_host(records, answers, &BOTH);
        found.into_iter().map(|one| (one.verdict, one.found)).collect()
    }

    fn about_host(records: &[(&str, &str)], answers: Option<&str>, host: &[&str]) -> Vec<Finding> {
        let network = |text: &str| Network::try_from(text.to_owned()).unwrap();
        let answers = answers.map(|text| vec![network(text)]);
        let list = List { zone: "bl.test".into(), answers, key: "dns.blocklists" };
        let addresses = host.iter().map(|one| one.parse().unwrap()).collect();
        let names = BTreeSet::from(["a.test".to_owned()]);
        let resolver = Resolver::from_zone(zone(records));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(one_list(&resolver, &list, &addresses, &names))
    }

    #[test]
    fn a_list_of_addresses_lives_where_no_address_of_the_host_is_known() {
        let alive = [("2.0.0.127", "127.0.0.2")];
        let whys = |records: &[_], host: &[_]| {
            let found = about_host(records, None, host).into_iter();
            found.map(|one| (one.verdict, one.why)).collect::<Vec<_>>()
        };
        let ok = |why: &str| (Verdict::Ok, why.to_owned());
        assert_eq!(
            whys(&alive, &[]),
            [ok(
                "it was not asked about IPv4 addresses (none of this host is known) and domains (it lists none)"
            )]
        );
        assert_eq!(
            whys(&alive, &BOTH),
            [
                ok("192.0.2.1 is not listed"),
                ok(
                    "it was not asked about IPv6 addresses (it lists none) and domains (it lists none)"
                )
            ]
        );
        assert_eq!(whys(&[], &[])[0].0, Verdict::Missing);
        assert_eq!(whys(&[("1.0.0.127", "127.0.0.2")], &[])[0].0, Verdict::Wrong);
    }

    #[test]
    fn names_are_those_of_rfc_5782() {
        assert_eq!(backwards("192.0.2.99".parse().unwrap()), "99.2.0.192");
        assert_eq!(backwards("::ffff:127.0.0.2".parse().unwrap()), MAPPED_2);
        assert_eq!(backwards("2001:db8::1".parse().unwrap()), V6);
    }

    #[test]
    fn a_list_is_believed_as_far_as_its_test_entries_go() {
        use Verdict::{Missing, Ok, Unknown, Wrong};
        let alive = ("2.0.0.127", "127.0.0.2");
        let verdicts = |records: &[_]| {
            asked(records, None).into_iter().map(|(verdict, _)| verdict).collect::<Vec<_>>()
        };
        // The one that is asked about by its address and what is not asked, or all three.
        assert_eq!(verdicts(&[alive]), [Ok; 2]);
        assert_eq!(verdicts(&[alive, (MAPPED_2, "127.0.0.2"), ("test", "127.0.0.2")]), [Ok; 3]);
        let both = [alive, ("1.2.0.192", "127.0.0.4"), ("1.2.0.192", "127.0.0.9")];
        let expected = ["127.0.0.4", "127.0.0.9", "sentspam"].map(str::to_owned).to_vec();
        assert_eq!(asked(&both, None), [(Wrong, expected), (Ok, Vec::new())]);
        assert_eq!(verdicts(&[(MAPPED_2, "127.0.0.2"), (V6, "127.0.0.2")]), [Wrong, Ok]);
        // A list of domains that refuses to be asked about addresses.
        let domains = [
            ("test", "127.0.1.2"),
            ("2.0.0.127", "127.0.1.255"),
            ("1.0.0.127", "127.0.1.255"),
            ("a.test", "127.0.1.4"),
        ];
        assert_eq!(verdicts(&domains), [Wrong, Ok]);
        // Dead, somebody else's, and not for us.
        assert_eq!(verdicts(&[]), [Missing]);
        assert_eq!(verdicts(&[("1.2.0.192", "127.0.0.2")]), [Missing]);
        assert_eq!(verdicts(&[alive, ("1.0.0.127", "127.0.0.2")]), [Wrong]);
        assert_eq!(
            verdicts(&[("2.0.0.127", "203.0.113.9"), ("1.0.0.127", "203.0.113.9")]),
            [Wrong]
        );
        assert_eq!(verdicts(&[("2.0.0.127", "127.255.255.254")]), [Unknown]);
        assert_eq!(verdicts(&[alive, ("1.2.0.192", "127.255.255.252")]), [Unknown, Ok]);
    }

    #[test]
    fn what_counts_is_what_the_policy_says() {
        let records = [("2.0.0.127", "127.0.0.2"), ("1.2.0.192", "127.0.0.10")];
        let verdict = |answers| asked(&records, Some(answers))[0].0;
        assert_eq!(verdict("127.0.0.0/24"), Verdict::Wrong);
        let list = |answers: &str| List {
            zone: "bl.test".into(),
            answers: Some(vec![Network::try_from(answers.to_owned()).unwrap()]),
            key: "policy.dns_lists",
        };
        let said = read(&list("127.0.0.2"), &["127.0.0.10".parse().unwrap()]);
        assert_eq!(said, Said::Odd("127.0.0.10".parse().unwrap()));
        // A refusal is none of the answers that a network of them has.
        let refusal: IpAddr = "127.255.255.254".parse().unwrap();
        let both = ["127.0.0.2".parse().unwrap(), refusal];
        assert_eq!(read(&list("127.0.0.0/8"), &both), Said::Refused(refusal));
        assert_eq!(read(&list("127.255.255.254"), &both), Said::Listed(vec![refusal]));
    }
}
