"""The page's flush curve, and where on it Kura works."""

import math

import plot
from blocks import BYTES, count, missing, section, table
from plot import Axis, Pin, Series, escape, micros, number, size


def on_curve(curve, bytes_):
    """p50 between measured points, straight on logarithmic axes; the ends hold beyond them."""
    if bytes_ <= curve[0]["bytes"]:
        return curve[0]["p50_us"]
    for low, high in zip(curve, curve[1:]):
        if bytes_ <= high["bytes"]:
            share = math.log(bytes_ / low["bytes"]) / math.log(high["bytes"] / low["bytes"])
            return low["p50_us"] * (high["p50_us"] / low["p50_us"]) ** share
    return curve[-1]["p50_us"]


def operating_points(data):
    """(row, mean bytes of a flush) of the loads that are worth a mark."""
    rows = data.by_sessions("kura", False)
    rows += [r for r in data.by_size("kura", False) if r["bytes"] in (64 << 10, 1 << 20)]
    return [(row, row["own_bytes_per_flush"]) for row in rows if "own_bytes_per_flush" in row]


def flush(data):
    title = "Flush curve"
    if "flush" not in data.parts or not data.profile:
        return missing("flush", title)
    fresh, written, several = data.curve(False), data.curve(True), data.curve(True, 4)
    if not written:
        return missing("flush", title, "The profile has no such curve: it was not measured here.")

    def series(label, points, style, key="p50_us", dashed=False):
        found = [(p["bytes"], p[key], f"{size(p['bytes'])}: {micros(p[key])}") for p in points]
        return Series(label, found, style, dashed)

    points = operating_points(data)
    pins = [
        Pin(each, on_curve(written, each), f"{size(row['bytes'])} × {row['sessions']}", "kura",
            f"messages of {size(row['bytes'])}, {row['sessions']} sessions: {size(each)} a flush, "
            f"for which the disk alone takes {micros(on_curve(written, each))}")
        for row, each in points
    ]
    lowest = min(p["p50_us"] for p in [*written, *fresh])
    least = written[0]
    words = (f"How long the disk takes until so many bytes are durable (write and fdatasync, O_DIRECT, "
             f"one stream but for the dotted line). {size(least['bytes'])} take {micros(least['p50_us'])} "
             "into blocks written before")
    if fresh:
        words += (f" and {micros(fresh[0]['p50_us'])} into fresh ones, "
                  f"{number(fresh[0]['p50_us'] / least['p50_us'])} times as long")
    words += "."
    if pins:
        first, last = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
        words += (f" The dots are Kura's operating points, message size × sessions, at the mean bytes "
                  f"of a flush in the loads below: from {size(first[1])} to {size(last[1])}.")
    chart = plot.lines(
        "Time of a flush by its size", words,
        Axis("bytes in one durable write", True, size, [t for t in BYTES if t >= 1 << 12]),
        Axis("time of a flush", True, micros, low=lowest / 12 if pins else None),
        [series("written before, p50", written, "kura"),
         series("written before, p99", written, "kura", "p99_us", True),
         series("fresh, p50", fresh, "maildir"),
         series("4 streams, written before, p50", several, "disk", dashed=True)],
        pins=pins, pin_label="operating point",
    )
    speed = plot.lines(
        "Bandwidth of synced writes by their size", words,
        Axis("bytes in one durable write", True, size, [t for t in BYTES if t >= 1 << 12]),
        Axis("MB/s", True),
        [Series(label, [(p["bytes"], p["mb_per_second"]) for p in points_], style, dashed)
         for label, points_, style, dashed in [
             ("written before", written, "kura", False), ("fresh", fresh, "maildir", False),
             ("4 streams, written before", several, "disk", True)]],
    )
    rows = [
        (f"{size(p['bytes'])}, {'written before' if p['prewritten'] else 'fresh'}, "
         f"{count(p['streams'], 'stream')}",
         micros(p["p50_us"]), micros(p["p99_us"]), micros(p["p999_us"]), number(p["mb_per_second"]))
        for p in [*written, *fresh, *several]
    ]
    marks = [
        (f"{size(row['bytes'])}, {count(row['sessions'], 'session')}", size(each),
         micros(on_curve(written, each)), f"{row['own_flushes_per_message']:.3f}")
        for row, each in points
    ]
    return section(
        "flush", title, escape(words), chart, speed,
        table(["flush", "p50", "p99", "p99.9", "MB/s"], rows),
        table(["load", "mean flush", "on the curve", "flushes a message"], marks, "Operating points"),
    )
