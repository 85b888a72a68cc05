//! A copy of a message on its way from one mailbox to another: at hand, or read out
//! of where it lies.

use super::sending::Post;
use super::{To, Trace};
use crate::shard::PIECE_BYTES;
use bytes::Bytes;
use protocols::message::received::delivered_to;
use storage::{Error, MailboxId, Uid};

#[derive(Debug)]
pub(super) enum Payload {
    Whole(Bytes),
    /// Too large to be at hand: `head`, then what lies in the mailbox from octet `from` on.
    Stored {
        mailbox: MailboxId,
        uid: Uid,
        head: Bytes,
        from: u64,
    },
}

impl Post {
    /// What the copy's trace fields tell; those of a stored one stand in its first piece.
    pub(super) async fn trace(
        &self,
        owner: Option<&To>,
        payload: &Payload,
    ) -> Result<Trace, Error> {
        match (payload, owner) {
            (Payload::Whole(message), _) => Ok(Trace::read(message)),
            (Payload::Stored { mailbox, uid, .. }, Some(owner)) => {
                Ok(Trace::read(&self.read(owner, *mailbox, *uid, 0).await?))
            }
            (Payload::Stored { .. }, None) => Ok(Trace::default()),
        }
    }

    /// Hands the copy to `push`, behind a trace of its owner.
    pub(super) async fn pour(
        &self,
        owner: Option<&To>,
        payload: &Payload,
        mut push: impl AsyncFnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(owner) = owner {
            push(delivered_to(&owner.home.address).as_bytes()).await?;
        }
        match (payload, owner) {
            (Payload::Whole(message), _) => {
                for piece in message.chunks(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
                    push(piece).await?;
                }
                Ok(())
            }
            (Payload::Stored { mailbox, uid, head, from }, Some(owner)) => {
                push(head).await?;
                let mut from = *from;
                loop {
                    let piece = self.read(owner, *mailbox, *uid, from).await?;
                    if piece.is_empty() {
                        return Ok(());
                    }
                    from += piece.len() as u64;
                    push(&piece).await?;
                }
            }
            (Payload::Stored { .. }, None) => Ok(()),
        }
    }

    async fn read(
        &self,
        owner: &To,
        mailbox: MailboxId,
        uid: Uid,
        from: u64,
    ) -> Result<Bytes, Error> {
        let account = owner.home.account;
        let piece = from..from.saturating_add(PIECE_BYTES);
        self.at_home(owner, move |shard| async move {
            shard.store.read(account, mailbox, uid, piece).await
        })
        .await
    }
}
