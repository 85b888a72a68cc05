"""What gets into mailboxes past SMTP is scanned, and what lies there again when the scanner knows more."""

import calendar
import imaplib
import json
import threading
import time
import unittest

import kura
import messages
import names
import scanners
import test_attachments
from scanners import EICAR
from test_scan import Scanned, attached, configure, metrics

LARGE = 700 << 10


class Appending(Scanned):
    def append(self, message, mailbox="INBOX"):
        with self.server.imap() as imap:
            return imap.append(mailbox, r"(\Seen)", None, message)

    def assertRefused(self, message, code, words):
        before = len(self.server.bodies())
        done, (text,) = self.append(message)
        self.assertEqual(done, "NO", text)
        self.assertTrue(text.startswith(b"[" + code + b"] "), text)
        self.assertIn(words, text)
        self.assertEqual(len(self.server.bodies()), before)

    def assertTaken(self, message, mailbox="INBOX"):
        done, (text,) = self.append(message, mailbox)
        self.assertEqual(done, "OK", text)
        # As it was, without a field of ours.
        self.assertEqual(self.newest(mailbox=mailbox), message)


@unittest.skipUnless(names.program("clamd"), "needs clamd (clamav-daemon; tests/run installs it)")
class Appended(Appending):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ask_clamd(stream_bytes_max=4 << 20, too_large='"reject"')
        cls.server.configure(r"^executable = .*$", 'executable = "quarantine"')
        cls.server.start()

    def test_what_a_client_puts_into_a_mailbox_is_scanned_whatever_its_size(self):
        more = messages.lines(LARGE)
        for message in [messages.header("plain") + EICAR + b"\r\n", attached("attached", "e.bin", EICAR),
                        attached("behind much", "e.bin", EICAR, more), messages.header("at the end") + more + EICAR]:
            self.assertRefused(message, b"CANNOT", b"holds a virus")
        self.assertLogged("clamav=found Kura.Test.Eicar")
        for size in [100, LARGE]:
            self.assertTaken(messages.header("clean") + messages.lines(size))
            self.assertTaken(messages.header("sent") + messages.lines(size), "Sent")
        self.assertRefused(messages.header("large") + messages.lines(5 << 20), b"LIMIT", b"too large")

    def test_attachments_that_the_operator_does_not_let_in_are_refused(self):
        for more in [b"", messages.lines(LARGE)]:
            message = attached("setup", "photo.jpg", test_attachments.PROGRAM, more)
            self.assertRefused(message, b"CANNOT", b"dangerous attachment")

    def test_a_client_that_goes_on_after_a_refusal_is_served(self):
        with self.server.imap() as imap:
            self.assertEqual(imap.append("INBOX", None, None, messages.header("bad") + EICAR)[0], "NO")
            self.assertEqual(imap.append("INBOX", None, None, messages.header("good") + b"x\r\n")[0], "OK")
            self.assertEqual(imap.noop()[0], "OK")

    def test_without_a_scanner_it_is_to_try_again(self):
        self.clamd.stop()
        try:
            for size in [100, LARGE]:
                self.assertRefused(messages.header("down") + messages.lines(size), b"UNAVAILABLE", b"try again later")
        finally:
            self.clamd.start()
        self.assertTaken(messages.header("up") + b"x\r\n")


class Pretended(Appending):
    @classmethod
    def setUpClass(cls):
        cls.fake = scanners.Fake()
        cls.addClassCleanup(cls.fake.remove)
        super().setUpClass()

        with open(f"{cls.server.directory}/kura.toml") as file:
            cls.first = file.read()

    def restart(self, **more):
        self.server.stop()
        with open(f"{self.server.directory}/kura.toml", "w") as file:
            file.write(self.first)
        configure(self.server, [f"unix:{self.fake.socket}"], connect_seconds=1, answer_seconds=2, **more)
        self.server.start()

    def test_what_is_marked_or_filed_as_junk_elsewhere_goes_where_its_owner_puts_it(self):
        self.fake.behaviour = "found"
        for action in ["mark", "junk"]:
            self.restart(found=f'"{action}"')
            self.assertTaken(messages.header(action) + b"x\r\n")
        self.restart(found='"quarantine"')
        self.assertRefused(messages.header("kept back elsewhere") + b"x\r\n", b"CANNOT", b"holds a virus")

    def test_where_appended_mail_is_not_to_be_scanned_it_is_not(self):
        self.fake.behaviour = "found"
        self.restart(append="false")
        before = self.fake.scanned
        self.assertTaken(messages.header("unscanned") + b"x\r\n")
        self.assertEqual(self.fake.scanned, before)

    def test_a_scanner_that_hangs_holds_nobody_else_and_is_an_answer_in_time(self):
        self.fake.behaviour = "hang"
        self.restart(when_down='"mark"')
        self.assertTaken(messages.header("unknown") + b"x\r\n")
        with self.server.imap() as waiting:
            waiting.send(b"a APPEND INBOX {5}\r\n")
            self.assertTrue(waiting.readline().startswith(b"+"))
            waiting.send(b"x\r\n\r\n\r\n")
            self.assertServes()
            self.assertRegex(waiting.readline(), rb"^a OK ")


