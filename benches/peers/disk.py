"""What the bare disk does, measured beside the servers in the same run and file system.

Sequential synced writes: O_DIRECT pwrite and fdatasync, one after the other, into a file whose
blocks were written before (as Kura's segments are), and into a fresh one.
"""

import mmap
import os
import time


def _percentile(sorted_values, share):
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def synced_writes(path, size, file_bytes, seconds, prewritten):
    """Writes of `size` bytes, each synced, for about `seconds`; latency in µs and MB/s."""
    block = mmap.mmap(-1, size)  # page-aligned, as O_DIRECT wants
    block.write(os.urandom(min(size, 1 << 20)) * (size // min(size, 1 << 20)))
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    fd = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
    try:
        if prewritten:
            chunk = mmap.mmap(-1, 1 << 20)
            for offset in range(0, file_bytes, 1 << 20):
                os.pwrite(fd, chunk, offset)
            os.fsync(fd)
        times, offset, start = [], 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            os.pwrite(fd, block, offset)
            os.fdatasync(fd)
            times.append(time.perf_counter() - before)
            offset += size
            if offset + size > file_bytes:
                if not prewritten:
                    break
                offset = 0
        spent = time.perf_counter() - start
    finally:
        os.close(fd)
        os.unlink(path)
    times.sort()
    return {
        "bytes": size,
        "prewritten": prewritten,
        "p50_us": round(_percentile(times, 0.5) * 1e6, 1),
        "p99_us": round(_percentile(times, 0.99) * 1e6, 1),
        "megabytes_per_second": round(len(times) * size / spent / 1e6, 1),
    }


# (bytes of a write, bytes of the file)
WRITES = [(4096, 64 << 20), (256 << 10, 512 << 20), (1 << 20, 1 << 30)]


def measure(directory, seconds, writes=WRITES):
    """Flush latency at 4 KiB, bandwidth at 256 KiB and 1 MiB, pre-written and fresh. Other `writes`
    begin with 4 KiB, too."""
    path = os.path.join(directory, "bare-disk")
    points = []
    for size, file_bytes in writes:
        for prewritten in (True, False):
            points.append(synced_writes(path, size, file_bytes, seconds, prewritten))
    best = max(p["megabytes_per_second"] for p in points if p["prewritten"])
    return {
        "points": points,
        "flush_4k_p50_us": points[0]["p50_us"],
        "synced_sequential_megabytes_per_second": best,
    }
