//! `kura domain`, `kura account`, `kura alias`.

use super::ask::ask;
use super::{Outcome, Where, counted};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::passwords;
use crate::submission::settings::LimitsChange;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};

#[derive(Debug, Subcommand)]
pub(super) enum DomainCommand {
    /// Makes a domain with its DKIM keys, and `postmaster@` and `abuse@` it: every domain
    /// that takes mail takes it for these (RFC 5321 section 4.5.1, RFC 2142). Prints what DNS
    /// has to say of it.
    ///
    /// Example: kura domain add example.org --postmaster ann@example.org
    Add {
        domain: String,
        /// Who gets the mail for its postmaster: an address here, or one of the new domain that is
        /// to get an account; absent: who gets it for the first domain's.
        #[arg(long, value_name = "ADDRESS")]
        postmaster: Option<String>,
        /// Who gets the mail for abuse@; absent: its postmaster.
        #[arg(long, value_name = "ADDRESS")]
        abuse: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Example: kura domain list --json
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Example: kura domain show example.org
    Show {
        domain: String,
        #[command(flatten)]
        common: Common,
    },
    /// The keys that sign a domain's mail (DKIM).
    #[command(subcommand)]
    Dkim(super::dkim::DkimCommand),
    /// How sessions towards other domains could be encrypted, since midnight (UTC) or the server's
    /// start: what they are told each day if they ask for it (TLSRPT).
    ///
    /// Example: kura domain tls-report
    TlsReport {
        /// Tells those who ask for it now, and begins anew.
        #[arg(long)]
        send: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Removes a domain that has no accounts and aliases left, and its keys.
    ///
    /// Example: kura domain remove example.org
    Remove {
        domain: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) place: Where,
    /// Prints JSON.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Quotas {
    /// Most bytes the account may hold, such as 500M or 10G; absent: no limit.
    #[arg(long, value_name = "SIZE", value_parser = quota_size)]
    quota: Option<u64>,
    /// Most messages the account may hold; absent: no limit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    quota_messages: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct LimitsOptions {
    #[arg(long, value_name = "N")]
    messages_per_hour: Option<u32>,
    #[arg(long, value_name = "N")]
    messages_per_day: Option<u32>,
    /// Those of one message count each for one.
    #[arg(long, value_name = "N")]
    recipients_per_hour: Option<u32>,
    #[arg(long, value_name = "N")]
    recipients_per_day: Option<u32>,
    /// What the config file says, as for everybody.
    #[arg(long, conflicts_with_all = ["messages_per_hour", "messages_per_day", "recipients_per_hour", "recipients_per_day"])]
    usual: bool,
}

#[derive(Debug, Args)]
pub(super) struct Password {
    /// Reads the password from standard input; otherwise one is made up and printed.
    #[arg(long)]
    password_stdin: bool,
}

impl Password {
    fn read(&self) -> Result<Option<String>, ConfigError> {
        self.password_stdin.then(Password::from_stdin).transpose()
    }

    pub(super) fn from_stdin() -> Result<String, ConfigError> {
        let mut line = String::new();
        // One byte more than a password and its line end may have shows that it is too long.
        let most = passwords::BYTES_MAX as u64 + 3;
        BufReader::new(std::io::stdin().take(most)).read_line(&mut line).map_err(|error| {
            ConfigError(format!("can't read the password from standard input: {error}"))
        })?;
        let password = line.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            return Err(ConfigError(
                "the password on standard input is empty; write it as one line".into(),
            ));
        }
        if password.len() > passwords::BYTES_MAX {
            return Err(ConfigError(format!(
                "the password on standard input is longer than {} bytes; choose a shorter one",
                passwords::BYTES_MAX
            )));
        }
        Ok(password)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// Makes an account with INBOX, Drafts, Sent, Junk, Trash and Archive.
    ///
    /// Example: kura account add ann@example.org --quota 10G
    Add {
        address: String,
        #[command(flatten)]
        password: Password,
        #[command(flatten)]
        quotas: Quotas,
        #[command(flatten)]
        common: Common,
    },
    /// Example: kura account list --domain example.org
    List {
        #[arg(long)]
        domain: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Sets a new password.
    ///
    /// Example: echo secret | kura account passwd ann@example.org --password-stdin
    Passwd {
        address: String,
        #[command(flatten)]
        password: Password,
        #[command(flatten)]
        common: Common,
    },
    /// Sets the quota anew; what is not given is unlimited.
    ///
    /// Example: kura account quota ann@example.org --quota 20G
    Quota {
        address: String,
        #[command(flatten)]
        quotas: Quotas,
        #[command(flatten)]
        common: Common,
    },
    /// Shows what the account may send, and sets it where that is said; 0: as much as it likes.
    ///
    /// Example: kura account limits news@example.org --messages-per-hour 20000
    /// --recipients-per-day 0
    Limits {
        address: String,
        #[command(flatten)]
        limits: LimitsOptions,
        #[command(flatten)]
        common: Common,
    },
    /// Shows whose mail the account may send beside its own, and sets it where that is said: that
    /// of domains, of `any` sender, or (`own`) nobody else's. For another server that logs in here
    /// to send everything through this one.
    ///
    /// Example: kura account send-as gateway@example.org inner.example.org example.net
    SendAs {
        address: String,
        senders: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Removes an account and all its mail.
    ///
    /// Example: kura account remove ann@example.org
    Remove {
        address: String,
        #[command(flatten)]
        common: Common,
    },
    /// Accounts of which nothing is forgotten, whatever is expunged, and be they removed.
    #[command(subcommand)]
    Hold(super::remembering::HoldCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum AliasCommand {
    /// Delivers mail for ALIAS to the targets; `@domain` catches what nobody else takes.
    ///
    /// Example: kura alias add sales@example.org ann@example.org bob@example.org
    Add {
        alias: String,
        #[arg(required = true)]
        targets: Vec<String>,
        /// Sets an alias that is there already anew.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Example: kura alias list
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Example: kura alias remove sales@example.org
    Remove {
        alias: String,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn domain(command: DomainCommand) -> Result<Outcome, ConfigError> {
    match command {
        DomainCommand::Add { domain, postmaster, abuse, common } => {
            let request = Request::DomainAdd { domain, postmaster, abuse, without_dkim: false };
            said(&common, request, added)
        }
        DomainCommand::Dkim(command) => super::dkim::run(command),
        DomainCommand::TlsReport { send, common } => {
            said(&common, Request::TlsReport { send }, |v| tls_report_text(v, send))
        }
        DomainCommand::List { common } => {
            table(&common, Request::DomainList, &["domain", "accounts", "aliases"])
        }
        DomainCommand::Show { domain, common } => {
            said(&common, Request::DomainShow { domain }, |v| {
                let list = |key: &str| {
                    let names = v[key].as_array().into_iter().flatten().filter_map(Value::as_str);
                    names.map(|name| format!("\n  {name}")).collect::<String>()
                };
                format!(
                    "{}\naccounts:{}\naliases:{}\ndkim:{}",
                    text(v, "domain"),
                    list("accounts"),
                    list("aliases"),
                    list("dkim")
                )
            })
        }
        DomainCommand::Remove { domain, common } => {
            said(&common, Request::DomainRemove { domain }, |v| {
                format!("domain {} removed", text(v, "domain"))
            })
        }
    }
}

pub(super) fn account(command: AccountCommand) -> Result<Outcome, ConfigError> {
    match command {
        AccountCommand::Hold(command) => super::remembering::hold(command),
        AccountCommand::Add { address, password, quotas, common } => {
            let request = Request::AccountAdd {
                address,
                password: password.read()?,
                quota_bytes: quotas.quota,
                quota_messages: quotas.quota_messages,
            };
            said(&common, request, |v| {
                format!("account {} added{}", text(v, "address"), new_password(v))
            })
        }
        AccountCommand::List { domain, common } => table(
            &common,
            Request::AccountList { domain },
            &["address", "messages", "bytes", "quota_bytes", "quota_messages", "shard", "fault"],
        ),
        AccountCommand::Passwd { address, password, common } => {
            let request = Request::AccountPasswd { address, password: password.read()? };
            said(&common, request, |v| {
                format!("password of {} set{}", text(v, "address"), new_password(v))
            })
        }
        AccountCommand::Quota { address, quotas, common } => {
            let request = Request::AccountQuota {
                address,
                quota_bytes: quotas.quota,
                quota_messages: quotas.quota_messages,
            };
            said(&common, request, |v| format!("quota of {} set", text(v, "address")))
        }
        AccountCommand::Limits { address, limits, common } => {
            let LimitsOptions { usual, messages_per_hour, messages_per_day, .. } = limits;
            let LimitsOptions { recipients_per_hour, recipients_per_day, .. } = limits;
            let change = LimitsChange {
                usual,
                messages_per_hour,
                messages_per_day,
                recipients_per_hour,
                recipients_per_day,
            };
            said(&common, Request::AccountLimits { address, change }, limits_text)
        }
        AccountCommand::SendAs { address, senders, common } => {
            said(&common, Request::AccountSendAs { address, senders }, |v| {
                let also = match list_of(v, "send_as").as_str() {
                    "" => "itself and its aliases alone".to_owned(),
                    "any" => "any sender".to_owned(),
                    domains => format!("itself, its aliases, and any address of {domains}"),
                };
                format!("{} may send as {also}", text(v, "address"))
            })
        }
        AccountCommand::Remove { address, common } => {
            said(&common, Request::AccountRemove { address }, removed_text)
        }
    }
}

fn removed_text(value: &Value) -> String {
    let address = text(value, "address");
    if value["held"] != true {
        return format!("account {address} and its mail removed");
    }
    format!(
        "account {address} removed, with its password, filters and outside mailboxes. It is on hold, so its mail stays, what was \
         expunged before, too, where no client sees it:\n  kura store undelete --account {address} --since 3650d --removed --export DIR \
         writes it to a directory\n  kura account hold remove {address} --removed lets go of it for good"
    )
}

pub(super) fn alias(command: AliasCommand) -> Result<Outcome, ConfigError> {
    match command {
        AliasCommand::Add { alias, targets, replace, common } => {
            said(&common, Request::AliasAdd { alias, targets, replace }, |v| {
                let outside = list_of(v, "outside");
                let forwards = match outside.is_empty() {
                    true => String::new(),
                    false => format!("; its mail is forwarded to other hosts for {outside}"),
                };
                format!("alias {} set{forwards}", text(v, "alias"))
            })
        }
        AliasCommand::List { common } => table(&common, Request::AliasList, &["alias", "targets"]),
        AliasCommand::Remove { alias, common } => {
            said(&common, Request::AliasRemove { alias }, |v| {
                format!("alias {} removed", text(v, "alias"))
            })
        }
    }
}

fn limits_text(value: &Value) -> String {
    let limits = &value["limits"];
    let limit = |key: &str| match limits[key].as_u64() {
        Some(limit) if limit > 0 => limit.to_string(),
        _ => "any number".to_owned(),
    };
    let whose = if value["own"] == true { "limits of its own" } else { "limits of [submission]" };
    let suspected = match value["suspected"].as_str() {
        Some(why) => format!("; somebody else may be sending from it: it {why}"),
        None => String::new(),
    };
    format!(
        "{}: {} messages an hour and {} a day, {} recipients an hour and {} a day ({whose}); \
         sent within a day: {}, {}{suspected}",
        text(value, "address"),
        limit("messages_per_hour"),
        limit("messages_per_day"),
        limit("recipients_per_hour"),
        limit("recipients_per_day"),
        counted(&value["messages"], "message"),
        counted(&value["recipients"], "recipient"),
    )
}

fn list_of(value: &Value, key: &str) -> String {
    let all = value[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    all.collect::<Vec<_>>().join(", ")
}

/// Who is to answer for a new domain, and what is to be done about it.
fn added(value: &Value) -> String {
    let domain = text(value, "domain");
    let mut lines = vec![format!("domain {domain} added")];
    let is_empty = |key: &str| value[key].as_array().is_none_or(Vec::is_empty);
    if is_empty("postmaster") {
        lines.push(format!(
            "but nobody gets mail for its postmaster, which RFC 5321 wants; once it has an account: \
             kura alias add postmaster@{domain} ADDRESS, and kura alias add abuse@{domain} ADDRESS"
        ));
    } else {
        lines.push(format!("mail for its postmaster goes to {}", cell(&value["postmaster"])));
    }
    if !is_empty("abuse") {
        lines.push(format!("mail for abuse@{domain} goes to {}", cell(&value["abuse"])));
    }
    for missing in value["missing"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        lines.push(format!("{missing} does not exist yet: kura account add {missing}"));
    }
    let first = lines.join("; ");
    match serde_json::from_value(value["dns"].clone()) {
        Ok(facts) => format!(
            "{first}\n\nDNS has to say (`kura dns check {domain}` looks whether it does):\n\n{}",
            crate::domain::zone::zone(&facts).trim_end()
        ),
        Err(_) => first,
    }
}

fn new_password(value: &Value) -> String {
    value["password"]
        .as_str()
        .map(|password| format!("; its password is {password}"))
        .unwrap_or_default()
}

pub(super) fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn tls_report_text(value: &Value, sent: bool) -> String {
    let rows = value.as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        let none = if sent { "nobody asks for a report" } else { "no sessions were counted" };
        return none.to_owned();
    }
    if sent {
        return rows.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lines = Vec::new();
    for (row, policy) in
        rows.iter().flat_map(|row| list(&row["policies"]).into_iter().map(move |p| (row, p)))
    {
        let (of, summary) = (&policy["policy"], &policy["summary"]);
        lines.push(format!(
            "{}  {}  {}: {} fine, {} failed",
            text(&row["date-range"], "start-datetime").get(..10).unwrap_or_default(),
            text(of, "policy-domain"),
            text(of, "policy-type"),
            summary["total-successful-session-count"],
            summary["total-failure-session-count"],
        ));
        for failure in list(&policy["failure-details"]) {
            lines.push(format!(
                "    {} times {} at {}: {}",
                failure["failed-session-count"],
                text(&failure, "result-type"),
                text(&failure, "receiving-mx-hostname"),
                text(&failure, "failure-reason-code"),
            ));
        }
    }
    lines.join("\n")
}

pub(super) fn said(
    common: &Common,
    request: Request,
    line: impl Fn(&Value) -> String,
) -> Result<Outcome, ConfigError> {
    let value = ask(&common.place, request)?;
    if common.json {
        outln!("{value}")?;
    } else {
        outln!("{}", line(&value))?;
    }
    Ok(Outcome::Done)
}

/// Prints rows in columns as wide as their widest value.
pub(super) fn table(
    common: &Common,
    request: Request,
    columns: &[&str],
) -> Result<Outcome, ConfigError> {
    let value = ask(&common.place, request)?;
    if common.json {
        outln!("{value}")?;
        return Ok(Outcome::Done);
    }
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|&name| name.to_owned()).collect()];
    for row in value.as_array().into_iter().flatten() {
        rows.push(columns.iter().map(|&name| cell(&row[name])).collect());
    }
    // A column for what went wrong only where something did.
    let empty = |column: usize| rows.iter().skip(1).all(|row| row[column] == "-");
    if let Some(fault) = columns.iter().position(|&name| name == "fault").filter(|&at| empty(at)) {
        rows.iter_mut().for_each(|row| drop(row.remove(fault)));
    }
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        outln!("{}", cells.join("  ").trim_end())?;
    }
    Ok(Outcome::Done)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

/// A quota of nothing would refuse all mail: that is a slip, not a wish.
fn quota_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => {
            Err("a quota of 0 would refuse all mail; leave the option out for no limit".to_owned())
        }
        bytes => Ok(bytes),
    }
}

/// `500M`, `10G`, `1048576`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.to_ascii_uppercase().chars().last() {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let count: u64 = digits.parse().map_err(|_| "write a size like 500M or 10G".to_owned())?;
    count.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{parse_size, quota_size};

    #[test]
    fn sizes_parse() {
        assert_eq!(quota_size("1k"), Ok(1024));
        assert!(quota_size("0").is_err() && quota_size("0G").is_err());
        assert_eq!(parse_size("10k"), Ok(10 << 10));
        assert_eq!(parse_size("3G"), Ok(3 << 30));
        assert_eq!(parse_size("77"), Ok(77));
        assert!(
            parse_size("").is_err()
                && parse_size("G").is_err()
                && parse_size("99999999999T").is_err()
        );
    }
}
