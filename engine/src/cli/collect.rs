//! `kura collect`: mail from mailboxes that users have elsewhere.

use super::Outcome;
use super::ask::ask;
use super::directory::{Common, Password, parse_size, said, text};
use crate::collect::USUAL;
use crate::collect::operations::CollectRequest;
use crate::collect::source::{Change, Left, Mapping, Protocol, Secret, Source, Tls};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::when::{Span, time_text};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Proto {
    Pop3,
    Imap,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Encryption {
    /// TLS from the first octet.
    Implicit,
    /// STARTTLS or STLS; without it nothing is said.
    Starttls,
    /// Password and mail can be read by everybody on the way.
    Off,
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// Who gets the mail.
    account: String,
    /// Where it comes from, with :port unless that is the usual one.
    host: String,
    #[arg(long, value_enum, default_value = "imap")]
    protocol: Proto,
    /// Who the account is over there.
    #[arg(long, value_name = "USER")]
    user: String,
    /// Reads the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Reads an OAuth 2.0 access token from this file at each visit, in the place of a password.
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    token_file: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "implicit")]
    tls: Encryption,
    /// How often it is visited: 5m, 1h.
    #[arg(long, value_name = "SPAN", default_value = "15m", value_parser = Span::parse)]
    every: Span,
    /// Only when `kura collect run` says so.
    #[arg(long, conflicts_with = "every")]
    on_demand: bool,
    /// Deletes messages over there once they are durable here; without it they stay.
    #[arg(long, conflicts_with = "delete_after")]
    delete: bool,
    /// The same, days later.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    delete_after: Option<u16>,
    /// Larger messages stay where they are.
    #[arg(long, value_name = "SIZE", default_value = "50M", value_parser = parse_size)]
    size_max: u64,
    /// Where mail goes that no filter says anything about; absent: INBOX.
    #[arg(long, value_name = "NAME")]
    mailbox: Option<String>,
    /// A folder over there (IMAP), and its mailbox here; may be given several times.
    /// Absent: INBOX alone.
    #[arg(long = "folder", value_name = "THERE[=HERE]", value_parser = Mapping::parse)]
    folders: Vec<Mapping>,
    /// All folders over there (IMAP), under their own names; spam and trash are left out.
    #[arg(long, conflicts_with = "folders")]
    all_folders: bool,
    /// The mailbox is for many accounts (DomainPOP): each message goes to the addresses of
    /// ours that Delivered-To, X-Original-To, Envelope-To or Received name, and to ACCOUNT
    /// where they name none.
    #[arg(long)]
    split: bool,
    /// The same by other header fields; may be given several times, and the first one that names an
    /// address of ours decides.
    #[arg(long, value_name = "FIELD")]
    split_by: Vec<String>,
    /// What it is called; absent: as its host.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// What is given is changed; what was collected before stays known.
