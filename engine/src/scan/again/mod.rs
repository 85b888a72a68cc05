//! Stored mail is scanned again when a scanner has new signatures, and what turns out to be bad is
//! pulled back into the quarantine of its account.
//!
//! | where | what |
//! |---|---|
//! | [`settings`] | what the operator says: `[scan.again]` |
//! | here | when a round begins, by itself or because an operator wants it, and what is told of it |
//! | [`round`] | one round over the mail of one core |
//! | [`progress`] | how far it is, in the log |
//!
//! New are signatures with a higher number than those with which the last round began. With several
//! servers they are those of the one that is behind among those that answer; one that is behind
//! those of the round is not asked by it. A server that tells no signatures (it has local ones
//! alone) begins none: an operator does (`kura store rescan`).
//!
//! Invariants: a message is pulled back by one record
//! ([`recalled`](crate::quarantine::recalled)), so it is at one place whatever happens; what is
//! not known (no scanner, no answer, damage) moves nothing; one message at a time is scanned on
//! each core, for a bounded share of its time and of the disk's.

pub mod progress;
pub mod round;
pub mod settings;

use super::verdict::Version;
use crate::NOTICE;
use crate::delivery::unix_millis;
use crate::operations::unix_now;
use crate::shard::Shard;
use progress::{Progress, Round};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often to look whether a round is wanted, or the server is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After a round that could not go on.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Signatures without a number may differ whenever they are asked for: that begins a round so
/// often at the most.
const UNNUMBERED_EVERY_SECONDS: u64 = 6 * 3600;
/// The control plane tells the version, or that there is none, in this time.
const VERSION_MAX: Duration = Duration::from_secs(10);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Clean,
    /// Found, and moved into quarantine.
    PulledBack,
    /// Found in quarantine, where that is the reason now.
    KeptBack,
    /// Found, and left where it is: by an operator's word.
    Left,
    /// The same content was found clean in this round.
    Known,
    /// Too large, damaged, or no scanner gets to its end.
    Unscanned,
    /// Its owner was faster.
    Gone,
}

impl Fate {
    const ALL: [Fate; 7] = [
        Fate::Clean,
        Fate::PulledBack,
        Fate::KeptBack,
        Fate::Left,
        Fate::Known,
        Fate::Unscanned,
        Fate::Gone,
    ];

    fn name(self) -> &'static str {
        match self {
            Fate::Clean => "clean",
            Fate::PulledBack => "pulled_back",
            Fate::KeptBack => "kept_back",
            Fate::Left => "left",
            Fate::Known => "known",
            Fate::Unscanned => "unscanned",
            Fate::Gone => "gone",
        }
    }
}

/// What one core has scanned again since the server started.
#[derive(Debug, Default)]
pub struct Again {
    wanted: Cell<bool>,
    running: Cell<bool>,
    paused: Cell<bool>,
    rounds: Cell<u64>,
    results: [Cell<u64>; Fate::ALL.len()],
    /// Whose mail is being looked at.
    account: RefCell<String>,
    failed: RefCell<Option<String>>,
}

/// The numbers of one core.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    running: bool,
    paused: bool,
    rounds: u64,
    results: [u64; Fate::ALL.len()],
}

impl Again {
    fn note(&self, result: Fate) {
        let count = &self.results[result as usize];
        count.set(count.get() + 1);
    }

    /// A round is under way, whose place is not saved yet.
    pub fn is_running(&self) -> bool {
        self.running.get()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            running: self.running.get(),
            paused: self.paused.get(),
            rounds: self.rounds.get(),
            results: self.results.each_ref().map(Cell::get),
        }
    }
}

/// A round from now on; where one runs, another after it, since what it has gone through may not be
/// what is wanted. One that is paused goes on.
pub fn begin(shard: &Shard) -> Result<(), String> {
    let scan = &shard.config.scan;
    if scan.clamd.is_empty() {
        return Err("no scanner is configured: set clamd in the config file's [scan]".to_owned());
    }
    if scan.again.days == 0 {
        return Err("scan.again.days is 0, so no mail is scanned again: set it to 7".to_owned());
    }
    shard.again.wanted.set(true);
    *shard.again.failed.borrow_mut() = None;
    Ok(())
}

