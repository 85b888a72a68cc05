//! Which addresses a domain's mail goes to. RFC 5321 section 5, RFC 7505 (null MX).
//!
//! | DNS says | then |
//! |---|---|
//! | MX records | their hosts by preference, those of the same in any order; not those that are no better than we are |
//! | one MX of `.` | the domain takes no mail: for good, 5.1.10 |
//! | no MX | the domain's own addresses |
//! | no such name | for good, 5.1.2 |
//! | nothing | later, 4.4.3 |
//!
//! The control plane asks; cores await its answer, which always comes: each question has its timeout.

use crate::auth::dns::{Missing, Resolver, name};
use crate::mesh::Reply;
use crate::shard::Shard;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

const QUESTIONS_WAITING_MAX: usize = 4096;
/// Hosts of a domain that are tried, and addresses of each: so few that the next host has its turn, too.
const HOSTS_MAX: usize = 8;
const ADDRESSES_PER_FAMILY_MAX: usize = 2;

/// A host of a destination with its addresses, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// Why there is nobody to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nobody {
    pub is_permanent: bool,
    pub status: &'static str,
    pub why: String,
}

#[derive(Debug, Clone)]
pub enum Question {
    /// Of a domain or an address literal.
    Exchangers(String),
    /// Of a host, whatever its MX says.
    Host(String),
}

pub type Answer = Result<Vec<Host>, Nobody>;

pub struct Job {
    question: Question,
    own_name: String,
    seed: u64,
    reply: Reply,
}

/// The cores' end.
#[derive(Clone)]
pub struct Desk(flume::Sender<Job>);

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.0.len()).finish()
    }
}

pub type Jobs = flume::Receiver<Job>;

pub fn desk() -> (Desk, Jobs) {
    let (jobs, asked) = flume::bounded(QUESTIONS_WAITING_MAX);
    (Desk(jobs), asked)
}

impl Desk {
    pub async fn ask(&self, shard: &Rc<Shard>, question: Question) -> Answer {
        let (reply, answer) = shard.mesh.open_question();
        let own_name = shard.config.hostname.clone();
        let seed = crate::delivery::unix_millis().0;
        if self.0.try_send(Job { question, own_name, seed, reply }).is_err() {
            return Err(later("too many questions to DNS wait already".to_owned()));
        }
        answer.await.unwrap_or_else(|_| Err(later("DNS was not asked".to_owned())))
    }
}

pub async fn serve(jobs: Jobs, resolver: Resolver) {
    while let Ok(Job { question, own_name, seed, reply }) = jobs.recv_async().await {
        let resolver = resolver.clone();
        tokio::spawn(async move { reply.answer(find(&resolver, question, &own_name, seed).await) });
    }
}

fn later(why: String) -> Nobody {
    Nobody { is_permanent: false, status: "4.4.3", why }
}

fn never(status: &'static str, why: String) -> Nobody {
    Nobody { is_permanent: true, status, why }
}

async fn find(resolver: &Resolver, question: Question, own_name: &str, seed: u64) -> Answer {
    match question {
        Question::Exchangers(domain) => exchangers(resolver, &domain, own_name, seed).await,
        Question::Host(host) => match host.parse() {
            Ok(address) => Ok(vec![Host { name: host, addresses: vec![address] }]),
            Err(_) => resolve(resolver, vec![host.clone()], &host).await,
        },
    }
}

async fn exchangers(resolver: &Resolver, domain: &str, own_name: &str, seed: u64) -> Answer {
    if domain.starts_with('[') {
        let address = literal(domain)
            .ok_or_else(|| never("5.1.2", format!("{domain} is no address that can be reached")))?;
        return Ok(vec![Host { name: domain.to_owned(), addresses: vec![address] }]);
    }
    let fully = name(domain).ok_or_else(|| never("5.1.2", format!("{domain} is no domain")))?;
    let plain = |name: &hickory_resolver::proto::rr::Name| {
        name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
    };
    let hosts = match resolver.exchangers(fully).await {
        Ok(found) => {
            let found: Vec<(u16, String)> =
                found.iter().map(|(preference, host)| (*preference, plain(host))).collect();
            if found.iter().all(|(_, host)| host.is_empty()) {
                return Err(never("5.1.10", format!("{domain} takes no mail (null MX, RFC 7505)")));
            }
            in_order(found, own_name, seed).ok_or_else(|| {
                never("5.4.6", format!("mail for {domain} would come back to {own_name}"))
            })?
        }
        Err(Missing::NoRecords) => vec![domain.to_owned()],
        Err(Missing::NoSuchName) => {
            return Err(never("5.1.2", format!("the domain {domain} does not exist")));
        }
        Err(Missing::Failed) => {
            return Err(later(format!("DNS does not say where mail for {domain} goes")));
        }
    };
    resolve(resolver, hosts, domain).await
}

