//! A visit over IMAP: which folders, one after the other, and for each the machine's events and
//! what its ledger makes of them.
//!
//! INBOX alone goes through the user's scripts. What lies in other folders was filed by somebody
//! before; it goes into the mailbox of the same use (`\Sent`) or name, with its flags and its date.

use super::folder::Folder;
use super::inbound::{Fate, Inbound, Target, Way};
use super::keys::{self, Key};
use super::ledger::Id;
use super::link::Talk;
use super::reason::{Kind, Reason};
use super::round::{Counts, Round};
use super::source::{Mapping, Source};
use crate::delivery;
use crate::shard::Shard;
use protocols::imap::client::{Asked, Client, Event, Mailbox, Message, Next, Stage};
use protocols::wire::remote::Trouble;
use protocols::{Machine, Ticket};
use std::collections::VecDeque;

/// Folders of one source that are looked into.
const FOLDERS_MAX: usize = 1000;
const INBOX: &str = "INBOX";
/// Folders that show what lies in others, or that nobody wants to have collected unasked.
const LEFT_OUT: [&str; 6] =
    ["\\All", "\\Flagged", "\\Important", "\\Junk", "\\Trash", "\\Noselect"];

/// A folder there, and where its messages go.
#[derive(Debug, Clone)]
struct Wanted {
    wire_name: Vec<u8>,
    name: String,
    mailbox: Option<delivery::Mailbox>,
    is_inbox: bool,
}

pub struct Visit {
    key: Key,
    source: Source,
    way: Way,
    now: u32,
    messages_max: usize,
    stumbled: Option<Id>,
    listed: Vec<Mailbox>,
    waiting: VecDeque<Wanted>,
    at: Option<(Wanted, Folder)>,
    inbound: Option<Inbound>,
    pub counts: Counts,
    /// The server can't expunge single messages.
    pub cannot_expunge: bool,
    /// Why no more is read, and what the visit fails with in the end.
    trouble: Option<Reason>,
    /// What is wrong with one folder keeps nobody from the others.
    folder_trouble: Option<Reason>,
}

impl Visit {
    pub fn new(
        key: Key,
        source: Source,
        way: Way,
        now: u32,
        messages_max: usize,
        stumbled: Option<Id>,
    ) -> Visit {
        Visit {
            key,
            source,
            way,
            now,
            messages_max,
            stumbled,
            listed: Vec::new(),
            waiting: VecDeque::new(),
            at: None,
            inbound: None,
            counts: Counts::default(),
            cannot_expunge: false,
            trouble: None,
            folder_trouble: None,
        }
    }

    fn shard(&self) -> &Shard {
        &self.way.shard
    }

    fn names(&self) -> Vec<Mapping> {
        match self.source.folders.as_slice() {
            [] => vec![Mapping { remote: INBOX.to_owned(), local: None }],
            some => some.to_vec(),
        }
    }

    fn needs_list(&self) -> bool {
        let is_other = |one: &Mapping| !one.remote.eq_ignore_ascii_case(INBOX);
        self.source.all_folders || self.names().iter().any(is_other)
    }

    /// Which folders are visited, now that it is known which there are.
    fn choose(&mut self) {
        let inbox = |local: Option<String>| Wanted {
            wire_name: INBOX.as_bytes().to_vec(),
            name: INBOX.to_owned(),
            mailbox: local.map(delivery::Mailbox::named),
            is_inbox: true,
        };
        if self.source.all_folders {
            self.waiting.push_back(inbox(self.source.mailbox.clone()));
            for one in &self.listed {
                let is_left_out = |attribute: &String| {
                    LEFT_OUT.iter().any(|name| attribute.eq_ignore_ascii_case(name))
                };
                let is_inbox = one.name.eq_ignore_ascii_case(INBOX);
                if one.selectable && !is_inbox && !one.attributes.iter().any(is_left_out) {
                    self.waiting.push_back(wanted(one, None, self.source.mailbox.as_deref()));
                }
            }
        } else {
            for Mapping { remote, local } in self.names() {
                if remote.eq_ignore_ascii_case(INBOX) {
                    self.waiting.push_back(inbox(local.or_else(|| self.source.mailbox.clone())));
                    continue;
                }
                match self.listed.iter().find(|one| one.name == remote && one.selectable) {
                    Some(found) => {
                        let within = self.source.mailbox.as_deref();
                        self.waiting.push_back(wanted(found, local.as_deref(), within));
                    }
                    None => {
                        let why = format!("there is no folder {remote:?}");
                        self.folder_trouble = Some(Reason::new(Kind::FolderGone, why));
                    }
                }
            }
        }
        self.waiting.truncate(FOLDERS_MAX);
        self.listed = Vec::new();
    }

