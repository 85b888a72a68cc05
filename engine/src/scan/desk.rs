//! Where cores ask for messages to be scanned, and the control plane has them scanned.
//!
//! A message that fits the session's buffer is asked about as a whole, when it is complete. A
//! larger one goes to clamd while it arrives: one piece under way at a time, the next one when
//! clamd has taken it, so a slow scanner slows the peer down through TCP. The two kinds have queues
//! and places of their own, so that peers who send slowly don't keep small messages waiting. Queues
//! are bounded: what finds no place is *unknown*, at once.

use super::cache::{self, Cache};
use super::clamd::Clamd;
use super::outbreak::table::{Sighting, Table};
use super::settings::Scan;
use super::verdict::{Verdict, Version};
use crate::mesh::Reply;
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Of either kind; each holds at most one session's buffer.
const WAITING_MAX: usize = 1024;
/// A piece and the end.
pub const PIECES_IN_FLIGHT_MAX: usize = 2;
/// clamd may hang up on who says nothing (`CommandReadTimeout`, `ReadTimeout`), and a peer may be
/// that slow: then an octet goes out of those that were held back for it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const HELD_BACK_BYTES: usize = 512;
/// A peer that has been silent for so long, in all, gives its place up to those who wait for one.
/// It may try again.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why nobody has looked at a message, which says nothing of the message.
pub const BUSY: &str = "too busy";
pub const SLOW: &str = "its sender is slow, and others wait";
/// Which signatures there are is asked by each core: they share an answer for so long.
const VERSION_LASTS: Duration = Duration::from_secs(2);

pub struct Whole {
    /// Without our own trace fields.
    pub message: Bytes,
    pub until: Instant,
    pub reply: Reply,
}

pub struct Stream {
    pub pieces: flume::Receiver<Piece>,
    pub until: Instant,
    /// Of several servers only one that has these signatures, or newer ones, is asked.
    pub least: Option<Version>,
    pub reply: Reply,
}

/// Dropped without an end: the message has not come, and nobody wants to know.
pub enum Piece {
    /// Who sends it goes on when the reply is dropped.
    Bytes(Bytes, Reply),
    End,
}

/// The cores' end.
#[derive(Clone)]
pub struct Desk {
    wholes: flume::Sender<Whole>,
    streams: flume::Sender<Stream>,
    sightings: flume::Sender<(Sighting, Reply)>,
    versions: flume::Sender<Reply>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let waiting = self.wholes.len() + self.streams.len();
        f.debug_struct("Desk").field("waiting", &waiting).finish()
    }
}

/// What has been asked, for the control plane.
pub struct Jobs {
    wholes: flume::Receiver<Whole>,
    streams: flume::Receiver<Stream>,
    sightings: flume::Receiver<(Sighting, Reply)>,
    versions: flume::Receiver<Reply>,
}

pub fn desk() -> (Desk, Jobs) {
    let (wholes, whole_jobs) = flume::bounded(WAITING_MAX);
    let (streams, stream_jobs) = flume::bounded(WAITING_MAX);
    let (sightings, sighted) = flume::bounded(WAITING_MAX);
    let (versions, version_jobs) = flume::bounded(WAITING_MAX);
    let jobs = Jobs {
        wholes: whole_jobs,
        streams: stream_jobs,
        sightings: sighted,
        versions: version_jobs,
    };
    (Desk { wholes, streams, sightings, versions }, jobs)
}

impl Desk {
    /// Whether it was taken.
    pub fn whole(&self, job: Whole) -> bool {
        self.wholes.try_send(job).is_ok()
    }

    pub fn stream(&self, job: Stream) -> bool {
        self.streams.try_send(job).is_ok()
    }

    /// The answer is a `Vec` of counts, one for each fingerprint.
    pub fn sighting(&self, sighting: Sighting, reply: Reply) -> bool {
        self.sightings.try_send((sighting, reply)).is_ok()
    }

    /// The answer is an `Option<Version>`, of the server that is behind the others.
    pub fn version(&self, reply: Reply) -> bool {
        self.versions.try_send(reply).is_ok()
    }
}

/// What the control plane has for scanning.
#[derive(Debug)]
pub struct Scanners {
    pub clamd: Clamd,
    cache: Mutex<Cache>,
    outbreaks: Mutex<Table>,
    patience: Duration,
    places: usize,
}

