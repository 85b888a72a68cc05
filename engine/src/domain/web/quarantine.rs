//! The pages behind the links of a digest ([`crate::quarantine::links`]): what would be done, with
//! a button that does it, and what has come of it.
//!
//! GET changes nothing; POST, to the same address, does it. Pages hold no script, no style, no
//! image and nothing that a stranger wrote but as text; browsers are told to keep to that, to show
//! them in no frame, to keep no copy, and to tell nobody their address. Who shows many links that
//! are not ours is told to wait (429) for the rest of the minute. Links of ours work all the same:
//! whoever guesses may share a network, or a proxy, with those who have been told.

use crate::mesh::ShardHandle;
use crate::policy::networks::prefix;
use crate::quarantine::html;
use crate::quarantine::links::{self, Action, Answer};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// In front of a link's token.
pub const PATH: &str = "/quarantine/";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("x-robots-tag"), "noindex"),
];

/// How often each network has shown a link that is not ours, in this minute.
#[derive(Debug, Default)]
pub struct Forgeries(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    since: Option<Instant>,
    by_network: HashMap<IpAddr, u32>,
}

const FORGED_MAX: u32 = 30;
/// When as many have, everybody else who guesses is told so, too, until the minute is over.
const NETWORKS_MAX: usize = 4096;
const MINUTE: Duration = Duration::from_secs(60);

/// Who shares an end of the address is one.
fn network(peer: IpAddr) -> IpAddr {
    prefix(peer, 24, 48)
}

impl Forgeries {
    fn too_many(&self, peer: IpAddr, now: Instant) -> bool {
        let Ok(mut minute) = self.0.lock() else { return true };
        if minute.since.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            *minute = Minute { since: Some(now), by_network: HashMap::new() };
        }
        match minute.by_network.get(&network(peer)) {
            Some(count) => *count >= FORGED_MAX,
            None => minute.by_network.len() >= NETWORKS_MAX,
        }
    }

    fn note(&self, peer: IpAddr) {
        let Ok(mut minute) = self.0.lock() else { return };
        let count = minute.by_network.entry(network(peer)).or_default();
        *count = count.saturating_add(1);
    }
}

/// What is behind a link; `act`: its button was pressed.
pub async fn respond(
    shard: &ShardHandle,
    forgeries: &Forgeries,
    peer: IpAddr,
    token: &str,
    act: bool,
) -> Response {
    let token = token.to_owned();
    let answer = shard.ask(move |shard| links::answer(shard, token, act)).await;
    let answer = answer.unwrap_or(Answer::Busy);
    if answer == Answer::Forged {
        if forgeries.too_many(peer, Instant::now()) {
            let text =
                "<p>Too many links from your network were not valid. Try again in a minute.</p>";
            return page(StatusCode::TOO_MANY_REQUESTS, "Try again later", text);
        }
        forgeries.note(peer);
    }
    let (status, title, text) = shown(&answer);
    page(status, title, &text)
}

fn shown(answer: &Answer) -> (StatusCode, &'static str, String) {
    let plain = |text: &str| format!("<p>{text}</p>");
    match answer {
        Answer::Ask { action, from, subject, why } => {
            let (title, what, button) = match action {
                Action::Release => {
                    ("Release this message?", "It comes into your INBOX.", "Release")
                }
                Action::Delete => ("Delete this message?", "It is gone for you.", "Delete"),
            };
            let text = format!(
                "<dl><dt>From</dt><dd>{}</dd><dt>Subject</dt><dd>{}</dd><dt>Kept back because it</dt><dd>{why}</dd></dl>\n\
                 <p>{what} Nothing happens before you press the button.</p>\n\
                 <form method=\"post\"><button type=\"submit\">{button}</button></form>",
                html(from),
                html(subject),
            );
            (StatusCode::OK, title, text)
        }
        Answer::Done(Action::Release) => {
            (StatusCode::OK, "Released", plain("The message is in your INBOX."))
        }
        Answer::Done(Action::Delete) => {
            (StatusCode::OK, "Deleted", plain("The message was deleted."))
        }
        Answer::Gone => (
            StatusCode::GONE,
            "Nothing left to do",
            plain("This message is not in quarantine any more: it was released or deleted before."),
        ),
        Answer::Expired => (
            StatusCode::GONE,
            "This link has expired",
            plain("Messages are kept for a limited time, and so long their links work."),
        ),
        Answer::Forged => (
            StatusCode::NOT_FOUND,
            "This link is not valid",
            plain(
                "It is not one that this server has made. If you copied it, make sure that it is complete.",
            ),
        ),
        Answer::Harmful(reason) => {
            let why = reason.words();
            let text = format!("This message {why}. Ask your postmaster if you need it.");
            (StatusCode::FORBIDDEN, "Only the postmaster can release this message", plain(&text))
        }
        Answer::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Try again later",
            plain("The server could not do it now. Nothing was changed."),
        ),
    }
}

fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title></head>\n\
         <body><h1>{title}</h1>\n{text}\n</body></html>\n"
    );
    (status, HEADERS, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quarantine::Reason;
    use std::net::Ipv4Addr;

    #[test]
    fn what_strangers_wrote_is_text_on_the_page_and_the_only_form_is_ours() {
        for action in [Action::Release, Action::Delete] {
            let ask = Answer::Ask {
                action,
                from: "<script>alert(1)</script>".to_owned(),
                subject: "</dd><form action=\"https://evil.test\">".to_owned(),
                why: Reason::Spam.words(),
            };
            let (status, _, text) = shown(&ask);
            assert_eq!(status, StatusCode::OK);
            assert!(!text.contains("<script") && !text.contains("evil.test\">"), "{text}");
            assert_eq!(text.matches("<form").count(), 1);
            assert!(text.contains("<form method=\"post\"><button"));
        }
    }

    #[test]
    fn each_end_of_a_link_has_a_page_of_its_own() {
        let all = [
            Answer::Done(Action::Release),
            Answer::Done(Action::Delete),
            Answer::Gone,
            Answer::Expired,
            Answer::Forged,
            Answer::Harmful(Reason::Virus),
            Answer::Busy,
        ];
        let mut titles: Vec<&str> = all.iter().map(|answer| shown(answer).1).collect();
        titles.sort_unstable();
        titles.dedup();
        assert_eq!(titles.len(), all.len());
        assert!(all.iter().all(|answer| !shown(answer).2.contains("<form")));
    }

    #[test]
    fn who_guesses_is_told_to_wait_for_a_minute_and_nobody_else_is() {
        let forgeries = Forgeries::default();
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        let now = Instant::now();
        for _ in 0..FORGED_MAX {
            assert!(!forgeries.too_many(peer("192.0.2.1"), now));
            forgeries.note(peer("192.0.2.1"));
        }
        assert!(forgeries.too_many(peer("192.0.2.200"), now), "the same network");
        assert!(!forgeries.too_many(peer("192.0.3.1"), now));
        assert!(!forgeries.too_many(peer("2001:db8::1"), now));
        assert!(!forgeries.too_many(peer("192.0.2.1"), now + MINUTE));
        let many = Forgeries::default();
        assert!(!many.too_many(peer("192.0.2.1"), now));
        for number in 0..=u32::try_from(NETWORKS_MAX).unwrap() {
            many.note(IpAddr::V4(Ipv4Addr::from_bits(number << 8)));
        }
        assert!(many.too_many(peer("203.0.113.1"), now), "memory is bounded");
        assert!(!many.too_many(peer("203.0.113.1"), now + MINUTE));
    }
}
