"""Power cuts on real file systems, under load: nothing acknowledged is lost, nothing comes twice.

The file system is shut down: what it has not written, its journal included, is gone. What it has handed to
the loop device stays, so a volatile write cache is not part of this; the crash simulator has one.
"""

import os
import time
import tomllib
import unittest
import urllib.request

import kura
import messages
from disks import LoopDisk
from ledger import Ledger

CUTS = int(os.environ.get("POWER_CUTS", "100"))  # half of them on each file system
SEED = int(os.environ.get("POWER_SEED", "1"))
RATE = 1000  # messages a second


class PowerCut(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        pass  # each test has a server on a disk of its own

    def serve_on(self, kind):
        self.disk = LoopDisk(self, 2048, kind)
        server = kura.Kura(os.path.join(self.disk.place, "kura"))
        server.log_path = os.path.join(self.disk.base, "log")
        self.addCleanup(server.remove)
        return server.start()

    def cuts(self, kind):
        server = self.serve_on(kind)
        ledger = Ledger(self, server, os.path.join(self.disk.base, "acknowledged"), SEED)

        def cut():
            self.disk.cut_power()
            # The server lives on for a moment, on a disk that fails: whatever it
            # acknowledges now counts.
            time.sleep(ledger.random.uniform(0.0, 0.05))
            server.kill()
            self.disk.unmount()

        for number in range(CUTS // 2):
            with self.subTest(cut=number):
                ledger.load_until(number, RATE, 0.3, cut)
                self.disk.mount()
                server.start()
                ledger.check()
                ledger.expunge_some()
        self.assertGreater(ledger.total(), CUTS * 5, "hardly any load")
        ledger.check_again_after_a_stop()
        print(f"\n  {CUTS // 2} power cuts on {kind}, {ledger.summary()}", end=" ")

    def test_power_cuts_on_ext4_lose_nothing_acknowledged(self):
        self.cuts("ext4")

    def test_power_cuts_on_xfs_lose_nothing_acknowledged(self):
        self.cuts("xfs")

    def test_a_disk_that_fails_halts_the_shard_and_it_says_so(self):
        server = self.serve_on("ext4")
        with open(os.path.join(server.directory, "kura.toml"), "rb") as file:
            metrics = f"http://{tomllib.load(file)['metrics']['listen']}/metrics"
        kept = messages.header("kept") + b"text\r\n"
        self.assertTrue(server.deliver(kept).startswith("250"))
        self.disk.cut_power()
        for account in range(len(server.accounts)):
            try:
                reply = server.deliver(messages.header("refused") + b"text\r\n", to=account)
            except kura.Unexpected as refused:  # at MAIL already, by a shard that has halted
                reply = refused.reply
            self.assertTrue(reply.startswith("451"), reply)
        self.assertTrue(kura.eventually(lambda: "the store has halted: a write failed" in server.log(), 10))
        with urllib.request.urlopen(metrics, timeout=10) as page:
            self.assertIn('kura_store_halted{shard="0"} 1', page.read().decode())
        # Whoever comes later hears it at once, and others are served as before.
        with server.smtp() as smtp:
            self.assertEqual(smtp.ehlo("client.example.net")[0], 250)
        server.kill()
        self.disk.unmount()
        self.disk.mount()
        server.start()
        bodies = list(server.bodies().values())
        self.assertEqual(len(bodies), 1)
        self.assertTrue(bodies[0].endswith(kept))
        self.assertTrue(server.deliver(messages.header("again") + b"text\r\n").startswith("250"))


if __name__ == "__main__":
    unittest.main()
