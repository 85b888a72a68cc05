"""A real name server (NSD) on loopback, with a zone made for the test, and DKIM signatures made by OpenSSL."""

import base64
import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import kura

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def program(name):
    return shutil.which(name, path=PATH)


def tool(name):
    """A program that tests/run takes from PyPI."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    target = os.environ.get("CARGO_TARGET_DIR", f"{root}/target")
    return shutil.which(name, path=f"{target}/e2e-tools/bin:{PATH}")


def free_port():
    """For UDP and TCP."""
    while True:
        port = next(kura.GIVEN_OUT)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            with contextlib.suppress(OSError):
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
                return port


def serve_for(test_class, zones):
    """A name server for the tests of one class, as its `names`."""
    test_class.names = NameServer(zones)
    test_class.addClassCleanup(test_class.names.remove)
    test_class.names.start()


class NameServer:
    """Authoritative for the zones given, as {name: text}; everything else is REFUSED."""

    def __init__(self, zones):
        self.directory = tempfile.mkdtemp(prefix="kura-nsd-")
        self.port = free_port()
        config = f"""server:
  ip-address: 127.0.0.1@{self.port}
  port: {self.port}
  username: ""
  chroot: ""
  zonesdir: "{self.directory}"
  database: ""
  pidfile: "{self.directory}/pid"
  xfrdfile: "{self.directory}/xfrd"
  zonelistfile: "{self.directory}/zones"
  logfile: "{self.directory}/log"
  server-count: 1
remote-control:
  control-enable: no
"""
        self.zones = list(zones)
        for number, (name, text) in enumerate(zones.items()):
            self.write(name, text)
            config += f'zone:\n  name: "{name}"\n  zonefile: "{number}.zone"\n'
        with open(f"{self.directory}/nsd.conf", "w") as file:
            file.write(config)
        self.process = None

    def write(self, name, text):
        number = self.zones.index(name)
        with open(f"{self.directory}/{number}.zone", "w") as file:
            file.write(f"$ORIGIN {name}\n$TTL 1\n@ SOA ns.test. admin.test. 1 60 60 60 1\n@ NS ns.test.\n{text}\n")

    def set(self, name, text):
        """Another text of a zone, from now on."""
        self.stop()
        self.write(name, text)
        return self.start()

    def start(self):
        self.process = subprocess.Popen([program("nsd"), "-d", "-c", f"{self.directory}/nsd.conf"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            if self.answers():
                return self
            time.sleep(0.1)
        with open(f"{self.directory}/log") as log:
            raise RuntimeError(f"nsd does not answer: {log.read()}")

    def answers(self):
        question = b"\0\1\0\0\0\1\0\0\0\0\0\0\4test\0\0\6\0\1"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.5)
            try:
                asking.connect(("127.0.0.1", self.port))
                asking.send(question)
                return asking.recv(512)[3] & 15 == 0
            except OSError:
                return False

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
            self.process = None

    def remove(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class SignedNames(NameServer):
    """With DNSSEC from the root down to `test.`; of the zones below it, those in `unsigned` are delegated without DS, and
    those in `broken` with one that nothing of theirs fits. `anchor` is the file with the root's key."""

    def __init__(self, test, unsigned=(), broken=()):
        self.signed = [".", "test."]
        below = {zone: text for zone, text in dict(unsigned).items()}
        below.update(dict(broken))
        delegated = "".join(f"{zone} NS ns.test.\n" for zone in below)
        delegated += "".join(f"{zone} DS 1 13 2 {'00' * 32}\n" for zone in dict(broken))
        self.delegated = delegated
        super().__init__({".": "ns.test. A 127.0.0.1\n", "test.": test, **below})

    def write(self, name, text):
        if name == "test.":
            text += self.delegated
        if name == ".":
            # Its DS of test. has to be known first.
            keys = {zone: self.key(zone) for zone in self.signed}
            self.anchor = f"{self.directory}/anchor.key"
            with open(f"{self.directory}/{keys['.']}.key") as file, open(self.anchor, "w") as anchor:
                anchor.write(file.read())
            self.keys = keys
            text += "test. NS ns.test.\n" + self.tool("ldns-key2ds", "-f", "-n", "-2", f"{keys['test.']}.key")
        super().write(name, text)
        if name in self.signed:
            path = f"{self.directory}/{self.zones.index(name)}.zone"
            self.tool("ldns-signzone", "-o", name, "-f", path + ".signed", path, self.keys[name])
            os.replace(path + ".signed", path)

    def key(self, zone):
        return self.tool("ldns-keygen", "-k", "-a", "ECDSAP256SHA256", zone).strip()

    def tool(self, name, *arguments):
        done = subprocess.run([program(name), *arguments], cwd=self.directory, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"{name}: {done.stderr}{done.stdout}")
        return done.stdout


