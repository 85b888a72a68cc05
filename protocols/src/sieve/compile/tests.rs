//! Tests and their arguments.

use super::super::capability::Capability;
use super::super::fault::{Fault, shown};
use super::super::matching::{Comparator, Index, Match, MatchKind, Relation};
use super::super::parser::Node;
use super::super::program::{
    AddressPart, DatePart, DateSource, Duplicate, DuplicateId, Test, TestKind, Text, Transform,
    Zone,
};
use super::actions::check_field_name;
use super::arguments::{self, Arguments};
use super::{COMMANDS, Compiler, TESTS, unknown};

/// Fields that hold addresses (RFC 5228 section 5.1 wants the test to be refused for others).
const ADDRESS_FIELDS: [&str; 22] = [
    "from",
    "to",
    "cc",
    "bcc",
    "sender",
    "reply-to",
    "resent-from",
    "resent-to",
    "resent-cc",
    "resent-bcc",
    "resent-sender",
    "resent-reply-to",
    "return-path",
    "delivered-to",
    "x-original-to",
    "envelope-to",
    "x-envelope-to",
    "errors-to",
    "return-receipt-to",
    "disposition-notification-to",
    "mail-followup-to",
    "apparently-to",
];
/// RFC 7352 leaves it to us.
const DUPLICATE_SECONDS: u64 = 7 * 86_400;

impl Compiler {
    pub(super) fn test(&mut self, node: &Node) -> Result<Test, Fault> {
        let name = node.name.as_str();
        let mut arguments = Arguments::new(node);
        let kind = match name {
            "not" => {
                arguments.finish()?;
                match node.tests.as_slice() {
                    [test] if !node.parenthesized => TestKind::Not(Box::new(self.test(test)?)),
                    _ => return Err(Fault::new(node.at, "`not` wants one test behind it")),
                }
            }
            "allof" | "anyof" => {
                arguments.finish()?;
                if !node.parenthesized {
                    let text = format!("`{name}` wants tests in parentheses, with commas between");
                    return Err(Fault::new(node.at, text));
                }
                let tests: Result<Vec<Test>, Fault> =
                    node.tests.iter().map(|test| self.test(test)).collect();
                if name == "allof" { TestKind::AllOf(tests?) } else { TestKind::AnyOf(tests?) }
            }
            name if !TESTS.contains(&name) => {
                return Err(unknown("test", node, &TESTS, &COMMANDS));
            }
            _ => {
                if let Some(test) = node.tests.first() {
                    let text = format!("`{name}` takes no test behind it");
                    return Err(Fault::new(test.at, text));
                }
                self.plain_test(&mut arguments)?
            }
        };
        arguments.finish()?;
        Ok(Test { at: node.at, kind })
    }

