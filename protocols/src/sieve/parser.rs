//! The grammar: commands, arguments, tests and blocks, whatever they mean. RFC 5228 section 8.2.

use super::fault::{Fault, Position};
use super::lexer::{Lexer, Token};
use super::limits::Limits;

/// A command or a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// In lower case.
    pub name: String,
    pub at: Position,
    pub arguments: Vec<Argument>,
    /// A test that follows without parentheses, or those within.
    pub tests: Vec<Node>,
    pub parenthesized: bool,
    /// `None`: the command ends with a semicolon.
    pub block: Option<Vec<Node>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub at: Position,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Tag(String),
    Number(u64),
    Text(String),
    List(Vec<(String, Position)>),
}

/// Reads a whole script.
pub(super) fn parse(source: &[u8], limits: &Limits) -> Result<Vec<Node>, Fault> {
    if source.len() > limits.script_bytes_max {
        let most = limits.script_bytes_max;
        let text = format!("the script is too long: at most {most} octets");
        return Err(Fault::new(Position::START, text));
    }
    let lexer = Lexer::new(source)?;
    let next = (Token::End, Position::START);
    let mut parser = Parser { lexer, next, limits, depth: 0, nodes: 0, strings: 0 };
    parser.advance()?;
    let nodes = parser.commands()?;
    match parser.next {
        (Token::End, _) => Ok(nodes),
        (token, at) => Err(Fault::new(at, format!("{} closes nothing: remove it", token.shown()))),
    }
}

struct Parser<'s> {
    lexer: Lexer<'s>,
    next: (Token, Position),
    limits: &'s Limits,
    depth: usize,
    nodes: usize,
    strings: usize,
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<Token, Fault> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.next, next).0)
    }

    fn is_mark(&self, mark: char) -> bool {
        self.next.0 == Token::Mark(mark)
    }

    fn take_mark(&mut self, mark: char) -> Result<bool, Fault> {
        let found = self.is_mark(mark);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect_mark(&mut self, mark: char, after: &str) -> Result<(), Fault> {
        if self.take_mark(mark)? {
            return Ok(());
        }
        let found = self.next.0.shown();
        Err(Fault::new(self.next.1, format!("expected `{mark}` {after}, found {found}")))
    }

    fn deeper(&mut self, at: Position) -> Result<(), Fault> {
        self.depth = self.depth.saturating_add(1);
        if self.depth > self.limits.nesting_max {
            let most = self.limits.nesting_max;
            return Err(Fault::new(at, format!("nested too deep: at most {most} levels")));
        }
        Ok(())
    }

    fn higher(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn commands(&mut self) -> Result<Vec<Node>, Fault> {
        let mut nodes = Vec::new();
        while let (Token::Identifier(name), at) = self.next.clone() {
            self.advance()?;
            nodes.push(self.command(name, at)?);
        }
        match &self.next {
            (Token::End | Token::Mark('}'), _) => Ok(nodes),
            (token, at) => {
                Err(Fault::new(*at, format!("expected a command, found {}", token.shown())))
            }
        }
    }

    fn command(&mut self, name: String, at: Position) -> Result<Node, Fault> {
        let mut node = self.node(name, at)?;
        if self.take_mark(';')? {
            return Ok(node);
        }
        let opened_at = self.next.1;
        if !self.take_mark('{')? {
            let found = self.next.0.shown();
            let text = format!("expected `;` or a block after `{}`, found {found}", node.name);
            return Err(Fault::new(self.next.1, text));
        }
        self.deeper(opened_at)?;
        node.block = Some(self.commands()?);
        self.higher();
        if !self.take_mark('}')? {
            return Err(Fault::new(opened_at, "this block is not closed: add `}`"));
        }
        Ok(node)
    }

    /// What a command and a test have in common: name, arguments, tests.
    fn node(&mut self, name: String, at: Position) -> Result<Node, Fault> {
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > self.limits.commands_max {
            let most = self.limits.commands_max;
            return Err(Fault::new(at, format!("too many commands and tests: at most {most}")));
        }
        let mut node = Node {
            name,
            at,
            arguments: Vec::new(),
            tests: Vec::new(),
            parenthesized: false,
            block: None,
        };
        while let Some(argument) = self.argument()? {
            node.arguments.push(argument);
        }
        match self.next.clone() {
            (Token::Identifier(name), at) => {
                self.advance()?;
                self.deeper(at)?;
                node.tests.push(self.node(name, at)?);
                self.higher();
            }
            (Token::Mark('('), at) => {
                self.advance()?;
                self.deeper(at)?;
                node.parenthesized = true;
                node.tests = self.tests()?;
                self.higher();
            }
            (_, _) => {}
        }
        Ok(node)
    }

    fn tests(&mut self) -> Result<Vec<Node>, Fault> {
        let mut tests = Vec::new();
        loop {
            let (Token::Identifier(name), at) = self.next.clone() else {
                let text = format!("expected a test, found {}", self.next.0.shown());
                return Err(Fault::new(self.next.1, text));
            };
            self.advance()?;
            tests.push(self.node(name, at)?);
            if !self.take_mark(',')? {
                self.expect_mark(')', "or `,` after a test")?;
                return Ok(tests);
            }
        }
    }

    fn argument(&mut self) -> Result<Option<Argument>, Fault> {
        let at = self.next.1;
        let value = match &self.next.0 {
            Token::Tag(name) => Value::Tag(name.clone()),
            Token::Number(number) => Value::Number(*number),
            Token::Text(_) => {
                let (text, _) = self.text()?;
                return Ok(Some(Argument { at, value: Value::Text(text) }));
            }
            Token::Mark('[') => {
                return Ok(Some(Argument { at, value: Value::List(self.list()?) }));
            }
            Token::Identifier(_) | Token::Mark(_) | Token::End => return Ok(None),
        };
        self.advance()?;
        Ok(Some(Argument { at, value }))
    }

    fn list(&mut self) -> Result<Vec<(String, Position)>, Fault> {
        self.advance()?;
        let mut texts = Vec::new();
        loop {
            texts.push(self.text()?);
            if !self.take_mark(',')? {
                self.expect_mark(']', "or `,` after a string of a list")?;
                return Ok(texts);
            }
        }
    }

    fn text(&mut self) -> Result<(String, Position), Fault> {
        let at = self.next.1;
        self.strings = self.strings.saturating_add(1);
        if self.strings > self.limits.strings_max {
            let most = self.limits.strings_max;
            return Err(Fault::new(at, format!("too many strings: at most {most}")));
        }
        match self.next.0 {
            Token::Text(_) => match self.advance()? {
                Token::Text(text) => Ok((text, at)),
                other => Err(Fault::new(at, format!("expected a string, found {}", other.shown()))),
            },
            _ => {
                let found = self.next.0.shown();
                Err(Fault::new(at, format!("expected a string, found {found}")))
            }
        }
    }
}
