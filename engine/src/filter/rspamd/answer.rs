//! rspamd's answer: JSON with a score, an action and symbols (its manual, "Protocol").
//!
//! What it says is its own word on another scale (15 is its usual "reject", where ours for junk is
//! 5), and half of it is made from what strangers send: so the score is weighted and bounded, and
//! of the symbols only letters get into the log.

use crate::filter::Hit;
use crate::filter::settings::Spam;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Of its word in the sum, whatever the weight: a server gone mad refuses nobody's mail for ever,
/// nor lets all in.
const SCORE_MIN: f64 = -10.0;
const SCORE_MAX: f64 = 20.0;
/// Symbols that are told as the reason, and octets of each.
const SYMBOLS_TOLD_MAX: usize = 8;
const SYMBOL_BYTES_MAX: usize = 40;
/// What its action adds: with the usual thresholds and weight, its "add header" (6) alone then
/// amounts to junk (5).
const ADD_HEADER: f64 = 2.0;
const REJECT: f64 = 4.0;

/// What it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing, or what says nothing about the message: greylisting, its rate limits, actions that
    /// an operator has invented.
    None,
    /// It is spam: "add header", "rewrite subject", "quarantine".
    AddHeader,
    /// It is spam for sure: "reject", "discard".
    Reject,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Opinion {
    pub score: f64,
    pub action: Action,
    /// The weightiest first: `BAYES_SPAM(5.1)`.
    pub symbols: Vec<String>,
}

#[derive(Deserialize)]
struct Said {
    score: f64,
    action: String,
    #[serde(default)]
    symbols: BTreeMap<String, Symbol>,
}

#[derive(Deserialize)]
struct Symbol {
    score: f64,
}

/// Reads it; the error is for the log.
pub fn read(json: &[u8]) -> Result<Opinion, String> {
    let said: Said = serde_json::from_slice(json).map_err(|error| {
        // Without the text that it quotes: that may be anything.
        let (line, column) = (error.line(), error.column());
        format!("its answer can't be read at line {line}, column {column}")
    })?;
    if !said.score.is_finite() {
        return Err("its score is no number".to_owned());
    }
    let action = match said.action.as_str() {
        "reject" | "discard" => Action::Reject,
        "add header" | "rewrite subject" | "quarantine" => Action::AddHeader,
        _ => Action::None,
    };
    let mut symbols: Vec<(String, f64)> =
        said.symbols.into_iter().map(|(name, symbol)| (name, symbol.score)).collect();
    symbols.sort_by(|one, other| other.1.abs().total_cmp(&one.1.abs()));
    symbols.truncate(SYMBOLS_TOLD_MAX);
    let told = |(name, score): (String, f64)| {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '?' };
        let name: String = name.chars().take(SYMBOL_BYTES_MAX).map(plain).collect();
        format!("{name}({:.1})", score.clamp(-999.0, 999.0))
    };
    Ok(Opinion { score: said.score, action, symbols: symbols.into_iter().map(told).collect() })
}

impl Opinion {
    /// The rules of the verdict that it becomes.
    pub fn hits(&self, spam: &Spam) -> Vec<Hit> {
        let symbols = self.symbols.join(" ");
        let hit = |rule: &str, score: f64, reason: String| Hit {
            rule: rule.to_owned(),
            score,
            reason,
            of_content: false,
        };
        let score = (self.score * spam.rspamd_weight).clamp(SCORE_MIN, SCORE_MAX);
        let said = format!("rspamd gives it {:.1}: {symbols}", self.score.clamp(-9999.0, 9999.0));
        let mut hits = vec![hit("RSPAMD", score, said)];
        match self.action {
            Action::None => {}
            Action::AddHeader => {
                hits.push(hit("RSPAMD_ADD_HEADER", ADD_HEADER, "rspamd would mark it".to_owned()));
            }
            Action::Reject => {
                hits.push(hit("RSPAMD_REJECT", REJECT, "rspamd would refuse it".to_owned()));
            }
        }
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opinion(text: &str) -> Opinion {
        read(text.as_bytes()).unwrap()
    }

    /// As rspamd 3.4 writes them.
    #[test]
    fn what_rspamd_says_becomes_rules() {
        let gtube = opinion(
            r#"{"is_skipped":true,"score":15.0,"required_score":15.0,"action":"reject","symbols":{"GTUBE":{"name":"GTUBE",
            "score":0.0,"metric_score":0.0}},"messages":{"smtp_message":"Gtube pattern"},"message-id":"undef","time_real":0.119698}"#,
        );
        let spam = Spam::default();
        let hits: Vec<_> = gtube.hits(&spam).into_iter().map(|hit| (hit.rule, hit.score)).collect();
        assert_eq!(hits, [("RSPAMD".to_owned(), 7.5), ("RSPAMD_REJECT".to_owned(), 4.0)]);
        let two = opinion(
            r#"{"score":6.1,"action":"add header","symbols":{"A":{"score":-0.4},"B":{"score":6.5}}}"#,
        );
        let hits = two.hits(&spam);
        assert_eq!(hits[0].reason, "rspamd gives it 6.1: B(6.5) A(-0.4)");
        let sum: f64 = hits.iter().map(|hit| hit.score).sum();
        assert!((5.0..5.1).contains(&sum), "its own threshold is ours for junk: {sum}");
        let clean = opinion(r#"{"score":-0.1,"action":"no action"}"#);
        assert_eq!((clean.action, clean.hits(&spam).len()), (Action::None, 1));
        assert_eq!(opinion(r#"{"score":4,"action":"soft reject"}"#).action, Action::None);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for wrong in [
            "",
            "{",
            "[]",
            "null",
            r#"{"error":"invalid command","error_domain":"protocol-error"}"#,
            r#"{"score":"15","action":"reject"}"#,
            r#"{"score":1e999,"action":"reject"}"#,
            r#"{"score":null,"action":"reject"}"#,
            r#"{"score":15.0}"#,
            r#"{"score":15.0,"action":"reject"} and more"#,
            r#"{"score":1.0,"score":2.0,"action":"reject"}"#,
            r#"{"score":1.0,"action":"reject","symbols":[1]}"#,
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(read("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn its_word_is_bounded_and_what_strangers_wrote_is_not_repeated() {
        let spam = Spam::default();
        for (score, bounded) in [("1e300", SCORE_MAX), ("-1e300", SCORE_MIN)] {
            let mad = opinion(&format!(r#"{{"score":{score},"action":"reject"}}"#));
            assert_eq!(mad.hits(&spam)[0].score, bounded);
        }
        let long = "x".repeat(5000);
        let odd = opinion(&format!(
            r#"{{"score":1,"action":"no action","symbols":{{"A\r\nB: ü{long}":{{"score":1e300}}}}}}"#
        ));
        assert_eq!(odd.symbols, [format!("A??B???{}(999.0)", "x".repeat(33))]);
        let many: Vec<String> = (0..500).map(|n| format!(r#""S{n}":{{"score":1}}"#)).collect();
        let many =
            opinion(&format!(r#"{{"score":1,"action":"x","symbols":{{{}}}}}"#, many.join(",")));
        assert_eq!(many.symbols.len(), SYMBOLS_TOLD_MAX);
    }
}
