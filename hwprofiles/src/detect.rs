//! What the kernel tells of the host: cores, memory, and the device and file system under a path.
//!
//! Nothing here fails for want of an answer: containers hide much of /sys, and a profile with
//! blanks serves, since the measured curve is what counts.

use crate::profile::{Device, FileSystem, Host};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where the kernel's pseudo file systems are mounted; made-up trees in tests.
#[derive(Debug, Clone)]
pub struct Sources {
    pub proc: PathBuf,
    pub sys: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Sources { proc: "/proc".into(), sys: "/sys".into() }
    }
}

/// The host, and the device and file system under `path`, which should exist.
#[must_use]
pub fn detect(sources: &Sources, path: &Path) -> (Host, Device, FileSystem) {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (kind, options) = mount_of(&read(&sources.proc.join("self/mountinfo")), &path);
    let (capacity_bytes, free_bytes) = space(&path);
    let file_system = FileSystem { kind, options, capacity_bytes, free_bytes };
    let device = fs::metadata(&path).map_or_else(
        |_| Device::default(),
        |metadata| device(sources, libc::major(metadata.dev()), libc::minor(metadata.dev())),
    );
    (host(sources), device, file_system)
}

pub(crate) fn kernel(sources: &Sources) -> String {
    read(&sources.proc.join("sys/kernel/osrelease"))
}

/// Bytes in all, and free for ordinary users.
pub(crate) fn space(path: &Path) -> (u64, u64) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return (0, 0) };
    // SAFETY: the path ends with a NUL, and `stat` is a plain struct that the call fills.
    let stat = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut stat) != 0 {
            return (0, 0);
        }
        stat
    };
    (stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn host(sources: &Sources) -> Host {
    // Respects affinity and control groups, so it is what a server may use, not what there is.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_bytes = read(&sources.proc.join("meminfo"))
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(1 << 30, |kibibytes| kibibytes * 1024);
    let cpu_model = read(&sources.proc.join("cpuinfo"))
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches(['\t', ' ', ':']).to_owned())
        .unwrap_or_default();
    Host { cores: u32::try_from(cores).unwrap_or(u32::MAX), memory_bytes, cpu_model }
}

/// The device with these numbers. A partition has its queue at the whole disk.
fn device(sources: &Sources, major: u32, minor: u32) -> Device {
    let link = sources.sys.join(format!("dev/block/{major}:{minor}"));
    let Ok(mut place) = link.canonicalize() else {
        // Not on a block device of its own (tmpfs, overlay, btrfs): nothing to say.
        return Device { name: format!("{major}:{minor}"), ..Device::default() };
    };
    if place.join("partition").exists() {
        place.pop();
    }
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let queue = |file: &str| read(&place.join("queue").join(file));
    let under = backing(sources, &place);
    let flag = |file: &str| match queue(file).as_str() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    };
    Device {
        name,
        model: read(&place.join("device/model")),
        // NVMe and SCSI have it at the device, virtio at the disk.
        serial: [read(&place.join("device/serial")), read(&place.join("serial"))].concat(),
        // In units of 512 bytes, whatever the sectors are.
        capacity_bytes: read(&place.join("size")).parse().ok().map(|blocks: u64| blocks * 512),
        rotational: match &under {
            // By itself it says what was the case before it had a file.
            Some((_, under)) => under.rotational,
            None => flag("rotational"),
        },
        backing: under
            .map_or_else(String::new, |(file, under)| format!("{file} on {}", under.name)),
        write_cache: queue("write_cache"),
        fua: flag("fua"),
        scheduler: chosen(&queue("scheduler")),
        logical_block_bytes: queue("logical_block_size").parse().unwrap_or(0),
        physical_block_bytes: queue("physical_block_size").parse().unwrap_or(0),
        ..Device::default()
    }
}

/// The file of a loop device, and what that is on; unless a loop device is on it again.
fn backing(sources: &Sources, place: &Path) -> Option<(String, Device)> {
    let file = read(&place.join("loop/backing_file"));
    if file.is_empty() {
        return None;
    }
    // Another mount namespace may have it elsewhere.
    let under = fs::metadata(&file).ok().filter(|metadata| {
        let number = (libc::major(metadata.dev()), libc::minor(metadata.dev()));
        let own = read(&place.join("dev"));
        own != format!("{}:{}", number.0, number.1)
    });
    let unknown = || Device { name: "an unknown device".to_owned(), ..Device::default() };
    let under = under.map_or_else(unknown, |metadata| {
        device(sources, libc::major(metadata.dev()), libc::minor(metadata.dev()))
    });
    Some((file, under))
}

/// `none [mq-deadline] kyber` has chosen the one in brackets.
fn chosen(schedulers: &str) -> String {
    schedulers
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or(schedulers, |(name, _)| name)
        .to_owned()
}

/// Type and options of the mount that `path` is on: of those above it, the deepest, and of several
/// in one place the last, which hides the others. Fields as in proc(5), "mountinfo".
fn mount_of(mountinfo: &str, path: &Path) -> (String, String) {
    let mut best: Option<(usize, &str, &str)> = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(place) = before.split(' ').nth(4) else { continue };
        let place = unescape(place);
        let mut fields = after.split(' ');
        let (Some(kind), Some(options)) = (fields.next(), fields.nth(1)) else { continue };
        let depth = Path::new(&place).components().count();
        let deeper = best.is_none_or(|(known, _, _)| depth >= known);
        if path.starts_with(&place) && deeper {
            best = Some((depth, kind, options));
        }
    }
    best.map_or_else(Default::default, |(_, kind, options)| (kind.to_owned(), options.to_owned()))
}