class Again(Scanned):
    """A server whose scanner is the class's `clamd`, and is looked at each second."""

    share = 100

    @classmethod
    def scanner(cls):
        cls.fake = scanners.Fake(signatures="100")
        return cls.fake

    @classmethod
    def setUpClass(cls):
        clamd = cls.scanner()
        cls.addClassCleanup(clamd.remove)
        super().setUpClass()
        cls.server.stop()
        configure(cls.server, [f"unix:{clamd.socket}"], connect_seconds=1, answer_seconds=10, stream_bytes_max=4 << 20)
        cls.server.configure(r"^look_seconds = .*$", "look_seconds = 1", "scan.again")
        cls.server.configure(r"^share_percent = .*$", f"share_percent = {cls.share}", "scan.again")
        cls.server.start()
        cls.alice, cls.bob = (address for address, _ in cls.server.accounts[:2])

    def done(self, *arguments, code=0):
        done = self.server.command(*arguments)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout if code in (0, 3) else done.stderr

    def kept(self):
        return json.loads(self.done("quarantine", "list", "--json"))["messages"]

    def status(self):
        # 3 while no scanner answers.
        return json.loads(self.server.command("store", "rescan", "--status", "--json").stdout)

    def results(self, name):
        return sum(shard["results"][name] for shard in self.status()["shards"])

    def assertSettled(self, version):
        """Every core has ended its round for these signatures."""
        def is_done():
            return all(shard["done"] == f"ClamAV 9.9/{version}" for shard in self.status()["shards"])
        self.assertTrue(kura.eventually(is_done, 40), self.status())

    def bodies_of(self, account=0, mailbox="INBOX"):
        return list(self.server.bodies(account, mailbox).values())


