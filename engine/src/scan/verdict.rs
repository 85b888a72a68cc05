//! What the scan of one message has found: in the log, in the metrics, and in a field on top of it.

use super::attachments::Report;
use super::outbreak::table::Counts;
use super::settings::{Action, Scan};
use crate::quarantine::Reason;
use protocols::smtp::Refusal;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes kept of a name that a scanner gives.
pub const NAME_BYTES_MAX: usize = 128;

/// The field. As long as the name that forged ones get, so that nothing moves.
pub const FIELD: &str = "X-Virus-Scanned";
pub const FORGED_FIELD: &str = "X-Virus-Claimed";
const _: () = assert!(FIELD.len() == FORGED_FIELD.len());

/// The longest that one usually is; where there is less room it is left out.
pub const FIELD_BYTES_MAX: usize = 400;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Clean,
    /// The virus's name, in plain letters.
    Found(String),
    /// More than is scanned.
    TooLarge,
    /// No scanner has answered; why, for the operator.
    Unknown(String),
}

impl Outcome {
    /// In the order of [`Outcome::index`].
    pub const NAMES: [&str; 4] = ["clean", "found", "too_large", "unknown"];

    pub fn index(&self) -> usize {
        match self {
            Outcome::Clean => 0,
            Outcome::Found(_) => 1,
            Outcome::TooLarge => 2,
            Outcome::Unknown(_) => 3,
        }
    }

    pub fn name(&self) -> &'static str {
        Outcome::NAMES[self.index()]
    }
}

/// Which program, and which signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `ClamAV 1.4.6`.
    pub engine: String,
    /// `27000`; empty when the program does not tell.
    pub signatures: String,
}

impl Version {
    /// Whether its signatures are known to be older than those of `other`.
    pub fn is_behind(&self, other: &Version) -> bool {
        let number = |version: &Version| version.signatures.parse::<u64>().ok();
        match (number(self), number(other)) {
            (Some(ours), Some(theirs)) => ours < theirs,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// `ClamAV 1.4.6/27000`, or nothing.
    pub fn brief(&self) -> String {
        let slash = if self.signatures.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.engine, self.signatures)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub version: Version,
    /// Found out before, about the same content.
    pub is_cached: bool,
    pub elapsed: Duration,
}

impl Verdict {
    pub fn new(outcome: Outcome, version: Version) -> Verdict {
        Verdict { outcome, version, is_cached: false, elapsed: Duration::ZERO }
    }

    pub fn unknown(why: impl Into<String>) -> Verdict {
        Verdict::new(Outcome::Unknown(why.into()), Version::default())
    }

    pub fn action(&self, scan: &Scan) -> Action {
        match self.outcome {
            Outcome::Clean => Action::Mark,
            Outcome::Found(_) => scan.found,
            Outcome::TooLarge => scan.too_large,
            Outcome::Unknown(_) => scan.when_down,
        }
    }

    /// For the log: `clamav=found Eicar-Test-Signature (ClamAV 1.4.6/27000)`.
    pub fn brief(&self) -> String {
        let mut text = format!("clamav={}", self.outcome.name());
        if let Outcome::Found(what) | Outcome::Unknown(what) = &self.outcome {
            text.push(' ');
            text.push_str(what);
        }
        if !self.version.engine.is_empty() {
            text.push_str(&format!(" ({})", self.version.brief()));
        }
        text
    }

    /// For the field. What is unknown is said without its reason, which is the operator's.
    fn shown(&self) -> String {
        match &self.outcome {
            Outcome::Unknown(_) => format!("clamav={}", self.outcome.name()),
            Outcome::Clean | Outcome::Found(_) | Outcome::TooLarge => self.brief(),
        }
    }

    /// In words that the sender understands.
    fn refusal(&self) -> String {
        match &self.outcome {
            Outcome::Found(name) => format!("Message refused: it holds a virus ({name})"),
            Outcome::TooLarge => "Message refused: too large to be scanned for viruses".to_owned(),
            Outcome::Clean | Outcome::Unknown(_) => {
                "Message can't be scanned for viruses now, try again later".to_owned()
            }
        }
    }
}

/// All that was found in one message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// `None`: no scanner is configured.
    pub clamav: Option<Verdict>,
    pub attachments: Report,
    /// How often its like has come, when that is too often.
    pub outbreak: Option<Counts>,
}

impl Findings {
    /// For `virustest` (RFC 5235 section 3.3): 1 is clean, 5 is a virus; `None`: nobody has
    /// looked, or could tell.
    pub fn virustest(&self) -> Option<u8> {
        match self.clamav.as_ref()?.outcome {
            Outcome::Clean => Some(1),
            Outcome::Found(_) => Some(5),
            Outcome::TooLarge | Outcome::Unknown(_) => None,
        }
    }

