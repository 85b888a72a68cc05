//! Which addresses a domain's mail goes to. RFC 5321 section 5, RFC 7505 (null MX).
//!
//! | DNS says | then |
//! |---|---|
//! | MX records | their hosts by preference, those of the same in any order; not those that are no better than we are |
//! | one MX of `.` | the domain takes no mail: for good, 5.1.10 |
//! | no MX | the domain's own addresses |
//! | no such name | for good, 5.1.2 |
//! | nothing, or something that is not proved where all is signed | later, 4.4.3 |
//!
//! Each host comes with what protects the way to it ([`super::protection`]): TLSA records where MX
//! and addresses are proved, for the name behind proved aliases or the one in front of them (RFC
//! 7672 section 2.2); the domain's MTA-STS policy where there are none. Records that can't be had
//! bar a host: who silences DNS must gain nothing by it.
//!
//! The control plane asks; cores await its answer, which comes in time or is given up: before it
//! answers anybody it has to know what it has promised about others' domains, which a store that
//! can't be read keeps from it.

use super::dane::Dane;
use super::proofs;
use super::protection::Protection;
use super::sts::{Policies, binds};
use super::tally::{Applied, Failed, Kind};
use super::tlsrpt::Reporter;
use crate::auth::dns::{Missing, Resolver, name};
use crate::auth::dnssec::{Absent, Proven};
use crate::domain::mta_sts::Policy;
use crate::domain::settings::PolicyMode;
use crate::mesh::Reply;
use crate::shard::Shard;
use futures_lite::future::or;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const QUESTIONS_WAITING_MAX: usize = 4096;
/// Hosts of a domain that are tried, and addresses of each: so few that the next host
/// has its turn, too.
const HOSTS_MAX: usize = 8;
/// All that is to be known of a destination. A session waits for it, and holds its place.
const FIND_WITHIN: Duration = Duration::from_secs(90);
/// What is not found out within that is answered, too, if anybody is there who answers.
const ANSWERED_LATE: Duration = Duration::from_secs(10);
const ADDRESSES_PER_FAMILY_MAX: usize = 2;

/// A host of a destination with its addresses, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub protection: Protection,
    /// That it is the domain's is proved by DNS, or its policy says so.
    pub is_named: bool,
    /// It may be all the same: the domain's policy could not be had.
    pub may_be_named: bool,
    /// What reports tell the domain about.
    pub applied: Arc<Applied>,
}

impl Host {
    fn bare(name: String, addresses: Vec<IpAddr>) -> Host {
        Host {
            name,
            addresses,
            protection: Protection::default(),
            is_named: false,
            may_be_named: false,
            applied: Arc::default(),
        }
    }
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

pub enum Job {
    Find {
        question: Question,
        own_name: String,
        seed: u64,
        reply: Reply,
    },
    /// Reports of what has been counted, now.
    Report {
        reply: Reply,
    },
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
        if self.0.try_send(Job::Find { question, own_name, seed, reply }).is_err() {
            return Err(later("too many questions to DNS wait already".to_owned()));
        }
        let asked =
            async { answer.await.unwrap_or_else(|_| Err(later("DNS was not asked".to_owned()))) };
        let in_time = or(asked, async {
            glommio::timer::sleep(FIND_WITHIN + ANSWERED_LATE).await;
            Err(later("what is known of its hosts was not told in time".to_owned()))
        });
        in_time.await
    }

    /// Reports of what all cores have counted (RFC 8460), without waiting for the end of the day:
    /// a line for each.
    pub async fn report(&self, shard: &Rc<Shard>) -> Result<Vec<String>, String> {
        let (reply, answer) = shard.mesh.open_question();
        let busy = || "reports are sent by a running server, which is busy or stopped".to_owned();
        self.0.try_send(Job::Report { reply }).map_err(|_| busy())?;
        answer.await.map_err(|_| busy())
    }
}

/// How others' hosts are found out about.
#[derive(Debug, Clone)]
pub struct Finder {
    pub resolver: Resolver,
    pub policies: Arc<Policies>,
    /// `None`: TLSA records are not asked for; otherwise where mail exchangers listen.
    pub dane_port: Option<u16>,
}

pub async fn serve(jobs: Jobs, finder: Finder, reporter: Reporter) {
    let reporter = Arc::new(reporter);
    finder.policies.load().await;
    if let Some((config, shard)) = reporter.home() {
        proofs::recall(config, &finder.resolver, shard).await;
        if config.relay.enabled {
            tokio::spawn(proofs::remember(finder.resolver.clone(), shard.clone()));
        }
    }
    tokio::spawn(Arc::clone(&finder.policies).refresh());
    tokio::spawn(Arc::clone(&reporter).each_day());
    while let Ok(job) = jobs.recv_async().await {
        let (finder, reporter) = (finder.clone(), Arc::clone(&reporter));
        tokio::spawn(async move {
            match job {
                Job::Find { question, own_name, seed, reply } => {
                    let found = finder.find(question, &own_name, seed);
                    let found = tokio::time::timeout(FIND_WITHIN, found).await;
                    reply.answer(found.unwrap_or_else(|_| {
                        let why = "DNS and policies of its hosts were not found out in time";
                        Err(later(why.to_owned()))
                    }));
                }
                Job::Report { reply } => reply.answer(reporter.report_now().await),
            }
        });
    }
}

