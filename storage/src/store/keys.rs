//! Keys and values: the engine's directory, queue, greylist …

use super::Store;
use crate::device::Device;
use crate::durable::Durable;
use crate::error::Error;
use crate::format::{Pairs, Record};
use crate::log::queue::Hold;
use bytes::Bytes;

const KEY_BYTES_MAX: usize = 1024;
/// Of keys and values that are set in the record of a message, or of a move.
const BESIDE_BYTES_MAX: usize = 64 << 10;

/// A key space; the numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(pub u8);

impl<D: Device> Store<D> {
    #[must_use]
    pub fn get(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        self.core.index.borrow().spaces.get(space.0, key)
    }

    /// All pairs of a space, by key ascending.
    #[must_use]
    pub fn scan(&self, space: Space) -> Vec<(Bytes, Bytes)> {
        let index = self.core.index.borrow();
        index.spaces.scan(space.0).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The pairs whose keys begin with `prefix`, by key ascending.
    #[must_use]
    pub fn scan_prefix(&self, space: Space, prefix: &[u8]) -> Vec<(Bytes, Bytes)> {
        let index = self.core.index.borrow();
        let pairs = index.spaces.scan_prefix(space.0, prefix);
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// At most so many pairs, from `key` on, by key ascending: for those that look at all and
    /// give way in between.
    #[must_use]
    pub fn scan_from(&self, space: Space, key: &[u8], most: usize) -> Vec<(Bytes, Bytes)> {
        let index = self.core.index.borrow();
        let pairs = index.spaces.scan_from(space.0, key).take(most);
        pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// One record, hence atomic. `None` deletes. Concurrent puts to one key: the later call wins.
    pub async fn put(
        &self,
        space: Space,
        pairs: Vec<(Bytes, Option<Bytes>)>,
    ) -> Result<Durable, Error> {
        let pairs = checked(pairs)?;
        let record = Record::Put { space: space.0, pairs };
        let receipt = self.core.enqueue(record, Hold::default())?;
        let (lsn, _) = receipt.landed().await?;
        Ok(Durable::new(lsn))
    }
}

pub(super) fn checked(pairs: Vec<(Bytes, Option<Bytes>)>) -> Result<Pairs, Error> {
    if pairs.iter().any(|(key, _)| key.len() > KEY_BYTES_MAX) {
        return Err(Error::Limit("a key has at most 1 KiB"));
    }
    let owned = |(key, value): (Bytes, Option<Bytes>)| (Vec::from(key), value.map(Vec::from));
    Ok(pairs.into_iter().map(owned).collect())
}

/// The same for pairs that go into a record beside something else.
pub(super) fn checked_beside(pairs: Vec<(Bytes, Option<Bytes>)>) -> Result<Pairs, Error> {
    let pairs = checked(pairs)?;
    let bytes =
        |(key, value): &(Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
    if pairs.iter().map(bytes).sum::<usize>() > BESIDE_BYTES_MAX {
        return Err(Error::Limit("keys that are set with messages have at most 64 KiB"));
    }
    Ok(pairs)
}
