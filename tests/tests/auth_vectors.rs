//! Published signatures and chains, and RFC 9989's examples, through the code that the server runs;
//! and what hostile messages and records make of it: a verdict within the limits, always.

use bytes::Bytes;
use engine::auth::dns::{Resolver, Zone};
use engine::auth::evidence::{Evidence, Hashing};
use engine::auth::settings::DmarcMode;
use engine::auth::verdict::{Finding, Method, Outcome, Policy, Verdict};
use engine::auth::verify::{Question, verify};
use hickory_resolver::proto::rr::rdata::{A, TXT};
use hickory_resolver::proto::rr::{RData, RecordType};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const KEYS: &str = include_str!("../corpus/dkim/keys.txt");
const RFC6376: &[u8] = include_bytes!("../corpus/dkim/rfc6376.eml");
const RFC8463: &[u8] = include_bytes!("../corpus/dkim/rfc8463.eml");
const EXIM: &[u8] = include_bytes!("../corpus/dkim/exim.eml");
const ARC1: &[u8] = include_bytes!("../corpus/dkim/arc1.eml");
const ARC3: &[u8] = include_bytes!("../corpus/dkim/arc3.eml");

fn text(text: &str) -> RData {
    RData::TXT(TXT::from_bytes(text.as_bytes().chunks(255).collect()))
}

fn zone<'r>(records: impl IntoIterator<Item = (&'r str, &'r str)>) -> Zone {
    let mut zone = Zone::new();
    for (name, record) in records {
        zone.entry((format!("{name}."), RecordType::TXT)).or_default().push(text(record));
    }
    zone
}

fn keys() -> Zone {
    zone(KEYS.lines().filter_map(|line| line.split_once(' ')))
}

fn ask(zone: Zone, evidence: Evidence, from: &str) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let question = Question {
        peer: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
        helo: "client.test".to_owned(),
        mail_from: from.to_owned(),
        receiver: "mx.b.test".to_owned(),
        evidence,
        dmarc: DmarcMode::Enforce,
        received_spf: false,
        trusted_sealers: vec!["example.com".to_owned(), "a.test".to_owned()],
        deadline: Instant::now() + Duration::from_secs(20),
    };
    runtime.block_on(verify(&Resolver::from_zone(zone), &question))
}

fn judge(zone: Zone, message: &[u8]) -> Verdict {
    ask(zone, Evidence { message: Bytes::copy_from_slice(message), hashed: None }, "")
}

/// Where everything but the first octets streams by.
fn judge_streamed(zone: Zone, message: &[u8], first: usize) -> Verdict {
    let message = Bytes::copy_from_slice(message);
    let mut hashing = Hashing::begin(&message.slice(..first));
    message[first..].chunks(1000).for_each(|piece| hashing.push(piece));
    ask(zone, hashing.finish(), "")
}

fn of(verdict: &Verdict, method: Method) -> Vec<&Finding> {
    verdict.findings.iter().filter(|finding| finding.method == method).collect()
}

fn outcomes(verdict: &Verdict, method: Method) -> Vec<Outcome> {
    of(verdict, method).iter().map(|finding| finding.outcome).collect()
}

fn replaced(message: &[u8], old: &str, new: &str) -> Vec<u8> {
    let text = std::str::from_utf8(message).unwrap();
    assert!(text.contains(old), "{old}");
    text.replacen(old, new, 1).into_bytes()
}

#[test]
fn published_signatures_pass_and_none_passes_once_something_has_changed() {
    for (name, message, count) in
        [("RFC 6376", RFC6376, 2), ("RFC 8463", RFC8463, 2), ("Exim", EXIM, 1)]
    {
        let verdict = judge(keys(), message);
        let passes = vec![Outcome::Pass; count];
        assert_eq!(outcomes(&verdict, Method::Dkim), passes, "{name}: {:?}", verdict.findings);
        let end = message.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        for first in [end, end + 5, message.len()] {
            let streamed = judge_streamed(keys(), message, first);
            assert_eq!(streamed.findings, verdict.findings, "{name} {first}");
        }
        let body = [message, b"P.S.\r\n"].concat();
        assert_eq!(outcomes(&judge(keys(), &body), Method::Dkim), vec![Outcome::Fail; count]);
        let header = replaced(message, "From:", "From: x,");
        assert_eq!(outcomes(&judge(keys(), &header), Method::Dkim), vec![Outcome::Fail; count]);
        let no_key = judge(Zone::new(), message);
        assert_eq!(outcomes(&no_key, Method::Dkim), vec![Outcome::PermError; count]);
    }
}

