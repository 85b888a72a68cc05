//! What is wrong with a script, and where.

use std::fmt;

/// A place in a script; both count from one, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    pub(super) const START: Position = Position { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "line {}, column {}", self.line, self.column)
    }
}

/// A fault with words for whoever wrote the script: what is wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {text}")]
pub struct Fault {
    pub at: Position,
    pub text: String,
}

impl Fault {
    pub(super) fn new(at: Position, text: impl Into<String>) -> Fault {
        Fault { at, text: text.into() }
    }
}

/// A word of the script's, fit to be quoted in a message.
pub(super) fn shown(word: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut text: String = word
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(CHARACTERS_MAX)
        .collect();
    if word.chars().count() > CHARACTERS_MAX {
        text.push('…');
    }
    text
}
