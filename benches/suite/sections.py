"""The parts of the page: for each its plots, a sentence on what they say, and a table."""

import math

import goals
import plot
from data import SERVERS, SMALL
from goals import median
from plot import Axis, Goal, Pin, Series, escape, micros, number, size

BYTES = [1 << n for n in range(10, 24, 2)]
MS = {"label": "milliseconds", "log": True, "form": lambda us: number(us / 1000)}


def table(heads, rows, words="The numbers"):
    def cell(kind, text):
        return f"<{kind}>{escape(text)}</{kind}>"

    head = "".join(cell("th", each) for each in heads)
    body = "".join(
        "<tr>" + cell("th", row[0]) + "".join(cell("td", each) for each in row[1:]) + "</tr>"
        for row in rows
    )
    return (f"<details><summary>{escape(words)}</summary><div class=\"wide\"><table><thead><tr>{head}"
            f"</tr></thead><tbody>{body}</tbody></table></div></details>")


def section(name, title, words, *parts):
    return (f'<section id="{name}"><h2>{escape(title)}</h2><p>{words}</p>'
            f'<div class="plots">{"".join(p for p in parts if p.startswith("<figure"))}</div>'
            f'{"".join(p for p in parts if not p.startswith("<figure"))}</section>')


def missing(name, title, why="Not measured in this run."):
    return f'<section id="{name}"><h2>{escape(title)}</h2><p class="open">{escape(why)}</p></section>'


def count(many, what):
    return f"{number(many)} {what}{'' if many == 1 else 's'}"


# ── the flush curve ──────────────────────────────────────────────────────────────────────────────


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


# ── throughput ───────────────────────────────────────────────────────────────────────────────────


def rate_plot(data, pipelining, top, bottom):
    title = "4 KiB messages, pipelined" if pipelining else "4 KiB messages, one command at a time"
    series = [
        Series(name, [(r["sessions"], r["messages_per_second"],
                       f"{count(r['sessions'], 'session')}: {number(r['messages_per_second'])} messages/s")
                      for r in data.by_sessions(key, pipelining)], style)
        for key, name, style in data.servers()
    ]
    marks = []
    for sessions in (16, 64):
        peer = data.best_postfix(sessions, pipelining)
        lmtp = data.row("dovecot-lmtp-mdbox", SMALL, sessions, pipelining)
        for row, times, name in [(peer, goals.INTAKE_POSTFIX, "Postfix + Dovecot"),
                                 (lmtp, goals.INTAKE_LMTP, "Dovecot LMTP")]:
            if row:
                style = "ink" if row is peer else "lmtp"
                marks.append(Goal(f"goal: {times}x {name}", times * row["messages_per_second"],
                                  sessions, sessions, style))
    marks.append(Goal("one flush per message, one after another", 1e6 / data.flush_us(), style="disk"))
    ticks = sorted({r["sessions"] for r in data.rows if r["bytes"] == SMALL})
    words = "; ".join(
        f"{s.label}: " + ", ".join(f"{p[0]} sessions {number(p[1])}/s" for p in s.points) for s in series
    )
    return plot.lines(
        title, words, Axis("sessions", True, number, ticks),
        Axis("messages per second, durable", True, low=bottom, high=top), series, marks,
    )


def throughput(data):
    title = "Throughput against sessions"
    ours = data.by_sessions("kura", False)
    if "throughput" not in data.parts or not ours:
        return missing("throughput", title)
    rates = [r["messages_per_second"] for r in data.rows if r["bytes"] == SMALL]
    best = max((r for r in data.rows if r["server"] == "kura" and r["bytes"] == SMALL),
               key=lambda r: r["messages_per_second"])
    words = ("Messages per second that were durable before their 250 and that IMAP showed afterwards; "
             "the clock runs until a server's queue is empty. "
             f"Kura takes {number(ours[0]['messages_per_second'])} with {count(ours[0]['sessions'], 'session')} "
             f"and {number(best['messages_per_second'])} at its best, with {count(best['sessions'], 'session')}"
             f"{' and pipelining' if best['pipelining'] else ''}")
    peer, row = data.best_postfix(16), data.row("kura")
    if peer and row:
        words += (f"; at 16 sessions {number(row['messages_per_second'])}, "
                  f"{number(row['messages_per_second'] / peer['messages_per_second'])} times "
                  f"{SERVERS[peer['server']][0]} with its {number(peer['messages_per_second'])}")
    words += ". " + ("" if peer else "The peers were not measured in this run. ")
    top = max(rates + [
        goals.INTAKE_POSTFIX * p["messages_per_second"]
        for p in (data.best_postfix(s, pipe) for s in (16, 64) for pipe in (False, True)) if p
    ])
    flushes = plot.lines(
        "Flushes per message, 4 KiB", "Flushes per message against sessions.",
        Axis("sessions", True, number, sorted({r["sessions"] for r in data.rows if r["bytes"] == SMALL})),
        Axis("flushes per message", True, number),
        [Series(name, [(r["sessions"], max(0.001, flushes_of(r))) for r in data.by_sessions(key, False)],
                style) for key, name, style in data.servers()]
        + [Series("Kura, pipelined", [(r["sessions"], max(0.001, flushes_of(r)))
                                      for r in data.by_sessions("kura", True)], "kura", True)],
        [Goal(f"goal: at most {goals.FLUSHES} at 16 sessions", goals.FLUSHES, 16, 16, "ink")],
    )
    late = plot.lines(
        "p99 of the 250, 4 KiB", "p99 of the latency against sessions.",
        Axis("sessions", True, number, sorted({r["sessions"] for r in data.rows if r["bytes"] == SMALL})),
        Axis("p99", True, micros),
        [Series(name, [(r["sessions"], r["p99_us"]) for r in data.by_sessions(key, False)], style)
         for key, name, style in data.servers()]
        + [Series("Kura, pipelined", [(r["sessions"], r["p99_us"]) for r in data.by_sessions("kura", True)],
                  "kura", True)],
    )
    rows = [
        (f"{name}, {count(r['sessions'], 'session')}{', pipelined' if pipelining else ''}",
         number(r["messages_per_second"]), micros(r["p50_us"]), micros(r["p99_us"]),
         micros(r["p999_us"]), number(r["server_cpu_us_per_message"]), f"{flushes_of(r):.3f}",
         r["lost"], r["duplicates"], r["errors"])
        for key, name, _ in data.servers() for pipelining in (False, True)
        for r in data.by_sessions(key, pipelining)
    ]
    return section(
        "throughput", title, escape(words), rate_plot(data, False, top, min(rates)),
        rate_plot(data, True, top, min(rates)), flushes, late,
        table(["load", "messages/s", "p50", "p99", "p99.9", "CPU µs a message", "flushes a message",
               "lost", "twice", "errors"], rows),
    )


