//! `kura queue`: mail that waits to leave this host.

use super::ask::{Link, ask_over, link};
use super::directory::{Common, said, text};
use super::{Outcome, counted, counted_as, written};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::queue::Word;
use crate::queue::operations::{Place, Which};
use crate::settle::Settled;
use crate::when::Span;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::Write;

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only messages for this domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Only messages from this address or account.
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// Only messages that this account has sent, or passes on. `release` ends the suspicion that
    /// somebody else sends from it.
    #[arg(long, value_name = "ADDRESS")]
    account: Option<String>,
    /// Only messages that wait for so long: 30m, 2h, 1d.
    #[arg(long, value_name = "SPAN", value_parser = Span::parse)]
    older_than: Option<Span>,
    /// Only messages on hold.
    #[arg(long)]
    held: bool,
    /// Only messages on hold because somebody else may have sent them.
    #[arg(long)]
    suspected: bool,
}

impl Filter {
    fn which(self, ids: Vec<String>) -> Which {
        let Filter { domain, sender, account, older_than, held, suspected } = self;
        let older_than = older_than.map(|span| span.0.as_secs());
        Which { ids, domain, sender, account, older_than, held, suspected, party: None }
    }
}

/// Which messages are meant: by name or by filter, or expressly all.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// As `kura queue list` shows them.
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Everything in the queue.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    common: Common,
}

