"""Mail leaves: submission, the queue, and servers that take it, refuse it, or do neither."""

import email
import email.policy
import glob
import json
import os
import smtplib
import tempfile
import time
import unittest
import uuid

import kura
import names
from sink import Sink, tls_context

ZONE = """
ns A 127.0.0.1
there MX 10 mx.there.test.
mx.there A 127.0.0.1
two MX 10 gone.two.test.
two MX 20 mx.there.test.
gone.two A 127.0.0.9
bare A 127.0.0.1
null MX 0 .
b MX 10 mx.b.test.
mx.b A 127.0.0.1
a MX 10 mx.a.test.
mx.a A 127.0.0.1
"""
PASSWORD = "a good password"


def until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


@unittest.skipUnless(names.program("nsd"), "no nsd on this host")
class Sending(unittest.TestCase):
    """What every class does that has mail leave."""

    @classmethod
    def setUpClass(cls):
        cls.names = names.NameServer({"test.": ZONE}).start()

    @classmethod
    def tearDownClass(cls):
        cls.names.remove()

    def server(self, port, user="ann@a.test", more="", directory=None, log_path=None, **settings):
        """A Kura that sends, to mail exchangers at that port."""
        server = kura.Kura(directory)
        server.log_path = log_path or server.log_path
        self.addCleanup(server.remove)
        server.start()
        domain = user.partition("@")[2]
        self.assertEqual(server.command("domain", "add", domain).returncode, 0)
        server.accounts = []
        server.add_account(user, PASSWORD)
        server.stop()
        server.configure(r"^servers = .*$", f'servers = ["127.0.0.1:{self.names.port}"]')
        server.configure(r"^enabled = false$", "enabled = true", "relay")
        if port != 25:
            server.configure(r"^port = 25$", f"port = {port}")
        for key, value in {"retry_first": "1s", "retry_most": "1s", **settings}.items():
            server.configure(rf"^{key} = .*$", f'{key} = "{value}"')
        with open(os.path.join(server.directory, "kura.toml"), "a") as file:
            file.write(more)
        return server.start()

    def sink(self, **more):
        sink = Sink(**more)
        self.addCleanup(sink.close)
        return sink

    def submit(self, server, to, text="Subject: one\r\n\r\nHello\r\n", sender=None, options=(), rcpt_options=()):
        user = server.accounts[0][0]
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.ehlo("client.test")
            smtp.login(user, PASSWORD)
            to = [to] if isinstance(to, str) else to
            text = text if isinstance(text, bytes) else text.encode()
            return smtp.sendmail(sender or user, to, text, options, rcpt_options)

    def queue(self, server, *filters):
        done = server.command("queue", "list", "--json", *filters)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["messages"]

    def empty(self, server):
        until("an empty queue", lambda: not self.queue(server))

    def notices(self, server, count=1, seconds=30):
        bodies = until(f"{count} notices", lambda: (b := server.bodies()) and len(b) >= count and b, seconds)
        return [email.message_from_bytes(body, policy=email.policy.default) for body in bodies.values()]

    def filter(self, server, script, account=None):
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write(script)
            file.flush()
            done = server.command("sieve", "put", file.name, "--name", "f", "--activate",
                                  "--account", account or server.accounts[0][0])
        self.assertEqual(done.returncode, 0, done.stderr)