    fn plain_test(&mut self, arguments: &mut Arguments<'_>) -> Result<TestKind, Fault> {
        let (name, at) = (arguments.name(), arguments.at);
        match name {
            "true" => Ok(TestKind::True),
            "false" => Ok(TestKind::False),
            "exists" => Ok(TestKind::Exists(self.field_names(arguments)?)),
            "size" => self.size(arguments),
            "header" => {
                let index = self.index(arguments, Some(Capability::Index))?;
                let spec = Match { index, ..self.match_spec(arguments)? };
                let names = self.field_names(arguments)?;
                Ok(TestKind::Header { names, keys: self.keys(arguments)?, spec })
            }
            "address" => {
                let index = self.index(arguments, Some(Capability::Index))?;
                let part = self.address_part(arguments)?;
                let spec = Match { index, ..self.match_spec(arguments)? };
                let names = self.field_names(arguments)?;
                for name in &names {
                    check_address_field(name)?;
                }
                Ok(TestKind::Address { part, names, keys: self.keys(arguments)?, spec })
            }
            "envelope" => {
                self.need(Capability::Envelope, name, at)?;
                let part = self.address_part(arguments)?;
                let spec = self.match_spec(arguments)?;
                let parts = self.texts(arguments.next("parts of the envelope")?)?;
                for part in &parts {
                    check_envelope_part(part)?;
                }
                Ok(TestKind::Envelope { part, parts, keys: self.keys(arguments)?, spec })
            }
            "body" => self.body(arguments),
            "date" | "currentdate" => self.date(arguments),
            "hasflag" => {
                self.need(Capability::Imap4Flags, name, at)?;
                let spec = self.match_spec(arguments)?;
                let mut variables = Vec::new();
                if arguments.count() > 1 {
                    for (name, at) in arguments::strings(arguments.next("names of variables")?)? {
                        self.need(Capability::Variables, "the name of a variable", at)?;
                        variables.push(self.variable(name, at)?);
                    }
                }
                let flags = self.texts(arguments.next("flags")?)?;
                Ok(TestKind::HasFlag { variables, flags, spec })
            }
            "string" => {
                self.need(Capability::Variables, name, at)?;
                let spec = self.match_spec(arguments)?;
                let sources = self.texts(arguments.next("strings to look at")?)?;
                Ok(TestKind::Strings { sources, keys: self.keys(arguments)?, spec })
            }
            "environment" => {
                self.need(Capability::Environment, name, at)?;
                let spec = self.match_spec(arguments)?;
                let item = self.one_text(arguments.next("the name of an item")?)?;
                Ok(TestKind::Environment { item, keys: self.keys(arguments)?, spec })
            }
            "spamtest" => {
                self.need(Capability::SpamTest, name, at)?;
                let percent = arguments.flag(self, "percent", Some(Capability::SpamTestPlus))?;
                let spec = self.match_spec(arguments)?;
                let key = self.one_text(arguments.next("a value to compare with")?)?;
                Ok(TestKind::Spam { percent, key, spec })
            }
            "virustest" => {
                self.need(Capability::VirusTest, name, at)?;
                let spec = self.match_spec(arguments)?;
                let key = self.one_text(arguments.next("a value to compare with")?)?;
                Ok(TestKind::Virus { key, spec })
            }
            "mailboxexists" => {
                self.need(Capability::Mailbox, name, at)?;
                Ok(TestKind::MailboxExists(self.texts(arguments.next("names of mailboxes")?)?))
            }
            "specialuse_exists" => {
                self.need(Capability::SpecialUse, name, at)?;
                let mailbox = match arguments.count() {
                    0 | 1 => None,
                    _ => Some(self.one_text(arguments.next("the name of a mailbox")?)?),
                };
                let attributes = self.texts(arguments.next("special uses")?)?;
                Ok(TestKind::SpecialUseExists { mailbox, attributes })
            }
            "duplicate" => self.duplicate(arguments),
            _ => Err(Fault::new(at, format!("unknown test `{name}`"))),
        }
    }

    fn keys(&self, arguments: &mut Arguments<'_>) -> Result<Vec<Text>, Fault> {
        self.texts(arguments.next("strings to compare with")?)
    }

    fn field_names(&self, arguments: &mut Arguments<'_>) -> Result<Vec<Text>, Fault> {
        let names = self.texts(arguments.next("names of header fields")?)?;
        names.iter().try_for_each(check_field_name)?;
        Ok(names)
    }

    fn size(&self, arguments: &mut Arguments<'_>) -> Result<TestKind, Fault> {
        let over = arguments.flag(self, "over", None)?;
        let under = arguments.flag(self, "under", None)?;
        if over == under {
            return Err(Fault::new(arguments.at, "`size` wants either `:over` or `:under`"));
        }
        let octets = arguments::number(arguments.next("a size")?)?;
        Ok(TestKind::Size { over, octets })
    }

    /// Match type and comparator, with their defaults (RFC 5228 section 2.7).
    pub(super) fn match_spec(&self, arguments: &mut Arguments<'_>) -> Result<Match, Fault> {
        let mut kinds = Vec::new();
        let plain = [
            ("is", MatchKind::Is),
            ("contains", MatchKind::Contains),
            ("matches", MatchKind::Matches),
        ];
        for (tag, kind) in plain {
            if arguments.flag(self, tag, None)? {
                kinds.push(kind);
            }
        }
        for (tag, counts) in [("value", false), ("count", true)] {
            let Some(argument) = arguments.after(self, tag, Some(Capability::Relational))? else {
                continue;
            };
            let (name, at) = arguments::string(argument)?;
            let relation = Relation::ALL.iter().find(|(_, known)| *known == name.to_lowercase());
            let Some((relation, _)) = relation else {
                let text =
                    format!("`:{tag}` wants \"gt\", \"ge\", \"lt\", \"le\", \"eq\" or \"ne\"");
                return Err(Fault::new(at, text));
            };
            let relation = *relation;
            kinds.push(if counts {
                MatchKind::Count(relation)
            } else {
                MatchKind::Value(relation)
            });
        }
        let kind = match kinds.as_slice() {
            [] => MatchKind::Is,
            [kind] => *kind,
            _ => return Err(Fault::new(arguments.at, "one match type at most, as `:is`")),
        };
        let comparator = self.comparator(arguments, kind)?;
        Ok(Match { kind, comparator, index: None })
    }

