//! The profile itself: figures of one host, and its TOML form.
//!
//! Invariants of a valid profile, checked when one is read: at least one flush point; points
//! sorted by size, no size twice; all figures finite and positive; knobs that are set have a
//! known name. Keys that this version does not know are refused, so that a misspelt one is not
//! silently ignored.
//!
//! Formats: 1 had the brief curve only. 2 adds what a full probe measures (`figures.rs`),
//! more of the device's identity, and `[knobs]`. Whatever a file lacks is absent or empty,
//! so both are read.

use crate::Error;
use crate::derive::Knobs;
use crate::figures::{ChainPoint, Cpu, CurvePoint, Metadata, Sustained, Throughput};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The format of the TOML file that is written; all from 1 on are read.
pub(crate) const FORMAT: u32 = 2;

/// How the `command` of a profile begins whose figures were not measured.
pub const NOT_MEASURED: &str = "none";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub format: u32,
    /// RFC 3339, UTC.
    pub date: String,
    pub kernel: String,
    /// What was run to get these figures; or why they are not measured.
    pub command: String,
    /// What could not be measured here, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<CurvePoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<ChainPoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throughput: Vec<Throughput>,
    pub host: Host,
    pub device: Device,
    pub file_system: FileSystem,
    pub disk: Disk,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sustained: Option<Sustained>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Knobs that the operator has set by hand; they win over what is derived.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub knobs: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    pub cores: u32,
    pub memory_bytes: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cpu_model: String,
}

/// What the kernel says of the block device under the data. Empty or `None` where it is silent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub name: String,
    #[serde(default)]
    pub model: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// Terabytes (10^12) that may be written in its life (TBW), from the data sheet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endurance_tb: Option<f64>,
    /// The write cache outlives a power cut; from the data sheet, no kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_loss_protection: Option<bool>,
    /// Of a loop device: the file that it shows as a disk, and the device that this is on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backing: String,
    /// The kernel's word, which virtual disks often get wrong: the flush curve decides. Of a loop
    /// device, that of what is under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotational: Option<bool>,
    /// `write back`: a flush costs something. `write through`: the device claims that it is free.
    #[serde(default)]
    pub write_cache: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fua: Option<bool>,
    #[serde(default)]
    pub scheduler: String,
    #[serde(default)]
    pub logical_block_bytes: u32,
    #[serde(default)]
    pub physical_block_bytes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    pub kind: String,
    #[serde(default)]
    pub options: String,
    pub capacity_bytes: u64,
    pub free_bytes: u64,
}

/// The measured figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// O_DIRECT works here.
    pub direct: bool,
    /// What offsets, lengths and addresses of direct writes are multiples of.
    pub alignment_bytes: u32,
    /// Best synced sequential write into pre-written blocks, in millions of bytes a second.
    pub write_mb_per_second: f64,
    /// The same into fresh blocks.
    pub fresh_write_mb_per_second: f64,
    /// Write and fdatasync, one after the other, into pre-written blocks.
    pub flush: Vec<FlushPoint>,
    /// Small flushes by several writers at once, each into a file of its own.
    #[serde(default)]
    pub overlap: Vec<Overlap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushPoint {
    pub bytes: u64,
    /// The fastest seen: what the medium can do when nobody else uses it. Absent in figures
    /// from data sheets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_us: Option<f64>,
    pub p50_us: f64,
    pub p99_us: f64,
    pub mb_per_second: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    pub writers: u32,
    pub flushes_per_second: f64,
}

impl Profile {
    /// The shipped profile for hosts where nothing could be measured.
    #[must_use]
    pub fn generic() -> Profile {
        shipped("generic").expect("a test reads every shipped profile")
    }

    pub fn from_toml(text: &str) -> Result<Profile, String> {
        let profile: Profile = toml::from_str(text).map_err(|error| {
            // On one line, as all that operators are told.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
            let line = before.matches('\n').count() + 1;
            format!("line {line}: {}", error.message().replace('\n', "; "))
        })?;
        profile.check()?;
        Ok(profile)
    }

