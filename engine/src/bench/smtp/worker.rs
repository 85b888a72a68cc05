//! One thread of the load: some sessions, one epoll.
//!
//! A session that can't go on is an error, and another takes its place while messages are left.
//! When connections keep failing with nothing acknowledged in between, the worker gives up.

use super::dialogue::{Action, Dialogue};
use super::report::Tally;
use super::timer::Timer;
use super::transport::{Transport, careless_config};
use super::{Plan, Tls};
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of what is sent: one that every Linux has, and that does not pace.
const CONGESTION_CONTROL: &[u8] = b"cubic";
const READ_BYTES: usize = 16 << 10;
/// RFC 5321 section 4.5.3.1.5 has 512 octets for a reply line; servers are more talkative.
const LINE_BYTES_MAX: usize = 8 << 10;
const TIMER: Token = Token(usize::MAX);

/// One connection and its transaction.
#[derive(Debug)]
struct Session {
    transport: Transport,
    dialogue: Dialogue,
    /// Start of a reply line whose end has not come yet.
    input: Vec<u8>,
    /// Commands, the message's header, and (from the plan) its text: sent in this order.
    commands: Vec<u8>,
    head: Vec<u8>,
    sending_message: bool,
    /// How much of all three has gone.
    sent: usize,
    number: u64,
    due: Option<Instant>,
    began: Instant,
    ended: Instant,
    heard: Instant,
    transactions: u64,
}

/// Why a session is over.
enum End {
    /// After our QUIT.
    Proper,
    Failed(String),
}

struct Worker<'p> {
    plan: &'p Plan,
    tls: Option<Arc<ClientConfig>>,
    poll: Poll,
    sessions: Vec<Option<Session>>,
    /// Open loop only: sessions that wait for a message, longest first.
    idle: VecDeque<usize>,
    /// Open loop only: the next message and when it is due.
    held: Option<(u64, Instant)>,
    timer: Option<Timer>,
    /// All sessions have been ready once: the open loop may begin.
    ready: bool,
    /// No message is left to begin.
    exhausted: bool,
    failures_in_a_row: usize,
    tally: Tally,
    scratch: Vec<u8>,
}

pub(super) fn run(plan: &Plan, sessions: usize) -> io::Result<Tally> {
    let mut worker = Worker::new(plan, sessions)?;
    for index in 0..sessions {
        worker.connect(index);
    }
    worker.run()?;
    Ok(worker.tally)
}

