//! Can strangers send through this host? What the config file says, and what a stranger is told in
//! one SMTP session.
//!
//! The session goes to our own listener, at an address of this host and from it: no packet leaves.
//! It names recipients on another host and never sends DATA, so nothing is sent even where they are
//! taken. What somebody in front of this host (a gateway, a NAT) lets through, only a look from
//! outside can tell.

use super::check::{Finding, Verdict};
use super::records::{Facts, Kind, Record, What, is_public};
use crate::auth::settings::Network;
use crate::config::Config;
use crate::policy::networks::Lists;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Of one listener's sessions, each of which takes as long as a slow greeting does.
const LISTENERS_MAX: usize = 4;
const REPLY_BYTES_MAX: u64 = 8 << 10;
/// Networks larger than these, where the world can be, are nobody's own.
const OWN_BITS_V4: u8 = 16;
const OWN_BITS_V6: u8 = 32;
/// RFC 2606: nobody's, ever.
const FOREIGN: &str = "relay-test@example.invalid";

pub async fn check(facts: &Facts, config: &Config, timeout: Duration) -> Vec<Finding> {
    let mut findings = settings(facts, config);
    let patience = timeout + Duration::from_millis(config.policy.greeting_delay_ms);
    let balancers = config.listen.proxy_protocol_from.get("smtp").map(Vec::as_slice);
    for address in listeners(&facts.addresses, &config.listen.smtp) {
        if let Some(network) = balancer(address.ip(), balancers.unwrap_or_default()) {
            let why = format!(
                "whether it relays can't be asked from here: listen.proxy_protocol_from.smtp has {network}, from where the listener \
                 takes a load balancer's connections alone; ask it from outside"
            );
            findings.push(finding(
                &address.to_string(),
                Kind::Smtp,
                (Verdict::Unknown, Vec::new(), why),
            ));
            continue;
        }
        let asked = tokio::time::timeout(patience, stranger(address, facts));
        let judged = match asked.await {
            Ok(Ok(judged)) => judged,
            Ok(Err(error)) => unknown(&format!("{error}; `kura serve` has to be running")),
            Err(_) => unknown("it does not answer in time; `kura serve` has to be running"),
        };
        findings.push(finding(&address.to_string(), Kind::Smtp, judged));
    }
    findings
}

/// A connection to an address of this host comes from it.
fn balancer(from: IpAddr, networks: &[Network]) -> Option<&Network> {
    networks.iter().find(|network| network.contains(from))
}

type Judged = (Verdict, Vec<String>, String);

fn unknown(why: &str) -> Judged {
    let why = format!("whether it relays is not known: {why}");
    (Verdict::Unknown, Vec::new(), why)
}

fn finding(name: &str, kind: Kind, (verdict, found, why): Judged) -> Finding {
    let record = Record {
        what: What::OpenRelay,
        name: name.to_owned(),
        kind,
        value: String::new(),
        optional: false,
        note: String::new(),
    };
    Finding { record, verdict, found, why, set: String::new() }
}

/// Networks of the config file in which strangers are.
#[derive(Debug)]
pub struct Strangers {
    pub key: String,
    pub networks: Vec<String>,
    /// What that means.
    pub why: String,
}

pub fn strangers_in(config: &Config, lists: &Lists) -> Vec<Strangers> {
    let trusted = "mail from there is neither verified nor judged, and nobody there is kept out";
    let mut keys = vec![
        ("auth.trusted_networks".to_owned(), &config.auth.trusted_networks, trusted),
        ("policy.allow".to_owned(), &lists.allow, "nobody there is kept out or counted"),
    ];
    let claims = "who is there may claim any address as its own, a trusted one, too";
    keys.push(("listen.xclient_from".to_owned(), &config.listen.xclient_from, claims));
    for (service, networks) in &config.listen.proxy_protocol_from {
        keys.push((format!("listen.proxy_protocol_from.{service}"), networks, claims));
    }
    let strangers = |networks: &[Network]| -> Vec<String> {
        networks.iter().filter(|one| holds_strangers(one)).map(ToString::to_string).collect()
    };
    let mut found: Vec<_> = keys
        .into_iter()
        .map(|(key, networks, meaning)| {
            let all = networks.iter().any(|network| network.ends().2 == 0);
            let who = if all { "everybody is" } else { "strangers are" };
            let why = format!("{who} in it: {meaning}; name networks of your own alone");
            Strangers { key, networks: strangers(networks), why }
        })
        .collect();
    let all = lists.deny.iter().filter(|network| network.ends().2 == 0).map(ToString::to_string);
    let why = "everybody is in it: nobody gets further than the greeting; name those who are to be kept out";
    let (key, networks, why) = ("policy.deny".to_owned(), all.collect(), why.to_owned());
    found.push(Strangers { key, networks, why });
    found.retain(|one| !one.networks.is_empty());
    found
}

