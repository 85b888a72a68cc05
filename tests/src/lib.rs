//! Shared parts of the tests.
//!
//! | where | what |
//! |---|---|
//! | [`laws`] | what holds for every protocol machine, as generic checks |
//! | [`names`] | a small name server for tests of what asks DNS |
//! | [`outside`] | servers that mail is collected from, which lie |
//! | [`sieve_cases`] | scripts, a message, what comes of it, in files |
//! | [`simulation`] | the store on a disk that crashes, beside a naive model |
//! | [`subjects`] | each machine with a small world that answers it |
//! | [`transcript`] | `C:`/`S:` files, played against a subject |

pub mod laws;
pub mod names;
pub mod outside;
pub mod random;
pub mod sieve_cases;
pub mod simulation;
pub mod subjects;
pub mod transcript;