/// The kernel writes blanks in mount points as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// The trimmed text of a file, empty when there is none.
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const MOUNTINFO: &str = "\
1 0 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
2 1 0:22 / /srv rw - tmpfs none rw
3 1 8:1 / /srv rw - xfs /dev/sda1 rw,inode64
4 1 8:2 / /srv/mail\\040store rw - btrfs /dev/sda2 rw,ssd";

    #[test]
    fn the_deepest_and_last_mount_holds_the_path() {
        let cases = [
            ("/", "ext4", "rw,discard"),
            ("/srvother", "ext4", "rw,discard"),
            ("/srv", "xfs", "rw,inode64"),
            ("/srv/mail", "xfs", "rw,inode64"),
            ("/srv/mail store/a", "btrfs", "rw,ssd"),
        ];
        for (path, kind, options) in cases {
            let found = mount_of(MOUNTINFO, Path::new(path));
            assert_eq!(found, (kind.to_owned(), options.to_owned()), "{path}");
        }
        assert_eq!(mount_of("", Path::new("/")), (String::new(), String::new()));
    }

    #[test]
    fn the_scheduler_is_the_one_in_brackets() {
        assert_eq!(chosen("none [mq-deadline] kyber bfq"), "mq-deadline");
        assert_eq!(chosen("[none] mq-deadline"), "none");
        assert_eq!(chosen("none"), "none");
    }

    /// A host as files: a disk `sda` with one partition.
    fn made_up() -> (tempfile::TempDir, Sources) {
        let directory = tempfile::tempdir().unwrap();
        let (proc, sys) = (directory.path().join("proc"), directory.path().join("sys"));
        let disk = sys.join("devices/pci/block/sda");
        for path in [
            &disk.join("queue"),
            &disk.join("device"),
            &disk.join("sda1"),
            &sys.join("dev/block"),
            &proc,
        ] {
            fs::create_dir_all(path).unwrap();
        }
        for (file, text) in [
            ("queue/rotational", "1\n"),
            ("queue/write_cache", "write back\n"),
            ("queue/fua", "0\n"),
            ("queue/scheduler", "none [mq-deadline]\n"),
            ("queue/logical_block_size", "512\n"),
            ("queue/physical_block_size", "4096\n"),
            ("device/model", "ST1000   \n"),
            ("device/serial", "Z1\n"),
            ("size", "1953525168\n"),
            ("sda1/partition", "1\n"),
        ] {
            fs::write(disk.join(file), text).unwrap();
        }
        fs::write(proc.join("meminfo"), "MemTotal:       2048 kB\nMemFree: 1 kB\n").unwrap();
        fs::write(proc.join("cpuinfo"), "processor\t: 0\nmodel name\t: A fast one\n").unwrap();
        symlink(disk.join("sda1"), sys.join("dev/block/8:1")).unwrap();
        (directory, Sources { proc, sys })
    }

    #[test]
    fn a_partition_is_described_by_its_disk() {
        let (_directory, sources) = made_up();
        let expected = Device {
            name: "sda".to_owned(),
            model: "ST1000".to_owned(),
            serial: "Z1".to_owned(),
            capacity_bytes: Some(1_000_204_886_016),
            rotational: Some(true),
            write_cache: "write back".to_owned(),
            fua: Some(false),
            scheduler: "mq-deadline".to_owned(),
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            ..Device::default()
        };
        assert_eq!(device(&sources, 8, 1), expected);
    }

    /// The kernel calls it rotational, whatever it is on.
    #[test]
    fn a_loop_device_is_described_by_what_is_under_it() {
        let (directory, sources) = made_up();
        let image = directory.path().join("image");
        fs::write(&image, "").unwrap();
        let on = fs::metadata(&image).unwrap().dev();
        let on = format!("{}:{}", libc::major(on), libc::minor(on));
        let disk = sources.sys.join("devices/pci/block/sda");
        fs::write(disk.join("queue/rotational"), "0\n").unwrap();
        symlink(&disk, sources.sys.join("dev/block").join(on)).unwrap();
        let block = sources.sys.join("devices/virtual/block/loop0");
        fs::create_dir_all(block.join("loop")).unwrap();
        fs::create_dir_all(block.join("queue")).unwrap();
        fs::write(block.join("queue/rotational"), "1\n").unwrap();
        fs::write(block.join("loop/backing_file"), format!("{}\n", image.display())).unwrap();
        symlink(&block, sources.sys.join("dev/block/7:0")).unwrap();
        let found = device(&sources, 7, 0);
        assert_eq!((found.name.as_str(), found.rotational), ("loop0", Some(false)));
        assert_eq!(found.backing, format!("{} on sda", image.display()));
        // A file that is nowhere to be seen.
        fs::write(block.join("loop/backing_file"), "/no/such (deleted)\n").unwrap();
        let found = device(&sources, 7, 0);
        assert_eq!(found.rotational, None);
        assert_eq!(found.backing, "/no/such (deleted) on an unknown device");
    }

    #[test]
    fn what_the_kernel_does_not_tell_stays_blank() {
        let (_directory, sources) = made_up();
        let unknown = device(&sources, 0, 42);
        assert_eq!((unknown.name.as_str(), unknown.rotational), ("0:42", None));
        let host = host(&sources);
        assert_eq!((host.memory_bytes, host.cpu_model.as_str()), (2 << 20, "A fast one"));
    }

    #[test]
    fn this_host_has_a_file_system_with_space() {
        let (host, _, file_system) = detect(&Sources::default(), Path::new("."));
        assert!(host.cores >= 1 && host.memory_bytes > 1 << 20);
        assert!(!file_system.kind.is_empty() && file_system.capacity_bytes > 0);
    }
}
