//! A profile and its knobs as text, for `kura profile show`.

use crate::derive::{Knobs, Origin, size};
use crate::profile::Profile;
use std::fmt::Write;

/// Everything that an operator may ask about: what was found, what follows, and why.
#[must_use]
pub fn show(profile: &Profile, knobs: &Knobs) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_profile(&mut out, profile).and_then(|()| write_knobs(&mut out, knobs));
    out
}

fn write_profile(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let Profile { host, device, file_system, disk, .. } = profile;
    writeln!(
        out,
        "measured     {} on Linux {} by: {}",
        profile.date, profile.kernel, profile.command
    )?;
    writeln!(out, "host         {} cores, {} of memory", host.cores, size(host.memory_bytes))?;
    let or_unknown =
        |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    writeln!(
        out,
        "device       {}, model {}, write cache {}, scheduler {}{}",
        or_unknown(&device.name),
        or_unknown(&device.model),
        or_unknown(&device.write_cache),
        or_unknown(&device.scheduler),
        match device.rotational {
            Some(true) => ", rotational by the kernel's word",
            Some(false) => ", not rotational",
            None => "",
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
        writeln!(out, "{name:<22} {value:>10}")?;
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