class PulledBack(Again):
    def test_what_new_signatures_find_is_pulled_back_and_stays_recoverable(self):
        self.assertSettled("100")
        mark = b"Only later known to be bad.\r\n"
        bad, large = messages.header("bad") + mark, messages.header("large") + messages.lines(LARGE) + mark
        self.deliver(messages.header("good") + b"Hello.\r\n", "250")
        for message in [bad, large, messages.header("archived") + mark]:
            self.deliver(message, "250")
        reply = self.server.deliver(bad, 1)
        self.assertTrue(reply.startswith("250"), reply)
        with self.server.imap() as imap:
            imap.select("INBOX")
            newest = imap.uid("SEARCH", "SUBJECT", "archived")[1][0].split()[-1]
            self.assertEqual(imap.uid("MOVE", newest, "Archive")[0], "OK")
            large_uid = imap.uid("SEARCH", "SUBJECT", "large")[1][0].split()[-1]
            self.assertEqual(imap.uid("STORE", large_uid, "+FLAGS", r"(\Deleted)")[0], "OK")
            # It says that it was received long ago.
            when = imaplib.Time2Internaldate(time.time() - 30 * 86_400)
            self.assertEqual(imap.append("Archive", None, when, messages.header("old") + mark)[0], "OK")
            imap.append("Trash", None, None, messages.header("thrown away") + mark)
        before = {len(body): body for body in self.bodies_of()}
        watching = self.server.imap()
        watching.select("INBOX")
        self.fake.bad, self.fake.signatures = mark.strip(), "101"
        self.assertSettled("101")

        self.assertEqual([b"good" in body[:2000] for body in self.bodies_of()], [True])
        self.assertEqual(self.bodies_of(1), [])
        self.assertEqual(self.bodies_of(mailbox="Archive"), [])
        self.assertEqual(self.bodies_of(mailbox="Trash"), [])
        kept = self.kept()
        found = sorted((row["account"], row["subject"], row["pulled_back_from"], row["reason"]) for row in kept)
        self.assertEqual(found, [
            (self.alice, "archived", "Archive", "virus"), (self.alice, "bad", "INBOX", "virus"),
            (self.alice, "large", "INBOX", "virus"), (self.alice, "old", "Archive", "virus"),
            (self.alice, "thrown away", "Trash", "virus"),
            (self.bob, "bad", "INBOX", "virus")])
        for row in kept:
            self.assertEqual(row["scan"], "clamav=found Fake.Late (ClamAV 9.9/101)")
            self.assertLess(abs(time.time() - calendar.timegm(time.strptime(row["since"], "%Y-%m-%dT%H:%M:%SZ"))), 60)
        # A session that was there is told.
        _, news = watching.noop()
        self.assertEqual(len(watching.response("EXPUNGE")[1]), 2)
        watching.logout()
        self.assertEqual(metrics(self.server)['kura_rescan_messages_total{result="pulled_back"}'], 6)
        self.assertEqual(metrics(self.server)['kura_quarantined_total{reason="virus"}'], 6)
        self.assertIn("pulled back into quarantine", self.whole_log())
        traced = self.done("trace", self.bob)
        self.assertIn("quarantine: quarantined (virus, since ", traced)
        self.assertIn("pulled back: clamav=found Fake.Late (ClamAV 9.9/101), was in INBOX", traced)

        # The owner is told, without a link that lets it out; the operator says --force.
        self.done("quarantine", "digest", "--account", self.alice)
        (digest,) = [body for body in self.bodies_of() if b"Quarantine digest" in body]
        self.assertIn(b"found out", digest)
        large_id = next(row["id"] for row in kept if row["subject"] == "large")
        self.done("quarantine", "release", large_id, code=3)
        self.done("quarantine", "release", large_id, "--force")
        self.done("quarantine", "delete", next(row["id"] for row in kept if row["subject"] == "thrown away"))
        back = [body for body in self.bodies_of() if len(body) > LARGE]
        self.assertEqual(back, [before[len(back[0])]])

        # What an operator has let out is let alone, wherever its owner puts it. What else
        # is new is found.
        with self.server.imap() as imap:
            imap.select("INBOX")
            uid = imap.uid("SEARCH", "SUBJECT", "large")[1][0].split()[-1]
            self.assertEqual(imap.uid("SEARCH", "DELETED")[1], [b""])
            imap.uid("MOVE", uid, "Archive")
        self.fake.bad = None
        self.deliver(messages.header("late") + mark, "250")
        self.fake.bad, self.fake.signatures = mark.strip(), "102"
        self.assertSettled("102")
        self.assertEqual(sorted(row["subject"] for row in self.kept()), ["archived", "bad", "bad", "late", "old"])
        archived = self.bodies_of(mailbox="Archive")
        self.assertEqual([len(body) > LARGE for body in archived], [True])
        self.assertEqual(self.results("left"), 1)
        # By hand; nothing new is found, and a restart begins no round.
        rounds = self.status()["rounds"]
        self.assertIn("0 not scanned", self.done("store", "rescan"))
        self.assertEqual(self.status()["rounds"], rounds + 1)
        self.assertEqual(len(self.kept()), 5)
        self.server.stop()
        self.server.start()
        time.sleep(2.5)
        self.assertEqual(self.status()["rounds"], 0)
        self.assertEqual(len(self.kept()), 5)
        self.assertEqual({row["pulled_back_from"] for row in self.kept()}, {"INBOX", "Archive"})
        self.assertEqual(self.done("store", "verify").split("; ")[1], "0 damaged\n")

    def whole_log(self):
        with open(self.server.log_path, errors="replace") as log:
            return log.read()


