"""The page's plots against sessions: throughput, flushes, latency."""

import goals
import plot
from blocks import count, missing, section, table
from data import SERVERS, SMALL, flushes_of
from plot import Axis, Goal, Series, escape, micros, number

LMTP = "dovecot-lmtp-mdbox"


def throughput(data):
    title = "Throughput against sessions"
    if "throughput" not in data.parts or not data.by_sessions("kura", False):
        return missing("throughput", title)
    flushes = by_sessions(
        data, "Flushes per message, 4 KiB", Axis("flushes per message", True, number),
        lambda row: max(0.001, flushes_of(row)),
        [Goal(f"goal: at most {goals.FLUSHES} at 16 sessions", goals.FLUSHES, 16, 16, "ink")],
    )
    late = by_sessions(
        data, "p99 of the 250, 4 KiB", Axis("p99", True, micros), lambda row: row["p99_us"]
    )
    return section(
        "throughput", title, escape(sentence(data)),
        rates(data, False), rates(data, True), flushes, late, numbers(data),
    )


def sentence(data):
    ours = data.by_sessions("kura", False)
    best = max([*ours, *data.by_sessions("kura", True)], key=rate)
    piped = " and pipelining" if best["pipelining"] else ""
    words = (
        "Messages per second that were durable before their 250 and that IMAP showed afterwards; "
        f"the clock runs until a server's queue is empty. Kura takes {number(rate(ours[0]))} with "
        f"{count(ours[0]['sessions'], 'session')} and {number(rate(best))} at its best, with "
        f"{count(best['sessions'], 'session')}{piped}"
    )
    peer, row = data.best_postfix(16), data.row("kura")
    if peer and row:
        words += (
            f"; at 16 sessions {number(rate(row))}, {number(rate(row) / rate(peer))} times "
            f"{SERVERS[peer['server']][0]} with its {number(rate(peer))}"
        )
    return words + (". " if peer else ". The peers were not measured in this run.")


def rate(row):
    return row["messages_per_second"]


def session_axis(data):
    ticks = sorted({row["sessions"] for row in data.rows if row["bytes"] == SMALL})
    return Axis("sessions", True, number, ticks)


def rival_goals(data, pipelining):
    """What the design asks for beside what the rivals do, at each number of sessions."""
    for sessions in (16, 64):
        postfix = data.best_postfix(sessions, pipelining)
        lmtp = data.row(LMTP, SMALL, sessions, pipelining)
        for row, times, name, style in [
            (postfix, goals.INTAKE_POSTFIX, "Postfix + Dovecot", "ink"),
            (lmtp, goals.INTAKE_LMTP, "Dovecot LMTP", "lmtp"),
        ]:
            if row:
                label = f"goal: {times}x {name}"
                yield Goal(label, times * rate(row), sessions, sessions, style)


def rates(data, pipelining):
    series = []
    for key, name, style in data.servers():
        points = [
            (r["sessions"], rate(r), f"{count(r['sessions'], 'session')}: {number(rate(r))}/s")
            for r in data.by_sessions(key, pipelining)
        ]
        series.append(Series(name, points, style))
    # Both plots get the range of all, so that they can be compared.
    all_goals = [*rival_goals(data, False), *rival_goals(data, True)]
    everything = [rate(row) for row in data.rows if row["bytes"] == SMALL]
    everything += [goal.y for goal in all_goals]
    alone = Goal("one flush per message, one after another", 1e6 / data.flush_us(), style="disk")
    words = "; ".join(
        f"{each.label}: " + ", ".join(say for _, _, say in each.points) for each in series
    )
    return plot.lines(
        "4 KiB messages, pipelined" if pipelining else "4 KiB messages, one command at a time",
        words, session_axis(data),
        Axis("messages per second, durable", True, low=min(everything), high=max(everything)),
        series, [*rival_goals(data, pipelining), alone],
    )


def by_sessions(data, title, y_axis, value, marks=()):
    """Each server without pipelining, and Kura with it."""

    def points(key, pipelining):
        return [(row["sessions"], value(row)) for row in data.by_sessions(key, pipelining)]

    series = [Series(name, points(key, False), style) for key, name, style in data.servers()]
    series.append(Series("Kura, pipelined", points("kura", True), "kura", dashed=True))
    return plot.lines(title, f"{title}, against sessions.", session_axis(data), y_axis, series, marks)


def numbers(data):
    rows = []
    for key, name, _ in data.servers():
        for pipelining in (False, True):
            for row in data.by_sessions(key, pipelining):
                piped = ", pipelined" if pipelining else ""
                rows.append((
                    f"{name}, {count(row['sessions'], 'session')}{piped}", number(rate(row)),
                    micros(row["p50_us"]), micros(row["p99_us"]), micros(row["p999_us"]),
                    number(row["server_cpu_us_per_message"]), f"{flushes_of(row):.3f}",
                    row["lost"], row["duplicates"], row["errors"],
                ))
    heads = ["load", "messages/s", "p50", "p99", "p99.9", "CPU µs a message", "flushes a message",
             "lost", "twice", "errors"]
    return table(heads, rows)
