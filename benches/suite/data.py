"""What suite.json holds, and how to ask for it. Whoever draws asks here, so that what is missing is
said in one place."""

SERVERS = {
    "kura": ("Kura", "kura"),
    "postfix-dovecot-maildir": ("Postfix + Dovecot, maildir", "maildir"),
    "postfix-dovecot-mdbox": ("Postfix + Dovecot, mdbox", "mdbox"),
    "dovecot-lmtp-mdbox": ("Dovecot LMTP, mdbox", "lmtp"),
}
POSTFIX = ("postfix-dovecot-maildir", "postfix-dovecot-mdbox")
SMALL = 4096


class Malformed(Exception):
    """A suite.json that can't be drawn; the text says what is wrong with it."""


class Data:
    def __init__(self, found):
        if not isinstance(found, dict) or "run" not in found or "rows" not in found:
            raise Malformed("it has no `run` and `rows`; benches/run writes them")
        if found.get("version") != 1:
            raise Malformed(f"its version is {found.get('version')!r}, and 1 is drawn")
        self.run, self.rows, self.failed = found["run"], found["rows"], found["failed"]
        self.profile, self.disk = found.get("profile"), found.get("disk")
        self.disk_after = found.get("disk_after")
        self.recovery, self.compaction = found.get("recovery"), found.get("compaction")
        self.fetch = found.get("fetch")
        self.parts = self.run["parts"]

    def row(self, server, size=SMALL, sessions=16, pipelining=False):
        """The row of a load, or None."""
        wanted = (server, size, sessions, pipelining)
        for row in self.rows:
            if (row["server"], row["bytes"], row["sessions"], row["pipelining"]) == wanted:
                return row
        return None

    def servers(self):
        """Those with rows, Kura first: (key, name, style)."""
        there = {row["server"] for row in self.rows}
        return [(key, *SERVERS[key]) for key in SERVERS if key in there]

    def by_sessions(self, server, pipelining):
        rows = [r for r in self.rows if r["server"] == server and r["bytes"] == SMALL
                and r["pipelining"] == pipelining]
        return sorted(rows, key=lambda row: row["sessions"])

    def by_size(self, server, pipelining):
        rows = [r for r in self.rows if r["server"] == server and r["sessions"] == 16
                and r["pipelining"] == pipelining]
        return sorted(rows, key=lambda row: row["bytes"])

    def best_postfix(self, sessions, pipelining=False):
        """The faster of its two, or None."""
        rows = [self.row(name, SMALL, sessions, pipelining) for name in POSTFIX]
        return max((r for r in rows if r), key=lambda r: r["messages_per_second"], default=None)

    def flush_us(self):
        """The bare disk's p50 of a 4 KiB flush into pre-written space, before the loads."""
        return self.disk["flush_4k_p50_us"]

    def bandwidth(self, prewritten):
        """The bare disk's best synced sequential MB/s."""
        points = [p for p in self.disk["points"] if p["prewritten"] == prewritten]
        return max(p["megabytes_per_second"] for p in points)

    def curve(self, prewritten, streams=1):
        """The profile's flush curve, by size."""
        points = [p for p in self.profile["profile"].get("curve", []) if p["direct"]
                  and p["path"] == "write_fdatasync" and p["prewritten"] == prewritten
                  and p["streams"] == streams]
        return sorted(points, key=lambda point: point["bytes"])


def flushes_of(row):
    """Flushes per message: its own count where it has one, since the device's has everybody's."""
    return row.get("own_flushes_per_message", row["flushes_per_message"])


def losses(found):
    """One line for each load that lost or doubled messages. The suite fails with them."""
    lines = []
    for row in found["rows"]:
        if row["lost"] or row["duplicates"]:
            lines.append(f"{row['server']}, {row['bytes']} bytes, {row['sessions']} sessions: "
                         f"{row['lost']} lost, {row['duplicates']} twice")
    for point in found.get("recovery") or ():
        if point["lost"]:
            lines.append(f"kill -9 at {point['messages']} messages: {point['lost']} lost")
    return lines
