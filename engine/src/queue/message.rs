//! What is recorded of a message that waits to leave: its envelope, once, beside the body; and how
//! far its recipients have come, again with each change. FORMAT.md, "The outbound queue".
//!
//! Both are JSON, as the directory is: fields may be added, and are absent where they say nothing.

use super::state::Next;
use crate::relay::route::Need;
use protocols::smtp::{Notify, RecipientParams, Ret};
use serde::{Deserialize, Serialize};

/// Of what a server or a resolver has said; the rest is in the log.
const WHY_BYTES_MAX: usize = 300;
/// Of one message. Senders send to the rest by themselves (RFC 5321 section 4.5.3.1.10).
pub const RECIPIENTS_MAX: usize = 1000;
/// Segments of 4 MiB take records eight times as large; without words, a thousand recipients
/// take a third of it.
const PROGRESS_BYTES_MAX: usize = 128 << 10;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// As the sender was told in the `250`, and as operators name it.
    pub id: String,
    /// `None`: the null path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Who has logged in and sent it, or whose script or alias passes it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    pub recipients: Vec<Recipient>,
    /// Unix seconds.
    pub arrived: u64,
    #[serde(default)]
    pub octets: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub eight_bit: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub smtp_utf8: bool,
    /// RFC 3461 RET: whether a failure brings the whole message back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret_full: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
    /// RFC 8689: REQUIRETLS, and `TLS-Required: No` in its header.
    #[serde(default, skip_serializing_if = "is_false")]
    pub require_tls: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub tls_optional: bool,
    /// When its sender wants it to leave, Unix seconds (RFC 4865). Its row in the index has
    /// this for its date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_at: Option<u64>,
    /// Why it is on hold from the start: somebody else may have sent it in the account's name. Its
    /// row has [`super::HELD`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspected: Option<String>,
    /// Which suspicion of the account that is, for as long as the message comes.
    #[serde(skip)]
    pub suspicion: u32,
    /// `account` has logged in and sent it; otherwise that is whose script or alias passes it on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub by_login: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    pub to: String,
    /// RFC 3461 NOTIFY: `s`uccess, `f`ailure, `d`elay; empty for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// RFC 3461 ORCPT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<(String, String)>,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_none_yet(attempts: &u32) -> bool {
    *attempts == 0
}

fn is_never(at: &u64) -> bool {
    *at == 0
}

impl Recipient {
    pub fn new(to: String, params: &RecipientParams) -> Recipient {
        let letters = |notify: Notify| {
            let all = [(notify.success, 's'), (notify.failure, 'f'), (notify.delay, 'd')];
            all.iter().filter(|(wanted, _)| *wanted).map(|(_, letter)| letter).collect()
        };
        Recipient { to, notify: params.notify.map(letters), original: params.original.clone() }
    }

    pub fn params(&self) -> RecipientParams {
        let notify = self.notify.as_ref().map(|letters| Notify {
            success: letters.contains('s'),
            failure: letters.contains('f'),
            delay: letters.contains('d'),
        });
        RecipientParams { notify, original: self.original.clone() }
    }

    /// Whether the sender wants to hear of this; without NOTIFY, of failures and delays.
    pub fn notifies(&self, of: char) -> bool {
        self.notify.as_ref().map_or(of != 's', |letters| letters.contains(of))
    }

