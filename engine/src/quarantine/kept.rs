//! What can be told of kept mail without handing it over: who claims to have sent it, why it is
//! here, and its text.
//!
//! Everything that strangers wrote is spelled out ([`safe`]); of attachments names alone are told.
//! Bounded: one read of [`HEADER_BYTES`] for a line in a list, of [`MESSAGE_BYTES_MAX`] for a
//! message that is shown.

use super::note::Note;
use super::recalled;
use super::{Reason, safe};
use crate::core::give_way;
use crate::filter::classifier;
use crate::filter::html::Html;
use crate::filter::limits::MESSAGE_BYTES_MAX;
use crate::filter::mail::Mail;
use crate::scan::verdict as scan;
use crate::shard::Shard;
use crate::when::time_text;
use protocols::message::envelope::{Address, addresses};
use protocols::message::field::{Fields, unfold};
use protocols::message::summary::Kind;
use protocols::message::text::{decode_field, decode_part};
use serde_json::{Value, json};
use storage::{AccountId, Error, MailboxId, MessageEntry, Uid};

/// Of a message in a list.
const HEADER_BYTES: u64 = 16 << 10;
/// Of a subject, an address, or a field.
const TEXT_CHARS_MAX: usize = 200;
/// Of the text of a message that is shown.
const SHOWN_CHARS_MAX: usize = 16_000;
/// Of one that is shown, fields of the header.
const FIELDS_MAX: usize = 200;
const RULES_MAX: usize = 50;
/// Of one that is shown, parts that are looked at.
const PARTS_MAX: usize = 50;
/// Rows that are looked at in one go.
const UIDS_AT_ONCE: u32 = 4096;

/// A rule that matched, and what it added.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub name: String,
    pub score: f64,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub uid: Uid,
    pub octets: u32,
    pub reason: Reason,
    /// Unix milliseconds.
    pub since: u64,
    pub from: String,
    pub subject: String,
    /// As the sender wrote it.
    pub date: String,
    pub score: Option<f64>,
    pub rules: Vec<Rule>,
    /// What the scan has found.
    pub scan: String,
    /// The mailbox that it was in before that was known.
    pub pulled_back_from: Option<String>,
}

/// The entries of a mailbox from `first` on, some at once: `None` when there are no more.
pub fn some_entries(
    shard: &Shard,
    account: AccountId,
    mailbox: MailboxId,
    first: &mut u32,
) -> Result<Option<Vec<MessageEntry>>, Error> {
    let end = shard.store.status(account, mailbox)?.uid_next.0;
    while *first < end {
        let last = first.saturating_add(UIDS_AT_ONCE);
        let entries = shard.store.entries(account, mailbox, *first..=last)?;
        *first = last.saturating_add(1);
        if !entries.is_empty() {
            return Ok(Some(entries));
        }
    }
    Ok(None)
}

/// Why a message is here and since when. An error is one of reading: nothing follows from it, since
/// mail that was collected may have been received long before it was kept back.
pub async fn note(
    shard: &Shard,
    account: AccountId,
    mailbox: MailboxId,
    of: &MessageEntry,
) -> Result<Note, Error> {
    if let Some(recall) = recalled::of(shard, account, of.uid) {
        return Ok(recall.note());
    }
    let prefix = 0..u64::from(of.prefix_bytes);
    let prefix = shard.store.read(account, mailbox, of.uid, prefix).await?;
    Ok(note_in(&prefix, of))
}

/// Where there is none, what its place tells; what is not known is taken for the worst.
fn note_in(prefix: &[u8], of: &MessageEntry) -> Note {
    let unknown = Note { reason: Reason::Virus, since: of.internal_date.0 };
    Note::read(prefix).unwrap_or(unknown)
}

