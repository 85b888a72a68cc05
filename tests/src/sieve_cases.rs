//! Cases of Sieve in files: scripts, a message, what comes of it.
//!
//! ```text
//! # Why, with its section.
//! > Subject: hello            a line of the message; those before the first case are for all of them
//! world: mailbox Lists        a fact of the account, likewise
//! case: a sentence            begins a case
//! script: global common       a script that may be included: its lines follow, marked with `+`
//! + keep;
//! | keep;                     a line of the script
//! then: keep                  what comes of it, in order; that is all
//! ```
//!
//! | `world:` | what |
//! |---|---|
//! | `mailbox NAME`, `special-use MAILBOX ATTRIBUTE` | what is there |
//! | `from ADDRESS`, `to ADDRESS` | the envelope; `from <>` is the null path |
//! | `own ADDRESS` | of the user's, beside the recipient |
//! | `now SECONDS`, `zone MINUTES` | the clock |
//! | `spam PERCENT`, `virus VERDICT`, `environment ITEM VALUE` | verdicts, facts of the host |
//! | `seen` | whatever is asked for is a duplicate |
//! | `limit NAME NUMBER` | one of [`Limits`] |
//!
//! What comes of it is `fault …` and `warning …` of compiling; `error …`, the actions,
//! `mark SECONDS` of running. In a message line `\xHH` is an octet.

use protocols::Address;
use protocols::message::Summary;
use protocols::sieve::{
    Action, Edited, Include, Limits, Location, Mail, Missing, Outcome, Script, World, run,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An account and its host.
#[derive(Debug, Clone, Default)]
struct Account {
    facts: Vec<(String, String)>,
    scripts: Vec<(Include, String)>,
    compiled: Vec<(Include, Option<Script>)>,
}

impl Account {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.facts.iter().filter(move |(fact, _)| fact == name).map(|(_, value)| value.as_str())
    }

    /// The last one counts, so that a case can say otherwise than its file.
    fn last(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.last(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} {text}")))
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for limit in self.all("limit") {
            let (name, number) = limit.split_once(' ').expect("limit NAME NUMBER");
            let number: usize = number.parse().expect("a number");
            match name {
                "script_bytes_max" => limits.script_bytes_max = number,
                "nesting_max" => limits.nesting_max = number,
                "commands_max" => limits.commands_max = number,
                "strings_max" => limits.strings_max = number,
                "work_max" => limits.work_max = number as u64,
                "includes_max" => limits.includes_max = number,
                "include_depth_max" => limits.include_depth_max = number,
                "variables_max" => limits.variables_max = number,
                "variable_bytes_max" => limits.variable_bytes_max = number,
                "string_bytes_max" => limits.string_bytes_max = number,
                "flags_max" => limits.flags_max = number,
                "actions_max" => limits.actions_max = number,
                "redirects_max" => limits.redirects_max = number,
                "duplicates_max" => limits.duplicates_max = number,
                "header_fields_max" => limits.header_fields_max = number,
                "edits_max" => limits.edits_max = number,
                "header_bytes_max" => limits.header_bytes_max = number,
                "body_bytes_max" => limits.body_bytes_max = number,
                other => panic!("no limit is called {other}"),
            }
        }
        limits
    }
}

impl World for Account {
    fn script(&self, include: &Include) -> Result<&Script, Missing> {
        match self.compiled.iter().find(|(known, _)| known == include) {
            Some((_, Some(script))) => Ok(script),
            Some((_, None)) => Err(Missing::Faulty),
            None => Err(Missing::NotFound),
        }
    }

    fn mailbox_exists(&self, mailbox: &str) -> bool {
        self.all("mailbox").any(|known| known == mailbox)
    }

    fn special_use_exists(&self, mailbox: Option<&str>, attribute: &str) -> bool {
        self.all("special-use").any(|known| {
            let (name, use_of_it) = known.split_once(' ').unwrap_or((known, ""));
            use_of_it.eq_ignore_ascii_case(attribute) && mailbox.is_none_or(|wanted| wanted == name)
        })
    }

    fn is_duplicate(&self, _: &[u8; 32]) -> bool {
        self.last("seen").is_some()
    }

