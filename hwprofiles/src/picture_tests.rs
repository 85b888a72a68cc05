//! The picture has every point, stays within its frame, and is well-formed whatever a
//! device is called.

use super::*;
use crate::derive;
use crate::profile::{shipped, shipped_names};

fn point(path: CommitPath, streams: u32, bytes: u64, p50_us: f64) -> CurvePoint {
    CurvePoint {
        path,
        direct: true,
        prewritten: true,
        streams,
        bytes,
        best_us: p50_us / 2.0,
        p50_us,
        p99_us: p50_us * 3.0,
        p999_us: p50_us * 9.0,
        mb_per_second: 1.0,
        samples: 9,
    }
}

fn probed() -> Profile {
    let mut profile = shipped("virtio-ext4").unwrap();
    for streams in [1, 2, 4, 8, 16] {
        for (step, bytes) in [4096, 65_536, 1 << 20, 4 << 20].into_iter().enumerate() {
            let p50 = 80.0 * f64::from(streams) * (step + 1) as f64;
            profile.curve.push(point(CommitPath::WriteFdatasync, streams, bytes, p50));
        }
    }
    profile.curve.push(point(CommitPath::ODsync, 1, 4096, 70.0));
    profile.curve.push(point(CommitPath::RwfDsync, 1, 4096, 75.0));
    profile.curve.push(CurvePoint {
        prewritten: false,
        ..point(CommitPath::WriteFdatasync, 1, 4096, 400.0)
    });
    profile
        .curve
        .push(CurvePoint { direct: false, ..point(CommitPath::WriteFdatasync, 1, 4096, 100.0) });
    profile
}

/// Every `attribute="number"` in the document.
fn numbers(svg: &str, attribute: &str) -> Vec<f64> {
    let start = format!(" {attribute}=\"");
    svg.split(&start)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .filter_map(|text| text.parse().ok())
        .collect()
}

#[test]
fn every_point_is_on_the_picture_with_its_figures() {
    let profile = probed();
    let svg = picture(&profile, &derive(&profile));
    assert_eq!(svg.matches("<title>").count(), profile.curve.len());
    for point in &profile.curve {
        let figures = format!("p50 {:.0} µs, p99 {:.0} µs", point.p50_us, point.p99_us);
        assert!(svg.contains(&figures), "{point:?}");
    }
    for text in ["1 stream<", "16 streams<", "O_DSYNC", "RWF_DSYNC", "fresh blocks", "page cache"] {
        assert!(svg.contains(text), "{text}");
    }
    for label in ["4 KiB", "4 MiB", "100 µs", "10 ms", "bytes in one durable write", "MB/s"] {
        assert!(svg.contains(label), "{label}");
    }
}

#[test]
fn the_operating_point_is_marked_where_the_knobs_are() {
    let profile = probed();
    let knobs = derive(&profile);
    let svg = picture(&profile, &knobs);
    let axes = Axes::around(&lines(&profile));
    // Two shards, so the line of two streams, at the largest batch.
    assert_eq!((knobs.shards.value, knobs.batch_bytes_max.value), (2, 1 << 20));
    let (x, y) = (axes.x(f64::from(1 << 20)), axes.y(80.0 * 2.0 * 3.0));
    let mark = format!("id=\"operating-point\" cx=\"{x:.1}\" cy=\"{y:.1}\"");
    assert!(svg.contains(&mark), "{mark}");
}

#[test]
fn all_is_within_the_frame_for_every_profile() {
    let mut profiles: Vec<_> =
        shipped_names().into_iter().map(|name| shipped(name).unwrap()).collect();
    profiles.push(probed());
    for profile in profiles {
        let svg = picture(&profile, &derive(&profile));
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        for (attribute, most) in [("cx", WIDTH), ("x1", WIDTH), ("cy", HEIGHT), ("y2", HEIGHT)] {
            let found = numbers(&svg, attribute);
            assert!(!found.is_empty() || attribute == "y2", "{attribute}");
            assert!(found.iter().all(|number| (0.0..=most).contains(number)), "{attribute}");
        }
    }
}

#[test]
fn a_name_from_outside_cannot_break_the_document() {
    let mut profile = probed();
    profile.device.model = "<b>\"A&B\"</b>".to_owned();
    let svg = picture(&profile, &derive(&profile));
    assert!(svg.contains("&lt;b&gt;&quot;A&amp;B&quot;&lt;/b&gt;"));
}

#[test]
fn a_brief_profile_still_has_its_curve() {
    let profile = shipped("rotating").unwrap();
    let svg = picture(&profile, &derive(&profile));
    assert_eq!(svg.matches("<title>").count(), profile.disk.flush.len());
    assert!(svg.contains("operating-point") && svg.contains("not measured here"));
}
