//! One core's life: its thread, its executor, its store, and the loop that listens for all of them.

use crate::config::{Config, ConfigError};
use crate::executor;
use crate::listener::{self, Listeners};
use crate::mesh::Inbox;
use crate::shard::{Disk, Parts, Shard};
use futures_lite::future::{or, yield_now};
use glommio::{Latency, LocalExecutorBuilder, Placement, PoolPlacement, Shares};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use storage::Store;
use storage::device::uring::Completions;

/// Everything on a core awaits other threads now and then; in a queue without a latency bound such
/// a wake-up may wait for 100 ms while the core is busy. Each turn of the executor costs it timers
/// and system calls: with one a millisecond, a busy core took a third less mail.
const LATENCY: Duration = Duration::from_millis(5);

/// Times that a core without work looks once more before it sleeps: what one task woke may wake
/// another, and that one has to have had its turn.
const LOOKS_BEFORE_SLEEP: u32 = 2;

/// How long a core without work sleeps in epoll, where sockets, disk and other cores wake
/// it. The executor's timers and blocking pool go unheard for as long, so the first naps
/// after work are short.
const NAP_MIN: Duration = Duration::from_millis(1);
const NAP_MAX: Duration = Duration::from_millis(20);

/// More cores than any host has.
const SHARDS_MAX: u64 = 1024;

/// So often the log tells, at the most, of a disk that fails beside it.
const LOOK_AT_THE_DISK_EVERY: Duration = Duration::from_secs(1);

/// And of a full one.
const TELL_OF_SPACE_EVERY: Duration = Duration::from_secs(600);

/// For each core; as many password checks run at once.
const BLOCKING_THREADS: usize = 2;

/// Whether a core's store is open.
pub type Opened = Result<(), ConfigError>;

/// Starts a core; says in `opened` how the opening of its store went.
pub fn start(
    parts: Parts,
    inbox: Inbox,
    listeners: Listeners,
    opened: mpsc::Sender<Opened>,
) -> Result<JoinHandle<()>, ConfigError> {
    let id = parts.id;
    // More shards than processors (a store that came from a larger host): let the
    // kernel place them.
    let processors = processors();
    let placement = match processors.get(usize::from(id)) {
        Some(&processor) if parts.mesh.len() <= processors.len() => Placement::Fixed(processor),
        _ => Placement::Unbound,
    };
    let run = move || {
        let executor = LocalExecutorBuilder::new(placement)
            // What blocks (password hashes, creating a segment) must not take turns with the core.
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .name(&format!("kura-{id}"));
        let opening = opened.clone();
        let ran = executor::run(executor, async move {
            let queue = glommio::executor().create_task_queue(
                Shares::default(),
                Latency::Matters(LATENCY),
                "mail",
            );
            match glommio::spawn_local_into(run(parts, inbox, listeners, opening), queue) {
                Ok(core) => core.await,
                Err(error) => tracing::error!(%error, "core can't start"),
            }
        });
        if let Err(error) = ran {
            let _ = opened.send(Err(ConfigError(format!("core {id}: {error}"))));
        }
    };
    std::thread::Builder::new()
        .name(format!("kura-{id}"))
        .spawn(run)
        .map_err(|error| ConfigError(format!("can't start a thread for core {id}: {error}")))
}

/// The processors that this process may use: a container may not start with 0.
fn processors() -> Vec<usize> {
    // SAFETY: all-zero is a valid set, and the kernel writes no more than its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) != 0 {
            return Vec::new();
        }
        set
    };
    let known = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: the number is below CPU_SETSIZE.
    (0..known).filter(|&processor| unsafe { libc::CPU_ISSET(processor, &set) }).collect()
}

