//! Dialogues in files: one behaviour each, named as a sentence.
//!
//! ```text
//! # Why this behaviour matters, with its section.
//! role: submission            facts of the session, before the first line of dialogue
//! S: 220 mx.example.test ESMTP Kura
//! C: EHLO a.test              a line of the client's, CRLF is added
//! C- half a line              the same without CRLF
//! S: 250 ...                  a line of the server's, exactly; consecutive ones are all it says
//! * tls                       the handshake succeeds
//! * wait 301                  so many seconds pass in silence
//! * message a\r\nb\r\n        what the engine was given as the last message
//! * removed 0,2               what QUIT removed (POP3)
//! * closed                    the machine has closed
//! ```
//!
//! With the fact `side: client` the machine is the client: `S:` and `S-` are what it hears, `C:`
//! what it says, and there are
//!
//! ```text
//! E: Ready                    an event, as the world around the machine tells it
//! * lost                      the server has closed
//! ```
//!
//! In `C` lines, `S` lines and messages `\r`, `\n`, `\0`, `\t`, `\\` and `\xHH` are octets, and
//! `{text*N}` repeats a text. Each file is played twice: with its pieces whole, and octet by octet.

use crate::laws::{Session, Subject, Talk};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// What the machine hears.
    Heard(Vec<u8>),
    /// What it says.
    Said(Vec<u8>),
    Told(String),
    Lost,
    Tls,
    Wait {
        seconds: u64,
    },
    Message(Vec<u8>),
    Removed(String),
    Closed,
}

/// One file.
#[derive(Debug)]
pub struct Transcript {
    pub path: PathBuf,
    pub facts: BTreeMap<String, String>,
    /// With their numbers in the file.
    pub lines: Vec<(usize, Line)>,
}

/// What a transcript can ask of a world, beside what every [`Subject`] has.
pub trait Witness: Subject {
    fn message(&self) -> Option<&[u8]> {
        None
    }

    fn removed(&self) -> Option<String> {
        None
    }

    /// The machine is told that its peer has closed.
    fn lost(&mut self) {}
}

impl Transcript {
    /// All `*.txt` of a folder, by name.
    ///
    /// # Panics
    /// When the folder is empty or a file is not a transcript: these are tests.
    #[must_use]
    pub fn read_all(folder: &Path) -> Vec<Transcript> {
        let entries =
            std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        assert!(!paths.is_empty(), "no transcripts in {folder:?}");
        paths.iter().map(|path| Transcript::read(path)).collect()
    }

    fn read(path: &Path) -> Transcript {
        let text = std::fs::read_to_string(path).unwrap();
        let mut transcript =
            Transcript { path: path.to_owned(), facts: BTreeMap::new(), lines: Vec::new() };
        for (index, text) in text.lines().enumerate() {
            let number = index + 1;
            match transcript.parse(text) {
                Some(Some(line)) => transcript.lines.push((number, line)),
                Some(None) => {}
                None => panic!("{}:{number}: not a line of a transcript", path.display()),
            }
        }
        transcript
    }

    /// `Some(None)`: a comment, a fact, nothing.
    fn parse(&mut self, text: &str) -> Option<Option<Line>> {
        if text.trim().is_empty() || text.starts_with('#') {
            return Some(None);
        }
        let with_end = |text| [unescape(text), b"\r\n".to_vec()].concat();
        let (mark, rest) = text.split_at_checked(2)?;
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let (peer, own) = if self.is_client() { ("S", "C") } else { ("C", "S") };
        let line = match mark {
            _ if mark == format!("{peer}:") => Line::Heard(with_end(rest)),
            _ if mark == format!("{peer}-") => Line::Heard(unescape(rest)),
            _ if mark == format!("{own}:") => Line::Said(with_end(rest)),
            _ if mark == format!("{own}-") => Line::Said(unescape(rest)),
            "E:" => Line::Told(rest.to_owned()),
            "* " => match rest.split_once(' ').unwrap_or((rest, "")) {
                ("tls", "") => Line::Tls,
                ("closed", "") => Line::Closed,
                ("lost", "") => Line::Lost,
                ("wait", seconds) => Line::Wait { seconds: seconds.parse().ok()? },
                ("message", text) => Line::Message(unescape(text)),
                ("removed", list) => Line::Removed(list.to_owned()),
                (_, _) => return None,
            },
            _ if self.lines.is_empty() => {
                let (fact, value) = text.split_once(": ")?;
                self.facts.insert(fact.to_owned(), value.to_owned());
                return Some(None);
            }
            _ => return None,
        };
        Some(Some(line))
    }

    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    fn is_client(&self) -> bool {
        self.fact("side") == Some("client")
    }

    /// What the peer sends, for the laws.
    #[must_use]
    pub fn talk(&self) -> Talk {
        let mut talk = vec![Vec::new()];
        for (_, line) in &self.lines {
            match line {
                Line::Heard(bytes) => talk.last_mut().unwrap().extend_from_slice(bytes),
                Line::Tls => talk.push(Vec::new()),
                // After a wait the session is over, or the rest makes no sense without it.
                Line::Wait { .. } | Line::Lost => break,
                Line::Said(_)
                | Line::Told(_)
                | Line::Message(_)
                | Line::Removed(_)
                | Line::Closed => {}
            }
        }
        talk
    }