#[derive(Debug, Args)]
pub(super) struct Changed {
    account: String,
    name: String,
    /// Where the mail lies now, with :port unless that stays as it is.
    #[arg(long)]
    host: Option<String>,
    #[arg(long)]
    user: Option<String>,
    /// Reads the new password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Reads an OAuth 2.0 access token from this file at each visit, in the place of a password.
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    token_file: Option<PathBuf>,
    #[arg(long, value_enum)]
    tls: Option<Encryption>,
    #[arg(long, value_name = "SPAN", value_parser = Span::parse)]
    every: Option<Span>,
    #[arg(long, conflicts_with = "every")]
    on_demand: bool,
    /// Messages stay over there.
    #[arg(long, conflicts_with_all = ["delete", "delete_after"])]
    keep: bool,
    /// Messages are deleted over there once they are durable here; those that were
    /// collected before, too.
    #[arg(long, conflicts_with = "delete_after")]
    delete: bool,
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    delete_after: Option<u16>,
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size_max: Option<u64>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
pub(super) enum CollectCommand {
    /// Mail is collected from there from now on. The password is kept as it is given, in the store,
    /// which the server's user alone can read, and in backups of it.
    ///
    /// Example: kura collect add ann@example.org imap.example.com --user ann --password-stdin
    /// --delete-after 30
    Add(Box<New>),
    /// Outside mailboxes and how they stand.
    ///
    /// Example: kura collect list ann@example.org
    List {
        account: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Everything that is known of one, but the password.
    ///
    /// Example: kura collect show ann@example.org imap.example.com
    Show {
        account: String,
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Visits them now and waits for the outcome; exit code 3 if any visit fails.
    ///
    /// Example: kura collect run ann@example.org imap.example.com
    Run {
        #[arg(required_unless_present = "all")]
        account: Option<String>,
        name: Option<String>,
        /// Everybody's.
        #[arg(long, conflicts_with = "account")]
        all: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Changes how one is reached and what is left there, such as a new password. What was
    /// collected before is not collected again, as it would be by `remove` and `add`.
    ///
    /// Example: kura collect change ann@example.org imap.example.com --password-stdin
    Change(Box<Changed>),
    /// No mail is collected from there any more. What was collected stays.
    ///
    /// Example: kura collect remove ann@example.org imap.example.com
    Remove {
        account: String,
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn run(command: CollectCommand) -> Result<Outcome, ConfigError> {
    match command {
        CollectCommand::Add(new) => add(*new),
        CollectCommand::List { account, common } => {
            said(&common, Request::Collect(CollectRequest::List { account }), list_text)
        }
        CollectCommand::Show { account, name, common } => {
            said(&common, Request::Collect(CollectRequest::Show { account, name }), show_text)
        }
        CollectCommand::Run { account, name, all: _, common } => visit(account, name, &common),
        CollectCommand::Change(changed) => change(*changed),
        CollectCommand::Remove { account, name, common } => {
            let request = CollectRequest::Remove { account, name };
            said(&common, Request::Collect(request), |value| {
                format!(
                    "{} of {} removed; what was collected stays",
                    text(value, "name"),
                    text(value, "account")
                )
            })
        }
    }
}

fn add(new: New) -> Result<Outcome, ConfigError> {
    let secret = secret(new.password_stdin, new.token_file.as_ref())?.ok_or_else(|| {
        let what = "how to log in is missing; pipe the password in with --password-stdin, or name a --token-file";
        ConfigError(what.into())
    })?;
    let protocol = match new.protocol {
        Proto::Pop3 => Protocol::Pop3,
        Proto::Imap => Protocol::Imap,
    };
    let tls = Tls::from(new.tls);
    let (host, port) = host_and_port(&new.host, protocol.port(tls))?;
    let source = Source {
        name: new.name.unwrap_or_default(),
        account: new.account,
        protocol,
        host,
        port,
        tls,
        user: new.user,
        secret,
        every: (!new.on_demand).then_some(new.every.0.as_secs()),
        leave: left(new.delete, new.delete_after).unwrap_or(Left::Forever),
        octets_max: new.size_max,
        mailbox: new.mailbox,
        folders: new.folders,
        all_folders: new.all_folders,
        split: match (new.split, new.split_by) {
            (true, by) if by.is_empty() => USUAL.map(str::to_owned).to_vec(),
            (_, by) => by,
        },
    };
    let request = CollectRequest::Add { source: Box::new(source) };
    said(&new.common, Request::Collect(request), |value| {
        let (account, name) = (text(value, "account"), text(value, "name"));
        let when = match value["every"].as_u64() {
            Some(_) => format!("how it goes: kura collect show {account} {name}"),
            None => {
                format!("nothing is collected before you say so: kura collect run {account} {name}")
            }
        };
        let clear = match text(value, "tls") {
            "off" => "\nwarning: password and mail go over the network for everybody to read",
            _ => "",
        };
        format!("{name} added to {account}; {when}{clear}")
    })
}

impl From<Encryption> for Tls {
    fn from(encryption: Encryption) -> Tls {
        match encryption {
            Encryption::Implicit => Tls::Implicit,
            Encryption::Starttls => Tls::Starttls,
            Encryption::Off => Tls::Off,
        }
    }
}

fn secret(is_stdin: bool, file: Option<&PathBuf>) -> Result<Option<Secret>, ConfigError> {
    match file {
        Some(file) => {
            let fault = |error| ConfigError(format!("--token-file {}: {error}", file.display()));
            Ok(Some(Secret::TokenFile(std::path::absolute(file).map_err(fault)?)))
        }
        None if is_stdin => Ok(Some(Secret::Password(Password::from_stdin()?))),
        None => Ok(None),
    }
}

fn left(delete: bool, days: Option<u16>) -> Option<Left> {
    if delete { Some(Left::Not) } else { days.map(Left::Days) }
}

fn change(changed: Changed) -> Result<Outcome, ConfigError> {
    let Changed { account, name, host, user, tls, every, on_demand, keep, size_max, .. } = &changed;
    let place = host.as_ref().map(|host| host_and_port(host, 0)).transpose()?;
    let (host, port) = place.unzip();
    let change = Change {
        host,
        port: port.filter(|port| *port > 0),
        tls: tls.map(Tls::from),
        user: user.clone(),
        secret: secret(changed.password_stdin, changed.token_file.as_ref())?,
        every: every.map(|span| span.0.as_secs()).or_else(|| on_demand.then_some(0)),
        leave: left(changed.delete, changed.delete_after).or_else(|| keep.then_some(Left::Forever)),
        octets_max: *size_max,
    };
    let (account, name) = (account.clone(), name.clone());
    let request = CollectRequest::Change { account, name, change: Box::new(change) };
    said(&changed.common, Request::Collect(request), |value| {
        let (account, name) = (text(value, "account"), text(value, "name"));
        format!("{name} of {account} is changed; how it goes: kura collect run {account} {name}")
    })
}

/// `pop.example.com`, `pop.example.com:1995`, `[2001:db8::1]:995`.
fn host_and_port(text: &str, usual: u16) -> Result<(String, u16), ConfigError> {
    let fault =
        || ConfigError(format!("{text:?} is no host with a port; write pop.example.com:995"));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port > 0).ok_or_else(fault)?)
        }
        Some(_) | None => (text, usual),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() { Err(fault()) } else { Ok((host.to_owned(), port)) }
}

fn visit(
    account: Option<String>,
    name: Option<String>,
    common: &Common,
) -> Result<Outcome, ConfigError> {
    let value = ask(&common.place, Request::Collect(CollectRequest::Run { account, name }))?;
    let rows = value.as_array().map_or(&[][..], Vec::as_slice);
    let is_failing = |row: &Value| row["failures"].as_u64().unwrap_or(0) > 0;
    if common.json {
        outln!("{value}")?;
    } else {
        for row in rows {
            outln!("{}", visit_text(row))?;
        }
        if rows.is_empty() {
            outln!("there is nothing to visit")?;
        }
    }
    Ok(if rows.iter().any(is_failing) { Outcome::Unwell } else { Outcome::Done })
}

fn visit_text(row: &Value) -> String {
    let (account, name) = (text(row, "account"), text(row, "name"));
    let (collected, deleted) = (&row["now_collected"], &row["now_deleted"]);
    let mut line =
        format!("{account}  {name}  {collected} collected, {deleted} deleted over there");
    if row["failures"].as_u64().unwrap_or(0) > 0 {
        line += &format!(
            "\n    {} {}\n    {}",
            text(row, "host"),
            text(row, "why"),
            text(row, "remedy")
        );
    }
    line
}

fn when(value: &Value) -> String {
    value.as_u64().map_or_else(|| "never".to_owned(), |seconds| time_text(seconds * 1000))
}

fn list_text(value: &Value) -> String {
    let rows = value.as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<String> = rows.iter().map(row_text).collect();
    lines.push(format!("{} outside mailboxes", rows.len()));
    lines.join("\n")
}

fn row_text(row: &Value) -> String {
    let why = row["why"].as_str().map(|why| format!("\n    {} {why}", text(row, "host")));
    format!(
        "{}  {}  {} {}@{}:{}  {}, {} collected, last success {}{}",
        text(row, "account"),
        text(row, "name"),
        text(row, "protocol"),
        text(row, "user"),
        text(row, "host"),
        row["port"],
        text(row, "state"),
        row["collected"],
        when(&row["last_success"]),
        why.unwrap_or_default(),
    )
}

fn show_text(row: &Value) -> String {
    let every = match row["every"].as_u64() {
        Some(seconds) => format!("every {}", Span(std::time::Duration::from_secs(seconds)).text()),
        None => "at a wish only".to_owned(),
    };
    let folders = row["folders"].as_array().map_or(&[][..], Vec::as_slice);
    let folder = |one: &Value| match one["local"].as_str() {
        Some(local) => format!("{}={local}", text(one, "remote")),
        None => text(one, "remote").to_owned(),
    };
    let folders = match (row["all_folders"] == true, folders) {
        (true, _) => "all".to_owned(),
        (false, []) => "INBOX".to_owned(),
        (false, some) => some.iter().map(folder).collect::<Vec<_>>().join(", "),
    };
    let mut lines = vec![
        row_text(row),
        format!(
            "visited {every}, next {}; last visit {}",
            when(&row["next"]),
            when(&row["last_visit"])
        ),
        format!("tls {}, login by {}", text(row, "tls"), text(row, "login")),
        format!(
            "folders {folders}; into {}; messages {}, up to {} bytes; {} deleted so far",
            row["mailbox"].as_str().unwrap_or("INBOX"),
            text(row, "messages"),
            row["size_max"],
            row["deleted"],
        ),
    ];
    if let Some(remedy) = row["remedy"].as_str() {
        lines.push(format!(
            "failing since {}, {} times: {remedy}",
            when(&row["failing_since"]),
            row["failures"]
        ));
    }
    let split = row["split"].as_array().map_or(&[][..], Vec::as_slice);
    if !split.is_empty() {
        let fields: Vec<&str> = split.iter().filter_map(Value::as_str).collect();
        lines.push(format!("for many accounts, by {}", fields.join(", ")));
    }
    lines.extend(row["remark"].as_str().map(str::to_owned));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn hosts_may_have_ports() {
        for (text, host, port) in [
            ("pop.test", "pop.test", 995),
            ("pop.test:110", "pop.test", 110),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("2001:db8::1", "2001:db8::1", 995),
            ("[2001:db8::1]:110", "2001:db8::1", 110),
            ("[2001:db8::1]", "2001:db8::1", 995),
        ] {
            assert_eq!(host_and_port(text, 995).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in ["", ":1", "a:0", "a:x", "[]:1"] {
            assert!(host_and_port(text, 995).is_err(), "{text}");
        }
    }
}
