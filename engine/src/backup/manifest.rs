//! A manifest: one backup, piece by piece. The last line of its text is the checksum
//! of all before it.

use super::{Fault, PIECE_BYTES, sha256};
use crate::when::time_text;
use serde::{Deserialize, Serialize};

/// A newer one is refused.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub kura: String,
    pub store: String,
    pub generation: String,
    /// When it ended.
    pub made_unix_millis: u64,
    /// What had been answered by then is in it, and what came later may not be; not told by old
    /// ones, which are named after their end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_unix_millis: Option<u64>,
    pub shards: Vec<ShardPart>,
    pub files: Vec<FilePart>,
}

/// A shard as of one position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPart {
    pub shard: u16,
    /// All records up to this one are in the backup.
    pub lsn: u64,
    pub run: u32,
    pub salt: String,
    pub messages: u64,
    pub live_bytes: u64,
    pub segments: Vec<SegmentPart>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentPart {
    pub segment: u32,
    pub segment_bytes: u64,
    pub pieces: Vec<Piece>,
    /// The first places that did not verify when the store was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotten: Vec<String>,
}

/// Bytes `from` to `to` of a segment; behind the first `bytes` of them are only zeroes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub from: u64,
    pub to: u64,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    /// Below the data directory.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// The first thing in a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    pub format: u32,
    pub store: String,
    /// That goes on here; empty: that of whoever comes first.
    #[serde(default)]
    pub generation: String,
    /// The token of the last backup that was begun (`begun.rs`); empty in places of before.
    #[serde(default)]
    pub begun: String,
}

impl Piece {
    pub fn object(&self, generation: &str, shard: u16, segment: u32) -> String {
        let known = piece_prefix(generation, shard, segment, self.from, self.to);
        format!("{known}{}-{}", self.bytes, self.sha256)
    }
}

/// What is known of a piece before it is read.
pub fn piece_prefix(generation: &str, shard: u16, segment: u32, from: u64, to: u64) -> String {
    format!("objects/{generation}/shard-{shard}/{segment:08x}-{from:010x}-{to:010x}-")
}

/// The rest of the name of an object that begins with a piece's prefix.
pub fn parse_rest(rest: &str) -> Option<(u64, String)> {
    let (bytes, sha256) = rest.split_once('-')?;
    let is_hash = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    Some((bytes.parse().ok()?, sha256.to_owned())).filter(|_| is_hash)
}

/// The pieces of a segment that counts up to `end`.
pub fn pieces(end: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..end.div_ceil(PIECE_BYTES))
        .map(move |number| (number * PIECE_BYTES, ((number + 1) * PIECE_BYTES).min(end)))
}

impl FilePart {
    pub fn object(&self) -> String {
        format!("files/{}", self.sha256)
    }
}

impl Manifest {
    /// Places of the store that were damaged when it was backed up, as far as they are told.
    pub fn rotten(&self) -> impl Iterator<Item = &String> {
        self.segments().flat_map(|(_, segment)| &segment.rotten)
    }

    /// Each with its shard.
    pub fn segments(&self) -> impl Iterator<Item = (u16, &SegmentPart)> {
        self.shards.iter().flat_map(|part| part.segments.iter().map(move |one| (part.shard, one)))
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_string(self).expect("a manifest has string keys only");
        text.push('\n');
        let checksum = sha256(text.as_bytes());
        text.push_str(&checksum);
        text.push('\n');
        text.into_bytes()
    }

    /// What is wrong with it, if it can't be used.
    pub fn decode(text: &[u8]) -> Result<Manifest, Fault> {
        let damaged = || "it is damaged: its checksum does not match".to_owned();
        let text = std::str::from_utf8(text).map_err(|_| damaged())?;
        let (body, checksum) = text.trim_end_matches('\n').rsplit_once('\n').ok_or_else(damaged)?;
        if sha256(format!("{body}\n").as_bytes()) != checksum {
            return Err(damaged());
        }
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = serde_json::from_str(body).map_err(|error| error.to_string())?;
        check_format(format.format)?;
        serde_json::from_str(body).map_err(|error| error.to_string())
    }