    /// Plays it against fresh subjects.
    ///
    /// # Panics
    /// When the machine says or does something else.
    pub fn play<S: Witness>(&self, make: impl Fn() -> S) {
        self.play_in_pieces(&make, usize::MAX);
        self.play_in_pieces(&make, 1);
    }

    fn play_in_pieces<S: Witness>(&self, make: impl Fn() -> S, piece_octets_max: usize) {
        let mut session = Session::accepted(make());
        let mut said = String::new();
        let mut told = VecDeque::new();
        let mut in_flight = false;
        for (number, line) in &self.lines {
            let place = format!("{}:{number}", self.path.display());
            take(&mut session, &mut said, &mut told);
            if let Line::Said(expected) = line {
                let expected = expected.escape_ascii().to_string();
                match said.strip_prefix(&expected) {
                    Some(rest) => said = rest.to_owned(),
                    None => panic!("{place}: expected {expected}, got {said}"),
                }
                in_flight = false;
                continue;
            }
            if let Line::Told(expected) = line {
                assert_eq!(told.pop_front().as_ref(), Some(expected), "{place}, said: {said}");
                continue;
            }
            // Lines of the peer's in a row are pipelined: what they got is looked at after them.
            let pipelined = in_flight && matches!(line, Line::Heard(_));
            in_flight = matches!(line, Line::Heard(_));
            assert!(said.is_empty() || pipelined, "{place}: before it was said: {said}");
            match line {
                Line::Heard(bytes) => {
                    assert!(!session.is_closed() || pipelined, "{place}: closed already");
                    bytes.chunks(piece_octets_max).for_each(|piece| session.feed(piece));
                }
                Line::Tls => session.handshake(),
                Line::Wait { seconds } => session.wait(seconds * 1000),
                Line::Message(expected) => {
                    let message = session.subject.message().unwrap_or(b"(no message)");
                    let shown = message.escape_ascii().to_string();
                    assert_eq!(shown, expected.escape_ascii().to_string(), "{place}");
                }
                Line::Removed(expected) => {
                    let removed = session.subject.removed();
                    assert_eq!(removed.as_deref(), Some(expected.as_str()), "{place}");
                }
                Line::Closed => assert!(session.is_closed(), "{place}: still open"),
                Line::Lost => {
                    session.subject.lost();
                    session.feed(b"");
                }
                Line::Said(_) | Line::Told(_) => {}
            }
        }
        take(&mut session, &mut said, &mut told);
        assert_eq!(said, "", "{}: said at the end", self.path.display());
        let all = !self.is_client() || told.is_empty();
        assert!(all, "{}: told at the end: {told:?}", self.path.display());
    }
}

fn take<S: Subject>(session: &mut Session<S>, said: &mut String, told: &mut VecDeque<String>) {
    let (octets, events) = session.take_said_and_asked();
    said.push_str(&octets.escape_ascii().to_string());
    told.extend(events.iter().flat_map(|event| event.lines()).map(str::to_owned));
}

/// Escapes and repetitions.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let (octets, used) = match next {
            '\\' => escape(rest),
            '{' => repetition(rest),
            plain => (plain.to_string().into_bytes(), plain.len_utf8()),
        };
        bytes.extend_from_slice(&octets);
        rest = &rest[used..];
    }
    bytes
}

fn escape(text: &str) -> (Vec<u8>, usize) {
    match text.as_bytes().get(1) {
        Some(b'r') => (vec![b'\r'], 2),
        Some(b'n') => (vec![b'\n'], 2),
        Some(b't') => (vec![b'\t'], 2),
        Some(b'0') => (vec![0], 2),
        Some(b'\\') => (vec![b'\\'], 2),
        Some(b'x') => match u8::from_str_radix(&text[2..4], 16) {
            Ok(octet) => (vec![octet], 4),
            Err(_) => panic!("not an escape: {text}"),
        },
        _ => panic!("not an escape: {text}"),
    }
}

/// `{text*N}`; any other brace stands for itself (IMAP has literals).
fn repetition(text: &str) -> (Vec<u8>, usize) {
    let inside = text.find('}').and_then(|end| Some((end, text[1..end].rsplit_once('*')?)));
    match inside.map(|(end, (repeated, count))| (end, repeated, count.parse())) {
        Some((end, repeated, Ok(count))) => (unescape(repeated).repeat(count), end + 1),
        Some((_, _, Err(_))) | None => (vec![b'{'], 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_repetitions_are_octets() {
        assert_eq!(unescape(r"a\r\n\0\x7f\\{xy*3}é"), b"a\r\n\0\x7f\\xyxyxy\xc3\xa9");
        assert_eq!(unescape(r"{a\r\n*2}{3+}"), b"a\r\na\r\n{3+}");
    }
}
