"""Delivery while as much is expunged over IMAP as comes in: what compaction costs.

A store is filled, and mail comes in at a steady rate without any expunging. Messages chosen at random
are expunged until four fifths of the log are live; then mail comes in for as long again at the same rate, while as many
messages, chosen at random, are expunged. Random is the hard case: mail that dies young leaves whole
segments to free. A third time the store is scrubbed and backed up meanwhile, over and over.
"""

import imaplib
import json
import random
import re
import shutil
import subprocess
import threading
import time

import meters

SESSIONS = 16
# Share of the log that is live when the expunging begins.
LIVE = 0.8
AT_ONCE = 200
# Messages a second: what a client in Python can expunge beside a load.
RATE_MAX = 3000
# Seconds between two scrubs, and between two backups.
UPKEEP_EVERY = 1.0


class Churn:
    """Takes messages away, at random, over one IMAP connection for each account."""

    def __init__(self, server, seed):
        self.random = random.Random(seed)
        self.boxes = []
        for address, password in server.accounts:
            imap = imaplib.IMAP4("127.0.0.1", server.imap_port, timeout=60)
            imap.login(address, password)
            imap.select("INBOX")
            self.boxes.append({"imap": imap, "next": 1, "uids": []})

    def look(self):
        """New UIDs; how many messages there are."""
        for box in self.boxes:
            _, (answer,) = box["imap"].status("INBOX", "(UIDNEXT)")
            following = int(re.search(rb"UIDNEXT (\d+)", answer).group(1))
            box["uids"] += range(box["next"], following)
            box["next"] = following
        return sum(len(box["uids"]) for box in self.boxes)

    def take(self, count):
        """Expunges about `count` messages; how many it were."""
        gone, total = 0, sum(len(box["uids"]) for box in self.boxes)
        for box in self.boxes:
            share = min(len(box["uids"]), round(count * len(box["uids"]) / max(1, total)))
            chosen = []
            for _ in range(share):
                place = self.random.randrange(len(box["uids"]))
                box["uids"][place], box["uids"][-1] = box["uids"][-1], box["uids"][place]
                chosen.append(box["uids"].pop())
            for start in range(0, len(chosen), AT_ONCE):
                some = ",".join(map(str, chosen[start:start + AT_ONCE]))
                box["imap"].uid("STORE", some, "+FLAGS.SILENT", r"(\Deleted)")
                box["imap"].uid("EXPUNGE", some)
                box["imap"].untagged_responses.clear()
            gone += share
        return gone

    def close(self):
        for box in self.boxes:
            box["imap"].logout()


class Samples(threading.Thread):
    """The log's size, and what in it is live, over time."""

    def __init__(self, server, every):
        super().__init__(daemon=True)
        self.server, self.every, self.found, self.over = server, every, [], threading.Event()

    def run(self):
        start = time.monotonic()
        while not self.over.wait(self.every):
            stats = self.server.stats()
            if stats:
                keys = ("log_bytes", "log_live_bytes", "bytes_moved", "segments_freed")
                self.found.append(
                    {"seconds": time.monotonic() - start, **{key: stats[key] for key in keys}}
                )

    def stop(self):
        self.over.set()
        self.join()
        return self.found


class Upkeep(threading.Thread):
    """Scrubs the whole store, and backs it up, one beside the other and over and over: the first backup takes all,
    each further one what has come since."""

    COMMANDS = {"scrub": ["store", "scrub"], "backup": ["store", "backup", "--to"]}

    def __init__(self, server, name):
        super().__init__(daemon=True)
        self.server, self.rounds, self.faults, self.over = server, 0, [], threading.Event()
        self.place = [server.path(f"backup-{time.monotonic_ns()}")] if name == "backup" else []
        self.command = [*self.COMMANDS[name], *self.place]

    def run(self):
        while not self.over.is_set():
            done = self.server.command(*self.command)
            if done.returncode:
                self.faults.append(done.stderr.strip()[:200])
                return
            self.rounds += 1
            # Else it would measure how a command starts.
            self.over.wait(UPKEEP_EVERY)

    def stop(self):
        self.over.set()
        self.join()
        for place in self.place:
            shutil.rmtree(place, ignore_errors=True)
        if self.faults:
            raise ValueError(f"{' '.join(self.command)}: {self.faults[0]}")
        return self.rounds


