"""The page's plots of loads: throughput, latency, sizes of messages."""

import goals
import plot
from blocks import BYTES, MS, count, missing, section, table
from data import SERVERS, SMALL
from plot import Axis, Goal, Series, escape, micros, number, size


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
