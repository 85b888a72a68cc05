//! The engine: composes protocols, storage and profiles into a mail server.
//!
//! Data flows one way: socket → machine → policy → delivery → log → reply.
//!
//! | where | what |
//! |---|---|
//! | [`cli`] | what an operator types; [`config`] is what they write |
//! | [`server`] | a server's life: lock, bind, open, serve, stop; [`layout`] is its directory, `ownership` whose that is |
//! | [`core`], [`shard`] | one core's life, and its world; [`mesh`] asks another core, `executor` runs it |
//! | [`listener`], [`connection`], [`wire`] | sockets: accept, the one loop, TLS |
//! | [`readiness`], [`watchdog`] | what wakes a session: its socket, its deadline |
//! | [`session`] | one file for each protocol: answers to its machine's events |
//! | [`auth`] | SPF, DKIM, ARC and DMARC of what comes from other servers |
//! | [`balancer`] | a connection that comes through a load balancer: whose it is |
//! | [`policy`], [`filter`] | who is kept out; whether a message is wanted |
//! | [`scan`] | viruses, dangerous attachments, outbreaks; `resting`: whether clamd and rspamd answer |
//! | [`delivery`] | from a transaction's bytes to durable mailboxes |
//! | [`quarantine`] | mail that is kept back from its owner |
//! | [`sieve`] | what users, and the operator, want done with mail that comes in |
//! | [`collect`] | mail from mailboxes that users have elsewhere |
//! | [`submission`] | what an account may send |
//! | [`queue`], [`relay`] | mail that waits to leave, and how it leaves |
//! | [`reports`] | what hosts tell each other about mail in their names: DMARC and TLS reports |
//! | [`domain`] | DKIM keys and signatures; what DNS has to say of a domain |
//! | [`directory`], [`passwords`] | who gets the mail for an address, and who may read it |
//! | [`host_key`] | what this host signs for itself |
//! | [`operations`], [`control_plane`] | what an operator can ask of a running or stopped server |
//! | `remembering`, `export` | of these, what is about the past: expunged mail, an account as it was, holds |
//! | [`backup`], [`salvage`] | copies of the store elsewhere; what can be saved of a damaged one |
//! | [`scrub`], [`compact`], [`harm`] | the store is read through for rot, and gives space back; whether its files are there and whole |
//! | [`course`] | how far long work has come, for the command that waits |
//! | `trace` | and what has become of messages |
//! | [`certificates`], [`tls`], [`metrics`] | the rest of running a server |
//! | [`files`] | how many files may be open, and for what |
//! | [`spaces`] | which key space of the store is whose, and how one is gone through |
//! | `hex`, `sliding`, `when` | octets as digits; counts of the last while; times as operators write them |
//! | [`bench`] | load programs |

/// Target of log lines that an operator wants to see even where each message's are not wanted:
/// starts and stops, failed logins, refusals. Log level `notice` shows these and the warnings.
pub const NOTICE: &str = "notice";

pub mod auth;
pub mod backup;
pub mod balancer;
pub mod bench;
pub mod certificates;
pub mod cli;
pub mod collect;
pub mod compact;
pub mod config;
pub mod connection;
pub mod control_plane;
pub mod core;
pub mod course;
pub mod delivery;
pub mod directory;
pub mod domain;
mod executor;
mod export;
pub mod files;
pub mod filter;
pub mod harm;
mod hex;
pub mod host_key;
pub mod layout;
pub mod listener;
pub mod mesh;
pub mod metrics;
pub mod operations;
mod ownership;
pub mod passwords;
pub mod policy;
pub mod quarantine;
pub mod queue;
pub mod readiness;
pub mod relay;
mod remembering;
pub mod reports;
mod resting;
mod salvage;
pub mod scan;
pub mod scrub;
pub mod server;
pub mod session;
pub mod settle;
pub mod shard;
pub mod sieve;
mod sliding;
mod spaces;
pub mod submission;
pub mod tls;
mod trace;
pub mod watchdog;
pub mod when;
pub mod wire;
