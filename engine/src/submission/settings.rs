//! `[submission]` of the config file: what an account may send, and when.

use crate::domain::keys::SIGNATURE_SECONDS;
use crate::relay::settings::Relay;
use crate::when::Span;
use protocols::smtp::FutureRelease;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What one account may send; 0: as much as it likes. An account may have its own
/// (`kura account limits`). What its scripts send to other hosts is counted apart, up to the same
/// numbers: strangers, who cause it, can't use up what its owner may send.
///
/// The defaults are far beyond a person, so that they only stop what runs away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Submission {
    pub messages_per_hour: u32,
    pub messages_per_day: u32,
    /// Those of one message count each for one.
    pub recipients_per_hour: u32,
    pub recipients_per_day: u32,
    /// How long messages may wait here for the time that their sender wants (RFC 4865); 0: not at
    /// all. Together with `relay.expire` it is three weeks less a day at the most, since signatures
    /// are good for so long.
    pub release_within: Span,
    /// How much of an account's mail may wait here because it is left for later, or on hold: in no
    /// quota, and durable.
    pub waiting_bytes_max: u64,
    pub hijack: Hijack,
}

/// What follows for an account that sends as if somebody else had its password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The operator is told, and what it sends waits until it is released.
    #[default]
    Hold,
    /// The operator is told.
    Tell,
    /// Nobody looks.
    Off,
}

/// How much is too much, within an hour; 0: such a rule is off. [`super::hijack`] has the rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hijack {
    pub action: Action,
    /// So long an account has to have sent before it is measured by its past.
    pub past: Span,
    /// More recipients than these, and so many times the most of any hour before.
    pub recipients_per_hour: u32,
    /// The same for those whom it has not written to before. Needs `spam.written_to`,
    /// which remembers them.
    pub strangers_per_hour: u32,
    pub times_usual: u32,
    /// Recipients that are refused for good, if they are a third of all.
    pub refused_per_hour: u32,
    /// Networks (/16, or /32 of IPv6) that messages come from, and three times the most of
    /// any hour before.
    pub networks_per_hour: u32,
    /// The same for addresses in From that are not the account's, of what leaves.
    pub authors_per_hour: u32,
}

impl Default for Hijack {
    fn default() -> Self {
        Hijack {
            action: Action::Hold,
            // Nobody's mail is held because of an upgrade.
            past: Span(Duration::from_secs(7 * 86_400)),
            recipients_per_hour: 500,
            strangers_per_hour: 300,
            times_usual: 10,
            refused_per_hour: 50,
            networks_per_hour: 10,
            authors_per_hour: 10,
        }
    }
}

impl Default for Submission {
    fn default() -> Self {
        Submission {
            messages_per_hour: 1000,
            messages_per_day: 5000,
            recipients_per_hour: 5000,
            recipients_per_day: 20_000,
            release_within: Span(Duration::from_secs(14 * 86_400)),
            waiting_bytes_max: 1 << 30,
            hijack: Hijack::default(),
        }
    }
}

impl Submission {
    /// What is offered to who leaves messages for later.
    pub fn future_release(&self, relay: &Relay, now: u64) -> Option<FutureRelease> {
        let signed = SIGNATURE_SECONDS - 86_400;
        let most = signed.saturating_sub(relay.expire.0.as_secs());
        let seconds_max = self.release_within.0.as_secs().min(most);
        (seconds_max > 0).then_some(FutureRelease { seconds_max, latest: now + seconds_max })
    }

    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        let hijack = &self.hijack;
        if !(1..=1000).contains(&hijack.times_usual) {
            let what = format!(
                "submission.hijack.times_usual = {} is out of range; use 1 to 1000",
                hijack.times_usual
            );
            return Err(("submission.hijack.times_usual", what));
        }
        if hijack.past.0 > Duration::from_secs(366 * 86_400) {
            let what = format!(
                "submission.hijack.past = {:?} is out of range; use 0 to 366d",
                hijack.past.text()
            );
            return Err(("submission.hijack.past", what));
        }
        if self.release_within.0.as_secs() > SIGNATURE_SECONDS - 86_400 {
            let what = format!(
                "submission.release_within = {:?} is out of range; use 0 to {}",
                self.release_within.text(),
                Span(Duration::from_secs(SIGNATURE_SECONDS - 86_400)).text()
            );
            return Err(("submission.release_within", what));
        }
        Ok(())
    }

    pub fn limits(&self) -> Limits {
        let Submission { messages_per_hour, messages_per_day, .. } = *self;
        let Submission { recipients_per_hour, recipients_per_day, .. } = *self;
        Limits { messages_per_hour, messages_per_day, recipients_per_hour, recipients_per_day }
    }
}

