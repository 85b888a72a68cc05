"""Clients that we did not write send and read mail; bytes come back exactly as sent."""

import imaplib
import os
import poplib
import re
import smtplib
import subprocess
import tempfile
import unittest

import kura
import messages
from kura import careless_tls, has


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, **options)
    if done.returncode != 0:
        text = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
        raise kura.Failed(f"{' '.join(command)} ended with {done.returncode}:\n{text}")
    return done.stdout


class Exactly(kura.TestCase):
    """Every odd message, through every way out."""

    def test_each_message_comes_back_over_imap_and_pop3_as_it_was_sent(self):
        for name, message in messages.ODD.items():
            with self.subTest(name):
                reply = self.server.deliver(message)
                self.assertTrue(reply.startswith("250"), reply)
                self.assertCameBack(self.newest(), message)
                pop = self.server.pop3()
                _, lines, _ = pop.retr(pop.stat()[0])
                pop.quit()
                self.assertCameBack(b"".join(line + b"\r\n" for line in lines), message)

    def test_an_appended_message_comes_back_without_anything_added(self):
        imap = self.server.imap(1)
        for name, message in messages.ODD.items():
            with self.subTest(name):
                self.assertEqual(imap.append("INBOX", None, None, message)[0], "OK")
                self.assertEqual(self.newest(1), message)
        imap.logout()

    def test_parts_of_a_message_are_parts_of_its_bytes(self):
        message = messages.ODD["over a session's buffer"]
        self.server.deliver(message, to=1)
        imap = self.server.imap(1)
        imap.select("INBOX")
        _, (uids,) = imap.uid("SEARCH", None, "ALL")
        uid = uids.split()[-1].decode()
        _, data = imap.uid("FETCH", uid, "(BODY.PEEK[])")
        whole = data[0][1]
        for start, count in [(0, 10), (100_000, 70_000), (len(whole) - 5, 100), (len(whole), 5)]:
            _, data = imap.uid("FETCH", uid, f"(BODY.PEEK[]<{start}.{count}>)")
            part = data[0][1] if isinstance(data[0], tuple) else b""
            self.assertEqual(part, whole[start : start + count], (start, count))
        _, data = imap.uid("FETCH", uid, "(RFC822.SIZE)")
        self.assertIn(f"RFC822.SIZE {len(whole)}".encode(), data[0])
        imap.logout()


@has("curl")
class Curl(kura.TestCase):
    def setUp(self):
        self.message = messages.header(self.id()) + b"Sent by curl.\r\n.with a dot\r\n"
        file = tempfile.NamedTemporaryFile(suffix=".eml")
        self.addCleanup(file.close)
        file.write(self.message)
        file.flush()
        self.file = file.name

    def send(self, scheme, service, *more):
        run(
            "curl", "-sSk", f"{scheme}://127.0.0.1:{self.server.ports[service]}/client.example.net",
            "--mail-from", self.server.accounts[1][0], "--mail-rcpt", self.server.accounts[0][0],
            "-T", self.file, *more,
        )
        self.assertCameBack(self.newest(), self.message)

    def user(self, account=0):
        return "-u", ":".join(self.server.accounts[account])

    def test_smtp(self):
        self.send("smtp", "smtp")

    def test_smtp_with_starttls(self):
        self.send("smtp", "smtp", "--ssl-reqd")

    def test_submission_with_starttls_and_login(self):
        self.send("smtp", "submission", "--ssl-reqd", *self.user(1))

    def test_submission_with_each_mechanism(self):
        for mechanism in ["PLAIN", "LOGIN", "SCRAM-SHA-256"]:
            with self.subTest(mechanism):
                try:
                    self.send("smtp", "submission", "--ssl-reqd", *self.user(1),
                              "--login-options", f"AUTH={mechanism}")
                except kura.Failed as failed:
                    # Only curl built with GSASL knows SCRAM; its error is then about the client.
                    if mechanism.startswith("SCRAM") and "GSASL" not in self.features():
                        self.skipTest("this curl has no SCRAM")
                    raise failed

    def features(self):
        return run("curl", "--version").decode().upper()

    def test_submissions_over_implicit_tls(self):
        self.send("smtps", "submissions", *self.user(1))

    def test_imap_fetch_over_clear_and_tls(self):
        self.server.deliver(self.message)
        uid = max(self.server.bodies())
        for scheme, service in [("imap", "imap"), ("imaps", "imaps")]:
            with self.subTest(scheme):
                url = f"{scheme}://127.0.0.1:{self.server.ports[service]}/INBOX;UID={uid}"
                self.assertCameBack(run("curl", "-sSk", url, *self.user()), self.message)

    def test_imap_search_list_and_append(self):
        base = f"imaps://127.0.0.1:{self.server.ports['imaps']}"
        run("curl", "-sSk", f"{base}/INBOX", "-T", self.file, *self.user())
        self.assertEqual(self.newest(), self.message)
        found = run("curl", "-sSk", f"{base}/INBOX?SUBJECT%20{self.id()}", *self.user())
        self.assertRegex(found, rb"\* SEARCH( \d+)+")
        self.assertIn(b"INBOX", run("curl", "-sSk", base + "/", *self.user()))

    def test_pop3_over_clear_and_tls(self):
        self.server.deliver(self.message)
        for scheme, service in [("pop3", "pop3"), ("pop3s", "pop3s")]:
            with self.subTest(scheme):
                base = f"{scheme}://127.0.0.1:{self.server.ports[service]}"
                listed = run("curl", "-sSk", base + "/", *self.user()).split(b"\r\n")
                number = max(int(line.split()[0]) for line in listed if line)
                got = run("curl", "-sSk", f"{base}/{number}", *self.user())
                self.assertCameBack(got, self.message)


