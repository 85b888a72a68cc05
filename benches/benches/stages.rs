//! What it costs to find out who has sent a message of 20 KiB, and to run a script on it; the other
//! stages have benches of their own (`spam`, `scan`, `parse`). DNS answers at once here: waits cost
//! nothing but time.
//! `cargo bench -p kura-benches --bench stages`

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::auth::dns::{Resolver, Zone};
use engine::auth::evidence::Evidence;
use engine::auth::results;
use engine::auth::settings::DmarcMode;
use engine::auth::verify::{Question, verify};
use engine::domain::keys::DkimKeys;
use engine::domain::signing::Digest;
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{RData, RecordType};
use kura_benches::mime_message;
use protocols::Address;
use protocols::message::Summary;
use protocols::sieve::{Include, Limits, Mail, Missing, Script, World, run};
use std::hint::black_box;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const DOMAIN: &str = "example.net";
const BYTES: usize = 20 << 10;

fn text(octets: &str) -> Vec<RData> {
    vec![RData::TXT(TXT::from_bytes(octets.as_bytes().chunks(255).collect()))]
}

/// A message that both keys of its domain have signed, and what DNS says of it.
fn signed() -> (Bytes, Zone) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut keys = DkimKeys::default();
    keys.add_pair(now).expect("keys are made");
    let message = mime_message(BYTES, 2, 1);
    let fields = Digest::of(&message).sign(DOMAIN, &keys, now).expect("signs");
    let mut zone = Zone::new();
    let mut put = |name: String, value: &str| zone.insert((name, RecordType::TXT), text(value));
    for key in keys.signing() {
        put(format!("{}.", key.record_name(DOMAIN)), &key.record_text());
    }
    put(format!("{DOMAIN}."), "v=spf1 ip4:192.0.2.0/24 -all");
    put(format!("_dmarc.{DOMAIN}."), "v=DMARC1; p=reject");
    (Bytes::from([fields, message].concat()), zone)
}

fn authentication(criterion: &mut Criterion) {
    let (message, zone) = signed();
    let resolver = Resolver::from_zone(zone);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let question = Question {
        peer: Some(IpAddr::from([192, 0, 2, 1])),
        helo: format!("mail.{DOMAIN}"),
        mail_from: format!("sender@{DOMAIN}"),
        receiver: "mx.example.test".to_owned(),
        evidence: Evidence { message: message.clone(), hashed: None },
        dmarc: DmarcMode::Enforce,
        received_spf: false,
        trusted_sealers: Vec::new(),
        deadline: Instant::now() + Duration::from_secs(3600),
    };
    let verdict = runtime.block_on(verify(&resolver, &question));
    let field = results::field("mx.example.test", &verdict, usize::MAX);
    assert_eq!(field.matches("dkim=pass").count(), 2, "{field}");
    assert!(field.contains("spf=pass") && field.contains("dmarc=pass"), "{field}");
    let mut group = criterion.benchmark_group("auth");
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("SPF, two signatures, DMARC", |b| {
        b.iter(|| runtime.block_on(verify(&resolver, black_box(&question))));
    });
    group.finish();
}

struct Account;

impl World for Account {
    fn script(&self, _: &Include) -> Result<&Script, Missing> {
        Err(Missing::NotFound)
    }

    fn mailbox_exists(&self, _: &str) -> bool {
        true
    }

    fn special_use_exists(&self, _: Option<&str>, _: &str) -> bool {
        true
    }

    fn is_duplicate(&self, _: &[u8; 32]) -> bool {
        false
    }

    fn unix_seconds(&self) -> i64 {
        1_795_700_000
    }

    fn is_own_address(&self, _: &str) -> bool {
        false
    }

    fn spam_percent(&self) -> Option<u8> {
        Some(10)
    }

    fn virus(&self) -> Option<u8> {
        Some(1)
    }

    fn environment(&self, _: &str) -> Option<String> {
        None
    }
}

const SCRIPT: &[u8] = br#"require ["fileinto", "mailbox", "body", "imap4flags"];
if header :contains "list-id" ["announce", "devel"] { fileinto :create "Lists"; }
elsif address :domain :is "from" ["shop.test", "bank.test", "travel.test"] { fileinto :create "Shops"; }
elsif header :matches "subject" ["*invoice overdue*", "*out of office*"] { addflag "\\Flagged"; }
elsif size :over 5M { fileinto :create "Large"; }
elsif body :text :contains "the words that nobody writes" { discard; }
"#;

fn scripts(criterion: &mut Criterion) {
    let limits = Limits::default();
    let script = Script::compile(SCRIPT, &limits).expect("compiles");
    let message = mime_message(BYTES, 2, 1);
    let summary = Summary::compute(&message);
    let sender = Address::parse(b"sender@example.net");
    let recipient = Address::parse(b"alice@example.test").expect("an address");
    let mail = Mail {
        raw: &message,
        summary: &summary,
        octets: message.len() as u64,
        sender: sender.as_ref(),
        recipient: &recipient,
    };
    let mut group = criterion.benchmark_group("sieve");
    group.bench_function("compile", |b| b.iter(|| Script::compile(black_box(SCRIPT), &limits)));
    group.bench_function("run", |b| b.iter(|| run(black_box(&script), &mail, &Account, &limits)));
    group.finish();
}

criterion_group!(benches, authentication, scripts);
criterion_main!(benches);
