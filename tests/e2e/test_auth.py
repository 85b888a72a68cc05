"""Who has sent it? SPF, DKIM and DMARC against a real name server, and what follows from them."""

import base64
import re
import socket
import tempfile
import threading
import time
import unittest
import urllib.request

import kura
import messages
import names

ZONE = """
ns A 127.0.0.1
client A 127.0.0.1
client TXT "v=spf1 a -all"
pass TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.pass TXT "v=DMARC1; p=reject"
fail TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.fail TXT "v=DMARC1; p=reject"
doubtful TXT "v=spf1 -all"
_dmarc.doubtful TXT "v=DMARC1; p=quarantine"
silent A 127.0.0.1
_dmarc.signed TXT "v=DMARC1; p=reject"
list TXT "v=spf1 ip4:127.0.0.1 -all"
loop CNAME loop2
loop2 CNAME loop
_dmarc.loop CNAME _dmarc.loop2
_dmarc.loop2 CNAME _dmarc.loop
loop._domainkey.signed CNAME loop
circle TXT "v=spf1 include:circle.test redirect=circle.test"
_dmarc.circle TXT "v=DMARC1; p=reject"
"""


def number(octets):
    """An integer in DER."""
    octets = b"\0" + octets
    return b"\x02\x82" + len(octets).to_bytes(2, "big") + octets


