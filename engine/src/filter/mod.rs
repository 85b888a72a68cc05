//! Is a message wanted? The content phase: rules with scores, and a classifier that learns.
//!
//! | where | what |
//! |---|---|
//! | `rules.toml` | the rules, each with examples |
//! | [`rules`] | reading and compiling rule files |
//! | [`mail`], [`html`], [`url`] | a message, decoded once |
//! | [`facts`] | what can be counted in it |
//! | [`evaluate`] | which rules match |
//! | [`tokens`], [`classifier`] | what has been learned from mail that people have sorted |
//! | [`sorting`] | what users move into Junk or out of it, and whom that teaches |
//! | [`learning`] | learning, and keeping what was learned |
//! | [`senders`] | whose mail each account has sorted, for itself alone |
//! | [`own`] | what each account has learned from that, for itself alone |
//! | [`rspamd`] | a second opinion, where the operator has one asked for |
//! | [`written`] | whom each account has written to, whose mail is expected |
//! | [`verdict`] | the sum, what follows from it, and how it is written into the message |
//! | [`operations`] | what an operator can ask of the classifier |
//! | [`settings`] | what the operator says: `[spam]` |
//!
//! But for learning, everything here is pure: bytes and an envelope in, a list of rules with scores
//! and reasons out. Work is linear in what is looked at, which is bounded by [`limits`]; a message
//! that streams is judged by its beginning.

pub mod classifier;
pub mod evaluate;
pub mod facts;
pub mod html;
pub mod learning;
pub mod mail;
pub mod operations;
pub mod own;
pub mod rspamd;
pub mod rules;
pub mod senders;
pub mod settings;
pub mod sorting;
pub mod tokens;
pub mod url;
pub mod verdict;
pub mod written;

use crate::auth::verdict::{Method, Outcome};
use crate::config::ConfigError;
use crate::shard::Shard;
use bytes::Bytes;
use classifier::Classifier;
use mail::Mail;
use rules::Rules;
use senders::Sender;
use serde::{Deserialize, Serialize};
use settings::Spam;
use storage::store::Space;
use storage::{AccountId, Error};
use tokens::Tokens;

/// What bounds the work and memory that a message can cost here.
pub mod limits {
    /// Of a message, the rest is not looked at.
    pub const MESSAGE_BYTES_MAX: usize = 256 << 10;
    pub const HEADER_BYTES_MAX: usize = 64 << 10;
    pub const FIELDS_MAX: usize = 500;
    /// Encoded bytes of all text parts that are decoded.
    pub const RAW_TEXT_BYTES_MAX: usize = 96 << 10;
    pub const PARTS_DECODED_MAX: usize = 50;
    /// Of visible text that patterns and the classifier see.
    pub const TEXT_BYTES_MAX: usize = 64 << 10;
    pub const LINKS_MAX: usize = 300;
    pub const LINK_TEXT_BYTES_MAX: usize = 400;
    pub const URL_BYTES_MAX: usize = 1024;
    /// Of all addresses that patterns see.
    pub const URL_BYTES_ALL_MAX: usize = 32 << 10;
    pub const RULES_MAX: usize = 1000;
    pub const PATTERN_BYTES_MAX: usize = 4096;
    /// Of one message, for the classifier.
    pub const TOKENS_MAX: usize = 4096;
    pub const WORD_BYTES_MAX: usize = 24;
}

/// How a message has come.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'e> {
    /// Empty for the null sender.
    pub mail_from: &'e str,
    pub recipients: &'e [String],
    /// What verification has found.
    pub auth: &'e [(Method, Outcome)],
    /// Now.
    pub unix_seconds: i64,
}

/// A rule that matches, and what it adds.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub rule: String,
    pub score: f64,
    pub reason: String,
    /// Whether the message alone has led to it.
    pub of_content: bool,
}

/// What was found in one message.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub hits: Vec<Hit>,
    /// What the classifier looks at.
    pub tokens: Tokens,
    /// What the classifier says, once it was asked, where it has a word.
    pub margin: Option<f64>,
    pub sender: Option<Sender>,
}