pub fn status(shard: &Shard) -> Value {
    let again = &shard.again;
    let progress = progress::load(shard);
    let results: serde_json::Map<String, Value> = Fate::ALL
        .iter()
        .map(|one| (one.name().to_owned(), json!(again.results[*one as usize].get())))
        .collect();
    json!({
        "running": again.running.get() || again.wanted.get(),
        "paused": again.paused.get(),
        "rounds": again.rounds.get(),
        "account": *again.account.borrow(),
        "results": results,
        "scanned": progress.round.as_ref().map_or(0, |round| round.scanned),
        "pulled_back": progress.round.as_ref().map_or(0, |round| round.pulled_back),
        "done": progress.done.as_ref().map(Version::brief),
        "failed": *again.failed.borrow(),
    })
}

/// Until the core stops.
pub async fn run(shard: Rc<Shard>) {
    let scan = &shard.config.scan;
    if scan.clamd.is_empty() || scan.again.days == 0 {
        return;
    }
    let look_every = Duration::from_secs(scan.again.look_seconds);
    let again = &shard.again;
    let mut progress = progress::load(&shard);
    let mut look_at = Instant::now();
    tell_pause(&shard, &progress);
    while !is_stopping(&shard) {
        let is_wanted = again.wanted.get();
        let is_running = progress.round.as_ref().is_some_and(|round| !round.is_paused);
        if !is_running && (is_wanted || Instant::now() >= look_at) {
            look_at = Instant::now() + look_every;
            match &mut progress.round {
                Some(round) if is_wanted => (round.is_paused, round.is_trusted) = (false, true),
                Some(_) | None => consider(&shard, &mut progress, is_wanted).await,
            }
            if is_wanted {
                again.wanted.set(false);
            }
        }
        if progress.round.as_ref().is_some_and(|round| !round.is_paused) {
            again.running.set(true);
            again.paused.set(false);
            *again.failed.borrow_mut() = None;
            let outcome = round::run(&shard, &mut progress).await;
            again.running.set(false);
            again.account.borrow_mut().clear();
            let failed = outcome.err().map(|error| error.to_string());
            if let Some(why) = &failed {
                tracing::warn!(shard = shard.id, why, "scanning stored mail again: goes on later");
            }
            let has_failed = failed.is_some();
            if !has_failed {
                tell_pause(&shard, &progress);
            }
            if has_failed {
                *again.failed.borrow_mut() = failed;
                rest(&shard, AGAIN_AFTER).await;
            }
        }
        rest(&shard, LOOK_EVERY).await;
    }
}

/// Where a round has found more than it may by itself.
fn tell_pause(shard: &Shard, progress: &Progress) {
    let Some(round) = progress.round.as_ref().filter(|round| round.is_paused) else { return };
    let why = format!(
        "paused, since {} of {} messages were found to hold a virus: look at `kura quarantine list --rule virus`; \
         `kura store rescan` goes on with it, new signatures begin another",
        round.pulled_back, round.scanned
    );
    tracing::warn!(shard = shard.id, why, "scanning stored mail again");
    shard.again.paused.set(true);
    *shard.again.failed.borrow_mut() = Some(why);
}

/// Begins a round, if there is reason to.
async fn consider(shard: &Rc<Shard>, progress: &mut Progress, is_wanted: bool) {
    if let Err(error) = note_day(shard, progress).await {
        tracing::warn!(shard = shard.id, %error, "which mail is young is known by its date alone");
    }
    let now = version(shard).await;
    let since_begun = unix_now().saturating_sub(progress.begun);
    let paused = progress.round.as_ref().and_then(|round| round.version.as_ref());
    let is_due = match (paused.or(progress.done.as_ref()), &now) {
        (Some(done), Some(now)) => is_news(done, now, since_begun),
        // What there was before the first look was scanned when it came.
        (None, Some(now)) if !is_wanted && !now.signatures.is_empty() => {
            progress.done = Some(now.clone());
            if let Err(error) = progress::save(shard, progress).await {
                tracing::warn!(shard = shard.id, %error, "which signatures there are is not kept");
            }
            false
        }
        (_, None) | (None, Some(_)) => false,
    };
    if !is_wanted && !is_due {
        return;
    }
    let days = shard.config.scan.again.days;
    let version = now.as_ref().map(Version::brief).unwrap_or_default();
    tracing::info!(target: NOTICE, shard = shard.id, version, days, "scanning stored mail again");
    progress.begun = unix_now();
    progress.round = Some(Round { version: now, ..Round::default() });
}