#[test]
fn every_octet_of_a_signed_message_matters_to_simple_and_none_panics() {
    let whole = judge(keys(), RFC6376);
    assert_eq!(outcomes(&whole, Method::Dkim), [Outcome::Pass; 2]);
    let second = RFC6376.windows(15).rposition(|window| window == b"DKIM-Signature:").unwrap();
    // The second signature covers itself and everything below it.
    for at in (second..RFC6376.len()).step_by(3) {
        let mut message = RFC6376.to_vec();
        message[at] ^= 0x01;
        let verdict = judge(keys(), &message);
        let passes = of(&verdict, Method::Dkim).iter().any(|finding| {
            finding.outcome == Outcome::Pass
                && finding.properties.contains(&("header.a", "rsa-sha256".to_owned()))
        });
        // Padding of base64 and the length of a trailing CRLF are no part of what is signed.
        assert!(!passes || at + 4 > RFC6376.len(), "octet {at}, {:?}", verdict.findings);
    }
}

#[test]
fn chains_pass_whole_and_fail_with_any_part_gone_or_changed() {
    for (message, sets) in [(ARC1, 1), (ARC3, 3)] {
        let verdict = judge(keys(), message);
        assert_eq!(outcomes(&verdict, Method::Arc), [Outcome::Pass], "{:?}", verdict.findings);
        for instance in 1..=sets {
            for name in ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"] {
                let start = format!("{name}: i={instance};");
                let gone = replaced(message, &start, &format!("X-Gone: i={instance};"));
                let verdict = judge(keys(), &gone);
                assert_eq!(outcomes(&verdict, Method::Arc), [Outcome::Fail], "{start}");
            }
            let other = replaced(
                message,
                &format!("Results: i={instance}; "),
                &format!("Results: i={instance}; x"),
            );
            assert_eq!(outcomes(&judge(keys(), &other), Method::Arc), [Outcome::Fail]);
        }
        let body = [message, b"P.S.\r\n"].concat();
        assert_eq!(outcomes(&judge(keys(), &body), Method::Arc), [Outcome::Fail]);
        let broken = replaced(message, "cv=none", "cv=fail");
        assert_eq!(outcomes(&judge(keys(), &broken), Method::Arc), [Outcome::Fail]);
        let h = replaced(message, "cv=none;", "cv=none; h=from;");
        assert_eq!(outcomes(&judge(keys(), &h), Method::Arc), [Outcome::Fail]);
    }
    assert_eq!(outcomes(&judge(keys(), RFC6376), Method::Arc), []);
}

#[test]
fn a_header_beyond_the_buffer_is_never_a_verdict() {
    for message in [ARC3, RFC8463] {
        let padded =
            replaced(message, "From: ", &format!("X-Bomb: {}\r\nFrom: ", "x".repeat(9000)));
        let verdict = judge_streamed(keys(), &padded, 5000.min(padded.len()));
        for (method, allowed) in [
            (Method::Dkim, &[Outcome::Neutral, Outcome::None][..]),
            (Method::Arc, &[Outcome::None]),
            (Method::Dmarc, &[Outcome::PermError]),
        ] {
            let found = outcomes(&verdict, method);
            assert!(found.iter().all(|outcome| allowed.contains(outcome)), "{method:?} {found:?}");
        }
        assert_eq!(verdict.policy, Policy::None);
    }
}

#[test]
fn hostile_messages_get_a_verdict_within_limits() {
    let one = "DKIM-Signature: v=1; a=rsa-sha256; d=a.test; s=s; h=From; bh=AAAA; b=AAAA\r\n";
    let seal = "ARC-Seal: i=1; a=rsa-sha256; cv=none; d=a.test; s=s; b=AAAA\r\n";
    let names = "From:".repeat(60_000);
    for (what, header) in [
        ("10,000 signatures", one.repeat(10_000)),
        ("10,000 malformed signatures", "DKIM-Signature: v=1; v=1\r\n".repeat(10_000)),
        ("10,000 seals", seal.repeat(10_000)),
        ("a signature of 1 MiB", format!("DKIM-Signature: v=1; n={}\r\n", "x".repeat(1 << 20))),
        ("a signature of folds", format!("DKIM-Signature: v=1;{}\r\n", "\r\n ".repeat(300_000))),
        ("300,000 names", one.replace("h=From", &format!("h={names}From"))),
        ("100,000 fields", "From: x@a.test\r\n".repeat(100_000)),
        ("100,000 addresses", format!("From: {}\r\n", "x@a.test,".repeat(100_000))),
        ("1 MiB of parentheses", format!("From: {}\r\n", "(".repeat(1 << 20))),
        ("fields without names", ": x\r\n".repeat(100_000)),
    ] {
        let message = format!("{header}From: x@a.test\r\n\r\nHello.\r\n");
        let started = Instant::now();
        let verdict = judge(zone([("_dmarc.a.test", "v=DMARC1; p=reject")]), message.as_bytes());
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: {:?}", started.elapsed());
        assert!(verdict.findings.len() < 20, "{what}");
        let passes = verdict.findings.iter().any(|finding| finding.outcome == Outcome::Pass);
        assert!(!passes, "{what}: {:?}", verdict.findings);
    }
}

