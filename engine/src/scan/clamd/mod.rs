//! clamd's protocol (its manual, clamd(8)), and several of its servers in turn.
//!
//! A connection serves one command: `zVERSION`, or `zINSTREAM` with the message in chunks, each
//! behind its length in four octets, the last one empty. The reply ends with a NUL. Whatever a
//! server answers, and whenever, costs no more than the time that is left and [`REPLY_BYTES_MAX`].
//! Runs on the control plane.

pub mod reply;

use super::settings::{Scan, Socket};
use super::verdict::{Outcome, Verdict, Version, plain};
use crate::resting::Resting;
use futures_util::future::join_all;
pub use reply::{Reply, reply, version};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Longest answer that is read.
pub const REPLY_BYTES_MAX: u64 = 4096;
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// In front of each message, in a chunk of its own. clamd tells by the first octets what it looks
/// at. What begins with `MZ: 1`, or has a Content-Type and no more, is no message to it: it would
/// decode nothing of what is attached.
const FIRST_FIELD: &[u8] = b"Return-Path: <>\r\n";
/// Why a server is not asked about mail that is scanned again.
pub const BEHIND: &str = "its signatures are older";
/// So often a server is asked which signatures it has.
const VERSION_LASTS: Duration = Duration::from_secs(10);

trait Octets: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Octets for T {}

/// A message on its way to one server.
pub struct Upload {
    wire: Pin<Box<dyn Octets>>,
    /// It takes no more; perhaps it has said why.
    is_refused: bool,
}

impl Upload {
    async fn begin(mut wire: Pin<Box<dyn Octets>>) -> io::Result<Upload> {
        wire.write_all(b"zINSTREAM\0").await?;
        let mut upload = Upload { wire, is_refused: false };
        upload.push(FIRST_FIELD).await;
        Ok(upload)
    }

    /// Sends a piece. A server that closes while it is sent to may have answered before:
    /// [`Upload::finish`] tells.
    pub async fn push(&mut self, piece: &[u8]) {
        for chunk in piece.chunks(CHUNK_BYTES_MAX) {
            if self.is_refused {
                return;
            }
            let length = u32::try_from(chunk.len()).unwrap_or(0).to_be_bytes();
            let sent = async {
                self.wire.write_all(&length).await?;
                self.wire.write_all(chunk).await
            };
            self.is_refused = sent.await.is_err();
        }
    }

    pub async fn finish(mut self) -> Reply {
        if !self.is_refused {
            // If this fails, the answer says why, or that there is none.
            let _ = self.wire.write_all(&[0; 4]).await;
        }
        match read_reply(&mut self.wire).await.map(|bytes| reply(&bytes)) {
            // Of what it has not seen it knows nothing.
            Ok(Reply::Clean) if self.is_refused => {
                Reply::Fault("answers before the end".to_owned())
            }
            Ok(reply) => reply,
            Err(error) => Reply::Fault(error.to_string()),
        }
    }
}

