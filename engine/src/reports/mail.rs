//! A mail to an address that reports come to: whether it is from whom it says, and the reports in
//! it. Pure; for a thread that is not a core.

use super::digest::Digest;
use super::unpack::{self, Form, PACKED_BYTES_MAX, unpack};
use super::{feedback, tlsrpt};
use crate::auth::dkim::header::Header;
use crate::auth::dkim::signature::is_within;
use crate::auth::dmarc::author_domain;
use crate::scan::attachments::mime;
use protocols::message::field::{Fields, unfold};
use protocols::message::summary::{Kind, Summary};

/// A mail, with what is packed in base64.
pub const MAIL_BYTES_MAX: u64 = (PACKED_BYTES_MAX as u64 + (1 << 20)) / 3 * 4;
/// Parts that are looked at, and reports that are read, in one mail.
const PARTS_MAX: usize = 32;
const FILES_MAX: usize = 4;

/// What is in a mail.
#[derive(Debug, Default)]
pub struct Found {
    pub reporter: String,
    pub digests: Vec<Digest>,
    /// Why some of it is not read, for the log.
    pub faults: Vec<String>,
}

/// `hostname` is whose word about the sender counts: ours.
pub fn read(message: &[u8], hostname: &str) -> Found {
    let mut found = Found::default();
    let files = files(message, &mut found.faults);
    if files.is_empty() && found.faults.is_empty() {
        return found; // some other mail
    }
    match reporter(message, hostname) {
        Ok(reporter) => found.reporter = reporter,
        Err(fault) => {
            found.faults.insert(0, fault);
            return found;
        }
    }
    for file in files {
        let read = unpack(&file).and_then(|text| match unpack::form(&text) {
            Form::Xml => feedback::read(&text).map(|digest| vec![digest]),
            Form::Json => tlsrpt::read(&text),
            Form::Gzip | Form::Zip | Form::Other => Err("there is no XML or JSON in it"),
        });
        match read {
            Ok(digests) => found.digests.extend(digests),
            Err(fault) => found.faults.push(fault.to_owned()),
        }
    }
    found
}

/// What could be reports. Texts that people read are none.
fn files(message: &[u8], faults: &mut Vec<String>) -> Vec<Vec<u8>> {
    let summary = Summary::compute(message);
    let mut files = Vec::new();
    for part in summary.parts.iter().filter(|part| part.kind == Kind::Leaf).take(PARTS_MAX) {
        let content = &part.content;
        let is_shown = content.is("text") && !content.sub.eq_ignore_ascii_case(b"xml");
        if is_shown {
            continue;
        }
        let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        let body = message.get(at(part.body.start)..at(part.body.end)).unwrap_or_default();
        let file = mime::decode(content, body);
        if unpack::form(&file) == Form::Other {
            continue;
        }
        if files.len() == FILES_MAX {
            faults.push(format!("it has more than {FILES_MAX} files; the rest is not read"));
            break;
        }
        files.push(file.into_owned());
    }
    files
}

/// The domain in From, if that is true: our own `Authentication-Results` says so, or nobody has
/// looked, since the mail came by a way that the operator trusts.
fn reporter(message: &[u8], hostname: &str) -> Result<String, String> {
    let author = author_domain(&Header::read(message)).ok_or("it has no single domain in From")?;
    let ours = |value: &[u8]| -> Option<String> {
        let text = String::from_utf8_lossy(&unfold(value)).into_owned();
        let rest = text.trim_start().strip_prefix(hostname)?;
        rest.starts_with(';').then(|| rest.to_owned())
    };
    let mut fields = Fields::new(message).filter(|field| field.is("Authentication-Results"));
    let Some(results) = fields.find_map(|field| ours(field.value)) else { return Ok(author) };
    let results = split(&results);
    let is_for_author = |property: &str, value: &str| {
        let domain =
            value.rsplit_once('@').map_or(value, |(_, domain)| domain).to_ascii_lowercase();
        match property {
            "header.from" => domain == author,
            "header.d" | "smtp.mailfrom" => is_within(&author, &domain),
            _ => false,
        }
    };
    let passes = |method: &str| {
        results.iter().any(|result| {
            result.method == format!("{method}=pass")
                && result.properties.iter().any(|(property, value)| is_for_author(property, value))
        })
    };
    // Without DMARC, be it that nothing is published or that nobody has asked, one of
    // the others will do.
    let has_policy = results
        .iter()
        .any(|result| result.method.starts_with("dmarc=") && result.method != "dmarc=none");
    if passes("dmarc") || (!has_policy && (passes("dkim") || passes("spf"))) {
        return Ok(author);
    }
    Err(format!("nothing shows that it is from {author}: neither DMARC nor SPF nor DKIM"))
}

/// One method's result in `Authentication-Results`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// `dmarc=pass`.
    method: String,
    properties: Vec<(String, String)>,
}

