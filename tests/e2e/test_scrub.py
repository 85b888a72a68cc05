"""Rot in the store of a running server: found, told with whose message it hurts, and nobody else's."""

import glob
import json
import os
import unittest

import kura

MARK = b"this text rots in place"


def rot(directory):
    """Flips one bit of the marked message in every segment that has it; how many."""
    hits = 0
    for path in glob.glob(os.path.join(directory, "store/shard-*/log-*")):
        with open(path, "r+b") as file:
            content = file.read()
            at = content.find(MARK)
            if at >= 0:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
                hits += 1
    return hits


class Scrub(kura.TestCase):
    def scrub(self):
        done = self.server.command("store", "scrub", "--json")
        self.assertIn(done.returncode, (0, 3), done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(done.returncode, 3 if report["bad"] else 0)
        self.assertIsNone(report["failed"])
        self.assertGreater(report["bytes"], 0)
        return report

    def test_rot_is_found_running_and_stopped_and_costs_one_message(self):
        for number in range(20):
            text = MARK if number == 7 else f"sound {number}".encode()
            message = b"Subject: %d\r\n\r\n" % number + text * 40 + b"\r\n"
            self.assertTrue(self.server.deliver(message).startswith("250"))
        self.assertEqual(self.scrub()["bad"], 0)
        self.assertEqual(rot(self.server.directory), 1)
        report = self.scrub()
        hurt = [one for finding in report["findings"] for one in finding["messages"]]
        self.assertEqual(len(hurt), 1, report)
        self.assertEqual(
            (hurt[0]["address"], hurt[0]["mailbox"], hurt[0]["uid"]),
            (self.server.accounts[0][0], "INBOX", 8),
        )
        self.assertIn("log-", report["findings"][0]["place"])
        self.assertEqual(report["messages_hurt"], 1)
        stats = json.loads(self.server.command("store", "stats", "--json").stdout)
        self.assertEqual(stats["scrub_messages_hurt"], 1)
        self.assertIn("does not verify", self.server.log())
        # The rest goes on: the others are read, and mail comes in.
        imap = self.server.imap()
        imap.select("INBOX", readonly=True)
        self.assertEqual(imap.uid("FETCH", "7,9", "(BODY.PEEK[])")[0], "OK")
        imap.logout()
        self.assertTrue(self.server.deliver(b"Subject: new\r\n\r\nx\r\n").startswith("250"))
        verified = self.server.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 3)
        self.server.stop()
        self.assertEqual(self.scrub()["messages_hurt"], 1)
        self.server.start()
        self.assertServes()


if __name__ == "__main__":
    unittest.main()
