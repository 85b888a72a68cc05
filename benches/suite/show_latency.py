"""The page's latency of the 250, at full and at half load."""

import goals
import plot
from blocks import MILLISECONDS, missing, section, table
from plot import Axis, Goal, escape, micros, number

PERCENTILES = [("p50", "p50_us"), ("p99", "p99_us"), ("p99.9", "p999_us")]


def dots(report):
    """The percentiles of a report of the load program, for `plot.ranges`."""
    return [(label, report[key]) for label, key in PERCENTILES]


def latency(data):
    title = "Latency of the 250"
    rows = [(name, style, data.row(key)) for key, name, style in data.servers() if data.row(key)]
    if "latency" not in data.parts or not rows:
        return missing("latency", title)
    flush_us = data.flush_us()
    disk = Goal("a flush of the bare disk, p50", flush_us, style="disk")
    most = goals.P99_FLUSHES
    goal = Goal(f"goal for p99: {most} flushes", most * flush_us, style="ink")
    words = "p50, p99 and p99.9 of each server, in ms."
    full = [(name, style, dots(row)) for name, style, row in rows]
    half = [(name, style, dots(row["half_load"])) for name, style, row in rows if "half_load" in row]
    parts = [plot.ranges("16 sessions, each as fast as it is answered", words, Axis(**MILLISECONDS),
                         full, [disk])]
    if half:
        parts.append(plot.ranges("At half of the rate just found, open loop", words,
                                 Axis(**MILLISECONDS), half, [disk, goal]))
    return section("latency", title, escape(sentence(data)), *parts, numbers(rows))


def sentence(data):
    words = ("From the last byte of a 4 KiB message to its 250: p50, p99, p99.9. Postfix answers when "
             "it has queued, the others when they have delivered.")
    ours = data.row("kura")
    if not ours:
        return words
    words += f" Kura at full load: {', '.join(micros(value) for _, value in dots(ours))}"
    if "half_load" in ours:
        p99, flush_us = ours["half_load"]["p99_us"], data.flush_us()
        verdict = "met" if p99 <= goals.P99_FLUSHES * flush_us else "missed"
        words += (f"; at half load its p99 is {micros(p99)}, {number(p99 / flush_us)} flushes of the "
                  f"bare disk: the goal of {goals.P99_FLUSHES} is {verdict}")
    return words + "."


def numbers(rows):
    listed = []
    for name, _, row in rows:
        for label, each in [("full load", row), ("half load", row.get("half_load"))]:
            if each:
                late = micros(each["lag_p99_us"]) if "lag_p99_us" in each else ""
                listed.append((f"{name}, {label}", *(micros(v) for _, v in dots(each)), late))
    return table(["load", "p50", "p99", "p99.9", "load program late, p99"], listed)
