//! Mail leaves: what is due in the queue goes to the servers that take it.
//!
//! | file | what |
//! |---|---|
//! | [`settings`] | `[relay]`, `[[smart_host]]` |
//! | [`route`] | a smart host, or the recipient's domain |
//! | [`hosts`] | the domain's servers, by DNS, on the control plane |
//! | [`protection`] | what protects the way to one of them |
//! | [`dane`] | certificates that DNS tells of |
//! | [`sts`] | other domains' MTA-STS policies, fetched and kept |
//! | [`srs`] | senders of what is forwarded, rewritten and back |
//! | [`proofs`] | that DNSSEC has worked, over restarts |
//! | [`tally`], [`tlsrpt`] | what sessions have met, counted, and told to the domains |
//! | [`sender`] | one core's sender: attempts, and the conversation |
//! | `connecting` | from a destination to a session: its servers, one after the other |
//! | [`destination`] | what is to be done next for each destination; pure |
//! | [`unreached`] | where nobody was reached, and why, for all that waits |
//! | `home` | recipients of ours whose message has waited in the queue |
//! | [`delivered`] | who of them has it already, whatever crashes |
//! | [`outcome`] | what a try makes of a message: taken, tried again, given up |
//! | [`session`], [`tls`] | one connection to a server, and whose certificates are believed |
//!
//! Each core sends what it has taken in, over connections of its own, of which it has its
//! share of the limits.

mod connecting;
pub mod dane;
pub mod delivered;
pub mod destination;
mod home;
pub mod hosts;
pub mod outcome;
pub mod proofs;
pub mod protection;
pub mod route;
pub mod sender;
pub mod session;
pub mod settings;
pub mod srs;
pub mod sts;
pub mod tally;
pub mod tls;
pub mod tlsrpt;
pub mod unreached;
