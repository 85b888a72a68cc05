"""A real Kura on loopback, for tests that drive it as its users do.

`KURA` in the environment names the binary; otherwise the release build in the workspace is used. Each
server has a directory and free ports of its own, and is stopped by its process id, whatever happens.
"""

import contextlib
import functools
import glob
import imaplib
import itertools
import json
import os
import poplib
import random
import re
import select
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get(
    "KURA", os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{ROOT}/target"), "release/kura")
)
START_SECONDS = 60
STOP_SECONDS = 30

# Lines of imaplib and poplib are limited far below what a message may hold.
imaplib._MAXLINE = 64 << 20
poplib._MAXLINE = 1 << 20


def own_ports():
    """A thousand ports that no other test process takes, so that a server that is down for a moment finds its
    own again. Below those that the kernel lends to whoever connects. Who holds the first has the others."""
    for first in random.sample(range(10000, 32000, 1000), 22):
        holder = socket.socket()
        with contextlib.suppress(OSError):
            holder.bind(("127.0.0.1", first))
            return holder, range(first + 1, first + 1000)
        holder.close()
    return None, range(10001, 32000)


HOLDER, OWN = own_ports()
# Servers take what is free of these when they are made; the others are given out one by one, since
# what is named in a configuration is bound later.
PORTS = OWN[: len(OWN) // 2]
GIVEN_OUT = itertools.cycle(random.sample(OWN[len(OWN) // 2 :], len(OWN) // 2))


class Failed(Exception):
    """The server did not start or stop as it should; the text holds what it said."""


class Unexpected(Failed):
    """Another reply than the one asked for, which it carries."""

    def __init__(self, what, reply):
        super().__init__(f"{what}, got {reply!r}")
        self.reply = reply


def threads_of(pid):
    """Where each thread of a process is in the kernel, a line each: what it waits for when it hangs."""
    lines = []
    for task in sorted(glob.glob(f"/proc/{pid}/task/*")):
        said = []
        for name in ("comm", "wchan", "syscall", "stack"):
            with contextlib.suppress(OSError), open(f"{task}/{name}", errors="replace") as file:
                said.append(" < ".join(file.read().split("\n")[:6]))
        lines.append("  " + " | ".join(said))
    return "\n".join(lines)


def children(pid):
    """Processes that this one has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as numbers:
        return [int(number) for number in numbers.read().split()]


# As on a disk of 80 to 160 MB/s: on two cores a store of 48 MiB, of which each start writes the
# spares anew. On a fast disk it has 640, and hundreds of servers are made. A scrub takes what it
# may at the most: by default it is done in a month.
SEGMENT_BYTES = 8 << 20
SMALL = f"\n[knobs]\nsegment_bytes = {SEGMENT_BYTES}\nspare_segments = 2\nscrub_share_percent = 10\n"


@functools.cache
def profile():
    """What quickstart finds out about the disk that the tests run on: once for all servers, and not by each of them
    while others write. tests/run has it measured for all modules."""
    if "KURA_PROFILE" in os.environ:
        with open(os.environ["KURA_PROFILE"]) as file:
            return file.read()
    first = Kura(profiled=False)
    try:
        first.start().stop()
        with open(os.path.join(first.directory, "profile.toml")) as file:
            return file.read() + SMALL
    finally:
        first.remove()


class Kura:
    """One data directory, and the server on it while it runs. One of its own is on the disk of `profile`; with
    `profiled=False`, and in a directory that is given, quickstart measures, and the store is as large as it wants."""

    def __init__(self, directory=None, profiled=True):
        self.directory = directory or tempfile.mkdtemp(prefix="kura-e2e-")
        self.profiled = profiled and directory is None
        self.log_path = os.path.join(self.directory + ".log")
        self.process = None
        self.ports = {}
        self.accounts = []

    # ── life ────────────────────────────────────────────────────────────────────────────────────

    def start(self):
        """Until it is ready; makes the directory on the first call."""
        if self.profiled and os.listdir(self.directory) == []:
            with open(os.path.join(self.directory, "profile.toml"), "w") as file:
                file.write(profile())
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [BINARY, "quickstart", "--json", f"--free-ports={PORTS[0]}-{PORTS[-1]}", "--dir", self.directory],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )
        ready, _, _ = select.select([self.process.stdout], [], [], START_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line.startswith(b"{"):
            ended, threads = self.process.poll(), threads_of(self.process.pid)
            self.kill()
            # Why it ended comes first: who shortens a long report cuts off its end.
            log = self.log()
            raise Failed(
                f"kura did not get ready (exit code {ended}); it printed {line!r}, said last:\n"
                f"{log[log.rfind('ERROR'):] if 'ERROR' in log else log[-1000:]}\nafter:\n{log}\n"
                f"and its threads were in:\n{threads}"
            )
        said = json.loads(line)
        self.ports = said["ports"]
        known = {address for address, _ in self.accounts}
        for each in said["accounts"]:
            if each["address"] not in known:
                self.accounts.append((each["address"], each["password"]))
        return self

    def stop(self):
        """Gracefully; a server that does not end, or not well, fails the test."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"kura did not stop within {STOP_SECONDS} s; it logged:\n{self.log()}")
        self.forget()
        if code != 0:
            raise Failed(f"kura ended with {code}; it logged:\n{self.log()}")

    def kill(self):
        """As a power cut would, except for the disk."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.forget()

    def forget(self):
        self.process.stdout.close()
        self.process = None

    def remove(self):
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.log_path)

    def log(self):
        with open(self.log_path, errors="replace") as lines:
            return "".join(lines.readlines()[-20:])

    # ── what operators do ───────────────────────────────────────────────────────────────────────

    def command(self, *arguments, input_text=None):
        """A `kura` command on this directory."""
        return subprocess.run(
            [BINARY, *arguments, "--dir", self.directory],
            input=input_text, capture_output=True, text=True, timeout=120, check=False,
        )

    def add_account(self, address, password="a good password"):
        done = self.command("account", "add", address, "--password-stdin", input_text=password + "\n")
        if done.returncode != 0:
            raise Failed(f"account add {address}: {done.stderr}")
        self.accounts.append((address, password))
        return address, password

    def train(self, spam=(), ham=()):
        """From files, as an operator does before the first day; what it says."""
        with tempfile.TemporaryDirectory() as base:
            paths = []
            for kind, mail in (("spam", spam), ("ham", ham)):
                os.mkdir(f"{base}/{kind}")
                for number, message in enumerate(mail):
                    with open(f"{base}/{kind}/{number}", "wb") as file:
                        file.write(message)
                paths += [f"--{kind}", f"{base}/{kind}"] if mail else []
            return self.json("spam", "train", *paths)

    def json(self, *arguments):
        """What a command that has to succeed says."""
        done = self.command(*arguments, "--json")
        if done.returncode != 0:
            raise Failed(f"{arguments}: {done.returncode} {done.stdout} {done.stderr}")
        return json.loads(done.stdout)

    def configure(self, old, new, section=None):
        """Replaces text in the configuration, or in one section of it; the server has to be started anew."""
        path = os.path.join(self.directory, "kura.toml")
        with open(path) as file:
            text = file.read()
        start = text.index(f"\n[{section}]\n") if section else 0
        changed = text[:start] + re.sub(old, new, text[start:], count=1, flags=re.MULTILINE)
        if changed == text:
            raise Failed(f"{old!r} is not in the configuration:\n{text}")
        with open(path, "w") as file:
            file.write(changed)

    def small_segments(self):
        """Restarts with segments of 4 MiB behind the one that is open, so that a few messages fill several."""
        self.stop()
        used = self.segments()
        for path in glob.glob(os.path.join(self.directory, "store/shard-*/log-*")):
            if path not in used:
                os.unlink(path)
        with open(os.path.join(self.directory, "kura.toml"), "a") as file:
            file.write("\n[knobs]\nsegment_bytes = 4194304\nbatch_bytes_max = 262144\n")
        self.start()

    def segments(self):
        """Files of the log that are in use, by shard, oldest first."""
        used = []
        for path in glob.glob(os.path.join(self.directory, "store/shard-*/log-*")):
            with open(path, "rb") as file:
                header = file.read(16)
            # FORMAT.md: the segment's id, since files have the numbers in which they were made.
            if header.startswith(b"KURASEG"):
                used.append((os.path.dirname(path), int.from_bytes(header[12:16], "little"), path))
        return [path for _, _, path in sorted(used)]

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    # ── what users do ───────────────────────────────────────────────────────────────────────────

    def imap(self, account=0):
        imap = imaplib.IMAP4("127.0.0.1", self.ports["imap"], timeout=60)
        imap.login(*self.accounts[account])
        return imap

    def pop3(self, account=0):
        address, password = self.accounts[account]
        pop = poplib.POP3("127.0.0.1", self.ports["pop3"], timeout=60)
        pop.user(address)
        pop.pass_(password)
        return pop

    def smtp(self):
        return smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=60)

    def deliver(self, message, to=0, sender="sender@example.net"):
        """Over SMTP, byte by byte as given; the reply to the message."""
        recipient = self.accounts[to][0] if isinstance(to, int) else to
        with Wire(self.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask(f"MAIL FROM:<{sender}> BODY=8BITMIME", "250")
            wire.ask(f"RCPT TO:<{recipient}>", "250")
            wire.ask("DATA", "354")
            wire.send(stuffed(message))
            return wire.reply()

    def bodies(self, account=0, mailbox="INBOX"):
        """All messages of a mailbox, as {UID: bytes}."""
        imap = self.imap(account)
        try:
            return fetch_all(imap, mailbox)
        finally:
            imap.logout()


def fetch_all(imap, mailbox="INBOX", uids="1:*"):
    _, (count,) = imap.select(mailbox, readonly=True)
    if int(count) == 0:
        return {}
    found = {}
    kind, data = imap.uid("FETCH", uids, "(UID BODY.PEEK[])")
    if kind != "OK":
        raise Failed(f"FETCH: {data}")
    for part in data:
        if isinstance(part, tuple):
            uid = re.search(rb"UID (\d+)", part[0])
            found[int(uid.group(1))] = part[1]
    return found


def careless_tls():
    """For the self-signed certificate of quickstart."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def stuffed(message):
    """A message as DATA wants it: dots doubled, the final dot added (RFC 5321 section 4.5.2)."""
    lines = message.replace(b"\r\n.", b"\r\n..")
    if lines.startswith(b"."):
        lines = b"." + lines
    return lines + b".\r\n"


class Wire:
    """A connection where every byte is under the test's control."""

    def __init__(self, port, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.rest = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        """The next line with its end; what there is when the peer closes."""
        while b"\n" not in self.rest:
            try:
                more = self.socket.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                line, self.rest = self.rest, b""
                return line
            self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return line + b"\n"

    def reply(self):
        """An SMTP reply, its lines joined. Empty when the peer has closed."""
        lines = []
        while True:
            line = self.line()
            if line:
                lines.append(line)
            if not line or line[3:4] != b"-":
                return b"".join(lines).decode("utf-8", "replace")

    def tagged(self, tag):
        """IMAP lines up to the one with this tag."""
        lines = []
        while True:
            line = self.line()
            lines.append(line)
            if not line or line.startswith(tag.encode() + b" "):
                return b"".join(lines).decode("utf-8", "replace")

    def expect(self, code):
        reply = self.reply()
        if not reply.startswith(code):
            raise Unexpected(f"expected {code}", reply)
        return reply

    def ask(self, command, code):
        self.send(command.encode() + b"\r\n")
        try:
            return self.expect(code)
        except Unexpected as unexpected:
            raise Unexpected(f"{command[:100]}: expected {code}", unexpected.reply) from None

    def start_tls(self):
        self.socket = careless_tls().wrap_socket(self.socket)
        self.rest = b""

    def ends(self):
        """Whether the peer closes; what it says before is dropped."""
        while self.line():
            pass
        return True


# Trace fields that a server may write on top (RFC 5321 section 4.4), folded or not.
TRACE = re.compile(
    rb"(?:(?:Return-Path|Delivered-To|Received|Authentication-Results|Received-SPF|X-Spam-Status|X-Spam-Flag|X-Spam-Sender|X-Spam-Quarantine"
    rb"|X-Virus-Scanned)"
    rb":[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*",
    re.IGNORECASE,
)


class TestCase(unittest.TestCase):
    """With one server for all tests of a class."""

    server = None

    @classmethod
    def setUpClass(cls):
        cls.server = Kura()
        cls.addClassCleanup(cls.server.remove)
        cls.server.start()

    def assertCameBack(self, got, sent):
        """`got` is `sent`, byte for byte, below trace fields that the server added."""
        added = len(got) - len(sent)
        self.assertGreaterEqual(added, 0, f"{-added} bytes are missing")
        same = got[added:] == sent
        self.assertTrue(same, f"the bytes differ: {got[-200:]!r} is not {sent[-200:]!r}")
        self.assertTrue(TRACE.fullmatch(got[:added]), f"not trace fields: {got[:added]!r}")

    def assertSameMessages(self, got, expected):
        """Any number of messages, in any order; says which differ without showing megabytes."""
        got, expected = sorted(got), sorted(expected)
        self.assertEqual(len(got), len(expected), "not as many messages")
        for one, other in zip(got, expected):
            self.assertTrue(one == other, f"{one[:500]!r} is not {other[:500]!r}")

    def teach(self, server):
        """The shared classifier five messages, and that of the first account three or four; the server is started anew for it."""
        server.stop()
        server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        server.configure(r"^verify = .*$", "verify = false")
        server.start()
        mail = lambda kind, number: f"From: {kind}{number}@shop.test\r\nSubject: {kind} {number}\r\n\r\nMore {kind} here.\r\n".encode()
        server.train([mail("pills", number) for number in range(3)], [mail("letter", number) for number in range(2)])
        imap = server.imap()
        for kind, count in (("offer", 3), ("loan", 1)):
            for number in range(count):
                self.assertTrue(server.deliver(mail(kind, number)).startswith("250"))
            imap.select("INBOX")
            _, found = imap.uid("SEARCH", "SUBJECT", kind)
            imap.uid("STORE", ",".join(found[0].decode().split()), "+FLAGS", "($Junk)")
        imap.logout()

        def is_sorted():
            server.deliver(mail("loan", 0))
            return len(server.bodies(0, "Junk")) > 0

        # What came before the last command is learned then.
        self.assertTrue(eventually(is_sorted))

    def assertTaught(self, server):
        """That, told by forgetting it."""
        self.assertEqual(server.json("spam", "forget", "--shared")["messages"], 5)
        first, second = [server.json("spam", "forget", address) for address, _ in server.accounts[:2]]
        self.assertEqual([first["senders"], second["senders"], second["messages"]], [4, 0, 0])
        self.assertIn(first["messages"], [3, 4])

    def assertLogged(self, words, server=None):
        """Lines leave the cores that write them without being waited for."""
        server, end = server or self.server, time.monotonic() + 10
        while words not in server.log():
            if time.monotonic() > end:
                self.fail(f"{words!r} is not in its log:\n{server.log()}")
            time.sleep(0.05)

    def assertServes(self, server=None):
        """Another session is not affected: it greets, and reads."""
        server = server or self.server
        self.assertIsNone(server.process.poll(), "the server has died")
        with server.smtp() as smtp:
            self.assertEqual(smtp.noop()[0], 250)
        imap = server.imap()
        self.assertEqual(imap.select("INBOX")[0], "OK")
        imap.logout()

    def newest(self, account=0, mailbox="INBOX"):
        bodies = self.server.bodies(account, mailbox)
        return bodies[max(bodies)]


def has(*programs):
    """Skips a test, with a clear message, where a program is missing."""
    missing = [program for program in programs if not shutil.which(program)]
    return unittest.skipIf(missing, f"not installed: {', '.join(missing)} (tests/run installs it)")


def eventually(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
