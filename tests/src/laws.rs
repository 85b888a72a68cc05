//! The laws of `protocols/src/machine.rs`, as checks that know no protocol.
//!
//! A [`Subject`] is a machine with a world that answers its events, the same way each time. A
//! [`Session`] drives one and writes down what happened, in order: what was said, what was asked.
//! Two runs are the same when their traces are. Message bytes show up whole, with the event that
//! ends their message: where pieces are cut is the network's affair, and how much of a message came
//! before it was found to be spoiled matters to nobody.
//!
//! The checks panic, as tests do, with the seed or the cut that shows the fault.

use crate::random::Random;
use protocols::{Machine, Outbox, Step, Tick};
use std::fmt;

/// When sessions begin.
pub const START: Tick = Tick(1_000);

/// A machine and its world.
pub trait Subject {
    type Machine: Machine;

    fn machine(&mut self) -> &mut Self::Machine;

    /// Answers one event and tells it as a line of text; nothing for a piece of a message, which is
    /// told when the message ends.
    fn answer(
        &mut self,
        event: <Self::Machine as Machine>::Event<'_>,
        output: &mut Outbox,
    ) -> Option<String>;

    /// Heap octets that the machine holds now.
    fn retained_bytes(&self) -> usize;

    /// What it says it holds at most.
    fn retained_bytes_max(&self) -> usize;
}

/// One entry of a trace.
#[derive(Clone, PartialEq, Eq)]
pub enum Happening {
    /// Octets that the machine wrote.
    Said(Vec<u8>),
    /// An event, as the subject tells it.
    Asked(String),
    StartTls,
    Closed,
}

impl fmt::Debug for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happening::Said(bytes) => write!(f, "S: {}", bytes.escape_ascii()),
            Happening::Asked(event) => write!(f, "E: {event}"),
            Happening::StartTls => f.write_str("starts TLS"),
            Happening::Closed => f.write_str("closed"),
        }
    }
}

/// One session that is being driven.
pub struct Session<S> {
    pub subject: S,
    pub trace: Vec<Happening>,
    output: Outbox,
    now: Tick,
    closed: bool,
    /// The peer was told to start TLS: what else it sends in the clear is dropped.
    awaiting_handshake: bool,
}

impl<S: Subject> Session<S> {
    pub fn accepted(subject: S) -> Session<S> {
        let mut session = Session {
            subject,
            trace: Vec::new(),
            output: Outbox::new(),
            now: START,
            closed: false,
            awaiting_handshake: false,
        };
        session.feed(b"");
        session
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The peer sends these octets, in one piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let mut input = piece;
        // A machine that neither takes input nor says or asks anything would spin.
        let mut steps_left = piece.len() * 4 + 10_000;
        while !self.closed && !self.awaiting_handshake {
            steps_left -= 1;
            assert!(steps_left > 0, "the machine spins at {:?}", input.escape_ascii().to_string());
            let step = self.subject.machine().step(self.now, &mut input, &mut self.output);
            self.note_said();
            match step {
                Step::NeedInput => {
                    assert!(input.is_empty(), "law 6: NeedInput while input is left");
                    let retained = self.subject.retained_bytes();
                    let most = self.subject.retained_bytes_max();
                    assert!(retained <= most, "law 4: {retained} octets held, at most {most}");
                    return;
                }
                Step::Event(event) => {
                    let told = self.subject.answer(event, &mut self.output);
                    told.map(Happening::Asked).into_iter().for_each(|asked| self.note(asked));
                    self.note_said();
                }
                Step::StartTls => {
                    self.note(Happening::StartTls);
                    self.awaiting_handshake = true;
                }
                Step::Close => {
                    self.note(Happening::Closed);
                    self.closed = true;
                }
            }
        }
    }

    /// The handshake succeeds, if one was asked for.
    pub fn handshake(&mut self) {
        if std::mem::take(&mut self.awaiting_handshake) {
            self.subject.machine().tls_started(self.now);
            self.feed(b"");
        }
    }

