//! What a message has attached, and whether it is of a kind that harms: by what it really is, by
//! what it is called, and by what is packed in it.
//!
//! Pure and bounded: whatever a message holds, [`limits`] say how much of it is unpacked,
//! listed and told. What is past a limit is [`Kind::Unseen`] or, where something is built to be
//! past it, [`Kind::Bomb`]. It parses with the scanner that summaries come from, which is
//! linear in the bytes.
//!
//! | where | what |
//! |---|---|
//! | [`rules`] | kinds, and what follows from each: `[scan.attachments]` |
//! | [`names`] | what a file's name says |
//! | [`content`] | what its bytes say |
//! | [`archive`] | what is packed in it |
//! | `mime` | parts of a message, their names and decoded bytes |

pub mod archive;
pub mod content;
pub(crate) mod mime;
pub mod names;
pub mod rules;
#[cfg(test)]
mod tests;

use super::settings::Action;
use super::verdict::plain;
pub use mime::decode;
use protocols::message::content::Content;
use protocols::message::scanner::limits::{PARTS_MAX, TEXT_BYTES_MAX};
use protocols::message::summary::{Kind as PartKind, Summary};
pub use rules::{Attachments, Kind};

/// What bounds the time and memory that one message can cost.
pub mod limits {
    /// Archives in archives, and messages in messages.
    pub const DEPTH_MAX: usize = 6;
    /// Bytes unpacked of one message, all archives together.
    pub const UNPACKED_BYTES_MAX: u64 = 32 << 20;
    /// Entries of archives that are listed of one message.
    pub const ENTRIES_MAX: u32 = 20_000;
    /// Of these, so many are unpacked as far as their type needs it.
    pub const ENTRIES_OPENED_MAX: u32 = 2_000;
    /// An archive that claims to hold more than this, at more than [`RATIO_MAX`], is a bomb.
    pub const CLAIMED_BYTES_MAX: u64 = 100 << 20;
    /// Unpacked against packed bytes.
    pub const RATIO_MAX: u64 = 200;
    /// Of a part that is longer, a glance looks at its name alone, and at the beginning of a text.
    pub const GLANCED_BYTES_MAX: usize = 64 << 10;
    /// Findings kept.
    pub const FINDINGS_MAX: usize = 16;
    /// Bytes kept of where a file is packed, its end.
    pub const PATH_BYTES_MAX: usize = crate::scan::verdict::NAME_BYTES_MAX;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    /// The file, and where it is packed: `invoice.zip/invoice.pdf.exe`, in plain letters.
    pub name: String,
}

/// What is known of a message's attachments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Something was not looked into because that takes time: ask again with [`inspect`].
    pub is_partial: bool,
}

impl Report {
    /// The hardest that the rules ask for, and the finding for it.
    pub fn worst(&self, rules: &Attachments) -> Option<(Action, &Finding)> {
        // Of equals the first.
        let actions = self.findings.iter().map(|finding| (rules.action(finding), finding));
        actions.rev().max_by_key(|(action, _)| *action)
    }

    /// There was no time to ask again.
    pub fn not_opened(self) -> Report {
        let mut inspection = Inspection::new(false);
        inspection.report = self;
        inspection.tell(Kind::Unseen, "message");
        inspection.report
    }

    /// For the log and the field: `attachments=executable,macros`, or nothing.
    pub fn brief(&self) -> Option<String> {
        let mut names: Vec<&str> =
            self.findings.iter().map(|finding| finding.kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then(|| format!("attachments={}", names.join(",")))
    }
}

/// A whole message of this summary, with everything that is packed in it. May take some
/// tenths of a second.
pub fn inspect(message: &[u8], summary: &Summary) -> Report {
    let mut inspection = Inspection::new(true);
    inspection.message(message, summary, 0, "");
    inspection.report
}

/// The same for a core, in about the time that it takes to read the message: nothing is unpacked,
/// and of long parts only texts are looked at.
pub fn glance(message: &[u8], summary: &Summary) -> Report {
    let mut inspection = Inspection::new(false);
    inspection.message(message, summary, 0, "");
    inspection.report
}

/// A message of which only the summary is known: names alone.
pub fn inspect_names(summary: &Summary) -> Report {
    let mut inspection = Inspection::new(false);
    for part in summary.parts.iter().filter(|part| part.kind == PartKind::Leaf) {
        for name in mime::names(&part.content) {
            inspection.name("", &name);
        }
    }
    inspection.tell(Kind::Unseen, "message");
    inspection.report
}

/// Where a file is: `invoice.zip/invoice.pdf.exe`. Both of any length, and a name may be as
/// long as an archive.
pub(crate) fn inside(path: &str, name: &str) -> String {
    let (path, name) = (tail(path, limits::PATH_BYTES_MAX), tail(name, limits::PATH_BYTES_MAX));
    let slash = if path.is_empty() { "" } else { "/" };
    let whole = format!("{path}{slash}{name}");
    tail(&whole, limits::PATH_BYTES_MAX).to_owned()
}

/// The end of a text, which says most of a name.
fn tail(text: &str, bytes_max: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes_max);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// A text that programs show, and save under no name that somebody else has chosen.
fn is_shown(content: &Content, names: &[String]) -> bool {
    let disposition = content.disposition.as_ref().map(|disposition| &disposition.kind);
    let is_inline = disposition.is_none_or(|kind| kind.eq_ignore_ascii_case(b"inline"));
    content.is("text") && names.is_empty() && is_inline
}

/// By its beginning, of which an encoding makes three bytes of one at most.
fn looks_like_text(content: &Content, body: &[u8]) -> bool {
    let beginning = &body[..body.len().min(3 * content::SNIFFED_BYTES)];
    content::type_of(&mime::decode(content, beginning)) == content::Type::Other
}

/// Under way through one message.
pub(crate) struct Inspection {
    report: Report,
    unpacks: bool,
    unpacked_left: u64,
    entries_left: u32,
    opened_left: u32,
}

impl Inspection {
    fn new(unpacks: bool) -> Inspection {
        Inspection {
            report: Report::default(),
            unpacks,
            unpacked_left: limits::UNPACKED_BYTES_MAX,
            entries_left: limits::ENTRIES_MAX,
            opened_left: limits::ENTRIES_OPENED_MAX,
        }
    }