    pub fn domain(&self) -> &str {
        self.to.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

impl Envelope {
    /// Who requires TLS is not overruled by a field of the header (RFC 8689 section 4.1).
    pub fn need(&self) -> Need {
        match (self.require_tls, self.tls_optional) {
            (true, _) => Need::RequireTls,
            (false, true) => Need::TlsOptional,
            (false, false) => Need::Usual,
        }
    }

    /// From when on it may be tried.
    pub fn due(&self) -> u64 {
        self.release_at.unwrap_or(self.arrived)
    }

    /// For a time or a word, before it is tried at all.
    pub fn waits(&self) -> bool {
        self.suspected.is_some() || self.release_at.is_some()
    }

    pub fn ret(&self) -> Option<Ret> {
        self.ret_full.map(|full| if full { Ret::Full } else { Ret::Headers })
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope has string keys only")
    }

    pub fn decode(bytes: &[u8]) -> Result<Envelope, String> {
        serde_json::from_slice(bytes)
            .map_err(|error| format!("its envelope can't be read: {error}"))
    }
}

/// What has become of a recipient.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    Waiting,
    /// Another server has taken it upon itself.
    Delivered,
    /// For good; its sender has been told.
    Failed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    #[serde(default)]
    pub outcome: Outcome,
    /// Of the last try: RFC 3463.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Who said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// What `host` said, without our own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
    /// By which policy the way there was secured, in words; empty where nobody was reached.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub way: String,
    /// Of a recipient of ours that waits: the accounts behind it that have not had it
    /// while others have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<u32>,
    /// It is what is known of the destination ([`crate::relay::unreached`]), and not recorded
    /// for each message.
    #[serde(skip)]
    pub is_shared: bool,
}

impl Standing {
    pub fn new(outcome: Outcome, status: &str, why: &str) -> Standing {
        let why = why[..why.floor_char_boundary(WHY_BYTES_MAX)].to_owned();
        Standing { outcome, status: status.to_owned(), why, ..Standing::default() }
    }

    pub fn by(mut self, host: &str, said: &str) -> Standing {
        host.clone_into(&mut self.host);
        said[..said.floor_char_boundary(WHY_BYTES_MAX)].clone_into(&mut self.said);
        self
    }

    /// Whether it tells something of this recipient.
    fn is_own(&self) -> bool {
        self.outcome != Outcome::Waiting || !(self.is_shared || self.status.is_empty())
    }

    /// A server has said that there is no such recipient, or that it may not have this.
    pub fn is_refused(&self) -> bool {
        self.outcome == Outcome::Failed && self.status.starts_with('5') && !self.said.is_empty()
    }

    pub fn over(mut self, way: &str) -> Standing {
        way.clone_into(&mut self.way);
        self
    }
}

/// How far a message has come. Recorded once there is something to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// In the order of the envelope's recipients. Nothing is recorded of them where there is
    /// nothing to be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Standing>,
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub attempts: u32,
    /// When it is tried next, Unix seconds; zero: that is not recorded.
    #[serde(default, skip_serializing_if = "is_never")]
    pub next: u64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub held: bool,
    /// The sender knows that it waits.
    #[serde(default, skip_serializing_if = "is_false")]
    pub told_of_delay: bool,
    /// From when on it may be tried by an operator's word, Unix seconds, whatever its envelope
    /// says; zero: there is none.
    #[serde(default, skip_serializing_if = "is_never")]
    pub released_at: u64,
    /// The same by its envelope, which is not recorded here again; and whether it is
    /// on hold by that.
    #[serde(skip)]
    pub due: u64,
    #[serde(skip)]
    pub held_at_first: bool,
}

impl Progress {
    /// It is on hold since somebody else may have sent it, and no operator has let it go.
    pub fn is_suspected(&self) -> bool {
        self.held && self.held_at_first && self.released_at == 0
    }

    pub fn of(envelope: &Envelope) -> Progress {
        let recipients = vec![Standing::default(); envelope.recipients.len()];
        let held = envelope.suspected.is_some();
        Progress { recipients, next: envelope.due(), held, ..Progress::default() }.with(envelope)
    }

    fn with(self, envelope: &Envelope) -> Progress {
        Progress { due: envelope.due(), held_at_first: envelope.suspected.is_some(), ..self }
    }

    /// From when on it may be tried: its retries, notices of delay and its end count from there.
    pub fn start(&self) -> u64 {
        if self.released_at > 0 { self.released_at } else { self.due }
    }

