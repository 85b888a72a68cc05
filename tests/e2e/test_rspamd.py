"""A second opinion: a real rspamd over HTTP, and servers that only pretend."""

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

import kura
import messages
import names
from test_scan import metrics

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X\r\n"


class Rspamd:
    """Knows GTUBE, and one rule of the test's own; asks nobody. Its list of top-level domains is short, since the whole one takes
    a quarter of a minute to compile."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="kura-rspamd-")
        self.port = names.free_port()
        self.process = None
        with open(f"{self.directory}/tld.dat", "w") as file:
            file.write("test\nnet\norg\ncom\n")
        with open(f"{self.directory}/rspamd.conf", "w") as file:
            file.write(f"""
options {{
  pidfile = "{self.directory}/pid"; filters = "regexp"; url_tld = "{self.directory}/tld.dat";
  control_socket = "{self.directory}/control.sock mode=0600"; cache_file = "{self.directory}/symbols.cache";
  hs_cache_dir = "{self.directory}"; disable_monitoring = true;
  dns {{ nameserver = "127.0.0.1:9"; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "file"; filename = "{self.directory}/log"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{self.port}"; count = 1; }}
metric {{ name = "default"; actions {{ reject = 15; add_header = 6; greylist = 4; }} }}
regexp {{ KURA_TEST {{ re = "Subject=/kura-seven/"; score = 7.0; }} }}
""")

    def start(self):
        places = [f"--var={name}={self.directory}" for name in
                  ("DBDIR", "RUNDIR", "LOGDIR", "CONFDIR", "LOCAL_CONFDIR")]
        self.process = subprocess.Popen(
            [names.program("rspamd"), "-f", "-i", "-c", f"{self.directory}/rspamd.conf", *places],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if self.process.poll() is None and self.answers():
                return self
            time.sleep(0.1)
        raise RuntimeError(f"rspamd does not answer: {self.log()}")

    def answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=2) as page:
                return page.read().startswith(b"pong")
        except OSError:
            return False

    def log(self):
        with open(f"{self.directory}/log", errors="replace") as log:
            return log.read()[-4000:]

    def remove(self):
        if self.process is not None:
            # Its workers end with it.
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def answer(score, action, **symbols):
    said = {name: {"name": name, "score": value} for name, value in symbols.items()}
    return json.dumps({"is_skipped": False, "score": score, "action": action, "symbols": said}).encode()


class Fake:
    """Speaks HTTP as far as `behaviour` says; keeps the last request."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", names.free_port()))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.behaviour = answer(0.0, "no action")
        self.asked, self.head, self.body = 0, b"", b""
        self.closing = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                wire, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(wire,), daemon=True).start()

    def serve(self, wire):
        behaviour = self.behaviour
        try:
            with wire, wire.makefile("rb") as lines:
                if behaviour == "close at once":
                    return
                if behaviour == "silent":
                    self.closing.wait()
                    return
                head, length = b"", 0
                while not head.endswith(b"\r\n\r\n"):
                    line = lines.readline()
                    if not line:
                        return
                    head += line
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.head, self.body = head, lines.read(length)
                # At the start it is asked whether it is there.
                self.asked += head.startswith(b"POST")
                if behaviour == "hang":
                    self.closing.wait()
                elif behaviour == "close":
                    return
                elif behaviour == "garbage":
                    wire.sendall(bytes(range(256)) * 8)
                elif behaviour == "endless head":
                    while not self.closing.is_set():
                        wire.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 4000 + b"\r\n")
                elif behaviour == "endless":
                    wire.sendall(b"HTTP/1.1 200 OK\r\n\r\n{\"score\": 1")
                    while not self.closing.is_set():
                        wire.sendall(b"1" * 4096)
                elif behaviour == "half":
                    wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"score\": 99.0, \"action\": \"reject\"}")
                elif behaviour == "elsewhere":
                    wire.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
                elif behaviour == "error":
                    wire.sendall(b"HTTP/1.1 500 no\r\nContent-Length: 34\r\n\r\n{\"score\": 99.0, \"action\": \"reject\"}")
                else:
                    wire.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(behaviour) + behaviour)
        except OSError:
            pass

    def remove(self):
        self.closing.set()
        self.listener.close()


