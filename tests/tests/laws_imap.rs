//! The laws of `protocols/src/machine.rs` for IMAP; see `laws.rs` for the other protocols.

use crate::worlds::{ROUNDS, every_talk, imap, talks};
use kura_tests::laws::{
    cuts_do_not_matter, junk_does_no_harm, one_reply_per_command, silence_ends,
};
use kura_tests::subjects::ImapSubject;

#[test]
fn imap_cuts_do_not_matter() {
    every_talk("imap_machine", imap, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn imap_silence_ends() {
    every_talk("imap_machine", imap, |make, talk| silence_ends(make, talk));
}

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"a ",
    b"* ",
    b"LOGIN ann secret\r\n",
    b"SELECT INBOX\r\n",
    b"{3}\r\n",
    b"{3+}\r\n",
    b"{0}\r\n",
    b"{4294967296}\r\n",
    b"{99999+}\r\n",
    b"APPEND ",
    b"INBOX ",
    b"(\\Seen) ",
    b"\"01-Jan-2020 00:00:00 +0000\" ",
    b"FETCH ",
    b"UID ",
    b"1:*",
    b"1,3:2",
    b"0",
    b"4294967295",
    b"BODY.PEEK[1.2.MIME]<0.9>",
    b"BODY[HEADER.FIELDS (",
    b"(",
    b")",
    b"((",
    b"STORE ",
    b"+FLAGS.SILENT ",
    b"SEARCH ",
    b"RETURN (MIN MAX) ",
    b"OR ",
    b"NOT ",
    b"CHARSET UTF-8 ",
    b"HEADER x \"",
    b"\"",
    b"\\",
    b"LIST ",
    b"\"\" \"%\" ",
    b"STATUS ",
    b"(MESSAGES)",
    b"IDLE\r\n",
    b"DONE\r\n",
    b"AUTHENTICATE PLAIN ",
    b"AUTHENTICATE SCRAM-SHA-256\r\n",
    b"AGFubgBzZWNyZXQ=\r\n",
    b"=\r\n",
    b"*\r\n",
    b"STARTTLS\r\n",
    b"ENABLE UTF8=ACCEPT\r\n",
    b"ID (\"a\" NIL)\r\n",
    b"COPY ",
    b"MOVE ",
    b"RENAME ",
    b"CLOSE\r\n",
    b"GETQUOTA \"\"\r\n",
    b"LOGOUT\r\n",
    b"&AOQ-",
    b"&",
    b"\xc3\xa4",
    b"\xff\xfe",
];

#[test]
fn imap_junk_does_no_harm() {
    let talks = talks("imap_machine");
    junk_does_no_harm(|| ImapSubject::new(false, true), &talks, TOKENS, ROUNDS);
}

/// Commands, some with their literals, that each want one completion under the tag `a`.
const UNITS: &[&[u8]] = &[
    b"a CAPABILITY\r\n",
    b"a NOOP\r\n",
    b"a ID NIL\r\n",
    b"a LOGIN ann secret\r\n",
    b"a LOGIN ann wrong\r\n",
    b"a LOGIN {3+}\r\nann {6+}\r\nsecret\r\n",
    b"a AUTHENTICATE PLAIN AGFubgBzZWNyZXQ=\r\n",
    b"a AUTHENTICATE X\r\n",
    b"a STARTTLS\r\n",
    b"a SELECT INBOX\r\n",
    b"a EXAMINE INBOX\r\n",
    b"a SELECT nowhere\r\n",
    b"a CREATE x\r\n",
    b"a CREATE {4+}\r\na//b\r\n",
    b"a DELETE x\r\n",
    b"a RENAME x y\r\n",
    b"a LIST \"\" *\r\n",
    b"a LSUB \"\" %\r\n",
    b"a STATUS x (MESSAGES)\r\n",
    b"a APPEND x {3+}\r\nabc\r\n",
    b"a APPEND x {3+}\r\na\0c\r\n",
    b"a APPEND x {3+}\r\nabc {2+}\r\nab\r\n",
    b"a APPEND full {3+}\r\nabc\r\n",
    b"a APPEND x\r\n",
    b"a NAMESPACE\r\n",
    b"a ENABLE CONDSTORE\r\n",
    b"a GETQUOTA \"\"\r\n",
    b"a FETCH 1 FLAGS\r\n",
    b"a FETCH 9 FLAGS\r\n",
    b"a UID FETCH 9:1 (UID BODY[])\r\n",
    b"a FETCH 1 BODY[\r\n",
    b"a STORE 1 FLAGS ()\r\n",
    b"a SEARCH ALL\r\n",
    b"a SEARCH {3+}\r\nALL\r\n",
    b"a SEARCH CHARSET X ALL\r\n",
    b"a COPY 1 x\r\n",
    b"a MOVE 1 x\r\n",
    b"a EXPUNGE\r\n",
    b"a UID EXPUNGE 1:*\r\n",
    b"a CHECK\r\n",
    b"a CLOSE\r\n",
    b"a UNSELECT\r\n",
    b"a BOGUS\r\n",
    b"a LOGOUT\r\n",
];

/// Whole lines, of which one has the tag; only BYE, which ends the session, may stand after it.
fn is_reply(_: &[u8], said: &[u8]) -> bool {
    let lines: Vec<&[u8]> = said.split_inclusive(|&byte| byte == b'\n').collect();
    let completions = lines.iter().filter(|line| line.starts_with(b"a ")).count();
    let whole = lines.iter().all(|line| line.ends_with(b"\r\n"));
    let end = lines.iter().position(|line| line.starts_with(b"a "));
    let after = end.map_or(&[][..], |end| &lines[end + 1..]);
    completions == 1 && whole && after.iter().all(|line| line.starts_with(b"* BYE"))
}

#[test]
fn imap_has_one_reply_per_command() {
    one_reply_per_command(|| ImapSubject::new(false, true), UNITS, ROUNDS, is_reply);
}
