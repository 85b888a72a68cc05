//! The laws of `protocols/src/machine.rs` for ManageSieve; see `laws.rs` for the other protocols.

use crate::worlds::{ROUNDS, every_talk, managesieve, talks};
use kura_tests::laws::{
    cuts_do_not_matter, junk_does_no_harm, one_reply_per_command, silence_ends,
};
use kura_tests::subjects::ManageSieveSubject;

#[test]
fn managesieve_cuts_do_not_matter() {
    every_talk("managesieve", managesieve, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn managesieve_silence_ends() {
    every_talk("managesieve", managesieve, |make, talk| silence_ends(make, talk));
}

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"\"",
    b"\\",
    b"{3+}\r\n",
    b"{0+}\r\n",
    b"{3}\r\n",
    b"{1001+}\r\n",
    b"{99999+}\r\n",
    b"{4294967296+}\r\n",
    b"AUTHENTICATE \"PLAIN\" ",
    b"AUTHENTICATE \"SCRAM-SHA-256\"\r\n",
    b"\"AGFubgBzZWNyZXQ=\"\r\n",
    b"\"biwsbj11c2VyLHI9YQ==\"\r\n",
    b"\"*\"\r\n",
    b"\"\"\r\n",
    b"STARTTLS\r\n",
    b"CAPABILITY\r\n",
    b"HAVESPACE \"x\" ",
    b"999",
    b"18446744073709551616",
    b"PUTSCRIPT \"x\" ",
    b"PUTSCRIPT \"full\" ",
    b"CHECKSCRIPT ",
    b"\"keep;\"\r\n",
    b"\"kepe;\"\r\n",
    b"LISTSCRIPTS\r\n",
    b"SETACTIVE \"x\"\r\n",
    b"SETACTIVE \"\"\r\n",
    b"GETSCRIPT \"x\"\r\n",
    b"DELETESCRIPT \"x\"\r\n",
    b"RENAMESCRIPT \"x\" \"y\"\r\n",
    b"NOOP \"a\"\r\n",
    b"UNAUTHENTICATE\r\n",
    b"LOGOUT\r\n",
    b"\xff\xfe",
];

#[test]
fn managesieve_junk_does_no_harm() {
    let talks = talks("managesieve");
    junk_does_no_harm(|| ManageSieveSubject::new(false, true), &talks, TOKENS, ROUNDS);
}

/// Commands, some with their literals. `STARTTLS` is not among them: after the handshake the
/// capabilities are told unasked (RFC 5804 section 2.2), which its transcript shows.
const UNITS: &[&[u8]] = &[
    b"CAPABILITY\r\n",
    b"NOOP\r\n",
    b"NOOP {3+}\r\na\nb\r\n",
    b"AUTHENTICATE \"PLAIN\" \"AGFubgBzZWNyZXQ=\"\r\n",
    b"AUTHENTICATE \"PLAIN\" {16+}\r\nAGFubgBzZWNyZXQ=\r\n",
    b"AUTHENTICATE \"PLAIN\" \"AGFubgB3cm9uZw==\"\r\n",
    b"AUTHENTICATE \"X\"\r\n",
    b"UNAUTHENTICATE\r\n",
    b"HAVESPACE \"x\" 10\r\n",
    b"HAVESPACE \"x\" 10000\r\n",
    b"PUTSCRIPT \"x\" \"keep;\"\r\n",
    b"PUTSCRIPT \"y\" {8+}\r\nLOGOUT\r\n\r\n",
    b"PUTSCRIPT \"full\" \"keep;\"\r\n",
    b"PUTSCRIPT \"x\"\r\n",
    b"PUTSCRIPT \"x\" \"kepe; kepe;\"\r\n",
    b"CHECKSCRIPT \"stop; keep;\"\r\n",
    b"LISTSCRIPTS\r\n",
    b"SETACTIVE \"x\"\r\n",
    b"SETACTIVE \"\"\r\n",
    b"GETSCRIPT \"x\"\r\n",
    b"GETSCRIPT \"none\"\r\n",
    b"DELETESCRIPT \"x\"\r\n",
    b"RENAMESCRIPT \"x\" \"z\"\r\n",
    b"BOGUS\r\n",
    b"\r\n",
    b"NO\0OP\r\n",
    b"NO\rOP\r\n",
    b"NO\nOP\r\n",
    b"LOGOUT\r\n",
];

/// One line of OK, NO or BYE at the end, nothing like it before; literals are left out.
fn is_reply(_: &[u8], said: &[u8]) -> bool {
    let mut rest = said;
    let mut completions = 0;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, after) = rest.split_at(at + 1);
        rest = after;
        if [&b"OK "[..], b"NO ", b"BYE "].iter().any(|word| line.starts_with(word)) {
            completions += 1;
        } else if completions > 0 {
            return false;
        }
        let Some(inside) = line.strip_suffix(b"}\r\n") else { continue };
        let open = inside.iter().rposition(|byte| *byte == b'{').map_or(inside.len(), |at| at + 1);
        if let Ok(length) = String::from_utf8_lossy(&inside[open..]).parse::<usize>() {
            rest = &rest[length..];
            // What follows a literal is the rest of its line.
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            rest = &rest[end..];
        }
    }
    completions == 1 && rest.is_empty() && said.ends_with(b"\r\n")
}

#[test]
fn managesieve_has_one_reply_per_command() {
    let make = || ManageSieveSubject::new(true, false);
    one_reply_per_command(make, UNITS, ROUNDS, is_reply);
}
