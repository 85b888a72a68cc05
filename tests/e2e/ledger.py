"""What a server has acknowledged and shown, against which each later look at it is checked."""

import os
import random
import re
import subprocess
import time

import kura

MESSAGE_ID = re.compile(rb"^Message-ID: (<[^>]+>)\r\n", re.MULTILINE | re.IGNORECASE)


class Mailbox:
    """What one mailbox has shown so far."""

    def __init__(self):
        self.validity = None
        self.next = 1
        self.messages = {}  # UID: Message-ID
        self.expunged = set()  # UIDs
        self.gone = set()  # their Message-IDs


class Ledger:
    """Loads a server, lets it be cut off, and looks whether everything that was acknowledged is there
    once and whole, and no UID is used twice."""

    def __init__(self, case, server, log, seed):
        self.case, self.server, self.log = case, server, log
        self.random = random.Random(seed)
        self.boxes = [Mailbox() for _ in server.accounts]
        self.acknowledged = set()
        self.sent_bytes = 4096
        self.texts = {}

    def load_until(self, number, rate, seconds, cut):
        """Calls `cut`, which has to end the server, at some time under load number `number`."""
        # Without --pipelining and with it, small messages and some larger than a session's buffer.
        self.sent_bytes = [4096, 4096, 20_000, 300_000][number % 4]
        rate = rate if self.sent_bytes < 100_000 else rate / 10
        command = [
            kura.BINARY, "bench", "smtp", "--target", f"127.0.0.1:{self.server.ports['smtp']}",
            "--to", ",".join(address for address, _ in self.server.accounts), "--log", self.log,
            "--messages", "1000000", "--open-rate", str(rate), "--sessions", "16",
            "--bytes", str(self.sent_bytes), "--seed", str(number), "--seconds", "30", "--json",
        ] + (["--pipelining"] if number % 2 else [])
        before = self.count()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as load:
            # On a busy host the load takes its time to begin.
            self.case.assertTrue(kura.eventually(lambda: self.count() > before, 30), "no mail arrives")
            time.sleep(self.random.uniform(0.0, seconds))
            cut()
            out, problem = load.communicate(timeout=60)
        self.case.assertTrue(out, problem)
        with open(self.log) as lines:
            fresh = set(lines.read().split())
        self.case.assertTrue(fresh, "the load was not acknowledged at all")
        self.acknowledged |= fresh

    def check(self):
        for account, box in enumerate(self.boxes):
            self.look(account, box)
        self.compare()

    def check_again_after_a_stop(self):
        self.server.stop()
        self.server.start()
        self.check()
        verified = self.server.command("store", "verify", "--json")
        self.case.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)

    def total(self):
        return sum(len(box.messages) for box in self.boxes)

    def summary(self):
        gone = sum(len(box.gone) for box in self.boxes)
        return f"{len(self.acknowledged)} messages acknowledged, {self.total()} there, {gone} expunged by us"

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
        self.case.assertEqual(validity, box.validity, "UIDVALIDITY changed")
        self.case.assertGreaterEqual(following, box.next, "UIDNEXT went back")
        _, (uids,) = imap.uid("SEARCH", None, "ALL")
        uids = {int(uid) for uid in uids.split()}
        self.case.assertEqual(uids & box.expunged, set(), "expunged messages came back")
        self.case.assertEqual(set(box.messages) - uids, set(), "messages that were there are gone")
        fresh = uids - set(box.messages)
        self.case.assertTrue(all(box.next <= uid < following for uid in fresh), "a UID was reused")
        # What was there is still the same message: its UID was not given to another.
        for uid, message_id in self.ids(imap, set(box.messages)).items():
            self.case.assertEqual(message_id, box.messages[uid], f"UID {uid} is another message now")
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
        self.case.assertEqual(len(found), len(sample))
        return found

    def whole(self, body):
        """The Message-ID of a message of the load, which is exactly as long as it was sent."""
        start = body.index(b"Date: ")
        self.case.assertTrue(kura.TRACE.fullmatch(body[:start]), body[:300])
        self.case.assertEqual(len(body) - start, self.sent_bytes, "a message is not whole")
        run = MESSAGE_ID.search(body).group(1).partition(b".")[0]
        text = body.partition(b"\r\n\r\n")[2]
        # All messages of a run have the same text.
        self.case.assertTrue(self.texts.setdefault(run, text) == text, "a message has another's text")
        return MESSAGE_ID.search(body).group(1).decode()

    def compare(self):
        seen = [message_id for box in self.boxes for message_id in box.messages.values()]
        self.case.assertEqual(len(seen), len(set(seen)), "a message is there twice")
        missing = self.acknowledged.difference(seen, *(box.gone for box in self.boxes))
        self.case.assertEqual(missing, set(), f"{len(missing)} acknowledged messages are missing")

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
            self.case.assertEqual(imap.uid("EXPUNGE", listed)[0], "OK")
            imap.logout()
            box.gone |= {box.messages.pop(uid) for uid in chosen}
            box.expunged |= chosen