@has("swaks")
class Swaks(kura.TestCase):
    def send(self, service, *more):
        token = self.id() + "-" + "-".join(more[:1])
        address, password = self.server.accounts[1]
        run(
            "swaks", "--server", "127.0.0.1", "--port", str(self.server.ports[service]),
            "--from", address, "--to", self.server.accounts[0][0], "--header", f"Subject: {token}",
            "--body", "Sent by swaks.", *more, *(["--auth-user", address, "--auth-password", password]
            if "--auth" in more else []),
        )
        self.assertIn(f"Subject: {token}\r\n".encode(), self.newest())

    def test_smtp(self):
        self.send("smtp")

    def test_smtp_with_starttls(self):
        self.send("smtp", "--tls")

    def test_submission_with_starttls_and_each_mechanism(self):
        for mechanism in ["PLAIN", "LOGIN"]:
            with self.subTest(mechanism):
                self.send("submission", "--tls", "--auth", mechanism)

    def test_submissions_over_implicit_tls(self):
        self.send("submissions", "--tls-on-connect", "--auth", "PLAIN")

    def test_lmtp(self):
        self.send("lmtp", "--protocol", "LMTP")

    def test_a_wrong_password_is_refused(self):
        address, _ = self.server.accounts[1]
        with self.assertRaisesRegex(kura.Failed, "535"):
            run("swaks", "--server", "127.0.0.1", "--port", str(self.server.ports["submission"]),
                "--tls", "--auth", "PLAIN", "--auth-user", address, "--auth-password", "wrong",
                "--from", address, "--to", address)


