//! The sum of what was found, what follows from it, and how it stands in the message.
//!
//! ```text
//! X-Spam-Flag: YES
//! X-Spam-Status: Yes, score=7.3 required=5.0
//!     tests=CLASSIFIER=4.1,HTML_ONLY=0.8,URL_NUMERIC=1.5
//! ```
//!
//! The names are those that SpamAssassin has made common, which users' own rules look for.

use super::Hit;
use super::settings::Spam;
use protocols::message::field::Fields;

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Accept,
    Tag,
    Junk,
    Quarantine,
    Reject,
}

impl Action {
    pub const ALL: [Action; 5] =
        [Action::Accept, Action::Tag, Action::Junk, Action::Quarantine, Action::Reject];

    pub fn name(self) -> &'static str {
        match self {
            Action::Accept => "accept",
            Action::Tag => "tag",
            Action::Junk => "junk",
            Action::Quarantine => "quarantine",
            Action::Reject => "reject",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub hits: Vec<Hit>,
    pub score: f64,
    pub action: Action,
    /// Where junk begins.
    required: f64,
    tagged: bool,
}

impl Verdict {
    pub fn new(hits: Vec<Hit>, spam: &Spam) -> Verdict {
        // In tenths, so that what is written adds up to what was decided.
        let sum: f64 = hits.iter().map(|hit| hit.score).sum();
        let score = (sum * 10.0).round() / 10.0 + 0.0; // no -0.0
        let action = if spam.reject_at > 0.0 && score >= spam.reject_at {
            Action::Reject
        } else if spam.quarantine_at > 0.0 && score >= spam.quarantine_at {
            Action::Quarantine
        } else if score >= spam.junk_at {
            Action::Junk
        } else if score >= spam.tag_at {
            Action::Tag
        } else {
            Action::Accept
        };
        let tagged = score >= spam.tag_at;
        Verdict { hits, score, action, required: spam.junk_at, tagged }
    }

    /// 0 to 100, where junk begins: for Sieve's spamtest (RFC 5235 section 3.2).
    pub fn percent(&self) -> u8 {
        // Within the range of the type, and not a number only if `junk_at` were none.
        (100.0 * self.score / self.required).clamp(0.0, 100.0) as u8
    }

    /// The fields, each with its CRLF, in at most `bytes_max`: where there is too little room,
    /// rules are left out, those of the least weight first.
    pub fn fields(&self, bytes_max: usize) -> String {
        let answer = if self.score >= self.required { "Yes" } else { "No" };
        let flag = if self.tagged { "X-Spam-Flag: YES\r\n" } else { "" };
        let start = format!(
            "{flag}X-Spam-Status: {answer}, score={:.1} required={:.1}",
            self.score, self.required
        );
        let mut order: Vec<&Hit> = self.hits.iter().filter(|hit| hit.score != 0.0).collect();
        order.sort_by(|one, other| other.score.abs().total_cmp(&one.score.abs()));
        let names = |hits: &[&Hit]| {
            let mut text = String::new();
            let mut column = usize::MAX;
            for (index, hit) in hits.iter().enumerate() {
                let piece = format!("{}={:.1}", hit.rule, hit.score);
                if column.saturating_add(piece.len()) > 76 {
                    text.push_str(if index == 0 { "\r\n\ttests=" } else { ",\r\n\t" });
                    column = 12;
                } else {
                    text.push(',');
                }
                column += piece.len() + 1;
                text.push_str(&piece);
            }
            text
        };
        loop {
            let text = format!("{start}{}\r\n", names(&order));
            if text.len() <= bytes_max {
                return text;
            }
            if order.pop().is_none() {
                return String::new();
            }
        }
    }

    /// For the log: `7.3 CLASSIFIER=4.1 HTML_ONLY=0.8`.
    pub fn brief(&self) -> String {
        let mut text = format!("{:.1}", self.score);
        for hit in self.hits.iter().filter(|hit| hit.score != 0.0) {
            text.push_str(&format!(" {}={:.1}", hit.rule, hit.score));
        }
        text
    }

