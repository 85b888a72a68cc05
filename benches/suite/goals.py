"""The goals of the design ("Speed, memory, and how to show it"), and whether this run meets them."""

import dataclasses

from plot import micros, number, size

MET, MISSED, OPEN = "met", "missed", "not measured"

INTAKE_POSTFIX, INTAKE_LMTP = 40, 12
CPU_US = 100
BANDWIDTH_SHARE, BANDWIDTH_FROM = 0.8, 100 << 10
WRITTEN_SMALL, WRITTEN_LARGE, WRITTEN_LARGE_FROM = 1.5, 1.15, 16 << 10
FLUSHES = 0.2
P99_FLUSHES = 4
OPEN_SECONDS, OPEN_MESSAGES = 1.0, 10_000_000
FETCH_TIMES = 3
# Of compaction's steady state: bytes written for each byte received.
COMPACTION = 1.6


@dataclasses.dataclass
class Verdict:
    what: str
    goal: str
    found: str
    status: str


def _verdict(what, goal, found, is_met):
    return Verdict(what, goal, found, MET if is_met else MISSED)


def _missing(what, goal, why):
    return Verdict(what, goal, why, OPEN)


def _intake(data, times, rival, name):
    """Kura's rate against a rival's, at each number of sessions from 16 to 64; the worst counts."""
    what, goal = f"durable intake, 4 KiB, against {name}", f"{times}x at 16–64 sessions"
    found = {}
    for pipelining in (False, True):
        for sessions in (16, 64):
            ours, theirs = data.row("kura", 4096, sessions, pipelining), rival(sessions, pipelining)
            if ours and theirs:
                found[sessions, pipelining] = ours["messages_per_second"] / max(
                    1e-9, theirs["messages_per_second"]
                )
    plain = {key: value for key, value in found.items() if not key[1]}
    if not plain:
        return _missing(what, goal, "the peer was not measured in this run")
    words = ", ".join(
        f"{number(value)}x at {sessions}{' pipelined' if pipelining else ''}"
        for (sessions, pipelining), value in found.items()
    )
    return _verdict(what, goal, words, min(plain.values()) >= times)


def _bandwidth(data):
    what = "durable intake, 100 KiB and up"
    goal = f"{BANDWIDTH_SHARE:.0%} of the disk's synced sequential bandwidth"
    rows = [r for r in data.rows if r["server"] == "kura" and r["bytes"] >= BANDWIDTH_FROM]
    if not rows:
        return _missing(what, goal, "no such messages in this run")
    best, fresh = data.bandwidth(True), data.bandwidth(False)
    by_size = {}
    for row in rows:
        by_size[row["bytes"]] = max(by_size.get(row["bytes"], 0), row["megabytes_per_second"])
    words = "; ".join(
        f"{size(each)}: {rate / best:.0%} of {number(best)} MB/s pre-written, "
        f"{rate / fresh:.0%} of {number(fresh)} MB/s fresh"
        for each, rate in sorted(by_size.items())
    )
    return _verdict(what, goal, words, min(by_size.values()) >= BANDWIDTH_SHARE * best)


def _written(data):
    what = "bytes written per byte received, by the device's count"
    goal = f"at most {WRITTEN_SMALL} at 4 KiB and 16 sessions, {WRITTEN_LARGE} from 16 KiB on"
    rows = [row for row in data.by_size("kura", False) if row["bytes"] >= 4096]
    if not rows:
        return _missing(what, goal, "not measured in this run")
    bounds = [
        (row, WRITTEN_LARGE if row["bytes"] >= WRITTEN_LARGE_FROM else WRITTEN_SMALL)
        for row in rows
    ]
    words = ", ".join(
        f"{row['written_per_byte']:.2f} at {size(row['bytes'])} (own count {row['own_written_per_byte']:.2f})" for row in rows
    )
    return _verdict(what, goal, words, all(row["written_per_byte"] <= bound for row, bound in bounds))


def _at_16(data, what, goal, key, most, form):
    row = data.row("kura")
    if not row:
        return _missing(what, goal, "not measured in this run")
    return _verdict(what, goal, form(row[key]), row[key] <= most)


