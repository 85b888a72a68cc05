//! Open files of the simulated disk, and how many there may be: of descriptors a process has only
//! so many.

use super::Sim;
use super::disk::Content;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

const EMFILE: i32 = 24;

/// A handle to an open file; it works on after the file's name is gone. All clones are one open
/// file.
#[derive(Clone)]
pub struct FileHandle {
    pub(super) content: Rc<RefCell<Content>>,
    name: Rc<str>,
    _place: Rc<Place>,
}

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileHandle({})", self.name)
    }
}

/// The files that are open.
pub(super) struct Handles {
    open: Rc<Cell<usize>>,
    /// So many at once since somebody asked.
    most: Cell<usize>,
    /// There may be.
    max: Cell<usize>,
}

impl Default for Handles {
    fn default() -> Self {
        Handles { open: Rc::default(), most: Cell::new(0), max: Cell::new(usize::MAX) }
    }
}

impl Handles {
    pub(super) fn open(
        &self,
        name: &str,
        content: &Rc<RefCell<Content>>,
    ) -> io::Result<FileHandle> {
        if self.open.get() >= self.max.get() {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.open.set(self.open.get() + 1);
        self.most.set(self.most.get().max(self.open.get()));
        let place = Rc::new(Place(Rc::clone(&self.open)));
        Ok(FileHandle { content: Rc::clone(content), name: name.into(), _place: place })
    }
}

/// An open file's place among them.
struct Place(Rc<Cell<usize>>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Sim {
    /// Opening a file fails with `EMFILE` while so many are open.
    pub fn set_open_files_max(&self, files: usize) {
        self.disk.borrow().handles.max.set(files);
    }

    /// How many were open at once at the most, since this was asked before.
    #[must_use]
    pub fn open_files_most(&self) -> usize {
        let disk = self.disk.borrow();
        disk.handles.most.replace(disk.handles.open.get())
    }
}