    fn unix_seconds(&self) -> i64 {
        self.number("now").unwrap_or(0)
    }

    fn zone_minutes(&self) -> i16 {
        self.number("zone").unwrap_or(0)
    }

    fn is_own_address(&self, address: &str) -> bool {
        self.all("own").any(|own| own.eq_ignore_ascii_case(address))
    }

    fn spam_percent(&self) -> Option<u8> {
        self.number("spam")
    }

    fn virus(&self) -> Option<u8> {
        self.number("virus")
    }

    fn environment(&self, item: &str) -> Option<String> {
        let facts: BTreeMap<&str, &str> =
            self.all("environment").filter_map(|fact| fact.split_once(' ')).collect();
        facts.get(item).map(|value| (*value).to_owned())
    }
}

/// One case of a file.
#[derive(Debug)]
pub struct Case {
    /// File, line and sentence.
    pub name: String,
    pub script: String,
    pub message: Vec<u8>,
    pub expected: Vec<String>,
    account: Account,
}

impl Case {
    /// All `*.txt` of a folder, by name.
    ///
    /// # Panics
    /// When the folder is empty or a file is not made of cases: these are tests.
    #[must_use]
    pub fn read_all(folder: &Path) -> Vec<Case> {
        let entries =
            std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        assert!(!paths.is_empty(), "no cases in {folder:?}");
        paths.iter().flat_map(|path| Case::read(path)).collect()
    }

    fn read(path: &Path) -> Vec<Case> {
        let text = std::fs::read_to_string(path).unwrap();
        let mut shared = Case::empty(String::new());
        let mut cases: Vec<Case> = Vec::new();
        let mut own_message = false;
        for (index, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(sentence) = line.strip_prefix("case: ") {
                let name = format!("{place}: {sentence}");
                let (message, account) = (shared.message.clone(), shared.account.clone());
                cases.push(Case { message, account, ..Case::empty(name) });
                own_message = false;
                continue;
            }
            let case = cases.last_mut().unwrap_or(&mut shared);
            if let Some(message) = line.strip_prefix('>') {
                if !std::mem::replace(&mut own_message, true) {
                    case.message.clear();
                }
                case.message.extend(octets(message.strip_prefix(' ').unwrap_or(message)));
                case.message.extend_from_slice(b"\r\n");
            } else if let Some(script) = line.strip_prefix('|') {
                case.script.push_str(script.strip_prefix(' ').unwrap_or(script));
                case.script.push('\n');
            } else if let Some(script) = line.strip_prefix("script: ") {
                let (location, name) = script.split_once(' ').unwrap_or_else(|| panic!("{place}"));
                let location = match location {
                    "personal" => Location::Personal,
                    "global" => Location::Global,
                    _ => panic!("{place}: personal or global"),
                };
                let include = Include { location, name: name.to_owned() };
                case.account.scripts.push((include, String::new()));
            } else if let Some(script) = line.strip_prefix('+') {
                let (_, text) =
                    case.account.scripts.last_mut().unwrap_or_else(|| panic!("{place}"));
                text.push_str(script.strip_prefix(' ').unwrap_or(script));
                text.push('\n');
            } else if let Some(fact) = line.strip_prefix("world: ") {
                let (name, value) = fact.split_once(' ').unwrap_or((fact, ""));
                case.account.facts.push((name.to_owned(), value.to_owned()));
            } else if let Some(expected) = line.strip_prefix("then: ") {
                case.expected.push(expected.to_owned());
            } else {
                panic!("{place}: not a line of a case");
            }
        }
        assert!(!cases.is_empty(), "{path:?} has no cases");
        cases
    }

    fn empty(name: String) -> Case {
        Case {
            name,
            script: String::new(),
            message: Vec::new(),
            expected: Vec::new(),
            account: Account::default(),
        }
    }