fn later(why: String) -> Nobody {
    Nobody { is_permanent: false, status: "4.4.3", why }
}

fn never(status: &'static str, why: String) -> Nobody {
    Nobody { is_permanent: true, status, why }
}

impl Finder {
    async fn find(&self, question: Question, own_name: &str, seed: u64) -> Answer {
        match question {
            Question::Exchangers(domain) => self.exchangers(&domain, own_name, seed).await,
            Question::Host(host) => match host.parse() {
                Ok(address) => Ok(vec![Host::bare(host, vec![address])]),
                Err(_) => self.host(host).await,
            },
        }
    }

    async fn exchangers(&self, domain: &str, own_name: &str, seed: u64) -> Answer {
        if domain.starts_with('[') {
            let address = literal(domain).ok_or_else(|| {
                never("5.1.2", format!("{domain} is no address that can be reached"))
            })?;
            return Ok(vec![Host::bare(domain.to_owned(), vec![address])]);
        }
        let fully = name(domain).ok_or_else(|| never("5.1.2", format!("{domain} is no domain")))?;
        let plain = |name: &Name| name.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
        let (found, policy) =
            tokio::join!(self.resolver.proven(fully, RecordType::MX), self.policies.of(domain));
        let (hosts, is_proved) = match found {
            Ok(found) => {
                let mx = |data: &RData| match data {
                    RData::MX(mx) => Some((mx.preference, plain(&mx.exchange))),
                    _ => None,
                };
                let (is_proved, found) = (found.is_secure, found.records.iter().filter_map(mx));
                let found: Vec<(u16, String)> = found.collect();
                if found.iter().all(|(_, host)| host.is_empty()) {
                    let why = format!("{domain} takes no mail (null MX, RFC 7505)");
                    return Err(never("5.1.10", why));
                }
                let hosts = in_order(found, own_name, seed).ok_or_else(|| {
                    never("5.4.6", format!("mail for {domain} would come back to {own_name}"))
                })?;
                (hosts, is_proved)
            }
            // If its addresses are proved, so is that it has no MX: both are in the same zone.
            Err(Absent::NoRecords) => (vec![domain.to_owned()], true),
            Err(Absent::NoSuchName) => {
                return Err(never("5.1.2", format!("the domain {domain} does not exist")));
            }
            Err(absent @ (Absent::Failed | Absent::Bogus)) => {
                let why = absent.reason();
                return Err(later(format!("DNS does not say where mail for {domain} goes{why}")));
            }
        };
        let mut found = self.resolve(hosts, domain, is_proved).await?;
        let fault = policy.as_ref().err().map(|unfetched| unfetched.result());
        let policy = policy.unwrap_or_default();
        for host in &mut found {
            host.may_be_named = fault.is_some();
            obey(host, domain, binds(&policy));
            host.applied = Arc::new(applied(host, binds(&policy), fault));
        }
        Ok(found)
    }

    /// Of whom the operator has named.
    async fn host(&self, host: String) -> Answer {
        let Some(fully) = name(&host) else {
            return Err(never("5.4.4", format!("{host} is no name of a host")));
        };
        let (mut addresses, mut failed) = (Vec::new(), false);
        for v4 in [false, true] {
            match self.resolver.addresses(fully.clone(), v4).await {
                Ok(some) => addresses.extend(some.into_iter().take(ADDRESSES_PER_FAMILY_MAX)),
                Err(Missing::Failed) => failed = true,
                Err(Missing::NoRecords | Missing::NoSuchName) => {}
            }
        }
        if addresses.is_empty() {
            return Err(no_addresses(&host, failed.then_some(Absent::Failed)));
        }
        Ok(vec![Host::bare(host, addresses)])
    }