class Asked(kura.TestCase):
    """Some of what every class does."""

    settings = {}

    @classmethod
    def ask(cls, *ports):
        servers = ", ".join(f'"http://127.0.0.1:{port}"' for port in ports)
        cls.server.stop()
        cls.server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        cls.server.configure(r"^verify = .*$", "verify = false")
        cls.server.configure(r"^level = .*$", 'level = "debug"')
        cls.server.configure(r"^rspamd = .*$", f"rspamd = [{servers}]")
        for key, value in cls.settings.items():
            cls.server.configure(rf"^{key} = .*$", f"{key} = {value}", "spam")
        cls.server.start()

    def deliver(self, message, code):
        reply = self.server.deliver(message)
        self.assertTrue(reply.startswith(code), reply)
        return reply

    def status(self, mailbox="INBOX"):
        got = self.newest(mailbox=mailbox)
        found = re.findall(rb"^X-Spam-Status:((?:[^\r\n]*\r\n)(?:[ \t][^\r\n]*\r\n)*)", got, re.M)
        self.assertEqual(len(found), 1, got[:2000])
        return re.sub(rb"\s+", b" ", found[0]).decode()

    def results(self, result):
        return metrics(self.server)[f'kura_rspamd_results_total{{result="{result}"}}']


@unittest.skipUnless(names.program("rspamd"), "needs rspamd (tests/run installs it)")
class Real(Asked):
    settings = {"rspamd_reject": "true"}

    @classmethod
    def setUpClass(cls):
        cls.rspamd = Rspamd()
        cls.addClassCleanup(cls.rspamd.remove)
        cls.rspamd.start()
        super().setUpClass()
        cls.ask(cls.rspamd.port)

    def test_an_ordinary_message_gets_through_and_was_looked_at(self):
        before = self.results("answered")
        self.deliver(messages.header("ordinary") + b"Hello.\r\n", "250")
        self.assertNotIn("RSPAMD", self.status())
        self.assertEqual(self.results("answered"), before + 1)
        self.assertIn("ip: 127.0.0.1, from: <sender@example.net>", self.rspamd.log())

    def test_a_score_of_its_own_rules_goes_into_ours(self):
        self.deliver(messages.header("kura-seven") + b"Hello.\r\n", "250")
        status = self.status("Junk")
        self.assertRegex(status, r"RSPAMD=3\.5")
        self.assertRegex(status, r"RSPAMD_ADD_HEADER=2\.0")

    def test_what_it_would_reject_is_refused_where_it_may(self):
        before = len(self.server.bodies())
        self.deliver(messages.header("gtube") + GTUBE, "550 5.7.1 ")
        self.assertEqual(len(self.server.bodies()), before)
        self.assertRegex(self.server.log(), r"RSPAMD=7\.5 RSPAMD_REJECT=4\.0")


