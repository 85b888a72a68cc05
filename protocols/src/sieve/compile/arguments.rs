//! Taking arguments off a command or a test: tags first, in any order, then what has its place.
//! RFC 5228 section 2.6.

use super::super::capability::Capability;
use super::super::fault::{Fault, Position, shown};
use super::super::parser::{Argument, Node, Value};
use super::super::program::Text;
use super::Compiler;

pub(super) struct Arguments<'n> {
    pub(super) node: &'n Node,
    pub(super) at: Position,
    /// What has not been taken yet, with its place.
    left: Vec<(usize, &'n Argument)>,
    /// Behind the last tag that was taken.
    tags_end: usize,
}

impl<'n> Arguments<'n> {
    pub(super) fn new(node: &'n Node) -> Arguments<'n> {
        let left = node.arguments.iter().enumerate().collect();
        Arguments { node, at: node.at, left, tags_end: 0 }
    }

    pub(super) fn name(&self) -> &'n str {
        &self.node.name
    }

    /// How many are left: all of them have their places once the tags are taken.
    pub(super) fn count(&self) -> usize {
        self.left.len()
    }

    /// Whether the tag is there.
    pub(super) fn flag(
        &mut self,
        compiler: &Compiler,
        tag: &str,
        needs: Option<Capability>,
    ) -> Result<bool, Fault> {
        Ok(self.find(compiler, tag, needs)?.is_some())
    }

    /// Takes the tag out; gives where in `left` it was, and its place.
    fn find(
        &mut self,
        compiler: &Compiler,
        tag: &str,
        needs: Option<Capability>,
    ) -> Result<Option<(usize, usize)>, Fault> {
        let is_it = |(_, argument): &(usize, &Argument)| match &argument.value {
            Value::Tag(name) => name == tag,
            Value::Number(_) | Value::Text(_) | Value::List(_) => false,
        };
        let Some(found) = self.left.iter().position(is_it) else { return Ok(None) };
        let (place, argument) = self.left.remove(found);
        if let Some(capability) = needs {
            compiler.need(capability, &format!(":{tag}"), argument.at)?;
        }
        self.tags_end = self.tags_end.max(place.saturating_add(1));
        Ok(Some((found, place)))
    }

    /// What follows the tag, if the tag is there.
    pub(super) fn after(
        &mut self,
        compiler: &Compiler,
        tag: &str,
        needs: Option<Capability>,
    ) -> Result<Option<&'n Argument>, Fault> {
        let Some((found, tag_place)) = self.find(compiler, tag, needs)? else { return Ok(None) };
        let follows = |(place, argument): &&(usize, &'n Argument)| {
            *place == tag_place.saturating_add(1) && !matches!(argument.value, Value::Tag(_))
        };
        if self.left.get(found).filter(follows).is_none() {
            return Err(Fault::new(self.at, format!("`:{tag}` wants something behind it")));
        }
        let (place, argument) = self.left.remove(found);
        self.tags_end = self.tags_end.max(place.saturating_add(1));
        Ok(Some(argument))
    }

    pub(super) fn text_after(
        &mut self,
        compiler: &Compiler,
        tag: &str,
        needs: Option<Capability>,
    ) -> Result<Option<Text>, Fault> {
        match self.after(compiler, tag, needs)? {
            Some(argument) => compiler.one_text(argument).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn texts_after(
        &mut self,
        compiler: &Compiler,
        tag: &str,
        needs: Option<Capability>,
    ) -> Result<Option<Vec<Text>>, Fault> {
        match self.after(compiler, tag, needs)? {
            Some(argument) => compiler.texts(argument).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn number_after(
        &mut self,
        compiler: &Compiler,
        tag: &str,
        needs: Option<Capability>,
    ) -> Result<Option<u64>, Fault> {
        self.after(compiler, tag, needs)?.map(number).transpose()
    }

    /// The next argument in its place.
    pub(super) fn next(&mut self, what: &str) -> Result<&'n Argument, Fault> {
        let Some((place, argument)) = self.left.first().copied() else {
            return Err(Fault::new(self.at, format!("`{}` wants {what}", self.node.name)));
        };
        if let Value::Tag(tag) = &argument.value {
            return Err(self.unknown_tag(tag, argument.at));
        }
        if place < self.tags_end {
            let text = format!("tags go before what else `{}` takes", self.node.name);
            return Err(Fault::new(argument.at, text));
        }
        self.left.remove(0);
        Ok(argument)
    }

    fn unknown_tag(&self, tag: &str, at: Position) -> Fault {
        let (tag, name) = (shown(tag), &self.node.name);
        Fault::new(at, format!("`{name}` has no tag `:{tag}`, or it is given twice"))
    }

    /// Nothing may be left.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        let Some((_, argument)) = self.left.first() else { return Ok(()) };
        if let Value::Tag(tag) = &argument.value {
            return Err(self.unknown_tag(tag, argument.at));
        }
        let text = format!("`{}` takes nothing more here", self.node.name);
        Err(Fault::new(argument.at, text))
    }

    /// For commands that take no test and no block.
    pub(super) fn no_test(&self) -> Result<(), Fault> {
        let name = &self.node.name;
        if let Some(test) = self.node.tests.first() {
            let text =
                format!("`{name}` takes no test: is a `;` missing before `{}`?", shown(&test.name));
            return Err(Fault::new(test.at, text));
        }
        if self.node.block.is_some() {
            let text = format!("`{name}` takes no block: end it with `;`");
            return Err(Fault::new(self.at, text));
        }
        Ok(())
    }

    /// For `else`: neither arguments nor tests.
    pub(super) fn nothing(&self) -> Result<(), Fault> {
        self.finish()?;
        match self.node.tests.first() {
            Some(test) => {
                let text = format!("`{}` takes no test: use `elsif`", self.node.name);
                Err(Fault::new(test.at, text))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn number(argument: &Argument) -> Result<u64, Fault> {
    match &argument.value {
        Value::Number(number) => Ok(*number),
        Value::Tag(_) | Value::Text(_) | Value::List(_) => {
            Err(Fault::new(argument.at, "a number is wanted here, without quotes"))
        }
    }
}

pub(super) fn string(argument: &Argument) -> Result<(&str, Position), Fault> {
    match &argument.value {
        Value::Text(text) => Ok((text, argument.at)),
        Value::Tag(_) | Value::Number(_) | Value::List(_) => {
            Err(Fault::new(argument.at, "a single string is wanted here"))
        }
    }
}

/// A list of strings; a string alone is a list of one.
pub(super) fn strings(argument: &Argument) -> Result<Vec<(&str, Position)>, Fault> {
    match &argument.value {
        Value::Text(text) => Ok(vec![(text, argument.at)]),
        Value::List(texts) => Ok(texts.iter().map(|(text, at)| (text.as_str(), *at)).collect()),
        Value::Tag(_) | Value::Number(_) => {
            Err(Fault::new(argument.at, "a string or a list of strings is wanted here"))
        }
    }
}
