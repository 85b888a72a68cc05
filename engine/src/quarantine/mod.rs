//! Mail that is kept back from its owner: one state of the one stored record, for each recipient.
//!
//! | file | what |
//! |---|---|
//! | [`settings`] | what the operator says: `[quarantine]` |
//! | [`note`] | why a message is kept back, and since when: a field of ours in front of it |
//! | [`kept`] | what can be told of a message without showing it to anybody |
//! | [`recalled`] | the same of mail that was delivered, and is pulled back since it was found out what it holds |
//! | [`actions`] | released, deleted |
//! | [`keeper`] | what is done without being asked: daily digests, and an end to what is old |
//! | [`digest`], [`letter`] | the mail that tells an account what was kept back, and what it was told last |
//! | [`links`] | the signed links in it, and what follows from them |
//! | [`operations`] | what an operator can ask |
//!
//! Invariants: kept mail lies in a mailbox that the store lists nowhere and finds by no name
//! (storage/FORMAT.md, "Quarantine"), so no client can make or fill it, nor read it, but where the
//! operator shows it (`quarantine.imap`): then all of it, also what may do harm; a message is at
//! one place, since it gets there by its delivery, or is pulled back by one record, and leaves by
//! one; the account's quota counts it, or strangers could fill the disk. Scripts do not see what is
//! kept back, neither when it comes nor when it is released: a script that answers, or throws away,
//! days later is nothing that its owner expects, who has just said that the message is wanted.

pub mod actions;
pub mod digest;
pub mod keeper;
pub mod kept;
pub mod letter;
pub mod links;
pub mod note;
pub mod operations;
pub mod recalled;
pub mod settings;

use crate::metrics::count;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt::Write;

/// Why a message is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its score.
    Spam,
    /// Its author's domain asks for it.
    Dmarc,
    Virus,
    /// What is attached.
    Attachment,
    /// Many of its like go around.
    Outbreak,
    /// No scanner could say whether it holds a virus.
    Unscanned,
}

impl Reason {
    pub const ALL: [Reason; 6] = [
        Reason::Spam,
        Reason::Dmarc,
        Reason::Virus,
        Reason::Attachment,
        Reason::Outbreak,
        Reason::Unscanned,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Spam => "spam",
            Reason::Dmarc => "dmarc",
            Reason::Virus => "virus",
            Reason::Attachment => "attachment",
            Reason::Outbreak => "outbreak",
            Reason::Unscanned => "unscanned",
        }
    }

    pub fn named(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// For users.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Spam => "looks like spam",
            Reason::Dmarc => "does not prove to be from whom it says",
            Reason::Virus => "holds a virus",
            Reason::Attachment => "brings a dangerous attachment",
            Reason::Outbreak => "is like many others that are going around",
            Reason::Unscanned => "could not be scanned for viruses",
        }
    }

    /// Only an operator lets it out, who says so expressly: its reader can't tell what it would do.
    pub fn is_harmful(self) -> bool {
        match self {
            Reason::Virus | Reason::Attachment => true,
            Reason::Spam | Reason::Dmarc | Reason::Outbreak | Reason::Unscanned => false,
        }
    }

    /// We took it for unwanted; who releases it says that we were wrong.
    pub fn is_judgement(self) -> bool {
        match self {
            Reason::Spam | Reason::Dmarc | Reason::Outbreak => true,
            Reason::Virus | Reason::Attachment | Reason::Unscanned => false,
        }
    }
}

/// Who has a message released or deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Operator,
    /// Its owner, by a link.
    Link,
    /// Nobody: it was kept for long enough.
    Age,
}

impl By {
    const ALL: [By; 3] = [By::Operator, By::Link, By::Age];

    pub fn name(self) -> &'static str {
        match self {
            By::Operator => "operator",
            By::Link => "link",
            By::Age => "age",
        }
    }
}

/// Counters of one core.
#[derive(Debug, Default)]
pub struct Counts {
    kept: [Cell<u64>; Reason::ALL.len()],
    released: [Cell<u64>; By::ALL.len()],
    deleted: [Cell<u64>; By::ALL.len()],
    pub digests: Cell<u64>,
    /// Links whose signature is not ours.
    pub forged: Cell<u64>,
}

impl Counts {
    pub fn kept(&self, reason: Reason) {
        count(&self.kept[reason as usize]);
    }

    pub fn released(&self, by: By, messages: usize) {
        add(&self.released[by as usize], messages);
    }