/// For a line in a list.
pub async fn look(
    shard: &Shard,
    account: AccountId,
    mailbox: MailboxId,
    entry: &MessageEntry,
) -> Result<Kept, Error> {
    let head = match shard.store.read(account, mailbox, entry.uid, 0..HEADER_BYTES).await {
        Ok(head) => head,
        // It has a place, and can be deleted; others are listed beside it.
        Err(Error::Corrupt { .. } | Error::Read { .. }) => bytes::Bytes::new(),
        Err(error) => return Err(error),
    };
    let prefix = &head[..head.len().min(usize::from(entry.prefix_bytes))];
    let recall = recalled::of(shard, account, entry.uid);
    let note = recall.as_ref().map_or_else(|| note_in(prefix, entry), recalled::Recall::note);
    let mut kept = Kept {
        uid: entry.uid,
        octets: entry.bytes,
        reason: note.reason,
        since: note.since,
        from: String::new(),
        subject: String::new(),
        date: String::new(),
        score: None,
        rules: Vec::new(),
        scan: recall.as_ref().map(|recall| safe(&recall.found)).unwrap_or_default(),
        pulled_back_from: recall.as_ref().and_then(|one| one.mailbox.as_deref()).map(safe),
    };
    let ours = format!("{};", shard.config.hostname);
    // What was found when it came is not why it is here.
    let (mut has_status, mut has_scan) = (false, recall.is_some());
    for field in Fields::new(&head) {
        // The topmost is ours. Of mail that was judged, what it brought under such a name was
        // renamed; of a gateway's, which is only scanned, it stands below what the scan has found.
        let is_judged = matches!(note.reason, Reason::Spam | Reason::Dmarc) || !has_scan;
        if field.is("X-Spam-Status") && !has_status && is_judged {
            has_status = true;
            (kept.score, kept.rules) = status(shard, &text(field.value));
        } else if field.is(scan::FIELD) && !has_scan {
            has_scan = true;
            let value = text(field.value);
            kept.scan = safe(value.strip_prefix(&ours).unwrap_or_default().trim());
        } else if field.is("From") && kept.from.is_empty() {
            kept.from = author(field.value);
        } else if field.is("Subject") && kept.subject.is_empty() {
            kept.subject = cut(&decode_field(field.value), TEXT_CHARS_MAX);
        } else if field.is("Date") && kept.date.is_empty() {
            kept.date = cut(&text(field.value), TEXT_CHARS_MAX);
        }
    }
    Ok(kept)
}

impl Kept {
    pub fn row(&self, address: &str) -> Value {
        let rules = self
            .rules
            .iter()
            .map(|rule| json!({ "rule": rule.name, "score": rule.score, "reason": rule.reason }));
        json!({
            "id": id(address, self.uid),
            "account": address,
            "since": time_text(self.since),
            "reason": self.reason.name(),
            "from": self.from,
            "subject": self.subject,
            "date": self.date,
            "octets": self.octets,
            "score": self.score,
            "rules": rules.collect::<Vec<_>>(),
            "scan": self.scan,
            "pulled_back_from": self.pulled_back_from,
        })
    }

    /// Whether `rule` is what it was kept back for: a rule's name, or a reason's.
    pub fn has_rule(&self, rule: &str) -> bool {
        self.reason.name().eq_ignore_ascii_case(rule)
            || self.rules.iter().any(|one| one.name.eq_ignore_ascii_case(rule))
    }

    /// Why it is here, for its owner: the reason, and the rules that weigh most.
    pub fn why(&self) -> String {
        const TOLD: usize = 3;
        let mut why = self.reason.words().to_owned();
        if let Some(mailbox) = &self.pulled_back_from {
            why += &format!(", which was found out when it was in {mailbox}");
        }
        if let Some(score) = self.score {
            why += &format!(", score {score:.1}");
        }
        let mut rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.score > 0.0).collect();
        rules.sort_by(|one, other| other.score.total_cmp(&one.score));
        for rule in rules.iter().take(TOLD) {
            why += "; ";
            why += &rule.reason;
        }
        why
    }
}