    fn comparator(
        &self,
        arguments: &mut Arguments<'_>,
        kind: MatchKind,
    ) -> Result<Comparator, Fault> {
        let Some(argument) = arguments.after(self, "comparator", None)? else {
            // Counts are numbers: as texts 10 would be less than 9.
            return Ok(match kind {
                MatchKind::Count(_) => Comparator::AsciiNumeric,
                MatchKind::Is | MatchKind::Contains | MatchKind::Matches | MatchKind::Value(_) => {
                    Comparator::AsciiCasemap
                }
            });
        };
        let (name, at) = arguments::string(argument)?;
        let found = Comparator::ALL.iter().find(|(_, known)| *known == name);
        let Some((comparator, name)) = found else {
            let known: Vec<String> =
                Comparator::ALL.iter().map(|(_, name)| format!("\"{name}\"")).collect();
            let text = format!("no comparator is called that: there are {}", known.join(", "));
            return Err(Fault::new(at, text));
        };
        let needs = match comparator {
            Comparator::Octet | Comparator::AsciiCasemap => None,
            Comparator::AsciiNumeric => Some(Capability::ComparatorAsciiNumeric),
            Comparator::UnicodeCasemap => Some(Capability::ComparatorUnicodeCasemap),
        };
        if let Some(needs) = needs {
            self.need(needs, name, at)?;
        }
        let searches = matches!(kind, MatchKind::Contains | MatchKind::Matches);
        if searches && *comparator == Comparator::AsciiNumeric {
            let text = "numbers can't be searched in: \"i;ascii-numeric\" goes with `:is`, `:value` and `:count`";
            return Err(Fault::new(at, text));
        }
        Ok(*comparator)
    }

    /// `:index` and `:last`, which `deleteheader` has without an extension.
    pub(super) fn index(
        &self,
        arguments: &mut Arguments<'_>,
        needs: Option<Capability>,
    ) -> Result<Option<Index>, Fault> {
        let number = arguments.number_after(self, "index", needs)?;
        let last = arguments.flag(self, "last", needs)?;
        match (number, last) {
            (Some(0), _) => Err(Fault::new(arguments.at, "`:index` counts from 1")),
            (Some(number), last) => Ok(Some(Index { number, last })),
            (None, true) => Err(Fault::new(arguments.at, "`:last` wants an `:index`")),
            (None, false) => Ok(None),
        }
    }

    fn address_part(&self, arguments: &mut Arguments<'_>) -> Result<AddressPart, Fault> {
        let mut parts = Vec::new();
        for (tag, part, needs) in [
            ("all", AddressPart::All, None),
            ("localpart", AddressPart::LocalPart, None),
            ("domain", AddressPart::Domain, None),
            ("user", AddressPart::User, Some(Capability::SubAddress)),
            ("detail", AddressPart::Detail, Some(Capability::SubAddress)),
        ] {
            if arguments.flag(self, tag, needs)? {
                parts.push(part);
            }
        }
        match parts.as_slice() {
            [] => Ok(AddressPart::All),
            [part] => Ok(*part),
            _ => Err(Fault::new(arguments.at, "one part of the address at most, as `:domain`")),
        }
    }