/// The rules over the beginning of a message, and what the classifier will look at. Some 30 µs for
/// each KiB of text: long enough that a core does not do it for a large message.
pub fn judge(rules: &Rules, message: &[u8], envelope: &Envelope<'_>) -> Found {
    let message = &message[..message.len().min(limits::MESSAGE_BYTES_MAX)];
    let mail = Mail::read(message);
    let text = evaluate::visible_text(&mail);
    let facts = facts::count(&mail, &text, envelope);
    let hits = rules.evaluate(&mail, &text, &facts, envelope.auth);
    let tokens = Tokens::of(&mail, &text, &hits, &facts);
    Found { hits, tokens, margin: None, sender: Sender::of(&mail) }
}

impl Found {
    /// With the classifier's word, where it has one.
    pub fn judged_by(mut self, classifier: &Classifier) -> Found {
        self.margin = classifier.margin(&self.tokens);
        self.hits.extend(self.margin.map(classifier::hit));
        self
    }
}

/// What is remembered of whom an account has sorted and written to is under this, on its home
/// shard, and its lessons behind it.
fn key(account: AccountId) -> Bytes {
    Bytes::copy_from_slice(&account.0.to_be_bytes())
}

/// Whether an account was removed meanwhile: what is learned of it now would stay for ever. To be
/// asked while the turn is held.
fn is_gone(shard: &Shard, account: AccountId) -> bool {
    shard.store.usage(account).is_err()
}

/// On the home shard of an account that was removed: of what comes after this, nobody
/// remembers anything.
pub async fn forget(shard: &Shard, account: AccountId) -> Result<(), Error> {
    // What is being written just now must not come behind this.
    let _turn = shard.learning_turn.lock().await;
    drop_sorted(shard, account).await?;
    drop_all(shard, written::SPACE, account).await?;
    Ok(())
}

/// What an account had sorted, until that was forgotten.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Forgotten {
    pub messages: usize,
    pub senders: usize,
}

/// On the account's home shard: its mail is judged as if it had never sorted any. Whom it has
/// written to is no verdict, and stays.
pub async fn forget_sorted(shard: &Shard, account: AccountId) -> Result<Forgotten, Error> {
    // What its client has sorted a moment ago is learned first, and goes with the rest.
    let turn = sorting::turn(shard, account);
    let _sorted = turn.lock().await;
    let _turn = shard.learning_turn.lock().await;
    drop_sorted(shard, account).await
}

/// To be called while the turn is held.
async fn drop_sorted(shard: &Shard, account: AccountId) -> Result<Forgotten, Error> {
    let senders = drop_all(shard, senders::SPACE, account).await?;
    let messages = drop_all(shard, own::SPACE, account).await?.len();
    let mut models = shard.own_models.borrow_mut();
    models.removed(messages);
    models.forget(account);
    let senders = senders.iter().map(|value| senders::count(value)).sum();
    Ok(Forgotten { messages, senders })
}

/// What there was.
async fn drop_all(shard: &Shard, space: Space, account: AccountId) -> Result<Vec<Bytes>, Error> {
    let there = shard.store.scan_prefix(space, &key(account));
    let (keys, values): (Vec<Bytes>, Vec<Bytes>) = there.into_iter().unzip();
    if !keys.is_empty() {
        let gone = keys.into_iter().map(|key| (key, None)).collect();
        let _durable = shard.store.put(space, gone).await?;
    }
    Ok(values)
}

/// The rules that the config asks for, once their examples have been tried.
pub fn load(spam: &Spam) -> Result<Rules, ConfigError> {
    let own = match &spam.rules {
        None => None,
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
            ConfigError(format!("spam.rules: can't read {}: {error}", file.display()))
        })?),
    };
    let place =
        || spam.rules.as_ref().map_or("spam.scores".to_owned(), |f| f.display().to_string());
    let fault = |what: String| ConfigError(format!("{}: {what}", place()));
    let rules = Rules::read(own.as_deref(), &spam.scores).map_err(fault)?;
    if own.is_some() {
        rules.check_examples().map_err(fault)?;
    }
    Ok(rules)
}
