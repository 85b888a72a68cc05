"""Behind a gateway that says on whose behalf it speaks: XCLIENT, or the header of the PROXY protocol."""

import os
import re
import signal
import socket
import subprocess
import time
import unittest

import kura
import messages
import names
import test_policy
from test_relay import until

GATEWAY, STRANGER, BALANCER = "127.4.0.1", "127.5.0.1", "127.7.0.1"

# The first domain's mail comes from one client alone, the others' from the two hosts
# in front of us.
ZONE = """
one TXT "v=spf1 ip4:192.0.2.77 -all"
gateway TXT "v=spf1 ip4:127.4.0.1 -all"
balancer TXT "v=spf1 ip4:127.7.0.1 -all"
"""


class Gateway(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r"^\[listen\]$", '[listen]\nxclient_from = ["127.4.0.0/16", "127.6.0.0/16"]')
        cls.server.configure(r"^unknown_recipients_max = .*$", "unknown_recipients_max = 3")
        # The gateway itself is trusted; what counts is the client.
        cls.server.configure(r"^trusted_networks = .*$", 'trusted_networks = ["127.4.0.0/16"]')
        cls.server.configure(r"^deny = .*$", 'deny = ["203.0.113.0/24"]')
        cls.server.configure(r"^deadline_seconds = .*$", "deadline_seconds = 1")
        cls.server.configure(r"^servers = .*$", 'servers = ["127.0.0.1:9"]')
        cls.server.start()

    def connect(self, source=GATEWAY, service="smtp"):
        wire = kura.Wire.__new__(kura.Wire)
        wire.socket = socket.create_connection(("127.0.0.1", self.server.ports[service]), timeout=60,
                                               source_address=(source, 0))
        wire.rest = b""
        wire.expect("220")
        return wire

    def offers(self, wire):
        wire.send(b"EHLO gateway.test\r\n")
        return "XCLIENT NAME ADDR PORT PROTO HELO REVERSE_NAME" in wire.reply()

    def bring(self, wire):
        wire.ask("MAIL FROM:<x@sender.test>", "250")
        wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
        wire.ask("DATA", "354")
        wire.send(kura.stuffed(messages.header("passed on") + b"Hello.\r\n"))
        wire.expect("250")
        return self.newest()

    def test_mail_is_the_clients_whose_session_begins_anew(self):
        with self.connect() as wire:
            self.assertTrue(self.offers(wire))
            own = self.bring(wire)
            self.assertNotIn(b"\r\nAuthentication-Results: ", own)
            self.assertNotIn(b"\r\nX-Spam-Status: ", own)
            for address, shown in (("192.0.2.77", b"192.0.2.77"), ("IPV6:2001:db8::77", b"2001:db8::77")):
                wire.ask(f"XCLIENT NAME=[UNAVAILABLE] ADDR={address} PORT=40000 HELO=client.test PROTO=ESMTP", "220")
                wire.ask("MAIL FROM:<x@sender.test>", "503")
                wire.ask("EHLO gateway.test", "250")
                got = self.bring(wire)
                self.assertRegex(got, rb"Received: from client\.test \([^)]*" + shown)
                # Verified and scored, since the client is a stranger, and the gateway is not.
                self.assertIn(b"\r\nAuthentication-Results: ", got)
                self.assertIn(b"\r\nX-Spam-Status: ", got)

    def test_one_clients_hello_is_not_the_next_ones(self):
        with self.connect() as wire:
            wire.ask("EHLO gateway.test", "250")
            wire.ask("XCLIENT HELO=first.test", "220")
            wire.ask("XCLIENT ADDR=192.0.2.77", "220")
            wire.ask("XCLIENT ADDR=192.0.2.77 PORT=40000", "220")
            wire.ask("EHLO gateway.test", "250")
            self.assertRegex(self.bring(wire), rb"Received: from first\.test \([^)]*192\.0\.2\.77")
            wire.ask("XCLIENT ADDR=192.0.2.78", "220")
            wire.ask("EHLO second.test", "250")
            self.assertRegex(self.bring(wire), rb"Received: from second\.test \([^)]*192\.0\.2\.78")

    def test_clients_are_counted_and_kept_out_and_their_gateway_is_not(self):
        def guess(wire, most=6):
            """Names recipients who do not exist, until there is no answer to another."""
            wire.ask("EHLO gateway.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            for number in range(most):
                wire.ask(f"RCPT TO:<nobody{number}@example.test>", "550")

        gateway = "127.6.0.1"
        with self.connect(gateway) as wire:
            guess(wire)
        for _ in range(3):
            with self.connect(gateway) as wire:
                wire.ask("EHLO gateway.test", "250")
        with self.connect(gateway) as wire:
            wire.ask("XCLIENT ADDR=192.0.2.99", "220")
            guess(wire)

        def kept_out(client):
            with self.connect(gateway) as wire:
                wire.send(f"XCLIENT ADDR={client}\r\n".encode())
                return wire.reply().startswith("421")
        self.assertTrue(kura.eventually(lambda: kept_out("192.0.2.99")))
        self.assertFalse(kept_out("198.51.100.9"))
        with open(self.server.log_path, errors="replace") as log:
            said = [line for line in log if "without saying for whom (XCLIENT)" in line and "127.6.0.0/16" in line]
        # Once, on the core that it came to.
        self.assertEqual(len(said), 1, said)

    def test_many_clients_may_come_by_one_connection(self):
        with self.connect() as wire:
            wire.ask("EHLO gateway.test", "250")
            for number in range(1, 250):
                wire.ask(f"XCLIENT ADDR=198.18.0.{number}", "220")

    def test_who_is_kept_out_is_kept_out_behind_the_gateway_too(self):
        with self.connect() as wire:
            wire.ask("EHLO gateway.test", "250")
            wire.ask("XCLIENT ADDR=203.0.113.9", "550")
            self.assertTrue(wire.ends())
        with self.connect() as wire:
            wire.ask("EHLO gateway.test", "250")
            wire.ask("XCLIENT ADDR=203.0.114.9", "220")

    def test_nobody_else_is_believed_and_no_other_service_offers_it(self):
        for source, service in ((STRANGER, "smtp"), (GATEWAY, "submission"), (GATEWAY, "lmtp")):
            with self.connect(source, service) as wire:
                if service == "lmtp":
                    wire.ask("LHLO gateway.test", "250")
                else:
                    self.assertFalse(self.offers(wire))
                wire.ask("XCLIENT ADDR=192.0.2.1", "550")
        with self.connect(STRANGER) as wire:
            wire.ask("EHLO client.test", "250")
            wire.ask("XCLIENT ADDR=192.0.2.1", "550")
            self.assertNotRegex(self.bring(wire), rb"192\.0\.2\.1\b")

    @unittest.skipUnless(kura.has("swaks"), "needs swaks")
    def test_a_real_client_of_it_is_understood(self):
        address = self.server.accounts[0][0]
        done = subprocess.run(
            ["swaks", "--server", "127.0.0.1", "--port", str(self.server.ports["smtp"]), "--local-interface", GATEWAY,
             "--from", "x@sender.test", "--to", address, "--header", "Subject: by swaks", "--body", "Hello.",
             "--xclient-addr", "192.0.2.88", "--xclient-name", "client.test", "--xclient-helo", "client.test",
             "--xclient-proto", "ESMTP"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertTrue(re.search(rb"Received: from client\.test \([^)]*192\.0\.2\.88", self.newest()), done.stdout)


@unittest.skipUnless(names.program("nsd"), "needs nsd")
class Strangers(kura.TestCase):
    """What is decided by an address is decided by the client's, though who stands in front is trusted."""

    lines = []

    @classmethod
    def setUpClass(cls):
        names.serve_for(cls, {"test.": ZONE})
        super().setUpClass()
        cls.server.stop()
        for line in [
            (r"^\[listen\]$", f'[listen]\nxclient_from = ["{GATEWAY}/32"]\n'
                             f'proxy_protocol_from = {{ smtp = ["{BALANCER}/32"] }}'),
            (r"^trusted_networks = .*$", f'trusted_networks = ["{GATEWAY}/32", "{BALANCER}/32"]'),
            (r"^servers = .*$", f'servers = ["127.0.0.1:{cls.names.port}"]'),
            *cls.lines,
        ]:
            cls.server.configure(*line)
        cls.server.start()

    def through(self, front, client):
        """A session of the client's that comes by who stands in front."""
        wire = kura.Wire.__new__(kura.Wire)
        wire.socket = socket.create_connection(("127.0.0.1", self.server.ports["smtp"]), timeout=60,
                                               source_address=(front, 0))
        wire.rest = b""
        if front == BALANCER:
            # Version 2, PROXY, TCP over IPv4, with 12 octets of addresses and ports.
            wire.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + socket.inet_aton(client)
                      + socket.inet_aton("198.51.100.1") + (40000).to_bytes(2, "big") + (25).to_bytes(2, "big"))
        wire.expect("220")
        if front == GATEWAY:
            wire.ask("EHLO gateway.test", "250")
            wire.ask(f"XCLIENT ADDR={client} HELO=client.test", "220")
        wire.ask("EHLO client.test", "250")
        return wire

    def reply(self, front, client, sender, message):
        with self.through(front, client) as wire:
            wire.ask(f"MAIL FROM:<{sender}>", "250")
            wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            return wire.reply()



class Listed(kura.TestCase):
    """Networks that are kept out or let in come from files."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.write("xx.zone", "# all of xx\n203.0.113.0/24 ; one\n2001:db8:5::/48\n\n198.51.100.7\n")
        cls.write("friends", "203.0.113.99\n")
        cls.server.configure(r"^\[listen\]$", '[listen]\nxclient_from = ["127.4.0.0/16"]')
        cls.server.configure(r"^deny_files = .*$", 'deny_files = ["xx.zone"]')
        cls.server.configure(r"^allow_files = .*$", 'allow_files = ["friends"]')
        cls.server.start()

    @classmethod
    def write(cls, name, text):
        with open(os.path.join(cls.server.directory, name), "w") as file:
            file.write(text)

    connect = Gateway.connect

    def is_let_in(self, address):
        with self.connect() as wire:
            wire.ask("EHLO gateway.test", "250")
            wire.send(f"XCLIENT ADDR={address}\r\n".encode())
            return wire.reply().startswith("220")

    def of(self, *addresses):
        return [self.is_let_in(address) for address in addresses]

    def test_a_file_is_as_good_as_the_list_and_is_read_anew(self):
        some = ("203.0.113.9", "203.0.113.99", "203.0.114.9", "198.51.100.7", "198.51.100.8", "IPV6:2001:db8:5::1")
        self.assertEqual(self.of(*some), [False, True, True, False, True, False])
        self.write("xx.zone", "203.0.114.0/24\n")
        self.server.process.send_signal(signal.SIGHUP)
        until("the new list", lambda: not self.is_let_in("203.0.114.9"))
        self.assertEqual(self.of(*some), [True, True, False, True, True, True])
        # A wrong one changes nothing, and is named.
        self.write("xx.zone", "203.0.113.0/24\n\n203.0.114.0/99\n")
        self.server.process.send_signal(signal.SIGHUP)
        until("a word about it", lambda: "xx.zone:3: " in self.server.log())
        self.assertEqual(self.of(*some), [True, True, False, True, True, True])
        config = os.path.join(self.server.directory, "kura.toml")
        checked = subprocess.run([kura.BINARY, "check-config", "--config", config],
                                 capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(checked.returncode, 1, checked.stdout)
        self.assertRegex(checked.stderr, r"xx\.zone:3: .*is no address or network")


class Verified(Strangers):
    def test_spf_looks_at_the_client(self):
        for front, own in ((GATEWAY, "gateway.test"), (BALANCER, "balancer.test")):
            for client, domain, outcome in (("192.0.2.77", "one.test", b"pass"), ("192.0.2.78", "one.test", b"fail"),
                                            ("192.0.2.77", own, b"fail")):
                with self.subTest(front=front, client=client, domain=domain):
                    subject = f"{outcome.decode()} of {client} by {front}, {domain}"
                    reply = self.reply(front, client, f"x@{domain}", messages.header(subject) + b"Hello.\r\n")
                    self.assertTrue(reply.startswith("250"), reply)
                    found = [self.newest(0, mailbox) for mailbox in ("INBOX", "Junk") if self.server.bodies(0, mailbox)]
                    got = next(one for one in found if subject.encode() in one)
                    self.assertRegex(got, rb"\r\nAuthentication-Results: (?:[^\r]|\r\n[ \t])*spf=" + outcome + rb"\b")


class Greylisted(Strangers):
    lines = test_policy.Greylisted.lines
    doubtful = test_policy.Greylisted.doubtful

    def test_greylisting_looks_at_the_client(self):
        for front, known, other in ((GATEWAY, "192.0.3.1", "192.0.4.1"), (BALANCER, "192.0.5.1", "192.0.6.1")):
            with self.subTest(front=front):
                def again(client):
                    return self.reply(front, client, "x@sender.test", self.doubtful)
                self.assertTrue(again(known).startswith("451 4.7.1 "))
                time.sleep(2.5)
                self.assertTrue(again(known).startswith("250"))
                # It has come again, and whoever else comes by the same way has not.
                self.assertTrue(again(other).startswith("451 4.7.1 "))
                self.assertTrue(again(known).startswith("250"))


if __name__ == "__main__":
    unittest.main()
