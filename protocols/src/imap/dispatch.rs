//! One match per command: is it legal here, and which event or reply does it become?

use super::command::{Command, MailboxArgument};
use super::encode::push;
use super::event::Event;
use super::lexer::{Fault, Lexer};
use super::mailbox::{MailboxName, NameFault};
use super::parse;
use super::response::{Code, Completion};
use super::sequence::SequenceSet;
use super::session::{Imap, Pending, PendingKind, Reading, State};
use super::view::{Targets, View};
use crate::{Outbox, Step, Ticket};

/// A reply that the machine gives by itself, or the event that asks for one.
enum Decided<'i> {
    Reply(Completion),
    Ask(PendingKind, Event<'i>),
}

use Decided::{Ask, Reply};

const NO_SUCH: Completion = Completion::No(Some(Code::NonExistent), "There is no such mailbox");
const BAD_NUMBER: Completion = Completion::Bad("A message number is not in use");
const READ_ONLY: Completion = Completion::No(Some(Code::Cannot), "The mailbox is open read-only");

/// Which states a command is legal in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Legal {
    Always,
    BeforeLogin,
    AfterLogin,
    Selected,
}

fn legal(command: &Command) -> Legal {
    match command {
        Command::Capability | Command::Noop | Command::Logout | Command::Id => Legal::Always,
        Command::StartTls | Command::Authenticate { .. } | Command::Login { .. } => {
            Legal::BeforeLogin
        }
        Command::Enable(_)
        | Command::Namespace
        | Command::Select { .. }
        | Command::Create { .. }
        | Command::Delete(_)
        | Command::Rename { .. }
        | Command::Subscribe { .. }
        | Command::List(_)
        | Command::Status { .. }
        | Command::Append(_)
        | Command::Idle
        | Command::GetQuota { .. }
        | Command::GetQuotaRoot(_)
        | Command::SetQuota => Legal::AfterLogin,
        Command::Check
        | Command::Close
        | Command::Unselect
        | Command::Expunge
        | Command::UidExpunge(_)
        | Command::Search { .. }
        | Command::Fetch { .. }
        | Command::Store { .. }
        | Command::Copy { .. }
        | Command::Move { .. } => Legal::Selected,
    }
}

impl Imap {
    /// Runs one whole command.
    pub(super) fn run<'i>(&mut self, bytes: &[u8], output: &mut Outbox) -> Option<Step<Event<'i>>> {
        let mut lexer = Lexer::new(bytes);
        let tag = match parse::tag(&mut lexer) {
            Ok(tag) => tag.to_vec(),
            Err(fault) => {
                self.bad(None, fault, output);
                return None;
            }
        };
        let command = match parse::command(&mut lexer) {
            Ok(command) => command,
            Err(fault) => {
                self.bad(Some(&tag), fault, output);
                return None;
            }
        };
        let wrong = match (legal(&command), &self.state) {
            (_, State::Greeting | State::Logout) => Some("Not now"),
            (Legal::BeforeLogin, State::Authenticated | State::Selected(_)) => {
                Some("You are logged in already")
            }
            (Legal::AfterLogin | Legal::Selected, State::NotAuthenticated) => Some("Log in first"),
            (Legal::Selected, State::Authenticated) => Some("Select a mailbox first"),
            (
                Legal::Always,
                State::NotAuthenticated | State::Authenticated | State::Selected(_),
            )
            | (Legal::BeforeLogin, State::NotAuthenticated)
            | (Legal::AfterLogin, State::Authenticated | State::Selected(_))
            | (Legal::Selected, State::Selected(_)) => None,
        };
        if let Some(text) = wrong {
            self.bad(Some(&tag), Fault(text), output);
            return None;
        }
        self.decide(tag, command, output)
    }

