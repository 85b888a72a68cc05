//! Where a backup's bytes come from: a running server, through its control socket, or a stopped
//! store that this process opens. Either way the shard's own device reads them, and the plans are
//! held until the source is dropped.
//!
//! The conversation on the control socket: the client sends [`HELLO`], the server answers with the
//! plans; then for each [`Wanted`] line a line with the number of bytes, and the bytes, or with
//! what has rotted. It ends when the client hangs up.

use super::{Fault, store_id};
use crate::mesh::ShardHandle;
use crate::queue::removal::{STANDSTILL_MAX, Standstill};
use crate::server::Server;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use storage::format::SegmentId;
use storage::store::{BackupPlan, Unlinked, Walk};

/// Begins the conversation.
pub const HELLO: &str = "{\"operation\":\"backup\"}";

/// What a plan says, without what holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub shard: u16,
    pub lsn: u64,
    pub run: u32,
    pub salt: u64,
    pub messages: u64,
    pub live_bytes: u64,
    /// Places that are known to be damaged: by recovery, and by the last scrub.
    pub damage: u64,
    /// Segments that are needed and not there.
    pub missing: Vec<u32>,
    /// Files that it has, and the store's directory has no more.
    #[serde(default)]
    pub unlinked: Vec<String>,
    /// Segment, bytes of the file, and where what counts of it ends.
    pub segments: Vec<(u32, u64, u64)>,
}

/// What is asked of a planned segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub shard: u16,
    pub segment: u32,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Bytes, whole blocks.
    Bytes { from: u64, bytes: u64 },
    /// The places, as far as `end`, that don't verify.
    Rot { end: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    Done(T),
    Failed(Fault),
}

impl<T> From<Result<T, Fault>> for Reply<T> {
    fn from(result: Result<T, Fault>) -> Reply<T> {
        result.map_or_else(Reply::Failed, Reply::Done)
    }
}

impl Plan {
    pub fn of(plan: &BackupPlan) -> Plan {
        let segments = plan.segments.iter();
        Plan {
            shard: plan.shard,
            lsn: plan.lsn.0,
            run: plan.run,
            salt: plan.salt,
            messages: plan.messages,
            live_bytes: plan.live_bytes,
            damage: plan.damage,
            missing: plan.missing.iter().map(|segment| segment.0).collect(),
            unlinked: plan.unlinked.clone(),
            segments: segments.map(|one| (one.segment.0, one.segment_bytes, one.end)).collect(),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|(.., end)| end).sum()
    }
}

pub enum Source {
    Server(BufReader<UnixStream>),
    Store(Box<Server>, Vec<BackupPlan>, Walking),
}

/// What has gone by of the segment that is being read, if it was from its first byte on: asked for
/// what has rotted in it, the shard need not read it again.
#[derive(Debug, Default)]
pub struct Walking(Option<(u16, Walk)>);

impl Source {
    pub fn store(server: Server) -> Source {
        Source::Store(Box::new(server), Vec::new(), Walking::default())
    }

    /// The plans of all shards, and whose they are.
    pub fn plans(&mut self) -> Result<(Vec<Plan>, String), Fault> {
        let plans = match self {
            Source::Server(stream) => {
                writeln!(stream.get_mut(), "{HELLO}").map_err(lost)?;
                reply(stream)?
            }
            Source::Store(server, held, _) => {
                *held = futures_lite::future::block_on(plan_all(&server.handles))?;
                held.iter().map(Plan::of).collect()
            }
        };
        let plans: Vec<Plan> = plans;
        let salt = plans.first().map(|plan| plan.salt).ok_or("the store has no shards")?;
        Ok((plans, store_id(salt)))
    }

    pub fn read(&mut self, shard: u16, segment: u32, from: u64, to: u64) -> Result<Vec<u8>, Fault> {
        let wanted = Wanted { shard, segment, what: What::Bytes { from, bytes: to - from } };
        match self {
            Source::Server(stream) => {
                let length: u64 = ask(stream, wanted)?;
                let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
                stream.read_exact(&mut bytes).map_err(lost)?;
                Ok(bytes)
            }
            Source::Store(server, plans, walking) => {
                let handle = server.handles.get(usize::from(shard)).ok_or("no such shard")?;
                let range = (from, to - from);
                futures_lite::future::block_on(walking.read(handle, plans, wanted, range, false))
            }
        }
    }

    /// Places of a segment that don't verify.
    pub fn rot(&mut self, shard: u16, segment: u32, end: u64) -> Result<Vec<String>, Fault> {
        let wanted = Wanted { shard, segment, what: What::Rot { end } };
        match self {
            Source::Server(stream) => ask(stream, wanted),
            Source::Store(server, _, walking) => {
                let handle = server.handles.get(usize::from(shard)).ok_or("no such shard")?;
                futures_lite::future::block_on(walking.rot(handle, wanted, end, false))
            }
        }
    }

    /// Ends it in order.
    pub fn end(self) {
        if let Source::Store(server, plans, _) = self {
            drop(plans);
            server.stop();
        }
    }
}

fn lost(error: std::io::Error) -> Fault {
    format!("the server broke off: {error}; start the backup again: it goes on where it was")
}

