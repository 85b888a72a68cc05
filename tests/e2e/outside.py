"""POP3 and IMAP servers of the test's own, which do what servers should not, as they are told."""

import base64
import contextlib
import random
import re
import socket
import threading
import time


class Server:
    """What both have in common. `user` with `password` may log in; `lines` are all commands that came."""

    def __init__(self, user="us", password="secret", token=None, tls=None):
        self.user, self.password, self.token, self.tls = user, password, token, tls
        # An address of its own, since visits to one host are counted.
        self.host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
        self.listener = socket.create_server((self.host, 0), backlog=500)
        self.port = self.listener.getsockname()[1]
        self.lines, self.connections, self.open, self.open_max, self.logins = [], 0, 0, 0, 0
        # Seconds of silence before the greeting; what is said in its place.
        self.silence, self.greeting = 0, None
        # Handles of messages at which the connection breaks half-way, or which never end.
        self.breaks_at, self.endless = set(), set()
        self.drip = None
        self.lock = threading.Lock()
        self.closed = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.closed:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def close(self):
        self.closed = True
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self, connection):
        with self.lock:
            self.connections += 1
            self.open += 1
            self.open_max = max(self.open_max, self.open)
        try:
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            end = time.monotonic() + self.silence
            while time.monotonic() < end and not self.closed:
                time.sleep(0.05)
            if self.greeting is not None:
                connection.sendall(self.greeting)
            if self.silence == 0:
                self.talk(connection, connection.makefile("rb"))
        except OSError:  # and what is wrong with TLS
            pass
        finally:
            connection.close()
            with self.lock:
                self.open -= 1

    def flood(self, connection, octets, line=b"0123456789abcdef" * 4 + b"\r\n"):
        """So many octets, or until the client has had enough; how many went out."""
        sent, block = 0, line * 1000
        with contextlib.suppress(OSError):
            while sent < octets:
                connection.sendall(block)
                sent += len(block)
        return sent

    def is_token(self, response):
        said = base64.b64decode(response).decode()
        return self.token is not None and f"user={self.user}\x01auth=Bearer {self.token}\x01" in said