    async fn go_on(&mut self, ticket: Ticket<Asked>, machine: &mut Client) {
        self.inbound = None;
        let next = self.next().await;
        machine.answer_next(ticket, next);
    }

    async fn next(&mut self) -> Next {
        loop {
            let is_over = self.trouble.is_some() || self.way.shard.watchdog.stopping();
            if let Some((_, folder)) = &mut self.at
                && let Some(next) = folder.next(is_over)
            {
                return next;
            }
            self.close_folder().await;
            let left = self.messages_max.saturating_sub(self.read());
            let wanted = if is_over || left == 0 { None } else { self.waiting.pop_front() };
            let Some(wanted) = wanted else {
                self.counts.more |= !is_over && !self.waiting.is_empty();
                return Next::Logout;
            };
            let place = self.key.place(&wanted.wire_name);
            let Some(ledger) = keys::ledger(&self.shard().store, place) else {
                let why = format!("what was collected from {:?} can't be read", wanted.name);
                self.folder_trouble = Some(Reason::new(Kind::Here, why));
                continue;
            };
            let policy = self.source.policy();
            let round = Round::new(ledger, policy, self.now, left, self.stumbled);
            let folder = Folder::new(wanted.wire_name.clone(), round);
            self.at = Some((wanted, folder));
        }
    }

    fn read(&self) -> usize {
        usize::try_from(self.counts.collected).unwrap_or(usize::MAX)
    }

    /// Writes down what came of the folder; also when the session has broken.
    pub async fn close_folder(&mut self) {
        let Some((_, mut folder)) = self.at.take() else { return };
        self.counts.add(&folder.round.counts);
        self.cannot_expunge |= folder.cannot_expunge;
        if folder.round.ledger.is_full() {
            let why = "more messages were collected and left there than are remembered";
            self.folder_trouble = Some(Reason::new(Kind::TooMany, why));
        }
        if self.shard().collecting.is_known(self.key)
            && let Err(error) = keys::fold(&self.shard().store, &mut folder.round.ledger).await
        {
            self.trouble = self.trouble.take().or(Some(error.into()));
        }
    }

    /// What was under way.
    pub fn current(&self) -> Option<Id> {
        self.at.as_ref().and_then(|(_, folder)| folder.round.current())
    }

    fn begin(&self) -> Inbound {
        self.way.begin(self.at.as_ref().map_or(0, |(_, folder)| folder.round.expected()))
    }

    async fn fetched(&mut self, message: Message) -> Result<(), Reason> {
        let Some((wanted, folder)) = &mut self.at else { return Ok(()) };
        // Not an octet has come: a server that can't read its own store. It is no message, and is
        // not deleted there.
        let Some(inbound) = self.inbound.take() else {
            folder.withheld();
            return Ok(());
        };
        let Some(filing) = folder.round.arrived(inbound.hash()) else { return Ok(()) };
        let is_kept = |flag: &String| {
            !flag.eq_ignore_ascii_case("\\Recent") && !flag.eq_ignore_ascii_case("\\Deleted")
        };
        let target = Target {
            mailbox: wanted.mailbox.clone(),
            flags: message.flags.into_iter().filter(is_kept).collect(),
            internal_date: message.internal_date,
            scripts: wanted.is_inbox,
        };
        match inbound.file(&filing, target).await? {
            Fate::Filed => folder.round.filed(&filing),
            Fate::Refused => folder.round.refused(&filing),
        }
        Ok(())
    }

