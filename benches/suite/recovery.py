"""From exec to the greeting after `kill -9`, against the size of the store."""

import os

MESSAGE_BYTES, SESSIONS = 1024, 64


def measure(server, bench, sizes, kills, say):
    """One store that grows; at each size it is killed right after the load, and some times more."""
    points, there = [], 0
    for wanted in sizes:
        load = bench.run(
            server, messages=wanted - there, sessions=SESSIONS, bytes=MESSAGE_BYTES
        )
        seconds = []
        for _ in range(kills):
            server.kill()
            seconds.append(server.seconds_to_greeting())
        stats = server.stats()
        there = stats["messages"]
        points.append({
            "messages": there,
            "acknowledged": load["messages"],
            "store_bytes": bytes_below(server.data),
            "log_bytes": stats["log_bytes"],
            "seconds": seconds,
            # By the engine's own clock, of its slowest shard.
            "own_seconds": max(each["recovery_micros"] for each in stats["shards"]) / 1e6,
            "records_replayed": sum(each["recovery_records"] for each in stats["shards"]),
            "lost": wanted - there,
        })
        say(f"  {there} messages: greeting after {sorted(seconds)[len(seconds) // 2] * 1000:.0f} ms")
    return points


def bytes_below(directory):
    """What the files take on the disk."""
    total = 0
    for place, _, files in os.walk(directory):
        total += sum(os.lstat(os.path.join(place, name)).st_blocks * 512 for name in files)
    return total
