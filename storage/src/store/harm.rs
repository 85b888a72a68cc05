//! Files of the log that are not what they were: removed, moved away, another file put in their
//! places, or cut, by somebody who is not the store. What is open is read as before, so nobody
//! would notice before the next start, which is refused.
//!
//! Whoever has the store open asks from time to time. Such a file stays open from then on, if
//! it was, as the last way to its bytes, and nothing more gets a place in it; a spare is let go.
//! What was cut off is gone, but not what the index knows of it: a checkpoint behind the file, for
//! which the log goes on in another one, lets the next start do without.

use super::Store;
use crate::device::{Device, Listed};
use crate::error::Error;
use crate::format::{Record, SegmentId};
use crate::log::queue::Hold;
use crate::log::segments::{Segments, file_name, is_ours};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// A segment whose file has lost its name, be it that another one has got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlinked {
    pub segment: SegmentId,
    /// Its name.
    pub file: String,
    /// The store still has it open: nothing is lost before it is closed.
    pub is_open: bool,
}

/// A segment whose file has become shorter since the store was opened: what was behind is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub segment: SegmentId,
    /// Its name.
    pub file: String,
    /// What there is of it, and what there was.
    pub bytes: u64,
    pub bytes_before: u64,
}

/// What was done to the files, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Harmed {
    pub unlinked: Vec<Unlinked>,
    pub cut: Vec<Cut>,
}

/// What was done to one of them.
enum Harm {
    Unlinked(Unlinked),
    Cut(Cut),
    /// Any of it, to a spare.
    OfSpare,
}

impl<D: Device> Store<D> {
    /// Looks now. Where the whole directory is not what it was, the store halts
    /// ([`Store::is_displaced`]).
    pub async fn look_for_harm(&self) -> Result<Harmed, Error> {
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
        let (mut harmed, mut left) = (Harmed::default(), BTreeSet::new());
        let mut spares = BTreeSet::new();
        for (number, harm) in found {
            match harm {
                Harm::Unlinked(unlinked) => harmed.unlinked.push(unlinked),
                Harm::Cut(cut) => harmed.cut.push(cut),
                Harm::OfSpare => {
                    spares.insert(number);
                    continue;
                }
            }
            left.insert(number);
        }
        self.leave(left, &spares);
        self.go_on_behind(&harmed.cut).await;
        Ok(harmed)
    }

    /// Nothing more is written into these.
    fn leave(&self, files: BTreeSet<u32>, spares: &BTreeSet<u32>) {
        let mut segments = self.core.segments.borrow_mut();
        let there = segments.spares.len();
        segments.spares.retain(|spare| !spares.contains(&spare.number));
        if segments.spares.len() < there {
            self.core.spares.ring();
        }
        segments.left = files;
        segments.leave();
    }

    /// Has a checkpoint written that lies behind all of them, for which something has to be logged
    /// in a later segment: a record that changes nothing. Where it can't be now, the next look
    /// tries it.
    async fn go_on_behind(&self, cut: &[Cut]) {
        let of_log = cut.iter().map(|cut| cut.segment).filter(|segment| !segment.is_cold());
        let Some(last) = of_log.max() else { return };
        let core = &self.core;
        let [newest, _] = core.named.get();
        if newest.segment > last {
            return;
        }
        // Wherever the log is: a store in which nothing was logged since its opening told of damage
        // writes no checkpoint.
        let nothing = Record::Put { space: 0, pairs: Vec::new() };
        let Ok(receipt) = core.enqueue(nothing, Hold::default()) else { return };
        if receipt.landed().await.is_err() {
            return;
        }
        core.wants_checkpoint.set(true);
        core.upkeep.ring();
    }

    fn unseen(&self, error: &io::Error) -> Error {
        Error::Read { what: error.to_string(), place: self.core.device.place() }
    }

    /// By number.
    async fn look_once(&self) -> Result<BTreeMap<u32, Harm>, Error> {
        let before = numbered(&self.core.segments.borrow());
        let listed = match self.core.device.list().await {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(self.unseen(&error)),
        };
        let there: HashMap<String, Listed> =
            listed.into_iter().map(|one| (one.name.clone(), one)).collect();
        self.take_copies(&there).await;
        let is_displaced = self.is_displaced();
        // What has the name, if that is the file. In another directory only one that is
        // open can be told.
        let named = |number: u32, is_open: bool, id: u64| {
            let there = there.get(&file_name(number));
            there.filter(|there| (is_open || !is_displaced) && there.id == id)
        };
        let segments = self.core.segments.borrow();
        let mut found = BTreeMap::new();
        for (segment, one) in &segments.files {
            let (segment, number) = (*segment, one.number);
            if !before.contains(&number) {
                continue;
            }
            let file = file_name(number);
            let bytes_before = one.file_bytes;
            let harm = match named(number, one.file.is_some(), one.file_id) {
                None => Harm::Unlinked(Unlinked { segment, file, is_open: one.file.is_some() }),
                Some(there) if there.bytes < bytes_before => {
                    Harm::Cut(Cut { segment, file, bytes: there.bytes, bytes_before })
                }
                Some(_) => continue,
            };
            found.insert(number, harm);
        }
        for spare in &segments.spares {
            let id = self.core.device.file_id(&spare.file).unwrap_or_default();
            let there = named(spare.number, true, id);
            let is_whole = there.is_some_and(|there| there.bytes >= spare.segment_bytes);
            if before.contains(&spare.number) && !is_whole {
                found.insert(spare.number, Harm::OfSpare);
            }
        }
        Ok(found)
    }

    /// What is not open is read from its copy, where somebody has put that back.
    async fn take_copies(&self, there: &HashMap<String, Listed>) {
        let core = &self.core;
        if self.is_displaced() {
            return;
        }
        let others: Vec<(SegmentId, String, u64)> = {
            let segments = core.segments.borrow();
            let closed = segments.files.iter().filter(|(_, one)| one.file.is_none());
            closed
                .filter_map(|(id, one)| Some((*id, there.get(&file_name(one.number))?, one)))
                .filter(|(_, there, one)| there.id != one.file_id)
                .map(|(id, there, _)| (id, there.name.clone(), there.id))
                .collect()
        };
        for (segment, name, listed) in others {
            let Ok(file) = core.device.open(&name).await else { continue };
            let is_listed = core.device.file_id(&file).is_ok_and(|id| id == listed);
            if !is_listed || !is_ours(core, segment, &file).await.unwrap_or(false) {
                continue;
            }
            let mut segments = core.segments.borrow_mut();
            if let Some(one) = segments.files.get_mut(&segment).filter(|one| one.file.is_none()) {
                one.file_id = listed;
            }
        }
    }
}

/// Files that have their names by now.
fn numbered<D: Device>(segments: &Segments<D>) -> BTreeSet<u32> {
    let files = segments.files.values().map(|file| file.number);
    files.chain(segments.spares.iter().map(|spare| spare.number)).collect()
}
