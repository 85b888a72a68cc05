//! SEARCH: the key tree, and deciding it over what has been loaded so far.
//! RFC 3501 section 6.4.4; results by RFC 4731.
//!
//! A message is decided in steps: first by what the index knows, then with the summary, the header,
//! the text. [`Key::decide`] answers yes, no, or what must be loaded next, so that a search reads
//! from disk only the messages that cheaper keys could not decide. Much text to look through is
//! looked through in steps, with pauses that the caller may give to others. Text compares without
//! case, in Unicode, with encoded words, transfer encodings and charsets decoded.

use super::flags::{FlagBits, keyword_bit};
use super::lexer::{Fault, Lexer, Parsed};
use super::sequence::SequenceSet;
use crate::message::date::{Day, read_imap_day};
use crate::message::field::Fields;
use crate::message::text::{decode_field, decode_part, fold};
use crate::message::{Address, Envelope, Kind, Span, Summary};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Parentheses, NOT and OR inside one another.
pub const DEPTH_MAX: usize = 50;
/// Keys of one search, at whatever depth.
pub const KEYS_MAX: usize = 256;
/// Octets of text looked through before a decision pauses; a text is looked through to its end.
const OCTETS_BETWEEN_PAUSES: usize = 512 * 1024;
/// What a header field counts for beside its own octets.
const FIELD_OCTETS: usize = 64;
/// What an address counts for: it is decoded each time.
const ADDRESS_OCTETS: usize = 256;

/// What must be loaded of a message, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Summary,
    Header,
    Text,
    /// Nothing but a pause: see [`Looked`].
    Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    No,
    Needs(Level),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    All,
    Flag {
        bits: FlagBits,
        set: bool,
    },
    Keyword {
        name: String,
        set: bool,
    },
    Recent(bool),
    /// Message numbers; resolved by [`Key::resolve`].
    Sequence(Numbers),
    Uid(Numbers),
    Larger(u32),
    Smaller(u32),
    Before(Day),
    On(Day),
    Since(Day),
    SentBefore(Day),
    SentOn(Day),
    SentSince(Day),
    /// Lower-case name, folded text.
    Header {
        name: String,
        text: Needle,
    },
    Body(Needle),
    Text(Needle),
    Not(Box<Key>),
    Or(Box<(Key, Key)>),
    And(Vec<Key>),
}

/// Folded text that a key looks for, with a number of its own in its search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needle {
    text: String,
    number: usize,
}

/// Where a needle is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Header,
    Body,
}

/// What has been looked for in a message. Nothing is looked for twice, so that a decision may
/// pause, or wait until more is loaded, and begin anew.
#[derive(Debug, Default)]
pub struct Looked {
    answers: RefCell<BTreeMap<(usize, Place), bool>>,
    octets: Cell<usize>,
}

impl Looked {
    /// There was a pause.
    pub fn rested(&self) {
        self.octets.set(0);
    }

    fn look(
        &self,
        needle: &Needle,
        place: Place,
        octets: usize,
        found: impl FnOnce(&str) -> bool,
    ) -> Verdict {
        let mut answers = self.answers.borrow_mut();
        let answer = match answers.get(&(needle.number, place)) {
            Some(answer) => *answer,
            None if self.octets.get() >= OCTETS_BETWEEN_PAUSES => {
                return Verdict::Needs(Level::Pause);
            }
            None => {
                self.octets.set(self.octets.get().saturating_add(octets));
                let answer = found(&needle.text);
                answers.insert((needle.number, place), answer);
                answer
            }
        };
        if answer { Verdict::Yes } else { Verdict::No }
    }
}

/// A set as the client wrote it, and what it means in the mailbox as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    set: SequenceSet,
    ranges: Vec<(u32, u32)>,
}

impl Numbers {
    fn hold(&self, number: u32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < number);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= number)
    }
}

/// RFC 4731: `None` asks for an old-style SEARCH response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReturnOptions {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchCommand {
    pub key: Key,
    pub options: Option<ReturnOptions>,
    /// The client names a charset that we do not read.
    pub bad_charset: bool,
}

/// One message, as far as it is loaded.
#[derive(Debug)]
pub struct Candidate<'m> {
    pub sequence: u32,
    pub uid: u32,
    pub flags: FlagBits,
    pub keywords: &'m [String],
    pub recent: bool,
    pub internal_day: Day,
    pub bytes: u32,
    pub summary: Option<&'m Summary>,
    pub header: Option<&'m HeaderText>,
    /// Folded text of the parts; see [`source_texts`].
    pub text: Option<&'m [String]>,
    pub looked: &'m Looked,
}

