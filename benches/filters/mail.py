"""Mail for the filters: signed messages, none like another, and sessions that send them."""

import base64
import itertools
import random
import socket
import threading
import time

DOMAIN = "signed.test"
SENDER = f"news@{DOMAIN}"
WORDS = ("account annual answer april archive balance before between board budget calendar change chapter city client close "
         "coffee colleague contract corner country date delivery department detail draft east economy evening example experience "
         "family figure filter finance friday garden general green group history house hundred idea important information "
         "invoice island january journey kitchen language large letter library light little machine market measure meeting "
         "member message minute monday month morning mountain music number office order paper people person picture place "
         "planning point possible present problem product program project public question quarter reason record report "
         "result review river road room school season second section service seven sheet simple sister small station story "
         "street student summer sunday system table teacher theory thursday today together topic travel tuesday under "
         "university valley village visit water weather wednesday week weekend winter without woman world writer year").split()
SPAM_WORDS = "casino pills prize winner urgent lottery refinance guaranteed millions cheap replica bonus unlimited offer".split()
ZONE = f"""
ns A 127.0.0.1
client A 127.0.0.1
client TXT "v=spf1 a -all"
signed TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.signed TXT "v=DMARC1; p=reject"
"""


def sentences(chance, octets, words=WORDS):
    text, length = [], 0
    while length < octets:
        line = " ".join(chance.choice(words) for _ in range(11)).capitalize() + "."
        text.append(line)
        length += len(line) + 2
    return text


def message(number, octets, chance):
    """Text beside HTML with links, and a small file, of some `octets` in all."""
    head = (f"From: Newsletter <{SENDER}>\r\nTo: somebody@example.test\r\nSubject: Issue {number}, {chance.choice(WORDS)}\r\n"
            f"Date: Thu, 26 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{number}.{chance.randrange(1 << 40)}@{DOMAIN}>\r\n"
            'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="outer"\r\n\r\n')
    text = sentences(chance, octets * 3 // 10)
    html = "".join(f'<p>{line} <a href="https://www.{DOMAIN}/{chance.randrange(1 << 30)}">more</a></p>\r\n'
                   for line in sentences(chance, octets * 2 // 10))
    file = base64.encodebytes(chance.randbytes(octets * 2 // 10)).decode().replace("\n", "\r\n")
    body = ('--outer\r\nContent-Type: multipart/alternative; boundary="inner"\r\n\r\n'
            "--inner\r\nContent-Type: text/plain\r\n\r\n" + "\r\n".join(text) + "\r\n"
            "--inner\r\nContent-Type: text/html\r\n\r\n<html><body>\r\n" + html + "</body></html>\r\n--inner--\r\n"
            '--outer\r\nContent-Type: application/octet-stream; name="data.bin"\r\n'
            "Content-Transfer-Encoding: base64\r\n\r\n" + file + "--outer--\r\n")
    return (head + body).encode()


def signed(count, octets, seed, signer):
    """Ready for DATA."""
    chance = random.Random(seed)
    mails = (signer.sign(message(number, octets, chance)) for number in range(count))
    return [mail.replace(b"\r\n.", b"\r\n..") + b".\r\n" for mail in mails]


def lessons(directory, count, seed):
    """What a filter learns from: a directory of spam and one of ham."""
    chance = random.Random(seed)
    for kind, words in (("spam", WORDS + SPAM_WORDS * 8), ("ham", WORDS)):
        (directory / kind).mkdir(parents=True)
        for number in range(count):
            text = "\r\n".join(sentences(chance, 3000, words))
            (directory / kind / f"{number}.eml").write_bytes(
                f"From: someone{number}@{kind}.test\r\nSubject: {chance.choice(words)} {number}\r\n"
                f"Message-ID: <{number}@{kind}.test>\r\n\r\n{text}\r\n".encode())
    return directory / "spam", directory / "ham"


class Sessions:
    """So many sessions at once send all messages, each to one of the recipients."""

    def __init__(self, port, recipients, count):
        self.port, self.recipients, self.count = port, recipients, count
        self.refused = []

    def run(self, messages):
        """Seconds from the first MAIL to the last answer."""
        turn, lock = enumerate(messages), threading.Lock()
        ready = threading.Barrier(self.count + 1)
        threads = [threading.Thread(target=self.session, args=(turn, lock, ready)) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        ready.wait(60)
        start = time.monotonic()
        for thread in threads:
            thread.join()
        if self.refused:
            raise RuntimeError(f"{len(self.refused)} messages were refused: {self.refused[0]}")
        return time.monotonic() - start

    def session(self, turn, lock, ready):
        with socket.create_connection(("127.0.0.1", self.port), 120) as wire, wire.makefile("rb") as lines:
            def ask(command, code):
                if command:
                    wire.sendall(command)
                while True:
                    line = lines.readline()
                    if line[3:4] != b"-":
                        break
                if not line.startswith(code):
                    raise RuntimeError(line.decode("utf-8", "replace").strip() or "the connection was closed")

            ask(b"", b"220")
            ask(b"EHLO client.test\r\n", b"250")
            ready.wait(60)
            try:
                while True:
                    with lock:
                        number, mail = next(turn, (None, None))
                    if mail is None:
                        ask(b"QUIT\r\n", b"221")
                        return
                    to = self.recipients[number % len(self.recipients)]
                    ask(f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250")
                    ask(f"RCPT TO:<{to}>\r\n".encode(), b"250")
                    ask(b"DATA\r\n", b"354")
                    ask(mail, b"250")
            except (RuntimeError, OSError) as error:
                self.refused.append(str(error))


def slices(messages, sizes):
    """One after the other, none twice."""
    rest = iter(messages)
    return [list(itertools.islice(rest, size)) for size in sizes]
