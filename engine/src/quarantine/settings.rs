//! `[quarantine]` of the config file. What goes there is said elsewhere: `spam.quarantine_at`,
//! `auth.dmarc_quarantine`, and `quarantine` among the actions of `[scan]`.

use crate::when::Span;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quarantine {
    /// For so long mail is kept back, such as `30d`; then it is expunged. Links in
    /// digests work as long.
    pub keep: Span,
    /// When accounts are told daily what was kept back from them, by this host's clock; `off`: only
    /// when an operator says so.
    pub digest_at: Daily,
    /// Where the links of digests lead, without a slash at the end, such as
    /// `https://mail.example.org`: for a proxy in front of `web.listen`. Absent: the host name and
    /// the first port of `web.listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether users see it over IMAP, as a mailbox that can only be read.
    pub imap: bool,
    /// The name of that mailbox. A user's own mailbox of this name stays what it is, and hides it.
    pub mailbox: String,
}

impl Default for Quarantine {
    fn default() -> Self {
        Quarantine {
            keep: Span(Duration::from_secs(30 * DAY_SECONDS)),
            digest_at: Daily(Some(7 * 60)),
            url: None,
            imap: false,
            mailbox: "Quarantine".to_owned(),
        }
    }
}

const DAY_SECONDS: u64 = 86_400;
const KEEP_MAX: Duration = Duration::from_secs(3650 * DAY_SECONDS);

impl Quarantine {
    /// What the types can't say: the key that is at fault, and words for the operator.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.keep.0.is_zero() || self.keep.0 > KEEP_MAX {
            let keep = self.keep.text();
            let what = format!("quarantine.keep = {keep:?} is out of range; use 1s to 3650d");
            return Err(("quarantine.keep", what));
        }
        if let Some(url) = &self.url {
            let host = url.strip_prefix("https://").unwrap_or_default();
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:/[]_~".contains(&byte);
            if host.is_empty() || host.ends_with('/') || !host.bytes().all(is_plain) {
                let what = format!(
                    "quarantine.url {url:?} is no address of ours; write it like \"https://mail.example.org\", without a slash at \
                     the end"
                );
                return Err(("quarantine.url", what));
            }
        }
        match storage::index::names::check(&self.mailbox) {
            Ok(name) if name != storage::index::names::INBOX && !name.contains('/') => Ok(()),
            Ok(_) => {
                let what = format!(
                    "quarantine.mailbox {:?} is taken or has levels; use a name such as \"Quarantine\"",
                    self.mailbox
                );
                Err(("quarantine.mailbox", what))
            }
            Err(error) => Err(("quarantine.mailbox", format!("quarantine.mailbox: {error}"))),
        }
    }

    /// How the quarantine is called over IMAP; `None`: it is not there.
    pub fn shown_as(&self) -> Option<&str> {
        self.imap.then_some(self.mailbox.as_str())
    }

    /// Where links lead; `None`: nothing is served that they could lead to.
    pub fn links_to(&self, hostname: &str, web: &crate::domain::settings::Web) -> Option<String> {
        let port = web.listen.first()?.port();
        Some(match (&self.url, port) {
            (Some(url), _) => url.clone(),
            (None, 443) => format!("https://{hostname}"),
            (None, port) => format!("https://{hostname}:{port}"),
        })
    }
}

/// A time of day, to the minute, by the host's clock; or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Daily(pub Option<u16>);

impl TryFrom<String> for Daily {
    type Error = String;

    fn try_from(text: String) -> Result<Daily, String> {
        if text == "off" {
            return Ok(Daily(None));
        }
        let number = |text: &str, below: u16| -> Option<u16> {
            let is_plain = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_plain && *number < below)
        };
        let read = text
            .split_once(':')
            .and_then(|(hour, minute)| Some(number(hour, 24)? * 60 + number(minute, 60)?));
        read.map(|minutes| Daily(Some(minutes))).ok_or_else(|| {
            format!("{text:?} is no time of day; write it like \"07:00\", or \"off\" for never")
        })
    }
}

impl From<Daily> for String {
    fn from(daily: Daily) -> String {
        match daily.0 {
            Some(minutes) => format!("{:02}:{:02}", minutes / 60, minutes % 60),
            None => "off".to_owned(),
        }
    }
}