    /// Commands that are more than a reply or an event.
    fn decide<'i>(
        &mut self,
        tag: Vec<u8>,
        command: Command,
        output: &mut Outbox,
    ) -> Option<Step<Event<'i>>> {
        match command {
            Command::Logout => {
                self.good();
                output.push(b"* BYE Logging out\r\n");
                Completion::Ok(None, "Bye").write(output.buffer(), &tag);
                self.state = State::Logout;
                None
            }
            Command::StartTls => {
                if !self.may_start_tls() {
                    self.bad(Some(&tag), Fault("TLS is not available"), output);
                    return None;
                }
                self.good();
                Completion::Ok(None, "Begin TLS now").write(output.buffer(), &tag);
                Some(Step::StartTls)
            }
            Command::Authenticate { mechanism, initial } => {
                self.start_sasl(tag, &mechanism, initial.as_deref(), output)
            }
            Command::Idle => {
                self.good();
                output.push(b"+ Idling\r\n");
                self.reading = Reading::Idle { tag };
                Some(Step::Event(Event::IdleStart))
            }
            other => match self.dispatch(other, output) {
                Reply(Completion::Bad(text)) => {
                    self.bad(Some(&tag), Fault(text), output);
                    None
                }
                Reply(completion) => {
                    self.good();
                    completion.write(output.buffer(), &tag);
                    None
                }
                Ask(kind, event) => {
                    self.good();
                    self.pending = Some(Pending { tag, kind });
                    Some(Step::Event(event))
                }
            },
        }
    }

    fn dispatch<'i>(&mut self, command: Command, output: &mut Outbox) -> Decided<'i> {
        let out = output.buffer();
        match command {
            // Dealt with before.
            Command::Logout
            | Command::StartTls
            | Command::Authenticate { .. }
            | Command::Idle
            | Command::Append(_) => Reply(Completion::Bad("Not now")),
            Command::Capability => {
                push(out, format_args!("* CAPABILITY {}\r\n", self.capabilities()));
                Reply(Completion::DONE)
            }
            // Before a login there is nothing to tell, and nobody to ask for it.
            Command::Noop if matches!(self.state, State::NotAuthenticated) => {
                Reply(Completion::DONE)
            }
            Command::Noop | Command::Check => sync(),
            Command::Id => {
                let version = env!("CARGO_PKG_VERSION");
                push(out, format_args!("* ID (\"name\" \"Kura\" \"version\" \"{version}\")\r\n"));
                Reply(Completion::DONE)
            }
            Command::Login { user, password } => self.login(user, password),
            Command::Enable(_) => {
                // Nothing that is offered so far wants enabling.
                push(out, format_args!("* ENABLED\r\n"));
                Reply(Completion::DONE)
            }
            Command::Namespace => {
                push(out, format_args!("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n"));
                Reply(Completion::DONE)
            }
            Command::Select { mailbox, read_only } => self.select(mailbox, read_only),
            Command::Create { mailbox, special_use } => named(mailbox, cannot, |mailbox| {
                Event::Create { mailbox, special_use, ticket: Ticket::issue() }
            }),
            Command::Delete(mailbox) => named(mailbox, no_such, |mailbox| Event::Delete {
                mailbox,
                ticket: Ticket::issue(),
            }),
            Command::Rename { from, to } => match (from, to) {
                (Err(_), _) => Reply(NO_SUCH),
                (Ok(from), to) => {
                    named(to, cannot, |to| Event::Rename { from, to, ticket: Ticket::issue() })
                }
            },
            Command::Subscribe { mailbox, subscribe } => named(mailbox, cannot, |mailbox| {
                Event::Subscribe { mailbox, subscribe, ticket: Ticket::issue() }
            }),
            Command::List(list) if list.asks_separator() && !list.lsub => {
                push(out, format_args!("* LIST (\\Noselect) \"/\" \"\"\r\n"));
                Reply(Completion::DONE)
            }
            Command::List(list) => {
                Ask(PendingKind::Plain, Event::List { list, ticket: Ticket::issue() })
            }
            Command::Status { mailbox, items } => named(mailbox, no_such, |mailbox| {
                Event::Status { mailbox, items, ticket: Ticket::issue() }
            }),
            Command::GetQuota { root } if root.is_empty() => {
                Ask(PendingKind::Plain, Event::GetQuota { ticket: Ticket::issue() })
            }
            Command::GetQuota { .. } => {
                Reply(Completion::No(Some(Code::NonExistent), "There is no such quota root"))
            }
            Command::GetQuotaRoot(mailbox) => named(mailbox, no_such, |mailbox| {
                Event::GetQuotaRoot { mailbox, ticket: Ticket::issue() }
            }),
            Command::SetQuota => {
                Reply(Completion::No(Some(Code::NoPermission), "Quotas are the operator's to set"))
            }
            selected @ (Command::Close
            | Command::Unselect
            | Command::Expunge
            | Command::UidExpunge(_)
            | Command::Search { .. }
            | Command::Fetch { .. }
            | Command::Store { .. }
            | Command::Copy { .. }
            | Command::Move { .. }) => match &self.state {
                State::Selected(view) => in_mailbox(view, selected),
                State::Greeting
                | State::NotAuthenticated
                | State::Authenticated
                | State::Logout => Reply(Completion::Bad("Select a mailbox first")),
            },
        }
    }

    fn login<'i>(&self, user: Vec<u8>, password: Vec<u8>) -> Decided<'i> {
        if !self.may_send_passwords() {
            return Reply(Completion::No(Some(Code::PrivacyRequired), "Start TLS first"));
        }
        match String::from_utf8(user) {
            Ok(user) => {
                let ticket = Ticket::issue();
                Ask(PendingKind::Login, Event::Login { user, password, ticket })
            }
            Err(_) => Reply(Completion::Bad("The user name is not UTF-8")),
        }
    }

    fn select<'i>(&mut self, mailbox: MailboxArgument, read_only: bool) -> Decided<'i> {
        // RFC 3501 section 6.3.1: even an attempt that fails leaves no mailbox selected.
        self.state = State::Authenticated;
        match mailbox {
            Ok(mailbox) => {
                let ticket = Ticket::issue();
                Ask(PendingKind::Select { read_only }, Event::Select { mailbox, read_only, ticket })
            }
            Err(_) => Reply(NO_SUCH),
        }
    }
}