class Smtplib(kura.TestCase):
    def check(self, session, message, login=None):
        with session:
            if login:
                session.login(*login)
            refused = session.sendmail(self.server.accounts[1][0], [self.server.accounts[0][0]], message)
            self.assertEqual(refused, {})
        self.assertCameBack(self.newest(), message)

    def test_clear_and_starttls(self):
        message = messages.header(self.id()) + b"one\r\n.two\r\n"
        self.check(self.server.smtp(), message)
        session = self.server.smtp()
        session.starttls(context=careless_tls())
        self.check(session, message)

    def test_submission_over_both_kinds_of_tls(self):
        message = messages.header(self.id()) + b"text\r\n"
        session = smtplib.SMTP("127.0.0.1", self.server.ports["submission"], timeout=60)
        session.starttls(context=careless_tls())
        self.check(session, message, self.server.accounts[1])
        session = smtplib.SMTP_SSL(
            "127.0.0.1", self.server.ports["submissions"], context=careless_tls(), timeout=60
        )
        self.check(session, message, self.server.accounts[1])

    def test_submission_without_login_is_refused(self):
        with smtplib.SMTP("127.0.0.1", self.server.ports["submission"], timeout=60) as session:
            session.starttls(context=careless_tls())
            session.ehlo()
            self.assertEqual(session.mail(self.server.accounts[1][0])[0] // 100, 5)

    def test_who_is_over_quota_spoils_no_mail_of_others(self):
        tiny, _ = self.server.add_account("tiny@example.test")
        self.assertEqual(self.server.command("account", "quota", tiny, "--quota", "100K").returncode, 0)
        # Accounts go where the fewest are: some share a shard with the full one,
        # whatever their number.
        others = [self.server.add_account(f"roomy{number}@example.test")[0] for number in range(4)]
        for octets in [150_000, 600_000]:
            with kura.Wire(self.server.ports["lmtp"]) as wire:
                wire.expect("220")
                wire.ask("LHLO client.example.net", "250")
                wire.ask("MAIL FROM:<sender@example.net>", "250")
                for address in [tiny, *others]:
                    wire.ask(f"RCPT TO:<{address}>", "250")
                wire.ask("DATA", "354")
                wire.send(b"Subject: much\r\n\r\n" + b"0123456789\r\n" * (octets // 12) + b".\r\n")
                replies = [wire.reply()[:3] for _ in range(5)]
            self.assertEqual(replies, ["452", "250", "250", "250", "250"], octets)

    def test_lmtp_answers_for_each_recipient(self):
        message = messages.header(self.id()) + b"text\r\n"
        with smtplib.LMTP("127.0.0.1", self.server.ports["lmtp"], timeout=60) as session:
            session.ehlo("client.example.net")
            session.mail("sender@example.net")
            for to, code in [(self.server.accounts[0][0], 250), ("nobody@example.test", 550),
                             (self.server.accounts[1][0], 250)]:
                self.assertEqual(session.rcpt(to)[0], code)
            self.assertEqual(session.data(message)[0], 250)
            # smtplib reads one reply; LMTP has one for each recipient that was accepted.
            self.assertEqual(session.getreply()[0], 250)
        for account in (0, 1):
            self.assertCameBack(self.newest(account), message)

    def test_the_extensions_are_offered(self):
        with self.server.smtp() as session:
            session.ehlo("client.example.net")
            for extension in ["pipelining", "size", "8bitmime", "smtputf8", "enhancedstatuscodes",
                              "chunking", "starttls", "dsn"]:
                self.assertTrue(session.has_extn(extension), extension)

    def test_chunking(self):
        message = messages.header(self.id()) + b"bdat needs no dots\r\n.\r\n..\r\n"
        with self.server.smtp() as session:
            session.ehlo("client.example.net")
            session.mail("sender@example.net")
            session.rcpt(self.server.accounts[0][0])
            first, last = message[:40], message[40:]
            session.send(b"BDAT %d\r\n" % len(first) + first)
            self.assertEqual(session.getreply()[0], 250)
            session.send(b"BDAT %d LAST\r\n" % len(last) + last)
            self.assertEqual(session.getreply()[0], 250)
        self.assertCameBack(self.newest(), message)

    def test_an_unknown_recipient_and_a_foreign_domain_are_refused(self):
        with self.server.smtp() as session:
            session.ehlo("client.example.net")
            session.mail("sender@example.net")
            self.assertEqual(session.rcpt("nobody@example.test")[0], 550)
            self.assertEqual(session.rcpt("someone@elsewhere.example")[0] // 100, 5)
            self.assertEqual(session.rcpt(self.server.accounts[0][0])[0], 250)

    def test_a_subaddress_reaches_its_account(self):
        message = messages.header(self.id()) + b"text\r\n"
        user, _, domain = self.server.accounts[0][0].partition("@")
        reply = self.server.deliver(message, to=f"{user}+detail@{domain}")
        self.assertTrue(reply.startswith("250"), reply)
        self.assertCameBack(self.newest(), message)

    def test_a_loop_is_cut(self):
        hops = b"".join(b"Received: from a by b%d; Tue, 24 Nov 2026 23:55:00 +0000\r\n" % n
                        for n in range(200))
        reply = self.server.deliver(hops + messages.header(self.id()) + b"text\r\n")
        self.assertEqual(reply[0], "5", reply)


class Imaplib(kura.TestCase):
    def setUp(self):
        self.imap = self.server.imap()
        self.addCleanup(lambda: self.imap.logout())  # whichever it is by then
        # A mailbox of its own for each test.
        self.box = self.id().rpartition(".")[2]
        self.assertEqual(self.imap.create(self.box)[0], "OK")
        for number in range(3):
            message = messages.header(f"message {number}") + b"text\r\n"
            self.assertEqual(self.imap.append(self.box, None, None, message)[0], "OK")
        self.assertEqual(self.imap.select(self.box), ("OK", [b"3"]))

    def uids(self, what="ALL"):
        _, (uids,) = self.imap.uid("SEARCH", None, what)
        return [int(uid) for uid in uids.split()]

    def test_flags(self):
        self.imap.uid("STORE", "2", "+FLAGS", r"(\Seen $Forwarded)")
        self.assertEqual(self.uids("SEEN"), [2])
        self.assertEqual(self.uids("KEYWORD $Forwarded"), [2])
        self.imap.uid("STORE", "1:3", "FLAGS", r"(\Flagged)")
        self.assertEqual(self.uids("UNSEEN FLAGGED"), [1, 2, 3])
        self.imap.uid("STORE", "1", "-FLAGS", r"(\Flagged)")
        self.assertEqual(self.uids("FLAGGED"), [2, 3])

    def test_flags_and_messages_survive_a_kill(self):
        self.imap.uid("STORE", "2", "+FLAGS", r"(\Answered custom)")
        self.server.kill()
        self.server.start()
        self.imap = self.server.imap()
        self.assertEqual(self.imap.select(self.box), ("OK", [b"3"]))
        self.assertEqual(self.uids("ANSWERED KEYWORD custom"), [2])

    def test_copy_move_and_expunge(self):
        other = self.box + "/other"
        self.imap.create(other)
        self.assertEqual(self.imap.uid("COPY", "1:2", other)[0], "OK")
        self.assertEqual(self.imap.uid("MOVE", "3", other)[0], "OK")
        self.assertEqual(self.uids(), [1, 2])
        self.imap.uid("STORE", "1", "+FLAGS", r"(\Deleted)")
        self.imap.expunge()
        self.assertEqual(self.uids(), [2])
        self.assertEqual(len(self.server.bodies(0, other)), 3)

    def test_uid_expunge_leaves_other_deleted_messages(self):
        self.imap.uid("STORE", "1:2", "+FLAGS", r"(\Deleted)")
        self.imap.uid("EXPUNGE", "2")
        self.assertEqual(self.uids(), [1, 3])

    def test_a_uid_is_never_reused(self):
        self.imap.uid("STORE", "1:3", "+FLAGS", r"(\Deleted)")
        self.imap.expunge()
        self.imap.append(self.box, None, None, messages.header("new") + b"text\r\n")
        self.assertEqual(self.uids(), [4])

    def test_rename_and_delete(self):
        self.imap.close()
        self.assertEqual(self.imap.rename(self.box, self.box + "2")[0], "OK")
        self.assertEqual(self.imap.select(self.box)[0], "NO")
        self.assertEqual(self.imap.select(self.box + "2"), ("OK", [b"3"]))
        self.imap.close()
        self.assertEqual(self.imap.delete(self.box + "2")[0], "OK")
        self.assertEqual(self.imap.select(self.box + "2")[0], "NO")

    def test_search(self):
        self.assertEqual(self.uids('SUBJECT "message 1"'), [2])
        self.assertEqual(self.uids("NOT SUBJECT 1 LARGER 10"), [1, 3])
        self.assertEqual(self.uids("OR UID 1 TEXT nothing"), [1])
        self.assertEqual(self.uids("SENTSINCE 24-Nov-2026"), [1, 2, 3])
        self.assertEqual(self.uids('FROM "sender@example.net" BODY text'), [1, 2, 3])

    def test_envelope_and_structure(self):
        _, data = self.imap.uid("FETCH", "1", "(ENVELOPE BODYSTRUCTURE INTERNALDATE)")
        answer = data[0] if isinstance(data[0], bytes) else b"".join(data[0])
        self.assertIn(b'"message 0"', answer)
        self.assertIn(b'"sender" "example.net"', answer)
        self.assertIn(b'("TEXT" "PLAIN"', answer.upper())

    def test_status(self):
        _, (answer,) = self.imap.status(self.box, "(MESSAGES UIDNEXT UNSEEN SIZE)")
        for part in [b"MESSAGES 3", b"UIDNEXT 4", b"UNSEEN 3", b"SIZE "]:
            self.assertIn(part, answer)

    def test_idle_tells_of_new_mail(self):
        with kura.Wire(self.server.ports["imap"]) as wire:
            wire.line()
            address, password = self.server.accounts[0]
            wire.send(f'a LOGIN "{address}" "{password}"\r\nb SELECT "{self.box}"\r\n'.encode())
            wire.tagged("b")
            wire.send(b"c IDLE\r\n")
            self.assertTrue(wire.line().startswith(b"+"))
            self.imap.append(self.box, None, None, messages.header("new") + b"text\r\n")
            told = b""
            while b"EXISTS" not in told:
                told = wire.line()
                self.assertTrue(told, "the server closed")
            self.assertTrue(told.startswith(b"* 4 EXISTS"), told)
            wire.send(b"DONE\r\n")
            self.assertIn("c OK", wire.tagged("c"))

    def test_over_tls(self):
        port = self.server.ports["imaps"]
        imap = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=careless_tls(), timeout=60)
        imap.login(*self.server.accounts[0])
        self.assertEqual(imap.select(self.box), ("OK", [b"3"]))
        imap.logout()
        imap = imaplib.IMAP4("127.0.0.1", self.server.ports["imap"], timeout=60)
        imap.starttls(careless_tls())
        imap.login(*self.server.accounts[0])
        self.assertEqual(imap.select(self.box), ("OK", [b"3"]))
        imap.logout()

    def test_a_wrong_password_is_refused(self):
        imap = imaplib.IMAP4("127.0.0.1", self.server.ports["imap"], timeout=60)
        with self.assertRaises(imaplib.IMAP4.error):
            imap.login(self.server.accounts[0][0], "wrong")
        imap.logout()


class Poplib(kura.TestCase):
    def setUp(self):
        self.address, _ = self.server.add_account(f"{self.id().rpartition('.')[2]}@example.test")
        self.account = len(self.server.accounts) - 1
        self.sent = [messages.header(f"m{n}") + b".dot\r\nsecond\r\nthird\r\n" for n in range(3)]
        for message in self.sent:
            self.server.deliver(message, to=self.account)

    def test_list_top_and_uidl(self):
        pop = self.server.pop3(self.account)
        count, total = pop.stat()
        self.assertEqual(count, 3)
        sizes = [int(line.split()[1]) for line in pop.list()[1]]
        self.assertEqual(sum(sizes), total)
        for number, sent in enumerate(self.sent, 1):
            _, lines, _ = pop.retr(number)
            got = b"".join(line + b"\r\n" for line in lines)
            self.assertCameBack(got, sent)
            self.assertEqual(len(got), sizes[number - 1])
        _, top, _ = pop.top(1, 1)
        self.assertEqual(top[-2:], [b"", b".dot"])
        uidl = pop.uidl()[1]
        self.assertEqual(len({line.split()[1] for line in uidl}), 3)
        pop.quit()
        again = self.server.pop3(self.account)
        self.assertEqual(again.uidl()[1], uidl)
        again.quit()

    def test_deletion_counts_after_quit_only(self):
        pop = self.server.pop3(self.account)
        pop.dele(2)
        pop.rset()
        pop.dele(1)
        pop.close()  # no QUIT: nothing is deleted (RFC 1939 section 6)

        def free():
            try:
                again = self.server.pop3(self.account)
            except poplib.error_proto:
                return False
            self.assertEqual(again.stat()[0], 3)
            again.dele(1)
            again.quit()
            return True

        self.assertTrue(kura.eventually(free), "the maildrop stays locked")
        pop = self.server.pop3(self.account)
        self.assertEqual(pop.stat()[0], 2)
        pop.quit()

    def test_over_tls(self):
        address, password = self.server.accounts[self.account]
        for implicit in (True, False):
            if implicit:
                port = self.server.ports["pop3s"]
                pop = poplib.POP3_SSL("127.0.0.1", port, context=careless_tls(), timeout=60)
            else:
                pop = poplib.POP3("127.0.0.1", self.server.ports["pop3"], timeout=60)
                pop.stls(careless_tls())
            pop.user(address)
            pop.pass_(password)
            self.assertEqual(pop.stat()[0], 3)
            pop.quit()


@has("mbsync")
class Mbsync(kura.TestCase):
    """Both ways: what happens on one side shows on the other."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.mail = directory.name
        address, password = self.server.add_account(f"{self.id().rpartition('.')[2]}@example.test")
        self.account = len(self.server.accounts) - 1
        self.config = os.path.join(self.mail, "mbsyncrc")
        with open(self.config, "w") as file:
            file.write(f"""
IMAPStore far
Host 127.0.0.1
Port {self.server.ports["imap"]}
User {address}
Pass "{password}"
SSLType None
AuthMechs LOGIN

MaildirStore near
Path {self.mail}/
Inbox {self.mail}/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Remove Both
Expunge Both
SyncState *
""")

    def sync(self):
        run("mbsync", "-c", self.config, "-a", env=dict(os.environ, HOME=self.mail))

    def near(self, mailbox="INBOX"):
        """Files of a Maildir folder, by name."""
        found = {}
        for part in ("cur", "new"):
            folder = os.path.join(self.mail, mailbox, part)
            for name in os.listdir(folder) if os.path.isdir(folder) else []:
                with open(os.path.join(folder, name), "rb") as file:
                    found[os.path.join(folder, name)] = file.read()
        return found

    def put(self, mailbox, name, message):
        for part in ("cur", "new", "tmp"):
            os.makedirs(os.path.join(self.mail, mailbox, part), exist_ok=True)
        with open(os.path.join(self.mail, mailbox, "cur", name), "wb") as file:
            file.write(message.replace(b"\r\n", b"\n"))

    def test_pull_push_flags_and_deletions(self):
        odd = [m for name, m in messages.ODD.items() if name not in ("no header", "no body", "first line is a dot")]
        for message in odd:
            self.server.deliver(message, to=self.account)
        self.sync()
        # Pulled, whole: a Maildir has Unix line ends.
        far = [b.replace(b"\r\n", b"\n") for b in self.server.bodies(self.account).values()]
        self.assertEqual(len(far), len(odd))
        # mbsync marks its copies, to find them again.
        near = [re.sub(rb"^X-TUID: .*\n", b"", b, flags=re.M) for b in self.near().values()]
        self.assertSameMessages(near, far)

        # Pushed, into INBOX and into a new folder.
        self.put("INBOX", "1.new:2,", messages.header("pushed") + b"text\r\n")
        self.put("Work", "1.work:2,S", messages.header("work") + b"text\r\n")
        self.sync()
        pushed = [b for b in self.server.bodies(self.account).values() if b"Subject: pushed" in b]
        self.assertEqual(len(pushed), 1)
        self.assertIn(b"\r\n\r\ntext\r\n", pushed[0])
        self.assertEqual(len(self.server.bodies(self.account, "Work")), 1)
        imap = self.server.imap(self.account)
        imap.select("Work")
        self.assertEqual(imap.uid("SEARCH", None, "SEEN"), ("OK", [b"1"]))

        # Flags, both ways.
        imap.select("INBOX")
        imap.uid("STORE", "1", "+FLAGS", r"(\Flagged)")
        imap.close()
        local = next(name for name, text in self.near().items() if b"Subject: dots\n" in text)
        folder, _, base = local.rpartition("/")
        os.rename(local, os.path.join(os.path.dirname(folder), "cur", base.partition(":")[0] + ":2,RS"))
        self.sync()
        flagged = [name for name in self.near() if "F" in name.rpartition(":2,")[2]]
        self.assertEqual(len(flagged), 1)
        imap.select("INBOX")
        _, (answered,) = imap.uid("SEARCH", None, "ANSWERED", "SEEN", "SUBJECT", "dots")
        self.assertEqual(len(answered.split()), 1)

        # Deletions, both ways.
        before = len(self.near())
        imap.uid("STORE", "1", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.close()
        os.unlink(next(name for name, text in self.near().items() if b"Subject: pushed" in text))
        self.sync()
        self.assertEqual(len(self.near()), before - 2)
        self.assertEqual(len(self.server.bodies(self.account)), before - 2)
        self.assertFalse(any(b"Subject: pushed" in b for b in self.server.bodies(self.account).values()))
        imap.logout()

    def test_a_second_sync_changes_nothing(self):
        for number in range(20):
            self.server.deliver(messages.header(f"{number}") + b"text\r\n", to=self.account)
        self.sync()
        before = self.near()
        self.sync()
        self.assertEqual(sorted(self.near()), sorted(before))
        self.assertEqual(len(before), 20)


if __name__ == "__main__":
    unittest.main()
