//! The `Authentication-Results` field (RFC 8601): written, and recognised where it is forged.

use super::verdict::{Finding, Method, Outcome, Verdict};
use protocols::message::field::{Fields, unfold};

/// Longest value of a property that goes into the field.
const VALUE_BYTES_MAX: usize = 255;

const NAME: &str = "Authentication-Results";
/// As long as the name that it replaces, so that nothing moves.
const FORGED_NAME: &str = "X-Claimed-Auth-Results";
const _: () = assert!(NAME.len() == FORGED_NAME.len());

/// The whole field, folded, with its final CRLF, in at most `bytes_max`. Where there is too little
/// room signatures are left out, those that failed first; DMARC's result is the last to go.
pub fn field(authserv_id: &str, verdict: &Verdict, bytes_max: usize) -> String {
    let start = format!("{NAME}: {authserv_id}");
    let mut pieces: Vec<(&Finding, String)> =
        verdict.findings.iter().map(|finding| (finding, piece(finding))).collect();
    let octets = |pieces: &[(&Finding, String)]| -> usize {
        start.len() + 2 + pieces.iter().map(|(_, text)| text.len()).sum::<usize>()
    };
    while octets(&pieces) > bytes_max {
        let signature = |known: &(&Finding, String)| known.0.method == Method::Dkim;
        let worst = pieces
            .iter()
            .rposition(|known| signature(known) && known.0.outcome != Outcome::Pass)
            .or_else(|| pieces.iter().rposition(signature))
            .unwrap_or(0);
        // "none" would say that nothing was looked at.
        if pieces.len() <= 1 {
            return String::new();
        }
        pieces.remove(worst);
    }
    let none = if pieces.is_empty() { "; none" } else { "" };
    let text: String = pieces.into_iter().map(|(_, text)| text).collect();
    start + none + &text + "\r\n"
}

fn piece(finding: &Finding) -> String {
    let mut text = format!(";\r\n\t{}={}", finding.method.name(), finding.outcome.name());
    if !finding.reason.is_empty() {
        text.push_str(" (");
        let allowed = |c: &char| (' '..='~').contains(c) && !"()\\".contains(*c);
        text.extend(finding.reason.chars().filter(allowed).take(VALUE_BYTES_MAX));
        text.push(')');
    }
    for (property, value) in &finding.properties {
        text.push(' ');
        text.push_str(property);
        text.push('=');
        push_value(&mut text, value);
    }
    text
}

