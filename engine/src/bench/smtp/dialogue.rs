//! The client's side of SMTP (RFC 5321) and LMTP (RFC 2033), without a socket.
//!
//! Fed with reply lines, it appends commands and says what comes next. One transaction at a time;
//! with pipelining (RFC 2920) MAIL, RCPT and DATA leave together and their replies are counted off.
//!
//! Invariant: a message counts as acknowledged only when every reply of its transaction was
//! positive. After a failure the transaction is reset, so that the session can go on.

use super::{Plan, Tls};

/// What the session does after a reply line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Reads on; commands may have been appended.
    Wait,
    /// Starts TLS, then calls [`Dialogue::tls_started`].
    Secure,
    /// Greeted and logged in: ready for the first transaction.
    Ready,
    /// Sends the message with its final dot.
    SendMessage,
    /// The transaction is over; `Err` says how the server refused it.
    Finished(Result<(), String>),
    /// The server said goodbye to our QUIT.
    Closed,
    /// No way to go on with this connection.
    Broken(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Hello,
    StartTls,
    Auth,
    Idle,
    Mail,
    Rcpt { left: usize },
    Data,
    Final { left: usize },
    Reset,
    Quit,
}

#[derive(Debug)]
pub(super) struct Dialogue {
    state: State,
    secured: bool,
    offers_starttls: bool,
    offers_pipelining: bool,
    offers_size: bool,
    /// Recipients of the transaction that were accepted: LMTP answers for each of them.
    accepted: usize,
    refusal: Option<String>,
    /// RCPT lines that a session without pipelining has yet to send.
    unsent: Vec<String>,
}

impl Dialogue {
    pub(super) fn new(tls: Tls) -> Dialogue {
        Dialogue {
            state: State::Greeting,
            secured: tls == Tls::Implicit,
            offers_starttls: false,
            offers_pipelining: false,
            offers_size: false,
            accepted: 0,
            refusal: None,
            unsent: Vec::new(),
        }
    }

    pub(super) fn in_transaction(&self) -> bool {
        match self.state {
            State::Mail | State::Rcpt { .. } | State::Data | State::Final { .. } | State::Reset => {
                true
            }
            State::Greeting
            | State::Hello
            | State::StartTls
            | State::Auth
            | State::Idle
            | State::Quit => false,
        }
    }

    /// The whole message has been sent, and its reply is awaited.
    pub(super) fn awaits_final_reply(&self) -> bool {
        matches!(self.state, State::Final { .. })
    }

    pub(super) fn is_quitting(&self) -> bool {
        self.state == State::Quit
    }

