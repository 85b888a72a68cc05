"""Who is kept out: networks, lists in DNS against a real name server, timed bans."""

import contextlib
import socket
import time
import unittest

import kura
import messages
import names

ZONE = """
1.2.9.127.bl A 127.0.0.2
1.3.9.127.bl A 127.255.255.254
1.4.9.127.grey A 127.0.0.2
"""

LISTS = """
[[policy.dns_lists]]
zone = "bl.test"
refuse = true

[[policy.dns_lists]]
zone = "grey.test"
score = 4.5
"""


class From(kura.Wire):
    """A connection from another address of loopback."""

    def __init__(self, port, address):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))
        self.rest = b""


class Policy(kura.TestCase):
    lists = ""
    lines = []

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r"^trusted_networks = .*$", 'trusted_networks = ["127.0.0.0/24"]')
        cls.server.configure(r"^verify = .*$", "verify = false")
        for line in cls.lines:
            cls.server.configure(*line)
        with open(f"{cls.server.directory}/kura.toml", "a") as file:
            file.write(cls.lists)
        cls.server.start()

    def greeting(self, address, service="smtp"):
        with From(self.server.ports[service], address) as wire:
            return wire.line().decode()

    def recipient(self, address, recipient=None, message=None):
        """The reply to RCPT, or to the message if there is one."""
        with From(self.server.ports["smtp"], address) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            wire.send(f"RCPT TO:<{recipient or self.server.accounts[0][0]}>\r\n".encode())
            reply = wire.reply()
            if message is None or not reply.startswith("250"):
                return reply
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            return wire.reply()


@unittest.skipUnless(names.program("nsd"), "needs nsd")
class Lists(Policy):
    lists = LISTS

    @classmethod
    def setUpClass(cls):
        cls.names = names.NameServer({"test.": ZONE})
        cls.addClassCleanup(cls.names.remove)
        cls.names.start()
        cls.lines = [
            (r"^servers = .*$", f'servers = ["127.0.0.1:{cls.names.port}"]'),
            (r"^timeout_seconds = .*$", "timeout_seconds = 1"),
        ]
        super().setUpClass()

    def test_a_listed_client_is_refused_and_others_are_not(self):
        reply = self.recipient("127.9.2.1")
        self.assertTrue(reply.startswith("550 5.7.1 "), reply)
        self.assertIn("127.9.2.1 is on the block list bl.test", reply)
        self.assertTrue(self.recipient("127.9.2.9").startswith("250"))
        # An answer that means something else; and a recipient who does not exist costs no question.
        self.assertTrue(self.recipient("127.9.3.1").startswith("250"))
        self.assertIn("5.1.1", self.recipient("127.9.2.1", "nobody@example.test"))

    def test_a_list_with_a_score_adds_to_it(self):
        message = messages.header("listed") + b"Hello.\r\n"
        self.assertTrue(self.recipient("127.9.4.1", message=message).startswith("250"))
        found = [self.newest(0, mailbox) for mailbox in ("INBOX", "Junk") if self.server.bodies(0, mailbox)]
        self.assertTrue(any(b"LIST_GREY_TEST=4.5" in got for got in found), found)

    def test_an_outage_lists_nobody_and_holds_nobody_up(self):
        self.names.stop()
        try:
            started = time.monotonic()
            # Not asked for before, so that no cache knows it.
            self.assertTrue(self.recipient("127.9.5.1").startswith("250"))
            self.assertLess(time.monotonic() - started, 10)
        finally:
            self.names.start()


