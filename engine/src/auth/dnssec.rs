//! Answers of DNS with their proofs: DNSSEC (RFC 4033 to 4035), from the root's keys down, in this
//! process, so that the resolver need not be believed.
//!
//! | an answer is | then |
//! |---|---|
//! | secure | signed all the way from the root: it may stand in for a certificate (RFC 7672) |
//! | insecure | proved to come from where nothing is signed: of use, and no more |
//! | bogus | neither: as if it could not be had, never as if it were insecure |
//!
//! hickory validates each set of records; what it says of single records is put together here.
//! Names count from the one that was asked for along its aliases, so that a record which
//! belongs to neither changes nothing. That there is nothing is believed only from a zone that
//! the name is in: hickory takes an answer without records for insecure if the SOA beside it
//! is, whosever that may be.
//!
//! A resolver that strips signatures would make all of DNS bogus. So nothing is proved before the
//! root's keys once were (`dns.dnssec = "auto"`); from then on, nothing is believed without proof,
//! by this process and by those after it (`crate::relay::proofs`): otherwise whoever silences the
//! first question after a restart would keep DANE off. Where names are private, or made up behind a
//! DNAME, which hickory can't follow, the operator says so (`dns.unsigned`).

use super::dns::{ANSWERS_MAX, Missing, missing, name};
use super::settings::{Dns, Dnssec};
use crate::NOTICE;
use crate::config::ConfigError;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

/// As long as the root's keys are not proved, they are asked for once in this time where
/// somebody needs them.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// The same, whether they were proved and are needed or not.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Aliases from the name that was asked for to the one that has the records.
const ALIASES_MAX: usize = 8;

/// Records that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    pub records: Vec<RData>,
    /// The records, and all aliases on the way to them.
    pub is_secure: bool,
    /// Who has them, behind all aliases.
    pub name: Name,
    /// The name that was asked for is an alias, and that much is proved.
    pub alias_is_secure: bool,
}

/// Why there are no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    NoRecords,
    NoSuchName,
    /// Nobody can say.
    Failed,
    /// What was said is not proved, where all is signed; or not that nothing is.
    Bogus,
}

impl From<Missing> for Absent {
    fn from(missing: Missing) -> Absent {
        match missing {
            Missing::NoRecords => Absent::NoRecords,
            Missing::NoSuchName => Absent::NoSuchName,
            Missing::Failed => Absent::Failed,
        }
    }
}

impl Absent {
    /// Completes "DNS does not say …".
    pub fn reason(self) -> &'static str {
        match self {
            Absent::NoRecords | Absent::NoSuchName | Absent::Failed => "",
            Absent::Bogus => " (DNSSEC: its answer is not proved)",
        }
    }
}

/// The validating resolver, and whether it is of use yet.
pub(super) struct Validator {
    /// `None`: nothing is to be proved.
    resolver: Option<TokioResolver>,
    /// The same without memory: what it has said an hour ago is no news.
    prober: Option<TokioResolver>,
    is_required: bool,
    /// Negative trust anchors (RFC 7646).
    unsigned: Vec<Name>,
    /// Once it has, nothing is believed without proof until the process ends.
    has_proved: AtomicBool,
    /// Whether it did when it was asked last.
    proves: AtomicBool,
    /// When it has for the last time, in Unix seconds, or an earlier process has; 0: none has.
    proved_at: AtomicU64,
    has_news: Notify,
    probed: Mutex<Option<Instant>>,
}

impl Validator {
    pub(super) fn new(
        dns: &Dns,
        config: ResolverConfig,
        mut options: ResolverOpts,
    ) -> Result<Validator, ConfigError> {
        let (resolver, prober) = match dns.dnssec {
            Dnssec::Off => (None, None),
            Dnssec::Auto | Dnssec::Required => {
                options.validate = true;
                // Aliases count: see `chain`.
                options.preserve_intermediates = true;
                let anchors = Arc::new(anchors(dns)?);
                let build = |options: ResolverOpts| {
                    let provider = TokioRuntimeProvider::default();
                    TokioResolver::builder_with_config(config.clone(), provider)
                        .with_options(options)
                        .with_trust_anchor(Arc::clone(&anchors))
                        .build()
                        .map_err(|error| ConfigError(format!("[dns] servers: {error}")))
                };
                let mut forgetful = options.clone();
                forgetful.cache_size = 0;
                (Some(build(options)?), Some(build(forgetful)?))
            }
        };
        Ok(Validator {
            resolver,
            prober,
            is_required: dns.dnssec == Dnssec::Required,
            unsigned: dns.unsigned.iter().filter_map(|domain| name(domain)).collect(),
            has_proved: AtomicBool::new(false),
            proves: AtomicBool::new(false),
            proved_at: AtomicU64::new(0),
            has_news: Notify::new(),
            probed: Mutex::new(None),
        })
    }