async fn run(parts: Parts, inbox: Inbox, listeners: Listeners, opened: mpsc::Sender<Opened>) {
    let started = Instant::now();
    let (store, completions) = match open_store(&parts).await {
        Ok(opened) => opened,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    let committing = glommio::spawn_local({
        let store = store.clone();
        let shard = parts.id;
        async move {
            store.run().await;
            if let Some(reason) = store.halted_by() {
                tell_of_the_halt(shard, &reason, store.is_displaced());
            }
        }
    });
    let stats = store.stats();
    tracing::info!(
        shard = parts.id,
        messages = stats.messages,
        records_replayed = stats.recovery_records,
        milliseconds = started.elapsed().as_millis(),
        "store open"
    );
    report_recovery(parts.id, store.recovery());
    let shard = Rc::new(Shard::new(parts, store));
    glommio::spawn_local(listen(Rc::clone(&shard), completions, inbox)).detach();
    let _ = opened.send(Ok(()));
    drop(opened);
    shard.begun().await;
    let watchdog = glommio::spawn_local({
        let shard = Rc::clone(&shard);
        async move { shard.watchdog.run().await }
    });
    if !listeners.is_empty() {
        // A command has its store open for a moment only.
        glommio::spawn_local(crate::scrub::run(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::harm::keep_looking(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::relay::sender::run(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::relay::delivered::keep(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::collect::collector::run(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::quarantine::keeper::run(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::scan::again::run(Rc::clone(&shard))).detach();
        glommio::spawn_local(crate::submission::keep(Rc::clone(&shard))).detach();
        crate::reports::begin(&shard);
    }
    for (service, listener) in listeners {
        glommio::spawn_local(listener::accept_all(Rc::clone(&shard), service, listener)).detach();
    }
    let telling = glommio::spawn_local(tell_of_the_disk(Rc::clone(&shard)));
    shard.stopped().await;
    telling.cancel().await;
    watchdog.cancel().await;
    committing.await;
}

/// Once, with the way out of it.
fn tell_of_the_halt(shard: u16, reason: &str, is_displaced: bool) {
    if is_displaced {
        tracing::error!(
            shard,
            reason,
            "the directory of this shard has been moved away or removed, or another one is in its place: the shard takes nothing \
             more, and what was acknowledged is in the files that were in it. If it was moved, stop the server, move it back, and start \
             the server. If it was removed, do not stop the server, but take a backup (kura store backup): what it still has open is \
             lost when it stops. More is in README.md, \"Files that somebody has removed\""
        );
        return;
    }
    tracing::error!(
        shard,
        reason,
        "the store has halted: a write failed, and this shard takes nothing more; \
         what was acknowledged is on the disk. Mend the disk, then restart"
    );
}

/// A disk that fails beside the log costs nothing yet, and nobody would notice; of a full one only
/// those hear whose mail is put off.
async fn tell_of_the_disk(shard: Rc<Shard>) {
    let mut told = 0;
    let (mut refused, mut told_of_space) = (0, None::<Instant>);
    loop {
        let refused_now = shard.store.refused_for_space();
        if refused_now > refused
            && told_of_space.is_none_or(|told| told.elapsed() >= TELL_OF_SPACE_EVERY)
        {
            tracing::warn!(
                shard = shard.id,
                refused = refused_now - refused,
                "the disk is full: new mail is put off (452) until there is room. Mail can be read and expunged; \
                 free some space on the file system, or see what `kura store stats` says of expunged mail that is kept"
            );
            (refused, told_of_space) = (refused_now, Some(Instant::now()));
        }
        if let Some((count, reason)) = shard.store.given_up()
            && count > told
            && shard.store.halted_by().is_none()
        {
            told = count;
            tracing::error!(
                shard = shard.id,
                reason,
                "the disk failed under a checkpoint, a copy or a spare, which is given up; \
                 mail is still taken, and nothing is lost. Look after the disk"
            );
        }
        glommio::timer::sleep(LOOK_AT_THE_DISK_EVERY).await;
    }
}

/// What the store found wrong when it was opened; what it could do without is a warning.
fn report_recovery(shard: u16, recovery: &storage::RecoveryReport) {
    for setback in &recovery.setbacks {
        tracing::warn!(shard, setback, "what the store had to do without when it was opened");
    }
    if let Some(unfinished) = &recovery.unfinished {
        tracing::warn!(
            shard,
            unfinished,
            "the end of the log, as it was found when the store was opened"
        );
    }
    for place in &recovery.damage {
        tracing::error!(shard, place, "damage found when opening the store");
    }
    if recovery.lost_records > 0 {
        tracing::error!(
            shard,
            records = recovery.lost_records,
            "records of the log could not be read: changes or messages are lost; restore them from a backup"
        );
    }
}

thread_local! {
    static GAVE_WAY: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Steps of a machine after which whoever drives it gives way: its peer may send faster
/// than this is done.
pub const UNBROKEN_STEPS_MAX: u32 = 16;

/// Lets the other tasks of the core have a turn; the core does not sleep before this one goes on.
pub async fn give_way() {
    GAVE_WAY.set(true);
    yield_now().await;
}

/// Hears of sockets, of the disk and of other cores, until the core has stopped.
async fn listen(shard: Rc<Shard>, completions: Completions, inbox: Inbox) {
    if let Err(error) = try_listen(&shard, &completions, &inbox).await {
        tracing::error!(shard = shard.id, %error, "epoll failed: this core stops");
        shard.close().await;
    }
}

/// A busy core asks each of them itself, at every turn, which costs one system call. Without work
/// it naps in epoll, where all of them wake it; between two naps the executor has a turn, for its
/// timers and its blocking pool. The executor's own way of sleeping costs ten system calls, and on
/// a loaded host it may sleep on although there is work (see [`executor`]).
async fn try_listen(
    shard: &Rc<Shard>,
    completions: &Completions,
    inbox: &Inbox,
) -> std::io::Result<()> {
    shard.readiness.wake_for(completions)?;
    let (mut looks, mut nap) = (0, NAP_MIN);
    while !shard.has_stopped() {
        // After a turn with nothing in it, sockets are not asked again before the nap does so.
        let ready = looks == 0 && shard.readiness.turn(Duration::ZERO)?;
        let found = inbox.turn(shard) | completions.take() | ready | GAVE_WAY.take();
        if found {
            (looks, nap) = (0, NAP_MIN);
        } else {
            looks += 1;
        }
        if looks > LOOKS_BEFORE_SLEEP {
            // What opens a file waits for the pool, most often less than this.
            nap = if completions.is_pool_awaited() { NAP_MIN } else { nap };
            let is_woken = !inbox.may_sleep() || shard.readiness.turn(nap)?;
            inbox.awake();
            nap = (nap * 2).min(NAP_MAX);
            if is_woken {
                (looks, nap) = (0, NAP_MIN);
            }
        }
        yield_now().await;
    }
    Ok(())
}

async fn open_store(parts: &Parts) -> Result<(Store<Disk>, Completions), ConfigError> {
    let dir = crate::layout::shard_dir(&parts.config.data_dir, parts.id);
    let fault = |error: &dyn std::fmt::Display| {
        ConfigError(format!("store of shard {} ({}): {error}", parts.id, dir.display()))
    };
    let (disk, completions) = Disk::open_unreaped(&dir).map_err(|error| fault(&error))?;
    // The core does not listen yet.
    let deaf = async {
        completions.reap().await;
        std::future::pending().await
    };
    let options = storage::Options {
        open_files_max: crate::files::segments(parts.mesh.len()),
        ..store_options(&parts.config, &parts.knobs, parts.id)
    };
    let store = Store::open(disk, options);
    let store = or(store, deaf).await;
    store.map(|store| (store, completions)).map_err(|error| fault(&error))
}

/// Whether the store, the sessions and this host can work with these: the knob's name first.
pub fn check_knobs(knobs: &hwprofiles::Knobs) -> Result<(), String> {
    let admitted = knobs.admitted_messages_per_second.value;
    for (name, value, least, most) in [
        ("shards", knobs.shards.value, 1, SHARDS_MAX),
        ("session_buffer_bytes", knobs.session_buffer_bytes.value, 4096, 64 << 20),
        ("sessions_max", knobs.sessions_max.value, 16, u64::from(u32::MAX)),
        ("spare_segments", knobs.spare_segments.value, 1, 1024),
        ("commit_window_us", knobs.commit_window_us.value, 0, 1_000_000),
        ("checkpoint_bytes", knobs.checkpoint_bytes.value, 1 << 20, 1 << 40),
        ("admitted_messages_per_second", admitted, 1, 100_000_000),
        ("compaction_share_percent", knobs.compaction_share_percent.value, 1, 100),
        ("scrub_share_percent", knobs.scrub_share_percent.value, 1, 100),
        ("backup_share_percent", knobs.backup_share_percent.value, 1, 100),
    ] {
        if !(least..=most).contains(&value) {
            return Err(format!("{name} = {value} is out of range; use {least} to {most}"));
        }
    }
    knob_options(knobs, 0).check().map_err(|error| match error {
        storage::Error::Options(what) => what.to_string(),
        other => other.to_string(),
    })
}

/// The profile's knobs, in the store's terms. What a profile does not decide stays at its default.
pub(crate) fn store_options(
    config: &Config,
    knobs: &hwprofiles::Knobs,
    shard: u16,
) -> storage::Options {
    storage::Options { retention: config.store.retention.0, ..knob_options(knobs, shard) }
}

fn knob_options(knobs: &hwprofiles::Knobs, shard: u16) -> storage::Options {
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    storage::Options {
        shard,
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
            (knobs.compaction_bytes_per_second.value / u64::from(knobs.shards()).max(1)).max(1),
        ),
        zstd_level: u8::try_from(knobs.zstd_level.value).unwrap_or(u8::MAX),
        ..storage::Options::default()
    }
}
