//! The flush curve as a picture: how long a durable write of so many bytes takes, by streams.
//!
//! Both axes are logarithmic, so that a constant bandwidth is a straight diagonal; faint ones say
//! how many MB/s a lone stream reaches. Solid lines are O_DIRECT into pre-written blocks, by
//! streams; dashed ones are the other ways to commit, one stream. Thin strokes go up to the p99.
//! The ring is the operating point: the largest batch that the knobs allow, by as many streams as
//! there are shards.

use crate::derive::{Knobs, size};
use crate::figures::{CommitPath, CurvePoint};
use crate::profile::Profile;
use std::fmt::Write;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 600.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 60.0;
/// Readable on white and apart for the colour-blind (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One line of the picture.
struct Line {
    name: String,
    dashed: bool,
    colour: &'static str,
    /// Bytes, p50, p99.
    points: Vec<(f64, f64, f64)>,
}

/// An SVG document.
#[must_use]
pub fn picture(profile: &Profile, knobs: &Knobs) -> String {
    let lines = lines(profile);
    let axes = Axes::around(&lines);
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = draw(&mut out, profile, knobs, &lines, &axes);
    out
}

fn lines(profile: &Profile) -> Vec<Line> {
    let mut lines = Vec::new();
    let direct = profile.disk.direct;
    let mut streams: Vec<_> = profile.curve.iter().map(|point| point.streams).collect();
    streams.sort_unstable();
    streams.dedup();
    for (number, &streams) in streams.iter().enumerate() {
        let of = |p: &CurvePoint| {
            is(p, CommitPath::WriteFdatasync, direct, true) && p.streams == streams
        };
        let name = format!("{streams} stream{}", if streams == 1 { "" } else { "s" });
        lines.push(line(profile, name, false, COLOURS[number % COLOURS.len()], of));
    }
    type Way = (&'static str, fn(&CurvePoint, bool) -> bool);
    let others: [Way; 4] = [
        ("O_DSYNC", |p, direct| is(p, CommitPath::ODsync, direct, true)),
        ("RWF_DSYNC", |p, direct| is(p, CommitPath::RwfDsync, direct, true)),
        ("fresh blocks", |p, direct| is(p, CommitPath::WriteFdatasync, direct, false)),
        ("page cache", |p, direct| direct && is(p, CommitPath::WriteFdatasync, false, true)),
    ];
    for (number, (name, is_it)) in others.into_iter().enumerate() {
        let of = |p: &CurvePoint| p.streams == 1 && is_it(p, direct);
        lines.push(line(profile, name.to_owned(), true, COLOURS[(number + 1) % COLOURS.len()], of));
    }
    lines.retain(|line| !line.points.is_empty());
    if lines.is_empty() {
        // A brief measurement or a data sheet: the one curve that there is.
        let points =
            profile.disk.flush.iter().map(|p| (p.bytes as f64, p.p50_us, p.p99_us)).collect();
        let name = "1 stream".to_owned();
        lines.push(Line { name, dashed: false, colour: COLOURS[0], points });
    }
    lines
}

fn is(point: &CurvePoint, path: CommitPath, direct: bool, prewritten: bool) -> bool {
    (point.path, point.direct, point.prewritten) == (path, direct, prewritten)
}

fn line(
    profile: &Profile,
    name: String,
    dashed: bool,
    colour: &'static str,
    of: impl Fn(&CurvePoint) -> bool,
) -> Line {
    let mut points: Vec<_> = profile
        .curve
        .iter()
        .filter(|point| of(point))
        .map(|point| (point.bytes as f64, point.p50_us, point.p99_us))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Line { name, dashed, colour, points }
}

/// Where figures are on the picture.
struct Axes {
    bytes: (f64, f64),
    micros: (f64, f64),
}

impl Axes {
    fn around(lines: &[Line]) -> Axes {
        let points = || lines.iter().flat_map(|line| &line.points);
        let bytes_min = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
        let bytes_max = points().map(|p| p.0).fold(0.0, f64::max);
        let micros_min = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let micros_max = points().map(|p| p.2).fold(0.0, f64::max);
        let decade = |figure: f64, up: bool| {
            let exponent = figure.max(0.1).log10();
            10_f64.powf(if up { exponent.ceil() } else { exponent.floor() })
        };
        let (low, high) = (decade(micros_min, false), decade(micros_max, true));
        // A lone point still gets an axis.
        let high = if high > low { high } else { low * 10.0 };
        Axes { bytes: (bytes_min / 1.3, bytes_max * 1.3), micros: (low, high) }
    }

    fn x(&self, bytes: f64) -> f64 {
        let (low, high) = self.bytes;
        LEFT + (bytes / low).ln() / (high / low).ln() * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, micros: f64) -> f64 {
        let (low, high) = self.micros;
        HEIGHT - BOTTOM - (micros / low).ln() / (high / low).ln() * (HEIGHT - TOP - BOTTOM)
    }
}

fn draw(
    out: &mut String,
    profile: &Profile,
    knobs: &Knobs,
    lines: &[Line],
    axes: &Axes,
) -> std::fmt::Result {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">"
    )?;
    writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>")?;
    title(out, profile)?;
    grid(out, axes)?;
    diagonals(out, axes)?;
    for line in lines {
        curve(out, line, axes)?;
    }
    legend(out, lines)?;
    operating_point(out, profile, knobs, lines, axes)?;
    writeln!(out, "</svg>")
}

fn title(out: &mut String, profile: &Profile) -> std::fmt::Result {
    let device = [&profile.device.name, &profile.device.model].map(String::as_str).join(" ");
    let device = escape(device.trim());
    writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"28\" font-size=\"18\">How long a durable write takes: {device}, {}</text>",
        escape(&profile.file_system.kind)
    )?;
    let measured = if profile.measured() { "measured" } else { "not measured here" };
    writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"48\" fill=\"#555\">{measured}, {}, Linux {}</text>",
        escape(&profile.date),
        escape(&profile.kernel)
    )
}

