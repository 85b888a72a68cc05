"""A mail server of the test's own, which takes, refuses, hangs or talks nonsense as it is told."""

import contextlib
import socket
import ssl
import threading
import time


class Sink:
    """Answers as `answer(verb, line)` says: a reply, or `None` to close, or a number of seconds to be silent. Without
    an opinion (`True`) it takes everything. What it took is in `messages`, as (sender, recipients, octets); `open` is how
    many connections there are."""

    def __init__(self, address="127.0.0.1", port=0, offers=("PIPELINING", "8BITMIME", "SIZE 10000000"), tls=None):
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(100)
        self.port = self.listener.getsockname()[1]
        self.offers, self.tls = list(offers), tls
        self.answer = lambda verb, line: True
        self.messages, self.lines, self.connections, self.open = [], [], 0, 0
        self.lock = threading.Lock()
        self.closed = False
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.closed:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def close(self):
        self.closed = True
        with contextlib.suppress(OSError):
            # Whoever waits in accept would keep the port open.
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self, connection):
        with self.lock:
            self.open += 1
        try:
            self.talk(connection)
        except OSError:
            pass
        finally:
            with self.lock:
                self.open -= 1
            connection.close()

    def talk(self, connection):
        file = connection.makefile("rb")
        encrypted = False

        def say(verb, line, usual):
            said = self.answer(verb, line)
            if isinstance(said, (int, float)) and said is not True:
                time.sleep(said)
                said = True
            if said is None:
                raise OSError("closed as told")
            reply = usual if said is True else said
            connection.sendall(reply if isinstance(reply, bytes) else reply.encode() + b"\r\n")
            return reply if isinstance(reply, str) else ""

        say("CONNECT", "", "220 sink.test")
        sender, recipients = None, []
        while line := file.readline():
            line = line.decode(errors="replace").rstrip("\r\n")
            self.lines.append(line)
            verb = line.split(" ")[0].upper()
            if verb in ("EHLO", "HELO"):
                offers = list(self.offers) + (["STARTTLS"] if self.tls and not encrypted else [])
                lines = ["sink.test"] + offers
                marks = ["-"] * (len(lines) - 1) + [" "]
                say(verb, line, "\r\n".join(f"250{mark}{text}" for mark, text in zip(marks, lines)))
            elif verb == "STARTTLS":
                say(verb, line, "220 Go")
                connection = self.tls.wrap_socket(connection, server_side=True)
                file, encrypted = connection.makefile("rb"), True
            elif verb == "AUTH":
                say(verb, line, "235 2.7.0 Welcome")
            elif verb == "MAIL":
                sender, recipients = line, []
                say(verb, line, "250 2.1.0 Fine")
            elif verb == "RCPT":
                if say(verb, line, "250 2.1.5 Fine").startswith("2"):
                    recipients.append(line.split("<")[1].split(">")[0])
            elif verb == "DATA":
                usual = "354 Go on" if recipients else "554 5.5.1 No valid recipients"
                if not say(verb, line, usual).startswith("3"):
                    continue
                message = b""
                while not message.endswith(b"\r\n.\r\n") and message != b".\r\n":
                    octets = file.readline()
                    if not octets:
                        return
                    message += octets
                    if self.answer("BODY", "") is None:
                        return
                message = message[:-3].replace(b"\r\n..", b"\r\n.")
                reply = say("END", "", "250 2.0.0 Taken")
                if reply.startswith("2"):
                    with self.lock:
                        self.messages.append((sender, recipients, message))
            elif verb == "RSET":
                say(verb, line, "250 2.0.0 Fine")
            elif verb == "QUIT":
                say(verb, line, "221 2.0.0 Bye")
                return
            else:
                say(verb, line, "500 5.5.1 What?")


def tls_context(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