    /// The hardest that follows from any of them, and what a sender is told.
    pub fn action(&self, scan: &Scan) -> (Action, String) {
        let clamav = self.clamav.as_ref().map(|found| (found.action(scan), found.refusal()));
        let attachments = self.attachments.worst(&scan.attachments).map(|(action, finding)| {
            let words = finding.kind.words();
            let reason = format!("Message refused: it brings {words} ({})", finding.name);
            (action, reason)
        });
        let outbreak = self.outbreak.map(|_| {
            let words = "Many messages like this one are going around, try again later";
            (scan.outbreak.action, words.to_owned())
        });
        let nothing = (Action::Mark, String::new());
        let all = clamav.into_iter().chain(attachments).chain(outbreak);
        // Of equals the first.
        all.rev().max_by_key(|(action, _)| *action).unwrap_or(nothing)
    }

    /// Why it is kept back, where that is what follows: of several reasons the worst.
    pub fn reason(&self, scan: &Scan) -> Reason {
        // Whatever follows from it elsewhere: who gets it out gets a virus.
        if self.has_virus() {
            return Reason::Virus;
        }
        let is_kept = |action: Action| action == Action::Quarantine;
        let clamav = self.clamav.as_ref().filter(|found| is_kept(found.action(scan)));
        if self.attachments.worst(&scan.attachments).is_some_and(|(action, _)| is_kept(action)) {
            return Reason::Attachment;
        }
        if clamav.is_some() { Reason::Unscanned } else { Reason::Outbreak }
    }

    pub fn has_virus(&self) -> bool {
        self.clamav.as_ref().is_some_and(|found| matches!(found.outcome, Outcome::Found(_)))
    }

    /// What the sender is told of a message that would be kept back, were it not for recipients on
    /// other hosts: to try again, if all that is wrong with it is that no scanner was there.
    pub fn refusal(&self, scan: &Scan, words: String) -> Refusal {
        let is_unknown =
            self.clamav.as_ref().is_some_and(|found| matches!(found.outcome, Outcome::Unknown(_)));
        match self.reason(scan) {
            Reason::Unscanned if is_unknown => Refusal::BUSY.saying(words),
            _ => Refusal::POLICY.saying(words),
        }
    }

    /// For the log.
    pub fn brief(&self) -> Option<String> {
        let outbreak = self.outbreak.map(|counts| {
            let Counts { messages, recipients, .. } = counts;
            let (networks, senders) = (counts.networks(), counts.senders());
            format!(
                "outbreak=suspect ({messages} messages, {networks} networks, {senders} senders, {recipients} recipients)"
            )
        });
        let all = [self.clamav.as_ref().map(Verdict::brief), self.attachments.brief(), outbreak];
        let all: Vec<String> = all.into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join(" "))
    }

    /// The whole field, with its final CRLF; empty when there is nothing to say.
    pub fn field(&self, hostname: &str) -> String {
        let outbreak = self.outbreak.map(|_| "outbreak=suspect".to_owned());
        let all = [self.clamav.as_ref().map(Verdict::shown), self.attachments.brief(), outbreak];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() {
            return String::new();
        }
        format!("{FIELD}: {hostname};\r\n\t{}\r\n", all.join(";\r\n\t"))
    }
}