    /// What the peer owes us, for the text of a timeout.
    pub(super) fn awaited(&self) -> &'static str {
        match self.state {
            State::Greeting => "the greeting",
            State::Hello => "the reply to EHLO",
            State::StartTls => "the reply to STARTTLS",
            State::Auth => "the reply to AUTH",
            State::Idle => "nothing",
            State::Mail => "the reply to MAIL",
            State::Rcpt { .. } => "the reply to RCPT",
            State::Data => "the reply to DATA",
            State::Final { .. } => "the reply to the message",
            State::Reset => "the reply to RSET",
            State::Quit => "the reply to QUIT",
        }
    }

    /// Starts the transaction of message `number`. Only for a session that is ready.
    pub(super) fn begin(&mut self, plan: &Plan, number: u64, out: &mut Vec<u8>) {
        self.state = State::Mail;
        self.accepted = 0;
        self.refusal = None;
        // As mail servers do (RFC 1870): whoever knows it makes room once.
        let size = if self.offers_size { &format!(" SIZE={}", plan.message.bytes()) } else { "" };
        command(out, &["MAIL FROM:<", &plan.options.from, ">", size]);
        let recipients = plan.recipients(number);
        if plan.options.pipelining {
            for to in recipients {
                command(out, &["RCPT TO:<", to, ">"]);
            }
            command(out, &["DATA"]);
        } else {
            self.unsent.clear();
            self.unsent.extend(recipients.map(str::to_owned));
            self.unsent.reverse();
        }
    }

    pub(super) fn quit(&mut self, out: &mut Vec<u8>) {
        self.state = State::Quit;
        command(out, &["QUIT"]);
    }

    pub(super) fn tls_started(&mut self, plan: &Plan, out: &mut Vec<u8>) {
        self.secured = true;
        self.hello(plan, out);
    }

    /// One line of a reply, without its line end.
    pub(super) fn line(&mut self, plan: &Plan, line: &[u8], out: &mut Vec<u8>) -> Action {
        let Some((code, last)) = parse(line) else {
            return Action::Broken(format!("not a reply: {:?}", String::from_utf8_lossy(line)));
        };
        if self.state == State::Hello {
            let keyword = line.get(4..).unwrap_or_default().to_ascii_uppercase();
            self.offers_starttls |= keyword.starts_with(b"STARTTLS");
            self.offers_pipelining |= keyword.starts_with(b"PIPELINING");
            self.offers_size |= keyword.starts_with(b"SIZE");
        }
        if !last {
            return Action::Wait;
        }
        // RFC 5321 section 3.8: 421 may come at any time, and the server closes after it.
        if code == 421 && self.state != State::Quit {
            return Action::Broken(String::from_utf8_lossy(line).into_owned());
        }
        self.reply(plan, code, line, out)
    }

    fn reply(&mut self, plan: &Plan, code: u16, line: &[u8], out: &mut Vec<u8>) -> Action {
        let positive = (200..300).contains(&code);
        let text = || String::from_utf8_lossy(line).into_owned();
        match self.state {
            State::Greeting | State::Hello | State::StartTls | State::Auth if !positive => {
                Action::Broken(format!("{}: {}", self.awaited(), text()))
            }
            State::Greeting => {
                self.hello(plan, out);
                Action::Wait
            }
            State::Hello => self.greeted(plan, out),
            State::StartTls => Action::Secure,
            State::Auth => {
                self.state = State::Idle;
                Action::Ready
            }
            State::Idle => Action::Broken(format!("a reply to nothing: {}", text())),
            State::Mail => {
                if !positive {
                    self.refusal = Some(text());
                }
                self.after_mail(plan, out)
            }
            State::Rcpt { left } => {
                if positive {
                    self.accepted += 1;
                } else {
                    self.refusal.get_or_insert_with(text);
                }
                self.after_rcpt(plan, left.saturating_sub(1), out)
            }
            State::Data => self.after_data(plan, code, text, out),
            State::Final { left } => {
                if !positive {
                    self.refusal.get_or_insert_with(text);
                }
                if left > 1 {
                    self.state = State::Final { left: left - 1 };
                    return Action::Wait;
                }
                self.finished()
            }
            State::Reset => self.finished(),
            State::Quit => Action::Closed,
        }
    }

    fn hello(&mut self, plan: &Plan, out: &mut Vec<u8>) {
        self.state = State::Hello;
        command(out, &[if plan.options.lmtp { "LHLO" } else { "EHLO" }, " bench.example.net"]);
    }

    fn greeted(&mut self, plan: &Plan, out: &mut Vec<u8>) -> Action {
        if plan.options.tls == Tls::Starttls && !self.secured {
            if !self.offers_starttls {
                return Action::Broken("the server does not offer STARTTLS".to_owned());
            }
            self.state = State::StartTls;
            command(out, &["STARTTLS"]);
            return Action::Wait;
        }
        if plan.options.pipelining && !self.offers_pipelining {
            return Action::Broken("the server does not offer PIPELINING".to_owned());
        }
        if let Some(credentials) = &plan.credentials {
            self.state = State::Auth;
            command(out, &["AUTH PLAIN ", credentials]);
            return Action::Wait;
        }
        self.state = State::Idle;
        Action::Ready
    }

    fn after_mail(&mut self, plan: &Plan, out: &mut Vec<u8>) -> Action {
        self.state = State::Rcpt { left: plan.options.recipients };
        if plan.options.pipelining {
            return Action::Wait;
        }
        match self.unsent.pop() {
            Some(to) if self.refusal.is_none() => {
                command(out, &["RCPT TO:<", &to, ">"]);
                Action::Wait
            }
            Some(_) | None => self.reset(out),
        }
    }

    fn after_rcpt(&mut self, plan: &Plan, left: usize, out: &mut Vec<u8>) -> Action {
        self.state = if left > 0 { State::Rcpt { left } } else { State::Data };
        if plan.options.pipelining {
            return Action::Wait;
        }
        if self.refusal.is_some() {
            return self.reset(out);
        }
        match self.unsent.pop() {
            Some(to) => command(out, &["RCPT TO:<", &to, ">"]),
            None => command(out, &["DATA"]),
        }
        Action::Wait
    }

    fn after_data(
        &mut self,
        plan: &Plan,
        code: u16,
        text: impl FnOnce() -> String,
        out: &mut Vec<u8>,
    ) -> Action {
        if code != 354 {
            self.refusal.get_or_insert_with(text);
            return self.reset(out);
        }
        // With pipelining the server may take the message for some of its recipients: the message
        // is sent all the same, and counted as an error.
        let left = if plan.options.lmtp { self.accepted } else { 1 };
        if left == 0 {
            return Action::Broken("354 without an accepted recipient".to_owned());
        }
        self.state = State::Final { left };
        Action::SendMessage
    }

    fn reset(&mut self, out: &mut Vec<u8>) -> Action {
        self.state = State::Reset;
        command(out, &["RSET"]);
        Action::Wait
    }

    fn finished(&mut self) -> Action {
        self.state = State::Idle;
        Action::Finished(self.refusal.take().map_or(Ok(()), Err))
    }
}

fn command(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Code of a reply line, and whether it is the reply's last (RFC 5321 section 4.2.1).
fn parse(line: &[u8]) -> Option<(u16, bool)> {
    let digits = line.get(..3)?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match line.get(3) {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}
