//! Memory that the disk can read and write directly: aligned, owned, zeroed once.
//!
//! Invariant: `filled <= capacity <= allocated`, and all `allocated` bytes are initialised, so
//! that a slice of them is always sound. `O_DIRECT` wants address, offset and length aligned
//! to [`ALIGNMENT`].

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::ptr::NonNull;

/// The unit in which the store writes: no block with acknowledged data is ever written again.
pub const ALIGNMENT: usize = 4096;

/// `bytes` rounded up to whole blocks.
#[must_use]
pub const fn align_up(bytes: usize) -> usize {
    bytes.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// As [`align_up`], for offsets.
#[must_use]
pub const fn align_up_u64(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGNMENT as u64) * ALIGNMENT as u64
}

/// An aligned run of bytes that belongs to whoever holds it; handed to the device and given back.
pub struct Buffer {
    start: NonNull<u8>,
    capacity: usize,
    allocated: usize,
    filled: usize,
}

impl Buffer {
    /// An empty buffer that holds at least `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Buffer {
        let capacity = align_up(bytes.max(1));
        let layout = Buffer::layout(capacity);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Buffer { start, capacity, allocated: capacity, filled: 0 }
    }

    /// A buffer of `bytes` zeroes, all of them filled.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Buffer {
        let mut buffer = Buffer::with_capacity(bytes);
        buffer.filled = bytes;
        buffer
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT).expect("a capacity in the address space")
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Sets how many bytes count as filled; those beyond what was written are old, but initialised.
    pub fn set_len(&mut self, bytes: usize) {
        assert!(bytes <= self.capacity, "a buffer of {} set to {bytes}", self.capacity);
        self.filled = bytes;
    }

    /// Appends; grows when it must (only records beyond the batch's usual bound make it).
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let start = self.filled;
        self.filled += bytes.len();
        self.as_mut_slice()[start..].copy_from_slice(bytes);
    }

    /// Appends zeroes.
    pub fn pad(&mut self, bytes: usize) {
        self.reserve(bytes);
        let start = self.filled;
        self.filled += bytes;
        self.as_mut_slice()[start..].fill(0);
    }

    fn reserve(&mut self, more: usize) {
        let wanted = self.filled + more;
        if wanted <= self.capacity {
            return;
        }
        let mut larger = Buffer::with_capacity(wanted.max(self.capacity * 2));
        larger.filled = self.filled;
        larger.as_mut_slice().copy_from_slice(self.as_slice());
        *self = larger;
    }

    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `filled <= capacity`, and all of it is initialised and ours.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.filled) }
    }

    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.filled) }
    }

    /// Where the kernel reads or writes. The buffer must stay alive until the operation is over.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `with_capacity` with the same layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), Buffer::layout(self.allocated)) }
    }
}

/// The largest window; buffers of this size are kept for the next one.
pub const WINDOW_BYTES_MAX: usize = 264 << 10;

/// As many as that are kept by a thread.
const IDLE_WINDOWS_MAX: usize = 8;

thread_local! {
    static IDLE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// A buffer to read into that many others follow: zeroing a new one each time took as long as a
/// tenth of listing a mailbox. When it is dropped, the thread keeps it.
#[derive(Debug)]
pub struct Window(Option<Buffer>);

impl Window {
    /// An empty buffer for `bytes`, at most [`WINDOW_BYTES_MAX`], to be made a window
    /// when it is filled.
    #[must_use]
    pub fn buffer(bytes: usize) -> Buffer {
        let capacity = align_up(bytes.max(1));
        assert!(capacity <= WINDOW_BYTES_MAX, "a window of {bytes} bytes");
        let idle = IDLE.with_borrow_mut(Vec::pop);
        let mut buffer = idle.unwrap_or_else(|| Buffer::with_capacity(WINDOW_BYTES_MAX));
        (buffer.capacity, buffer.filled) = (capacity, 0);
        buffer
    }
}

impl From<Buffer> for Window {
    fn from(buffer: Buffer) -> Window {
        Window(Some(buffer))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Some(buffer) = self.0.take().filter(|buffer| buffer.allocated == WINDOW_BYTES_MAX)
        else {
            return;
        };
        // A thread that ends keeps nothing.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < IDLE_WINDOWS_MAX {
                idle.push(buffer);
            }
        });
    }
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], Buffer::as_slice)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

// SAFETY: a buffer owns its memory alone, as a `Vec<u8>` does; `Bytes::from_owner` wants it.
unsafe impl Send for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.filled, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_keeps_its_bytes_when_it_grows() {
        let mut buffer = Buffer::with_capacity(10);
        for round in 0..5000_u32 {
            buffer.extend(&round.to_le_bytes());
        }
        assert_eq!(buffer.as_mut_ptr() as usize % ALIGNMENT, 0);
        assert_eq!(buffer.len(), 20_000);
        assert_eq!(buffer.as_slice()[4..8], 1_u32.to_le_bytes());
        assert_eq!(buffer.as_slice()[19_996..], 4999_u32.to_le_bytes());
    }

    #[test]
    fn a_window_is_used_again_and_never_shows_more_than_was_read() {
        let mut first = Window::buffer(200_000);
        first.extend(&[7; 200_000]);
        let place = first.as_mut_ptr();
        drop(Window::from(first));
        let mut second = Window::buffer(100);
        assert_eq!(second.as_mut_ptr(), place, "another buffer");
        assert_eq!((second.capacity(), second.len()), (ALIGNMENT, 0));
        second.extend(b"new");
        assert_eq!(Window::from(second).as_ref(), b"new");
    }
}
