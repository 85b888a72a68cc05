"""Messages that try what a byte-exact server has to keep."""

import random
import zlib


def header(subject, **more):
    fields = {
        "From": "Sender <sender@example.net>",
        "To": "alice@example.test",
        "Date": "Tue, 24 Nov 2026 23:55:00 +0000",
        "Message-ID": f"<{zlib.crc32(subject.encode())}@example.net>",
        "Subject": subject,
        **more,
    }
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return lines.encode() + b"\r\n"


def lines(bytes_wanted, seed=1):
    """Text of exactly so many bytes, in lines of 78 at most."""
    source = random.Random(seed)
    block = bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz     ", k=76)) + b"\r\n"
    text = block * (bytes_wanted // 78)
    left = bytes_wanted - len(text)
    return text + (b"x" * (left - 2) + b"\r\n" if left >= 2 else b"\r\n"[:left])


ODD = {
    "plain": header("plain") + b"Hello.\r\n",
    "dots": header("dots") + b".\r\n..\r\n...\r\n.hidden\r\na.b\r\n.\r\n",
    "first line is a dot": b".\r\n" + header("not a header any more"),
    "no body": header("no body")[:-2],
    "empty body": header("empty body"),
    "no header": b"\r\nOnly text.\r\n",
    "blank lines": header("blanks") + b"\r\n\r\n \r\n\t\r\n\r\n",
    "eight bits": header("8bit") + "Grüße, 蔵, \u00a0\r\n".encode(),
    "not UTF-8": header("latin") + b"Gr\xfc\xdfe \x80\xff\xfe\r\n",
    "line of 998": header("long") + b"x" * 998 + b"\r\nend\r\n",
    "folded": header("folded\r\n  over\r\n\tthree lines") + b"text\r\n",
    "many fields": header("fields", **{f"X_{n}": "v" * 60 for n in range(200)}) + b"text\r\n",
    "From line": header("from") + b"From the start\r\n>From quoted\r\n",
    "control characters": header("controls") + b"\x01\x07\x1b[31m\x7f\r\n",
    "mime": header("mime", MIME_Version="1.0", Content_Type='multipart/mixed; boundary="b"')
    + b"--b\r\nContent-Type: text/plain\r\n\r\npart\r\n--b\r\n"
    + b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + b"AAECAwQFBgcICQ==\r\n--b--\r\n",
    "64 KiB": header("64K") + lines(64 << 10),
    "over a session's buffer": header("300K") + lines(300 << 10),
    "3 MiB": header("3M") + lines(3 << 20),
}
