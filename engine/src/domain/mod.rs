//! What puts a domain on the air besides its mailboxes: the keys that sign for it, and what DNS
//! has to say of it.
//!
//! | file | what |
//! |---|---|
//! | [`keys`] | DKIM keys as they are kept, and their lives |
//! | [`signing`] | the signatures of a message that leaves |
//! | [`records`], [`zone`] | what DNS has to say, and as a zone file |
//! | [`check`] | what it does say |
//! | [`openness`] | whether strangers can send through this host |
//! | [`blocklists`] | whether a list in DNS names us |
//! | [`mta_sts`] | the policy by which others encrypt |
//! | [`settings`], [`web`] | `[web]`: HTTPS for the policy, and for mail programs that look for their settings |

pub mod blocklists;
pub mod check;
pub mod keys;
pub mod mta_sts;
pub mod openness;
pub mod records;
pub mod sealing;
pub mod settings;
pub mod signing;
pub mod web;
pub mod zone;
