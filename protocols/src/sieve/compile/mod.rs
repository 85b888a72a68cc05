//! From the grammar to a program: which commands and tests there are, what they take, what has to
//! be asked for with `require`. RFC 5228 sections 2.10.5, 3 to 5.
//!
//! | file | what |
//! |---|---|
//! | `mod` | control commands, blocks, the state of compiling |
//! | `arguments` | taking tags and positional arguments off a node |
//! | `texts` | strings: encoded characters, variables |
//! | `actions` | what is done with a message |
//! | `tests` | what is asked of it |
//!
//! A fault costs its command alone, so that several are told at once.

mod actions;
mod arguments;
mod tests;
mod texts;

use super::capability::{Capability, meant};
use super::fault::{Fault, Position, shown};
use super::limits::{FAULTS_MAX, Limits};
use super::parser::{self, Node};
use super::program::{Command, CommandKind, Include, Location, Script};
use arguments::Arguments;

pub(super) use actions::is_field_name;

const COMMANDS: [&str; 21] = [
    "require",
    "if",
    "elsif",
    "else",
    "stop",
    "return",
    "include",
    "global",
    "keep",
    "fileinto",
    "redirect",
    "discard",
    "reject",
    "ereject",
    "vacation",
    "set",
    "setflag",
    "addflag",
    "removeflag",
    "addheader",
    "deleteheader",
];
const TESTS: [&str; 21] = [
    "true",
    "false",
    "not",
    "allof",
    "anyof",
    "exists",
    "size",
    "header",
    "address",
    "envelope",
    "body",
    "date",
    "currentdate",
    "hasflag",
    "string",
    "environment",
    "spamtest",
    "virustest",
    "mailboxexists",
    "specialuse_exists",
    "duplicate",
];

pub(super) fn compile(source: &[u8], limits: &Limits) -> Result<Script, Vec<Fault>> {
    let nodes = parser::parse(source, limits).map_err(|fault| vec![fault])?;
    let mut compiler = Compiler::default();
    let (requires, rest): (&[Node], &[Node]) = {
        let end = nodes.iter().position(|node| node.name != "require").unwrap_or(nodes.len());
        nodes.split_at_checked(end).unwrap_or((&nodes, &[]))
    };
    for node in requires {
        let result = compiler.require(node);
        compiler.note(result);
    }
    let commands = compiler.block(rest);
    if compiler.faults.is_empty() {
        Ok(Script {
            commands,
            includes: compiler.includes,
            looks_at_body: compiler.looks_at_body,
            warnings: compiler.warnings,
        })
    } else {
        Err(compiler.faults)
    }
}

