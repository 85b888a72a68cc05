"""From exec to the greeting after `kill -9`, against the size of the store.

Each kill follows a load, so that each opening has something to replay."""

import os

MESSAGE_BYTES, SESSIONS = 1024, 64
# Of the store's messages, before each kill but the first.
MORE = 0.02


def measure(server, bench, sizes, kills, say):
    """One store that grows; at each size it is killed right after the load, and some times more, each after a little mail."""
    points, there = [], 0
    for wanted in sizes:
        seconds, acknowledged = [], 0
        more = max(1, int(wanted * MORE))
        for number in range(kills):
            # The size that was asked for is there at the last kill.
            count = more if number else wanted - there - more * (kills - 1)
            acknowledged += bench.run(server, messages=count, sessions=SESSIONS, bytes=MESSAGE_BYTES)["messages"]
            server.kill()
            seconds.append(server.seconds_to_greeting())
        stats = server.stats()
        there = stats["messages"]
        points.append({
            "messages": there,
            "acknowledged": acknowledged,
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