/// By preference; equal ones are rotated by `seed`. RFC 5321 section 5.1: where we are among them, only
/// better ones are left. `None`: there are none.
fn in_order(mut found: Vec<(u16, String)>, own_name: &str, seed: u64) -> Option<Vec<String>> {
    found.retain(|(_, host)| !host.is_empty());
    found.sort();
    found.dedup();
    let own = found.iter().find(|(_, host)| host.eq_ignore_ascii_case(own_name)).map(|one| one.0);
    found.retain(|(preference, _)| own.is_none_or(|own| *preference < own));
    let mut hosts = Vec::new();
    for group in found.chunk_by(|one, other| one.0 == other.0) {
        let turn = usize::try_from(seed % group.len() as u64).unwrap_or(0);
        let (before, from) = group.split_at(turn);
        hosts.extend(from.iter().chain(before).map(|(_, host)| host.clone()));
    }
    hosts.truncate(HOSTS_MAX);
    (!hosts.is_empty()).then_some(hosts)
}

/// Hosts that have no address are passed over.
async fn resolve(resolver: &Resolver, hosts: Vec<String>, domain: &str) -> Answer {
    let mut found = Vec::new();
    let mut failed = false;
    for host in hosts {
        let Some(fully) = name(&host) else { continue };
        let mut addresses = Vec::new();
        for v4 in [false, true] {
            match resolver.addresses(fully.clone(), v4).await {
                Ok(some) => addresses.extend(some.into_iter().take(ADDRESSES_PER_FAMILY_MAX)),
                Err(Missing::Failed) => failed = true,
                Err(Missing::NoRecords | Missing::NoSuchName) => {}
            }
        }
        if !addresses.is_empty() {
            found.push(Host { name: host, addresses });
        }
    }
    match (found.is_empty(), failed) {
        (false, _) => Ok(found),
        (true, true) => {
            Err(later(format!("DNS does not say where the mail hosts of {domain} are")))
        }
        (true, false) => Err(never("5.4.4", format!("no mail host of {domain} has an address"))),
    }
}

fn literal(domain: &str) -> Option<IpAddr> {
    let inside = domain.strip_prefix('[')?.strip_suffix(']')?;
    let six = inside.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    match six {
        true => inside[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        false => inside.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dns::Zone;
    use hickory_resolver::proto::rr::rdata::{A, MX};
    use hickory_resolver::proto::rr::{Name, RData, RecordType};

    fn zone() -> Zone {
        let mut zone = Zone::new();
        let mx = |preference, host: &str| RData::MX(MX::new(preference, name(host).unwrap()));
        let mut add = |owner: &str, kind, records| zone.insert((owner.to_owned(), kind), records);
        add(
            "two.test.",
            RecordType::MX,
            vec![mx(20, "b.test"), mx(10, "a.test"), mx(5, "gone.test")],
        );
        add("null.test.", RecordType::MX, vec![RData::MX(MX::new(0, Name::root()))]);
        add("loop.test.", RecordType::MX, vec![mx(10, "here.test"), mx(10, "b.test")]);
        add("backup.test.", RecordType::MX, vec![mx(20, "here.test"), mx(10, "b.test")]);
        for (number, host) in [(1, "a.test."), (2, "b.test."), (3, "here.test.")] {
            add(host, RecordType::A, vec![RData::A(A(Ipv4Addr::new(192, 0, 2, number)))]);
        }
        let many = (1..=4).map(|number| RData::A(A(Ipv4Addr::new(192, 0, 2, number)))).collect();
        add("many.test.", RecordType::A, many);
        add("lots.test.", RecordType::MX, vec![mx(10, "many.test")]);
        add("only.test.", RecordType::MX, vec![mx(5, "gone.test")]);
        zone
    }

    fn ask(domain: &str) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let resolver = Resolver::from_zone(zone());
        let question = Question::Exchangers(domain.to_owned());
        runtime.block_on(find(&resolver, question, "here.test", 7))
    }

    fn found(domain: &str) -> Result<Vec<String>, &'static str> {
        ask(domain)
            .map(|hosts| hosts.into_iter().map(|host| host.name).collect())
            .map_err(|n| n.status)
    }

    #[test]
    fn hosts_are_found_by_the_book() {
        let names = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(found("two.test"), names(&["a.test", "b.test"]));
        assert_eq!(found("backup.test"), names(&["b.test"]));
        assert_eq!(found("null.test"), Err("5.1.10"));
        assert_eq!(found("loop.test"), Err("5.4.6"));
        assert_eq!(found("only.test"), Err("5.4.4"));
        assert_eq!(found("nothing.test"), Err("5.1.2"));
        assert_eq!(found("[192.0.2.9]"), names(&["[192.0.2.9]"]));
        assert_eq!(found("[x]"), Err("5.1.2"));
    }

    #[test]
    fn a_host_with_many_addresses_leaves_turns_to_the_next() {
        let hosts = ask("lots.test").unwrap();
        assert_eq!(hosts[0].addresses.len(), 2);
    }

    #[test]
    fn equal_preferences_take_turns() {
        let all = || vec![(10, "a".to_owned()), (10, "b".to_owned()), (20, "c".to_owned())];
        assert_eq!(in_order(all(), "x", 0).unwrap(), ["a", "b", "c"]);
        assert_eq!(in_order(all(), "x", 1).unwrap(), ["b", "a", "c"]);
        assert_eq!(literal("[IPv6:2001:db8::1]"), "2001:db8::1".parse().ok());
    }
}
