//! The laws of `protocols/src/machine.rs` for SMTP in its three roles and for POP3. What the
//! clients of the transcripts say is cut, damaged, glued together and broken off.

use crate::worlds::{ROUNDS, every_talk, pop3, smtp, talks};
use kura_tests::laws::{
    self, Subject, cuts_do_not_matter, junk_does_no_harm, one_reply_per_command, silence_ends,
};
use kura_tests::subjects::{Pop3Subject, SmtpSubject};
use protocols::smtp::Role;

// ── cuts, and one at a time ─────────────────────────────────────────────────────────────────────

#[test]
fn smtp_cuts_do_not_matter() {
    every_talk("smtp", smtp, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn lmtp_cuts_do_not_matter() {
    every_talk("lmtp", smtp, |make, talk| cuts_do_not_matter(make, talk));
}

#[test]
fn pop3_cuts_do_not_matter() {
    every_talk("pop3", pop3, |make, talk| cuts_do_not_matter(make, talk));
}

// ── silence ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn smtp_silence_ends() {
    every_talk("smtp", smtp, |make, talk| silence_ends(make, talk));
}

#[test]
fn lmtp_silence_ends() {
    every_talk("lmtp", smtp, |make, talk| silence_ends(make, talk));
}

#[test]
fn pop3_silence_ends() {
    every_talk("pop3", pop3, |make, talk| silence_ends(make, talk));
}

// ── junk ────────────────────────────────────────────────────────────────────────────────────────

const SMTP_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"\r\n.\r\n",
    b" ",
    b"\0",
    b"EHLO x\r\n",
    b"HELO x\r\n",
    b"LHLO x\r\n",
    b"MAIL FROM:<a@b>",
    b"MAIL FROM:<>",
    b"RCPT TO:<ann@example.test>",
    b"RCPT TO:<\"",
    b" SIZE=99",
    b" NOTIFY=NEVER",
    b" HOLDFOR=9",
    b" HOLDUNTIL=2026-01-01T00:00:00Z",
    b"DATA\r\n",
    b"BDAT 5",
    b"BDAT 0",
    b" LAST\r\n",
    b"BDAT 999999999999999999\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN ",
    b"AUTH SCRAM-SHA-256\r\n",
    b"AUTH LOGIN\r\n",
    b"AGFubgBzZWNyZXQ=\r\n",
    b"biwsbj11c2VyLHI9YQ==\r\n",
    b"*\r\n",
    b"=\r\n",
    b"QUIT\r\n",
    b"\xff\xfe",
];

#[test]
fn smtp_junk_does_no_harm() {
    let talks = talks("smtp");
    junk_does_no_harm(|| SmtpSubject::new(Role::Mx, false, false), &talks, SMTP_TOKENS, ROUNDS);
}

#[test]
fn a_gateways_junk_does_no_harm() {
    junk_does_no_harm(SmtpSubject::for_gateway, &talks("smtp"), SMTP_TOKENS, ROUNDS);
}

#[test]
fn submission_junk_does_no_harm() {
    let talks = talks("smtp");
    junk_does_no_harm(
        || SmtpSubject::new(Role::Submission, false, true),
        &talks,
        SMTP_TOKENS,
        ROUNDS,
    );
}

#[test]
fn lmtp_junk_does_no_harm() {
    let talks = talks("lmtp");
    junk_does_no_harm(|| SmtpSubject::new(Role::Lmtp, false, false), &talks, SMTP_TOKENS, ROUNDS);
}

const POP3_TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"USER ann\r\n",
    b"PASS secret\r\n",
    b"AUTH PLAIN ",
    b"AUTH LOGIN\r\n",
    b"AUTH SCRAM-SHA-256 ",
    b"AGFubgBzZWNyZXQ=\r\n",
    b"biwsbj11c2VyLHI9YQ==\r\n",
    b"*\r\n",
    b"=\r\n",
    b"STLS\r\n",
    b"CAPA\r\n",
    b"STAT\r\n",
    b"LIST",
    b"UIDL",
    b"RETR ",
    b"TOP ",
    b"DELE ",
    b"1",
    b"5",
    b"0",
    b"18446744073709551616",
    b"NOOP\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
    b"\xff\xfe",
];

#[test]
fn pop3_junk_does_no_harm() {
    junk_does_no_harm(|| Pop3Subject::new(false, true), &talks("pop3"), POP3_TOKENS, ROUNDS);
}

// ── one reply per command ───────────────────────────────────────────────────────────────────────

/// Lines that each want one reply, whatever the state. `DATA` is not among them: what follows it
/// depends on whether it was granted; the transcripts show its two replies.
const SMTP_UNITS: &[&[u8]] = &[
    b"EHLO x\r\n",
    b"HELO x\r\n",
    b"MAIL FROM:<a@b>\r\n",
    b"MAIL FROM:<full@b>\r\n",
    b"MAIL FROM:\r\n",
    b"RCPT TO:<ann@example.test>\r\n",
    b"RCPT TO:<nobody@example.test>\r\n",
    b"BDAT 3\r\nx\r\n",
    b"BDAT 3 LAST\r\n\r\n\r",
    b"BDAT 6 LAST\r\nQUIT\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 2\r\nx\n",
    b"BDAT x\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"VRFY x\r\n",
    b"EXPN x\r\n",
    b"HELP\r\n",
    b"STARTTLS\r\n",
    b"XYZZY\r\n",
    b"\r\n",
    b"NO\0OP\r\n",
    b"NO\rOP\r\n",
    b"NO\nOP\r\n",
    b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    b"AUTH PLAIN =\r\n",
    b"QUIT\r\n",
];

