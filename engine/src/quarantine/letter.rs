//! What a digest says, as text and as HTML. Every word of strangers is spelled out and escaped;
//! nothing is loaded from anywhere, and no link leads to what they have written: what a mail
//! program would take for one is broken.

use super::html;
use super::kept::Kept;
use crate::when::{Span, time_text};
use std::fmt::Write;

/// A message that was kept back, and where it can be released and deleted.
#[derive(Debug)]
pub struct Item {
    pub kept: Kept,
    /// `None`: there are no links, or only the operator lets it out.
    pub release: Option<String>,
    pub delete: Option<String>,
}

#[derive(Debug)]
pub struct Letter<'l> {
    pub address: &'l str,
    /// Whom to ask.
    pub postmaster: &'l str,
    pub items: &'l [Item],
    /// How long mail is kept.
    pub keep: Span,
    pub has_links: bool,
}

/// Of the header, which `head` begins; `boundary` is in no text.
pub fn fields(hostname: &str, boundary: &str) -> String {
    format!(
        "List-Id: Quarantine digest <quarantine.{hostname}>\r\n\
         Content-Type: multipart/alternative;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
    )
}

pub fn subject(count: usize) -> String {
    let messages = if count == 1 { "message was" } else { "messages were" };
    format!("{count} {messages} kept back from you")
}

impl Letter<'_> {
    /// The body.
    pub fn text(&self, boundary: &str) -> String {
        let mut text = String::new();
        for (kind, part) in [("plain", self.plain()), ("html", self.html())] {
            let _ = write!(
                text,
                "--{boundary}\r\nContent-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
                 {part}\r\n"
            );
        }
        let _ = write!(text, "--{boundary}--\r\n");
        text
    }

    fn introduction(&self) -> String {
        format!(
            "This mail to {} was not delivered, because it looks unwanted or dangerous. It is kept for {} and then deleted.",
            self.address,
            self.keep.text()
        )
    }

    fn advice(&self) -> String {
        let postmaster = self.postmaster;
        match self.has_links {
            true => format!(
                "Each link opens a page with one button; nothing happens before it is pressed. Released mail comes into your INBOX, \
                 and mail of its sender is taken for wanted from then on. Whoever has this message can use its links: do not forward \
                 it. Questions: {postmaster}"
            ),
            false => format!(
                "To have a message released or deleted, write to {postmaster} and name its ID."
            ),
        }
    }

    fn plain(&self) -> String {
        let mut text = wrapped(&self.introduction(), "");
        for item in self.items {
            text.push_str("\r\n");
            for (name, value) in item.lines() {
                text += &wrapped(&format!("{name}: {value}"), "    ");
            }
            for (name, link) in item.links() {
                // In one line, so that it can be followed.
                let _ = write!(text, "{name}: {link}\r\n");
            }
        }
        text.push_str("\r\n");
        text + &wrapped(&self.advice(), "")
    }

    fn html(&self) -> String {
        let mut text = "<!DOCTYPE html>\r\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Quarantine</title></head>\
                        <body>\r\n"
            .to_owned();
        text += &wrapped(&format!("<p>{}</p>", html(&self.introduction())), "");
        for item in self.items {
            text.push_str("<hr><table>\r\n");
            for (name, value) in item.lines() {
                let row =
                    format!("<tr><th align=\"left\">{name}</th> <td>{}</td></tr>", html(&value));
                text += &wrapped(&row, "");
            }
            text.push_str("</table><p>\r\n");
            for (name, link) in item.links() {
                let _ = write!(text, "<a href=\"{}\">{name}</a> &nbsp;\r\n", html(link));
            }
            text.push_str("</p>\r\n");
        }
        text += &wrapped(&format!("<hr><p>{}</p>", html(&self.advice())), "");
        text + "</body></html>\r\n"
    }
}

impl Item {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let kept = &self.kept;
        let mut lines = vec![
            ("From", unlinked(&kept.from)),
            ("Subject", unlinked(&kept.subject)),
            ("Date", unlinked(&kept.date)),
            ("Kept since", time_text(kept.since)),
            ("Because it", kept.why()),
        ];
        if !kept.scan.is_empty() {
            lines.push(("Scan", unlinked(&kept.scan)));
        }
        lines.push(("ID", kept.uid.0.to_string()));
        if kept.reason.is_harmful() {
            lines.push((
                "To have it",
                "ask the postmaster: it may do harm to whoever opens it".to_owned(),
            ));
        }
        lines
    }

    fn links(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let release = self.release.iter().map(|link| ("Release", link.as_str()));
        release.chain(self.delete.iter().map(|link| ("Delete", link.as_str())))
    }
}

/// Mail programs make links of what looks like one, also in plain text: `http[:]//`, `www[.]`.
fn unlinked(text: &str) -> String {
    let mut shown = text.replace("://", "[:]//");
    let lower = shown.to_ascii_lowercase();
    // From the end, so that places before it stay where they are.
    for (at, www) in lower.rmatch_indices("www.") {
        let end = at + www.len();
        shown.replace_range(end - 1..end, "[.]");
    }
    shown
}