    /// Time passes in silence; the driver calls when the machine asked to be called.
    pub fn wait(&mut self, milliseconds: u64) {
        let until = Tick(self.now.0 + milliseconds);
        while let Some(deadline) = self.deadline().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.feed(b"");
            if self.closed {
                break;
            }
            assert!(
                self.deadline().is_none_or(|next| next > deadline),
                "the deadline has passed and the machine does nothing"
            );
        }
        self.now = until;
    }

    pub fn deadline(&mut self) -> Option<Tick> {
        self.subject.machine().deadline()
    }

    /// Octets said since the last call.
    pub fn take_said(&mut self) -> Vec<u8> {
        self.take_said_and_asked().0
    }

    /// Octets said and events told since the last call.
    pub fn take_said_and_asked(&mut self) -> (Vec<u8>, Vec<String>) {
        let (mut said, mut asked) = (Vec::new(), Vec::new());
        for happening in self.trace.drain(..) {
            match happening {
                Happening::Said(bytes) => said.extend(bytes),
                Happening::Asked(event) => asked.push(event),
                Happening::StartTls | Happening::Closed => {}
            }
        }
        (said, asked)
    }

    fn note_said(&mut self) {
        if !self.output.is_empty() {
            let said = self.output.take();
            self.note(Happening::Said(said));
        }
    }

    fn note(&mut self, happening: Happening) {
        match (self.trace.last_mut(), happening) {
            (Some(Happening::Said(before)), Happening::Said(bytes)) => before.extend(bytes),
            (_, happening) => self.trace.push(happening),
        }
    }
}

/// A dialogue's client side: one stream of octets, or several with a TLS handshake after each but
/// the last.
pub type Talk = Vec<Vec<u8>>;

/// Plays a talk, each stream cut by `cut`.
pub fn play<'t, S: Subject>(
    subject: S,
    talk: &'t Talk,
    mut cut: impl FnMut(&'t [u8]) -> Vec<&'t [u8]>,
) -> Session<S> {
    let mut session = Session::accepted(subject);
    for stream in talk {
        session.handshake();
        cut(stream).into_iter().for_each(|piece| session.feed(piece));
    }
    session
}

/// All at once.
#[must_use]
pub fn whole(stream: &[u8]) -> Vec<&[u8]> {
    vec![stream]
}

/// In pieces, short or long.
pub fn cut_at_random<'t>(stream: &'t [u8], random: &mut Random) -> Vec<&'t [u8]> {
    let mut rest = stream;
    let mut pieces = Vec::new();
    let longest = *random.pick(&[2, 5, 20, 100, 2000]);
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at((1 + random.below(longest)).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}

fn line_by_line(stream: &[u8]) -> Vec<&[u8]> {
    stream.split_inclusive(|&byte| byte == b'\n').collect()
}

/// Laws 1, 2, 4 and 6: any cut, and one command at a time, give what all at once gives.
pub fn cuts_do_not_matter<S: Subject>(make: impl Fn() -> S, talk: &Talk) {
    let expected = play(make(), talk, whole).trace;
    let assert_same = |trace: Vec<Happening>, cut: &dyn fmt::Display| {
        assert_eq!(trace, expected, "{cut}, of {:?}", shown(talk));
    };
    assert_same(play(make(), talk, |stream| stream.chunks(1).collect()).trace, &"octet by octet");
    assert_same(play(make(), talk, line_by_line).trace, &"line by line");
    let longest = talk.iter().map(Vec::len).max().unwrap_or(0);
    // Every cut of what is short; of the long, as many as there is time for.
    let stride = longest / 3000 + 1;
    for at in (0..=longest).step_by(stride) {
        let in_two = |stream: &'_ [u8]| -> (usize, usize) { (at.min(stream.len()), stream.len()) };
        let trace = play(make(), talk, |stream| {
            let (at, _) = in_two(stream);
            vec![&stream[..at], &stream[at..]]
        });
        assert_same(trace.trace, &format_args!("cut at {at}"));
    }
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let trace = play(make(), talk, |stream| cut_at_random(stream, &mut random)).trace;
        assert_same(trace, &format_args!("random cuts, seed {seed}"));
    }
}