#[test]
fn hostile_records_get_a_verdict_within_limits() {
    let long = "x".repeat(60_000);
    for (what, record) in [
        ("nothing", ""),
        ("semicolons", ";;;;;;"),
        ("a long record", long.as_str()),
        ("a key of junk", "v=DKIM1; p=AAAA"),
        ("a key that is cut", "v=DKIM1; p=MIGfMA0GCSqGSIb3"),
        ("no number", "v=DMARC1; p="),
        ("control characters", "v=DMARC1;\u{1}p=none"),
        ("loops of SPF", "v=spf1 include:football.example.com redirect=football.example.com"),
    ] {
        let mut zone = Zone::new();
        for name in [
            "test._domainkey.football.example.com.",
            "brisbane._domainkey.football.example.com.",
            "_dmarc.football.example.com.",
            "football.example.com.",
        ] {
            zone.insert((name.to_owned(), RecordType::TXT), vec![text(record); 500]);
        }
        let message = Bytes::from_static(RFC8463);
        let verdict = ask(zone, Evidence { message, hashed: None }, "x@football.example.com");
        let passes = verdict.findings.iter().any(|finding| finding.outcome == Outcome::Pass);
        assert!(!passes, "{what}: {:?}", verdict.findings);
        assert_eq!(verdict.policy, Policy::None, "{what}");
    }
}

/// RFC 9989 appendix B.1 and B.4, and its rules for policies; `from` is the author,
/// `mail` passes SPF.
#[test]
fn dmarc_finds_the_organization_and_the_policy_that_counts() {
    let reject = "v=DMARC1; p=reject";
    let psd = "v=DMARC1; p=reject; psd=y";
    for (records, from, mail, expected, policy) in [
        // Identifiers: the same, a parent, a child, another organization.
        (
            vec![("_dmarc.example.com", reject)],
            "example.com",
            "example.com",
            Outcome::Pass,
            Policy::None,
        ),
        (
            vec![("_dmarc.example.com", reject)],
            "child.example.com",
            "example.com",
            Outcome::Pass,
            Policy::None,
        ),
        (
            vec![("_dmarc.example.com", reject)],
            "example.com",
            "child.example.com",
            Outcome::Pass,
            Policy::None,
        ),
        (
            vec![("_dmarc.example.com", reject)],
            "example.com",
            "example.net",
            Outcome::Fail,
            Policy::Reject,
        ),
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=reject; aspf=s")],
            "example.com",
            "child.example.com",
            Outcome::Fail,
            Policy::Reject,
        ),
        (
            vec![("_dmarc.example.com", reject)],
            "example.com",
            "notexample.com",
            Outcome::Fail,
            Policy::Reject,
        ),
        // No record anywhere.
        (vec![], "example.com", "example.com", Outcome::None, Policy::None),
        // A longer walk: the name at the top of the tree with a record is the organization.
        (
            vec![
                ("_dmarc.example.com", reject),
                ("_dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com", "v=DMARC1; p=none"),
            ],
            "a.b.c.d.e.f.g.h.i.j.mail.example.com",
            "example.com",
            Outcome::Pass,
            Policy::None,
        ),
        // Eight questions at most: what stands between is not asked for.
        (
            vec![("_dmarc.b.c.d.e.f.g.h.i.j.mail.example.com", reject)],
            "a.b.c.d.e.f.g.h.i.j.mail.example.com",
            "x.test",
            Outcome::None,
            Policy::None,
        ),
        // psd=n: an organization of its own below another.
        (
            vec![
                ("_dmarc.example.com", reject),
                ("_dmarc.mail.example.com", "v=DMARC1; p=quarantine; psd=n"),
            ],
            "mail.example.com",
            "example.com",
            Outcome::Fail,
            Policy::Quarantine,
        ),
        (
            vec![
                ("_dmarc.example.com", reject),
                ("_dmarc.mail.example.com", "v=DMARC1; p=quarantine; psd=n"),
            ],
            "x.mail.example.com",
            "mail.example.com",
            Outcome::Pass,
            Policy::None,
        ),
        // psd=y: each name below is an organization, and the suffix's policy is the last resort.
        (vec![("_dmarc.com", psd)], "a.example.com", "b.example.com", Outcome::Pass, Policy::None),
        (vec![("_dmarc.com", psd)], "example.com", "other.com", Outcome::Fail, Policy::Reject),
        (vec![("_dmarc.com", psd)], "com.example", "x.test", Outcome::None, Policy::None),
        // sp and np: for what is below, and for what is not there.
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=none; sp=quarantine; np=reject")],
            "there.example.com",
            "x.test",
            Outcome::Fail,
            Policy::Quarantine,
        ),
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=none; sp=quarantine; np=reject")],
            "gone.example.com",
            "x.test",
            Outcome::Fail,
            Policy::Reject,
        ),
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=none; sp=quarantine; np=reject")],
            "example.com",
            "x.test",
            Outcome::Fail,
            Policy::None,
        ),
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=reject")],
            "gone.example.com",
            "x.test",
            Outcome::Fail,
            Policy::Reject,
        ),
        // t=y: one step milder.
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=reject; t=y")],
            "example.com",
            "x.test",
            Outcome::Fail,
            Policy::Quarantine,
        ),
        (
            vec![("_dmarc.example.com", "v=DMARC1; p=quarantine; t=y")],
            "example.com",
            "x.test",
            Outcome::Fail,
            Policy::None,
        ),
        // Two records are none.
        (
            vec![("_dmarc.example.com", reject), ("_dmarc.example.com", "v=DMARC1; p=none")],
            "example.com",
            "x.test",
            Outcome::None,
            Policy::None,
        ),
        (
            vec![("_dmarc.example.com", reject), ("_dmarc.example.com", "something else")],
            "example.com",
            "x.test",
            Outcome::Fail,
            Policy::Reject,
        ),
    ] {
        let mut zone = zone(records.clone());
        let spf = format!("{mail}.");
        zone.entry((spf, RecordType::TXT)).or_default().push(text("v=spf1 ip4:192.0.2.1 -all"));
        let there = ("there.example.com.".to_owned(), RecordType::A);
        zone.insert(there, vec![RData::A(A(Ipv4Addr::new(192, 0, 2, 9)))]);
        let message = Bytes::from(format!("From: Ann <ann@{from}>\r\n\r\nHello.\r\n"));
        let verdict = ask(zone, Evidence { message, hashed: None }, &format!("x@{mail}"));
        let found = outcomes(&verdict, Method::Dmarc);
        assert_eq!(
            (found, verdict.policy),
            (vec![expected], policy),
            "{from} by {mail}, {records:?}"
        );
    }
}

