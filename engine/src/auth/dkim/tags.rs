//! Lists of tags (RFC 6376 section 3.2): the syntax that signatures, keys and DMARC records share.

/// More than any known list has.
const TAGS_MAX: usize = 32;

/// A list that keeps to the syntax. Values are as they came: folded, white space around them gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags<'t>(Vec<(&'t [u8], &'t [u8])>);

impl<'t> Tags<'t> {
    /// `None`: not a list, or one that names a tag twice.
    pub fn read(text: &'t [u8]) -> Option<Tags<'t>> {
        let mut tags = Vec::new();
        let mut specs = text.split(|&byte| byte == b';').peekable();
        while let Some(spec) = specs.next() {
            if spec.trim_ascii().is_empty() && specs.peek().is_none() {
                break; // behind the last semicolon
            }
            let equals = spec.iter().position(|&byte| byte == b'=')?;
            let (name, value) = spec.split_at_checked(equals)?;
            let (name, value) = (name.trim_ascii(), value.get(1..)?.trim_ascii());
            let is_name = name.first().is_some_and(u8::is_ascii_alphabetic)
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
            // UTF-8 may stand where RFC 8616 allows it.
            let is_value = value.iter().all(|&byte| byte >= 0x20 && byte != 0x7f || is_space(byte));
            let is_new = tags.iter().all(|(known, _)| *known != name);
            if !is_name || !is_value || !is_new || tags.len() == TAGS_MAX {
                return None;
            }
            tags.push((name, value));
        }
        Some(Tags(tags))
    }

    pub fn get(&self, name: &str) -> Option<&'t [u8]> {
        self.0.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| *value)
    }

    /// Where the first tag has this name, its value.
    pub fn first(&self, name: &str) -> Option<&'t [u8]> {
        self.0.first().filter(|(known, _)| *known == name.as_bytes()).map(|(_, value)| *value)
    }
}

pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The items of a list with colons, white space around them gone.
pub fn items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b':').map(<[u8]>::trim_ascii)
}

/// Digits only, at most twelve of them.
pub fn number(value: &[u8]) -> Option<u64> {
    if value.len() > 12 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Base64 with white space anywhere; padding may be missing.
pub fn base64(value: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let mut compact: Vec<u8> = value.iter().copied().filter(|&byte| !is_space(byte)).collect();
    let padding = compact.iter().rev().take_while(|&&byte| byte == b'=').count();
    compact.truncate(compact.len() - padding.min(2));
    STANDARD_NO_PAD.decode(compact).ok()
}

/// A domain, or a selector, as DNS has it: lower case, A-labels, nothing but letters, digits,
/// hyphens and underscores.
pub fn domain(value: &[u8]) -> Option<String> {
    const NAME_BYTES_MAX: usize = 253;
    const LABEL_BYTES_MAX: usize = 63;
    let text = std::str::from_utf8(value).ok()?;
    let ascii = match text.is_ascii() {
        true => text.to_ascii_lowercase(),
        false if text.len() <= NAME_BYTES_MAX => crate::directory::canonical_domain(text)?,
        false => return None,
    };
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (ascii.len() <= NAME_BYTES_MAX && ascii.split('.').all(is_label)).then_some(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_to_the_grammar_or_are_none() {
        let tags = Tags::read(b" v=1; a = rsa-sha256;\r\n\tb=AB\r\n CD ; n=").unwrap();
        assert_eq!(tags.get("a"), Some(&b"rsa-sha256"[..]));
        assert_eq!(tags.get("b"), Some(&b"AB\r\n CD"[..]));
        assert_eq!(tags.get("n"), Some(&b""[..]));
        assert_eq!(tags.get("A"), None, "names are case-sensitive");
        assert_eq!((tags.first("v"), tags.first("a")), (Some(&b"1"[..]), None));
        assert!(Tags::read(b"v=1;").is_some() && Tags::read(b"v=1; \r\n").is_some());
        for wrong in ["v", "v=1;;a=b", "=1", "1=1", "v=1;v=1", "a-b=1", "v=\0", "v=\x7f", ";v=1"] {
            assert_eq!(Tags::read(wrong.as_bytes()), None, "{wrong}");
        }
        let many: String = (0..40).map(|n| format!("t{n}=x;")).collect();
        assert_eq!(Tags::read(many.as_bytes()), None);
    }

    #[test]
    fn base64_and_names_are_read_strictly() {
        assert_eq!(base64(b"QU\r\n JD").as_deref(), Some(&b"ABC"[..]));
        assert_eq!(base64(b"QUI=").as_deref(), Some(&b"AB"[..]));
        assert_eq!(base64(b"QUI").as_deref(), Some(&b"AB"[..]));
        assert_eq!(base64(b"QU*D"), None);
        assert_eq!(domain(b"Ex-1_.Test").as_deref(), Some("ex-1_.test"));
        assert_eq!(domain("bücher.test".as_bytes()).as_deref(), Some("xn--bcher-kva.test"));
        for wrong in ["", ".", "a..b", "a b", "a.", "a/b", &"x".repeat(64), &"a.".repeat(200)] {
            assert_eq!(domain(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(
            (number(b"12"), number(b""), number(b"1 2"), number(b"1234567890123")),
            (Some(12), None, None, None)
        );
    }
}
