//! Last words of a command that is interrupted (Ctrl-C, or SIGTERM) while it does what can't be left half done without a word.

use crate::config::ConfigError;
use std::io::Write;

/// From here on an interrupt has the command say `words` and end, as a shell expects it to. To be called before there are other
/// threads, which are to have what this one has.
pub(super) fn say(words: impl FnOnce() -> String + Send + 'static) -> Result<(), ConfigError> {
    let fault = |error| ConfigError(format!("can't listen for signals: {error}"));
    // SAFETY: all-zero is a valid set and a valid action, which the calls fill.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // One that a shell has it ignore, as in the background of a script, would be waited for all the same.
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
            // SAFETY: ends the process. Nothing is run at its exit: other threads are still at work.
            unsafe { libc::_exit(128 + signal) };
        }
    };
    std::thread::Builder::new().name("kura-signals".to_owned()).spawn(wait).map(drop).map_err(fault)
}
