"""Behind a load balancer: the PROXY protocol's header says whose connection it is."""

import socket
import struct
import time
import unittest

import kura
import messages

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def header(client, port=40000, command=0x21, more=b""):
    """Version 2, for a client over IPv4 or IPv6."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    address = socket.inet_pton(family, client)
    there = socket.inet_pton(family, "2001:db8::25" if ":" in client else "198.51.100.25")
    body = address + there + struct.pack(">HH", port, 25) + more
    return SIGNATURE + struct.pack(">BBH", command, 0x21 if ":" in client else 0x11, len(body)) + body


class Balanced(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        services = ", ".join(f'{name} = ["127.4.0.0/16"]' for name in ("smtp", "imap", "imaps", "submission"))
        cls.server.configure(r"^\[listen\]$", f"[listen]\nproxy_protocol_from = {{ {services} }}")
        # The balancer itself is trusted; what counts is the client.
        cls.server.configure(r"^trusted_networks = .*$", 'trusted_networks = ["127.0.0.0/24", "127.4.0.0/16"]')
        cls.server.configure(r"^deny = .*$", 'deny = ["203.0.113.0/24"]')
        cls.server.configure(r"^failed_logins_max = .*$", "failed_logins_max = 2")
        cls.server.configure(r"^deadline_seconds = .*$", "deadline_seconds = 1")
        cls.server.configure(r"^servers = .*$", 'servers = ["127.0.0.1:9"]')
        cls.server.start()

    def connect(self, service="smtp", said=b"", balancer="127.4.0.1"):
        wire = kura.Wire.__new__(kura.Wire)
        wire.socket = socket.create_connection(("127.0.0.1", self.server.ports[service]), timeout=60,
                                               source_address=(balancer, 0))
        wire.rest = b""
        wire.send(said)
        return wire

    def test_the_client_is_who_brings_the_mail(self):
        for client in ["192.0.2.77", "2001:db8::77"]:
            message = messages.header("balanced") + b"Hello.\r\n"
            with self.connect(said=header(client, more=b"\x04\0\x03abc")) as wire:
                wire.expect("220")
                wire.ask("EHLO client.test", "250")
                wire.ask("MAIL FROM:<x@sender.test>", "250")
                wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
                wire.ask("DATA", "354")
                wire.send(kura.stuffed(message))
                wire.expect("250")
            got = self.newest()
            self.assertRegex(got, rb"Received: from client\.test \([^)]*" + client.encode())
            # Verified, since the client is a stranger, and the balancer is not.
            self.assertIn(b"\r\nAuthentication-Results: ", got)
            self.assertIn(b"\r\nX-Spam-Status: ", got)

    def test_what_is_decided_about_connections_is_decided_about_clients(self):
        with self.connect(said=header("203.0.113.9")) as wire:
            wire.expect("554 5.7.1 ")
        for _ in range(3):
            with self.connect("imap", header("192.0.2.66")) as wire:
                wire.line()
                wire.send(f"a LOGIN {self.server.accounts[0][0]} wrong\r\n".encode())
                self.assertIn("a NO", wire.tagged("a"))

        def greeting(client):
            with self.connect("imap", header(client)) as wire:
                return wire.line()

        self.assertTrue(kura.eventually(lambda: greeting("192.0.2.66").startswith(b"* BYE")))
        self.assertTrue(greeting("192.0.2.67").startswith(b"* OK"))

    def test_a_header_in_pieces_and_a_client_that_speaks_at_once(self):
        whole = header("192.0.2.1") + b"EHLO client.test\r\n"
        with self.connect() as wire:
            for octet in range(len(whole)):
                wire.send(whole[octet:octet + 1])
                time.sleep(0.002)
            wire.expect("220")
            wire.expect("250")
        with self.connect(said=whole) as wire:
            wire.expect("220")
            wire.expect("250")

    def test_tls_begins_behind_the_header(self):
        with self.connect("imaps", header("192.0.2.1")) as wire:
            wire.start_tls()
            self.assertTrue(wire.line().startswith(b"* OK"))

    def test_the_balancers_own_connections_are_served(self):
        for said in [SIGNATURE + b"\x20\0\0\0", SIGNATURE + b"\x21\0\0\0"]:
            with self.connect(said=said) as wire:
                wire.expect("220")

    def test_who_leaves_the_header_out_or_spoils_it_hears_nothing(self):
        for said in [b"EHLO client.test\r\n", b"PROXY TCP4 192.0.2.1 198.51.100.1 1 25\r\n", SIGNATURE + b"\x31",
                     SIGNATURE + b"\x21\x11\xff\xff", SIGNATURE + b"\x21\x11\0\x01x", SIGNATURE + b"\x21\x31\0\0"]:
            with self.subTest(said), self.connect(said=said) as wire:
                self.assertEqual(wire.line(), b"")
        # And who says nothing at all is not waited for.
        start = time.monotonic()
        with self.connect() as wire:
            self.assertEqual(wire.line(), b"")
        self.assertLess(time.monotonic() - start, 20)
        self.assertServes()

    def test_nobody_else_is_believed(self):
        with self.connect(said=header("192.0.2.1") + b"EHLO x.test\r\n", balancer="127.0.0.1") as wire:
            wire.expect("220")
            replies = [wire.reply() for _ in range(2)]
            self.assertTrue(all(reply.startswith("5") for reply in replies if reply), replies)
        # On a service that has no balancer, neither.
        with self.connect("pop3") as wire:
            self.assertTrue(wire.line().startswith(b"+OK"))


if __name__ == "__main__":
    unittest.main()
