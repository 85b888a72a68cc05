//! Is there something in a message that harms who opens it? Before the `250`.
//!
//! | where | what |
//! |---|---|
//! | [`settings`] | what the operator says: `[scan]` |
//! | [`session`] | one message's scan, on its core, while it arrives |
//! | [`desk`] | how a core asks, and what the control plane does with the question |
//! | [`clamd`] | clamd's protocol, and its servers in turn |
//! | [`cache`] | what has been scanned before |
//! | [`verdict`] | what was found, and what follows |
//! | [`attachments`] | dangerous attachments, by name, bytes and what is packed in them |
//! | [`outbreak`] | the same message to many from many places |
//! | [`again`] | stored mail, when there are new signatures |
//! | [`metrics`] | counters of all that |
//!
//! What can't be scanned in time is *unknown*, which is neither clean nor a virus: the operator
//! says what follows (`scan.when_down`). Whatever a scanner does, the session is answered, and no
//! core waits for it.

pub mod again;
pub mod attachments;
pub mod cache;
pub mod clamd;
pub mod desk;
pub mod metrics;
pub mod outbreak;
pub mod session;
pub mod settings;
pub mod verdict;
