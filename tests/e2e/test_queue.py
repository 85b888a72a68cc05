"""The queue under what goes wrong around it: operators in a hurry, full disks, rot, servers of few connections."""

import glob
import json
import os
import shutil
import smtplib
import subprocess
import threading
import time
import unittest

import kura
import names
import scanners
import test_relay
from disks import LoopDisk
from scanners import EICAR
from test_relay import PASSWORD, until
from test_scan import metrics

MARK = b"this text rots in the queue"


def rot(server, mark=MARK):
    """Flips one bit of the marked text wherever it lies; in how many places."""
    hits = 0
    for path in glob.glob(os.path.join(server.directory, "store/shard-*/log-*")):
        with open(path, "r+b") as file:
            content = file.read()
            at = content.find(mark)
            if at >= 0:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
                hits += 1
    return hits


def strangers(server):
    """Loopback is a stranger like any other."""
    server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
    server.configure(r"^deadline_seconds = .*$", "deadline_seconds = 5")


class Queue(test_relay.Sending):
    def got(self, sink, recipient):
        """How often a recipient was sent something."""
        with sink.lock:
            return sum(recipients.count(recipient) for _, recipients, _ in sink.messages)

    def test_what_waited_is_on_hold_in_what_is_restored_or_salvaged(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" else True
        server = self.server(sink.port, retry_first="1h", retry_most="1h", retention="2s")
        for number in range(3):
            self.submit(server, f"y{number}@there.test")
        # What the retention has let go by then makes no difference.
        self.assertTrue(server.deliver(b"Subject: goes\r\n\r\nx\r\n").startswith("250"))
        imap = server.imap()
        imap.select("INBOX")
        imap.uid("STORE", "1:*", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.logout()
        until("three tries", lambda: all(row["attempts"] == 1 for row in self.queue(server)))
        done = server.command("collect", "add", "ann@a.test", "imap.nowhere.test", "--user", "ann", "--password-stdin", input_text="x\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        place = os.path.join(server.directory, "backup")
        self.assertEqual(server.command("store", "backup", "--to", place).returncode, 0)
        server.stop()
        self.on_hold("salvage", "--dir", server.directory, "--to")
        server.start()
        sink.answer = lambda verb, line: True
        self.assertEqual(server.command("queue", "retry", "--all").returncode, 0)
        self.empty(server)
        self.assertEqual(self.got(sink, "y1@there.test"), 1)
        server.stop()
        restored = self.on_hold("restore", "--from", place, "--dir").start()
        self.assertEqual(len(self.queue(restored)), 3)
        self.assertEqual(restored.command("queue", "release", "--all").returncode, 0)
        self.empty(restored)
        self.assertEqual(self.got(sink, "y1@there.test"), 2)
        restored.stop()

    def test_nothing_leaves_where_a_restore_or_salvage_was_broken_off(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" else True
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        for number in range(2):
            self.submit(server, f"z{number}@there.test")
        until("two tries", lambda: all(row["attempts"] == 1 for row in self.queue(server)))
        place = os.path.join(server.directory, "backup")
        self.assertEqual(server.command("store", "backup", "--to", place).returncode, 0)
        server.stop()
        # What is wrong with a config file is found when the store is there already.
        server.configure(r"^\[spam\]\n", '[spam]\nrules = "nowhere.toml"\n')
        for make in (["salvage", "--dir", server.directory, "--to"], ["restore", "--from", place, "--dir"]):
            with self.subTest(make[0]):
                other = kura.Kura()
                self.addCleanup(other.remove)
                config = os.path.join(other.directory, "kura.toml")
                shutil.copy(os.path.join(server.directory, "kura.toml"), config)
                done = subprocess.run([kura.BINARY, "store", *make, other.directory],
                                      capture_output=True, text=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn("rules", done.stderr)
                self.assertTrue(os.path.isdir(os.path.join(other.directory, "store")), done.stderr)
                other.configure(r"^rules = .*\n", "")
                other.start()
                self.assertEqual([row["held"] for row in self.queue(other)], [True] * 2)
                self.assertIn("broken off before its end", other.log())
                other.stop()
                # Once is enough.
                released = other.command("queue", "release", "--all")
                self.assertEqual((released.returncode, released.stderr), (0, ""))
                other.start()
                self.assertEqual([row["held"] for row in self.queue(other)], [False] * 2)
                other.stop()

    def on_hold(self, *make):
        """A data directory made by that command, in which three messages wait and none is sent."""
        other = kura.Kura()
        self.addCleanup(other.remove)
        done = subprocess.run([kura.BINARY, "store", *make, other.directory],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("on hold: 3 messages", done.stdout)
        self.assertIn("collected from 1 outside", done.stdout)
        self.assertEqual([row["held"] for row in self.queue(other)], [True] * 3)
        return other

    # ── nobody is there ─────────────────────────────────────────────────────────────────────────

    def nobody(self):
        """A port of a server that is down."""
        sink = self.sink()
        sink.close()
        return sink.port

    def test_why_a_server_was_not_reached_is_told_of_all_that_wait_and_nothing_is_lost(self):
        port = self.nobody()
        server = self.server(port, retry_first="1h", retry_most="1h")
        for number in range(3):
            self.submit(server, f"u{number}@there.test")
        tried = lambda: all(q["attempts"] == 1 and "refused" in q["why"] for q in self.queue(server))
        until("tries", tried)
        rows = self.queue(server)
        for row in rows:
            self.assertRegex(row["why"], r"is tried again in \d+ s; mx\.there\.test \(127\.0\.0\.1:\d+\) ")
        self.assertEqual(server.command("queue", "hold", rows[0]["id"]).returncode, 0)
        server.kill()
        server.start()
        held = lambda: [q["id"] for q in self.queue(server) if q["held"]]
        self.assertEqual(held(), [rows[0]["id"]])
        until("tries of the others", lambda: len(self.queue(server)) == 3 and all(
            q["held"] or (q["attempts"] == 1 and "refused" in q["why"]) for q in self.queue(server)))
        shown = server.command("queue", "show", rows[1]["id"], "--json")
        self.assertIn('"4.4.1"', shown.stdout, shown.stderr)
        # Said and taken back: that needs no record any more either.
        self.assertEqual(server.command("queue", "release", rows[0]["id"]).returncode, 0)
        until("a try of it", lambda: all("refused" in q["why"] for q in self.queue(server)) and not held())
        server.kill()
        server.start()
        self.assertEqual((len(self.queue(server)), held()), (3, []))
        sink = self.sink(port=port)
        # Left alone for a minute, unless it is started.
        server.kill()
        server.start()
        self.empty(server)
        self.assertEqual([self.got(sink, f"u{number}@there.test") for number in range(3)], [1, 1, 1])

    def test_tries_of_a_server_that_is_down_write_nothing(self):
        server = self.server(self.nobody())
        self.submit(server, [f"u{number}@there.test" for number in range(3)])
        until("a try", lambda: all(q["attempts"] for q in self.queue(server)))
        written = lambda: json.loads(server.command("store", "stats", "--json").stdout)["bytes_written"]
        before, tries = written(), self.queue(server)[0]["attempts"]
        until("tries", lambda: self.queue(server)[0]["attempts"] >= tries + 3)
        self.assertEqual(written(), before)

    def test_a_notice_of_delay_is_sent_once_whatever_crashes_and_patience_ends(self):
        server = self.server(self.nobody(), expire="9s", delay_notice="1s")
        self.submit(server, "x@there.test")
        self.notices(server, 1)
        until("the next try", lambda: (q := self.queue(server)) and q[0]["attempts"] > 1)
        server.kill()
        server.start()
        reports = self.notices(server, 2)
        self.empty(server)
        self.assertEqual(len(server.bodies()), 2)
        actions = [list(report.iter_parts())[1].get_payload()[1]["Action"] for report in reports]
        self.assertEqual(actions, ["delayed", "failed"])
        self.assertIn("refused", reports[1].as_string())

    def test_what_a_server_says_of_a_recipient_is_known_after_a_crash(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if "later" in line else True
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        self.submit(server, ["now@there.test", "later@there.test"])
        until("a try", lambda: all(q["attempts"] for q in self.queue(server)))
        server.kill()
        server.start()
        row = self.queue(server)[0]
        self.assertEqual((row["recipients"], row["attempts"]), (["later@there.test"], 1))
        self.assertIn("451 4.3.2 Come later", row["why"])

    def test_a_long_queue_is_listed_in_part_or_page_by_page_and_removed_with_few_flushes(self):
        server = self.server(self.nobody(), retry_first="1h", retry_most="1h")
        self.assertEqual(server.command("alias", "add", "info@a.test", "eve@there.test").returncode, 0)
        for part in (range(600), range(600, 1100)):
            with smtplib.SMTP("127.0.0.1", server.ports["smtp"], timeout=60) as smtp:
                for number in part:
                    smtp.sendmail("bob@there.test", ["info@a.test"], b"Subject: %d\r\n\r\n" % number)
        said = lambda *words: server.command("queue", "list", *words).stdout
        listed = json.loads(said("--json"))
        self.assertEqual((len(listed["messages"]), listed["all"], listed["cut"]), (1000, 1100, True))
        arrived = [row["arrived"] for row in listed["messages"]]
        self.assertEqual(arrived, sorted(arrived))
        *rows, last = said().splitlines()
        self.assertRegex(last, r"^1000 of 1100 messages: .*--all")
        self.assertEqual(len(rows), 2000)
        everything = json.loads(said("--all", "--json"))
        self.assertEqual((len(everything["messages"]), everything["all"], everything["cut"]), (1100, 1100, False))
        ids = {row["id"] for row in everything["messages"]}
        self.assertEqual(len(ids), 1100)
        self.assertTrue(said("--all", "--domain", "there.test").endswith("\n1100 messages wait\n"))
        self.assertEqual(json.loads(said("--json", "--domain", "else.test")), {"messages": [], "all": 0, "cut": False})
        some = sorted(ids)[550]
        self.assertIn("eve@there.test", server.command("queue", "show", some).stdout)
        traced = json.loads(server.command("trace", "eve@there.test", "--json").stdout)
        self.assertEqual((len(traced["queue"]), traced["queue_all"]), (1000, 1100))
        flushes = lambda: json.loads(server.command("store", "stats", "--json").stdout)["flushes"]
        before = flushes()
        self.assertIn("1 message removed", server.command("queue", "remove", some).stdout)
        self.assertIn("1099 messages on hold", server.command("queue", "hold", "--all").stdout)
        self.assertIn("1099 messages removed", server.command("queue", "remove", "--all").stdout)
        self.assertLess(flushes() - before, 200)
        self.assertEqual(self.queue(server), [])

    # ── one at a time ───────────────────────────────────────────────────────────────────────────

    def test_whatever_operators_say_during_tries_everybody_gets_it_once(self):
        sink = self.sink()
        later = threading.Event()

        def answer(verb, line):
            if verb == "RCPT" and "<y" in line and not later.is_set():
                return "451 4.3.2 Come later"
            return 0.05 if verb == "END" else True

        sink.answer = answer
        server = self.server(sink.port)
        self.submit(server, [f"{who}{n}@there.test" for n in range(3) for who in "xy"])
        name = self.queue(server)[0]["id"]
        said = []

        def operator(words):
            for _ in range(12):
                for word in words:
                    said.append(server.command("queue", word, name))

        operators = [threading.Thread(target=operator, args=(words,))
                     for words in (["retry"], ["retry"], ["retry", "hold"], ["hold", "release"])]
        [one.start() for one in operators]
        [one.join() for one in operators]
        self.assertEqual({done.returncode for done in said}, {0}, [done.stderr for done in said])
        # The last word counts.
        self.assertEqual(server.command("queue", "hold", name).returncode, 0)
        held = until("a hold", lambda: self.queue(server, "--held"))
        # Sessions with nothing to bring end meanwhile.
        asked = lambda: sum(line.startswith("RCPT") for line in sink.lines)
        before = asked()
        time.sleep(2.5)
        self.assertEqual((asked(), [one["id"] for one in held]), (before, [name]))
        later.set()
        self.assertEqual(server.command("queue", "release", name).returncode, 0)
        self.empty(server)
        counts = {f"{who}{n}@there.test": self.got(sink, f"{who}{n}@there.test") for n in range(3) for who in "xy"}
        self.assertEqual(set(counts.values()), {1}, counts)

    def test_operators_who_retry_at_once_have_it_brought_once(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" else True
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        for number in range(30):
            self.submit(server, "x@there.test", f"Subject: {number}\r\n\r\n")
        until("tries", lambda: all(q["attempts"] for q in self.queue(server)))
        sink.answer = lambda verb, line: 0.2 if verb == "END" else True
        self.at_once(server, *[("retry", "--all")] * 6)
        self.empty(server)
        time.sleep(1)
        self.assertEqual(len(sink.messages), 30)

    def test_what_is_removed_during_a_try_leaves_no_ghost(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" else True
        server = self.server(sink.port)
        for number in range(60):
            self.submit(server, "x@there.test", f"Subject: {number}\r\n\r\n")
        until("tries", lambda: all(q["attempts"] for q in self.queue(server)))
        self.at_once(server, *[("retry", "--all"), ("remove", "--all")] * 3)
        self.empty(server)
        time.sleep(1)
        self.assertEqual(metrics(server)["kura_queue_messages"], 0)
        server.kill()
        server.start()
        self.assertEqual(self.queue(server), [])

    def at_once(self, server, *commands):
        threads = [threading.Thread(target=server.command, args=("queue", *words)) for words in commands]
        [one.start() for one in threads]
        [one.join() for one in threads]

    # ── a full disk ─────────────────────────────────────────────────────────────────────────────

    def test_what_was_taken_while_the_disk_was_full_is_not_sent_again(self):
        disk = LoopDisk(self, 700)
        sink = self.sink()
        sink.answer = lambda verb, line: "421 4.3.2 Not yet" if verb == "CONNECT" else True
        server = self.server(sink.port, directory=os.path.join(disk.place, "kura"),
                             log_path=os.path.join(disk.base, "log"))
        server.small_segments()
        self.submit(server, ["x@there.test", "y@there.test"])
        self.submit(server, "z@there.test")
        for account in range(len(server.accounts)):
            self.assertTrue(server.deliver(b"Subject: x\r\n\r\n", to=account).startswith("250"))
        until("tries", lambda: all(q["attempts"] for q in self.queue(server)))
        ballast = os.path.join(disk.place, "ballast")
        with open(ballast, "wb", buffering=0) as file:
            try:
                while file.write(b"\0" * (1 << 20)):
                    pass
            except OSError:
                pass
            os.fsync(file.fileno())
        # What is left is eaten up by small changes, one page each, on every shard.
        for account in range(len(server.accounts)):
            self.eat(server, account)
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" and "<y" in line else True
        until("x and z", lambda: self.got(sink, "x@there.test") and self.got(sink, "z@there.test"))
        time.sleep(5)
        self.assertEqual((self.got(sink, "x@there.test"), self.got(sink, "z@there.test")), (1, 1))
        os.unlink(ballast)
        sink.answer = lambda verb, line: True
        until("y", lambda: self.got(sink, "y@there.test"), 60)
        self.empty(server)
        self.assertEqual({self.got(sink, f"{who}@there.test") for who in "xyz"}, {1})

    def eat(self, server, account):
        with server.imap(account) as imap:
            imap.select("INBOX")
            for number in range(10_000):
                if imap.uid("STORE", "1", ("-", "+")[number % 2] + "FLAGS", "K")[0] != "OK":
                    return
        self.fail("the disk is not full")

    # ── rot ─────────────────────────────────────────────────────────────────────────────────────

    def test_a_message_that_has_rotted_is_told_of_and_given_up(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" else True
        server = self.server(sink.port, expire="8s")
        large = b"Subject: large\r\n\r\n" + MARK + b"\r\n" + b"0123456789abcdef\r\n" * 60_000
        self.submit(server, "x@there.test", large, options=["RET=FULL"])
        until("a try", lambda: all(q["attempts"] for q in self.queue(server)))
        self.assertEqual(rot(server), 1)
        sink.answer = lambda verb, line: True
        report = self.notices(server)[0]
        people, programs, *about = report.iter_parts()
        self.assertIn("can't be read here any more", people.get_content())
        self.assertEqual(programs.get_payload()[1]["Action"], "failed")
        self.assertEqual(about, [])
        self.empty(server)
        self.assertEqual(sink.messages, [])

    def test_a_message_whose_envelope_has_rotted_has_a_name_and_can_be_removed(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "451 4.3.2 Come later" if verb == "RCPT" else True
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        for number in range(3):
            self.submit(server, f"u{number}@there.test")
        until("tries", lambda: all(q["attempts"] for q in self.queue(server)))
        for number in range(2):
            # As it stands in the envelope.
            self.assertEqual(rot(server, b'"to":"u%d@there.test"' % number), 1)
        names_of_rotten = sorted(row["id"] for row in self.queue(server) if "uid" in row["id"])
        self.assertEqual(len(names_of_rotten), 2)
        self.assertRegex(names_of_rotten[0], r"^[0-9a-f]+\.uid\d+$")
        self.assertNotEqual(server.command("queue", "show", names_of_rotten[0]).returncode, 0)
        retried = server.command("queue", "retry", names_of_rotten[0])
        self.assertNotEqual(retried.returncode, 0, retried.stdout)
        self.assertEqual(server.command("queue", "retry", "--all").returncode, 0)
        self.assertEqual(server.command("queue", "remove", names_of_rotten[0]).returncode, 0)
        self.assertNotIn(names_of_rotten[0], [row["id"] for row in self.queue(server)])
        self.assertEqual(server.command("queue", "remove", "--all").returncode, 0)
        self.empty(server)

    # ── servers of few connections, and of few words ────────────────────────────────────────────

    def test_a_server_that_takes_three_connections_gets_all_over_these(self):
        sink = self.sink()

        def answer(verb, line):
            if verb == "CONNECT" and sink.open > 3:
                return "421 4.7.0 Too many concurrent connections"
            return 0.05 if verb == "END" else True

        sink.answer = answer
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.ehlo("client.test")
            smtp.login(*server.accounts[0])
            for number in range(100):
                smtp.sendmail("ann@a.test", ["x@there.test"], b"Subject: %d\r\n\r\n" % number)
        until("all of them", lambda: len(sink.messages) == 100)
        self.empty(server)
        self.assertEqual(len(sink.messages), 100)

    def test_cores_that_are_not_let_in_beside_others_put_nothing_off(self):
        sink = self.sink()

        def answer(verb, line):
            if verb == "CONNECT" and sink.open > 1:
                return "421 4.7.0 Too many concurrent connections"
            return 0.05 if verb == "END" else True

        sink.answer = answer
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        # One connection after the other, so that all cores have some.
        for number in range(20):
            self.submit(server, "x@there.test", f"Subject: {number}\r\n\r\n")
        until("all of them", lambda: len(sink.messages) == 20, 90)
        self.empty(server)
        self.assertEqual(len(sink.messages), 20)

    def test_what_a_client_declares_out_of_habit_is_not_believed(self):
        sink = self.sink(offers=("PIPELINING",))
        server = self.server(sink.port)
        self.submit(server, "x@there.test", options=["BODY=8BITMIME", "SMTPUTF8"])
        until("the message", lambda: sink.messages)
        self.assertEqual(sink.messages[0][0], "MAIL FROM:<ann@a.test>")
        self.submit(server, "x@there.test", "Subject: x\r\n\r\nÜ\r\n".encode(), options=["BODY=8BITMIME"])
        self.submit(server, "x@there.test", "Subject: Ü\r\n\r\nU\r\n".encode(), options=["BODY=8BITMIME", "SMTPUTF8"])
        reports = self.notices(server, 2)
        found = {part["Status"] for report in reports for part in list(report.iter_parts())[1].get_payload()[1:]}
        self.assertEqual(found, {"5.6.3", "5.6.7"})
        self.assertEqual(len(sink.messages), 1)

    def test_check_config_says_when_each_core_has_more_than_its_share(self):
        server = self.server(1)
        config = os.path.join(server.directory, "kura.toml")
        cores = len(glob.glob(os.path.join(server.directory, "store/shard-*")))
        server.configure(r"^sessions_per_destination_max = .*$", "sessions_per_destination_max = 1")
        done = subprocess.run([kura.BINARY, "check-config", "--config", config], capture_output=True, text=True, check=True)
        self.assertEqual(f"there may be {cores} all the same" in done.stdout, cores > 1, done.stdout)

    # ── what may not leave, and what must not come back ─────────────────────────────────────────

    def test_a_thousand_recipients_outside_are_enough_for_one_message(self):
        server = self.server(1)
        server.stop()
        server.configure(r"^recipients_max = .*$", "recipients_max = 5000")
        server.start()
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.ehlo("client.test")
            smtp.login(*server.accounts[0])
            self.assertEqual(smtp.mail("ann@a.test")[0], 250)
            codes = [smtp.rcpt(f"u{n}@there.test") for n in range(1001)]
            self.assertEqual({code for code, _ in codes[:1000]}, {250})
            self.assertEqual(codes[1000][0], 452)
            self.assertIn(b"4.5.3", codes[1000][1])
            self.assertEqual(smtp.rcpt("ann@a.test")[0], 250)

    def test_a_message_that_goes_in_circles_does_not_leave(self):
        sink = self.sink()
        server = self.server(sink.port)
        passed = b"".join(b"Received: from a by b; %d\r\n" % n for n in range(50))
        for text in (passed + b"Subject: x\r\n\r\n", passed + b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 30_000):
            for to in (["x@there.test"], ["ann@a.test", "x@there.test"]):
                with self.assertRaises(smtplib.SMTPDataError) as refused:
                    self.submit(server, to, text)
                self.assertEqual(refused.exception.smtp_code, 554)
        self.assertEqual(server.bodies(), {}, "who is told of a loop has not got it to others")
        self.submit(server, "x@there.test", passed[len(b"Received: from a by b; 0\r\n"):] + b"Subject: x\r\n\r\n")
        until("the one that has not", lambda: sink.messages)
        self.assertEqual(len(sink.messages), 1)

    def test_who_refuses_it_here_does_not_refuse_it_for_others_elsewhere(self):
        sink = self.sink()
        server = self.server(sink.port)
        server.add_account("bob@a.test", PASSWORD)
        self.filter(server, 'require "reject"; reject "Not for me.";', "bob@a.test")
        self.submit(server, ["bob@a.test", "x@there.test"])
        until("the message", lambda: sink.messages)
        report = self.notices(server)[0]
        self.assertIn("Not for me.", next(report.iter_parts()).get_content())
        self.assertEqual(server.bodies(1), {})
        # Alone, the session hears it.
        with self.assertRaises(smtplib.SMTPDataError) as refused:
            self.submit(server, "bob@a.test")
        self.assertEqual(refused.exception.smtp_code, 550)

    def test_the_return_path_of_what_a_stranger_sent_stays_here(self):
        sink = self.sink()
        server = self.server(sink.port)
        server.stop()
        strangers(server)
        server.start()
        large = b"From: eve@there.test\r\nSubject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 30_000
        small = b"From: eve@there.test\r\nSubject: small\r\n\r\nReturn-Path: <text>\r\n"
        edited = 'require "editheader"; addheader "X-Seen" "yes"; redirect "eve@there.test";'
        for script in ('redirect "eve@there.test";', edited):
            self.filter(server, script)
            for text in (small, large):
                self.assertTrue(server.deliver(text, sender="eve@there.test").startswith("250"))
        until("four", lambda: len(sink.messages) == 4)
        for _, _, octets in sink.messages:
            header, _, body = octets.partition(b"\r\n\r\n")
            self.assertNotIn(b"Return-Path:", header)
            self.assertIn(b"Authentication-Results:", header)
            self.assertIn(body, (small.partition(b"\r\n\r\n")[2], large.partition(b"\r\n\r\n")[2]))

    def scanning(self, action):
        scanner = scanners.Fake()
        self.addCleanup(scanner.remove)
        scanner.behaviour = "found"
        sink = self.sink()
        server = self.server(sink.port)
        server.stop()
        server.configure(r"^clamd = .*$", f'clamd = ["unix:{scanner.socket}"]')
        if action != "reject":
            server.configure(r"^found = .*$", f'found = "{action}"', "scan")
        return scanner, sink, server

    def test_what_is_for_other_hosts_only_is_scanned_too(self):
        scanner, sink, server = self.scanning("reject")
        server.start()
        for text in (b"Subject: x\r\n\r\n" + EICAR + b"\r\n",
                     b"Subject: x\r\n\r\n" + EICAR + b"\r\n" + b"0123456789abcdef\r\n" * 60_000):
            with self.assertRaises(smtplib.SMTPDataError) as refused:
                self.submit(server, "x@there.test", text)
            self.assertEqual(refused.exception.smtp_code, 550)
            self.assertIn(b"Fake.Virus", refused.exception.smtp_error)
        scanner.behaviour = "clean"
        sound = b"Subject: y\r\n\r\n" + b"0123456789abcdef\r\n" * 60_000
        self.submit(server, "x@there.test", sound)
        until("the sound one", lambda: sink.messages)
        self.assertTrue(sink.messages[0][2].endswith(sound))
        self.assertEqual(len(sink.messages), 1)
        self.assertGreaterEqual(scanner.scanned, 3)

    def test_junk_that_was_redirected_is_not_returned_to_whoever_it_names(self):
        _, sink, server = self.scanning("junk")
        strangers(server)
        server.start()
        sink.answer = lambda verb, line: "550 5.7.1 A virus" if verb == "RCPT" and "<eve@" in line else True
        self.filter(server, 'redirect "eve@there.test";')
        text = b"From: victim@there.test\r\nSubject: junk\r\n\r\n" + EICAR + b"\r\n"
        self.assertTrue(server.deliver(text, sender="victim@there.test").startswith("250"))
        until("a refusal", lambda: any("eve@" in line for line in sink.lines))
        self.empty(server)
        self.assertEqual(sink.messages, [])


if __name__ == "__main__":
    unittest.main()