class Liar:
    """Stands between a resolver and a name server (UDP alone): passes everything on, but for questions of which `lie` makes
    another answer."""

    def __init__(self, upstream, lie):
        self.port, self.upstream, self.lie, self.told = free_port(), upstream, lie, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", self.port))
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                question, whence = self.socket.recvfrom(4096)
                labels, at = [], 12
                while question[at]:
                    labels.append(question[at + 1:at + 1 + question[at]].decode().lower())
                    at += 1 + question[at]
                kind = int.from_bytes(question[at + 1:at + 3], "big")
                lie = self.lie(".".join(labels), kind)
                if lie is None:
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                        asking.settimeout(5)
                        asking.connect(("127.0.0.1", self.upstream))
                        asking.send(question)
                        answer = asking.recv(65535)
                else:
                    self.told += 1
                    code, authority = lie
                    answer = question[:2] + bytes([0x85, 0x80 | code]) + b"\0\1\0\0\0\1\0\0" + question[12:at + 5] + authority
                self.socket.sendto(answer, whence)
            except TimeoutError:
                pass
            except OSError:
                return

    @staticmethod
    def record(owner, kind, data):
        return Liar.name(owner) + kind.to_bytes(2, "big") + b"\0\1\0\0\0\1" + len(data).to_bytes(2, "big") + data

    @staticmethod
    def name(text):
        return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"

    def close(self):
        self.socket.close()


def openssl(*arguments, given=b""):
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True, timeout=60).stdout


class Signer:
    """DKIM, relaxed/relaxed, with a key of its own."""

    def __init__(self, algorithm, domain, selector):
        self.algorithm, self.domain, self.selector = algorithm, domain, selector
        if algorithm == "ed25519":
            self.key = openssl("genpkey", "-algorithm", "ed25519")
        else:
            self.key = openssl("genrsa", str(algorithm))
        public = openssl("pkey", "-pubout", "-outform", "DER", given=self.key)
        self.public = base64.b64encode(public[-32:] if algorithm == "ed25519" else public).decode()

    def record(self):
        kind = "ed25519" if self.algorithm == "ed25519" else "rsa"
        text = f"v=DKIM1; k={kind}; p={self.public}"
        strings = " ".join(f'"{text[i:i + 200]}"' for i in range(0, len(text), 200))
        return f"{self.selector}._domainkey.{self.domain}. TXT {strings}\n"

    def sign(self, message):
        head, body = message.split(b"\r\n\r\n", 1)
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
        while lines and not lines[-1]:
            lines.pop()
        hashed = base64.b64encode(hashlib.sha256(b"".join(line + b"\r\n" for line in lines)).digest()).decode()
        name = "ed25519-sha256" if self.algorithm == "ed25519" else "rsa-sha256"
        value = (f" v=1; a={name}; c=relaxed/relaxed; d={self.domain}; s={self.selector}; h=From:Subject;"
                 f" bh={hashed}; b=")

        def relaxed(field):
            key, text = field.split(b":", 1)
            return key.strip().lower() + b":" + re.sub(rb"\s+", b" ", text).strip()

        fields = {relaxed(f).split(b":")[0]: relaxed(f) for f in re.split(rb"\r\n(?![ \t])", head)}
        signed = b"\r\n".join([fields[b"from"], fields[b"subject"], relaxed(b"DKIM-Signature:" + value.encode())])
        with tempfile.NamedTemporaryFile() as key, tempfile.NamedTemporaryFile() as data:
            key.write(self.key)
            key.flush()
            if self.algorithm == "ed25519":
                data.write(hashlib.sha256(signed).digest())
                data.flush()
                signature = openssl("pkeyutl", "-sign", "-inkey", key.name, "-rawin", "-in", data.name)
            else:
                signature = openssl("dgst", "-sha256", "-sign", key.name, given=signed)
        return b"DKIM-Signature:" + value.encode() + base64.b64encode(signature) + b"\r\n" + message
