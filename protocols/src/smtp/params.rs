//! Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (6152), SMTPUTF8 (6531), AUTH (4954),
//! REQUIRETLS (8689), HOLDFOR and HOLDUNTIL (4865), and the DSN parameters RET, ENVID, NOTIFY,
//! ORCPT (3461), which are kept on the envelope.

use crate::message::date;

/// What is wrong with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParamFault {
    /// 555: we don't know it.
    Unknown,
    /// 501: we know it, and its value is wrong or it is given twice.
    Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MailParams {
    /// Declared size of the message in octets.
    pub size: Option<u64>,
    /// `BODY=8BITMIME` was given.
    pub eight_bit: bool,
    pub smtp_utf8: bool,
    pub ret: Option<Ret>,
    /// Decoded from xtext.
    pub envid: Option<String>,
    /// Decoded from xtext; what another server says about its client.
    pub auth: Option<String>,
    pub require_tls: bool,
    /// When it is to leave.
    pub release: Option<Release>,
}

/// RFC 4865: how long, in seconds, or until when, in seconds since 1970, a message is kept
/// before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    After(u64),
    At(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

impl Ret {
    /// As it stands in MAIL.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Ret::Full => "FULL",
            Ret::Headers => "HDRS",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecipientParams {
    pub notify: Option<Notify>,
    /// Address type and address, decoded from xtext.
    pub original: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl MailParams {
    pub(super) fn parse(text: &[u8]) -> Result<MailParams, ParamFault> {
        let mut params = MailParams::default();
        let mut body = None;
        for (keyword, value) in words(text)? {
            match (keyword.as_str(), value) {
                ("SIZE", Some(value)) => once(&mut params.size, number(value)?)?,
                ("BODY", Some(value)) => once(&mut body, eight_bit(value)?)?,
                ("SMTPUTF8", None) if !params.smtp_utf8 => params.smtp_utf8 = true,
                ("REQUIRETLS", None) if !params.require_tls => params.require_tls = true,
                ("RET", Some(value)) => once(&mut params.ret, ret(value)?)?,
                ("ENVID", Some(value)) => once(&mut params.envid, xtext(value)?)?,
                ("AUTH", Some(value)) => once(&mut params.auth, xtext(value)?)?,
                // One of both, once.
                ("HOLDFOR", Some(value)) => once(&mut params.release, hold_for(value)?)?,
                ("HOLDUNTIL", Some(value)) => once(&mut params.release, hold_until(value)?)?,
                (
                    "SIZE" | "BODY" | "SMTPUTF8" | "REQUIRETLS" | "RET" | "ENVID" | "AUTH"
                    | "HOLDFOR" | "HOLDUNTIL",
                    _,
                ) => return Err(ParamFault::Value),
                (_, _) => return Err(ParamFault::Unknown),
            }
        }
        params.eight_bit = body.unwrap_or(false);
        Ok(params)
    }
}

impl RecipientParams {
    pub(super) fn parse(text: &[u8]) -> Result<RecipientParams, ParamFault> {
        let mut params = RecipientParams::default();
        for (keyword, value) in words(text)? {
            match (keyword.as_str(), value) {
                ("NOTIFY", Some(value)) => once(&mut params.notify, notify(value)?)?,
                ("ORCPT", Some(value)) => once(&mut params.original, original(value)?)?,
                ("NOTIFY" | "ORCPT", None) => return Err(ParamFault::Value),
                (_, _) => return Err(ParamFault::Unknown),
            }
        }
        Ok(params)
    }
}

/// Keywords in capitals with their values.
fn words(text: &[u8]) -> Result<Vec<(String, Option<&str>)>, ParamFault> {
    // `<a@b>SIZE=1` lacks its space.
    if text.first().is_some_and(|&byte| byte != b' ') {
        return Err(ParamFault::Value);
    }
    let text = std::str::from_utf8(text).map_err(|_| ParamFault::Value)?;
    let word = |word: &'_ str| match word.split_once('=') {
        Some((keyword, value)) => (keyword.to_ascii_uppercase(), Some(value.len())),
        None => (word.to_ascii_uppercase(), None),
    };
    let each = text.split(' ').filter(|word| !word.is_empty());
    Ok(each
        .map(|whole| {
            let (keyword, bytes) = word(whole);
            let start = bytes.map(|bytes| whole.len().saturating_sub(bytes));
            (keyword, start.and_then(|start| whole.get(start..)))
        })
        .collect())
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), ParamFault> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ParamFault::Value),
    }
}

