//! What can be counted in a message: the numbers that rules compare (`fact = "…"`).
//!
//! [`FACTS`] is the list, one line each; the words beside a name are the documentation that
//! `kura spam facts` prints. A yes-or-no is 1 or 0.

use super::Envelope;
use super::mail::{Mail, domain_of, plain_value};
use super::tokens::Hash;
use super::url::site;
use protocols::message::summary::Kind;
use std::collections::BTreeSet;

/// Everything that a fact may look at.
#[derive(Debug)]
struct Seen<'s> {
    mail: &'s Mail<'s>,
    envelope: &'s Envelope<'s>,
    shape: Shape,
}

type Count = fn(&Seen<'_>) -> f64;

/// Name, what it is, and how it is counted.
const FACTS: &[(&str, &str, Count)] = &[
    ("from_fields", "From fields", |s| s.mail.count("From") as f64),
    ("from_domain_unlike_sender", "From and MAIL FROM are of different sites", from_unlike_sender),
    ("from_name_is_other_address", "the name in From is an address of another site", name_is_other),
    ("from_is_recipient", "From is one of the recipients", from_is_recipient),
    ("from_lacks_name", "From is an address without a name", |s| {
        yes(!s.mail.from.address.is_empty() && s.mail.from.name.trim().is_empty())
    }),
    ("from_lacks_address", "From holds no whole address", |s| {
        let there = s.mail.count("From") > 0 || !s.mail.header_cut;
        yes(there && s.mail.from.address.is_empty())
    }),
    ("from_digits", "digits in the local part of From", |s| {
        let (local, _) = s.mail.from.address.rsplit_once('@').unwrap_or_default();
        local.bytes().filter(u8::is_ascii_digit).count() as f64
    }),
    ("reply_to_unlike_from", "Reply-To is of another site than From", reply_to_unlike_from),
    ("to_lacks_recipient", "neither To nor Cc names a recipient", to_lacks_recipient),
    ("to_addresses", "addresses in To and Cc", |s| {
        (s.mail.addresses("To").len() + s.mail.addresses("Cc").len()) as f64
    }),
    ("hours_ahead", "hours that Date is ahead of now", |s| -hours_behind(s)),
    ("hours_behind", "hours that Date is behind now", hours_behind),
    ("date_invalid", "Date can't be read", |s| {
        yes(s.mail.field("Date").is_some() && s.mail.summary.sent.is_none())
    }),
    ("message_id_invalid", "Message-ID is not <left@right>", message_id_invalid),
    ("subject_raw_8bit", "Subject or From holds bytes above 127 as they are", raw_8bit),
    (
        "subject_capitals_percent",
        "capitals among the letters of Subject, from ten letters on",
        |s| capitals_percent(&s.mail.subject, 10),
    ),
    ("subject_gap", "a run of six blanks in Subject, with something behind it", |s| {
        yes(s.mail.subject.trim().contains("      "))
    }),
    ("null_sender", "MAIL FROM:<>", |s| yes(s.envelope.mail_from.is_empty())),
    ("text_bytes", "bytes of visible text", |s| {
        (s.mail.plain.len() + s.mail.html.text.len()) as f64
    }),
    ("text_capitals_percent", "capitals among the letters of the text, from fifty on", |s| {
        if s.shape.letters < 50 { 0.0 } else { percent(s.shape.capitals, s.shape.letters) }
    }),
    ("text_invisible", "characters of no width in the text", |s| f64::from(s.shape.invisible)),
    ("text_mixed_words", "words that mix Latin with Cyrillic or Greek letters", |s| {
        f64::from(s.shape.mixed_words)
    }),
    ("text_spaced_words", "words written l i k e t h i s", |s| f64::from(s.shape.spaced_words)),
    ("text_base64_needlessly", "a text part in base64 that is plain ASCII", base64_needlessly),
    ("plain_parts", "text parts that are not HTML", |s| f64::from(s.mail.plain_parts)),
    ("html_parts", "HTML parts", |s| f64::from(s.mail.html_parts)),
    ("html_only", "HTML without a plain text", |s| {
        yes(s.mail.html_parts > 0 && s.mail.plain_parts == 0)
    }),
    ("html_percent_shown", "visible text in HTML, of its bytes", |s| {
        if s.mail.html_bytes == 0 {
            100.0
        } else {
            percent_of(s.mail.html.text.trim().len(), s.mail.html_bytes)
        }
    }),
    ("html_images", "images in HTML", |s| f64::from(s.mail.html.images)),
    ("html_forms", "forms in HTML", |s| f64::from(s.mail.html.forms)),
    ("html_scripts", "scripts, frames and objects in HTML", |s| f64::from(s.mail.html.scripts)),
    ("html_hidden_letters", "letters and digits of hidden text in HTML", |s| {
        f64::from(s.mail.html.hidden_letters)
    }),
    ("html_split_words", "words that comments or unknown tags split", |s| {
        f64::from(s.mail.html.split_words)
    }),
    (
        "html_unlike_plain",
        "the plain text has almost no word of the HTML beside it",
        html_unlike_plain,
    ),
    ("multipart_empty", "a multipart without parts", multipart_empty),
    ("parts", "parts, all told", |s| s.mail.summary.parts.len() as f64),
    ("attachments", "parts with a file name", |s| s.mail.attachments.len() as f64),
    ("attachment_program", "attachments that Windows would run", |s| {
        s.mail.attachments.iter().filter(|name| is_program(name)).count() as f64
    }),
    ("attachment_disguised", "programs that look like documents: x.pdf.exe", |s| {
        s.mail.attachments.iter().filter(|name| is_disguised(name)).count() as f64
    }),
    ("urls", "links and addresses of the web", |s| s.mail.links.len() as f64),
    ("url_sites", "different sites among them", |s| {
        s.mail.links.iter().map(|link| site(&link.host)).collect::<BTreeSet<_>>().len() as f64
    }),
    ("url_numeric", "with a number for a host", |s| urls(s, |link| link.is_numeric())),
    ("url_mismatched", "links that show another site than they lead to", |s| {
        urls(s, |link| link.is_mismatched())
    }),
    ("url_with_user", "with user@ in front of the host", |s| urls(s, |link| link.has_user)),
    ("url_odd_port", "with a port that is not 80, 443 or 8080", |s| {
        urls(s, |link| link.port.is_some_and(|port| ![80, 443, 8080].contains(&port)))
    }),
    ("url_encoded_host", "with %-signs in the host", |s| {
        urls(s, |link| {
            let authority = link.url.split("//").nth(1).unwrap_or_default();
            authority.split('/').next().unwrap_or_default().contains('%')
        })
    }),
    ("url_punycode", "with a host in xn-- form", |s| urls(s, |link| link.host.contains("xn--"))),
];

/// All of them, in the order of [`FACTS`].
pub fn count(mail: &Mail<'_>, text: &str, envelope: &Envelope<'_>) -> Vec<f64> {
    let seen = Seen { mail, envelope, shape: Shape::of(text) };
    FACTS.iter().map(|(.., count)| count(&seen)).collect()
}

/// Name, and what it is.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    FACTS.iter().map(|(name, what, _)| (*name, *what))
}

