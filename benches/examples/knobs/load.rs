//! Sessions that deliver messages, one after the other or at a rate, on a real or a simulated disk.

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
    AccountId, Body, Delivery, Flags, MailboxId, Options, Placement, Quota, Store, Uid, UnixMillis,
};

const MESSAGE_BYTES: usize = 4096;
/// See the head of main.rs.
const MESSAGE_CPU_NANOS: u64 = 41_000;
const FLUSH_CPU_NANOS: u64 = 195_000;

/// What the sessions do on a simulated disk.
#[derive(Clone, Copy)]
pub enum Load {
    /// Each delivers its next message once the last one is durable.
    Closed,
    /// All of them together deliver so many a second, each message when it is due. Late ones
    /// count from then.
    Open { per_second: f64, beside: Beside },
}

/// What else goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// As many messages are expunged as come in, at random, so that compaction has to run; and a
    /// scrub and a backup after the other, at the rates of the profile's shares.
    Upkeep,
}

/// Before the load in which they are expunged: to each session.
const FILL_MESSAGES: usize = 1500;
/// Small, so that a short load turns over many.
const FILLED_SEGMENT_BYTES: u64 = 16 << 20;

/// What came out, over all shards.
#[derive(Default)]
pub struct Outcome {
    /// Nanoseconds from delivery to durable.
    latencies: Vec<u64>,
    flushes: u64,
    seconds: f64,
}

