//! One message's scan, on the core of its session, while the message arrives.

use super::attachments::{self, Report};
use super::desk::{Desk, PIECES_IN_FLIGHT_MAX, Piece, Stream, Whole};
use super::outbreak::fingerprint::fingerprints;
use super::outbreak::table::{Counts, Sighting};
use super::verdict::{Findings, Outcome, Verdict, Version};
use crate::auth;
use crate::shard::Shard;
use bytes::Bytes;
use futures_lite::future::or;
use protocols::message::Summary;
use std::cell::Cell;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the control plane may take, beyond its own deadline, to say that it was too late.
const GRACE: Duration = Duration::from_secs(2);

/// Fingerprints of a message that is not larger are taken on its core.
const FINGERPRINTED_BYTES_MAX: usize = 64 << 10;
/// Inspections on the blocking pool at once; password checks are there, too.
const INSPECTIONS_MAX: u64 = 1;
/// Who has waited so long for a place is told that nobody has looked inside.
const INSPECTION_WAIT_MAX: Duration = Duration::from_secs(10);
/// So many messages of the largest size may be kept at once on one core, to be looked into.
const KEPT_MESSAGES_MAX: u64 = 2;

/// What a core has for scanning.
#[derive(Debug)]
pub struct Scanning {
    desk: Desk,
    inspections: glommio::sync::Semaphore,
    kept_bytes: Cell<u64>,
}

impl Scanning {
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    pub fn new(desk: Desk) -> Scanning {
        let inspections = glommio::sync::Semaphore::new(INSPECTIONS_MAX);
        Scanning { desk, inspections, kept_bytes: Cell::new(0) }
    }
}

/// Where a message comes from, as far as outbreaks are concerned.
#[derive(Debug)]
pub struct Origin<'o> {
    pub peer: IpAddr,
    /// In MAIL FROM; empty for the null sender.
    pub sender: &'o str,
    pub recipients: usize,
    pub verified: &'o auth::verdict::Verdict,
}

/// How long counting may take; it never does.
const COUNTING_MAX: Duration = Duration::from_secs(2);

type Answer = Pin<Box<dyn Future<Output = Verdict>>>;
type Taken = Pin<Box<dyn Future<Output = ()>>>;

/// A message that will be scanned, is being scanned, or has been.
pub struct Scan {
    shard: Rc<Shard>,
    octets: u64,
    state: State,
    message: Message,
    /// Of the complete message.
    outline: Option<Arc<Summary>>,
    /// What fingerprints are taken of: all of a message, or its first piece.
    beginning: Option<Bytes>,
    /// Octets that are kept, for the core's account.
    kept_bytes: u64,
}

/// What attachments are looked for in.
enum Message {
    /// Nothing has come yet, or nobody wants to know.
    None,
    Whole(Bytes),
    /// A larger one.
    Pieces(Vec<Bytes>),
    TooLarge,
}

enum State {
    /// No scanner is configured.
    Off,
    /// It may still fit the session's buffer.
    Small,
    /// It is larger, and goes to the scanner piece by piece; `taken` when the last one has been.
    Streaming {
        pieces: flume::Sender<Piece>,
        taken: Option<Taken>,
        answer: Answer,
    },
    Asked {
        answer: Answer,
        since: Instant,
    },
    Known(Verdict),
}

impl std::fmt::Debug for Scan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("octets", &self.octets).finish()
    }
}