fn number(value: &str) -> Result<u64, ParamFault> {
    let fine =
        !value.is_empty() && value.len() <= 20 && value.bytes().all(|byte| byte.is_ascii_digit());
    // Twenty digits may be more than fits: then it is more than we take, too.
    if fine { Ok(value.parse().unwrap_or(u64::MAX)) } else { Err(ParamFault::Value) }
}

/// One to nine digits, and not zero.
fn hold_for(value: &str) -> Result<Release, ParamFault> {
    match number(value)? {
        seconds @ 1..=999_999_999 if !value.starts_with('0') => Ok(Release::After(seconds)),
        _ => Err(ParamFault::Value),
    }
}

fn hold_until(value: &str) -> Result<Release, ParamFault> {
    let millis = date::read_rfc3339(value).ok_or(ParamFault::Value)?;
    Ok(Release::At(millis / 1000))
}

fn eight_bit(value: &str) -> Result<bool, ParamFault> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(false),
        "8BITMIME" => Ok(true),
        // BINARYMIME is not offered (RFC 3030).
        _ => Err(ParamFault::Value),
    }
}

fn ret(value: &str) -> Result<Ret, ParamFault> {
    match value.to_ascii_uppercase().as_str() {
        "FULL" => Ok(Ret::Full),
        "HDRS" => Ok(Ret::Headers),
        _ => Err(ParamFault::Value),
    }
}

fn notify(value: &str) -> Result<Notify, ParamFault> {
    let mut notify = Notify::default();
    let value = value.to_ascii_uppercase();
    if value == "NEVER" {
        return Ok(notify);
    }
    for word in value.split(',') {
        match word {
            "SUCCESS" => notify.success = true,
            "FAILURE" => notify.failure = true,
            "DELAY" => notify.delay = true,
            _ => return Err(ParamFault::Value),
        }
    }
    Ok(notify)
}

fn original(value: &str) -> Result<(String, String), ParamFault> {
    let (kind, address) = value.split_once(';').ok_or(ParamFault::Value)?;
    let fine =
        !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fine { Ok((kind.to_ascii_lowercase(), xtext(address)?)) } else { Err(ParamFault::Value) }
}

/// RFC 3461 section 4: printable ASCII, with `+` and two capital hexadecimal digits for the rest.
pub(super) fn xtext(value: &str) -> Result<String, ParamFault> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let (Some(high), Some(low)) = (high, low) else { return Err(ParamFault::Value) };
                bytes.push(u8::try_from(high << 4 | low).map_err(|_| ParamFault::Value)?);
            }
            0x21..=0x7e => bytes.push(byte),
            // RFC 6533 lets UTF-8 stand for itself.
            0x80.. => bytes.push(byte),
            _ => return Err(ParamFault::Value),
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| ParamFault::Value)?;
    if text.chars().any(char::is_control) || text.len() > 500 {
        Err(ParamFault::Value)
    } else {
        Ok(text)
    }
}

/// Writes what [`RecipientParams`] reads.
pub(super) fn write_notify(notify: Notify, out: &mut String) {
    let words = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let words: Vec<_> = words.iter().filter(|(wanted, _)| *wanted).map(|(_, word)| *word).collect();
    out.push_str(&if words.is_empty() { "NEVER".to_owned() } else { words.join(",") });
}

