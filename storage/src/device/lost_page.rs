//! What is said when a mapped page is gone: SIGBUS ends the process, and the last line on stderr
//! says why and what to do.
//!
//! A page that the kernel has let go of and that the disk does not give again can't be gone on
//! without. Zeroes in its place would be rows that are missing: clients would be told that mail is
//! gone, and what is logged from then on would be made of that. To end is safe, since nothing was
//! promised that is not durable; and the next opening meets the sector (`mapped`), and makes the
//! index from what else there is.
//!
//! The handler does only what signal-safety(7) allows: no memory is allocated, no lock taken. Which
//! file it is, the kernel says. Rust's own handler of this signal is for stacks that overflow,
//! which is SIGSEGV on Linux.

use std::fmt::{self, Write};
use std::sync::Once;

/// Of `/proc/self/maps`: a path of any length, and what stands before it.
const LINE_BYTES: usize = libc::PATH_MAX as usize + 128;

/// From the first mapping on.
pub(super) fn tell() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all-zero is a valid `sigaction` with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
        // SAFETY: the handler is of the kind that the flags say. Should it fail, nothing is said.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    });
}

extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives it with this kind of handler.
    if unsafe { (*info).si_code } > 0 {
        // SAFETY: where it is the kernel's own, there is an address.
        say(unsafe { (*info).si_addr() } as usize);
    }
    // SAFETY: it touches no memory. The signal, blocked up to the handler's end, then does what it
    // does without one, be it that the page is touched again or that somebody has sent it.
    unsafe { libc::raise(libc::SIGBUS) };
}

fn say(address: usize) {
    let mut line = Line::new();
    let found = find(address);
    let is_checkpoint =
        found.as_ref().is_some_and(|(path, _)| path.text().contains("/checkpoint-"));
    let _ = match &found {
        Some((path, offset)) => write!(line, "{}: its page at {offset}", path.text()),
        None => write!(line, "the mapped page at address {address:#x}"),
    };
    let _ = line.write_str(
        " can't be read any more (SIGBUS): the disk has lost a sector, memory is broken, or somebody has cut the file. \
         The process ends here; nothing that was acknowledged is lost.",
    );
    if is_checkpoint {
        let _ = line.write_str(
            " Start it again: it does without that file, and makes the index from what else there is.",
        );
    }
    let _ = line.write_str(" Look after the disk (dmesg, smartctl -a)\n");
    // A pipe that nobody empties would keep the process from ending.
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one descriptor, and no wait.
    if unsafe { libc::poll(&raw mut stderr, 1, 0) } != 1 {
        return;
    }
    // SAFETY: bytes that are there. What can't be written is not said.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length) };
}

/// Text without an allocation. What is too long is cut.
struct Line {
    bytes: [u8; 2 * LINE_BYTES],
    length: usize,
}

impl Line {
    fn new() -> Line {
        Line { bytes: [0; 2 * LINE_BYTES], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.length) {
            *free = byte;
            self.length += 1;
        }
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

/// A line of which only the path counts.
struct Path(Line);

impl Path {
    fn text(&self) -> &str {
        file_of(self.0.text()).unwrap_or_default()
    }
}

/// Which file is mapped there, and where in it that is.
fn find(address: usize) -> Option<(Path, usize)> {
    // SAFETY: a terminated path. The descriptor is closed below.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let (mut line, mut part) = (Line::new(), [0_u8; 1024]);
    let found = loop {
        // SAFETY: room for as many bytes. Of a descriptor that is none, nothing is read.
        let read = unsafe { libc::read(maps, part.as_mut_ptr().cast(), part.len()) };
        let Some(bytes) = usize::try_from(read).ok().and_then(|read| part.get(..read)) else {
            break None;
        };
        if bytes.is_empty() {
            break None;
        }
        let mut found = None;
        for byte in bytes {
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            found = place_in(line.text(), address);
            if found.is_some() {
                break;
            }
            line.length = 0;
        }
        if found.is_some() {
            break found;
        }
    };
    // SAFETY: opened above, and used by nobody else.
    unsafe { libc::close(maps) };
    found.map(|offset| (Path(line), offset))
}

/// Where in its file the address is, if it is in this mapping: `START-END PERMISSIONS OFFSET DEVICE INODE    PATH`, numbers
/// in base 16.
fn place_in(line: &str, address: usize) -> Option<usize> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let offset = usize::from_str_radix(rest.split(' ').nth(1)?, 16).ok()?;
    file_of(line)?;
    (start <= address && address < end).then(|| offset + (address - start))
}

fn file_of(line: &str) -> Option<&str> {
    line.find('/').and_then(|at| line.get(at..))
}

#[cfg(test)]
mod tests {
    use super::super::mapped;
    use std::os::fd::AsRawFd;

    /// Pages behind the file's end are gone for whoever touches them, as those are that the disk
    /// does not give again.
    #[test]
    fn a_page_that_goes_while_it_is_mapped_ends_the_process_which_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("checkpoint-0000000000000007");
        std::fs::write(&path, vec![7; 8 * 4096]).expect("writes");
        let mapped = mapped::map(&path).expect("maps");
        let file = std::fs::File::options().write(true).open(&path).expect("opens");
        file.set_len(4 * 4096).expect("cuts");
        let said = directory.path().join("said");
        let stderr = std::fs::File::create(&said).expect("creates");
        // SAFETY: the child makes system calls and touches memory, and nothing else.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: as above.
            unsafe {
                libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
                libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO);
                std::ptr::read_volatile(mapped.as_ptr().add(5 * 4096 + 77));
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: a child of ours, and room for how it ended.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS, "{status:#x}");
        let said = std::fs::read_to_string(said).expect("reads");
        let place = format!("{}: its page at {}", path.display(), 5 * 4096 + 77);
        assert!(said.starts_with(&place) && said.ends_with('\n'), "{said}");
        assert!(said.contains("Start it again") && said.lines().count() == 1, "{said}");
    }
}