    /// In words that the sender's postmaster understands; which rules they were is
    /// nobody's business.
    pub fn refusal(&self) -> String {
        "The message looks like spam; if it is not, ask the recipient to be written to by another way"
            .to_owned()
    }
}

/// Names that only we write, and what they become when a message brings them along: as long, so
/// that nothing moves.
const OURS: [(&str, &str); 5] = [
    (crate::quarantine::note::FIELD, "X-Said-Quarantine"),
    ("X-Spam-Status", "X-Said-Status"),
    ("X-Spam-Flag", "X-Said-Flag"),
    ("X-Spam-Sender", "X-Said-Sender"),
    ("X-Spam-Account", "X-Said-Account"),
];

/// Renames, in place, what says of a message from elsewhere that we have judged it. How
/// many there were.
pub fn disarm(message: &mut [u8]) -> usize {
    let mut forged = Vec::new();
    let mut at = 0;
    for field in Fields::new(message) {
        let known = OURS.iter().find(|(name, _)| field.is(name));
        forged.extend(known.map(|(_, name)| (at, name)));
        at += field.whole.len();
    }
    for (at, name) in &forged {
        if let Some(there) = message.get_mut(*at..*at + name.len()) {
            there.copy_from_slice(name.as_bytes());
        }
    }
    forged.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(rule: &str, score: f64) -> Hit {
        Hit { rule: rule.to_owned(), score, reason: "because".to_owned(), of_content: true }
    }

    #[test]
    fn each_score_has_its_action() {
        let spam = Spam { tag_at: 3.0, junk_at: 5.0, reject_at: 15.0, ..Spam::default() };
        for (score, action) in [
            (2.94, Action::Accept),
            (2.95, Action::Tag),
            (3.0, Action::Tag),
            (5.0, Action::Junk),
            (14.9, Action::Junk),
            (15.0, Action::Reject),
        ] {
            assert_eq!(Verdict::new(vec![hit("A", score)], &spam).action, action, "{score}");
        }
        for (score, percent) in [(-3.0, 0), (0.0, 0), (2.5, 50), (5.0, 100), (40.0, 100)] {
            assert_eq!(Verdict::new(vec![hit("A", score)], &spam).percent(), percent, "{score}");
        }
        let keeping = Spam { quarantine_at: 8.0, ..spam.clone() };
        for (score, action) in [
            (7.94, Action::Junk),
            (7.95, Action::Quarantine),
            (14.9, Action::Quarantine),
            (15.0, Action::Reject),
        ] {
            assert_eq!(Verdict::new(vec![hit("A", score)], &keeping).action, action, "{score}");
        }
        let lenient = Spam { reject_at: 0.0, ..spam };
        assert_eq!(Verdict::new(vec![hit("A", 99.0)], &lenient).action, Action::Junk);
    }

    #[test]
    fn the_fields_fit_their_room_and_the_least_goes_first() {
        let hits: Vec<Hit> = (0..40_u32).map(|n| hit(&format!("RULE_{n}"), f64::from(n))).collect();
        let verdict = Verdict::new(hits, &Spam::default());
        let all = verdict.fields(usize::MAX);
        assert!(all.starts_with("X-Spam-Flag: YES\r\nX-Spam-Status: Yes, score=780.0 required=5.0\r\n\ttests=RULE_39=39.0,"), "{all}");
        assert!(all.lines().all(|line| line.len() <= 80), "{all}");
        assert!(!all.contains("RULE_0="));
        for room in 0..all.len() {
            let text = verdict.fields(room);
            assert!(text.len() <= room && (text.is_empty() || text.ends_with("\r\n")), "{room}");
            assert!(
                !text.contains("RULE_1=") && (text.len() < 90 || text.contains("RULE_39=")),
                "{text}"
            );
        }
        let none = Verdict::new(vec![], &Spam::default());
        assert_eq!(none.fields(99), "X-Spam-Status: No, score=0.0 required=5.0\r\n");
    }

    #[test]
    fn names_are_replaced_by_names_of_the_same_length() {
        assert!(OURS.iter().all(|(ours, theirs)| ours.len() == theirs.len()));
    }

    #[test]
    fn fields_that_are_ours_are_renamed_and_nothing_else_changes() {
        let before = "Subject: x\r\nX-Spam-Status: No\r\nX-Spam-Level: *\r\nx-spam-flag : NO\r\n\r\nX-Spam-Flag: NO\r\n";
        let mut after = before.as_bytes().to_vec();
        assert_eq!(disarm(&mut after), 2);
        let expected =
            before.replace("X-Spam-Status", "X-Said-Status").replace("x-spam-flag", "X-Said-Flag");
        assert_eq!(String::from_utf8(after).unwrap(), expected);
    }
}