/// In lines that mail may have (RFC 5322 section 2.1.1), broken at blanks, or within a word
/// that has no end.
fn wrapped(text: &str, indent: &str) -> String {
    const COLUMN: usize = 100;
    const WORD_CHARS_MAX: usize = 200;
    let mut lines = String::with_capacity(text.len() + text.len() / 32 + 2);
    let mut column = 0;
    for word in text.split(' ') {
        let mut rest = word;
        loop {
            let end = rest.char_indices().nth(WORD_CHARS_MAX).map_or(rest.len(), |(at, _)| at);
            let (piece, more) = rest.split_at(end);
            if column > 0 && column + piece.len() > COLUMN {
                lines.push_str("\r\n");
                lines.push_str(indent);
                column = indent.len();
            } else if column > 0 {
                lines.push(' ');
            }
            lines.push_str(piece);
            column += piece.len() + 1;
            if more.is_empty() {
                break;
            }
            rest = more;
        }
    }
    lines + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::super::kept::Rule;
    use super::*;
    use std::time::Duration;
    use storage::Uid;

    fn kept(subject: &str, reason: Reason) -> Kept {
        Kept {
            uid: Uid(7),
            octets: 100,
            reason,
            since: 1_795_711_599_000,
            from: "Best <deals@shop.test>".to_owned(),
            subject: subject.to_owned(),
            date: "Thu, 26 Nov 2026 16:46:39 +0000".to_owned(),
            score: Some(12.3),
            rules: vec![Rule { name: "A".to_owned(), score: 4.0, reason: "pills".to_owned() }],
            scan: String::new(),
            pulled_back_from: None,
        }
    }

    fn text(items: &[Item], has_links: bool) -> String {
        let keep = Span(Duration::from_secs(30 * 86_400));
        let (address, postmaster) = ("ann@a.test", "postmaster@a.test");
        Letter { address, postmaster, items, keep, has_links }.text("b")
    }

    #[test]
    fn each_message_is_listed_twice_with_its_links_and_nothing_in_it_is_markup() {
        let subject = "</td><script>alert(1)</script><a href=\"http://evil.test\">win</a>";
        let links = |name: &str| Some(format!("https://mx.test/quarantine/{name}"));
        let item =
            Item { kept: kept(subject, Reason::Spam), release: links("r"), delete: links("d") };
        let text = text(&[item], true);
        let (plain, html) = text.split_once("text/html").unwrap();
        let shown = subject.replace("://", "[:]//");
        assert!(plain.contains(&format!("Subject: {shown}\r\n")), "{plain}");
        assert!(plain.contains("Release: https://mx.test/quarantine/r\r\n"));
        assert!(plain.contains("Because it: looks like spam, score 12.3; pills\r\n"));
        assert!(html.contains("<a href=\"https://mx.test/quarantine/d\">Delete</a>"));
        assert!(!html.contains("<script") && !html.contains("href=\"http://"), "{html}");
        assert_eq!(html.matches("<a ").count(), 2);
    }

    #[test]
    fn nothing_that_strangers_write_becomes_a_link_in_a_mail_program() {
        assert_eq!(
            unlinked("é HTTPS://evil.test/ WwW.evil.test www.www.x"),
            "é HTTPS[:]//evil.test/ WwW[.]evil.test www[.]www[.]x"
        );
        let mut kept = kept("see https://evil.test/ or www.evil.test", Reason::Attachment);
        kept.from = "http://evil.test <x@evil.test>".to_owned();
        kept.scan = "attachments=macros (www.evil.test)".to_owned();
        let text = text(&[Item { kept, release: None, delete: None }], false);
        assert!(text.contains("see https[:]//evil.test/ or www[.]evil.test"), "{text}");
        assert!(!text.contains("://") && !text.contains("www."), "{text}");
    }

    #[test]
    fn what_harms_has_no_link_that_releases_it_and_without_a_web_server_there_is_none() {
        let virus = Item { kept: kept("x", Reason::Virus), release: None, delete: None };
        let text = text(&[virus], false);
        assert!(text.contains("ask the postmaster") && text.contains("write to postmaster@a.test"));
        assert!(!text.contains("https://") && !text.contains("Release:"), "{text}");
    }

    #[test]
    fn lines_are_no_longer_than_mail_may_have_whatever_strangers_write() {
        let long = "\u{1f4a3}".repeat(200);
        for subject in [long.as_str(), &"&".repeat(1900), &"a ".repeat(900), ""] {
            let item = Item { kept: kept(subject, Reason::Spam), release: None, delete: None };
            let text = text(&[item], true);
            assert!(text.split("\r\n").all(|line| line.len() <= 998 && !line.contains('\n')));
        }
    }
}
