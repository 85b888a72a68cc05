//! The laws of `protocols/src/machine.rs` for the client machines: what the servers of the
//! transcripts say is cut, damaged, glued together and broken off.

use crate::worlds::{ROUNDS, every_talk, imap_client, pop3_client, smtp_client, talks};
use kura_tests::laws::{cuts_do_not_matter, junk_does_no_harm, silence_ends};
use kura_tests::subjects::{
    ImapClientSubject, Pop3ClientSubject, SmtpClientFacts, SmtpClientSubject, parcel,
};

// ── SMTP ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn smtp_client_cuts_do_not_matter() {
    every_talk("smtp_client", smtp_client, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn smtp_client_silence_ends() {
    every_talk("smtp_client", smtp_client, |make, talk| silence_ends(make, talk));
}

const SMTP_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"-",
    b"\0",
    b"220 mx ESMTP\r\n",
    b"250 ok\r\n",
    b"250-mx\r\n",
    b"250-PIPELINING\r\n",
    b"250-CHUNKING\r\n",
    b"250-STARTTLS\r\n",
    b"250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n",
    b"250 8BITMIME\r\n",
    b"250 SIZE 0\r\n",
    b"251 2.1.5 ok\r\n",
    b"354 go\r\n",
    b"334 \r\n",
    b"334 UGFzc3dvcmQ6\r\n",
    b"235 in\r\n",
    b"421 bye\r\n",
    b"450 4.2.0 later\r\n",
    b"550 5.1.1 no\r\n",
    b"552 too many\r\n",
    b"199 x\r\n",
    b"999999\r\n",
    b"\xff\xfe",
];

fn smtp_world(role: &str, tls: &str, login: Option<&str>) -> SmtpClientSubject {
    let names = ["several", "one", "dots", "nobody", "crowd", "unreadable", "utf8", "late"];
    SmtpClientSubject::new(SmtpClientFacts {
        lmtp: role == "lmtp",
        tls: tls.into(),
        login: login.map(str::to_owned),
        parcels: names.into_iter().map(parcel).collect(),
    })
}

#[test]
fn smtp_client_junk_does_no_harm() {
    let talks = talks("smtp_client");
    junk_does_no_harm(|| smtp_world("smtp", "never", None), &talks, SMTP_TOKENS, ROUNDS);
    junk_does_no_harm(
        || smtp_world("smtp", "offered", Some("careless")),
        &talks,
        SMTP_TOKENS,
        ROUNDS / 3,
    );
}

#[test]
fn lmtp_client_junk_does_no_harm() {
    let talks = talks("smtp_client");
    junk_does_no_harm(|| smtp_world("lmtp", "never", None), &talks, SMTP_TOKENS, ROUNDS);
}

// ── POP3 ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn pop3_client_cuts_do_not_matter() {
    every_talk("pop3_client", pop3_client, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn pop3_client_silence_ends() {
    every_talk("pop3_client", pop3_client, |make, talk| silence_ends(make, talk));
}

const POP3_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"\r\n.\r\n",
    b"\0",
    b"+OK\r\n",
    b"+OK 2 30\r\n",
    b"+OK 99999\r\n",
    b"-ERR\r\n",
    b"-ERR [AUTH] no\r\n",
    b"-ERR [IN-USE] no\r\n",
    b"+ \r\n",
    b"+ AAAA\r\n",
    b"STLS\r\nUSER\r\nSASL PLAIN XOAUTH2\r\n.\r\n",
    b"1 a\r\n2 b\r\n.\r\n",
    b"1 a\r\n2 a\r\n.\r\n",
    b"1 10\r\n2 20\r\n.\r\n",
    b"1 ",
    b"Subject: x\r\n\r\n..dot\r\n.\r\n",
    b"\xff\xfe",
];

#[test]
fn pop3_client_junk_does_no_harm() {
    let talks = talks("pop3_client");
    let make =
        |tls: &'static str, secret: &'static str| move || Pop3ClientSubject::new(tls, secret);
    junk_does_no_harm(make("never", "careless"), &talks, POP3_TOKENS, ROUNDS);
    junk_does_no_harm(make("active", "token"), &talks, POP3_TOKENS, ROUNDS / 3);
}

// ── IMAP ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn imap_client_cuts_do_not_matter() {
    every_talk("imap_client", imap_client, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn imap_client_silence_ends() {
    every_talk("imap_client", imap_client, |make, talk| silence_ends(make, talk));
}

const IMAP_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"* ",
    b"+ \r\n",
    b"* OK ready\r\n",
    b"* PREAUTH ready\r\n",
    b"* BYE gone\r\n",
    b"* CAPABILITY IMAP4rev1 STARTTLS SASL-IR UIDPLUS AUTH=PLAIN\r\n",
    b"k1 OK done\r\n",
    b"k2 OK done\r\n",
    b"k3 OK done\r\n",
    b"k4 NO [NONEXISTENT] no\r\n",
    b"k5 BAD no\r\n",
    b"* LIST (\\Sent) \"/\" \"Sent\"\r\n",
    b"* LIST () NIL {3}\r\nabc\r\n",
    b"* OK [UIDVALIDITY 3] ok\r\n",
    b"* 3 EXISTS\r\n",
    b"* SEARCH 5 6\r\n",
    b"* 1 FETCH (UID 5 BODY[] {10}\r\n",
    b"* 1 FETCH (UID 5 RFC822.SIZE 10 FLAGS (\\Seen))\r\n",
    b"BODY[] \"x\"",
    b"{5}\r\n",
    b"{99999999}\r\n",
    b"{4294967296}\r\n",
    b"(",
    b")",
    b"\"",
    b"\xff\xfe",
];

#[test]
fn imap_client_junk_does_no_harm() {
    let talks = talks("imap_client");
    let make =
        |tls: &'static str, secret: &'static str| move || ImapClientSubject::new(tls, secret, "");
    junk_does_no_harm(make("never", "careless"), &talks, IMAP_TOKENS, ROUNDS);
    junk_does_no_harm(make("active", "token"), &talks, IMAP_TOKENS, ROUNDS / 3);
}
