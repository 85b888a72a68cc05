//! What the store has of collecting: a key space of the account's home shard, by the account's
//! number (four bytes, the highest first) and a source's (the same; never given to another one).
//!
//! | key | value |
//! |---|---|
//! | account, `n` | the number of the next source (four bytes, the highest first) |
//! | account, `s`, source | [`Source`], JSON: with the password |
//! | account, `t`, source | [`Standing`], JSON |
//! | account, `b`, source, folder | what was collected of that folder, as of the last fold: version 1, UIDVALIDITY (four bytes), then for each message its identifier (16 bytes) and an entry |
//! | account, `l`, source, folder, identifier | the entry of a message that has come since, written in the message's own record |
//!
//! *Folder* is eight bytes of the SHA-256 of its name there, all zeroes over POP3. The *identifier*
//! is the same of what UIDL says, 16 bytes; over IMAP eight zeroes, UIDVALIDITY, UID. An *entry* is
//! when it was collected (0: it was passed over), its listed octets (0: unknown), eight bytes of
//! the SHA-256 of its content (zeroes: it was never read), since when it is not there any more or
//! is to be deleted (0: it is there): 4, 4, 8 and 4 bytes, numbers with the highest byte first,
//! times in seconds since 1970.

use super::ledger::{Ledger, Pair, Place};
use super::schedule::Standing;
use super::source::Source;
use crate::operations::unix_now;
use crate::shard::Shard;
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use storage::device::Device;
use storage::store::Space;
use storage::{AccountId, Error, Store};

/// The number is part of the store's format.
pub const SPACE: Space = Space(10);

/// One source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub account: AccountId,
    pub number: u32,
}

fn key(account: AccountId, kind: u8, number: u32) -> Bytes {
    [&account.0.to_be_bytes()[..], &[kind], &number.to_be_bytes()].concat().into()
}

