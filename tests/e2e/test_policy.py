"""Who is kept out: networks, lists in DNS against a real name server, timed bans."""

import contextlib
import json
import socket
import tempfile
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
        names.serve_for(cls, {"test.": ZONE})
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
        # For now, so that mail of others at that address is not lost; and who logs in
        # there is served.
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


class Greeted(Policy):
    lines = [(r"^greeting_delay_ms = .*$", "greeting_delay_ms = 700")]

    def test_who_waits_is_greeted_and_who_does_not_is_refused(self):
        start = time.monotonic()
        self.assertTrue(self.greeting("127.9.1.1").startswith("220"))
        self.assertGreaterEqual(time.monotonic() - start, 0.7)
        with From(self.server.ports["smtp"], "127.9.1.2") as wire:
            wire.send(b"EHLO spammer.test\r\n")
            self.assertTrue(wire.reply().startswith("554 5.5.1 "))
            self.assertTrue(wire.ends())
        self.assertLogged("spoke before it was greeted")

    def test_friends_and_other_services_do_not_wait(self):
        for address, service in [("127.0.0.1", "smtp"), ("127.9.1.3", "submission"), ("127.9.1.3", "imap")]:
            start = time.monotonic()
            self.greeting(address, service)
            self.assertLess(time.monotonic() - start, 0.6, service)

    def test_who_leaves_before_the_greeting_costs_nothing(self):
        for _ in range(300):
            From(self.server.ports["smtp"], "127.9.1.4").socket.close()
        self.assertServes()

    def test_a_server_that_stops_does_not_wait_for_it(self):
        with From(self.server.ports["smtp"], "127.9.1.5"):
            self.server.stop()
        self.server.start()


class Marked(Policy):
    lines = [(r"^greeting_delay_ms = .*$", "greeting_delay_ms = 700"), (r"^early_talkers = .*$", 'early_talkers = "mark"')]

    def test_who_does_not_wait_is_served_and_its_mail_says_so(self):
        with From(self.server.ports["smtp"], "127.9.1.2") as wire:
            # All at once, far beyond what is kept of it before the greeting.
            message = messages.header("early") + messages.lines(20_000)
            wire.send(b"EHLO early.test\r\nMAIL FROM:<x@sender.test>\r\nRCPT TO:<%s>\r\nDATA\r\n"
                      % self.server.accounts[0][0].encode() + kura.stuffed(message))
            for code in ["220", "250", "250", "250", "354", "250"]:
                wire.expect(code)
        got = self.newest()
        self.assertIn(b"EARLY_TALKER=2.5", got)
        self.assertTrue(got.endswith(message))


class Tarpitted(Policy):
    lines = [
        (r"^tarpit_seconds = .*$", "tarpit_seconds = 2"),
        (r"^unknown_recipients_max = .*$", "unknown_recipients_max = 6"),
    ]

    def test_who_has_gone_half_way_to_a_ban_is_answered_late_and_nobody_else(self):
        for _ in range(4):
            self.recipient("127.9.1.1", "nobody@example.test")

        def took(address):
            start = time.monotonic()
            greeting = self.greeting(address)
            self.assertTrue(greeting.startswith("220"), greeting)
            return time.monotonic() - start

        self.assertTrue(kura.eventually(lambda: took("127.9.1.1") >= 2))
        self.assertLess(took("127.9.1.2"), 1.5)
        self.assertLess(took("127.0.0.1"), 1.5)
        with From(self.server.ports["smtp"], "127.9.1.1") as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            start = time.monotonic()
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            self.assertGreaterEqual(time.monotonic() - start, 2)
        self.assertServes()

    def test_those_who_wait_hold_up_nobody(self):
        for _ in range(4):
            self.recipient("127.9.3.1", "nobody@example.test")
        time.sleep(0.5)
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(From(self.server.ports["smtp"], "127.9.3.1"))
            start = time.monotonic()
            self.assertServes()
            self.assertLess(time.monotonic() - start, 1.5)


