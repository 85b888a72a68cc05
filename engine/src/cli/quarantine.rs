//! `kura quarantine`: mail that is kept back from its owners.

use super::ask::{Link, ask_over, link};
use super::directory::{Common, said, text};
use super::{Outcome, counted, written};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::quarantine::operations::{QuarantineRequest, Which};
use crate::when::parse_time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::Write;

#[derive(Debug, Args)]
pub(super) struct Filter {
    /// Only mail to this account.
    #[arg(long, value_name = "ADDRESS")]
    account: Option<String>,
    /// Only mail to accounts of this domain.
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Only mail that was kept back at this time or later: 2h, 3d, or like 2026-11-25T16:22:03Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only mail that this rule matches, or that is kept back for this reason: spam, dmarc, virus,
    /// attachment, outbreak, unscanned.
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        let Filter { account, domain, since, rule } = self;
        account.is_none() && domain.is_none() && since.is_none() && rule.is_none()
    }

    fn which(self, ids: Vec<String>) -> Result<Which, ConfigError> {
        let Filter { account, domain, since, rule } = self;
        let since = since.map(|since| parse_time(&since, crate::delivery::unix_millis().0));
        let since = since.transpose().map_err(|fault| ConfigError(format!("--since: {fault}")))?;
        Ok(Which { ids, account, domain, since, rule })
    }
}

/// Which messages are meant: by name or by filter, or expressly all.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// As `kura quarantine list` shows them, such as ann@example.org:7.
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Everything in quarantine.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    common: Common,
}

