"""What a server cost: CPU of all its processes, and what reached the disk.

CPU comes from /proc: user and system time of every process below the server's roots, with that of
children already reaped, so that short-lived processes count.

Bytes and flushes come from the block device under the data (field 7 and field 16 of
/sys/block/*/stat), because what a file system adds (journal, metadata) is written by the kernel and
belongs to no process. Whoever else writes to the device at the same time is counted too: the
background is measured before each run, once the device is quiet, and stated.
"""

import os
import time

TICKS = os.sysconf("SC_CLK_TCK")
SECTOR = 512
QUIET_BYTES_PER_SECOND = 2_000_000


def _stat(pid):
    """(parent, CPU ticks with reaped children) of a process, or None when it has gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name may hold blanks and brackets; what follows its last bracket is numbers.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), sum(int(field) for field in fields[11:15])


def cpu_seconds(roots):
    """User + system time of the trees below `roots`."""
    processes = {int(name): _stat(name) for name in os.listdir("/proc") if name.isdigit()}
    children = {}
    for pid, stat in processes.items():
        if stat:
            children.setdefault(stat[0], []).append(pid)
    total, left = 0, list(roots)
    while left:
        pid = left.pop()
        stat = processes.get(pid)
        if stat:
            total += stat[1]
        left.extend(children.get(pid, []))
    return total / TICKS


def resident_bytes(roots):
    """Proportional set size would be fairer, but costs a walk of all pages; RSS of the roots only."""
    total = 0
    for pid in roots:
        with open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


class Disk:
    """The block device under a path."""

    def __init__(self, path):
        device = os.stat(path).st_dev
        link = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        self.known = os.path.exists(os.path.join(link, "stat"))
        # A partition has no flush counter of its own: use the whole disk's.
        whole = os.path.dirname(link) if os.path.exists(os.path.join(link, "partition")) else link
        self.name = os.path.basename(whole)
        self._stat = os.path.join(whole, "stat")

    def counters(self):
        """(bytes written, flushes) since boot; zeroes where the kernel does not tell."""
        if not self.known:
            return 0, 0
        with open(self._stat) as file:
            fields = [int(field) for field in file.read().split()]
        return fields[6] * SECTOR, fields[15] if len(fields) > 15 else 0

    def background(self, seconds):
        """Bytes and flushes a second that others cause."""
        os.sync()
        before = self.counters()
        time.sleep(seconds)
        after = self.counters()
        return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds

    def settled(self, seconds, most=20):
        """The background, once what a server does after a load (space written ahead, checkpoints) is
        done; or what it still is after `most` looks."""
        for _ in range(most):
            background = self.background(seconds)
            if background[0] < QUIET_BYTES_PER_SECOND:
                break
        return background
