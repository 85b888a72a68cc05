//! Messages that have just been taken in, as they were recorded: the first try need
//! not read them back.
//!
//! Where other servers keep up, a message is on its way milliseconds after its `250`. What has
//! waited, or was tried once, is read from the log: there is no second truth here, only a shorter
//! way to the first.

use super::message::Envelope;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use storage::Uid;

/// Of one core, envelopes as they are recorded included. What finds no room is read back.
const OCTETS_MAX: usize = 16 << 20;

#[derive(Debug)]
struct Message {
    envelope: Envelope,
    /// Prefix and body.
    octets: Bytes,
    /// Of both.
    size: usize,
}

#[derive(Debug, Default)]
pub struct Fresh {
    messages: RefCell<HashMap<Uid, Message>>,
    size: Cell<usize>,
}

impl Fresh {
    /// Once it is durable, its envelope in `summary` octets.
    pub(super) fn keep(&self, uid: Uid, envelope: Envelope, summary: usize, octets: Bytes) {
        let size = summary + octets.len();
        let all = self.size.get() + size;
        if all <= OCTETS_MAX {
            self.size.set(all);
            self.messages.borrow_mut().insert(uid, Message { envelope, octets, size });
        }
    }

    pub(super) fn forget(&self, uid: Uid) {
        if let Some(message) = self.messages.borrow_mut().remove(&uid) {
            self.size.set(self.size.get() - message.size);
        }
    }

    pub(super) fn envelope(&self, uid: Uid) -> Option<Envelope> {
        self.messages.borrow().get(&uid).map(|message| message.envelope.clone())
    }

    pub fn octets(&self, uid: Uid) -> Option<Bytes> {
        self.messages.borrow().get(&uid).map(|message| message.octets.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::{Fresh, OCTETS_MAX};
    use crate::queue::message::Envelope;
    use bytes::Bytes;
    use storage::Uid;

    #[test]
    fn what_finds_no_room_is_not_kept_and_what_has_left_makes_room() {
        let envelope = Envelope::decode(br#"{"id":"a","recipients":[],"arrived":1}"#).expect("one");
        let fresh = Fresh::default();
        let body = Bytes::from(vec![b'x'; OCTETS_MAX / 2 - 100]);
        let keep = |uid| fresh.keep(Uid(uid), envelope.clone(), 100, body.clone());
        (1..=3).for_each(keep);
        assert!(fresh.octets(Uid(2)).is_some() && fresh.octets(Uid(3)).is_none());
        fresh.forget(Uid(1));
        fresh.forget(Uid(1));
        keep(4);
        assert!(fresh.envelope(Uid(1)).is_none() && fresh.envelope(Uid(4)).is_some());
        fresh.forget(Uid(2));
        fresh.forget(Uid(4));
        assert_eq!(fresh.size.get(), 0);
    }
}
