//! Does DNS say what it has to? Each record of [`Facts`] is looked up, and SPF, reverse names,
//! keys and the MTA-STS policy are judged as other servers judge them, by the code that judges
//! other servers' mail.

use super::records::{Facts, Kind, Record, What};
use super::{mta_sts, zone};
use crate::auth::dkim::tags::Tags;
use crate::auth::dmarc::record::Record as Dmarc;
use crate::auth::dns::{self, Missing, Resolver};
use crate::auth::spf;
use crate::auth::verdict::Outcome;
use futures_util::{StreamExt, stream};
use hickory_resolver::proto::op::{Edns, Message, Query};
use hickory_resolver::proto::rr::RecordType;
use rustls::ClientConfig;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Missing,
    Wrong,
    /// DNS, or whoever else was asked, has not answered.
    Unknown,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Missing => "missing",
            Verdict::Wrong => "wrong",
            Verdict::Unknown => "unknown",
        }
    }
}

/// What became of one record.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub record: Record,
    pub verdict: Verdict,
    /// What there is instead, or besides.
    pub found: Vec<String>,
    pub why: String,
    /// The record to set, on one line.
    pub set: String,
}

impl Finding {
    /// Whether something is to be done; that an optional record is not there is no fault.
    pub fn is_fault(&self) -> bool {
        match self.verdict {
            Verdict::Ok => false,
            Verdict::Missing => !self.record.optional,
            Verdict::Wrong | Verdict::Unknown => true,
        }
    }
}

/// Whom to ask.
pub struct Asking<'a> {
    pub resolver: &'a Resolver,
    /// Of the resolver, for what only the header of an answer says.
    pub server: Option<SocketAddr>,
    /// Whose certificates are believed when the policy is fetched.
    pub tls: ClientConfig,
    pub timeout: Duration,
}

/// A resolver that is down costs its timeout once, not once for each record.
const QUESTIONS_AT_ONCE: usize = 32;
const QUESTION_BYTES_MAX: usize = 4096;
/// RFC 8461 section 3.3: policies may be limited to 64 KiB.
const POLICY_BYTES_MAX: usize = 64 << 10;

type Judged = (Verdict, Vec<String>, String);

pub async fn check(asking: &Asking<'_>, facts: &Facts) -> Vec<Finding> {
    let mut records = facts.records.clone();
    if let Some(policy) = &facts.policy {
        let behind = records.iter().rposition(|record| record.what == What::MtaStsHost);
        let record = Record {
            what: What::MtaStsPolicy,
            name: mta_sts::url(&facts.domain),
            kind: Kind::Https,
            value: policy.clone(),
            optional: true,
            note: String::new(),
        };
        records.insert(behind.map_or(records.len(), |at| at + 1), record);
    }
    let judged = records.into_iter().map(async |record| {
        let judged = judge(asking, facts, &record).await;
        finding(record, judged)
    });
    let judged = stream::iter(judged).buffered(QUESTIONS_AT_ONCE).collect::<Vec<Finding>>();
    let (mut findings, stray) = tokio::join!(judged, stray_addresses(asking, facts));
    if let Some(finding) = stray {
        findings.insert(0, finding);
    }
    findings
}

/// Whether DNS has this key; for who is about to sign with it.
pub async fn has_key(resolver: &Resolver, record: &Record) -> Judged {
    let texts = match resolver.texts(&record.name).await {
        Ok(texts) => texts,
        Err(missing) => return absent(missing),
    };
    let found: Vec<String> = texts.iter().map(|text| lossy(text)).collect();
    let key = |text: &[u8]| {
        let tags = Tags::read(text)?;
        let value = tags.get("p")?;
        Some(value.iter().copied().filter(u8::is_ascii_graphic).collect::<Vec<u8>>())
    };
    let wanted = key(record.value.as_bytes());
    match texts.as_slice() {
        [one] if key(one) == wanted => ok(found),
        [_] => wrong(found, "another key than ours"),
        _ => wrong(found, "several records: verifiers may take any of them"),
    }
}

