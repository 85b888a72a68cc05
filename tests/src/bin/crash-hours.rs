//! Crashes the simulated store for as long as asked, or replays one case.
//!
//! ```sh
//! cargo run --release -p kura-tests --bin crash-hours -- --hours 3
//! cargo run --release -p kura-tests --bin crash-hours -- --replay 1234:crash:567:0
//! ```
//!
//! Prints a line each minute, and stops at the first failure, with the command that
//! replays it alone.

use kura_tests::simulation::{Case, Failure, campaign};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use storage::Sabotage;

const USAGE: &str = "crash-hours [--hours HOURS | --minutes MINUTES] [--seed FIRST] [--threads N]\n\
                     crash-hours --replay CASE\n\
                     and --planted BUG, to see a bug that is planted on purpose";

struct Arguments {
    length: Duration,
    seed: u64,
    threads: usize,
    replay: Option<Case>,
    planted: Option<Sabotage>,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // A panic of the store is reported as a failure of its case.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.replay {
        Some(case) => replay(Case { sabotage: arguments.planted, ..case }),
        None => crash_on(&arguments),
    }
}

fn arguments() -> Result<Arguments, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let seed = now.as_secs() << 16;
    let length = Duration::from_secs(3600);
    let mut found = Arguments { length, seed, threads, replay: None, planted: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        let number = || value.parse::<f64>().map_err(|_| format!("{value:?} is not a number"));
        match word.as_str() {
            "--hours" => found.length = Duration::from_secs_f64(number()? * 3600.0),
            "--minutes" => found.length = Duration::from_secs_f64(number()? * 60.0),
            "--seed" => found.seed = value.parse().map_err(|_| format!("seed {value:?}"))?,
            "--threads" => found.threads = (number()? as usize).max(1),
            "--replay" => found.replay = Some(value.parse()?),
            "--planted" => found.planted = Some(planted(&value)?),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    Ok(found)
}

fn planted(name: &str) -> Result<Sabotage, String> {
    let named = |bug: &Sabotage| format!("{bug:?}") == name;
    let found = campaign::PLANTED.into_iter().find(named);
    found.ok_or_else(|| format!("{name:?} is none of {:?}", campaign::PLANTED))
}

fn replay(case: Case) -> ExitCode {
    match kura_tests::simulation::run(case) {
        Ok(()) => {
            println!("case {case}: nothing is wrong");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn crash_on(arguments: &Arguments) -> ExitCode {
    let until = Instant::now() + arguments.length;
    let (seeds, crashes) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let is_over = || {
        Instant::now() >= until || failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while !is_over() {
                    let number = seeds.fetch_add(1, Ordering::Relaxed);
                    match campaign::sweep(arguments.seed + number, arguments.planted, &is_over) {
                        Ok(count) => drop(crashes.fetch_add(count, Ordering::Relaxed)),
                        Err(failure) => {
                            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
                        }
                    }
                }
            });
        }
        let mut next_line = Instant::now() + Duration::from_secs(60);
        while !is_over() {
            std::thread::sleep(Duration::from_millis(100));
            if Instant::now() >= next_line {
                next_line += Duration::from_secs(60);
                report(&seeds, &crashes);
            }
        }
    });
    report(&seeds, &crashes);
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn report(seeds: &AtomicU64, crashes: &AtomicU64) {
    let (seeds, crashes) = (seeds.load(Ordering::Relaxed), crashes.load(Ordering::Relaxed));
    println!("{seeds} workloads begun, {crashes} troubles survived");
}
