"""Opening a large store after `kill -9`, and what its index takes of memory. Takes minutes and some
gigabytes: `LARGE_STORE=1000000` runs it, and `LARGE_STORE=10000000` takes 20 GB."""

import json
import os
import smtplib
import subprocess
import time
import unittest

import kura

MESSAGES = int(os.environ.get("LARGE_STORE", "0"))
KILLS = 5


@unittest.skipUnless(MESSAGES, "LARGE_STORE=1000000 runs it")
class LargeStore(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        # As quickstart finds the disk: with segments of the size that such a store has.
        cls.server = kura.Kura(profiled=False)
        cls.addClassCleanup(cls.server.remove)
        cls.server.start()

    def test_a_large_store_takes_mail_soon_after_a_kill(self):
        load = [
            kura.BINARY, "bench", "smtp", "--target", f"127.0.0.1:{self.server.ports['smtp']}",
            "--to", ",".join(address for address, _ in self.server.accounts), "--json",
            "--messages", str(MESSAGES), "--sessions", "64", "--bytes", "1024", "--pipelining", "--seconds", "3600", "--timeout", "600",
        ]
        done = subprocess.run(load, capture_output=True, text=True, check=False, timeout=3600)
        said = json.loads(done.stdout)
        self.assertEqual((said["messages"], said["errors"]), (MESSAGES, 0), said["error_samples"])
        sender, recipient = "large@example.net", self.server.accounts[0][0]
        seconds, memory = [], []
        for round_ in range(KILLS):
            memory.append(self.anonymous_bytes())
            self.server.kill()
            start = time.monotonic()
            self.server.start()
            with smtplib.SMTP("127.0.0.1", self.server.ports["smtp"], timeout=10) as smtp:
                smtp.sendmail(sender, [recipient], f"Subject: {round_}\r\n\r\nAfter a kill.\r\n")
            seconds.append(time.monotonic() - start)
        stats = json.loads(self.server.command("store", "stats", "--json").stdout)
        self.assertEqual(stats["messages"], MESSAGES + KILLS)
        print(f"\n  {MESSAGES} messages, from exec to a 250:", *(f"{s:.2f} s" for s in seconds), end=" ")
        print(f"\n  own memory, bytes a message: {memory[0] / MESSAGES:.0f} after the load,", end=" ")
        print(*(f"{each / MESSAGES:.0f}" for each in memory[1:]), "once opened again", end=" ")

    def anonymous_bytes(self):
        """What the server has for itself; the files that it maps are the page cache's."""
        with open(f"/proc/{self.server.process.pid}/status", encoding="ascii") as status:
            fields = dict(line.split(":", 1) for line in status)
        return int(fields["RssAnon"].split()[0]) * 1024
