//! The rule file: read, checked and compiled.
//!
//! A rule has a name, a score, a reason, and one condition, which is said by one of these keys:
//!
//! | key | holds when |
//! |---|---|
//! | `missing`, `present`, `repeated` | a field of this name is not there, is there, is there twice |
//! | `field` with `matches` | the first field of this name, decoded, matches |
//! | `subject`, `text`, `url` | the subject, the visible text, one address in it matches |
//! | `fact` with `at_least` or `at_most` | a number of [`facts`](super::facts) is within |
//! | `auth` | one of these results was found, such as `spf=fail` |
//! | `all`, `any`, `none` | rules further up have matched; the three may be combined |
//!
//! Patterns are those of the regex crate, without look-around, so that matching is linear. They are
//! written in lower case and see everything in lower case, which is much faster than to ignore
//! case; white space in the text is single blanks. Examples stand beside the rules, and a file
//! whose examples don't hold is refused like one that can't be read.

use super::facts;
use super::limits::{PATTERN_BYTES_MAX, RULES_MAX};
use crate::auth::verdict::{Method, Outcome};
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The rules that every server has.
pub const BUILT_IN: &str = include_str!("rules.toml");
/// Of one compiled pattern. Where a text makes the automaton grow beyond its bounds, each byte of
/// it costs as much as the pattern is large: with this, a tenth or two of a second for all the text
/// that is looked at.
const COMPILED_BYTES_MAX: usize = 128 << 10;
/// Of that automaton, for each thread that matches.
const AUTOMATON_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Written>,
    #[serde(default)]
    example: Vec<Example>,
}

/// A rule as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    name: String,
    score: Option<f64>,
    reason: String,
    missing: Option<String>,
    present: Option<String>,
    repeated: Option<String>,
    field: Option<String>,
    matches: Option<String>,
    subject: Option<String>,
    text: Option<String>,
    url: Option<String>,
    fact: Option<String>,
    at_least: Option<f64>,
    at_most: Option<f64>,
    auth: Vec<String>,
    all: Vec<String>,
    any: Vec<String>,
    none: Vec<String>,
}

/// A message, or the beginning of one, and what must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    pub message: String,
    /// Rules that match it, among others.
    #[serde(default)]
    pub fires: Vec<String>,
    /// Rules that don't.
    #[serde(default)]
    pub silent: Vec<String>,
    #[serde(default)]
    pub mail_from: String,
    #[serde(default)]
    pub recipients: Vec<String>,
    /// Results of authentication, such as `spf=fail`.
    #[serde(default)]
    pub auth: Vec<String>,
    /// How many hours behind its Date it arrives.
    #[serde(default)]
    pub hours_late: i64,
}

#[derive(Debug)]
pub struct Rule {
    pub name: String,
    pub score: f64,
    pub reason: String,
    pub condition: Condition,
    /// Whether it looks at nothing but the message.
    pub of_content: bool,
}

#[derive(Debug)]
pub enum Condition {
    Missing(String),
    Present(String),
    Repeated(String),
    Field(String, Box<Regex>),
    Subject(Box<Regex>),
    Text(Box<Regex>),
    Url(Box<Regex>),
    Fact { fact: usize, at_least: f64, at_most: f64 },
    Auth(Vec<(Method, Outcome)>),
    Rules { all: Vec<usize>, any: Vec<usize>, none: Vec<usize> },
}

#[derive(Debug)]
pub struct Rules {
    pub rules: Vec<Rule>,
    pub examples: Vec<Example>,
}