fn sync<'i>() -> Decided<'i> {
    Ask(PendingKind::Plain, Event::Sync { ticket: Ticket::issue() })
}

fn no_such(_: NameFault) -> Completion {
    NO_SUCH
}

fn cannot(fault: NameFault) -> Completion {
    let text = match fault {
        NameFault::Empty => "A mailbox name can't be empty",
        NameFault::Encoding => "The mailbox name is not valid modified UTF-7",
        NameFault::Level => "No level of a mailbox name can be empty, . or ..",
        NameFault::Character => "A mailbox name can't hold control characters or wildcards",
        NameFault::TooLong => "The mailbox name is too long",
    };
    Completion::No(Some(Code::Cannot), text)
}

fn named<'i>(
    mailbox: MailboxArgument,
    refusal: fn(NameFault) -> Completion,
    event: impl FnOnce(MailboxName) -> Event<'i>,
) -> Decided<'i> {
    match mailbox {
        Ok(mailbox) => Ask(PendingKind::Plain, event(mailbox)),
        Err(fault) => Reply(refusal(fault)),
    }
}

/// Commands on the messages of the selected mailbox.
fn in_mailbox<'i>(view: &View, command: Command) -> Decided<'i> {
    let ticket = Ticket::issue();
    match command {
        Command::Close => {
            let expunge = !view.read_only;
            Ask(PendingKind::Close, Event::Close { expunge, ticket })
        }
        Command::Unselect => Ask(PendingKind::Close, Event::Close { expunge: false, ticket }),
        Command::Expunge if view.read_only => Reply(READ_ONLY),
        Command::Expunge => Ask(PendingKind::Plain, Event::Expunge { targets: view.all(), ticket }),
        Command::UidExpunge(_) if view.read_only => Reply(READ_ONLY),
        Command::UidExpunge(set) => {
            on_targets(view, &set, true, false, |targets| Event::Expunge { targets, ticket })
        }
        Command::Search { mut search, by_uid } => {
            if search.bad_charset {
                let text = "Search in UTF-8 or US-ASCII";
                return Reply(Completion::No(Some(Code::BadCharset), text));
            }
            search.key.resolve(view.messages(), view.highest_uid());
            Ask(kind(by_uid), Event::Search { search, by_uid, ticket })
        }
        Command::Fetch { by_uid, set, items } => {
            let seen = items.iter().any(super::fetch::FetchItem::sets_seen);
            let sets_seen = seen && !view.read_only;
            on_targets(view, &set, by_uid, true, |targets| Event::Fetch {
                targets,
                items,
                by_uid,
                sets_seen,
                ticket,
            })
        }
        Command::Store { .. } if view.read_only => Reply(READ_ONLY),
        Command::Store { by_uid, set, store } => on_targets(view, &set, by_uid, true, |targets| {
            Event::Store { targets, store, by_uid, ticket }
        }),
        Command::Copy { by_uid, set, to } => match to {
            Ok(to) => {
                on_targets(view, &set, by_uid, false, |targets| Event::Copy { targets, to, ticket })
            }
            Err(fault) => Reply(cannot(fault)),
        },
        Command::Move { .. } if view.read_only => Reply(READ_ONLY),
        Command::Move { by_uid, set, to } => match to {
            Ok(to) => {
                on_targets(view, &set, by_uid, false, |targets| Event::Move { targets, to, ticket })
            }
            Err(fault) => Reply(cannot(fault)),
        },
        // Not commands on messages.
        Command::Capability
        | Command::Noop
        | Command::Logout
        | Command::Id
        | Command::StartTls
        | Command::Authenticate { .. }
        | Command::Login { .. }
        | Command::Enable(_)
        | Command::Namespace
        | Command::Select { .. }
        | Command::Create { .. }
        | Command::Delete(_)
        | Command::Rename { .. }
        | Command::Subscribe { .. }
        | Command::List(_)
        | Command::Status { .. }
        | Command::Append(_)
        | Command::Idle
        | Command::GetQuota { .. }
        | Command::GetQuotaRoot(_)
        | Command::SetQuota
        | Command::Check => Reply(Completion::Bad("Not now")),
    }
}

/// FETCH, STORE and SEARCH by message number allow no EXPUNGE while they run.
fn kind(by_uid: bool) -> PendingKind {
    if by_uid { PendingKind::Plain } else { PendingKind::ByNumber }
}

fn on_targets<'i>(
    view: &View,
    set: &SequenceSet,
    by_uid: bool,
    holds_expunge: bool,
    event: impl FnOnce(Targets) -> Event<'i>,
) -> Decided<'i> {
    match view.resolve(set, by_uid) {
        Some(targets) => {
            let kind = if holds_expunge { kind(by_uid) } else { PendingKind::Plain };
            Ask(kind, event(targets))
        }
        None => Reply(BAD_NUMBER),
    }
}