class Relaying(Sending):
    # ── what filters send ───────────────────────────────────────────────────────────────────────

    def test_a_redirect_leaves_through_the_queue_and_so_does_a_large_one(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.filter(server, 'redirect "eve@there.test";')
        large = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 30_000
        for text in (b"Subject: small\r\n\r\nHello\r\n", large):
            self.assertTrue(server.deliver(text).startswith("250"))
        found = until("both", lambda: len(sink.messages) == 2 and list(sink.messages))
        bodies = sorted((octets for _, _, octets in found), key=len)
        self.assertTrue(bodies[0].endswith(b"Subject: small\r\n\r\nHello\r\n"), bodies[0])
        self.assertTrue(bodies[1].endswith(large), "not the same octets")
        for body in bodies:
            self.assertNotIn(b"Return-Path:", body)
            self.assertIn(b"Delivered-To: ann@a.test", body)
        self.empty(server)
        self.assertEqual(server.bodies(), {}, "the owner wanted no copy")

    def test_a_vacation_reply_leaves_through_the_queue(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.filter(server, 'require "vacation"; vacation "I am away";')
        text = b"From: eve@there.test\r\nTo: ann@a.test\r\nSubject: hello\r\n\r\nHello\r\n"
        self.assertTrue(server.deliver(text, sender="eve@there.test").startswith("250"))
        sender, recipients, octets = until("a reply", lambda: list(sink.messages))[0]
        self.assertIn("FROM:<>", sender)
        self.assertEqual(recipients, ["eve@there.test"])
        self.assertIn(b"I am away", octets)
        self.assertEqual(len(server.bodies()), 1)

    def test_who_sends_again_what_was_not_taken_is_replied_to(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.filter(server, 'require "vacation"; vacation "I am away"; redirect "nobody@a.test";')
        quota = lambda size: self.assertEqual(server.command("account", "quota", "ann@a.test", "--quota", size).returncode, 0)
        quota("100K")
        text = b"From: eve@there.test\r\nTo: ann@a.test\r\nSubject: hello\r\n\r\n" + b"0123456789abcdef\r\n" * 10_000
        # It can't be redirected, and there is no room to keep it.
        self.assertTrue(server.deliver(text, sender="eve@there.test").startswith("452"))
        quota("10M")
        self.assertTrue(server.deliver(text, sender="eve@there.test").startswith("250"))
        _, recipients, octets = until("a reply", lambda: list(sink.messages))[0]
        self.assertEqual(recipients, ["eve@there.test"])
        self.assertIn(b"I am away", octets)

    # ── the way out ─────────────────────────────────────────────────────────────────────────────

    def test_two_servers_exchange_mail_encrypted(self):
        b = self.server(1, user="bob@b.test")
        a = self.server(b.ports["smtp"])
        self.submit(a, "bob@b.test", "Subject: there\r\n\r\n.dot\r\n..dots\r\nend\r\n")
        body = until("the message at b", lambda: list(b.bodies().values()))[0]
        self.assertTrue(body.endswith(b"Subject: there\r\n\r\n.dot\r\n..dots\r\nend\r\n"), body)
        self.assertIn(b"with ESMTPS", body)
        self.assertIn(b"Return-Path: <ann@a.test>", body)
        self.assertEqual(body.count(b"Return-Path:"), 1)
        message = email.message_from_bytes(body)
        self.assertTrue(message["Date"] and message["Message-ID"])
        self.empty(a)
        b.stop()
        b.configure(r"^port = 1$", f"port = {a.ports['smtp']}")
        b.start()
        self.submit(b, "ann@a.test", "Subject: back\r\n\r\nHello\r\n")
        until("the answer at a", lambda: a.bodies())
        self.empty(b)
        self.assertEqual(len(b.bodies()), 1)

    def test_one_kura_sends_everything_through_another(self):
        sink = self.sink()
        outer = self.server(sink.port, user="gate@b.test")
        password = os.path.join(outer.directory, "password")
        with open(password, "w") as file:
            file.write(PASSWORD + "\n")
        (chain,) = glob.glob(f"{outer.directory}/certificates/*/chain.pem")
        inner = self.server(1, more=f'\n[[smart_host]]\nhost = "localhost:{outer.ports["submission"]}"\nuser = "gate@b.test"\n'
                                    f'password_file = "{password}"\nca_file = "{chain}"\n')
        self.submit(inner, "x@there.test")
        (notice,) = self.notices(inner)
        self.assertIn("Sender address does not belong to this account", str(notice))
        said = lambda *senders: outer.command("account", "send-as", "gate@b.test", *senders)
        self.assertIn("itself and its aliases alone", said().stdout)
        self.assertIn("`any` stands alone", said("any", "a.test").stderr)
        self.assertIn("any address of a.test", said("A.test").stdout)
        self.submit(inner, "x@there.test")
        ((sender, _, body),) = until("the message", lambda: list(sink.messages))
        self.assertTrue(sender.startswith("MAIL FROM:<ann@a.test>"), sender)
        self.assertEqual((b"\r\n" + body).count(b"\r\nReceived: "), 2)
        self.assertIn(b"d=a.test", body)
        self.assertNotIn(b"d=b.test", body)
        # What has no sender.
        self.filter(inner, 'require "vacation"; vacation "I am away";')
        self.assertTrue(inner.deliver(b"From: eve@there.test\r\nTo: ann@a.test\r\n\r\n", sender="eve@there.test").startswith("250"))
        sender, to, body = until("a reply", lambda: sink.messages[1:])[0]
        self.assertEqual((sender.split()[1], to), ("FROM:<>", ["eve@there.test"]))
        self.assertNotIn(b"d=b.test", body)
        # A failure that the outer one meets finds its way back, by MX.
        sink.answer = lambda verb, line: "550 5.1.1 Nobody" if verb == "RCPT" and "there.test" in line else True
        self.submit(inner, "dead@there.test")
        sender, to, _ = until("a notice", lambda: sink.messages[2:])[0]
        self.assertEqual((sender.split()[1], to), ("FROM:<>", ["ann@a.test"]))
        sink.answer = lambda verb, line: True
        with self.assertRaises(smtplib.SMTPSenderRefused):
            self.submit(outer, "x@there.test", sender="who@else.test")
        self.assertIn("any sender", said("any").stdout)
        outer.kill()
        outer.start()
        self.submit(outer, "x@there.test", sender="who@else.test")
        self.assertIn("alone", said("own").stdout)
        with self.assertRaises(smtplib.SMTPSenderRefused):
            self.submit(outer, "x@there.test", sender="ann@a.test")

    def test_a_message_for_several_is_one_record_and_one_transaction(self):
        sink = self.sink()
        server = self.server(sink.port)
        text = b"Subject: x\r\nMessage-ID: <1@a>\r\nDate: Mon, 31 Jan 1994 07:06:40 +0000\r\n\r\n"
        text += b"0123456789abcde\r\n" * 40_000
        self.submit(server, [f"u{n}@there.test" for n in range(5)] + ["ann@a.test"], text)
        until("the message", lambda: sink.messages)
        self.empty(server)
        self.assertEqual(len(sink.messages), 1)
        sender, recipients, body = sink.messages[0]
        self.assertTrue(sender.startswith("MAIL FROM:<ann@a.test> SIZE="), sender)
        self.assertEqual(len(recipients), 5)
        self.assertTrue(body.startswith(b"DKIM-Signature: ") and body.endswith(text))
        self.assertEqual(body.count(b"\r\nReceived: "), 1)
        self.assertNotIn(b"Return-Path", body)
        self.assertEqual(len(server.bodies()), 1)

    def test_the_next_exchanger_and_a_domain_without_one(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.submit(server, ["x@two.test", "y@bare.test", "z@[127.0.0.1]"])
        until("three messages", lambda: len(sink.messages) == 3)
        self.empty(server)

    def test_everything_goes_through_a_smart_host_with_login(self):
        first = kura.Kura()
        self.addCleanup(first.remove)
        first.start()
        chain, key = (glob.glob(f"{first.directory}/certificates/*/{name}.pem") for name in ("chain", "key"))
        offers = ("PIPELINING", "8BITMIME", "AUTH PLAIN")
        sink = self.sink(tls=tls_context(chain[0], key[0]), offers=offers)
        password = os.path.join(first.directory, "password")
        with open(password, "w") as file:
            file.write("secret\n")
        lines = f'\n[[smart_host]]\nhost = "localhost:{sink.port}"\nuser = "us"\n'
        lines += f'password_file = "{password}"\nca_file = "{chain[0]}"\n'
        server = self.server(1, more=lines)
        self.submit(server, ["x@there.test", "y@nowhere.test"])
        until("the message", lambda: sink.messages)
        self.assertEqual(sink.messages[0][1], ["x@there.test", "y@nowhere.test"])
        self.assertIn("AUTH PLAIN AHVzAHNlY3JldA==", sink.lines)
        self.assertLess(sink.lines.index("STARTTLS"), sink.lines.index("AUTH PLAIN AHVzAHNlY3JldA=="))
        # A certificate that is nobody's we know: nothing is said, and the message waits.
        server.stop()
        server.configure(r"^ca_file = .*\n", "")
        server.start()
        before = sink.lines.count("AUTH PLAIN AHVzAHNlY3JldA==")
        self.submit(server, "x@there.test")
        waits = until("a reason", lambda: [q for q in self.queue(server) if q["attempts"]])
        self.assertIn("certificate", waits[0]["why"])
        self.assertEqual(sink.lines.count("AUTH PLAIN AHVzAHNlY3JldA=="), before)

    # ── who may ─────────────────────────────────────────────────────────────────────────────────

    def test_only_who_has_logged_in_relays_and_only_as_themselves(self):
        sink = self.sink()
        server = self.server(sink.port)
        with server.smtp() as smtp:
            smtp.ehlo("x.test")
            self.assertEqual(smtp.mail("ann@a.test")[0], 250)
            self.assertEqual(smtp.rcpt("x@there.test")[0], 550)
        with self.assertRaises(smtplib.SMTPSenderRefused):
            self.submit(server, "x@there.test", sender="else@there.test")
        self.assertEqual((self.queue(server), sink.connections), ([], 0))

    # ── servers that do not take it ─────────────────────────────────────────────────────────────

    def test_a_refusal_comes_back_as_a_report(self):
        sink = self.sink(offers=("PIPELINING", "8BITMIME"))
        sink.answer = lambda verb, line: "550 5.1.1 No such user" if verb == "RCPT" and "<no" in line else True
        server = self.server(sink.port)
        self.submit(server, ["no@there.test", "yes@there.test"], options=["ENVID=e+2B1"],
                    rcpt_options=["ORCPT=rfc822;old@a.test"])
        report = self.notices(server)[0]
        self.empty(server)
        self.assertEqual(sink.messages[0][1], ["yes@there.test"])
        self.assertEqual((report.get_content_type(), report["Return-Path"]), ("multipart/report", "<>"))
        self.assertEqual(report.get_param("report-type"), "delivery-status")
        self.assertEqual(report["Auto-Submitted"], "auto-replied")
        people, programs, about = report.iter_parts()
        self.assertIn("no@there.test", people.get_content())
        message, recipient = programs.get_payload()
        self.assertEqual(message["Original-Envelope-Id"], "e+1")
        self.assertEqual(recipient["Final-Recipient"], "rfc822; no@there.test")
        self.assertEqual(recipient["Original-Recipient"], "rfc822; old@a.test")
        self.assertEqual((recipient["Action"], recipient["Status"]), ("failed", "5.1.1"))
        self.assertEqual(recipient["Diagnostic-Code"], "smtp; 550 5.1.1 No such user")
        self.assertEqual(about.get_content_type(), "text/rfc822-headers")
        self.assertIn("Subject: one", about.get_content())
        self.assertEqual(len(server.bodies()), 1)

    def test_what_dns_says_is_for_good_is_told_at_once(self):
        server = self.server(1)
        self.submit(server, "x@null.test")
        self.submit(server, "x@nothing.test")
        reports = self.notices(server, 2)
        found = sorted(part["Status"] for report in reports for part in list(report.iter_parts())[1].get_payload()[1:])
        self.assertEqual(found, ["5.1.10", "5.1.2"])
        self.empty(server)

    def test_no_report_about_a_report(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "550 No" if verb == "RCPT" else True
        server = self.server(sink.port)
        user = server.accounts[0][0]
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.ehlo("client.test")
            smtp.login(user, PASSWORD)
            smtp.sendmail("", ["x@there.test"], b"Subject: mdn\r\n\r\n")
        until("a try", lambda: sink.connections)
        self.empty(server)
        self.assertEqual(server.bodies(), {})
        self.submit(server, "x@there.test", rcpt_options=["NOTIFY=NEVER"])
        self.empty(server)
        self.assertEqual(server.bodies(), {})

    def test_a_server_without_time_is_asked_again_and_has_it_once(self):
        sink = self.sink()
        tries = []

        def later(verb, line):
            if verb != "RCPT":
                return True
            tries.append(line)
            return "451 4.3.2 Come later" if len(tries) < 3 else True

        sink.answer = later
        server = self.server(sink.port)
        self.submit(server, "x@there.test")
        waits = until("a reason", lambda: [q for q in self.queue(server) if "Come later" in q["why"]])
        self.assertIn("mx.there.test: at RCPT the server refused: 451 4.3.2 Come later", waits[0]["why"])
        until("the message", lambda: sink.messages)
        self.empty(server)
        self.assertEqual((len(sink.messages), len(tries)), (1, 3))

    def test_hostile_servers_lose_nothing(self):
        for name, behave in {
            "nobody there": None,
            "closes at once": lambda verb, line: None,
            "garbage": lambda verb, line: b"\x00\xff HTTP/1.1 400\r\n" if verb == "CONNECT" else True,
            "an endless banner": lambda verb, line: b"220-on\r\n" * 10_000 if verb == "CONNECT" else True,
            "closes in DATA": lambda verb, line: None if verb == "BODY" else True,
            "closes at the end": lambda verb, line: None if verb == "END" else True,
            "STARTTLS that fails": lambda verb, line: "454 No TLS now" if verb == "STARTTLS" else True,
            "refuses to greet": lambda verb, line: "554 Go away" if verb == "CONNECT" else True,
        }.items():
            with self.subTest(name):
                sink = self.sink()
                port = sink.port
                if behave is None:
                    sink.close()
                else:
                    sink.answer = behave
                server = self.server(port)
                self.submit(server, "x@there.test")
                if name != "STARTTLS that fails":
                    waits = until("a reason", lambda: [q for q in self.queue(server) if q["attempts"]])
                    self.assertIn("mx.there.test", waits[0]["why"])
                if behave is None:
                    sink = self.sink(port=port)
                sink.answer = lambda verb, line: True
                until("the message", lambda: sink.messages)
                self.empty(server)
                self.assertEqual(len(sink.messages), 1)
                server.remove()

    def test_a_server_that_hangs_holds_up_nobody_else(self):
        hanging, sink = self.sink(address="127.0.0.9"), None
        hanging.answer = lambda verb, line: 60 if verb == "CONNECT" else True
        sink = self.sink(port=hanging.port)
        server = self.server(hanging.port)
        for _ in range(5):
            self.submit(server, "x@[127.0.0.9]")
        self.submit(server, "x@there.test")
        until("the message", lambda: sink.messages, 10)
        # What has been dealt with leaves a moment later.
        until("the others", lambda: len(self.queue(server)) == 5, 10)
        began = time.monotonic()
        server.stop()
        self.assertLess(time.monotonic() - began, 8)

    def test_hundreds_for_a_server_that_hangs_leave_room_for_others(self):
        hanging = self.sink(address="127.0.0.9")
        hanging.answer = lambda verb, line: 60 if verb == "CONNECT" else True
        sink = self.sink(port=hanging.port)
        server = self.server(hanging.port)
        done = server.command("account", "limits", "ann@a.test", "--messages-per-hour", "0")
        self.assertEqual(done.returncode, 0, done.stderr)
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.ehlo("client.test")
            smtp.login(*server.accounts[0])
            for _ in range(1200):
                smtp.sendmail("ann@a.test", ["x@[127.0.0.9]"], b"Subject: x\r\n\r\n")
            for number in range(300):
                smtp.sendmail("ann@a.test", ["x@there.test"], b"Subject: %d\r\n\r\n" % number)
        until("all for the others", lambda: len(sink.messages) == 300)
        self.assertEqual(len(self.queue(server, "--all")), 1200)
        self.assertLessEqual(hanging.connections, 10 + os.cpu_count())
        server.kill()
        server.start()
        self.assertEqual(len(self.queue(server, "--all")), 1200)
        self.assertEqual(len({subject for _, _, subject in sink.messages}), 300)

    def test_patience_ends_and_the_sender_hears_of_both(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "450 4.2.1 Not today" if verb == "RCPT" else True
        server = self.server(sink.port, expire="6s", delay_notice="1s")
        self.submit(server, "x@there.test")
        reports = self.notices(server, 2)
        self.empty(server)
        actions = [list(report.iter_parts())[1].get_payload()[1]["Action"] for report in reports]
        self.assertEqual(actions, ["delayed", "failed"])
        failed = list(reports[1].iter_parts())[1].get_payload()[1]
        self.assertEqual(failed["Status"], "5.2.1")
        self.assertEqual(len(server.bodies()), 2)

    # ── the operator ────────────────────────────────────────────────────────────────────────────

    def test_the_operator_holds_releases_retries_and_removes(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "450 4.2.1 Not today" if verb == "RCPT" else True
        server = self.server(sink.port, retry_first="1h", retry_most="1h")
        for to in ("x@there.test", "y@there.test", "z@two.test"):
            self.submit(server, to)
        until("tries", lambda: all(q["attempts"] for q in self.queue(server)) and len(self.queue(server)) == 3)
        self.assertEqual(len(self.queue(server, "--domain", "two.test")), 1)
        self.assertEqual(len(self.queue(server, "--sender", "ann@a.test")), 3)
        self.assertEqual(self.queue(server, "--older-than", "1h"), [])
        one, two = (q["id"] for q in self.queue(server, "--domain", "there.test"))
        shown = json.loads(server.command("queue", "show", one, "--json").stdout)
        self.assertEqual(shown["recipients"][0]["status"], "4.2.1")
        self.assertEqual(shown["account"], "ann@a.test")
        self.assertEqual(server.command("queue", "hold", one).returncode, 0)
        self.assertIn("on hold", self.queue(server, "--held")[0]["why"])
        self.assertEqual(server.command("queue", "remove", two).returncode, 0)
        self.assertNotEqual(server.command("queue", "remove").returncode, 0)
        self.assertNotEqual(server.command("queue", "show", two).returncode, 0)
        sink.answer = lambda verb, line: True
        self.assertEqual(server.command("queue", "retry", "--domain", "two.test").returncode, 0)
        until("the retried one", lambda: sink.messages)
        # Holds outlast the server, and a stopped one is asked in its store.
        server.stop()
        self.assertEqual([q["id"] for q in self.queue(server)], [one])
        server.start()
        time.sleep(1)
        self.assertEqual(len(sink.messages), 1)
        self.assertEqual(server.command("queue", "release", "--all").returncode, 0)
        until("the released one", lambda: len(sink.messages) == 2)
        self.empty(server)
        self.assertEqual(server.bodies(), {})

    # ── crashes ─────────────────────────────────────────────────────────────────────────────────

    def test_nothing_is_lost_and_little_comes_twice_when_killed(self):
        sink = self.sink()
        server = self.server(sink.port, more="")
        sent, slow = set(), 0.05
        sink.answer = lambda verb, line: slow if verb == "END" else True
        for _ in range(3):
            for _ in range(20):
                name = uuid.uuid4().hex
                self.submit(server, "x@there.test", f"Subject: {name}\r\n\r\nHello\r\n")
                sent.add(name)
            server.kill()
            server.start()
        self.empty(server)
        got = [email.message_from_bytes(body)["Subject"] for _, _, body in sink.messages]
        self.assertEqual(set(got), sent)
        # What was under way when it died, on ten connections at most, each time.
        self.assertLessEqual(len(got) - len(sent), 3 * 10)
        verify = server.command("store", "verify")
        self.assertEqual(verify.returncode, 0, verify.stdout + verify.stderr)
        server.kill()
        before = len(sink.messages)
        server.start()
        time.sleep(2)
        self.assertEqual(len(sink.messages), before)


if __name__ == "__main__":
    unittest.main()