#[derive(Default)]
pub(super) struct Compiler {
    required: Vec<Capability>,
    /// Names that `global` has declared so far, in lower case.
    globals: Vec<String>,
    includes: Vec<Include>,
    looks_at_body: bool,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Compiler {
    /// Keeps a fault, as long as there are few.
    fn note<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                if self.faults.len() < FAULTS_MAX {
                    self.faults.push(fault);
                }
                None
            }
        }
    }

    fn warn(&mut self, at: Position, text: &str) {
        if self.warnings.len() < FAULTS_MAX {
            self.warnings.push(Fault::new(at, text));
        }
    }

    fn has(&self, capability: Capability) -> bool {
        self.required.iter().any(|required| required.brings(capability))
    }

    /// `word` can be used if its extension was asked for.
    fn need(&self, capability: Capability, word: &str, at: Position) -> Result<(), Fault> {
        if self.has(capability) {
            return Ok(());
        }
        let name = capability.name();
        let text = format!("`{word}` needs `require \"{name}\";` at the top of the script");
        Err(Fault::new(at, text))
    }

    // ── commands ────────────────────────────────────────────────────────────────────────────────

    fn block(&mut self, nodes: &[Node]) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut left = nodes.iter().peekable();
        let mut ended = false;
        while let Some(node) = left.next() {
            if ended {
                self.warn(node.at, "never reached: a `stop` or `return` stands before it");
                ended = false;
            }
            if node.name == "if" {
                let mut chain = vec![node];
                while let Some(next) =
                    left.next_if(|next| matches!(next.name.as_str(), "elsif" | "else"))
                {
                    chain.push(next);
                }
                let kind = self.chain(&chain);
                commands.extend(kind.map(|kind| Command { at: node.at, kind }));
                continue;
            }
            ended = matches!(node.name.as_str(), "stop" | "return");
            let kind = self.command(node);
            let kind = self.note(kind);
            commands.extend(kind.map(|kind| Command { at: node.at, kind }));
        }
        commands
    }

    /// `if`, its `elsif`s and its `else`.
    fn chain(&mut self, chain: &[&Node]) -> Option<CommandKind> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        let mut has_else = false;
        for node in chain {
            let block = match &node.block {
                Some(block) => self.block(block),
                None => {
                    let text = format!("`{}` wants a block: add `{{ … }}`", node.name);
                    self.note::<()>(Err(Fault::new(node.at, text)));
                    continue;
                }
            };
            if has_else {
                let text = format!("`{}` can't follow `else`: put it before", node.name);
                self.note::<()>(Err(Fault::new(node.at, text)));
            } else if node.name == "else" {
                has_else = true;
                let fault = Arguments::new(node).nothing();
                self.note(fault);
                otherwise = block;
            } else {
                let test = self.condition(node);
                let test = self.note(test);
                branches.extend(test.map(|test| (test, block)));
            }
        }
        Some(CommandKind::If { branches, otherwise })
    }

    fn condition(&mut self, node: &Node) -> Result<super::program::Test, Fault> {
        if let Some(argument) = node.arguments.first() {
            let text = format!("`{}` wants a test and nothing before it", node.name);
            return Err(Fault::new(argument.at, text));
        }
        match node.tests.as_slice() {
            [test] if !node.parenthesized => self.test(test),
            _ => {
                let text = format!(
                    "`{}` wants one test without parentheses; several go into `allof` or `anyof`",
                    node.name
                );
                Err(Fault::new(node.at, text))
            }
        }
    }

    fn command(&mut self, node: &Node) -> Result<CommandKind, Fault> {
        let name = node.name.as_str();
        let mut arguments = Arguments::new(node);
        match name {
            "elsif" | "else" => {
                let text = format!("`{name}` must follow the block of an `if`");
                return Err(Fault::new(node.at, text));
            }
            "require" => {
                let text = "`require` must stand before all other commands: move it to the top";
                return Err(Fault::new(node.at, text));
            }
            _ => {}
        }
        if !COMMANDS.contains(&name) {
            return Err(unknown("command", node, &COMMANDS, &TESTS));
        }
        arguments.no_test()?;
        let kind = match name {
            "stop" => CommandKind::Stop,
            "return" => {
                self.need(Capability::Include, name, node.at)?;
                CommandKind::Return
            }
            "include" => self.include(&mut arguments)?,
            "global" => self.global(&mut arguments)?,
            _ => self.action(&mut arguments)?,
        };
        arguments.finish()?;
        Ok(kind)
    }

    fn require(&mut self, node: &Node) -> Result<(), Fault> {
        let mut arguments = Arguments::new(node);
        arguments.no_test()?;
        let names = arguments.next("the extensions, as strings")?;
        arguments.finish()?;
        for (name, at) in arguments::strings(names)? {
            match Capability::named(name) {
                Some(capability) => self.required.push(capability),
                None => {
                    let mut text = format!("the extension \"{}\" is not known here", shown(name));
                    if let Some(meant) = meant(name, Capability::names()) {
                        text.push_str(&format!("; did you mean \"{meant}\"?"));
                    }
                    self.note::<()>(Err(Fault::new(at, text)));
                }
            }
        }
        Ok(())
    }

    /// RFC 6609 section 3.2.
    fn include(&mut self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        self.need(Capability::Include, "include", arguments.at)?;
        let personal = arguments.flag(self, "personal", None)?;
        let global = arguments.flag(self, "global", None)?;
        let once = arguments.flag(self, "once", None)?;
        let optional = arguments.flag(self, "optional", None)?;
        let (name, at) = arguments::string(arguments.next("the name of a script")?)?;
        if personal && global {
            return Err(Fault::new(arguments.at, "either `:personal` or `:global`, not both"));
        }
        if self.text(name, at)?.constant() != Some(name) {
            return Err(Fault::new(at, "the name of a script can't hold variables"));
        }
        if !is_script_name(name) {
            return Err(Fault::new(at, "no script can have this name"));
        }
        let location = if global { Location::Global } else { Location::Personal };
        let include = Include { location, name: name.to_owned() };
        if !self.includes.contains(&include) {
            self.includes.push(include.clone());
        }
        Ok(CommandKind::Include { include, once, optional })
    }

    /// RFC 6609 section 3.4.
    fn global(&mut self, arguments: &mut Arguments<'_>) -> Result<CommandKind, Fault> {
        self.need(Capability::Include, "global", arguments.at)?;
        self.need(Capability::Variables, "global", arguments.at)?;
        let mut names = Vec::new();
        for (name, at) in arguments::strings(arguments.next("the names of variables")?)? {
            let name = texts::identifier(name)
                .ok_or_else(|| Fault::new(at, "no variable can have this name"))?;
            if !self.globals.contains(&name) {
                self.globals.push(name.clone());
            }
            names.push(name);
        }
        Ok(CommandKind::Global(names))
    }
}

/// RFC 5804 section 1.6: no control characters, no line separators; and not empty.
#[must_use]
pub fn is_script_name(name: &str) -> bool {
    const BYTES_MAX: usize = 512;
    let odd = |character: char| character.is_control() || "\u{2028}\u{2029}".contains(character);
    !name.is_empty() && name.len() <= BYTES_MAX && !name.contains(odd)
}

/// `node` is no `what`; perhaps one of the others, or misspelled.
fn unknown(what: &str, node: &Node, known: &[&'static str], others: &[&str]) -> Fault {
    let name = shown(&node.name);
    let text = if others.contains(&node.name.as_str()) {
        match what {
            "command" => format!("`{name}` is a test: put it behind `if`"),
            _ => format!("`{name}` is a command, not a test"),
        }
    } else {
        match meant(&node.name, known.iter().copied()) {
            Some(meant) => format!("unknown {what} `{name}`; did you mean `{meant}`?"),
            None => format!("unknown {what} `{name}`"),
        }
    };
    Fault::new(node.at, text)
}

#[cfg(test)]
mod require_tests;
