"""The page's plots of compaction while mail comes and goes."""

import goals
import plot
from blocks import MILLISECONDS, count, missing, section, table
from plot import Axis, Goal, Series, escape, micros, number, size
from show_latency import dots

MIB = 1 << 20


def compaction(data):
    title = "Compaction under load"
    if not data.compaction:
        return missing("compaction", title)
    plots = [each for found in data.compaction for each in pictures(data, found)]
    words = " ".join(sentence(found) for found in data.compaction)
    segment = size(data.compaction[0]["knobs"]["segment_bytes"])
    words += (
        f" Segments were set to {segment}, so that a short run turns over many. Random is the hard "
        "case: mail that dies young leaves whole segments to free. What is not live is garbage and "
        "the padding of small flushes."
    )
    return section("compaction", title, escape(words), *plots, numbers(data.compaction))


def parts(found):
    return [
        ("no expunging", found["without"], "disk"),
        ("expunging as much", found["with"], "kura"),
        ("scrub and backup, too", found["beside"], "lmtp"),
    ]


def pictures(data, found):
    what = f"{size(found['message_bytes'])} messages"

    def group(name, key):
        return name, [(label, part[key], style) for label, part, style in parts(found)]

    yield plot.bars(
        f"Bytes written per byte received, {what}", "Amplification with and without expunging.",
        Axis("bytes per byte", form=number),
        [group("own count", "written_per_byte"), group("by the device", "device_written_per_byte")],
        [Goal(f"kura profile plan counts with {goals.COMPACTION}", goals.COMPACTION, style="ink")],
    )
    yield plot.ranges(
        f"Latency of the 250 at {number(found['rate'])} messages/s of {size(found['message_bytes'])}",
        "p50, p99 and p99.9, in ms.", Axis(**MILLISECONDS),
        [(name, style, dots(part)) for name, part, style in parts(found)],
        [Goal("a flush of the bare disk, p50", data.flush_us(), style="disk")], plot.HEIGHT,
    )
    samples = found["with"]["samples"]

    def series(label, key, style, dashed=False):
        points = [(s["seconds"], s[key] / MIB) for s in samples]
        return Series(label, points, style, dashed, marks=False)

    yield plot.lines(
        f"The log while expunging, {what}", "Size of the log and what in it is live, over time.",
        Axis("seconds", form=number), Axis("MiB", form=number),
        [series("segments of the log", "log_bytes", "kura"),
         series("live in them", "log_live_bytes", "lmtp"),
         series("moved since the store was made", "bytes_moved", "maildir", True)],
    )
    yield plot.bars(
        f"Server CPU per message, {what}", "CPU with and without expunging.",
        Axis("µs", form=number),
        [group("delivery, expunging and compaction", "server_cpu_us_per_message")],
    )


def sentence(found):
    without, with_it = found["without"], found["with"]
    words = (
        f"{number(found['rate'])} messages of {size(found['message_bytes'])} a second, first alone, "
        f"then while as many, chosen at random, are expunged over IMAP ({with_it['expunged']:,} in "
        f"{number(with_it['seconds'])} s); {with_it['live_share_start']:.0%} of the log was live when "
        f"that began, {with_it['live_share_end']:.0%} at the end. Bytes written per byte received went "
        f"from {without['written_per_byte']:.2f} to {with_it['written_per_byte']:.2f} by its own count, "
        f"p99 from {micros(without['p99_us'])} to {micros(with_it['p99_us'])}; "
        f"{size(with_it['bytes_moved'])} were moved and "
        f"{count(with_it['segments_freed'], 'segment')} freed."
    )
    beside = found["beside"]
    words += (
        f" With a scrub of the whole store and a backup beside that, over and over "
        f"({count(beside['rounds']['scrub'], 'scrub')}, {count(beside['rounds']['backup'], 'backup')}), "
        f"p99 was {micros(beside['p99_us'])}."
    )
    if not with_it["bytes_moved"]:
        words += " Nothing had to be moved in so short a run: this says little about compaction."
    return words


def numbers(all_found):
    rows = [
        (f"{size(found['message_bytes'])}, {name}", f"{part['written_per_byte']:.2f}",
         f"{part['device_written_per_byte']:.2f}", *(micros(value) for _, value in dots(part)),
         number(part["server_cpu_us_per_message"]), size(part["bytes_received"]),
         size(part["bytes_moved"]), size(part["bytes_based"]), part["segments_freed"],
         f"{part['live_share_start']:.0%}", f"{part['live_share_end']:.0%}", part["errors"])
        for found in all_found for name, part, _ in parts(found)
    ]
    return table(["part", "written, own", "written, device", "p50", "p99", "p99.9", "CPU µs a message",
                  "received", "moved", "bases", "segments freed", "live before", "live after",
                  "errors"], rows)
