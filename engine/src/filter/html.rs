//! HTML as a reader sees it: its text, where its links lead, and what is done to hide something.
//!
//! One pass, no tree: work is linear in the bytes whatever they are, and nothing fails. It is no
//! renderer: styles count only where they stand in a tag.

use super::limits::{LINK_TEXT_BYTES_MAX, LINKS_MAX};
use super::url::Link;

/// What a piece of HTML holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Html {
    /// What is shown, entities decoded; tags that part words leave a space.
    pub text: String,
    pub links: Vec<Link>,
    pub images: u32,
    pub forms: u32,
    pub scripts: u32,
    /// Letters and digits of text that no reader sees: by `display:none`,
    /// `font-size:0` and their like.
    pub hidden_letters: u32,
    /// Comments, and tags that no browser knows, in the middle of a word.
    pub split_words: u32,
}

/// Elements whose text is not shown at all.
const UNSHOWN: [&str; 4] = ["script", "style", "title", "noscript"];
/// Elements that don't part words.
const INLINE: [&str; 14] =
    ["a", "b", "i", "u", "em", "strong", "font", "span", "small", "big", "sup", "sub", "tt", "s"];
/// Elements that have no end tag, so that nothing can be hidden inside them.
const VOID: [&str; 6] = ["br", "img", "hr", "input", "meta", "link"];
/// Elements inside hidden ones are counted this deep.
const HIDDEN_DEPTH_MAX: u32 = 1000;

impl Html {
    pub fn read(source: &str) -> Html {
        let mut reader = Reader { html: Html::default(), open: None, hidden: None, unshown: None };
        reader.html.text.reserve(source.len() / 4);
        let mut rest = source;
        while let Some(at) = memchr::memchr(b'<', rest.as_bytes()) {
            reader.text(&rest[..at]);
            rest = reader.tag(&rest[at..]);
        }
        reader.text(rest);
        reader.end_link();
        reader.html
    }
}

struct Reader {
    html: Html,
    /// A link that has begun, and where its text begins.
    open: Option<(String, usize)>,
    /// Inside a hidden element: its name, and how many of that name are open.
    hidden: Option<(String, u32)>,
    unshown: Option<String>,
}

impl Reader {
    fn text(&mut self, raw: &str) {
        if self.unshown.is_some() || raw.is_empty() {
            return;
        }
        if self.hidden.is_some() {
            // Newsletters hide a line for previews, and hundreds of characters of no
            // width behind it.
            let mut text = String::new();
            decode_entities(raw, &mut text);
            let letters = text.chars().filter(|letter| letter.is_alphanumeric()).count();
            let letters = u32::try_from(letters).unwrap_or(u32::MAX);
            self.html.hidden_letters = self.html.hidden_letters.saturating_add(letters);
            return;
        }
        decode_entities(raw, &mut self.html.text);
    }

