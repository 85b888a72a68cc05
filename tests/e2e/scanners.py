"""A real clamd with a signature database made for the test, and one that only pretends."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from names import program

# The string that every scanner knows, apart so that this file isn't found itself.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + rb"STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class Clamd:
    """Knows one virus: EICAR, anywhere in a file; with `knows` false none yet."""

    def __init__(self, stream_max="6M", knows=True):
        self.directory = tempfile.mkdtemp(prefix="kura-clamd-")
        self.socket = f"{self.directory}/clamd.ctl"
        os.mkdir(f"{self.directory}/db")
        with open(f"{self.directory}/db/test.ndb", "w") as file:
            file.write(f"Kura.Test.{'Eicar' if knows else 'Other'}:0:*:{EICAR.hex() if knows else 'de' * 40}\n")
        with open(f"{self.directory}/clamd.conf", "w") as file:
            file.write(f"LocalSocket {self.socket}\nFixStaleSocket yes\nDatabaseDirectory {self.directory}/db\n"
                       f"LogFile {self.directory}/log\nForeground yes\nStreamMaxLength {stream_max}\n"
                       f"TemporaryDirectory {self.directory}\n")
        self.process = None

    def learn(self):
        """From its next start on it knows EICAR."""
        with open(f"{self.directory}/db/test.ndb", "w") as file:
            file.write(f"Kura.Test.Eicar:0:*:{EICAR.hex()}\n")

    def start(self):
        self.process = subprocess.Popen([program("clamd"), "-c", f"{self.directory}/clamd.conf"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            if self.process.poll() is None and self.answers():
                return self
            time.sleep(0.1)
        with open(f"{self.directory}/log") as log:
            raise RuntimeError(f"clamd does not answer: {log.read()[-2000:]}")

    def answers(self):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(2)
            try:
                asking.connect(self.socket)
                asking.sendall(b"zPING\0")
                return asking.recv(16).startswith(b"PONG")
            except OSError:
                return False

    def stop(self, number=signal.SIGKILL):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def remove(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class Fake:
    """Speaks clamd's protocol as far as `behaviour` says; counts what it was sent to scan. What holds `bad` is found, after
    `delay` seconds."""

    def __init__(self, signatures="27000"):
        self.directory = tempfile.mkdtemp(prefix="kura-fake-")
        self.socket = f"{self.directory}/clamd.ctl"
        self.signatures = signatures
        self.behaviour = "clean"
        self.bad = None
        self.delay = 0
        self.scanned = 0
        self.closing = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen(64)
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
                if behaviour == "silent from the start":
                    self.closing.wait()
                    return
                command = b""
                while not command.endswith(b"\0"):
                    octet = lines.read(1)
                    if not octet:
                        return
                    command += octet
                if command == b"zVERSION\0":
                    wire.sendall(f"ClamAV 9.9/{self.signatures}/Thu Nov 26 00:00:00 2026\0".encode())
                    return
                if behaviour == "close in the middle":
                    lines.read(100)
                    return
                if behaviour == "takes nothing":
                    self.closing.wait()
                    return
                length, message = int.from_bytes(lines.read(4), "big"), b""
                while length:
                    message += lines.read(length)
                    length = int.from_bytes(lines.read(4), "big")
                self.scanned += 1
                if behaviour == "hang":
                    self.closing.wait()
                elif behaviour == "garbage":
                    wire.sendall(bytes(range(1, 256)) * 8)
                elif behaviour == "endless garbage":
                    while not self.closing.is_set():
                        wire.sendall(b"x" * 4096)
                elif behaviour == "half an answer":
                    wire.sendall(b"stream: O")
                elif self.closing.wait(self.delay) or (self.bad and self.bad in message):
                    wire.sendall(b"stream: Fake.Late FOUND\0")
                elif behaviour == "found":
                    wire.sendall(b"stream: Fake.Virus\r\nX-Evil: yes FOUND\0")
                else:
                    wire.sendall(b"stream: OK\0")
        except OSError:
            pass

    def remove(self):
        self.closing.set()
        self.listener.close()
        shutil.rmtree(self.directory, ignore_errors=True)