/// Fields of a header, decoded and folded: lower-case name, value.
#[derive(Debug, Default)]
pub struct HeaderText {
    fields: Vec<(String, String)>,
}

impl HeaderText {
    #[must_use]
    pub fn of(header: &[u8]) -> HeaderText {
        let fields = Fields::new(header).map(|field| {
            let name = String::from_utf8_lossy(field.name).to_ascii_lowercase();
            (name, fold(&decode_field(field.value)))
        });
        HeaderText { fields: fields.collect() }
    }

    fn octets(&self) -> usize {
        let octets = |(name, value): &(String, String)| {
            FIELD_OCTETS.saturating_add(name.len()).saturating_add(value.len())
        };
        self.fields.iter().map(octets).fold(0, usize::saturating_add)
    }
}

/// Bytes of a message that a text search looks at: a text part, or an embedded message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextSource {
    pub part: usize,
    pub span: Span,
    is_header: bool,
}

/// Where the text of a message is, in its order.
pub fn text_sources(summary: &Summary) -> impl Iterator<Item = TextSource> + '_ {
    summary.parts.iter().enumerate().flat_map(|(index, part)| {
        let embedded = index > 0 && part.envelope.is_some();
        let text = part.kind == Kind::Leaf && part.content.is("text");
        let source = |span, is_header| TextSource { part: index, span, is_header };
        let header = embedded.then(|| source(part.header, true));
        header.into_iter().chain(text.then(|| source(part.body, false)))
    })
}

/// Decoded and folded text of a source, whose bytes may be cut short.
#[must_use]
pub fn source_texts(summary: &Summary, source: TextSource, bytes: &[u8]) -> Vec<String> {
    if source.is_header {
        let fields = HeaderText::of(bytes).fields.into_iter();
        return fields.map(|(name, value)| format!("{name}: {value}")).collect();
    }
    let part = summary.parts.get(source.part);
    let text = part.and_then(|part| decode_part(&part.content, bytes));
    text.map(|text| fold(&text)).into_iter().collect()
}

impl Key {
    /// Gives numbers their meaning. One that is not in use matches nothing, as a UID does: clients
    /// search by numbers that have just gone, and other servers let them.
    pub fn resolve(&mut self, messages: u32, highest_uid: u32) {
        match self {
            Key::Sequence(numbers) => numbers.ranges = numbers.set.resolve(messages),
            Key::Uid(numbers) => numbers.ranges = numbers.set.resolve(highest_uid),
            Key::Not(key) => key.resolve(messages, highest_uid),
            Key::Or(keys) => {
                keys.0.resolve(messages, highest_uid);
                keys.1.resolve(messages, highest_uid);
            }
            Key::And(keys) => {
                keys.iter_mut().for_each(|key| key.resolve(messages, highest_uid));
            }
            Key::All
            | Key::Flag { .. }
            | Key::Keyword { .. }
            | Key::Recent(_)
            | Key::Larger(_)
            | Key::Smaller(_)
            | Key::Before(_)
            | Key::On(_)
            | Key::Since(_)
            | Key::SentBefore(_)
            | Key::SentOn(_)
            | Key::SentSince(_)
            | Key::Header { .. }
            | Key::Body(_)
            | Key::Text(_) => {}
        }
    }

