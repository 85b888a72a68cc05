//! A DMARC aggregate report of somebody else's (RFC 9990, RFC 7489 appendix C): XML, read strictly
//! and within bounds.
//!
//! Elements are known by their names without namespaces, since reporters use several or
//! none. A document type, with which entities could be made, is refused; so are references
//! to any but XML's own.

use super::digest::{About, Digest, Dmarc, SOURCES_MAX, Source, line};
use super::unpack::Fault;
use crate::auth::dkim::tags;
use quick_xml::Reader;
use quick_xml::events::Event;
use std::collections::HashMap;
use std::net::IpAddr;

const DEPTH_MAX: usize = 16;
/// Octets of one text that are kept.
const TEXT_BYTES_MAX: usize = 1024;
const RECORDS_MAX: usize = 100_000;
/// Distinct sources that fail, while reading.
const FAILING_MAX: usize = 20_000;
/// Domains that are named beside one source.
const PASSED_FOR_MAX: usize = 4;

/// One `record`.
#[derive(Debug, Default)]
struct Record {
    address: String,
    messages: String,
    disposition: String,
    dkim: String,
    spf: String,
    from: String,
    passed_for: Vec<String>,
    /// Of the result that is being read.
    domain: String,
    result: String,
}

#[derive(Debug, Default)]
struct Reading {
    organization: String,
    id: String,
    begin: String,
    end: String,
    domain: String,
    record: Record,
    records: usize,
    found: Dmarc,
    failing: HashMap<(IpAddr, String, String), (u64, Vec<String>)>,
}

pub fn read(xml: &[u8]) -> Result<Digest, Fault> {
    let mut reader = Reader::from_reader(xml);
    let mut reading = Reading::default();
    let mut path: Vec<Vec<u8>> = Vec::new();
    let mut text = String::new();
    let keep = |text: &mut String, more: &str| {
        if text.len() + more.len() <= TEXT_BYTES_MAX {
            text.push_str(more);
        }
    };
    loop {
        // Its end is checked by the reader: it says so where tags do not match.
        match reader.read_event().map_err(|_| "the XML is damaged")? {
            Event::Start(tag) => {
                if path.len() == DEPTH_MAX {
                    return Err("the XML is nested too deeply");
                }
                path.push(tag.local_name().as_ref().to_vec());
                if path.len() == 1 && path[0] != b"feedback" {
                    return Err("the XML is no DMARC report: its element is not <feedback>");
                }
                text.clear();
            }
            Event::End(_) => {
                let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
                reading.close(&names, text.trim())?;
                text.clear();
                path.pop();
                if path.is_empty() {
                    break;
                }
            }
            Event::Text(some) => keep(&mut text, &String::from_utf8_lossy(&some)),
            Event::CData(some) => keep(&mut text, &String::from_utf8_lossy(&some)),
            Event::GeneralRef(reference) => {
                let letter = match reference.resolve_char_ref() {
                    Ok(Some(letter)) => letter,
                    Ok(None) => match &reference[..] {
                        b"amp" => '&',
                        b"lt" => '<',
                        b"gt" => '>',
                        b"quot" => '"',
                        b"apos" => '\'',
                        _ => return Err("the XML has an entity of its own"),
                    },
                    Err(_) => return Err("the XML is damaged"),
                };
                keep(&mut text, letter.encode_utf8(&mut [0; 4]));
            }
            Event::DocType(_) => return Err("the XML has a document type (DTD)"),
            Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return Err("the XML ends too early"),
        }
    }
    reading.finish()
}