    /// What was on hold goes, at the time that its sender wants; what waits for that time goes now.
    pub fn release(&mut self, now: u64) {
        let waits = self.start() > now;
        let at = if self.held && waits { self.start() } else { now };
        if self.held_at_first || waits {
            self.released_at = at;
        }
        (self.held, self.next) = (false, at);
    }

    /// Where there is too much to be said, it is cut.
    pub fn encode(&self) -> Vec<u8> {
        let encode = |progress: &Progress| {
            serde_json::to_vec(&progress.own()).expect("progress has string keys only")
        };
        let whole = encode(self);
        if whole.len() <= PROGRESS_BYTES_MAX {
            return whole;
        }
        let cut_to = |octets_max: usize| {
            let mut progress = self.clone();
            for Standing { why, host, said, way, .. } in &mut progress.recipients {
                for words in [why, host, said, way] {
                    words.truncate(words.floor_char_boundary(octets_max));
                }
            }
            encode(&progress)
        };
        let mut lengths = [60, 20].into_iter().map(cut_to);
        lengths.find(|cut| cut.len() <= PROGRESS_BYTES_MAX).unwrap_or_else(|| cut_to(0))
    }

    /// What is recorded. When it was tried is so only where a server has said something of a
    /// recipient that waits: else it would be put anew at each try, for each message.
    fn own(&self) -> Progress {
        let own = |one: &Standing| if one.is_own() { one.clone() } else { Standing::default() };
        let is_any_own = self.recipients.iter().any(Standing::is_own);
        let recipients = self.recipients.iter().filter(|_| is_any_own).map(own).collect();
        let is_answered = self.waiting().any(|index| self.recipients[index].is_own());
        let (attempts, next) = if is_answered { (self.attempts, self.next) } else { (0, 0) };
        Progress { recipients, attempts, next, ..*self }
    }

    /// Whether there is something to be recorded of this message: more than that it was tried, and
    /// that its destination could not be reached. Without a record it is tried again after a start,
    /// and waits as its age tells ([`super::schedule::tries_within`]).
    pub fn is_own(&self) -> bool {
        self.held
            || self.told_of_delay
            || self.released_at > 0
            || self.recipients.iter().any(Standing::is_own)
    }

    /// Whether something is told here that must not be forgotten, beyond what is `recorded`.
    pub fn adds_to(&self, recorded: Option<&[u8]>) -> bool {
        let recorded = recorded.and_then(|bytes| serde_json::from_slice::<Progress>(bytes).ok());
        let recorded = recorded.unwrap_or_default();
        let before = recorded.recipients.iter().map(|one| one.outcome);
        let before = before.chain(std::iter::repeat(Outcome::Waiting));
        self.held != recorded.held
            || self.released_at != recorded.released_at
            || self.told_of_delay != recorded.told_of_delay
            || self.recipients.iter().zip(before).any(|(one, before)| one.outcome != before)
    }

    pub fn next(&self) -> Next {
        (!self.held).then_some(self.next)
    }

    /// That of `envelope`; what can't be read counts as nothing done.
    pub fn decode(bytes: Option<&[u8]>, envelope: &Envelope) -> Progress {
        let read = bytes.and_then(|bytes| serde_json::from_slice::<Progress>(bytes).ok());
        let mut progress = read.unwrap_or_else(|| Progress::of(envelope)).with(envelope);
        progress.recipients.resize(envelope.recipients.len(), Standing::default());
        progress
    }