    /// What the visit fails with, now that its session is over.
    pub fn concluded(&mut self) -> Option<Reason> {
        self.trouble.take().or_else(|| self.folder_trouble.take())
    }
}

fn wanted(found: &Mailbox, local: Option<&str>, within: Option<&str>) -> Wanted {
    let name = match found.delimiter {
        Some('/') | None => found.name.clone(),
        Some(delimiter) => found.name.replace('/', "_").replace(delimiter, "/"),
    };
    let special_use = found
        .attributes
        .iter()
        .find(|attribute| crate::sieve::special_use(attribute).is_some())
        .filter(|_| local.is_none() && within.is_none())
        .cloned();
    let name = match (local, within) {
        (Some(local), _) => local.to_owned(),
        (None, Some(within)) => format!("{within}/{name}"),
        (None, None) => name,
    };
    Wanted {
        wire_name: found.wire_name.clone(),
        name: found.name.clone(),
        mailbox: Some(delivery::Mailbox { name, special_use }),
        is_inbox: false,
    }
}

impl Talk<Client> for Visit {
    async fn heard(
        &mut self,
        event: <Client as Machine>::Event<'_>,
        machine: &mut Client,
    ) -> Result<(), Reason> {
        match event {
            Event::Ready(ticket) => {
                if self.needs_list() {
                    machine.answer_next(ticket, Next::List);
                } else {
                    self.choose();
                    self.go_on(ticket, machine).await;
                }
            }
            Event::Mailbox(mailbox) => self.listed.push(mailbox),
            Event::Opened(opened, ticket) => {
                if let Some((_, folder)) = &mut self.at {
                    folder.opened(&opened);
                }
                self.go_on(ticket, machine).await;
            }
            Event::Found(uids, ticket) => {
                if let Some((_, folder)) = &mut self.at {
                    folder.found(uids);
                }
                self.go_on(ticket, machine).await;
            }
            Event::Message(message) => {
                if let Some((_, folder)) = &mut self.at {
                    folder.surveyed(&message);
                }
            }
            Event::Piece(piece) => {
                if self.inbound.is_none() {
                    self.inbound = Some(self.begin());
                }
                if let Some(inbound) = &mut self.inbound {
                    inbound.push(&piece).await?;
                }
            }
            Event::Fetched { message, ticket, .. } => {
                // What is filed already may still be deleted over there.
                if let Err(reason) = self.fetched(message).await {
                    self.trouble = Some(reason);
                }
                self.go_on(ticket, machine).await;
            }
            Event::Gone { ticket, .. } => {
                if let Some((_, folder)) = &mut self.at {
                    folder.has_gone();
                }
                self.go_on(ticket, machine).await;
            }
            Event::Completed(ticket) => {
                match &mut self.at {
                    Some((_, folder)) => folder.completed(),
                    // Of the list.
                    None => self.choose(),
                }
                self.go_on(ticket, machine).await;
            }
            Event::Refused(refusal, ticket) => {
                match &mut self.at {
                    Some((wanted, folder)) => {
                        tracing::info!(host = self.way.host, account = self.way.to.home.address, folder = wanted.name, %refusal, "refused");
                        if !folder.withheld() {
                            let why =
                                format!("folder {:?} can't be opened: {refusal}", wanted.name);
                            self.folder_trouble = Some(Reason::new(Kind::FolderGone, why));
                            self.close_folder().await;
                        }
                    }
                    None => {
                        let why = format!("does not list its folders: {refusal}");
                        self.trouble = Some(Reason::new(Kind::Unable, why));
                    }
                }
                self.go_on(ticket, machine).await;
            }
            Event::Left => {}
            Event::Failed(failure) => {
                let is_message = matches!(failure.stage, Stage::Fetch(_));
                if is_message
                    && matches!(failure.trouble, Trouble::TooMuch(_))
                    && let Some((_, folder)) = &mut self.at
                {
                    folder.round.was_too_large();
                }
                return Err(Reason::from(&failure));
            }
        }
        Ok(())
    }
}
