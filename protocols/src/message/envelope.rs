//! The RFC 3501 envelope (section 7.4.2): what a mailbox listing shows, taken from the header once.
//!
//! Strings are kept as the header has them, unfolded: encoded words stay encoded (RFC 2047), since
//! that is what IMAP sends. Address lists are read as real mail writes them (RFC 5322 sections 3.4
//! and 4.4); reading is linear in the length of the field and never fails.

/// One entry of an address list. A group is a start (`host` is `None`), members, an
/// end (all `None`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address<T = Vec<u8>> {
    pub name: Option<T>,
    pub mailbox: Option<T>,
    pub host: Option<T>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope<T = Vec<u8>> {
    pub date: Option<T>,
    pub subject: Option<T>,
    pub from: Vec<Address<T>>,
    /// Empty, as `reply_to`: From stands for it.
    pub sender: Vec<Address<T>>,
    pub reply_to: Vec<Address<T>>,
    pub to: Vec<Address<T>>,
    pub cc: Vec<Address<T>>,
    pub bcc: Vec<Address<T>>,
    pub in_reply_to: Option<T>,
    pub message_id: Option<T>,
}

/// Reads an address list; at most `addresses_max` entries are kept.
#[must_use]
pub fn addresses(value: &[u8], addresses_max: usize) -> Vec<Address> {
    let mut reader = Reader { found: Vec::new(), entry: Entry::default(), in_group: false };
    let mut rest = value.iter();
    while let Some(&byte) = rest.next() {
        if reader.found.len() >= addresses_max {
            break;
        }
        match byte {
            b'"' => reader.entry.quoted(&mut rest),
            b'(' => reader.entry.comment(&mut rest),
            b'<' if !reader.entry.in_angle => reader.entry.open_angle(),
            b'>' => reader.entry.in_angle = false,
            b'@' => reader.entry.at(),
            b':' => reader.colon(),
            b',' if !reader.entry.in_angle => reader.flush(),
            b';' => reader.end_group(),
            b' ' | b'\t' | b'\r' | b'\n' => reader.entry.space(),
            0 => {}
            b'\\' => {
                if let Some(&escaped) = rest.next() {
                    reader.entry.push(escaped);
                }
            }
            other => reader.entry.push(other),
        }
    }
    if reader.in_group {
        reader.end_group();
    } else {
        reader.flush();
    }
    reader.found.truncate(addresses_max);
    reader.found
}

struct Reader {
    found: Vec<Address>,
    entry: Entry,
    in_group: bool,
}

impl Reader {
    fn flush(&mut self) {
        if let Some(address) = std::mem::take(&mut self.entry).finish() {
            self.found.push(address);
        }
    }

    /// Outside angle brackets a colon starts a group; inside it ends a source route.
    fn colon(&mut self) {
        if self.entry.in_angle {
            self.entry.specification.clear();
            self.entry.at = None;
        } else if !self.in_group {
            self.in_group = true;
            let entry = std::mem::take(&mut self.entry);
            self.found.push(Address { name: None, mailbox: Some(entry.words), host: None });
        }
    }

    fn end_group(&mut self) {
        self.flush();
        if self.in_group {
            self.in_group = false;
            self.found.push(Address::default());
        }
    }
}

/// One address being read.
#[derive(Default)]
struct Entry {
    /// Text outside angle brackets: a display name, or a bare address.
    words: Vec<u8>,
    /// Text inside angle brackets.
    specification: Vec<u8>,
    /// Where the last unquoted `@` of the address text is.
    at: Option<usize>,
    comment: Vec<u8>,
    in_angle: bool,
    had_angle: bool,
    space: bool,
}

impl Entry {
    fn text(&mut self) -> &mut Vec<u8> {
        if self.in_angle { &mut self.specification } else { &mut self.words }
    }

    fn push(&mut self, byte: u8) {
        let space = std::mem::take(&mut self.space);
        let text = self.text();
        if space && !text.is_empty() {
            text.push(b' ');
        }
        text.push(byte);
    }

    fn space(&mut self) {
        self.space = !self.in_angle;
    }

    fn open_angle(&mut self) {
        self.in_angle = true;
        self.had_angle = true;
        self.space = false;
        self.at = None;
    }