/// What depends on how a message has come, or on what hosts have added to it: of no use for
/// learning, which looks at messages that lie in mailboxes.
const OF_ARRIVAL: [&str; 6] = [
    "from_domain_unlike_sender",
    "from_is_recipient",
    "to_lacks_recipient",
    "hours_ahead",
    "hours_behind",
    "null_sender",
];

/// Whether the fact is of the message alone.
pub fn is_of_content(fact: usize) -> bool {
    FACTS.get(fact).is_some_and(|(name, ..)| !OF_ARRIVAL.contains(name))
}

/// The place of a fact in [`FACTS`].
pub fn named(name: &str) -> Option<usize> {
    FACTS.iter().position(|(known, ..)| *known == name)
}

fn yes(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn percent(part: u32, whole: u32) -> f64 {
    100.0 * f64::from(part) / f64::from(whole.max(1))
}

fn percent_of(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn urls(seen: &Seen<'_>, is: impl Fn(&super::url::Link) -> bool) -> f64 {
    seen.mail.links.iter().filter(|link| is(link)).count() as f64
}

fn from_unlike_sender(seen: &Seen<'_>) -> f64 {
    let sender = domain_of(seen.envelope.mail_from).to_lowercase();
    let author = seen.mail.from.domain();
    yes(!sender.is_empty() && !author.is_empty() && site(&sender) != site(author))
}

fn name_is_other(seen: &Seen<'_>) -> f64 {
    let author = &seen.mail.from;
    let other = author.name.split([' ', '<', '>', '"', '(', ')', '\'']).any(|word| {
        let domain = domain_of(word).to_lowercase();
        domain.contains('.') && site(&domain) != site(author.domain())
    });
    yes(other)
}

fn from_is_recipient(seen: &Seen<'_>) -> f64 {
    let author = &seen.mail.from.address;
    yes(seen.envelope.recipients.iter().any(|to| to.eq_ignore_ascii_case(author)))
}

fn reply_to_unlike_from(seen: &Seen<'_>) -> f64 {
    let reply_to = seen.mail.addresses("Reply-To");
    let author = seen.mail.from.domain();
    yes(!author.is_empty() && reply_to.iter().any(|to| site(domain_of(to)) != site(author)))
}

fn to_lacks_recipient(seen: &Seen<'_>) -> f64 {
    if seen.envelope.recipients.is_empty() || seen.mail.header_cut {
        return 0.0;
    }
    let mut named = seen.mail.addresses("To");
    named.extend(seen.mail.addresses("Cc"));
    let among = |to: &&str| named.iter().any(|one| one.eq_ignore_ascii_case(to));
    yes(!seen.envelope.recipients.iter().any(|to| among(&to.as_str())))
}

fn hours_behind(seen: &Seen<'_>) -> f64 {
    let Some(sent) = seen.mail.summary.sent else { return 0.0 };
    (seen.envelope.unix_seconds - sent.unix_seconds) as f64 / 3600.0
}

fn message_id_invalid(seen: &Seen<'_>) -> f64 {
    let Some(value) = seen.mail.field("Message-ID") else { return 0.0 };
    let value = plain_value(value);
    let inner = value.trim().strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let fine = inner.and_then(|inner| inner.split_once('@')).is_some_and(|(left, right)| {
        !left.is_empty() && !right.is_empty() && !inner.unwrap_or_default().contains([' ', '<'])
    });
    yes(!fine)
}

fn raw_8bit(seen: &Seen<'_>) -> f64 {
    let raw = |name| seen.mail.field(name).is_some_and(|value| !value.is_ascii());
    yes(raw("Subject") || raw("From"))
}

fn capitals_percent(text: &str, letters_min: u32) -> f64 {
    let (mut letters, mut capitals) = (0, 0);
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        capitals += u32::from(letter.is_uppercase());
    }
    if letters < letters_min { 0.0 } else { percent(capitals, letters) }
}

fn base64_needlessly(seen: &Seen<'_>) -> f64 {
    let encoded = seen.mail.summary.parts.iter().any(|part| {
        let base64 = part.content.encoding.as_deref();
        part.kind == Kind::Leaf
            && part.content.is("text")
            && part.content.disposition.is_none()
            && base64.is_some_and(|name| name.eq_ignore_ascii_case(b"base64"))
    });
    yes(encoded && seen.mail.plain.is_ascii() && seen.mail.html.text.is_ascii())
}

/// Words of the HTML that are compared with the plain text.
const WORDS_COMPARED_MAX: usize = 200;

fn html_unlike_plain(seen: &Seen<'_>) -> f64 {
    let mail = seen.mail;
    if mail.html_parts == 0 || mail.plain_parts == 0 {
        return 0.0;
    }
    // Their hashes, in order: which ones are compared does not depend on where they stand.
    let words = |text| -> Vec<u32> {
        let words = str::split(text, |c: char| !c.is_alphanumeric());
        let words = words.filter(|word| word.len() > 4).take(4000);
        let mut hashes: Vec<u32> = words.map(Hash::of_lower_case).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    };
    let plain = words(&mail.plain);
    let mut html = words(&mail.html.text);
    html.truncate(WORDS_COMPARED_MAX);
    if html.len() < 20 {
        return 0.0;
    }
    let common = html.iter().filter(|word| plain.binary_search(word).is_ok()).count();
    yes(percent_of(common, html.len()) < 10.0)
}

fn multipart_empty(seen: &Seen<'_>) -> f64 {
    let says = seen.mail.field("Content-Type").unwrap_or_default().trim_ascii_start();
    let says = says.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"));
    yes(says && seen.mail.summary.parts.len() <= 1)
}

const PROGRAMS: [&str; 17] = [
    ".exe", ".scr", ".pif", ".com", ".bat", ".cmd", ".vbs", ".vbe", ".js", ".jse", ".wsf", ".hta",
    ".cpl", ".lnk", ".jar", ".msi", ".ps1",
];

fn is_program(name: &str) -> bool {
    PROGRAMS.iter().any(|end| name.trim_end().ends_with(end))
}

fn is_disguised(name: &str) -> bool {
    const DOCUMENTS: [&str; 10] =
        [".pdf", ".doc", ".docx", ".xls", ".xlsx", ".txt", ".jpg", ".png", ".zip", ".htm"];
    let stem = name.trim_end().rsplit_once('.').map_or("", |(stem, _)| stem).trim_end();
    is_program(name) && DOCUMENTS.iter().any(|end| stem.ends_with(end))
}

/// What one pass over the text tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub letters: u32,
    pub capitals: u32,
    pub invisible: u32,
    pub mixed_words: u32,
    pub spaced_words: u32,
}