/// Up to a NUL, the end, or the limit.
async fn read_reply(wire: &mut Pin<Box<dyn Octets>>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited = wire.take(REPLY_BYTES_MAX);
    while !bytes.contains(&0) {
        if limited.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(bytes)
}

#[derive(Debug)]
struct Server {
    socket: Socket,
    resting: Resting,
    /// The signatures that it had, and when it said so.
    version: Mutex<Option<(Version, Instant)>>,
}

impl Server {
    async fn connect(&self) -> io::Result<Pin<Box<dyn Octets>>> {
        Ok(match &self.socket {
            Socket::Unix(path) => Box::pin(UnixStream::connect(path).await?),
            Socket::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::pin(stream)
            }
        })
    }

    async fn ask_version(&self, patience: Duration) -> Result<Version, String> {
        let ask = async {
            let mut wire = self.connect().await?;
            wire.write_all(b"zVERSION\0").await?;
            read_reply(&mut wire).await
        };
        let found = match timeout(patience, ask).await {
            Ok(Ok(bytes)) => version(&bytes)
                .ok_or_else(|| format!("is no clamd: to VERSION it says {:?}", plain(&bytes))),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("does not answer in time".to_owned()),
        };
        match &found {
            Ok(version) => {
                // Whether it scans as well, a message will show.
                *self.version() = Some((version.clone(), Instant::now()));
            }
            Err(_) => *self.version() = None,
        }
        found
    }

    fn version(&self) -> MutexGuard<'_, Option<(Version, Instant)>> {
        // A panic elsewhere aborts the server; in tests the state is as good as before.
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All servers.
#[derive(Debug)]
pub struct Clamd {
    servers: Vec<Server>,
    next: AtomicUsize,
    connect: Duration,
}

/// A server that takes a message, and the signatures that it has.
pub struct Taken {
    pub upload: Upload,
    pub version: Version,
    server: usize,
}

impl Clamd {
    pub fn new(scan: &Scan) -> Clamd {
        let server = |socket: &Socket| Server {
            socket: socket.clone(),
            resting: Resting::new("clamd", socket.to_string()),
            version: Mutex::default(),
        };
        Clamd {
            servers: scan.clamd.iter().map(server).collect(),
            next: AtomicUsize::new(0),
            connect: Duration::from_secs(scan.connect_seconds),
        }
    }

    /// See [`Resting::greet`].
    pub async fn greet(&self, meanwhile: &str) {
        join_all(self.servers.iter().map(async |server| {
            let ask = async || server.ask_version(self.connect).await.map(drop);
            server.resting.greet(self.servers.len(), meanwhile, ask).await;
        }))
        .await;
    }

    /// In turn.
    fn order(&self) -> Vec<usize> {
        self.order_from(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Those that have just failed behind the others.
    fn order_from(&self, first: usize) -> Vec<usize> {
        let count = self.servers.len();
        let mut order: Vec<usize> = (0..count).map(|step| (first + step) % count).collect();
        let now = Instant::now();
        order.sort_by_key(|&index| self.servers[index].resting.is_resting(now));
        order
    }

    /// Each server's address and whether it has answered when it was last asked.
    pub fn health(&self) -> Vec<(String, bool)> {
        let tell = |server: &Server| (server.resting.server().to_owned(), server.resting.answers());
        self.servers.iter().map(tell).collect()
    }

    /// The version of whichever server answers first: what a verdict found before has
    /// to be made with.
    pub async fn version(&self, until: Instant) -> Option<Version> {
        // A look, which takes no turn.
        for index in self.order_from(self.next.load(Ordering::Relaxed)) {
            if let Ok(version) = self.version_of(index, until).await {
                return Some(version);
            }
        }
        None
    }

    /// Of the servers that answer now, the version of the one that is behind. A look, after
    /// which nobody is taken to be down. All are asked at once, so one that hangs costs no more
    /// than its own time.
    pub async fn oldest_version(&self) -> Option<Version> {
        let all = self.servers.iter().map(|server| server.ask_version(self.connect));
        let all = join_all(all).await.into_iter().flatten();
        let number = |version: &Version| version.signatures.parse::<u64>().unwrap_or(0);
        all.min_by_key(number)
    }

    async fn version_of(&self, index: usize, until: Instant) -> Result<Version, String> {
        let server = &self.servers[index];
        if let Some((version, since)) = &*server.version()
            && since.elapsed() < VERSION_LASTS
        {
            return Ok(version.clone());
        }
        let patience = self.connect.min(until.saturating_duration_since(Instant::now()));
        let found = server.ask_version(patience).await;
        if let Err(why) = &found {
            server.resting.has_failed(why);
        }
        found
    }

    /// The first server that takes a message; of several, one whose signatures are not
    /// older than `least`.
    pub async fn take(&self, until: Instant, least: Option<&Version>) -> Result<Taken, String> {
        let (mut last, mut behind) = ("no server".to_owned(), None);
        let least = least.filter(|_| self.servers.len() > 1);
        for index in self.order() {
            if let Some(least) = least {
                match self.version_of(index, until).await {
                    Ok(version) if version.is_behind(least) => {
                        behind = Some(BEHIND.to_owned());
                        continue;
                    }
                    Ok(_) => {}
                    Err(why) => {
                        last = why;
                        continue;
                    }
                }
            }
            match self.take_by(index, until).await {
                Ok(taken) => return Ok(taken),
                Err(why) => last = why,
            }
        }
        Err(behind.unwrap_or(last))
    }

    async fn take_by(&self, index: usize, until: Instant) -> Result<Taken, String> {
        let version = self.version_of(index, until).await?;
        let server = &self.servers[index];
        let begin = async { Upload::begin(server.connect().await?).await };
        let patience = self.connect.min(until.saturating_duration_since(Instant::now()));
        match timeout(patience, begin).await {
            Ok(Ok(upload)) => Ok(Taken { upload, version, server: index }),
            Ok(Err(error)) => self.failed(index, error.to_string()),
            Err(_) => self.failed(index, "does not answer in time".to_owned()),
        }
    }

    fn failed<T>(&self, index: usize, why: String) -> Result<T, String> {
        self.servers[index].resting.has_failed(&why);
        Err(why)
    }

    /// The end of a message, and the verdict.
    pub async fn finish(&self, taken: Taken, until: Instant) -> Result<Verdict, String> {
        let Taken { upload, version, server } = taken;
        let patience = until.saturating_duration_since(Instant::now());
        let outcome = match timeout(patience, upload.finish()).await {
            Ok(Reply::Clean) => Outcome::Clean,
            Ok(Reply::Found(name)) => Outcome::Found(name),
            Ok(Reply::TooLarge) => Outcome::TooLarge,
            Ok(Reply::Fault(why)) => return self.failed(server, why),
            Err(_) => return self.failed(server, "does not answer in time".to_owned()),
        };
        self.servers[server].resting.has_answered();
        Ok(Verdict::new(outcome, version))
    }

    /// A server did not take what it was sent.
    pub fn give_up(&self, taken: &Taken, why: &str) {
        self.servers[taken.server].resting.has_failed(why);
    }

    /// A message that is here as a whole: by one server after another, each with its
    /// share of the time.
    pub async fn scan(&self, message: &[u8], until: Instant) -> Verdict {
        let mut last = "no server".to_owned();
        let order = self.order();
        for (tried, &index) in order.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(order.len() - tried).unwrap_or(1).max(1);
            let until = Instant::now() + share;
            let attempt = async {
                let mut taken = self.take_by(index, until).await?;
                let patience = until.saturating_duration_since(Instant::now());
                if timeout(patience, taken.upload.push(message)).await.is_err() {
                    return self.failed(index, "takes nothing in time".to_owned());
                }
                self.finish(taken, until).await
            };
            match attempt.await {
                Ok(verdict) => return verdict,
                Err(why) => last = format!("{}: {why}", self.servers[index].socket),
            }
        }
        Verdict::unknown(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::net::TcpListener;

    /// A server that answers VERSION, and to a message what `answer` says; `None`: it hangs.
    async fn fake(answer: Option<&'static [u8]>) -> (Socket, Arc<Mutex<Vec<u8>>>) {
        fake_of(answer, b"ClamAV 1.2/7/today\0").await
    }

    async fn fake_of(
        answer: Option<&'static [u8]>,
        version: &'static [u8],
    ) -> (Socket, Arc<Mutex<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = Socket::Tcp(listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&received);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let received = Arc::clone(&shared);
                tokio::spawn(async move {
                    let mut all = Vec::new();
                    while !all.ends_with(&[0; 4]) && !all.starts_with(b"zVERSION\0") {
                        if stream.read_buf(&mut all).await.unwrap() == 0 {
                            return;
                        }
                    }
                    let is_version = all.starts_with(b"zVERSION\0");
                    if !is_version {
                        *received.lock().unwrap() = all;
                    }
                    match answer {
                        _ if is_version => drop(stream.write_all(version).await),
                        Some(answer) => drop(stream.write_all(answer).await),
                        None => std::future::pending().await,
                    }
                });
            }
        });
        (socket, received)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
    }

    async fn scan(sockets: &[Socket], message: &[u8]) -> (Clamd, Verdict) {
        let clamd = Clamd::new(&Scan { clamd: sockets.to_vec(), ..Scan::default() });
        let verdict = clamd.scan(message, Instant::now() + Duration::from_millis(900)).await;
        (clamd, verdict)
    }

    #[test]
    fn a_message_goes_out_in_chunks_and_comes_back_with_a_verdict() {
        run(async {
            let (socket, received) = fake(Some(b"stream: Bad FOUND\0")).await;
            let message = vec![b'x'; CHUNK_BYTES_MAX + 3];
            let (_, verdict) = scan(&[socket], &message).await;
            assert_eq!(verdict.outcome, Outcome::Found("Bad".to_owned()));
            assert_eq!(verdict.brief(), "clamav=found Bad (ClamAV 1.2/7)");
            let mut expected = b"zINSTREAM\0\0\0\0\x11Return-Path: <>\r\n\0\x01\0\0".to_vec();
            expected.extend_from_slice(&message[..CHUNK_BYTES_MAX]);
            expected.extend_from_slice(b"\0\0\0\x03xxx\0\0\0\0");
            assert!(*received.lock().unwrap() == expected);
        });
    }

    #[test]
    fn who_has_not_taken_all_of_a_message_does_not_call_it_clean() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = Socket::Tcp(listener.local_addr().unwrap());
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut command = [0; 9];
                    stream.read_exact(&mut command).await.unwrap();
                    let is_version = command.starts_with(b"zVERSION");
                    let answer = if is_version { &b"ClamAV 1.2\0"[..] } else { b"stream: OK\0" };
                    stream.write_all(answer).await.unwrap();
                    // Closed, with most of the message on its way.
                }
            });
            let (_, verdict) = scan(&[socket], &vec![b'x'; 16 << 20]).await;
            assert!(matches!(verdict.outcome, Outcome::Unknown(_)), "{verdict:?}");
        });
    }

    #[test]
    fn another_server_stands_in_for_one_that_is_down_closes_lies_or_hangs() {
        run(async {
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let refused = Socket::Tcp(gone.local_addr().unwrap());
            drop(gone);
            let bad = [
                refused,
                Socket::Unix("/nonexistent/clamd".into()),
                fake(Some(b"")).await.0,
                fake(Some(b"\xff\xfe garbage")).await.0,
                fake(None).await.0,
            ];
            for bad in bad {
                let (good, _) = fake(Some(b"stream: OK\0")).await;
                let (clamd, verdict) = scan(&[bad.clone(), good], b"x").await;
                assert_eq!(verdict.outcome, Outcome::Clean, "{bad}");
                assert!(!clamd.health()[0].1, "{bad}");
                assert!(clamd.health()[1].1);
                // The next one goes to who is well, although it is the other's turn.
                clamd.next.store(0, Ordering::Relaxed);
                assert_eq!(clamd.order(), [1, 0]);
                let (_, verdict) = scan(std::slice::from_ref(&bad), b"x").await;
                assert!(matches!(verdict.outcome, Outcome::Unknown(_)), "{bad}: {verdict:?}");
            }
        });
    }

    #[test]
    fn of_several_servers_the_one_that_is_behind_tells_the_version_and_none_is_taken_to_be_down() {
        run(async {
            let clean = Some(&b"stream: OK\0"[..]);
            let gone = Socket::Unix("/nonexistent/clamd".into());
            let newer = fake_of(clean, b"ClamAV 1.2/10/today\0").await.0;
            let sockets = vec![gone.clone(), newer.clone(), fake(clean).await.0];
            let clamd = Clamd::new(&Scan { clamd: sockets, ..Scan::default() });
            let oldest = clamd.oldest_version().await;
            assert_eq!(oldest.map(|version| version.signatures), Some("7".to_owned()));
            let two = Clamd::new(&Scan { clamd: vec![gone.clone(), newer], ..Scan::default() });
            let oldest = two.oldest_version().await;
            assert_eq!(oldest.map(|version| version.signatures), Some("10".to_owned()));
            assert!(clamd.health().iter().all(|(_, is_up)| *is_up));
            let none = Clamd::new(&Scan { clamd: vec![gone], ..Scan::default() });
            assert_eq!(none.oldest_version().await, None);
        });
    }

    #[test]
    fn only_a_server_that_is_not_behind_takes_what_is_scanned_for_new_signatures() {
        run(async {
            let clean = Some(&b"stream: OK\0"[..]);
            let (old, newer) =
                (fake(clean).await.0, fake_of(clean, b"ClamAV 1.2/10/today\0").await.0);
            let least = Version { engine: "ClamAV 1.2".to_owned(), signatures: "10".to_owned() };
            let until = || Instant::now() + Duration::from_secs(5);
            let both = Clamd::new(&Scan { clamd: vec![old.clone(), newer], ..Scan::default() });
            for _ in 0..4 {
                let taken =
                    both.take(until(), Some(&least)).await.unwrap_or_else(|why| panic!("{why}"));
                assert_eq!(taken.version.signatures, "10");
            }
            let taken = both.take(until(), None).await.unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(taken.version.signatures, "7", "mail that comes in takes its turn");
            let gone = Socket::Unix("/nonexistent/clamd".into());
            let behind = Clamd::new(&Scan { clamd: vec![old.clone(), gone], ..Scan::default() });
            assert!(behind.take(until(), Some(&least)).await.is_err());
            // Of one server what it has is all there is.
            let alone = Clamd::new(&Scan { clamd: vec![old], ..Scan::default() });
            assert!(alone.take(until(), Some(&least)).await.is_ok());
        });
    }

    #[test]
    fn servers_that_hang_cost_the_time_of_one() {
        run(async {
            let mut hanging = Vec::new();
            let mut sockets = Vec::new();
            for _ in 0..4 {
                // Connects, and is never accepted.
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                sockets.push(Socket::Tcp(listener.local_addr().unwrap()));
                hanging.push(listener);
            }
            sockets.push(fake(Some(b"stream: OK\0")).await.0);
            let scan = Scan { clamd: sockets, connect_seconds: 1, ..Scan::default() };
            let oldest = timeout(Duration::from_secs(3), Clamd::new(&scan).oldest_version()).await;
            assert_eq!(oldest.unwrap().map(|version| version.signatures), Some("7".to_owned()));
        });
    }
}
