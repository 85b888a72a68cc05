"""What an account may send, and when: limits by hour and day, accounts that others have taken over, messages for later."""

import email
import email.policy
import smtplib
import threading
import time
import unittest

import test_relay
from test_relay import PASSWORD, until
from test_scan import metrics


def with_bob(server):
    """One more account, the second one in the list: the trial's come behind."""
    server.accounts[1:] = []
    server.add_account("bob@a.test", PASSWORD)
    return server


def as_bob(test, server, to):
    server.accounts.insert(0, server.accounts.pop(1))
    test.submit(server, to)
    server.accounts.insert(0, server.accounts.pop(1))


def bounded(server, octets):
    server.stop()
    server.configure(r"^waiting_bytes_max = .*$", f"waiting_bytes_max = {octets}", "submission")
    return server.start()


def text_of(octets):
    return b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * (octets // 17)


def refused(test, server, text, options=()):
    with test.assertRaises(smtplib.SMTPDataError) as caught:
        test.submit(server, "x@there.test", text, options=options)
    return caught.exception.smtp_code, caught.exception.smtp_error.decode()


class Limits(test_relay.Sending):
    """Of messages and recipients."""

    submit_as_bob = as_bob

    def limited(self, server, *more):
        done = server.command("account", "limits", "ann@a.test", *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refused(self, server, to="x@there.test"):
        """The reply to a message that is not taken."""
        with self.assertRaises(smtplib.SMTPDataError) as refused:
            self.submit(server, to)
        return refused.exception.smtp_code, refused.exception.smtp_error.decode()

    def test_an_account_sends_up_to_its_limits_and_is_told_until_when(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.assertIn("1000 messages an hour and 5000 a day", self.limited(server))
        said = self.limited(server, "--messages-per-hour", "3", "--recipients-per-day", "10")
        self.assertIn("3 messages an hour and 5000 a day", said)
        self.assertIn("10 a day (limits of its own)", said)
        # What is not taken does not count.
        code, words = self.refused(server, [f"u{number}@there.test" for number in range(11)])
        self.assertEqual(code, 550)
        self.assertIn("may send to 10 recipients within one day, and this message has more", words)
        for number in range(3):
            self.submit(server, [f"a{number}@there.test", "ann@a.test"])
        code, words = self.refused(server)
        self.assertEqual(code, 450)
        self.assertRegex(words, r"^4\.7\.1 ann@a\.test has sent as much as it may: 3 messages within one hour; "
                                r"try again after 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertIn("sent within a day: 3 messages, 6 recipients", self.limited(server))
        self.empty(server)
        # What it has sent is known after a crash: not to the message, but that it began.
        server.kill()
        server.start()
        self.limited(server, "--messages-per-hour", "1")
        self.refused(server)
        # Others are not concerned, and neither is the account once it may.
        with_bob(server)
        self.submit_as_bob(server, "b@there.test")
        # Recipients of a message count each for one.
        self.limited(server, "--messages-per-hour", "0", "--recipients-per-day", "5")
        code, words = self.refused(server, [f"v{number}@there.test" for number in range(4)])
        self.assertEqual(code, 450)
        self.assertIn("5 recipients within one day", words)
        self.assertIn("(limits of [submission])", self.limited(server, "--usual"))
        self.submit(server, "c@there.test")
        self.empty(server)
        self.assertEqual(metrics(server)["kura_submission_limited_total"], 2)
        self.assertEqual(len(sink.messages), 5)

    def test_what_scripts_send_is_counted_apart_and_kept_beyond_the_limit(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.filter(server, 'redirect "else@there.test";')
        self.limited(server, "--messages-per-day", "2")
        for number in range(3):
            text = f"From: x@there.test\r\nSubject: {number}\r\n\r\n".encode()
            self.assertTrue(server.deliver(text, sender="x@there.test").startswith("250"))
        self.empty(server)
        self.assertEqual(len(sink.messages), 2)
        kept = [email.message_from_bytes(body, policy=email.policy.default)["Subject"] for body in server.bodies().values()]
        self.assertEqual(kept, ["2"])
        # Strangers have not used up what its owner may send.
        self.submit(server, "y@there.test")
        self.filter(server, 'require "vacation"; vacation "Away";')
        text = b"From: x@there.test\r\nTo: ann@a.test\r\nSubject: q\r\n\r\n"
        self.assertTrue(server.deliver(text, sender="x@there.test").startswith("250"))
        until("the message", lambda: len(server.bodies()) == 2)
        self.empty(server)
        self.assertEqual(len(sink.messages), 3, "no reply beyond the limit")


class Hijacked(test_relay.Sending):
    """An account that somebody else sends from."""

    submit_as_bob = as_bob

    def watching(self, sink, **rules):
        """A server with other numbers than the usual ones, where bob is postmaster."""
        server = with_bob(self.server(sink.port))
        done = server.command("alias", "add", "postmaster@a.test", "bob@a.test", "--replace")
        self.assertEqual(done.returncode, 0, done.stderr)
        server.stop()
        for key, value in {"past": '"0"', **rules}.items():
            server.configure(rf"^{key} = .*$", f"{key} = {value}", "submission.hijack")
        return server.start()

    def subjects(self, server, account):
        return sorted(email.message_from_bytes(body, policy=email.policy.default)["Subject"]
                      for body in server.bodies(account).values())

    def held(self, server):
        return [row["why"] for row in self.queue(server, "--account", "ann@a.test") if row["held"]]

    def limits(self, server):
        return server.command("account", "limits", "ann@a.test").stdout

    def burst(self, server):
        """The first one is fine, the second one too much; it is for bob, too."""
        self.submit(server, [f"u{number}@there.test" for number in range(3)])
        self.submit(server, [*(f"v{number}@there.test" for number in range(3)), "bob@a.test"], "Subject: held\r\n\r\nx\r\n")
        until("the first one", lambda: len(self.queue(server)) == 1)

    def test_what_is_too_much_waits_until_the_operator_says_that_it_was_the_owner(self):
        sink = self.sink()
        server = self.watching(sink, recipients_per_hour=5)
        self.burst(server)
        why = "on hold until it is released: ann@a.test sent to 7 recipients within an hour, and to 0 at the most before: " \
              "somebody else may have sent it"
        self.assertEqual(self.held(server), [why])
        self.submit(server, ["w@there.test", "bob@a.test"], "Subject: held too\r\n\r\nx\r\n")
        self.assertEqual(self.held(server), [why, why])
        told = "Somebody else may be sending as ann@a.test"
        until("a mail to the postmaster", lambda: self.subjects(server, 1) == [told])
        self.assertIn("may be sending from it: it sent to 7 recipients", self.limits(server))
        self.assertEqual(metrics(server)['kura_submission_suspected_total{rule="burst"}'], 1)
        self.assertEqual(metrics(server)["kura_submission_held_total"], 2)
        # All of it is known after a crash, and whatever else an operator says of the queue.
        server.kill()
        server.start()
        self.assertEqual(server.command("queue", "retry", "--all").returncode, 0)
        self.assertEqual(self.held(server), [why, why])
        self.submit(server, "x@there.test")
        self.assertEqual(len(self.held(server)), 3)
        # Others send.
        self.submit_as_bob(server, "y@there.test")
        until("another's", lambda: any("y@there.test" in to for _, to, _ in sink.messages))
        self.assertEqual(len(sink.messages), 2)
        self.assertEqual(self.subjects(server, 1), [told], "told once, and nothing of what is held")
        done = server.command("queue", "release", "--account", "ann@a.test")
        self.assertIn("3 messages released; nobody else is suspected", done.stdout, done.stderr)
        self.empty(server)
        self.assertEqual(len(sink.messages), 5)
        self.assertEqual(self.subjects(server, 1), [told, "held", "held too"])
        until("a word to ann", lambda: self.subjects(server, 0) == ["Your messages were kept back, and are on their way now"])
        # As much is usual from then on.
        self.submit(server, [f"z{number}@there.test" for number in range(20)])
        self.empty(server)
        self.assertNotIn("somebody else", self.limits(server))

    def test_what_somebody_else_has_sent_is_removed_and_a_new_password_ends_it(self):
        sink = self.sink()
        server = self.watching(sink, recipients_per_hour=5)
        self.submit(server, "later@there.test", options=["HOLDFOR=3600"])
        self.submit(server, [f"u{number}@there.test" for number in range(3)])
        self.submit(server, [f"v{number}@there.test" for number in range(3)])
        until("the first one", lambda: len(self.queue(server)) == 2)
        session = smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60)
        session.login("ANN@a.test", PASSWORD)
        # What is hers stays: what she left for later before is no hijacker's.
        self.assertEqual(len(self.queue(server, "--account", "ANN@a.test")), 2)
        done = server.command("queue", "release", "--all")
        self.assertIn("0 messages released; 1 stay on hold", done.stdout, done.stderr)
        done = server.command("queue", "remove", "--suspected", "--account", "Ann@A.test")
        self.assertIn("1 message removed", done.stdout, done.stderr)
        self.assertEqual(len(self.queue(server, "--account", "ann@a.test")), 1)
        self.submit(server, "x@there.test")
        self.assertEqual(len(self.held(server)), 1, "still suspected")
        done = server.command("account", "passwd", "ann@a.test", "--password-stdin", input_text=PASSWORD + "\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("somebody else", self.limits(server))
        self.assertEqual(session.docmd("MAIL FROM:<ann@a.test>")[0], 421)
        self.assertEqual(session.sock.recv(1), b"", "whoever knew the old one is out")
        session.close()
        self.submit(server, "y@there.test")
        until("the one behind it", lambda: any("y@there.test" in to for _, to, _ in sink.messages))
        self.assertEqual(len(self.held(server)), 1, "what was held stays")

    def test_forged_names_dead_addresses_and_a_crowd_of_networks_are_noticed(self):
        sink = self.sink()
        server = self.watching(sink, authors_per_hour=2, refused_per_hour=2, networks_per_hour=2)
        trust = lambda: server.command("queue", "release", "--account", "ann@a.test")
        for number in range(3):
            self.assertEqual(self.held(server), [])
            self.submit(server, "x@there.test", f"From: bank{number}@there.test\r\nSubject: x\r\n\r\n")
        self.assertIn("named 3 addresses in From", self.held(server)[0])
        until("the others", lambda: len(self.queue(server)) == 1)
        self.assertIn("1 message released", trust().stdout)
        self.empty(server)
        # Her own names are hers, however often.
        for number in range(4):
            self.submit(server, "x@there.test", f"From: ann+{number}@a.test\r\nSubject: x\r\n\r\n")
        self.empty(server)
        sink.answer = lambda verb, line: "550 5.1.1 Nobody" if verb == "RCPT" else True
        self.submit(server, [f"dead{number}@there.test" for number in range(3)])
        self.empty(server)
        until("a suspicion", lambda: "somebody else" in self.limits(server))
        self.submit(server, "x@there.test")
        self.assertIn("were refused for good", self.held(server)[0])
        sink.answer = lambda verb, line: True
        trust()
        self.empty(server)
        for network in range(1, 6):
            with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60, source_address=(f"127.{network}.0.1", 0)) as smtp:
                smtp.login("ann@a.test", PASSWORD)
                smtp.sendmail("ann@a.test", ["bob@a.test"], "Subject: from somewhere\r\n\r\n")
        self.assertIn("sent from 4 networks", self.held(server)[0])
        self.assertEqual(len(self.held(server)), 2)

    def test_what_is_held_is_bounded_in_octets(self):
        sink = self.sink()
        server = self.watching(sink, recipients_per_hour=5)
        bounded(server, 100_000)
        self.burst(server)
        self.submit(server, "x@there.test", text_of(60_000))
        code, words = refused(self, server, text_of(60_000))
        self.assertEqual(code, 452)
        self.assertRegex(words, r"^4\.2\.2 ann@a\.test has 6\d{4} octets of mail here that is on hold or left for later, and may have 100000; try again when")
        code, words = refused(self, server, text_of(110_000))
        self.assertEqual(code, 550)
        self.assertIn("this message alone is larger", words)
        self.assertEqual(len(self.held(server)), 2)

    def test_who_is_here_gets_nothing_of_what_finds_no_room_to_be_held(self):
        sink = self.sink()
        server = self.watching(sink, authors_per_hour=1)
        bounded(server, 100_000)
        self.submit(server, "x@there.test", text_of(60_000), options=["HOLDFOR=3600"])
        self.submit(server, "y@there.test", "From: one@there.test\r\nSubject: x\r\n\r\n")
        text = b"From: two@there.test\r\n" + text_of(60_000)
        to = ["bob@a.test", "x@there.test"]
        for _ in range(2):
            with self.assertRaises(smtplib.SMTPDataError) as refused:
                self.submit(server, to, text)
            self.assertEqual(refused.exception.smtp_code, 452)
        self.assertEqual(self.held(server), [])
        self.assertNotIn("x", self.subjects(server, 1))
        told = "Somebody else may be sending as ann@a.test"
        until("a mail to the postmaster", lambda: self.subjects(server, 1) == [told])
        self.assertEqual(server.command("queue", "remove", "--all").returncode, 0)
        self.submit(server, to, text)
        until("it, held", lambda: len(self.held(server)) == 1)
        self.assertEqual(server.command("queue", "release", "--account", "ann@a.test").returncode, 0)
        self.empty(server)
        self.assertEqual(self.subjects(server, 1), [told, "x"])

    def test_the_operator_may_only_be_told(self):
        sink = self.sink()
        server = self.watching(sink, recipients_per_hour=5, action='"tell"')
        for number in range(3):
            self.submit(server, [f"u{number}{other}@there.test" for other in range(3)])
        self.empty(server)
        self.assertEqual(len(sink.messages), 3)
        until("a mail to the postmaster", lambda: len(server.bodies(1)) == 1)


class Later(test_relay.Sending):
    """Messages that their sender leaves for later (RFC 4865)."""

    def scheduled(self, server, *filters):
        """By core, whatever the order in which they came: each session is on whichever core takes it."""
        return [row["id"] for row in self.queue(server, *filters) if "is released at 20" in row["why"]]

    def test_a_message_waits_for_its_time_whatever_crashes(self):
        sink = self.sink()
        server = with_bob(self.server(sink.port))
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.ehlo()
            self.assertRegex(smtp.esmtp_features["futurerelease"], r"^1209600 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        with server.smtp() as smtp:
            smtp.ehlo()
            self.assertNotIn("futurerelease", smtp.esmtp_features)
        for to in ("gone@there.test", ["late@there.test", "bob@a.test"]):
            self.submit(server, to, options=["HOLDFOR=3600"])
        until("both", lambda: len(self.scheduled(server)) == 2)
        server.kill()
        server.start()
        (late,) = self.scheduled(server, "--domain", "a.test")
        (gone,) = set(self.scheduled(server)) - {late}
        for words in (["retry", "--all"], ["hold", "--all"], ["release", "--all"]):
            self.assertEqual(server.command("queue", *words).returncode, 0)
        self.assertEqual(set(self.scheduled(server)), {gone, late}, "a hold and its end leave them their time")
        self.assertEqual(server.command("queue", "remove", gone).returncode, 0)
        # A crash between an operator's word and the delivery does not take the word back.
        sink.answer = lambda verb, line: "451 4.3.2 Later" if verb == "RCPT" else True
        self.assertEqual(server.command("queue", "release", late).returncode, 0)
        until("it at home", lambda: len(server.bodies(1)) == 1)
        until("a try", lambda: any("late@" in line for line in sink.lines))
        server.kill()
        sink.answer = lambda verb, line: True
        server.start()
        self.empty(server)
        self.assertEqual([to for _, to, _ in sink.messages], [["late@there.test"]])
        self.assertEqual(len(server.bodies(1)), 1)

    def killed_when_it_comes(self, server, texts):
        """All of them leave for both accounts at the same moment, and the server dies when bob sees the first."""
        imap = server.imap(1)
        imap.select("INBOX")
        imap.send(b"i IDLE\r\n")
        self.assertTrue(imap.readline().startswith(b"+"))
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.login("ann@a.test", PASSWORD)
            for text in texts:
                smtp.sendmail("ann@a.test", ["both@a.test"], text, [f"HOLDUNTIL={at}"])
        while not imap.readline().endswith(b" EXISTS\r\n"):
            pass
        server.kill()
        imap.shutdown()

    def test_a_crash_between_a_delivery_and_its_record_brings_nobody_anything_twice(self):
        server = with_bob(self.server(25))
        done = server.command("alias", "add", "both@a.test", "ann@a.test", "bob@a.test")
        self.assertEqual(done.returncode, 0, done.stderr)
        large = b"Subject: large\r\n\r\n" + b"0123456789abcdef\r\n" * 30_000
        for number in range(2):
            self.killed_when_it_comes(server, [large, *(b"Subject: %d\r\n\r\nx\r\n" % (number * 10 + one) for one in range(3))])
            server.start()
            self.empty(server)
        for account in (0, 1):
            subjects = sorted(email.message_from_bytes(body)["Subject"] for body in server.bodies(account).values())
            expected = [str(number * 10 + one) for number in range(2) for one in range(3)] + ["large"] * 2
            self.assertEqual(subjects, sorted(expected))

    def test_what_is_left_for_later_is_bounded_in_octets_whatever_crashes(self):
        sink = self.sink()
        server = bounded(self.server(sink.port), 100_000)
        later = ["HOLDFOR=3600"]
        for _ in range(2):
            self.submit(server, "x@there.test", text_of(40_000), options=later)
        self.assertEqual(refused(self, server, text_of(40_000), later)[0], 452)
        server.kill()
        server.start()
        self.assertEqual(refused(self, server, text_of(40_000), later)[0], 452)
        # What leaves at once is not concerned, and what has left or is gone leaves its room.
        self.submit(server, "y@there.test", text_of(40_000))
        one, other = self.scheduled(server)
        self.assertEqual(server.command("queue", "release", one).returncode, 0)
        until("both", lambda: len(sink.messages) == 2)
        until("one left", lambda: len(self.queue(server)) == 1)
        self.submit(server, "x@there.test", text_of(40_000), options=later)
        self.assertEqual(refused(self, server, text_of(40_000), later)[0], 452)
        self.assertEqual(server.command("queue", "remove", other).returncode, 0)
        # Sessions that come at once are on all cores; there is room for one.
        results = []

        def one_more():
            try:
                results.append(self.submit(server, "x@there.test", text_of(40_000), options=later))
            except smtplib.SMTPDataError as refusal:
                results.append(refusal.smtp_code)

        threads = [threading.Thread(target=one_more) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        # Each counts what the others are about to bring, so it may be none.
        self.assertIn(results.count({}), (0, 1), results)
        self.assertEqual(results.count(452), 6 - results.count({}), results)

    def test_a_message_leaves_at_its_time_for_everybody(self):
        sink = self.sink()
        server = with_bob(self.server(sink.port, expire="2s"))
        done = server.command("alias", "add", "team@a.test", "bob@a.test", "else@there.test")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.filter(server, 'require "fileinto"; fileinto "Archive";', "bob@a.test")
        text = b"From: ann@a.test\r\nTo: team@a.test\r\nDate: Thu, 26 Nov 2026 20:00:00 +0000\r\nMessage-ID: <l@a.test>\r\n" \
               b"Subject: later\r\n\r\nfor later\r\n"
        # Longer than mail waits that could not be sent: its time counts from when it leaves.
        self.submit(server, ["team@a.test", "x@there.test"], text, options=["HOLDFOR=5"])
        self.assertEqual(len(self.queue(server)), 2)
        server.kill()
        server.start()
        time.sleep(1)
        self.assertEqual((sink.messages, server.bodies(1)), ([], {}))
        self.empty(server)
        self.assertEqual(sorted(to for _, to, _ in sink.messages), [["else@there.test"], ["x@there.test"]])
        (body,) = server.bodies(1, "Archive").values()
        self.assertTrue(body.endswith(text), body)
        self.assertEqual(server.bodies(0), {}, "nobody is told of a failure")

    def test_who_is_gone_when_it_leaves_is_told_of_and_what_is_past_leaves_at_once(self):
        sink = self.sink()
        server = with_bob(self.server(sink.port))
        self.submit(server, "bob@a.test", options=["HOLDFOR=3600"])
        self.assertEqual(server.command("account", "remove", "bob@a.test").returncode, 0)
        self.assertEqual(server.command("queue", "release", *self.scheduled(server)).returncode, 0)
        (notice,) = self.notices(server, 1)
        self.assertIn("could not be delivered", notice["Subject"])
        self.assertIn("no such user here any more", notice.get_body().get_content() if notice.get_body() else str(notice))
        self.submit(server, "x@there.test", options=["HOLDUNTIL=2026-01-01T00:00:00Z"])
        self.empty(server)
        self.assertEqual(len(sink.messages), 1)
        with self.assertRaises(smtplib.SMTPSenderRefused) as refused:
            self.submit(server, "x@there.test", options=["HOLDFOR=1209601"])
        self.assertEqual(refused.exception.smtp_code, 501)


if __name__ == "__main__":
    unittest.main()
