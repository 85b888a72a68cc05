//! A profile and its knobs as text, for `kura profile show`.

use crate::derive::{Knobs, Origin, size};
use crate::figures::{ChainForm, CommitPath, Operation};
use crate::findings::findings;
use crate::profile::Profile;
use std::fmt::Write;

/// Everything that an operator may ask about: what was found, what follows, and why.
#[must_use]
pub fn show(profile: &Profile, knobs: &Knobs) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_profile(&mut out, profile)
        .and_then(|()| write_full(&mut out, profile))
        .and_then(|()| write_findings(&mut out, profile))
        .and_then(|()| write_knobs(&mut out, knobs));
    out
}

/// What is wrong, or good to know, one line each; empty when there is nothing.
#[must_use]
pub fn show_findings(profile: &Profile) -> String {
    let mut out = String::new();
    let _ = write_findings(&mut out, profile);
    out
}

fn write_findings(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let found = findings(profile);
    if !found.is_empty() {
        writeln!(out)?;
    }
    found.iter().try_for_each(|finding| writeln!(out, "{finding}"))
}

/// What only a full probe measures.
fn write_full(out: &mut String, profile: &Profile) -> std::fmt::Result {
    if !profile.curve.is_empty() {
        write_paths(out, profile)?;
    }
    for point in &profile.chains {
        let form = match point.form {
            ChainForm::RwfDsync => "RWF_DSYNC",
            ChainForm::LinkedFdatasync => "write, fdatasync",
        };
        writeln!(
            out,
            "chain        {:>9} x {:<2} {form:<17} {:>9.0}/s, p50 {:.0} p99 {:.0} p99.9 {:.0} µs",
            size(point.bytes),
            point.in_flight,
            point.flushes_per_second,
            point.p50_us,
            point.p99_us,
            point.p999_us
        )?;
    }
    for point in &profile.throughput {
        let operation = match point.operation {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Mixed => "7 reads, 3 writes",
        };
        let order = if point.random { "random" } else { "in a row" };
        writeln!(
            out,
            "unsynced     {:>9} x {:<2} {operation:<17} {:>9.0}/s, {:.0} MB/s, {order}, p99 {:.0} µs",
            size(point.bytes),
            point.depth,
            point.operations_per_second,
            point.mb_per_second,
            point.p99_us
        )?;
    }
    if let Some(sustained) = profile.sustained {
        writeln!(
            out,
            "sustained    {:.0} MB/s after {:.0} s, {:.0} MB/s in the best quarter second",
            sustained.sustained_mb_per_second, sustained.seconds, sustained.burst_mb_per_second
        )?;
    }
    if let Some(metadata) = profile.metadata {
        writeln!(
            out,
            "metadata     {:.0} creates/s, {:.0} durable renames/s, {:.0} unlinks/s",
            metadata.create_per_second, metadata.rename_sync_per_second, metadata.unlink_per_second
        )?;
    }
    write_cpu(out, profile)
}

/// The ways to commit beside each other, one stream.
fn write_paths(out: &mut String, profile: &Profile) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:>12} {:<34} {:>8} {:>8} {:>8}",
        "", "one stream", "p50 µs", "p99 µs", "p99.9"
    )?;
    for point in profile.curve.iter().filter(|point| point.streams == 1) {
        let base = point.path == CommitPath::WriteFdatasync && point.prewritten && point.direct;
        if base && point.bytes != profile.smallest_flush().bytes {
            // In the table above.
            continue;
        }
        let blocks = if point.prewritten { "pre-written" } else { "fresh" };
        let cache = if point.direct { "" } else { ", page cache" };
        let way = format!("{}, {blocks}{cache}", point.path.name());
        writeln!(
            out,
            "{:>12} {way:<34} {:>8.0} {:>8.0} {:>8.0}",
            size(point.bytes),
            point.p50_us,
            point.p99_us,
            point.p999_us
        )?;
    }
    writeln!(out)
}

fn write_cpu(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let Some(cpu) = profile.cpu else { return Ok(()) };
    writeln!(
        out,
        "a core       CRC-32 {:.0} MB/s; zstd -1 {:.0} MB/s ({:.2}), -3 {:.0} MB/s ({:.2}), back {:.0} MB/s",
        cpu.crc32_mb_per_second,
        cpu.zstd1_mb_per_second,
        cpu.zstd1_ratio,
        cpu.zstd3_mb_per_second,
        cpu.zstd3_ratio,
        cpu.unzstd_mb_per_second
    )?;
    writeln!(
        out,
        "             TLS AES-128-GCM {:.0} MB/s, AES-256-GCM {:.0} MB/s; SHA-256 {:.0} MB/s",
        cpu.aes128_gcm_mb_per_second, cpu.aes256_gcm_mb_per_second, cpu.sha256_mb_per_second
    )?;
    writeln!(
        out,
        "             RSA-2048 {:.0} signs/s, {:.0} verifies/s; Ed25519 {:.0} verifies/s",
        cpu.rsa2048_sign_per_second, cpu.rsa2048_verify_per_second, cpu.ed25519_verify_per_second
    )
}

