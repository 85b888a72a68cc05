//! What an account's scripts tell the sender: replies (RFC 5230), and rejections that can't be the
//! session's answer (RFC 5429).

use super::filing::put_note;
use super::sending::{Failure, NotSent, Post};
use super::{Envelope, To, notes};
use crate::NOTICE;
use crate::directory::Home;
use crate::sieve::plan::Filing;
use crate::sieve::{Answering, marks};
use crate::submission::Permit;
use bytes::Bytes;
use protocols::Address;
use protocols::message::received::return_path;
use protocols::sieve::Reply;
use storage::Durable;

impl Post {
    /// RFC 5230: from the null path. Remembered once it is durable, and filed where the
    /// script wants a copy.
    pub(super) async fn reply(&mut self, owner: &To, reply: Reply, answering: Answering) {
        let Home { account, address, .. } = owner.home.clone();
        let sent = async {
            let own = Address::parse(address.as_bytes()).ok_or(NotSent::NoSuchUser)?;
            let id = format!("{}@{}", self.shard.next_id(), self.shard.config.hostname);
            let message = reply.message(&own, super::unix_millis().0, &id);
            let whole = [return_path("").as_bytes(), &message].concat();
            let permit = self.permit_note(owner, &reply.to).await?;
            let _durable = self.send_note(Some(&address), &reply.to, whole).await?;
            permit.into_iter().for_each(Permit::used);
            Ok::<_, NotSent>(message)
        };
        let message = match sent.await {
            Ok(message) => Some(message),
            Err(why) => {
                tracing::info!(target: NOTICE, account = address, to = %reply.to, %why, "vacation reply not sent");
                None
            }
        };
        let home = owner.clone();
        let remembered = self.at_home(owner, move |shard| async move {
            let _answering = answering;
            let Reply { key, period, copy_to, .. } = reply;
            let Some(message) = message else { return Ok(()) };
            let mark = marks::Mark { kind: marks::Kind::Vacation, key, period };
            marks::set(&shard, account, &[mark], crate::operations::unix_now()).await?;
            if let Some(payload) = copy_to {
                let _durable = put_note(&shard, &home, Filing::from(payload), message).await?;
            }
            Ok(())
        });
        if let Err(error) = remembered.await {
            tracing::warn!(account = address, %error, "a vacation reply is not remembered, or its copy not filed");
        }
    }

    /// RFC 5429 section 2.1: a rejection that can't be the session's answer. Who can't be told has
    /// not been refused.
    pub(super) async fn send_back(
        &mut self,
        to: &To,
        envelope: &Envelope,
        text: &str,
        message: &Bytes,
    ) -> Result<Durable, Failure> {
        let told = async {
            // The sender of junk is likely somebody else.
            let sender = envelope.sender.clone().filter(|_| !envelope.judged.filing.is_junk);
            let sender = sender.ok_or(NotSent::NoSender)?;
            let note = notes::rejection(&self.shard, &sender, &to.address, text, message);
            let permit = self.permit_note(to, &sender).await?;
            let durable = self.send_note(None, &sender, note).await?;
            permit.into_iter().for_each(Permit::used);
            Ok::<_, NotSent>(durable)
        };
        match told.await {
            Ok(durable) => Ok(durable),
            Err(why) => {
                let (id, account) = (&envelope.id, &to.home.address);
                tracing::info!(target: NOTICE, id, account, %why, "rejection not sent; kept");
                self.keep(to, envelope, message).await
            }
        }
    }
}
