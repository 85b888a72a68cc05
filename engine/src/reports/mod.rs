//! Reports between mail hosts: what is seen of others' domains is told to them, and what others
//! tell of ours is summed up.
//!
//! | where | what |
//! |---|---|
//! | [`settings`] | `[reports]` |
//! | [`row`], [`tally`], [`counts`] | what DMARC has found, counted: of a message, on a core, on shard 0 |
//! | [`send`], [`destinations`], [`aggregate`], [`letter`] | what leaves, and to whom |
//! | [`reader`], [`mail`], [`unpack`], [`feedback`], [`tlsrpt`] | what others have sent, read |
//! | [`digest`], [`figures`] | what is kept of it |
//! | [`operations`] | `kura reports` |
//!
//! A message costs its core one look into a map. Each minute the map goes to shard 0, which writes
//! it into its log: what a crash loses is that minute.

pub mod aggregate;
pub mod counts;
pub mod destinations;
pub mod digest;
pub mod feedback;
pub mod figures;
pub mod letter;
pub mod mail;
pub mod operations;
pub mod reader;
pub mod row;
pub mod send;
pub mod settings;
pub mod tally;
pub mod tlsrpt;
pub mod unpack;

use crate::auth::verdict::{Disposition, Verdict};
use crate::mesh::ShardHandle;
use crate::operations::unix_now;
use crate::shard::Shard;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;
use tally::Tally;

/// How often cores tell shard 0 what they have counted.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often shard 0 forgets what is old.
const FORGET_EVERY: u32 = 60;

/// What a core knows of reports.
#[derive(Debug, Default)]
pub struct Reporting {
    tally: RefCell<Tally>,
    /// Mail that is to be read.
    notes: RefCell<VecDeque<reader::Note>>,
    pub counts: Counts,
    /// Held over each change of the counts, which look before they write. The rest is
    /// of use on shard 0.
    counts_turn: tokio::sync::Mutex<()>,
    /// Rows that are stored.
    rows: Cell<usize>,
    figures_turn: tokio::sync::Mutex<()>,
    held: Cell<figures::Held>,
}

/// For metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// To others.
    pub sent: Cell<u64>,
    /// Of others.
    pub read: Cell<u64>,
    pub refused: Cell<u64>,
}

/// A message was taken, or refused for good: what its author's domain will be told. Who brings it
/// again is counted then.
pub(crate) fn count(shard: &Shard, verdict: &mut Verdict, done: Disposition) {
    let Some(mut observed) = verdict.observed.take() else { return };
    observed.settle(done, verdict.policy);
    shard.reports.tally.borrow_mut().add(send::day_of(unix_now()), *observed);
}

/// Starts what a core does about reports, until the server stops.
pub fn begin(shard: &Rc<Shard>) {
    if shard.id == 0 {
        shard.reports.rows.set(counts::rows(shard));
        shard.reports.held.set(figures::held(shard));
        glommio::spawn_local(send::run(Rc::clone(shard))).detach();
    }
    glommio::spawn_local(reader::run(Rc::clone(shard))).detach();
    glommio::spawn_local(keep(Rc::clone(shard))).detach();
}

async fn keep(shard: Rc<Shard>) {
    let mut turns = 0_u32;
    while !shard.watchdog.stopping() {
        glommio::timer::sleep(TELL_EVERY).await;
        tell(&shard).await;
        if shard.id == 0 && turns.is_multiple_of(FORGET_EVERY) {
            forget(&shard).await;
        }
        turns = turns.wrapping_add(1);
    }
}

async fn forget(shard: &Shard) {
    let today = send::day_of(unix_now());
    let kept = u32::try_from(shard.config.reports.keep.0.as_secs() / 86_400).unwrap_or(u32::MAX);
    let figures = async {
        let _turn = shard.reports.figures_turn.lock().await;
        figures::forget(shard, today.saturating_sub(kept)).await
    };
    for forgotten in [send::forget_old(shard, today).await, figures.await] {
        if let Err(error) = forgotten {
            tracing::warn!(%error, "old figures of reports are still there");
        }
    }
}

/// This core's counts go to shard 0's log. What it does not take is told again.
pub(crate) async fn tell(shard: &Rc<Shard>) {
    let tally = shard.reports.tally.take();
    if tally.is_empty() {
        return;
    }
    let told = tally.clone();
    let work = move |shard: Rc<Shard>| async move {
        let _turn = shard.reports.counts_turn.lock().await;
        counts::add(&shard, told).await
    };
    let back = shard.mesh.ask(0, work).await.unwrap_or(tally);
    if !back.is_empty() {
        shard.reports.tally.borrow_mut().add_all(back);
    }
}

/// Of all cores, for the control plane.
pub async fn metrics_text(handles: &[ShardHandle]) -> String {
    let mut sums = [0_u64; 3];
    for handle in handles {
        let counts = |shard: Rc<Shard>| async move {
            let Counts { sent, read, refused } = &shard.reports.counts;
            [sent.get(), read.get(), refused.get()]
        };
        if let Ok(counts) = handle.ask(counts).await {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }
    let mut text = "# HELP kura_reports_total DMARC and TLS reports: sent to others; of others, read; of others, refused\n\
                    # TYPE kura_reports_total counter\n"
        .to_owned();
    for (what, sum) in ["sent", "read", "refused"].iter().zip(sums) {
        let _ = writeln!(text, "kura_reports_total{{what=\"{what}\"}} {sum}");
    }
    text
}

/// The counts of all cores.
async fn tell_all(shard: &Rc<Shard>) {
    for home in 0..shard.mesh.cores() {
        let work = |shard: Rc<Shard>| async move { tell(&shard).await };
        // A core that does not answer tells by itself, later.
        let _ = shard.mesh.ask(home, work).await;
    }
}
