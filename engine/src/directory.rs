//! Domains, accounts and aliases: who gets the mail for an address.
//!
//! The truth is a key space in shard 0's log; each core keeps a copy in memory, because RCPT must
//! be answered without leaving the core. Changes go through shard 0 alone (`operations.rs`), are
//! durable first, and are then told to every core.
//!
//! | key | value (JSON) |
//! |---|---|
//! | `d:DOMAIN` | [`Domain`] |
//! | `a:USER@DOMAIN` | [`Account`] |
//! | `k:DOMAIN` | [`DkimKeys`] |
//! | `l:USER@DOMAIN`, `l:@DOMAIN` (catch-all) | [`Alias`] |
//! | `h:USER@DOMAIN` | [`Held`], also after the account was removed |
//! | `q:NAME` | what this host signs with for itself ([`HostKey`]): `links` of digests, `srs` |
//! | `n:account` | the next account's number |

use crate::domain::keys::DkimKeys;
use crate::host_key::HostKey;
use crate::passwords::StoredPassword;
use crate::submission::settings::Limits;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use storage::{AccountId, Quota};
use unicode_normalization::UnicodeNormalization;

/// The directory's key space in the store.
pub const SPACE: storage::store::Space = storage::store::Space(1);
pub const NEXT_ACCOUNT_KEY: &[u8] = b"n:account";
/// Separates a user from a detail: `user+detail@domain` (RFC 5233).
const SUBADDRESS_SEPARATOR: char = '+';
/// An alias may name an alias, this many times.
const ALIAS_DEPTH_MAX: usize = 8;
/// RFC 5321 section 4.5.3.1.1.
const LOCAL_BYTES_MAX: usize = 64;
/// Domains that are asked for a postmaster.
const POSTMASTERS_TRIED_MAX: usize = 16;
/// Addresses that one alias may stand for, all told.
pub const ALIAS_TARGETS_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub created_unix: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub id: u32,
    /// Home shard: where the account's mailboxes live. Chosen at creation, recorded,
    /// never computed.
    pub shard: u16,
    pub password: StoredPassword,
    pub quota_bytes: Option<u64>,
    pub quota_messages: Option<u64>,
    pub created_unix: u64,
    /// What it may send, if that is not what everybody may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Whose mail it may send beside its own: it is another server, for which we are
    /// the smart host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_as: Option<SendAs>,
}

/// Senders that are not the account's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendAs {
    Any,
    Domains(BTreeSet<String>),
}

impl SendAs {
    fn covers(&self, address: &str) -> bool {
        let domain = || canonical_domain(address.rsplit_once('@')?.1);
        match self {
            SendAs::Any => true,
            SendAs::Domains(domains) => domain().is_some_and(|domain| domains.contains(&domain)),
        }
    }
}

impl Account {
    pub fn id(&self) -> AccountId {
        AccountId(self.id)
    }

    pub fn quota(&self) -> Quota {
        Quota { bytes_max: self.quota_bytes, messages_max: self.quota_messages }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    pub targets: Vec<String>,
}

/// An account of which nothing is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub id: u32,
    pub shard: u16,
    pub since_unix: u64,
    /// Accounts that had the address before and were removed, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forerunners: Vec<Held>,
}

impl Held {
    /// The newest first.
    pub fn all(&self) -> impl Iterator<Item = &Held> {
        std::iter::once(self).chain(self.forerunners.iter().rev())
    }
}

/// A key and its value, or `None` where the key was deleted.
pub type Pair = (Bytes, Option<Bytes>);

/// Where mail for an address goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    Local(Reached),
    /// The domain is ours, the user is not.
    NoSuchUser,
    /// Not our domain: relaying is denied here.
    NotOurs,
}

/// Who gets the mail for an address of ours: at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// One for each account concerned, without doubles.
    pub homes: BTreeSet<Home>,
    /// Addresses on other hosts that it is forwarded to.
    pub outside: BTreeSet<String>,
}

impl Reached {
    fn count(&self) -> usize {
        self.homes.len() + self.outside.len()
    }
}

/// An account to deliver to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    pub shard: u16,
    pub account: AccountId,
    /// The account's own address, after aliases.
    pub address: String,
}