/// What of the config file lets in those it should not. Says nothing of what is as it should be.
fn settings(facts: &Facts, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    // What can't be read keeps the server from its start.
    let lists = Lists::read(config).unwrap_or_default();
    for Strangers { key, networks, why } in strangers_in(config, &lists) {
        findings.push(finding(&key, Kind::Config, (Verdict::Wrong, networks, why)));
    }
    let is_open = |address: &&SocketAddr| {
        let ip = address.ip();
        ip.is_unspecified() || is_public(ip)
    };
    let open: Vec<String> =
        config.listen.lmtp.iter().filter(is_open).map(ToString::to_string).collect();
    if !open.is_empty() {
        let why = "whoever reaches it brings mail that nobody looks at, without a password; let it listen on 127.0.0.1, or on an \
                   address that only the gateway reaches";
        let judged = (Verdict::Wrong, open, why.to_owned());
        findings.push(finding("listen.lmtp", Kind::Config, judged));
    }
    if !facts.rest_goes_to.is_empty() {
        let name = format!("@{}", facts.domain);
        let why = format!(
            "what strangers send to any name at all goes on to {}, in this host's name: spam, too; aliases for the names that are in use \
             do without it",
            facts.rest_goes_to.join(", ")
        );
        findings.push(finding(&name, Kind::Config, (Verdict::Ok, Vec::new(), why)));
    }
    findings
}

/// Whether more is in it than one's own hosts can be.
fn holds_strangers(network: &Network) -> bool {
    let (first, last, bits) = network.ends();
    let is_large = bits < if first.is_ipv4() { OWN_BITS_V4 } else { OWN_BITS_V6 };
    // One within the private ranges has both ends there; none of them has half of all addresses.
    is_large && (is_public(first) || is_public(last) || bits < 7)
}

/// Where a stranger on this very host would find the listeners.
fn listeners(public: &[IpAddr], configured: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in configured {
        if !address.ip().is_unspecified() {
            found.push(*address);
            continue;
        }
        let is_v4 = address.is_ipv4();
        let own = public.iter().filter(|ip| ip.is_ipv4() == is_v4 && is_here(**ip));
        let before = found.len();
        found.extend(own.map(|ip| SocketAddr::new(*ip, address.port())));
        if found.len() == before {
            let loopback: IpAddr =
                if is_v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            found.push(SocketAddr::new(loopback, address.port()));
        }
    }
    found.truncate(LISTENERS_MAX);
    found
}