/// What a scanner says, as far as it may stand in a field, a reply or a line of the log.
pub fn plain(bytes: &[u8]) -> String {
    let allowed = |byte: &&u8| (b' '..=b'~').contains(byte) && !b"()\\\";".contains(byte);
    let text: String =
        bytes.iter().filter(allowed).take(NAME_BYTES_MAX).map(|&byte| char::from(byte)).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_the_consequence_that_the_operator_has_chosen() {
        let scan = Scan {
            found: Action::Junk,
            too_large: Action::Reject,
            when_down: Action::Mark,
            ..Scan::default()
        };
        let action = |outcome| Verdict::new(outcome, Version::default()).action(&scan);
        assert_eq!(action(Outcome::Clean), Action::Mark);
        assert_eq!(action(Outcome::Found("x".to_owned())), Action::Junk);
        assert_eq!(action(Outcome::TooLarge), Action::Reject);
        assert_eq!(Verdict::unknown("down").action(&scan), Action::Mark);
    }

    #[test]
    fn the_field_is_one_field_whatever_a_scanner_says() {
        let name = plain(b"Evil\r\nX-Bad: yes (\"a\\b\"; \xff)");
        assert_eq!(name, "EvilX-Bad: yes ab");
        let version = Version { engine: plain(b"ClamAV 1.4.6"), signatures: "27000".to_owned() };
        let verdict = Verdict::new(Outcome::Found(name), version);
        let field = |clamav| Findings { clamav, ..Findings::default() }.field("mx.test");
        assert_eq!(
            field(Some(verdict)),
            "X-Virus-Scanned: mx.test;\r\n\tclamav=found EvilX-Bad: yes ab (ClamAV 1.4.6/27000)\r\n"
        );
        let unknown = field(Some(Verdict::unknown("/run/clamd: refused")));
        assert_eq!(unknown, "X-Virus-Scanned: mx.test;\r\n\tclamav=unknown\r\n");
        assert_eq!(field(None), "");
    }

    #[test]
    fn the_hardest_of_all_findings_is_what_follows() {
        use super::super::attachments::{Attachments, Finding, Kind};
        let actions = [(Kind::Executable, Action::Reject), (Kind::Macros, Action::Junk)].into();
        let attachments = Attachments { actions, ..Attachments::default() };
        let scan = Scan { attachments, ..Scan::default() };
        let finding = |kind| Finding { kind, name: "a.exe".to_owned() };
        let report = |kinds: &[Kind]| Report {
            findings: kinds.iter().map(|&kind| finding(kind)).collect(),
            ..Report::default()
        };
        let both = Findings {
            clamav: Some(Verdict::unknown("down")),
            attachments: report(&[Kind::Unseen, Kind::Executable]),
            outbreak: None,
        };
        let (action, words) = both.action(&scan);
        assert_eq!(action, Action::Reject);
        assert_eq!(words, "Message refused: it brings a program (a.exe)");
        assert_eq!(
            both.brief().as_deref(),
            Some("clamav=unknown down attachments=executable,unseen")
        );
        let keeping = Scan {
            found: Action::Quarantine,
            when_down: Action::Quarantine,
            attachments: Attachments {
                actions: [(Kind::Executable, Action::Quarantine)].into(),
                ..Attachments::default()
            },
            ..scan.clone()
        };
        assert_eq!(both.action(&keeping).0, Action::Quarantine);
        assert_eq!(both.reason(&keeping), Reason::Attachment);
        let down = Findings { attachments: report(&[Kind::Macros]), ..both };
        assert_eq!(down.reason(&keeping), Reason::Unscanned);
        assert_eq!(down.action(&scan).0, Action::Defer);
        let found = Verdict::new(Outcome::Found("V".to_owned()), Version::default());
        let virus = Findings {
            clamav: Some(found),
            attachments: report(&[Kind::Executable]),
            outbreak: None,
        };
        let many = Findings {
            outbreak: Some(Counts { messages: 7, ..Counts::default() }),
            ..Findings::default()
        };
        assert_eq!(many.action(&scan).0, Action::Junk);
        assert_eq!(many.field("mx.test"), "X-Virus-Scanned: mx.test;\r\n\toutbreak=suspect\r\n");
        assert_eq!(virus.action(&scan).1, "Message refused: it holds a virus (V)");
        assert_eq!(virus.reason(&keeping), Reason::Virus);
        let only_marked = Scan { found: Action::Mark, ..keeping.clone() };
        assert_eq!(virus.action(&only_marked).0, Action::Quarantine);
        assert_eq!(virus.reason(&only_marked), Reason::Virus, "kept back for what is attached");
        let is_permanent =
            |found: &Findings| found.refusal(&keeping, found.action(&keeping).1).is_permanent();
        assert!(!is_permanent(&down), "it may leave when a scanner is back");
        assert!(is_permanent(&virus) && is_permanent(&many));
        let too_large = Verdict::new(Outcome::TooLarge, Version::default());
        assert!(is_permanent(&Findings { clamav: Some(too_large), ..Findings::default() }));
        assert_eq!(many.reason(&keeping), Reason::Outbreak);
        assert_eq!(Findings::default().action(&scan).0, Action::Mark);
        assert_eq!(Findings::default().brief(), None);
    }
}
