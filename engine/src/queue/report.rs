//! What a sender is told of a message, as a message: `multipart/report` with a part for people, one
//! for programs (RFC 3464), and what it is about. RFC 6522, 3461 section 6, 3834
//! (`Auto-Submitted`).
//!
//! Whatever other servers and clients have said is put on one line, in ASCII, so that no field can
//! be broken out of.

use super::message::{Envelope, Recipient, Standing};
use bytes::Bytes;
use protocols::message::date::field_text;
use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Failed,
    Delayed,
    /// Handed on to a server that will not tell.
    Relayed,
}

/// The facts of one notice.
#[derive(Debug)]
pub struct Report<'r> {
    pub action: Action,
    pub hostname: &'r str,
    /// Of the notice itself.
    pub id: &'r str,
    pub to: &'r str,
    pub envelope: &'r Envelope,
    pub recipients: Vec<(&'r Recipient, &'r Standing)>,
    /// Unix seconds.
    pub now: u64,
    /// Until when it is tried.
    pub until: u64,
    pub about: &'r About,
}

/// What comes back of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Header(Bytes),
    Whole(Bytes),
    /// It can't be read any more.
    Damaged,
}

impl Report<'_> {
    /// The whole message.
    pub fn text(&self) -> Vec<u8> {
        let boundary = format!("kura-{}", self.id.replace('.', "-"));
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "From: Mail Delivery System <postmaster@{host}>\r\n\
             To: <{to}>\r\n\
             Subject: {subject}\r\n\
             Date: {date}\r\n\
             Message-ID: <{id}@{host}>\r\n\
             Auto-Submitted: auto-replied\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\
             \r\n\
             This is a message in MIME format.\r\n\
             \r\n\
             --{boundary}\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 8bit\r\n\
             \r\n\
             {people}\
             \r\n--{boundary}\r\n\
             Content-Type: message/delivery-status\r\n\
             \r\n\
             {programs}",
            host = self.hostname,
            to = self.to,
            subject = self.subject(),
            date = field_text(self.now * 1000),
            id = self.id,
            people = self.people(),
            programs = self.programs(),
        );
        let (kind, about) = match self.about {
            About::Header(header) => ("text/rfc822-headers", &header[..]),
            About::Whole(message) => ("message/rfc822", &message[..]),
            About::Damaged => {
                let _ = write!(text, "\r\n--{boundary}--\r\n");
                return text.into_bytes();
            }
        };
        let encoding = if about.is_ascii() { "7bit" } else { "8bit" };
        let _ = write!(
            text,
            "\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        );
        [text.as_bytes(), about, format!("\r\n--{boundary}--\r\n").as_bytes()].concat()
    }

    fn subject(&self) -> &'static str {
        match self.action {
            Action::Failed => "Your message could not be delivered",
            Action::Delayed => "Your message has not been delivered yet",
            Action::Relayed => "Your message was handed on",
        }
    }

    fn people(&self) -> String {
        let mut text = format!("This is the mail server {}.\r\n\r\n", self.hostname);
        text += match self.action {
            Action::Failed => "Your message could not be delivered to:\r\n",
            Action::Delayed => "Your message still waits to be delivered to:\r\n",
            Action::Relayed => {
                "Your message was taken by another server, which will not tell more, for:\r\n"
            }
        };
        for (recipient, standing) in &self.recipients {
            let _ = write!(text, "\r\n  <{}>\r\n", line(&recipient.to));
            if !standing.why.is_empty() {
                let _ = write!(text, "    {}\r\n", line(&standing.why));
            }
        }
        text += match self.action {
            Action::Failed => "\r\nIt is not tried again.\r\n",
            Action::Delayed => "\r\nIt is tried again. You need not send it again.\r\n",
            Action::Relayed => "",
        };
        if *self.about == About::Damaged {
            text +=
                "The message itself can't be read here any more, so nothing of it comes back.\r\n";
        }
        if self.action == Action::Delayed {
            let until = field_text(self.until * 1000);
            let _ = write!(text, "If it is still here on {until}, you will be told.\r\n");
        }
        text
    }

    fn programs(&self) -> String {
        let mut text = String::new();
        if let Some(envid) = &self.envelope.envid {
            let _ = write!(text, "Original-Envelope-Id: {}\r\n", ascii(envid));
        }
        let arrived = field_text(self.envelope.arrived * 1000);
        let _ =
            write!(text, "Reporting-MTA: dns; {}\r\nArrival-Date: {arrived}\r\n", self.hostname);
        let action = match self.action {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Relayed => "relayed",
        };
        for (recipient, standing) in &self.recipients {
            text += "\r\n";
            if let Some((kind, address)) = &recipient.original {
                let _ = write!(text, "Original-Recipient: {}; {}\r\n", ascii(kind), ascii(address));
            }
            let kind = if recipient.to.is_ascii() { "rfc822" } else { "utf-8" };
            let to =
                if recipient.to.is_ascii() { line(&recipient.to) } else { unitext(&recipient.to) };
            let status = match (self.action, standing.status.as_str()) {
                (Action::Relayed, _) => "2.0.0",
                (_, "") => "4.0.0",
                (_, status) => status,
            };
            // RFC 3464 section 2.3.4: what has failed has a status of class 5, whatever
            // the last reply was.
            let status = match self.action {
                Action::Failed => format!("5{}", &status[1..]),
                Action::Delayed | Action::Relayed => status.to_owned(),
            };
            let _ = write!(
                text,
                "Final-Recipient: {kind}; {to}\r\nAction: {action}\r\nStatus: {}\r\n",
                ascii(&status)
            );
            if !standing.host.is_empty() {
                let _ = write!(text, "Remote-MTA: dns; {}\r\n", ascii(&standing.host));
            }
            if !standing.said.is_empty() {
                let _ = write!(text, "Diagnostic-Code: smtp; {}\r\n", ascii(&standing.said));
            }
            if self.action == Action::Delayed {
                let _ = write!(text, "Will-Retry-Until: {}\r\n", field_text(self.until * 1000));
            }
        }
        text
    }
}

fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn ascii(text: &str) -> String {
    line(text).chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// RFC 6533 section 3: `\x{e4}` for what is not ASCII.
fn unitext(text: &str) -> String {
    let one = |c: char| match c {
        '\\' | '+' | '=' => format!("\\x{{{:X}}}", u32::from(c)),
        c if c.is_ascii() => c.to_string(),
        c => format!("\\x{{{:X}}}", u32::from(c)),
    };
    line(text).chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::message::Outcome;
    use protocols::smtp::RecipientParams;

    #[test]
    fn a_report_is_for_people_and_for_programs() {
        let original = Some(("rfc822".to_owned(), "old@b.test".to_owned()));
        let params = RecipientParams { notify: None, original };
        let recipients = vec![
            Recipient::new("ann@b.test".into(), &params),
            Recipient::new("ö@b.test".into(), &RecipientParams::default()),
        ];
        let envelope = Envelope {
            id: "0.1".into(),
            sender: Some("s@here.test".into()),
            account: None,
            recipients,
            arrived: 760_000_000,
            octets: 1,
            envid: Some("e1".into()),
            ..Envelope::default()
        };
        let standing = Standing::new(Outcome::Failed, "4.4.1", "no answer\r\nX: y")
            .by("mx.b.test", "450 nö\r\nAction: delivered");
        let report = Report {
            action: Action::Failed,
            hostname: "here.test",
            id: "0.2",
            to: "s@here.test",
            envelope: &envelope,
            recipients: envelope.recipients.iter().map(|one| (one, &standing)).collect(),
            now: 760_000_001,
            until: 0,
            about: &About::Header(Bytes::from_static(b"Subject: x\r\n")),
        };
        let text = String::from_utf8(report.text()).unwrap();
        for expected in [
            "Content-Type: multipart/report; report-type=delivery-status;",
            "Original-Envelope-Id: e1\r\nReporting-MTA: dns; here.test\r\n",
            "\r\n\r\nOriginal-Recipient: rfc822; old@b.test\r\nFinal-Recipient: rfc822; ann@b.test\r\n\
             Action: failed\r\nStatus: 5.4.1\r\nRemote-MTA: dns; mx.b.test\r\n\
             Diagnostic-Code: smtp; 450 n?  Action: delivered\r\n",
            "Final-Recipient: utf-8; \\x{F6}@b.test\r\n",
            "Auto-Submitted: auto-replied\r\n",
            "Content-Type: text/rfc822-headers\r\n",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(text.lines().all(|line| !line.starts_with("X:")), "{text}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
        let damaged = Report { about: &About::Damaged, ..report };
        let text = String::from_utf8(damaged.text()).unwrap();
        assert!(text.contains("can't be read here any more"), "{text}");
        assert!(
            text.ends_with(
                "Action: failed\r\nStatus: 5.4.1\r\nRemote-MTA: dns; mx.b.test\r\n\
             Diagnostic-Code: smtp; 450 n?  Action: delivered\r\n\r\n--kura-0-2--\r\n"
            ),
            "{text}"
        );
    }
}