impl<'p> Worker<'p> {
    fn new(plan: &'p Plan, sessions: usize) -> io::Result<Worker<'p>> {
        let poll = Poll::new()?;
        let timer = match plan.options.open_rate {
            Some(_) => {
                let timer = Timer::new()?;
                poll.registry().register(&mut SourceFd(&timer.raw()), TIMER, Interest::READABLE)?;
                Some(timer)
            }
            None => None,
        };
        let tls = match plan.options.tls {
            Tls::None => None,
            Tls::Starttls | Tls::Implicit => Some(careless_config().map_err(io::Error::other)?),
        };
        Ok(Worker {
            plan,
            tls,
            poll,
            sessions: (0..sessions).map(|_| None).collect(),
            idle: VecDeque::new(),
            held: None,
            timer,
            ready: false,
            exhausted: false,
            failures_in_a_row: 0,
            tally: Tally::new(),
            scratch: vec![0; READ_BYTES],
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let limit = self.plan.started + Duration::from_secs_f64(self.plan.options.seconds);
        let mut next_check = Instant::now() + Duration::from_secs(1);
        while self.sessions.iter().any(Option::is_some) {
            match self.poll.poll(&mut events, Some(Duration::from_millis(500))) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                if event.token() != TIMER {
                    let readable =
                        event.is_readable() || event.is_read_closed() || event.is_error();
                    self.serve(event.token().0, readable);
                }
            }
            if self.timer.is_some() {
                self.feed()?;
            }
            let now = Instant::now();
            if now >= next_check {
                next_check = now + Duration::from_secs(1);
                self.drop_silent(now);
            }
            if now >= limit {
                let open = self.sessions.iter().flatten().filter(|s| s.dialogue.in_transaction());
                let text =
                    format!("stopped by --seconds, with {} messages unanswered", open.count());
                self.tally.error(text);
                self.sessions.clear();
            }
        }
        Ok(())
    }

    fn connect(&mut self, index: usize) {
        match self.try_connect(index) {
            Ok(session) => {
                self.tally.connections += 1;
                self.sessions[index] = Some(session);
            }
            Err(error) => self.tally.error(format!("connect: {error}")),
        }
    }

    fn try_connect(&mut self, index: usize) -> io::Result<Session> {
        let mut socket = TcpStream::connect(self.plan.address)?;
        // Edge-triggered, both ways, registered once: no system call to change interest.
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(index), interest)?;
        socket.set_nodelay(true)?;
        // Where the host paces what it sends (BBR), the pacing would be measured: on loopback it
        // took a third of the rate at 100 KiB. A host without it has its own way.
        let _ = socket2::SockRef::from(&socket).set_tcp_congestion(CONGESTION_CONTROL);
        let mut transport = Transport::new(socket);
        if let (Tls::Implicit, Some(config)) = (self.plan.options.tls, &self.tls) {
            transport.secure(config, self.plan.options.host())?;
        }
        let now = Instant::now();
        Ok(Session {
            transport,
            dialogue: Dialogue::new(self.plan.options.tls),
            input: Vec::new(),
            commands: Vec::new(),
            head: Vec::new(),
            sending_message: false,
            sent: 0,
            number: 0,
            due: None,
            began: now,
            ended: now,
            heard: now,
            transactions: 0,
        })
    }

    /// Does what the socket of session `index` allows now.
    fn serve(&mut self, index: usize, readable: bool) {
        let Some(mut session) = self.sessions.get_mut(index).and_then(Option::take) else { return };
        match self.converse(index, &mut session, readable) {
            Ok(()) => self.sessions[index] = Some(session),
            Err(end) => self.ended(index, session, end),
        }
    }

    fn converse(&mut self, index: usize, session: &mut Session, readable: bool) -> Result<(), End> {
        session.send(self.plan)?;
        if !readable {
            return Ok(());
        }
        loop {
            match session.transport.read(&mut self.scratch) {
                Ok(0) if session.dialogue.is_quitting() => return Err(End::Proper),
                Ok(0) => {
                    let awaited = session.dialogue.awaited();
                    return Err(End::Failed(format!("the server closed, {awaited} was awaited")));
                }
                Ok(bytes) => {
                    session.heard = Instant::now();
                    let input = std::mem::take(&mut self.scratch);
                    let result = self.take_in(index, session, &input[..bytes]);
                    self.scratch = input;
                    result?;
                    session.send(self.plan)?;
                    // In clear, a short read has emptied the socket; epoll tells of
                    // what comes later.
                    if bytes < READ_BYTES && self.tls.is_none() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(session.failed(&error)),
            }
        }
        // Reading under TLS may have left something to say, such as the end of the handshake.
        session.send(self.plan)
    }

    /// Cuts the input into lines.
    fn take_in(&mut self, index: usize, session: &mut Session, bytes: &[u8]) -> Result<(), End> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if session.input.is_empty() {
                self.line(index, session, line)?;
            } else {
                let mut whole = std::mem::take(&mut session.input);
                whole.extend_from_slice(line);
                self.line(index, session, &whole)?;
            }
        }
        session.input.extend_from_slice(rest);
        if session.input.len() > LINE_BYTES_MAX {
            return Err(End::Failed("a reply line without an end".to_owned()));
        }
        Ok(())
    }

