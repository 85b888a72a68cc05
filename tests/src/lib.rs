//! Shared parts of the tests.
//!
//! | where | what |
//! |---|---|
//! | [`laws`] | what holds for every protocol machine, as generic checks |
//! | [`subjects`] | each machine with a small world that answers it |
//! | [`transcript`] | `C:`/`S:` files, played against a subject |

pub mod laws;
pub mod random;
pub mod subjects;
pub mod transcript;
