//! The interpreter. RFC 5228 section 2.10.
//!
//! | file | what |
//! |---|---|
//! | `mod` | commands in their order, included scripts, the implicit keep |
//! | `texts` | variables and strings |
//! | `tests` | what is asked of the message |
//! | `body` | what is asked of its body |
//! | `actions` | what is to be done with it |
//! | `vacation` | whether the sender gets a reply, and which |
//!
//! Nothing loops: commands nest as deep as the script does, and included scripts as deep as the
//! limit says. What the limits do not bound one by one is bounded by what a run may cost.

mod actions;
mod body;
mod tests;
mod texts;
mod vacation;

use super::fault::{Fault, Position, shown};
use super::header::Header;
use super::limits::{Limits, WORK_OF_A_STEP};
use super::matching::{Spent, Work};
use super::outcome::{Action, DuplicateMark, Edited, Outcome, RunError};
use super::program::{Command, CommandKind, Include, Script};
use super::world::{Mail, Missing, World};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Runs a script on a message.
pub fn run(script: &Script, mail: &Mail<'_>, world: &dyn World, limits: &Limits) -> Outcome {
    run_in_turn(&[script], mail, world, limits)
}

/// Runs several scripts, such as an operator's and then a user's, as if they were one: no mailbox
/// and no address gets the message twice, and what one does to the header the next one sees.
///
/// A message that a script keeps, by word or because nothing cancelled it, goes on to the next
/// script, with the flags that it has by then; the last one's keep is done. One that a script
/// files, redirects, rejects or discards without keeping it ends the turn. An error costs the
/// script in which it happened all of its effects, and no other script any of theirs. Each has the
/// work and the variables to itself.
pub fn run_in_turn(
    scripts: &[&Script],
    mail: &Mail<'_>,
    world: &dyn World,
    limits: &Limits,
) -> Outcome {
    let mut run = Run::new(mail, world, limits);
    let mut work: u64 = 0;
    let mut error = None;
    for (index, script) in scripts.iter().enumerate() {
        let is_last = index.saturating_add(1) == scripts.len();
        let before = run.begin();
        let result = run.commands(&script.commands).and_then(|_| run.end(is_last));
        work = work.saturating_add(limits.work_max.saturating_sub(run.work.left()));
        match result {
            Ok(Turn::GoesOn) => {}
            Ok(Turn::Ended) => break,
            Err(halt) => {
                error = error.or(Some(RunError { turn: index, ..*halt.0 }));
                run.undo(before);
                if is_last {
                    let header = run.edited.as_ref().map(|(_, bytes)| Arc::clone(bytes));
                    let header = header.filter(|_| run.header.edits() > 0);
                    run.actions.push(Action::Keep { flags: run.flags.clone(), header });
                    run.implicit_keep = true;
                }
            }
        }
    }
    if scripts.is_empty() {
        run.actions.push(Action::Keep { flags: Vec::new(), header: None });
    }
    Outcome {
        actions: run.actions,
        duplicates: run.duplicates,
        error,
        implicit_keep: run.implicit_keep,
        work,
    }
}

/// How a script's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    GoesOn,
    Ended,
}

/// What an error gives back.
struct Before<'r> {
    header: Rc<Header<'r>>,
    edited: Option<(usize, Arc<[u8]>)>,
    flags: Vec<String>,
    actions: usize,
    duplicates: usize,
    has_vacation: bool,
}

/// The run can't go on.
#[derive(Debug)]
struct Halt(Box<RunError>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    /// The script that is running ends, and whoever included it goes on.
    Return,
    Stop,
}

/// What an included script does not share.
#[derive(Debug, Default)]
struct Scope {
    variables: BTreeMap<String, String>,
    /// `${0}` and on.
    matches: Vec<String>,
}

