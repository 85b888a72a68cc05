//! Files of the log that are not under their names any more: removed, moved away, or another file put in their places, by
//! somebody who is not the store. What is open is read as before, so nobody would notice before the next start, which is refused.
//!
//! Whoever has the store open asks from time to time. A file that has lost its name stays open from then on, as the last way to its
//! bytes, and nothing more is written into it; a spare has none, and is let go.

use super::Store;
use crate::device::Device;
use crate::error::Error;
use crate::format::SegmentId;
use crate::log::segments::{Segments, file_name};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// A segment whose file has lost its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    pub segment: SegmentId,
    /// Its name.
    pub file: String,
    /// The store still has it open: nothing is lost before it is closed.
    pub is_open: bool,
}

impl<D: Device> Store<D> {
    /// Looks now. By file name. Where the whole directory is not what it was, the store halts ([`Store::is_displaced`]).
    pub async fn look_for_unlinked(&self) -> Result<Vec<Unlinked>, Error> {
        if let Err(error) = self.core.check_place().await
            && !self.is_displaced()
        {
            return Err(self.unseen(&error));
        }
        // Files come and go while the directory is read: what two looks agree on is so.
        let mut found = self.look_once().await?;
        if !found.is_empty() {
            let again = self.look_once().await?;
            found.retain(|number, _| again.contains_key(number));
        }
        let mut segments = self.core.segments.borrow_mut();
        let spares = segments.spares.len();
        segments.spares.retain(|spare| !found.contains_key(&spare.number));
        if segments.spares.len() < spares {
            self.core.spares.ring();
        }
        found.retain(|_, unlinked| unlinked.is_some());
        segments.unlinked = found.keys().copied().collect();
        segments.leave_unlinked();
        Ok(found.into_values().flatten().collect())
    }

    fn unseen(&self, error: &io::Error) -> Error {
        Error::Read { what: error.to_string(), place: self.core.device.place() }
    }

    /// By number; nothing for a spare.
    async fn look_once(&self) -> Result<BTreeMap<u32, Option<Unlinked>>, Error> {
        let before = numbered(&self.core.segments.borrow());
        let listed = match self.core.device.list().await {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(self.unseen(&error)),
        };
        let ids: HashMap<String, u64> = listed.into_iter().map(|one| (one.name, one.id)).collect();
        let device = &self.core.device;
        let is_unlinked = |number: u32, file: Option<&D::File>| {
            let open = file.and_then(|file| device.file_id(file).ok());
            let there = ids.get(&file_name(number));
            there.is_none_or(|there| open.is_some_and(|open| open != *there))
        };
        let segments = self.core.segments.borrow();
        let mut found = BTreeMap::new();
        for (segment, one) in &segments.files {
            let (number, is_open) = (one.number, one.file.is_some());
            if before.contains(&number) && is_unlinked(number, one.file.as_ref()) {
                let file = file_name(number);
                found.insert(number, Some(Unlinked { segment: *segment, file, is_open }));
            }
        }
        for spare in &segments.spares {
            if before.contains(&spare.number) && is_unlinked(spare.number, Some(&spare.file)) {
                found.insert(spare.number, None);
            }
        }
        Ok(found)
    }
}

/// Files that have their names by now.
fn numbered<D: Device>(segments: &Segments<D>) -> BTreeSet<u32> {
    let files = segments.files.values().map(|file| file.number);
    files.chain(segments.spares.iter().map(|spare| spare.number)).collect()
}