impl Outcome {
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    /// Milliseconds within which each of these shares of the messages was durable.
    pub fn milliseconds<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        shares.map(|share| {
            let index = (sorted.len() as f64 * share) as usize;
            sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(0.0, |n| *n as f64 / 1e6)
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = self.milliseconds([0.5, 0.99, 0.999]);
        let flushes = self.flushes as f64 / (self.latencies.len() as f64).max(1.0);
        write!(f, "{:6.0}, {p50:.2} / {p99:.2} / {p999:.2}, {flushes:.3}", self.per_second())
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
        upkeep_piece_bytes: bytes(knobs.upkeep_piece_bytes.value),
        compaction_bytes_per_second: Some(
            knobs.compaction_bytes_per_second.value / knobs.shards.value,
        ),
        ..Options::default()
    }
}

fn account(session: usize) -> AccountId {
    AccountId(u32::try_from(session).expect("few sessions") + 1)
}

async fn deliver<D: Device>(store: &Store<D>, session: usize, body: &Bytes) -> Uid {
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
    let (placed, _durable) = store.deliver(delivery).await.expect("delivers");
    placed[0].uid
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

// ── the real disk ────────────────────────────────────────────────────────────────────────────────

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
    // Spare segments are written ahead while nothing comes in, as on any server that has
    // been up a while.
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

// ── a simulated disk ─────────────────────────────────────────────────────────────────────────────

pub fn on_simulated_disk(
    medium: Medium,
    knobs: &Knobs,
    cores: u32,
    sessions: usize,
    load: Load,
    time: Duration,
) -> Outcome {
    let (sim, clock) = (Sim::new(1), Clock::default());
    let executor = Executor::new(&sim);
    let cores: Vec<Queue> = (0..cores).map(|_| Queue::default()).collect();
    let shards = usize::from(knobs.shards());
    let lasting = knobs.lasting_bytes_per_second.value / shards as u64 / 100;
    let run = Rc::new(Run {
        latencies: RefCell::default(),
        flushes: Cell::new(0),
        nanos: u64::try_from(time.as_nanos()).expect("a short time"),
        load,
        sessions,
        scrub: lasting * knobs.scrub_share_percent.value,
        backup: lasting * knobs.backup_share_percent.value,
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
        let (mut options, run) = (options(knobs, shard), Rc::clone(&run));
        if run.fills() {
            options.segment_bytes = FILLED_SEGMENT_BYTES;
            options.batch_bytes_max =
                options.batch_bytes_max.min(FILLED_SEGMENT_BYTES as usize / 4);
            options.retention = Duration::ZERO;
        }
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
    load: Load,
    sessions: usize,
    /// Bytes a second that they may read.
    scrub: u64,
    backup: u64,
}

impl Run {
    fn fills(&self) -> bool {
        matches!(self.load, Load::Open { beside: Beside::Upkeep, .. })
    }
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
    let filled = Rc::new(Cell::new(0));
    let left = Rc::new(Cell::new(mine.len()));
    let start = Rc::new(Cell::new(u64::MAX));
    let sessions = mine.len();
    for session in mine {
        let mut session = Session {
            number: session,
            store: store.clone(),
            clock: clock.clone(),
            core: cores[session % cores.len()].clone(),
            body: Bytes::from(plain_message(MESSAGE_BYTES, session as u64)),
            there: Vec::new(),
            random: session as u64 + 1,
        };
        let (run, left) = (Rc::clone(run), Rc::clone(&left));
        let (filled, start) = (Rc::clone(&filled), Rc::clone(&start));
        executor.spawn(async move {
            if run.fills() {
                session.fill().await;
            }
            filled.set(filled.get() + 1);
            while start.get() == u64::MAX {
                session.clock.until(session.clock.now() + 1_000_000).await;
            }
            session.clock.until(start.get()).await;
            session.work(&run, start.get()).await;
            left.set(left.get() - 1);
        });
    }
    while filled.get() < sessions {
        clock.until(clock.now() + 1_000_000).await;
    }
    if run.fills() {
        keep_reading(&store, executor, run, &left);
    }
    // Until the spare segments are written ahead, which takes a platter some seconds.
    start.set(clock.now() + 5_000_000_000);
    while left.get() > 0 {
        clock.until(clock.now() + 1_000_000).await;
    }
    run.flushes.set(run.flushes.get() + store.stats().flushes - before);
}

/// One scrub after the other, and one backup after the other, as long as sessions are at work.
fn keep_reading(store: &Store<Timed>, executor: &Executor, run: &Rc<Run>, left: &Rc<Cell<usize>>) {
    let (scrubbed, run_of_scrub, at_work) = (store.clone(), Rc::clone(run), Rc::clone(left));
    executor.spawn(async move {
        while at_work.get() > 0 {
            scrubbed.scrub(Some(run_of_scrub.scrub), |_, _| ()).await.expect("scrubs");
        }
    });
    let (store, run, at_work) = (store.clone(), Rc::clone(run), Rc::clone(left));
    executor.spawn(async move {
        while at_work.get() > 0 {
            let plan = store.backup_plan();
            for segment in &plan.segments {
                let bytes = usize::try_from(segment.end).expect("a segment in memory");
                let read = store.read_segment(segment.segment, 0, bytes, Some(run.backup)).await;
                read.expect("a segment of the plan can be read");
            }
        }
    });
}

struct Session {
    number: usize,
    store: Store<Timed>,
    clock: Clock,
    core: Queue,
    body: Bytes,
    there: Vec<Uid>,
    random: u64,
}

impl Session {
    async fn fill(&mut self) {
        for _ in 0..FILL_MESSAGES {
            self.there.push(deliver(&self.store, self.number, &self.body).await);
        }
    }

    async fn work(&mut self, run: &Rc<Run>, start: u64) {
        let end = start + run.nanos;
        for number in 0.. {
            let due = match run.load {
                Load::Closed => self.clock.now(),
                Load::Open { per_second, .. } => {
                    let message = (number * run.sessions + self.number) as f64;
                    start + (message / per_second * 1e9) as u64
                }
            };
            if due >= end {
                return;
            }
            self.clock.until(due).await;
            self.clock.until(self.core.take(self.clock.now(), MESSAGE_CPU_NANOS)).await;
            let since = if matches!(run.load, Load::Closed) { self.clock.now() } else { due };
            let uid = deliver(&self.store, self.number, &self.body).await;
            run.latencies.borrow_mut().push(self.clock.now() - since);
            if run.fills() {
                self.there.push(uid);
                self.expunge_one().await;
            }
        }
    }

    async fn expunge_one(&mut self) {
        // Knuth's generator: any will do.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let place = (self.random >> 33) as usize % self.there.len();
        let uid = self.there.swap_remove(place);
        let (store, account) = (&self.store, account(self.number));
        let (_, _durable) =
            store.expunge(account, MailboxId::INBOX, &[uid]).await.expect("expunges");
    }
}