    fn line(&mut self, index: usize, session: &mut Session, line: &[u8]) -> Result<(), End> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if session.sending_message {
            let text = String::from_utf8_lossy(line);
            return Err(End::Failed(format!("answered before the message was sent: {text}")));
        }
        match session.dialogue.line(self.plan, line, &mut session.commands) {
            Action::Wait => {}
            Action::Secure => {
                if let Some(config) = &self.tls {
                    let secured = session.transport.secure(config, self.plan.options.host());
                    secured.map_err(|error| session.failed(&error))?;
                }
                session.dialogue.tls_started(self.plan, &mut session.commands);
            }
            Action::SendMessage => {
                self.plan.message.write_head(session.number, &mut session.head);
                session.sending_message = true;
            }
            Action::Ready => self.next(index, session),
            Action::Finished(outcome) => {
                self.finished(session, outcome);
                self.next(index, session);
            }
            Action::Closed => return Err(End::Proper),
            Action::Broken(text) => return Err(End::Failed(text)),
        }
        Ok(())
    }

    fn finished(&mut self, session: &Session, outcome: Result<(), String>) {
        let now = session.heard;
        match outcome {
            Ok(()) => {
                let late = session
                    .due
                    .map_or(Duration::ZERO, |due| session.began - due.min(session.began));
                let transaction = now.saturating_duration_since(session.began);
                let reply = now.saturating_duration_since(session.ended);
                let bytes = self.plan.message.bytes();
                self.tally.acknowledged(now, late, transaction, reply, bytes);
                if self.plan.options.log.is_some() {
                    self.tally.acknowledged.push(session.number);
                }
                self.failures_in_a_row = 0;
            }
            Err(text) => self.tally.error(text),
        }
    }

    /// What a session that is ready does next: another message, wait for one, or leave.
    fn next(&mut self, index: usize, session: &mut Session) {
        let spent =
            self.plan.options.messages_per_session.is_some_and(|n| session.transactions >= n);
        if spent || self.exhausted {
            session.dialogue.quit(&mut session.commands);
        } else if self.timer.is_some() {
            self.idle.push_back(index);
        } else if let Some(number) = self.plan.claim() {
            self.begin(session, number, None);
        } else {
            self.exhausted = true;
            session.dialogue.quit(&mut session.commands);
        }
    }

    fn begin(&mut self, session: &mut Session, number: u64, due: Option<Instant>) {
        session.dialogue.begin(self.plan, number, &mut session.commands);
        session.number = number;
        session.due = due;
        session.began = Instant::now();
        session.transactions += 1;
        self.tally.started(session.began, due);
    }

    /// Open loop: begins what is due, sets the timer for what is not.
    fn feed(&mut self) -> io::Result<()> {
        self.ready |= self.idle.len() == self.sessions.len();
        if !self.ready {
            return Ok(());
        }
        loop {
            let Some((number, due)) = self.held.take().or_else(|| self.claim_due()) else {
                self.exhausted = true;
                while let Some(index) = self.idle.pop_front() {
                    self.with_session(index, |worker, session| worker.next(index, session));
                }
                return Ok(());
            };
            let now = Instant::now();
            if now < due {
                self.held = Some((number, due));
                return self.timer.as_ref().map_or(Ok(()), |timer| timer.set(due - now));
            }
            let Some(index) = self.idle.pop_front() else {
                self.held = Some((number, due));
                return Ok(());
            };
            self.with_session(index, |worker, session| worker.begin(session, number, Some(due)));
        }
    }

    fn claim_due(&self) -> Option<(u64, Instant)> {
        let number = self.plan.claim()?;
        Some((number, self.plan.due(number)?))
    }

    /// Does something to an idle session, and sends what comes of it.
    fn with_session(&mut self, index: usize, act: impl FnOnce(&mut Self, &mut Session)) {
        let Some(mut session) = self.sessions.get_mut(index).and_then(Option::take) else { return };
        act(self, &mut session);
        match session.send(self.plan) {
            Ok(()) => self.sessions[index] = Some(session),
            Err(end) => self.ended(index, session, end),
        }
    }

    /// A session is over: counts why, and opens the next in its place while there is work.
    fn ended(&mut self, index: usize, session: Session, end: End) {
        drop(session);
        self.idle.retain(|idle| *idle != index);
        if let End::Failed(text) = end {
            self.tally.error(text);
            self.failures_in_a_row += 1;
            if self.failures_in_a_row > 2 * self.sessions.len() + 8 {
                self.exhausted = true;
            }
        }
        if !self.exhausted {
            self.connect(index);
        }
    }

    fn drop_silent(&mut self, now: Instant) {
        let timeout = Duration::from_secs_f64(self.plan.options.timeout);
        for index in 0..self.sessions.len() {
            let silent =
                |s: &Session| now.saturating_duration_since(s.heard.max(s.began)) > timeout;
            let idle = self.idle.contains(&index);
            if let Some(session) = self.sessions[index].take_if(|s| !idle && silent(s)) {
                let awaited = session.dialogue.awaited();
                let text = format!("{awaited} did not come within {} s", timeout.as_secs_f64());
                self.ended(index, session, End::Failed(text));
            }
        }
    }
}

impl Session {
    /// Sends as much as the socket takes. Notes the time when the end of the message has gone.
    fn send(&mut self, plan: &Plan) -> Result<(), End> {
        match self.try_send(plan) {
            Ok(()) => {
                if self.sending_message && self.dialogue.awaits_final_reply() {
                    self.ended = Instant::now();
                }
                self.commands.clear();
                self.sending_message = false;
                self.sent = 0;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn try_send(&mut self, plan: &Plan) -> io::Result<()> {
        loop {
            let (head, rest) = if self.sending_message {
                (self.head.as_slice(), plan.message.rest())
            } else {
                ([].as_slice(), [].as_slice())
            };
            let mut skip = self.sent;
            let left = [self.commands.as_slice(), head, rest].map(|part| {
                let gone = skip.min(part.len());
                skip -= gone;
                &part[gone..]
            });
            let slices = match left {
                [[], [], []] => break,
                [[], [], rest] => &[IoSlice::new(rest)][..],
                [[], head, rest] => &[IoSlice::new(head), IoSlice::new(rest)][..],
                [commands, [], []] => &[IoSlice::new(commands)][..],
                [commands, head, rest] => {
                    &[IoSlice::new(commands), IoSlice::new(head), IoSlice::new(rest)][..]
                }
            };
            match self.transport.write(slices) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.transport.flush()
    }

    fn failed(&self, error: &io::Error) -> End {
        End::Failed(format!("{error}, while {} was awaited", self.dialogue.awaited()))
    }
}