    pub fn waiting(&self) -> impl Iterator<Item = usize> + '_ {
        let waits = |(_, one): &(usize, &Standing)| one.outcome == Outcome::Waiting;
        self.recipients.iter().enumerate().filter(waits).map(|(index, _)| index)
    }

    pub fn is_over(&self) -> bool {
        self.waiting().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let notify = Some(Notify { success: true, failure: false, delay: true });
        let original = Some(("rfc822".into(), "x@y".into()));
        let params = RecipientParams { notify, original };
        Envelope {
            id: "0.1".into(),
            sender: None,
            account: Some("ann@here.test".into()),
            recipients: vec![
                Recipient::new("a@b.test".into(), &params),
                Recipient::new("c@d.test".into(), &RecipientParams::default()),
            ],
            arrived: 1000,
            octets: 5,
            eight_bit: true,
            ret_full: Some(false),
            envid: Some("e".into()),
            require_tls: true,
            ..Envelope::default()
        }
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let envelope = envelope();
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope.clone()));
        let params = envelope.recipients[0].params();
        assert_eq!(Recipient::new("a@b.test".into(), &params), envelope.recipients[0]);
        assert!(envelope.recipients[0].notifies('s') && !envelope.recipients[0].notifies('f'));
        assert!(!envelope.recipients[1].notifies('s') && envelope.recipients[1].notifies('f'));
        let mut progress = Progress::of(&envelope);
        progress.recipients[0] = Standing::new(Outcome::Delivered, "2.0.0", &"ü".repeat(400));
        progress.next = 0;
        let again = Progress::decode(Some(&progress.encode()), &envelope);
        assert_eq!(again, progress);
        assert_eq!(again.waiting().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn progress_of_the_largest_message_fits_a_record() {
        let words = "\"\u{1}".repeat(400);
        let standing =
            Standing::new(Outcome::Waiting, "4.2.1", &words).by(&"h".repeat(255), &words);
        let mut progress = Progress {
            recipients: vec![standing.clone(); RECIPIENTS_MAX],
            attempts: 9,
            next: u64::MAX,
            held: true,
            told_of_delay: true,
            released_at: u64::MAX,
            ..Progress::default()
        };
        progress.recipients[7].outcome = Outcome::Delivered;
        let encoded = progress.encode();
        assert!(encoded.len() <= PROGRESS_BYTES_MAX, "{} octets", encoded.len());
        let again: Progress = serde_json::from_slice(&encoded).unwrap();
        let outcomes = |progress: &Progress| -> Vec<_> {
            progress.recipients.iter().map(|one| (one.outcome, one.status.clone())).collect()
        };
        assert_eq!(outcomes(&again), outcomes(&progress));
        assert_eq!((again.attempts, again.next()), (9, None));
        progress.recipients.truncate(20);
        let again: Progress = serde_json::from_slice(&progress.encode()).unwrap();
        assert_eq!(again, progress);
    }

    #[test]
    fn what_must_not_be_forgotten_is_told_from_what_may() {
        let plain = Progress::of(&envelope());
        let mut tried = Progress { attempts: 3, next: 9, ..plain.clone() };
        tried.recipients[1] = Standing::new(Outcome::Waiting, "4.2.1", "not today");
        let recorded = tried.encode();
        assert!(!tried.adds_to(None) && !plain.adds_to(Some(&recorded)));
        let mut taken = tried.clone();
        taken.recipients[1].outcome = Outcome::Delivered;
        let held = Progress { held: true, ..tried.clone() };
        let told = Progress { told_of_delay: true, ..tried.clone() };
        for more in [taken, held, told] {
            assert!(more.adds_to(None) && more.adds_to(Some(&recorded)), "{more:?}");
            assert!(!more.adds_to(Some(&more.encode())));
        }
    }

    #[test]
    fn what_is_known_of_a_destination_is_not_recorded_of_its_messages() {
        let envelope = envelope();
        let mut progress = Progress { attempts: 3, next: 9, ..Progress::of(&envelope) };
        assert!(!progress.is_own(), "tries alone");
        let shared = Standing {
            is_shared: true,
            ..Standing::new(Outcome::Waiting, "4.4.1", "nobody is there")
        };
        progress.recipients = vec![shared.clone(); 2];
        assert!(!progress.is_own());
        progress.told_of_delay = true;
        assert!(progress.is_own());
        let encoded = progress.encode();
        assert_eq!(encoded, br#"{"told_of_delay":true}"#);
        let again = Progress::decode(Some(&encoded), &envelope);
        assert_eq!(
            again,
            Progress {
                recipients: vec![Standing::default(); 2],
                attempts: 0,
                next: 0,
                ..progress.clone()
            }
        );
        assert!(!progress.adds_to(Some(&encoded)));
        // One of them has something of its own.
        progress.recipients[1] = Standing::new(Outcome::Waiting, "4.2.1", "not today");
        let again = Progress::decode(Some(&progress.encode()), &envelope);
        assert_eq!(again.recipients, [Standing::default(), progress.recipients[1].clone()]);
        assert_eq!((again.attempts, again.next), (3, 9));
        let held = Progress { held: true, ..Progress::of(&envelope) };
        assert!(held.is_own());
        let mut taken = Progress::of(&envelope);
        taken.recipients[0].outcome = Outcome::Delivered;
        assert!(taken.is_own());
    }

    #[test]
    fn what_its_sender_or_a_suspicion_keeps_back_needs_no_record_until_an_operator_says_otherwise()
    {
        let later = Envelope { release_at: Some(5000), ..envelope() };
        let progress = Progress::of(&later);
        assert_eq!(
            (progress.next(), progress.start(), progress.is_own()),
            (Some(5000), 5000, false)
        );
        assert_eq!(Progress::decode(None, &later), progress);
        let mut released = progress.clone();
        released.release(2000);
        assert_eq!(
            (released.next(), released.start(), released.is_own()),
            (Some(2000), 2000, true)
        );
        let again = Progress::decode(Some(&released.encode()), &later);
        assert_eq!((again.start(), again.held), (2000, false));
        assert!(released.adds_to(None));
        // A hold and its end leave it its time.
        let mut held = Progress { held: true, ..progress.clone() };
        held.release(2000);
        assert_eq!((held.next(), held.start()), (Some(5000), 5000));
        let mut late = progress;
        late.release(6000);
        assert_eq!((late.next(), late.is_own()), (Some(6000), false));

        let suspected = Envelope { suspected: Some("why".into()), ..envelope() };
        let progress = Progress::of(&suspected);
        assert_eq!((progress.held, progress.next(), progress.start()), (true, None, 1000));
        let mut released = Progress::decode(None, &suspected);
        released.release(2000);
        let again = Progress::decode(Some(&released.encode()), &suspected);
        assert_eq!((again.held, again.start(), again.is_own()), (false, 2000, true));
        let both = Envelope { release_at: Some(5000), ..suspected };
        let mut released = Progress::of(&both);
        released.release(2000);
        let mut again = Progress::decode(Some(&released.encode()), &both);
        assert_eq!((again.held, again.start(), released.next()), (false, 5000, Some(5000)));
        again.release(2000);
        assert_eq!((again.held, again.start(), again.next()), (false, 2000, Some(2000)));
        assert_eq!(Envelope::decode(&both.encode()), Ok(both));
    }

    /// As releases before 0.3 wrote it.
    #[test]
    fn progress_of_before_is_read() {
        let bytes =
            br#"{"recipients":[{"outcome":"waiting","status":"4.4.1","why":"nobody","host":"mx"},
            {"outcome":"delivered","status":"2.0.0"}],"attempts":2,"next":77}"#;
        let progress = Progress::decode(Some(bytes), &envelope());
        assert_eq!(
            (progress.attempts, progress.next(), progress.recipients[0].why.as_str()),
            (2, Some(77), "nobody")
        );
        assert_eq!(progress.waiting().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn progress_that_can_not_be_read_is_none() {
        let envelope = envelope();
        assert_eq!(Progress::decode(Some(b"x"), &envelope), Progress::of(&envelope));
        let short = Progress::decode(Some(br#"{"recipients":[]}"#), &envelope);
        assert_eq!(short.recipients.len(), 2);
    }
}