struct Run<'r> {
    mail: &'r Mail<'r>,
    world: &'r dyn World,
    limits: &'r Limits,
    work: Work,
    /// What is being run, for errors.
    at: Position,
    header: Rc<Header<'r>>,
    /// The header as it was after so many edits.
    edited: Option<(usize, Arc<[u8]>)>,
    scope: Scope,
    globals: BTreeMap<String, String>,
    variables: usize,
    flags: Vec<String>,
    actions: Vec<Action>,
    duplicates: Vec<DuplicateMark>,
    implicit_keep: bool,
    has_vacation: bool,
    /// The scripts that are running, outermost first; the first is not among them.
    running: Vec<Include>,
    /// All that were included so far.
    included: Vec<Include>,
}

impl<'r> Run<'r> {
    fn new(mail: &'r Mail<'r>, world: &'r dyn World, limits: &'r Limits) -> Run<'r> {
        let header_bytes = usize::try_from(mail.summary.header_bytes()).unwrap_or(usize::MAX);
        let header = mail.raw.get(..header_bytes).unwrap_or(mail.raw);
        Run {
            mail,
            world,
            limits,
            work: Work::new(limits.work_max),
            at: Position::START,
            header: Rc::new(Header::new(header, limits.header_fields_max)),
            edited: None,
            scope: Scope::default(),
            globals: BTreeMap::new(),
            variables: 0,
            flags: Vec::new(),
            actions: Vec::new(),
            duplicates: Vec::new(),
            implicit_keep: true,
            has_vacation: false,
            running: Vec::new(),
            included: Vec::new(),
        }
    }

    /// The next script's turn.
    fn begin(&mut self) -> Before<'r> {
        self.work = Work::new(self.limits.work_max);
        self.scope = Scope::default();
        self.globals.clear();
        self.variables = 0;
        self.running.clear();
        self.included.clear();
        self.implicit_keep = true;
        Before {
            header: Rc::clone(&self.header),
            edited: self.edited.clone(),
            flags: self.flags.clone(),
            actions: self.actions.len(),
            duplicates: self.duplicates.len(),
            has_vacation: self.has_vacation,
        }
    }

    fn undo(&mut self, before: Before<'r>) {
        self.header = before.header;
        self.edited = before.edited;
        self.flags = before.flags;
        self.actions.truncate(before.actions);
        self.duplicates.truncate(before.duplicates);
        self.has_vacation = before.has_vacation;
    }

    /// A keep is done at the end of the last turn only.
    fn end(&mut self, is_last: bool) -> Result<Turn, Halt> {
        // So that an error in a later script finds the header at hand.
        let _ = self.edited_header()?;
        if is_last {
            self.keep_implicitly()?;
            return Ok(Turn::Ended);
        }
        let kept = self.actions.iter().position(|action| matches!(action, Action::Keep { .. }));
        match kept.map(|place| self.actions.remove(place)) {
            Some(Action::Keep { flags, .. }) => {
                self.flags = flags;
                Ok(Turn::GoesOn)
            }
            Some(_) | None if self.implicit_keep => Ok(Turn::GoesOn),
            Some(_) | None => Ok(Turn::Ended),
        }
    }

    fn halt(&self, text: impl Into<String>) -> Halt {
        let script = self.running.last().cloned();
        Halt(Box::new(RunError { turn: 0, script, fault: Fault::new(self.at, text) }))
    }

    fn spent(&self) -> Halt {
        self.halt("the script costs too much on this message: it was given up")
    }

    fn spend(&mut self, octets: usize) -> Result<(), Halt> {
        self.work.take(octets).map_err(|Spent| self.spent())
    }

    fn step(&mut self, at: Position) -> Result<(), Halt> {
        self.at = at;
        self.spend(usize::try_from(WORK_OF_A_STEP).unwrap_or(usize::MAX))
    }

    fn commands(&mut self, commands: &[Command]) -> Result<Flow, Halt> {
        for command in commands {
            self.step(command.at)?;
            match self.command(command)? {
                Flow::Next => {}
                flow @ (Flow::Return | Flow::Stop) => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn command(&mut self, command: &Command) -> Result<Flow, Halt> {
        match &command.kind {
            CommandKind::If { branches, otherwise } => {
                for (test, block) in branches {
                    if self.test(test)? {
                        return self.commands(block);
                    }
                }
                return self.commands(otherwise);
            }
            CommandKind::Stop => return Ok(Flow::Stop),
            CommandKind::Return => return Ok(Flow::Return),
            CommandKind::Include { include, once, optional } => {
                return self.include(include, *once, *optional);
            }
            // Which names it declares was seen to by the compiler.
            CommandKind::Global(_) => {}
            CommandKind::Keep { flags } => self.keep(flags.as_deref())?,
            CommandKind::FileInto { filing, copy } => self.file(filing, *copy)?,
            CommandKind::Redirect { address, copy } => self.redirect(address, *copy)?,
            CommandKind::Discard => self.implicit_keep = false,
            CommandKind::Reject { text, extended } => self.reject(text, *extended)?,
            CommandKind::Vacation(vacation) => self.vacation(vacation)?,
            CommandKind::Set { name, modifiers, value } => self.set(name, *modifiers, value)?,
            CommandKind::Flags { change, variable, flags } => {
                self.change_flags(*change, variable.as_deref(), flags)?;
            }
            CommandKind::AddHeader { name, value, last } => self.add_header(name, value, *last)?,
            CommandKind::DeleteHeader { name, patterns, spec } => {
                self.delete_header(name, patterns, spec)?;
            }
        }
        Ok(Flow::Next)
    }

    /// RFC 6609 section 3.2.
    fn include(&mut self, include: &Include, once: bool, optional: bool) -> Result<Flow, Halt> {
        if once && self.included.contains(include) {
            return Ok(Flow::Next);
        }
        let name = shown(&include.name);
        if self.running.contains(include) {
            return Err(self.halt(format!("\"{name}\" includes itself")));
        }
        if self.running.len() >= self.limits.include_depth_max {
            return Err(self.halt("scripts include one another too deep"));
        }
        if self.included.len() >= self.limits.includes_max {
            return Err(self.halt("too many scripts are included"));
        }
        let world = self.world;
        let script = match world.script(include) {
            Ok(script) => script,
            Err(Missing::NotFound) if optional => return Ok(Flow::Next),
            Err(Missing::NotFound) => {
                return Err(self.halt(format!("there is no script \"{name}\" to include")));
            }
            Err(Missing::Faulty) => {
                return Err(self.halt(format!("the script \"{name}\" to include is faulty")));
            }
        };
        self.included.push(include.clone());
        self.running.push(include.clone());
        let outer = std::mem::take(&mut self.scope);
        let flow = self.commands(&script.commands)?;
        self.scope = outer;
        self.running.pop();
        Ok(if flow == Flow::Stop { Flow::Stop } else { Flow::Next })
    }

    fn keep_implicitly(&mut self) -> Result<(), Halt> {
        if self.implicit_keep {
            let (flags, header) = (self.flags.clone(), self.edited_header()?);
            if !self.actions.iter().any(|action| matches!(action, Action::Keep { .. })) {
                self.actions.push(Action::Keep { flags, header });
            }
        }
        Ok(())
    }

    /// The header as it is now, if it was changed.
    fn edited_header(&mut self) -> Result<Edited, Halt> {
        let edits = self.header.edits();
        if edits == 0 {
            return Ok(None);
        }
        if let Some((after, bytes)) = &self.edited
            && *after == edits
        {
            return Ok(Some(Arc::clone(bytes)));
        }
        self.spend(self.header.octets())?;
        let bytes: Arc<[u8]> = self.header.to_bytes().into();
        self.edited = Some((edits, Arc::clone(&bytes)));
        Ok(Some(bytes))
    }
}