/// What an operator calls a message.
pub fn id(address: &str, uid: Uid) -> String {
    format!("{address}:{}", uid.0)
}

/// The account's address, and the message.
pub fn of_id(id: &str) -> Option<(&str, Uid)> {
    let (address, uid) = id.rsplit_once(':')?;
    uid.parse().ok().filter(|uid| *uid > 0).map(|uid| (address, Uid(uid)))
}

fn cut(text: &str, chars_max: usize) -> String {
    let is_longer = text.chars().nth(chars_max).is_some();
    let start: String = text.trim().chars().take(chars_max).collect();
    safe(&start) + if is_longer { "…" } else { "" }
}

fn text(value: &[u8]) -> String {
    let value = unfold(value);
    let text = String::from_utf8_lossy(&value);
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// `Ann <ann@a.test>`, of the first address.
fn author(value: &[u8]) -> String {
    let all = addresses(value, 2);
    // IMAP wants a host even where there is none.
    let is_whole = |part: &Option<Vec<u8>>| part.as_ref().is_some_and(|part| !part.is_empty());
    let whole = |one: &&Address| is_whole(&one.mailbox) && is_whole(&one.host);
    let Some(first) = all.iter().find(whole) else {
        return cut(&text(value), TEXT_CHARS_MAX);
    };
    let part = |part: &Option<Vec<u8>>| {
        String::from_utf8_lossy(part.as_deref().unwrap_or_default()).into_owned()
    };
    let address = format!("{}@{}", part(&first.mailbox), part(&first.host));
    let name = first.name.as_deref().map(decode_field).unwrap_or_default();
    match name.trim().is_empty() {
        true => cut(&address, TEXT_CHARS_MAX),
        false => format!("{} <{}>", cut(&name, TEXT_CHARS_MAX), cut(&address, TEXT_CHARS_MAX)),
    }
}

/// Score and rules of `Yes, score=7.3 required=5.0 tests=A=4.1,B=1.0`, with each rule's reason.
fn status(shard: &Shard, value: &str) -> (Option<f64>, Vec<Rule>) {
    let word = |name: &str| value.split(' ').find_map(|word| word.strip_prefix(name));
    let score = word("score=").and_then(|score| score.parse().ok());
    let Some((_, tests)) = value.split_once("tests=") else { return (score, Vec::new()) };
    let rule = |test: &str| {
        let (name, score) = test.trim().rsplit_once('=')?;
        let known = shard.rules.rules.iter().find(|rule| rule.name == name);
        let reason = match known {
            Some(rule) => rule.reason.clone(),
            None if name == classifier::RULE => {
                "compared with mail that was sorted here".to_owned()
            }
            None if name.starts_with("LIST_") => "its client is on a block list".to_owned(),
            None => name.to_owned(),
        };
        Some(Rule { name: safe(name), score: score.parse().ok()?, reason: safe(&reason) })
    };
    (score, tests.split(',').take(RULES_MAX).filter_map(rule).collect())
}

/// A message as an operator may look at it: header and verdict, its text, and what
/// is attached to it.
pub async fn show(
    shard: &Shard,
    address: &str,
    account: AccountId,
    mailbox: MailboxId,
    entry: &MessageEntry,
) -> Result<Value, Error> {
    let mut shown = look(shard, account, mailbox, entry).await?.row(address);
    let most = MESSAGE_BYTES_MAX as u64;
    let message = shard.store.read(account, mailbox, entry.uid, 0..most).await?;
    give_way().await;
    let is_cut = u64::from(entry.bytes) > most;
    // Decoding takes longer than a core has.
    let read = glommio::executor().spawn_blocking(move || read(&message)).await;
    let (fields, text, attachments) = read;
    shown["header"] = json!(fields);
    shown["text"] = json!(text);
    shown["attachments"] = json!(attachments);
    shown["beginning_only"] = json!(is_cut);
    Ok(shown)
}

/// Fields, text, and names of attachments.
fn read(message: &[u8]) -> (Vec<[String; 2]>, String, Vec<String>) {
    let mail = Mail::read(message);
    let fields = mail.fields.iter().take(FIELDS_MAX).map(|field| {
        let name = field.whole.split(|&byte| byte == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).trim().to_owned();
        [cut(&name, TEXT_CHARS_MAX), cut(&text(field.value), 4 * TEXT_CHARS_MAX)]
    });
    let fields = fields.collect();
    let start: String = body(&mail).chars().take(SHOWN_CHARS_MAX).collect();
    let lines: Vec<String> = start.lines().map(|line| safe(line.trim_end())).collect();
    let attachments = mail.attachments.iter().map(|name| cut(name, TEXT_CHARS_MAX)).collect();
    (fields, lines.join("\n"), attachments)
}

/// The text that a reader would see first, without what is attached: plain, or else HTML as it is
/// shown, without what it points at.
fn body(mail: &Mail<'_>) -> String {
    let (mut plain, mut html) = (String::new(), String::new());
    for part in mail.summary.parts.iter().take(PARTS_MAX) {
        let disposition = part.content.disposition.as_ref();
        let is_attached = disposition.is_some_and(|one| !one.kind.eq_ignore_ascii_case(b"inline"));
        if part.kind != Kind::Leaf || !part.content.is("text") || is_attached {
            continue;
        }
        let offset = |at: u32| usize::try_from(at).unwrap_or(usize::MAX).min(mail.raw.len());
        let raw = mail.raw.get(offset(part.body.start)..offset(part.body.end)).unwrap_or_default();
        let Some(text) = decode_part(&part.content, raw) else { continue };
        let is_html = part.content.sub.eq_ignore_ascii_case(b"html");
        let into = if is_html { &mut html } else { &mut plain };
        into.push_str(&text);
        into.push('\n');
    }
    if plain.trim().is_empty() { Html::read(&html).text } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_its_account_and_uid() {
        assert_eq!(of_id("ann@a.test:7"), Some(("ann@a.test", Uid(7))));
        assert_eq!(of_id(&id("a:b@c.test", Uid(9))), Some(("a:b@c.test", Uid(9))));
        for odd in ["", "ann@a.test", "ann@a.test:", "ann@a.test:0", "ann@a.test:x", "a:4294967296"]
        {
            assert_eq!(of_id(odd), None, "{odd}");
        }
    }

    #[test]
    fn authors_are_shown_by_name_and_address_and_spelled_out() {
        assert_eq!(author(b" =?utf-8?q?Ann=1b[2J?= <ann@a.test>"), "Ann\\u{1b}[2J <ann@a.test>");
        assert_eq!(author(b" ann@a.test"), "ann@a.test");
        assert_eq!(author(b" nobody at all\x07"), "nobody at all\\u{7}");
    }

    #[test]
    fn what_is_shown_is_text_without_markup_and_without_what_is_attached() {
        let message = b"Subject: x\x1b]0;y\x07\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: \
            text/html\r\n\r\n<p>Hello <script>alert(1)</script><a href='http://evil.test/'>you</a>\x1b[31m</p>\r\n--b\r\n\
            Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"run\x07.exe\"\r\n\r\n\
            SECRET PAYLOAD\r\n--b\r\nContent-Disposition: attachment\r\n\r\nSECRET TEXT\r\n--b--\r\n";
        let (fields, text, attachments) = read(message);
        assert_eq!(fields[0], ["Subject", "x\\u{1b}]0;y\\u{7}"]);
        assert!(text.contains("Hello") && text.contains("you"), "{text}");
        let all = format!("{fields:?} {text} {attachments:?}");
        for never in ["alert", "SECRET", "<p>", "\u{1b}", "\u{7}"] {
            assert!(!all.contains(never), "{never:?}: {all}");
        }
        assert_eq!(attachments.len(), 1);
    }

    #[test]
    fn what_is_long_is_cut() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc…");
    }
}
