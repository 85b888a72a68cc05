//! A timer that epoll can wait for, to the microsecond.
//!
//! epoll's own timeout has milliseconds, which is coarser than the latencies that are measured.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Timer {
    fd: OwnedFd,
}

impl Timer {
    pub(super) fn new() -> io::Result<Timer> {
        // SAFETY: no pointers are involved; the result is checked before it is owned.
        let fd = unsafe {
            let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, flags);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Timer { fd })
    }

    pub(super) fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Readable after `duration`. Setting it again forgets what it was set to, and what it fired.
    pub(super) fn set(&self, duration: Duration) -> io::Result<()> {
        // A timer of zero would be disarmed.
        let duration = duration.max(Duration::from_nanos(1));
        let value = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: libc::c_long::from(duration.subsec_nanos().cast_signed()),
            },
        };
        // SAFETY: the fd is a timer that we own, `value` outlives the call, the old value
        // is not asked for.
        let result =
            unsafe { libc::timerfd_settime(self.raw(), 0, &raw const value, std::ptr::null_mut()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
