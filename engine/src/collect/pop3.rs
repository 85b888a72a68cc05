//! A visit over POP3: the machine's events, and what the maildrop's ledger makes of them.

use super::inbound::{Fate, Inbound, Target, Way};
use super::link::Talk;
use super::maildrop::Maildrop;
use super::reason::{Kind, Reason};
use crate::delivery;
use protocols::pop3::client::{Asked, Client, Event, Stage};
use protocols::wire::remote::Trouble;
use protocols::{Machine, Ticket};

pub struct Visit {
    pub maildrop: Maildrop,
    way: Way,
    mailbox: Option<delivery::Mailbox>,
    inbound: Option<Inbound>,
    /// Why no more is read, and what the visit fails with in the end.
    pub trouble: Option<Reason>,
}

impl Visit {
    pub fn new(maildrop: Maildrop, way: Way, mailbox: Option<String>) -> Visit {
        let mailbox = mailbox.map(delivery::Mailbox::named);
        Visit { maildrop, way, mailbox, inbound: None, trouble: None }
    }

    fn go_on(&mut self, ticket: Ticket<Asked>, machine: &mut Client) {
        let is_over = self.trouble.is_some() || self.way.shard.watchdog.stopping();
        self.inbound = None;
        machine.answer_next(ticket, self.maildrop.next(is_over));
    }

    async fn retrieved(&mut self) -> Result<(), Reason> {
        // Not an octet has come: a server that can't read its own store. It is no message, and is
        // not deleted there.
        let Some(inbound) = self.inbound.take() else {
            self.maildrop.withheld();
            return Ok(());
        };
        let Some(filing) = self.maildrop.round.arrived(inbound.hash()) else { return Ok(()) };
        let target = Target { mailbox: self.mailbox.clone(), scripts: true, ..Target::default() };
        match inbound.file(&filing, target).await? {
            Fate::Filed => self.maildrop.round.filed(&filing),
            Fate::Refused => self.maildrop.round.refused(&filing),
        }
        Ok(())
    }
}

impl Talk<Client> for Visit {
    async fn heard(
        &mut self,
        event: <Client as Machine>::Event<'_>,
        machine: &mut Client,
    ) -> Result<(), Reason> {
        match event {
            Event::Listed(listing, ticket) => {
                self.maildrop.listed(listing);
                self.go_on(ticket, machine);
            }
            Event::Piece(piece) => {
                if self.inbound.is_none() {
                    self.inbound = Some(self.way.begin(self.maildrop.round.expected()));
                }
                if let Some(inbound) = &mut self.inbound {
                    inbound.push(piece).await?;
                }
            }
            Event::Retrieved { ticket, .. } => {
                // What is filed already may still be deleted over there.
                if let Err(reason) = self.retrieved().await {
                    self.trouble = Some(reason);
                }
                self.go_on(ticket, machine);
            }
            Event::Deleted { ticket, .. } => {
                self.maildrop.deleted();
                self.go_on(ticket, machine);
            }
            Event::Refused { ticket, refusal, .. } => {
                tracing::info!(host = self.way.host, account = self.way.to.home.address, %refusal, "a message is not given or deleted");
                self.maildrop.withheld();
                self.go_on(ticket, machine);
            }
            Event::Left { committed } => self.maildrop.left(committed),
            Event::Failed(failure) => {
                let is_message = matches!(failure.stage, Stage::Retrieve(_));
                if is_message && matches!(failure.trouble, Trouble::TooMuch(_)) {
                    self.maildrop.round.was_too_large();
                }
                return Err(Reason::from(&failure));
            }
        }
        Ok(())
    }
}

impl Visit {
    /// What the visit fails with, now that its session is over.
    pub fn concluded(&mut self) -> Option<Reason> {
        if self.maildrop.round.ledger.is_full() {
            let why = "more messages were collected and left there than are remembered";
            return Some(Reason::new(Kind::TooMany, why));
        }
        self.trouble.take()
    }
}
