"""The page's plots of opening after `kill -9`."""

import goals
import plot
from blocks import count, missing, section, table
from goals import median
from plot import Axis, Goal, Series, escape, micros, number, size


def recovery(data):
    title = "Opening after kill -9"
    if not data.recovery:
        return missing("recovery", title)
    points = data.recovery

    def series(label, value, style, dashed=False):
        return Series(label, [(p["messages"], value(p)) for p in points], style, dashed)

    def axis():
        return Axis("messages in the store (1 KiB)", True, plot.short, [p["messages"] for p in points])

    times = plot.lines(
        "From exec to the SMTP greeting", "Time against the number of messages.", axis(),
        Axis("seconds", True, number, low=0.05),
        [series("median", lambda p: median(p["seconds"]), "kura"),
         series("slowest", lambda p: max(p["seconds"]), "kura", True),
         series("of that, the store itself", lambda p: max(1e-3, p["own_seconds"]), "lmtp")],
        [Goal("goal at 10 M messages: 1 s", goals.OPEN_SECONDS, style="ink")],
    )
    space = plot.lines(
        "What the store takes", "Bytes against the number of messages.", axis(),
        Axis("bytes", True, size, [1 << n for n in range(10, 44, 2)]),
        [series("files of the store", lambda p: p["store_bytes"], "kura"),
         series("received", lambda p: p["messages"] * 1024, "disk", True)],
    )
    rows = [
        (f"{p['messages']:,}", size(p["store_bytes"]), size(p["log_bytes"]),
         f"{p['records_replayed']:,}", micros(p["own_seconds"] * 1e6),
         ", ".join(micros(seconds * 1e6) for seconds in p["seconds"]))
        for p in points
    ]
    heads = ["messages", "files", "log", "records replayed", "the store itself", "exec to greeting"]
    return section("recovery", title, escape(sentence(points[-1])), times, space, table(heads, rows))


def sentence(last):
    words = (
        "Killed right after a load, then started with kura serve; "
        f"{count(len(last['seconds']), 'time')} at each size. With {last['messages']:,} messages in "
        f"{size(last['store_bytes'])} it greets after {number(median(last['seconds']))} s (slowest "
        f"{number(max(last['seconds']))} s)."
    )
    if last["messages"] < goals.OPEN_MESSAGES:
        words += " The goal is for 10 M messages, which this run did not try."
    return words