    /// Compiles and runs it; what came of it, as lines.
    #[must_use]
    pub fn play(&self) -> Vec<String> {
        let limits = self.account.limits();
        let script = match Script::compile(self.script.as_bytes(), &limits) {
            Ok(script) => script,
            Err(faults) => return faults.iter().map(|fault| format!("fault {fault}")).collect(),
        };
        let mut account = self.account.clone();
        for (include, source) in &self.account.scripts {
            let compiled = Script::compile(source.as_bytes(), &limits).ok();
            account.compiled.push((include.clone(), compiled));
        }
        let address = |name: &str, default: &str| {
            let text = self.account.last(name).unwrap_or(default).to_owned();
            (text != "<>").then(|| Address::parse(text.as_bytes()).expect("an address"))
        };
        let sender = address("from", "bob@there.test");
        let recipient = address("to", "ann@here.test").expect("a recipient");
        let summary = Summary::compute(&self.message);
        let mail = Mail {
            raw: &self.message,
            summary: &summary,
            octets: self.message.len() as u64,
            sender: sender.as_ref(),
            recipient: &recipient,
        };
        let outcome = run(&script, &mail, &account, &limits);
        let mut lines: Vec<String> =
            script.warnings().iter().map(|warning| format!("warning {warning}")).collect();
        lines.extend(told(&outcome));
        lines
    }
}

fn octets(line: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut pieces = line.split("\\x");
    octets.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let digits = piece.get(..2).expect("two digits behind \\x");
        octets.push(u8::from_str_radix(digits, 16).expect("two digits behind \\x"));
        octets.extend_from_slice(&piece.as_bytes()[2..]);
    }
    octets
}

fn told(outcome: &Outcome) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(error) = &outcome.error {
        lines.push(format!("error {error}"));
    }
    for action in &outcome.actions {
        let implicit = outcome.implicit_keep && matches!(action, Action::Keep { .. });
        let mark = if implicit { " (implicit)" } else { "" };
        lines.push(format!("{}{mark}", action_told(action)));
    }
    if outcome.actions.is_empty() {
        lines.push("discard".into());
    }
    for mark in &outcome.duplicates {
        lines.push(format!("mark {}", mark.period.as_secs()));
    }
    lines
}

fn flags_told(flags: &[String]) -> String {
    if flags.is_empty() { String::new() } else { format!(" flags={}", flags.join(",")) }
}

fn use_told(special_use: &Option<String>) -> String {
    special_use.as_ref().map_or(String::new(), |name| format!(" special-use={name}"))
}

fn header_told(header: &Edited) -> String {
    let text = |header: &[u8]| header.escape_ascii().to_string();
    header.as_ref().map_or(String::new(), |header| format!(" header={}", text(header)))
}

fn word(said: bool, word: &'static str) -> &'static str {
    if said { word } else { "" }
}

fn action_told(action: &Action) -> String {
    match action {
        Action::Keep { flags, header } => {
            format!("keep{}{}", flags_told(flags), header_told(header))
        }
        Action::FileInto { mailbox, flags, create, special_use, copy, header } => {
            let (create, copy) = (word(*create, " create"), word(*copy, " copy"));
            let (flags, special_use) = (flags_told(flags), use_told(special_use));
            format!("fileinto {mailbox}{flags}{create}{special_use}{copy}{}", header_told(header))
        }
        Action::Redirect { address, copy, header } => {
            format!("redirect {address}{}{}", word(*copy, " copy"), header_told(header))
        }
        Action::Reject { text, extended } => {
            format!("{} {}", if *extended { "ereject" } else { "reject" }, text.escape_debug())
        }
        Action::Vacation(reply) => {
            let mut told = format!("vacation to={} after={}", reply.to, reply.period.as_secs());
            if let Some((name, from)) = &reply.from {
                told.push_str(&format!(" from=\"{name}\" <{from}>"));
            }
            told.push_str(word(reply.mime, " mime"));
            if let Some(copy) = &reply.copy_to {
                let (flags, special_use) = (flags_told(&copy.flags), use_told(&copy.special_use));
                let create = word(copy.create, " create");
                told.push_str(&format!(" fcc={}{flags}{create}{special_use}", copy.mailbox));
            }
            for (name, ids) in
                [("in-reply-to", &reply.in_reply_to), ("references", &reply.references)]
            {
                if let Some(ids) = ids {
                    told.push_str(&format!(" {name}={ids}"));
                }
            }
            format!("{told} subject={:?} text={:?}", reply.subject, reply.text)
        }
    }
}