impl Reading {
    /// An element ends.
    fn close(&mut self, path: &[&[u8]], text: &str) -> Result<(), Fault> {
        let record = &mut self.record;
        let set = |place: &mut String| *place = line(text);
        match path.get(1..).unwrap_or_default() {
            [b"report_metadata", b"org_name"] => set(&mut self.organization),
            [b"report_metadata", b"report_id"] => set(&mut self.id),
            [b"report_metadata", b"date_range", b"begin"] => set(&mut self.begin),
            [b"report_metadata", b"date_range", b"end"] => set(&mut self.end),
            [b"policy_published", b"domain"] => set(&mut self.domain),
            [b"record", b"row", b"source_ip"] => set(&mut record.address),
            [b"record", b"row", b"count"] => set(&mut record.messages),
            [b"record", b"row", b"policy_evaluated", b"disposition"] => {
                set(&mut record.disposition)
            }
            [b"record", b"row", b"policy_evaluated", b"dkim"] => set(&mut record.dkim),
            [b"record", b"row", b"policy_evaluated", b"spf"] => set(&mut record.spf),
            [b"record", b"identifiers", b"header_from"] => set(&mut record.from),
            [b"record", b"auth_results", b"dkim" | b"spf", b"domain"] => set(&mut record.domain),
            [b"record", b"auth_results", b"dkim" | b"spf", b"result"] => set(&mut record.result),
            [b"record", b"auth_results", b"dkim" | b"spf"] => {
                let (domain, result) =
                    (std::mem::take(&mut record.domain), std::mem::take(&mut record.result));
                let is_new = !record.passed_for.contains(&domain);
                if result.eq_ignore_ascii_case("pass")
                    && !domain.is_empty()
                    && is_new
                    && record.passed_for.len() < PASSED_FOR_MAX
                {
                    record.passed_for.push(domain);
                }
            }
            [b"record"] => return self.count(),
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Fault> {
        let record = std::mem::take(&mut self.record);
        self.records += 1;
        if self.records > RECORDS_MAX {
            return Err("it has more than 100,000 records");
        }
        let messages = number(&record.messages).ok_or("a record has no count")?;
        let address: IpAddr =
            record.address.parse().map_err(|_| "a record's source is no address")?;
        let is_pass = |result: &str| result.eq_ignore_ascii_case("pass");
        let found = &mut self.found;
        if is_pass(&record.dkim) || is_pass(&record.spf) {
            found.passed = found.passed.saturating_add(messages);
            return Ok(());
        }
        found.failed = found.failed.saturating_add(messages);
        let from = tags::domain(record.from.as_bytes()).unwrap_or(record.from);
        let key = (address.to_canonical(), from, record.disposition.to_ascii_lowercase());
        if self.failing.len() >= FAILING_MAX && !self.failing.contains_key(&key) {
            found.more = found.more.saturating_add(messages);
            return Ok(());
        }
        let known = self.failing.entry(key).or_default();
        known.0 = known.0.saturating_add(messages);
        for domain in record.passed_for {
            if known.1.len() < PASSED_FOR_MAX && !known.1.contains(&domain) {
                known.1.push(domain);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Digest, Fault> {
        let Reading { organization, id, begin, end, domain, mut found, failing, .. } = self;
        let domain =
            tags::domain(domain.as_bytes()).ok_or("it does not say about which domain it is")?;
        if id.is_empty() {
            return Err("it has no report_id");
        }
        let begin = number(&begin).ok_or("it does not say when it begins")?;
        let end = number(&end).filter(|end| *end >= begin).ok_or("it does not say when it ends")?;
        let source = |((address, from, disposition), (messages, passed_for))| Source {
            address,
            from,
            messages,
            disposition,
            passed_for,
        };
        found.sources = failing.into_iter().map(source).collect();
        found.sources.sort_by(|one, other| {
            let rank = |source: &Source| (std::cmp::Reverse(source.messages), source.address);
            rank(one).cmp(&rank(other)).then_with(|| one.from.cmp(&other.from))
        });
        for source in found.sources.drain(SOURCES_MAX.min(found.sources.len())..) {
            found.more = found.more.saturating_add(source.messages);
        }
        Ok(Digest { domain, organization, id, begin, end, about: About::Dmarc(found) })
    }
}

fn number(text: &str) -> Option<u64> {
    // Some write the seconds of a date with a fraction.
    let whole = text.split('.').next().unwrap_or_default();
    tags::number(whole.as_bytes())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn xml(domain: &str, id: &str, records: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?>\n<feedback><report_metadata><org_name>Big &amp; Co&#46;</org_name>\
             <email>x@big.test</email><report_id>{id}</report_id><date_range><begin>1790000000</begin>\
             <end>1790086399</end></date_range></report_metadata><policy_published><domain>{domain}</domain>\
             <p>none</p></policy_published>{records}</feedback>"
        )
    }

    pub(crate) fn one(address: &str, count: &str, dkim: &str, spf: &str) -> String {
        format!(
            "<record><row><source_ip>{address}</source_ip><count>{count}</count><policy_evaluated>\
             <disposition>none</disposition><dkim>{dkim}</dkim><spf>{spf}</spf></policy_evaluated></row>\
             <identifiers><header_from>A.test</header_from></identifiers><auth_results><spf>\
             <domain>list.test</domain><result>pass</result></spf></auth_results></record>"
        )
    }

    fn dmarc(digest: Digest) -> Dmarc {
        match digest.about {
            About::Dmarc(dmarc) => dmarc,
            About::Tls(_) => panic!("another kind"),
        }
    }

    #[test]
    fn sums_and_sources_that_fail_are_read() {
        let records = [
            one("192.0.2.1", "40", "pass", "fail"),
            one("192.0.2.2", "2", "fail", "pass"),
            one("192.0.2.7", "30", "fail", "fail"),
            one("::ffff:192.0.2.7", "1", "fail", "fail"),
            one("2001:db8::1", "100", "fail", "none"),
        ];
        let digest = read(xml("A.test", "r1", &records.concat()).as_bytes()).unwrap();
        assert_eq!((digest.domain.as_str(), digest.id.as_str()), ("a.test", "r1"));
        assert_eq!(digest.organization, "Big & Co.");
        assert_eq!(digest.day(), 20718);
        let found = dmarc(digest);
        assert_eq!((found.passed, found.failed, found.more), (42, 131, 0));
        assert_eq!(found.sources.len(), 2);
        assert_eq!((found.sources[0].messages, found.sources[1].messages), (100, 31));
        assert_eq!(found.sources[1].passed_for, ["list.test"]);
        assert_eq!(found.sources[1].from, "a.test");
    }

    #[test]
    fn namespaces_prefixes_and_unknown_elements_do_not_matter() {
        let text = xml("a.test", "r1", &one("192.0.2.1", "4", "pass", "fail"))
            .replace("<feedback>", "<f:feedback xmlns:f=\"urn:ietf:params:xml:ns:dmarc-2.0\"><f:version>1.0</f:version><extension><x a='1'/></extension>")
            .replace("</feedback>", "</f:feedback>\n<!-- end -->");
        assert_eq!(dmarc(read(text.as_bytes()).unwrap()).passed, 4);
    }

    #[test]
    fn what_is_no_report_is_named() {
        let good = xml("a.test", "r1", &one("192.0.2.1", "4", "pass", "fail"));
        let dtd = good.replace(
            "<feedback>",
            "<!DOCTYPE f [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><feedback>",
        );
        for (text, words) in [
            (dtd, "DTD"),
            (good.replace("r1", "&b;"), "entity"),
            (good.replace("r1", ""), "report_id"),
            (good.replace("<domain>a.test", "<domain>no domain"), "which domain"),
            (good.replace("<count>4", "<count>four"), "count"),
            (good.replace("192.0.2.1", "localhost"), "address"),
            (good.replace("<end>1790086399", "<end>1"), "ends"),
            (good.replace("</feedback>", ""), "early"),
            (good.replace("</record>", "</row>"), "damaged"),
            (good.replace("feedback", "html"), "<feedback>"),
            ("<feedback>".to_owned() + &"<a>".repeat(100), "deeply"),
            ("plain".to_owned(), "early"),
        ] {
            let fault = read(text.as_bytes()).unwrap_err();
            assert!(fault.contains(words), "{words}: {fault}");
        }
        for cut in 0..good.len() - 1 {
            assert!(read(&good.as_bytes()[..cut]).is_err());
        }
    }

    #[test]
    fn many_sources_are_cut_and_none_is_lost_from_the_sums() {
        let records: String = (0..1000)
            .map(|number| {
                one(&format!("192.0.{}.{}", number / 250, number % 250), "2", "fail", "fail")
            })
            .collect();
        let found = dmarc(read(xml("a.test", "r1", &records).as_bytes()).unwrap());
        assert_eq!((found.failed, found.sources.len(), found.more), (2000, SOURCES_MAX, 1600));
        let huge = one("192.0.2.1", "999999999999", "fail", "fail").repeat(50);
        dmarc(read(xml("a.test", "r1", &huge).as_bytes()).unwrap());
    }
}