impl Scanners {
    pub fn new(scan: &Scan) -> Scanners {
        let entries = usize::try_from(scan.cache_entries).unwrap_or(usize::MAX);
        let cache = Cache::new(entries, Duration::from_secs(scan.cache_seconds));
        let outbreak = &scan.outbreak;
        let window = Duration::from_secs(outbreak.window_seconds);
        let entries = usize::try_from(outbreak.entries_max).unwrap_or(usize::MAX);
        Scanners {
            outbreaks: Mutex::new(Table::new(entries, window, Instant::now())),
            clamd: Clamd::new(scan),
            cache: Mutex::new(cache),
            patience: Duration::from_secs(scan.answer_seconds),
            places: usize::try_from(scan.connections_max).unwrap_or(1),
        }
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn whole(&self, message: &[u8], until: Instant) -> Verdict {
        let key = cache::key(message);
        if let Some(version) = self.clamd.version(until).await {
            let known = self.cache().get(&key, &version, Instant::now());
            if let Some(verdict) = known {
                return verdict;
            }
        }
        let verdict = self.clamd.scan(message, until).await;
        self.cache().put(key, &verdict, Instant::now());
        verdict
    }

    /// From the first piece to the last; from then on it has `patience`. `is_wanted`: others
    /// wait for its place.
    async fn stream(
        &self,
        pieces: &flume::Receiver<Piece>,
        until: Instant,
        least: Option<&Version>,
        is_wanted: impl Fn() -> bool,
    ) -> Verdict {
        let mut taken = match self.clamd.take(until, least).await {
            Ok(taken) => taken,
            Err(why) => return Verdict::unknown(why),
        };
        let mut held_back = Bytes::new();
        let mut silence = Duration::ZERO;
        loop {
            let (piece, is_end, go_on) = match timeout(KEEP_ALIVE, pieces.recv_async()).await {
                Ok(Ok(Piece::Bytes(piece, reply))) => (piece, false, Some(reply)),
                Ok(Ok(Piece::End)) => (Bytes::new(), true, None),
                Ok(Err(flume::RecvError::Disconnected)) => return Verdict::unknown("abandoned"),
                Err(_) => {
                    silence += KEEP_ALIVE;
                    if silence >= SILENCE_MAX && is_wanted() {
                        return Verdict::unknown(SLOW);
                    }
                    let octet = held_back.split_to(held_back.len().min(1));
                    (octet, false, None)
                }
            };
            let is_piece = go_on.is_some();
            let push = async {
                if is_piece || is_end {
                    taken.upload.push(&held_back).await;
                }
                let kept = if is_piece { HELD_BACK_BYTES } else { 0 };
                let split = piece.len().saturating_sub(kept);
                taken.upload.push(&piece[..split]).await;
                if is_piece {
                    held_back = piece.slice(split..);
                }
            };
            if timeout(self.patience, push).await.is_err() {
                self.clamd.give_up(&taken, "takes nothing in time");
                return Verdict::unknown("clamd takes nothing in time");
            }
            drop(go_on);
            if is_end {
                let until = Instant::now() + self.patience;
                return match self.clamd.finish(taken, until).await {
                    Ok(verdict) => verdict,
                    Err(why) => Verdict::unknown(why),
                };
            }
        }
    }
}

/// Has messages scanned, until every core has gone.
pub async fn serve(jobs: Jobs, scanners: Arc<Scanners>) {
    let Jobs { wholes, streams, sightings, versions } = jobs;
    let whole_places = Arc::new(Semaphore::new(scanners.places));
    let stream_places = Arc::new(Semaphore::new(scanners.places));
    let serve_wholes = async {
        while let Ok(Whole { message, until, reply }) = wholes.recv_async().await {
            let Ok(place) = Arc::clone(&whole_places).acquire_owned().await else { return };
            let scanners = Arc::clone(&scanners);
            tokio::spawn(async move {
                if Instant::now() < until {
                    reply.answer(scanners.whole(&message, until).await);
                } else {
                    reply.answer(Verdict::unknown(BUSY));
                }
                drop(place);
            });
        }
    };
    let serve_streams = async {
        // A place first: what is still in the queue then waits for one.
        while let Ok(place) = Arc::clone(&stream_places).acquire_owned().await {
            let Ok(job) = streams.recv_async().await else { return };
            let Stream { pieces, until, least, reply } = job;
            let (scanners, queue) = (Arc::clone(&scanners), streams.clone());
            tokio::spawn(async move {
                reply.answer(if Instant::now() < until {
                    scanners.stream(&pieces, until, least.as_ref(), || !queue.is_empty()).await
                } else {
                    Verdict::unknown(BUSY)
                });
                drop(place);
                // The rest of a message that is not scanned to its end, so that nobody waits for a
                // piece to be taken.
                while let Ok(Piece::Bytes(..)) = pieces.recv_async().await {}
            });
        }
    };
    let count_sightings = async {
        while let Ok((sighting, reply)) = sightings.recv_async().await {
            let table = &scanners.outbreaks;
            let mut table = table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            reply.answer(table.count(&sighting, Instant::now()));
        }
    };
    let tell_versions = async {
        let mut known: Option<(Option<Version>, Instant)> = None;
        while let Ok(reply) = versions.recv_async().await {
            let lasts = known.take().filter(|(_, since)| since.elapsed() < VERSION_LASTS);
            let (version, since) = match lasts {
                Some(known) => known,
                None => (scanners.clamd.oldest_version().await, Instant::now()),
            };
            reply.answer(version.clone());
            known = Some((version, since));
        }
    };
    tokio::join!(serve_wholes, serve_streams, count_sightings, tell_versions);
}