    /// One line for each point of the long tables, so that a profile can be read and compared.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let short = Profile {
            curve: Vec::new(),
            chains: Vec::new(),
            throughput: Vec::new(),
            ..self.clone()
        };
        let text = toml::to_string_pretty(&short).expect("a profile has only what TOML can say");
        let rows = [
            rows("curve", &self.curve),
            rows("chains", &self.chains),
            rows("throughput", &self.throughput),
        ]
        .concat();
        // Keys of the top level end where the first table starts.
        let (top, tables) = text.split_once("\n[").expect("a profile has tables");
        format!("{top}\n{rows}\n[{tables}")
    }

    /// Whether the figures are of a host, rather than chosen or from data sheets.
    #[must_use]
    pub fn measured(&self) -> bool {
        self.not_measured().is_none()
    }

    /// Where the figures are from that are no host's.
    #[must_use]
    pub fn not_measured(&self) -> Option<&str> {
        let why = self.command.strip_prefix(NOT_MEASURED)?;
        Some(why.trim_start_matches([':', ' ']))
    }

    /// A profile file, or the name of a shipped one where there is no such file.
    pub fn find(file_or_name: &str) -> Result<Profile, Error> {
        let path = Path::new(file_or_name);
        if path.exists() { Profile::load(path) } else { shipped(file_or_name) }
    }

    pub fn load(path: &Path) -> Result<Profile, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
            path: path.to_owned(),
            what: "cannot read the profile",
            source,
        })?;
        Profile::from_toml(&text)
            .map_err(|problem| Error::Format { path: path.to_owned(), problem })
    }

    /// Replaces the file at `path` whole, or not at all.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let failed = |what, source| Error::Io { path: path.to_owned(), what, source };
        let beside = path.with_extension("new");
        std::fs::write(&beside, self.to_toml())
            .map_err(|source| failed("cannot write the profile", source))?;
        std::fs::rename(&beside, path)
            .map_err(|source| failed("cannot put the profile in its place", source))
    }

    /// Takes over what only people know, from an older profile of this host: knobs set by hand,
    /// and, if the device is seen to be the same one, what its data sheet says. `false`: that was
    /// not, and it said something. Without a serial number (virtual disks have none) any other
    /// disk looks the same.
    pub fn keep_from(&mut self, old: &Profile) -> bool {
        self.knobs.clone_from(&old.knobs);
        let identity = |p: &Profile| (p.device.model.clone(), p.device.serial.clone());
        let is_known = !old.device.serial.is_empty() && identity(self) == identity(old);
        if is_known {
            self.device.endurance_tb = self.device.endurance_tb.or(old.device.endurance_tb);
            self.device.power_loss_protection =
                self.device.power_loss_protection.or(old.device.power_loss_protection);
        }
        is_known
            || (old.device.endurance_tb.is_none() && old.device.power_loss_protection.is_none())
    }

    /// Latency of the smallest measured flush, in microseconds: what the disk asks for a commit.
    #[must_use]
    pub fn smallest_flush(&self) -> FlushPoint {
        self.disk.flush[0]
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=FORMAT).contains(&self.format) {
            return Err(format!("format is {}, this version reads 1 to {FORMAT}", self.format));
        }
        let flush = &self.disk.flush;
        if flush.is_empty() {
            return Err("disk.flush has no points".to_owned());
        }
        if flush.windows(2).any(|pair| pair[0].bytes >= pair[1].bytes) {
            return Err("disk.flush is not sorted by bytes".to_owned());
        }
        let figures = flush
            .iter()
            .flat_map(|p| [p.p50_us, p.p99_us, p.mb_per_second])
            .chain(self.disk.overlap.iter().map(|o| o.flushes_per_second))
            .chain([self.disk.write_mb_per_second, self.disk.fresh_write_mb_per_second])
            .chain(self.device.endurance_tb)
            .chain(self.curve.iter().flat_map(CurvePoint::figures))
            .chain(self.chains.iter().flat_map(ChainPoint::figures))
            .chain(self.throughput.iter().flat_map(Throughput::figures))
            .chain(self.sustained.iter().flat_map(Sustained::figures))
            .chain(self.metadata.iter().flat_map(Metadata::figures))
            .chain(self.cpu.iter().flat_map(Cpu::figures));
        if figures.into_iter().any(|figure| !figure.is_finite() || figure <= 0.0) {
            return Err("a figure is not a positive number".to_owned());
        }
        let counts = self.curve.iter().flat_map(|p| [p.bytes, u64::from(p.streams)]);
        let counts = counts
            .chain(self.chains.iter().flat_map(|p| [p.bytes, u64::from(p.in_flight)]))
            .chain(self.throughput.iter().flat_map(|p| [p.bytes, u64::from(p.depth)]));
        if counts.into_iter().any(|count| count == 0) {
            return Err("a point has no bytes, or nothing that writes them".to_owned());
        }
        Knobs::check_names(self.knobs.keys()).map_err(|unknown| format!("[knobs]: {unknown}"))?;
        if flush.iter().any(|p| p.bytes == 0) || self.disk.overlap.iter().any(|o| o.writers == 0) {
            return Err("a size or a number of writers is zero".to_owned());
        }
        if self.host.cores == 0 || self.host.memory_bytes == 0 {
            return Err("[host] has no cores or no memory".to_owned());
        }
        if !self.disk.alignment_bytes.is_power_of_two() {
            return Err("disk.alignment_bytes is not a power of two".to_owned());
        }
        Ok(())
    }
}

/// The rows of a table that would be a thousand lines in TOML's long form.
fn rows<T: Serialize>(name: &str, points: &[T]) -> String {
    if points.is_empty() {
        return String::new();
    }
    // A point is a flat table: its lines, joined, are an inline one, in the order of the struct.
    let row = |point: &T| {
        let lines = toml::to_string(point).expect("a point is a flat table");
        format!("  {{ {} }},\n", lines.trim_end().replace('\n', ", "))
    };
    format!("{name} = [\n{}]\n", points.iter().map(row).collect::<String>())
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../profiles/", $name, ".toml")))),*]
    };
}

