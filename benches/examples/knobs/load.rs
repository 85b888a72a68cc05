//! Sessions that deliver one message after the other, on a real or a simulated disk.

use crate::timed::{Clock, Medium, Queue, Timed};
use bytes::Bytes;
use glommio::{LocalExecutorBuilder, Placement as Pinning};
use hwprofiles::Knobs;
use kura_benches::plain_message;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};
use storage::device::sim::Executor;
use storage::device::{Device, Sim, Uring};
use storage::{
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, Store, UnixMillis,
};

const MESSAGE_BYTES: usize = 4096;
/// See the head of main.rs.
const MESSAGE_CPU_NANOS: u64 = 41_000;
const FLUSH_CPU_NANOS: u64 = 195_000;

/// What came out, over all shards.
#[derive(Default)]
pub struct Outcome {
    /// Nanoseconds from delivery to durable.
    latencies: Vec<u64>,
    flushes: u64,
    seconds: f64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let index = (sorted.len() as f64 * share) as usize;
            sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(0.0, |n| *n as f64 / 1e6)
        };
        let messages = sorted.len() as f64;
        write!(
            f,
            "{:6.0}, {:.2} / {:.2} / {:.2}, {:.3}",
            messages / self.seconds,
            at(0.5),
            at(0.99),
            at(0.999),
            self.flushes as f64 / messages.max(1.0)
        )
    }
}

/// As the engine sets them, `store_options` in engine/src/core.rs.
fn options(knobs: &Knobs, shard: usize) -> Options {
    let bytes = |value: u64| usize::try_from(value).expect("a size in memory");
    Options {
        shard: u16::try_from(shard).expect("few shards"),
        segment_bytes: knobs.segment_bytes.value,
        spare_segments: bytes(knobs.spare_segments.value),
        batch_bytes_max: bytes(knobs.batch_bytes_max.value),
        batch_bytes_eager: bytes(knobs.batch_bytes_eager.value),
        chains_in_flight: bytes(knobs.chains_in_flight.value),
        commit_window: Duration::from_micros(knobs.commit_window_us.value),
        pending_bytes_max: bytes(knobs.pending_bytes_max.value),
        checkpoint_log_bytes_max: knobs.checkpoint_bytes.value,
        ..Options::default()
    }
}

fn account(session: usize) -> AccountId {
    AccountId(u32::try_from(session).expect("few sessions") + 1)
}

async fn deliver<D: Device>(store: &Store<D>, session: usize, body: &Bytes) {
    let placement = Placement {
        account: account(session),
        mailbox: MailboxId::INBOX,
        prefix: b"Delivered-To: alice@example.test\r\n".to_vec(),
        flags: Flags::default(),
        keywords: Vec::new(),
    };
    let delivery = Delivery {
        placements: vec![placement],
        internal_date: UnixMillis(1_790_000_000_000),
        summary: vec![7; 200],
        body: Body::Whole(body.clone()),
    };
    let _durable = store.deliver(delivery).await.expect("delivers");
}

/// Accounts of this shard's sessions; the flushes so far, so that they don't count.
async fn prepare<D: Device>(store: &Store<D>, sessions: &[usize]) -> u64 {
    for session in sessions {
        let _durable =
            store.create_account(account(*session), Quota::default()).await.expect("an account");
    }
    store.stats().flushes
}

fn sessions_of(shard: usize, shards: usize, sessions: usize) -> Vec<usize> {
    (0..sessions).filter(|session| session % shards == shard).collect()
}

// ── the real disk ─────────────────────────────────────────────────────────────────────────────────

pub fn on_real_disk(directory: &Path, knobs: &Knobs, sessions: usize, time: Duration) -> Outcome {
    let shards = usize::from(knobs.shards());
    let threads: Vec<_> = (0..shards)
        .map(|shard| {
            let place = directory.join(shard.to_string());
            let options = options(knobs, shard);
            let mine = sessions_of(shard, shards, sessions);
            LocalExecutorBuilder::new(Pinning::Unbound)
                .spawn(move || async move { real_shard(&place, options, mine, time).await })
                .expect("an executor")
        })
        .collect();
    let mut all = Outcome { seconds: time.as_secs_f64(), ..Outcome::default() };
    for thread in threads {
        let outcome = thread.join().expect("the shard's thread");
        all.latencies.extend(outcome.latencies);
        all.flushes += outcome.flushes;
    }
    all
}

