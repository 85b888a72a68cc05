//! `kura spam`: what the filter thinks of a message, and what it is taught.

use super::ask::{Link, ask_over, link};
use super::directory::{Common, said};
use super::{Outcome, Where, counted};
use crate::config::ConfigError;
use crate::filter::classifier::{self, Class};
use crate::filter::learning::{self, Lesson};
use crate::filter::limits::MESSAGE_BYTES_MAX;
use crate::filter::operations::SpamRequest;
use crate::filter::rules::Rules;
use crate::filter::tokens::Tokens;
use crate::filter::verdict::Verdict;
use crate::filter::{self, Envelope, Found};
use crate::operations::Request;
use clap::{ArgGroup, Args, Subcommand};
use protocols::message::Summary;
use protocols::message::date::Sent;
use protocols::message::field::{Fields, unfold};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Subcommand)]
pub(super) enum SpamCommand {
    /// Says what the filter makes of messages: score, and each rule with its reason.
    ///
    /// Each FILE is one message. It is judged as of the day when it arrived, without who has sent
    /// it. Example: kura spam test suspicious.eml
    Test(TestOptions),
    /// Teaches the classifier from mail that was sorted before: files, directories of files,
    /// Maildirs, mboxes.
    ///
    /// A file that is no message is refused; one that lies in a directory is named, and left out.
    ///
    /// Each message is learned once. One that was learned as the other kind moves, as long as it is
    /// among the last 32,768 that were learned; of others both words count.
    ///
    /// Example: kura spam train --spam old/junk --ham old/inbox.mbox
    Train(TrainOptions),
    /// Forgets what an account has sorted, or all that the shared classifier has learned;
    /// running and stopped.
    ///
    /// Of an account: the messages that its own classifier goes by, and the senders whose mail it
    /// has sorted. Whom it has written to stays known. There is no way back but a backup.
    ///
    /// Example: kura spam forget ann@example.org
    ///
    /// Example: kura spam forget --shared
    Forget(ForgetOptions),
    /// Lists the rules with their scores.
    ///
    /// Example: kura spam rules
    Rules(RulesOptions),
    /// Lists what rules can count (`fact = "…"`).
    ///
    /// Example: kura spam facts
    Facts(RulesOptions),
}

#[derive(Debug, Args)]
pub(super) struct TestOptions {
    /// Messages.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    place: Where,
    /// Prints one JSON object for each message.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TrainOptions {
    /// Where spam is.
    #[arg(long, value_name = "PATH", num_args = 1.., required_unless_present = "ham")]
    spam: Vec<PathBuf>,
    /// Where wanted mail is.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    ham: Vec<PathBuf>,
    #[command(flatten)]
    place: Where,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["address", "shared"])))]
