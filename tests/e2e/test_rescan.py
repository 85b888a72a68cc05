"""What gets into mailboxes past SMTP is scanned, and what lies there again when the scanner knows more."""

import unittest

import messages
import names
import scanners
import test_attachments
from scanners import EICAR
from test_scan import Scanned, attached, configure

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
        cls.clamd = scanners.Clamd()
        cls.addClassCleanup(cls.clamd.remove)
        cls.clamd.start()
        super().setUpClass()
        cls.server.stop()
        configure(cls.server, [f"unix:{cls.clamd.socket}"], stream_bytes_max=4 << 20, too_large='"reject"')
        cls.server.configure(r"^executable = .*$", 'executable = "quarantine"')
        cls.server.start()

    def test_what_a_client_puts_into_a_mailbox_is_scanned_whatever_its_size(self):
        more = messages.lines(LARGE)
        for message in [messages.header("plain") + EICAR + b"\r\n", attached("attached", "e.bin", EICAR),
                        attached("behind much", "e.bin", EICAR, more), messages.header("at the end") + more + EICAR]:
            self.assertRefused(message, b"CANNOT", b"holds a virus")
        self.assertIn("clamav=found Kura.Test.Eicar", self.server.log())
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


if __name__ == "__main__":
    unittest.main()
