//! Mail is collected from mailboxes that users have elsewhere, over POP3 and IMAP, into
//! their mailboxes here.
//!
//! | file | what |
//! |---|---|
//! | [`settings`] | `[collect]`: how much at once, how long, whom to believe |
//! | [`source`] | one outside mailbox: where it is, how to log in, what is left there |
//! | [`keys`] | what of it is in the store: sources, how they stand, ledgers |
//! | [`ledger`] | what was collected, and what follows for what is there now; pure |
//! | [`maildrop`], [`folder`] | one visit, over POP3 and IMAP: what is asked next; pure |
//! | [`round`] | what both have in common: what is to be done with each message, and the one under way; pure |
//! | [`schedule`] | when a source is visited, and how failures put it off; pure |
//! | [`due`] | what a core knows of its sources without looking: which are due |
//! | [`collector`] | one core's visits, how many at once, and what comes of each |
//! | [`link`], [`pop3`], [`imap`] | one connection: machine and socket |
//! | [`inbound`] | one message on its way through the filters into the mailbox |
//! | [`split`] | one outside mailbox for many accounts (DomainPOP): who gets a message; pure |
//! | [`reason`], [`notes`] | why a visit failed, with the remedy; what the user is told, once |
//! | [`operations`] | `kura collect` |
//!
//! Everything happens on the home shard of the account. Invariants: that a message was collected is
//! in the record that files it ([`storage::Store::deliver_and_put`]), so no crash comes between the
//! two; nothing is deleted on the other server before that record is durable.
//!
//! What a crash can repeat all the same: a message of which the user's script makes several records
//! (copies with other headers), redirects it, or throws it away, and one that goes to several
//! accounts, is known only behind all that, so it may come again; never get lost.

pub mod collector;
pub mod due;
pub mod folder;
mod imap;
mod inbound;
pub mod keys;
pub mod ledger;
mod link;
pub mod maildrop;
mod notes;
pub mod operations;
mod pop3;
pub mod reason;
pub mod round;
pub mod schedule;
pub mod settings;
pub mod source;
mod split;

pub use due::{Collecting, metrics_text};
pub use split::USUAL;
