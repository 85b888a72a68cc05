//! Runs workloads on the simulated disk, takes the power away at a given operation, and looks at
//! what the store makes of the remains.
//!
//! Everything follows from the [`Case`]: the same case, the same run. A failure names its case, and
//! `crash-hours --replay CASE` runs it alone.

use super::checker::{Rot, Violation, judge};
use super::journal::Journal;
use super::observation::{Observation, look, look_and_read};
use super::past::{back_up, look_back};
use super::workload::{Client, Disk, Stop};
use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::str::FromStr;
use std::task::Poll;
use std::time::Duration;
use storage::device::Device;
use storage::device::sim::{Executor, Random, Sim, TaskId};
use storage::{Options, Sabotage, Store};

/// A run takes some thousands of turns; one that takes so many will never end.
const TURNS_MAX: u64 = 1_000_000;

/// What befalls the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing: the run that counts the operations, and tests the store alive.
    Nothing,
    /// The power fails at this operation; the number chooses among the possible remains.
    Crash { operation: u64, survivor: u32 },
    /// The process is killed at this operation, and soon after the power fails: what recovery read
    /// may never have been synced.
    Kill { operation: u64 },
    /// This operation fails with EIO. Then the process is started anew, with the power cut or not.
    Failure { operation: u64 },
    /// One byte is spoiled after the store was closed; the number chooses which.
    Rot { which: u32 },
}

/// A run, to be repeated at will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub seed: u64,
    pub trouble: Trouble,
    pub sabotage: Option<Sabotage>,
}

/// A case that went wrong.
#[derive(Debug, Clone)]
pub struct Failure {
    pub case: Case,
    pub what: Violation,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed;
        match self.trouble {
            Trouble::Nothing => write!(f, "{seed}"),
            Trouble::Crash { operation, survivor } => {
                write!(f, "{seed}:crash:{operation}:{survivor}")
            }
            Trouble::Kill { operation } => write!(f, "{seed}:kill:{operation}"),
            Trouble::Failure { operation } => write!(f, "{seed}:eio:{operation}"),
            Trouble::Rot { which } => write!(f, "{seed}:rot:{which}"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Case, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
        let small = |text: &str| number(text).map(|number: u64| number as u32);
        let (seed, trouble) = match parts[..] {
            [seed] => (seed, Trouble::Nothing),
            [seed, "crash", operation, survivor] => {
                (seed, Trouble::Crash { operation: number(operation)?, survivor: small(survivor)? })
            }
            [seed, "kill", operation] => (seed, Trouble::Kill { operation: number(operation)? }),
            [seed, "eio", operation] => (seed, Trouble::Failure { operation: number(operation)? }),
            [seed, "rot", which] => (seed, Trouble::Rot { which: small(which)? }),
            _ => {
                return Err(format!(
                    "{text:?} is not SEED, SEED:crash:OPERATION:SURVIVOR, SEED:kill:OPERATION, \
                     SEED:eio:OPERATION or SEED:rot:WHICH"
                ));
            }
        };
        Ok(Case { seed: number(seed)?, trouble, sabotage: None })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { case, what } = self;
        let planted = case.sabotage.map(|bug| format!(" --planted {bug:?}")).unwrap_or_default();
        write!(
            f,
            "case {case} fails; alone: cargo run --release -p kura-tests --bin crash-hours -- \
             --replay {case}{planted}\n{what}"
        )
    }
}

/// How a life of the store ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    /// The store stopped because the disk failed.
    Halted,
    Crashed,
}

/// What the seed decides about a workload.
#[derive(Debug, Clone)]
struct Plan {
    options: Options,
    clients: usize,
    rounds: u32,
    operations: u32,
    capacity: Option<u64>,
    /// Mail comes and goes so fast that compaction runs all the time.
    churns: bool,
    /// Somebody takes a backup meanwhile.
    backs_up: bool,
}

/// Retentions: one that never ends within a case, and one that ends again and again.
const LONG: Duration = Duration::from_millis(super::matching::LONG_MILLIS);
const SHORT: Duration = Duration::from_millis(30);

/// Every so many seeds have a workload that churns.
const CHURNS_EVERY: u64 = 3;

impl Plan {
    fn of(seed: u64, sabotage: Option<Sabotage>) -> Plan {
        if churns(seed) { Plan::churning(seed, sabotage) } else { Plan::calm(seed, sabotage) }
    }

