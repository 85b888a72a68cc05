//! What the ManageSieve machine is told once, and what it asks of the engine.

#[cfg(doc)]
use super::ManageSieve;
use crate::machine::Ticket;
use crate::sasl::Credentials;

#[derive(Debug, Clone)]
pub struct Config {
    /// STARTTLS can be offered while TLS is not active.
    pub tls_available: bool,
    /// PLAIN is taken without TLS, too.
    pub plaintext_auth: bool,
    /// Octets of one script, as [`crate::sieve::Limits::script_bytes_max`]; a larger one is refused
    /// before it comes.
    pub script_bytes_max: u32,
    /// Refused scripts are swallowed up to this; past it, BYE.
    pub swallow_bytes_max: u32,
    /// What is announced as MAXREDIRECTS: [`crate::sieve::Limits::redirects_max`].
    pub redirects_max: usize,
}

/// What the machine asks of the engine. The tickets' types are these questions. Names of scripts
/// are such as [`crate::sieve::is_script_name`] takes; all but the logins are about the scripts of
/// [`ManageSieve::user`].
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A password to check: [`ManageSieve::answer_login`].
    Login(Credentials, Ticket<Login>),
    /// Keys to look up: [`ManageSieve::answer_keys`].
    ScramKeys(String, Ticket<Keys>),
    /// A proof was right: [`ManageSieve::answer_login`] lets the engine still say no.
    Proved(String, Ticket<Login>),
    /// A proof was wrong: count it, delay it, then [`ManageSieve::answer_login`].
    Disproved(Ticket<Login>),
    /// Is there room for a script of so many octets? [`ManageSieve::answer`].
    HaveSpace { name: String, octets: u64, ticket: Ticket<Completed> },
    /// Compile it; if that succeeds, store it, in the place of one of the same name if there is one
    /// (which stays active if it was): [`ManageSieve::answer_checked`], once that is durable.
    Put { name: String, script: Vec<u8>, ticket: Ticket<Checked> },
    /// Compile it: [`ManageSieve::answer_checked`].
    Check { script: Vec<u8>, ticket: Ticket<Checked> },
    /// [`ManageSieve::answer_list`].
    List { ticket: Ticket<Listing> },
    /// `None`: no script shall be active. [`ManageSieve::answer`].
    SetActive { name: Option<String>, ticket: Ticket<Completed> },
    /// [`ManageSieve::answer_script`].
    Get { name: String, ticket: Ticket<Content> },
    /// Not the active one: [`super::Refusal::ACTIVE`]. [`ManageSieve::answer`].
    Delete { name: String, ticket: Ticket<Completed> },
    /// Active stays active. [`ManageSieve::answer`].
    Rename { from: String, to: String, ticket: Ticket<Completed> },
    /// UNAUTHENTICATE: forget the account; another login may follow. Has no answer.
    LoggedOut,
}

#[derive(Debug)]
pub enum Login {}
#[derive(Debug)]
pub enum Keys {}
#[derive(Debug)]
pub enum Completed {}
#[derive(Debug)]
pub enum Checked {}
#[derive(Debug)]
pub enum Listing {}
#[derive(Debug)]
pub enum Content {}

/// A script of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// The one that is run; at most one is.
    pub active: bool,
}
