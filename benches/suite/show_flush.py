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
    written, fresh, several = data.curve(True), data.curve(False), data.curve(True, streams=4)
    if not written:
        return missing("flush", title, "The profile has no such curve: it was not measured here.")
    points = operating_points(data)
    words = sentence(written, fresh, points)
    # (label, points, style, dashed)
    curves = [("written before", written, "kura", False), ("fresh", fresh, "maildir", False),
              ("4 streams, written before", several, "disk", True)]
    return section(
        "flush", title, escape(words), times(words, curves, written, points),
        bandwidth(words, curves), numbers([*written, *fresh, *several]), marks(written, points),
    )


def sentence(written, fresh, points):
    least = written[0]
    words = (
        "How long the disk takes until so many bytes are durable (write and fdatasync, O_DIRECT, one "
        f"stream but for the grey line). {size(least['bytes'])} take {micros(least['p50_us'])} into "
        "blocks written before"
    )
    if fresh:
        times_as_long = number(fresh[0]["p50_us"] / least["p50_us"])
        words += (f" and {micros(fresh[0]['p50_us'])} into fresh ones, {times_as_long} times as long")
    if points:
        sizes = [each for _, each in points]
        words += (
            ". The dots are Kura's operating points, message size × sessions, at the mean bytes of a "
            f"flush in the loads below: from {size(min(sizes))} to {size(max(sizes))}"
        )
    return words + "."


def size_axis():
    return Axis("bytes in one durable write", True, size, [tick for tick in BYTES if tick >= 4096])


def times(words, curves, written, points):
    series = [
        Series(f"{label}, p50", [(p["bytes"], p["p50_us"], f"{size(p['bytes'])}: {micros(p['p50_us'])}")
                                 for p in curve], style, dashed)
        for label, curve, style, dashed in curves
    ]
    late = [(p["bytes"], p["p99_us"], f"{size(p['bytes'])}: {micros(p['p99_us'])}") for p in written]
    series.insert(1, Series("written before, p99", late, "kura", dashed=True))
    pins = [
        Pin(each, on_curve(written, each), f"{size(row['bytes'])} × {row['sessions']}", "kura",
            f"messages of {size(row['bytes'])}, {count(row['sessions'], 'session')}: {size(each)} a "
            f"flush, for which the disk alone takes {micros(on_curve(written, each))}")
        for row, each in points
    ]
    # Room for the names of the operating points.
    lowest = min(p["p50_us"] for _, curve, _, _ in curves for p in curve)
    return plot.lines(
        "Time of a flush by its size", words, size_axis(),
        Axis("time of a flush", True, micros, low=lowest / 12 if pins else None),
        series, pins=pins, pin_label="operating point",
    )


def bandwidth(words, curves):
    series = [
        Series(label, [(p["bytes"], p["mb_per_second"]) for p in curve], style, dashed)
        for label, curve, style, dashed in curves
    ]
    return plot.lines("Bandwidth of synced writes by their size", words, size_axis(),
                      Axis("MB/s", True), series)


def numbers(points):
    rows = [
        (f"{size(p['bytes'])}, {'written before' if p['prewritten'] else 'fresh'}, "
         f"{count(p['streams'], 'stream')}",
         micros(p["p50_us"]), micros(p["p99_us"]), micros(p["p999_us"]), number(p["mb_per_second"]))
        for p in points
    ]
    return table(["flush", "p50", "p99", "p99.9", "MB/s"], rows)


def marks(written, points):
    rows = [
        (f"{size(row['bytes'])}, {count(row['sessions'], 'session')}", size(each),
         micros(on_curve(written, each)), f"{row['own_flushes_per_message']:.3f}")
        for row, each in points
    ]
    return table(["load", "mean flush", "on the curve", "flushes a message"], rows, "Operating points")