    fn calm(seed: u64, sabotage: Option<Sabotage>) -> Plan {
        let mut random = Random::new(seed ^ 0x504C_414E);
        let segment_bytes = (64 << 10) * (1 + random.below(2));
        let small = random.chance(1, 2);
        let options = Options {
            segment_bytes,
            spare_segments: 1 + random.index(2),
            batch_bytes_max: if small { 8 << 10 } else { 16 << 10 },
            batch_bytes_eager: [1, 2 << 10, 4 << 10][random.index(3)],
            chains_in_flight: 1 + random.index(4),
            commit_window: Duration::from_micros([0, 0, 300][random.index(3)]),
            checkpoint_log_bytes_min: [12 << 10, 40 << 10, 1 << 20][random.index(3)],
            zstd_level: packing(seed),
            sabotage,
            ..Options::for_tests()
        };
        Plan {
            options,
            clients: 1 + random.index(4),
            rounds: 2 + random.below(2) as u32,
            operations: 6 + random.below(6) as u32,
            capacity: random.chance(1, 5).then(|| segment_bytes * (4 + random.below(4)) + 50_000),
            churns: false,
            backs_up: random.chance(1, 6),
        }
        .remembering([LONG, LONG, SHORT, Duration::ZERO][random.index(4)])
    }

    /// Small segments, many of them, and hardly any garbage allowed.
    fn churning(seed: u64, sabotage: Option<Sabotage>) -> Plan {
        let mut random = Random::new(seed ^ 0x4348_5552);
        let segment_bytes = 64 << 10;
        let options = Options {
            segment_bytes,
            spare_segments: 1 + random.index(2),
            spare_segments_max: 2,
            batch_bytes_max: if random.chance(1, 2) { 8 << 10 } else { 16 << 10 },
            batch_bytes_eager: [1, 4 << 10][random.index(2)],
            chains_in_flight: 1 + random.index(3),
            checkpoint_log_bytes_min: [24 << 10, 48 << 10][random.index(2)],
            checkpoint_log_bytes_max: 64 << 10,
            garbage_percent_max: 1 + random.below(10) as u8,
            compaction_bytes_per_second: [None, None, Some(20 << 20)][random.index(3)],
            zstd_level: packing(seed),
            sabotage,
            ..Options::for_tests()
        };
        Plan {
            options,
            clients: 2 + random.index(3),
            rounds: 3,
            operations: 24 + random.below(16) as u32,
            capacity: random.chance(1, 4).then(|| segment_bytes * (9 + random.below(5)) + 50_000),
            churns: true,
            backs_up: random.chance(1, 2),
        }
        .remembering([SHORT, Duration::ZERO, Duration::ZERO][random.index(3)])
    }

    fn remembering(mut self, retention: Duration) -> Plan {
        self.options.retention = retention;
        self
    }

    /// Nothing that has gone can be forgotten.
    fn remembers(&self) -> bool {
        self.options.retention == LONG && self.capacity.is_none()
    }

    /// For the time after the trouble.
    fn short(self) -> Plan {
        Plan { operations: 3, backs_up: false, ..self }
    }
}

/// Whether this seed's mail comes and goes so fast that compaction runs all the time.
#[must_use]
pub fn churns(seed: u64) -> bool {
    seed.is_multiple_of(CHURNS_EVERY)
}

/// Device operations of the workload when nothing goes wrong.
pub fn count_operations(seed: u64, sabotage: Option<Sabotage>) -> Result<u64, Failure> {
    let case = Case { seed, trouble: Trouble::Nothing, sabotage };
    guarded(case, || {
        let sim = Sim::new(seed);
        let journal = Rc::default();
        first_life(&case, &sim, &journal, Disk::Healthy)?;
        let operations = sim.operations();
        aftermath(&case, sim, &journal, Rot::None, &mut Random::new(seed))?;
        Ok(operations)
    })
}

/// Cuts the power at `operation` and judges `survivors` different remains. Returns how many crashes
/// that were, those during recovery included.
pub fn crash(
    seed: u64,
    operation: u64,
    survivors: u32,
    sabotage: Option<Sabotage>,
) -> Result<u64, Failure> {
    let at = |survivor| Case { seed, trouble: Trouble::Crash { operation, survivor }, sabotage };
    let sim = Sim::new(seed);
    let journal = Rc::default();
    guarded(at(0), || {
        sim.crash_at(operation);
        first_life(&at(0), &sim, &journal, Disk::Healthy)
    })?;
    let mut crashes = 0;
    for survivor in 0..survivors {
        let remains = sim.after_crash();
        let mut random = Random::new(seed ^ (operation << 20) ^ (u64::from(survivor) << 50));
        let journal = Rc::new(RefCell::new(journal.borrow().clone()));
        crashes += 1 + guarded(at(survivor), || {
            aftermath(&at(survivor), remains, &journal, Rot::None, &mut random)
        })?;
    }
    Ok(crashes)
}