/// One code throughout, hyphens but for the last line.
fn is_smtp_reply(_: &[u8], said: &[u8]) -> bool {
    let Some(text) = said.strip_suffix(b"\r\n") else { return false };
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    let code = lines[0].get(..3);
    lines.iter().enumerate().all(|(index, line)| {
        let mark = if index + 1 == lines.len() { b' ' } else { b'-' };
        line.len() > 3 && line.get(..3) == code && line[3] == mark
    })
}

#[test]
fn smtp_has_one_reply_per_command() {
    let make = || SmtpSubject::new(Role::Mx, false, false);
    one_reply_per_command(make, SMTP_UNITS, ROUNDS, is_smtp_reply);
    let make = || SmtpSubject::new(Role::Submission, false, true);
    one_reply_per_command(make, SMTP_UNITS, ROUNDS, is_smtp_reply);
}

const POP3_UNITS: &[&[u8]] = &[
    b"USER ann\r\n",
    b"PASS secret\r\n",
    b"PASS wrong\r\n",
    b"AUTH PLAIN AGFubgBzZWNyZXQ=\r\n",
    b"AUTH PLAIN =\r\n",
    b"STLS\r\n",
    b"CAPA\r\n",
    b"STAT\r\n",
    b"LIST\r\n",
    b"LIST 1\r\n",
    b"UIDL\r\n",
    b"UIDL 9\r\n",
    b"RETR 1\r\n",
    b"RETR 3\r\n",
    b"RETR 4\r\n",
    b"TOP 1 0\r\n",
    b"TOP 2 9\r\n",
    b"DELE 1\r\n",
    b"DELE 0\r\n",
    b"NOOP\r\n",
    b"RSET\r\n",
    b"LAST\r\n",
    b"\r\n",
    b"NO\0OP\r\n",
    b"NO\rOP\r\n",
    b"NO\nOP\r\n",
    b"QUIT\r\n",
];

/// `+OK` or `-ERR`; a good answer to some commands goes on to a lone dot.
fn is_pop3_reply(unit: &[u8], said: &[u8]) -> bool {
    let several = [&b"CAPA"[..], b"LIST\r", b"UIDL\r", b"RETR", b"TOP"];
    let good = said.starts_with(b"+OK");
    if !(good || said.starts_with(b"-ERR")) {
        return false;
    }
    let lines = said.split_inclusive(|&byte| byte == b'\n').collect::<Vec<_>>();
    if good && several.iter().any(|command| unit.starts_with(command)) {
        let dots = lines.iter().filter(|line| **line == b".\r\n").count();
        dots == 1 && said.ends_with(b"\r\n.\r\n")
    } else {
        lines.len() == 1 && said.ends_with(b"\r\n")
    }
}

#[test]
fn pop3_has_one_reply_per_command() {
    one_reply_per_command(|| Pop3Subject::new(false, true), POP3_UNITS, ROUNDS, is_pop3_reply);
}

// ── the harness itself ──────────────────────────────────────────────────────────────────────────

/// A harness that finds nothing in a broken machine proves nothing.
mod planted {
    use super::*;
    use protocols::{Machine, Outbox, Step, Tick};

    /// Answers each piece of input rather than each line.
    #[derive(Default)]
    struct Hasty {
        deadline: Option<Tick>,
    }

    impl Machine for Hasty {
        type Event<'i> = ();

        fn step(&mut self, now: Tick, input: &mut &[u8], output: &mut Outbox) -> Step<()> {
            if !input.is_empty() {
                output.push(b"250 Fine\r\n");
            }
            *input = &[];
            self.deadline = Some(Tick(now.0 + 1000));
            Step::NeedInput
        }

        fn deadline(&self) -> Option<Tick> {
            self.deadline
        }

        fn tls_started(&mut self, _: Tick) {}
    }

    impl Subject for Hasty {
        type Machine = Hasty;

        fn machine(&mut self) -> &mut Hasty {
            self
        }

        fn answer(&mut self, (): (), _: &mut Outbox) -> Option<String> {
            None
        }

        fn retained_bytes(&self) -> usize {
            0
        }

        fn retained_bytes_max(&self) -> usize {
            0
        }
    }

    #[test]
    #[should_panic(expected = "octet by octet")]
    fn a_machine_that_minds_cuts_is_found() {
        cuts_do_not_matter(Hasty::default, &vec![b"NOOP\r\n".to_vec()]);
    }

    #[test]
    #[should_panic(expected = "law 5")]
    fn a_machine_that_answers_twice_is_found() {
        let twice = |_: &[u8], said: &[u8]| said == b"250 Fine\r\n250 Fine\r\n";
        one_reply_per_command(Hasty::default, &[b"NOOP\r\n"], 1, twice);
    }

    #[test]
    #[should_panic(expected = "an idle call gained time")]
    fn a_machine_that_never_tires_is_found() {
        silence_ends(Hasty::default, &vec![b"NOOP\r\n".to_vec()]);
    }

    #[test]
    fn a_session_that_was_never_told_anything_is_quiet() {
        let session = laws::Session::accepted(Hasty::default());
        assert!(session.trace.is_empty());
    }
}
