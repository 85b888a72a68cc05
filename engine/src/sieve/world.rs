//! What a run may ask: the account's mailboxes, marks and addresses, the host.

use super::compiled::Compiled;
use super::{SystemScripts, marks};
use crate::delivery::{Envelope, To};
use crate::directory::{Reached, Resolution};
use crate::filter::senders::Decision;
use crate::shard::Shard;
use protocols::sieve::{Include, Location, Missing, Script, World};
use storage::{MailboxInfo, SpecialUse};

#[derive(Debug)]
pub struct AccountWorld<'a> {
    pub shard: &'a Shard,
    pub to: &'a To,
    pub envelope: &'a Envelope,
    pub decision: &'a Decision,
    pub compiled: &'a Compiled,
    pub system: &'a SystemScripts,
    pub unix_seconds: u64,
}

/// RFC 6154 section 2.
pub fn special_use(attribute: &str) -> Option<SpecialUse> {
    let known = [
        ("\\Archive", SpecialUse::Archive),
        ("\\Drafts", SpecialUse::Drafts),
        ("\\Flagged", SpecialUse::Flagged),
        ("\\Junk", SpecialUse::Junk),
        ("\\Sent", SpecialUse::Sent),
        ("\\Trash", SpecialUse::Trash),
    ];
    let found = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    found.map(|(_, special_use)| *special_use)
}

impl AccountWorld<'_> {
    fn named(&self, mailbox: &str) -> Option<MailboxInfo> {
        let found = self.shard.store.mailbox_named(self.to.home.account, mailbox);
        // RFC 5490 section 3.1: that the user can file into.
        found.ok().filter(|info| !info.read_only)
    }
}

impl World for AccountWorld<'_> {
    fn script(&self, include: &Include) -> Result<&Script, Missing> {
        match include.location {
            Location::Personal => self.compiled.personal(&include.name),
            Location::Global => {
                self.system.global(&include.name).map(AsRef::as_ref).ok_or(Missing::NotFound)
            }
        }
    }

    fn mailbox_exists(&self, mailbox: &str) -> bool {
        self.named(mailbox).is_some()
    }

    fn special_use_exists(&self, mailbox: Option<&str>, attribute: &str) -> bool {
        let Some(wanted) = special_use(attribute) else { return false };
        match mailbox {
            Some(name) => self.named(name).is_some_and(|info| info.special_use == Some(wanted)),
            None => {
                let all = self.shard.store.mailboxes(self.to.home.account).unwrap_or_default();
                all.iter().any(|info| info.special_use == Some(wanted) && !info.read_only)
            }
        }
    }

    fn is_duplicate(&self, key: &[u8; 32]) -> bool {
        let (account, kind) = (self.to.home.account, marks::Kind::Duplicate);
        marks::is_set(self.shard, account, kind, key, self.unix_seconds)
    }

    fn unix_seconds(&self) -> i64 {
        i64::try_from(self.unix_seconds).unwrap_or(i64::MAX)
    }

    /// What reaches this account and nobody else: a list's address is not its members' own.
    fn is_own_address(&self, address: &str) -> bool {
        match self.shard.directory.borrow().resolve(address) {
            Resolution::Local(Reached { homes, outside }) => {
                outside.is_empty()
                    && homes.len() == 1
                    && homes.iter().all(|home| home.account == self.to.home.account)
            }
            Resolution::NoSuchUser | Resolution::NotOurs => false,
        }
    }

    fn spam_percent(&self) -> Option<u8> {
        self.decision.percent.or(self.envelope.judged.spam_percent)
    }

    fn virus(&self) -> Option<u8> {
        self.envelope.judged.virus
    }

    fn environment(&self, item: &str) -> Option<String> {
        let hostname = &self.shard.config.hostname;
        match item {
            "domain" => Some(hostname.split_once('.').map_or("", |(_, domain)| domain).to_owned()),
            "host" => Some(hostname.clone()),
            "location" => Some("MDA".to_owned()),
            "name" => Some("Kura".to_owned()),
            "phase" => Some("during".to_owned()),
            "remote-ip" => self.envelope.peer.map(|peer| peer.to_canonical().to_string()),
            "version" => Some(env!("CARGO_PKG_VERSION").to_owned()),
            _ => None,
        }
    }
}
