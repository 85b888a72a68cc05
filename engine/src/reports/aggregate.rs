//! A DMARC aggregate report as XML (RFC 9990 appendix A), and what it is called. Pure.

use super::row::Row;
use crate::auth::dmarc::record::{Alignment, Record};
use std::fmt::Write;

/// One domain's report.
#[derive(Debug, Clone)]
pub struct Report<'r> {
    /// Our own name, which is the reporter's in file names and subjects.
    pub hostname: &'r str,
    pub organization: &'r str,
    pub contact: &'r str,
    pub domain: &'r str,
    /// What was published when the last message came.
    pub record: &'r Record,
    /// Unix seconds; both are within the report.
    pub begin: u64,
    pub end: u64,
    pub rows: &'r [(Row, u64)],
    /// Messages that were not counted, of whatever domain, since there were too many
    /// different ones.
    pub missed: u64,
}

impl Report<'_> {
    /// The same whenever it is made again: who gets it twice can tell.
    pub fn id(&self) -> String {
        format!("{}.{}.{}@{}", self.begin, self.end, self.domain, self.hostname)
    }

    /// Section 3.5.2 of RFC 9990.
    pub fn file_name(&self) -> String {
        format!("{}!{}!{}!{}.xml.gz", self.hostname, self.domain, self.begin, self.end)
    }

    pub fn subject(&self) -> String {
        format!(
            "Report Domain: {} Submitter: {} Report-ID: <{}>",
            self.domain,
            self.hostname,
            self.id()
        )
    }

    pub fn messages(&self) -> u64 {
        self.rows
            .iter()
            .map(|(_, messages)| messages)
            .fold(0, |sum, more| sum.saturating_add(*more))
    }

    pub fn xml(&self) -> String {
        let mut xml = Xml::default();
        xml.text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        xml.text.push_str("<feedback xmlns=\"urn:ietf:params:xml:ns:dmarc-2.0\">\n");
        xml.element("version", "1.0");
        xml.within("report_metadata", |xml| {
            xml.element("org_name", self.organization);
            xml.element("email", self.contact);
            xml.element("report_id", &self.id());
            xml.within("date_range", |xml| {
                xml.element("begin", &self.begin.to_string());
                xml.element("end", &self.end.to_string());
            });
            if self.missed > 0 {
                let missed = format!("{} messages of this host were not counted", self.missed);
                xml.element("error", &missed);
            }
            xml.element("generator", concat!("Kura ", env!("CARGO_PKG_VERSION")));
        });
        let record = self.record;
        let alignment = |how| match how {
            Alignment::Relaxed => "r",
            Alignment::Strict => "s",
        };
        xml.within("policy_published", |xml| {
            xml.element("domain", self.domain);
            xml.element("p", record.policy.name());
            xml.element("sp", record.subdomains.name());
            xml.element("np", record.nonexistent.name());
            xml.element("adkim", alignment(record.dkim));
            xml.element("aspf", alignment(record.spf));
            xml.element("discovery_method", "treewalk");
            xml.element("testing", if record.is_testing { "y" } else { "n" });
        });
        for (row, messages) in self.rows {
            xml.record(row, *messages);
        }
        xml.text.push_str("</feedback>\n");
        xml.text
    }
}

#[derive(Default)]
struct Xml {
    text: String,
    depth: usize,
}

impl Xml {
    fn indent(&mut self) {
        (0..=self.depth).for_each(|_| self.text.push_str("  "));
    }

    fn element(&mut self, name: &str, value: &str) {
        self.indent();
        let _ = writeln!(self.text, "<{name}>{}</{name}>", Escaped(value));
    }

    fn within(&mut self, name: &str, content: impl FnOnce(&mut Xml)) {
        self.indent();
        let _ = writeln!(self.text, "<{name}>");
        self.depth += 1;
        content(self);
        self.depth -= 1;
        self.indent();
        let _ = writeln!(self.text, "</{name}>");
    }