class KeptBack(Again):
    def test_what_lies_in_quarantine_is_scanned_too_and_its_owner_can_not_let_a_virus_out(self):
        self.assertSettled("100")
        self.server.stop()
        self.server.configure(r"^when_down = .*$", 'when_down = "quarantine"', "scan")
        self.server.start()
        mark = b"kept for something else\r\n"
        self.fake.behaviour = "close at once"
        for subject in ["turns out", "stays"]:
            self.deliver(messages.header(subject) + (mark if subject == "turns out" else b"x\r\n"), "250")
        self.fake.behaviour = "clean"
        before = {row["subject"]: row for row in self.kept()}
        self.assertEqual({row["reason"] for row in before.values()}, {"unscanned"})
        self.fake.bad, self.fake.signatures = mark.strip(), "101"
        self.assertSettled("101")
        after = {row["subject"]: row for row in self.kept()}
        self.assertEqual(after["stays"], before["stays"])
        bad = after["turns out"]
        self.assertEqual([bad[key] for key in ("reason", "scan", "since", "id", "pulled_back_from")],
                         ["virus", "clamav=found Fake.Late (ClamAV 9.9/101)", before["turns out"]["since"],
                          before["turns out"]["id"], None])
        self.assertEqual(self.results("kept_back"), 1)
        self.done("quarantine", "release", bad["id"], code=3)
        # Once more, and it is known.
        scanned = self.fake.scanned
        self.done("store", "rescan")
        self.assertEqual(self.fake.scanned, scanned + 1)
        # What is expunged and comes back is what it was.
        self.done("quarantine", "delete", bad["id"])
        self.done("store", "undelete", "--account", self.alice, "--since", "1h", "--mailbox", "*quarantine*", "--apply")
        (back,) = [row for row in self.kept() if row["subject"] == "turns out"]
        self.assertEqual([back[key] for key in ("reason", "since", "scan")], [bad[key] for key in ("reason", "since", "scan")])
        self.done("quarantine", "release", back["id"], code=3)