    pub fn deleted(&self, by: By, messages: usize) {
        add(&self.deleted[by as usize], messages);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            kept: self.kept.each_ref().map(Cell::get),
            released: self.released.each_ref().map(Cell::get),
            deleted: self.deleted.each_ref().map(Cell::get),
            digests: self.digests.get(),
            forged: self.forged.get(),
        }
    }
}

fn add(counter: &Cell<u64>, more: usize) {
    counter.set(counter.get() + more as u64);
}

/// The counters of one or several cores at one moment.
#[derive(Debug)]
pub struct Snapshot {
    kept: [u64; Reason::ALL.len()],
    released: [u64; By::ALL.len()],
    deleted: [u64; By::ALL.len()],
    digests: u64,
    forged: u64,
}

impl Snapshot {
    pub fn merge(&mut self, other: &Snapshot) {
        let add =
            |into: &mut [u64], from: &[u64]| into.iter_mut().zip(from).for_each(|(i, f)| *i += f);
        add(&mut self.kept, &other.kept);
        add(&mut self.released, &other.released);
        add(&mut self.deleted, &other.deleted);
        self.digests += other.digests;
        self.forged += other.forged;
    }

    /// Prometheus text format 0.0.4.
    pub fn write(&self, text: &mut String) {
        let mut family = |name: &str, help: &str, rows: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (label, value) in rows {
                let _ = writeln!(text, "{name}{label} {value}");
            }
        };
        let by = |counts: &[u64]| -> Vec<(String, u64)> {
            let rows = By::ALL.iter().zip(counts);
            rows.map(|(by, value)| (format!("{{by=\"{}\"}}", by.name()), *value)).collect()
        };
        let kept: Vec<(String, u64)> = Reason::ALL
            .iter()
            .zip(self.kept)
            .map(|(reason, value)| (format!("{{reason=\"{}\"}}", reason.name()), value))
            .collect();
        family("kura_quarantined_total", "Messages kept back, for each recipient", &kept);
        let released = by(&self.released[..By::Age as usize]);
        family("kura_quarantine_released_total", "Of these, the ones let into INBOX", &released);
        let deleted = by(&self.deleted);
        family("kura_quarantine_deleted_total", "Of these, the ones deleted", &deleted);
        let digests = [(String::new(), self.digests)];
        family("kura_quarantine_digests_total", "Mails that told of them", &digests);
        let forged = [(String::new(), self.forged)];
        family("kura_quarantine_links_forged_total", "Links that nobody here has made", &forged);
    }
}

/// Text of strangers as it may stand on a terminal: controls, and what turns the direction of
/// writing, are spelled out.
pub fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let is_hidden = matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        );
        if c.is_control() || is_hidden {
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The same within HTML: nothing of it is markup.
pub fn html(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in safe(text).chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_strangers_write_moves_a_cursor_turns_text_or_is_markup() {
        assert_eq!(safe("a\u{1b}[2Jb\r\n\tc"), "a\\u{1b}[2Jb\\u{d}\\u{a}\\u{9}c");
        assert_eq!(safe("exe.\u{202e}fdp"), "exe.\\u{202e}fdp");
        assert_eq!(safe("日本語 été"), "日本語 été");
        assert_eq!(html("<a href=\"x\">&'\u{9b}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\\u{9b}");
    }

    #[test]
    fn each_reason_has_one_name_and_only_what_harms_is_held_back_from_users() {
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.name()), Some(reason));
            assert_eq!(Reason::ALL[reason as usize], reason);
        }
        let harmful: Vec<_> = Reason::ALL.into_iter().filter(|one| one.is_harmful()).collect();
        assert_eq!(harmful, [Reason::Virus, Reason::Attachment]);
        assert!(Reason::ALL.into_iter().all(|one| !(one.is_harmful() && one.is_judgement())));
    }

    #[test]
    fn counters_add_up_over_cores() {
        let counts = Counts::default();
        counts.kept(Reason::Virus);
        counts.released(By::Link, 2);
        counts.deleted(By::Age, 3);
        let mut sum = counts.snapshot();
        sum.merge(&counts.snapshot());
        let mut text = String::new();
        sum.write(&mut text);
        for line in [
            "kura_quarantined_total{reason=\"virus\"} 2\n",
            "kura_quarantine_released_total{by=\"link\"} 4\n",
            "kura_quarantine_deleted_total{by=\"age\"} 6\n",
            "kura_quarantine_digests_total 0\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
