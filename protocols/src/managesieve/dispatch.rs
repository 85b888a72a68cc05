//! From a command to what is done about it, and the engine's answers. RFC 5804 section 2.

use super::command::{self, Command, Syntax};
use super::event::{Checked, Completed, Content, Entry, Event, Listing};
use super::reply::{Refusal, lines, string};
use super::session::{ManageSieve, Phase, Question};
use crate::machine::Ticket;
use crate::sieve::Fault;
use crate::{Outbox, Step};

const OK: &[u8] = b"OK \"Done\"\r\n";

impl ManageSieve {
    pub(super) fn command(&mut self, collected: &[u8], output: &mut Outbox) -> Option<Step<Event>> {
        let command = match command::parse(collected) {
            Ok(command) => command,
            Err(syntax) => {
                let text = match syntax {
                    Syntax::Keyword => "Command not known",
                    Syntax::Arguments => "Wrong arguments",
                    Syntax::Name => "No script can have this name",
                };
                self.fault(&Refusal::plain(text), output);
                return None;
            }
        };
        match command {
            Command::Capability => {
                self.capabilities(output);
                output.push(OK);
                None
            }
            Command::Noop(None) => {
                output.push(OK);
                None
            }
            Command::Noop(Some(tag)) => {
                output.push(b"OK (TAG ");
                string(&tag, output);
                output.push(b") \"Done\"\r\n");
                None
            }
            Command::Logout => {
                output.push(b"OK \"Goodbye\"\r\n");
                self.phase = Phase::Closing;
                None
            }
            command if self.user.is_some() => self.authenticated(command, output),
            Command::StartTls if self.may_start_tls() => {
                output.push(b"OK \"Begin TLS\"\r\n");
                Some(Step::StartTls)
            }
            Command::StartTls => {
                self.fault(&Refusal::plain("TLS is not available"), output);
                None
            }
            Command::Authenticate { mechanism, initial } => {
                self.authenticate(&mechanism, initial.as_deref(), output)
            }
            Command::HaveSpace { .. }
            | Command::PutScript { .. }
            | Command::ListScripts
            | Command::SetActive(_)
            | Command::GetScript(_)
            | Command::DeleteScript(_)
            | Command::RenameScript { .. }
            | Command::CheckScript(_)
            | Command::Unauthenticate => {
                self.fault(&Refusal::plain("Log in first"), output);
                None
            }
        }
    }

    fn authenticated(&mut self, command: Command, output: &mut Outbox) -> Option<Step<Event>> {
        let event = match command {
            Command::HaveSpace { octets, .. }
                if octets > u64::from(self.config.script_bytes_max) =>
            {
                Refusal::TOO_LARGE.write("NO", output);
                return None;
            }
            Command::HaveSpace { name, octets } => {
                Event::HaveSpace { name, octets, ticket: Ticket::issue() }
            }
            Command::PutScript { name, script } => {
                Event::Put { name, script, ticket: Ticket::issue() }
            }
            Command::CheckScript(script) => Event::Check { script, ticket: Ticket::issue() },
            Command::ListScripts => Event::List { ticket: Ticket::issue() },
            Command::SetActive(name) => Event::SetActive { name, ticket: Ticket::issue() },
            Command::GetScript(name) => Event::Get { name, ticket: Ticket::issue() },
            Command::DeleteScript(name) => Event::Delete { name, ticket: Ticket::issue() },
            Command::RenameScript { from, to } => {
                Event::Rename { from, to, ticket: Ticket::issue() }
            }
            Command::Unauthenticate => {
                self.user = None;
                output.push(OK);
                return Some(Step::Event(Event::LoggedOut));
            }
            Command::Authenticate { .. }
            | Command::StartTls
            | Command::Capability
            | Command::Noop(_)
            | Command::Logout => {
                self.fault(&Refusal::plain("Already logged in"), output);
                return None;
            }
        };
        self.phase = Phase::Asked(Question::Scripts);
        Some(Step::Event(event))
    }

    // ── answers ─────────────────────────────────────────────────────────────────────────────────

    pub fn answer(
        &mut self,
        _: Ticket<Completed>,
        answer: Result<(), Refusal>,
        output: &mut Outbox,
    ) {
        self.phase = Phase::Command;
        match answer {
            Ok(()) => output.push(OK),
            Err(refusal) => refusal.write("NO", output),
        }
    }

    /// A script compiles, perhaps with warnings; or not: [`Refusal::faulty`].
    pub fn answer_checked(
        &mut self,
        _: Ticket<Checked>,
        answer: Result<&[Fault], Refusal>,
        output: &mut Outbox,
    ) {
        self.phase = Phase::Command;
        match answer {
            Ok([]) => output.push(OK),
            Ok(warnings) => {
                output.push(b"OK (WARNINGS) ");
                string(lines(warnings).as_bytes(), output);
                output.push(b"\r\n");
            }
            Err(refusal) => refusal.write("NO", output),
        }
    }

    pub fn answer_list(
        &mut self,
        _: Ticket<Listing>,
        answer: Result<&[Entry], Refusal>,
        output: &mut Outbox,
    ) {
        self.phase = Phase::Command;
        match answer {
            Ok(entries) => {
                for entry in entries {
                    string(entry.name.as_bytes(), output);
                    output.push(if entry.active { b" ACTIVE\r\n" } else { b"\r\n" });
                }
                output.push(OK);
            }
            Err(refusal) => refusal.write("NO", output),
        }
    }

    pub fn answer_script(
        &mut self,
        _: Ticket<Content>,
        answer: Result<&[u8], Refusal>,
        output: &mut Outbox,
    ) {
        self.phase = Phase::Command;
        match answer {
            Ok(script) => {
                output.push(format!("{{{}}}\r\n", script.len()).as_bytes());
                output.push(script);
                output.push(b"\r\n");
                output.push(OK);
            }
            Err(refusal) => refusal.write("NO", output),
        }
    }
}
