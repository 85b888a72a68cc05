"""`kura store compact`: space of expunged mail comes back at once, with the server running and stopped."""

import json
import unittest

import kura
import messages
from disks import MIB

KEPT, GONE = 4, 40


class Compact(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        pass  # each test has a server of its own

    def serve(self, retention):
        self.server = kura.Kura()
        self.addCleanup(self.server.remove)
        self.server.start()
        if retention != "7d":
            self.server.stop()
            self.server.configure('retention = "7d"', f'retention = "{retention}"')
            self.server.start()
        self.sent = []

    def deliver_and_expunge(self):
        """Some 80 MiB, of which a tenth stays."""
        body = messages.header("large") + messages.lines(2 * MIB)
        for number in range(GONE):
            self.assertTrue(self.server.deliver(body).startswith("250"))
            if number < KEPT:
                kept = messages.header(f"kept {number}") + messages.lines(100_000, seed=number)
                self.assertTrue(self.server.deliver(kept).startswith("250"))
                self.sent.append(kept)
        imap = self.server.imap()
        imap.select("INBOX")
        _, (uids,) = imap.uid("SEARCH", None, "SUBJECT", "large")
        uids = uids.decode().replace(" ", ",")
        imap.uid("STORE", uids, "+FLAGS.SILENT", r"(\Deleted)")
        self.assertEqual(imap.expunge()[0], "OK")
        imap.logout()

    def compact(self):
        done = self.server.command("store", "compact", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertIsNone(report["failed"])
        self.assertFalse(report["running"])
        return report

    def log_bytes(self):
        return json.loads(self.server.command("store", "stats", "--json").stdout)["log_bytes"]

    def assertAllThere(self):
        self.assertSameMessages(
            [body[body.index(b"From: Sender"):] for body in self.server.bodies().values()], self.sent
        )
        verified = self.server.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)

    def assertSmall(self, report):
        """A segment in use on each shard, and one with the copies of what stays."""
        self.assertLessEqual(report["log_bytes"], (len(report["shards"]) + 1) * kura.SEGMENT_BYTES)
        self.assertLess(report["log_live_bytes"], 2 * MIB)

    def test_on_a_running_server_all_space_is_back_when_the_command_ends(self):
        self.serve("0")
        self.deliver_and_expunge()
        report = self.compact()
        self.assertSmall(report)
        self.assertEqual(self.log_bytes(), report["log_bytes"])
        # Nothing is left to do, and mail goes on.
        again = self.compact()
        self.assertEqual(again["log_bytes"], report["log_bytes"])
        self.assertAllThere()
        told = self.server.command("store", "compact")
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertRegex(told.stdout, r"^\d+ MiB of segments are \d+ MiB now, \d+ MiB of which are in use; ")
        self.server.kill()
        self.server.start()
        self.assertAllThere()

    def test_on_a_stopped_store_too(self):
        self.serve("0")
        self.deliver_and_expunge()
        self.server.stop()
        report = self.compact()
        self.assertSmall(report)
        self.server.start()
        self.assertAllThere()

    def test_what_the_retention_keeps_stays_and_the_command_says_so(self):
        self.serve("7d")
        self.deliver_and_expunge()
        told = self.server.command("store", "compact")
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertRegex(told.stdout, r"8\d MiB of what is in use is expunged mail that the retention or a hold keeps")
        address, _ = self.server.accounts[0]
        back = self.server.command("store", "undelete", "--account", address, "--since", "1h", "--apply")
        self.assertEqual(back.returncode, 0, back.stderr)
        self.assertEqual(len(self.server.bodies()), GONE + KEPT)


if __name__ == "__main__":
    unittest.main()
