//! What bounds the time and memory that a script can cost.
//!
//! There are no loops in Sieve, so a script's time is bounded by its length times the message; both
//! are the users'. What is looked at is therefore counted in one currency, `work_max`: octets
//! compared, decoded or put together, and a little for each command, test, value and comparison, so
//! that many small things cost no more time than few large ones. All of it is some tens of
//! milliseconds at most.

/// What each command and each test costs beside the octets that it looks at.
pub(super) const WORK_OF_A_STEP: u64 = 64;
/// The same for each value that a test looks at: a field, an address.
pub(super) const WORK_OF_A_VALUE: usize = 96;
/// The same for each key that a value is compared with.
pub(super) const WORK_OF_A_COMPARISON: usize = 24;
/// Faults of one script that are told.
pub(super) const FAULTS_MAX: usize = 10;
/// Match variables: `${0}` to this.
pub(super) const MATCH_VARIABLES_MAX: usize = 32;

/// The limits of compiling and running. A script over a limit of the first half does not compile; a
/// run over one of the second half ends with an error, hence with the implicit keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Octets of one script.
    pub script_bytes_max: usize,
    /// Blocks and tests in one another.
    pub nesting_max: usize,
    /// Commands and tests of one script.
    pub commands_max: usize,
    /// Strings of one script.
    pub strings_max: usize,

    /// See the module's text.
    pub work_max: u64,
    /// Scripts included in one run, however often.
    pub includes_max: usize,
    /// Scripts including one another.
    pub include_depth_max: usize,
    /// Variables of one run; RFC 5229 section 6 asks for 128.
    pub variables_max: usize,
    /// A longer value is cut, as RFC 5229 section 6 wants it; it asks for 4,000 characters.
    pub variable_bytes_max: usize,
    /// Any string after its variables are put in; one that is longer is cut.
    pub string_bytes_max: usize,
    /// Flags and keywords of a message.
    pub flags_max: usize,
    /// What is done with the message, all kinds together.
    pub actions_max: usize,
    /// Copies sent to other addresses.
    pub redirects_max: usize,
    /// Duplicate tests that leave a mark.
    pub duplicates_max: usize,
    /// Header fields that are looked at.
    pub header_fields_max: usize,
    /// Fields added and removed.
    pub edits_max: usize,
    /// Octets of a header after it was edited.
    pub header_bytes_max: usize,
    /// Octets of bodies that one test looks at.
    pub body_bytes_max: usize,

    /// A vacation period is raised to this (RFC 6131).
    pub vacation_seconds_min: u64,
    /// A vacation period is lowered to this.
    pub vacation_seconds_max: u64,
    /// A duplicate period is lowered to this (RFC 7352).
    pub duplicate_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            script_bytes_max: 64 << 10,
            nesting_max: 32,
            commands_max: 2_000,
            strings_max: 10_000,
            work_max: 20_000_000,
            includes_max: 32,
            include_depth_max: 8,
            variables_max: 256,
            variable_bytes_max: 8 << 10,
            string_bytes_max: 64 << 10,
            flags_max: 64,
            actions_max: 32,
            redirects_max: 5,
            duplicates_max: 16,
            header_fields_max: 2_000,
            edits_max: 64,
            header_bytes_max: 320 << 10,
            body_bytes_max: 1 << 20,
            vacation_seconds_min: 300,
            vacation_seconds_max: 90 * 86_400,
            duplicate_seconds_max: 30 * 86_400,
        }
    }
}
