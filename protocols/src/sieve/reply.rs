//! The message that `vacation` sends. RFC 5230 section 5, RFC 3834.

use super::outcome::Reply;
use super::words::encode_words;
use crate::Address;
use crate::message::date::field_text;
use crate::message::field::Fields;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Longest line that is sent as it is (RFC 5322 section 2.1.1 asks for less than 1,000).
const LINE_BYTES_MAX: usize = 900;
/// Octets of text in a line of base64.
const BASE64_LINE_BYTES: usize = 57;
/// How the names of fields begin that are about the content.
const CONTENT: &str = "content-";

impl Reply {
    /// The whole message, to be sent to [`Reply::to`] with the null path as its sender. `own`: the
    /// address that the account answers as; `message_id`: unique, without angle brackets.
    #[must_use]
    pub fn message(&self, own: &Address, unix_millis: u64, message_id: &str) -> Vec<u8> {
        let mut message = String::new();
        let mut field = |name: &str, value: &str| {
            message.push_str(name);
            message.push_str(": ");
            message.push_str(value);
            message.push_str("\r\n");
        };
        match &self.from {
            Some((name, address)) if !name.is_empty() => {
                field("From", &format!("{} <{address}>", display_name(name)));
            }
            Some((_, address)) => field("From", &address.to_string()),
            None => field("From", &own.to_string()),
        }
        field("To", &self.to.to_string());
        field("Subject", &encode_words(&self.subject).replace("?= =?", "?=\r\n =?"));
        field("Date", &field_text(unix_millis));
        field("Message-ID", &format!("<{message_id}>"));
        if let Some(id) = &self.in_reply_to {
            field("In-Reply-To", id);
            // RFC 5322 section 3.6.4, a line for each.
            let before = self.references.as_deref().unwrap_or_default();
            let ids: Vec<&str> = before.split_ascii_whitespace().chain([id.as_str()]).collect();
            field("References", &ids.join("\r\n "));
        }
        field("Auto-Submitted", "auto-replied (vacation)");
        field("MIME-Version", "1.0");
        let text = with_line_ends(&self.text);
        if let Some(entity) = self.mime.then(|| entity(&text)).flatten() {
            message.push_str(&entity);
            return message.into_bytes();
        }
        field("Content-Type", "text/plain; charset=utf-8");
        if text.is_ascii() && text.split("\r\n").all(|line| line.len() <= LINE_BYTES_MAX) {
            field("Content-Transfer-Encoding", "7bit");
            message.push_str("\r\n");
            message.push_str(&text);
        } else {
            field("Content-Transfer-Encoding", "base64");
            message.push_str("\r\n");
            for line in text.as_bytes().chunks(BASE64_LINE_BYTES) {
                message.push_str(&STANDARD.encode(line));
                message.push_str("\r\n");
            }
        }
        message.into_bytes()
    }
}

/// A reason that is a MIME entity (RFC 5230 section 4.7). Of its header only what is about the
/// content goes into ours: a variable in it may hold what the sender has written, line ends
/// included. `None`: it has no such header.
fn entity(text: &str) -> Option<String> {
    let mut entity = String::new();
    let mut header_bytes = 0_usize;
    for field in Fields::new(text.as_bytes()) {
        header_bytes = header_bytes.saturating_add(field.whole.len());
        let start = field.name.get(..CONTENT.len()).unwrap_or_default();
        if start.eq_ignore_ascii_case(CONTENT.as_bytes()) {
            entity.push_str(&String::from_utf8_lossy(field.whole));
        }
    }
    let body = text.get(header_bytes..).filter(|body| !body.is_empty()).unwrap_or("\r\n");
    (!entity.is_empty()).then(|| entity + body)
}

fn display_name(name: &str) -> String {
    if name.is_ascii() && !name.contains("=?") {
        let plain: String = name.chars().filter(|character| !character.is_control()).collect();
        return format!("\"{}\"", plain.replace('\\', "\\\\").replace('"', "\\\""));
    }
    encode_words(name)
}

/// CRLF throughout, also at the end; no NUL.
fn with_line_ends(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\0', "");
    let mut lines = text.replace('\n', "\r\n");
    if !lines.ends_with("\r\n") {
        lines.push_str("\r\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(text: &str) -> Address {
        Address::parse(text.as_bytes()).unwrap()
    }

    fn reply() -> Reply {
        Reply {
            to: address("bob@there.test"),
            from: None,
            subject: "Auto: hello".into(),
            text: "Away until Monday.\nAnn".into(),
            mime: false,
            in_reply_to: Some("<2@there.test>".into()),
            references: Some("<1@there.test>".into()),
            key: [0; 32],
            period: Duration::from_secs(86_400),
            copy_to: None,
        }
    }

    fn message(reply: &Reply) -> String {
        let message = reply.message(&address("ann@here.test"), 0, "9@here.test");
        String::from_utf8(message).unwrap()
    }

    #[test]
    fn a_reply_says_what_it_answers_and_that_it_is_automatic() {
        assert_eq!(
            message(&reply()),
            "From: ann@here.test\r\nTo: bob@there.test\r\nSubject: Auto: hello\r\n\
             Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <9@here.test>\r\n\
             In-Reply-To: <2@there.test>\r\nReferences: <1@there.test>\r\n <2@there.test>\r\n\
             Auto-Submitted: auto-replied (vacation)\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
             Away until Monday.\r\nAnn\r\n"
        );
    }

    #[test]
    fn no_text_of_the_script_breaks_out_of_its_field() {
        let from = Some(("A\"\r\nBcc: x".into(), address("ann@here.test")));
        let odd = Reply { subject: "a\r\nBcc: y".into(), from, in_reply_to: None, ..reply() };
        let message = message(&odd);
        assert!(message.starts_with("From: \"A\\\"Bcc: x\" <ann@here.test>\r\n"), "{message}");
        assert!(message.contains("\r\nSubject: a  Bcc: y\r\n"), "{message}");
        assert!(!message.contains("\r\nBcc"), "{message}");
    }

    #[test]
    fn of_an_entity_s_header_only_what_is_about_the_content_is_sent() {
        let text = "Content-Type: text/html;\n charset=utf-8\nBcc: all@there.test\nX: y\n\nBcc: <b>away</b>";
        let message = message(&Reply { mime: true, text: text.into(), ..reply() });
        let end = "MIME-Version: 1.0\r\nContent-Type: text/html;\r\n charset=utf-8\r\n\r\nBcc: <b>away</b>\r\n";
        assert!(message.ends_with(end), "{message}");
        // Without a header it is no entity.
        let plain = self::message(&Reply { mime: true, text: "Away: till May".into(), ..reply() });
        assert!(plain.ends_with("7bit\r\n\r\nAway: till May\r\n"), "{plain}");
    }

    #[test]
    fn text_that_is_not_ascii_travels_as_base64() {
        let message = message(&Reply { text: "Grüße".into(), ..reply() });
        assert!(message.ends_with("base64\r\n\r\nR3LDvMOfZQ0K\r\n"), "{message}");
    }
}
