//! `kura bench sink`: takes every message over SMTP and keeps none, so that relaying
//! can be measured.
//!
//! Like the load program it shares its cores with the server that it helps to measure, and so is
//! built to cost little: one thread, epoll, one buffer for all connections; a message's text is
//! searched for its end and forgotten. It says yes to everything and checks nothing, whatever
//! stands in the commands.
//!
//! Bounded: so many connections at a time (others wait in the kernel's backlog),
//! lines up to a limit.

use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use slab::Slab;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Take mail over SMTP and throw it away: what a relay sends to while it is measured
///
/// Prints how much it has taken whenever that has changed, five times a second at the most, until
/// it is interrupted.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  kura bench sink --listen 127.0.0.1:2526 --json")]
pub struct Options {
    /// Where it waits for mail
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:2526")]
    pub listen: SocketAddr,
    /// Counts as JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// What has come so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    pub messages: u64,
    /// Of the messages' text, as it was sent.
    pub octets: u64,
    pub connections: u64,
}

const CONNECTIONS_MAX: usize = 1000;
const READ_BYTES: usize = 64 << 10;
/// RFC 5321 section 4.5.3.1.4 has 512 octets; extensions add to it.
const LINE_OCTETS_MAX: usize = 8 << 10;
const TELL_EVERY: Duration = Duration::from_millis(200);
const LISTENER: Token = Token(usize::MAX);
const GREETING: &[u8] = b"220 sink.invalid ESMTP kura bench sink\r\n";
/// What ends a message that is not empty; the first CRLF is its own.
const END: &[u8] = b"\r\n.\r\n";

/// Takes mail until `tell` fails, which hears when it begins, and then of all that came.
pub fn run(options: &Options, mut tell: impl FnMut(Taken) -> io::Result<()>) -> io::Result<()> {
    let mut listener = TcpListener::bind(options.listen)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(CONNECTIONS_MAX);
    let mut connections: Slab<Connection> = Slab::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut taken = Taken::default();
    tell(taken)?;
    let (mut told, mut told_at) = (taken, Instant::now());
    loop {
        match poll.poll(&mut events, Some(TELL_EVERY)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            let Token(key) = event.token();
            let Some(connection) = connections.get_mut(key) else { continue };
            if let Err(_gone) = connection.turn(&mut buffer, &mut taken) {
                connections.remove(key);
            }
        }
        // At every turn, since those that found no room are not announced again.
        while connections.len() < CONNECTIONS_MAX {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // One that has gone before it was let in.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let _ = stream.set_nodelay(true);
            let entry = connections.vacant_entry();
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(entry.key()), both)?;
            entry.insert(Connection {
                stream,
                dialogue: Dialogue::default(),
                replies: GREETING.to_vec(),
            });
            taken.connections += 1;
        }
        if told_at.elapsed() >= TELL_EVERY && told != taken {
            tell(taken)?;
            (told, told_at) = (taken, Instant::now());
        }
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    dialogue: Dialogue,
    /// Not sent yet.
    replies: Vec<u8>,
}

