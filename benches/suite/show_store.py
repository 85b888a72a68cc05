"""The page's plots of the store: opening after a kill, compaction."""

import goals
import plot
from blocks import MS, count, missing, section, table
from goals import median
from plot import Axis, Goal, Series, escape, micros, number, size


def recovery(data):
    title = "Opening after kill -9"
    if not data.recovery:
        return missing("recovery", title)
    points, last = data.recovery, data.recovery[-1]
    ticks = [p["messages"] for p in points]
    times = plot.lines(
        "From exec to the SMTP greeting", "Time against the number of messages.",
        Axis("messages in the store (1 KiB)", True, plot.short, ticks),
        Axis("seconds", True, number, low=0.05),
        [Series("median", [(p["messages"], median(p["seconds"])) for p in points], "kura"),
         Series("slowest", [(p["messages"], max(p["seconds"])) for p in points], "kura", True),
         Series("of that, the store itself", [(p["messages"], max(1e-3, p["own_seconds"]))
                                              for p in points], "lmtp")],
        [Goal("goal at 10 M messages: 1 s", goals.OPEN_SECONDS, style="ink")],
    )
    space = plot.lines(
        "What the store takes", "Bytes against the number of messages.",
        Axis("messages in the store (1 KiB)", True, plot.short, ticks), Axis("bytes", True, size,
             [1 << n for n in range(20, 40, 2)
              if 1 << n >= min(p["messages"] * 1024 for p in points) / 4
              and 1 << n <= max(p["store_bytes"] for p in points) * 4]),
        [Series("files of the store", [(p["messages"], p["store_bytes"]) for p in points], "kura"),
         Series("received", [(p["messages"], p["messages"] * 1024) for p in points], "disk", True)],
    )
    words = (f"Killed right after a load, then started with kura serve; {count(len(last['seconds']), 'time')} at each size. "
             f"With {last['messages']:,} messages in {size(last['store_bytes'])} it greets after "
             f"{number(median(last['seconds']))} s (slowest {number(max(last['seconds']))} s). ")
    if last["messages"] < goals.OPEN_MESSAGES:
        words += "The goal is for 10 M messages, which this run did not try."
    rows = [(f"{p['messages']:,}", size(p["store_bytes"]), size(p["log_bytes"]),
             f"{p['records_replayed']:,}", micros(p["own_seconds"] * 1e6),
             ", ".join(micros(s * 1e6) for s in p["seconds"])) for p in points]
    return section("recovery", title, escape(words), times, space, table(
        ["messages", "files", "log", "records replayed", "the store itself", "exec to greeting"], rows))


def churned(data, found):
    """Plots, words and rows of one size of message."""
    without, with_it = found["without"], found["with"]
    halves = [("no expunging", without, "disk"), ("expunging as much", with_it, "kura")]
    what = f"{size(found['message_bytes'])} messages"
    written = plot.bars(
        f"Bytes written per byte received, {what}", "Amplification with and without expunging.",
        Axis("bytes per byte", form=number),
        [(name, [(label, half[key], style) for label, half, style in halves])
         for name, key in [("own count", "written_per_byte"), ("by the device", "device_written_per_byte")]],
        [Goal(f"kura profile plan counts with {goals.COMPACTION}", goals.COMPACTION, style="ink")],
    )
    late = plot.ranges(
        f"Latency of the 250 at {number(found['rate'])} messages/s of {size(found['message_bytes'])}",
        "p50, p99 and p99.9, in ms.", Axis(**MS),
        [(name, style, [("p50", half["p50_us"]), ("p99", half["p99_us"]), ("p99.9", half["p999_us"])])
         for name, half, style in halves],
        [Goal("a flush of the bare disk, p50", data.flush_us(), style="disk")],
    )
    mib = 1 << 20
    space = plot.lines(
        f"The log while expunging, {what}", "Size of the log and what in it is live, over time.",
        Axis("seconds", form=number), Axis("MiB", form=number),
        [Series(name, [(s["seconds"], s[key] / mib) for s in with_it["samples"]], style, dashed, False)
         for name, key, style, dashed in [
             ("segments of the log", "log_bytes", "kura", False), ("live in them", "log_live_bytes", "lmtp", False),
             ("moved since the store was made", "bytes_moved", "maildir", True)]],
    )
    cpu = plot.bars(
        f"Server CPU per message, {what}", "CPU with and without expunging.", Axis("µs", form=number),
        [("delivery, expunging and compaction",
          [(label, half["server_cpu_us_per_message"], style) for label, half, style in halves])],
    )
    words = (f"{number(found['rate'])} messages of {size(found['message_bytes'])} a second, first alone, then "
             f"while as many, chosen at random, are expunged over IMAP ({with_it['expunged']:,} in "
             f"{number(with_it['seconds'])} s); {with_it['live_share_start']:.0%} of the log was live when that "
             f"began, {with_it['live_share_end']:.0%} at the end. Bytes written per byte received went from "
             f"{without['written_per_byte']:.2f} to {with_it['written_per_byte']:.2f} by its own count, p99 from "
             f"{micros(without['p99_us'])} to {micros(with_it['p99_us'])}; {size(with_it['bytes_moved'])} were "
             f"moved and {count(with_it['segments_freed'], 'segment')} freed. ")
    if not with_it["bytes_moved"]:
        words += "Nothing had to be moved yet in so short a run: this says little about compaction. "
    rows = [
        (f"{what}, {name}", f"{h['written_per_byte']:.2f}", f"{h['device_written_per_byte']:.2f}",
         micros(h["p50_us"]), micros(h["p99_us"]), micros(h["p999_us"]),
         number(h["server_cpu_us_per_message"]), size(h["bytes_received"]), size(h["bytes_moved"]),
         size(h["bytes_based"]), h["segments_freed"], f"{h['live_share_start']:.0%}",
         f"{h['live_share_end']:.0%}", h["errors"])
        for name, h, _ in halves
    ]
    return [written, late, space, cpu], words, rows


def compaction(data):
    title = "Compaction under load"
    if not data.compaction:
        return missing("compaction", title)
    plots, words, rows = [], "", []
    for found in data.compaction:
        more = churned(data, found)
        plots, words, rows = plots + more[0], words + more[1], rows + more[2]
    words += (f"Segments were set to {size(data.compaction[0]['knobs']['segment_bytes'])}, so that a short run "
              "turns over many. Random is the hard case: mail that dies young leaves whole segments to free. "
              "What is not live is garbage and the padding of small flushes.")
    return section("compaction", title, escape(words), *plots, table(
        ["half", "written, own", "written, device", "p50", "p99", "p99.9", "CPU µs a message", "received",
         "moved", "bases", "segments freed", "live before", "live after", "errors"], rows))
