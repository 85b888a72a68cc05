//! Is a message from whom it says? iprev, SPF, DKIM, ARC and DMARC, before the `250`.
//!
//! | where | what |
//! |---|---|
//! | [`settings`] | what the operator says: `[auth]`, `[dns]` |
//! | [`evidence`] | what of a message is looked at, whether it fits a buffer or streams |
//! | [`desk`] | how a core asks, and what the control plane does with the question |
//! | [`dns`] | the resolver, within bounds |
//! | [`dnssec`] | answers of DNS with their proofs |
//! | [`verify`] | all methods over one message, until the deadline |
//! | [`spf`], [`dkim`], [`arc`], [`dmarc`] | one method each |
//! | [`verdict`] | what was found, and what follows |
//! | [`results`] | the `Authentication-Results` field |
//!
//! What can't be found out in time is `temperror`: never a verdict for or against a sender, and
//! never a reason to refuse.

pub mod arc;
pub mod desk;
pub mod dkim;
pub mod dmarc;
pub mod dns;
pub mod dnssec;
pub mod evidence;
pub mod results;
pub mod settings;
pub mod spf;
pub mod verdict;
pub mod verify;