/// Runs any case. What a sound store does is `Ok`.
pub fn run(case: Case) -> Result<(), Failure> {
    let Case { seed, trouble, sabotage } = case;
    match trouble {
        Trouble::Nothing => count_operations(seed, sabotage).map(|_| ()),
        // The survivors before it are judged too: each takes its turn at the disk's dice.
        Trouble::Crash { operation, survivor } => {
            crash(seed, operation, survivor + 1, sabotage).map(|_| ())
        }
        Trouble::Kill { operation } => guarded(case, || kill(&case, operation)),
        Trouble::Failure { operation } => guarded(case, || fail(&case, operation)),
        Trouble::Rot { which } => guarded(case, || spoil(&case, which)),
    }
}

/// What the clients of a workload know in the end, and a true look at their store, for tests of the
/// judge.
pub fn after_a_workload(seed: u64) -> Result<(Journal, Observation), Failure> {
    let case = Case { seed, trouble: Trouble::Nothing, sabotage: None };
    guarded(case, || {
        let sim = Sim::new(seed);
        let journal: Shared = Rc::default();
        first_life(&case, &sim, &journal, Disk::Healthy)?;
        let plan = Plan::of(seed, None).short();
        drive(&sim, &journal, Life::after(plan, 0, Rot::None, &mut Random::new(seed)))?;
        let journal = journal.borrow().clone();
        let seen = journal.last.as_deref().cloned().ok_or("nobody looked")?;
        Ok((journal, seen))
    })
}

fn kill(case: &Case, operation: u64) -> Result<(), Violation> {
    let sim = Sim::new(case.seed);
    let journal = Rc::default();
    sim.crash_at(operation);
    first_life(case, &sim, &journal, Disk::Healthy)?;
    let mut random = Random::new(case.seed ^ (operation << 24));
    let remains = sim.after_kill();
    let (remains, _) = crash_again(case, remains, &journal, &mut random)?;
    aftermath(case, remains, &journal, Rot::None, &mut random).map(|_| ())
}

fn fail(case: &Case, operation: u64) -> Result<(), Violation> {
    let sim = Sim::new(case.seed);
    let journal = Rc::default();
    sim.fail_at(operation);
    // Opening may fail too, if it is then that the disk does.
    let lived = first_life(case, &sim, &journal, Disk::Faulty);
    if let Err(what) = lived
        && !what.starts_with(CANNOT_OPEN)
    {
        return Err(what);
    }
    let mut random = Random::new(case.seed ^ operation);
    // What the process had under way when it ended is not done later.
    let remains = if random.chance(1, 2) { sim.after_crash() } else { sim.after_kill() };
    aftermath(case, remains, &journal, Rot::None, &mut random).map(|_| ())
}

fn spoil(case: &Case, which: u32) -> Result<(), Violation> {
    let sim = Sim::new(case.seed);
    let journal = Rc::default();
    first_life(case, &sim, &journal, Disk::Healthy)?;
    let mut random = Random::new(case.seed ^ (u64::from(which) << 40));
    let files = sim.files();
    let file = &files[random.index(files.len())];
    sim.flip(&file.name, random.below(file.bytes), 1 << random.below(8));
    aftermath(case, sim, &journal, Rot::OneByte, &mut random).map(|_| ())
}

/// A panic is a violation too.
fn guarded<T>(case: Case, run: impl FnOnce() -> Result<T, Violation>) -> Result<T, Failure> {
    let what = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(what)) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("panic: {}", text.unwrap_or("without a message"))
        }
    };
    Err(Failure { case, what })
}

type Shared = Rc<RefCell<Journal>>;