#[test]
fn a_trusted_sealer_who_has_seen_dmarc_pass_lets_a_failure_through() {
    let policy = ("_dmarc.list-user.test", "v=DMARC1; p=reject");
    let sealed = |who: &str| {
        let mut zone = keys();
        zone.extend(self::zone([policy]));
        let text = std::str::from_utf8(ARC3).unwrap().replace("test@example.com", who);
        judge(zone, text.as_bytes())
    };
    // The chain covers From, so a changed author breaks it: nobody vouches.
    let broken = sealed("test@list-user.test");
    assert_eq!(broken.policy, Policy::Reject);
    // The author of the sample has a policy that the sample, unsigned by its domain, fails.
    let mut zone = keys();
    zone.extend(self::zone([("_dmarc.example.com", "v=DMARC1; p=reject")]));
    let verdict = judge(zone, ARC3);
    assert_eq!(outcomes(&verdict, Method::Dmarc), [Outcome::Fail]);
    assert_eq!(verdict.policy, Policy::None);
    let reason = &of(&verdict, Method::Dmarc)[0].reason;
    assert!(reason.contains("local_policy: arc=pass of example.com"), "{reason}");
}

#[test]
fn several_authors_are_judged_only_if_they_share_a_domain() {
    for (from, outcome) in [
        ("From: a@a.test, b@A.test\r\n", Outcome::Fail),
        ("From: a@a.test\r\nFrom: b@a.test\r\n", Outcome::Fail),
        ("From: a@a.test, b@b.test\r\n", Outcome::None),
        ("From: a@a.test\r\nFrom: b@b.test\r\n", Outcome::None),
        ("From: \"x@b.test\" <a@a.test>\r\n", Outcome::Fail),
        ("From:\r\n a@a.test\r\n", Outcome::Fail),
        ("From: nobody\r\n", Outcome::None),
        ("Sender: a@a.test\r\n", Outcome::None),
    ] {
        let zone = zone([("_dmarc.a.test", "v=DMARC1; p=reject")]);
        let verdict = judge(zone, format!("{from}\r\nHello.\r\n").as_bytes());
        assert_eq!(outcomes(&verdict, Method::Dmarc), [outcome], "{from}");
    }
}
