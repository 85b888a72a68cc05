"""Dangerous attachments: by name, by bytes, and by what is packed in them."""

import io
import time
import unittest
import zipfile

import messages
from test_scan import Scanned, attached, metrics


def packed(*files, **more):
    """A zip file of names and contents."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return out.getvalue()


# What the system's loader looks at, and no more.
PROGRAM = b"MZ" + bytes(58) + b"\x80\0\0\0" + bytes(64) + b"PE\0\0" + bytes(200)


class Refused(Scanned):
    """Without any scanner, as an operator may want it."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        for kind in ["executable", "double_extension", "turned_name", "bomb"]:
            cls.server.configure(rf"^{kind} = .*$", f'{kind} = "reject"')
        for kind in ["script", "macros"]:
            cls.server.configure(rf"^{kind} = .*$", f'{kind} = "junk"')
        cls.server.start()

    def test_programs_are_refused_whatever_they_are_called_and_wherever_they_are_packed(self):
        before = len(self.server.bodies())
        inner = packed(("readme.txt", b"hello"), ("data.bin", PROGRAM))
        for name, content, words in [
            ("setup.exe", b"anything", "a program (setup.exe)"),
            ("photo.jpg", PROGRAM, "a program (photo.jpg)"),
            ("invoice.pdf.exe", b"x", "program"),
            ("=?utf-8?b?aW52b2ljZeKArmZkcC5leGU=?=", b"x", "refused"),
            ("a.zip", packed(("b/data.bin", PROGRAM)), "a program (a.zip/b/data.bin)"),
            ("a.zip", packed(("inner.zip", inner)), "a program (a.zip/inner.zip/data.bin)"),
            ("a.zip", b"junk in front" + inner, "a program"),
        ]:
            for more in [b"", messages.lines(600 << 10)]:
                reply = self.deliver(attached(name, name, content, more), "550 5.7.1 ")
                self.assertIn(words, reply)
        self.assertEqual(len(self.server.bodies()), before)
        name = 'kura_scan_attachments_total{kind="executable"}'
        self.assertGreaterEqual(metrics(self.server)[name], 12)

    def test_macros_go_into_junk_and_what_is_encrypted_is_told(self):
        document = packed(("[Content_Types].xml", b"x"), ("word/vbaProject.bin", b"x"))
        for more in [b"", messages.lines(600 << 10)]:
            sent = attached("macros", "report.docx", document, more)
            self.deliver(sent, "250")
            self.assertTrue(self.field(mailbox="Junk").endswith("; attachments=macros"))
            self.assertTrue(self.newest(mailbox="Junk").endswith(sent))
        secret = bytearray(packed(("secret.txt", b"x" * 100)))
        secret[6] |= 1
        secret[secret.find(b"PK\x01\x02") + 8] |= 1
        self.deliver(attached("encrypted", "secret.zip", bytes(secret)), "250")
        self.assertTrue(self.field().endswith("; attachments=encrypted"))

    def test_harmless_attachments_come_back_as_they_were_without_a_word(self):
        for name, content in [("a.pdf", b"%PDF-1.4"), ("a.zip", packed(("a.txt", b"hello"), ("b/c.png", b"\x89PNG"))),
                              ("a.txt", b"MZ begins this text")]:
            sent = attached(name, name, content)
            self.deliver(sent, "250")
            self.assertNotIn(b"X-Virus-Scanned", self.newest())
            self.assertCameBack(self.newest(), sent)

    def test_bombs_are_answered_in_time_and_memory(self):
        zeroes = packed(("zeroes", bytes(300 << 20)))
        nested = packed(*[(f"{n}.zip", zeroes) for n in range(50)])
        deep = packed(("a.txt", b"a"))
        for _ in range(40):
            deep = packed(("next.zip", deep))
        many = packed(*[(f"{n}.txt", b"x") for n in range(30_000)])
        # The first ones start the threads and fill the pools.
        self.deliver(attached("warm", "a.zip", zeroes), "550")
        memory = self.server.resident_bytes()
        for name, content, code in [("flat", zeroes, "550"), ("nested", nested, "550"), ("deep", deep, "550"),
                                    ("many", many, "250")]:
            with self.subTest(name):
                start = time.monotonic()
                self.deliver(attached(name, "a.zip", content), code)
                self.assertLess(time.monotonic() - start, 20)
                self.assertServes()
        self.assertLess(self.server.resident_bytes() - memory, 128 << 20)

    def test_odd_mime_is_answered_in_time(self):
        deep = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(1000))
        parts = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10_000
        for name, message in [("deep", deep), ("parts", parts)]:
            start = time.monotonic()
            self.deliver(b"Subject: odd\r\n" + message, "250")
            self.assertLess(time.monotonic() - start, 20, name)


class Marked(Scanned):
    """With what is configured by default."""

    def test_nothing_is_refused_or_put_aside_until_somebody_asks_for_it(self):
        document = packed(("word/vbaProject.bin", b"x"))
        for name, content, kinds in [
            ("setup.exe", PROGRAM, "executable"),
            ("run.js", b"x", "script"),
            ("invoice.pdf.exe", b"x", "double_extension,executable"),
            ("=?utf-8?b?aW52b2ljZeKArmZkcC5leGU=?=", b"x", "executable,turned_name"),
            ("report.docm", document, "macros"),
            ("a.zip", packed(("data", bytes(300 << 20))), "bomb"),
            ("a.rar", b"Rar!\x1a\x07\x01\0", "unseen"),
        ]:
            for more in [b"", messages.lines(600 << 10)]:
                sent = attached(kinds, name, content, more)
                self.deliver(sent, "250")
                self.assertTrue(self.field().endswith(f"; attachments={kinds}"), self.field())
                self.assertCameBack(self.newest(), sent)


if __name__ == "__main__":
    unittest.main()
