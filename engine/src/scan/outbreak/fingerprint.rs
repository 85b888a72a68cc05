//! A few numbers that two messages share when they are alike, and otherwise not
//! (locality-sensitive hashing).
//!
//! What a text or a file consists of is a set: of its runs of three words, or of windows of its
//! bytes. For each of [`ROWS`]` x `[`BANDS`] orders of all such things the least one of the set
//! is taken: two sets have the same least one as often as they overlap (Broder, "On the
//! resemblance and containment of documents", 1997). [`ROWS`] of them make a fingerprint. Two
//! texts with nine tenths in common share four or five of the six; with half in common mostly
//! none; with nothing, none.
//!
//! Pure, and linear in at most [`TEXT_BYTES_MAX`] and [`FILE_BYTES_MAX`] of each part.

use crate::scan::attachments;
use protocols::message::summary::{Kind, Summary};
use protocols::message::text::decode_part;

const ROWS: usize = 3;
const BANDS: usize = 6;

pub const TEXT_BYTES_MAX: usize = 64 << 10;
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Parts of a message that have fingerprints.
const PARTS_MAX: usize = 4;
/// Fewer things than this say too little: `Yes, thank you!` is no outbreak.
const THINGS_MIN: usize = 12;
/// Logos in signatures are alike, too.
const IMAGE_BYTES_MIN: usize = 24 << 10;
/// Longer words are numbers of orders, keys and the like, different in each message.
const WORD_CHARS_MAX: usize = 24;
/// Windows of files; of these one in so many, chosen by what it holds.
const WINDOW_BYTES: usize = 16;
const WINDOWS_SAMPLED: u64 = 32;

