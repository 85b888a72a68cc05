//! The trace fields that a receiving server writes, from plain facts.
//!
//! `Received` (RFC 5321 section 4.4, keywords of RFC 3848), `Return-Path` (the same section), and
//! `Delivered-To` (RFC 9228). Whatever the peer said is cut to what the grammar allows, so that no
//! field can be broken out of.

use super::date::field_text;
use std::fmt::Write;
use std::net::IpAddr;

/// Longest piece of a peer's text that goes into a field.
const TEXT_BYTES_MAX: usize = 255;

/// What is known of a message when it is taken in.
#[derive(Debug, Clone)]
pub struct Received<'a> {
    /// The argument of HELO or EHLO.
    pub helo: &'a str,
    pub peer: IpAddr,
    /// Name of the peer by reverse DNS, when it was looked up and confirmed.
    pub peer_name: Option<&'a str>,
    /// Our own name.
    pub by: &'a str,
    /// `ESMTPS` and its kin, RFC 3848.
    pub with: &'a str,
    /// TLS version and cipher, for the comment that many servers write.
    pub tls: Option<&'a str>,
    /// Our identification of the message in logs.
    pub id: &'a str,
    /// The recipient, when there is just one: naming several would reveal blind copies.
    pub recipient: Option<&'a str>,
    pub unix_millis: u64,
}

/// The whole field, folded, with its final CRLF.
#[must_use]
pub fn received(facts: &Received<'_>) -> String {
    let mut field = String::with_capacity(300);
    let literal = match facts.peer {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    };
    let helo = atom(facts.helo);
    let helo = if helo.is_empty() { literal.as_str() } else { &helo };
    let name = facts.peer_name.map(atom).filter(|name| !name.is_empty());
    let name = name.map(|name| name + " ").unwrap_or_default();
    let tls = facts.tls.map(comment).map(|tls| format!("\r\n\t({tls})")).unwrap_or_default();
    let recipient = facts.recipient.map(path).map(|to| format!("\r\n\tfor <{to}>"));
    // Writing into a string can't fail.
    let _ = write!(
        field,
        "Received: from {helo} ({name}{literal})\r\n\tby {by} with {with} id {id}{tls}{to};\r\n\t{date}\r\n",
        by = atom(facts.by),
        with = atom(facts.with),
        id = atom(facts.id),
        to = recipient.unwrap_or_default(),
        date = field_text(facts.unix_millis),
    );
    field
}

/// RFC 9228. The address is the one that the mailbox belongs to, after aliases.
#[must_use]
pub fn delivered_to(address: &str) -> String {
    format!("Delivered-To: {}\r\n", path(address))
}

/// RFC 5321 section 4.4: written at final delivery; empty for the null reverse path.
#[must_use]
pub fn return_path(reverse_path: &str) -> String {
    format!("Return-Path: <{}>\r\n", path(reverse_path))
}

/// Visible characters without what would end a token or a field.
fn atom(text: &str) -> String {
    let allowed = |c: &char| !c.is_whitespace() && !c.is_control() && !"()<>;,\"\\".contains(*c);
    text.chars().filter(allowed).take(TEXT_BYTES_MAX).collect()
}

/// Text within a comment.
fn comment(text: &str) -> String {
    let allowed = |c: &char| !c.is_control() && !"()\\".contains(*c);
    text.chars().filter(allowed).take(TEXT_BYTES_MAX).collect()
}

/// An address: quoted local parts may hold spaces, never line ends or angle brackets.
fn path(address: &str) -> String {
    address.chars().filter(|c| !c.is_control() && !"<>".contains(*c)).take(512).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Received<'static> {
        Received {
            helo: "client.example",
            peer: "192.0.2.1".parse().unwrap(),
            peer_name: None,
            by: "mx.example.test",
            with: "ESMTPS",
            tls: Some("TLSv1.3 TLS_AES_256_GCM_SHA384"),
            id: "0000-17",
            recipient: Some("ann@example.test"),
            unix_millis: 760_000_000_000,
        }
    }

    #[test]
    fn the_field_names_its_facts() {
        assert_eq!(
            received(&facts()),
            "Received: from client.example ([192.0.2.1])\r\n\tby mx.example.test with ESMTPS id 0000-17\
             \r\n\t(TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n\tfor <ann@example.test>;\
             \r\n\tMon, 31 Jan 1994 07:06:40 +0000\r\n"
        );
    }

    #[test]
    fn no_text_of_the_peer_breaks_out_of_the_field() {
        let odd = "a\r\nBcc: x\r\n\r\n)(;<b>\"\\";
        let peer = "2001:db8::1".parse().unwrap();
        let facts = Received { helo: odd, peer, tls: Some(odd), recipient: Some(odd), ..facts() };
        let field = received(&facts);
        assert!(field.contains("[IPv6:2001:db8::1]"));
        assert!(
            field.trim_end().split("\r\n").skip(1).all(|line| line.starts_with('\t')),
            "{field}"
        );
        assert_eq!(delivered_to("a\r\nX: y@b"), "Delivered-To: aX: y@b\r\n");
        assert_eq!(return_path(""), "Return-Path: <>\r\n");
    }
}