    /// Every piece with its shard and segment, in the order in which it is restored.
    pub fn pieces(&self) -> impl Iterator<Item = (&ShardPart, &SegmentPart, &Piece)> {
        self.shards.iter().flat_map(|shard| {
            let segments = shard.segments.iter();
            segments.flat_map(move |segment| {
                segment.pieces.iter().map(move |piece| (shard, segment, piece))
            })
        })
    }

    /// For who has to know what is in it.
    pub fn times(&self) -> String {
        let ended = time_text(self.made_unix_millis);
        match self.as_of_unix_millis {
            Some(as_of) => format!("as of {}, ended {ended}", time_text(as_of)),
            None => format!("ended {ended}"),
        }
    }

    pub fn messages(&self) -> u64 {
        self.shards.iter().map(|shard| shard.messages).sum()
    }

    pub fn stored_bytes(&self) -> u64 {
        self.pieces().map(|(.., piece)| piece.bytes).sum()
    }
}

pub fn check_format(format: u32) -> Result<(), Fault> {
    if format == FORMAT {
        return Ok(());
    }
    Err(format!("it has format {format}; this kura knows format {FORMAT}: use a newer kura"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let piece = Piece { from: 0, to: 4096, bytes: 100, sha256: sha256(b"x") };
        let segments = vec![SegmentPart {
            segment: 1,
            segment_bytes: 1 << 20,
            pieces: vec![piece],
            rotten: Vec::new(),
        }];
        Manifest {
            format: FORMAT,
            kura: "0".to_owned(),
            store: "s".to_owned(),
            generation: "g".to_owned(),
            made_unix_millis: 2,
            as_of_unix_millis: Some(1),
            shards: vec![ShardPart {
                shard: 0,
                lsn: 9,
                run: 1,
                salt: "0".to_owned(),
                messages: 1,
                live_bytes: 2,
                segments,
            }],
            files: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_survives_the_round_trip_and_no_changed_byte() {
        let text = manifest().encode();
        assert_eq!(Manifest::decode(&text), Ok(manifest()));
        for at in 0..text.len() - 1 {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            assert!(Manifest::decode(&damaged).is_err(), "byte {at}");
        }
        assert!(Manifest::decode(&text[..text.len() / 2]).is_err());
    }

    #[test]
    fn one_that_does_not_say_as_of_when_it_is_still_reads() {
        let old = Manifest { as_of_unix_millis: None, ..manifest() };
        let text = old.encode();
        assert!(!String::from_utf8_lossy(&text).contains("as_of"));
        assert_eq!(old.times(), "ended 1970-01-01T00:00:00Z");
        assert_eq!(manifest().times(), "as of 1970-01-01T00:00:00Z, ended 1970-01-01T00:00:00Z");
        assert_eq!(Manifest::decode(&text), Ok(old));
    }

    #[test]
    fn a_newer_format_is_named() {
        let newer = Manifest { format: 7, ..manifest() };
        let error = Manifest::decode(&newer.encode()).unwrap_err();
        assert!(error.contains("format 7"), "{error}");
    }

    #[test]
    fn a_name_says_all_of_a_piece() {
        let piece = Piece { from: 8 << 20, to: 16 << 20, bytes: 5000, sha256: sha256(b"p") };
        let prefix = piece_prefix("g", 2, 0x8000_0001, piece.from, piece.to);
        let name = piece.object("g", 2, 0x8000_0001);
        let rest = parse_rest(name.strip_prefix(&prefix).unwrap());
        assert_eq!(rest, Some((5000, piece.sha256)));
        assert_eq!(pieces(0).count(), 0);
        assert_eq!(
            pieces(PIECE_BYTES + 4096).collect::<Vec<_>>(),
            [(0, PIECE_BYTES), (PIECE_BYTES, PIECE_BYTES + 4096)]
        );
    }
}