class Several(Again):
    """One of two servers is behind, and comes back while a round runs."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.behind = scanners.Fake(signatures="100")
        cls.addClassCleanup(cls.behind.remove)
        cls.server.stop()
        configure(cls.server, [f"unix:{cls.fake.socket}", f"unix:{cls.behind.socket}"])
        cls.server.start()

    def test_a_server_with_older_signatures_than_a_round_is_for_is_not_asked_by_it(self):
        self.assertSettled("100")
        mark, count = b"known to one\r\n", 8
        for number in range(count):
            self.deliver(messages.header(f"{number}") + f"{number} ".encode() + mark, "250")
        self.behind.behaviour = "close at once"
        self.fake.delay, self.fake.bad, self.fake.signatures = 0.2, mark.strip(), "101"
        before = self.fake.scanned
        self.assertTrue(kura.eventually(lambda: self.fake.scanned > before, 20))
        self.behind.scanned, self.behind.behaviour = 0, "clean"
        self.assertSettled("101")
        self.assertEqual(len(self.kept()), count)
        self.assertEqual(self.behind.scanned, 0)


class TooMuch(Again):
    def test_a_round_that_finds_too_much_pauses_until_somebody_says_that_it_is_right(self):
        self.assertSettled("100")
        count = 105
        for number in range(count):
            self.deliver(messages.header(f"{number}") + f"mail {number}\r\n".encode(), "250")
        self.fake.bad, self.fake.signatures = b"mail", "101"
        def paused():
            return [shard["failed"] for shard in self.status()["shards"] if shard["paused"]]
        self.assertTrue(kura.eventually(paused, 40), self.status())
        (why,) = paused()
        self.assertTrue(why.startswith("paused, since 101 of 101 messages were found to hold a virus"), why)
        self.assertEqual(metrics(self.server)["kura_rescan_paused"], 1)
        self.server.stop()
        self.server.start()
        self.assertTrue(kura.eventually(paused, 20), self.status())
        self.assertEqual(len(self.kept()), 101)
        self.done("store", "rescan")
        self.assertEqual(len(self.kept()), count)
        self.assertEqual(paused(), [])


class Interrupted(Again):
    def setUp(self):
        self.fake.delay = 0
        self.fake.bad = None

    def test_a_round_goes_on_where_it_was_when_the_server_stopped_and_loses_nothing_when_it_is_killed(self):
        self.assertSettled("100")
        count = 24
        for number in range(count):
            reply = self.server.deliver(messages.header(f"{number}") + f"bad {number}\r\n".encode(), number % 2)
            self.assertTrue(reply.startswith("250"), reply)
        self.fake.scanned, self.fake.delay = 0, 0.1
        self.fake.bad, self.fake.signatures = b"bad 1", "101"
        self.assertTrue(kura.eventually(lambda: self.fake.scanned >= 5, 20))
        start = time.monotonic()
        self.server.stop()
        self.assertLess(time.monotonic() - start, 10)
        before = self.fake.scanned
        self.assertLess(before, count)
        self.server.start()
        self.assertSettled("101")
        # One for each core may have been under way.
        self.assertLessEqual(self.fake.scanned, count + len(self.status()["shards"]))
        self.assertAllThere(count, {1, *range(10, 20)})

        self.fake.scanned, self.fake.bad, self.fake.signatures = 0, b"bad", "102"
        self.assertTrue(kura.eventually(lambda: self.fake.scanned >= 5, 20))
        self.server.kill()
        self.server.start()
        self.assertSettled("102")
        self.assertAllThere(count, set(range(count)))

    def assertAllThere(self, count, gone):
        """Each at one place."""
        kept = sorted(int(row["subject"]) for row in self.kept())
        self.assertEqual(kept, sorted(gone))
        left = [body for account in (0, 1) for body in self.bodies_of(account)]
        self.assertEqual(len(left), count - len(gone))

    def test_a_round_that_is_wanted_while_one_runs_follows_it(self):
        self.deliver(messages.header("slow") + b"slow\r\n", "250")
        self.fake.delay = 0.5
        self.done("store", "rescan")
        def rounds():
            return [shard["rounds"] for shard in self.status()["shards"]]

        before, scanned = rounds(), self.fake.scanned
        first = threading.Thread(target=self.server.command, args=("store", "rescan"))
        first.start()
        self.assertTrue(kura.eventually(lambda: self.fake.scanned > scanned, 20))
        self.fake.delay = 0
        self.done("store", "rescan")
        first.join(30)
        # Where one ran already, another; a shard that had not begun has one that both wanted.
        grown = [now - then for now, then in zip(rounds(), before)]
        self.assertTrue(min(grown) >= 1 and max(grown) >= 2, grown)

    def test_without_a_scanner_it_waits_and_pulls_nothing_back(self):
        mark = b"unanswered\r\n"
        self.deliver(messages.header("waits") + mark, "250")
        kept = len(self.kept())
        self.fake.bad, self.fake.behaviour = mark.strip(), "close at once"
        begun = threading.Thread(target=self.server.command, args=("store", "rescan"))
        begun.start()
        self.assertTrue(kura.eventually(lambda: self.status()["failed"] == "no scanner answers", 20))
        self.assertServes()
        self.assertEqual(len(self.kept()), kept)
        self.fake.behaviour = "clean"
        begun.join(30)
        self.assertTrue(kura.eventually(lambda: len(self.kept()) == kept + 1, 30), self.status())


@unittest.skipUnless(names.program("clamd"), "needs clamd (clamav-daemon; tests/run installs it)")
class ByHand(Again):
    @classmethod
    def scanner(cls):
        cls.clamd = scanners.Clamd(knows=False)
        return cls.clamd.start()

    def test_a_real_clamd_that_has_learned_pulls_back_when_the_operator_says_so(self):
        more = messages.lines(LARGE)
        for message in [messages.header("small") + EICAR + b"\r\n", messages.header("large") + more + EICAR + b"\r\n",
                        attached("attached", "e.bin", EICAR), messages.header("clean") + more]:
            self.deliver(message, "250")
        self.clamd.stop()
        self.clamd.learn()
        self.clamd.start()
        self.assertIn("3 pulled back, 0 found and left, 0 not scanned", self.done("store", "rescan"))
        self.assertEqual(sorted(row["subject"] for row in self.kept()), ["attached", "large", "small"])
        self.assertEqual(len(self.bodies_of()), 1)


class Unwanted(kura.TestCase):
    def test_without_a_scanner_or_a_server_the_command_says_what_is_missing(self):
        done = self.server.command("store", "rescan")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("set clamd in the config file's [scan]", done.stderr)
        self.server.stop()
        done = self.server.command("store", "rescan")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("start it first", done.stderr)


if __name__ == "__main__":
    unittest.main()