#[derive(Debug, Default)]
pub struct Directory {
    domains: BTreeMap<String, Domain>,
    accounts: BTreeMap<String, Account>,
    aliases: BTreeMap<String, Alias>,
    holds: BTreeMap<String, Held>,
    /// Shared with those who sign, off the core.
    dkim: BTreeMap<String, Arc<DkimKeys>>,
    host_keys: BTreeMap<String, HostKey>,
}

impl Directory {
    /// Takes in pairs, from the log at start or from shard 0 after a change. A value that does not
    /// parse is reported by key and left out.
    pub fn apply(&mut self, pairs: &[Pair]) -> Vec<String> {
        let mut unreadable = Vec::new();
        for (key, value) in pairs {
            let Ok(key) = std::str::from_utf8(key) else {
                unreadable.push(format!("{key:?}"));
                continue;
            };
            let value = value.as_deref();
            let fine = match key.split_at_checked(2) {
                Some(("d:", name)) => set(&mut self.domains, name, value),
                Some(("a:", name)) => set(&mut self.accounts, name, value),
                Some(("l:", name)) => set(&mut self.aliases, name, value),
                Some(("h:", name)) => set(&mut self.holds, name, value),
                Some(("k:", name)) => set_with(&mut self.dkim, name, value, Arc::new),
                Some(("q:", name)) => set(&mut self.host_keys, name, value),
                Some(("n:", _)) => true,
                _ => false,
            };
            if !fine {
                unreadable.push(key.to_owned());
            }
        }
        unreadable
    }

    /// Who gets mail for `address`.
    pub fn resolve(&self, address: &str) -> Resolution {
        let domain = address.rsplit_once('@').and_then(|(_, domain)| canonical_domain(domain));
        if !domain.is_some_and(|domain| self.domains.contains_key(&domain)) {
            return Resolution::NotOurs;
        }
        let Ok(address) = canonical(address) else { return Resolution::NoSuchUser };
        let mut reached = Reached::default();
        self.expand(&address, 0, &mut reached);
        if reached.count() == 0 { Resolution::NoSuchUser } else { Resolution::Local(reached) }
    }

    /// Who gets what is sent to a name of the domain that nobody has.
    pub fn catch_all(&self, domain: &str) -> Reached {
        let mut reached = Reached::default();
        self.expand_named(&format!("@{domain}"), 0, &mut reached);
        reached
    }

    fn expand(&self, address: &str, depth: usize, reached: &mut Reached) {
        if depth > ALIAS_DEPTH_MAX || reached.count() >= ALIAS_TARGETS_MAX {
            return;
        }
        if let Some(account) = self.accounts.get(address) {
            reached.homes.insert(Home {
                shard: account.shard,
                account: account.id(),
                address: address.to_owned(),
            });
            return;
        }
        if let Some(alias) = self.aliases.get(address) {
            for target in &alias.targets {
                self.expand(target, depth + 1, reached);
            }
            return;
        }
        let Some((user, domain)) = address.rsplit_once('@') else { return };
        if !self.domains.contains_key(domain) {
            reached.outside.insert(address.to_owned());
            return;
        }
        if let Some((user, _detail)) = user.split_once(SUBADDRESS_SEPARATOR)
            && !user.is_empty()
        {
            let before = reached.count();
            self.expand_named(&format!("{user}@{domain}"), depth, reached);
            if reached.count() > before {
                return;
            }
        }
        self.expand_named(&format!("@{domain}"), depth, reached);
    }

    /// Only what is named outright: no subaddress, no catch-all.
    fn expand_named(&self, address: &str, depth: usize, reached: &mut Reached) {
        if self.accounts.contains_key(address) || self.aliases.contains_key(address) {
            self.expand(address, depth + 1, reached);
        }
    }