/// Of a message, without our own trace fields; or of its beginning.
pub fn fingerprints(message: &[u8]) -> Vec<u64> {
    let summary = Summary::compute(message);
    let mut all = Vec::new();
    let leaves = summary.parts.iter().filter(|part| part.kind == Kind::Leaf).take(PARTS_MAX);
    for part in leaves {
        let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
        let body = message.get(at(part.body.start)..at(part.body.end)).unwrap_or_default();
        if part.content.is("text") {
            let body = &body[..body.len().min(TEXT_BYTES_MAX)];
            let is_html = part.content.sub.eq_ignore_ascii_case(b"html");
            all.extend(
                decode_part(&part.content, body)
                    .map(|text| of_text(&text, is_html))
                    .unwrap_or_default(),
            );
        } else {
            // Base64 takes four octets for three.
            let body = &body[..body.len().min(FILE_BYTES_MAX / 3 * 4)];
            let file = attachments::decode(&part.content, body);
            if !part.content.is("image") || file.len() >= IMAGE_BYTES_MIN {
                all.extend(of_file(&file));
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Six, or none for a text that is too short.
pub fn of_text(text: &str, is_html: bool) -> Vec<u64> {
    let mut minima = Minima::new(1);
    let (mut first, mut second) = (0, 0);
    let mut word = Word::default();
    let mut in_tag = false;
    let mut seen = 0;
    for c in text.chars().chain([' ']) {
        match c {
            '<' if is_html => in_tag = true,
            '>' if is_html => in_tag = false,
            _ if in_tag => {}
            c if c.is_alphanumeric() => {
                word.push(c);
                continue;
            }
            _ => {}
        }
        if let Some(hash) = word.end() {
            seen += 1;
            if seen >= 3 {
                minima.take(mix(mix(first).wrapping_add(second)).wrapping_add(hash));
            }
            (first, second) = (second, hash);
        }
    }
    minima.fingerprints()
}

/// Six, or none for a file that is too small.
pub fn of_file(bytes: &[u8]) -> Vec<u64> {
    let mut minima = Minima::new(2);
    for window in bytes[..bytes.len().min(FILE_BYTES_MAX)].windows(WINDOW_BYTES) {
        let (low, high) = window.split_at(8);
        let number = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        let (low, high) = (number(low), number(high));
        let hash = mix(low ^ mix(high));
        // A run of one octet, as files are padded with, says nothing.
        if hash.is_multiple_of(WINDOWS_SAMPLED) && low != high {
            minima.take(hash);
        }
    }
    minima.fingerprints()
}

/// A word as it is compared: without case, its digits all alike.
#[derive(Default)]
struct Word {
    hash: u64,
    chars: usize,
    has_digit: bool,
}

impl Word {
    fn push(&mut self, c: char) {
        self.has_digit |= c.is_numeric();
        self.chars += 1;
        for c in c.to_lowercase() {
            self.hash = (self.hash ^ u64::from(u32::from(c))).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// `None`: there is none, or one that is not counted.
    fn end(&mut self) -> Option<u64> {
        let Word { hash, chars, has_digit } = std::mem::take(self);
        match chars {
            0 => None,
            1..=WORD_CHARS_MAX => Some(if has_digit { 1 } else { mix(hash) }),
            _ => None,
        }
    }
}

/// What makes another order of each row.
const ORDERS: [u64; ROWS * BANDS] = {
    let mut orders = [0; ROWS * BANDS];
    let (mut row, mut order) = (0, 0);
    while row < orders.len() {
        order = mix(order);
        orders[row] = order;
        row += 1;
    }
    orders
};

struct Minima {
    salt: u64,
    least: [u64; ROWS * BANDS],
    taken: usize,
}

impl Minima {
    fn new(salt: u64) -> Minima {
        Minima { salt, least: [u64::MAX; ROWS * BANDS], taken: 0 }
    }

    fn take(&mut self, thing: u64) {
        self.taken += 1;
        for (least, order) in self.least.iter_mut().zip(ORDERS) {
            *least = (*least).min(mix(thing ^ order));
        }
    }

    fn fingerprints(&self) -> Vec<u64> {
        if self.taken < THINGS_MIN {
            return Vec::new();
        }
        let band = |(index, rows): (u64, &[u64])| {
            rows.iter().fold(self.salt << 32 | index, |hash, row| mix(hash ^ row))
        };
        (0..).zip(self.least.chunks(ROWS)).map(band).collect()
    }
}

/// SplitMix64's finisher (Steele, Lea and Flood, 2014): every bit of the input changes half
/// of the output's.
const fn mix(mut number: u64) -> u64 {
    number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(one: &[u64], other: &[u64]) -> usize {
        one.iter().filter(|print| other.contains(print)).count()
    }

    /// Words that mean nothing, always the same for a seed.
    fn words(seed: u64, count: usize) -> Vec<String> {
        let word = |index: u64| {
            let number = mix(seed << 32 | index) % 3000;
            let letter = |n: u64| char::from(b'a' + u8::try_from(n % 26).unwrap());
            [number, number / 26, number / 676, number * 7].map(letter).into_iter().collect()
        };
        (0..count as u64).map(word).collect()
    }

    #[test]
    fn small_edits_leave_most_fingerprints_and_other_texts_share_none() {
        let original = words(1, 200);
        let print = |words: &[String]| of_text(&words.join(" "), false);
        let own = print(&original);
        assert_eq!(own.len(), BANDS);
        let (mut kept, mut rounds) = (0, 0);
        for edit in 0..40 {
            let mut edited = original.clone();
            // A name at the start, a number in the middle, a word left out, a word changed, a
            // line at the end.
            edited[0] = format!("dear{edit}");
            edited[(edit * 7) % 200] = format!("nr{edit}");
            edited.remove((edit * 31) % 199);
            edited.push(format!("unsubscribe{edit}x"));
            kept += shared(&own, &print(&edited));
            rounds += 1;
            assert!(shared(&own, &print(&edited)) >= 1, "edit {edit}");
        }
        assert!(kept * 2 >= rounds * BANDS, "{kept} of {}", rounds * BANDS);
        for seed in 2..300 {
            assert_eq!(shared(&own, &print(&words(seed, 200))), 0, "seed {seed}");
        }
    }

    #[test]
    fn case_digits_spaces_tags_and_long_keys_make_no_difference() {
        let text = words(5, 60).join(" ");
        let own = of_text(&text, false);
        assert_eq!(own, of_text(&text.to_uppercase().replace(' ', "\r\n \t"), false));
        assert_eq!(own, of_text(&text.replace(' ', "</b> <a href='http://x.test/1'>"), true));
        let with = |number: &str| of_text(&format!("{text} order {number} end"), false);
        assert_eq!(with("123-456"), with("98765-1"));
        let key = "a".repeat(WORD_CHARS_MAX + 1);
        assert_eq!(own, of_text(&format!("{text} {key}"), false));
        assert!(of_text("Yes, thank you very much for this!", false).is_empty());
    }

    #[test]
    fn a_file_with_another_end_or_a_few_octets_changed_is_the_same_file() {
        let mut file: Vec<u8> = (0..20_000).flat_map(|n| mix(n).to_le_bytes()).collect();
        let own = of_file(&file);
        assert_eq!(own.len(), BANDS);
        for at in [0, 50_000, 100_000] {
            file[at..at + 8].fill(at as u8);
        }
        file.extend_from_slice(&[9; 500]);
        assert!(shared(&own, &of_file(&file)) >= 4);
        let other: Vec<u8> = (50_000..70_000).flat_map(|n| mix(n).to_le_bytes()).collect();
        assert_eq!(shared(&own, &of_file(&other)), 0);
        assert!(of_file(&[0; 100_000]).is_empty());
    }

    #[test]
    fn a_message_has_those_of_its_text_and_its_attachments() {
        let text = words(7, 80).join(" ");
        let message = |to: &str| {
            format!("To: {to}\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nDear {to},\r\n{text}\r\n--b\r\n\
                     Content-Type: application/pdf\r\n\r\n{}\r\n--b--\r\n", words(8, 3000).join(" ")).into_bytes()
        };
        let (one, other) = (fingerprints(&message("ann")), fingerprints(&message("bob")));
        assert_eq!(one.len(), 2 * BANDS);
        assert!(shared(&one, &other) >= BANDS + 3, "{}", shared(&one, &other));
        assert!(fingerprints(b"Subject: x\r\n\r\nshort\r\n").is_empty());
        assert!(fingerprints(b"").is_empty());
    }
}