    /// Whether the message matches, or what must be loaded to know.
    #[must_use]
    pub fn decide(&self, message: &Candidate<'_>) -> Verdict {
        let known = |matched: bool| if matched { Verdict::Yes } else { Verdict::No };
        match self {
            Key::All => Verdict::Yes,
            Key::Flag { bits, set } => known(message.flags.contains(*bits) == *set),
            Key::Keyword { name, set } => known(message.has_keyword(name) == *set),
            Key::Recent(recent) => known(message.recent == *recent),
            Key::Sequence(numbers) => known(numbers.hold(message.sequence)),
            Key::Uid(numbers) => known(numbers.hold(message.uid)),
            Key::Larger(bytes) => known(message.bytes > *bytes),
            Key::Smaller(bytes) => known(message.bytes < *bytes),
            Key::Before(day) => known(message.internal_day < *day),
            Key::On(day) => known(message.internal_day == *day),
            Key::Since(day) => known(message.internal_day >= *day),
            Key::SentBefore(day) => message.sent(|sent| sent < *day),
            Key::SentOn(day) => message.sent(|sent| sent == *day),
            Key::SentSince(day) => message.sent(|sent| sent >= *day),
            Key::Header { name, text } => message.header_holds(name, text),
            Key::Body(text) => message.body_holds(text),
            Key::Text(text) => match message.any_header_holds(text) {
                Verdict::No => message.body_holds(text),
                decided @ (Verdict::Yes | Verdict::Needs(_)) => decided,
            },
            Key::Not(key) => match key.decide(message) {
                Verdict::Yes => Verdict::No,
                Verdict::No => Verdict::Yes,
                needs @ Verdict::Needs(_) => needs,
            },
            Key::Or(keys) => match keys.0.decide(message) {
                Verdict::Yes => Verdict::Yes,
                first @ (Verdict::No | Verdict::Needs(_)) => either(first, keys.1.decide(message)),
            },
            // What is cheap decides first: the rest needs what is not loaded yet.
            Key::And(keys) => {
                let decide = |verdict, key: &Key| match both(verdict, key.decide(message)) {
                    Verdict::No => Err(Verdict::No),
                    verdict @ (Verdict::Yes | Verdict::Needs(_)) => Ok(verdict),
                };
                keys.iter().try_fold(Verdict::Yes, decide).unwrap_or_else(|no| no)
            }
        }
    }
}

fn both(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::No, _) | (_, Verdict::No) => Verdict::No,
        (Verdict::Yes, decided) | (decided, Verdict::Yes) => decided,
        // The cheaper one may decide it.
        (Verdict::Needs(one), Verdict::Needs(other)) => Verdict::Needs(one.min(other)),
    }
}

fn either(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Yes, _) | (_, Verdict::Yes) => Verdict::Yes,
        (Verdict::No, decided) | (decided, Verdict::No) => decided,
        (Verdict::Needs(one), Verdict::Needs(other)) => Verdict::Needs(one.min(other)),
    }
}

impl Candidate<'_> {
    fn has_keyword(&self, name: &str) -> bool {
        let index = self.keywords.iter().position(|keyword| keyword.eq_ignore_ascii_case(name));
        index.map(keyword_bit).is_some_and(|bit| bit.0 != 0 && self.flags.contains(bit))
    }

    fn sent(&self, matches: impl Fn(Day) -> bool) -> Verdict {
        let Some(summary) = self.summary else { return Verdict::Needs(Level::Summary) };
        // Without a Date field, the day of arrival stands for it.
        let day = summary.sent.map_or(self.internal_day, crate::message::date::Sent::day);
        if matches(day) { Verdict::Yes } else { Verdict::No }
    }

    fn header_holds(&self, name: &str, needle: &Needle) -> Verdict {
        if in_envelope(name) {
            let Some(summary) = self.summary else { return Verdict::Needs(Level::Summary) };
            let Some(envelope) = summary.envelope() else { return Verdict::No };
            let octets = envelope_octets(envelope, name);
            let found = |text: &str| envelope_holds(envelope, name, text);
            return self.looked.look(needle, Place::Header, octets, found);
        }
        let Some(header) = self.header else { return Verdict::Needs(Level::Header) };
        let found =
            |text: &str| header.fields.iter().any(|(n, value)| n == name && value.contains(text));
        self.looked.look(needle, Place::Header, header.octets(), found)
    }

    fn any_header_holds(&self, needle: &Needle) -> Verdict {
        let Some(header) = self.header else { return Verdict::Needs(Level::Header) };
        let found = |text: &str| {
            header.fields.iter().any(|(name, value)| value.contains(text) || name.contains(text))
        };
        self.looked.look(needle, Place::Header, header.octets(), found)
    }

    fn body_holds(&self, needle: &Needle) -> Verdict {
        let Some(texts) = self.text else { return Verdict::Needs(Level::Text) };
        let octets = texts.iter().map(String::len).fold(0, usize::saturating_add);
        let found = |text: &str| texts.iter().any(|part| part.contains(text));
        self.looked.look(needle, Place::Body, octets, found)
    }
}

/// Fields that the summary's envelope can decide.
fn in_envelope(name: &str) -> bool {
    matches!(name, "from" | "to" | "cc" | "bcc" | "subject" | "message-id")
}

fn envelope_octets(envelope: &Envelope, name: &str) -> usize {
    let list = match name {
        "from" => &envelope.from,
        "to" => &envelope.to,
        "cc" => &envelope.cc,
        "bcc" => &envelope.bcc,
        "subject" => return envelope.subject.as_ref().map_or(0, Vec::len),
        _ => return envelope.message_id.as_ref().map_or(0, Vec::len),
    };
    list.len().saturating_mul(ADDRESS_OCTETS)
}

