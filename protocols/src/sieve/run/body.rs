//! The `body` test. RFC 5173.
//!
//! At most [`Limits::body_bytes_max`] octets of a message's parts are looked at by one test.
//!
//! [`Limits::body_bytes_max`]: super::super::Limits::body_bytes_max

use super::super::program::Transform;
use super::tests::Matcher;
use super::{Halt, Run};
use crate::message::content::Content;
use crate::message::text::decode_part;
use crate::message::{Kind, Part, Span};
use mail_parser::decoders::html::html_to_text;

/// What decoding and converting cost beside looking.
const WORK_PER_OCTET: usize = 2;

impl<'r> Run<'r> {
    pub(super) fn body(
        &mut self,
        transform: &Transform,
        matcher: &mut Matcher<'_>,
    ) -> Result<bool, Halt> {
        match transform {
            Transform::Raw => {
                let start = usize::try_from(self.mail.summary.header_bytes()).unwrap_or(usize::MAX);
                let body = self.mail.raw.get(start..).unwrap_or_default();
                let body = body.get(..self.limits.body_bytes_max).unwrap_or(body);
                self.spend(body.len())?;
                self.offer(matcher, &String::from_utf8_lossy(body))
            }
            Transform::Text => self.parts(matcher, &["text".to_owned()], true),
            Transform::Content(types) => {
                let types = self.expand_all(types)?;
                let types: Vec<String> =
                    types.iter().map(|name| name.to_ascii_lowercase()).collect();
                self.parts(matcher, &types, false)
            }
        }
    }

    fn parts(
        &mut self,
        matcher: &mut Matcher<'_>,
        types: &[String],
        as_text: bool,
    ) -> Result<bool, Halt> {
        let summary = self.mail.summary;
        let mut octets_left = self.limits.body_bytes_max;
        for (index, part) in summary.parts.iter().enumerate() {
            self.spend(types.len())?;
            if !types.iter().any(|wanted| is_of_type(&part.content, wanted)) {
                continue;
            }
            for (span, decodes) in self.spans(index, part) {
                let octets = self.octets(span);
                let octets = octets.get(..octets_left).unwrap_or(octets);
                octets_left = octets_left.saturating_sub(octets.len());
                self.spend(octets.len().saturating_mul(WORK_PER_OCTET))?;
                let text = if decodes { decoded(&part.content, octets) } else { lossy(octets) };
                let is_html = part.content.sub.eq_ignore_ascii_case(b"html");
                let text = if as_text && is_html { html_to_text(&text) } else { text };
                if self.offer(matcher, &text)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What of a part is its content: of a leaf the body; of a message its header; of a multipart
    /// what stands before the first part and behind the last (RFC 5173 section 5.2).
    fn spans(&self, index: usize, part: &Part) -> Vec<(Span, bool)> {
        let summary = self.mail.summary;
        match part.kind {
            Kind::Leaf => vec![(part.body, true)],
            Kind::Message => {
                let inner = summary.parts.get(index.saturating_add(1));
                inner.map(|inner| (inner.header, false)).into_iter().collect()
            }
            Kind::Multipart => {
                let mut children = summary.children(index).filter_map(|at| summary.parts.get(at));
                let Some(first) = children.next() else { return Vec::new() };
                let last = children.last().unwrap_or(first);
                let before = Span { start: part.body.start, end: first.header.start };
                let after = Span { start: last.body.end, end: part.body.end };
                vec![(before, false), (after, false)]
            }
        }
    }

    fn octets(&self, span: Span) -> &'r [u8] {
        let raw = self.mail.raw;
        let offset = |at: u32| usize::try_from(at).unwrap_or(usize::MAX).min(raw.len());
        raw.get(offset(span.start)..offset(span.end)).unwrap_or_default()
    }
}

/// `wanted` in lower case: empty, a type, or a type with its subtype.
fn is_of_type(content: &Content, wanted: &str) -> bool {
    match wanted.split_once('/') {
        None => wanted.is_empty() || content.is(wanted),
        Some((main, sub)) => {
            !main.is_empty()
                && !sub.is_empty()
                && content.is(main)
                && content.sub.eq_ignore_ascii_case(sub.as_bytes())
        }
    }
}

/// Whatever it is, without its transfer encoding.
fn decoded(content: &Content, octets: &[u8]) -> String {
    if let Some(text) = decode_part(content, octets) {
        return text;
    }
    let encoding = content.encoding.clone();
    let as_text = Content { encoding, ..Content::of_type("text", "plain") };
    decode_part(&as_text, octets).unwrap_or_else(|| lossy(octets))
}

fn lossy(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
