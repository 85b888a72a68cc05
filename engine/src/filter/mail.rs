//! A message as the rules see it: decoded once, within [`limits`](super::limits), and never again.
//!
//! What is past a limit is not looked at. The tree of parts is the summary's, whose scanner is
//! linear and bounded; each text leaf is decoded by itself, by mail-parser.

use super::html::Html;
use super::limits::{FIELDS_MAX, HEADER_BYTES_MAX, PARTS_DECODED_MAX, RAW_TEXT_BYTES_MAX};
use super::url::{self, Link};
use protocols::message::envelope::{self, Address};
use protocols::message::field::{Field, Fields, unfold};
use protocols::message::summary::{Kind, Part, Summary};
use protocols::message::text::{decode_field, decode_part};

/// A decoded message.
#[derive(Debug)]
pub struct Mail<'m> {
    pub raw: &'m [u8],
    pub fields: Vec<Field<'m>>,
    /// There is more of the header than was looked at: what was not found may stand there.
    pub header_cut: bool,
    pub summary: Summary,
    /// `Subject:`, encoded words decoded.
    pub subject: String,
    pub from: Author,
    /// The text parts as read: plain ones, one after the other.
    pub plain: String,
    /// HTML parts, put together.
    pub html: Html,
    /// Bytes of HTML source that were looked at.
    pub html_bytes: usize,
    pub plain_parts: u32,
    pub html_parts: u32,
    /// Links of HTML, then addresses written in text.
    pub links: Vec<Link>,
    /// Names of attachments, in lower case.
    pub attachments: Vec<String>,
}

/// Whom `From:` names first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Author {
    pub name: String,
    /// In lower case; empty where there is none.
    pub address: String,
}

impl Author {
    pub fn domain(&self) -> &str {
        domain_of(&self.address)
    }
}

impl<'m> Mail<'m> {
    pub fn read(raw: &'m [u8]) -> Mail<'m> {
        let summary = Summary::compute(raw);
        let header_bytes = usize::try_from(summary.header_bytes()).unwrap_or(0).min(raw.len());
        let header = &raw[..header_bytes.min(HEADER_BYTES_MAX)];
        let fields: Vec<Field<'m>> = Fields::new(header).take(FIELDS_MAX).collect();
        let mut mail = Mail {
            raw,
            header_cut: fields.len() == FIELDS_MAX || header_bytes > HEADER_BYTES_MAX,
            fields,
            subject: String::new(),
            from: Author::default(),
            plain: String::new(),
            html: Html::default(),
            html_bytes: 0,
            plain_parts: 0,
            html_parts: 0,
            links: Vec::new(),
            attachments: Vec::new(),
            summary,
        };
        mail.subject = mail.field("Subject").map(decode_field).unwrap_or_default();
        mail.from = mail.author();
        mail.read_parts();
        mail
    }

    /// The value of the first field of this name.
    pub fn field(&self, name: &str) -> Option<&'m [u8]> {
        self.fields.iter().find(|field| field.is(name)).map(|field| field.value)
    }

    /// Whether the field is not there, as far as can be said.
    pub fn lacks(&self, name: &str) -> bool {
        !self.header_cut && self.count(name) == 0
    }

    pub fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|field| field.is(name)).count()
    }

    /// The addresses of a field, as text, in lower case; at most a hundred.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let list = self.field(name).map(|value| envelope::addresses(value, 100));
        list.unwrap_or_default().iter().map(text_of).filter(|text| !text.is_empty()).collect()
    }

    fn author(&self) -> Author {
        let list = self.field("From").map(|value| envelope::addresses(value, 2));
        let list = list.unwrap_or_default();
        let Some(first) = list.iter().find(|address| address.host.is_some()) else {
            return Author::default();
        };
        let name = first.name.as_deref().map(decode_field).unwrap_or_default();
        Author { name, address: text_of(first) }
    }

    fn read_parts(&mut self) {
        let mut octets_left = RAW_TEXT_BYTES_MAX;
        let mut decoded = 0;
        let mut html = String::new();
        for part in &self.summary.parts {
            let name = attachment_name(part);
            if let Some(name) = name
                && self.attachments.len() < PARTS_DECODED_MAX
            {
                self.attachments.push(name);
            }
            if part.kind != Kind::Leaf || !part.content.is("text") || decoded >= PARTS_DECODED_MAX {
                continue;
            }
            let offset = |at: u32| usize::try_from(at).unwrap_or(usize::MAX).min(self.raw.len());
            let body = self.raw.get(offset(part.body.start)..offset(part.body.end));
            let body = body.unwrap_or_default();
            let body = &body[..body.len().min(octets_left)];
            octets_left -= body.len();
            let Some(text) = decode_part(&part.content, body) else { continue };
            decoded += 1;
            if part.content.sub.eq_ignore_ascii_case(b"html") {
                self.html_parts += 1;
                html.push_str(&text);
                html.push('\n');
            } else {
                self.plain_parts += 1;
                self.plain.push_str(&text);
                self.plain.push('\n');
            }
        }
        if !html.is_empty() {
            self.html_bytes = html.len();
            self.html = Html::read(&html);
            self.links = std::mem::take(&mut self.html.links);
            url::find(&self.html.text, &mut self.links);
        }
        url::find(&self.plain, &mut self.links);
    }
}

/// `ann@a.test`, in lower case; empty where it is no whole address.
fn text_of(address: &Address) -> String {
    let (Some(mailbox), Some(host)) = (&address.mailbox, &address.host) else {
        return String::new();
    };
    // IMAP wants a host even where there is none.
    if mailbox.is_empty() || host.is_empty() {
        return String::new();
    }
    format!("{}@{}", String::from_utf8_lossy(mailbox), String::from_utf8_lossy(host)).to_lowercase()
}

pub fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// A field's value on one line, as text, not decoded.
pub fn plain_value(value: &[u8]) -> String {
    String::from_utf8_lossy(&unfold(value)).into_owned()
}

fn attachment_name(part: &Part) -> Option<String> {
    let disposition = part.content.disposition.as_ref();
    let named = disposition.and_then(|found| {
        let named =
            found.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"filename"));
        named.map(|(_, value)| value.as_slice())
    });
    let name = named.or_else(|| part.content.parameter("name"))?;
    Some(decode_field(name).to_lowercase())
}
