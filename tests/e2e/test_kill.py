"""`kill -9` under load: what was acknowledged is there once, whole; UIDs are never reused."""

import os
import random
import re
import subprocess
import tempfile
import time
import unittest

import kura
import messages

ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
MESSAGE_ID = re.compile(rb"^Message-ID: (<[^>]+>)\r\n", re.MULTILINE | re.IGNORECASE)
RATE = 1500  # messages a second: enough to always have some in flight, few enough to check them all


class Mailbox:
    """What a mailbox has shown so far, against which each later look is checked."""

    def __init__(self):
        self.validity = None
        self.next = 1
        self.messages = {}  # UID: Message-ID
        self.expunged = set()  # UIDs
        self.gone = set()  # their Message-IDs


class Kill(kura.TestCase):
    def setUp(self):
        self.random = random.Random(int(os.environ.get("KILL_SEED", "1")))
        self.boxes = [Mailbox() for _ in self.server.accounts]
        self.acknowledged = set()
        self.sent_bytes = 4096
        self.texts = {}
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.log = os.path.join(directory.name, "acknowledged")

    def test_nothing_acknowledged_is_lost_and_nothing_comes_twice(self):
        for number in range(ROUNDS):
            with self.subTest(round=number):
                self.load_and_kill(number)
                self.server.start()
                for account, box in enumerate(self.boxes):
                    self.look(account, box)
                self.compare()
                self.expunge_some()
        total = sum(len(box.messages) for box in self.boxes)
        self.assertGreater(total, ROUNDS * 10, "hardly any load")
        # Everything once more, after a graceful stop.
        self.server.stop()
        self.server.start()
        for account, box in enumerate(self.boxes):
            self.look(account, box)
        self.compare()
        verified = self.server.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)
        gone = sum(len(box.gone) for box in self.boxes)
        print(
            f"\n  {ROUNDS} kills, {len(self.acknowledged)} messages acknowledged, {total} there,"
            f" {gone} expunged by us", end=" ",
        )

    def load_and_kill(self, number):
        # Without --pipelining and with it, small messages and some larger than a session's buffer.
        self.sent_bytes = [4096, 4096, 20_000, 300_000][number % 4]
        rate = RATE if self.sent_bytes < 100_000 else RATE / 10
        command = [
            kura.BINARY, "bench", "smtp", "--target", f"127.0.0.1:{self.server.ports['smtp']}",
            "--to", ",".join(address for address, _ in self.server.accounts), "--log", self.log,
            "--messages", "1000000", "--open-rate", str(rate), "--sessions", "16",
            "--bytes", str(self.sent_bytes), "--seed", str(number), "--seconds", "30", "--json",
        ] + (["--pipelining"] if number % 2 else [])
        before = self.count()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as load:
            # On a busy host the load takes its time to begin.
            self.assertTrue(kura.eventually(lambda: self.count() > before, 30), "no mail arrives")
            time.sleep(self.random.uniform(0.0, 0.7))
            self.server.kill()
            out, problem = load.communicate(timeout=60)
        self.assertTrue(out, problem)
        with open(self.log) as lines:
            fresh = set(lines.read().split())
        self.assertTrue(fresh, "the load was not acknowledged at all")
        self.acknowledged |= fresh

    def count(self):
        imap = self.server.imap()
        _, (answer,) = imap.status("INBOX", "(MESSAGES)")
        imap.logout()
        return int(re.search(rb"MESSAGES (\d+)", answer).group(1))

    def look(self, account, box):
        """Checks a mailbox against what it has shown before; new messages are read whole."""
        imap = self.server.imap(account)
        imap.select("INBOX", readonly=True)
        validity = int(imap.untagged_responses["UIDVALIDITY"][0])
        following = int(imap.untagged_responses["UIDNEXT"][0])
        box.validity = box.validity or validity
        self.assertEqual(validity, box.validity, "UIDVALIDITY changed")
        self.assertGreaterEqual(following, box.next, "UIDNEXT went back")
        _, (uids,) = imap.uid("SEARCH", None, "ALL")
        uids = {int(uid) for uid in uids.split()}
        self.assertEqual(uids & box.expunged, set(), "expunged messages came back")
        self.assertEqual(set(box.messages) - uids, set(), "messages that were there are gone")
        fresh = uids - set(box.messages)
        self.assertTrue(all(box.next <= uid < following for uid in fresh), "a UID was reused")
        # What was there is still the same message: its UID was not given to another.
        for uid, message_id in self.ids(imap, set(box.messages)).items():
            self.assertEqual(message_id, box.messages[uid], f"UID {uid} is another message now")
        for uid, body in kura.fetch_all(imap, uids=f"{box.next}:*").items() if fresh else ():
            if uid in fresh:
                box.messages[uid] = self.whole(body)
        box.next = following
        imap.logout()

    def ids(self, imap, uids):
        """Message-IDs of a sample: all of them every round would take longer than the test is worth."""
        sample = self.random.sample(sorted(uids), min(200, len(uids)))
        if not sample:
            return {}
        found = {}
        _, data = imap.uid(
            "FETCH", ",".join(map(str, sample)), "(UID BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])"
        )
        for part in data:
            if isinstance(part, tuple):
                uid = int(re.search(rb"UID (\d+)", part[0]).group(1))
                found[uid] = MESSAGE_ID.search(part[1]).group(1).decode()
        self.assertEqual(len(found), len(sample))
        return found

    def whole(self, body):
        """The Message-ID of a message of the load, which is exactly as long as it was sent."""
        start = body.index(b"Date: ")
        self.assertTrue(kura.TRACE.fullmatch(body[:start]), body[:300])
        self.assertEqual(len(body) - start, self.sent_bytes, "a message is not whole")
        run = MESSAGE_ID.search(body).group(1).partition(b".")[0]
        text = body.partition(b"\r\n\r\n")[2]
        # All messages of a run have the same text.
        self.assertTrue(self.texts.setdefault(run, text) == text, "a message has another's text")
        return MESSAGE_ID.search(body).group(1).decode()

    def compare(self):
        seen = [message_id for box in self.boxes for message_id in box.messages.values()]
        self.assertEqual(len(seen), len(set(seen)), "a message is there twice")
        missing = self.acknowledged.difference(seen, *(box.gone for box in self.boxes))
        self.assertEqual(missing, set(), f"{len(missing)} acknowledged messages are missing")

    def expunge_some(self):
        """Takes away the newest and a few others: their UIDs must not come again."""
        for account, box in enumerate(self.boxes):
            if len(box.messages) < 5:
                continue
            chosen = {max(box.messages), *self.random.sample(sorted(box.messages), 3)}
            imap = self.server.imap(account)
            imap.select("INBOX")
            listed = ",".join(map(str, sorted(chosen)))
            imap.uid("STORE", listed, "+FLAGS.SILENT", r"(\Deleted)")
            self.assertEqual(imap.uid("EXPUNGE", listed)[0], "OK")
            imap.logout()
            box.gone |= {box.messages.pop(uid) for uid in chosen}
            box.expunged |= chosen