impl Scan {
    /// `None`: nobody scans here.
    pub fn begin(shard: &Rc<Shard>) -> Option<Scan> {
        let scan = &shard.config.scan;
        let state = if scan.clamd.is_empty() { State::Off } else { State::Small };
        let on = !scan.clamd.is_empty() || scan.attachments.enabled || scan.outbreak.is_on();
        on.then(|| Scan {
            shard: Rc::clone(shard),
            octets: 0,
            state,
            message: Message::None,
            outline: None,
            beginning: None,
            kept_bytes: 0,
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.shard.config.scan.answer_seconds)
    }

    /// A piece of a message that does not fit the session's buffer, without our own trace fields.
    /// Waits for the scanner to have taken the piece before it. What the scanner gets has no holes:
    /// one that falls behind gets no more.
    pub async fn push(&mut self, piece: Bytes) {
        self.octets += piece.len() as u64;
        self.keep(&piece);
        if self.shard.config.scan.outbreak.is_on() {
            self.beginning.get_or_insert_with(|| piece.clone());
        }
        if matches!(self.state, State::Off) {
            return;
        }
        if self.octets > self.shard.config.scan.stream_bytes_max {
            // What has been sent is abandoned.
            self.state = State::Known(Verdict::new(Outcome::TooLarge, Version::default()));
        }
        if matches!(self.state, State::Small) {
            self.state = self.open_stream();
        }
        let patience = self.patience() + GRACE;
        let State::Streaming { pieces, taken, .. } = &mut self.state else { return };
        let in_time = match taken.take() {
            Some(before) => {
                let before = async {
                    before.await;
                    true
                };
                let late = async {
                    glommio::timer::sleep(patience).await;
                    false
                };
                or(before, late).await
            }
            None => true,
        };
        let (reply, answer) = self.shard.mesh.open_question::<()>();
        match pieces.try_send(Piece::Bytes(piece, reply)) {
            Ok(()) if in_time => {
                *taken = Some(Box::pin(async move {
                    let _ = answer.await;
                }));
            }
            // The scan has ended before its time; its answer says why.
            Err(flume::TrySendError::Disconnected(_)) => {}
            Ok(()) | Err(flume::TrySendError::Full(_)) => {
                self.state = State::Known(Verdict::unknown("takes nothing in time"));
            }
        }
    }

    /// For the attachments, while there is room.
    fn keep(&mut self, piece: &Bytes) {
        let rules = &self.shard.config.scan.attachments;
        if !rules.enabled {
            return;
        }
        let mut pieces = match std::mem::replace(&mut self.message, Message::TooLarge) {
            Message::Pieces(pieces) => pieces,
            Message::None | Message::Whole(_) => Vec::new(),
            Message::TooLarge => return,
        };
        let account = &self.shard.scan.kept_bytes;
        let in_all = account.get() + piece.len() as u64;
        let most = rules.attachment_bytes_max;
        if self.octets > most || in_all > most.saturating_mul(KEPT_MESSAGES_MAX) {
            account.set(account.get() - std::mem::take(&mut self.kept_bytes));
            return;
        }
        pieces.push(piece.clone());
        account.set(in_all);
        self.kept_bytes += piece.len() as u64;
        self.message = Message::Pieces(pieces);
    }

    fn open_stream(&self) -> State {
        let (pieces, arriving) = flume::bounded(PIECES_IN_FLIGHT_MAX);
        let (reply, answer) = self.shard.mesh.open_question();
        let until = Instant::now() + self.patience();
        if !self.shard.scan.desk.stream(Stream { pieces: arriving, until, least: None, reply }) {
            return State::Known(Verdict::unknown("too busy"));
        }
        let answer = async { answer.await.unwrap_or_else(|_| Verdict::unknown("not answered")) };
        State::Streaming { pieces, taken: None, answer: Box::pin(answer) }
    }

    /// The message is complete: `whole`, unless it has come in pieces. From here on the scanner
    /// works by itself.
    pub async fn complete(&mut self, whole: Option<Bytes>, outline: Arc<Summary>) {
        let since = Instant::now();
        self.outline = Some(outline);
        if let Some(message) = &whole
            && self.shard.config.scan.attachments.enabled
        {
            self.message = Message::Whole(message.clone());
        }
        if self.shard.config.scan.outbreak.is_on() && self.beginning.is_none() {
            self.beginning = whole.clone();
        }
        let state = std::mem::replace(&mut self.state, State::Known(Verdict::unknown("empty")));
        self.state = match (state, whole) {
            (State::Small, Some(message)) => self.ask(message),
            (State::Streaming { pieces, taken, answer }, _) => {
                // There is room: of the pieces, one is under way at the most.
                let _ = pieces.try_send(Piece::End);
                drop(taken);
                State::Asked { answer, since }
            }
            (state @ (State::Off | State::Small | State::Asked { .. } | State::Known(_)), _) => {
                state
            }
        };
    }

    fn ask(&self, message: Bytes) -> State {
        let since = Instant::now();
        if message.len() as u64 > self.shard.config.scan.stream_bytes_max {
            return State::Known(Verdict::new(Outcome::TooLarge, Version::default()));
        }
        let (reply, answer) = self.shard.mesh.open_question();
        let until = since + self.patience();
        if !self.shard.scan.desk.whole(Whole { message, until, reply }) {
            return State::Known(Verdict::unknown("too busy"));
        }
        let answer = async { answer.await.unwrap_or_else(|_| Verdict::unknown("not answered")) };
        State::Asked { answer: Box::pin(answer), since }
    }

    /// What was found of the complete message; `origin` of one whose sender was verified.
    pub async fn findings(mut self, origin: Option<Origin<'_>>) -> Findings {
        let attachments = self.inspect().await;
        self.shard.metrics.scan.inspected(&attachments);
        let outbreak = match origin {
            Some(origin) => self.outbreak(&origin).await,
            None => None,
        };
        Findings { clamav: self.verdict().await, attachments, outbreak }
    }

    /// Counts the message with its like.
    async fn outbreak(&mut self, origin: &Origin<'_>) -> Option<Counts> {
        let beginning = self.beginning.take()?;
        let rules = &self.shard.config.scan.outbreak;
        if origin.verified.is_signed_by(&rules.trusted_domains) {
            return None;
        }
        let fingerprints = if beginning.len() <= FINGERPRINTED_BYTES_MAX {
            fingerprints(&beginning)
        } else {
            let _place = self.place().await?;
            glommio::executor().spawn_blocking(move || fingerprints(&beginning)).await
        };
        if fingerprints.is_empty() {
            return None;
        }
        let domain = origin.sender.rsplit_once('@').map_or("", |(_, domain)| domain);
        let sighting = Sighting {
            fingerprints,
            peer: origin.peer,
            sender: domain.to_lowercase(),
            recipients: u32::try_from(origin.recipients).unwrap_or(u32::MAX),
        };
        let (reply, answer) = self.shard.mesh.open_question::<Vec<Counts>>();
        if !self.shard.scan.desk.sighting(sighting, reply) {
            return None;
        }
        let late = async {
            glommio::timer::sleep(COUNTING_MAX).await;
            Vec::new()
        };
        let counts = or(async { answer.await.unwrap_or_default() }, late).await;
        let found = rules.judge(&counts)?;
        self.shard.metrics.scan.suspected();
        Some(found)
    }

    async fn inspect(&mut self) -> Report {
        let Some(outline) = self.outline.take() else { return Report::default() };
        let pieces = match std::mem::replace(&mut self.message, Message::None) {
            Message::None => return Report::default(),
            Message::TooLarge => return attachments::inspect_names(&outline),
            Message::Pieces(pieces) => pieces,
            Message::Whole(message) => {
                let report = attachments::glance(&message, &outline);
                if !report.is_partial {
                    return report;
                }
                vec![message]
            }
        };
        let Some(_place) = self.place().await else {
            return match pieces.as_slice() {
                [message] => attachments::glance(message, &outline).not_opened(),
                _ => attachments::inspect_names(&outline),
            };
        };
        let inspect = move || match pieces.as_slice() {
            [message] => attachments::inspect(message, &outline),
            pieces => attachments::inspect(&pieces.concat(), &outline),
        };
        glommio::executor().spawn_blocking(inspect).await
    }

    /// One on the blocking pool, if there is any in time.
    async fn place(&self) -> Option<glommio::sync::Permit<'_>> {
        let late = async {
            glommio::timer::sleep(INSPECTION_WAIT_MAX).await;
            None
        };
        or(async { self.shard.scan.inspections.acquire_permit(1).await.ok() }, late).await
    }

    async fn verdict(&mut self) -> Option<Verdict> {
        let patience = self.patience() + GRACE;
        let verdict = match std::mem::replace(&mut self.state, State::Off) {
            State::Off => return None,
            State::Known(verdict) => verdict,
            State::Small | State::Streaming { .. } => Verdict::unknown("not complete"),
            State::Asked { answer, since } => {
                let late = async {
                    glommio::timer::sleep(patience).await;
                    Verdict::unknown("no answer in time")
                };
                Verdict { elapsed: since.elapsed(), ..or(answer, late).await }
            }
        };
        self.shard.metrics.scan.scanned(&verdict);
        Some(verdict)
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        let account = &self.shard.scan.kept_bytes;
        account.set(account.get() - self.kept_bytes);
    }
}
