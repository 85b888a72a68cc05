//! Measures the store alone on a real disk: append rate, CPU per message, time to open.
//!
//! `cargo run --release -p kura-storage --example measure -- DIRECTORY [MESSAGES BYTES SESSIONS ACCOUNTS]`
//!
//! Fills the directory's store with MESSAGES more and dies without closing it; with 0 messages,
//! opens what is there and says how long that took.

use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement as Pinning};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::device::Uring;
use storage::{
    AccountId, Body, Delivery, Error, Flags, MailboxId, Options, Placement, Quota, Store,
    UnixMillis,
};

#[derive(Clone, Copy)]
struct Load {
    messages: u64,
    bytes: usize,
    sessions: u64,
    accounts: u32,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory: PathBuf = arguments.next().expect("a directory").into();
    let mut number =
        |otherwise: u64| arguments.next().map_or(otherwise, |text| text.parse().expect("a number"));
    let load = Load {
        messages: number(100_000),
        bytes: number(4096) as usize,
        sessions: number(64),
        accounts: number(1000) as u32,
    };
    if load.messages == 0 {
        on_executor(directory, reopen);
    } else {
        on_executor(directory, move |directory| fill(directory, load));
    }
}

fn on_executor<F: Future<Output = ()> + 'static>(
    directory: PathBuf,
    work: impl FnOnce(PathBuf) -> F + Send + 'static,
) {
    LocalExecutorBuilder::new(Pinning::Unbound)
        .spawn(move || async move { work(directory).await })
        .expect("an executor")
        .join()
        .expect("comes to its end");
}

async fn open(directory: &std::path::Path) -> (Store<Uring>, Duration) {
    let started = Instant::now();
    let device = Uring::open(directory).await.expect("a device");
    let store = Store::open(device, Options::default()).await.expect("opens");
    (store, started.elapsed())
}

async fn fill(directory: PathBuf, load: Load) {
    let (store, _) = open(&directory).await;
    let running = store.clone();
    glommio::spawn_local(async move { running.run().await }).detach();
    for account in 0..load.accounts {
        match store.create_account(AccountId(account), Quota::default()).await {
            Ok(_) | Err(Error::AccountExists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    glommio::timer::sleep(Duration::from_secs(1)).await; // spares are written meanwhile
    let before = store.stats();
    let latencies = Rc::new(std::cell::RefCell::new(Vec::new()));
    let next = Rc::new(Cell::new(0));
    let (started, cpu) = (Instant::now(), cpu_time());
    let sessions: Vec<_> = (0..load.sessions)
        .map(|_| {
            let (store, next, latencies) = (store.clone(), Rc::clone(&next), Rc::clone(&latencies));
            glommio::spawn_local(async move { session(&store, load, &next, &latencies).await })
        })
        .collect();
    for session in sessions {
        session.await;
    }
    let (elapsed, cpu) = (started.elapsed(), cpu_time() - cpu);
    let stats = store.stats();
    let written = stats.bytes_written - before.bytes_written;
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize];
    println!(
        "{} x {} B, {} sessions: {:.0} msg/s, {:.0} MB/s, {:.1} us CPU/msg, {:.3} flushes/msg, \
         {:.2} written/received, p50 {} p99 {} p99.9 {} us, {} segments",
        load.messages,
        load.bytes,
        load.sessions,
        load.messages as f64 / elapsed.as_secs_f64(),
        (load.messages * load.bytes as u64) as f64 / elapsed.as_secs_f64() / 1e6,
        cpu.as_secs_f64() * 1e6 / load.messages as f64,
        (stats.flushes - before.flushes) as f64 / load.messages as f64,
        written as f64 / (load.messages * load.bytes as u64) as f64,
        at(0.5),
        at(0.99),
        at(0.999),
        stats.segments,
    );
    let heap = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let lines = heap.lines().filter(|line| line.starts_with("Rss"));
    println!("{}", lines.collect::<Vec<_>>().join(", ").replace(['\t', ' '], ""));
}

async fn session(
    store: &Store<Uring>,
    load: Load,
    next: &Cell<u64>,
    latencies: &std::cell::RefCell<Vec<u64>>,
) {
    let body = Bytes::from(vec![b'x'; load.bytes]);
    loop {
        let number = next.get();
        if number >= load.messages {
            return;
        }
        next.set(number + 1);
        let placement = Placement {
            account: AccountId((number % u64::from(load.accounts)) as u32),
            mailbox: MailboxId::INBOX,
            prefix: b"Delivered-To: someone@example.test\r\n".to_vec(),
            flags: Flags::default(),
            keywords: Vec::new(),
        };
        let delivery = Delivery {
            placements: vec![placement],
            internal_date: UnixMillis(number),
            summary: vec![b's'; 300],
            body: Body::Whole(body.clone()),
        };
        let started = Instant::now();
        let _ = store.deliver(delivery).await.expect("delivers");
        latencies.borrow_mut().push(started.elapsed().as_micros() as u64);
    }
}

async fn reopen(directory: PathBuf) {
    let (store, elapsed) = open(&directory).await;
    let stats = store.stats();
    println!(
        "opened {} messages in {:.0} ms, {} records replayed; {}",
        stats.messages,
        elapsed.as_secs_f64() * 1e3,
        stats.recovery_records,
        store.recovery().end,
    );
}

/// Of this thread alone.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
