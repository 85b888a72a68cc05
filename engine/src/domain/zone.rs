//! Records in the form of a zone file (RFC 1035 section 5.1).

use super::records::{Facts, Kind, Record};

/// Bytes of one string of a TXT record (RFC 1035 section 3.3).
const STRING_BYTES_MAX: usize = 255;
const TTL_SECONDS: u32 = 3600;

/// A zone file that can be pasted into the domain's zone. What belongs into other zones
/// is commented out.
pub fn zone(facts: &Facts) -> String {
    let Facts { domain, hostname, .. } = facts;
    let mut text = format!("; {domain}, served by {hostname} (`hostname` in the config file)\n");
    let addresses: Vec<String> = facts.addresses.iter().map(ToString::to_string).collect();
    if !addresses.is_empty() {
        text += &format!("; at {} ({})\n", addresses.join(", "), facts.addresses_from);
    }
    for note in &facts.notes {
        text += &format!("; note: {note}\n");
    }
    let mut before = None;
    for record in &facts.records {
        if before != Some(record.what) {
            let optional = if record.optional { " [optional]" } else { "" };
            text += &format!("\n; {}{optional}\n", record.what.title());
            before = Some(record.what);
        }
        if !record.note.is_empty() {
            text += &format!("; {}\n", record.note);
        }
        let is_own = is_within(&record.name, domain);
        let mark = if is_own { "" } else { "; in another zone: " };
        text += &format!("{mark}{}. {TTL_SECONDS} IN {} {}\n", record.name, record.kind, {
            let strings = strings(record);
            match strings.as_slice() {
                [one] => one.clone(),
                several if is_own => format!("(\n    {} )", several.join("\n    ")),
                several => several.join(" "),
            }
        });
    }
    text
}

/// Each record on a line: name, type, value.
pub fn lines(facts: &Facts) -> String {
    facts.records.iter().map(|record| line(record) + "\n").collect()
}

pub fn line(record: &Record) -> String {
    format!("{}. {} {}", record.name, record.kind, strings(record).join(" "))
}

/// The same of a text.
pub fn text_line(name: &str, text: &str) -> String {
    format!("{name}. {} {}", Kind::Txt, text_strings(text).join(" "))
}

/// The value; that of a TXT record in as many quoted strings as it takes.
fn strings(record: &Record) -> Vec<String> {
    if record.kind != Kind::Txt {
        return vec![record.value.clone()];
    }
    text_strings(&record.value)
}

fn text_strings(text: &str) -> Vec<String> {
    let quoted = |part: &[u8]| {
        let text = String::from_utf8_lossy(part).replace('\\', "\\\\").replace('"', "\\\"");
        format!("\"{text}\"")
    };
    // What we publish is ASCII: any cut is one between characters.
    text.as_bytes().chunks(STRING_BYTES_MAX).map(quoted).collect()
}

fn is_within(name: &str, domain: &str) -> bool {
    name == domain || name.strip_suffix(domain).is_some_and(|front| front.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::records::What;

    fn record(name: &str, kind: Kind, value: &str) -> Record {
        Record {
            what: What::Dkim,
            name: name.to_owned(),
            kind,
            value: value.to_owned(),
            optional: false,
            note: String::new(),
        }
    }

    #[test]
    fn long_texts_are_split_and_other_zones_commented_out() {
        let long = "x".repeat(256);
        let facts = Facts {
            domain: "a.test".to_owned(),
            hostname: "mail.b.test".to_owned(),
            addresses: Vec::new(),
            addresses_from: String::new(),
            records: vec![
                record("k.a.test", Kind::Txt, &long),
                record("a.test", Kind::Txt, &"y".repeat(255)),
                record("mail.b.test", Kind::A, "192.0.2.1"),
                record("xa.test", Kind::Txt, "a\"b\\"),
            ],
            notes: vec!["mind this".to_owned()],
            policy: None,
            rest_goes_to: Vec::new(),
        };
        let (x, y) = ("x".repeat(255), "y".repeat(255));
        assert_eq!(
            lines(&facts),
            format!(
                "k.a.test. TXT \"{x}\" \"x\"\na.test. TXT \"{y}\"\nmail.b.test. A 192.0.2.1\n\
                 xa.test. TXT \"a\\\"b\\\\\"\n"
            )
        );
        let zone = zone(&facts);
        assert!(zone.contains(&format!("k.a.test. 3600 IN TXT (\n    \"{x}\"\n    \"x\" )\n")));
        assert!(zone.contains("\n; in another zone: mail.b.test. 3600 IN A 192.0.2.1\n"));
        assert!(zone.contains("\n; in another zone: xa.test."), "{zone}");
        assert!(zone.contains("; note: mind this\n"));
    }
}
