"""Opening a large store after `kill -9`. Takes minutes and some gigabytes: `LARGE_STORE=1000000` runs it."""

import json
import os
import socket
import subprocess
import time
import unittest

import kura

MESSAGES = int(os.environ.get("LARGE_STORE", "0"))


@unittest.skipUnless(MESSAGES, "LARGE_STORE=1000000 runs it")
class LargeStore(kura.TestCase):
    def test_a_large_store_takes_mail_soon_after_a_kill(self):
        load = [
            kura.BINARY, "bench", "smtp", "--target", f"127.0.0.1:{self.server.ports['smtp']}",
            "--to", ",".join(address for address, _ in self.server.accounts), "--json",
            "--messages", str(MESSAGES), "--sessions", "64", "--bytes", "1024", "--pipelining",
        ]
        done = subprocess.run(load, capture_output=True, text=True, check=False, timeout=1800)
        said = json.loads(done.stdout)
        self.assertEqual((said["messages"], said["errors"]), (MESSAGES, 0), said["error_samples"])
        seconds = []
        for _ in range(5):
            self.server.kill()
            start = time.monotonic()
            self.server.start()
            with socket.create_connection(("127.0.0.1", self.server.ports["smtp"]), 10) as smtp:
                self.assertTrue(smtp.recv(100).startswith(b"220 "))
            seconds.append(time.monotonic() - start)
        stats = json.loads(self.server.command("store", "stats", "--json").stdout)
        self.assertEqual(stats["messages"], MESSAGES)
        print(f"\n  {MESSAGES} messages, from exec to the greeting:", *(f"{s:.2f} s" for s in seconds), end=" ")