class Pop3(Server):
    """`messages` are [identifier, octets], in order; `sizes` are what it says of some."""

    def __init__(self, messages=(), **more):
        self.messages = [list(one) for one in messages]
        self.sizes, self.deletes = {}, True
        super().__init__(**more)

    def talk(self, connection, file):
        def say(text):
            connection.sendall(text.encode() + b"\r\n")

        if self.greeting is None:
            say("+OK here")
        with self.lock:
            held, marked = list(self.messages), set()
        for line in file:
            line = line.decode(errors="replace").rstrip("\r\n")
            self.lines.append(line)
            verb, _, rest = line.partition(" ")
            verb = verb.upper()
            if verb == "CAPA":
                say("+OK\r\nUIDL\r\nUSER\r\nSASL XOAUTH2 PLAIN\r\n.")
            elif verb == "USER":
                say("+OK")
            elif verb == "PASS":
                self.logins += 1
                say("+OK in" if rest == self.password else "-ERR [AUTH] wrong")
            elif verb == "AUTH":
                self.logins += 1
                say("+OK in" if self.is_token(rest.split(" ")[1]) else "-ERR [AUTH] wrong")
            elif verb == "STAT":
                say(f"+OK {len(held)} {sum(len(m[1]) for m in held)}")
            elif verb in ("UIDL", "LIST"):
                say("+OK")
                for number, (unique, octets) in enumerate(held, 1):
                    size = self.sizes.get(unique, len(octets))
                    say(f"{number} {unique if verb == 'UIDL' else size}")
                say(".")
            elif verb == "RETR":
                unique, octets = held[int(rest) - 1]
                say("+OK")
                if unique in self.endless:
                    self.flood(connection, 1 << 30)
                    return
                octets = octets.replace(b"\r\n.", b"\r\n..")
                if unique in self.breaks_at:
                    connection.sendall(octets[: len(octets) // 2])
                    return
                if self.drip:
                    for at in range(0, len(octets), 10):
                        connection.sendall(octets[at : at + 10])
                        time.sleep(self.drip)
                connection.sendall((b"" if self.drip else octets) + b".\r\n")
            elif verb == "DELE":
                marked.add(int(rest))
                say("+OK")
            elif verb == "QUIT":
                if self.deletes:
                    gone = [held[number - 1] for number in marked]
                    with self.lock:
                        self.messages = [one for one in self.messages if one not in gone]
                say("+OK bye")
                return
            else:
                say("-ERR what")


class Imap(Server):
    """`folders` are {name: {UID: octets}}."""

    def __init__(self, folders=None, **more):
        self.folders = folders or {"INBOX": {}}
        self.uid_validity, self.offers = 1, "IMAP4rev1 UIDPLUS SASL-IR AUTH=XOAUTH2"
        self.sizes, self.flags = {}, {}
        super().__init__(**more)

    def talk(self, connection, file):
        def say(text):
            connection.sendall(text.encode() + b"\r\n")

        if self.greeting is None:
            say("* OK here")
        folder, deleted = {}, set()
        for line in file:
            line = line.decode(errors="replace").rstrip("\r\n")
            self.lines.append(line)
            tag, _, command = line.partition(" ")
            words = command.split(" ")
            verb = " ".join(words[:2]).upper() if words[0].upper() == "UID" else words[0].upper()
            if verb == "CAPABILITY":
                say(f"* CAPABILITY {self.offers}")
            elif verb in ("LOGIN", "AUTHENTICATE"):
                self.logins += 1
                fine = self.is_token(words[2]) if verb == "AUTHENTICATE" else f'"{self.password}"' in command
                if not fine:
                    say(f"{tag} NO [AUTHENTICATIONFAILED] wrong")
                    continue
            elif verb == "LIST":
                for name in self.folders:
                    say(f'* LIST () "/" "{name}"')
            elif verb in ("SELECT", "EXAMINE"):
                name = command.split('"')[1]
                if name not in self.folders:
                    say(f"{tag} NO [NONEXISTENT] no such folder")
                    continue
                folder = self.folders[name]
                say(f"* {len(folder)} EXISTS\r\n* OK [UIDVALIDITY {self.uid_validity}] valid")
            elif verb == "UID SEARCH":
                say("* SEARCH " + " ".join(map(str, folder)))
            elif verb == "UID FETCH":
                first, _, last = words[2].partition(":")
                wanted = [uid for uid in folder if int(first) <= uid <= int(last or first)]
                for number, uid in enumerate(wanted, 1):
                    octets = folder[uid]
                    flags = self.flags.get(uid, "")
                    about = f"UID {uid} RFC822.SIZE {self.sizes.get(uid, len(octets))} FLAGS ({flags})"
                    if "BODY" not in command:
                        say(f"* {number} FETCH ({about})")
                        continue
                    length = len(octets) if uid not in self.endless else 1 << 30
                    connection.sendall(f"* {number} FETCH ({about} BODY[] {{{length}}}\r\n".encode())
                    if uid in self.endless:
                        self.flood(connection, length)
                        return
                    if uid in self.breaks_at:
                        connection.sendall(octets[: len(octets) // 2])
                        return
                    connection.sendall(octets + b")\r\n")
            elif verb == "UID STORE":
                deleted |= set(uids(words[2]))
            elif verb == "UID EXPUNGE":
                for uid in set(uids(words[2])) & deleted:
                    folder.pop(uid, None)
            elif verb == "LOGOUT":
                say(f"* BYE bye\r\n{tag} OK")
                return
            say(f"{tag} OK done")


class NoNames:
    """A name server that knows no name, and says so at once."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                asked, peer = self.socket.recvfrom(4096)
                end = asked.index(b"\0", 12) + 5
                # NXDOMAIN, with the question and nothing else.
                self.socket.sendto(asked[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + asked[12:end], peer)

    def close(self):
        self.socket.close()


def uids(text):
    for piece in text.split(","):
        first, _, last = piece.partition(":")
        yield from range(int(first), int(last or first) + 1)


def message(number, size=200):
    head = f"From: Eve <eve@there.test>\r\nSubject: number {number}\r\nMessage-ID: <{number}@there.test>\r\n\r\n"
    line = b"line %d of it\r\n.dot\r\n" % number
    return head.encode() + line * max(1, size // len(line))


def number_of(octets):
    return int(re.search(rb"^Subject: number (\d+)", octets, re.MULTILINE).group(1))