    /// Whether the operator says that nothing is signed there.
    pub(super) fn is_exempt(&self, name: &Name) -> bool {
        self.unsigned.iter().any(|zone| zone.zone_of(name))
    }

    /// Asks now, and says when the root's keys were proved for the last time.
    pub(super) async fn look(&self) -> Option<u64> {
        self.resolver.as_ref()?;
        let mut probed = self.probed.lock().await;
        self.probe(&mut probed).await;
        self.proved_at()
    }

    /// Waits for the next look: an hour, unless they are proved meanwhile where
    /// somebody needed them.
    pub(super) async fn rest(&self) {
        let _ = timeout(LOOK_EVERY, self.has_news.notified()).await;
    }

    fn proved_at(&self) -> Option<u64> {
        Some(self.proved_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    pub(super) fn root_was_proved(&self, at: u64) {
        self.proved_at.store(at, Ordering::Relaxed);
    }

    pub(super) fn proofs(&self) -> Option<(bool, bool)> {
        let proves = self.proves.load(Ordering::Relaxed);
        self.resolver.as_ref().map(|_| (proves, self.is_demanded()))
    }

    /// Whether nothing is believed without proof, even where the resolver brings none.
    fn is_demanded(&self) -> bool {
        self.is_required || self.proved_at().is_some()
    }

    /// Whether what it says is to be believed, and nothing else.
    pub(super) async fn is_at_work(&self) -> bool {
        if self.resolver.is_none() {
            return false;
        }
        if self.has_proved.load(Ordering::Relaxed) {
            return true;
        }
        // Whoever comes meanwhile waits for the same answer.
        let mut probed = self.probed.lock().await;
        if self.has_proved.load(Ordering::Relaxed) {
            return true;
        }
        if probed.is_some_and(|at| at.elapsed() < PROBE_EVERY) {
            return self.is_demanded();
        }
        if self.probe(&mut probed).await {
            // Who records it hears of it.
            self.has_news.notify_one();
            return true;
        }
        self.is_demanded()
    }

    /// Whether the root's keys are proved now. The first result and each other one than
    /// before are told.
    async fn probe(&self, probed: &mut Option<Instant>) -> bool {
        let Some(prober) = &self.prober else { return false };
        let found = prober.lookup(Name::root(), RecordType::DNSKEY).await;
        let proves = found.is_ok_and(|found| {
            chain(&Name::root(), RecordType::DNSKEY, found.answers()).is_ok_and(|it| it.is_secure)
        });
        let is_first = probed.replace(Instant::now()).is_none();
        let did = self.proves.swap(proves, Ordering::Relaxed);
        if proves {
            self.proved_at.store(crate::operations::unix_now(), Ordering::Relaxed);
            self.has_proved.store(true, Ordering::Relaxed);
        }
        if proves && !did {
            tracing::info!(target: NOTICE, "DNSSEC: the root's keys are proved; answers about mail hosts are validated");
        } else if !proves && (is_first || did) {
            self.complain();
        }
        proves
    }

    fn complain(&self) {
        let mend =
            "use a resolver that hands out signatures (dns.servers), or set dns.dnssec = \"off\"";
        match self.proved_at.load(Ordering::Relaxed) {
            0 if self.is_required => tracing::error!(
                "DNSSEC: the resolver brings no proof of the root's keys, so mail for other hosts waits (dns.dnssec = \"required\"); {mend}"
            ),
            0 => tracing::warn!(
                "DNSSEC: the resolver brings no proof of the root's keys: nothing counts as proved, and DANE protects nobody; {mend}"
            ),
            at => {
                let at = crate::when::time_text(at * 1000);
                tracing::error!(
                    "DNSSEC: the resolver brings no proof of the root's keys, which were last proved on {at}, so mail for other hosts waits: \
                     somebody may be in between; {mend}"
                );
            }
        }
    }

    pub(super) async fn lookup(&self, name: Name, kind: RecordType) -> Result<Proven, Absent> {
        let Some(resolver) = &self.resolver else { return Err(Absent::Failed) };
        match resolver.lookup(name.clone(), kind).await {
            Ok(found) => chain(&name, kind, found.answers()),
            // Some servers leave the SOA out: then another record of that name may tell that
            // nothing is signed there.
            Err(error @ NetError::Dns(DnsError::NoRecordsFound(_)))
                if absent(&name, &error) == Absent::Bogus =>
            {
                let is_unsigned = self.is_unsigned(resolver, &name).await;
                Err(if is_unsigned { missing(&error).into() } else { Absent::Bogus })
            }
            Err(error) => Err(absent(&name, &error)),
        }
    }

    async fn is_unsigned(&self, resolver: &TokioResolver, name: &Name) -> bool {
        for kind in [RecordType::A, RecordType::AAAA] {
            let found = resolver.lookup(name.clone(), kind).await;
            let found = found.map(|found| chain(name, kind, found.answers()));
            if let Ok(Ok(Proven { is_secure: false, alias_is_secure: false, .. })) = found {
                return true;
            }
        }
        false
    }
}

/// The root's keys. Reads a file.
pub fn anchors(dns: &Dns) -> Result<TrustAnchors, ConfigError> {
    let Some(file) = &dns.trust_anchor else { return Ok(TrustAnchors::default()) };
    let fault = |what: &str| {
        let file = file.display();
        ConfigError(format!("dns.trust_anchor {file}: {what}; it holds DNSKEY records of the root"))
    };
    let anchors = TrustAnchors::from_file(file).map_err(|error| fault(&error.to_string()))?;
    if anchors.is_empty() { Err(fault("no key of the root is in it")) } else { Ok(anchors) }
}

/// The records of `kind` that `name` has, by itself or through aliases.
fn chain(name: &Name, kind: RecordType, answers: &[Record]) -> Result<Proven, Absent> {
    let (mut at, mut is_secure, mut alias_is_secure) = (name.clone(), true, false);
    for hop in 0..=ALIASES_MAX {
        let of = |kind: RecordType| {
            let at = &at;
            answers.iter().filter(move |one| one.record_type() == kind && one.name == *at)
        };
        let found: Vec<&Record> = of(kind).take(ANSWERS_MAX).collect();
        let is_there = !found.is_empty();
        let step: Vec<&Record> = if is_there { found } else { of(RecordType::CNAME).collect() };
        let proved = match step.iter().map(|one| one.proof).min_by_key(|proof| strength(*proof)) {
            // Records for another name than was asked for are none; hickory does not hand them out.
            None => return Err(Absent::Failed),
            Some(Proof::Secure) => true,
            Some(Proof::Insecure) => false,
            Some(Proof::Bogus | Proof::Indeterminate) => return Err(Absent::Bogus),
        };
        is_secure &= proved;
        if is_there {
            let records = step.into_iter().map(|one| one.data.clone()).collect();
            return Ok(Proven { records, is_secure, name: at, alias_is_secure });
        }
        if hop == 0 {
            alias_is_secure = proved;
        }
        match step.first().map(|one| &one.data) {
            Some(RData::CNAME(target)) => at = target.0.clone(),
            _ => return Err(Absent::Failed),
        }
    }
    Err(Absent::Failed)
}

fn strength(proof: Proof) -> u8 {
    match proof {
        Proof::Indeterminate => 0,
        Proof::Bogus => 1,
        Proof::Insecure => 2,
        Proof::Secure => 3,
    }
}

fn absent(name: &Name, error: &NetError) -> Absent {
    match error {
        NetError::Dns(DnsError::DnssecBogus) => Absent::Bogus,
        NetError::Dns(DnsError::Nsec { response, proof: Proof::Insecure, .. }) => {
            match response.response_code {
                ResponseCode::NXDomain => Absent::NoSuchName,
                ResponseCode::NoError => Absent::NoRecords,
                _ => Absent::Failed,
            }
        }
        NetError::Dns(DnsError::Nsec { .. }) => Absent::Bogus,
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            let authorities = none.authorities.as_deref().unwrap_or_default();
            // Behind an alias, the name that was asked for last.
            let asked = none.query.name();
            let asked = if asked.is_root() { name } else { asked };
            match missing(error) {
                Missing::Failed => Absent::Failed,
                _ if !is_denied(asked, authorities) => Absent::Bogus,
                said => said.into(),
            }
        }
        _ => Absent::Failed,
    }
}

/// Whether that a name has nothing is said by a zone that it is in; hickory has
/// proved what is secure.
fn is_denied(name: &Name, authorities: &[Record]) -> bool {
    authorities.iter().any(|one| match (&one.data, one.proof) {
        (RData::DNSSEC(DNSSECRData::NSEC(_) | DNSSECRData::NSEC3(_)), Proof::Secure) => true,
        (RData::SOA(_), Proof::Secure | Proof::Insecure) => one.name.zone_of(name),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, SOA};

    fn record(owner: &str, data: RData, proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner).unwrap(), 60, data);
        record.proof = proof;
        record
    }

