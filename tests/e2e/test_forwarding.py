"""Mail for addresses here that are somebody's elsewhere: aliases to other hosts, rewritten senders, and their bounces;
chains of seals (ARC), under dkimpy and our own verifier."""

import json
import re
import smtplib
import subprocess
import unittest

import kura
import names
from test_domain import verifying_python
from test_relay import ZONE, Sending, until

MORE = """
a TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.a TXT "v=DMARC1; p=reject"
there TXT "v=spf1 ip4:192.0.2.1 -all"
"""
TEXT = b"From: eve@there.test\r\nTo: info@a.test\r\nSubject: hello\r\n\r\nHello\r\n"
REWRITTEN = r"SRS0=[a-z2-7]{8}=[a-z2-7]{2}=there\.test=eve@a\.test"


def words(done):
    return done.stdout + done.stderr


@unittest.skipUnless(names.program("nsd"), "no nsd on this host")
class Forwarding(Sending):
    @classmethod
    def setUpClass(cls):
        cls.names = names.NameServer({"test.": ZONE + MORE}).start()

    def forwarder(self, port, *targets, alias="info@a.test", **more):
        """A Kura that looks at all that comes, with an alias to others."""
        server = self.server(port, **more)
        server.stop()
        server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        server.start()
        done = server.command("alias", "add", alias, *targets)
        self.assertEqual(done.returncode, 0, words(done))
        return server

    def offer(self, server, sender, to):
        """The reply to RCPT."""
        with kura.Wire(server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask(f"MAIL FROM:<{sender}>", "250")
            wire.send(f"RCPT TO:<{to}>\r\n".encode())
            return wire.reply()

    def test_an_alias_to_another_host_is_forwarded_byte_by_byte_and_to_who_is_here_too(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "ann@a.test", "Eve.Else@there.test")
        for text in (TEXT, TEXT + b"0123456789abcdef\r\n" * 30_000):
            reply = server.deliver(text, to="info@a.test", sender="eve@there.test")
            self.assertTrue(reply.startswith("250"), reply)
        found = until("both", lambda: len(sink.messages) == 2 and list(sink.messages))
        for _, recipients, octets in found:
            self.assertEqual(recipients, ["Eve.Else@there.test"])
            head = octets[: octets.index(b"\r\nFrom: eve@") + 2]
            self.assertIn(b"Delivered-To: info@a.test\r\n", head)
            self.assertIn(b"Authentication-Results: ", head)
            self.assertNotIn(b"Return-Path", head)
        texts = {octets[octets.index(b"From: eve@"):] for _, _, octets in found}
        self.assertEqual(texts, {TEXT, TEXT + b"0123456789abcdef\r\n" * 30_000})
        self.assertEqual(len(server.bodies()), 2)
        self.empty(server)

    def test_an_alias_to_others_alone_has_no_mailbox_and_is_durable_in_the_queue(self):
        server = self.forwarder(1, "eve@there.test", retry_first="1h", retry_most="1h")
        self.assertTrue(server.deliver(TEXT, to="info@a.test", sender="eve@there.test").startswith("250"))
        server.kill()
        server.start()
        waits, = self.queue(server)
        self.assertEqual(waits["recipients"], ["eve@there.test"])
        self.assertRegex(waits["sender"], f"^{REWRITTEN}$")
        self.assertEqual(server.bodies(), {})

    def test_what_is_asked_for_and_is_wrong_is_said(self):
        server = self.server(1)
        for target, word in [("x@a.test", "neither an account nor an alias"), ("a b@there.test", "quotes"), ("there", "@")]:
            done = server.command("alias", "add", "info@a.test", target)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(word, words(done))
        said = words(server.command("alias", "add", "info@a.test", "eve@THERE.test"))
        self.assertIn("eve@there.test", said)
        server.stop()
        server.configure(r"^enabled = true$", "enabled = false", "relay")
        server.start()
        done = server.command("alias", "add", "x@a.test", "eve@there.test")
        self.assertIn("set enabled = true in [relay]", words(done))
        self.assertTrue(self.offer(server, "eve@there.test", "info@a.test").startswith("550 5.7.1"))

    def test_a_loop_ends(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "ann@a.test", "eve@there.test")
        passed = b"".join(b"Received: from a by b; %d\r\n" % n for n in range(50))
        for text in (b"Delivered-To: info@a.test\r\n" + TEXT, passed + TEXT):
            reply = server.deliver(text, to="info@a.test")
            self.assertTrue(reply.startswith("554 5.4.6"), reply)
        self.assertEqual((server.bodies(), sink.messages), ({}, []))

    def test_spf_passes_where_it_goes_and_a_bounce_finds_its_way_back(self):
        b = self.server(1, user="bob@b.test")
        b.stop()
        b.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        b.start()
        a = self.forwarder(b.ports["smtp"], "bob@b.test")
        self.assertTrue(a.deliver(TEXT, to="info@a.test", sender="eve@there.test").startswith("250"))
        got, = until("it", b.bodies).values()
        head = got.decode().split("\r\n\r\n")[0]
        self.assertRegex(head, f"Return-Path: <{REWRITTEN}>")
        self.assertIn('spf=pass smtp.mailfrom="SRS0=', head)
        # A bounce comes back to who sent it, and to nobody else.
        sink = self.sink()
        a.stop()
        a.configure(r"^port = \d+$", f"port = {sink.port}", "relay")
        a.start()
        rewritten = re.search(REWRITTEN, head).group(0)
        bounce = b"From: postmaster@b.test\r\nSubject: failed\r\n\r\nNo such user\r\n"
        self.assertTrue(a.deliver(bounce, to=rewritten, sender="").startswith("250"))
        sender, recipients, octets = until("the bounce", lambda: list(sink.messages))[0]
        self.assertIn("FROM:<>", sender)
        self.assertEqual(recipients, ["eve@there.test"])
        self.assertTrue(octets.endswith(bounce))
        # Hosts on the way may change the case.
        self.assertTrue(self.offer(a, "", rewritten.lower()).startswith("250"))
        forged = rewritten.replace("=eve@", "=victim@")
        for sender, to, code in [("", forged, "550 5.1.1"), ("x@there.test", rewritten, "550 5.7.1"),
                                 ("", "SRS0=aaaaaaaa=aa=there.test=eve@a.test", "550 5.1.1")]:
            reply = self.offer(a, sender, to)
            self.assertTrue(reply.startswith(code), reply)

    def test_who_has_sent_it_is_told_when_it_can_not_be_forwarded(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "550 5.1.1 Gone" if verb == "RCPT" and "gone@" in line else True
        server = self.forwarder(sink.port, "gone@there.test")
        self.assertTrue(server.deliver(TEXT, to="info@a.test", sender="eve@there.test").startswith("250"))
        sender, recipients, octets = until("a report", lambda: list(sink.messages))[0]
        self.assertIn("FROM:<>", sender)
        self.assertEqual(recipients, ["eve@there.test"])
        self.assertIn(b"info@a.test", octets)
        self.empty(server)

    def test_a_redirect_is_rewritten_too_and_what_was_rewritten_elsewhere_is_once_more(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.filter(server, 'redirect "bob@there.test";')
        once = "SRS0=abcd=ef=x.test=bob@there.test"
        for sender in ("eve@there.test", once, "ann@a.test", ""):
            self.assertTrue(server.deliver(TEXT, sender=sender).startswith("250"))
        until("all", lambda: len(sink.messages) == 4)
        senders = sorted(sender.split("<")[1].split(">")[0] for sender, _, _ in sink.messages)
        self.assertEqual((senders[0], senders[3]), ("", "ann@a.test"))
        self.assertRegex(senders[1], f"^{REWRITTEN}$")
        self.assertRegex(senders[2], r"^SRS1=[a-z2-7]{8}=there\.test==abcd=ef=x\.test=bob@a\.test$")
        reply = self.offer(server, "", senders[2])
        self.assertTrue(reply.startswith("250"), reply)

    def test_it_can_be_switched_off_and_have_a_domain_of_its_own(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "bob@there.test")
        for line, expected in [('srs_domain = "srs.test"', "@srs.test"), ("srs = false", "<eve@there.test>")]:
            server.stop()
            server.configure(r"^srs = true$", line, "relay")
            server.start()
            self.assertTrue(server.deliver(TEXT, to="info@a.test", sender="eve@there.test").startswith("250"))
            sender, _, _ = until("it", lambda: list(sink.messages))[-1]
            self.assertIn(expected, sender)
            sink.messages.clear()
            server.configure("^" + re.escape(line) + "$", "srs = true", "relay")

    def test_nobody_has_us_vouch_for_what_claims_to_be_ours(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "bob@there.test")
        for author in (b"ann@a.test", b"ann@below.a.test"):
            forged = TEXT.replace(b"eve@there.test", author)
            reply = server.deliver(forged, to="info@a.test", sender="eve@there.test")
            self.assertTrue(reply.startswith("550 5.7.1"), reply)
        # Nor what keeps us from looking: a header too large for us, two authors.
        ours = TEXT.replace(b"eve@there.test", b"ann@a.test")
        for unclear in (b"X-Long: " + b"a b c d e \r\n " * 60_000 + b"\r\n" + ours, b"From: ann@a.test\r\n" + TEXT):
            reply = server.deliver(unclear, to="info@a.test", sender="eve@there.test")
            self.assertTrue(reply.startswith("550 5.7.1"), reply)
        self.assertEqual(sink.messages, [])

    def test_who_is_behind_several_aliases_gets_it_once(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "bob@there.test")
        for alias, targets in (("sales@a.test", ["bob@there.test", "eve@there.test"]), ("help@a.test", ["bob@there.test"])):
            self.assertEqual(server.command("alias", "add", alias, *targets).returncode, 0)
        with smtplib.SMTP("127.0.0.1", server.ports["smtp"], timeout=30) as smtp:
            to = ["info@a.test", "INFO@a.test", "sales@a.test", "help@a.test", "info@a.test"]
            self.assertEqual(smtp.sendmail("eve@there.test", to, TEXT), {})
        until("both", lambda: len(sink.messages) == 2)
        self.empty(server)
        self.assertEqual([to for _, to, _ in sorted(sink.messages, key=str)].count(["bob@there.test"]), 1)
        self.assertEqual(sum(len(to) for _, to, _ in sink.messages), 2)

    def test_who_has_logged_in_sends_through_an_alias_as_themselves_and_signed(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "bob@there.test")
        self.submit(server, "info@a.test", b"From: ann@a.test\r\nSubject: x\r\n\r\nHello\r\n")
        sender, recipients, octets = until("it", lambda: list(sink.messages))[0]
        self.assertIn("<ann@a.test>", sender)
        self.assertEqual(recipients, ["bob@there.test"])
        self.assertIn(b"DKIM-Signature: ", octets)

    def test_lmtp_answers_for_each(self):
        sink = self.sink()
        server = self.forwarder(sink.port, "bob@there.test")
        with kura.Wire(server.ports["lmtp"]) as wire:
            wire.expect("220")
            wire.ask("LHLO gateway.test", "250")
            wire.ask("MAIL FROM:<eve@there.test>", "250")
            for to in ("ann@a.test", "info@a.test"):
                wire.ask(f"RCPT TO:<{to}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(TEXT))
            self.assertEqual([wire.reply()[:3] for _ in range(2)], ["250", "250"])
        until("it", lambda: list(sink.messages))
        self.assertEqual(len(server.bodies()), 1)


# A verifier that we did not write: dkimpy, with the keys given rather than from DNS.
CHAINS = """
import json, sys, dkim
given = json.load(sys.stdin)
def text(name, timeout=5):
    found = given["keys"].get(name.decode().rstrip("."))
    return found and found.encode()
def outcome(octets):
    cv, results, reason = dkim.ARC(octets).verify(dnsfunc=text)
    return [cv and cv.decode(), len(results), reason]
print(json.dumps([outcome(one.encode("latin-1")) for one in given["messages"]]))
"""


@unittest.skipUnless(verifying_python(), "no dkimpy on this host (tests/run installs it)")
@unittest.skipUnless(names.program("nsd"), "no nsd on this host")
class Sealing(Sending):
    @classmethod
    def setUpClass(cls):
        cls.names = names.NameServer({"test.": ZONE, "a.test.": ""}).start()

    forwarder = Forwarding.forwarder

    def sealer(self, port):
        server = self.forwarder(port, "bob@there.test")
        self.assertEqual(server.command("alias", "add", "two@a.test", "bob@there.test").returncode, 0)
        server.stop()
        server.configure(r"^arc_seal = false$", "arc_seal = true", "auth")
        server.start()
        self.names.set("a.test.", server.command("dns", "print", "a.test").stdout)
        return server

    def chains(self, server, *messages):
        """What dkimpy says of each: the chain's validity, how many sets there are, and why."""
        records = json.loads(server.command("dns", "print", "a.test", "--json").stdout)["records"]
        keys = {one["name"]: one["value"] for one in records if one["what"] == "dkim"}
        given = json.dumps({"keys": keys, "messages": [one.decode("latin-1") for one in messages]})
        done = subprocess.run([verifying_python(), "-c", CHAINS], input=given.encode(), capture_output=True,
                              check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [tuple(one[:2]) for one in json.loads(done.stdout)]

    def forwarded(self, server, sink, text, to="info@a.test"):
        sink.messages.clear()
        reply = server.deliver(text, to=to, sender="eve@there.test")
        self.assertTrue(reply.startswith("250"), reply)
        return until("it", lambda: list(sink.messages))[0][2]

    def test_chains_hold_from_one_hop_to_the_next_and_a_broken_one_is_said_to_be(self):
        sink = self.sink()
        server = self.sealer(sink.port)
        large = TEXT + b"0123456789abcdef\r\n" * 30_000
        for text in (TEXT, large):
            once = self.forwarded(server, sink, text)
            self.assertIn(b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=a.test;", once)
            # By another name, so that it is no loop.
            twice = self.forwarded(server, sink, once, to="two@a.test")
            self.assertIn(b"arc=pass header.d=a.test", twice)
            self.assertTrue(twice.endswith(text))
            self.assertEqual(self.chains(server, once, twice), [("pass", 1), ("pass", 2)])
        broken = self.forwarded(server, sink, once.replace(b"Subject: hello", b"Subject: other"), to="two@a.test")
        self.assertIn(b"ARC-Seal: i=2; a=rsa-sha256; cv=fail;", broken)
        self.assertNotEqual(self.chains(server, broken)[0][0], "pass")

    def test_redirects_are_sealed_and_what_is_from_here_is_not(self):
        sink = self.sink()
        server = self.sealer(sink.port)
        self.filter(server, 'redirect "bob@there.test";')
        redirected = self.forwarded(server, sink, TEXT, to="ann@a.test")
        self.assertEqual(self.chains(server, redirected), [("pass", 1)])
        sink.messages.clear()
        self.submit(server, "info@a.test", b"From: ann@a.test\r\nSubject: x\r\n\r\nHello\r\n")
        own = until("it", lambda: list(sink.messages))[0][2]
        self.assertNotIn(b"ARC-", own)
        self.assertIn(b"DKIM-Signature: ", own)


if __name__ == "__main__":
    unittest.main()
