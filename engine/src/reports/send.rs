//! Reports to others leave: on shard 0, for each day that is over, or when the operator says so.
//!
//! One domain after the other: who wants its report is asked of DNS, the report goes into the
//! queue, and once that is durable its counts are forgotten. A crash in between sends it again,
//! with the id that it had; never is one lost silently: what can't be sent within [`DAYS_MAX`] days
//! is given up, in the log.

use super::aggregate::Report;
use super::counts::{self, Due};
use super::destinations::{Destination, Inquiry};
use super::letter::Letter;
use crate::NOTICE;
use crate::metrics::count;
use crate::operations::{Fault, unix_now};
use crate::queue::notices::{self, Fate};
use crate::shard::Shard;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks for what is due.
const EVERY: Duration = Duration::from_secs(3600);
/// A day is reported so long after its end, and up to 50 minutes later: not all hosts at once.
const SETTLED_SECONDS: u64 = 600;
const SPREAD_SECONDS: u64 = 3000;
/// Between two reports.
const PAUSE: Duration = Duration::from_millis(100);
/// Days after which a report is of no use any more.
const DAYS_MAX: u32 = 3;
/// For DNS, to say who wants a report.
const ANSWER_SECONDS: u64 = 30;
const DAY: u64 = 86_400;

/// As [`crate::queue::author`] chooses who signs.
fn is_signed(shard: &Shard, contact: &str) -> bool {
    let directory = shard.directory.borrow();
    let mut name = contact.rsplit_once('@').map(|(_, domain)| domain);
    while let Some(here) = name {
        if directory.dkim(here).is_some_and(|keys| keys.signing().next().is_some()) {
            return true;
        }
        name = here.split_once('.').map(|(_, above)| above);
    }
    false
}

/// What a round has done.
#[derive(Debug, Default, Serialize)]
pub struct Round {
    pub reports: u64,
    /// Domains that want none, or whose addresses have not agreed.
    pub unwanted: u64,
    /// Left for later, with the reason.
    pub later: Vec<String>,
    pub sent: Vec<Sent>,
}

#[derive(Debug, Serialize)]
pub struct Sent {
    pub domain: String,
    pub to: String,
    pub messages: u64,
}

/// Until the server stops.
pub async fn run(shard: Rc<Shard>) {
    let config = &shard.config;
    if !config.reports.dmarc && !config.reports.tls {
        return;
    }
    let spread = config.hostname.bytes().fold(0_u64, |sum, byte| sum * 31 % 7919 + u64::from(byte));
    let contact = config.reports.from(&config.hostname);
    if !is_signed(&shard, &contact) {
        tracing::warn!(
            contact,
            "reports to others will not be signed, and few will believe them: let reports.contact be of a domain with DKIM keys (`kura domain dkim list`)"
        );
    }
    if !config.reports.dmarc {
        // Those about TLS are the control plane's.
        return;
    }
    let not_before = SETTLED_SECONDS + spread % SPREAD_SECONDS;
    while !shard.watchdog.stopping() {
        let second_of_day = unix_now() % DAY;
        if second_of_day < not_before {
            glommio::timer::sleep(Duration::from_secs(not_before - second_of_day)).await;
            continue;
        }
        let round = round(&shard, false).await;
        if round.reports > 0 || !round.later.is_empty() {
            let (reports, later) = (round.reports, round.later.len());
            tracing::info!(target: NOTICE, reports, later, "DMARC reports sent");
        }
        glommio::timer::sleep(EVERY).await;
    }
}

/// Sends what is due; with `all`, what today has brought so far, too.
pub async fn round(shard: &Rc<Shard>, all: bool) -> Round {
    let now = unix_now();
    let today = day_of(now);
    let since = counts::sent_until(shard);
    let mut round = Round::default();
    let mut is_whole = true;
    for due in counts::due(shard) {
        if !all && due.day >= today {
            break;
        }
        if shard.watchdog.stopping() {
            break;
        }
        let _turn = shard.reports.counts_turn.lock().await;
        match one(shard, &due, since, now, &mut round).await {
            Ok(()) => {}
            Err(why) if today.saturating_sub(due.day) > DAYS_MAX => {
                tracing::warn!(
                    domain = due.domain,
                    why,
                    "a DMARC report is given up after three days"
                );
                if let Err(error) = counts::forget(shard, &due).await {
                    tracing::warn!(domain = due.domain, %error, "its counts are still there");
                }
            }
            Err(why) => {
                is_whole = false;
                tracing::debug!(domain = due.domain, why, "a DMARC report is sent later");
                round.later.push(format!("{}: {why}", due.domain));
            }
        }
        if !all {
            glommio::timer::sleep(PAUSE).await;
        }
    }
    // What is left of today must not seem to begin later than it does.
    if all
        && is_whole
        && let Err(error) = counts::set_sent_until(shard, now).await
    {
        tracing::warn!(%error, "the next DMARC report of today may seem to overlap with this one");
    }
    round
}

