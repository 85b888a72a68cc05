//! `check_host` (RFC 7208 section 4): one domain's word about one address.
//!
//! Bounded as section 4.6.4 has it: ten terms that ask DNS, two questions without an answer, ten
//! names of an MX or PTR. The caller sees to the time.

use super::macros::{MacroString, Values};
use super::record::{Mechanism, Prefix, Record, is_spf};
use crate::auth::dns::{Missing, Resolver, name};
use crate::auth::verdict::Outcome;
use hickory_resolver::proto::rr::Name;
use std::net::IpAddr;

const LOOKUPS_MAX: usize = 10;
const VOID_LOOKUPS_MAX: usize = 2;
const NAMES_MAX: usize = 10;

/// One check, with what it has cost so far.
#[derive(Debug)]
pub struct Check<'c> {
    pub resolver: &'c Resolver,
    pub ip: IpAddr,
    pub sender_local: &'c str,
    pub sender_domain: &'c str,
    pub helo: &'c str,
    lookups: usize,
    voids: usize,
    /// The client's name, once it has been asked for.
    validated: Option<String>,
}

/// An error is a result that nothing can change any more.
type Step<T> = Result<T, Outcome>;

impl<'c> Check<'c> {
    pub fn new(
        resolver: &'c Resolver,
        ip: IpAddr,
        sender: (&'c str, &'c str),
        helo: &'c str,
    ) -> Check<'c> {
        let (local, sender_domain) = sender;
        // Section 5: an IPv4 address in IPv6's clothes is an IPv4 address.
        let ip = ip.to_canonical();
        let sender_local = if local.is_empty() { "postmaster" } else { local };
        let (lookups, voids, validated) = (0, 0, None);
        Check { resolver, ip, sender_local, sender_domain, helo, lookups, voids, validated }
    }

    /// Of the domain that the check is about.
    pub async fn run(&mut self, domain: &str) -> Outcome {
        // Section 4.3: what can't be a domain of the Internet is not asked for.
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        if !domain.contains('.') || name(domain).is_none() {
            return Outcome::None;
        }
        match self.check(domain).await {
            Ok(outcome) | Err(outcome) => outcome,
        }
    }

    async fn check(&mut self, domain: &str) -> Step<Outcome> {
        let Some(text) = self.record(domain).await? else { return Ok(Outcome::None) };
        let record = Record::read(&text).map_err(|_| Outcome::PermError)?;
        for directive in &record.directives {
            if self.matches(&directive.mechanism, domain).await? {
                return Ok(directive.outcome);
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(Outcome::Neutral) };
        self.count_lookup()?;
        let target = self.expand(redirect, domain).await;
        match Box::pin(self.check(&target)).await? {
            Outcome::None => Err(Outcome::PermError),
            outcome => Ok(outcome),
        }
    }

    /// Section 4.5: exactly one TXT record that is an SPF record.
    async fn record(&mut self, domain: &str) -> Step<Option<Vec<u8>>> {
        let texts = match self.resolver.texts(domain).await {
            Ok(found) => found,
            Err(Missing::NoRecords | Missing::NoSuchName) => return Ok(None),
            Err(Missing::Failed) => return Err(Outcome::TempError),
        };
        let mut records = texts.into_iter().filter(|text| is_spf(text));
        match (records.next(), records.next()) {
            (None, _) => Ok(None),
            (Some(record), None) => Ok(Some(record)),
            (Some(_), Some(_)) => Err(Outcome::PermError),
        }
    }

    async fn matches(&mut self, mechanism: &Mechanism, domain: &str) -> Step<bool> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, bits) => {
                let prefix = Prefix { v4: *bits, v6: 128 };
                Ok(within(self.ip, IpAddr::V4(*network), prefix))
            }
            Mechanism::Ip6(network, bits) => {
                let prefix = Prefix { v4: 32, v6: *bits };
                Ok(within(self.ip, IpAddr::V6(*network), prefix))
            }
            Mechanism::Include(target) => {
                self.count_lookup()?;
                let target = self.expand(target, domain).await;
                match Box::pin(self.check(&target)).await? {
                    Outcome::Pass => Ok(true),
                    Outcome::Fail | Outcome::SoftFail | Outcome::Neutral => Ok(false),
                    Outcome::None | Outcome::PermError | Outcome::Policy => Err(Outcome::PermError),
                    Outcome::TempError => Err(Outcome::TempError),
                }
            }
            Mechanism::A(target, prefix) => {
                self.count_lookup()?;
                let target = self.target(target.as_ref(), domain).await;
                let addresses = self.addresses(&target).await?;
                Ok(addresses.iter().any(|address| within(self.ip, *address, *prefix)))
            }
            Mechanism::Mx(target, prefix) => {
                self.count_lookup()?;
                let target = self.target(target.as_ref(), domain).await;
                self.mx_matches(&target, *prefix).await
            }
            Mechanism::Ptr(target) => {
                self.count_lookup()?;
                let target = self.target(target.as_ref(), domain).await;
                let names = self.validated_names().await?;
                Ok(names.iter().any(|name| is_below(name, &target)))
            }
            Mechanism::Exists(target) => {
                self.count_lookup()?;
                let target = self.expand(target, domain).await;
                // IPv4, whatever the client's family (section 5.7).
                Ok(!self.addresses_of(name(&target), true).await?.is_empty())
            }
        }
    }

    async fn mx_matches(&mut self, target: &str, prefix: Prefix) -> Step<bool> {
        let Some(name) = name(target) else { return Ok(false) };
        let hosts = match self.resolver.mail_hosts(name).await {
            Ok(found) => found,
            Err(Missing::NoRecords | Missing::NoSuchName) => {
                self.count_void()?;
                return Ok(false);
            }
            Err(Missing::Failed) => return Err(Outcome::TempError),
        };
        if hosts.len() > NAMES_MAX {
            return Err(Outcome::PermError);
        }
        for host in hosts {
            let addresses = self.addresses_of(Some(host), self.ip.is_ipv4()).await?;
            if addresses.iter().any(|address| within(self.ip, *address, prefix)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Names of the client's address that have the address (section 5.5). Failures are no names.
    async fn validated_names(&mut self) -> Step<Vec<String>> {
        let names = match self.resolver.names(self.ip).await {
            Ok(found) => found,
            Err(Missing::NoRecords | Missing::NoSuchName) => {
                self.count_void()?;
                return Ok(Vec::new());
            }
            Err(Missing::Failed) => return Ok(Vec::new()),
        };
        let mut validated = Vec::new();
        for name in names.iter().take(NAMES_MAX) {
            let name = name.to_ascii();
            let name = name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
            let addresses = self.raw_addresses(self::name(&name), self.ip.is_ipv4()).await;
            if addresses.is_ok_and(|addresses| addresses.contains(&self.ip)) {
                validated.push(name);
            }
        }
        Ok(validated)
    }

    /// `%{p}`: the domain's own name first, then one below it, then any (section 7.3).
    async fn validated_name(&mut self, domain: &str) -> String {
        if let Some(known) = &self.validated {
            return known.clone();
        }
        let names = self.validated_names().await.unwrap_or_default();
        let best = names
            .iter()
            .find(|name| name.eq_ignore_ascii_case(domain))
            .or_else(|| names.iter().find(|name| is_below(name, domain)))
            .or_else(|| names.first());
        let name = best.map_or("unknown", String::as_str).to_owned();
        self.validated = Some(name.clone());
        name
    }

    async fn target(&mut self, target: Option<&MacroString>, domain: &str) -> String {
        match target {
            Some(target) => self.expand(target, domain).await,
            None => domain.to_owned(),
        }
    }

    async fn expand(&mut self, text: &MacroString, domain: &str) -> String {
        let validated = match text.wants_validated() {
            true => self.validated_name(domain).await,
            false => String::new(),
        };
        text.expand(&Values {
            sender_local: self.sender_local,
            sender_domain: self.sender_domain,
            domain,
            ip: self.ip,
            helo: self.helo,
            validated: &validated,
        })
    }

    /// Addresses of the client's family.
    async fn addresses(&mut self, target: &str) -> Step<Vec<IpAddr>> {
        self.addresses_of(name(target), self.ip.is_ipv4()).await
    }

    async fn addresses_of(&mut self, target: Option<Name>, v4: bool) -> Step<Vec<IpAddr>> {
        let found = self.raw_addresses(target, v4).await?;
        if found.is_empty() {
            self.count_void()?;
        }
        Ok(found)
    }

    async fn raw_addresses(&self, target: Option<Name>, v4: bool) -> Step<Vec<IpAddr>> {
        let Some(name) = target else { return Ok(Vec::new()) };
        match self.resolver.addresses(name, v4).await {
            Ok(found) => Ok(found),
            Err(Missing::NoRecords | Missing::NoSuchName) => Ok(Vec::new()),
            Err(Missing::Failed) => Err(Outcome::TempError),
        }
    }

    fn count_lookup(&mut self) -> Step<()> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX { Err(Outcome::PermError) } else { Ok(()) }
    }

    fn count_void(&mut self) -> Step<()> {
        self.voids += 1;
        if self.voids > VOID_LOOKUPS_MAX { Err(Outcome::PermError) } else { Ok(()) }
    }
}

fn within(address: IpAddr, network: IpAddr, prefix: Prefix) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differing = address.to_bits() ^ network.to_bits();
            differing.checked_shr(32 - u32::from(prefix.v4)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differing = address.to_bits() ^ network.to_bits();
            differing.checked_shr(128 - u32::from(prefix.v6)).unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Whether `name` is `domain` or ends with it.
fn is_below(name: &str, domain: &str) -> bool {
    let domain = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
    name == domain || name.strip_suffix(&domain).is_some_and(|front| front.ends_with('.'))
}
