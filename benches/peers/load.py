"""One load at one server, with what it cost: shared by `benches/peers/run` and `benches/run`."""

import dataclasses
import json
import os
import subprocess
import time

import meters
import shown
from servers import NotThere


def wait_drained(server, seconds=300):
    end = time.monotonic() + seconds
    while not server.drained():
        if time.monotonic() > end:
            raise NotThere(f"{server.name} has not delivered its queue after {seconds} s")
        time.sleep(0.01)


@dataclasses.dataclass
class Bench:
    """How to load, and how long."""

    # The load program: `kura bench smtp`, or one that takes the same arguments.
    program: list
    device: meters.Disk
    seed: int
    # That each load should take, roughly; the count follows from a short trial.
    seconds: float
    # Each look at what others write.
    quiet_seconds: float
    pipelining: bool = False
    # An open loop at half the rate found, too.
    half_load: bool = True
    # No load sends more than so many bytes, whatever its rate.
    bytes_max: int = 1 << 62

    def command(self, server, **what):
        """The load program at this server; `what` are its further options."""
        command = [*self.program, "--json", "--target", f"127.0.0.1:{server.smtp_port}"]
        command += ["--to", ",".join(address for address, _ in server.accounts)]
        command += ["--seed", str(self.seed)]
        command += ["--lmtp"] if server.lmtp else []
        command += ["--pipelining"] if self.pipelining else []
        for name, value in what.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        return command

    def run(self, server, **what):
        """One run of the load program; its report."""
        command = self.command(server, **what)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise NotThere(f"the load program failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def count(self, server, size, sessions):
        """How many messages take about as long as wanted. Warms the server, too."""
        # Closed loops of different speed get different counts, so that each runs for about as long.
        load = {"bytes": size, "sessions": sessions}
        start = time.monotonic()
        trial = self.run(server, messages=8 * sessions, **load)
        wait_drained(server)
        rate = trial["messages"] / (time.monotonic() - start)
        trial_count = min(int(rate * min(1.0, self.seconds)), self.bytes_max // size)
        trial = self.run(server, messages=max(8 * sessions, trial_count), **load)
        wait_drained(server)
        wanted = min(int(trial["messages_per_second"] * self.seconds), self.bytes_max // size)
        return max(16 * sessions, wanted)

    def measure(self, server, size, sessions):
        """One load at one server, with what it cost."""
        messages = self.count(server, size, sessions)
        load = {"bytes": size, "sessions": sessions}
        device, first = self.device, shown.next_uids(server.imap_port, server.accounts)

        # Space that a server writes ahead is there now: what it costs to have it is in
        # nobody's figures.
        background = device.settled(self.quiet_seconds)
        log = os.path.join(server.directory, "acknowledged")
        cpu, written, own = meters.cpu_seconds(server.roots()), device.counters(), server.stats()
        start = time.monotonic()
        result = self.run(server, messages=messages, log=log, **load)
        wait_drained(server)
        # The load program's own start is not the server's time; the drain of a queue is.
        drain = max(0.0, time.monotonic() - start - result["seconds"] - 0.1)
        # What it left to do afterwards is part of its cost: on the disk, and of CPU.
        after = device.settled(min(1.0, self.quiet_seconds))
        cpu = meters.cpu_seconds(server.roots()) - cpu
        elapsed = time.monotonic() - start
        written = [now - before for before, now in zip(written, device.counters())]
        own_after = server.stats()

        copies = shown.messages_of(server.imap_port, server.accounts, result["run_id"], first)
        visible = set(copies)
        distinct, lost = len(visible), len(shown.acknowledged(log) - visible)
        received = distinct * size
        per = lambda amount: amount / max(1, distinct)  # noqa: E731
        row = {
            "server": server.name,
            "version": server.version(),
            "bytes": size,
            "sessions": sessions,
            "pipelining": self.pipelining,
            "acknowledged": result["messages"],
            "visible": distinct,
            "duplicates": len(copies) - distinct,
            "lost": lost,
            "errors": result["errors"],
            "error_samples": result["error_samples"],
            "seconds": result["seconds"] + drain,
            "messages_per_second": distinct / (result["seconds"] + drain),
            "megabytes_per_second": received / (result["seconds"] + drain) / 1e6,
            "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
            "p999_us": result["p999_us"],
            "transaction_p50_us": result["transaction_p50_us"],
            "server_cpu_us_per_message": per(cpu * 1e6),
            "client_cpu_us_per_message": result["client_cpu_us_per_message"],
            "written_per_byte": max(0.0, written[0] - background[0] * elapsed) / max(1, received),
            "flushes_per_message": per(max(0.0, written[1] - background[1] * elapsed)),
            "background_bytes_per_second": background[0],
            "background_flushes_per_second": background[1],
            "background_after_bytes_per_second": after[0],
        }
        if own and own_after:
            own_bytes = own_after["bytes_written"] - own["bytes_written"]
            own_flushes = own_after["flushes"] - own["flushes"]
            own_moved = own_after.get("bytes_moved", 0) - own.get("bytes_moved", 0)
            row["own_written_per_byte"] = own_bytes / max(1, received)
            row["own_moved_per_byte"] = own_moved / max(1, received)
            row["own_flushes_per_message"] = per(own_flushes)
            row["own_bytes_per_flush"] = own_bytes / max(1, own_flushes)
        half = row["messages_per_second"] / 2
        if self.half_load and half >= 1:
            count = max(100, int(half * self.seconds / 3))
            open_loop = self.run(server, messages=count, open_rate=half, **load)
            wait_drained(server)
            row["half_load"] = {
                key: open_loop[key]
                for key in ("p50_us", "p99_us", "p999_us", "lag_p99_us", "errors")
            }
        return row