fn grid(out: &mut String, axes: &Axes) -> std::fmt::Result {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut micros = axes.micros.0;
    while micros <= axes.micros.1 * 1.001 {
        let y = axes.y(micros);
        writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            duration(micros)
        )?;
        micros *= 10.0;
    }
    let mut bytes = 4096.0;
    while bytes <= axes.bytes.1 {
        if bytes >= axes.bytes.0 {
            let x = axes.x(bytes);
            writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                bottom + 20.0,
                size(bytes as u64)
            )?;
        }
        bytes *= 4.0;
    }
    writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#888\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">bytes in one durable write</text>\
         <text x=\"22\" y=\"{:.0}\" text-anchor=\"middle\" transform=\"rotate(-90 22 {:.0})\">\
         p50 latency, thin strokes to p99</text>",
        right - LEFT,
        bottom - TOP,
        f64::midpoint(LEFT, right),
        HEIGHT - 14.0,
        f64::midpoint(TOP, bottom),
        f64::midpoint(TOP, bottom)
    )
}

/// A lone stream's bandwidth: bytes a microsecond are MB/s.
fn diagonals(out: &mut String, axes: &Axes) -> std::fmt::Result {
    for rate in [1.0, 10.0, 100.0, 1_000.0, 10_000.0] {
        // The part of bytes = rate * micros that is inside both axes.
        let from = axes.bytes.0.max(axes.micros.0 * rate);
        let to = axes.bytes.1.min(axes.micros.1 * rate);
        if from >= to {
            continue;
        }
        let (x1, y1) = (axes.x(from), axes.y(from / rate));
        let (x2, y2) = (axes.x(to), axes.y(to / rate));
        writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#bbb\" \
             stroke-dasharray=\"2 4\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"#999\" font-size=\"11\" \
             text-anchor=\"end\">{rate:.0} MB/s</text>",
            x2 - 4.0,
            y2 + 12.0
        )?;
    }
    Ok(())
}

fn curve(out: &mut String, line: &Line, axes: &Axes) -> std::fmt::Result {
    let colour = line.colour;
    let path: Vec<_> =
        line.points.iter().map(|p| format!("{:.1},{:.1}", axes.x(p.0), axes.y(p.1))).collect();
    let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
    writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
        path.join(" ")
    )?;
    for &(bytes, p50, p99) in &line.points {
        let (x, y) = (axes.x(bytes), axes.y(p50));
        if !line.dashed {
            writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" \
                 stroke-opacity=\"0.5\"/>",
                axes.y(p99)
            )?;
        }
        writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{}, {}: p50 {p50:.0} \
             µs, p99 {p99:.0} µs</title></circle>",
            escape(&line.name),
            size(bytes as u64)
        )?;
    }
    Ok(())
}

fn legend(out: &mut String, lines: &[Line]) -> std::fmt::Result {
    let x = WIDTH - RIGHT + 20.0;
    for (number, line) in lines.iter().enumerate() {
        let y = TOP + 12.0 + 22.0 * number as f64;
        let dashes = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
        writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"2\"{dashes}/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            x + 30.0,
            line.colour,
            x + 38.0,
            y + 4.0,
            escape(&line.name)
        )?;
    }
    Ok(())
}

fn operating_point(
    out: &mut String,
    profile: &Profile,
    knobs: &Knobs,
    lines: &[Line],
    axes: &Axes,
) -> std::fmt::Result {
    // Of the streams that were measured, those next to the number of shards.
    let streams = profile
        .curve
        .iter()
        .map(|point| u64::from(point.streams))
        .min_by_key(|streams| streams.abs_diff(knobs.shards.value))
        .unwrap_or(1);
    let name = format!("{streams} stream");
    let Some(line) = lines.iter().find(|line| line.name.starts_with(&name)) else { return Ok(()) };
    let batch = knobs.batch_bytes_max.value as f64;
    let below = line.points.iter().rev().find(|point| point.0 <= batch);
    let Some(&(bytes, p50, _)) = below.or(line.points.first()) else { return Ok(()) };
    let (x, y) = (axes.x(bytes), axes.y(p50));
    let text_x = WIDTH - RIGHT + 20.0;
    let text_y = HEIGHT - BOTTOM - 60.0;
    writeln!(
        out,
        "<circle id=\"operating-point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"9\" fill=\"none\" stroke=\"#c00\" \
         stroke-width=\"2.5\"/><circle cx=\"{:.0}\" cy=\"{:.0}\" r=\"7\" fill=\"none\" stroke=\"#c00\" \
         stroke-width=\"2.5\"/><text x=\"{:.0}\" y=\"{text_y}\">operating point:</text>\
         <text x=\"{:.0}\" y=\"{}\">batches up to {},</text>\
         <text x=\"{:.0}\" y=\"{}\">{} shards, {} in flight each</text>",
        text_x + 8.0,
        text_y - 4.0,
        text_x + 24.0,
        text_x,
        text_y + 18.0,
        size(knobs.batch_bytes_max.value),
        text_x,
        text_y + 36.0,
        knobs.shards.value,
        knobs.chains_in_flight.value
    )
}

fn duration(micros: f64) -> String {
    if micros >= 1e6 {
        format!("{:.0} s", micros / 1e6)
    } else if micros >= 1e3 {
        format!("{:.0} ms", micros / 1e3)
    } else {
        format!("{micros} µs")
    }
}

/// Names of devices come from outside.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[path = "picture_tests.rs"]
mod tests;