    /// The first domain whose `postmaster@` reaches somebody who is meant: `own` before the others,
    /// of which some are looked at.
    pub fn postmaster_domain<'d>(
        &'d self,
        own: Option<&'d str>,
        is_meant: impl Fn(&Reached) -> bool,
    ) -> Option<&'d str> {
        let others = self.domains.keys().map(String::as_str).take(POSTMASTERS_TRIED_MAX);
        own.into_iter().chain(others).find(|domain| {
            match self.resolve(&format!("postmaster@{domain}")) {
                Resolution::Local(reached) => is_meant(&reached),
                Resolution::NoSuchUser | Resolution::NotOurs => false,
            }
        })
    }

    /// The account that logs in as `user`: its address, in any case.
    pub fn login(&self, user: &str) -> Option<(&str, &Account)> {
        let address = canonical(user).ok()?;
        self.accounts.get_key_value(&address).map(|(name, account)| (name.as_str(), account))
    }

    /// RFC 6409 section 6.1: who has logged in sends as themselves, as an alias that reaches them,
    /// or as whom the operator says.
    pub fn may_send_as(&self, user: &str, address: &str) -> bool {
        let Some((_, account)) = self.login(user) else { return false };
        if account.send_as.as_ref().is_some_and(|send_as| send_as.covers(address)) {
            return true;
        }
        match self.resolve(address) {
            Resolution::Local(reached) => {
                reached.homes.iter().any(|home| home.account == account.id())
            }
            Resolution::NoSuchUser | Resolution::NotOurs => false,
        }
    }

    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.get(name)
    }

    pub fn dkim(&self, domain: &str) -> Option<&Arc<DkimKeys>> {
        self.dkim.get(domain)
    }

    /// `None`: none of that name has been made yet.
    pub fn host_key(&self, name: &str) -> Option<&HostKey> {
        self.host_keys.get(name)
    }

    pub fn account(&self, address: &str) -> Option<&Account> {
        self.accounts.get(address)
    }

    pub fn alias(&self, address: &str) -> Option<&Alias> {
        self.aliases.get(address)
    }

    /// Accounts on hold that have or had the address, the newest first.
    pub fn held(&self, address: &str) -> impl Iterator<Item = &Held> {
        self.holds.get(address).into_iter().flat_map(Held::all)
    }

    pub fn holds(&self) -> impl Iterator<Item = (&String, &Held)> {
        self.holds.iter().flat_map(|(address, held)| held.all().map(move |one| (address, one)))
    }

    pub fn domains(&self) -> impl Iterator<Item = (&String, &Domain)> {
        self.domains.iter()
    }

    pub fn accounts(&self) -> impl Iterator<Item = (&String, &Account)> {
        self.accounts.iter()
    }

    pub fn aliases(&self) -> impl Iterator<Item = (&String, &Alias)> {
        self.aliases.iter()
    }

    /// The home shard with the fewest accounts, the lowest number among equals.
    pub fn emptiest_shard(&self, shards: u16) -> u16 {
        let mut counts = vec![0_u64; usize::from(shards.max(1))];
        for account in self.accounts.values() {
            if let Some(count) = counts.get_mut(usize::from(account.shard)) {
                *count += 1;
            }
        }
        let fewest = counts.iter().enumerate().min_by_key(|&(shard, &count)| (count, shard));
        fewest.map_or(0, |(shard, _)| u16::try_from(shard).unwrap_or(0))
    }
}

fn set<T: serde::de::DeserializeOwned>(
    map: &mut BTreeMap<String, T>,
    name: &str,
    value: Option<&[u8]>,
) -> bool {
    set_with(map, name, value, |value: T| value)
}

fn set_with<T: serde::de::DeserializeOwned, U>(
    map: &mut BTreeMap<String, U>,
    name: &str,
    value: Option<&[u8]>,
    kept: impl FnOnce(T) -> U,
) -> bool {
    let Some(value) = value else {
        map.remove(name);
        return true;
    };
    match serde_json::from_slice(value) {
        Ok(value) => {
            map.insert(name.to_owned(), kept(value));
            true
        }
        Err(_) => false,
    }
}

/// What stands for an address everywhere, so that RCPT, a login and an operator's command mean the
/// same one however it is written: the domain as DNS has it (A-labels, lower case; RFC 5890), the
/// local part in lower case and NFC. RFC 5321 leaves the local part's case to the receiving host,
/// and no mail user expects `Bob` and `bob` to be two people. The error continues "`ADDRESS` …".
pub fn canonical(address: &str) -> Result<String, &'static str> {
    let (user, domain) =
        address.rsplit_once('@').ok_or("is no mail address; write it like user@example.org")?;
    let domain =
        canonical_domain(domain).ok_or("has no valid domain; write it like user@example.org")?;
    // ASCII is NFC as it is.
    let user: String = if user.is_ascii() {
        user.to_ascii_lowercase()
    } else {
        user.nfc().collect::<String>().to_lowercase().nfc().collect()
    };
    if user.is_empty() || user.len() > LOCAL_BYTES_MAX {
        return Err("has no local part of 1 to 64 bytes; write it like user@example.org");
    }
    let address = format!("{user}@{domain}");
    match protocols::Address::parse(address.as_bytes()) {
        // Reads back as it is: no quotes, and none are missing.
        Some(parsed) if parsed.as_str() == address && parsed.to_string() == address => Ok(address),
        Some(_) | None => Err("would need quotes; use letters, digits and .-_ before the @"),
    }
}

