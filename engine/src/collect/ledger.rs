//! What has been collected from one maildrop or folder, and what follows for the messages that are
//! there now. Without sockets, clock or disk: the crash simulator runs the same code.
//!
//! A message is known by its identifier: what UIDL says, or UIDVALIDITY and UID. It becomes
//! known in the record that files it, so no crash comes between the two. Servers are not
//! taken at their word:
//!
//! | what is listed | what is done |
//! |---|---|
//! | an identifier that is not known | it is read and filed; unless its content is known: the server has changed its identifiers |
//! | a known one, as before | nothing, or it is deleted when its time has come |
//! | a known one that was not listed for a while, or should be deleted, or is of another size | it is read: the same content is the same message, another one was given an identifier that was used before |
//! | one identifier for several messages | they are read, and known by their content |
//! | more octets than the limit | it is passed over, and told once |
//!
//! Two messages of the same octets, trace fields and all, are one. What is not listed any more is
//! remembered for [`GONE_SECONDS`], since servers lose sight of messages and find them again.
//!
//! In the store: one value with everything (`base`), and a key for each message that has come since
//! (`loose`), which a later [`Ledger::fold`] takes into it.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

/// Of a message within its maildrop or folder.
pub type Id = [u8; 16];
/// Of a message's octets; what an attacker could make collide, and would gain nothing by.
pub type Hash = [u8; 8];
/// As [`Ledger::fold`] and [`Ledger::arrived`] give them to the store.
pub type Pair = (Bytes, Option<Bytes>);

/// Messages that are remembered of one maildrop or folder; their value stays below
/// the largest record.
pub const ENTRIES_MAX: usize = 100_000;
/// Messages that a maildrop or folder may hold, or it is not looked into.
pub const LISTED_MAX: usize = 90_000;
const GONE_SECONDS: u32 = 30 * 86_400;
/// So many loose keys, and they are folded in.
const LOOSE_MAX: usize = 64;
const VERSION: u8 = 1;
const ENTRY_BYTES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Seconds since 1970. 0: it was passed over; too large if it was never read, refused by
    /// the scan otherwise.
    collected: u32,
    /// As listed; 0: unknown.
    octets: u32,
    /// All zeroes: it was never read.
    hash: Hash,
    /// Since when it is not listed any more, or is to be deleted there: should it be listed again,
    /// it is read again. 0: it is there.
    gone: u32,
}

/// What is left on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Forever,
    Not,
    /// Seconds, from when it was collected.
    For(u32),
}

#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub leave: Leave,
    pub octets_max: u64,
}

impl Policy {
    fn is_due(&self, collected: u32, now: u32) -> bool {
        match self.leave {
            Leave::Forever => false,
            Leave::Not => true,
            Leave::For(seconds) => now.saturating_sub(collected) >= seconds,
        }
    }
}

/// A message as the server lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub id: Id,
    /// POP3's number, IMAP's UID.
    pub handle: u32,
    /// Which need not be true.
    pub octets: Option<u64>,
    /// Others have the same identifier.
    pub repeated: bool,
}

/// What is to be done with what is listed.
#[derive(Debug, Default)]
pub struct Work {
    pub retrieve: VecDeque<Listed>,
    pub delete: VecDeque<Listed>,
    /// Passed over for their size, for the first time.
    pub too_large: usize,
    /// Several messages share an identifier.
    pub repeated: usize,
}

/// What a message is, now that it has been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is filed together with this pair, and then noted by [`Ledger::filed`].
    New(Filing),
    /// It was filed before.
    Known,
    /// It was refused before.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filing {
    id: Id,
    entry: Entry,
    /// What had the identifier before; its content is remembered.
    displaced: Option<(Id, Entry)>,
    /// What is set in the record that files it.
    pub pairs: Vec<Pair>,
}

/// Where it lies in the store.
#[derive(Debug, Clone)]
pub struct Place {
    pub base: Bytes,
    pub loose: Bytes,
}

#[derive(Debug)]
pub struct Ledger {
    place: Place,
    /// UIDVALIDITY, for whoever wants to know whether it has changed.
    epoch: u32,
    entries: BTreeMap<Id, Entry>,
    loose: BTreeSet<Id>,
    by_content: HashMap<Hash, Id>,
    changed: bool,
}

