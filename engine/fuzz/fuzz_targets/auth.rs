//! Is a message from whom it says? Hostile messages and hostile DNS, through the code that
//! the server runs.
//!
//! An input is parts with a line `%%` between them: the message; the key at `s._domainkey.a.test`;
//! the policy at `_dmarc.a.test`; the SPF record at `a.test`; MAIL FROM; HELO; and, as octets of
//! the wire, an answer from a name server, whose records stand at `t._domainkey.a.test` and at
//! `a.test`. A part may hold several records, with a NUL between them.
//!
//! Checked besides panics: a message that streams has the verdict that it has as a whole, forged
//! results are gone from the first look on, and what is written into the message is one well-formed
//! field within its room.
#![no_main]

use bytes::Bytes;
use engine::auth::dns::{Resolver, Zone};
use engine::auth::evidence::{Evidence, Hashing};
use engine::auth::results;
use engine::auth::settings::DmarcMode;
use engine::auth::verdict::Verdict;
use engine::auth::verify::{Question, verify};
use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{RData, RecordType};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const OURS: &str = "mx.b.test";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fuzz_target!(|data: &[u8]| {
    let mut parts = split(data, b"\n%%\n").into_iter();
    let mut next = || parts.next().unwrap_or_default();
    let mut message = next().to_vec();
    let mut zone = Zone::new();
    for name in ["s._domainkey.a.test.", "_dmarc.a.test.", "a.test."] {
        let texts: Vec<RData> = next().split(|&byte| byte == 0).map(text).collect();
        zone.insert((name.to_owned(), RecordType::TXT), texts);
    }
    let mail_from = String::from_utf8_lossy(next()).into_owned();
    let helo = String::from_utf8_lossy(next()).into_owned();
    if let Ok(answer) = Message::from_vec(next()) {
        for record in answer.answers {
            for name in ["t._domainkey.a.test.", "a.test.", "1.2.0.192.in-addr.arpa."] {
                let key = (name.to_owned(), record.record_type());
                zone.entry(key).or_default().push(record.data.clone());
            }
        }
    }
    let resolver = Resolver::from_zone(zone);

    results::disarm(&mut message, OURS);
    assert_eq!(results::disarm(&mut message, OURS), 0, "forged results that came back");
    let message = Bytes::from(message);
    let ask = |evidence| Question {
        peer: Some(PEER),
        helo: helo.clone(),
        mail_from: mail_from.clone(),
        receiver: OURS.to_owned(),
        evidence,
        dmarc: DmarcMode::Enforce,
        received_spf: true,
        trusted_sealers: vec!["example.com".to_owned(), "a.test".to_owned()],
        deadline: Instant::now() + Duration::from_secs(20),
    };
    let whole = judge(&resolver, &ask(Evidence { message: message.clone(), hashed: None }));
    let blank = message.windows(4).position(|window| window == b"\r\n\r\n");
    if let Some(end) = blank.filter(|_| !message.starts_with(b"\r\n")) {
        let mut hashing = Hashing::begin(&message.slice(..end + 4));
        message[end + 4..].chunks(7).for_each(|piece| hashing.push(piece));
        let streamed = judge(&resolver, &ask(hashing.finish()));
        assert_eq!(whole.findings, streamed.findings, "a message that streams is judged otherwise");
    }
    for room in [usize::MAX, 1000, 300, 0] {
        let field = results::field(OURS, &whole, room);
        assert!(field.len() <= room);
        assert!(field.is_empty() || well_formed(&field), "{field:?}");
    }
    assert!(well_formed(&whole.received_spf), "{:?}", whole.received_spf);
    assert!(!whole.refusal().contains(['\r', '\n']));
});

/// One field: each line but the first is a fold, and nothing ends it early.
fn well_formed(field: &str) -> bool {
    let Some(lines) = field.strip_suffix("\r\n") else { return false };
    let mut lines = lines.split("\r\n");
    let first = lines.next().unwrap_or_default();
    first.contains(": ")
        && lines.all(|line| line.starts_with('\t') && !line.trim().is_empty())
        && !field.replace("\r\n", "").contains(['\r', '\n', '\0'])
}

fn judge(resolver: &Resolver, question: &Question) -> Verdict {
    thread_local!(static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));
    RUNTIME.with(|runtime| runtime.block_on(verify(resolver, question)))
}

/// A TXT record holds strings of at most 255 octets.
fn text(octets: &[u8]) -> RData {
    RData::TXT(TXT::from_bytes(octets.chunks(255).collect()))
}

fn split<'d>(data: &'d [u8], mark: &[u8]) -> Vec<&'d [u8]> {
    let mut parts = Vec::new();
    let mut rest = data;
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        parts.push(&rest[..at]);
        rest = &rest[at + mark.len()..];
    }
    parts.push(rest);
    parts
}