/// Profiles that come with Kura, by name.
const SHIPPED: &[(&str, &str)] = shipped![
    "generic",
    "nvme-plp",
    "nvme-consumer",
    "sata-ssd",
    "raid-bbu",
    "rotating",
    "cloud-block",
    "small-vm",
    "virtio-ext4",
];

/// Names of the shipped profiles.
#[must_use]
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// A shipped profile. `generic` is the one to use where nothing could be measured.
pub fn shipped(name: &str) -> Result<Profile, Error> {
    let names = || shipped_names().join(", ");
    let (_, text) = SHIPPED
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| Error::NotShipped(name.to_owned(), names()))?;
    Profile::from_toml(text).map_err(|problem| Error::Format { path: name.into(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_profile_is_valid_and_says_where_it_is_from() {
        for (name, text) in SHIPPED {
            let profile = shipped(name).unwrap();
            assert!(!profile.command.is_empty() && profile.date.starts_with("20"), "{name}");
            let published = profile.command.contains("published");
            let said = text.contains("published, not measured here");
            assert_eq!(published, said, "{name} says which figures are published");
            assert!(!published || text.contains("http"), "{name} cites where");
        }
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles")).unwrap();
        assert_eq!(files.count(), SHIPPED.len(), "a profile that nobody ships");
    }

    #[test]
    fn a_profile_survives_its_toml_form() {
        let profile = shipped("virtio-ext4").unwrap();
        assert_eq!(Profile::from_toml(&profile.to_toml()).unwrap(), profile);
    }

    #[test]
    fn a_profile_that_lies_is_refused_with_the_reason() {
        let good = shipped("generic").unwrap();
        type Spoil = fn(&mut Profile);
        let cases: [(Spoil, &str); 9] = [
            (|p| p.format = 3, "format"),
            (|p| p.device.endurance_tb = Some(-1.0), "positive"),
            (|p| p.knobs = [("shard".to_owned(), 1)].into(), "no knob"),
            (|p| p.disk.flush.clear(), "no points"),
            (|p| p.disk.flush.reverse(), "sorted"),
            (|p| p.disk.flush[0].p50_us = 0.0, "positive"),
            (|p| p.disk.write_mb_per_second = f64::NAN, "positive"),
            (|p| p.host.cores = 0, "cores"),
            (|p| p.disk.alignment_bytes = 1000, "power of two"),
        ];
        for (spoil, reason) in cases {
            let mut bad = good.clone();
            spoil(&mut bad);
            let problem = Profile::from_toml(&bad.to_toml()).unwrap_err();
            assert!(problem.contains(reason), "{problem}");
        }
    }

    #[test]
    fn what_only_people_know_outlives_another_measurement() {
        let mut old = shipped("virtio-ext4").unwrap();
        old.knobs.insert("shards".to_owned(), 3);
        old.device.endurance_tb = Some(600.0);
        old.device.power_loss_protection = Some(true);
        old.device.serial = "S1".to_owned();
        let mut new = shipped("virtio-ext4").unwrap();
        new.device.serial = "S1".to_owned();
        assert!(new.keep_from(&old));
        assert_eq!((&new.knobs, new.device.endurance_tb), (&old.knobs, Some(600.0)));
        assert_eq!(new.device.power_loss_protection, Some(true));
        let mut other = shipped("virtio-ext4").unwrap();
        other.device.serial = "another".to_owned();
        assert!(!other.keep_from(&old));
        assert_eq!((&other.knobs, other.device.endurance_tb), (&old.knobs, None));
        // A virtual disk may be any other.
        old.device.serial.clear();
        let mut nameless = shipped("virtio-ext4").unwrap();
        assert!(!nameless.keep_from(&old));
        assert_eq!((&nameless.knobs, nameless.device.power_loss_protection), (&old.knobs, None));
        old.device = nameless.device.clone();
        assert!(nameless.keep_from(&old), "there is nothing to keep");
    }

    #[test]
    fn a_profile_of_the_first_format_still_reads() {
        let text = include_str!("../profiles/virtio-ext4.toml");
        assert!(text.contains("format = 1"));
        let profile = Profile::from_toml(text).unwrap();
        assert!(profile.curve.is_empty() && profile.cpu.is_none() && profile.knobs.is_empty());
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let text = shipped("generic").unwrap().to_toml().replace("alignment_bytes", "alignement");
        let told = Profile::from_toml(&text).unwrap_err();
        let line = text.lines().position(|line| line.contains("alignement")).unwrap() + 1;
        assert!(told.starts_with(&format!("line {line}: unknown field `alignement`")), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }

    #[test]
    fn an_unknown_name_lists_those_that_there_are() {
        let error = shipped("none").unwrap_err().to_string();
        assert!(error.contains("generic") && error.contains("rotating"), "{error}");
    }

    #[test]
    fn saving_and_loading_gives_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profile.toml");
        let profile = shipped("generic").unwrap();
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), profile);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
