//! `kura bench smtp`: sends mail over SMTP or LMTP as fast as asked and measures every reply.
//!
//! The program shares its cores with the server that it measures, so it is built to cost little:
//! one thread by default, epoll, one message prepared in advance, one clock reading per reply.
//!
//! - *Closed loop* (default): each session sends its next message once the last was answered.
//! - *Open loop* (`--open-rate`): message `k` is due at `start + k / rate`, whatever the server
//!   does, and its latency counts from then. A server that stalls pays for everything that
//!   should have started meanwhile (no coordinated omission).
//!
//! Two latencies for each message: the plain one, from the last byte of the message to its `250`
//! (with LMTP: to its last reply), and the transaction's, from MAIL to the same `250`.
//!
//! Bounded: at most `--messages` attempts and `--seconds`; a session that hears nothing for
//! `--timeout` is an error; a target that refuses the first connection ends the run with an error.

mod dialogue;
mod message;
mod options;
mod report;
mod timer;
mod transport;
mod worker;

pub use options::{Options, Tls};
pub use report::Report;

use message::Message;
use report::Tally;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--{option}: {problem}")]
    Option { option: &'static str, problem: String },
    #[error("--target {target}: {source}; is the server running, and is the port right?")]
    Target { target: String, source: io::Error },
    #[error("this host gives no more resources: {0}")]
    Resources(io::Error),
    #[error("cannot write --log {path}: {source}")]
    Log { path: String, source: io::Error },
}

/// What all workers share: the options, resolved and checked.
#[derive(Debug)]
struct Plan {
    options: Options,
    address: SocketAddr,
    message: Message,
    /// Base64 of `\0user\0password`, when the run logs in.
    credentials: Option<String>,
    started: Instant,
    /// Open loop: when message 0 is due, which is once the sessions are set up.
    origin: OnceLock<Instant>,
    claimed: AtomicU64,
}

impl Plan {
    /// The number of the next message to attempt, or `None` when all have been given out.
    fn claim(&self) -> Option<u64> {
        let number = self.claimed.fetch_add(1, Ordering::Relaxed);
        (number < self.options.messages).then_some(number)
    }

    /// When message `number` is due; `None` in a closed loop, where it is due when a
    /// session is free.
    fn due(&self, number: u64) -> Option<Instant> {
        let rate = self.options.open_rate?;
        let origin = *self.origin.get_or_init(Instant::now);
        Some(origin + Duration::from_secs_f64(number as f64 / rate))
    }

    /// Recipients of message `number`: neighbours in the list, so that all get their share.
    fn recipients(&self, number: u64) -> impl Iterator<Item = &str> {
        let count = self.options.recipients;
        let first = (number as usize).wrapping_mul(count);
        (0..count)
            .map(move |i| self.options.to[first.wrapping_add(i) % self.options.to.len()].as_str())
    }
}

/// Runs the load and waits for its end. Blocks the calling thread; never prints.
pub fn run(options: Options) -> Result<Report, Error> {
    options.check()?;
    let address = reachable(&options.target)?;
    let run_id = run_id();
    let message = Message::new(&options, run_id)?;
    let credentials = options.auth.as_deref().map(message::plain_credentials);
    let threads = options.threads.min(options.sessions);
    let cpu_before = cpu_time();
    let plan = Arc::new(Plan {
        options,
        address,
        message,
        credentials,
        started: Instant::now(),
        origin: OnceLock::new(),
        claimed: AtomicU64::new(0),
    });

    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let plan = Arc::clone(&plan);
            // Sessions are dealt out evenly; the first workers take the remainder.
            let sessions = plan.options.sessions / threads
                + usize::from(index < plan.options.sessions % threads);
            std::thread::Builder::new()
                .name(format!("bench-{index}"))
                .spawn(move || worker::run(&plan, sessions))
        })
        .collect::<io::Result<_>>()
        .map_err(Error::Resources)?;

    let mut tally = Tally::new();
    for worker in workers {
        let part = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        tally.merge(part.map_err(Error::Resources)?);
    }
    if let Some(path) = &plan.options.log {
        write_log(path, &plan.message, &tally.acknowledged)?;
    }
    let client_cpu = cpu_time().saturating_sub(cpu_before);
    Ok(Report::new(&plan.options, run_id, &tally, client_cpu))
}

/// The first address of `target` that takes a connection.
fn reachable(target: &str) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Target { target: target.to_owned(), source };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in target.to_socket_addrs().map_err(failed)? {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Tells the messages of one run from those of another; unique enough for a host's mailboxes.
fn run_id() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    nanos ^ (u64::from(std::process::id()) << 48)
}

/// Message-IDs of everything that was acknowledged, one a line, so that a checker
/// can look for them.
fn write_log(path: &str, message: &Message, acknowledged: &[u64]) -> Result<(), Error> {
    let mut text = String::new();
    for number in acknowledged {
        text.push_str(&message.message_id(*number));
        text.push('\n');
    }
    std::fs::write(path, text).map_err(|source| Error::Log { path: path.to_owned(), source })
}

/// User and system time of this process so far.
fn cpu_time() -> Duration {
    // SAFETY: `usage` is a plain struct for which all zeroes is valid, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let time = |t: libc::timeval| {
        Duration::new(t.tv_sec.unsigned_abs(), t.tv_usec.unsigned_abs() as u32 * 1000)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

#[cfg(test)]
mod tests;