class Stop(kura.TestCase):
    def test_a_graceful_stop_finishes_the_transactions_under_way(self):
        # Several, so that some are on another core than the account that they deliver to.
        wires, messages_sent = [], [messages.header(f"under way {n}") + b"text\r\n" for n in range(12)]
        for number, message in enumerate(messages_sent):
            wire = kura.Wire(self.server.ports["smtp"])
            self.addCleanup(wire.socket.close)
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{self.server.accounts[number % 2][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message)[:20])
            wires.append(wire)
        time.sleep(0.1)
        self.server.process.terminate()
        time.sleep(0.5)
        replies = []
        for wire, message in zip(wires, messages_sent):
            wire.send(kura.stuffed(message)[20:])
            replies.append(wire.reply())
        self.server.stop()
        self.server.start()
        there = [*self.server.bodies(0).values(), *self.server.bodies(1).values()]
        for reply, message in zip(replies, messages_sent):
            self.assertTrue(reply.startswith("250"), reply)
            self.assertEqual(sum(body.endswith(message) for body in there), 1)

    def test_sessions_are_told_of_a_stop(self):
        with kura.Wire(self.server.ports["imap"]) as wire:
            wire.line()
            self.server.stop()
            self.assertTrue(wire.line().startswith(b"* BYE"))
        self.server.start()
        self.assertServes()


if __name__ == "__main__":
    unittest.main()