/// Laws 1, 3, 4 and 6 on damaged talks: octets changed, removed, inserted, stretches repeated or
/// moved, whole talks glued together.
pub fn junk_does_no_harm<S: Subject>(
    make: impl Fn() -> S,
    talks: &[Talk],
    tokens: &[&[u8]],
    rounds: u64,
) {
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let mut talk = match random.below(4) {
            0 => vec![random_tokens(tokens, &mut random)],
            1 => {
                let other = random.pick(talks).clone();
                random.pick(talks).iter().cloned().chain(other).collect()
            }
            _ => random.pick(talks).clone(),
        };
        for _ in 0..random.below(8) {
            let at = random.below(talk.len());
            damage(&mut talk[at], tokens, &mut random);
        }
        let once = play(make(), &talk, whole).trace;
        let again = play(make(), &talk, |stream| cut_at_random(stream, &mut random)).trace;
        assert_eq!(again, once, "seed {seed}: {:?}", shown(&talk));
    }
}

fn random_tokens(tokens: &[&[u8]], random: &mut Random) -> Vec<u8> {
    (0..random.below(60)).flat_map(|_| random.pick(tokens).iter().copied()).collect()
}

fn damage(stream: &mut Vec<u8>, tokens: &[&[u8]], random: &mut Random) {
    if stream.is_empty() {
        return;
    }
    let at = random.below(stream.len());
    let length = random.below(40).min(stream.len() - at);
    match random.below(7) {
        0 => stream[at] = random.number() as u8,
        1 => drop(stream.drain(at..at + length)),
        2 => {
            let token = random.pick(tokens).to_vec();
            stream.splice(at..at, token);
        }
        3 => {
            let piece = stream[at..at + length].to_vec();
            let to = random.below(stream.len());
            stream.splice(to..to, piece);
        }
        4 => stream.insert(at, *random.pick(b"\r\n\0 .{}()\"\\\xff")),
        5 => {
            let much = vec![stream[at]; random.below(100_000)];
            stream.splice(at..at, much);
        }
        _ => stream.truncate(at),
    }
}

/// Law 5: each unit (a line, or a line with what belongs to it) gets what `is_one_reply` takes for
/// one reply, whatever came before it; until the session ends.
pub fn one_reply_per_command<S: Subject>(
    make: impl Fn() -> S,
    units: &[&[u8]],
    rounds: u64,
    is_one_reply: impl Fn(&[u8], &[u8]) -> bool,
) {
    for seed in 0..rounds {
        let mut random = Random::new(seed);
        let mut session = Session::accepted(make());
        session.take_said();
        for _ in 0..60 {
            let unit = random.pick(units);
            session.feed(unit);
            let said = session.take_said();
            assert!(
                is_one_reply(unit, &said),
                "law 5, seed {seed}: {} got {}",
                unit.escape_ascii(),
                said.escape_ascii()
            );
            session.handshake();
            assert!(session.take_said().is_empty(), "said unasked after the handshake");
            if session.is_closed() {
                break;
            }
        }
    }
}

/// Wherever a peer falls silent, the machine has named a time at which it ends the session; before
/// it, being called does no harm and gains no time.
pub fn silence_ends<S: Subject>(make: impl Fn() -> S, talk: &Talk) {
    let length: usize = talk.iter().map(Vec::len).sum();
    for silent_after in (0..=length).step_by(length / 500 + 1) {
        let mut left = silent_after;
        let mut session = play(make(), talk, |stream| {
            let heard = &stream[..left.min(stream.len())];
            left -= heard.len();
            vec![heard]
        });
        // The handshake has its own time limit, in the connection loop.
        if session.closed || session.awaiting_handshake {
            continue;
        }
        let deadline = session.deadline();
        let Some(deadline) = deadline else {
            panic!("no deadline after {silent_after} octets of {:?}", shown(talk));
        };
        session.trace.clear();
        session.wait(deadline.0 - session.now.0 - 1);
        assert!(session.trace.is_empty(), "woke early: {:?}", session.trace);
        session.feed(b"");
        assert_eq!(session.deadline(), Some(deadline), "an idle call gained time");
        assert!(session.trace.is_empty(), "an idle call said: {:?}", session.trace);
        session.wait(1);
        assert!(session.closed, "silent after {silent_after} octets of {:?}", shown(talk));
    }
}

fn shown(talk: &Talk) -> Vec<String> {
    let cut = |stream: &Vec<u8>| stream[..stream.len().min(2000)].escape_ascii().to_string();
    talk.iter().map(cut).collect()
}