    /// RFC 5173.
    fn body(&mut self, arguments: &mut Arguments<'_>) -> Result<TestKind, Fault> {
        self.need(Capability::Body, "body", arguments.at)?;
        self.looks_at_body = true;
        let raw = arguments.flag(self, "raw", None)?;
        let text = arguments.flag(self, "text", None)?;
        let content = arguments.texts_after(self, "content", None)?;
        let transform = match (raw, text, content) {
            (true, false, None) => Transform::Raw,
            (false, false, Some(types)) => Transform::Content(types),
            (false, _, None) => Transform::Text,
            (_, _, _) => {
                let text = "one of `:raw`, `:content` and `:text` at most";
                return Err(Fault::new(arguments.at, text));
            }
        };
        let spec = self.match_spec(arguments)?;
        Ok(TestKind::Body { transform, keys: self.keys(arguments)?, spec })
    }

    /// RFC 5260 section 4.
    fn date(&self, arguments: &mut Arguments<'_>) -> Result<TestKind, Fault> {
        let (name, at) = (arguments.name(), arguments.at);
        self.need(Capability::Date, name, at)?;
        let zone = arguments.text_after(self, "zone", None)?;
        let mut original = false;
        let mut index = None;
        if name == "date" {
            original = arguments.flag(self, "originalzone", None)?;
            index = self.index(arguments, Some(Capability::Index))?;
        }
        let zone = match (zone, original) {
            (Some(_), true) => {
                return Err(Fault::new(at, "either `:zone` or `:originalzone`, not both"));
            }
            (Some(zone), false) => {
                let odd =
                    zone.constant().is_some_and(|zone| super::super::date::zone(zone).is_none());
                if odd {
                    return Err(Fault::new(zone.at, "a zone is written as in \"+0100\""));
                }
                Zone::Fixed(zone)
            }
            (None, true) => Zone::Original,
            (None, false) => Zone::Local,
        };
        let spec = Match { index, ..self.match_spec(arguments)? };
        let source = if name == "date" {
            let field = self.one_text(arguments.next("the name of a header field")?)?;
            check_field_name(&field)?;
            DateSource::Field(field)
        } else {
            DateSource::Now
        };
        let (part, part_at) = arguments::string(arguments.next("a part of the date")?)?;
        let Some(part) = DatePart::named(part) else {
            let text = format!(
                "a date has no part \"{}\": there are \"year\", \"month\", \"day\", \"date\", \"julian\", \"hour\", \"minute\", \"second\", \"time\", \"iso8601\", \"std11\", \"zone\" and \"weekday\"",
                shown(part)
            );
            return Err(Fault::new(part_at, text));
        };
        Ok(TestKind::Date { zone, source, part, keys: self.keys(arguments)?, spec })
    }

    /// RFC 7352 section 3.
    fn duplicate(&self, arguments: &mut Arguments<'_>) -> Result<TestKind, Fault> {
        let at = arguments.at;
        self.need(Capability::Duplicate, "duplicate", at)?;
        let handle = arguments.text_after(self, "handle", None)?;
        let field = arguments.text_after(self, "header", None)?;
        let unique = arguments.text_after(self, "uniqueid", None)?;
        let seconds = arguments.number_after(self, "seconds", None)?.unwrap_or(DUPLICATE_SECONDS);
        let last = arguments.flag(self, "last", None)?;
        let id = match (field, unique) {
            (Some(_), Some(_)) => {
                return Err(Fault::new(at, "either `:header` or `:uniqueid`, not both"));
            }
            (Some(field), None) => {
                check_field_name(&field)?;
                DuplicateId::Field(field)
            }
            (None, Some(unique)) => DuplicateId::Unique(unique),
            (None, None) => DuplicateId::MessageId,
        };
        Ok(TestKind::Duplicate(Box::new(Duplicate { handle, id, seconds, last })))
    }
}

fn check_address_field(name: &Text) -> Result<(), Fault> {
    let Some(constant) = name.constant() else { return Ok(()) };
    if ADDRESS_FIELDS.iter().any(|field| field.eq_ignore_ascii_case(constant)) {
        return Ok(());
    }
    let text = format!("\"{}\" holds no addresses: test it with `header`", shown(constant));
    Err(Fault::new(name.at, text))
}

fn check_envelope_part(part: &Text) -> Result<(), Fault> {
    match part.constant() {
        Some(name) if !["from", "to"].iter().any(|known| known.eq_ignore_ascii_case(name)) => {
            let text =
                format!("the envelope has no \"{}\": there are \"from\" and \"to\"", shown(name));
            Err(Fault::new(part.at, text))
        }
        Some(_) | None => Ok(()),
    }
}