    /// Hosts that have no address are passed over. `is_proved`: that they are the domain's.
    async fn resolve(&self, hosts: Vec<String>, domain: &str, is_proved: bool) -> Answer {
        let mut found = Vec::new();
        let mut failed = None;
        for host in hosts {
            let Some(fully) = name(&host) else { continue };
            let mut addresses = Vec::new();
            let (mut is_secure, mut alias_is_secure, mut behind) = (true, false, fully.clone());
            for kind in [RecordType::AAAA, RecordType::A] {
                // RFC 7672 section 2.2.1: hosts that are not proved to be the domain's gain nothing
                // by proofs of their own, and some of their name servers can't be asked for any.
                let found = match is_proved {
                    true => self.resolver.proven(fully.clone(), kind).await,
                    false => self.unproven(&fully, kind).await,
                };
                match found {
                    Ok(some) => {
                        is_secure &= some.is_secure;
                        alias_is_secure |= some.alias_is_secure;
                        behind = some.name;
                        let some = some.records.into_iter().filter_map(address);
                        addresses.extend(some.take(ADDRESSES_PER_FAMILY_MAX));
                    }
                    Err(absent @ (Absent::Failed | Absent::Bogus)) => failed = Some(absent),
                    Err(Absent::NoRecords | Absent::NoSuchName) => {}
                }
            }
            if addresses.is_empty() {
                continue;
            }
            // RFC 7672 section 2.2.2: hosts whose addresses are not signed have no TLSA records
            // that count, and name servers that can't be asked for them.
            let mut bases = Vec::new();
            if is_secure {
                bases.push(behind);
            }
            if (is_secure || alias_is_secure) && !bases.contains(&fully) {
                bases.push(fully);
            }
            let protection = match is_proved {
                true => self.dane(&host, domain, &bases).await,
                false => Protection::Opportunistic,
            };
            // Without MX, `is_proved` says no more than that the host is the domain.
            let is_named = is_proved && (is_secure || host != domain);
            found.push(Host { protection, is_named, ..Host::bare(host, addresses) });
        }
        if found.is_empty() { Err(no_addresses(domain, failed)) } else { Ok(found) }
    }

    async fn unproven(&self, name: &Name, kind: RecordType) -> Result<Proven, Absent> {
        let addresses = self.resolver.addresses(name.clone(), kind == RecordType::A).await?;
        let record = |address| match address {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        };
        let records = addresses.into_iter().map(record).collect();
        Ok(Proven { records, is_secure: false, name: name.clone(), alias_is_secure: false })
    }

    /// What the first of `bases` that has TLSA records says with them.
    async fn dane(&self, host: &str, domain: &str, bases: &[Name]) -> Protection {
        let Some(port) = self.dane_port else { return Protection::Opportunistic };
        for base in bases {
            let plain = base.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
            let Some(asked) = name(&format!("_{port}._tcp.{plain}")) else { continue };
            let found = match self.resolver.proven(asked, RecordType::TLSA).await {
                Ok(Proven { is_secure: false, .. }) => continue,
                Ok(found) => found.records,
                Err(Absent::NoRecords | Absent::NoSuchName) => continue,
                Err(absent @ (Absent::Failed | Absent::Bogus)) => {
                    let why = absent.reason();
                    return Protection::Barred(format!(
                        "DNS does not say which certificate it has (DANE){why}"
                    ));
                }
            };
            let tlsa = found.iter().filter_map(|data| match data {
                RData::TLSA(tlsa) => Some(tlsa),
                _ => None,
            });
            let mut names = vec![plain];
            for other in [host, domain] {
                if !names.iter().any(|name| name == other) {
                    names.push(other.to_owned());
                }
            }
            return Dane::new(tlsa, names)
                .map_or(Protection::Encrypted, |dane| Protection::Dane(Arc::new(dane)));
        }
        Protection::Opportunistic
    }
}

/// The domain's policy is for hosts that have no TLSA records, or none of use: RFC 8461 section 2
/// has it override nothing that fails, and such records fail nothing.
fn obey(host: &mut Host, domain: &str, policy: Option<&Policy>) {
    let Some(policy) = policy else { return };
    let is_among_its = policy.names(&host.name);
    host.is_named |= is_among_its;
    let is_encrypted = host.protection == Protection::Encrypted;
    if host.protection != Protection::Opportunistic && !is_encrypted {
        return;
    }
    host.protection = match (policy.mode, is_among_its) {
        (PolicyMode::Enforce, true) => Protection::Sts,
        (PolicyMode::Enforce, false) => {
            Protection::Barred(format!("the MTA-STS policy of {domain} does not name it"))
        }
        (PolicyMode::Testing | PolicyMode::None, _) if is_encrypted => Protection::Encrypted,
        (PolicyMode::Testing, true) => Protection::StsOnTrial,
        (PolicyMode::Testing, false) => {
            tracing::info!(
                domain,
                host = host.name,
                "its MTA-STS policy, which is on trial, does not name this host"
            );
            Protection::Opportunistic
        }
        (PolicyMode::None, _) => Protection::Opportunistic,
    };
}