/// What a store that was restored or salvaged has to do with other servers, and what
/// to do about it.
pub(super) fn say_settled(settled: &Settled) -> Result<(), ConfigError> {
    let Settled { held, sources, .. } = settled;
    if *held > 0 {
        outln!(
            "on hold: {} waiting to leave, since it may have left after all; see `kura queue list`, \
             then `kura queue release` or `remove`",
            counted(held, "message")
        )?;
    }
    if *sources > 0 {
        outln!(
            "mail is collected from {sources} outside mailboxes as soon as it is started, and deleted there where that is asked for; \
             to look at a copy only, set collect.enabled = false first"
        )?;
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// What waits, since when, and why: the 1000 messages that have waited longest.
    ///
    /// Example: kura queue list --domain example.org --older-than 1h
    List {
        #[command(flatten)]
        filter: Filter,
        /// However many they are, and core by core.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Everything that is known of a message.
    ///
    /// Example: kura queue show 0.5a3b1c
    Show {
        id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Tries messages now.
    ///
    /// Example: kura queue retry --domain example.org
    Retry(Chosen),
    /// Keeps messages back until they are released.
    ///
    /// Example: kura queue hold --sender ann@example.org
    Hold(Chosen),
    /// Lets held messages go. One that waits for its sender's time goes at once if it is named; by
    /// a filter it stays, as does what somebody else may have sent, unless --suspected or
    /// --account is given.
    ///
    /// Example: kura queue release --all
    Release(Chosen),
    /// Takes messages out of the queue. Nobody is told.
    ///
    /// Example: kura queue remove 0.5a3b1c
    Remove(Chosen),
}

pub(super) fn run(command: QueueCommand) -> Result<Outcome, ConfigError> {
    match command {
        QueueCommand::List { filter, all: true, common } => {
            list_all(&filter.which(Vec::new()), &common)
        }
        QueueCommand::List { filter, all: false, common } => {
            let which = filter.which(Vec::new());
            said(&common, Request::QueueList { which, behind: None }, list_text)
        }
        QueueCommand::Show { id, common } => said(&common, Request::QueueShow { id }, show_text),
        QueueCommand::Retry(chosen) => say(chosen, Word::Retry, "to be tried now"),
        QueueCommand::Hold(chosen) => say(chosen, Word::Hold, "on hold"),
        QueueCommand::Release(chosen) => say(chosen, Word::Release, "released"),
        QueueCommand::Remove(chosen) => say(chosen, Word::Remove, "removed"),
    }
}

fn say(chosen: Chosen, word: Word, done: &str) -> Result<Outcome, ConfigError> {
    let Chosen { ids, filter, all, common } = chosen;
    let named = filter.domain.is_some()
        || filter.sender.is_some()
        || filter.account.is_some()
        || filter.older_than.is_some()
        || filter.held
        || filter.suspected;
    if ids.is_empty() && !named && !all {
        let what = "say which messages: their names, a filter such as --domain, or --all";
        return Err(ConfigError(what.to_owned()));
    }
    said(&common, Request::QueueSay { which: filter.which(ids), word }, |value| {
        let later = value["under_way"].as_u64().unwrap_or(0);
        let later = match later {
            0 => String::new(),
            some => format!(", {some} of them once the try that is under way is over"),
        };
        let trusted = match value["trusted"] == true {
            true => "; nobody else is suspected to send from that account any more",
            false => "",
        };
        let left = match value["suspected"].as_u64().unwrap_or(0) {
            0 => String::new(),
            some => format!(
                "; {some} stay on hold, since somebody else may have sent them (`kura queue list --suspected`; name the account, or --suspected)"
            ),
        };
        format!("{} {done}{later}{trusted}{left}", counted(&value["messages"], "message"))
    })
}

fn list_text(value: &Value) -> String {
    let rows = list(&value["messages"]);
    let mut lines: Vec<String> = rows.iter().map(row_text).collect();
    lines.push(match value["cut"] == true {
        true => format!(
            "{} of {} messages: those that have waited longest; --all shows all, a filter such as --domain fewer",
            rows.len(),
            value["all"]
        ),
        false => counted_as(rows.len(), "message waits", "messages wait"),
    });
    lines.join("\n")
}

/// Page by page, so that neither the server nor this holds them all; as JSON in the
/// form of the list.
fn list_all(which: &Which, common: &Common) -> Result<Outcome, ConfigError> {
    let config = common.place.load()?;
    let over = link(&config)?;
    let listed = list_all_over(common.json, |place| {
        let request = Request::QueueList { which: which.clone(), behind: Some(place) };
        ask_over(&config, &over, request)
    });
    if let Link::Store(server) = over {
        server.stop();
    }
    listed.map(|()| Outcome::Done)
}

fn list_all_over(
    is_json: bool,
    ask: impl Fn(Place) -> Result<Value, ConfigError>,
) -> Result<(), ConfigError> {
    let (mut next, mut all) = (Some(Place::default()), 0);
    if is_json {
        outln!("{{\"cut\":false,\"messages\":[")?;
    }
    while let Some(place) = next {
        let page = ask(place)?;
        let mut text = String::new();
        for row in list(&page["messages"]) {
            text += &match is_json {
                true if all == 0 => format!("{row}\n"),
                true => format!(",{row}\n"),
                false => row_text(row) + "\n",
            };
            all += 1;
        }
        if !written(|out| out.write_all(text.as_bytes()))? {
            return Ok(());
        }
        next = serde_json::from_value(page["next"].clone())
            .map_err(|error| ConfigError(format!("the server's answer: {error}")))?;
    }
    match is_json {
        true => outln!("],\"all\":{all}}}"),
        false => outln!("{}", counted_as(all, "message waits", "messages wait")),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn row_text(row: &Value) -> String {
    let recipients = list(&row["recipients"]);
    let first = recipients.first().and_then(Value::as_str).unwrap_or_default();
    let more = match recipients.len() {
        0 | 1 => String::new(),
        several => format!(" and {} more", several - 1),
    };
    let waits = row["waits"].as_u64().unwrap_or(0);
    format!(
        "{}  {} -> {first}{more}  {} bytes, for {waits} s\n    {}",
        text(row, "id"),
        text(row, "sender"),
        row["octets"],
        text(row, "why")
    )
}

fn show_text(value: &Value) -> String {
    let recipients = list(&value["recipients"]);
    let recipient = |one: &Value| {
        let way = match text(one, "way") {
            "" => String::new(),
            way => format!("  (policy: {way})"),
        };
        format!(
            "\n  {}  {}  {}  {}{way}",
            text(one, "address"),
            text(one, "outcome"),
            text(one, "status"),
            text(one, "why")
        )
    };
    let account = value["account"].as_str().unwrap_or("nobody");
    format!(
        "{} from {} (logged in: {account}), {} bytes, {}, waits for {} s\n{}{}",
        text(value, "id"),
        text(value, "sender"),
        value["octets"],
        counted_as(&value["attempts"], "try", "tries"),
        value["waits"],
        text(value, "why"),
        recipients.iter().map(recipient).collect::<String>()
    )
}