fn envelope_holds(envelope: &Envelope, name: &str, text: &str) -> bool {
    let one = |value: &Option<Vec<u8>>| {
        value.as_ref().is_some_and(|value| fold(&decode_field(value)).contains(text))
    };
    let list = match name {
        "from" => &envelope.from,
        "to" => &envelope.to,
        "cc" => &envelope.cc,
        "bcc" => &envelope.bcc,
        "subject" => return one(&envelope.subject),
        _ => return one(&envelope.message_id),
    };
    list.iter().any(|address| fold(&address_text(address)).contains(text))
}

fn address_text(address: &Address) -> String {
    let text = |part: &Option<Vec<u8>>| part.as_ref().map(|p| decode_field(p)).unwrap_or_default();
    let (name, mailbox, host) = (text(&address.name), text(&address.mailbox), text(&address.host));
    format!("{name} <{mailbox}@{host}>")
}

/// Reads everything behind SEARCH.
pub fn read_search(lexer: &mut Lexer<'_>) -> Parsed<SearchCommand> {
    let mut options = None;
    if lexer.keyword("RETURN") {
        lexer.space()?;
        options = Some(read_return(lexer)?);
        lexer.space()?;
    }
    let mut bad_charset = false;
    if lexer.keyword("CHARSET") {
        lexer.space()?;
        let charset = lexer.astring()?;
        bad_charset =
            !charset.eq_ignore_ascii_case(b"UTF-8") && !charset.eq_ignore_ascii_case(b"US-ASCII");
        lexer.space()?;
    }
    let mut keys = Vec::new();
    let mut count = 0;
    loop {
        keys.push(read_key(lexer, 0, &mut count)?);
        if lexer.rest().is_empty() {
            break;
        }
        lexer.space()?;
        if lexer.rest().is_empty() {
            break;
        }
    }
    let key = if keys.len() == 1 { keys.pop().unwrap_or(Key::All) } else { Key::And(keys) };
    Ok(SearchCommand { key, options, bad_charset })
}

fn read_return(lexer: &mut Lexer<'_>) -> Parsed<ReturnOptions> {
    let mut options = ReturnOptions::default();
    let names = lexer.list(Lexer::atom)?;
    for name in &names {
        match name.to_ascii_uppercase().as_slice() {
            b"MIN" => options.min = true,
            b"MAX" => options.max = true,
            b"ALL" => options.all = true,
            b"COUNT" => options.count = true,
            _ => return Err(Fault("unknown search return option")),
        }
    }
    options.all |= names.is_empty();
    Ok(options)
}

/// `count`: keys read before this one.
fn read_key(lexer: &mut Lexer<'_>, depth: usize, count: &mut usize) -> Parsed<Key> {
    if depth > DEPTH_MAX {
        return Err(Fault("search keys nest too deep"));
    }
    *count = count.saturating_add(1);
    if *count > KEYS_MAX {
        return Err(Fault("too many search keys"));
    }
    let number = *count;
    let deeper = depth.saturating_add(1);
    if lexer.peek() == Some(b'(') {
        let keys = lexer.list(|lexer| read_key(lexer, deeper, count))?;
        return if keys.is_empty() { Err(Fault("empty search key")) } else { Ok(Key::And(keys)) };
    }
    if lexer.peek().is_some_and(|byte| byte.is_ascii_digit() || byte == b'*') {
        return Ok(Key::Sequence(Numbers { set: lexer.sequence_set()?, ranges: Vec::new() }));
    }
    let name = lexer.atom()?.to_ascii_uppercase();
    if let Some(key) = plain_key(&name) {
        return Ok(key);
    }
    lexer.space().map_err(|_| Fault("unknown search key, or one without its argument"))?;
    let header = |name: &str, text| Key::Header { name: name.into(), text };
    let needle = |text| Needle { text, number };
    Ok(match name.as_slice() {
        b"NOT" => Key::Not(Box::new(read_key(lexer, deeper, count)?)),
        b"OR" => {
            let first = read_key(lexer, deeper, count)?;
            lexer.space()?;
            Key::Or(Box::new((first, read_key(lexer, deeper, count)?)))
        }
        b"UID" => Key::Uid(Numbers { set: lexer.sequence_set()?, ranges: Vec::new() }),
        b"KEYWORD" => Key::Keyword { name: read_keyword(lexer)?, set: true },
        b"UNKEYWORD" => Key::Keyword { name: read_keyword(lexer)?, set: false },
        b"LARGER" => Key::Larger(lexer.number()?),
        b"SMALLER" => Key::Smaller(lexer.number()?),
        b"BEFORE" => Key::Before(read_day(lexer)?),
        b"ON" => Key::On(read_day(lexer)?),
        b"SINCE" => Key::Since(read_day(lexer)?),
        b"SENTBEFORE" => Key::SentBefore(read_day(lexer)?),
        b"SENTON" => Key::SentOn(read_day(lexer)?),
        b"SENTSINCE" => Key::SentSince(read_day(lexer)?),
        b"FROM" => header("from", needle(read_text(lexer)?)),
        b"TO" => header("to", needle(read_text(lexer)?)),
        b"CC" => header("cc", needle(read_text(lexer)?)),
        b"BCC" => header("bcc", needle(read_text(lexer)?)),
        b"SUBJECT" => header("subject", needle(read_text(lexer)?)),
        b"BODY" => Key::Body(needle(read_text(lexer)?)),
        b"TEXT" => Key::Text(needle(read_text(lexer)?)),
        b"HEADER" => {
            let name = read_text(lexer)?.to_ascii_lowercase();
            lexer.space()?;
            Key::Header { name, text: needle(read_text(lexer)?) }
        }
        _ => return Err(Fault("unknown search key")),
    })
}