pub(super) struct ForgetOptions {
    /// The account.
    address: Option<String>,
    /// What judges everybody's mail, from `kura spam train` and `spam.learn = "everybody"`.
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct RulesOptions {
    #[command(flatten)]
    place: Where,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: SpamCommand) -> Result<Outcome, ConfigError> {
    match command {
        SpamCommand::Test(options) => test(&options),
        SpamCommand::Train(options) => train(&options),
        SpamCommand::Forget(ForgetOptions { address, common, .. }) => {
            let request = match address {
                Some(address) => SpamRequest::Forget { address },
                None => SpamRequest::ForgetShared,
            };
            said(&common, Request::Spam(request), forgotten)
        }
        SpamCommand::Rules(options) => rules(&options),
        SpamCommand::Facts(options) => {
            for (name, what) in filter::facts::all() {
                if options.json {
                    outln!("{}", json!({ "fact": name, "what": what }))?;
                } else {
                    outln!("{name:28} {what}")?;
                }
            }
            Ok(Outcome::Done)
        }
    }
}

/// Messages that are asked about at once: one request is at most 1 MiB.
const TOGETHER_TOKENS_MAX: usize = 60_000;
/// Messages that are put in order before they are learned: some 30 MiB.
const WAITING_MAX: usize = 10_000;

/// Files in directories that are told of one by one.
const LEFT_OUT_NAMED_MAX: u64 = 10;
/// Of a file, to see whether it is mail.
const BEGINNING_BYTES: u64 = 4096;

fn test(options: &TestOptions) -> Result<Outcome, ConfigError> {
    let config = options.place.load()?;
    let rules = filter::load(&config.spam)?;
    let link = link(&config)?;
    let mut files = options.files.iter().peekable();
    while files.peek().is_some() {
        let mut judged: Vec<(&PathBuf, Found)> = Vec::new();
        let mut tokens = 0;
        while let Some(file) = files.next_if(|_| tokens < TOGETHER_TOKENS_MAX) {
            let found = judge(&rules, &read(file)?);
            tokens += found.tokens.0.len();
            judged.push((file, found));
        }
        let messages: Vec<Tokens> =
            judged.iter_mut().map(|(_, found)| std::mem::take(&mut found.tokens)).collect();
        let answer = ask_over(&config, &link, Request::Spam(SpamRequest::Margins { messages }))?;
        let margins: Vec<Option<f64>> =
            serde_json::from_value(answer).map_err(|error| ConfigError(error.to_string()))?;
        for ((file, mut found), margin) in judged.into_iter().zip(margins) {
            found.hits.extend(margin.map(classifier::hit));
            show(file, &Verdict::new(found.hits, &config.spam), options.json)?;
        }
    }
    if let Link::Store(server) = link {
        server.stop();
    }
    Ok(Outcome::Done)
}

/// As of its arrival: when the last server has taken it, or else its date.
fn judge(rules: &Rules, message: &[u8]) -> Found {
    let summary = Summary::compute(message);
    let received = Fields::new(message).find(|field| field.is("Received")).and_then(|field| {
        let value = unfold(field.value);
        let date = value.rsplit(|&byte| byte == b';').next()?.to_vec();
        Sent::read(&date)
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = i64::try_from(now).unwrap_or(0);
    let unix_seconds = received.or(summary.sent).map_or(now, |sent| sent.unix_seconds);
    let sender = Fields::new(message).find(|field| field.is("Return-Path"));
    let sender = sender.map(|field| String::from_utf8_lossy(&unfold(field.value)).into_owned());
    let sender = sender.unwrap_or_default();
    let mail_from = sender.trim().trim_matches(['<', '>']);
    filter::judge(rules, message, &Envelope { mail_from, recipients: &[], auth: &[], unix_seconds })
}

fn show(file: &Path, verdict: &Verdict, as_json: bool) -> Result<(), ConfigError> {
    if as_json {
        let hits = verdict
            .hits
            .iter()
            .map(|hit| json!({ "rule": hit.rule, "score": hit.score, "reason": hit.reason }));
        let hits: Vec<_> = hits.collect();
        let (score, action) = (verdict.score, verdict.action.name());
        return outln!(
            "{}",
            json!({ "file": file, "score": score, "action": action, "rules": hits })
        );
    }
    outln!("{}: {:.1}, {}", file.display(), verdict.score, verdict.action.name())?;
    for hit in &verdict.hits {
        outln!("  {:6.1}  {:26} {}", hit.score, hit.rule, hit.reason)?;
    }
    Ok(())
}

fn train(options: &TrainOptions) -> Result<Outcome, ConfigError> {
    let config = options.place.load()?;
    let rules = filter::load(&config.spam)?;
    let mut left_out = 0_u64;
    let mut files = |paths: &[PathBuf]| {
        let mut found = Vec::new();
        paths.iter().try_for_each(|path| collect(path, &mut |file| found.push(file)))?;
        let mut mail = Vec::with_capacity(found.len());
        for file in found {
            match why_no_message(&file)? {
                None => mail.push(file),
                Some(why) if paths.contains(&file) => {
                    return Err(ConfigError(format!(
                        "{} {why}; nothing was learned. Name messages, mboxes, Maildirs or directories of messages",
                        file.display()
                    )));
                }
                Some(why) => {
                    left_out += 1;
                    if left_out <= LEFT_OUT_NAMED_MAX {
                        // Nobody may be looking.
                        let _ = writeln!(std::io::stderr(), "left out: {} {why}", file.display());
                    }
                }
            }
        }
        Ok::<_, ConfigError>(mail.into_iter())
    };
    let mut sources = [(Class::Spam, files(&options.spam)?), (Class::Wanted, files(&options.ham)?)];
    let link = link(&config)?;
    let (mut read_count, mut learned, mut moved) = (0_u64, 0_u64, 0_u64);
    // Both kinds in turn, since what comes late weighs more, and always in the same
    // order: by fingerprint.
    let mut waiting: Vec<Lesson> = Vec::new();
    let mut learn = |waiting: &mut Vec<Lesson>| -> Result<(), ConfigError> {
        waiting.sort_by_key(|lesson| lesson.fingerprint);
        let mut rest = std::mem::take(waiting).into_iter().peekable();
        while rest.peek().is_some() {
            let (mut lessons, mut tokens) = (Vec::new(), 0);
            while let Some(lesson) = rest.next_if(|_| tokens < TOGETHER_TOKENS_MAX) {
                tokens += lesson.tokens.0.len();
                lessons.push(lesson);
            }
            let answer = ask_over(&config, &link, Request::Spam(SpamRequest::Learn { lessons }))?;
            learned += answer["learned"].as_u64().unwrap_or(0);
            moved += answer["moved"].as_u64().unwrap_or(0);
        }
        Ok(())
    };
    while sources.iter().any(|(_, files)| files.len() > 0) {
        for (class, files) in &mut sources {
            let Some(file) = files.next() else { continue };
            for message in messages(read(&file)?) {
                read_count += 1;
                waiting.push(learning::lesson(&rules, &message, *class));
                if waiting.len() >= WAITING_MAX {
                    learn(&mut waiting)?;
                }
            }
        }
    }
    learn(&mut waiting)?;
    if let Link::Store(server) = link {
        server.stop();
    }
    if options.json {
        let messages = read_count;
        outln!(
            "{}",
            json!({ "messages": messages, "learned": learned, "moved": moved, "left_out": left_out })
        )?;
    } else {
        let known = read_count - learned;
        let left_out = match left_out {
            0 => String::new(),
            some => format!("; {} left out, being no mail", counted(some, "file")),
        };
        let moved = match moved {
            0 => String::new(),
            some => format!(" ({some} had been the other kind until now)"),
        };
        let messages = counted(read_count, "message");
        outln!("{learned} of {messages} learned{moved}; {known} known already{left_out}")?;
    }
    Ok(Outcome::Done)
}

fn forgotten(value: &Value) -> String {
    let number = |key| value[key].as_u64().unwrap_or(0);
    let (messages, senders) = (number("messages"), number("senders"));
    match value["address"].as_str() {
        None if messages == 0 => "the shared classifier has learned nothing".to_owned(),
        None => format!(
            "forgotten: {} that the shared classifier had learned; it says nothing until it is trained anew",
            counted(messages, "message")
        ),
        Some(address) if messages + senders == 0 => format!("{address} has sorted nothing"),
        Some(address) => format!(
            "forgotten: {} and {} that {address} had sorted",
            counted(messages, "message"),
            counted(senders, "sender")
        ),
    }
}

fn rules(options: &RulesOptions) -> Result<Outcome, ConfigError> {
    let rules = filter::load(&options.place.load()?.spam)?;
    for rule in &rules.rules {
        if options.json {
            let (name, score, reason) = (&rule.name, rule.score, &rule.reason);
            outln!("{}", json!({ "rule": name, "score": score, "reason": reason }))?;
        } else {
            outln!("{:6.1}  {:26} {}", rule.score, rule.name, rule.reason)?;
        }
    }
    Ok(Outcome::Done)
}

fn fault(path: &Path, error: &std::io::Error) -> ConfigError {
    ConfigError(format!("{}: {error}", path.display()))
}

/// All files at or under `path`.
fn collect(path: &Path, found: &mut impl FnMut(PathBuf)) -> Result<(), ConfigError> {
    let kind = std::fs::metadata(path).map_err(|error| fault(path, &error))?;
    if !kind.is_dir() {
        found(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|error| fault(path, &error))? {
        let entry = entry.map_err(|error| fault(path, &error))?;
        let kind = entry.file_type().map_err(|error| fault(path, &error))?;
        // A link may lead in circles.
        if kind.is_dir() {
            collect(&entry.path(), found)?;
        } else if kind.is_file() {
            found(entry.path());
        }
    }
    Ok(())
}

/// What a file is, unless it begins as a message or an mbox does.
fn why_no_message(path: &Path) -> Result<Option<&'static str>, ConfigError> {
    let file = std::fs::File::open(path).map_err(|error| fault(path, &error))?;
    let mut bytes = Vec::new();
    file.take(BEGINNING_BYTES).read_to_end(&mut bytes).map_err(|error| fault(path, &error))?;
    Ok(match bytes.is_empty() {
        true => Some("is empty"),
        false if begins_with_a_field(&bytes) => None,
        false => Some("is no message: it does not begin with a header"),
    })
}

/// A name and a colon, behind the line that begins a message in an mbox.
fn begins_with_a_field(bytes: &[u8]) -> bool {
    let start = match bytes.starts_with(b"From ") {
        true => memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1),
        false => 0,
    };
    let name = bytes[start..].split(|&byte| byte == b':').next().unwrap_or_default();
    let has_colon = start + name.len() < bytes.len();
    let name = name.trim_ascii_end();
    has_colon && !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
}

/// A message, or an mbox. Of one message the beginning is enough; of an mbox all is read.
fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut file = std::fs::File::open(path).map_err(|error| fault(path, &error))?;
    let mut bytes = vec![0; 5];
    let start = file.read(&mut bytes).map_err(|error| fault(path, &error))?;
    bytes.truncate(start);
    let most = if bytes == b"From " { u64::MAX } else { 2 * MESSAGE_BYTES_MAX as u64 };
    file.take(most).read_to_end(&mut bytes).map_err(|error| fault(path, &error))?;
    Ok(bytes)
}

/// The messages of an mbox, or the one message; line ends as on the wire.
fn messages(bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let with_crlf = |text: &[u8]| {
        let mut message = Vec::with_capacity(text.len() + text.len() / 32);
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) => {
                    message.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
                    message.extend_from_slice(b"\r\n");
                }
                None => message.extend_from_slice(line),
            }
        }
        message
    };
    if !bytes.starts_with(b"From ") {
        return vec![with_crlf(&bytes)];
    }
    let mut starts: Vec<usize> = vec![0];
    starts.extend(memchr::memmem::find_iter(&bytes, b"\nFrom ").map(|at| at + 1));
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let one = |(&start, end): (&usize, usize)| {
        let whole = &bytes[start..end];
        let first = memchr::memchr(b'\n', whole).map_or(whole.len(), |at| at + 1);
        with_crlf(&whole[first..])
    };
    starts.iter().zip(ends).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_begins_with_a_field() {
        for mail in ["Subject: x\n", "X-Odd : y\r\n", "From a Thu\nTo: b\n", "From: a\n"] {
            assert!(begins_with_a_field(mail.as_bytes()), "{mail:?}");
        }
        for other in ["", ": x", "plain text\nTo: b", "From here\nto there: x", "3 V17 N5 G\n1 :a"]
        {
            assert!(!begins_with_a_field(other.as_bytes()), "{other:?}");
        }
        assert!(!begins_with_a_field(b"\xff\xd8\xff\xe0\0\x10JFIF:\0"));
    }

    #[test]
    fn an_mbox_is_its_messages_and_a_message_is_one() {
        let mbox =
            b"From a Thu\nSubject: 1\n\nFrom here\r\nx\n\nFrom b Fri\nSubject: 2\n\ny\n".to_vec();
        let found = messages(mbox);
        // "From " at the start of a line begins a message, quoted or not: mboxes
        // quote it as ">From ".
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], b"Subject: 1\r\n\r\n");
        assert_eq!(found[2], b"Subject: 2\r\n\r\ny\r\n");
        assert_eq!(
            messages(b"Subject: x\n\nFrom me\n".to_vec()),
            [b"Subject: x\r\n\r\nFrom me\r\n"]
        );
    }
}