/// Writes what `xtext` reads; with `utf8`, such letters stand for themselves.
pub(super) fn write_xtext(text: &str, utf8: bool, out: &mut String) {
    for letter in text.chars() {
        let plain = letter.is_ascii_graphic() && letter != '+' && letter != '=';
        if plain || (utf8 && !letter.is_ascii()) {
            out.push(letter);
        } else {
            for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string can't fail.
                let _ = std::fmt::Write::write_fmt(out, format_args!("+{byte:02X}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["a+b=c d", "ann@there.test", "größer", "~!"] {
            for utf8 in [false, true] {
                let mut out = String::new();
                write_xtext(text, utf8, &mut out);
                assert_eq!(xtext(&out), Ok(text.to_owned()), "{out}");
            }
        }
        for bits in 0..8 {
            let (success, failure, delay) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let mut out = String::new();
            write_notify(Notify { success, failure, delay }, &mut out);
            assert_eq!(super::notify(&out), Ok(Notify { success, failure, delay }));
        }
        assert_eq!(super::ret(Ret::Headers.word()), Ok(Ret::Headers));
    }

    #[test]
    fn parameters_of_mail_are_read() {
        let params = MailParams::parse(
            b" size=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<> REQUIRETLS",
        );
        let expected = MailParams {
            size: Some(1000),
            eight_bit: true,
            smtp_utf8: true,
            ret: Some(Ret::Headers),
            envid: Some("a+b".into()),
            auth: Some("<>".into()),
            require_tls: true,
            release: None,
        };
        assert_eq!(params, Ok(expected));
    }

    #[test]
    fn a_time_to_leave_is_read() {
        let release = |text: &str| MailParams::parse(text.as_bytes()).map(|params| params.release);
        assert_eq!(release(" HOLDFOR=999999999"), Ok(Some(Release::After(999_999_999))));
        let at = Ok(Some(Release::At(1_795_623_723)));
        assert_eq!(release(" holduntil=2026-11-25T16:22:03Z"), at);
        assert_eq!(release(" HOLDUNTIL=2026-11-25T17:22:03.9+01:00"), at);
    }

    #[test]
    fn parameters_of_rcpt_are_read() {
        let params = RecipientParams::parse(b" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@c");
        let notify = Notify { success: true, failure: false, delay: true };
        let original = ("rfc822".to_owned(), "a+b@c".to_owned());
        assert_eq!(params, Ok(RecipientParams { notify: Some(notify), original: Some(original) }));
    }

    #[test]
    fn odd_parameters_are_refused() {
        for (text, fault) in [
            (" SIZE", ParamFault::Value),
            (" SIZE=", ParamFault::Value),
            (" SIZE=1 SIZE=2", ParamFault::Value),
            (" BODY=BINARYMIME", ParamFault::Value),
            (" SMTPUTF8=1", ParamFault::Value),
            ("SIZE=1", ParamFault::Value),
            (" ENVID=+2", ParamFault::Value),
            (" ENVID=+0A", ParamFault::Value),
            (" REQUIRETLS=1", ParamFault::Value),
            (" REQUIRETLS REQUIRETLS", ParamFault::Value),
            (" HOLDFOR=0", ParamFault::Value),
            (" HOLDFOR=01", ParamFault::Value),
            (" HOLDFOR=1000000000", ParamFault::Value),
            (" HOLDFOR", ParamFault::Value),
            (" HOLDFOR=1 HOLDFOR=1", ParamFault::Value),
            (" HOLDFOR=1 HOLDUNTIL=2026-11-25T16:22:03Z", ParamFault::Value),
            (" HOLDUNTIL=2026-11-25", ParamFault::Value),
            (" HOLDUNTIL=2026-11-31T16:22:03Z", ParamFault::Value),
            (" MT-PRIORITY=1", ParamFault::Unknown),
            (" NOTIFY=NEVER", ParamFault::Unknown),
        ] {
            assert_eq!(MailParams::parse(text.as_bytes()), Err(fault), "{text:?}");
        }
        assert_eq!(RecipientParams::parse(b" NOTIFY=NEVER,DELAY"), Err(ParamFault::Value));
    }
}
