//! Runs a future on an executor of this thread, glommio's, which does not sleep over work for long.
//!
//! glommio-ng 0.12 goes to sleep with runnable tasks in its queue when its preemption timer has
//! already fired as it begins a turn, which happens where the host takes the processor away for a
//! moment. Seen as starts and commands that hung. A timer of its own does not help for sure: it
//! ends, and before it begins anew there is a turn, too, which may be that one. So a thread beside
//! it looks whether it still has turns, and interrupts its sleep if not.

use futures_lite::future::or;
use glommio::{LocalExecutorBuilder, timer};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// An executor without work has a turn so often.
const TICK: Duration = Duration::from_millis(5);
/// One that has had none for so long is interrupted. It may be at work, too: then nothing happens,
/// since calls that a signal interrupts are made again.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// By default it is ignored, and nothing else here sends it.
const SIGNAL: libc::c_int = libc::SIGURG;

pub fn run<T>(builder: LocalExecutorBuilder, future: impl Future<Output = T>) -> Result<T, String> {
    let executor = builder.make().map_err(|error| {
        format!("no executor: {error}; raise the locked-memory limit (ulimit -l) to 8192 or more")
    })?;
    let turns = Arc::new(AtomicU64::new(0));
    let _pulse = Pulse::begin(Arc::clone(&turns))
        .map_err(|error| format!("no thread beside the executor: {error}"))?;
    let ticking = async {
        loop {
            turns.fetch_add(1, Ordering::Relaxed);
            timer::sleep(TICK).await;
        }
    };
    Ok(executor.run(or(future, ticking)))
}

/// The thread that looks after this one; it ends when this is dropped.
struct Pulse {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// For the thread that calls.
    fn begin(turns: Arc<AtomicU64>) -> io::Result<Pulse> {
        hear()?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        // SAFETY: always succeeds.
        let sleeper = unsafe { libc::pthread_self() };
        let look = move || {
            let mut before = turns.load(Ordering::Relaxed);
            loop {
                std::thread::park_timeout(LOOK_EVERY);
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let now = turns.load(Ordering::Relaxed);
                if now == before {
                    // SAFETY: the thread is there: it drops us, which waits for this
                    // one, before it ends.
                    unsafe { libc::pthread_kill(sleeper, SIGNAL) };
                }
                before = now;
            }
        };
        let thread = std::thread::Builder::new().name("kura-pulse".to_owned()).spawn(look)?;
        Ok(Pulse { over, thread: Some(thread) })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// Has the signal interrupt calls, and do nothing else.
fn hear() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let nothing: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: an all-zero action is a valid one, whose mask is empty; without SA_RESTART calls are
    // interrupted. The handler touches nothing.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as usize;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