class Trapped(Policy):
    action = "refuse"
    honeypot = "trap@example.test"

    @classmethod
    def setUpClass(cls):
        cls.lines = [
            (r"^honeypots = .*$", f'honeypots = ["{cls.honeypot}"]'),
            (r"^honeypot_action = .*$\nhoneypot_ban_seconds = .*$",
             f'honeypot_action = "{cls.action}"\nhoneypot_ban_seconds = 3'),
        ]
        super().setUpClass()

    def session(self, address, message):
        """Two recipients, the trap first; the replies to them and to the message."""
        with From(self.server.ports["smtp"], address) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            replies = []
            for recipient in [self.honeypot.upper(), self.server.accounts[0][0]]:
                wire.send(f"RCPT TO:<{recipient}>\r\n".encode())
                replies.append(wire.reply())
            wire.send(b"DATA\r\n")
            reply = wire.reply()
            if reply.startswith("354"):
                wire.send(kura.stuffed(message))
                reply = wire.reply()
            return replies + [reply]


class Refused(Trapped):
    def test_who_writes_to_a_honeypot_is_refused_and_kept_out_for_a_while(self):
        before = len(self.server.bodies())
        trap, other, end = self.session("127.9.1.1", messages.header("trapped") + b"Hello.\r\n")
        self.assertTrue(trap.startswith("550 5.1.1 "), trap)
        self.assertTrue(other.startswith("550 5.7.1 "), other)
        self.assertTrue(end.startswith("5"), end)
        self.assertTrue(self.greeting("127.9.1.1").startswith("421 4.7.0 "))
        self.assertTrue(self.greeting("127.9.1.2").startswith("220"))
        self.assertEqual(len(self.server.bodies()), before)
        self.assertTrue(kura.eventually(lambda: self.greeting("127.9.1.1").startswith("220"), 20))

    def test_a_recipient_named_before_the_trap_gets_nothing_either(self):
        before = len(self.server.bodies())
        with From(self.server.ports["smtp"], "127.9.2.1") as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
            wire.ask(f"RCPT TO:<{self.honeypot}>", "550")
            wire.ask("DATA", "550 5.7.1")
        self.assertEqual(len(self.server.bodies()), before)

    def test_what_comes_back_to_a_trap_is_no_offence(self):
        # Somebody has put it into MAIL FROM, and an honest server tells of a failure.
        with From(self.server.ports["smtp"], "127.9.3.1") as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<>", "250")
            wire.ask(f"RCPT TO:<{self.honeypot}>", "550 5.1.1")
            wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
        self.assertTrue(self.greeting("127.9.3.1").startswith("220"))

    def test_a_friend_is_told_that_nobody_is_there_and_goes_on(self):
        trap, other, end = self.session("127.0.0.1", messages.header("friend") + b"Hello.\r\n")
        self.assertTrue(trap.startswith("550 5.1.1 "), trap)
        self.assertTrue(other.startswith("250") and end.startswith("250"), (other, end))
        self.assertTrue(self.greeting("127.0.0.1").startswith("220"))


class Trained(Trapped):
    action = "train"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.add_account(cls.honeypot)

    def test_what_is_written_to_a_honeypot_is_junk_for_all_and_is_learned(self):
        message = messages.header("wonderful") + b"Buy the garden of everybody.\r\n"
        replies = self.session("127.9.1.1", message)
        self.assertTrue(all(reply.startswith("250") for reply in replies), replies)
        self.assertIn(b"HONEYPOT=20.0", self.newest(0, "Junk"))
        self.assertTrue(self.greeting("127.9.1.1").startswith("421 4.7.0 "))

        # In the background; who teaches it again finds it known.
        time.sleep(1)
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/same.eml"
            with open(path, "wb") as file:
                file.write(message)
            done = self.server.command("spam", "train", "--spam", path, "--json")
        self.assertEqual(json.loads(done.stdout), {"messages": 1, "learned": 0, "left_out": 0, "moved": 0}, done.stderr)


if __name__ == "__main__":
    unittest.main()