impl Ledger {
    /// From what the store has: the base, and all pairs whose keys begin with [`Place::loose`].
    pub fn read(place: Place, base: Option<&[u8]>, loose: &[(Bytes, Bytes)]) -> Option<Ledger> {
        let (mut entries, mut epoch) = (BTreeMap::new(), 0);
        if let Some(base) = base {
            let (head, rest) = base.split_at_checked(5)?;
            if head[0] != VERSION || rest.len() % (16 + ENTRY_BYTES) != 0 {
                return None;
            }
            epoch = u32::from_be_bytes(head[1..].try_into().ok()?);
            for one in rest.chunks_exact(16 + ENTRY_BYTES) {
                entries.insert(one[..16].try_into().ok()?, Entry::decode(&one[16..])?);
            }
        }
        let mut set = BTreeSet::new();
        for (key, value) in loose {
            let id: Id = key.get(place.loose.len()..)?.try_into().ok()?;
            entries.insert(id, Entry::decode(value)?);
            set.insert(id);
        }
        let mut ledger = Ledger {
            place,
            epoch,
            entries: BTreeMap::new(),
            loose: set,
            by_content: HashMap::new(),
            changed: false,
        };
        entries.into_iter().for_each(|(id, entry)| ledger.insert(id, entry));
        Some(ledger)
    }

    fn insert(&mut self, id: Id, entry: Entry) {
        if entry.is_read() {
            self.by_content.insert(entry.hash, id);
        }
        self.entries.insert(id, entry);
    }

    pub fn is_known(&self, id: &Id) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.gone == 0)
    }

    /// None of the identifiers means anything any more.
    pub fn doubt(&mut self, now: u32) {
        for entry in self.entries.values_mut().filter(|entry| entry.gone == 0) {
            entry.gone = now.max(1);
        }
        self.changed = true;
    }

    /// Whether nothing was ever noted.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    pub fn set_epoch(&mut self, epoch: u32) {
        self.changed |= self.epoch != epoch;
        self.epoch = epoch;
    }

    /// All that is there, and what is to be done with it.
    pub fn sort(&mut self, listed: Vec<Listed>, policy: &Policy, now: u32) -> Work {
        self.note_gone(&listed, now);
        let mut work = Work::default();
        for one in listed {
            if one.repeated {
                work.repeated += 1;
                if one.octets.is_none_or(|octets| octets <= policy.octets_max) {
                    work.retrieve.push_back(one);
                }
                continue;
            }
            let octets = clamp(one.octets);
            let known = self.entries.get(&one.id).filter(|_| octets == 0);
            let size = known.map_or(octets, |entry| entry.octets);
            let fits = u64::from(size) <= policy.octets_max;
            match self.entries.get(&one.id) {
                Some(entry) if entry.is_as_before(octets) && entry.gone == 0 => {
                    if entry.collected != 0 {
                        if policy.is_due(entry.collected, now) {
                            work.delete.push_back(one);
                        }
                    } else if entry.is_unread() && fits {
                        // The limit was raised.
                        work.retrieve.push_back(one);
                    }
                }
                Some(_) | None if fits => work.retrieve.push_back(one),
                Some(entry) if entry.gone == 0 && entry.collected != 0 => {
                    // Of another size than it was, and too large to find out why.
                }
                Some(_) | None => {
                    let entry = Entry { collected: 0, octets, hash: [0; 8], gone: 0 };
                    self.insert(one.id, entry);
                    self.changed = true;
                    work.too_large += 1;
                }
            }
        }
        // What has never been seen goes before what is read once more, or that would take
        // all of each visit.
        let is_known = |one: &Listed| one.repeated || self.entries.contains_key(&one.id);
        work.retrieve.make_contiguous().sort_by_key(is_known);
        work
    }

    fn note_gone(&mut self, listed: &[Listed], now: u32) {
        let there: HashSet<&Id> =
            listed.iter().filter(|one| !one.repeated).map(|one| &one.id).collect();
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| entry.gone == 0 || now.saturating_sub(entry.gone) < GONE_SECONDS);
        self.changed |= self.entries.len() != before;
        for (id, entry) in &mut self.entries {
            if entry.gone == 0 && !there.contains(id) {
                entry.gone = now.max(1);
                self.changed = true;
            }
        }
    }

    /// All octets of a listed message have come. `stays`: it is not deleted there now.
    pub fn arrived(&mut self, listed: &Listed, hash: Hash, stays: bool, now: u32) -> Arrival {
        let id = if listed.repeated { content_id(&hash) } else { listed.id };
        let octets = clamp(listed.octets);
        let gone = if stays { 0 } else { now.max(1) };
        let before = self.entries.get(&id).copied().filter(|entry| entry.is_read());
        let displaced = before.filter(|entry| entry.hash != hash);
        let displaced =
            displaced.map(|entry| (content_id(&entry.hash), Entry { gone: now.max(1), ..entry }));
        let other = || self.by_content.get(&hash).copied();
        let known = before.filter(|entry| entry.hash == hash).map(|_| id).or_else(other);
        if let Some((old, known)) = known.and_then(|old| Some((old, *self.entries.get(&old)?))) {
            if old != id && known.gone != 0 {
                self.entries.remove(&old);
            }
            displaced.into_iter().for_each(|(id, entry)| self.insert(id, entry));
            self.insert(id, Entry { octets, gone, ..known });
            self.changed = true;
            return if known.collected == 0 { Arrival::Refused } else { Arrival::Known };
        }
        let entry = Entry { collected: now.max(1), octets, hash, gone };
        let all = std::iter::once((id, entry)).chain(displaced);
        let pair =
            |(id, entry): (Id, Entry)| (self.loose_key(&id), Some(Bytes::from(entry.encode())));
        Arrival::New(Filing { id, entry, displaced, pairs: all.map(pair).collect() })
    }

    fn loose_key(&self, id: &Id) -> Bytes {
        Bytes::from([&self.place.loose[..], id].concat())
    }

    /// It is durable here.
    pub fn filed(&mut self, filing: &Filing) {
        for (id, entry) in filing.displaced.into_iter().chain([(filing.id, filing.entry)]) {
            self.insert(id, entry);
            self.loose.insert(id);
        }
    }

    /// The scan has refused it: it stays there, and is not read again.
    pub fn refused(&mut self, filing: &Filing) {
        filing.displaced.into_iter().for_each(|(id, entry)| self.insert(id, entry));
        self.insert(filing.id, Entry { collected: 0, gone: 0, ..filing.entry });
        self.changed = true;
    }

    /// More octets came than the limit lets pass, whatever was listed.
    pub fn was_too_large(&mut self, listed: &Listed) {
        if !listed.repeated {
            let octets = clamp(listed.octets);
            let entry = Entry { collected: 0, octets, hash: OVERSIZE, gone: 0 };
            self.insert(listed.id, entry);
            self.changed = true;
        }
    }

    /// The server has deleted it. Should it be listed again, it is another one, or
    /// deletion did not last.
    pub fn deleted(&mut self, id: &Id, now: u32) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.gone = now.max(1);
            self.changed = true;
        }
    }

    /// It can't be deleted there.
    pub fn stays(&mut self, id: &Id) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.gone = 0;
            self.changed = true;
        }
    }

    /// What brings the store up to date, in one record; nothing where that can wait.
    pub fn fold(&mut self) -> Vec<Pair> {
        if !self.changed && self.loose.len() < LOOSE_MAX {
            return Vec::new();
        }
        let mut base = Vec::with_capacity(5 + self.entries.len() * (16 + ENTRY_BYTES));
        base.push(VERSION);
        base.extend_from_slice(&self.epoch.to_be_bytes());
        for (id, entry) in &self.entries {
            base.extend_from_slice(id);
            base.extend_from_slice(&entry.encode());
        }
        let mut pairs = vec![(self.place.base.clone(), Some(Bytes::from(base)))];
        pairs.extend(self.loose.iter().map(|id| (self.loose_key(id), None)));
        pairs
    }

    /// What [`Ledger::fold`] gave is durable.
    pub fn folded(&mut self) {
        self.loose.clear();
        self.changed = false;
    }

    /// Whether there is room for more.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= ENTRIES_MAX
    }
}

