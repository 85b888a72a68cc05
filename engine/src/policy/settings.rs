//! `[policy]` of the config file.

use crate::auth::settings::Network;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Clients in these networks are never kept out, counted, or looked up in lists.
    pub allow: Vec<Network>,
    /// Clients in these networks get no further than the greeting, on any service.
    pub deny: Vec<Network>,
    /// The same, in files with a network a line.
    pub allow_files: Vec<PathBuf>,
    pub deny_files: Vec<PathBuf>,
    /// So late strangers are greeted on `listen.smtp`, in milliseconds; 0: at once.
    pub greeting_delay_ms: u64,
    /// What follows for who speaks before that.
    pub early_talkers: EarlyTalkers,
    /// Addresses that nobody has reason to write to.
    pub honeypots: Vec<String>,
    /// What follows for a stranger who does.
    pub honeypot_action: HoneypotAction,
    /// For so long its address is kept from bringing mail; 0: it is not.
    pub honeypot_ban_seconds: u64,
    pub screening: Screening,
    pub greylist: Greylist,
    /// Lists in DNS that clients of `listen.smtp` are looked up in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_lists: Vec<DnsList>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            allow: Vec::new(),
            deny: Vec::new(),
            allow_files: Vec::new(),
            deny_files: Vec::new(),
            greeting_delay_ms: 0,
            early_talkers: EarlyTalkers::default(),
            honeypots: Vec::new(),
            honeypot_action: HoneypotAction::default(),
            honeypot_ban_seconds: 3600,
            screening: Screening::default(),
            greylist: Greylist::default(),
            dns_lists: Vec::new(),
        }
    }
}

/// Who speaks before the greeting is no mail server, or a broken one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyTalkers {
    /// 554, and the connection ends.
    #[default]
    Refuse,
    /// Its messages have the rule `EARLY_TALKER`.
    Mark,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoneypotAction {
    /// The recipient does not exist, and nothing else is taken in that session.
    #[default]
    Refuse,
    /// What the session brings from there on is junk, to whomever it is. The address must exist.
    Junk,
    /// And trains the classifier: whoever knows the address can teach it anything.
    Train,
}

/// How often within `window_seconds` one address may do something, before it is kept out for
/// `ban_seconds`; 0: as often as it likes. A network (/24, or /64 of IPv6) may four times as often.
///
/// Wrong passwords keep an address out of the services where one logs in, the others out of
/// `listen.smtp`. A large provider brings the mail of many from few addresses, bad and good, so
/// these are off unless the operator asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Screening {
    pub window_seconds: u64,
    pub ban_seconds: u64,
    /// Who has gone half-way to being kept out of `listen.smtp` gets each reply so late there, in
    /// seconds; 0: at once.
    pub tarpit_seconds: u64,
    /// Connections to `listen.smtp`.
    pub connections_max: u32,
    /// Wrong passwords, over all services together.
    pub failed_logins_max: u32,
    /// Recipients who do not exist.
    pub unknown_recipients_max: u32,
    /// Messages refused for what they are: spam, forgeries.
    pub refused_messages_max: u32,
}

impl Default for Screening {
    fn default() -> Self {
        Screening {
            window_seconds: 600,
            ban_seconds: 3600,
            tarpit_seconds: 0,
            connections_max: 0,
            // A phone with an old password tries twice a minute, and an office shares an address.
            failed_logins_max: 200,
            unknown_recipients_max: 0,
            refused_messages_max: 0,
        }
    }
}

/// Strangers whose mail is doubtful are asked to come again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Greylist {
    pub enabled: bool,
    /// Messages with less than this spam score are let through at once; so is what passes DMARC.
    pub from_score: f64,
    /// How long to wait at least, and until when to have come again.
    pub delay_seconds: u64,
    pub retry_seconds: u64,
    /// For so long a network that has come again is not asked any more.
    pub remember_seconds: u64,
}

