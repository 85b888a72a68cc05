//! From a line to what is done about it; and the commands that belong to no transaction: hellos,
//! STARTTLS, and those that only idle.

use super::command::{self, Command, Syntax};
use super::event::{Event, FutureRelease, Role};
use super::params::ParamFault;
use super::reply::{Enhanced, Reply};
use super::session::{Phase, STRIKES_MAX, Smtp, TOO_MANY_ERRORS};
use super::transaction::Transaction;
use super::xclient;
use crate::message::date::rfc3339_text;
use crate::sasl::{self, Attempt, Mechanism};
use crate::wire::line::{Framed, LineFault};
use crate::{Outbox, Step};
use std::fmt::Write;

/// NOOP, VRFY, hellos, senders and their like between two messages; more is idling at our cost.
const IDLE_COMMANDS_MAX: u32 = 200;
/// RFC 5321 section 4.5.3.1.4 says 512; extensions add to it (RFC 1870, 3461, 6531),
/// clients exceed it.
const COMMAND_OCTETS_MAX: usize = 2048;

impl<P> Smtp<P> {
    pub(super) fn line<'i>(
        &mut self,
        attempt: Option<Attempt>,
        input: &mut &[u8],
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        let mut lines = std::mem::take(&mut self.lines);
        let step = match (lines.next(input, self.line_octets_max()), attempt) {
            (Framed::Incomplete, None) => Some(Step::NeedInput),
            (Framed::Incomplete, Some(attempt)) => {
                self.phase = Phase::Sasl(attempt);
                Some(Step::NeedInput)
            }
            (Framed::Fault(fault), _) => {
                self.clock_due = true;
                self.line_fault(fault, lines.spoiled_line_may_begin_with(b"BDAT"), output);
                None
            }
            (Framed::Line(line), attempt) => {
                self.clock_due = true;
                match attempt {
                    Some(attempt) => self.login_turn(attempt.line(line), output),
                    None => self.command(line, output),
                }
            }
        };
        self.lines = lines;
        step
    }

    /// AUTH may carry a long initial response, and long lines follow it.
    fn line_octets_max(&self) -> usize {
        if self.auth_offered() { sasl::LINE_OCTETS_MAX } else { COMMAND_OCTETS_MAX }
    }

    fn line_fault(&mut self, fault: LineFault, may_be_bdat: bool, output: &mut Outbox) {
        let text = match fault {
            LineFault::TooLong => "Line too long",
            LineFault::BareCr | LineFault::BareLf => "Lines must end with CRLF",
            LineFault::Nul => "NUL in a command",
            LineFault::Hopeless => {
                self.strikes = STRIKES_MAX;
                "Lines must end with CRLF"
            }
        };
        if may_be_bdat || self.sender_named {
            self.hang_up(&Reply::new(500, Enhanced(5, 5, 2), text), output);
        } else {
            self.fault(500, Enhanced(5, 5, 2), text, output);
        }
    }

    fn command<'i>(&mut self, line: &[u8], output: &mut Outbox) -> Option<Step<Event<'i>>> {
        self.sender_named |= line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"MAIL"));
        match command::parse(line, &self.config.postmaster_domain) {
            Ok(command) => self.obey(command, output),
            Err(fault) => {
                let (code, enhanced, text) = match fault {
                    Syntax::Verb => (500, Enhanced(5, 5, 1), "Command not known"),
                    Syntax::Arguments => (501, Enhanced(5, 5, 4), "Wrong arguments"),
                    Syntax::Address => (501, Enhanced(5, 1, 3), "Malformed address"),
                    Syntax::Param(ParamFault::Value) => (501, Enhanced(5, 5, 4), "Wrong parameter"),
                    Syntax::Param(ParamFault::Unknown) => {
                        (555, Enhanced(5, 5, 4), "Parameter not known")
                    }
                    Syntax::Chunk => {
                        let text = "A chunk without a size: nothing behind it can be read";
                        self.hang_up(&Reply::new(501, Enhanced(5, 5, 4), text), output);
                        return None;
                    }
                    Syntax::Http => {
                        let text = "This is a mail server, goodbye";
                        self.hang_up(&Reply::new(421, Enhanced(4, 7, 0), text), output);
                        return None;
                    }
                };
                self.fault(code, enhanced, text, output);
                None
            }
        }
    }

    fn obey<'i>(&mut self, command: Command, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        match command {
            Command::Helo(name) => self.hello_said(name, false, output),
            Command::Ehlo(name) => self.hello_said(name, true, output),
            Command::Lhlo(name) => self.lhlo_said(name, output),
            Command::Mail { from, params } => return self.mail(from, params, output),
            Command::Rcpt { to, params } => return self.recipient(to, params, output),
            Command::Data => return self.data(output),
            Command::Bdat { octets, last } => return self.bdat(octets, last),
            Command::StartTls => return self.start_tls(output),
            Command::Auth { mechanism, initial } => return self.auth(&mechanism, initial, output),
            Command::Xclient(client) => return self.xclient(client, output),
            Command::Rset => {
                self.end_transaction();
                self.sender_named = false;
                self.smtp_utf8 = false;
                let reply = Reply::new(250, Enhanced(2, 0, 0), "Forgotten");
                // The way on from a transaction that we have put off.
                if std::mem::take(&mut self.is_put_off) {
                    self.say_put_off(reply, output);
                } else {
                    self.idle(reply, output);
                }
            }
            Command::Noop => self.idle(Reply::new(250, Enhanced(2, 0, 0), "Fine"), output),
            Command::Help => {
                self.idle(Reply::new(214, Enhanced(2, 0, 0), "RFC 5321 says it all"), output);
            }
            // RFC 5321 section 7.3: guessing addresses is not helped.
            Command::Vrfy => {
                let text = "Can't say, but will take mail and try";
                self.idle(Reply::new(252, Enhanced(2, 5, 0), text), output);
            }
            Command::Expn => self.fault(502, Enhanced(5, 5, 1), "Lists are not shown", output),
            Command::Quit => {
                self.hang_up(&Reply::new(221, Enhanced(2, 0, 0), "Goodbye"), output);
            }
        }
        None
    }

    fn idle(&mut self, reply: Reply, output: &mut Outbox) {
        self.count_idle();
        self.say(reply, output);
    }

    /// False, and the farewell is said, when there has been too much of it.
    pub(super) fn may_idle(&mut self, output: &mut Outbox) -> bool {
        self.count_idle();
        let worn_out = self.strikes >= STRIKES_MAX;
        if worn_out {
            self.hang_up(&TOO_MANY_ERRORS, output);
        }
        !worn_out
    }

    fn count_idle(&mut self) {
        self.idle_commands = self.idle_commands.saturating_add(1);
        if self.idle_commands > IDLE_COMMANDS_MAX {
            self.strikes = STRIKES_MAX;
        }
    }

    fn hello_said(&mut self, name: String, extended: bool, output: &mut Outbox) {
        match self.config.role {
            Role::Lmtp => self.fault(500, Enhanced(5, 5, 1), "This is LMTP: say LHLO", output),
            Role::Mx | Role::Submission => self.welcome(name, extended, output),
        }
    }

    fn lhlo_said(&mut self, name: String, output: &mut Outbox) {
        match self.config.role {
            Role::Lmtp => self.welcome(name, true, output),
            Role::Mx | Role::Submission => {
                self.fault(500, Enhanced(5, 5, 1), "This is SMTP: say EHLO", output);
            }
        }
    }

    fn welcome(&mut self, name: String, extended: bool, output: &mut Outbox) {
        self.end_transaction();
        if !self.may_idle(output) {
            return;
        }
        self.sender_named = false;
        self.smtp_utf8 = false;
        self.is_put_off = false;
        self.transaction = Transaction::Ready;
        (self.hello, self.extended) = (name, extended);
        if !extended {
            Reply::bare(250, "").with_text(self.config.hostname.clone()).write(output);
            return;
        }
        let _ = write!(output, "250-{}\r\n", self.config.hostname);
        output
            .push(b"250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n");
        if self.config.tls_available && !self.tls && !self.speaks_for_another() {
            output.push(b"250-STARTTLS\r\n");
        }
        if self.require_tls_offered() {
            output.push(b"250-REQUIRETLS\r\n");
        }
        if self.auth_offered() {
            let names: Vec<&str> = Mechanism::ALL.iter().map(|one| one.name()).collect();
            let _ = write!(output, "250-AUTH {}\r\n", names.join(" "));
        }
        if let Some(FutureRelease { seconds_max, latest }) = self.future_release_offered() {
            let latest = rfc3339_text(latest.saturating_mul(1000));
            let _ = write!(output, "250-FUTURERELEASE {seconds_max} {latest}\r\n");
        }
        if self.config.xclient && self.config.role == Role::Mx {
            output.push(xclient::OFFER);
        }
        let _ = write!(output, "250-SIZE {}\r\n", self.config.message_octets_max);
        output.push(b"250 ENHANCEDSTATUSCODES\r\n");
    }

    fn start_tls<'i>(&mut self, output: &mut Outbox) -> Option<Step<Event<'i>>> {
        if !self.config.tls_available || self.tls {
            self.fault(502, Enhanced(5, 5, 1), "TLS is not available", output);
        } else if self.in_transaction() {
            self.out_of_order("A message is under way", output);
        } else if self.speaks_for_another() {
            self.out_of_order("A gateway starts TLS before it speaks for anybody", output);
        } else {
            Reply::new(220, Enhanced(2, 0, 0), "Ready to start TLS").write(output);
            return Some(Step::StartTls);
        }
        None
    }
}