/// An address on another host, as an alias names it: the domain as DNS has it, the local part as it
/// is written, since what that means is the other host's business.
pub fn outside(address: &str) -> Option<String> {
    let address = protocols::Address::parse(address.as_bytes())?;
    let domain = canonical_domain(address.domain())?;
    let plain = format!("{}@{domain}", address.local());
    let again = protocols::Address::parse(plain.as_bytes())?;
    (again.as_str() == plain && again.to_string() == plain).then_some(plain)
}

/// A mail domain as DNS has it: A-labels, lower case. `None`: it can't be one.
pub fn canonical_domain(name: &str) -> Option<String> {
    let ascii = idna::domain_to_ascii_strict(name).ok()?;
    let named = !ascii.is_empty() && ascii.parse::<std::net::Ipv4Addr>().is_err();
    named.then_some(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passwords::ScramKeys;

    fn directory() -> Directory {
        let mut directory = Directory::default();
        directory.domains.insert("example.test".into(), Domain { created_unix: 0 });
        for (id, user) in [(1, "ann"), (2, "bob")] {
            let scram = ScramKeys::nobody(user, &[0; 32]);
            let account = Account {
                id,
                shard: u16::try_from(id % 2).unwrap(),
                password: StoredPassword { argon2id: String::new(), scram },
                quota_bytes: None,
                quota_messages: None,
                created_unix: 0,
                limits: None,
                send_as: None,
            };
            directory.accounts.insert(format!("{user}@example.test"), account);
        }
        let alias =
            |targets: &[&str]| Alias { targets: targets.iter().map(|&t| t.into()).collect() };
        directory
            .aliases
            .insert("all@example.test".into(), alias(&["ann@example.test", "bob@example.test"]));
        directory.aliases.insert("loop@example.test".into(), alias(&["loop@example.test"]));
        directory
    }

    fn homes(resolution: Resolution) -> Vec<u32> {
        match resolution {
            Resolution::Local(Reached { homes, .. }) => {
                let mut ids: Vec<u32> = homes.iter().map(|home| home.account.0).collect();
                ids.sort_unstable();
                ids
            }
            Resolution::NoSuchUser | Resolution::NotOurs => vec![],
        }
    }

    #[test]
    fn addresses_resolve() {
        let directory = directory();
        assert_eq!(homes(directory.resolve("Ann@Example.TEST")), [1]);
        assert_eq!(homes(directory.resolve("ann+lists@example.test")), [1]);
        assert_eq!(homes(directory.resolve("all@example.test")), [1, 2]);
        assert_eq!(directory.resolve("carl@example.test"), Resolution::NoSuchUser);
        assert_eq!(directory.resolve("loop@example.test"), Resolution::NoSuchUser);
        assert_eq!(directory.resolve("ann@example.org"), Resolution::NotOurs);
    }

    #[test]
    fn the_postmaster_is_the_first_domains_that_has_one_or_ones_own() {
        let mut directory = directory();
        for domain in ["a.test", "z.test"] {
            directory.domains.insert(domain.into(), Domain { created_unix: 0 });
        }
        let any = |directory: &Directory, own: Option<&'static str>| {
            directory.postmaster_domain(own, |_| true).map(str::to_owned)
        };
        assert_eq!(any(&directory, None), None);
        for domain in ["example.test", "z.test"] {
            let targets = vec!["ann@example.test".to_owned()];
            directory.aliases.insert(format!("postmaster@{domain}"), Alias { targets });
        }
        assert_eq!(any(&directory, None).as_deref(), Some("example.test"));
        assert_eq!(any(&directory, Some("z.test")).as_deref(), Some("z.test"));
        assert_eq!(any(&directory, Some("a.test")).as_deref(), Some("example.test"));
        let somebody_else =
            |reached: &Reached| !reached.homes.iter().any(|home| home.account.0 == 1);
        assert_eq!(directory.postmaster_domain(None, somebody_else), None);
    }

    #[test]
    fn an_account_sends_as_itself_and_as_whom_the_operator_says() {
        let mut directory = directory();
        let may = |directory: &Directory| {
            let senders = ["ann+x@example.test", "all@example.test", "bob@example.test"];
            let senders = senders.into_iter().chain(["x@Inner.test", "x@a.inner.test"]);
            senders.map(|one| directory.may_send_as("Ann@example.test", one)).collect::<Vec<_>>()
        };
        let set = |directory: &mut Directory, send_as| {
            directory.accounts.get_mut("ann@example.test").unwrap().send_as = send_as;
        };
        assert_eq!(may(&directory), [true, true, false, false, false]);
        set(&mut directory, Some(SendAs::Domains(["inner.test".to_owned()].into())));
        assert_eq!(may(&directory), [true, true, false, true, false]);
        set(&mut directory, Some(SendAs::Any));
        assert_eq!(may(&directory), [true; 5]);
        assert!(!directory.may_send_as("nobody@example.test", "x@inner.test"));
    }

    #[test]
    fn an_address_has_one_form_however_it_is_written() {
        let one = "j\u{fc}rgen@xn--mnchen-3ya.test";
        for form in [
            one,
            "J\u{dc}RGEN@M\u{fc}nchen.TEST",
            "ju\u{308}rgen@mu\u{308}nchen.test",
            "JU\u{308}rgen@XN--MNCHEN-3YA.test",
        ] {
            assert_eq!(canonical(form).as_deref(), Ok(one), "{form}");
        }
        assert_eq!(canonical_domain("M\u{fc}nchen.test").as_deref(), Some("xn--mnchen-3ya.test"));
        let mut directory = directory();
        directory.domains.insert("xn--mnchen-3ya.test".into(), Domain { created_unix: 0 });
        let targets = vec!["ann@example.test".to_owned()];
        directory.aliases.insert(one.into(), Alias { targets });
        assert_eq!(homes(directory.resolve("ju\u{308}rgen@m\u{fc}nchen.test")), [1]);
    }

    #[test]
    fn what_can_be_no_address_here_is_refused_with_a_reason() {
        for odd in
            ["a b@example.test", "\"a\"@example.test", "a..b@example.test", "a@b@example.test"]
        {
            assert!(canonical(odd).unwrap_err().contains("quotes"), "{odd}");
        }
        for odd in [
            "",
            "a",
            "@example.test",
            "a@",
            "a@-x.test",
            "a@x-.test",
            "a@x..test",
            "a@x.test.",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@x_y.test",
            "a@xn--a.test",
        ] {
            assert!(canonical(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_catch_all_takes_the_rest_only() {
        let mut directory = directory();
        let targets = vec!["bob@example.test".to_owned()];
        directory.aliases.insert("@example.test".into(), Alias { targets });
        assert_eq!(homes(directory.resolve("anyone@example.test")), [2]);
        assert_eq!(homes(directory.resolve("ann@example.test")), [1]);
    }

    #[test]
    fn an_alias_may_lead_to_other_hosts() {
        let mut directory = directory();
        let alias =
            |targets: &[&str]| Alias { targets: targets.iter().map(|&t| t.into()).collect() };
        let mut set = |name: &str, targets| {
            directory.aliases.insert(name.to_owned(), alias(targets));
        };
        set("info@example.test", &["Some.One@else.test", "ann@example.test", "out@example.test"]);
        set("out@example.test", &["x@else.test", "gone@example.test"]);
        let of = |address: &str| match directory.resolve(address) {
            Resolution::Local(reached) => (reached.homes.len(), Vec::from_iter(reached.outside)),
            other => panic!("{other:?}"),
        };
        let [one, x] = ["Some.One@else.test", "x@else.test"].map(str::to_owned);
        assert_eq!(of("Info+a@example.test"), (1, vec![one, x.clone()]));
        assert_eq!(of("out@example.test"), (0, vec![x]));
        assert_eq!(directory.resolve("x@else.test"), Resolution::NotOurs);
    }

    #[test]
    fn an_unreadable_value_is_named() {
        let mut directory = Directory::default();
        let pairs = [
            (Bytes::from("a:x@y"), Some(Bytes::from("{"))),
            (Bytes::from("d:y"), Some(Bytes::from("{\"created_unix\":1}"))),
        ];
        assert_eq!(directory.apply(&pairs), ["a:x@y"]);
        assert!(directory.domain("y").is_some());
    }
}
