"""Bad input gets the reply that its RFC asks, costs bounded memory, and touches no other session."""

import concurrent.futures
import contextlib
import re
import socket
import threading
import time
import unittest

import kura
import messages
from kura import Wire

# What all of this may add to the server, whatever is sent.
MEMORY_BYTES_MAX = 64 << 20


class BadInput(kura.TestCase):
    def setUp(self):
        self.before = self.server.resident_bytes()

    def tearDown(self):
        self.assertServes()
        grown = self.server.resident_bytes() - self.before
        self.assertLess(grown, MEMORY_BYTES_MAX, f"{grown} bytes more")

    def smtp(self, *commands):
        """A session that has said hello, and `commands`; each must be answered 2xx or 3xx."""
        wire = Wire(self.server.ports["smtp"])
        self.addCleanup(wire.socket.close)
        wire.expect("220")
        for command in ["EHLO client.example.net", *commands]:
            wire.ask(command, "354" if command == "DATA" else "250")
        return wire

    def transaction(self):
        return self.smtp("MAIL FROM:<sender@example.net>", f"RCPT TO:<{self.server.accounts[0][0]}>", "DATA")

    def imap(self, login=True):
        wire = Wire(self.server.ports["imap"])
        self.addCleanup(wire.socket.close)
        wire.line()
        if login:
            address, password = self.server.accounts[0]
            wire.send(f'a LOGIN "{address}" "{password}"\r\n'.encode())
            self.assertIn("a OK", wire.tagged("a"))
        return wire

    def count(self):
        return len(self.server.bodies())

    # ── line ends ───────────────────────────────────────────────────────────────────────────────

    def test_no_smuggling_variant_becomes_a_second_message(self):
        evil = (
            b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<%s>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n"
            % self.server.accounts[0][0].encode()
        )
        for end in [b"\n.\n", b"\r\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n\x00.\r\n",
                    b"\r\n.\x00\r\n", b"\n.\r", b"\r\r\n.\r\r\n"]:
            with self.subTest(end):
                before = self.count()
                wire = self.transaction()
                wire.send(b"Subject: outer\r\n\r\ntext" + end + evil + b"QUIT\r\n")
                with contextlib.suppress(OSError):
                    wire.ends()
                after = self.server.bodies()
                self.assertLessEqual(len(after) - before, 1)
                for body in after.values():
                    self.assertFalse(re.match(rb"Return-Path: *<evil", body, re.I), body[:200])
                    head = body.partition(b"\r\n\r\n")[0]
                    self.assertNotIn(b"smuggled", head)

    def test_a_bare_line_end_in_a_message_is_refused(self):
        for bare in [b"a\nb\r\n", b"a\rb\r\n", b"a\r\r\n", b"\n", b"\r"]:
            with self.subTest(bare):
                before = self.count()
                wire = self.transaction()
                wire.send(b"Subject: bare\r\n\r\n" + bare + b"\r\n.\r\n")
                reply = wire.reply()
                self.assertEqual(reply[:1], "5", reply)
                self.assertEqual(self.count(), before)

    def test_a_bare_line_end_in_a_command_is_refused(self):
        for bare in [b"NOOP\nNOOP\r\n", b"NOOP\rNOOP\r\n", b"MAIL FROM:<a@b.example>\n\r\n"]:
            with self.subTest(bare):
                wire = self.smtp()
                wire.send(bare)
                reply = wire.reply()
                self.assertIn(reply[:1], ("5", ""), reply)

    def test_nul_is_refused(self):
        wire = self.smtp()
        wire.send(b"NOOP \x00\r\n")
        self.assertEqual(wire.reply()[:1], "5")
        wire = self.smtp()
        wire.send(b"MAIL FROM:<a\x00b@example.net>\r\n")
        self.assertEqual(wire.reply()[:1], "5")
        # In a message it is kept exactly, or refused: never cut.
        before = self.count()
        wire = self.transaction()
        message = messages.header("nul") + b"a\x00b\r\n"
        wire.send(kura.stuffed(message))
        if wire.reply().startswith("250"):
            self.assertCameBack(self.newest(), message)
        else:
            self.assertEqual(self.count(), before)

    # ── lengths and counts ──────────────────────────────────────────────────────────────────────

    def test_a_command_line_over_the_limit(self):
        wire = self.smtp()
        wire.send(b"NOOP " + b"x" * 100_000 + b"\r\n")
        self.assertIn(wire.reply()[:3], ("500", "501", "421"))
        wire = self.imap(login=False)
        wire.send(b"a NOOP " + b"x" * 10_000_000)
        with contextlib.suppress(OSError):
            wire.send(b"\r\n")
        self.assertRegex(wire.line(), rb"^(a|\*) (BAD|BYE)")
        with Wire(self.server.ports["pop3"]) as wire:
            wire.line()
            wire.send(b"USER " + b"x" * 100_000 + b"\r\n")
            self.assertTrue(wire.line().startswith(b"-ERR"))

    def test_a_line_without_end_costs_no_memory(self):
        for service in ["smtp", "imap", "pop3", "lmtp"]:
            with self.subTest(service), Wire(self.server.ports[service]) as wire:
                wire.line()
                with contextlib.suppress(OSError):
                    for _ in range(200):
                        wire.send(b"x" * (1 << 20))

    def test_a_text_line_over_the_limit_is_kept_or_refused(self):
        message = messages.header("very long line") + b"x" * 5_000_000 + b"\r\n"
        before = self.count()
        wire = self.transaction()
        with contextlib.suppress(OSError):
            wire.send(kura.stuffed(message))
        reply = wire.reply()
        if reply.startswith("250"):
            self.assertCameBack(self.newest(), message)
        else:
            self.assertEqual(reply[:1], "5", reply)
            self.assertEqual(self.count(), before)

    def test_ten_thousand_unknown_commands(self):
        for service, command, bad in [
            ("smtp", b"WHAT\r\n", rb"^(5\d\d|421)"),
            ("imap", b"a WHAT\r\n", rb"^(a BAD|\* BYE)"),
            ("pop3", b"WHAT\r\n", rb"^-ERR"),
        ]:
            with self.subTest(service), Wire(self.server.ports[service]) as wire:
                wire.line()
                with contextlib.suppress(OSError):
                    wire.send(command * 10_000)
                replies = 0
                with contextlib.suppress(OSError):
                    while line := wire.line():
                        self.assertRegex(line, bad)
                        replies += 1
                        if replies == 10_000:
                            break
                self.assertGreater(replies, 0)
                self.assertLess(replies, 10_000, "strikes should have ended the session")

    def test_ten_thousand_recipients(self):
        wire = self.smtp("MAIL FROM:<sender@example.net>")
        command = f"RCPT TO:<{self.server.accounts[0][0]}>\r\n".encode()
        accepted, refused = 0, set()
        with contextlib.suppress(OSError):
            for _ in range(10):
                wire.send(command * 1000)
                for _ in range(1000):
                    reply = wire.reply()
                    if reply.startswith("250"):
                        accepted += 1
                        self.assertFalse(refused, "accepted again after a refusal")
                    elif reply:
                        refused.add(reply[:3])
        # RFC 5321 section 4.5.3.1.8: at least 100; section 4.5.3.1.10: then 452. The server may
        # lose its patience with 421.
        self.assertGreaterEqual(accepted, 100)
        self.assertIn("452", refused)
        self.assertLessEqual(refused, {"452", "421"})

    def test_a_literal_of_4_gib(self):
        for literal in [b"{4294967296}", b"{4294967296+}", b"{99999999999999999999}", b"{99999999999999999999+}"]:
            for command in [b"a LOGIN ", b"a APPEND INBOX "]:
                with self.subTest(literal + command):
                    wire = self.imap(login=b"APPEND" in command)
                    wire.send(command + literal + b"\r\n")
                    line = wire.line()
                    self.assertRegex(line, rb"^(a (BAD|NO)|\* BYE)", line)

    def test_a_synchronising_literal_that_is_never_sent(self):
        wire = self.imap()
        wire.send(b"b APPEND INBOX {1000000}\r\n")
        self.assertTrue(wire.line().startswith(b"+"))
        before = self.count()
        wire.send(b"only this")
        wire.socket.close()
        time.sleep(0.2)
        self.assertEqual(self.count(), before)

    def test_deep_nesting_and_huge_sets(self):
        for command in [
            b"b SEARCH " + b"(" * 5000 + b"ALL" + b")" * 5000,
            b"b SEARCH " + b"NOT " * 5000 + b"ALL",
            b"b FETCH " + b"1," * 20_000 + b"1 (FLAGS)",
            b"b FETCH 1:4294967295 (FLAGS)",
            b"b UID FETCH 4294967296 (FLAGS)",
            b"b FETCH 0 (FLAGS)",
            b'b LIST "" "' + b"*%" * 500 + b'"',
        ]:
            with self.subTest(command[:30]):
                wire = self.imap()
                wire.send(b'x SELECT INBOX\r\n')
                wire.tagged("x")
                start = time.monotonic()
                wire.send(command + b"\r\n")
                reply = wire.tagged("b")
                self.assertRegex(reply.rpartition("\n")[0].rpartition("\n")[2] or reply, r"^(b (OK|NO|BAD)|\* BYE)")
                self.assertLess(time.monotonic() - start, 10)

    # ── much in one command ─────────────────────────────────────────────────────────────────────

    def filled(self, messages_count, octets):
        """A session with a mailbox of its own selected, which holds messages of one text line, repeated."""
        line = b"lorem ipsum dolor sit amet consectetur\r\n"
        message = b"Subject: much\r\n\r\n" + line * (octets // len(line))
        wire = self.imap()
        name = f"much{octets}".encode()
        wire.send(b"c CREATE %s\r\n" % name)
        wire.tagged("c")
        for _ in range(messages_count):
            wire.send(b"d APPEND %s {%d+}\r\n%s\r\n" % (name, len(message), message))
            self.assertIn("d OK", wire.tagged("d"))
        wire.send(b"e SELECT %s\r\n" % name)
        self.assertIn("e OK", wire.tagged("e"))
        self.addCleanup(wire.send, b"f CLOSE\r\ng DELETE %s\r\n" % name)
        return wire

    def longest_wait_beside(self, wire, tag):
        """Of a NOOP in another session, until `wire` has its answer; which is returned too."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(wire.tagged(tag)))
        thread.start()
        other = self.imap()
        waits = []
        while thread.is_alive():
            start = time.monotonic()
            other.send(b"n NOOP\r\n")
            other.tagged("n")
            waits.append(time.monotonic() - start)
        return max(waits), answers[0]

    def test_sections_without_end_cost_no_memory(self):
        wire = self.filled(16, 190_000)
        for section in [b"BODY.PEEK[1]<0.1>", b"BODY.PEEK[TEXT]<0.1>"]:
            wire.send(b"h FETCH 1:* (" + b" ".join([section] * 2000) + b")\r\n")
            self.assertIn("h BAD too many FETCH items", wire.tagged("h"))
            wire.send(b"h FETCH 1:* (" + b" ".join([section] * 256) + b")\r\n")
            reply = wire.tagged("h")
            self.assertIn("h OK", reply)
            self.assertEqual(reply.count("<0> {1}"), 16 * 256)
            self.assertLess(self.server.resident_bytes() - self.before, MEMORY_BYTES_MAX)

    def test_sections_of_a_large_message_come_in_any_order(self):
        wire = self.filled(1, 1_000_000)
        wire.send(b"h FETCH 1 (BODY.PEEK[TEXT]<900000.6> BODY.PEEK[TEXT]<3.8> BODY.PEEK[TEXT]<40.5> BODY.PEEK[7])\r\n")
        text = b"lorem ipsum dolor sit amet consectetur\r\n" * 25_000
        reply = wire.tagged("h").encode()
        for start, count in [(900_000, 6), (3, 8), (40, 5)]:
            self.assertIn(b"BODY[TEXT]<%d> {%d}\r\n%s" % (start, count, text[start:start + count]), reply)
        self.assertIn(b"BODY[7] NIL)", reply)

    def test_a_search_for_much_leaves_others_their_turn(self):
        wire = self.filled(16, 1_000_000)
        key = b'NOT BODY "lorem ipsum dolor sit amet consectetuq"'
        wire.send(b"h SEARCH " + b" ".join([key] * 300) + b"\r\n")
        self.assertIn("h BAD too many search keys", wire.tagged("h"))
        wire.send(b"h SEARCH " + b" ".join([key] * 100) + b"\r\n")
        longest, reply = self.longest_wait_beside(wire, "h")
        self.assertIn("* SEARCH 1 2 3", reply)
        print(f"\n  NOOP beside a SEARCH: at most {1000 * longest:.0f} ms", end=" ")
        self.assertLess(longest, 0.5)

    def test_a_sender_without_end_leaves_others_their_turn(self):
        # Lines of a message that is over the limit: they take the server longer than they take us.
        wire = self.transaction()
        lines = b"a\r\n" * (1 << 20)
        over, ended = threading.Event(), threading.Event()

        def send():
            with contextlib.suppress(OSError):
                for count in range(1000):
                    wire.send(lines)
                    if count * len(lines) > 100 << 20:
                        over.set()
                    if ended.is_set():
                        break

        thread = threading.Thread(target=send)
        thread.start()
        self.assertTrue(over.wait(60))
        waits = []
        for _ in range(50):
            start = time.monotonic()
            with Wire(self.server.ports["imap"]) as other:
                other.line()
            waits.append(time.monotonic() - start)
        self.assertTrue(thread.is_alive())
        ended.set()
        wire.socket.shutdown(socket.SHUT_RDWR)
        thread.join()
        print(f"\n  a greeting beside a flood: at most {1000 * max(waits):.0f} ms", end=" ")
        self.assertLess(max(waits), 0.5)

    # ── order ───────────────────────────────────────────────────────────────────────────────────

    def test_commands_out_of_order(self):
        with Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("RCPT TO:<a@example.test>", "503")
            wire.ask("EHLO client.example.net", "250")
            wire.ask("RCPT TO:<a@example.test>", "503")
            wire.ask("DATA", "503")
            wire.ask("MAIL FROM:<a@example.net>", "250")
            wire.ask("MAIL FROM:<a@example.net>", "503")
            wire.send(b"DATA\r\n")
            self.assertIn(wire.reply()[:3], ("503", "554"))
            wire.ask("RSET", "250")
            wire.ask("RCPT TO:<a@example.test>", "503")
        wire = self.imap(login=False)
        for command in ["SELECT INBOX", "FETCH 1 FLAGS", "IDLE", "APPEND INBOX {3+}\r\nabc"]:
            wire.send(f"a {command}\r\n".encode())
            self.assertRegex(wire.tagged("a"), r"a (BAD|NO)")
        wire = self.imap()
        wire.send(b"b FETCH 1 FLAGS\r\n")
        self.assertIn("b BAD", wire.tagged("b"))
        with Wire(self.server.ports["pop3"]) as wire:
            wire.line()
            for command in [b"STAT\r\n", b"RETR 1\r\n", b"PASS x\r\n"]:
                wire.send(command)
                self.assertTrue(wire.line().startswith(b"-ERR"), command)

    def test_commands_behind_starttls_are_dropped(self):
        for service, start, more, ok in [
            ("smtp", b"STARTTLS\r\n", b"NOOP\r\n", b"220"),
            ("imap", b"a STARTTLS\r\n", b"b NOOP\r\n", b"a OK"),
            ("pop3", b"STLS\r\n", b"NOOP\r\nCAPA\r\n", b"+OK"),
        ]:
            with self.subTest(service), Wire(self.server.ports[service]) as wire:
                wire.line()
                if service == "smtp":
                    wire.ask("EHLO client.example.net", "250")
                wire.send(start + more)
                self.assertTrue(wire.line().startswith(ok))
                try:
                    wire.start_tls()
                except OSError:
                    continue  # the server closed instead, which is as safe
                wire.socket.settimeout(0.5)
                with self.assertRaises(TimeoutError, msg="a command from before TLS was answered"):
                    line = wire.line()
                    self.assertEqual(line, b"", "a command from before TLS was answered")
                    raise TimeoutError  # closed: as safe

    def test_tls_garbage(self):
        for service in ["submissions", "imaps", "pop3s"]:
            with self.subTest(service), Wire(self.server.ports[service]) as wire:
                wire.send(b"EHLO me\r\nGET / HTTP/1.0\r\n\r\n")
                with contextlib.suppress(OSError):
                    wire.ends()

    # ── slow and half-closed peers ──────────────────────────────────────────────────────────────

    def test_a_slow_sender_is_served(self):
        message = messages.header("slow") + b"text\r\n"
        wire = self.transaction()
        for byte in kura.stuffed(message):
            wire.send(bytes([byte]))
            time.sleep(0.001)
        self.assertTrue(wire.reply().startswith("250"))
        self.assertCameBack(self.newest(), message)

    def test_a_socket_half_closed_after_quit_gets_all_replies(self):
        message = messages.header("half-closed") + b"text\r\n"
        with Wire(self.server.ports["smtp"]) as wire:
            wire.send(
                b"EHLO client.example.net\r\nMAIL FROM:<sender@example.net>\r\n"
                + f"RCPT TO:<{self.server.accounts[0][0]}>\r\nDATA\r\n".encode()
            )
            for code in ["220", "250", "250", "250", "354"]:
                wire.expect(code)
            wire.send(kura.stuffed(message) + b"QUIT\r\n")
            wire.socket.shutdown(socket.SHUT_WR)
            wire.expect("250")
            wire.expect("221")
        self.assertCameBack(self.newest(), message)

    def test_a_socket_closed_in_the_middle_delivers_nothing(self):
        before = self.count()
        for how in ["half", "closed", "reset"]:
            wire = self.transaction()
            wire.send(messages.header("cut off") + b"text without an end\r\n" * 1000)
            if how == "half":
                wire.socket.shutdown(socket.SHUT_WR)
                with contextlib.suppress(OSError):
                    wire.ends()
            elif how == "reset":
                wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            wire.socket.close()
        time.sleep(0.3)
        self.assertEqual(self.count(), before)

    def test_a_reader_that_never_reads_costs_no_memory(self):
        self.server.deliver(messages.ODD["3 MiB"])
        uid = max(self.server.bodies())
        wire = self.imap()
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(OSError):
            wire.socket.settimeout(2)
            wire.send(b"b SELECT INBOX\r\n" + b"c UID FETCH %d BODY.PEEK[]\r\n" % uid * 500)
        time.sleep(1)

    # ── sizes ───────────────────────────────────────────────────────────────────────────────────

    def test_a_declared_size_over_the_limit(self):
        wire = self.smtp()
        for size in [10**9, 10**19]:
            wire.send(f"MAIL FROM:<sender@example.net> SIZE={size}\r\n".encode())
            self.assertRegex(wire.reply(), r"^(552|501)")
        wire.ask("MAIL FROM:<sender@example.net> SIZE=1000", "250")

    # ── names ───────────────────────────────────────────────────────────────────────────────────

    def test_mailbox_names_of_every_odd_kind(self):
        # In modified UTF-7 where it matters (RFC 3501 section 5.1.3), since UTF8=ACCEPT is not on.
        names = [
            b"a b", b"Tr&APw-mmer", b"&U,BTFw-", b"a//b", b"/a", b"a/", b"inbox", b"INBOX/sub", b"%", b"*", b"a*b",
            b"&", b"&-", b"&AAA-", b"&Jjo!", b"..", b"../../etc", b"", b" ", b"a\\\\b", b'a\\"b', b"~",
            b"#news", b"nul", b"x" * 255, b"x" * 10_000, b"/".join([b"d"] * 100), b"\xfc\xfe", b"a\x07b", b"NIL",
        ]
        wire = self.imap()
        made = []
        for number, name in enumerate(names):
            wire.send(b'c%d CREATE "%s"\r\n' % (number, name))
            reply = wire.tagged(f"c{number}")
            self.assertRegex(reply, rf"c{number} (OK|NO|BAD)", name)
            if f"c{number} OK" in reply:
                made.append((number, name))
        self.assertIn(b"a b", [name for _, name in made])
        self.assertIn(b"Tr&APw-mmer", [name for _, name in made])
        self.assertNotIn(b"inbox", [name for _, name in made])
        self.assertNotIn(b"", [name for _, name in made])
        wire.send(b'l LIST "" "*"\r\n')
        self.assertIn("l OK", wire.tagged("l"))
        for number, name in made:
            plain = name.rstrip(b"/")
            wire.send(b's%d SELECT "%s"\r\n' % (number, plain))
            self.assertIn(f"s{number} OK", wire.tagged(f"s{number}"), name)
        wire.send(b"u UNSELECT\r\n")
        wire.tagged("u")
        for number, name in reversed(made):
            wire.send(b'd%d DELETE "%s"\r\n' % (number, name.rstrip(b"/")))
            self.assertRegex(wire.tagged(f"d{number}"), rf"d{number} (OK|NO)")

    # ── passwords ───────────────────────────────────────────────────────────────────────────────

    def test_a_bad_password_fifty_times(self):
        """In each service, by five strangers at once: each is answered a second late."""
        with concurrent.futures.ThreadPoolExecutor(10) as strangers:
            guesses = [(service, strangers.submit(self.guess, service, range(first, first + 10)))
                       for service in ["imap", "pop3"] for first in range(0, 50, 10)]
        for service, guessed in guesses:
            with self.subTest(service):
                guessed.result()
        # The right one still works: nobody is locked out by a stranger.
        self.server.imap().logout()

    def guess(self, service, numbers):
        """That many wrong passwords, over as many connections as the server wants to see for them."""
        address, _ = self.server.accounts[0]
        numbers = list(numbers)
        while numbers:
            with Wire(self.server.ports[service]) as wire:
                wire.line()
                while numbers:
                    password = f"wrong{numbers.pop()}"
                    if service == "imap":
                        wire.send(f'a LOGIN "{address}" "{password}"\r\n'.encode())
                        reply = wire.tagged("a")
                        if reply.startswith("a "):
                            self.assertIn("a NO", reply)
                    else:
                        wire.send(f"USER {address}\r\n".encode())
                        if not wire.line():
                            break
                        wire.send(f"PASS {password}\r\n".encode())
                        reply = wire.line().decode()
                        if reply:
                            self.assertTrue(reply.startswith("-ERR"), reply)
                    if not reply or "BYE" in reply:
                        break


class SmallMessages(kura.TestCase):
    """With a limit of 1 MiB for a message."""

    LIMIT = 1 << 20

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r"^message_bytes_max = \d+", f"message_bytes_max = {cls.LIMIT}")
        cls.server.start()

    def count(self):
        return len(self.server.bodies())

    def test_the_limit_is_announced(self):
        with self.server.smtp() as smtp:
            smtp.ehlo("client.example.net")
            self.assertEqual(smtp.esmtp_features["size"], str(self.LIMIT))

    def test_a_message_over_the_limit_in_fact(self):
        for size in [self.LIMIT + 1, 8 * self.LIMIT]:
            with self.subTest(size):
                head = messages.header("too large")
                reply = self.server.deliver(head + messages.lines(size - len(head)))
                self.assertTrue(reply.startswith("552"), reply)
                self.assertEqual(self.count(), 0)
        self.assertServes()

    def test_a_message_at_the_limit(self):
        head = messages.header("just right")
        message = head + messages.lines(self.LIMIT - len(head))
        reply = self.server.deliver(message, to=1)
        self.assertTrue(reply.startswith("250"), reply)
        self.assertCameBack(self.newest(1), message)

    def test_an_append_over_the_limit(self):
        imap = self.server.imap()
        # RFC 7889 section 4: NO [TOOBIG]; the literal may be refused before it is sent.
        kind, data = imap.append("INBOX", None, None, b"x" * (2 * self.LIMIT))
        self.assertEqual(kind, "NO", data)
        imap.shutdown()
        self.assertServes()


if __name__ == "__main__":
    unittest.main()