    fn tell(&mut self, kind: Kind, path: &str) {
        let finding = Finding { kind, name: plain(path.as_bytes()) };
        let findings = &mut self.report.findings;
        // One of each kind is always told, however many of another there are.
        let is_new = findings.iter().all(|known| known.kind != kind);
        if is_new || (findings.len() < limits::FINDINGS_MAX && !findings.contains(&finding)) {
            findings.push(finding);
        }
    }

    fn name(&mut self, path: &str, name: &str) {
        for kind in names::kinds(name) {
            self.tell(kind, &inside(path, name));
        }
    }

    fn message(&mut self, message: &[u8], summary: &Summary, depth: usize, path: &str) {
        if summary.parts.len() >= PARTS_MAX {
            self.tell(Kind::Unseen, &inside(path, "parts"));
        }
        // The summary keeps a limited amount of text, a field for less than sixteen times its
        // octets; of longer headers every part's own is read once more.
        let header_bytes: u64 =
            summary.parts.iter().map(|part| u64::from(part.header.bytes())).sum();
        let keeps_all = header_bytes.saturating_mul(16) <= TEXT_BYTES_MAX as u64;
        for part in &summary.parts {
            if part.kind != PartKind::Leaf {
                continue;
            }
            let bytes = |span: protocols::message::summary::Span| {
                let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
                message.get(at(span.start)..at(span.end)).unwrap_or_default()
            };
            let header = (!keeps_all).then(|| mime::read_header(bytes(part.header))).flatten();
            let content = header.as_ref().unwrap_or(&part.content);
            let names = mime::names(content);
            for name in &names {
                self.name(path, name);
            }
            let body = bytes(part.body);
            if content.is("text") && names.is_empty() {
                for name in mime::uuencoded_names(body) {
                    self.name(path, &name);
                }
            }
            if content.is("multipart") {
                // Past the scanner's depth, or without a boundary.
                self.tell(Kind::Unseen, &inside(path, "nested parts"));
            }
            if is_shown(content, &names) && looks_like_text(content, body) {
                continue;
            }
            if !self.unpacks && body.len() > limits::GLANCED_BYTES_MAX {
                self.report.is_partial = true;
                continue;
            }
            let decoded = mime::decode(content, body);
            let file = inside(path, names.first().map_or("attachment", String::as_str));
            if !mime::is_message(content) {
                self.file(&decoded, depth, &file);
            } else if depth < limits::DEPTH_MAX {
                self.message(&decoded, &Summary::compute(&decoded), depth + 1, &file);
            } else {
                self.tell(Kind::Unseen, &file);
            }
        }
    }

    /// A file's bytes, whatever it is called.
    pub(crate) fn file(&mut self, bytes: &[u8], depth: usize, path: &str) {
        use content::Type;
        match content::type_of(bytes) {
            Type::Other => {}
            Type::Executable => self.tell(Kind::Executable, path),
            Type::Compound => {
                for kind in content::compound_kinds(bytes) {
                    self.tell(kind, path);
                }
            }
            Type::OtherArchive => self.tell(Kind::Unseen, path),
            Type::Zip | Type::Gzip | Type::Tar if depth >= limits::DEPTH_MAX => {
                self.tell(Kind::Bomb, path);
            }
            Type::Zip => archive::zip(self, bytes, depth, path),
            Type::Gzip => archive::gzip(self, bytes, depth, path),
            Type::Tar => archive::tar(self, bytes, depth, path),
        }
    }
}