/// The same, as the directory has it of one account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub messages_per_hour: u32,
    pub messages_per_day: u32,
    pub recipients_per_hour: u32,
    pub recipients_per_day: u32,
}

/// What an operator says of an account's limits; nothing: they stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsChange {
    /// Everybody's from now on.
    pub usual: bool,
    pub messages_per_hour: Option<u32>,
    pub messages_per_day: Option<u32>,
    pub recipients_per_hour: Option<u32>,
    pub recipients_per_day: Option<u32>,
}

impl LimitsChange {
    /// From an account's own limits, if it had any, to those that it has; `now` are
    /// those that hold.
    pub fn apply(&self, own: Option<Limits>, now: Limits) -> Option<Limits> {
        if self.usual {
            return None;
        }
        let after = Limits {
            messages_per_hour: self.messages_per_hour.unwrap_or(now.messages_per_hour),
            messages_per_day: self.messages_per_day.unwrap_or(now.messages_per_day),
            recipients_per_hour: self.recipients_per_hour.unwrap_or(now.recipients_per_hour),
            recipients_per_day: self.recipients_per_day.unwrap_or(now.recipients_per_day),
        };
        if *self == LimitsChange::default() { own } else { Some(after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |text: &str| toml::from_str::<Submission>(text).unwrap().check();
        assert_eq!(Submission::default().check(), Ok(()));
        for (text, key) in [
            ("[hijack]\ntimes_usual = 0", "submission.hijack.times_usual"),
            ("[hijack]\npast = '400d'", "submission.hijack.past"),
            ("release_within = '30d'", "submission.release_within"),
        ] {
            assert_eq!(check(text).unwrap_err().0, key, "{text}");
        }
        assert!(toml::from_str::<Submission>("[hijack]\naction = 'delete'").is_err());
    }

    #[test]
    fn what_is_left_for_later_leaves_before_its_signature_expires() {
        let relay =
            |expire: &str| Relay { expire: Span::parse(expire).unwrap(), ..Relay::default() };
        let offered = |text: &str, expire: &str| {
            let submission: Submission = toml::from_str(text).unwrap();
            submission.future_release(&relay(expire), 1000)
        };
        let most = |seconds_max| Some(FutureRelease { seconds_max, latest: 1000 + seconds_max });
        assert_eq!(offered("", "5d"), most(14 * 86_400));
        assert_eq!(offered("", "10d"), most(10 * 86_400));
        assert_eq!(offered("", "20d"), None);
        assert_eq!(offered("release_within = '0'", "5d"), None);
    }

    #[test]
    fn what_is_not_said_of_limits_stays() {
        let usual = Submission::default().limits();
        let said = LimitsChange { messages_per_hour: Some(5), ..LimitsChange::default() };
        let own = said.apply(None, usual);
        assert_eq!(own, Some(Limits { messages_per_hour: 5, ..usual }));
        assert_eq!(LimitsChange::default().apply(own, own.unwrap()), own);
        assert_eq!(LimitsChange::default().apply(None, usual), None);
        let back = LimitsChange { usual: true, ..LimitsChange::default() };
        assert_eq!(back.apply(own, usual), None);
    }
}
