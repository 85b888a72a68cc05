"""Viruses: a real clamd in the session, and what follows when it is down, hangs or lies."""

import base64
import re
import tempfile
import threading
import time
import unittest
import urllib.request

import kura
import messages
import names
import scanners
from scanners import EICAR

BAD_BEHAVIOUR = ["close at once", "silent from the start", "close in the middle", "takes nothing", "hang",
                 "garbage", "endless garbage", "half an answer"]


def attached(subject, name, content, more=b""):
    lines = base64.encodebytes(content).replace(b"\n", b"\r\n")
    return (messages.header(subject, MIME_Version="1.0", Content_Type='multipart/mixed; boundary="b"')
            + b"--b\r\nContent-Type: text/plain\r\n\r\nsee there\r\n" + more
            + b"--b\r\nContent-Type: application/octet-stream; name=\"" + name.encode() + b"\"\r\n"
            + b"Content-Transfer-Encoding: base64\r\n\r\n" + lines + b"--b--\r\n")


def configure(server, sockets, **more):
    server.configure(r"^clamd = .*$", f"clamd = {sockets}".replace("'", '"'))
    for key, value in more.items():
        server.configure(rf"^{key} = .*$", f"{key} = {value}", "scan")


def strangers(server):
    """Loopback is a stranger like any other, and nobody answers questions about it."""
    server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
    server.configure(r"^deadline_seconds = .*$", "deadline_seconds = 1")
    server.configure(r"^servers = .*$", 'servers = ["127.0.0.1:9"]')


def metrics(server):
    """By name with labels; the port is in the configuration."""
    with open(f"{server.directory}/kura.toml") as file:
        address = re.search(r'\[metrics\]\nlisten = "([^"]+)"', file.read()).group(1)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


class Scanned(kura.TestCase):
    """Some of what every class does."""

    @classmethod
    def ask_clamd(cls, **settings):
        """A clamd of the class's own, for its server, which is stopped for that."""
        cls.clamd = scanners.Clamd()
        cls.addClassCleanup(cls.clamd.remove)
        cls.clamd.start()
        cls.server.stop()
        configure(cls.server, [f"unix:{cls.clamd.socket}"], **settings)

    def deliver(self, message, code):
        reply = self.server.deliver(message)
        self.assertTrue(reply.startswith(code), reply)
        return reply

    def field(self, mailbox="INBOX"):
        got = self.newest(mailbox=mailbox)
        found = re.findall(rb"^X-Virus-Scanned:((?:[^\r\n]*\r\n)(?:[ \t][^\r\n]*\r\n)*)", got, re.M)
        self.assertEqual(len(found), 1, got[:2000])
        return re.sub(rb"\s+", b" ", found[0]).decode().strip()

    def results(self, result):
        return metrics(self.server)[f'kura_scan_results_total{{engine="clamav",result="{result}"}}']


