//! `[spam]` of the config file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spam {
    /// Whether mail from strangers is given a score: on `listen.smtp`, from outside
    /// `auth.trusted_networks`.
    pub enabled: bool,
    /// From this score on a message is marked with `X-Spam-Flag: YES`.
    pub tag_at: f64,
    /// From this score on it goes into Junk.
    pub junk_at: f64,
    /// From this score on it is kept back from its recipient (`[quarantine]`); 0: nothing is.
    pub quarantine_at: f64,
    /// From this score on it is refused, so that its sender learns of it; 0: nothing is.
    pub reject_at: f64,
    /// A file of further rules, which take the place of those of the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<PathBuf>,
    /// Other scores for some rules.
    pub scores: BTreeMap<String, f64>,
    /// What follows when a user moves mail into Junk or out of it, or sets $Junk or $NotJunk.
    pub learn: Learn,
    /// What it adds to the score of proven senders (DMARC) that everybody whom the message is for
    /// has written to; 0: nothing, and whom accounts write to is not kept.
    pub written_to: f64,
    /// Where rspamd listens, such as `http://127.0.0.1:11333`: a second opinion about what
    /// strangers bring. Several take turns, and stand in for one another.
    pub rspamd: Vec<String>,
    /// What its score is multiplied by, on its way into ours.
    pub rspamd_weight: f64,
    /// Whether its action "reject" refuses a message, whatever our own score.
    pub rspamd_reject: bool,
    /// What follows when no server has answered in time.
    pub rspamd_when_down: WhenDown,
    /// How long all servers together may take for a message, in seconds.
    pub rspamd_seconds: u64,
    /// It is not asked about a larger message, nor about one beyond the session's buffer
    /// (a knob, 256 KiB).
    pub rspamd_bytes_max: u64,
    /// Messages that it is asked about at once.
    pub rspamd_connections_max: u64,
}

/// What follows when somebody else's opinion is not to be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenDown {
    /// Ours alone decides.
    #[default]
    Ignore,
    /// 451: the sender keeps the message, and tries again.
    Defer,
}

impl WhenDown {
    /// What mail meets while nobody answers.
    pub fn meanwhile(self) -> &'static str {
        match self {
            WhenDown::Ignore => {
                "mail is judged by kura's own filter alone (spam.rspamd_when_down = \"ignore\")"
            }
            WhenDown::Defer => {
                "mail from strangers is put off with 451 (spam.rspamd_when_down = \"defer\")"
            }
        }
    }
}

/// Whom a user's sorting teaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    Nobody,
    /// For the user's own account it decides about that sender from then on.
    #[default]
    Account,
    /// And it trains the classifier, which judges everybody's mail: where all users are trusted.
    Everybody,
}

impl Default for Spam {
    fn default() -> Self {
        Spam {
            enabled: true,
            tag_at: 5.0,
            junk_at: 5.0,
            // An upgrade must not begin to keep mail back.
            quarantine_at: 0.0,
            // An upgrade must not begin to refuse mail.
            reject_at: 0.0,
            rules: None,
            scores: BTreeMap::new(),
            learn: Learn::default(),
            written_to: -3.0,
            rspamd: Vec::new(),
            // Its "add header" is 6 and ours for junk 5; see `rspamd::answer` for what
            // its action adds.
            rspamd_weight: 0.5,
            rspamd_reject: false,
            rspamd_when_down: WhenDown::default(),
            rspamd_seconds: 10,
            rspamd_bytes_max: 256 << 10,
            rspamd_connections_max: 20,
        }
    }
}

const SCORE_MAX: f64 = 1000.0;
const WRITTEN_TO_MIN: f64 = -100.0;
const RSPAMD_WEIGHT_MAX: f64 = 10.0;