impl Chosen {
    fn which(self) -> Result<(Which, Common), ConfigError> {
        let Chosen { ids, filter, all, common } = self;
        if ids.is_empty() && filter.is_empty() && !all {
            let what = "say which messages: their names, a filter such as --account, or --all";
            return Err(ConfigError(what.to_owned()));
        }
        Ok((filter.which(ids)?, common))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// What is kept back, from whom, since when, and why.
    ///
    /// Example: kura quarantine list --account ann@example.org --since 2d
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        common: Common,
    },
    /// Header, verdict and text of a message, made safe for a terminal: no controls, no markup, of
    /// attachments names alone.
    ///
    /// Example: kura quarantine show ann@example.org:7
    ///
    /// Example: kura quarantine show ann@example.org:7 --raw > message.eml
    Show {
        id: String,
        /// Writes the message itself to standard output, octet by octet. It may be dangerous.
        #[arg(long, conflicts_with = "json")]
        raw: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Lets messages into INBOX, and learns that they are wanted, as when a user moves
    /// mail out of Junk.
    ///
    /// Example: kura quarantine release ann@example.org:7
    Release {
        #[command(flatten)]
        chosen: Chosen,
        /// Also what holds a virus, or brings a dangerous attachment.
        #[arg(long)]
        force: bool,
    },
    /// Deletes messages; `kura store undelete` can bring them back as long as other mail.
    ///
    /// Example: kura quarantine delete --domain example.org --rule virus
    Delete(Chosen),
    /// Tells an account now, by a mail, what was kept back from it since it was told last.
    ///
    /// Example: kura quarantine digest --account ann@example.org
    Digest {
        #[arg(long, value_name = "ADDRESS")]
        account: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn run(command: QuarantineCommand) -> Result<Outcome, ConfigError> {
    let ask = |request: QuarantineRequest| Request::Quarantine(request);
    match command {
        QuarantineCommand::List { filter, common } => {
            let which = filter.which(Vec::new())?;
            said(&common, ask(QuarantineRequest::List { which }), list_text)
        }
        QuarantineCommand::Show { id, raw: true, common } => raw(&id, &common),
        QuarantineCommand::Show { id, raw: false, common } => {
            said(&common, ask(QuarantineRequest::Show { id }), show_text)
        }
        QuarantineCommand::Release { chosen, force } => release(chosen, force),
        QuarantineCommand::Delete(chosen) => {
            let (which, common) = chosen.which()?;
            said(&common, ask(QuarantineRequest::Delete { which }), |value| {
                format!("{} deleted", counted(list(&value["deleted"]).len(), "message"))
            })
        }
        QuarantineCommand::Digest { account, common } => {
            said(&common, ask(QuarantineRequest::Digest { account }), |value| {
                match value["messages"].as_u64() {
                    Some(0) => {
                        format!("nothing that {} has not been told of", text(value, "account"))
                    }
                    _ => {
                        let messages = counted(&value["messages"], "message");
                        format!("{} told of {messages}", text(value, "account"))
                    }
                }
            })
        }
    }
}

/// Exit code 3 where something that was named is kept back all the same.
fn release(chosen: Chosen, force: bool) -> Result<Outcome, ConfigError> {
    let (which, common) = chosen.which()?;
    let request = Request::Quarantine(QuarantineRequest::Release { which, force });
    let value = super::ask::ask(&common.place, request)?;
    let harmful = list(&value["harmful"]);
    if common.json {
        outln!("{value}")?;
    } else {
        outln!("{} released", counted(list(&value["released"]).len(), "message"))?;
        for id in harmful.iter().filter_map(Value::as_str) {
            outln!("{id} may do harm and stays in quarantine; --force releases it all the same")?;
        }
    }
    Ok(if harmful.is_empty() { Outcome::Done } else { Outcome::Unwell })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn list_text(value: &Value) -> String {
    let rows = list(&value["messages"]);
    let mut lines: Vec<String> = rows.iter().map(row_text).collect();
    let all = value["all"].as_u64().unwrap_or(0);
    lines.push(match all > rows.len() as u64 {
        true => format!("{} of {all} messages: the latest", rows.len()),
        false => format!("{} in quarantine", counted(all, "message")),
    });
    lines.join("\n")
}

fn row_text(row: &Value) -> String {
    let score = row["score"].as_f64().map(|score| format!(", score {score:.1}"));
    let scan = row["scan"].as_str().filter(|scan| !scan.is_empty());
    let names = list(&row["rules"]).iter().map(|rule| text(rule, "rule"));
    format!(
        "{}  {}  {}{}, {} octets\n    from: {}\n    subject: {}\n    rules: {}{}",
        text(row, "id"),
        text(row, "since"),
        text(row, "reason"),
        score.unwrap_or_default(),
        row["octets"],
        text(row, "from"),
        text(row, "subject"),
        names.collect::<Vec<_>>().join(", "),
        scan.map(|scan| format!("\n    scan: {scan}")).unwrap_or_default(),
    )
}

fn show_text(value: &Value) -> String {
    let mut lines = vec![row_text(value)];
    for rule in list(&value["rules"]) {
        let score = rule["score"].as_f64().unwrap_or(0.0);
        lines.push(format!("    {score:6.1}  {:26} {}", text(rule, "rule"), text(rule, "reason")));
    }
    lines.push(String::new());
    for field in list(&value["header"]) {
        let part = |index: usize| field[index].as_str().unwrap_or_default();
        lines.push(format!("{}: {}", part(0), part(1)));
    }
    lines.push(String::new());
    lines.push(text(value, "text").to_owned());
    for name in list(&value["attachments"]).iter().filter_map(Value::as_str) {
        lines.push(format!("[attached, not shown: {name}]"));
    }
    if value["beginning_only"].as_bool() == Some(true) {
        lines.push("[only the beginning of a large message was looked at]".to_owned());
    }
    lines.join("\n")
}

fn raw(id: &str, common: &Common) -> Result<Outcome, ConfigError> {
    let config = common.place.load()?;
    let over = link(&config)?;
    let written = raw_over(id, |request| ask_over(&config, &over, request));
    if let Link::Store(server) = over {
        server.stop();
    }
    written.map(|()| Outcome::Done)
}

fn raw_over(
    id: &str,
    ask: impl Fn(Request) -> Result<Value, ConfigError>,
) -> Result<(), ConfigError> {
    let mut from = Some(0);
    while let Some(at) = from {
        let request = QuarantineRequest::Raw { id: id.to_owned(), from: at };
        let answer = ask(Request::Quarantine(request))?;
        let piece = STANDARD.decode(text(&answer, "piece"));
        let piece = piece.map_err(|error| ConfigError(format!("the server's answer: {error}")))?;
        if !written(|out| out.write_all(&piece))? {
            return Ok(());
        }
        from = answer["next"].as_u64();
    }
    Ok(())
}