impl Rules {
    /// The built-in rules, then those of `more` (the operator's file); a rule there takes the
    /// place of one of the same name. `scores` go before all. The error is for the operator,
    /// without the file's name.
    pub fn read(more: Option<&str>, scores: &BTreeMap<String, f64>) -> Result<Rules, String> {
        let built_in: File = toml::from_str(BUILT_IN).map_err(|error| error.to_string())?;
        let (mut written, mut examples) = (built_in.rule, built_in.example);
        if let Some(text) = more {
            let file: File = toml::from_str(text).map_err(|error| {
                let line =
                    error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
                format!("line {line}: {}", error.message().replace('\n', " "))
            })?;
            let mut named = BTreeSet::new();
            for rule in &file.rule {
                if !named.insert(&rule.name) {
                    return Err(format!("rule {:?} stands there twice; rename one", rule.name));
                }
            }
            // What the operator has made of a rule may be something else than its examples show.
            examples.retain(|example| {
                let own = |name: &String| named.contains(name);
                !example.fires.iter().any(own) && !example.silent.iter().any(own)
            });
            examples.extend(file.example);
            for rule in file.rule {
                match written.iter_mut().find(|known| known.name == rule.name) {
                    Some(known) => *known = rule,
                    None => written.push(rule),
                }
            }
        }
        let mut rules = compile(written, examples)?;
        for (name, &score) in scores {
            let Some(rule) = rules.rules.iter_mut().find(|rule| rule.name == *name) else {
                return Err(format!("no rule is called {name:?}; `kura spam rules` lists them"));
            };
            rule.score = score;
        }
        if let Some(rule) = rules.rules.iter().find(|rule| !(-100.0..=100.0).contains(&rule.score))
        {
            return Err(format!(
                "{}: score {} is out of range; use -100 to 100",
                rule.name, rule.score
            ));
        }
        Ok(rules)
    }
}

fn compile(written: Vec<Written>, examples: Vec<Example>) -> Result<Rules, String> {
    if written.len() > RULES_MAX {
        return Err(format!("{} rules; {RULES_MAX} are possible", written.len()));
    }
    let mut rules: Vec<Rule> = Vec::with_capacity(written.len());
    for rule in written {
        let name = rule.name.clone();
        let fault = |what: String| format!("rule {name:?}: {what}");
        let named = !name.is_empty()
            && name.len() <= 48
            && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if !named {
            return Err(fault("a name is of 1 to 48 letters A-Z, digits and _".into()));
        }
        let (score, reason) = (rule.score, rule.reason.clone());
        let Some(score) = score else { return Err(fault("score is missing".into())) };
        if reason.is_empty()
            || reason.len() > 200
            || !reason.bytes().all(|b| (32..127).contains(&b))
        {
            return Err(fault("reason is missing, or not one line of ASCII".into()));
        }
        let condition = condition(rule, &rules).map_err(fault)?;
        let of_content = match &condition {
            Condition::Auth(_) => false,
            Condition::Fact { fact, .. } => facts::is_of_content(*fact),
            Condition::Rules { all, any, none } => {
                all.iter().chain(any).chain(none).all(|&rule| rules[rule].of_content)
            }
            _ => true,
        };
        rules.push(Rule { name, score, reason, condition, of_content });
    }
    Ok(Rules { rules, examples })
}

fn condition(rule: Written, earlier: &[Rule]) -> Result<Condition, String> {
    let mut found = Vec::new();
    found.extend(rule.missing.map(Condition::Missing));
    found.extend(rule.present.map(Condition::Present));
    found.extend(rule.repeated.map(Condition::Repeated));
    match (rule.field, rule.matches) {
        (Some(field), Some(matches)) => {
            found.push(Condition::Field(field, Box::new(pattern(&matches)?)));
        }
        (None, None) => {}
        _ => return Err("field and matches belong together".into()),
    }
    for (given, make) in [
        (rule.subject, Condition::Subject as fn(Box<Regex>) -> Condition),
        (rule.text, Condition::Text),
        (rule.url, Condition::Url),
    ] {
        if let Some(given) = given {
            found.push(make(Box::new(pattern(&given)?)));
        }
    }
    if let Some(name) = rule.fact {
        let fact = facts::named(&name)
            .ok_or_else(|| format!("no fact is called {name:?}; `kura spam facts` lists them"))?;
        if rule.at_least.is_none() && rule.at_most.is_none() {
            return Err("a fact needs at_least, at_most or both".into());
        }
        let at_least = rule.at_least.unwrap_or(f64::NEG_INFINITY);
        let at_most = rule.at_most.unwrap_or(f64::INFINITY);
        found.push(Condition::Fact { fact, at_least, at_most });
    } else if rule.at_least.is_some() || rule.at_most.is_some() {
        return Err("at_least and at_most belong to a fact".into());
    }
    if !rule.auth.is_empty() {
        let results = rule.auth.iter().map(|text| auth_result(text));
        found.push(Condition::Auth(results.collect::<Result<_, _>>()?));
    }
    if !(rule.all.is_empty() && rule.any.is_empty() && rule.none.is_empty()) {
        let find = |name: &String| {
            earlier
                .iter()
                .position(|rule| rule.name == *name)
                .ok_or_else(|| format!("{name:?} is no rule further up"))
        };
        let list = |names: Vec<String>| names.iter().map(find).collect::<Result<Vec<_>, _>>();
        found.push(Condition::Rules {
            all: list(rule.all)?,
            any: list(rule.any)?,
            none: list(rule.none)?,
        });
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err("says no condition; give it one, such as missing = \"Date\"".into()),
        _ => Err("says several conditions; make rules of them, and combine those with all".into()),
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
        return Err(format!("a pattern is of 1 to {PATTERN_BYTES_MAX} bytes"));
    }
    // "\\W" is fine, "W" would never match.
    let mut letters = text.bytes();
    while let Some(letter) = letters.next() {
        match letter {
            b'\\' => drop(letters.next()),
            b'A'..=b'Z' => {
                return Err("write patterns in lower case: they see everything so".into());
            }
            _ => {}
        }
    }
    let built = RegexBuilder::new(text)
        .unicode(false)
        .size_limit(COMPILED_BYTES_MAX)
        .dfa_size_limit(AUTOMATON_BYTES_MAX)
        .build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("pattern: {}", last.trim_start_matches("error: "))
    })
}