def flushes_of(row):
    """Its own count where it has one: the device's has everybody's."""
    return row.get("own_flushes_per_message", row["flushes_per_message"])


# ── latency ──────────────────────────────────────────────────────────────────────────────────────


def latency(data):
    title = "Latency of the 250"
    rows = [(key, name, style, data.row(key)) for key, name, style in data.servers() if data.row(key)]
    if "latency" not in data.parts or not rows:
        return missing("latency", title)
    percentiles = [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")]

    def dots(of):
        return [(name, style, [(label, of(row)[key]) for label, key in percentiles])
                for _, name, style, row in rows if of(row)]

    flush_us = data.flush_us()
    disk = Goal("a flush of the bare disk, p50", flush_us, style="disk")
    four = Goal(f"goal for p99: {goals.P99_FLUSHES} flushes", goals.P99_FLUSHES * flush_us, style="ink")
    closed = plot.ranges(
        "16 sessions, each as fast as it is answered", "p50, p99 and p99.9 of each server, in ms.",
        Axis(**MS), dots(lambda row: row), [disk],
    )
    half = dots(lambda row: row.get("half_load"))
    parts = [closed]
    words = ("From the last byte of a 4 KiB message to its 250: p50, p99, p99.9. Postfix answers when it "
             "has queued, the others when they have delivered.")
    ours = data.row("kura")
    if ours:
        words += (f" Kura at full load: {micros(ours['p50_us'])}, {micros(ours['p99_us'])}, "
                  f"{micros(ours['p999_us'])}")
    if half:
        parts.append(plot.ranges(
            "At half of the rate just found, open loop", "p50, p99 and p99.9 of each server, in ms.",
            Axis(**MS), half, [disk, four],
        ))
    if ours and "half_load" in ours:
        p99 = ours["half_load"]["p99_us"]
        is_met = p99 <= goals.P99_FLUSHES * flush_us
        words += (f"; at half load its p99 is {micros(p99)}, {number(p99 / flush_us)} flushes of the bare "
                  f"disk: the goal of {goals.P99_FLUSHES} is {'met' if is_met else 'missed'}")
    listed = []
    for _, name, _, row in rows:
        for label, each in [("full load", row), ("half load", row.get("half_load"))]:
            if each:
                listed.append((f"{name}, {label}", *(micros(each[key]) for _, key in percentiles),
                               micros(each["lag_p99_us"]) if "lag_p99_us" in each else ""))
    return section("latency", title, escape(words + "."), *parts,
                   table(["load", "p50", "p99", "p99.9", "load program late, p99"], listed))


# ── sizes of messages ────────────────────────────────────────────────────────────────────────────


def sizes(data):
    title = "Sizes of messages"
    ours = data.by_size("kura", False)
    if "sizes" not in data.parts or not ours:
        return missing("sizes", title)

    def series(key, extra=(), least=0):
        found = []
        for server, name, style in data.servers():
            rows = [r for r in data.by_size(server, False) if key in r and r["bytes"] >= least]
            found.append(Series(name, [(r["bytes"], max(r[key], 1e-3)) for r in rows], style))
        return found + list(extra)

    def axis(low=1 << 10):
        seen = {r["bytes"] for r in data.rows if r["sessions"] == 16}
        return Axis("bytes in a message", True, size,
                    [t for t in BYTES if min(low, min(seen)) <= t <= max(seen)])

    piped = data.by_size("kura", True)
    disk = [
        Series(f"bare disk, {label}", [(p["bytes"], p["megabytes_per_second"])
               for p in data.disk["points"] if p["prewritten"] == prewritten], style, prewritten is False)
        for label, prewritten, style in [("written before", True, "disk"), ("fresh", False, "disk")]
    ]
    best = data.bandwidth(True)
    largest = max(r["bytes"] for r in ours)
    bandwidth = [Goal(
        f"goal from 100 KiB on: {goals.BANDWIDTH_SHARE:.0%} of the disk's best",
        goals.BANDWIDTH_SHARE * best, goals.BANDWIDTH_FROM, largest, "ink",
    )] if largest >= goals.BANDWIDTH_FROM else []
    speed = plot.lines(
        "MB/s, 16 sessions", "Durable bandwidth by size of message.", axis(),
        Axis("MB/s, durable", True),
        series("megabytes_per_second", [
            Series("Kura, pipelined", [(r["bytes"], r["megabytes_per_second"]) for r in piped],
                   "kura", True), *disk]),
        bandwidth,
    )
    written = plot.lines(
        "Bytes written per byte received, 16 sessions", "Write amplification by size of message.",
        axis(), Axis("bytes per byte", True, number),
        [Series("Kura, its own count", [(r["bytes"], r["own_written_per_byte"]) for r in ours
                                        if "own_written_per_byte" in r], "kura")]
        + [Series(each.label + ", by the device", each.points, each.style, True)
           for each in series("written_per_byte")],
        [Goal(f"goal: {goals.WRITTEN_SMALL} at 4 KiB, {goals.WRITTEN_LARGE} from 16 KiB on",
              goals.WRITTEN_SMALL, 4096, 4096, "ink")]
        + ([Goal(f"goal: {goals.WRITTEN_SMALL} at 4 KiB, {goals.WRITTEN_LARGE} from 16 KiB on",
                 goals.WRITTEN_LARGE, 16 << 10, largest, "ink")] if largest > 16 << 10 else []),
    )
    cpu = plot.lines(
        "Server CPU per message, 16 sessions", "CPU by size of message.", axis(),
        Axis("time on a core", True, micros),
        series("server_cpu_us_per_message", [
            Series("Kura, pipelined", [(r["bytes"], r["server_cpu_us_per_message"]) for r in piped],
                   "kura", True)]),
        [Goal(f"goal: at most {goals.CPU_US} µs at 4 KiB", goals.CPU_US, 4096, 4096, "ink")],
    )
    late = plot.lines(
        "p99 of the 250 by size, 16 sessions", "p99 of the latency by size of message.", axis(),
        Axis("p99", True, micros),
        series("p99_us", [Series("Kura, pipelined", [(r["bytes"], r["p99_us"]) for r in piped], "kura", True)]),
    )
    top = max([*ours, *piped], key=lambda r: r["megabytes_per_second"])
    small = data.row("kura")
    words = (f"Kura's best is {number(top['megabytes_per_second'])} MB/s, with messages of "
             f"{size(top['bytes'])}: {top['megabytes_per_second'] / best:.0%} of the {number(best)} MB/s that "
             "the bare disk takes in synced writes into blocks written before, "
             f"{top['megabytes_per_second'] / data.bandwidth(False):.0%} of what it takes into fresh ones. ")
    if small and "own_written_per_byte" in small:
        words += (f"At 4 KiB it writes {small['own_written_per_byte']:.2f} bytes for each byte received by its "
                  f"own count, {small['written_per_byte']:.2f} by the device's, which also has what the file "
                  "system and everybody else write, and the space that Kura writes ahead. ")
    rows = []
    for key, name, _ in data.servers():
        for pipelining in (False, True):
            for r in data.by_size(key, pipelining):
                own = r.get("own_written_per_byte")
                rows.append((f"{name}, {size(r['bytes'])}{', pipelined' if pipelining else ''}",
                             number(r["megabytes_per_second"]), number(r["messages_per_second"]),
                             f"{own:.2f}" if own is not None else "",
                             f"{r.get('own_moved_per_byte', 0):.2f}" if own is not None else "",
                             f"{r['written_per_byte']:.2f}",
                             number(r["server_cpu_us_per_message"]), micros(r["p99_us"])))
    bare = [
        (f"{size(p['bytes'])}, {'written before' if p['prewritten'] else 'fresh'}",
         number(p["megabytes_per_second"]), micros(p["p50_us"]), micros(p["p99_us"]))
        for p in data.disk["points"]
    ]
    return section(
        "sizes", title, escape(words), speed, written, cpu, late,
        table(["load", "MB/s", "messages/s", "written, own", "of that, moved",
               "written, device", "CPU µs", "p99"], rows),
        table(["synced write", "MB/s", "p50", "p99"], bare, "The bare disk"),
    )


# ── recovery ─────────────────────────────────────────────────────────────────────────────────────


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


# ── compaction ───────────────────────────────────────────────────────────────────────────────────


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


ALL = [flush, throughput, latency, sizes, recovery, compaction]
