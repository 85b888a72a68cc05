"""The page's plots against the size of a message: bandwidth, bytes written, CPU, latency."""

import goals
import plot
from blocks import BYTES, missing, section, table
from plot import Axis, Goal, Series, escape, micros, number, size

WRITTEN_GOAL = f"goal: {goals.WRITTEN_SMALL} at 4 KiB, {goals.WRITTEN_LARGE} from 16 KiB on"


def sizes(data):
    title = "Sizes of messages"
    if "sizes" not in data.parts or not data.by_size("kura", False):
        return missing("sizes", title)
    cpu = by_size(
        data, "Server CPU per message, 16 sessions", Axis("time on a core", True, micros),
        "server_cpu_us_per_message", marks=[
            Goal(f"goal: at most {goals.CPU_US} µs at 4 KiB", goals.CPU_US, 4096, 4096, "ink")
        ],
    )
    late = by_size(data, "p99 of the 250 by size, 16 sessions", Axis("p99", True, micros), "p99_us")
    return section(
        "sizes", title, escape(sentence(data)),
        speed(data), written(data), cpu, late, numbers(data), bare(data),
    )


def size_axis(data):
    seen = [row["bytes"] for row in data.rows if row["sessions"] == 16]
    return Axis("bytes in a message", True, size,
                [tick for tick in BYTES if min(seen) <= tick <= max(seen)])


def points(data, key, pipelining, value):
    return [(row["bytes"], max(row[value], 1e-3))
            for row in data.by_size(key, pipelining) if value in row]


def by_size(data, title, y_axis, value, more=(), marks=()):
    """Each server without pipelining, and Kura with it."""
    series = [Series(name, points(data, key, False, value), style)
              for key, name, style in data.servers()]
    series.append(Series("Kura, pipelined", points(data, "kura", True, value), "kura", dashed=True))
    return plot.lines(title, f"{title}, by size of message.", size_axis(data), y_axis,
                      [*series, *more], marks)


def speed(data):
    disk = [
        Series(f"bare disk, {label}",
               [(p["bytes"], p["megabytes_per_second"]) for p in data.disk["points"]
                if p["prewritten"] == prewritten], "disk", dashed=not prewritten)
        for label, prewritten in [("written before", True), ("fresh", False)]
    ]
    largest = max(row["bytes"] for row in data.by_size("kura", False))
    marks = []
    if largest >= goals.BANDWIDTH_FROM:
        marks.append(Goal(
            f"goal from 100 KiB on: {goals.BANDWIDTH_SHARE:.0%} of the disk's best",
            goals.BANDWIDTH_SHARE * data.bandwidth(True), goals.BANDWIDTH_FROM, largest, "ink",
        ))
    return by_size(data, "MB/s, 16 sessions", Axis("MB/s, durable", True),
                   "megabytes_per_second", disk, marks)


def written(data):
    own = Series("Kura, its own count", points(data, "kura", False, "own_written_per_byte"), "kura")
    device = [
        Series(f"{name}, by the device", points(data, key, False, "written_per_byte"), style, True)
        for key, name, style in data.servers()
    ]
    largest = max(row["bytes"] for row in data.by_size("kura", False))
    marks = [Goal(WRITTEN_GOAL, goals.WRITTEN_SMALL, 4096, 4096, "ink")]
    if largest > goals.WRITTEN_LARGE_FROM:
        marks.append(Goal(WRITTEN_GOAL, goals.WRITTEN_LARGE, goals.WRITTEN_LARGE_FROM, largest, "ink"))
    title = "Bytes written per byte received, 16 sessions"
    return plot.lines(title, f"{title}, by size of message.", size_axis(data),
                      Axis("bytes per byte", True, number), [own, *device], marks)


def sentence(data):
    rows = [*data.by_size("kura", False), *data.by_size("kura", True)]
    top = max(rows, key=lambda row: row["megabytes_per_second"])
    reached, small = top["megabytes_per_second"], data.row("kura")
    words = (
        f"Kura's best is {number(reached)} MB/s, with messages of {size(top['bytes'])}: "
        f"{reached / data.bandwidth(True):.0%} of the {number(data.bandwidth(True))} MB/s that the bare "
        "disk takes in synced writes into blocks written before, "
        f"{reached / data.bandwidth(False):.0%} of what it takes into fresh ones. "
    )
    if small and "own_written_per_byte" in small:
        words += (
            f"At 4 KiB it writes {small['own_written_per_byte']:.2f} bytes for each byte received by "
            f"its own count, {small['written_per_byte']:.2f} by the device's, which also has what the "
            "file system and everybody else write, and the space that Kura writes ahead."
        )
    return words


def numbers(data):
    rows = []
    for key, name, _ in data.servers():
        for row in [*data.by_size(key, False), *data.by_size(key, True)]:
            own = [f"{row[k]:.2f}" if k in row else ""
                   for k in ("own_written_per_byte", "own_moved_per_byte")]
            rows.append((
                f"{name}, {size(row['bytes'])}{', pipelined' if row['pipelining'] else ''}",
                number(row["megabytes_per_second"]), number(row["messages_per_second"]), *own,
                f"{row['written_per_byte']:.2f}", number(row["server_cpu_us_per_message"]),
                micros(row["p99_us"]),
            ))
    return table(["load", "MB/s", "messages/s", "written, own", "of that, moved", "written, device",
                  "CPU µs", "p99"], rows)


def bare(data):
    rows = [
        (f"{size(p['bytes'])}, {'written before' if p['prewritten'] else 'fresh'}",
         number(p["megabytes_per_second"]), micros(p["p50_us"]), micros(p["p99_us"]))
        for p in data.disk["points"]
    ]
    return table(["synced write", "MB/s", "p50", "p99"], rows, "The bare disk")