/// Whether one of this host's interfaces has the address.
fn is_here(address: IpAddr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

/// Asks as one who has not logged in, in the name of a stranger and in ours.
async fn stranger(address: SocketAddr, facts: &Facts) -> std::io::Result<Judged> {
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let (greeting, _) = reply(&mut stream).await?;
    if greeting / 100 != 2 {
        return Ok(unknown(&format!("it greets with {greeting}")));
    }
    let (code, text) = ask(&mut stream, "EHLO relay-test.invalid").await?;
    if code / 100 != 2 {
        return Ok(unknown(&format!("it answers EHLO with {text}")));
    }
    let mut found = Vec::new();
    // To refuse senders says nothing of recipients.
    let mut has_refused_recipient = false;
    let mut verdict = Verdict::Ok;
    let (of_ours, routed) =
        (format!("postmaster@{}", facts.domain), format!("@{}:{FOREIGN}", facts.hostname));
    for (sender, recipient) in
        [("relay-test@example.invalid", FOREIGN), (&of_ours, FOREIGN), ("", routed.as_str())]
    {
        let (code, text) = ask(&mut stream, &format!("MAIL FROM:<{sender}>")).await?;
        let has_sender = code / 100 == 2;
        let (code, text) = match has_sender {
            true => ask(&mut stream, &format!("RCPT TO:<{recipient}>")).await?,
            false => (code, text),
        };
        match code / 100 {
            5 => has_refused_recipient |= has_sender,
            2 => verdict = Verdict::Wrong,
            _ if verdict == Verdict::Ok => verdict = Verdict::Unknown,
            _ => {}
        }
        found.push(format!("from <{sender}> to <{recipient}>: {text}"));
        ask(&mut stream, "RSET").await?;
    }
    ask(&mut stream, "QUIT").await?;
    if verdict == Verdict::Ok && !has_refused_recipient {
        let (_, _, why) = unknown("it has refused all senders, before they could name a recipient");
        return Ok((Verdict::Unknown, found, why));
    }
    let why = match verdict {
        Verdict::Wrong => {
            "it takes mail for other hosts from strangers: an open relay; take it off the net until that is mended"
        }
        Verdict::Unknown => "it puts strangers off; try again later",
        Verdict::Ok | Verdict::Missing => "strangers can't send through it",
    };
    Ok((verdict, found, why.to_owned()))
}

async fn ask(stream: &mut BufReader<TcpStream>, command: &str) -> std::io::Result<(u16, String)> {
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    reply(stream).await
}

/// A reply's code, and its last line.
async fn reply(stream: &mut BufReader<TcpStream>) -> std::io::Result<(u16, String)> {
    let mut reply = stream.take(REPLY_BYTES_MAX);
    loop {
        let mut line = Vec::new();
        reply.read_until(b'\n', &mut line).await?;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let code = text.get(..3).and_then(|code| code.parse::<u16>().ok());
        match (code, text.as_bytes().get(3)) {
            (Some(_), Some(b'-')) => {}
            (Some(code), _) => return Ok((code, text)),
            (None, _) => return Err(std::io::Error::other("it does not speak SMTP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_network_of_ones_own_is_small_or_private() {
        for (text, holds) in [
            ("0.0.0.0/0", true),
            ("::/0", true),
            ("128.0.0.0/1", true),
            ("203.0.0.0/8", true),
            ("172.16.0.0/11", true),
            ("203.0.113.0/24", false),
            ("203.0.113.7", false),
            ("10.0.0.0/8", false),
            ("127.0.0.0/8", false),
            ("172.16.0.0/12", false),
            ("192.168.0.0/16", false),
            ("2001:db8::/32", false),
            ("2000::/3", true),
            ("2a00::/12", true),
            ("fc00::/7", false),
            ("::1", false),
        ] {
            assert_eq!(holds_strangers(&network(text)), holds, "{text}");
        }
    }

    #[test]
    fn listeners_are_asked_at_addresses_of_this_host() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let public = ["192.0.2.1", "127.0.0.9"].map(|one| one.parse().unwrap());
        // 192.0.2.1 is nowhere here, or the tests' host is an odd one.
        let found = listeners(&public, &[at("0.0.0.0:25"), at("127.0.0.5:26"), at("[::]:25")]);
        assert_eq!(found, [at("127.0.0.9:25"), at("127.0.0.5:26"), at("[::1]:25")]);
        assert_eq!(listeners(&public[..1], &[at("0.0.0.0:25")]), [at("127.0.0.1:25")]);
    }

    #[test]
    fn a_listener_behind_a_balancer_is_not_asked_from_where_the_balancer_is() {
        let networks = [network("192.0.2.0/24"), network("127.0.0.0/8")];
        let found =
            |from: &str| balancer(from.parse().unwrap(), &networks).map(ToString::to_string);
        assert_eq!(found("127.0.0.9").as_deref(), Some("127.0.0.0/8"));
        assert_eq!(found("198.51.100.1"), None);
    }

    fn asked(answers: &'static [&'static str]) -> (Verdict, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serve = async move {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                for answer in answers {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                }
            };
            let facts = Facts {
                domain: "a.test".into(),
                hostname: "mail.a.test".into(),
                addresses: Vec::new(),
                addresses_from: String::new(),
                records: Vec::new(),
                notes: Vec::new(),
                policy: None,
                rest_goes_to: Vec::new(),
            };
            let (asked, ()) = tokio::join!(stranger(address, &facts), serve);
            asked.map_or_else(
                |error| (Verdict::Unknown, error.to_string()),
                |(verdict, _, why)| (verdict, why),
            )
        })
    }

    #[test]
    fn who_takes_a_foreign_recipient_relays() {
        const HELLO: [&str; 2] = ["220 a\r\n", "250-a\r\n250 b\r\n"];
        const NO: [&str; 3] = ["250 a\r\n", "550 a\r\n", "250 a\r\n"];
        const YES: [&str; 3] = ["250 a\r\n", "250 a\r\n", "250 a\r\n"];
        const LATER: [&str; 3] = ["250 a\r\n", "450 a\r\n", "250 a\r\n"];
        const REFUSED: [&str; 2] = ["550 a\r\n", "250 a\r\n"];
        const BYE: [&str; 1] = ["221 a\r\n"];
        let of = |turns: [&[&'static str]; 3]| -> Verdict {
            let all = [&HELLO[..], turns[0], turns[1], turns[2], &BYE[..]].concat();
            asked(all.leak()).0
        };
        assert_eq!(of([&NO, &NO, &NO]), Verdict::Ok);
        assert_eq!(of([&REFUSED, &REFUSED, &NO]), Verdict::Ok);
        assert_eq!(of([&REFUSED, &REFUSED, &REFUSED]), Verdict::Unknown);
        assert_eq!(asked(&["220 a\r\n", "502 a\r\n"]).0, Verdict::Unknown);
        assert_eq!(of([&NO, &YES, &NO]), Verdict::Wrong);
        assert_eq!(of([&LATER, &NO, &YES]), Verdict::Wrong);
        assert_eq!(of([&LATER, &NO, &NO]), Verdict::Unknown);
        assert_eq!(asked(&["554 a\r\n"]).0, Verdict::Unknown);
        assert!(asked(&["HTTP/1.0 400\r\n"]).1.contains("SMTP"));
    }
}