async fn note_day(shard: &Rc<Shard>, progress: &mut Progress) -> Result<(), storage::Error> {
    let now = unix_millis().0;
    if progress.is_day_due(now) {
        let log = progress::save(shard, progress).await?;
        progress.note_day(now, log.0, round::since(shard));
        progress::save(shard, progress).await?;
    }
    Ok(())
}

/// Whether `now` knows what `done` does not: it has a higher number. What has no number may be the
/// same under another name, so it is news after a while.
fn is_news(done: &Version, now: &Version, seconds_since: u64) -> bool {
    if now.signatures.is_empty() {
        return false;
    }
    let number = |version: &Version| version.signatures.parse::<u64>().ok();
    match (number(done), number(now)) {
        (Some(done), Some(now)) if now != done => now > done,
        _ => now != done && seconds_since >= UNNUMBERED_EVERY_SECONDS,
    }
}

/// Of the scanner that is behind the others; `None`: none answers.
async fn version(shard: &Rc<Shard>) -> Option<Version> {
    let (reply, answer) = shard.mesh.open_question::<Option<Version>>();
    if !shard.scan.desk().version(reply) {
        return None;
    }
    let late = async {
        rest(shard, VERSION_MAX).await;
        None
    };
    futures_lite::future::or(async { answer.await.ok().flatten() }, late).await
}

fn is_stopping(shard: &Shard) -> bool {
    shard.watchdog.stopping() || shard.has_stopped()
}

async fn until_stopping(shard: &Shard) {
    while !is_stopping(shard) {
        glommio::timer::sleep(LOOK_EVERY).await;
    }
}

/// Sleeps, but not past the order to stop.
async fn rest(shard: &Shard, how_long: Duration) {
    let end = Instant::now() + how_long;
    while !is_stopping(shard) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        glommio::timer::sleep(left.min(LOOK_EVERY)).await;
    }
}

/// Prometheus text, of all cores.
pub fn metrics_text(text: &mut String, cores: &[Counts]) {
    let sum = |value: fn(&Counts) -> u64| cores.iter().map(value).sum::<u64>();
    let name = "kura_rescan_messages_total";
    let _ = writeln!(text, "# HELP {name} Stored messages scanned again, by result");
    let _ = writeln!(text, "# TYPE {name} counter");
    for result in Fate::ALL {
        let value: u64 = cores.iter().map(|core| core.results[result as usize]).sum();
        let _ = writeln!(text, "{name}{{result=\"{}\"}} {value}", result.name());
    }
    let name = "kura_rescan_rounds_total";
    let _ = writeln!(text, "# HELP {name} Rounds over the stored mail of a core that have ended");
    let _ = writeln!(text, "# TYPE {name} counter\n{name} {}", sum(|core| core.rounds));
    let name = "kura_rescan_paused";
    let _ =
        writeln!(text, "# HELP {name} Cores where so much was found that an operator is to look");
    let _ = writeln!(text, "# TYPE {name} gauge\n{name} {}", sum(|core| core.paused.into()));
    let name = "kura_rescan_running";
    let _ = writeln!(text, "# HELP {name} Cores whose stored mail is being scanned again");
    let _ = writeln!(text, "# TYPE {name} gauge\n{name} {}", sum(|core| core.running.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_is_a_higher_number_and_what_has_none_now_and_then() {
        let version = |engine: &str, signatures: &str| Version {
            engine: engine.to_owned(),
            signatures: signatures.to_owned(),
        };
        let done = version("E", "100");
        for (now, at_once, later) in [
            (version("E", "100"), false, false),
            (version("E", "101"), true, true),
            (version("E", "99"), false, false),
            (version("F", "100"), false, true),
            (version("E", ""), false, false),
            (version("E", "local"), false, true),
        ] {
            assert_eq!(is_news(&done, &now, 60), at_once, "{now:?}");
            assert_eq!(is_news(&done, &now, UNNUMBERED_EVERY_SECONDS), later, "{now:?}");
        }
        assert!(is_news(&version("E", ""), &done, u64::MAX), "signatures where there were none");
    }

    #[test]
    fn results_are_counted_by_name_over_all_cores() {
        let again = Again::default();
        for result in Fate::ALL {
            assert_eq!(Fate::ALL[result as usize], result);
        }
        again.note(Fate::PulledBack);
        let mut text = String::new();
        metrics_text(&mut text, &[again.counts(), again.counts()]);
        assert!(text.contains("kura_rescan_messages_total{result=\"pulled_back\"} 2\n"), "{text}");
        assert!(text.contains("kura_rescan_running 0\n"));
    }
}