fn ask<T: for<'a> Deserialize<'a>>(
    stream: &mut BufReader<UnixStream>,
    wanted: Wanted,
) -> Result<T, Fault> {
    let line = serde_json::to_string(&wanted).map_err(|error| error.to_string())?;
    writeln!(stream.get_mut(), "{line}").map_err(lost)?;
    reply(stream)
}

fn reply<T: for<'a> Deserialize<'a>>(stream: &mut BufReader<UnixStream>) -> Result<T, Fault> {
    let mut line = String::new();
    stream.read_line(&mut line).map_err(lost)?;
    if line.is_empty() {
        return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&line).map_err(|error| format!("the server's answer: {error}"))? {
        Reply::Done(value) => Ok(value),
        Reply::Failed(fault) => Err(fault),
    }
}

/// Asks every core for its plan. Mail that moves from one to another meanwhile is in one of them:
/// see [`Standstill`].
pub async fn plan_all(handles: &[ShardHandle]) -> Result<Vec<BackupPlan>, Fault> {
    // Before they stand still: directories may be long.
    let mut unlinked = Vec::new();
    for (shard, handle) in handles.iter().enumerate() {
        let look = handle.ask(|shard| async move { crate::harm::look(&shard).await });
        unlinked.push(look.await.map_err(|error| format!("shard {shard}: {error}"))?.unlinked);
    }
    let standstill = Standstill::begin();
    for (shard, handle) in handles.iter().enumerate() {
        let known = Arc::downgrade(&standstill);
        let told = handle.ask(|shard| async move { shard.queue.stand_still(known) });
        told.await.map_err(|error| format!("shard {shard}: {error}"))?;
    }
    let mut plans = Vec::new();
    for ((shard, handle), unlinked) in handles.iter().enumerate().zip(unlinked) {
        let ask = handle.ask(|shard| async move {
            let mut plan = shard.store.backup_plan();
            plan.damage += shard.scrub.counts().bad;
            for Unlinked { segment, file, is_open } in unlinked {
                match plan.segments.iter().any(|planned| planned.segment == segment) {
                    true if is_open => plan.unlinked.push(file),
                    true => plan.missing.push(segment),
                    false => {}
                }
            }
            plan
        });
        let plan = ask.await;
        plans.push(plan.map_err(|error| format!("shard {shard}: {error}"))?);
    }
    if !standstill.is_kept() {
        let seconds = STANDSTILL_MAX.as_secs();
        return Err(format!(
            "the server is so busy that its cores did not say within {seconds} s what to back up; take the \
             backup again"
        ));
    }
    Ok(plans)
}

impl Walking {
    /// Reads on the core; `paced`: within the share of the disk that backups have.
    pub async fn read(
        &mut self,
        handle: &ShardHandle,
        plans: &[BackupPlan],
        Wanted { shard: number, segment, .. }: Wanted,
        (from, bytes): (u64, u64),
        paced: bool,
    ) -> Result<Vec<u8>, Fault> {
        if bytes > super::PIECE_BYTES {
            return Err("more than a piece at once".to_owned());
        }
        let bytes = usize::try_from(bytes).map_err(|error| error.to_string())?;
        let segment = SegmentId(segment);
        let goes_on = |(shard, walk): &(u16, Walk)| {
            (*shard, walk.segment(), walk.wants()) == (number, segment, from)
        };
        let walk = self.0.take().filter(goes_on).map(|(_, walk)| walk);
        let planned = plans.iter().filter(|plan| plan.shard == number);
        let planned = planned.flat_map(|plan| &plan.segments).find(|one| one.segment == segment);
        let end = planned.map(|planned| planned.end).filter(|_| from == 0);
        let read = handle.ask(move |shard| async move {
            let rate = paced.then(|| shard.backup_bytes_per_second());
            let walk = walk.or_else(|| Some(shard.store.walk(segment, end?)));
            let Some(mut walk) = walk else {
                let read = shard.store.read_segment(segment, from, bytes, rate).await;
                return read.map(|bytes| (bytes, None));
            };
            let read = shard.store.read_for(&mut walk, bytes, rate).await;
            read.map(|bytes| (bytes, Some((number, walk))))
        });
        let read = read.await.map_err(|error| format!("shard {number}: {error}"))?;
        let (bytes, walk) = read.map_err(|error| format!("shard {number}: {error}"))?;
        self.0 = walk;
        Ok(bytes)
    }

    /// Looks on the core for what a scrub would find.
    pub async fn rot(
        &mut self,
        handle: &ShardHandle,
        Wanted { shard: number, segment, .. }: Wanted,
        end: u64,
        paced: bool,
    ) -> Result<Vec<String>, Fault> {
        let segment = SegmentId(segment);
        let is_all = |(shard, walk): &(u16, Walk)| {
            (*shard, walk.segment(), walk.end(), walk.wants()) == (number, segment, end, end)
        };
        let walk = self.0.take().filter(is_all);
        let found = handle.ask(move |shard| async move {
            let rate = paced.then(|| shard.backup_bytes_per_second());
            match walk {
                Some((_, walk)) => shard.store.scrub_walked(walk, rate).await,
                None => shard.store.scrub_segment(segment, end, rate).await,
            }
        });
        let found = found.await.map_err(|error| format!("shard {number}: {error}"))?;
        let found = found.map_err(|error| format!("shard {number}: {error}"))?;
        Ok(found.into_iter().map(|finding| finding.place).collect())
    }
}