fn next_key(account: AccountId) -> Bytes {
    [&account.0.to_be_bytes()[..], b"n"].concat().into()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

fn json<T: Serialize>(value: &T) -> Option<Bytes> {
    Some(Bytes::from(serde_json::to_vec(value).expect("string keys only")))
}

impl Key {
    /// Where a folder's ledger lies; over POP3 its name is empty.
    pub fn place(self, folder: &[u8]) -> Place {
        let name: [u8; 8] = match folder {
            [] => [0; 8],
            name => std::array::from_fn(|at| Sha256::digest(name)[at]),
        };
        let of = |kind| Bytes::from([&key(self.account, kind, self.number)[..], &name].concat());
        Place { base: of(b'b'), loose: of(b'l') }
    }
}

/// `None`: what is there can't be read.
pub fn ledger<D: Device>(store: &Store<D>, place: Place) -> Option<Ledger> {
    let base = store.get(SPACE, &place.base);
    let loose = store.scan_prefix(SPACE, &place.loose);
    Ledger::read(place, base.as_deref(), &loose)
}

/// What is known of a source is of another mailbox, perhaps: everything there is read again, and
/// known by its content.
pub async fn doubt(shard: &Shard, key: Key) -> Result<(), Error> {
    let of = |kind| self::key(key.account, kind, key.number);
    let mut folders = std::collections::BTreeSet::new();
    for prefix in [of(b'b'), of(b'l')] {
        let found = shard.store.scan_prefix(SPACE, &prefix);
        let name =
            |(key, _): &(Bytes, Bytes)| Some(key.get(prefix.len()..prefix.len() + 8)?.to_vec());
        folders.extend(found.iter().filter_map(name));
    }
    for name in folders {
        let place = |kind| Bytes::from([&of(kind)[..], &name].concat());
        let place = Place { base: place(b'b'), loose: place(b'l') };
        let Some(mut ledger) = ledger(&shard.store, place) else { continue };
        ledger.doubt(u32::try_from(unix_now()).unwrap_or(u32::MAX));
        fold(&shard.store, &mut ledger).await?;
    }
    Ok(())
}

/// Brings the store up to date with a ledger.
pub async fn fold<D: Device>(store: &Store<D>, ledger: &mut Ledger) -> Result<(), Error> {
    let pairs: Vec<Pair> = ledger.fold();
    if !pairs.is_empty() {
        let _durable = store.put(SPACE, pairs).await?;
        ledger.folded();
    }
    Ok(())
}

/// All sources of this shard; what can't be read is left out and logged.
pub fn all(shard: &Shard) -> Vec<(Key, Source)> {
    let accounts: std::collections::BTreeSet<AccountId> = {
        let directory = shard.directory.borrow();
        let here = directory.accounts().filter(|(_, account)| account.shard == shard.id);
        here.map(|(_, account)| account.id()).collect()
    };
    accounts.into_iter().flat_map(|account| of(shard, account)).collect()
}

/// One account's, in the order in which they were added.
pub fn of(shard: &Shard, account: AccountId) -> Vec<(Key, Source)> {
    let prefix: Bytes = [&account.0.to_be_bytes()[..], b"s"].concat().into();
    let read = |(key, value): (Bytes, Bytes)| {
        let number = number(key.get(prefix.len()..)?)?;
        match serde_json::from_slice(&value) {
            Ok(source) => Some((Key { account, number }, source)),
            Err(error) => {
                // Of what stands there nothing is told: it holds a password.
                let (line, column) = (error.line(), error.column());
                tracing::error!(
                    account = account.0,
                    number,
                    line,
                    column,
                    "a source of mail can't be read"
                );
                None
            }
        }
    };
    shard.store.scan_prefix(SPACE, &prefix).into_iter().filter_map(read).collect()
}

pub fn source(shard: &Shard, key: Key) -> Option<Source> {
    let value = shard.store.get(SPACE, &self::key(key.account, b's', key.number))?;
    serde_json::from_slice(&value).ok()
}

pub fn standing(shard: &Shard, key: Key) -> Standing {
    shard.collecting.standing(key).unwrap_or_else(|| written_standing(shard, key))
}

/// As the store has it, which may be of a while ago.
pub fn written_standing(shard: &Shard, key: Key) -> Standing {
    let value = shard.store.get(SPACE, &self::key(key.account, b't', key.number));
    value.and_then(|value| serde_json::from_slice(&value).ok()).unwrap_or_default()
}

pub async fn put_standing(shard: &Shard, key: Key, standing: &Standing) -> Result<(), Error> {
    let pair = (self::key(key.account, b't', key.number), json(standing));
    let _durable = shard.store.put(SPACE, vec![pair]).await?;
    Ok(())
}

/// A new source, under a number that no other has had.
pub async fn add(shard: &Shard, account: AccountId, source: &Source) -> Result<Key, Error> {
    let next = shard.store.get(SPACE, &next_key(account));
    let number = next.as_deref().and_then(number).unwrap_or(1);
    let after = Bytes::copy_from_slice(&(number + 1).to_be_bytes());
    let pairs = vec![(next_key(account), Some(after)), (key(account, b's', number), json(source))];
    let _durable = shard.store.put(SPACE, pairs).await?;
    Ok(Key { account, number })
}

/// A source is another one from now on, and how it stands has to be found out.
pub async fn put_source(shard: &Shard, key: Key, source: &Source) -> Result<(), Error> {
    let before = standing(shard, key);
    let fresh =
        Standing { collected: before.collected, deleted: before.deleted, ..Standing::default() };
    let of = |kind| self::key(key.account, kind, key.number);
    let pairs = vec![(of(b's'), json(source)), (of(b't'), json(&fresh))];
    let _durable = shard.store.put(SPACE, pairs).await?;
    Ok(())
}

/// A source goes, with what is known of it.
pub async fn remove(shard: &Shard, key: Key) -> Result<(), Error> {
    let keys = [b's', b't', b'b', b'l'];
    let prefixes = keys.map(|kind| self::key(key.account, kind, key.number));
    forget(shard, &prefixes).await
}

/// Everything of an account that goes.
pub async fn remove_all(shard: &Shard, account: AccountId) -> Result<(), Error> {
    forget(shard, &[Bytes::copy_from_slice(&account.0.to_be_bytes())]).await
}

async fn forget(shard: &Shard, prefixes: &[Bytes]) -> Result<(), Error> {
    let found = prefixes.iter().flat_map(|prefix| shard.store.scan_prefix(SPACE, prefix));
    let gone: Vec<Pair> = found.map(|(key, _)| (key, None)).collect();
    if !gone.is_empty() {
        let _durable = shard.store.put(SPACE, gone).await?;
    }
    Ok(())
}
