//! One message against all rules: pure, linear in the message's bytes, and without failure.

use super::facts;
use super::limits::{TEXT_BYTES_MAX, URL_BYTES_ALL_MAX};
use super::mail::{Mail, plain_value};
use super::rules::{Condition, Rules, auth_result};
use super::{Envelope, Hit};
use crate::auth::verdict::{Method, Outcome};
use protocols::message::text::decode_field;

/// What patterns over the text, and the classifier, read: HTML behind plain text, white space in
/// runs made one blank, at most [`TEXT_BYTES_MAX`] bytes.
pub fn visible_text(mail: &Mail<'_>) -> String {
    let length = mail.plain.len() + mail.html.text.len();
    let mut text = String::with_capacity(length.min(TEXT_BYTES_MAX));
    for piece in [mail.plain.as_str(), mail.html.text.as_str()] {
        for word in piece.split_whitespace() {
            if text.len() + word.len() >= TEXT_BYTES_MAX {
                return text;
            }
            text.push_str(word);
            text.push(' ');
        }
    }
    text
}

impl Rules {
    /// The rules that match, in the file's order.
    pub fn evaluate(
        &self,
        mail: &Mail<'_>,
        text: &str,
        facts: &[f64],
        auth: &[(Method, Outcome)],
    ) -> Vec<Hit> {
        let text = text.to_ascii_lowercase();
        let subject = mail.subject.trim().to_ascii_lowercase();
        let mut urls = String::new();
        for link in &mail.links {
            if urls.len() + link.url.len() >= URL_BYTES_ALL_MAX {
                break;
            }
            urls.push_str(&link.url.to_ascii_lowercase());
            urls.push('\n');
        }
        let mut fired = vec![false; self.rules.len()];
        for at in 0..self.rules.len() {
            fired[at] = match &self.rules[at].condition {
                Condition::Missing(name) => mail.lacks(name),
                Condition::Present(name) => mail.count(name) > 0,
                Condition::Repeated(name) => mail.count(name) > 1,
                Condition::Field(name, pattern) => mail.field(name).is_some_and(|value| {
                    pattern.is_match(decode_field(value).trim().to_ascii_lowercase().as_bytes())
                }),
                Condition::Subject(pattern) => pattern.is_match(subject.as_bytes()),
                Condition::Text(pattern) => pattern.is_match(text.as_bytes()),
                Condition::Url(pattern) => urls.lines().any(|url| pattern.is_match(url.as_bytes())),
                Condition::Fact { fact, at_least, at_most } => {
                    (*at_least..=*at_most).contains(&facts[*fact])
                }
                Condition::Auth(results) => found_one(auth, results),
                Condition::Rules { all, any, none } => {
                    all.iter().all(|&rule| fired[rule])
                        && (any.is_empty() || any.iter().any(|&rule| fired[rule]))
                        && !none.iter().any(|&rule| fired[rule])
                }
            };
        }
        let hits = self.rules.iter().zip(fired).filter(|(_, fired)| *fired);
        hits.map(|(rule, _)| Hit {
            rule: rule.name.clone(),
            score: rule.score,
            reason: rule.reason.clone(),
            of_content: rule.of_content,
        })
        .collect()
    }

    /// Runs the examples beside the rules; the first that does not hold is told.
    pub fn check_examples(&self) -> Result<(), String> {
        for (number, example) in self.examples.iter().enumerate() {
            let auth = example.auth.iter().map(|text| auth_result(text));
            let auth: Vec<_> = auth.collect::<Result<_, _>>()?;
            let message = example.message.replace("\r\n", "\n").replace('\n', "\r\n");
            let mail = Mail::read(message.as_bytes());
            let envelope = Envelope {
                mail_from: &example.mail_from,
                recipients: &example.recipients,
                auth: &auth,
                unix_seconds: mail.summary.sent.map_or(0, |sent| sent.unix_seconds)
                    + example.hours_late * 3600,
            };
            let text = visible_text(&mail);
            let facts = facts::count(&mail, &text, &envelope);
            let hits = self.evaluate(&mail, &text, &facts, &auth);
            let fired = |name: &str| hits.iter().any(|hit| hit.rule == name);
            let known = |name: &str| self.rules.iter().any(|rule| rule.name == name);
            let subject = plain_value(mail.field("Subject").unwrap_or_default());
            let fault = |name: &str, what: &str| {
                let number = number + 1;
                Err(format!("example {number} (Subject: {subject}): rule {name} {what}"))
            };
            for name in example.fires.iter().chain(&example.silent) {
                if !known(name) {
                    return fault(name, "does not exist");
                }
            }
            if let Some(name) = example.fires.iter().find(|name| !fired(name)) {
                return fault(name, "should match and does not");
            }
            if let Some(name) = example.silent.iter().find(|name| fired(name)) {
                return fault(name, "should not match and does");
            }
        }
        Ok(())
    }
}

fn found_one(found: &[(Method, Outcome)], wanted: &[(Method, Outcome)]) -> bool {
    found.iter().any(|one| wanted.contains(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn rules() -> Rules {
        Rules::read(None, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn the_examples_beside_the_rules_hold() {
        rules().check_examples().unwrap();
    }

    #[test]
    fn what_stands_beyond_the_limits_is_not_missing() {
        let rules = rules();
        let fields = "From: A <a@a.test>\r\nTo: b@b.test\r\nSubject: x\r\nMessage-ID: <1@a.test>\r\n\
                      Date: Thu, 26 Nov 2026 10:00:00 +0100\r\n\r\nHello.\r\n";
        for bomb in [
            "X: y\r\n".repeat(20_000),
            "X: y\r\n z\r\n".repeat(600),
            format!("X: {}\r\n", "y".repeat(200_000)),
        ] {
            let message = bomb + fields;
            let mail = Mail::read(message.as_bytes());
            let unix_seconds = mail.summary.sent.map_or(0, |sent| sent.unix_seconds);
            let envelope = Envelope { mail_from: "", recipients: &[], auth: &[], unix_seconds };
            let text = visible_text(&mail);
            let facts = facts::count(&mail, &text, &envelope);
            let hits = rules.evaluate(&mail, &text, &facts, &[]);
            let score: f64 = hits.iter().map(|hit| hit.score).sum();
            assert!(score < 1.0, "{hits:?}");
        }
    }

    #[test]
    fn each_rule_has_an_example_that_it_matches_and_one_that_it_does_not() {
        let rules = rules();
        let fires: BTreeSet<&String> = rules.examples.iter().flat_map(|e| &e.fires).collect();
        let silent: BTreeSet<&String> = rules.examples.iter().flat_map(|e| &e.silent).collect();
        for rule in &rules.rules {
            assert!(fires.contains(&rule.name), "{} has no example", rule.name);
            assert!(silent.contains(&rule.name), "{} has no counter-example", rule.name);
        }
    }

    #[test]
    fn an_example_that_does_not_hold_is_told() {
        for (list, said) in [
            ("fires = [\"DATE_MISSING\"]", "should match"),
            ("silent = [\"FROM_MISSING\"]", "should not match"),
            ("fires = [\"NO_SUCH\"]", "does not exist"),
        ] {
            let own = format!(
                "[[example]]\nmessage = \"Date: Thu, 1 Jan 2026 00:00:00 +0000\\nSubject: x\\n\\nhello\"\n{list}\n"
            );
            let error = Rules::read(Some(&own), &BTreeMap::new()).unwrap().check_examples();
            assert!(error.clone().unwrap_err().contains(said), "{error:?}");
        }
    }
}