    fn address(owner: &str, last: u8, proof: Proof) -> Record {
        record(owner, RData::A(A::new(192, 0, 2, last)), proof)
    }

    fn alias(owner: &str, to: &str, proof: Proof) -> Record {
        record(owner, RData::CNAME(CNAME(name(to).unwrap())), proof)
    }

    fn ask(answers: &[Record]) -> Result<(usize, bool, String, bool), Absent> {
        let found = chain(&name("a.test").unwrap(), RecordType::A, answers)?;
        Ok((found.records.len(), found.is_secure, found.name.to_ascii(), found.alias_is_secure))
    }

    #[test]
    fn an_answer_is_as_good_as_the_weakest_link_on_its_way() {
        use Proof::{Bogus, Indeterminate, Insecure, Secure};
        let at = |name: &str| name.to_owned();
        assert_eq!(ask(&[address("a.test", 1, Secure)]), Ok((1, true, at("a.test."), false)));
        assert_eq!(ask(&[address("a.test", 1, Insecure)]), Ok((1, false, at("a.test."), false)));
        for proof in [Bogus, Indeterminate] {
            assert_eq!(ask(&[address("a.test", 1, proof)]), Err(Absent::Bogus));
        }
        let mixed = [address("a.test", 1, Secure), address("a.test", 2, Bogus)];
        assert_eq!(ask(&mixed), Err(Absent::Bogus));
        for (first, last, all) in
            [(Secure, Secure, true), (Secure, Insecure, false), (Insecure, Secure, false)]
        {
            let answers = [alias("a.test", "b.test", first), address("b.test", 1, last)];
            assert_eq!(ask(&answers), Ok((1, all, at("b.test."), first == Secure)));
        }
    }