/// `spf=fail`
pub fn auth_result(text: &str) -> Result<(Method, Outcome), String> {
    let read = || {
        let (method, outcome) = text.split_once('=')?;
        let method = Method::ALL.into_iter().find(|known| known.name() == method)?;
        let outcome = Outcome::ALL.into_iter().find(|known| known.name() == outcome)?;
        Some((method, outcome))
    };
    read().ok_or_else(|| format!("{text:?} is no result; write it like \"spf=fail\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_wrong_is_named_with_what_is_wrong() {
        let read = |text: &str| Rules::read(Some(text), &BTreeMap::new()).unwrap_err();
        let rule = |more: &str| {
            format!("[[rule]]\nname = \"X\"\nscore = 1\nreason = \"because\"\n{more}\n")
        };
        for (text, said) in [
            (rule(""), "no condition"),
            (rule("missing = \"A\"\npresent = \"B\""), "several conditions"),
            (rule("text = \"(\""), "pattern"),
            (rule("text = '(?=a)'"), "look-around"),
            (rule("text = 'Viagra'"), "lower case"),
            (rule("text = 'a{1000}{1000}{1000}'"), "size limit"),
            // A long gap: it takes a hundred times as long where a text is made for it.
            (
                rule("text = '(bitcoin|btc).{0,900}(video|webcam)|(video|webcam).{0,900}btc'"),
                "size limit",
            ),
            (rule("fact = \"nonsense\"\nat_least = 1"), "no fact"),
            (rule("fact = \"urls\""), "at_least"),
            (rule("auth = [\"spf=maybe\"]"), "no result"),
            (rule("all = [\"NONE\"]"), "no rule further up"),
            (rule("field = \"A\""), "belong together"),
            (rule("sort = 1"), "line 5"),
            (format!("{}{}", rule("missing = \"A\""), rule("missing = \"B\"")), "twice"),
            (rule("missing = \"A\"").replace("\"X\"", "\"x y\""), "a name is"),
            (rule("missing = \"A\"").replace("score = 1", "score = 1000"), "out of range"),
            (rule("missing = \"A\"").replace("score = 1\n", ""), "score is missing"),
        ] {
            let error = read(&text);
            assert!(error.contains(said), "{text}: {error}");
        }
        let scores = BTreeMap::from([("NO_SUCH".to_owned(), 1.0)]);
        assert!(Rules::read(None, &scores).unwrap_err().contains("NO_SUCH"));
    }

    #[test]
    fn the_operators_rules_and_scores_go_before_ours() {
        let own =
            "[[rule]]\nname = \"DATE_MISSING\"\nscore = 7\nreason = \"mine\"\npresent = \"X\"\n";
        let rules = Rules::read(Some(own), &BTreeMap::new()).unwrap();
        let found: Vec<&Rule> = rules.rules.iter().filter(|r| r.name == "DATE_MISSING").collect();
        assert!(matches!(found.as_slice(), [rule] if rule.score == 7.0 && rule.reason == "mine"));
        let scores = BTreeMap::from([("DATE_MISSING".to_owned(), 0.5)]);
        let rules = Rules::read(Some(own), &scores).unwrap();
        assert!(rules.rules.iter().any(|rule| rule.name == "DATE_MISSING" && rule.score == 0.5));
    }
}