def _half_load(data):
    what, goal = "p99 of the 250 at half load", f"at most {P99_FLUSHES}x the disk's p50 flush"
    row = data.row("kura")
    if not row or "half_load" not in row:
        return _missing(what, goal, "not measured in this run")
    p99, flush = row["half_load"]["p99_us"], data.flush_us()
    words = f"{micros(p99)}, {number(p99 / flush)}x a flush of {micros(flush)}"
    return _verdict(what, goal, words, p99 <= P99_FLUSHES * flush)


def _beside(data):
    what = "p99 of the 250 beside compaction, scrub and backup"
    goal = f"at most {P99_FLUSHES}x the disk's p50 flush"
    if not data.compaction:
        return _missing(what, goal, "not measured in this run")
    flush, most = data.flush_us(), max(found["beside"]["p99_us"] for found in data.compaction)
    words = "; ".join(
        f"{micros(found['beside']['p99_us'])} at {number(found['rate'])} messages/s of {size(found['message_bytes'])}"
        for found in data.compaction
    )
    return _verdict(what, goal, f"{words}, {number(most / flush)}x a flush of {micros(flush)}", most <= P99_FLUSHES * flush)


def _open(data):
    what, goal = "open after kill -9, 10 M messages", "under 1 s to accept mail"
    if not data.recovery:
        return _missing(what, goal, "not measured in this run")
    last = data.recovery[-1]
    words = f"{number(median(last['seconds']))} s at {last['messages']:,} messages"
    if last["messages"] < OPEN_MESSAGES:
        missed = max(last["seconds"]) >= OPEN_SECONDS
        return Verdict(what, goal, f"10 M were not tried; {words}", MISSED if missed else OPEN)
    return _verdict(what, goal, words, max(last["seconds"]) < OPEN_SECONDS)


def _fetch(data):
    """Against the faster of Dovecot's two stores, which is asked a second time."""
    what, goal = "FETCH ENVELOPE of 10 k messages, cold", f"{FETCH_TIMES}x Dovecot with warm caches"
    found = {(f["server"], f["state"]): median(f["seconds"]) for f in data.fetch or ()}
    theirs = [value for (server, state), value in found.items() if server != "kura" and state == "warm"]
    ours = found.get(("kura", "cold"))
    if not ours or not theirs:
        return _missing(what, goal, "needs Dovecot, and root to empty the page cache")
    words = f"{micros(ours * 1e6)} against {micros(min(theirs) * 1e6)}: {number(min(theirs) / ours)}x"
    return _verdict(what, goal, words, min(theirs) >= FETCH_TIMES * ours)


def median(values):
    return sorted(values)[len(values) // 2]


def all_of(data):
    elsewhere = "no part of this suite"
    return [
        _intake(data, INTAKE_POSTFIX, data.best_postfix, "Postfix + Dovecot"),
        _intake(
            data,
            INTAKE_LMTP,
            lambda sessions, pipelining: data.row("dovecot-lmtp-mdbox", 4096, sessions, pipelining),
            "Dovecot LMTP into mdbox",
        ),
        _missing(
            "durable intake, 4 KiB, against a bare skeleton",
            "three quarters of it",
            "the skeleton is not kept; no run has it beside Kura",
        ),
        _at_16(
            data,
            "server CPU per 4 KiB message, 16 sessions",
            f"at most {CPU_US} µs",
            "server_cpu_us_per_message",
            CPU_US,
            lambda value: f"{number(value)} µs",
        ),
        _bandwidth(data),
        _written(data),
        _at_16(
            data,
            "flushes per message, 16 sessions, own count",
            f"at most {FLUSHES}",
            "own_flushes_per_message",
            FLUSHES,
            number,
        ),
        _half_load(data),
        _beside(data),
        _open(data),
        _fetch(data),
        _missing("memory of an idle IMAP session", "at most 16 KiB", elsewhere),
        _missing("index memory", "at most 64 bytes a message", elsewhere),
    ]