    /// `source` begins with `<`. What stands behind the tag.
    fn tag<'s>(&mut self, source: &'s str) -> &'s str {
        if let Some(comment) = source.strip_prefix("<!--") {
            let end = comment.find("-->").map_or(comment.len(), |at| at + 3);
            self.split(&comment[end..]);
            return &comment[end..];
        }
        let second = source.as_bytes().get(1).copied().unwrap_or(b' ');
        if !second.is_ascii_alphabetic() && !matches!(second, b'/' | b'!' | b'?') {
            // A loose "<" is text.
            self.text("&lt;");
            return &source[1..];
        }
        let end = tag_end(source);
        let (tag, behind) = source.split_at(end);
        let inside = tag[1..].trim_end_matches('>');
        let (closing, inside) = match inside.strip_prefix('/') {
            Some(inside) => (true, inside),
            None => (false, inside),
        };
        let stop = |letter: char| !letter.is_ascii_alphanumeric();
        let (name, attributes) = inside.split_at(inside.find(stop).unwrap_or(inside.len()));
        let name = name.to_ascii_lowercase();
        if closing {
            self.close(&name)
        } else {
            self.begin(&name, attributes)
        }
        if !INLINE.contains(&name.as_str()) {
            if name.len() > 12 || name.is_empty() && !matches!(second, b'!' | b'?') {
                self.split(behind);
            } else if !self.html.text.ends_with(char::is_whitespace) && self.unshown.is_none() {
                self.html.text.push('\n');
            }
        }
        behind
    }

    fn begin(&mut self, name: &str, attributes: &str) {
        if self.unshown.is_some() {
            return;
        }
        match name {
            "a" | "area" => {
                self.end_link();
                if let Some(target) = attribute(attributes, "href") {
                    self.open = Some((target, self.html.text.len()));
                }
            }
            "img" => self.html.images = self.html.images.saturating_add(1),
            "form" => {
                self.html.forms = self.html.forms.saturating_add(1);
                if let Some(target) = attribute(attributes, "action") {
                    self.link(target, String::new());
                }
            }
            "script" | "iframe" | "object" | "embed" => {
                self.html.scripts = self.html.scripts.saturating_add(1);
            }
            _ => {}
        }
        if let Some((hidden, depth)) = &mut self.hidden {
            if hidden == name {
                *depth = depth.saturating_add(1).min(HIDDEN_DEPTH_MAX);
            }
        } else if !VOID.contains(&name) && hides(attributes) {
            self.hidden = Some((name.to_owned(), 1));
        }
        if UNSHOWN.contains(&name) {
            self.unshown = Some(name.to_owned());
        }
    }

    fn close(&mut self, name: &str) {
        if self.unshown.as_deref() == Some(name) {
            self.unshown = None;
            return;
        }
        if let Some((hidden, depth)) = &mut self.hidden
            && hidden == name
        {
            *depth -= 1;
            if *depth == 0 {
                self.hidden = None;
            }
        }
        if name == "a" {
            self.end_link();
        }
    }

    fn end_link(&mut self) {
        if let Some((target, start)) = self.open.take() {
            let text = self.html.text.get(start..).unwrap_or_default().trim();
            let text = text.chars().take(LINK_TEXT_BYTES_MAX / 4).collect();
            self.link(target, text);
        }
    }

    fn link(&mut self, target: String, text: String) {
        if self.html.links.len() < LINKS_MAX
            && let Some(link) = Link::read(&target, text)
        {
            self.html.links.push(link);
        }
    }

    /// Something that isn't shown stands here: in the middle of a word?
    fn split(&mut self, behind: &str) {
        let before = self.html.text.ends_with(char::is_alphanumeric);
        if self.unshown.is_none() && before && behind.starts_with(char::is_alphanumeric) {
            self.html.split_words = self.html.split_words.saturating_add(1);
        }
    }
}

/// Behind the `>` that ends the tag: not one in quotes, unless the quotes never end.
fn tag_end(source: &str) -> usize {
    let bytes = source.as_bytes();
    let Some(first) = memchr::memchr(b'>', bytes) else { return bytes.len() };
    let mut quote = None;
    // A quoted value may hold ">", but no tag is longer than this.
    for (at, &byte) in bytes.iter().enumerate().take(4096) {
        match (quote, byte) {
            (None, b'>') => return at + 1,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    first + 1
}

/// The value of an attribute, entities decoded.
fn attribute(attributes: &str, name: &str) -> Option<String> {
    let bytes = attributes.as_bytes();
    let mut from = 0;
    loop {
        let found = find_ignoring_case(&bytes[from..], name.as_bytes())? + from;
        from = found + name.len();
        let parted = found == 0 || !bytes[found - 1].is_ascii_alphanumeric();
        let rest = attributes[from..].trim_ascii_start();
        let Some(value) = rest.strip_prefix('=').filter(|_| parted) else { continue };
        let value = value.trim_ascii_start();
        let value = match value.as_bytes().first() {
            Some(&quote @ (b'"' | b'\'')) => {
                let inner = &value[1..];
                &inner[..memchr::memchr(quote, inner.as_bytes()).unwrap_or(inner.len())]
            }
            _ => value.split_ascii_whitespace().next().unwrap_or_default(),
        };
        let mut decoded = String::new();
        decode_entities(value.trim(), &mut decoded);
        return Some(decoded);
    }
}

fn find_ignoring_case(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted))
}