@unittest.skipUnless(names.program("clamd"), "needs clamd (clamav-daemon; tests/run installs it)")
class Real(Scanned):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.ask_clamd(stream_bytes_max=4 << 20)
        cls.server.configure(r'^level = .*$', 'level = "info"')
        cls.server.start()

    def test_a_clean_message_says_so_and_comes_back_as_it_was(self):
        sent = messages.header("clean") + b"Hello.\r\n"
        self.deliver(sent, "250")
        self.assertRegex(self.field(), r"^\S+; clamav=clean \(ClamAV [0-9.]+\)$")
        self.assertTrue(self.newest().endswith(sent))
        self.assertLogged("clamav=clean")

    def test_a_virus_is_refused_in_the_session_wherever_it_stands(self):
        before, found = len(self.server.bodies()), self.results("found")
        large = messages.lines(700 << 10)
        for message in [
            messages.header("plain") + EICAR + b"\r\n",
            attached("attached", "eicar.bin", EICAR),
            attached("behind much", "eicar.bin", EICAR, more=large),
            messages.header("at the end") + large + EICAR + b"\r\n",
            messages.header("in the first piece") + EICAR + b"\r\n" + large,
            attached("in several pieces", "eicar.bin", EICAR + b"\0" * 700_000),
        ]:
            reply = self.deliver(message, "550 5.7.1 ")
            self.assertIn("Kura.Test.Eicar", reply)
        self.assertEqual(len(self.server.bodies()), before)
        self.assertEqual(self.results("found"), found + 6)
        self.assertLogged("clamav=found Kura.Test.Eicar")
        self.assertServes()

    def test_a_large_clean_message_is_scanned_on_its_way_into_the_log(self):
        sent = messages.header("large and clean") + messages.lines(3 << 20)
        self.deliver(sent, "250")
        self.assertIn("clamav=clean", self.field())
        self.assertTrue(self.newest().endswith(sent))

    def test_what_is_too_large_to_be_scanned_is_delivered_and_says_so(self):
        sent = messages.header("too large") + EICAR + b"\r\n" + messages.lines(5 << 20)
        self.deliver(sent, "250")
        self.assertIn("clamav=too_large", self.field())
        self.assertTrue(self.newest().endswith(sent))

    def test_a_message_that_does_not_begin_as_one_is_looked_into_all_the_same(self):
        # What clamd, left alone, takes for a program, a picture or a text.
        for first in [b"MZ: 1\r\n", b"GIF8: 1\r\n", b"%PDF-1: 1\r\n", b""]:
            for more in [b"", messages.lines(500 << 10)]:
                sent = attached("odd", "eicar.bin", EICAR, more)
                if not first:
                    sent = sent[sent.index(b"Content-Type:"):]
                self.assertIn("Kura.Test.Eicar", self.deliver(first + sent, "550 5.7.1 "))

    def test_a_forged_field_is_renamed_whoever_sends_it(self):
        with kura.Wire(self.server.ports["smtp"]) as wire:
            hostname = wire.expect("220").split()[1]
        for more in [b"", messages.lines(500 << 10)]:
            self.deliver(messages.header("forged", X_Virus_Scanned=f"{hostname}; clamav=clean") + more, "250")
            self.assertIn("clamav=clean (ClamAV", self.field())
            self.assertIn(f"X-Virus-Claimed: {hostname}; clamav=clean".encode(), self.newest())

    def test_a_slow_peer_does_not_lose_its_scan(self):
        with kura.Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(messages.header("slow") + messages.lines(300 << 10))
            time.sleep(7)
            wire.send(EICAR + b"\r\n.\r\n")
            self.assertTrue(wire.reply().startswith("550 5.7.1 "))

    def test_a_peer_that_leaves_in_the_middle_holds_nothing(self):
        for _ in range(30):
            with kura.Wire(self.server.ports["smtp"]) as wire:
                wire.expect("220")
                wire.ask("EHLO client.example.net", "250")
                wire.ask("MAIL FROM:<sender@example.net>", "250")
                wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
                wire.ask("DATA", "354")
                wire.send(messages.header("gone") + messages.lines(300 << 10))
        self.deliver(messages.header("behind them") + messages.lines(400 << 10) + EICAR + b"\r\n", "550")

    def test_a_killed_clamd_defers_until_it_is_back(self):
        self.clamd.stop()
        try:
            for size in [100, 600 << 10]:
                reply = self.deliver(messages.header("down") + messages.lines(size), "451 ")
                self.assertNotIn("clamd.ctl", reply)
            self.assertGreater(self.results("unknown"), 1)
            up = [value for name, value in metrics(self.server).items() if name.startswith("kura_scan_server_up")]
            self.assertEqual(up, [0])
        finally:
            self.clamd.start()
        self.deliver(messages.header("up again") + b"Hello.\r\n", "250")
        self.deliver(messages.header("up again") + EICAR + b"\r\n", "550")

    def test_submission_and_lmtp_are_scanned_too(self):
        with kura.Wire(self.server.ports["lmtp"]) as wire:
            wire.expect("220")
            wire.ask("LHLO gateway.test", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(messages.header("lmtp") + EICAR + b"\r\n.\r\n")
            self.assertTrue(wire.reply().startswith("550 5.7.1 "))
        address, password = self.server.accounts[0]
        with kura.Wire(self.server.ports["submission"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("AUTH PLAIN " + base64.b64encode(f"\0{address}\0{password}".encode()).decode(), "235")
            wire.ask(f"MAIL FROM:<{address}>", "250")
            wire.ask(f"RCPT TO:<{address}>", "250")
            wire.ask("DATA", "354")
            wire.send(messages.header("submission") + EICAR + b"\r\n.\r\n")
            self.assertTrue(wire.reply().startswith("550 5.7.1 "))


@unittest.skipUnless(names.program("clamd"), "needs clamd (clamav-daemon; tests/run installs it)")
class Junked(Scanned):
    def test_a_virus_goes_into_junk_where_the_operator_wants_it_and_forged_fields_are_renamed(self):
        clamd = scanners.Clamd()
        self.addCleanup(clamd.remove)
        clamd.start()
        self.server.stop()
        configure(self.server, [f"unix:{clamd.socket}"], found='"junk"')
        strangers(self.server)
        self.server.start()
        with kura.Wire(self.server.ports["smtp"]) as wire:
            hostname = wire.expect("220").split()[1]
        for more in [b"", messages.lines(500 << 10)]:
            forged = messages.header("forged", X_Virus_Scanned=f"{hostname}; clamav=clean")
            self.deliver(forged + more + EICAR + b"\r\n", "250")
            self.assertIn("clamav=found Kura.Test.Eicar", self.field(mailbox="Junk"))
            self.assertIn(f"X-Virus-Claimed: {hostname}; clamav=clean".encode(), self.newest(mailbox="Junk"))
        # Users' scripts are told, whose mail is redirected, too.
        (alice, _), (bob, _) = self.server.accounts[:2]
        files = ('require ["virustest","relational","comparator-i;ascii-numeric","fileinto"];'
                 'if virustest :value "eq" :comparator "i;ascii-numeric" "5" { fileinto "Trash"; }')
        for account, script in [(alice, f'redirect "{bob}";'), (bob, files)]:
            with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
                file.write(script)
                file.flush()
                done = self.server.command("sieve", "put", file.name, "--name", "x", "--activate", "--account", account)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.deliver(messages.header("told") + EICAR + b"\r\n", "250")
        self.assertIn(b"Subject: told\r\n", self.newest(1, "Trash"))


class Bad(Scanned):
    @classmethod
    def setUpClass(cls):
        cls.fake, cls.good = scanners.Fake(), scanners.Fake()
        cls.addClassCleanup(cls.fake.remove)
        cls.addClassCleanup(cls.good.remove)
        super().setUpClass()

    def restart(self, sockets, **more):
        with open(f"{self.server.directory}/kura.toml") as file:
            text = file.read()
        self.addCleanup(self.put_back, text)
        self.server.stop()
        configure(self.server, [f"unix:{path}" for path in sockets], connect_seconds=1, answer_seconds=2, **more)
        self.server.start()

    def put_back(self, text):
        with open(f"{self.server.directory}/kura.toml", "w") as file:
            file.write(text)

    def test_whatever_a_scanner_does_the_session_is_answered_in_time(self):
        self.restart([self.fake.socket])
        memory = self.server.resident_bytes()
        for behaviour in BAD_BEHAVIOUR:
            self.fake.behaviour = behaviour
            for size in [100, 900 << 10]:
                with self.subTest(behaviour=behaviour, size=size):
                    start = time.monotonic()
                    self.deliver(messages.header(behaviour) + messages.lines(size), "451 ")
                    self.assertLess(time.monotonic() - start, 20)
        self.assertLess(self.server.resident_bytes() - memory, 64 << 20)
        self.assertGreaterEqual(self.results("unknown"), 2 * len(BAD_BEHAVIOUR))
        self.fake.behaviour = "clean"
        self.deliver(messages.header("clean") + b"Hello.\r\n", "250")
        self.assertServes()

    def test_with_mark_mail_goes_on_without_a_scanner_and_says_so(self):
        self.restart([self.fake.socket], when_down='"mark"')
        for behaviour in ["hang", "close at once"]:
            self.fake.behaviour = behaviour
            self.deliver(messages.header("unscanned") + messages.lines(100), "250")
            self.assertTrue(self.field().endswith("; clamav=unknown"), self.field())

    def test_another_server_stands_in(self):
        self.good.behaviour = "found"
        self.restart([self.fake.socket, self.good.socket])
        for behaviour in BAD_BEHAVIOUR:
            self.fake.behaviour = behaviour
            for turn in range(2):
                reply = self.deliver(messages.header(f"{behaviour} {turn}") + behaviour.encode() + b"\r\n", "550 ")
                self.assertIn("Fake.VirusX-Evil: yes", reply)

    def test_the_same_message_is_scanned_once_for_each_version_of_the_signatures(self):
        self.good.behaviour, self.good.signatures = "clean", "100"
        self.restart([self.good.socket])
        before = self.good.scanned
        for _ in range(5):
            self.deliver(messages.header("news") + b"The same for all.\r\n", "250")
        self.assertEqual(self.good.scanned, before + 1)
        self.assertIn("(ClamAV 9.9/100)", self.field())
        self.assertEqual(metrics(self.server)["kura_scan_cached_total"], 4)
        self.good.signatures, self.good.behaviour = "101", "found"

        def refused():
            return self.server.deliver(messages.header("news") + b"The same for all.\r\n").startswith("550")
        self.assertTrue(kura.eventually(refused, 20))
        self.assertEqual(self.good.scanned, before + 2)

    def test_a_verdict_is_for_nothing_but_the_same_message(self):
        self.good.behaviour, self.good.signatures = "clean", "100"
        self.restart([self.good.socket])
        before = self.good.scanned
        self.deliver(messages.header("one") + b"The same for all.\r\n", "250")
        self.good.behaviour = "found"
        self.deliver(messages.header("other") + b"The same for all.\r\n", "550")
        self.assertEqual(self.good.scanned, before + 2)

    def test_slow_peers_with_large_messages_give_their_places_up(self):
        self.good.behaviour = "clean"
        self.restart([self.good.socket], connections_max=1)
        self.server.stop()
        self.server.configure(r"^answer_seconds = .*$", "answer_seconds = 40", "scan")
        self.server.start()
        with kura.Wire(self.server.ports["smtp"]) as slow:
            slow.expect("220")
            slow.ask("EHLO client.example.net", "250")
            slow.ask("MAIL FROM:<sender@example.net>", "250")
            slow.ask(f"RCPT TO:<{self.server.accounts[0][0]}>", "250")
            slow.ask("DATA", "354")
            slow.send(messages.header("slow") + messages.lines(400 << 10))
            time.sleep(1)
            start = time.monotonic()
            self.deliver(messages.header("fast") + messages.lines(400 << 10), "250")
            self.assertIn("clamav=clean", self.field())
            self.assertLess(time.monotonic() - start, 25)
            slow.send(b".\r\n")
            reply = slow.reply()
            self.assertTrue(reply.startswith("451 "), reply)

    def test_a_hanging_scanner_holds_nobody_else(self):
        self.fake.behaviour = "hang"
        self.restart([self.fake.socket])
        threads = [threading.Thread(target=self.server.deliver, args=(messages.header(f"{n}") + b"x\r\n",))
                   for n in range(40)]
        for thread in threads:
            thread.start()
        start = time.monotonic()
        self.assertServes()
        self.assertLess(time.monotonic() - start, 5)
        for thread in threads:
            thread.join(60)
        self.assertFalse(any(thread.is_alive() for thread in threads))


@unittest.skipUnless(names.program("clamd"), "needs clamd (clamav-daemon; tests/run installs it)")
class Limits(Scanned):
    def test_more_than_clamd_takes_is_too_large_not_a_failure(self):
        clamd = scanners.Clamd(stream_max="1M")
        self.addCleanup(clamd.remove)
        clamd.start()
        self.server.stop()
        configure(self.server, [f"unix:{clamd.socket}"], too_large='"junk"')
        self.server.start()
        sent = messages.header("3 MiB") + messages.lines(3 << 20)
        self.deliver(sent, "250")
        self.assertIn("clamav=too_large", self.field(mailbox="Junk"))
        self.assertTrue(self.newest(mailbox="Junk").endswith(sent))
        self.deliver(messages.header("small") + EICAR + b"\r\n", "550")


class Outbreaks(Scanned):
    """The counts are one for all cores: sessions are spread over them by the kernel."""

    def mail(self, number, words="the quick brown fox jumps over a lazy dog and goes home to have its tea with friends "):
        # Each one a little different from all others.
        text = f"Dear customer{number},\r\n\r\n" + "\r\n".join(
            f"{words}{chr(97 + line)}{chr(98 + line)} until line" for line in range(12)) + f"\r\n\r\nnumber {number * 77}\r\n"
        return messages.header(f"Offer {number}") + text.encode()

    def test_many_alike_go_into_junk_and_others_do_not(self):
        self.server.stop()
        strangers(self.server)
        self.server.configure(r"^messages_min = .*$", "messages_min = 6")
        self.server.configure(r"^networks_min = .*$", "networks_min = 1")
        self.server.configure(r"^senders_min = .*$", "senders_min = 3")
        self.server.start()
        for number in range(20):
            reply = self.server.deliver(self.mail(number), sender=f"x@sender{number % 7}.test")
            self.assertTrue(reply.startswith("250"), reply)
            if number % 3 == 0:
                self.deliver(messages.header(f"other {number}") + messages.lines(2000, seed=number), "250")
        junk = self.server.bodies(mailbox="Junk")
        self.assertTrue(10 <= len(junk) <= 15, len(junk))
        for body in junk.values():
            self.assertIn(b"outbreak=suspect", body)
            self.assertIn(b"Dear customer", body)
        self.assertEqual(metrics(self.server)["kura_scan_outbreak_messages_total"], len(junk))


if __name__ == "__main__":
    unittest.main()