    fn at(&mut self) {
        // "a @ b" is an old spelling of "a@b"; in a display name the space matters to nobody.
        self.space = false;
        let at = self.text().len();
        self.at = Some(at);
        self.push(b'@');
    }

    fn quoted(&mut self, rest: &mut std::slice::Iter<'_, u8>) {
        let space = std::mem::take(&mut self.space);
        let text = self.text();
        if space && !text.is_empty() {
            text.push(b' ');
        }
        while let Some(&byte) = rest.next() {
            match byte {
                b'"' => return,
                b'\\' => text.extend(rest.next()),
                b'\r' | b'\n' | 0 => {}
                other => text.push(other),
            }
        }
    }

    fn comment(&mut self, rest: &mut std::slice::Iter<'_, u8>) {
        self.comment.clear();
        self.space = !self.in_angle;
        let mut depth = 1_u32;
        while let Some(&byte) = rest.next() {
            match byte {
                b'(' => depth = depth.saturating_add(1),
                b')' => depth = depth.saturating_sub(1),
                b'\\' => {
                    self.comment.extend(rest.next());
                    continue;
                }
                b'\r' | b'\n' | 0 => continue,
                _ => {}
            }
            if depth == 0 {
                return;
            }
            self.comment.push(byte);
        }
    }

    fn finish(self) -> Option<Address> {
        if self.had_angle {
            let (mailbox, host) = split(&self.specification, self.at);
            let name = self.words.trim_ascii();
            let name = if name.is_empty() { self.comment.trim_ascii() } else { name };
            return Some(address(name, mailbox, host));
        }
        if self.words.is_empty() {
            return None;
        }
        let (mailbox, host) = split(&self.words, self.at);
        Some(address(self.comment.trim_ascii(), mailbox, host))
    }
}

fn split(text: &[u8], at: Option<usize>) -> (&[u8], &[u8]) {
    let parts = at.and_then(|at| text.split_at_checked(at));
    parts.map_or((text, b""), |(mailbox, host)| (mailbox, host.get(1..).unwrap_or_default()))
}

/// A host of `None` would make it a group, so a missing one is the empty string.
fn address(name: &[u8], mailbox: &[u8], host: &[u8]) -> Address {
    let name = (!name.is_empty()).then(|| name.to_vec());
    Address { name, mailbox: Some(mailbox.to_vec()), host: Some(host.trim_ascii().to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(list: &str) -> String {
        let show = |text: &Option<Vec<u8>>| match text {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => "NIL".into(),
        };
        addresses(list.as_bytes(), 100)
            .iter()
            .map(|a| format!("[{}|{}|{}]", show(&a.name), show(&a.mailbox), show(&a.host)))
            .collect()
    }

    #[test]
    fn addresses_as_real_mail_writes_them() {
        for (list, expected) in [
            ("a@b", "[NIL|a|b]"),
            ("Ann <a@b>, c@d", "[Ann|a|b][NIL|c|d]"),
            ("\"Smith, Ann\" <a@b>", "[Smith, Ann|a|b]"),
            ("a@b (Ann Smith)", "[Ann Smith|a|b]"),
            ("=?utf-8?q?=C3=A4?= x <a@b>", "[=?utf-8?q?=C3=A4?= x|a|b]"),
            ("<@relay,@other:a@b>", "[NIL|a|b]"),
            ("\"odd local\"@b", "[NIL|odd local|b]"),
            (
                "friends: a@b, Cee <c@d>;, e@f",
                "[NIL|friends|NIL][NIL|a|b][Cee|c|d][NIL|NIL|NIL][NIL|e|f]",
            ),
            ("undisclosed-recipients:;", "[NIL|undisclosed-recipients|NIL][NIL|NIL|NIL]"),
            ("nobody", "[NIL|nobody|]"),
            ("<>", "[NIL||]"),
            (", ,a @ b ,", "[NIL|a|b]"),
            ("Ann <a@b", "[Ann|a|b]"),
            ("(((((", ""),
            ("\"unclosed", "[NIL|unclosed|]"),
        ] {
            assert_eq!(shown(list), expected, "for {list}");
        }
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let list = "a@b,".repeat(10_000);
        assert_eq!(addresses(list.as_bytes(), 50).len(), 50);
    }
}