async fn one(
    shard: &Rc<Shard>,
    due: &Due,
    since: u64,
    now: u64,
    round: &mut Round,
) -> Result<(), Fault> {
    let text = |error: storage::Error| error.to_string();
    if due.record.reports.is_empty() {
        round.unwanted += 1;
        return counts::forget(shard, due).await.map_err(text);
    }
    let inquiry = Inquiry {
        policy_domain: due.domain.clone(),
        wanted: due.record.reports.clone(),
        deadline: Instant::now() + Duration::from_secs(ANSWER_SECONDS),
    };
    let found = shard.auth.destinations(shard, inquiry).await;
    if found.is_silent && found.agreed.is_empty() {
        return Err("DNS does not say whether its addresses want it".to_owned());
    }
    if !found.refused.is_empty() {
        let refused = found.refused.join(", ");
        tracing::info!(
            domain = due.domain,
            refused,
            "no DMARC report to these: they have not agreed (RFC 9990 section 4)"
        );
    }
    if found.agreed.is_empty() {
        round.unwanted += 1;
        return counts::forget(shard, due).await.map_err(text);
    }
    let letters = letters(shard, due, found.agreed, since, now).await?;
    for Ready { to, messages, letter } in letters {
        let Some(letter) = letter else {
            tracing::info!(target: NOTICE, domain = due.domain, to, "a DMARC report is larger than is wanted there, and is not sent");
            continue;
        };
        let sent = notices::send(shard, shard.next_id(), &to, false, letter).await.map_err(text)?;
        if let Fate::Dropped(why) = sent {
            tracing::warn!(domain = due.domain, to, why, "a DMARC report is lost");
            continue;
        }
        count(&shard.reports.counts.sent);
        tracing::info!(domain = due.domain, to, messages, "a DMARC report is on its way");
        round.reports += 1;
        round.sent.push(Sent { domain: due.domain.clone(), to, messages });
    }
    counts::forget(shard, due).await.map_err(text)
}

/// A report for one address; `None` where it is too large for it.
struct Ready {
    to: String,
    messages: u64,
    letter: Option<Vec<u8>>,
}

/// Written and packed on the blocking pool.
async fn letters(
    shard: &Rc<Shard>,
    due: &Due,
    destinations: Vec<Destination>,
    since: u64,
    now: u64,
) -> Result<Vec<Ready>, Fault> {
    let stored = counts::stored_rows(shard, due);
    let missed = counts::missed(shard, due.day);
    let config = Arc::clone(&shard.config);
    let contact = config.reports.from(&config.hostname);
    let ids: Vec<String> = destinations.iter().map(|_| shard.next_id()).collect();
    let due = due.clone();
    let work = move || -> Result<Vec<Ready>, Fault> {
        let rows = counts::read_rows(&stored);
        let (first, last) = (u64::from(due.day) * DAY, u64::from(due.day) * DAY + DAY - 1);
        let hostname = config.hostname.as_str();
        let organization = config.reports.reporter(hostname);
        let report = Report {
            hostname,
            organization,
            contact: &contact,
            domain: &due.domain,
            record: &due.record,
            begin: first.max(since.min(last)),
            end: last.min(now),
            rows: &rows,
            missed,
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let packed = encoder.write_all(report.xml().as_bytes()).and_then(|()| encoder.finish());
        let packed = packed.map_err(|error| error.to_string())?;
        let words = words(&report, &contact);
        let ready = |(Destination { address, octets_max }, id): (Destination, String)| {
            let letter = Letter {
                organization,
                from: &contact,
                to: &address,
                subject: &report.subject(),
                message_id: &format!("{id}@{hostname}"),
                fields: "",
                report_type: None,
                now,
                words: &words,
                file_name: &report.file_name(),
                file_type: "application/gzip",
                file: &packed,
            };
            let text = letter.text();
            let fits = octets_max.is_none_or(|most| text.len() as u64 <= most);
            Ready { to: address, messages: report.messages(), letter: fits.then_some(text) }
        };
        Ok(destinations.into_iter().zip(ids).map(ready).collect())
    };
    glommio::executor().spawn_blocking(work).await
}

fn words(report: &Report<'_>, contact: &str) -> String {
    format!(
        "This is a DMARC aggregate report (RFC 9990) of {host}, about mail that came as from\r\n\
         {domain}: {messages} messages. The file is for programs.\r\n\
         \r\n\
         It is sent because the DMARC record of {domain} asks for it (rua=). Questions go to\r\n\
         {contact}.\r\n",
        host = report.hostname,
        domain = report.domain,
        messages = report.messages(),
    )
}

pub fn day_of(now: u64) -> u32 {
    u32::try_from(now / DAY).unwrap_or(u32::MAX)
}

/// Counts that nobody wants are kept for so long, in case that reports are switched on.
pub async fn forget_old(shard: &Shard, today: u32) -> Result<(), storage::Error> {
    let is_sent = shard.config.reports.dmarc;
    for due in counts::due(shard) {
        let age = today.saturating_sub(due.day);
        // Those that are sent go with that.
        if age > DAYS_MAX + 1 || (!is_sent && age > 1) {
            let _turn = shard.reports.counts_turn.lock().await;
            counts::forget(shard, &due).await?;
        }
    }
    counts::forget_missed(shard, today.saturating_sub(DAYS_MAX + 1)).await
}