impl Daily {
    /// The last time that it was so late, at or before `now`; both Unix seconds.
    pub fn latest(self, now: i64) -> Option<i64> {
        let minutes = i32::from(self.0?);
        let mut broken_down = local(now)?;
        (broken_down.tm_hour, broken_down.tm_min, broken_down.tm_sec) =
            (minutes / 60, minutes % 60, 0);
        let today = seconds(broken_down)?;
        if today <= now {
            return Some(today);
        }
        // mktime takes the day before the first of a month for the last one of the month before.
        broken_down.tm_mday -= 1;
        seconds(broken_down)
    }
}

fn local(unix_seconds: i64) -> Option<libc::tm> {
    // SAFETY: all-zero is a valid `tm`, and both pointers live through the call.
    unsafe {
        let mut broken_down: libc::tm = std::mem::zeroed();
        (!libc::localtime_r(&unix_seconds, &mut broken_down).is_null()).then_some(broken_down)
    }
}

fn seconds(mut broken_down: libc::tm) -> Option<i64> {
    // Whether it is summer time then is for the library to find out.
    broken_down.tm_isdst = -1;
    // SAFETY: the pointer lives through the call, which changes no more than what it points at.
    let seconds = unsafe { libc::mktime(&mut broken_down) };
    (seconds != -1).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_read_strictly() {
        for (text, minutes) in
            [("07:00", Some(420)), ("00:00", Some(0)), ("23:59", Some(1439)), ("off", None)]
        {
            let daily = Daily::try_from(text.to_owned()).unwrap();
            assert_eq!((daily.0, String::from(daily).as_str()), (minutes, text));
        }
        for wrong in ["", "7:00", "24:00", "07:60", "0700", "+7:00", "07:0a", "never"] {
            assert!(Daily::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_time_is_never_in_the_future_and_at_most_a_day_and_a_change_of_clocks_ago() {
        for minutes in [0, 1, 420, 1439] {
            for step in 0..500 {
                let now = 1_790_000_000 + step * 86_413;
                let latest = Daily(Some(minutes)).latest(now).unwrap();
                assert!(latest <= now && now - latest <= 25 * 3600, "{now} {latest}");
                assert_eq!(Daily(Some(minutes)).latest(latest), Some(latest));
                let then = local(latest).unwrap();
                assert_eq!(then.tm_sec, 0);
            }
        }
        assert_eq!(Daily(None).latest(1_790_000_000), None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let key = |quarantine: Quarantine| quarantine.check().map_err(|(key, _)| key);
        assert_eq!(key(Quarantine::default()), Ok(()));
        let keep = Span(Duration::ZERO);
        assert_eq!(key(Quarantine { keep, ..Quarantine::default() }), Err("quarantine.keep"));
        for wrong in ["http://a.test", "https://", "https://a.test/", "https://a test", "a.test"] {
            let url = Some(wrong.to_owned());
            assert_eq!(key(Quarantine { url, ..Quarantine::default() }), Err("quarantine.url"));
        }
        for wrong in ["", "inbox", "a/b", "a*", "*quarantine*"] {
            let mailbox = wrong.to_owned();
            let quarantine = Quarantine { mailbox, ..Quarantine::default() };
            assert_eq!(key(quarantine), Err("quarantine.mailbox"), "{wrong}");
        }
    }

    #[test]
    fn links_lead_to_the_web_server_or_nowhere() {
        let web = |listen: &[&str]| crate::domain::settings::Web {
            listen: listen.iter().map(|one| one.parse().unwrap()).collect(),
            ..Default::default()
        };
        let quarantine = Quarantine::default();
        assert_eq!(quarantine.links_to("mx.test", &web(&[])), None);
        let to = |listen| quarantine.links_to("mx.test", &web(&[listen])).unwrap();
        assert_eq!(to("0.0.0.0:443"), "https://mx.test");
        assert_eq!(to("127.0.0.1:8443"), "https://mx.test:8443");
        let url = Some("https://mail.a.test".to_owned());
        let behind = Quarantine { url, ..Quarantine::default() };
        let to = behind.links_to("mx.test", &web(&["127.0.0.1:8443"]));
        assert_eq!(to.as_deref(), Some("https://mail.a.test"));
    }
}