class Pretended(Asked):
    settings = {"rspamd_seconds": 1, "rspamd_bytes_max": 20000}

    @classmethod
    def setUpClass(cls):
        cls.fake = Fake()
        cls.addClassCleanup(cls.fake.remove)
        super().setUpClass()
        cls.ask(cls.fake.port)

    def setUp(self):
        self.fake.behaviour = answer(0.0, "no action")

    def test_it_is_told_how_the_message_has_come_and_gets_it_as_it_was_sent(self):
        sent = messages.header("told") + b"Hello.\r\n"
        self.deliver(sent, "250")
        head = self.fake.head.decode().lower()
        self.assertTrue(head.startswith("post /checkv2 http/1.1\r\n"), head)
        for line in ["ip: 127.0.0.1", "helo: client.example.net", "from: sender@example.net",
                     f"rcpt: {self.server.accounts[0][0]}"]:
            self.assertIn(f"\r\n{line}\r\n", head)
        self.assertRegex(head, r"\r\nqueue-id: \S+\r\n")
        self.assertEqual(self.fake.body, sent)

    def test_its_score_counts_and_the_operators_thresholds_decide(self):
        self.fake.behaviour = answer(15.0, "reject", BAYES_SPAM=5.1)
        self.deliver(messages.header("reject") + b"Hello.\r\n", "250")
        self.assertRegex(self.status("Junk"), r"Yes, .*RSPAMD=7\.5,\s?RSPAMD_REJECT=4\.0")
        self.fake.behaviour = answer(-4.0, "no action")
        self.deliver(messages.header("good") + b"Hello.\r\n", "250")
        self.assertIn("RSPAMD=-2.0", self.status())

    def test_a_server_that_errs_changes_nothing_and_is_seen(self):
        for behaviour in ["close at once", "silent", "hang", "close", "garbage", "endless head", "endless", "half", "elsewhere",
                          "error", b"", b"{}", b"[1]", answer(1, "reject")[:-1], b'{"score": 1e999, "action": "reject"}']:
            with self.subTest(behaviour):
                self.fake.behaviour = behaviour
                before, start = self.results("unknown"), time.monotonic()
                self.deliver(messages.header("down") + b"Hello.\r\n", "250")
                self.assertLess(time.monotonic() - start, 20)
                self.assertNotIn("RSPAMD", self.status())
                self.assertEqual(self.results("unknown"), before + 1)
                self.assertEqual(metrics(self.server)[f'kura_rspamd_server_up{{server="http://127.0.0.1:{self.fake.port}"}}'], 0)
        self.fake.behaviour = answer(-4.0, "no action")
        self.deliver(messages.header("up again") + b"Hello.\r\n", "250")
        self.assertIn("RSPAMD=-2.0", self.status())
        self.assertEqual(metrics(self.server)[f'kura_rspamd_server_up{{server="http://127.0.0.1:{self.fake.port}"}}'], 1)
        self.assertServes()

    def test_a_larger_message_is_not_asked_about(self):
        asked, before = self.fake.asked, self.results("too_large")
        for octets in [30_000, 600_000]:
            self.deliver(messages.header("large") + messages.lines(octets), "250")
        self.assertEqual((self.fake.asked, self.results("too_large")), (asked, before + 2))

    def test_who_hangs_holds_up_nobody_else(self):
        self.fake.behaviour = "hang"
        done = []
        def send():
            done.append(self.server.deliver(messages.header("beside") + b"Hello.\r\n"))
        threads = [threading.Thread(target=send) for _ in range(10)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        self.assertServes()
        for thread in threads:
            thread.join()
        self.assertTrue(all(reply.startswith("250") for reply in done), done)
        self.assertLess(time.monotonic() - start, 15, "each waited for the other")


class Two(Asked):
    settings = {"rspamd_seconds": 2, "rspamd_when_down": '"defer"'}

    @classmethod
    def setUpClass(cls):
        cls.fakes = [Fake(), Fake()]
        for fake in cls.fakes:
            cls.addClassCleanup(fake.remove)
        super().setUpClass()
        cls.ask(*[fake.port for fake in cls.fakes])

    def test_one_stands_in_for_the_other_and_without_both_mail_waits_where_it_shall(self):
        self.fakes[0].behaviour, self.fakes[1].behaviour = "hang", answer(-4.0, "no action")
        for _ in range(3):
            self.deliver(messages.header("one of two") + b"Hello.\r\n", "250")
            self.assertIn("RSPAMD=-2.0", self.status())
        self.assertLessEqual(self.fakes[0].asked, 2, "who hangs is asked last")
        self.fakes[1].behaviour = "close"
        self.deliver(messages.header("none of two") + b"Hello.\r\n", "451 4.3.0 ")


if __name__ == "__main__":
    unittest.main()