impl Spam {
    /// What the types can't say: the key that is at fault, and words for the operator.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, score) in [
            ("spam.tag_at", self.tag_at),
            ("spam.junk_at", self.junk_at),
            ("spam.quarantine_at", self.quarantine_at),
            ("spam.reject_at", self.reject_at),
        ] {
            if !(0.0..=SCORE_MAX).contains(&score) {
                return Err((
                    key,
                    format!("{key} = {score} is out of range; use 0 to {SCORE_MAX}"),
                ));
            }
        }
        if self.tag_at == 0.0 || self.junk_at == 0.0 {
            let key = if self.tag_at == 0.0 { "spam.tag_at" } else { "spam.junk_at" };
            return Err((key, format!("{key} = 0 would concern all mail; use 1000 for never")));
        }
        if self.reject_at != 0.0 && self.reject_at < self.junk_at {
            let what = format!(
                "spam.reject_at = {} is below spam.junk_at = {}; refuse only what is worse than junk",
                self.reject_at, self.junk_at
            );
            return Err(("spam.reject_at", what));
        }
        if self.quarantine_at != 0.0 && self.quarantine_at < self.junk_at {
            let what = format!(
                "spam.quarantine_at = {} is below spam.junk_at = {}; keep back only what is worse than junk",
                self.quarantine_at, self.junk_at
            );
            return Err(("spam.quarantine_at", what));
        }
        if self.reject_at != 0.0 && self.quarantine_at >= self.reject_at {
            let what = format!(
                "spam.quarantine_at = {} is not below spam.reject_at = {}: all of that is refused already",
                self.quarantine_at, self.reject_at
            );
            return Err(("spam.quarantine_at", what));
        }
        if !(WRITTEN_TO_MIN..=0.0).contains(&self.written_to) {
            let what = format!(
                "spam.written_to = {} is out of range; use {WRITTEN_TO_MIN} to 0",
                self.written_to
            );
            return Err(("spam.written_to", what));
        }
        self.check_rspamd()
    }

    fn check_rspamd(&self) -> Result<(), (&'static str, String)> {
        for url in &self.rspamd {
            let is_good = reqwest::Url::parse(url).is_ok_and(|read| {
                matches!(read.scheme(), "http" | "https")
                    && read.username().is_empty()
                    && read.password().is_none()
                    && read.path() == "/"
                    && read.query().is_none()
                    && read.fragment().is_none()
            });
            if !is_good || url.ends_with('/') {
                let what =
                    format!("spam.rspamd: {url:?} is no server; write \"http://127.0.0.1:11333\"");
                return Err(("spam.rspamd", what));
            }
        }
        if !(0.0..=RSPAMD_WEIGHT_MAX).contains(&self.rspamd_weight) {
            let what = format!(
                "spam.rspamd_weight = {} is out of range; use 0 to {RSPAMD_WEIGHT_MAX}",
                self.rspamd_weight
            );
            return Err(("spam.rspamd_weight", what));
        }
        for (key, value, least, most) in [
            ("spam.rspamd", self.rspamd.len() as u64, 0, 16),
            ("spam.rspamd_seconds", self.rspamd_seconds, 1, 60),
            ("spam.rspamd_bytes_max", self.rspamd_bytes_max, 1 << 10, 1 << 30),
            ("spam.rspamd_connections_max", self.rspamd_connections_max, 1, 1000),
        ] {
            if !(least..=most).contains(&value) {
                let what = format!("{key} = {value} is out of range; use {least} to {most}");
                return Err((key, what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_that_make_no_sense_are_named() {
        let with = |tag_at, junk_at, reject_at| {
            Spam { tag_at, junk_at, reject_at, ..Spam::default() }.check().map_err(|(key, _)| key)
        };
        assert_eq!(Spam::default().check(), Ok(()));
        assert_eq!(with(3.0, 5.0, 15.0), Ok(()));
        assert_eq!(with(0.0, 5.0, 0.0), Err("spam.tag_at"));
        assert_eq!(with(5.0, 0.0, 0.0), Err("spam.junk_at"));
        assert_eq!(with(5.0, 5.0, 4.0), Err("spam.reject_at"));
        assert_eq!(with(5.0, f64::NAN, 4.0), Err("spam.junk_at"));
        assert_eq!(with(5.0, 5.0, -1.0), Err("spam.reject_at"));
        let keeping = |quarantine_at, reject_at| {
            Spam { quarantine_at, reject_at, ..Spam::default() }.check().map_err(|(key, _)| key)
        };
        assert_eq!(keeping(8.0, 15.0), Ok(()));
        assert_eq!(keeping(5.0, 0.0), Ok(()));
        assert_eq!(keeping(4.0, 0.0), Err("spam.quarantine_at"));
        assert_eq!(keeping(15.0, 15.0), Err("spam.quarantine_at"));
        assert_eq!(keeping(2000.0, 0.0), Err("spam.quarantine_at"));
    }

    #[test]
    fn servers_are_addresses_of_http_without_secrets_or_paths() {
        let with = |url: &str| {
            let spam = Spam { rspamd: vec![url.to_owned()], ..Spam::default() };
            spam.check().map_err(|(key, _)| key)
        };
        for good in ["http://127.0.0.1:11333", "https://rspamd.a.test", "http://[::1]:11333"] {
            assert_eq!(with(good), Ok(()), "{good}");
        }
        for wrong in [
            "",
            "127.0.0.1:11333",
            "ftp://a.test",
            "http://a.test/",
            "http://a.test/checkv2",
            "http://a:b@a.test",
            "http://a.test?x",
        ] {
            assert_eq!(with(wrong), Err("spam.rspamd"), "{wrong}");
        }
        let spam = Spam { rspamd_weight: f64::NAN, ..Spam::default() };
        assert_eq!(spam.check().map_err(|(key, _)| key), Err("spam.rspamd_weight"));
        let spam = Spam { written_to: 1.0, ..Spam::default() };
        assert_eq!(spam.check().map_err(|(key, _)| key), Err("spam.written_to"));
        let spam = Spam { rspamd_seconds: 0, ..Spam::default() };
        assert_eq!(spam.check().map_err(|(key, _)| key), Err("spam.rspamd_seconds"));
    }
}
