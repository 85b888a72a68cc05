//! ManageSieve with an account whose scripts are kept here, compiled as the engine does it. There
//! is room for anything but scripts whose names hold `full`.

use super::{SCRAM_NONCE, Verdict, check, scram_keys};
use crate::laws::Subject;
use crate::transcript::Witness;
use protocols::Outbox;
use protocols::Ticket;
use protocols::managesieve::event::Checked;
use protocols::managesieve::{Config, Entry, Event, LoginOutcome, ManageSieve, Refusal};
use protocols::sieve::{Limits, Script};
use std::sync::Arc;

const SCRIPT_BYTES_MAX: u32 = 1000;

pub struct ManageSieveSubject {
    machine: ManageSieve,
    scripts: Vec<(String, Vec<u8>)>,
    active: Option<String>,
}

impl ManageSieveSubject {
    #[must_use]
    pub fn new(tls: bool, plaintext_auth: bool) -> ManageSieveSubject {
        let config = Config {
            tls_available: true,
            plaintext_auth,
            script_bytes_max: SCRIPT_BYTES_MAX,
            swallow_bytes_max: 30_000,
            redirects_max: 5,
        };
        let machine = ManageSieve::new(Arc::new(config), tls);
        ManageSieveSubject { machine, scripts: Vec::new(), active: None }
    }

    fn place(&self, name: &str) -> Result<usize, Refusal> {
        self.scripts.iter().position(|(known, _)| known == name).ok_or(Refusal::NOT_FOUND)
    }

    /// Answers whether it compiles; `keep` is then called.
    fn check(
        &mut self,
        script: Vec<u8>,
        ticket: Ticket<Checked>,
        output: &mut Outbox,
        keep: impl FnOnce(&mut Self, Vec<u8>),
    ) {
        match Script::compile(&script, &Limits::default()) {
            Ok(compiled) => {
                keep(self, script);
                self.machine.answer_checked(ticket, Ok(compiled.warnings()), output);
            }
            Err(faults) => {
                self.machine.answer_checked(ticket, Err(Refusal::faulty(&faults)), output);
            }
        }
    }

    fn put(&mut self, name: String, script: Vec<u8>) {
        match self.place(&name) {
            Ok(place) => self.scripts[place].1 = script,
            Err(_) => self.scripts.push((name, script)),
        }
    }

    fn activate(&mut self, name: Option<String>) -> Result<(), Refusal> {
        if let Some(name) = &name {
            self.place(name)?;
        }
        self.active = name;
        Ok(())
    }

    fn delete(&mut self, name: &str) -> Result<(), Refusal> {
        let place = self.place(name)?;
        if self.active.as_deref() == Some(name) {
            return Err(Refusal::ACTIVE);
        }
        self.scripts.remove(place);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: String) -> Result<(), Refusal> {
        let place = self.place(from)?;
        if self.place(&to).is_ok() {
            return Err(Refusal::EXISTS);
        }
        if self.active.as_deref() == Some(from) {
            self.active = Some(to.clone());
        }
        self.scripts[place].0 = to;
        Ok(())
    }
}

fn outcome(verdict: Verdict) -> LoginOutcome {
    match verdict {
        Verdict::Welcome => LoginOutcome::Welcome,
        Verdict::Wrong => LoginOutcome::Wrong,
        Verdict::Busy => LoginOutcome::Busy,
    }
}

impl Subject for ManageSieveSubject {
    type Machine = ManageSieve;

    fn machine(&mut self) -> &mut ManageSieve {
        &mut self.machine
    }

    fn answer(&mut self, event: Event, output: &mut Outbox) -> Option<String> {
        let told = format!("{event:?}");
        match event {
            Event::Login(credentials, ticket) => {
                let outcome = outcome(check(&credentials));
                self.machine.answer_login(ticket, outcome, &credentials.user, output);
            }
            Event::ScramKeys(_, ticket) => {
                self.machine.answer_keys(ticket, scram_keys(), SCRAM_NONCE, output);
            }
            Event::Proved(user, ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Welcome, &user, output);
            }
            Event::Disproved(ticket) => {
                self.machine.answer_login(ticket, LoginOutcome::Wrong, "", output);
            }
            Event::HaveSpace { name, ticket, .. } => {
                let answer = if name.contains("full") { Err(Refusal::NO_ROOM) } else { Ok(()) };
                self.machine.answer(ticket, answer, output);
            }
            Event::Put { name, ticket, .. } if name.contains("full") => {
                self.machine.answer_checked(ticket, Err(Refusal::NO_ROOM), output);
            }
            Event::Put { name, script, ticket } => {
                self.check(script, ticket, output, |subject, script| subject.put(name, script));
            }
            Event::Check { script, ticket } => self.check(script, ticket, output, |_, _| {}),
            Event::List { ticket } => {
                let entry = |(name, _): &(String, Vec<u8>)| Entry {
                    name: name.clone(),
                    active: self.active.as_ref() == Some(name),
                };
                let entries: Vec<Entry> = self.scripts.iter().map(entry).collect();
                self.machine.answer_list(ticket, Ok(&entries), output);
            }
            Event::SetActive { name, ticket } => {
                let answer = self.activate(name);
                self.machine.answer(ticket, answer, output);
            }
            Event::Get { name, ticket } => {
                let answer = self.place(&name).map(|place| self.scripts[place].1.as_slice());
                self.machine.answer_script(ticket, answer, output);
            }
            Event::Delete { name, ticket } => {
                let answer = self.delete(&name);
                self.machine.answer(ticket, answer, output);
            }
            Event::Rename { from, to, ticket } => {
                let answer = self.rename(&from, to);
                self.machine.answer(ticket, answer, output);
            }
            Event::LoggedOut => {}
        }
        Some(told)
    }

    fn retained_bytes(&self) -> usize {
        self.machine.retained_bytes()
    }

    /// A line and a command of as much again, whose buffers may have doubled once too often, and a
    /// script.
    fn retained_bytes_max(&self) -> usize {
        2 * (16 << 10) + 2 * (16 << 10) + SCRIPT_BYTES_MAX as usize + 1024
    }
}

impl Witness for ManageSieveSubject {}
