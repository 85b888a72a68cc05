//! A script that has been checked, as the interpreter runs it.

use super::fault::Position;
use super::limits::Limits;
use super::matching::Match;

/// A compiled script; made by [`super::compile`], run by [`super::run`]. It may be kept and run any
/// number of times, by several sessions at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub(super) commands: Vec<Command>,
    pub(super) includes: Vec<Include>,
    pub(super) looks_at_body: bool,
    pub(super) warnings: Vec<super::Fault>,
}

impl Script {
    /// # Errors
    /// Up to ten faults in the order of their places, never none.
    pub fn compile(source: &[u8], limits: &Limits) -> Result<Script, Vec<super::Fault>> {
        super::compile::compile(source, limits)
    }

    /// The scripts that this one may include, each once: to be at hand before it is run, and theirs
    /// in turn. Names are constants (RFC 6609 section 3.2), so nothing else is ever asked for.
    #[must_use]
    pub fn includes(&self) -> &[Include] {
        &self.includes
    }

    /// Whether it may look at more of the message than its header.
    #[must_use]
    pub fn looks_at_body(&self) -> bool {
        self.looks_at_body
    }

    /// What is legal and probably not meant.
    #[must_use]
    pub fn warnings(&self) -> &[super::Fault] {
        &self.warnings
    }
}

/// Whose scripts a name is looked up in. RFC 6609 section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// The user's own.
    Personal,
    /// The operator's, for all users.
    Global,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Include {
    pub location: Location,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub at: Position,
    pub kind: CommandKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommandKind {
    If { branches: Vec<(Test, Vec<Command>)>, otherwise: Vec<Command> },
    Stop,
    Return,
    Include { include: Include, once: bool, optional: bool },
    Global(Vec<String>),
    Keep { flags: Option<Vec<Text>> },
    FileInto { filing: Filing, copy: bool },
    Redirect { address: Text, copy: bool },
    Discard,
    Reject { text: Text, extended: bool },
    Vacation(Box<Vacation>),
    Set { name: String, modifiers: Modifiers, value: Text },
    Flags { change: FlagChange, variable: Option<String>, flags: Vec<Text> },
    AddHeader { name: Text, value: Text, last: bool },
    DeleteHeader { name: Text, patterns: Vec<Text>, spec: Match },
}

/// Where a message, or a copy of a reply, goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filing {
    pub mailbox: Text,
    pub flags: Option<Vec<Text>>,
    pub create: bool,
    pub special_use: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vacation {
    pub seconds: u64,
    pub subject: Option<Text>,
    pub from: Option<Text>,
    pub addresses: Vec<Text>,
    pub mime: bool,
    pub handle: Option<Text>,
    pub fcc: Option<Filing>,
    pub reason: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagChange {
    Set,
    Add,
    Remove,
}

/// RFC 5229 section 4.1, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Modifiers {
    pub upper: bool,
    pub lower: bool,
    pub upper_first: bool,
    pub lower_first: bool,
    pub quote_wildcard: bool,
    pub length: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Test {
    pub at: Position,
    pub kind: TestKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TestKind {
    True,
    False,
    Not(Box<Test>),
    AllOf(Vec<Test>),
    AnyOf(Vec<Test>),
    Exists(Vec<Text>),
    Size { over: bool, octets: u64 },
    Header { names: Vec<Text>, keys: Vec<Text>, spec: Match },
    Address { part: AddressPart, names: Vec<Text>, keys: Vec<Text>, spec: Match },
    Envelope { part: AddressPart, parts: Vec<Text>, keys: Vec<Text>, spec: Match },
    Body { transform: Transform, keys: Vec<Text>, spec: Match },
    Date { zone: Zone, source: DateSource, part: DatePart, keys: Vec<Text>, spec: Match },
    HasFlag { variables: Vec<String>, flags: Vec<Text>, spec: Match },
    Strings { sources: Vec<Text>, keys: Vec<Text>, spec: Match },
    Environment { item: Text, keys: Vec<Text>, spec: Match },
    Spam { percent: bool, key: Text, spec: Match },
    Virus { key: Text, spec: Match },
    MailboxExists(Vec<Text>),
    SpecialUseExists { mailbox: Option<Text>, attributes: Vec<Text> },
    Duplicate(Box<Duplicate>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressPart {
    All,
    LocalPart,
    Domain,
    User,
    Detail,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Transform {
    Raw,
    Content(Vec<Text>),
    Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Zone {
    Local,
    Original,
    Fixed(Text),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DateSource {
    /// Of this header field.
    Field(Text),
    Now,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DatePart {
    Year,
    Month,
    Day,
    Date,
    Julian,
    Hour,
    Minute,
    Second,
    Time,
    Iso8601,
    Std11,
    Zone,
    Weekday,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Duplicate {
    pub handle: Option<Text>,
    pub id: DuplicateId,
    pub seconds: u64,
    pub last: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DuplicateId {
    MessageId,
    Field(Text),
    Unique(Text),
}

/// A string of the script, with places where variables go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    pub at: Position,
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    /// In lower case.
    Variable(String),
    /// Declared global, or with the `global` namespace.
    Global(String),
    Match(usize),
}

impl Text {
    /// The text, when no variable is in it.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }
}
