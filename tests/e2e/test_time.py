"""Going back in time: expunged mail comes back, an account is seen as it was, a hold keeps everything."""

import imaplib
import json
import os
import signal
import socket
import subprocess
import time

from kura import BINARY, TestCase, eventually


def mail(number):
    return (
        f"From: Ann <ann{number}@example.net>\r\nSubject: Message {number}\r\n\r\n"
        f"This is message {number}.\r\n"
    ).encode()


class Time(TestCase):
    def setUp(self):
        if self.server.process is None:
            self.server.start()
        address = f"{self._testMethodName.replace('_', '-')[:40]}@example.test"
        self.address, _ = self.server.add_account(address)
        self.account = len(self.server.accounts) - 1

    def done(self, *arguments):
        done = self.server.command(*arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def deliver(self, *numbers):
        for number in numbers:
            self.assertTrue(self.server.deliver(mail(number), to=self.account).startswith("250"))

    def expunge(self, uids, mailbox="INBOX"):
        imap = self.server.imap(self.account)
        imap.select(mailbox)
        self.assertEqual(imap.uid("STORE", uids, "+FLAGS", r"(\Deleted)")[0], "OK")
        self.assertEqual(imap.expunge()[0], "OK")
        imap.logout()

    def texts(self, mailbox="INBOX"):
        bodies = self.server.bodies(self.account, mailbox).values()
        return sorted(body.split(b"\r\n\r\n")[1] for body in bodies)

    def expected(self, *numbers):
        return [mail(number).split(b"\r\n\r\n")[1] for number in numbers]

    def test_expunged_mail_is_listed_and_comes_back_once(self):
        self.deliver(1, 2, 3)
        self.expunge("1,3")
        listed = self.done("store", "undelete", "--account", self.address, "--since", "1h")
        self.assertEqual([(one["mailbox"], one["uid"]) for one in listed["messages"]], [("INBOX", 1), ("INBOX", 3)])
        self.assertEqual(listed["messages"][0]["subject"], "Message 1")
        self.assertEqual(listed["messages"][0]["from"], "ann1@example.net")
        self.assertEqual(self.texts(), self.expected(2))
        plain = self.server.command("store", "undelete", "--account", self.address, "--since", "1h")
        self.assertIn("2 can be brought back; add --apply", plain.stdout)
        future = self.server.command("store", "undelete", "--account", self.address, "--since", "2099-01-01T00:00:00Z")
        self.assertEqual(future.returncode, 1, future.stdout)
        self.assertIn("2099-01-01T00:00:00Z is in the future", future.stderr)
        one = self.done("store", "undelete", "--account", self.address, "--since", "1h",
                        "--mailbox", "INBOX", "--uid", "3", "--apply")
        self.assertEqual(one["messages"], 1)
        # The rest of it by the stopped store.
        self.server.stop()
        rest = self.done("store", "undelete", "--account", self.address, "--since", "1h", "--apply")
        self.assertEqual(rest["mailboxes"], [{"mailbox": "INBOX", "messages": 1}])
        self.server.start()
        self.assertEqual(self.texts(), self.expected(1, 2, 3))
        again = self.done("store", "undelete", "--account", self.address, "--since", "1h", "--apply")
        self.assertEqual(again["messages"], 0)

    def test_an_account_is_shown_as_it_was_and_cannot_be_changed(self):
        self.deliver(1, 2)
        imap = self.server.imap(self.account)
        imap.select("INBOX")
        imap.uid("STORE", "2", "+FLAGS", r"(\Flagged blue)")
        imap.create("Work")
        imap.uid("COPY", "1", "Work")
        time.sleep(1.1)
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        time.sleep(1.1)
        imap.uid("STORE", "1:2", "-FLAGS", r"(\Flagged)")
        imap.delete("Work")
        self.expunge("1:2")
        self.deliver(3)
        shown = self.done("store", "restore", "--account", self.address, "--at", then)
        self.assertEqual((shown["messages"], shown["damaged"]), (3, 0))
        tree = shown["tree"]
        inbox, work = f'"{tree}/INBOX"', f'"{tree}/Work"'
        self.assertEqual(self.texts(inbox), self.expected(1, 2))
        self.assertEqual(self.texts(work), self.expected(1))
        self.assertEqual(self.texts(), self.expected(3))
        with self.assertRaises(imaplib.IMAP4.readonly):
            imap.select(inbox)
        # The server has it selected; imaplib is to go on all the same.
        imap.is_readonly = True
        _, flags = imap.uid("FETCH", "2", "(FLAGS)")
        self.assertIn(b"\\Flagged", flags[0])
        self.assertIn(b"blue", flags[0])
        for refused in (
            lambda: imap.uid("STORE", "1", "+FLAGS", r"(\Seen)"),
            lambda: imap.uid("MOVE", "1", "INBOX"),
            lambda: imap.expunge(),
            lambda: imap.append(inbox, None, None, mail(9)),
        ):
            try:
                kind, said = refused()
            except imaplib.IMAP4.readonly:
                continue
            self.assertEqual(kind, "NO", said)
        self.assertEqual(imap.uid("COPY", "1", "INBOX")[0], "OK")
        imap.select("INBOX")
        self.assertEqual(imap.uid("COPY", "3", inbox)[0], "NO")
        self.assertEqual(self.texts(), self.expected(1, 3))
        for name in (inbox, work):
            self.assertEqual(imap.delete(name)[0], "OK")
        imap.logout()

        early = self.server.command("store", "restore", "--account", self.address, "--at", "5d")
        self.assertEqual(early.returncode, 1)
        self.assertIn("before what is remembered", early.stderr)

    def test_an_account_is_exported_as_it_was_running_and_stopped(self):
        self.deliver(1, 2)
        time.sleep(1.1)
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        time.sleep(1.1)
        self.expunge("1")
        for state in ("running", "stopped"):
            if state == "stopped":
                self.server.stop()
            target = os.path.join(self.server.directory, f"export-{state}")
            done = self.done("store", "restore", "--account", self.address, "--at", then, "--export", target)
            self.assertEqual((done["messages"], done["damaged"]), (2, 0))
            folder = os.path.join(target, "INBOX", "cur")
            texts = []
            for name in os.listdir(folder):
                with open(os.path.join(folder, name), "rb") as file:
                    texts.append(file.read().split(b"\r\n\r\n")[1])
            self.assertEqual(sorted(texts), self.expected(1, 2))
            self.assertTrue(os.path.isdir(os.path.join(target, "Sent", "new")))
            again = self.server.command(
                "store", "restore", "--account", self.address, "--at", then, "--export", target)
            self.assertIn("is not empty", again.stderr)
        self.server.start()
        self.assertEqual(self.texts(), self.expected(2))

    def test_an_export_ends_with_the_command_that_asked_for_it(self):
        self.deliver(1)
        imap = self.server.imap(self.account)
        imap.select("INBOX")
        for _ in range(11):
            self.assertEqual(imap.uid("COPY", "1:*", "INBOX")[0], "OK")
        imap.logout()
        time.sleep(1.1)
        then = int(time.time() * 1000)
        target = os.path.join(self.server.directory, "abandoned")
        request = {"operation": "store_restore_at", "account": self.address, "at": then, "export": target,
                   "over_quota": False, "removed": "no"}
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(os.path.join(self.server.directory, "control.sock"))
            control.sendall(json.dumps(request).encode() + b"\n")
        self.assertLogged("an export has ended early")
        written = sum(len(files) for _, _, files in os.walk(target))
        self.assertLess(written, 2048)
        self.assertTrue(os.path.exists(os.path.join(target, "INCOMPLETE")))
        self.assertEqual(sum(len(files) for _, _, files in os.walk(target)), written, "it goes on")
        # And one that is waited for has all of it.
        whole = self.done("store", "restore", "--account", self.address, "--at", "1s",
                          "--export", os.path.join(self.server.directory, "whole"))
        self.assertEqual((whole["messages"], whole["damaged"]), (2048, 0))
        self.assertEqual(len(os.listdir(os.path.join(whole["directory"], "INBOX", "cur"))), 2048)
        self.assertFalse(os.path.exists(os.path.join(whole["directory"], "INCOMPLETE")))
        # Interrupted, it says what became of it; be the store served or not.
        for state in ("running", "stopped"):
            if state == "stopped":
                self.server.stop()
            self.interrupted(os.path.join(self.server.directory, f"interrupted-{state}"))

    def interrupted(self, target):
        export = subprocess.Popen(
            [BINARY, "store", "restore", "--account", self.address, "--at", "1s", "--export", target,
             "--dir", self.server.directory], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertTrue(eventually(lambda: os.path.isdir(os.path.join(target, "INBOX", "cur")), 30))
        export.send_signal(signal.SIGINT)
        out, error = export.communicate(timeout=30)
        self.assertEqual(export.returncode, 130, out + error)
        self.assertIn("broken off", error)
        self.assertIn(target, error)
        is_whole = len(os.listdir(os.path.join(target, "INBOX", "cur"))) == 2048
        self.assertTrue(is_whole or os.path.exists(os.path.join(target, "INCOMPLETE")), error)

    def test_kill_after_undelete_and_show_keeps_them(self):
        self.deliver(1, 2)
        time.sleep(1.1)
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        time.sleep(1.1)
        self.expunge("1:2")
        shown = self.done("store", "restore", "--account", self.address, "--at", then)
        self.done("store", "undelete", "--account", self.address, "--since", "1h", "--apply")
        self.server.kill()
        self.server.start()
        self.assertEqual(self.texts(), self.expected(1, 2))
        self.assertEqual(self.texts(f'"{shown["tree"]}/INBOX"'), self.expected(1, 2))
        imap = self.server.imap(self.account)
        self.assertEqual(imap.append(f'"{shown["tree"]}/INBOX"', None, None, mail(9))[0], "NO")
        imap.logout()
        verified = self.done("store", "verify")
        self.assertEqual(verified["bad"], [])


class Window(TestCase):
    """With a window of two seconds."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r'^retention = .*', 'retention = "2s"')
        cls.server.start()

    def stats(self):
        return json.loads(self.server.command("store", "stats", "--json").stdout)

    def has_one_message_on_hold(self, address, directory, *more):
        """It is listed, and written to a directory of that name."""
        undelete = ("store", "undelete", "--account", address, "--since", "1h", *more)
        listed = self.server.command(*undelete)
        self.assertIn("1 are kept on hold", listed.stdout, listed.stderr)
        self.assertNotIn("--apply", listed.stdout)
        place = os.path.join(self.server.directory, directory)
        written = self.server.command(*undelete, "--export", place)
        self.assertEqual(written.returncode, 0, written.stderr)
        files = os.listdir(os.path.join(place, "INBOX", "cur"))
        self.assertEqual(len(files), 1)
        with open(os.path.join(place, "INBOX", "cur", files[0]), "rb") as file:
            self.assertTrue(file.read().endswith(mail(1).split(b"\r\n\r\n")[1]))

    def test_what_is_old_is_forgotten_but_for_a_hold_that_outlives_its_account(self):
        held, _ = self.server.add_account("held@example.test")
        other, _ = self.server.add_account("other@example.test")
        said = self.server.command("account", "hold", "add", held)
        self.assertEqual(said.returncode, 0, said.stderr)
        for account in (len(self.server.accounts) - 2, len(self.server.accounts) - 1):
            self.server.deliver(mail(1), to=account)
            imap = self.server.imap(account)
            imap.select("INBOX")
            imap.uid("STORE", "1", "+FLAGS", r"(\Deleted)")
            imap.expunge()
            imap.logout()
        self.assertEqual(self.stats()["accounts_held"], 1)
        self.assertTrue(eventually(lambda: self.stats()["buried_messages"] == 1, 20), self.stats())
        self.assertIsNotNone(self.stats()["remembered_since"])
        gone = self.server.command("store", "undelete", "--account", other, "--since", "1h")
        self.assertIn("nothing was expunged", gone.stdout)
        removed = self.server.command("account", "remove", held)
        self.assertEqual(removed.returncode, 0, removed.stderr)
        for words in ["is on hold, so its mail stays", f"store undelete --account {held}", "hold remove"]:
            self.assertIn(words, removed.stdout)
        listed = self.server.command("account", "hold", "list", "--json")
        self.assertEqual([(one["address"], one["account"]) for one in json.loads(listed.stdout)],
                         [(held, "removed")])
        kept = self.server.command("store", "undelete", "--account", held, "--since", "1h", "--json")
        self.assertEqual(json.loads(kept.stdout)["all"], 1)
        self.has_one_message_on_hold(held, "kept-1")
        # Somebody else gets the address: what is on hold is still found.
        self.server.add_account(held)
        fresh = self.server.command("store", "undelete", "--account", held, "--since", "1h")
        self.assertIn("nothing was expunged", fresh.stdout)
        self.assertIn("--removed", fresh.stdout)
        self.has_one_message_on_hold(held, "kept-2", "--removed")
        # Both may be on hold, and which of them is meant is said.
        refused = self.server.command("account", "hold", "remove", held)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("add --removed", refused.stderr)
        hold = ("account", "hold")
        self.assertEqual(self.server.command(*hold, "add", held).returncode, 0)
        listed = json.loads(self.server.command(*hold, "list", "--json").stdout)
        self.assertEqual([one["account"] for one in listed], ["there", "removed"])
        self.assertEqual(self.server.command(*hold, "remove", held).returncode, 0)
        self.has_one_message_on_hold(held, "kept-3", "--removed")
        self.assertEqual(self.server.command(*hold, "remove", held, "--removed").returncode, 0)
        applied = self.server.command(
            "store", "undelete", "--account", held, "--since", "1h", "--removed", "--apply"
        )
        self.assertEqual(applied.returncode, 1)
        self.assertIn("--export DIR", applied.stderr)
        nobody = self.server.command("store", "undelete", "--account", held, "--since", "1h", "--removed")
        self.assertEqual(nobody.returncode, 1)
        self.assertIn("no account that had the address", nobody.stderr)
        self.assertTrue(eventually(lambda: self.stats()["buried_messages"] == 0, 20), self.stats())

    def test_two_removed_accounts_of_one_address_are_told_apart_by_their_numbers(self):
        address = "gus@example.test"
        hold, numbers = ("account", "hold"), []
        for generation in (1, 2):
            self.server.add_account(address)
            self.assertTrue(self.server.deliver(mail(generation), to=address).startswith("250"))
            self.assertEqual(self.server.command(*hold, "add", address).returncode, 0)
            removed = self.server.command("account", "remove", address)
            self.assertEqual(removed.returncode, 0, removed.stderr)
            listed = json.loads(self.server.command(*hold, "list", "--json").stdout)
            numbers = [one["number"] for one in listed if one["address"] == address]
        self.assertEqual(len(set(numbers)), 2, listed)
        newer, older = numbers
        undelete = ("store", "undelete", "--account", address, "--since", "1h")
        # Which of them is asked, and never guessed.
        vague = [undelete, (*undelete, "--removed"), (*undelete, "--removed", "--export", "/nowhere/at/all"),
                 (*hold, "remove", address), (*hold, "remove", address, "--removed")]
        for command in vague:
            refused = self.server.command(*command)
            self.assertEqual(refused.returncode, 1, command)
            self.assertIn(f"--removed={newer}", refused.stderr)
            self.assertIn(f"--removed={older}", refused.stderr)
        for generation, number in ((1, older), (2, newer)):
            place = os.path.join(self.server.directory, f"generation-{generation}")
            written = self.server.command(*undelete, f"--removed={number}", "--export", place)
            self.assertEqual(written.returncode, 0, written.stderr)
            (name,) = os.listdir(os.path.join(place, "INBOX", "cur"))
            with open(os.path.join(place, "INBOX", "cur", name), "rb") as file:
                self.assertTrue(file.read().endswith(mail(generation).split(b"\r\n\r\n")[1]))
        # A third one has the address: the others are told of.
        self.server.add_account(address)
        listed = self.server.command(*undelete).stdout
        self.assertIn(f"--removed={newer} --removed={older}", listed)
        nobody = self.server.command(*hold, "remove", address, "--removed=4000000")
        self.assertEqual(nobody.returncode, 1)
        self.assertIn(f"--removed={older}", nobody.stderr)
        # One hold is lifted, and it is the one that was named.
        lifted = self.server.command(*hold, "remove", address, f"--removed={older}")
        self.assertEqual(lifted.returncode, 0, lifted.stderr)
        listed = json.loads(self.server.command(*hold, "list", "--json").stdout)
        self.assertEqual([one["number"] for one in listed if one["address"] == address], [newer])
        self.assertIn("1 are kept on hold", self.server.command(*undelete, "--removed").stdout)
        self.assertEqual(self.server.command(*hold, "remove", address, "--removed").returncode, 0)
