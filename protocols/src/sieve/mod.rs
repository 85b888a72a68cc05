//! Sieve: what a user wants done with a message. RFC 5228 and its extensions.
//!
//! [`Script::compile`] checks a script once; [`run`] runs it on a message and gives an [`Outcome`]:
//! a list of actions with the implicit keep worked out. [`run_in_turn`] does so with several.
//! Nothing is done here. What a script asks beyond the message is answered by a [`World`], at once:
//! what would have to be fetched, the scripts that it includes, is named beforehand by
//! [`Script::includes`].
//!
//! # What is left to the caller
//!
//! 1. To keep scripts, compiled, and to have at hand what [`Script::includes`] names, and
//!    what those name.
//! 2. To run the active script of each recipient before the message is accepted, so that a
//!    rejection can still be the reply; with the body at hand if [`Script::looks_at_body`].
//! 3. To carry out the [`Action`]s. Whether a mailbox can be filed into is seen only now: if not,
//!    the message is kept. A redirected copy is checked for loops. A [`Reply`] is sent unless one
//!    of its key was within its period, by [`Reply::message`] and from the null path. A rejection's
//!    text may have many lines. Where a header was edited, the message has another summary, too.
//! 4. Once that is durable, to remember the [`Outcome::duplicates`] and the keys of replies.
//! 5. To tell the script's owner of an [`Outcome::error`]: the message was kept,
//!    nothing else was done.
//!
//! | file | what |
//! |---|---|
//! | `lexer`, `parser` | from octets to commands, arguments and tests, with their places |
//! | `compile` | what they mean, and what is wrong with them: [`Fault`] |
//! | `program` | the result: [`Script`] |
//! | `run` | the interpreter |
//! | `matching` | comparators and match types |
//! | `address`, `date`, `header`, `words` | what tests look at, and what `addheader` writes |
//! | [`limits`] | what bounds the cost of all this |
//! | [`world`] | what a run is given |
//! | [`outcome`] | what it comes to |
//! | `reply` | the message that `vacation` sends |
//! | `capability` | the extensions |

mod address;
mod capability;
mod compile;
mod date;
mod fault;
mod header;
mod lexer;
pub mod limits;
mod matching;
pub mod outcome;
mod parser;
mod program;
mod reply;
mod run;
mod words;
pub mod world;

pub use capability::extensions;
pub use compile::is_script_name;
pub use fault::{Fault, Position};
pub use limits::Limits;
pub use outcome::{Action, DuplicateMark, Edited, Outcome, Reply, ReplyCopy, RunError};
pub use program::{Include, Location, Script};
pub use run::{run, run_in_turn};
pub use world::{Mail, Missing, World};

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod turns_tests;