impl Connection {
    /// Reads what has come and answers it. An error is the end of the connection.
    fn turn(&mut self, buffer: &mut [u8], taken: &mut Taken) -> io::Result<()> {
        loop {
            self.send()?;
            if self.dialogue.is_over {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            // Who does not read replies is not read from.
            if !self.replies.is_empty() {
                return Ok(());
            }
            match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.dialogue.feed(&buffer[..count], &mut self.replies, taken);
                    // epoll(7): it was emptied, and more is an edge.
                    if count < buffer.len() {
                        self.send()?;
                        return if self.dialogue.is_over {
                            Err(io::ErrorKind::ConnectionAborted.into())
                        } else {
                            Ok(())
                        };
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.replies.is_empty() {
            match self.stream.write(&self.replies) {
                Ok(count) => drop(self.replies.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The server's half of SMTP, for a server that never says no.
#[derive(Debug, Default)]
struct Dialogue {
    /// Start of a command whose end has not come.
    line: Vec<u8>,
    /// In a message: its last octets so far, as many as its end may have.
    tail: Option<Vec<u8>>,
    is_over: bool,
}

impl Dialogue {
    /// Takes `input` in and appends what is to be answered.
    fn feed(&mut self, mut input: &[u8], replies: &mut Vec<u8>, taken: &mut Taken) {
        while !input.is_empty() && !self.is_over {
            if self.tail.is_some() {
                input = self.text(input, replies, taken);
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', input) else {
                self.line.extend_from_slice(input);
                break;
            };
            let (line, rest) = input.split_at(end + 1);
            input = rest;
            if self.line.is_empty() {
                self.command(line, replies);
            } else {
                self.line.extend_from_slice(line);
                let line = std::mem::take(&mut self.line);
                self.command(&line, replies);
            }
        }
        if self.line.len() > LINE_OCTETS_MAX {
            replies.extend_from_slice(b"500 5.5.2 This line has no end\r\n");
            self.is_over = true;
        }
    }

    fn command(&mut self, line: &[u8], replies: &mut Vec<u8>) {
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        replies.extend_from_slice(match &*verb {
            b"EHLO" => b"250-sink.invalid\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n",
            b"DATA" => {
                // As if a line had just ended, so that a dot may come first.
                self.tail = Some(b"\r\n".to_vec());
                b"354 Go on\r\n"
            }
            b"QUIT" => {
                self.is_over = true;
                b"221 2.0.0 Bye\r\n"
            }
            b"HELO" | b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => b"250 2.0.0 Ok\r\n",
            _ => b"502 5.5.1 This is a sink\r\n",
        });
    }

    /// Some of a message's text; what is left of `input` comes after its end.
    fn text<'i>(&mut self, input: &'i [u8], replies: &mut Vec<u8>, taken: &mut Taken) -> &'i [u8] {
        let Some(tail) = &mut self.tail else { return input };
        // An end that began before, and then one in here.
        let seam = &input[..input.len().min(END.len() - 1)];
        let before = tail.len();
        tail.extend_from_slice(seam);
        let end = memmem::find(tail, END)
            .map(|at| at + END.len() - before)
            .or_else(|| memmem::find(input, END).map(|at| at + END.len()));
        let Some(end) = end else {
            taken.octets += input.len() as u64;
            tail.truncate(before);
            tail.extend_from_slice(&input[input.len().saturating_sub(END.len() - 1)..]);
            let excess = tail.len().saturating_sub(END.len() - 1);
            tail.drain(..excess);
            return &[];
        };
        self.tail = None;
        taken.octets += end as u64;
        taken.messages += 1;
        replies.extend_from_slice(b"250 2.0.0 Forgotten\r\n");
        &input[end..]
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialogue, LINE_OCTETS_MAX, Taken};

    const SESSION: &[u8] = b"EHLO there\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n\
        Subject: one\r\n\r\n..\r\n.. \r\n.\n.x\r\nQUIT\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\ndata\r\n.\r\nQUIT\r\nNOOP\r\n";

    fn fed(pieces: &[&[u8]]) -> (String, Taken, bool) {
        let (mut dialogue, mut replies, mut taken) =
            (Dialogue::default(), Vec::new(), Taken::default());
        pieces.iter().for_each(|piece| dialogue.feed(piece, &mut replies, &mut taken));
        (String::from_utf8(replies).expect("ASCII"), taken, dialogue.is_over)
    }

    #[test]
    fn a_session_is_answered_in_order_wherever_it_is_cut() {
        let whole = fed(&[SESSION]);
        let codes: Vec<&str> = whole.0.lines().map(|line| &line[..4]).collect();
        let greeted = ["250-", "250-", "250-", "250-", "250 "];
        let message = ["250 ", "250 ", "354 ", "250 "];
        assert_eq!(codes, [&greeted[..], &message, &message, &["221 "]].concat());
        assert_eq!((whole.1.messages, whole.2), (2, true));
        for cut in 0..=SESSION.len() {
            let (first, second) = SESSION.split_at(cut);
            assert_eq!(fed(&[first, second]), whole, "cut at {cut}");
        }
        let single: Vec<&[u8]> = SESSION.chunks(1).collect();
        assert_eq!(fed(&single), whole);
    }

    #[test]
    fn a_line_without_an_end_ends_the_connection() {
        let (replies, _, is_over) = fed(&[&vec![b'x'; LINE_OCTETS_MAX + 1]]);
        assert!(replies.starts_with("500 ") && is_over);
    }
}