/// RFC 8601 section 2.2, `pvalue`: a token, an address, or a quoted string. What the peer has said
/// must not end the value, let alone the field.
pub fn push_value(text: &mut String, value: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`{|}~@".contains(c);
    if !value.is_empty() && value.len() <= VALUE_BYTES_MAX && value.chars().all(plain) {
        return text.push_str(value);
    }
    text.push('"');
    let end = text.len() + VALUE_BYTES_MAX;
    for letter in value.chars().filter(|c| !c.is_control()) {
        if text.len() >= end {
            break;
        }
        if letter == '"' || letter == '\\' {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
}

/// Renames each `Authentication-Results` that claims to be ours (RFC 8601 section 5). How
/// many there were.
pub fn disarm(message: &mut [u8], authserv_id: &str) -> usize {
    rename_forged(message, (NAME, FORGED_NAME), authserv_id)
}

/// Renames, in place, each field that claims to be ours: only we write those, and this message has
/// just come from elsewhere. Nothing moves, no other byte changes, and what was claimed can still
/// be read. How many there were.
pub fn rename_forged(
    message: &mut [u8],
    (name, forged_name): (&str, &str),
    authserv_id: &str,
) -> usize {
    let mut forged = Vec::new();
    let mut at = 0;
    for field in Fields::new(message) {
        if field.is(name) && claims(field.value, authserv_id) {
            forged.push(at);
        }
        at += field.whole.len();
    }
    for &at in &forged {
        message[at..at + name.len()].copy_from_slice(forged_name.as_bytes());
    }
    forged.len()
}

/// Whether a field's value names `authserv_id`: behind white space and comments, perhaps quoted.
pub fn claims(value: &[u8], authserv_id: &str) -> bool {
    let value = unfold(value);
    let mut rest = value.as_slice();
    loop {
        rest = rest.trim_ascii_start();
        if rest.first() != Some(&b'(') {
            break;
        }
        let mut depth = 0_usize;
        let mut end = rest.len();
        let mut letters = rest.iter().enumerate();
        while let Some((at, letter)) = letters.next() {
            match letter {
                b'\\' => drop(letters.next()),
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                end = at + 1;
                break;
            }
        }
        rest = &rest[end..];
    }
    let name: Vec<u8> = match rest.strip_prefix(b"\"") {
        Some(quoted) => {
            let inner = quoted.split(|&byte| byte == b'"').next().unwrap_or_default();
            inner.iter().copied().filter(|&byte| byte != b'\\').collect()
        }
        None => {
            let end = |byte: &u8| byte.is_ascii_whitespace() || b";(\0".contains(byte);
            rest.split(end).next().unwrap_or_default().to_vec()
        }
    };
    let name = name.strip_suffix(b".").unwrap_or(&name);
    name.trim_ascii().eq_ignore_ascii_case(authserv_id.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(findings: Vec<Finding>) -> Verdict {
        Verdict { findings, ..Verdict::unknown("") }
    }

    #[test]
    fn the_field_says_what_was_found() {
        let spf = Finding::new(Method::Spf, Outcome::Pass).of("smtp.mailfrom", "ann@a.test");
        let dmarc = Finding::new(Method::Dmarc, Outcome::Fail)
            .because("p=reject")
            .of("header.from", "a.test");
        assert_eq!(
            field("mx.b.test", &verdict(vec![spf, dmarc]), 1000),
            "Authentication-Results: mx.b.test;\r\n\tspf=pass smtp.mailfrom=ann@a.test;\
             \r\n\tdmarc=fail (p=reject) header.from=a.test\r\n"
        );
        assert_eq!(
            field("b.test", &verdict(vec![]), 1000),
            "Authentication-Results: b.test; none\r\n"
        );
    }

    #[test]
    fn where_there_is_little_room_the_least_important_goes_first() {
        let finding =
            |method, outcome, name: &str| Finding::new(method, outcome).of("header.d", name);
        let found = verdict(vec![
            finding(Method::Spf, Outcome::Pass, "spf.test"),
            finding(Method::Dkim, Outcome::Pass, "good.test"),
            finding(Method::Dkim, Outcome::Fail, "bad.test"),
            finding(Method::Dmarc, Outcome::Pass, "dmarc.test"),
        ]);
        let all = field("b.test", &found, 10_000);
        let mut left = 4;
        for room in (0..=all.len()).rev() {
            let text = field("b.test", &found, room);
            assert!(text.len() <= room, "{text}");
            let count = text.matches(".test").count().saturating_sub(1);
            assert!(count <= left);
            left = count;
            let gone = |name: &str| !text.contains(name);
            assert!(!gone("good.test") || gone("bad.test"));
            assert!(!gone("spf.test") || gone("good.test"));
            assert!(!gone("dmarc.test") || gone("spf.test"));
        }
        assert_eq!(left, 0);
    }

    #[test]
    fn no_text_of_the_peer_breaks_out_of_the_field() {
        let odd = "a b\"c\\d\r\nX-Evil: yes;\tdkim=pass";
        let spf = Finding::new(Method::Spf, Outcome::Fail).because(odd).of("smtp.mailfrom", odd);
        let text = field("b.test", &verdict(vec![spf]), 1000);
        assert!(text.trim_end().split("\r\n").skip(1).all(|line| line.starts_with('\t')), "{text}");
        assert!(
            text.ends_with("smtp.mailfrom=\"a b\\\"c\\\\dX-Evil: yes;dkim=pass\"\r\n"),
            "{text}"
        );
    }

    #[test]
    fn only_fields_that_claim_to_be_ours_are_renamed_and_nothing_else_changes() {
        for (value, ours) in [
            (" mx.b.test; spf=pass", true),
            ("mx.b.test;spf=pass", true),
            (" MX.B.Test 1; spf=pass", true),
            ("\r\n\tmx.b.test;\r\n spf=pass", true),
            (" (a (nested) \\) comment) mx.b.test; none", true),
            (" \"mx.b.test\"; none", true),
            (" mx.b.test. ; none", true),
            (" mx.b.test", true),
            (" mx.b.test.evil.test; none", false),
            (" other.test; mx.b.test", false),
            ("", false),
            (" (never closed mx.b.test", false),
        ] {
            for name in ["Authentication-Results:", "AUTHENTICATION-results :"] {
                let before = format!(
                    "Subject: x\r\n{name}{value}\r\nTo: y\r\n\r\nAuthentication-Results: mx.b.test\r\n"
                );
                let mut after = before.clone().into_bytes();
                assert_eq!(disarm(&mut after, "mx.b.test"), usize::from(ours), "{value:?}");
                let end = &name[NAME.len()..];
                let expected = if ours {
                    before.replacen(name, &format!("{FORGED_NAME}{end}"), 1)
                } else {
                    before
                };
                assert_eq!(String::from_utf8(after).unwrap(), expected);
            }
        }
    }
}
