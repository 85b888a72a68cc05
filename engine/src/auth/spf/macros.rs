//! Macros in SPF's domain names (RFC 7208 section 7).

use std::net::IpAddr;

/// Longest name that DNS carries as text.
const NAME_BYTES_MAX: usize = 253;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacroString(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Expand { letter: char, escape: bool, labels: usize, reverse: bool, delimiters: String },
}

/// What the letters stand for.
#[derive(Debug, Clone)]
pub struct Values<'v> {
    pub sender_local: &'v str,
    pub sender_domain: &'v str,
    /// The domain whose record this is.
    pub domain: &'v str,
    pub ip: IpAddr,
    pub helo: &'v str,
    /// The name that the client's address has, or `unknown`.
    pub validated: &'v str,
}

impl MacroString {
    /// `None`: not in the grammar.
    pub fn read(text: &str) -> Option<MacroString> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            if !('!'..='~').contains(&letter) {
                return None;
            }
            rest = &rest[1..];
            if letter != '%' {
                literal.push(letter);
                continue;
            }
            match rest.chars().next()? {
                '%' => literal.push('%'),
                '_' => literal.push(' '),
                '-' => literal.push_str("%20"),
                '{' => {
                    let (inner, behind) = rest[1..].split_once('}')?;
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(expand(inner)?);
                    rest = behind;
                    continue;
                }
                _ => return None,
            }
            rest = &rest[1..];
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Some(MacroString(parts))
    }

    /// A `domain-spec`: ends with a macro, or with a dot and a top label that is no number.
    pub fn domain(text: &str) -> Option<MacroString> {
        let read = MacroString::read(text)?;
        match read.0.last()? {
            Part::Expand { .. } => Some(read),
            Part::Literal(tail) => {
                let tail = tail.strip_suffix('.').unwrap_or(tail);
                let (_, top) = tail.rsplit_once('.')?;
                let is_label = !top.is_empty()
                    && top.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                    && !top.bytes().all(|byte| byte.is_ascii_digit())
                    && !top.starts_with('-')
                    && !top.ends_with('-');
                is_label.then_some(read)
            }
        }
    }

    /// Whether the name of the client's address is wanted, which costs questions.
    pub fn wants_validated(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Expand { letter: 'p', .. }))
    }

    /// The name; too long ones lose labels on the left (section 7.3).
    pub fn expand(&self, values: &Values<'_>) -> String {
        let mut name = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => name.push_str(text),
                Part::Expand { letter, escape, labels, reverse, delimiters } => {
                    let value = values.of(*letter);
                    let is_delimiter = |c: char| delimiters.contains(c);
                    let mut pieces: Vec<&str> = value.split(is_delimiter).collect();
                    if *reverse {
                        pieces.reverse();
                    }
                    let first = pieces.len().saturating_sub(*labels);
                    let value = pieces[first..].join(".");
                    if *escape {
                        push_escaped(&mut name, &value);
                    } else {
                        name.push_str(&value);
                    }
                }
            }
        }
        let mut short = name.strip_suffix('.').unwrap_or(&name);
        while short.len() > NAME_BYTES_MAX {
            short = short.split_once('.').map_or("", |(_, rest)| rest);
        }
        short.to_owned()
    }
}

/// Between the braces: `macro-letter transformers *delimiter`.
fn expand(inner: &str) -> Option<Part> {
    let first = inner.chars().next().filter(char::is_ascii)?;
    let letter = first.to_ascii_lowercase();
    if !"slodipvh".contains(letter) {
        return None;
    }
    let rest = &inner[1..];
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = rest.split_at(digits);
    // As many labels as there are, unless a number says otherwise, which can't be zero.
    let labels = if number.is_empty() { usize::MAX } else { number.parse().unwrap_or(usize::MAX) };
    if labels == 0 {
        return None;
    }
    let (reverse, rest) = match rest.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if !rest.chars().all(|c| ".-+,/_=".contains(c)) {
        return None;
    }
    let delimiters = if rest.is_empty() { ".".to_owned() } else { rest.to_owned() };
    Some(Part::Expand { letter, escape: first.is_ascii_uppercase(), labels, reverse, delimiters })
}

impl Values<'_> {
    fn of(&self, letter: char) -> String {
        match letter {
            's' => format!("{}@{}", self.sender_local, self.sender_domain),
            'l' => self.sender_local.to_owned(),
            'o' => self.sender_domain.to_owned(),
            'd' => self.domain.to_owned(),
            'i' => dotted(self.ip),
            'p' => self.validated.to_owned(),
            'v' => if self.ip.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            _ => self.helo.to_owned(),
        }
    }
}

/// IPv6 as 32 digits with dots between them.
fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let digits: Vec<String> =
                format!("{:032x}", ip.to_bits()).chars().map(String::from).collect();
            digits.join(".")
        }
    }
}

fn push_escaped(name: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7208 section 7.4.
    #[test]
    fn macros_expand_as_the_rfc_has_it() {
        let values = |ip: &'static str| Values {
            sender_local: "strong-bad",
            sender_domain: "email.example.com",
            domain: "email.example.com",
            ip: ip.parse().unwrap(),
            helo: "mx.example.org",
            validated: "mx.example.org",
        };
        for (text, ip, expected) in [
            ("%{s}", "192.0.2.3", "strong-bad@email.example.com"),
            ("%{d4}", "192.0.2.3", "email.example.com"),
            ("%{d2}", "192.0.2.3", "example.com"),
            ("%{d1}", "192.0.2.3", "com"),
            ("%{dr}", "192.0.2.3", "com.example.email"),
            ("%{d2r}", "192.0.2.3", "example.email"),
            ("%{l-}", "192.0.2.3", "strong.bad"),
            ("%{lr-}", "192.0.2.3", "bad.strong"),
            ("%{l1r-}", "192.0.2.3", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "192.0.2.3", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", "192.0.2.3", "bad.strong.lp._spf.example.com"),
            (
                "%{ir}.%{v}._spf.%{d2}",
                "2001:db8::cb01",
                "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com",
            ),
            ("%{S}%%%_%-", "192.0.2.3", "strong-bad%40email.example.com% %20"),
        ] {
            let read = MacroString::read(text).unwrap();
            assert_eq!(read.expand(&values(ip)), expected, "{text}");
        }
        for wrong in ["%", "%(d}", "%{", "%{x}", "%{d0}", "%{d2r:}", "a b", "%{c}", "é"] {
            assert_eq!(MacroString::read(wrong), None, "{wrong}");
        }
        let long = format!("{}.example.com", "label.".repeat(60));
        let name = MacroString::read(&long).unwrap().expand(&values("192.0.2.3"));
        assert!(name.len() <= 253 && name.ends_with(".example.com"), "{name}");
    }
}