fn finding(record: Record, (verdict, found, why): Judged) -> Finding {
    let set = match record.kind {
        Kind::Https | Kind::Smtp | Kind::Config => String::new(),
        _ => zone::line(&record),
    };
    Finding { record, verdict, found, why, set }
}

fn ok(found: Vec<String>) -> Judged {
    (Verdict::Ok, found, String::new())
}

fn wrong(found: Vec<String>, why: &str) -> Judged {
    (Verdict::Wrong, found, why.to_owned())
}

fn absent(missing: Missing) -> Judged {
    match missing {
        Missing::NoRecords => (Verdict::Missing, Vec::new(), "no such record".to_owned()),
        Missing::NoSuchName => (Verdict::Missing, Vec::new(), "no such name".to_owned()),
        Missing::Failed => {
            (Verdict::Unknown, Vec::new(), "the resolver does not answer, or fails".to_owned())
        }
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

async fn judge(asking: &Asking<'_>, facts: &Facts, record: &Record) -> Judged {
    let resolver = asking.resolver;
    match record.what {
        What::Reverse => reverse(resolver, facts, record).await,
        What::Spf | What::SpfHost => sender_policy(resolver, facts, record).await,
        What::Dkim => has_key(resolver, record).await,
        What::Dmarc => {
            one_text(resolver, record, "v=DMARC1", |text| {
                Dmarc::read(text).is_some_and(|_| has_tag(text, "p"))
            })
            .await
        }
        What::TlsRpt => one_text(resolver, record, "v=TLSRPTv1", |text| has_tag(text, "rua")).await,
        What::MtaSts => {
            let wanted = record.value.clone();
            one_text(resolver, record, "v=STSv1", |text| id(text) == id(wanted.as_bytes())).await
        }
        What::MtaStsHost | What::Autoconfig if record.kind == Kind::Cname => {
            same_host(resolver, facts, record).await
        }
        What::Tlsa => certificate(asking, record).await,
        What::MtaStsPolicy => fetched(asking, facts, record).await,
        // Found out elsewhere, and never among what DNS has to say.
        What::OpenRelay | What::Blocklist => absent(Missing::Failed),
        What::Address
        | What::Mx
        | What::MtaStsHost
        | What::Service
        | What::Autoconfig
        | What::Caa => one_of(resolver, record).await,
    }
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Mx => RecordType::MX,
        Kind::Ptr => RecordType::PTR,
        Kind::Txt | Kind::Https | Kind::Smtp | Kind::Config => RecordType::TXT,
        Kind::Srv => RecordType::SRV,
        Kind::Cname => RecordType::CNAME,
        Kind::Tlsa => RecordType::TLSA,
        Kind::Caa => RecordType::CAA,
    }
}

/// What of a value has to be as we say: of MX and SRV not the preference, and never the case.
fn essence(kind: Kind, value: &str) -> String {
    let fields: Vec<&str> = value.split_whitespace().collect();
    let fields = match (kind, fields.as_slice()) {
        (Kind::Mx, [_, host]) => vec![*host],
        (Kind::Srv, [_, _, port, host]) => vec![*port, *host],
        // The digest may stand in several pieces.
        (Kind::Tlsa, [usage, selector, matching, digest @ ..]) => {
            return format!("{usage} {selector} {matching} {}", digest.concat()).to_lowercase();
        }
        _ => fields,
    };
    fields.join(" ").trim_end_matches('.').to_lowercase()
}

/// One of the records there is ours.
async fn one_of(resolver: &Resolver, record: &Record) -> Judged {
    let found = match resolver.records(&record.name, record_type(record.kind)).await {
        Ok(found) => found,
        Err(missing) => return absent(missing),
    };
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let wanted = essence(record.kind, &record.value);
    let ours = found.iter().find(|one| essence(record.kind, one) == wanted);
    match (ours, record.what) {
        (None, What::Mx) => wrong(found, "mail goes elsewhere"),
        (None, What::Address) => wrong(found, "another address"),
        (None, What::Caa) => wrong(found, "whoever issues our certificates may not"),
        (None, _) => wrong(found, "another value"),
        (Some(ours), What::Mx) => {
            let preference =
                |value: &str| value.split(' ').next().and_then(|number| number.parse::<u16>().ok());
            let best = found.iter().min_by_key(|one| preference(one));
            match best.filter(|best| preference(best) < preference(ours)) {
                Some(best) => {
                    let why = format!("others are asked to try {best} first");
                    (Verdict::Ok, found.clone(), why)
                }
                None => ok(found),
            }
        }
        (Some(_), _) => ok(found),
    }
}

/// There is one text of this kind, and it holds.
async fn one_text(
    resolver: &Resolver,
    record: &Record,
    version: &str,
    holds: impl Fn(&[u8]) -> bool,
) -> Judged {
    let texts = match resolver.texts(&record.name).await {
        Ok(texts) => texts,
        Err(missing) => return absent(missing),
    };
    let is_kind = |text: &&Vec<u8>| {
        let front = text.get(..version.len());
        front.is_some_and(|front| front.eq_ignore_ascii_case(version.as_bytes()))
    };
    let ours: Vec<&Vec<u8>> = texts.iter().filter(is_kind).collect();
    let found: Vec<String> = ours.iter().map(|text| lossy(text)).collect();
    match ours.as_slice() {
        [] => {
            let found = texts.iter().map(|text| lossy(text)).collect();
            (Verdict::Missing, found, format!("no text begins with {version}"))
        }
        [one] if holds(one) => ok(found),
        [_] if record.what == What::MtaSts => wrong(found, "the id is not that of our policy"),
        [_] => wrong(found, "it can't be understood"),
        _ => wrong(found, "several: they count as none"),
    }
}

fn has_tag(text: &[u8], name: &str) -> bool {
    Tags::read(text).is_some_and(|tags| tags.get(name).is_some_and(|value| !value.is_empty()))
}

fn id(text: &[u8]) -> Option<Vec<u8>> {
    Tags::read(text)?.get("id").map(<[u8]>::to_vec)
}

/// There is one record, and it passes what we send from each address.
async fn sender_policy(resolver: &Resolver, facts: &Facts, record: &Record) -> Judged {
    let judged = one_text(resolver, record, "v=spf1", |_| true).await;
    let (Verdict::Ok, found, _) = judged else { return judged };
    for &address in &facts.addresses {
        let outcome = match record.what {
            What::SpfHost => spf::helo(resolver, address, &facts.hostname).await,
            _ => {
                let sender = format!("postmaster@{}", facts.domain);
                spf::mail_from(resolver, address, &facts.hostname, &sender).await
            }
        };
        match outcome {
            Outcome::Pass => {}
            Outcome::TempError => {
                let why = format!("DNS does not say whether {address} may send");
                return (Verdict::Unknown, found, why);
            }
            other => {
                let why = format!("mail from {address} is {:?} by it", other.name());
                return (Verdict::Wrong, found, why);
            }
        }
    }
    ok(found)
}

/// The address has the host's name, and the name has the address.
async fn reverse(resolver: &Resolver, facts: &Facts, record: &Record) -> Judged {
    let judged = one_of(resolver, record).await;
    let (Verdict::Ok, found, _) = judged else { return judged };
    let own = facts.addresses.iter().find(|address| {
        hickory_resolver::proto::rr::Name::from(**address).to_ascii().trim_end_matches('.')
            == record.name
    });
    let Some(address) = own else { return ok(found) };
    let Some(host) = dns::name(&facts.hostname) else { return ok(found) };
    match resolver.addresses(host, address.is_ipv4()).await {
        Ok(addresses) if addresses.contains(address) => {
            (Verdict::Ok, found, format!("and {} has {address}", facts.hostname))
        }
        Err(Missing::Failed) => absent(Missing::Failed),
        Ok(_) | Err(_) => {
            let why = format!("{} does not have the address {address}", facts.hostname);
            (Verdict::Wrong, found, why)
        }
    }
}

/// A name that leads to the host, as an alias or with its addresses.
async fn same_host(resolver: &Resolver, facts: &Facts, record: &Record) -> Judged {
    let Some(name) = dns::name(&record.name) else { return absent(Missing::NoSuchName) };
    let (mut found, mut worst) = (Vec::new(), Missing::NoSuchName);
    for v4 in [true, false] {
        match resolver.addresses(name.clone(), v4).await {
            Ok(addresses) => found.extend(addresses),
            Err(Missing::Failed) => worst = Missing::Failed,
            Err(Missing::NoRecords | Missing::NoSuchName) => {}
        }
    }
    if found.is_empty() {
        return absent(worst);
    }
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    if found.iter().any(|address| facts.addresses.contains(address)) {
        ok(texts)
    } else {
        wrong(texts, "it leads to another host")
    }
}

/// Addresses of the host's name that we do not know of: others try them, too.
async fn stray_addresses(asking: &Asking<'_>, facts: &Facts) -> Option<Finding> {
    let name = dns::name(&facts.hostname)?;
    let (v4, v6) = tokio::join!(
        asking.resolver.addresses(name.clone(), true),
        asking.resolver.addresses(name, false)
    );
    let found = v4.unwrap_or_default().into_iter().chain(v6.unwrap_or_default());
    let strays: Vec<IpAddr> = found.filter(|address| !facts.addresses.contains(address)).collect();
    let first = *strays.first()?;
    let kind = if first.is_ipv4() { Kind::A } else { Kind::Aaaa };
    let record = Record {
        what: What::Address,
        name: facts.hostname.clone(),
        kind,
        value: first.to_string(),
        optional: false,
        note: String::new(),
    };
    let found = strays.iter().map(ToString::to_string).collect();
    let why = "not known to be an address of this host: remove the record, or add the address to `addresses` \
               in the config file";
    Some(Finding {
        record,
        verdict: Verdict::Wrong,
        found,
        why: why.to_owned(),
        set: String::new(),
    })
}

async fn certificate(asking: &Asking<'_>, record: &Record) -> Judged {
    let (verdict, found, why) = one_of(asking.resolver, record).await;
    if verdict != Verdict::Ok {
        return (verdict, found, why);
    }
    let why = match asking.server {
        Some(server) => match is_authentic(server, &record.name, asking.timeout).await {
            Some(true) => "the resolver has validated it (AD)",
            Some(false) => {
                "the resolver does not say that it has validated it (no AD): who can't validate it ignores it"
            }
            None => "whether it can be validated is not known",
        },
        None => "whether it can be validated is not known",
    };
    (Verdict::Ok, found, why.to_owned())
}

/// The AD bit (RFC 6840 section 5.8) of the answer for a TLSA record. `None`: no answer.
async fn is_authentic(server: SocketAddr, name: &str, timeout: Duration) -> Option<bool> {
    let mut question = Message::query();
    question.add_query(Query::query(dns::name(name)?, RecordType::TLSA));
    question.metadata.recursion_desired = true;
    question.metadata.authentic_data = true;
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.edns = Some(edns);
    let octets = question.to_vec().ok()?;
    let from: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = tokio::net::UdpSocket::bind(from).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(&octets).await.ok()?;
    let mut answer = vec![0; QUESTION_BYTES_MAX];
    let count = tokio::time::timeout(timeout, socket.recv(&mut answer)).await.ok()?.ok()?;
    let answer = Message::from_vec(&answer[..count]).ok()?;
    (answer.metadata.id == question.metadata.id).then_some(answer.metadata.authentic_data)
}

/// The policy as others fetch it (RFC 8461 section 3.3).
async fn fetched(asking: &Asking<'_>, facts: &Facts, record: &Record) -> Judged {
    let host = format!("mta-sts.{}", facts.domain);
    let Some(name) = dns::name(&host) else { return absent(Missing::NoSuchName) };
    let mut addresses = Vec::new();
    for v4 in [true, false] {
        let found = asking.resolver.addresses(name.clone(), v4).await.unwrap_or_default();
        addresses.extend(found.into_iter().map(|address| SocketAddr::new(address, 443)));
    }
    if addresses.is_empty() {
        return (Verdict::Missing, Vec::new(), format!("{host} has no address"));
    }
    match fetch(asking, &host, &addresses, &record.name).await {
        Ok(body) if body == record.value => ok(Vec::new()),
        Ok(body) => wrong(vec![body], "another policy than ours"),
        Err(why) => (Verdict::Wrong, Vec::new(), why),
    }
}

async fn fetch(
    asking: &Asking<'_>,
    host: &str,
    addresses: &[SocketAddr],
    url: &str,
) -> Result<String, String> {
    // The error's own words say only which address it was about.
    let words = |error: reqwest::Error| {
        let mut error: &dyn std::error::Error = &error;
        while let Some(source) = error.source() {
            error = source;
        }
        format!("it can't be fetched: {error}")
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(asking.tls.clone())
        .resolve_to_addrs(host, addresses)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(asking.timeout)
        .no_proxy()
        .build()
        .map_err(words)?;
    let mut answer = client.get(url).send().await.map_err(words)?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(format!("it can't be fetched: the server answers {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(words)? {
        body.extend_from_slice(&piece);
        if body.len() > POLICY_BYTES_MAX {
            return Err("it is longer than 64 KiB".to_owned());
        }
    }
    String::from_utf8(body).map_err(|_| "it is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dns::Zone;
    use hickory_resolver::proto::rr::RData;
    use hickory_resolver::proto::rr::rdata::{A, MX, PTR, TXT};

    fn facts() -> Facts {
        let record = |what, name: &str, kind, value: &str| Record {
            what,
            name: name.to_owned(),
            kind,
            value: value.to_owned(),
            optional: false,
            note: String::new(),
        };
        Facts {
            domain: "a.test".to_owned(),
            hostname: "mail.a.test".to_owned(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            addresses_from: String::new(),
            records: vec![
                record(What::Address, "mail.a.test", Kind::A, "192.0.2.1"),
                record(What::Reverse, "1.2.0.192.in-addr.arpa", Kind::Ptr, "mail.a.test."),
                record(What::Mx, "a.test", Kind::Mx, "10 mail.a.test."),
                record(What::Spf, "a.test", Kind::Txt, "v=spf1 mx ~all"),
                record(What::Dkim, "k._domainkey.a.test", Kind::Txt, "v=DKIM1; k=rsa; p=AAAA"),
                record(What::Dmarc, "_dmarc.a.test", Kind::Txt, "v=DMARC1; p=none"),
            ],
            notes: Vec::new(),
            policy: None,
            rest_goes_to: Vec::new(),
        }
    }

    fn text(text: &str) -> RData {
        RData::TXT(TXT::new(vec![text.to_owned()]))
    }

    fn name(of: &str) -> hickory_resolver::proto::rr::Name {
        dns::name(of).unwrap()
    }

    fn address(of: &str) -> RData {
        RData::A(A(of.parse().unwrap()))
    }

    fn good() -> Zone {
        let mut zone = Zone::new();
        let mut add = |owner: &str, kind, data| zone.insert((owner.to_owned(), kind), vec![data]);
        add("mail.a.test.", RecordType::A, address("192.0.2.1"));
        add("1.2.0.192.in-addr.arpa.", RecordType::PTR, RData::PTR(PTR(name("Mail.a.test"))));
        add("a.test.", RecordType::MX, RData::MX(MX::new(5, name("mail.a.test"))));
        add("a.test.", RecordType::TXT, text("v=spf1 a:mail.a.test -all"));
        add("k._domainkey.a.test.", RecordType::TXT, text("k=rsa; p= AA AA"));
        add("_dmarc.a.test.", RecordType::TXT, text("v=DMARC1; p=reject"));
        zone
    }

    fn verdicts(zone: Zone) -> Vec<Verdict> {
        let roots = rustls::RootCertStore::empty();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let resolver = Resolver::from_zone(zone);
        let timeout = Duration::from_secs(1);
        let asking = Asking { resolver: &resolver, server: None, tls, timeout };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let findings = runtime.block_on(check(&asking, &facts()));
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn each_record_is_ok_missing_or_wrong() {
        use Verdict::{Missing, Ok, Wrong};
        assert_eq!(verdicts(good()), [Ok; 6]);
        // An absent name fails alone, but for what hangs on it.
        for (owner, kind, expected) in [
            ("mail.a.test.", RecordType::A, [Missing, Wrong, Ok, Wrong, Ok, Ok]),
            ("1.2.0.192.in-addr.arpa.", RecordType::PTR, [Ok, Missing, Ok, Ok, Ok, Ok]),
            ("a.test.", RecordType::MX, [Ok, Ok, Missing, Ok, Ok, Ok]),
            ("a.test.", RecordType::TXT, [Ok, Ok, Ok, Missing, Ok, Ok]),
            ("k._domainkey.a.test.", RecordType::TXT, [Ok, Ok, Ok, Ok, Missing, Ok]),
            ("_dmarc.a.test.", RecordType::TXT, [Ok, Ok, Ok, Ok, Ok, Missing]),
        ] {
            let mut zone = good();
            zone.remove(&(owner.to_owned(), kind)).unwrap();
            assert_eq!(verdicts(zone), expected, "{owner} {kind}");
        }
        for (owner, kind, data, at) in [
            ("1.2.0.192.in-addr.arpa.", RecordType::PTR, RData::PTR(PTR(name("x.test"))), 1),
            ("a.test.", RecordType::MX, RData::MX(MX::new(5, name("x.test"))), 2),
            ("a.test.", RecordType::TXT, text("v=spf1 -all"), 3),
            ("a.test.", RecordType::TXT, text("v=spf1 nonsense"), 3),
            ("k._domainkey.a.test.", RecordType::TXT, text("v=DKIM1; p=BBBB"), 4),
            ("_dmarc.a.test.", RecordType::TXT, text("v=DMARC1; rua=mailto:x@y"), 5),
        ] {
            let mut zone = good();
            zone.insert((owner.to_owned(), kind), vec![data]);
            let mut expected = [Ok; 6];
            expected[at] = Wrong;
            assert_eq!(verdicts(zone), expected, "{owner} {kind}");
        }
    }

    #[test]
    fn two_policies_are_none_and_an_unknown_address_is_told() {
        let mut zone = good();
        let two = vec![text("v=spf1 a:mail.a.test -all"), text("v=spf1 -all")];
        zone.insert(("a.test.".to_owned(), RecordType::TXT), two);
        let two = vec![address("192.0.2.1"), address("192.0.2.2")];
        zone.insert(("mail.a.test.".to_owned(), RecordType::A), two);
        let found = verdicts(zone);
        let expected = (7, Verdict::Wrong, Verdict::Ok, Verdict::Wrong);
        assert_eq!((found.len(), found[0], found[1], found[4]), expected);
    }

    #[test]
    fn what_does_not_matter_is_not_compared() {
        assert_eq!(essence(Kind::Mx, "10 Mail.a.test."), essence(Kind::Mx, "0 mail.a.test."));
        assert_eq!(essence(Kind::Srv, "0 1 993 a."), essence(Kind::Srv, "5 0 993 A."));
        assert_ne!(essence(Kind::Srv, "0 1 993 a."), essence(Kind::Srv, "0 1 143 a."));
        assert_eq!(essence(Kind::Tlsa, "3 1 1 AB CD"), essence(Kind::Tlsa, "3 1 1 abcd"));
    }
}
