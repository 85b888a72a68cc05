"""Rot in the store of a running server: found, told with whose message it hurts, and nobody else's."""

import contextlib
import glob
import imaplib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import kura
import messages

MARK = b"this text rots in place"


ROTTEN = bytes([MARK[0] ^ 1]) + MARK[1:]


def rot(directory, what=MARK):
    """Flips one bit of the marked message in every segment that has it; how many."""
    hits = 0
    for path in glob.glob(os.path.join(directory, "store/shard-*/log-*")):
        with open(path, "r+b") as file:
            content = file.read()
            at = content.find(what)
            if at >= 0:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
                hits += 1
    return hits


def mend(directory):
    return rot(directory, ROTTEN)


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
        self.assertEqual((report["bad"], report["messages_hurt"]), (1, 1), report)
        stats = json.loads(self.server.command("store", "stats", "--json").stdout)
        self.assertEqual(stats["scrub_messages_hurt"], 1)
        self.assertLogged("does not verify")
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

    def test_a_segment_that_is_cut_short_or_gone_is_no_clean_store(self):
        server = self.own_server()
        server.small_segments()
        text = messages.lines(1_000_000)
        for number in range(40):
            self.assertTrue(server.deliver(messages.header(f"{number}") + text).startswith("250"))
        # One that is full of mail and has others behind it.
        small = [path for path in server.segments() if os.stat(path).st_size == 4 << 20]
        self.assertGreater(len(small), 2)
        victim = small[0]
        with open(victim, "r+b") as file:
            whole = file.read()
            file.truncate(1 << 20)
        self.looks_unwell(server, os.path.basename(victim))
        server.stop()
        self.looks_unwell(server, os.path.basename(victim))
        with open(victim, "wb") as file:
            file.write(whole)
        for command in ("verify", "scrub"):
            done = server.command("store", command)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # Without it no backup could be restored, so none is taken; the older one stays.
        place = tempfile.mkdtemp(prefix="kura-backup-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        done = server.command("store", "backup", "--to", place)
        self.assertEqual(done.returncode, 0, done.stderr)
        for path in glob.glob(place + "/**", recursive=True):
            if os.path.isfile(path):
                self.assertEqual(os.stat(path).st_mode & 0o077, 0, path)
        os.unlink(victim)
        done = server.command("store", "backup", "--to", place, "--keep", "1")
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("is not there", done.stderr)
        self.assertIn("none was taken", done.stderr)
        self.assertEqual(len(os.listdir(place + "/manifests")), 1)
        done = server.command("store", "restore", "--from", place, "--check")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.looks_unwell(server, "is not there")

    def looks_unwell(self, server, place):
        for command in ("verify", "scrub"):
            done = server.command("store", command, "--json")
            self.assertEqual(done.returncode, 3, f"{command}: {done.stdout[:500]} {done.stderr}")
            self.assertIn(place, done.stdout, command)
            if command == "scrub":
                self.assertGreater(json.loads(done.stdout)["messages_hurt"], 0)

    def own_server(self):
        server = kura.Kura()
        self.addCleanup(server.remove)
        return server.start()

    def ask(self, server, operation):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(os.path.join(server.directory, "control.sock"))
            control.sendall(json.dumps({"operation": operation}).encode() + b"\n")
            return json.loads(control.makefile("rb").readline())["done"]

    def test_a_round_goes_on_after_a_restart(self):
        server = self.own_server()
        server.stop()
        # A store with small segments from the first on, read at 4 MiB a second on each core.
        shutil.rmtree(os.path.join(server.directory, "store"))
        for name in ("layout.toml", "quickstart-accounts.json"):
            os.unlink(os.path.join(server.directory, name))
        server.accounts = []
        with open(os.path.join(server.directory, "kura.toml"), "a") as file:
            file.write("\n[knobs]\nshards = 1\nsegment_bytes = 4194304\nbatch_bytes_max = 262144\n"
                       "lasting_bytes_per_second = 41943040\nscrub_share_percent = 10\n")
        server.start()
        text = messages.lines(1_000_000)
        for number in range(40):
            self.assertTrue(server.deliver(messages.header(f"{number}") + text).startswith("250"))
        status = lambda: self.ask(server, "store_scrub_status")
        self.assertEqual((status()["running"], status()["rounds"]), (False, 0))
        self.ask(server, "store_scrub_begin")
        self.assertTrue(kura.eventually(lambda: status()["bytes"] >= 17 << 20, 60))
        self.assertTrue(status()["running"])
        server.kill()
        server.start()
        # Nobody asks for it, and it does not begin anew.
        self.assertTrue(kura.eventually(lambda: status()["running"], 20))
        seen = []
        self.assertTrue(kura.eventually(lambda: seen.append(status()["bytes"]) or seen[-1] >= 8 << 20, 60))
        self.assertEqual([one for one in seen if 4 << 20 <= one < 8 << 20], [])
        self.assertTrue(kura.eventually(lambda: not status()["running"], 60))
        said = status()
        self.assertEqual((said["rounds"], said["whole_rounds"], said["bad"], said["failed"]), (1, 0, 0, None))
        self.assertEqual(said["bytes"], said["bytes_total"])
        server.stop()
        server.start()
        self.assertEqual((status()["running"], status()["rounds"]), (False, 0))

    def test_what_was_found_is_told_after_a_restart_until_it_has_gone(self):
        server = self.own_server()
        for text in (b"sound", MARK, b"sound, too"):
            self.assertTrue(server.deliver(b"Subject: x\r\n\r\n" + text + b"\r\n").startswith("250"))

        def known():
            said = json.loads(server.command("store", "stats", "--json").stdout)
            return said["scrub_bad"], said["scrub_messages_hurt"]

        self.assertEqual(rot(server.directory), 1)
        self.assertEqual(server.command("store", "scrub").returncode, 3)
        self.assertEqual(known(), (1, 1))
        server.kill()
        # Without a server, too.
        self.assertEqual(known(), (1, 1))
        server.start()
        self.assertEqual(known(), (1, 1))
        self.assertLogged("found before this start", server)
        status = self.ask(server, "store_scrub_status")
        self.assertEqual((status["rounds"], status["findings"][0]["messages"][0]["uid"]), (0, 2))
        imap = server.imap()
        imap.select("INBOX")
        imap.uid("STORE", "2", "+FLAGS.SILENT", "(\\Deleted)")
        imap.expunge()
        imap.logout()
        # The record is still in its segment; it is nobody's message any more.
        self.assertTrue(kura.eventually(lambda: known() == (1, 0), 30), known())
        server.stop()
        self.assertEqual(known(), (1, 0))
        # Mended.
        mend(server.directory)
        server.start()
        self.assertTrue(kura.eventually(lambda: known() == (0, 0), 30), known())
        server.kill()
        self.assertEqual(known(), (0, 0))

    def test_a_server_that_stops_under_a_scrub_leaves_no_clean_bill(self):
        server = self.own_server()
        server.stop()
        with open(os.path.join(server.directory, "kura.toml"), "a") as file:
            file.write("\n[knobs]\nscrub_share_percent = 1\n")
        server.start()
        server.deliver(b"Subject: x\r\n\r\n" + b"y\r\n" * 300_000)
        scrub = subprocess.Popen(
            [kura.BINARY, "store", "scrub", "--dir", server.directory],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        time.sleep(0.4)
        server.kill()
        out, error = scrub.communicate(timeout=60)
        # It may have ended before: then it says how many bytes it has read.
        if scrub.returncode == 0:
            self.assertNotIn(" 0 bytes read", " " + out)
        else:
            self.assertIn("server", error)

    def test_what_a_scrub_knows_a_backup_says(self):
        server = self.own_server()
        server.deliver(b"Subject: y\r\n\r\n" + MARK + b"\r\n")
        place = tempfile.mkdtemp(prefix="kura-backup-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        rot(server.directory)
        self.assertEqual(server.command("store", "scrub").returncode, 3)
        done = server.command("store", "backup", "--to", place, "--keep", "1", "--json")
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        said = json.loads(done.stdout)
        self.assertGreater(said["damaged"], 0)
        self.assertEqual(said["backups_removed"], 0)

    def test_a_backup_finds_rot_that_nobody_has_found_yet(self):
        server = self.own_server()
        place = tempfile.mkdtemp(prefix="kura-backup-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        backup = ("store", "backup", "--to", place, "--keep", "1")
        self.assertEqual(server.command(*backup).returncode, 0)
        server.deliver(b"Subject: y\r\n\r\n" + MARK + b"\r\n")
        rot(server.directory)
        done = server.command(*backup, "--json")
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        said = json.loads(done.stdout)
        self.assertGreater(said["damaged"], 0)
        self.assertEqual(said["backups_removed"], 0)
        self.assertIn("the record with LSN", said["rotten"][0])
        # It is not looked at again, and not forgotten either.
        again = server.command(*backup, "--json")
        self.assertEqual((again.returncode, json.loads(again.stdout)["rotten"]), (3, said["rotten"]))
        for what in ("--check", "--list"):
            told = server.command("store", "restore", "--from", place, what)
            self.assertIn("damaged", told.stdout, told.stderr)
        # The one before, with the same places, is no better; the one from before the rot is.
        checked = json.loads(server.command("store", "restore", "--from", place, "--check", "--json").stdout)
        self.assertEqual([one["damaged"] is None for one in checked["older"]], [False, True])
        self.assertEqual(checked["whole"], checked["older"][1]["name"])
        # The same of what is sent for the first time, and so is verified while it is
        # read to be sent.
        shutil.rmtree(place)
        done = server.command(*backup)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertIn("the record with LSN", done.stdout)
        # The same where nothing serves the store.
        server.stop()
        shutil.rmtree(place)
        done = server.command(*backup)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertIn("the record with LSN", done.stdout)

    def test_a_page_of_a_checkpoint_that_goes_ends_the_server_with_what_to_do_and_the_next_start_does_without_it(self):
        server = self.own_server()
        for number in range(40):
            self.assertTrue(server.deliver(b"Subject: %d\r\n\r\nx\r\n" % number).startswith("250"))
        server.stop()
        server.start()
        before = server.bodies()
        self.assertEqual(len(before), 40)
        # What is behind a file's end is gone for whoever touches it, as is what the disk
        # does not give again.
        for path in glob.glob(server.directory + "/store/shard-*/checkpoint-*"):
            os.truncate(path, 4096)
        with contextlib.suppress(OSError, imaplib.IMAP4.error, EOFError):
            server.bodies()
        self.assertEqual(server.process.wait(30), -signal.SIGBUS)
        server.forget()
        for words in ("/checkpoint-", "can't be read any more (SIGBUS)", "Start it again"):
            self.assertLogged(words, server)
        server.start()
        self.assertLogged("what the store had to do without when it was opened", server)
        self.assertEqual(server.bodies(), before)
        server.stop()
        self.assertEqual(server.command("store", "verify").returncode, 0)


if __name__ == "__main__":
    unittest.main()
