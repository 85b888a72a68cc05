#!/usr/bin/env python3
"""What knobs are worth to the whole server on this disk: `kura quickstart` with the profile that it
measured, then with those of a consumer SSD and of a single platter, loaded by `kura bench smtp`.

    benches/knobs.py [DIR]          DIR is on the disk to use; KURA names the binary (target/release/kura)
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target")
BINARY = os.environ.get("KURA", f"{TARGET}/release/kura")
START_SECONDS = 60
# What is no part of the store, and stays when a directory starts over with another profile.
KEPT = {"kura.toml", "profile.toml", "certificates"}
LOADS = [(16, 20_000), (64, 40_000)]


class Server:
    """One server on a directory, stopped by its process id."""

    def __init__(self, directory):
        command = [BINARY, "quickstart", "--json", "--free-ports", "--dir", directory]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line.startswith(b"{"):
            self.stop()
            sys.exit(f"knobs: {BINARY} did not start in {directory}: {line!r}")
        said = json.loads(line)
        self.port, self.address = said["ports"]["smtp"], said["accounts"][0]["address"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.process.stdout.close()

    def load(self, sessions, messages):
        done = subprocess.run(
            [BINARY, "bench", "smtp", "--target", f"127.0.0.1:{self.port}", "--to", self.address,
             "--sessions", str(sessions), "--messages", str(messages), "--bytes", "4096", "--json"],
            capture_output=True, text=True, check=True,
        )
        return json.loads(done.stdout)


def stats(directory):
    done = subprocess.run([BINARY, "store", "stats", "--json", "--dir", directory],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def start_over(directory, profile):
    """An empty store with another profile in the place of the measured one."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name not in KEPT:
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    with open(os.path.join(directory, "profile.toml"), "w") as file:
        file.write(profile)


def main():
    place = sys.argv[1] if len(sys.argv) > 1 else None
    directory = tempfile.mkdtemp(prefix="kura-knobs-", dir=place)
    try:
        Server(directory).stop()
        with open(os.path.join(directory, "profile.toml")) as file:
            profiles = {"this disk's": file.read()}
        for name in ["nvme-consumer", "rotating"]:
            with open(f"{ROOT}/hwprofiles/profiles/{name}.toml") as file:
                # The host is this one: only the disk is taken for another.
                profiles[name] = re.sub(r"cores = \d+", f"cores = {os.cpu_count()}", file.read())
        print(f"{'knobs':<16} {'sessions':>8} {'messages/s':>10} {'p50 / p99 / p99.9 ms':>24} {'flushes/message':>16}")
        for name, profile in profiles.items():
            start_over(directory, profile)
            server = Server(directory)
            try:
                for sessions, messages in LOADS:
                    server.load(sessions, messages // 10)
                    before = stats(directory)["flushes"]
                    said = server.load(sessions, messages)
                    flushes = (stats(directory)["flushes"] - before) / messages
                    millis = " / ".join(f"{said[key] / 1000:.2f}" for key in ("p50_us", "p99_us", "p999_us"))
                    rate = said["messages_per_second"]
                    print(f"{name:<16} {sessions:>8} {rate:>10.0f} {millis:>24} {flushes:>16.3f}", flush=True)
            finally:
                server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
