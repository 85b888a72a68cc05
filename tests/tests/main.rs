//! One program for all tests of this crate: the engine and the store are linked once, not
//! once for each file.

mod auth_vectors;
mod client_and_server;
mod collect_crashes;
mod crash_checker;
mod crash_every_operation;
mod crash_planted_bugs;
mod documents;
mod imap_transcripts;
mod laws;
mod laws_clients;
mod laws_imap;
mod laws_managesieve;
mod sieve_cases;
mod spf_rfc7208;
mod transcripts;
mod worlds;
