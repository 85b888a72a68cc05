//! Does the same message come to many from many places at once? Viruses and spam do that hours
//! before anybody has a signature for them.
//!
//! A message is known by a few [`fingerprint`]s, which stay the same under small edits. How often
//! each of them has come, from how many networks and senders and to how many recipients, is counted
//! in one [`table`] for all cores, which the control plane keeps. The first messages of an outbreak
//! are not held up: that is the price of knowing nothing beforehand.
//!
//! Off until thresholds are set: how many alike are too many depends on how much mail a host gets,
//! and a threshold that is right for a provider files every circular of a school as junk.

pub mod fingerprint;
pub mod table;

use super::settings::Action;
use serde::{Deserialize, Serialize};
use table::Counts;

/// Of a message's fingerprints so many have to be frequent: one alone may be shared by chance.
const AGREEING_MIN: usize = 2;

/// `[scan.outbreak]` of the config file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outbreak {
    /// So many messages alike within the window; 0 switches it off.
    pub messages_min: u32,
    /// From so many different networks (/24, or /48 of IPv6).
    pub networks_min: u32,
    /// With so many different domains in MAIL FROM.
    pub senders_min: u32,
    /// To so many recipients, each counted as often as it is written to.
    pub recipients_min: u32,
    /// What follows: `mark`, `junk` or `quarantine`. To defer would feed itself, since each try
    /// counts as one more of its like.
    pub action: Action,
    pub window_seconds: u64,
    /// Fingerprints counted; a message has six for its text, and six for each attachment.
    pub entries_max: u64,
    /// Who sends much alike by right: domains whose DKIM signature has to pass.
    pub trusted_domains: Vec<String>,
}

impl Default for Outbreak {
    fn default() -> Self {
        Outbreak {
            messages_min: 0,
            networks_min: 3,
            senders_min: 1,
            recipients_min: 1,
            action: Action::Junk,
            window_seconds: 3600,
            entries_max: 400_000,
            trusted_domains: Vec::new(),
        }
    }
}

impl Outbreak {
    pub fn is_on(&self) -> bool {
        self.messages_min > 0
    }

    /// The largest counts, if enough fingerprints are over every threshold.
    pub fn judge(&self, counts: &[Counts]) -> Option<Counts> {
        let frequent = |counts: &&Counts| {
            counts.messages >= self.messages_min
                && counts.recipients >= self.recipients_min
                && counts.networks() >= self.networks_min
                && counts.senders() >= self.senders_min
        };
        let frequent: Vec<&Counts> = counts.iter().filter(frequent).collect();
        let enough = frequent.len() >= AGREEING_MIN;
        enough.then(|| frequent.into_iter().max_by_key(|counts| counts.messages)).flatten().copied()
    }

    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let distinct = table::DISTINCT_MAX;
        for (key, value, least, most) in [
            ("scan.outbreak.networks_min", u64::from(self.networks_min), 1, distinct),
            ("scan.outbreak.senders_min", u64::from(self.senders_min), 1, distinct),
            ("scan.outbreak.window_seconds", self.window_seconds, 10, 86_400),
            ("scan.outbreak.entries_max", self.entries_max, 1000, 50_000_000),
        ] {
            if !(least..=most).contains(&value) {
                let what = format!("{key} = {value} is out of range; use {least} to {most}");
                return Err((key, what));
            }
        }
        let key = "scan.outbreak.action";
        if !matches!(self.action, Action::Mark | Action::Junk | Action::Quarantine) {
            let name = self.action.name();
            let what = format!(
                "{key} = {name:?}: what is alike may be harmless; use one of mark, junk, quarantine"
            );
            return Err((key, what));
        }
        let key = "scan.outbreak.trusted_domains";
        for domain in &self.trusted_domains {
            if crate::auth::dkim::tags::domain(domain.as_bytes()).as_deref() != Some(domain) {
                return Err((
                    key,
                    format!("{key}: {domain:?} is no domain in lower case (A-labels)"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_threshold_has_to_be_passed_by_two_fingerprints() {
        let rules = Outbreak { messages_min: 10, recipients_min: 20, ..Outbreak::default() };
        let many = Counts { messages: 10, recipients: 20, networks: 0b111, senders: 1 };
        assert_eq!(rules.judge(&[many, many]), Some(many));
        assert_eq!(rules.judge(&[many]), None);
        for few in [
            Counts { messages: 9, ..many },
            Counts { recipients: 19, ..many },
            Counts { networks: 0b11, ..many },
            Counts { senders: 0, ..many },
        ] {
            assert_eq!(rules.judge(&[many, few]), None, "{few:?}");
        }
    }

    #[test]
    fn nothing_is_on_until_a_threshold_is_set_and_mistakes_are_told() {
        assert!(!Outbreak::default().is_on());
        assert_eq!(Outbreak::default().check(), Ok(()));
        for wrong in [
            Outbreak { networks_min: 1000, ..Outbreak::default() },
            Outbreak { action: Action::Reject, ..Outbreak::default() },
            Outbreak { action: Action::Defer, ..Outbreak::default() },
            Outbreak { trusted_domains: vec!["News.test".to_owned()], ..Outbreak::default() },
        ] {
            assert!(wrong.check().is_err());
        }
    }
}
