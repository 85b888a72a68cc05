//! Last words of a command that is interrupted (Ctrl-C, or SIGTERM) while it does what can't be
//! left half done without a word.

use crate::config::ConfigError;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What a command is about that makes a whole store: a restore, or a salvage.
pub(super) struct Making {
    pub(super) what: &'static str,
    pub(super) data_dir: PathBuf,
    /// What it writes before the store has its place there.
    pub(super) staging: &'static str,
    pub(super) config_file: PathBuf,
}

impl Making {
    /// As [`say`]: what is left where, and what to do next.
    pub(super) fn say(self) -> Result<(), ConfigError> {
        let store = self.data_dir.join("store");
        // One that is there already is none that this command makes, and has it refused.
        let was_there = store.exists();
        say(move || self.left(!was_there && store.exists()))
    }

    fn left(&self, is_made: bool) -> String {
        let Making { what, data_dir, staging, config_file } = self;
        let staging: &Path = &data_dir.join(staging);
        if is_made {
            return format!(
                "the {what} was broken off when the store had its place: all of it is in {}, and its first start does what was left to \
                 do. Start it: kura serve --config {}",
                data_dir.display(),
                config_file.display()
            );
        }
        let written = match staging.exists() {
            true => format!(
                "; what was written so far is in {}, and the next {what} into {} begins anew there. If there is to be none, remove it",
                staging.display(),
                data_dir.display()
            ),
            false => ", and nothing of one was written; start it again".to_owned(),
        };
        format!("the {what} was broken off: no store was made{written}")
    }
}

/// From here on an interrupt has the command say `words` and end, as a shell expects it to. To be
/// called before there are other threads, which are to have what this one has.
pub(super) fn say(words: impl FnOnce() -> String + Send + 'static) -> Result<(), ConfigError> {
    let fault = |error| ConfigError(format!("can't listen for signals: {error}"));
    // SAFETY: all-zero is a valid set and a valid action, which the calls fill.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // One that a shell has it ignore, as in the background of a script, would be waited
            // for all the same.
            let mut now: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &mut now) != 0
                || now.sa_sigaction != libc::SIG_IGN
            {
                libc::sigaddset(&mut signals, signal);
            }
        }
        signals
    };
    // SAFETY: a set that is filled; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut()) } {
        0 => {}
        number => return Err(fault(std::io::Error::from_raw_os_error(number))),
    }
    let wait = move || {
        let mut signal = 0;
        // SAFETY: a set that is filled, and room for a number.
        if unsafe { libc::sigwait(&signals, &mut signal) } == 0 {
            // Nobody may be looking any more.
            let _ = writeln!(std::io::stderr(), "\nkura: {}", words());
            // SAFETY: ends the process. Nothing is run at its exit: other threads
            // are still at work.
            unsafe { libc::_exit(128 + signal) };
        }
    };
    std::thread::Builder::new().name("kura-signals".to_owned()).spawn(wait).map(drop).map_err(fault)
}