def huge_key(bits):
    """A record with a key of so many bits, which nobody can have."""
    numbers = number(b"\xff" * (bits // 8)) + b"\x02\x03\x01\x00\x01"
    key = b"\x30\x82" + len(numbers).to_bytes(2, "big") + numbers
    text = "v=DKIM1; p=" + base64.b64encode(key).decode()
    return " ".join(f'"{text[i:i + 200]}"' for i in range(0, len(text), 200))


def configure(server, dmarc="enforce", **more):
    """Loopback is a stranger like any other, and the names come from the test's own server."""
    server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
    server.configure(r'^dmarc = .*$', f'dmarc = "{dmarc}"')
    for old, new in more.get("lines", []):
        server.configure(old, new)


def mail(domain, subject, **more):
    return messages.header(subject, From=f"Somebody <somebody@{domain}>", **more) + b"Hello.\r\n"


@unittest.skipUnless(names.program("nsd"), "needs nsd")
class Verified(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rsa = names.Signer(2048, "signed.test", "rsa")
        cls.edwards = names.Signer("ed25519", "signed.test", "ed")
        cls.weak = names.Signer(512, "signed.test", "weak")
        keys = "".join(signer.record() for signer in (cls.rsa, cls.edwards, cls.weak))
        cls.huge = names.Signer(2048, "signed.test", "huge")
        keys += f"huge._domainkey.signed TXT {huge_key(16384)}\n"
        cls.looped = names.Signer(2048, "signed.test", "loop")
        reverse = "1.0.0 PTR client.test.\n"
        names.serve_for(cls, {"test.": ZONE + keys, "127.in-addr.arpa.": reverse})
        super().setUpClass()
        cls.server.stop()
        server = f"127.0.0.1:{cls.names.port}"
        configure(cls.server, lines=[
            (r"^servers = .*$", f'servers = ["{server}"]'),
            (r"^timeout_seconds = .*$", "timeout_seconds = 1"),
            (r"^received_spf = .*$", "received_spf = true"),
            (r'^level = .*$', 'level = "info"'),
        ])
        cls.server.start()

    def send(self, sender, message, helo="client.test", to=0):
        recipient = self.server.accounts[to][0]
        with kura.Wire(self.server.ports["smtp"]) as wire:
            greeting = wire.expect("220")
            self.hostname = greeting.split()[1]
            wire.ask(f"EHLO {helo}", "250")
            wire.ask(f"MAIL FROM:<{sender}>", "250")
            wire.ask(f"RCPT TO:<{recipient}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            return wire.reply()

    def accepted(self, sender, message, mailbox="INBOX", **more):
        """What Authentication-Results says of it, unfolded; the message is where it should be."""
        reply = self.send(sender, message, **more)
        self.assertTrue(reply.startswith("250"), reply)
        found = self.server.bodies(0, mailbox)
        got = found[max(found)]
        self.assertTrue(got.endswith(message.split(b"\r\n\r\n", 1)[1]))
        self.got = got
        fields = re.findall(rb"^Authentication-Results:((?:[^\r\n]*\r\n)(?:[ \t][^\r\n]*\r\n)*)", got, re.M)
        self.assertEqual(len(fields), 1, got[:2000])
        text = re.sub(rb"\s+", b" ", fields[0]).decode()
        self.assertTrue(text.startswith(f" {self.hostname};"), text)
        return text

    def test_spf_of_both_identities_and_dmarc_pass(self):
        message = mail("pass.test", "pass")
        results = self.accepted("somebody@pass.test", message)
        for result in ["iprev=pass policy.iprev=127.0.0.1", "spf=pass smtp.helo=client.test",
                       "spf=pass smtp.mailfrom=somebody@pass.test", "dkim=none",
                       "dmarc=pass (p=reject) header.from=pass.test"]:
            self.assertIn(result, results)
        self.assertCameBack(self.got, message)
        self.assertRegex(self.got, rb"Received-SPF: pass")

    def test_a_failure_under_p_reject_is_refused_in_plain_words(self):
        before = len(self.server.bodies())
        reply = self.send("somebody@fail.test", mail("fail.test", "forged"))
        self.assertTrue(reply.startswith("550 5.7.1 "), reply)
        self.assertIn("fail.test", reply)
        self.assertIn("DMARC", reply)
        self.assertIn("p=reject", reply)
        self.assertEqual(len(self.server.bodies()), before)

    def test_a_failure_under_p_quarantine_goes_into_junk(self):
        before = len(self.server.bodies())
        results = self.accepted("x@doubtful.test", mail("doubtful.test", "doubtful"), mailbox="Junk")
        self.assertIn("spf=fail smtp.mailfrom=x@doubtful.test", results)
        self.assertIn("dmarc=fail (p=quarantine) header.from=doubtful.test", results)
        self.assertEqual(len(self.server.bodies()), before)

    def test_no_automatic_reply_goes_to_a_sender_who_is_likely_somebody_else(self):
        (own, _), (other, _) = self.server.accounts[:2]
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write('require "vacation"; vacation "Away.";')
            file.flush()
            done = self.server.command("sieve", "put", file.name, "--name", "v", "--activate", "--account", own)
        self.assertEqual(done.returncode, 0, done.stderr)
        for domain, mailbox, replies in [("doubtful.test", "Junk", 0), ("silent.test", "INBOX", 1)]:
            self.accepted(other, mail(domain, "away?", To=own), mailbox=mailbox)
            found = [body for body in self.server.bodies(1).values() if b"\r\nSubject: Auto: away?" in body]
            self.assertEqual(len(found), replies, domain)
        self.assertEqual(self.server.command("sieve", "activate", "--none", "--account", own).returncode, 0)

    def test_a_domain_without_records_is_none(self):
        results = self.accepted("x@silent.test", mail("silent.test", "silent"), helo="silent.test")
        self.assertIn("spf=none smtp.mailfrom=x@silent.test", results)
        self.assertIn("dmarc=none header.from=silent.test", results)

    def test_signatures_pass_and_save_what_a_forwarder_sends(self):
        message = self.edwards.sign(self.rsa.sign(mail("signed.test", "signed")))
        results = self.accepted("bounces@list.test", message)
        self.assertIn("dkim=pass header.d=signed.test header.s=rsa header.a=rsa-sha256", results)
        self.assertIn("dkim=pass header.d=signed.test header.s=ed header.a=ed25519-sha256", results)
        self.assertIn("dmarc=pass (p=reject) header.from=signed.test", results)
        self.assertCameBack(self.got, message)

    def test_a_message_over_the_sessions_buffer_is_verified_while_it_streams(self):
        message = mail("signed.test", "large") + messages.lines(900_000)
        results = self.accepted("x@signed.test", self.rsa.sign(message))
        self.assertIn("dkim=pass header.d=signed.test", results)
        self.assertIn("dmarc=pass", results)
        spoiled = self.rsa.sign(message)[:-7] + b"!!!!!\r\n"
        reply = self.send("x@signed.test", spoiled)
        self.assertTrue(reply.startswith("550 5.7.1"), reply)

    def test_a_changed_body_and_a_short_key_do_not_pass(self):
        spoiled = self.rsa.sign(mail("signed.test", "spoiled")) + b"P.S. Pay here.\r\n"
        self.assertTrue(self.send("x@list.test", spoiled).startswith("550 5.7.1"))
        weak = self.weak.sign(mail("signed.test", "weak"))
        self.assertTrue(self.send("x@list.test", weak).startswith("550 5.7.1"))
        weak = self.weak.sign(mail("silent.test", "weak"))
        self.assertNotIn("dkim=pass", self.accepted("x@silent.test", weak))

    def test_loops_of_names_and_huge_keys_are_answered_at_once(self):
        start = time.monotonic()
        results = self.accepted("x@loop.test", mail("loop.test", "loops"), helo="loop.test")
        self.assertRegex(results, "spf=(none|temperror|permerror) smtp.mailfrom=x@loop.test")
        self.assertRegex(results, "dmarc=(none|temperror) header.from=loop.test")
        reply = self.send("x@circle.test", mail("circle.test", "circle"))
        self.assertTrue(reply.startswith("550 5.7.1"), reply)
        results = self.accepted("x@silent.test", self.huge.sign(mail("silent.test", "huge")))
        self.assertIn("dkim=policy (RSA key above 8192 bits)", results)
        results = self.accepted("x@silent.test", self.looped.sign(mail("silent.test", "looped")))
        self.assertRegex(results, "dkim=(permerror|temperror)")
        self.assertLess(time.monotonic() - start, 30)

    def test_a_header_beyond_the_buffer_is_no_verdict(self):
        one = b"DKIM-Signature: v=1; a=rsa-sha256; d=signed.test; s=rsa; h=From; bh=AAAA; b=AAAA\r\n"
        seal = b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=signed.test; s=rsa; b=AAAA\r\n"
        results = self.accepted("x@silent.test", (one + seal) * 10_000 + mail("silent.test", "bomb"))
        self.assertIn("dkim=neutral (header too large)", results)
        self.assertIn("arc=none (header too large)", results)
        self.assertIn("dmarc=permerror (header too large)", results)
        self.assertServes()

    def test_results_that_claim_to_be_ours_are_renamed_and_nothing_moves(self):
        self.send("x@silent.test", mail("silent.test", "what is its name?"))
        forged = f"Authentication-Results: {self.hostname}; dmarc=pass header.from=bank.test\r\n".encode()
        others = b"Authentication-Results: elsewhere.test; spf=pass\r\n"
        reply = self.send("x@silent.test", forged + others + mail("silent.test", "forged results"))
        self.assertTrue(reply.startswith("250"), reply)
        found = self.server.bodies()
        got = found[max(found)]
        self.assertIn(b"\r\n" + forged.replace(b"Authentication-Results", b"X-Claimed-Auth-Results"), got)
        self.assertIn(b"\r\n" + others, got)
        self.assertNotIn(b"\r\n" + forged, got)

    def test_many_signatures_cost_little(self):
        one = b"DKIM-Signature: v=1; a=rsa-sha256; d=signed.test; s=rsa; h=From; bh=AAAA; b=AAAA\r\n"
        start = time.monotonic()
        results = self.accepted("x@silent.test", one * 500 + mail("silent.test", "many"))
        self.assertLess(time.monotonic() - start, 10)
        self.assertIn("490 more signatures not looked at", results)
        self.assertEqual(results.count("dkim="), 11)
        # Beside a body that streams there is little room: what matters stays.
        large = one * 500 + mail("silent.test", "many and large") + messages.lines(900_000)
        self.assertIn("dmarc=none header.from=silent.test", self.accepted("x@silent.test", large))
        self.assertServes()

    def test_z_a_resolver_that_is_down_is_temperror_and_refuses_nobody(self):
        self.names.stop()
        try:
            start = time.monotonic()
            # Another name than any that may be remembered.
            results = self.accepted("x@later.fail.test", mail("later.fail.test", "outage"), helo="later.test")
            self.assertLess(time.monotonic() - start, 30)
            self.assertIn("spf=temperror smtp.mailfrom=x@later.fail.test", results)
            self.assertIn("dmarc=temperror", results)
        finally:
            self.names.start()
        # The address of the metrics is in the configuration.
        with open(f"{self.server.directory}/kura.toml") as file:
            address = re.search(r'\[metrics\]\s*listen = "([^"]+)"', file.read()).group(1)
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
        self.assertRegex(text, r'kura_auth_results_total{method="spf",result="temperror"} [1-9]')
        self.assertRegex(text, r"kura_auth_latency_seconds_count [1-9]")

    def test_z_a_resolver_that_is_silent_holds_nobody_past_the_deadline(self):
        self.names.stop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", self.names.port))
            try:
                start = time.monotonic()
                results = self.accepted("x@deaf.test", mail("deaf.test", "silence"), helo="deafer.test")
                self.assertLess(time.monotonic() - start, 30)
                self.assertIn("spf=temperror smtp.mailfrom=x@deaf.test", results)
            finally:
                deaf.close()
                self.names.start()


    def test_z_answers_that_are_junk_are_temperror(self):
        self.names.stop()
        stop = threading.Event()

        def lie(asked):
            count = 0
            while not stop.is_set():
                try:
                    question, asker = asked.recvfrom(4096)
                except OSError:
                    continue
                count += 1
                lies = [
                    b"", question[:2], question[:12],
                    # An answer is promised that isn't there; a name that points to itself;
                    # octets without sense.
                    question[:2] + b"\x81\x80\0\1\xff\xff\0\0\0\0" + question[12:],
                    question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:] + b"\xc0\x0c" * 40,
                    question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0\xc0\x0c\0\x10\0\1",
                    question[:2] + bytes(range(256)) * 4,
                ]
                asked.sendto(lies[count % len(lies)], asker)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
            liar.settimeout(0.2)
            liar.bind(("127.0.0.1", self.names.port))
            thread = threading.Thread(target=lie, args=(liar,))
            thread.start()
            try:
                start = time.monotonic()
                results = self.accepted("x@lies.test", mail("lies.test", "lies"), helo="liar.test")
                self.assertLess(time.monotonic() - start, 30)
                self.assertIn("spf=temperror smtp.mailfrom=x@lies.test", results)
                self.assertIn("dmarc=temperror", results)
            finally:
                stop.set()
                thread.join()
                liar.close()
                self.names.start()
        self.assertServes()


class Trusted(kura.TestCase):
    def test_loopback_is_trusted_unless_the_operator_says_otherwise(self):
        self.server.deliver(mail("fail.test", "from this host"))
        found = self.server.bodies()
        self.assertNotIn(b"Authentication-Results", found[max(found)])


if __name__ == "__main__":
    unittest.main()