/// In the place of a hash, for what was too large to be read to its end.
const OVERSIZE: Hash = *b"oversize";

impl Entry {
    fn is_unread(&self) -> bool {
        self.hash == [0; 8]
    }

    /// Its content is known.
    fn is_read(&self) -> bool {
        !self.is_unread() && self.hash != OVERSIZE
    }

    fn is_as_before(&self, octets: u32) -> bool {
        self.octets == octets || self.octets == 0 || octets == 0
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.collected.to_be_bytes(), self.octets.to_be_bytes()].concat();
        [&numbers[..], &self.hash, &self.gone.to_be_bytes()].concat()
    }

    fn decode(value: &[u8]) -> Option<Entry> {
        let number = |at: usize| Some(u32::from_be_bytes(value.get(at..at + 4)?.try_into().ok()?));
        let hash = value.get(8..16)?.try_into().ok()?;
        let whole = value.len() == ENTRY_BYTES;
        whole.then_some(())?;
        Some(Entry { collected: number(0)?, octets: number(4)?, hash, gone: number(16)? })
    }
}

fn clamp(octets: Option<u64>) -> u32 {
    octets.map_or(0, |octets| u32::try_from(octets).unwrap_or(u32::MAX))
}

/// Of what UIDL says.
pub fn uidl_id(unique: &str) -> Id {
    head(Sha256::digest(unique.as_bytes()).as_slice())
}

pub fn uid_id(uid_validity: u32, uid: u32) -> Id {
    let mut id = [0; 16];
    id[8..12].copy_from_slice(&uid_validity.to_be_bytes());
    id[12..].copy_from_slice(&uid.to_be_bytes());
    id
}

fn content_id(hash: &Hash) -> Id {
    head(Sha256::digest([&b"content "[..], hash].concat()).as_slice())
}

/// Of a message that streams by.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    pub fn push(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub fn finish(self) -> Hash {
        head(self.0.finalize().as_slice())
    }
}

fn head<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut head = [0; N];
    head.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
    head
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
