//! `kura reports`: what others say about mail in the names of our domains, and what they
//! are told of theirs.

use super::Outcome;
use super::directory::{Common, said, text};
use crate::config::ConfigError;
use crate::operations::Request;
use crate::reports::operations::ReportsRequest;
use crate::when::parse_time;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::fmt::Write;

const DAY_MILLIS: u64 = 86_400_000;

#[derive(Debug, Args)]
pub(super) struct Since {
    /// About this day or later: 7d, 4w, or like 2026-11-25T00:00:00Z.
    #[arg(long, value_name = "TIME", default_value = "30d")]
    since: String,
}

impl Since {
    fn day(&self) -> Result<u32, ConfigError> {
        let millis = parse_time(&self.since, crate::delivery::unix_millis().0)
            .map_err(|fault| ConfigError(format!("--since: {fault}")))?;
        Ok(u32::try_from(millis / DAY_MILLIS).unwrap_or(u32::MAX))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ReportsCommand {
    /// What others have reported, by domain and day.
    ///
    /// Counted are reports that came to the addresses in `reports.read` of the config file.
    /// Example: kura reports list --since 7d
    List {
        /// Only this domain.
        #[arg(long, value_name = "DOMAIN")]
        domain: Option<String>,
        #[command(flatten)]
        since: Since,
        #[command(flatten)]
        common: Common,
    },
    /// Who sends mail as from a domain and fails, who says so, and what failed with TLS.
    ///
    /// Example: kura reports show --domain example.org --since 7d
    Show {
        #[arg(long, value_name = "DOMAIN")]
        domain: String,
        #[command(flatten)]
        since: Since,
        #[command(flatten)]
        common: Common,
    },
    /// Sends DMARC reports about everything that was counted so far, today included, instead of
    /// when the day is over.
    ///
    /// Example: kura reports send
    Send {
        #[command(flatten)]
        common: Common,
    },
}

pub(super) fn run(command: ReportsCommand) -> Result<Outcome, ConfigError> {
    match command {
        ReportsCommand::List { domain, since, common } => {
            let since = since.day()?;
            said(&common, Request::Reports(ReportsRequest::List { domain, since }), list_text)
        }
        ReportsCommand::Show { domain, since, common } => {
            let since = since.day()?;
            said(&common, Request::Reports(ReportsRequest::Show { domain, since }), show_text)
        }
        ReportsCommand::Send { common } => {
            said(&common, Request::Reports(ReportsRequest::Send), sent_text)
        }
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[][..], Vec::as_slice)
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or(0)
}

fn many(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn names(value: &Value) -> String {
    rows(value).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn sums(row: &Value) -> String {
    let mut text = String::new();
    let (passed, failed) = (number(row, "passed"), number(row, "failed"));
    if passed + failed > 0 {
        let _ = write!(text, "{} passed DMARC, {failed} failed", many(passed, "message"));
    }
    let (passed, failed) = (number(row, "tls_passed"), number(row, "tls_failed"));
    if passed + failed > 0 {
        let semicolon = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{semicolon}{} with TLS, {failed} failed", many(passed, "session"));
    }
    if text.is_empty() {
        text.push_str("nothing was seen");
    }
    text
}

fn list_text(value: &Value) -> String {
    if rows(value).is_empty() {
        return "no reports; they come to the addresses in the DMARC and TLSRPT records (`kura dns print`), and those \
                in reports.read are counted"
            .to_owned();
    }
    let line = |row: &Value| {
        format!(
            "{}  {}  {} ({} of {})",
            text(row, "day"),
            text(row, "domain"),
            sums(row),
            many(number(row, "reports"), "report"),
            many(number(row, "reporters"), "reporter"),
        )
    };
    rows(value).iter().map(line).collect::<Vec<_>>().join("\n")
}

fn show_text(value: &Value) -> String {
    let mut lines = vec![format!("{} since {}", text(value, "domain"), text(value, "since"))];
    if rows(&value["days"]).is_empty() {
        lines.push("no reports".to_owned());
    }
    lines.extend(
        rows(&value["days"]).iter().map(|row| format!("{}  {}", text(row, "day"), sums(row))),
    );
    lines.extend(rows(&value["sources"]).iter().map(source_text));
    let more = number(value, "more_messages");
    if more > 0 {
        lines.push(format!("further sources sent {} that failed", many(more, "message")));
    }
    for row in rows(&value["tls_failures"]) {
        lines.push(format!(
            "{} to {} failed: {} (policy {}, says {})",
            many(number(row, "sessions"), "TLS session"),
            if text(row, "host").is_empty() { "the domain" } else { text(row, "host") },
            text(row, "what"),
            text(row, "policy"),
            names(&row["reporters"]),
        ));
    }
    for row in rows(&value["reporters"]) {
        let organization = text(row, "organization");
        lines.push(format!(
            "{}{} says: {}",
            text(row, "reporter"),
            if organization.is_empty() { String::new() } else { format!(" ({organization})") },
            sums(row),
        ));
    }
    lines.join("\n")
}

fn source_text(row: &Value) -> String {
    let mut line = format!(
        "{} sent {} as {} that failed SPF and DKIM",
        text(row, "address"),
        many(number(row, "messages"), "message"),
        text(row, "from"),
    );
    let done = |(done, count): (&String, &Value)| {
        let words = match done.as_str() {
            "none" | "pass" | "" => "delivered",
            "quarantine" => "put into junk",
            "reject" => "refused",
            other => other,
        };
        format!("{count} {words}")
    };
    let dispositions = row["dispositions"].as_object().into_iter().flatten().map(done);
    let _ = write!(line, ": {}", dispositions.collect::<Vec<_>>().join(", "));
    let passed_for = names(&row["passed_for"]);
    if passed_for.is_empty() {
        line.push_str(
            "; forged, or a server of yours that SPF does not name and that does not sign",
        );
    } else {
        let _ = write!(
            line,
            "; SPF or DKIM passed for {passed_for}: a forwarder, or a service of yours that lacks a DKIM key for the domain"
        );
    }
    let _ = write!(line, " (says {})", names(&row["reporters"]));
    line
}

fn sent_text(value: &Value) -> String {
    let line = |row: &Value| {
        format!(
            "{}: {} to {}",
            text(row, "domain"),
            many(number(row, "messages"), "message"),
            text(row, "to")
        )
    };
    let mut lines: Vec<String> = rows(&value["sent"]).iter().map(line).collect();
    lines.extend(
        rows(&value["later"]).iter().filter_map(Value::as_str).map(|why| format!("later: {why}")),
    );
    lines.push(format!(
        "{} sent; {} want none",
        many(number(value, "reports"), "report"),
        many(number(value, "unwanted"), "domain"),
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_operator_reads_what_to_do() {
        let source = json!({ "address": "192.0.2.7", "from": "example.org", "messages": 31,
            "dispositions": { "none": 30, "reject": 1 }, "passed_for": [], "reporters": ["big.test"] });
        let line = source_text(&source);
        assert!(line.starts_with("192.0.2.7 sent 31 messages as example.org that failed SPF and DKIM: 30 delivered, 1 refused"), "{line}");
        assert!(line.contains("forged") && line.ends_with("(says big.test)"), "{line}");
        let forwarded = source_text(&json!({ "passed_for": ["list.test"], "messages": 1 }));
        assert!(
            forwarded.contains("sent 1 message as") && forwarded.contains("passed for list.test")
        );
        assert!(list_text(&json!([])).contains("reports.read"));
    }
}
