//! A disk that exists in memory, and does everything that a disk is allowed to do, from a seed.
//!
//! ```
//! use storage::device::sim::{Executor, Sim};
//! use storage::{Options, Store};
//!
//! let sim = Sim::new(42);
//! sim.crash_at(100); // the hundredth operation does not come to its end
//! let executor = Executor::new(&sim);
//! let outcome = executor.block_on({
//!     let sim = sim.clone();
//!     async move { Store::open(sim, Options::for_tests()).await.is_ok() }
//! });
//! drop(executor); // everything in memory is gone, as after a power cut
//! let survivor = sim.after_crash(); // what the medium still holds, decided by the seed
//! # let _ = (outcome, survivor);
//! ```
//!
//! Operations complete in any order; each create, write, sync, read, remove counts as one (a
//! durable write is two: the write and the sync). [`Sim::operations`] says how many there were, so
//! a caller can crash at each of them in turn.
//!
//! `calls` are the device's own, which become operations of the `disk`: what it does with them, its
//! faults, and the crash. `executor` runs tasks, and lets the disk go on when none is ready;
//! `handle` counts open files; `random` is where chance comes from.

mod calls;
mod disk;
mod executor;
mod handle;
mod random;

pub use disk::{Fault, Sim};
pub use executor::{Executor, TaskId};
pub use handle::FileHandle;
pub use random::Random;