class Greylisted(Policy):
    lines = [
        (r"^enabled = false$", "enabled = true", "policy.greylist"),
        (r"^from_score = .*$", "from_score = 1.0"),
        (r"^delay_seconds = .*$", "delay_seconds = 2"),
    ]
    doubtful = b"Subject: WHAT A GREAT OFFER !!\r\n\r\nHello.\r\n"

    def test_doubtful_mail_waits_once_and_its_network_is_known_then_even_after_a_crash(self):
        ordinary = messages.header("ordinary") + b"Hello.\r\n"
        self.assertTrue(self.recipient("127.9.1.1", message=ordinary).startswith("250"))
        reply = self.recipient("127.9.1.1", message=self.doubtful)
        self.assertTrue(reply.startswith("451 4.7.1 "), reply)
        self.assertTrue(self.recipient("127.9.1.2", message=self.doubtful).startswith("451 4.7.1 "))
        self.server.kill()
        self.server.start()
        time.sleep(2.5)
        self.assertTrue(self.recipient("127.9.1.1", message=self.doubtful).startswith("250"))
        self.server.kill()
        self.server.start()
        self.assertTrue(self.recipient("127.9.1.3", message=self.doubtful).startswith("250"))
        self.assertTrue(self.recipient("127.9.2.1", message=self.doubtful).startswith("451 4.7.1 "))
        # Who is trusted is not asked.
        self.assertTrue(self.recipient("127.0.0.1", message=self.doubtful).startswith("250"))


class Screened(Policy):
    lines = [
        (r"^deny = .*$", 'deny = ["127.8.0.0/16"]'),
        (r"^allow = .*$", 'allow = ["127.7.0.0/16"]'),
        (r"^ban_seconds = .*$", "ban_seconds = 4"),
        (r"^connections_max = 0$", "connections_max = 30", "policy.screening"),
        (r"^failed_logins_max = .*$", "failed_logins_max = 2"),
        (r"^unknown_recipients_max = .*$", "unknown_recipients_max = 3"),
    ]

    def test_a_denied_network_sees_no_greeting_on_any_service(self):
        self.assertTrue(self.greeting("127.8.1.1").startswith("554 5.7.1 "))
        self.assertTrue(self.greeting("127.8.1.1", "imap").startswith("* BYE "))
        self.assertTrue(self.greeting("127.8.1.1", "pop3").startswith("-ERR "))
        self.assertTrue(self.greeting("127.6.1.1").startswith("220"))

    def test_who_guesses_recipients_is_kept_out_for_a_while_and_nobody_else(self):
        address = "127.9.1.1"
        for _ in range(4):
            self.assertIn("5.1.1", self.recipient(address, "nobody@example.test"))
        # For now, so that mail of others at that address is not lost; and who logs in there is served.
        self.assertTrue(kura.eventually(lambda: self.greeting(address).startswith("421 4.7.0 ")))
        self.assertTrue(self.greeting(address, "submission").startswith("220"))
        self.assertTrue(self.greeting("127.9.1.2").startswith("220"))
        self.assertTrue(self.greeting("127.0.0.1").startswith("220"))
        self.assertTrue(kura.eventually(lambda: self.greeting(address).startswith("220"), 20))

    def test_who_guesses_passwords_may_log_in_nowhere_and_still_brings_mail(self):
        address, user = "127.9.6.1", self.server.accounts[0][0]
        for _ in range(3):
            with From(self.server.ports["imap"], address) as wire:
                wire.line()
                wire.send(f'a LOGIN {user} wrong\r\n'.encode())
                self.assertIn("a NO", wire.tagged("a"))
        self.assertTrue(kura.eventually(lambda: self.greeting(address, "pop3").startswith("-ERR")))
        self.assertTrue(self.greeting(address, "submission").startswith("421 4.7.0 "))
        self.assertTrue(self.recipient(address).startswith("250"))
        self.assertTrue(kura.eventually(lambda: self.greeting(address, "pop3").startswith("+OK"), 20))

    def test_who_is_allowed_may_guess(self):
        for _ in range(8):
            self.assertIn("5.1.1", self.recipient("127.7.1.1", "nobody@example.test"))
        self.assertTrue(self.greeting("127.7.1.1").startswith("220"))

    def test_connections_are_counted(self):
        with contextlib.suppress(ConnectionError):
            replies = [self.greeting("127.9.7.1") for _ in range(40)]
        self.assertTrue(replies[0].startswith("220"))
        self.assertTrue(kura.eventually(lambda: self.greeting("127.9.7.1").startswith("421 4.7.0 "), 2))


if __name__ == "__main__":
    unittest.main()
