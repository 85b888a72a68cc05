//! Variables and strings. RFC 5229.

use super::super::program::{Modifiers, Piece, Text};
use super::{Halt, Run};
use std::borrow::Cow;

/// Variables that all scripts of a run share (RFC 6609 section 3.4).
const GLOBAL: &str = "global.";

impl Run<'_> {
    /// The string with its variables put in; one that gets too long is cut.
    pub(super) fn expand<'t>(&mut self, text: &'t Text) -> Result<Cow<'t, str>, Halt> {
        if let Some(constant) = text.constant() {
            return Ok(Cow::Borrowed(constant));
        }
        let bytes_max = self.limits.string_bytes_max;
        let mut expanded = String::new();
        for piece in &text.pieces {
            let part = match piece {
                Piece::Literal(text) => text.as_str(),
                Piece::Variable(name) => self.scope.variables.get(name).map_or("", String::as_str),
                Piece::Global(name) => self.globals.get(name).map_or("", String::as_str),
                Piece::Match(number) => self.scope.matches.get(*number).map_or("", String::as_str),
            };
            let room = bytes_max.saturating_sub(expanded.len());
            expanded.push_str(cut(part, room));
        }
        self.spend(expanded.len())?;
        Ok(Cow::Owned(expanded))
    }

    pub(super) fn expand_all<'t>(&mut self, texts: &'t [Text]) -> Result<Vec<Cow<'t, str>>, Halt> {
        texts.iter().map(|text| self.expand(text)).collect()
    }

    pub(super) fn set(
        &mut self,
        name: &str,
        modifiers: Modifiers,
        value: &Text,
    ) -> Result<(), Halt> {
        let value = self.expand(value)?;
        let value = modified(value.into_owned(), modifiers);
        self.assign(name, &value)
    }

    /// A value that is too long is cut: that is no error (RFC 5229 section 6).
    pub(super) fn assign(&mut self, name: &str, value: &str) -> Result<(), Halt> {
        let value = cut(value, self.limits.variable_bytes_max).to_owned();
        let (variables, name) = match name.strip_prefix(GLOBAL) {
            Some(name) => (&mut self.globals, name),
            None => (&mut self.scope.variables, name),
        };
        if let Some(place) = variables.get_mut(name) {
            *place = value;
            return Ok(());
        }
        if self.variables >= self.limits.variables_max {
            return Err(self.halt("too many variables"));
        }
        self.variables = self.variables.saturating_add(1);
        variables.insert(name.to_owned(), value);
        Ok(())
    }

    /// A variable as `variable` of the compiler names it.
    pub(super) fn value_of(&self, name: &str) -> &str {
        let value = match name.strip_prefix(GLOBAL) {
            Some(name) => self.globals.get(name),
            None => self.scope.variables.get(name),
        };
        value.map_or("", String::as_str)
    }

    /// What the wildcards of a test stood for.
    pub(super) fn remember_matches(&mut self, mut captures: Vec<String>) {
        for capture in &mut captures {
            let length = cut(capture, self.limits.variable_bytes_max).len();
            capture.truncate(length);
        }
        self.scope.matches = captures;
    }
}

/// The longest start of at most so many octets that is whole characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

fn modified(mut value: String, modifiers: Modifiers) -> String {
    if modifiers.lower {
        value.make_ascii_lowercase();
    }
    if modifiers.upper {
        value.make_ascii_uppercase();
    }
    let first = value.get_mut(..1);
    if let Some(first) = first {
        if modifiers.lower_first {
            first.make_ascii_lowercase();
        }
        if modifiers.upper_first {
            first.make_ascii_uppercase();
        }
    }
    if modifiers.quote_wildcard {
        let mut quoted = String::with_capacity(value.len());
        for character in value.chars() {
            if matches!(character, '*' | '?' | '\\') {
                quoted.push('\\');
            }
            quoted.push(character);
        }
        value = quoted;
    }
    if modifiers.length {
        value = value.chars().count().to_string();
    }
    value
}
