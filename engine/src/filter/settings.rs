//! `[spam]` of the config file.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spam {
    /// Whether mail from strangers is given a score: on `listen.smtp`, from outside `auth.trusted_networks`.
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
        }
    }
}

const SCORE_MAX: f64 = 1000.0;

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
}