/// The workload itself: rounds of clients, a look after each; now and then closed and opened again.
fn first_life(case: &Case, sim: &Sim, journal: &Shared, disk: Disk) -> Result<End, Violation> {
    let plan = Plan::of(case.seed, case.sabotage);
    let mut random = Random::new(case.seed ^ 0x4C49_4645);
    sim.set_capacity(plan.capacity);
    let mut rounds = plan.rounds;
    while rounds > 0 {
        let together = 1 + random.below(u64::from(rounds)) as u32;
        rounds -= together;
        let life = Life {
            plan: plan.clone(),
            rounds: together,
            disk,
            reads: false,
            rot: Rot::None,
            random: Random::new(random.any()),
        };
        match drive(sim, journal, life)? {
            End::Closed => {}
            end @ (End::Halted | End::Crashed) => return Ok(end),
        }
    }
    Ok(End::Closed)
}

/// Recovery, perhaps cut short by further crashes; then everything is read, the store goes on
/// living for a while, and everything is read again. Returns the number of further crashes.
fn aftermath(
    case: &Case,
    mut sim: Sim,
    journal: &Shared,
    rot: Rot,
    random: &mut Random,
) -> Result<u64, Violation> {
    let mut crashes = 0;
    while rot == Rot::None && random.chance(2, 5) {
        let crashed;
        (sim, crashed) = crash_again(case, sim, journal, random)?;
        crashes += crashed;
    }
    sim.set_capacity(None);
    for rounds in [1, 0] {
        if rounds == 0 && rot == Rot::None && random.chance(1, 3) {
            forget_all_but_the_log(&sim);
            journal.borrow_mut().superblock_is_forgotten = true;
        }
        let plan = Plan::of(case.seed, case.sabotage).short();
        match drive(&sim, journal, Life::after(plan, rounds, rot, random))? {
            End::Closed => {}
            end @ (End::Halted | End::Crashed) => {
                return Err(format!("the store ended as {end:?} on a healthy disk"));
            }
        }
    }
    Ok(crashes)
}

/// Checkpoints and superblocks are disposable; here they are disposed of.
fn forget_all_but_the_log(sim: &Sim) {
    let disk = sim.clone();
    Executor::new(sim).block_on(async move {
        for file in disk.files().into_iter().filter(|file| !file.name.starts_with("log-")) {
            disk.remove(&file.name).await.expect("a healthy disk");
        }
    });
}

/// A life that a crash or a kill cuts short, in recovery or soon after; what remains, and whether
/// it came to the crash.
fn crash_again(
    case: &Case,
    sim: Sim,
    journal: &Shared,
    random: &mut Random,
) -> Result<(Sim, u64), Violation> {
    let plan = Plan::of(case.seed, case.sabotage).short();
    let mut life = Life::after(plan, 1, Rot::None, random);
    // Reading takes most of the operations. Without it the crash often comes right behind the first
    // batches, which is when leftovers of an earlier life lie behind them.
    life.reads = random.chance(1, 2);
    let operations = if life.reads { 60 } else { 30 };
    sim.crash_at(sim.operations() + 1 + random.below(operations));
    let end = drive(&sim, journal, life)?;
    let remains = if random.chance(1, 4) { sim.after_kill() } else { sim.after_crash() };
    Ok((remains, u64::from(end == End::Crashed)))
}

/// From opening to closing.
struct Life {
    plan: Plan,
    rounds: u32,
    disk: Disk,
    /// Whether looks read every message.
    reads: bool,
    rot: Rot,
    random: Random,
}

impl Life {
    fn after(plan: Plan, rounds: u32, rot: Rot, random: &mut Random) -> Life {
        let disk = if rot == Rot::None { Disk::Healthy } else { Disk::Spoiled };
        let random = Random::new(random.any());
        Life { plan, rounds, disk, reads: true, rot, random }
    }

    async fn live(mut self, stage: Stage) -> Result<End, Violation> {
        let opened = Store::open(stage.sim.clone(), self.plan.options.clone()).await;
        let store = opened.map_err(|error| format!("{CANNOT_OPEN}: {error}"))?;
        let running = store.clone();
        stage.spawn(async move { running.run().await });
        self.inspect(&stage, &store, self.reads).await?;
        for _ in 0..self.rounds {
            let stop = self.round(&stage, &store).await;
            if stop == Stop::Halted {
                return Ok(End::Halted);
            }
            self.inspect(&stage, &store, false).await?;
        }
        let closed = store.close().await;
        let stats = store.stats();
        let tally = &mut stage.journal.borrow_mut().tally;
        tally.segments_freed += stats.segments_freed;
        tally.bytes_moved = tally.bytes_moved.max(stats.bytes_moved);
        match closed {
            Ok(()) => Ok(End::Closed),
            Err(_) if self.disk == Disk::Faulty || self.plan.capacity.is_some() => Ok(End::Halted),
            Err(error) => Err(format!("cannot close: {error}")),
        }
    }