impl Shape {
    pub fn of(text: &str) -> Shape {
        let mut shape = Shape::default();
        shape.read(text);
        shape
    }

    fn read(&mut self, text: &str) {
        // Of the word under way: its letters, and whether they are Latin, and Cyrillic or Greek.
        let (mut length, mut latin, mut other) = (0_u32, false, false);
        let mut singles = 0_u32;
        for letter in text.chars().chain([' ']) {
            if letter.is_alphabetic() {
                self.letters += 1;
                self.capitals += u32::from(letter.is_uppercase());
                length += 1;
                latin |= letter.is_ascii();
                other |= matches!(letter, '\u{370}'..='\u{52f}');
                continue;
            }
            if matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}')
            {
                self.invisible += 1;
                continue;
            }
            if latin && other {
                self.mixed_words += 1;
            }
            match length {
                1 => singles += 1,
                0 if letter == ' ' || letter == '.' || letter == '-' || letter == '_' => {}
                _ => {
                    self.spaced_words += u32::from(singles >= 5);
                    singles = 0;
                }
            }
            (length, latin, other) = (0, false, false);
        }
        self.spaced_words += u32::from(singles >= 5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_once() {
        let names: BTreeSet<&str> = FACTS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), FACTS.len());
    }

    #[test]
    fn words_are_looked_at_letter_by_letter() {
        let shape = Shape::of(
            "Buy V I A G R A now p\u{430}ypal and \u{43c}\u{438}\u{440} in\u{200b}visi\u{ad}ble",
        );
        assert_eq!(
            shape,
            Shape { letters: 33, capitals: 7, invisible: 2, mixed_words: 1, spaced_words: 1 }
        );
        assert_eq!(Shape::of("a b c d").spaced_words, 0);
        assert_eq!(Shape::of("c-h-e-a-p").spaced_words, 1);
    }

    #[test]
    fn programs_are_known_by_their_ends() {
        assert!(is_program("setup.exe") && is_program("x.scr ") && !is_program("exe.txt"));
        assert!(is_disguised("invoice.pdf.exe") && is_disguised("a.doc      .scr"));
        assert!(!is_disguised("setup.exe") && !is_disguised("a.pdf"));
    }
}