fn write_profile(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let Profile { host, device, file_system, disk, .. } = profile;
    match profile.not_measured() {
        None => writeln!(
            out,
            "measured     {} on Linux {} by: {}",
            profile.date, profile.kernel, profile.command
        ),
        Some(why) => writeln!(out, "from         {}: {why}", profile.date),
    }?;
    let cpu = if host.cpu_model.is_empty() { "cores" } else { &host.cpu_model };
    writeln!(out, "host         {} x {cpu}, {} of memory", host.cores, size(host.memory_bytes))?;
    let or_unknown =
        |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    writeln!(
        out,
        "device       {}, {}, write cache {}, scheduler {}{}",
        or_unknown(&device.name),
        match device.backing.as_str() {
            "" => format!("model {}", or_unknown(&device.model)),
            file => format!("a loop device: the file {file}"),
        },
        or_unknown(&device.write_cache),
        or_unknown(&device.scheduler),
        match (device.rotational, device.backing.is_empty()) {
            (Some(true), true) => ", rotational by the kernel's word",
            (Some(false), true) => ", not rotational",
            (Some(true), false) => ", on what is rotational by the kernel's word",
            (Some(false), false) => ", on what is not rotational",
            (None, _) => "",
        }
    )?;
    writeln!(
        out,
        "file system  {}, {} of {} free, {}",
        or_unknown(&file_system.kind),
        size(file_system.free_bytes),
        size(file_system.capacity_bytes),
        if disk.direct {
            "O_DIRECT works"
        } else {
            "no O_DIRECT: writes go through the page cache"
        }
    )?;
    writeln!(
        out,
        "bandwidth    {:.0} MB/s synced into pre-written blocks, {:.0} MB/s into fresh ones",
        disk.write_mb_per_second, disk.fresh_write_mb_per_second
    )?;
    writeln!(out, "\n{:>12} {:>10} {:>10} {:>10}", "flush of", "p50 µs", "p99 µs", "MB/s")?;
    for point in &disk.flush {
        writeln!(
            out,
            "{:>12} {:>10.0} {:>10.0} {:>10.1}",
            size(point.bytes),
            point.p50_us,
            point.p99_us,
            point.mb_per_second
        )?;
    }
    for point in &disk.overlap {
        let by = format!("{} at once", point.writers);
        writeln!(out, "{by:>12} {:>10.0} small flushes/s", point.flushes_per_second)?;
    }
    Ok(())
}

fn write_knobs(out: &mut String, knobs: &Knobs) -> std::fmt::Result {
    writeln!(out)?;
    for (name, knob) in knobs.all() {
        let value = if name.contains("bytes") { size(knob.value) } else { knob.value.to_string() };
        writeln!(out, "{name:<30} {value:>10}")?;
        match &knob.origin {
            Origin::Derived { formula, figures } => {
                writeln!(out, "    = {formula}")?;
                writeln!(out, "    from: {figures}")?;
            }
            Origin::Set { place } => writeln!(out, "    set in {place}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{derive, shipped};

    #[test]
    fn a_loop_device_is_called_one_and_not_rotational() {
        let mut profile = shipped("virtio-ext4").unwrap();
        profile.device.name = "loop0".to_owned();
        profile.device.backing = "/srv/image on vda".to_owned();
        profile.device.rotational = None;
        let text = show(&profile, &derive(&profile));
        assert!(text.contains("loop0, a loop device: the file /srv/image on vda, write"), "{text}");
        assert!(text.contains("warning: loop0 is a loop device"), "{text}");
        assert!(crate::findings::is_virtual(&profile), "what is under it is a virtual disk");
        assert!(!text.contains("rotational"), "{text}");
    }

    #[test]
    fn every_knob_shows_with_its_origin() {
        let profile = shipped("generic").unwrap();
        let mut knobs = derive(&profile);
        knobs.set("sessions_max", 5, "kura.toml, limits.sessions_max").unwrap();
        let text = show(&profile, &knobs);
        for (name, _) in knobs.all() {
            assert!(text.contains(name), "{name}");
        }
        assert!(text.contains("set in kura.toml, limits.sessions_max"));
        assert_eq!(text.matches("    = ").count(), knobs.all().len() - 1);
        assert!(!text.contains("NaN"));
    }
}