    #[test]
    fn records_of_others_change_nothing() {
        use Proof::{Insecure, Secure};
        let answers = [address("evil.test", 9, Insecure), address("a.test", 1, Secure)];
        assert_eq!(ask(&answers), Ok((1, true, "a.test.".to_owned(), false)));
        assert_eq!(ask(&[address("evil.test", 9, Insecure)]), Err(Absent::Failed));
    }

    #[test]
    fn aliases_in_a_circle_come_to_an_end() {
        let circle =
            [alias("a.test", "b.test", Proof::Secure), alias("b.test", "a.test", Proof::Secure)];
        assert_eq!(ask(&circle), Err(Absent::Failed));
    }

    fn validator(settings: &str) -> Validator {
        let dns: Dns = toml::from_str(settings).unwrap();
        let config = ResolverConfig::from_parts(None, vec![], vec![]);
        Validator::new(&dns, config, ResolverOpts::default()).unwrap()
    }

    #[test]
    fn where_the_operator_says_so_nothing_is_signed() {
        let validator = validator("unsigned = ['corp.test', 'internal']");
        for (of, exempt) in [
            ("corp.test", true),
            ("_25._tcp.MX.corp.Test", true),
            ("xcorp.test", false),
            ("test", false),
            ("a.internal", true),
        ] {
            assert_eq!(validator.is_exempt(&name(of).unwrap()), exempt, "{of}");
        }
    }

    #[test]
    fn what_was_proved_once_is_demanded() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // There is no server to ask.
            for (settings, was, is_at_work, proofs) in [
                ("", 0, false, Some((false, false))),
                ("", 5, true, Some((false, true))),
                ("dnssec = 'required'", 0, true, Some((false, true))),
                ("dnssec = 'off'", 5, false, None),
            ] {
                let validator = validator(settings);
                validator.root_was_proved(was);
                for _ in 0..2 {
                    assert_eq!(validator.is_at_work().await, is_at_work, "{settings} {was}");
                }
                assert_eq!(validator.proofs(), proofs);
            }
        });
    }

    #[test]
    fn the_last_look_is_what_is_shown_and_its_time_that_of_the_last_proof() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let validator = validator("");
            assert_eq!(validator.look().await, None);
            // As after a proof; there is no server to ask any more.
            validator.proves.store(true, Ordering::Relaxed);
            validator.has_proved.store(true, Ordering::Relaxed);
            validator.root_was_proved(5);
            assert_eq!(validator.proofs(), Some((true, true)));
            assert_eq!(validator.look().await, Some(5));
            assert_eq!(validator.proofs(), Some((false, true)));
            assert!(validator.is_at_work().await);
        });
    }

    #[test]
    fn only_a_zone_that_the_name_is_in_denies_it() {
        let soa = |owner: &str, proof| {
            let root = Name::root();
            record(owner, RData::SOA(SOA::new(root.clone(), root, 1, 1, 1, 1, 1)), proof)
        };
        let asked = name("_25._tcp.mx.a.test").unwrap();
        assert!(is_denied(&asked, &[soa("a.test", Proof::Insecure)]));
        assert!(is_denied(&asked, &[soa("test", Proof::Secure)]));
        assert!(!is_denied(&asked, &[soa("evil.test", Proof::Insecure)]));
        assert!(!is_denied(&asked, &[soa("a.test", Proof::Bogus)]));
        assert!(!is_denied(&asked, &[]));
    }
}