    async fn inspect(
        &self,
        stage: &Stage,
        store: &Store<Sim>,
        reads: bool,
    ) -> Result<(), Violation> {
        let remembers = self.plan.remembers() && self.rot == Rot::None;
        if remembers && reads && self.disk == Disk::Healthy {
            look_back(store, &stage.journal).await?;
        }
        let before = stage.journal.borrow().modseqs();
        let seen = if reads { look_and_read(store, &before).await } else { look(store, &before) };
        let mut seen = seen.map_err(|error| format!("cannot look: {error}"))?;
        let millis = self.plan.options.retention.as_millis();
        seen.retention_millis = u64::try_from(millis).unwrap_or(u64::MAX);
        seen.tight = self.plan.capacity.is_some();
        let at = store.device().now();
        judge(&mut stage.journal.borrow_mut(), seen, self.rot)?;
        if remembers {
            // What comes next is of a later millisecond, so that this look can be had again.
            stage.journal.borrow_mut().last_at = Some(at);
            store.device().sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    async fn round(&mut self, stage: &Stage, store: &Store<Sim>) -> Stop {
        let mut first = self.client(stage, store);
        if first.greet().await == Stop::Halted {
            return Stop::Halted;
        }
        let mut lives: Vec<Pin<Box<dyn Future<Output = Stop>>>> = (0..self.plan.clients)
            .map(|number| {
                let client = Client { holds: number == 0, ..self.client(stage, store) };
                Box::pin(client.live(self.plan.operations)) as _
            })
            .collect();
        if self.plan.backs_up {
            let (journal, options) = (Rc::clone(&stage.journal), self.plan.options.clone());
            let random = Random::new(self.random.any());
            lives.push(Box::pin(back_up(store.clone(), journal, options, self.disk, random)));
        }
        if all(lives).await.contains(&Stop::Halted) {
            return Stop::Halted;
        }
        self.client(stage, store).barrier().await
    }

    fn client(&mut self, stage: &Stage, store: &Store<Sim>) -> Client {
        Client {
            store: store.clone(),
            journal: Rc::clone(&stage.journal),
            random: Random::new(self.random.any()),
            disk: self.disk,
            churns: self.plan.churns,
            remembers: self.plan.remembers(),
            holds: false,
        }
    }
}

const CANNOT_OPEN: &str = "cannot open";

/// Waits for all.
async fn all<T>(mut futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    let mut results = Vec::new();
    poll_fn(|context| {
        futures.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(result) => {
                results.push(result);
                false
            }
            Poll::Pending => true,
        });
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results
}

/// Where a life takes place.
#[derive(Clone)]
struct Stage {
    sim: Sim,
    journal: Shared,
    executor: Executor,
    tasks: Rc<RefCell<Vec<TaskId>>>,
}

impl Stage {
    fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        let task = self.executor.spawn(future);
        self.tasks.borrow_mut().push(task);
        task
    }
}

fn drive(sim: &Sim, journal: &Shared, life: Life) -> Result<End, Violation> {
    let stage = Stage {
        sim: sim.clone(),
        journal: Rc::clone(journal),
        executor: Executor::new(sim),
        tasks: Rc::default(),
    };
    let result = Rc::new(RefCell::new(None));
    let place = Rc::clone(&result);
    let own_stage = stage.clone();
    let task = stage.spawn(async move {
        let end = life.live(own_stage).await;
        *place.borrow_mut() = Some(end);
    });
    let mut turns = 0;
    while !stage.executor.is_finished(task) && turns < TURNS_MAX && stage.executor.turn() {
        turns += 1;
    }
    // Everything in memory is gone; the tasks refer to the executor, so they have to go first.
    let tasks = std::mem::take(&mut *stage.tasks.borrow_mut());
    tasks.into_iter().for_each(|task| stage.executor.cancel(task));
    let ended = result.borrow_mut().take();
    match ended {
        Some(end) => end,
        None if sim.is_crashed() => Ok(End::Crashed),
        None if turns >= TURNS_MAX => Err("the run does not come to its end".to_owned()),
        None => Err("nothing can make progress: somebody was never woken".to_owned()),
    }
}

/// A third of the stores compress. Not drawn, so that old seeds do what they did.
fn packing(seed: u64) -> u8 {
    u8::from(seed % 3 == 1)
}