/// Whether a tag's attributes keep its text from being seen.
fn hides(attributes: &str) -> bool {
    let Some(style) = attribute(attributes, "style") else { return false };
    let style: String =
        style.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let zero = |property: &str| {
        style.match_indices(property).any(|(at, _)| {
            let value = &style[at + property.len()..];
            let number: String =
                value.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            number.parse::<f32>().is_ok_and(|number| number <= 1.0)
                && !value[number.len()..].starts_with("em")
                && !value[number.len()..].starts_with("rem")
        })
    };
    style.contains("display:none")
        || style.contains("visibility:hidden")
        || style.contains("mso-hide:all")
        || zero("font-size:")
        || style.split(';').any(|one| one == "opacity:0" || one == "max-height:0px")
}

/// Appends `raw`, with the entities that mail uses decoded and runs of white space as they are.
fn decode_entities(raw: &str, into: &mut String) {
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'&', rest.as_bytes()) {
        into.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        let decoded = end.and_then(|end| entity(&rest[1..end]).map(|letter| (letter, end + 1)));
        match decoded {
            Some((letter, length)) => {
                into.push(letter);
                rest = &rest[length..];
            }
            None => {
                into.push('&');
                rest = &rest[1..];
            }
        }
    }
    into.push_str(rest);
}

fn entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "copy" => '\u{a9}',
        "reg" => '\u{ae}',
        "trade" => '\u{2122}',
        "ndash" => '\u{2013}',
        "mdash" => '\u{2014}',
        "hellip" => '\u{2026}',
        "shy" => '\u{ad}',
        "zwnj" => '\u{200c}',
        "euro" => '\u{20ac}',
        "pound" => '\u{a3}',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_the_text_and_links_have_theirs() {
        let html = Html::read(
            "<html><style>p{x}</style><p>Dear&nbsp;<b>cus</b>tomer</p><A HREF='http://a.test/x?y&amp;z'>see \
             <i>here</i></a><img src=x>&lt;3 1 < 2 <script>alert('no')</script>end",
        );
        assert_eq!(
            html.text.split_whitespace().collect::<Vec<_>>().join(" "),
            "Dear customer see here <3 1 < 2 end"
        );
        assert_eq!(html.links.len(), 1);
        assert_eq!(
            (html.links[0].host.as_str(), html.links[0].text.as_str()),
            ("a.test", "see here")
        );
        assert_eq!(html.links[0].url, "http://a.test/x?y&z");
        assert_eq!((html.images, html.scripts), (1, 1));
    }

    #[test]
    fn hidden_text_is_counted_and_not_shown() {
        for style in [
            "display: none",
            "color:red;DISPLAY:NONE",
            "font-size:0px",
            "font-size: 1px",
            "visibility:hidden",
        ] {
            let html = Html::read(&format!("a<div style=\"{style}\">hid<div>den</div>x</div>b"));
            assert_eq!(html.hidden_letters, 7, "{style}");
            assert!(!html.text.contains("hid"), "{style}");
            assert!(html.text.ends_with('b'), "{style}");
        }
        let filled = "&zwnj;&nbsp;".repeat(100);
        let html = Html::read(&format!("<div style='display:none'>New: hats{filled}</div>shown"));
        assert_eq!(html.hidden_letters, 7);
        for style in ["font-size:12px", "font-size:1em", "display:block"] {
            let html = Html::read(&format!("<span style='{style}'>shown</span>"));
            assert_eq!((html.hidden_letters, html.text.as_str()), (0, "shown"), "{style}");
        }
    }

    #[test]
    fn words_that_comments_split_are_counted() {
        let html = Html::read("vi<!-- x -->agra and <!-- y --> more ci<zxqwertyuiopas>alis");
        assert_eq!(html.split_words, 2);
        assert!(html.text.starts_with("viagra"));
    }

    #[test]
    fn nothing_breaks_it() {
        for odd in [
            "<",
            "<a",
            "<a href",
            "<a href=",
            "<!--",
            "&#;",
            "&#x110000;",
            "<a href='",
            "</",
            "<>",
            "&\u{e9};",
            "<\u{e9}>",
        ] {
            let _ = Html::read(odd);
        }
        let _ = Html::read(&"<a href=http://a.test>".repeat(100_000));
        assert_eq!(Html::read(&"<a href=http://a.test>x".repeat(9999)).links.len(), LINKS_MAX);
    }
}
