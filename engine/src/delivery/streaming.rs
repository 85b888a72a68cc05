//! A large body on its way into a home shard's log, piece by piece.

use super::Outcome;
use super::filing::{Parcel, file};
use crate::mesh::{Reply, Unreachable};
use crate::shard::Shard;
use bytes::Bytes;
use std::rc::Rc;
use storage::{Body, Error, Room, StreamedBody};
use tokio::sync::oneshot;

/// Pieces of a large body that may be under way to one shard.
const PIECES_IN_FLIGHT_MAX: usize = 2;

/// What goes to the task on a home shard that streams a large body into its log.
pub(super) enum Piece {
    Bytes(Bytes),
    /// There is no more of it: is it in the log, and is there room for its record,
    /// of so many bytes?
    IsReady(usize, Reply),
    End(Box<Parcel>),
}

#[derive(Debug)]
pub(super) struct Stream {
    pub pieces: flume::Sender<Piece>,
    pub outcomes: oneshot::Receiver<Vec<Outcome>>,
}

impl Stream {
    pub(super) fn open(shard: &Rc<Shard>, home: u16) -> Result<Stream, Error> {
        let (pieces, arriving) = flume::bounded(PIECES_IN_FLIGHT_MAX);
        let (answer, outcomes) = oneshot::channel();
        shard
            .mesh
            .tell(home, move |shard| async move {
                if let Some(found) = stream_in(&shard, &arriving).await {
                    let _ = answer.send(found);
                }
            })
            .map_err(|Unreachable| Error::Busy)?;
        Ok(Stream { pieces, outcomes })
    }
}

/// Streams a large body into this shard's log. `None`: the transaction was abandoned, and the
/// chunks are garbage for compaction.
async fn stream_in(shard: &Rc<Shard>, arriving: &flume::Receiver<Piece>) -> Option<Vec<Outcome>> {
    let mut writer = shard.store.body_writer();
    let mut ready: Option<(StreamedBody, Room)> = None;
    loop {
        match arriving.recv_async().await.ok()? {
            Piece::Bytes(bytes) => {
                if let Ok(open) = &mut writer
                    && let Err(error) = open.push(bytes).await
                {
                    // The rest is swallowed; the peer learns at the end of its data.
                    writer = Err(error);
                }
            }
            Piece::IsReady(bytes, reply) => {
                let body = async {
                    let body = std::mem::replace(&mut writer, Err(Error::Busy))?.finish().await?;
                    Ok::<_, Error>((body, shard.store.keep_room(bytes)?))
                };
                match body.await {
                    Ok(body) => {
                        ready = Some(body);
                        reply.answer(Ok::<(), Error>(()));
                    }
                    Err(error) => {
                        reply.answer(Err::<(), Error>(error.clone()));
                        writer = Err(error);
                    }
                }
            }
            Piece::End(mut parcel) => {
                let body = async {
                    match ready {
                        Some((body, room)) => {
                            parcel.room = Some(room);
                            Ok::<_, Error>(Body::Streamed(body))
                        }
                        None => Ok(Body::Streamed(writer?.finish().await?)),
                    }
                };
                return Some(match body.await {
                    Ok(body) => file(shard, *parcel, body).await,
                    Err(error) => parcel.to.iter().map(|_| Err(error.clone())).collect(),
                });
            }
        }
    }
}