def measure(server, bench, size, fill_bytes, seconds, say):
    """With messages of `size` bytes, from `fill_bytes` of them on, `seconds` for each part."""
    filled = bench.run(server, messages=fill_bytes // size, sessions=SESSIONS, bytes=size)
    # A third of what the store takes leaves room for the expunging, which shares its cores.
    rate = min(RATE_MAX, filled["messages_per_second"] / 3)
    churn = Churn(server, bench.seed)
    try:
        churn.look()
        without = phase(server, bench, size, None, rate, seconds)
        say("  " + line("without expunging", without))
        stats = server.stats()
        share = stats["log_live_bytes"] / max(1, stats["log_bytes"])
        churn.take(round(churn.look() * max(0, 1 - LIVE / share)))
        bench.device.settled(min(1.0, bench.quiet_seconds))
        with_it = phase(server, bench, size, churn, rate, seconds)
        say("  " + line("with expunging", with_it))
        beside = phase(server, bench, size, churn, rate, seconds, Upkeep.COMMANDS)
        rounds = beside["rounds"]
        say("  " + line(f"with expunging, {rounds['scrub']} scrubs and {rounds['backup']} backups", beside))
    finally:
        churn.close()
    return {
        "message_bytes": size, "sessions": SESSIONS, "messages_filled": filled["messages"],
        "rate": rate, "knobs": server.knobs, "without": without, "with": with_it,
        "beside": beside,
    }


def line(name, phase_):
    return (
        f"{name}: {phase_['written_per_byte']:.2f} bytes written per byte, "
        f"p99 {phase_['p99_us'] / 1000:.2f} ms, {phase_['expunged']} expunged"
    )


def phase(server, bench, size, churn, rate, seconds, upkeep=()):
    """Mail at a steady rate, with or without expunging as much, and with or without upkeep meanwhile."""
    before = server.stats()
    background = bench.device.settled(min(1.0, bench.quiet_seconds))
    device, cpu = bench.device.counters(), meters.cpu_seconds(server.roots())
    samples = Samples(server, max(0.1, seconds / 40))
    start = time.monotonic()
    samples.start()
    # Begun behind the look at the idle device, and over before the next.
    beside = {name: Upkeep(server, name) for name in upkeep}
    for each in beside.values():
        each.start()
    command = bench.command(
        server, bytes=size, sessions=SESSIONS, open_rate=rate,
        messages=max(100, int(rate * seconds)),
    )
    expunged, is_over = 0, False
    try:
        # Before anything comes: on a slow host a short load is half over by the time that a
        # client is answered.
        keep = churn.look() if churn else 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
            while not is_over:
                # Asked first, so that the last look sees all that came.
                is_over = load.poll() is not None
                surplus = churn.look() - keep if churn else 0
                expunged += churn.take(surplus) if surplus > 0 else 0
                time.sleep(0.02)
            result = json.loads(load.stdout.read())
    finally:
        rounds = {name: each.stop() for name, each in beside.items()}
    elapsed = time.monotonic() - start
    cpu = meters.cpu_seconds(server.roots()) - cpu
    found = samples.stop()
    # What it left to do is part of its cost.
    bench.device.settled(min(1.0, bench.quiet_seconds))
    waited = time.monotonic() - start
    after, device_after = server.stats(), bench.device.counters()
    change = {key: after[key] - before[key] for key in after if isinstance(after[key], int)}
    received = max(1, change["bytes_received"])
    return {
        "acknowledged": result["messages"], "errors": result["errors"], "seconds": elapsed,
        "expunged": expunged, "rounds": rounds,
        "p50_us": result["p50_us"], "p99_us": result["p99_us"], "p999_us": result["p999_us"],
        "lag_p99_us": result["lag_p99_us"],
        "written_per_byte": change["bytes_written"] / received,
        "device_written_per_byte":
            max(0.0, device_after[0] - device[0] - background[0] * waited) / received,
        "server_cpu_us_per_message": cpu * 1e6 / max(1, result["messages"]),
        **{key: change[key] for key in
           ("bytes_received", "bytes_written", "bytes_moved", "bytes_based", "segments_freed")},
        "live_bytes_grown": change["log_live_bytes"],
        "live_share_start": before["log_live_bytes"] / max(1, before["log_bytes"]),
        "live_share_end": after["log_live_bytes"] / max(1, after["log_bytes"]),
        "samples": found,
    }