/// What a session to the host counts under.
fn applied(host: &Host, policy: Option<&Policy>, fault: Option<Failed>) -> Applied {
    match (&host.protection, policy) {
        (Protection::Dane(dane), _) => Applied {
            kind: Kind::Tlsa,
            lines: dane.texts(),
            mx: vec![host.name.clone()],
            fault: None,
        },
        (Protection::Encrypted, _) => Applied { kind: Kind::Tlsa, ..Applied::default() },
        (_, Some(policy)) => {
            // What would keep mail back once the policy is in force is told as long
            // as it is on trial.
            let fault = (!policy.names(&host.name)).then_some(Failed::ValidationFailure);
            Applied { kind: Kind::Sts, lines: policy.lines(), mx: policy.mx.clone(), fault }
        }
        (_, None) if fault.is_some() => Applied { kind: Kind::Sts, fault, ..Applied::default() },
        (Protection::Barred(_), None) => Applied { kind: Kind::Tlsa, ..Applied::default() },
        (_, None) => Applied::default(),
    }
}

fn address(data: RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn no_addresses(domain: &str, failed: Option<Absent>) -> Nobody {
    match failed {
        Some(absent) => {
            let why = absent.reason();
            later(format!("DNS does not say where the mail hosts of {domain} are{why}"))
        }
        None => never("5.4.4", format!("no mail host of {domain} has an address")),
    }
}

/// By preference; equal ones are rotated by `seed`. RFC 5321 section 5.1: where we are among them,
/// only better ones are left. `None`: there are none.
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
    use hickory_resolver::proto::rr::rdata::{A, MX, TLSA};

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
        let question = Question::Exchangers(domain.to_owned());
        runtime.block_on(finder(zone(), &[]).find(question, "here.test", 7))
    }

    fn finder(zone: Zone, proved: &[&str]) -> Finder {
        let resolver = Resolver::from_proved_zone(zone, proved);
        let policies = Arc::new(Policies::none(&resolver));
        Finder { resolver, policies, dane_port: Some(25) }
    }

    /// The first host of two.test, whose records are proved where `proved` says so.
    fn protected(tlsa: Option<TLSA>, proved: &[&str]) -> Host {
        let mut zone = zone();
        if let Some(tlsa) = tlsa {
            let key = ("_25._tcp.a.test.".to_owned(), RecordType::TLSA);
            zone.insert(key, vec![RData::TLSA(tlsa)]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let question = Question::Exchangers("two.test".to_owned());
        runtime.block_on(finder(zone, proved).find(question, "here.test", 7)).unwrap().remove(0)
    }

    #[test]
    fn tlsa_records_count_where_all_on_the_way_to_them_is_proved() {
        let usable = || Some(TLSA::new(3.into(), 1.into(), 1.into(), vec![0; 32]));
        let all = ["two.test.", "a.test.", "_25._tcp.a.test."];
        let host = protected(usable(), &all);
        assert!(matches!(&host.protection, Protection::Dane(dane) if dane.sni() == "a.test"));
        assert!(host.is_named);
        for left_out in all {
            let others: Vec<&str> = all.into_iter().filter(|one| *one != left_out).collect();
            let host = protected(usable(), &others);
            assert_eq!(host.protection, Protection::Opportunistic, "{left_out}");
            assert_eq!(host.is_named, left_out != "two.test.");
        }
        let unusable = TLSA::new(0.into(), 1.into(), 1.into(), vec![0; 32]);
        assert_eq!(protected(Some(unusable), &all).protection, Protection::Encrypted);
        assert_eq!(protected(None, &all).protection, Protection::Opportunistic);
    }

    #[test]
    fn a_policy_is_for_hosts_without_records_of_their_own() {
        let policy = |mode| Policy { mode, mx: vec!["*.a.test".into()], max_age: 60 };
        let obeyed = |name: &str, before: Protection, mode| {
            let mut host = Host::bare(name.into(), Vec::new());
            host.protection = before;
            obey(&mut host, "a.test", Some(&policy(mode)));
            host
        };
        use PolicyMode::{Enforce, Testing};
        use Protection::{Barred, Encrypted, Opportunistic, Sts, StsOnTrial};
        let host = obeyed("mx.a.test", Opportunistic, Enforce);
        assert_eq!((host.protection, host.is_named), (Sts, true));
        let host = obeyed("mx.evil.test", Opportunistic, Enforce);
        assert!(matches!(host.protection, Barred(_)) && !host.is_named);
        assert_eq!(obeyed("mx.a.test", Opportunistic, Testing).protection, StsOnTrial);
        assert_eq!(obeyed("mx.evil.test", Opportunistic, Testing).protection, Opportunistic);
        // Any certificate is less than the policy asks.
        assert_eq!(obeyed("mx.a.test", Encrypted, Enforce).protection, Sts);
        assert!(matches!(obeyed("mx.evil.test", Encrypted, Enforce).protection, Barred(_)));
        assert_eq!(obeyed("mx.a.test", Encrypted, Testing).protection, Encrypted);
        assert_eq!(obeyed("mx.evil.test", Encrypted, Testing).protection, Encrypted);
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