    fn record(&mut self, row: &Row, messages: u64) {
        let result = |is_aligned| if is_aligned { "pass" } else { "fail" };
        self.within("record", |xml| {
            xml.within("row", |xml| {
                xml.element("source_ip", &row.source.to_string());
                xml.element("count", &messages.to_string());
                xml.within("policy_evaluated", |xml| {
                    xml.element("disposition", row.disposition.name());
                    xml.element("dkim", result(row.dkim_aligned));
                    xml.element("spf", result(row.spf_aligned));
                    if let Some(reason) = row.reason {
                        xml.within("reason", |xml| {
                            xml.element("type", reason.name());
                            xml.element("comment", reason.comment());
                        });
                    }
                });
            });
            xml.within("identifiers", |xml| {
                xml.element("header_from", &row.header_from);
                xml.element("envelope_from", &row.envelope_from);
            });
            xml.within("auth_results", |xml| {
                for signature in &row.dkim {
                    xml.within("dkim", |xml| {
                        xml.element("domain", &signature.domain);
                        xml.element("selector", &signature.selector);
                        xml.element("result", &signature.result);
                    });
                }
                xml.within("spf", |xml| {
                    xml.element("domain", &row.spf_domain);
                    // The name in HELO stands in for a null sender; the schema knows
                    // no scope for it.
                    if !row.envelope_from.is_empty() {
                        xml.element("scope", "mfrom");
                    }
                    xml.element("result", &row.spf_result);
                });
            });
        });
    }
}

/// What peers have said, among it, as text that ends no element.
struct Escaped<'t>(&'t str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                // XML has no way to write most of them.
                control if control.is_control() => f.write_char(' ')?,
                '\u{fffe}' | '\u{ffff}' => f.write_char(' ')?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::feedback;
    use crate::reports::row::{Disposition, Reason, Signature, tests::record};
    use crate::reports::tally::tests::observed;

    #[test]
    fn a_report_has_what_the_schema_asks_for_and_our_own_reader_agrees() {
        let mut failing = observed(0xC000_0207).row;
        failing.disposition = Disposition::None;
        failing.reason = Some(Reason::LocalPolicy);
        failing.spf_aligned = false;
        failing.spf_result = "fail".into();
        failing.envelope_from = "evil]]></spf>&.test".into();
        failing.dkim = vec![Signature {
            domain: "list.test".into(),
            selector: "s\u{1}<".into(),
            result: "pass".into(),
        }];
        let record = record("v=DMARC1; p=reject; sp=quarantine; adkim=s; t=y; rua=mailto:x@a.test");
        let rows = [(observed(1).row, 41), (failing, 31)];
        let report = Report {
            hostname: "mx.b.test",
            organization: "B & Sons",
            contact: "postmaster@b.test",
            domain: "a.test",
            record: &record,
            begin: 1_790_000_000,
            end: 1_790_086_399,
            rows: &rows,
            missed: 7,
        };
        assert_eq!(report.id(), "1790000000.1790086399.a.test@mx.b.test");
        assert_eq!(report.file_name(), "mx.b.test!a.test!1790000000!1790086399.xml.gz");
        let xml = report.xml();
        for expected in [
            "<org_name>B &amp; Sons</org_name>",
            "<error>7 messages of this host were not counted</error>",
            "<p>reject</p>",
            "<sp>quarantine</sp>",
            "<np>quarantine</np>",
            "<adkim>s</adkim>",
            "<testing>y</testing>",
            "<discovery_method>treewalk</discovery_method>",
            "<source_ip>192.0.2.7</source_ip>",
            "<count>31</count>",
            "<disposition>pass</disposition>",
            "<disposition>none</disposition>",
            "<type>local_policy</type>",
            "<envelope_from>evil]]&gt;&lt;/spf&gt;&amp;.test</envelope_from>",
            "<selector>s &lt;</selector>",
        ] {
            assert!(xml.contains(expected), "{expected}\n{xml}");
        }
        let digest = feedback::read(xml.as_bytes()).unwrap();
        assert_eq!(digest.id, report.id());
        assert_eq!((digest.begin, digest.end), (report.begin, report.end));
        assert_eq!(digest.organization, "B & Sons");
        let crate::reports::digest::About::Dmarc(about) = digest.about else { panic!() };
        assert_eq!((about.passed, about.failed), (41, 31));
        assert_eq!(about.sources[0].passed_for, ["list.test"]);
    }
}