async fn real_shard(place: &Path, options: Options, mine: Vec<usize>, time: Duration) -> Outcome {
    let device = Uring::open(place).await.expect("a device");
    let store = Store::open(device, options).await.expect("opens");
    let running = store.clone();
    let running = glommio::spawn_local(async move { running.run().await });
    let before = prepare(&store, &mine).await;
    // Spare segments are written ahead while nothing comes in, as on any server that has been up a while.
    glommio::timer::sleep(Duration::from_millis(300)).await;
    let end = Instant::now() + time;
    let tasks: Vec<_> = mine
        .into_iter()
        .map(|session| {
            let store = store.clone();
            glommio::spawn_local(async move {
                let body = Bytes::from(plain_message(MESSAGE_BYTES, session as u64));
                let mut latencies = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    deliver(&store, session, &body).await;
                    latencies.push(start.elapsed().as_nanos() as u64);
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await);
    }
    let flushes = store.stats().flushes - before;
    store.close().await.expect("closes");
    running.await;
    Outcome { latencies, flushes, seconds: time.as_secs_f64() }
}

// ── a simulated disk ──────────────────────────────────────────────────────────────────────────────

pub fn on_simulated_disk(
    medium: Medium,
    knobs: &Knobs,
    cores: u32,
    sessions: usize,
    time: Duration,
) -> Outcome {
    let (sim, clock) = (Sim::new(1), Clock::default());
    let executor = Executor::new(&sim);
    let cores: Vec<Queue> = (0..cores).map(|_| Queue::default()).collect();
    let shards = usize::from(knobs.shards());
    let run = Rc::new(Run {
        latencies: RefCell::default(),
        flushes: Cell::new(0),
        nanos: u64::try_from(time.as_nanos()).expect("a short time"),
    });
    let mut open = Vec::new();
    for shard in 0..shards {
        let core = cores[shard % cores.len()].clone();
        let prefix = format!("{shard}/");
        let (sim, medium) = (sim.clone(), medium.clone());
        let clock_of_shard = clock.clone();
        let device =
            Timed { sim, clock: clock_of_shard, medium, prefix, core, flush_cpu: FLUSH_CPU_NANOS };
        let mine = sessions_of(shard, shards, sessions);
        let ended = Rc::new(Cell::new(false));
        open.push(Rc::clone(&ended));
        let (spawner, clock, cores) = (executor.clone(), clock.clone(), cores.clone());
        let (options, run) = (options(knobs, shard), Rc::clone(&run));
        executor.spawn(async move {
            simulated_shard(device, options, mine, &spawner, &clock, &cores, &run).await;
            ended.set(true);
        });
    }
    while !open.iter().all(|ended| ended.get()) {
        if !executor.turn() && !clock.advance() {
            panic!("nobody has anything to do, and the load is not over");
        }
    }
    Outcome {
        latencies: run.latencies.take(),
        flushes: run.flushes.get(),
        seconds: time.as_secs_f64(),
    }
}

struct Run {
    latencies: RefCell<Vec<u64>>,
    flushes: Cell<u64>,
    nanos: u64,
}

async fn simulated_shard(
    device: Timed,
    options: Options,
    mine: Vec<usize>,
    executor: &Executor,
    clock: &Clock,
    cores: &[Queue],
    run: &Rc<Run>,
) {
    let store = Store::open(device, options).await.expect("opens");
    let running = store.clone();
    executor.spawn(async move { running.run().await });
    let before = prepare(&store, &mine).await;
    // Until the spare segments are written ahead, which takes a platter some seconds.
    clock.until(clock.now() + 5_000_000_000).await;
    let end = clock.now() + run.nanos;
    let left = Rc::new(Cell::new(mine.len()));
    for session in mine {
        let (store, clock, run, left) =
            (store.clone(), clock.clone(), Rc::clone(run), Rc::clone(&left));
        let core = cores[session % cores.len()].clone();
        executor.spawn(async move {
            let body = Bytes::from(plain_message(MESSAGE_BYTES, session as u64));
            while clock.now() < end {
                clock.until(core.take(clock.now(), MESSAGE_CPU_NANOS)).await;
                let start = clock.now();
                deliver(&store, session, &body).await;
                run.latencies.borrow_mut().push(clock.now() - start);
            }
            left.set(left.get() - 1);
        });
    }
    while left.get() > 0 {
        clock.until(clock.now() + 1_000_000).await;
    }
    run.flushes.set(run.flushes.get() + store.stats().flushes - before);
}
