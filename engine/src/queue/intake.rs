//! A message for other hosts, on its way into the queue of this core.
//!
//! Up to the session's buffer it is one record. A larger one streams into the log while it arrives, so that
//! a session never holds more. What RFC 6409 section 8 has us add goes in front: a `Date` and a
//! `Message-ID` where there is none.

use super::message::Envelope;
use super::{ACCOUNT, MAILBOX};
use crate::delivery::unix_millis;
use crate::metrics::count;
use crate::shard::{Disk, Shard};
use bytes::Bytes;
use protocols::message::date::field_text;
use protocols::message::field::Fields;
use std::rc::Rc;
use storage::{Body, BodyWriter, Delivery, Durable, Error, Flags, Placement};

#[derive(Debug)]
pub struct Submission {
    shard: Rc<Shard>,
    envelope: Envelope,
    /// Our own trace fields.
    head: String,
    buffer: Vec<u8>,
    /// Of a message that has outgrown the buffer.
    writer: Option<BodyWriter<Disk>>,
    octets: u64,
}

impl Submission {
    pub fn new(shard: &Rc<Shard>, envelope: Envelope, head: String) -> Submission {
        let shard = Rc::clone(shard);
        Submission { shard, envelope, head, buffer: Vec::new(), writer: None, octets: 0 }
    }

    pub async fn push(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= self.shard.knobs.session_buffer_bytes() {
            let piece = self.take();
            let writer = match &mut self.writer {
                Some(writer) => writer,
                None => self.writer.insert(self.shard.store.body_writer()?),
            };
            writer.push(piece).await?;
        }
        Ok(())
    }

    /// What is buffered; the first time, behind what we put in front.
    fn take(&mut self) -> Bytes {
        let piece = std::mem::take(&mut self.buffer);
        let piece = match std::mem::take(&mut self.head) {
            head if head.is_empty() => piece,
            head => {
                let missing =
                    missing_fields(&piece, &self.envelope.id, &self.shard.config.hostname);
                [head.as_bytes(), missing.as_bytes(), &piece].concat()
            }
        };
        self.octets += piece.len() as u64;
        self.envelope.eight_bit |= !piece.is_ascii();
        Bytes::from(piece)
    }

    /// The receipt comes once the message and its envelope are durable.
    pub async fn finish(mut self) -> Result<Durable, Error> {
        let rest = self.take();
        let body = match self.writer.take() {
            None => Body::Whole(rest),
            Some(mut writer) => {
                writer.push(rest).await?;
                Body::Streamed(writer.finish().await?)
            }
        };
        self.envelope.octets = self.octets;
        let placement = Placement {
            account: ACCOUNT,
            mailbox: MAILBOX,
            prefix: Vec::new(),
            flags: Flags::default(),
            keywords: Vec::new(),
        };
        let delivery = Delivery {
            placements: vec![placement],
            internal_date: unix_millis(),
            summary: self.envelope.encode(),
            body,
        };
        let (placed, durable) = self.shard.store.deliver(delivery).await?;
        let queue = &self.shard.queue;
        count(&queue.counts.queued);
        placed.iter().for_each(|placed| queue.set_due(placed.uid, self.envelope.arrived));
        Ok(durable)
    }
}

fn missing_fields(message: &[u8], id: &str, hostname: &str) -> String {
    let has = |name: &str| Fields::new(message).any(|field| field.is(name));
    let mut fields = String::new();
    if !has("Date") {
        fields += &format!("Date: {}\r\n", field_text(unix_millis().0));
    }
    if !has("Message-ID") {
        fields += &format!("Message-ID: <{id}@{hostname}>\r\n");
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::missing_fields;

    #[test]
    fn only_what_is_missing_is_added() {
        let both = "Date: x\r\nMessage-Id: <a@b>\r\n\r\nDate";
        assert_eq!(missing_fields(both.as_bytes(), "0.1", "h.test"), "");
        let none = missing_fields(b"Subject: x\r\n\r\nDate: x\r\n", "0.1", "h.test");
        assert!(none.starts_with("Date: ") && none.ends_with("\r\nMessage-ID: <0.1@h.test>\r\n"));
    }
}
