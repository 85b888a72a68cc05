"""Which loads each part asks for, how long a run of each scale takes, and running them."""

import dataclasses
import imaplib
import itertools
import os
import shutil
import subprocess

from servers import NotThere

PARTS = ["flush", "throughput", "latency", "sizes", "recovery", "compaction", "fetch"]
SMALL = 4096
# What may go wrong with one server without ending the run.
PROBLEMS = (NotThere, OSError, ValueError, subprocess.SubprocessError, imaplib.IMAP4.error)
LATENCY_SESSIONS = SIZES_SESSIONS = 16


@dataclasses.dataclass(frozen=True)
class Scale:
    # Seconds: of a load, of each look at the idle device, of the probe, of each point
    # of the bare disk.
    seconds: float
    quiet: float
    probe: int
    disk: float
    sessions: tuple
    peer_sessions: tuple
    sizes: tuple
    peer_sizes: tuple
    # Nothing sends more than so many bytes in one load.
    bytes_max: int
    # Messages in the store, and how often it is killed at each number.
    recovery: tuple
    kills: int
    # Bytes in the store when compaction begins, seconds of each half, sizes of
    # messages, of segments.
    fill: int
    churn: float
    churn_sizes: tuple
    segment: int
    # A file that the bare disk writes to.
    disk_file: int
    free_bytes: int
    # Messages in the mailbox of which all envelopes are fetched, and how often.
    envelopes: int = 10_000
    fetches: int = 5
    accounts: int = 16


SIZES = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
FULL = Scale(
    seconds=8, quiet=2.0, probe=60, disk=2.0,
    sessions=(1, 4, 16, 64, 256), peer_sessions=(1, 16, 64), sizes=SIZES,
    peer_sizes=(16 << 10, 64 << 10, 256 << 10, 1 << 20), bytes_max=4 << 30,
    recovery=(100_000, 300_000, 1_000_000), kills=5, fill=1 << 30, churn=60,
    churn_sizes=(4 << 10, 16 << 10), segment=16 << 20, disk_file=1 << 30, free_bytes=30 << 30,
)
QUICK = Scale(
    seconds=1.5, quiet=0.35, probe=25, disk=0.5,
    sessions=(1, 4, 16, 64, 256), peer_sessions=(16, 64), sizes=SIZES,
    peer_sizes=(1 << 20,), bytes_max=1 << 30,
    recovery=(10_000, 50_000), kills=3, fill=384 << 20, churn=8,
    churn_sizes=(16 << 10,), segment=4 << 20, disk_file=512 << 20, free_bytes=10 << 30, accounts=8,
)
# Shows that everything works, and nothing else.
TINY = Scale(
    seconds=0.1, quiet=0.02, probe=3, disk=0.02,
    sessions=(1, 16), peer_sessions=(16,), sizes=(4 << 10, 64 << 10), peer_sizes=(),
    bytes_max=8 << 20, recovery=(200, 400), kills=1, fill=2 << 20, churn=0.5,
    churn_sizes=(4 << 10,), segment=4 << 20, disk_file=4 << 20, free_bytes=1 << 30, envelopes=100,
    fetches=1, accounts=4,
)

SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def wanted(scale, parts, is_kura):
    """Groups of (bytes, sessions, pipelining, half load), each load once whoever asks for it.

    A group shares a server and its directory. Kura has a fresh one for each load: its compaction
    would work on the leavings of the last. A peer, which does nothing in the background, starts once
    a size."""
    found = {}
    sessions = scale.sessions if is_kura else scale.peer_sessions
    sizes = scale.sizes if is_kura else (SMALL, *scale.peer_sizes)
    if "throughput" in parts:
        for pipelining in (False, True):
            found.update({(SMALL, each, pipelining): False for each in sessions})
    if "sizes" in parts:
        for pipelining in (False, True) if is_kura else (False,):
            found.update({(size, SIZES_SESSIONS, pipelining): False for size in sizes})
    if "latency" in parts:
        found[SMALL, LATENCY_SESSIONS, False] = True
    loads = sorted((*load, half_load) for load, half_load in found.items())
    if is_kura:
        return [[load] for load in loads]
    return [list(group) for _, group in itertools.groupby(loads, lambda load: load[0])]


def run(makers, scale, parts, bench, base, say, keep):
    """All loads at all servers, one after another; `keep` gets each row, and what went wrong."""
    for name, make in makers.items():
        for number, group in enumerate(wanted(scale, parts, name == "kura")):
            directory = os.path.join(base, f"{name}-{number}")
            server = make(directory)
            try:
                server.start()
                for size, sessions, pipelining, half_load in group:
                    each = dataclasses.replace(bench, pipelining=pipelining, half_load=half_load)
                    how = ", pipelined" if pipelining else ""
                    say(f"{name}: {size} bytes, {sessions} sessions{how}")
                    row = each.measure(server, size, sessions)
                    say(f"  {row['messages_per_second']:.0f} messages/s, "
                        f"{row['megabytes_per_second']:.1f} MB/s, p99 {row['p99_us'] / 1000:.2f} ms")
                    keep.row(row)
            except PROBLEMS as problem:
                keep.failed(f"{name}, {group[0][0]} bytes", problem)
            finally:
                server.stop()
                shutil.rmtree(directory, ignore_errors=True)
