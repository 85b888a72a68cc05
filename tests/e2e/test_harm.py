"""Files of the store that somebody removes under a running server: told while there is a way back, and there is one."""

import contextlib
import glob
import json
import os
import shutil
import signal
import tempfile
import time
import unittest

import kura
import messages


class Unlinked(kura.TestCase):
    def filled(self):
        """A server with some segments, of which the first are full."""
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        server.small_segments()
        text = messages.lines(1_000_000)
        for number in range(12):
            self.assertTrue(server.deliver(messages.header(f"{number}") + text).startswith("250"))
        return server

    def unlinked(self, server):
        return json.loads(server.command("store", "stats", "--json").stdout)["files_harmed"]

    def opened(self, server, path):
        """Where the server's process has it."""
        for link in glob.glob(f"/proc/{server.process.pid}/fd/*"):
            with contextlib.suppress(OSError):
                if os.readlink(link) == path + " (deleted)":
                    return link
        self.fail(f"{path} is not open")

    def place(self):
        place = tempfile.mkdtemp(prefix="kura-backup-")
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        return place

    def test_a_removed_file_is_told_backed_up_and_can_be_put_back(self):
        server = self.filled()
        before = server.bodies()
        # One that is full, and the one that is written.
        victims = [server.segments()[0], server.segments()[-1]]
        self.assertEqual(self.unlinked(server), 0)
        began = time.monotonic()
        for victim in victims:
            os.unlink(victim)
        self.assertLoggedLate("has been removed", server)
        self.assertLess(time.monotonic() - began, 60)
        self.assertLogged(f"opened=\"{self.opened(server, os.path.realpath(victims[0]))}\"", server)
        self.assertEqual(self.unlinked(server), 2)
        # What is there is right, and a backup has it.
        self.assertTrue(server.deliver(b"Subject: later\r\n\r\nx\r\n").startswith("250"))
        place = self.place()
        done = server.command("store", "backup", "--to", place)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        for victim in victims:
            self.assertIn(os.path.basename(victim), done.stdout)
        after = server.bodies()
        self.assertEqual(len(after), len(before) + 1)
        other = kura.Kura()
        self.addCleanup(other.remove)
        done = other.command("store", "restore", "--from", place)
        self.assertEqual(done.returncode, 0, done.stderr)
        # As README.md has it: nothing is written meanwhile, and nothing of it is closed.
        os.kill(server.process.pid, signal.SIGSTOP)
        for victim in victims:
            shutil.copyfile(self.opened(server, os.path.realpath(victim)), victim)
        server.kill()
        server.start()
        self.assertEqual(server.bodies(), after)
        self.assertEqual(self.unlinked(server), 0)
        server.stop()
        self.assertEqual(server.command("store", "verify").returncode, 0)

    def test_another_file_in_its_place_is_told_and_a_removed_spare_is_let_go(self):
        server = self.filled()
        victim = server.segments()[0]
        shutil.copyfile(victim, victim + ".copy")
        os.rename(victim + ".copy", victim)
        self.assertEqual(self.unlinked(server), 1)
        done = server.command("store", "backup", "--to", self.place(), "--json")
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        said = json.loads(done.stdout)
        self.assertEqual((len(said["unlinked"]), said["damaged"]), (1, 0))
        used = server.segments()
        spares = [path for path in glob.glob(server.directory + "/store/shard-*/log-*") if path not in used]
        for spare in spares:
            os.unlink(spare)
        self.assertEqual(self.unlinked(server), 1)
        for number in range(12):
            self.assertTrue(server.deliver(messages.header(f"more {number}")
                                           + messages.lines(1_000_000)).startswith("250"))
        # The copy is as good as it was.
        server.stop()
        server.start()
        self.assertEqual(len(server.bodies()), 24)
        self.assertEqual(self.unlinked(server), 0)

    def test_a_file_that_is_cut_is_told_and_what_comes_then_is_not_lost_with_it(self):
        server = self.filled()
        before = server.bodies()
        victim = self.of_the_mail(server)[-1]
        whole = os.stat(victim).st_size
        os.truncate(victim, 8192)
        self.assertLoggedLate("a file of the store has been cut", server)
        self.assertLogged(f"bytes=8192 bytes_before={whole}", server)
        self.assertEqual(self.unlinked(server), 1)
        later = messages.header("later") + messages.lines(1000)
        self.assertTrue(server.deliver(later).startswith("250"))
        self.assertEqual(os.stat(victim).st_size, 8192)
        self.assertTrue(kura.eventually(lambda: self.opens_without(server, victim), 60), server.log())
        server.kill()
        server.start()
        self.assertLogged("is cut off after 8192", server)
        imap = server.imap()
        _, (count,) = imap.select("INBOX", readonly=True)
        self.assertEqual(int(count), len(before) + 1)
        _, data = imap.uid("FETCH", str(max(before) + 1), "(UID BODY.PEEK[])")
        self.assertTrue(data[0][1].endswith(later), data[0][1][:200])
        imap.logout()

    def of_the_mail(self, server):
        """Files of the shard that has it: the one with most of them."""
        by_shard = {}
        for path in server.segments():
            by_shard.setdefault(os.path.dirname(path), []).append(path)
        return max(by_shard.values(), key=len)

    def opens_without(self, server, victim):
        """Whether the newest checkpoint lies behind the file: it is younger."""
        checkpoints = glob.glob(os.path.dirname(victim) + "/checkpoint-*")
        return any(os.stat(one).st_mtime > os.stat(victim).st_mtime for one in checkpoints)

    def moved_away(self, with_a_copy):
        """The directory of the shard that holds the mail, moved away under the server; what was acknowledged since."""
        server = self.filled()
        before = server.bodies()
        place = os.path.dirname(self.of_the_mail(server)[-1])
        os.rename(place, place + ".moved")
        if with_a_copy:
            shutil.copytree(place + ".moved", place)
        acknowledged = 0

        def is_refused():
            nonlocal acknowledged
            try:
                reply = server.deliver(messages.header("later") + messages.lines(1000))
            except kura.Unexpected as unexpected:
                reply = unexpected.reply
            acknowledged += reply.startswith("250")
            return not reply.startswith("250")

        self.assertTrue(kura.eventually(is_refused, 60), server.log())
        self.assertLoggedLate("the directory of this shard has been moved away", server)
        # Once, and nothing of its files one by one.
        errors = [line for line in server.log().splitlines() if " ERROR " in line]
        self.assertEqual(len(errors), 1, errors)
        self.assertIn(os.path.basename(place), errors[0])
        server.stop()
        if with_a_copy:
            shutil.rmtree(place)
        os.rename(place + ".moved", place)
        server.start()
        after = server.bodies()
        self.assertEqual(len(after), len(before) + acknowledged)
        self.assertEqual({uid: after.get(uid) for uid in before}, before)
        server.stop()
        self.assertEqual(server.command("store", "verify").returncode, 0)

    def test_a_shards_directory_that_is_moved_away_is_told_once_and_nothing_more_is_acknowledged(self):
        self.moved_away(with_a_copy=False)

    def test_nothing_is_acknowledged_into_a_copy_that_was_put_in_its_place(self):
        self.moved_away(with_a_copy=True)

    def assertLoggedLate(self, words, server):
        self.assertTrue(kura.eventually(lambda: words in server.log(), 60), server.log())


if __name__ == "__main__":
    unittest.main()