fn plain_key(name: &[u8]) -> Option<Key> {
    let flag = |bits, set| Key::Flag { bits, set };
    Some(match name {
        b"ALL" => Key::All,
        b"ANSWERED" => flag(FlagBits::ANSWERED, true),
        b"UNANSWERED" => flag(FlagBits::ANSWERED, false),
        b"DELETED" => flag(FlagBits::DELETED, true),
        b"UNDELETED" => flag(FlagBits::DELETED, false),
        b"DRAFT" => flag(FlagBits::DRAFT, true),
        b"UNDRAFT" => flag(FlagBits::DRAFT, false),
        b"FLAGGED" => flag(FlagBits::FLAGGED, true),
        b"UNFLAGGED" => flag(FlagBits::FLAGGED, false),
        b"SEEN" => flag(FlagBits::SEEN, true),
        b"UNSEEN" => flag(FlagBits::SEEN, false),
        b"RECENT" => Key::Recent(true),
        b"OLD" => Key::Recent(false),
        b"NEW" => Key::And(vec![Key::Recent(true), flag(FlagBits::SEEN, false)]),
        _ => return None,
    })
}

fn read_keyword(lexer: &mut Lexer<'_>) -> Parsed<String> {
    lexer.flag().map(|name| String::from_utf8_lossy(name).into_owned())
}

fn read_day(lexer: &mut Lexer<'_>) -> Parsed<Day> {
    read_imap_day(&lexer.astring()?).ok_or(Fault("expected a date like 1-Feb-1994"))
}

fn read_text(lexer: &mut Lexer<'_>) -> Parsed<String> {
    let text = lexer.astring()?;
    std::str::from_utf8(&text).map(fold).map_err(|_| Fault("search text must be UTF-8"))
}

/// Writes the untagged response. `found` ascending; empty ESEARCH results leave out their items.
pub fn write_result(
    out: &mut Vec<u8>,
    tag: &[u8],
    by_uid: bool,
    options: Option<ReturnOptions>,
    found: &[u32],
) {
    use super::encode::push;
    let Some(options) = options else {
        out.extend_from_slice(b"* SEARCH");
        for number in found {
            push(out, format_args!(" {number}"));
        }
        out.extend_from_slice(b"\r\n");
        return;
    };
    out.extend_from_slice(b"* ESEARCH (TAG ");
    super::encode::string(out, tag);
    out.push(b')');
    if by_uid {
        out.extend_from_slice(b" UID");
    }
    if let (true, Some(first)) = (options.min, found.first()) {
        push(out, format_args!(" MIN {first}"));
    }
    if let (true, Some(last)) = (options.max, found.last()) {
        push(out, format_args!(" MAX {last}"));
    }
    if options.count {
        push(out, format_args!(" COUNT {}", found.len()));
    }
    if options.all && !found.is_empty() {
        let set = super::sequence::text(&super::sequence::runs(found.iter().copied()));
        push(out, format_args!(" ALL {set}"));
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