/// A semicolon in a quoted string or in a comment ends nothing: a sender may have any name.
fn split(text: &str) -> Vec<Outcome> {
    let mut results = Vec::new();
    let (mut words, mut word): (Vec<String>, String) = (Vec::new(), String::new());
    let (mut depth, mut is_quoted) = (0_usize, false);
    let mut letters = text.chars();
    let mut push = |words: &mut Vec<String>| {
        let mut words = std::mem::take(words).into_iter();
        let Some(method) = words.next() else { return };
        let pair = |word: String| {
            word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        results.push(Outcome { method, properties: words.filter_map(pair).collect() });
    };
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next().filter(|_| depth == 0)),
            '"' if depth == 0 => is_quoted = !is_quoted,
            letter if is_quoted => word.push(letter),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            letter if letter == ';' || letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                if letter == ';' {
                    push(&mut words);
                }
            }
            letter => word.push(letter),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    push(&mut words);
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::feedback::tests::{one, xml};
    use crate::reports::letter::Letter;
    use crate::reports::tlsrpt::tests::json;
    use crate::reports::unpack::tests::{gzip, zipped};

    fn mail(results: &str, kind: &str, file: &[u8]) -> Vec<u8> {
        let letter = Letter {
            organization: "Big",
            from: "noreply@big.test",
            to: "dmarc@a.test",
            subject: "Report Domain: a.test",
            message_id: "1@big.test",
            fields: "",
            report_type: None,
            now: 0,
            words: "{ words }\r\n",
            file_name: "a",
            file_type: kind,
            file,
        };
        [results.as_bytes(), &letter.text()].concat()
    }

    #[test]
    fn reports_in_every_form_are_found() {
        let feedback = xml("a.test", "r1", &one("192.0.2.1", "4", "pass", "fail"));
        for (kind, file) in [
            ("application/gzip", gzip(feedback.as_bytes())),
            ("application/octet-stream", zipped(feedback.as_bytes())),
            ("text/xml", feedback.into_bytes()),
            ("application/tlsrpt+gzip", gzip(json("a.test", "r1").as_bytes())),
            ("application/tlsrpt+json", json("a.test", "r1").into_bytes()),
        ] {
            let found = read(&mail("", kind, &file), "mx.a.test");
            assert_eq!((found.digests.len(), found.faults.len()), (1, 0), "{kind} {found:?}");
            assert_eq!(found.reporter, "big.test");
        }
        let other = read(b"From: x@big.test\r\n\r\n{ hello }\r\n", "mx.a.test");
        assert!(other.digests.is_empty() && other.faults.is_empty());
        let garbage = read(&mail("", "application/gzip", b"\x1f\x8bgarbage"), "mx.a.test");
        assert_eq!(garbage.faults, ["the gzip file is damaged"]);
    }

    #[test]
    fn only_who_is_proven_counts_where_somebody_has_looked() {
        let file = json("a.test", "r1").into_bytes();
        for (results, counts) in [
            ("", true),
            ("Authentication-Results: mx.other.test; dmarc=fail header.from=big.test\r\n", true),
            (
                "Authentication-Results: mx.a.test;\r\n\tdmarc=pass (p=reject) header.from=big.test\r\n",
                true,
            ),
            (
                "Authentication-Results: mx.a.test;\r\n\tdmarc=fail (p=reject) header.from=big.test\r\n",
                false,
            ),
            ("Authentication-Results: mx.a.test; dmarc=pass header.from=other.test\r\n", false),
            ("Authentication-Results: mx.a.test; dmarc=temperror header.from=big.test\r\n", false),
            (
                "Authentication-Results: mx.a.test; dkim=pass header.d=big.test; dmarc=none header.from=big.test\r\n",
                true,
            ),
            (
                "Authentication-Results: mx.a.test; spf=pass smtp.mailfrom=x@big.test; dmarc=none\r\n",
                true,
            ),
            (
                "Authentication-Results: mx.a.test; spf=pass smtp.mailfrom=x@evil.test; dmarc=none\r\n",
                false,
            ),
            (
                "Authentication-Results: mx.a.test; spf=fail smtp.mailfrom=x@big.test; dmarc=none\r\n",
                false,
            ),
            // `auth.dmarc = "off"`.
            ("Authentication-Results: mx.a.test; dkim=pass header.d=big.test\r\n", true),
            ("Authentication-Results: mx.a.test; dkim=pass header.d=evil.test\r\n", false),
            // The sender has chosen its own name.
            (
                "Authentication-Results: mx.a.test; spf=pass smtp.mailfrom=\"\\\"a; dmarc=pass header.from=big.test; \\\"@evil.test\";\r\n\tdmarc=fail header.from=big.test\r\n",
                false,
            ),
            (
                "Authentication-Results: mx.a.test; spf=fail (x; dmarc=pass header.from=big.test) smtp.mailfrom=x@big.test; dmarc=fail\r\n",
                false,
            ),
            ("Authentication-Results: mx.a.test; none\r\n", false),
        ] {
            let found = read(&mail(results, "application/tlsrpt+json", &file), "mx.a.test");
            assert_eq!(found.digests.len(), usize::from(counts), "{results} {:?}", found.faults);
            assert_eq!(found.faults.len(), usize::from(!counts), "{results}");
        }
    }

    #[test]
    fn a_mail_has_a_few_reports_at_most() {
        let file = json("a.test", "r1");
        let part = format!("--b\r\nContent-Type: application/json\r\n\r\n{}\r\n", file);
        let head = "From: x@big.test\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";
        let found = read(format!("{head}{}--b--\r\n", part.repeat(9)).as_bytes(), "mx.a.test");
        assert_eq!((found.digests.len(), found.faults.len()), (FILES_MAX, 1));
    }
}