impl Default for Greylist {
    fn default() -> Self {
        Greylist {
            enabled: false,
            from_score: 2.0,
            delay_seconds: 300,
            // Servers try for two days at least (RFC 5321 section 4.5.4.1 says four to five).
            retry_seconds: 2 * 86_400,
            remember_seconds: 36 * 86_400,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsList {
    /// Such as `zen.example.org`; a client at 192.0.2.1 is asked for as
    /// `1.2.0.192.zen.example.org`.
    pub zone: String,
    /// What being listed adds to a message's spam score; below 0 for an allow list.
    #[serde(default)]
    pub score: f64,
    /// Whether who is listed is refused at once.
    #[serde(default)]
    pub refuse: bool,
    /// Which answers mean that it is listed; lists say other things by other answers.
    #[serde(default = "any_answer")]
    pub answers: Vec<Network>,
}

/// 127.0.0.0/24; RFC 5782 has 127.0.0.2 for "listed". Lists use 127.255.255.x to say that they
/// refuse to answer.
fn any_answer() -> Vec<Network> {
    Network::try_from("127.0.0.0/24".to_owned()).into_iter().collect()
}

/// Lists that one client is looked up in.
const LISTS_MAX: usize = 16;
const HONEYPOTS_MAX: u64 = 1000;
/// Servers wait five minutes for a greeting (RFC 5321 section 4.5.3.2.1), impatient ones less.
const GREETING_DELAY_MS_MAX: u64 = 60_000;
/// Below what servers wait for any reply.
const TARPIT_SECONDS_MAX: u64 = 60;

impl Policy {
    /// What the types can't say: the key that is at fault, and words for the operator.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let (screening, greylist) = (&self.screening, &self.greylist);
        for (key, value, least, most) in [
            ("policy.screening.window_seconds", screening.window_seconds, 1, 86_400),
            ("policy.screening.ban_seconds", screening.ban_seconds, 1, 30 * 86_400),
            ("policy.screening.tarpit_seconds", screening.tarpit_seconds, 0, TARPIT_SECONDS_MAX),
            ("policy.greeting_delay_ms", self.greeting_delay_ms, 0, GREETING_DELAY_MS_MAX),
            ("policy.honeypots", self.honeypots.len() as u64, 0, HONEYPOTS_MAX),
            ("policy.honeypot_ban_seconds", self.honeypot_ban_seconds, 0, 30 * 86_400),
            ("policy.greylist.delay_seconds", greylist.delay_seconds, 1, 86_400),
            ("policy.greylist.retry_seconds", greylist.retry_seconds, 3600, 30 * 86_400),
            ("policy.greylist.remember_seconds", greylist.remember_seconds, 3600, 366 * 86_400),
            ("policy.dns_lists", self.dns_lists.len() as u64, 0, LISTS_MAX as u64),
        ] {
            if !(least..=most).contains(&value) {
                return Err((
                    key,
                    format!("{key} = {value} is out of range; use {least} to {most}"),
                ));
            }
        }
        for address in &self.honeypots {
            if crate::directory::canonical(address).as_ref() != Ok(address) {
                let what = format!(
                    "policy.honeypots: {address:?} is no address in lower case; write \"name@example.org\""
                );
                return Err(("policy.honeypots", what));
            }
        }
        for list in &self.dns_lists {
            let zone = &list.zone;
            if crate::auth::dkim::tags::domain(zone.as_bytes()).as_deref() != Some(zone.as_str()) {
                let what = format!("policy.dns_lists: zone {zone:?} is no domain in lower case");
                return Err(("policy.dns_lists", what));
            }
            if !(-100.0..=100.0).contains(&list.score) || (list.score == 0.0 && !list.refuse) {
                let what = format!(
                    "policy.dns_lists: {zone} needs a score of -100 to 100 other than 0, or refuse = true"
                );
                return Err(("policy.dns_lists", what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::screening::{Door, Offence};

    /// Nobody's mail is refused or delayed because of an upgrade.
    #[test]
    fn by_default_nothing_keeps_mail_out() {
        let Policy { deny, screening, honeypots, greeting_delay_ms, greylist, dns_lists, .. } =
            Policy::default();
        assert!(honeypots.is_empty() && greeting_delay_ms == 0 && screening.tarpit_seconds == 0);
        assert!(deny.is_empty() && dns_lists.is_empty() && !greylist.enabled);
        for offence in Offence::ALL.into_iter().filter(|offence| offence.door() == Door::Mail) {
            assert_eq!(offence.limit(&screening), 0, "{}", offence.name());
        }
    }

    #[test]
    fn a_list_without_consequence_or_without_a_name_is_named() {
        let with = |text: &str| toml::from_str::<Policy>(text).unwrap().check();
        assert_eq!(Policy::default().check(), Ok(()));
        assert_eq!(with("[[dns_lists]]\nzone = \"bl.test\"\nscore = 3.0"), Ok(()));
        assert_eq!(with("[[dns_lists]]\nzone = \"bl.test\"\nrefuse = true"), Ok(()));
        for wrong in [
            "[[dns_lists]]\nzone = \"bl.test\"",
            "[[dns_lists]]\nzone = \"BL test\"\nrefuse = true",
            "[[dns_lists]]\nzone = \"bl.test\"\nscore = 1e9",
            "[screening]\nwindow_seconds = 0",
            "[screening]\ntarpit_seconds = 61",
            "greeting_delay_ms = 60001",
            "honeypots = [\"trap\"]",
            "honeypots = [\"Trap@a.test\"]",
        ] {
            assert!(with(wrong).is_err(), "{wrong}");
        }
        assert!(toml::from_str::<Policy>("deny = [\"nonsense\"]").is_err());
    }
}
