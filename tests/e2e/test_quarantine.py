"""Mail that is kept back: seen by nobody, told by a digest, released and deleted by links and by the operator."""

import calendar
import email
import email.policy
import glob
import http.client
import imaplib
import json
import os
import re
import smtplib
import subprocess
import tempfile
import time
import unittest
from unittest import mock

import kura
import messages
import names
import scanners
import test_auth
import test_scan
import test_spam
from test_spam import BLATANT


def spam(number, text=b""):
    """What rules see, each one another, with much that a careless program would show as it is."""
    mark = f"X-Mark: {number}\r\nSubject: CONGRATULATIONS <b>{number}</b> =?utf-8?q?=1b[2J?= YOU WON $5,000,000 !!\r\n".encode()
    return BLATANT.replace(b"Subject: CONGRATULATIONS YOU WON $5,000,000 !!\r\n", mark) + text


class Quarantine(kura.TestCase):
    """Every class has a server of its own; `settings` says what it is told."""

    settings = []

    def assertNothingLeaves(self, code):
        """Mail for other hosts, alone and beside a recipient here, is answered so, and kept back from nobody."""
        user, password = self.server.accounts[0]
        for recipients in (["x@elsewhere.test"], ["x@elsewhere.test", self.bob]):
            with smtplib.SMTP("127.0.0.1", self.server.ports["submission"], timeout=60) as smtp:
                smtp.starttls(context=kura.careless_tls())
                smtp.login(user, password)
                with self.assertRaises(smtplib.SMTPDataError) as refused:
                    smtp.sendmail(user, recipients, messages.header("leaves", From=user) + b"Hello.\r\n")
                self.assertEqual(refused.exception.smtp_code, code)
        self.assertEqual(self.ids(), [])
        self.assertEqual(json.loads(self.done("queue", "list", "--json"))["messages"], [])

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.port = names.free_port()
        cls.configure_strangers()
        cls.server.configure(r"^quarantine_at = .*$", "quarantine_at = 5.0")
        cls.server.configure(r"^listen = .*$", f'listen = ["127.0.0.1:{cls.port}"]', section="web")
        for old, new, section in cls.settings:
            cls.server.configure(old, new, section)
        cls.server.start()
        cls.alice, cls.bob = (address for address, _ in cls.server.accounts[:2])

    @classmethod
    def configure_strangers(cls):
        """Loopback is a stranger like any other; nobody is asked who has sent a message."""
        cls.server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        cls.server.configure(r"^verify = .*$", "verify = false")

    def setUp(self):
        self.quarantine("delete", "--all")

    def deliver(self, message, to=0):
        reply = self.server.deliver(message, to)
        self.assertTrue(reply.startswith("250"), reply)
        return message

    def done(self, *arguments, code=0):
        done = self.server.command(*arguments)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout if code in (0, 3) else done.stderr

    def quarantine(self, *arguments, code=0):
        return self.done("quarantine", *arguments, code=code)

    def kept(self, *filters):
        return json.loads(self.quarantine("list", "--json", *filters))["messages"]

    def ids(self, *filters):
        return [row["id"] for row in self.kept(*filters)]

    def reason(self, identity):
        return next(row["reason"] for row in self.kept() if row["id"] == identity)

    def digests(self, account=0):
        """What there is of them in INBOX, in the order in which they came."""
        found = sorted(self.server.bodies(account).items())
        return [email.message_from_bytes(text, policy=email.policy.default) for _, text in found
                if b"\r\nList-Id: Quarantine digest" in text]

    def links(self, digest):
        """[(release or None, delete)], in the order of the messages."""
        text = digest.get_body(("plain",)).get_content()
        items = re.split(r"^From: ", text, flags=re.M)[1:]
        link = lambda name, item: (re.findall(rf"^{name}: (\S+)", item, re.M) or [None])[0]
        return [(link("Release", item), link("Delete", item)) for item in items]

    def told(self, address=None):
        self.quarantine("digest", "--account", address or self.alice)
        return self.digests()[-1]

    def ask(self, method, link):
        """Status, headers and text, over HTTPS as a browser asks."""
        at = re.fullmatch(r"https://([^/:]+):(\d+)(/\S+)", link)
        self.assertEqual(int(at.group(2)), self.port, link)
        web = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=kura.careless_tls())
        try:
            web.request(method, at.group(3), headers={"Host": at.group(1)})
            answer = web.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            web.close()

    def page(self, method, link, status):
        found, headers, text = self.ask(method, link)
        self.assertEqual(found, status, text)
        self.assertEqual(headers["Content-Security-Policy"],
                         "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
        self.assertEqual((headers["Cache-Control"], headers["Referrer-Policy"]), ("no-store", "no-referrer"))
        self.assertNotIn("<script", text)
        return text

    def check(self):
        return subprocess.run([kura.BINARY, "check-config", "--config", f"{self.server.directory}/kura.toml"],
                              capture_output=True, text=True, check=False, timeout=60)

    def usage(self, address):
        return next(row for row in json.loads(self.done("account", "list", "--json")) if row["address"] == address)

    def restart(self, kill=False):
        self.server.kill() if kill else self.server.stop()
        self.server.start()


class Links(Quarantine):
    settings = [(r"^learn = .*$", 'learn = "everybody"', None)]

    train = test_spam.Learning.train
    margin = test_spam.Learning.margin

    def test_a_link_lets_a_message_out_byte_for_byte_and_what_it_is_like_is_learned(self):
        self.train(range(25))
        large = self.deliver(spam("large", messages.lines(700 << 10)))
        sent = self.deliver(spam("first"))
        self.deliver(spam("second"))
        before = self.margin(sent)
        digest = self.told()
        self.assertEqual((digest["Auto-Submitted"], digest["Subject"]), ("auto-generated", "3 messages were kept back from you"))
        self.assertEqual(digest.get_content_type(), "multipart/alternative")
        plain, html = (digest.get_body((kind,)).get_content() for kind in ("plain", "html"))
        self.assertIn("service@bank.test <x83920@free.test>", plain)
        self.assertIn("CONGRATULATIONS <b>first</b> \\u{1b}[2J", plain)
        self.assertIn("CONGRATULATIONS &lt;b&gt;first&lt;/b&gt; \\u{1b}[2J", html)
        self.assertRegex(plain, r"looks like spam, score \d+\.\d;")
        self.assertNotIn("\x1b", plain + html)
        self.assertNotIn("203.0.113.9", plain + html)

        (release_large, _), (release, delete), _ = self.links(digest)
        self.assertEqual([set(re.findall(r'href="([^"]+)"', html))], [set(sum(self.links(digest), ()))])
        # Programs that look at each link of a mail change nothing.
        for link in sum(self.links(digest), ()):
            self.page("GET", link, 200)
            self.page("HEAD", link, 200)
        text = self.page("GET", release, 200)
        self.assertIn('<form method="post"><button type="submit">Release</button></form>', text)
        self.assertIn("&lt;b&gt;first&lt;/b&gt;", text)
        self.assertEqual(len(self.ids()), 3)
        stamps = {row["id"]: row["since"] for row in self.kept()}

        self.assertIn("Released", self.page("POST", release, 200))
        imap = self.server.imap()
        imap.select("INBOX")
        (uid,) = imap.uid("SEARCH", "HEADER", "X-Mark", "first")[1][0].split()
        flags = imap.uid("FETCH", uid, "(FLAGS INTERNALDATE)")[1][0]
        self.assertNotIn(b"\\Seen", flags)
        arrived = time.mktime(imaplib.Internaldate2tuple(flags))
        since = calendar.timegm(time.strptime(stamps[f"{self.alice}:2"], "%Y-%m-%dT%H:%M:%SZ"))
        self.assertAlmostEqual(arrived, since, delta=2)
        imap.logout()
        bodies = self.server.bodies()
        self.assertCameBack(bodies[int(uid)], sent)
        self.assertIn("Released", self.page("POST", release_large, 200))
        self.assertCameBack(self.newest(), large)

        # Used: by this link and by the other, whoever presses first.
        for link in (release, delete, release_large):
            self.assertIn("not in quarantine any more", self.page("GET", link, 410))
            self.assertIn("not in quarantine any more", self.page("POST", link, 410))
        # The classifier, and the account's word about the sender, which goes before the score.
        after = self.margin(sent)
        self.assertLess(after, before)
        again = self.deliver(spam("again"))
        self.assertCameBack(self.newest(), again)
        self.assertIn(b"X-Spam-Sender: wanted\r\n", self.newest())
        self.deliver(spam("bob's"), 1)
        self.assertEqual(len(self.ids("--account", self.bob)), 1)

        # What trace says.
        states = {row["subject"].split("<b>")[1].split("<")[0]: row.get("quarantine")
                  for row in json.loads(self.done("trace", self.alice, "--json"))["messages"] if "<b>" in row.get("subject", "")}
        self.assertEqual((states["first"], states["second"], states["again"]), ("released", "quarantined", None))
        self.assertIn("quarantine: released (spam, since ", self.done("trace", self.alice))

    def test_links_that_are_forged_or_of_others_are_answered_alike(self):
        self.deliver(spam("forged"), 1)
        self.quarantine("digest", "--account", self.bob)
        ((release, delete),) = self.links(self.digests(1)[-1])
        base, token = release.rsplit("/", 1)
        forged = [token[:9] + ("A" if token[9] != "A" else "B") + token[10:], token[:-3], "x", "%00", token + "AAAA", "A" * 200]
        pages = {self.page(method, f"{base}/{one}", 404) for one in forged for method in ("GET", "POST")}
        self.assertEqual(len(pages), 1)
        self.assertIn("not valid", pages.pop())
        self.assertEqual(self.ask("PUT", release)[0], 405)
        self.assertEqual(len(self.ids("--account", self.bob)), 1)
        # Who guesses is told to wait, in the middle of it even if a minute ends there; who has a
        # link comes through.
        for number in range(61):
            status = self.ask("GET", f"{base}/guess{number}")[0]
            if status == 429:
                break
            self.assertEqual(status, 404)
        self.assertEqual(status, 429)
        self.page("GET", release, 200)
        self.assertIn("Deleted", self.page("POST", delete, 200))
        self.assertEqual(self.ids("--account", self.bob), [])


class Life(Quarantine):
    # All of the mail is from one sender.
    settings = [(r"^learn = .*$", 'learn = "nobody"', None)]

    def test_what_is_told_released_and_deleted_stays_so_whenever_the_process_dies(self):
        for number in range(3):
            self.deliver(spam(f"life {number}"))
        self.server.kill()
        self.server.start()
        ids = self.ids()
        self.assertEqual(len(ids), 3)
        before = len(self.digests())
        digest = self.told()
        self.restart(kill=True)
        # Told, and once.
        self.assertIn("nothing", self.quarantine("digest", "--account", self.alice))
        self.assertEqual(len(self.digests()), before + 1)
        (release, _), (_, delete), _ = self.links(digest)
        self.page("POST", release, 200)
        self.restart(kill=True)
        # The key that signs is the same.
        self.page("POST", release, 410)
        self.page("POST", delete, 200)
        self.restart(kill=True)
        self.page("POST", delete, 410)
        self.assertEqual(self.ids(), ids[2:])
        self.assertEqual(sum(b"X-Mark: life 0" in text for text in self.server.bodies().values()), 1)
        # New mail alone is in the next one.
        self.deliver(spam("later"))
        self.assertEqual(len(self.links(self.told())), 1)
        # A deletion is no more final than others.
        self.assertIn("*quarantine*", self.done("store", "undelete", "--account", self.alice, "--since", "1h"))
        self.done("store", "undelete", "--account", self.alice, "--since", "1h", "--mailbox", "*quarantine*", "--apply")
        (back,) = (row["id"] for row in self.kept() if "<b>life 1</b>" in row["subject"])
        uid = lambda identity: int(identity.rsplit(":", 1)[1])
        self.assertGreater(uid(back), max(map(uid, ids)), "a link of before does not fit it")
        self.page("POST", delete, 410)
        self.done("store", "verify")
        self.quarantine("delete", "--all")

        # Links end with the time for which mail is kept: this one before it was sent, to
        # a store at rest.
        self.deliver(spam("expired"))
        self.server.stop()
        self.server.configure(r"^keep = .*$", 'keep = "1s"', "quarantine")
        self.assertIn("told of 1 message", self.quarantine("digest", "--account", self.alice))
        self.server.configure(r"^keep = .*$", 'keep = "30d"', "quarantine")
        time.sleep(1.2)
        self.server.start()
        ((release, delete),) = self.links(self.digests()[-1])
        for link in (release, delete):
            self.assertIn("has expired", self.page("GET", link, 410))
            self.assertIn("has expired", self.page("POST", link, 410))
        self.assertEqual(len(self.ids()), 1)
        # And so does the mail.
        self.server.stop()
        self.server.configure(r"^keep = .*$", 'keep = "1s"', "quarantine")
        self.server.start()
        self.assertTrue(kura.eventually(lambda: self.ids() == []))
        self.server.stop()
        self.server.configure(r"^keep = .*$", 'keep = "30d"', "quarantine")
        self.server.start()

    def test_accounts_are_told_daily_at_the_hour_of_the_host_and_once(self):
        self.server.stop()
        before = len(self.digests_offline())
        # Long past the hour: it waits for the next one.
        with mock.patch.dict(os.environ, TZ=self.zone(12 * 3600)):
            self.server.start()
            self.deliver(spam("daily"))
            self.assertEqual(len(self.digests()), before)
            self.server.stop()
        # Which strikes while the server runs, or while it starts if that takes long.
        with mock.patch.dict(os.environ, TZ=self.zone(7 * 3600 - 3)):
            self.server.start()
            self.assertTrue(kura.eventually(lambda: len(self.digests()) > before, 15))
            self.assertEqual(len(self.links(self.digests()[-1])), 1)
            # What comes behind the hour waits for the next one, also when the server
            # is started anew.
            self.deliver(spam("tomorrow"))
            self.restart(kill=True)
            time.sleep(2.5)
            self.assertEqual(len(self.digests()), before + 1)
        # A server that was down at the hour tells when it is up.
        self.server.stop()
        with mock.patch.dict(os.environ, TZ=self.zone(7 * 3600)):
            self.server.start()
            self.assertTrue(kura.eventually(lambda: len(self.digests()) == before + 2))
        self.restart()

    def zone(self, seconds):
        """Where it is so many seconds past midnight now."""
        west = (time.time() - seconds) % 86400
        return f"KURA{int(west // 3600)}:{int(west % 3600 // 60):02}:{int(west % 60):02}"

    def digests_offline(self):
        self.server.start()
        found = self.digests()
        self.server.stop()
        return found


class Rotten(Quarantine):
    def test_what_can_not_be_read_is_neither_expunged_nor_in_the_way_of_others(self):
        self.deliver(spam("whole"))
        self.deliver(spam("rotten"))
        whole, rotten = self.ids()
        (release, delete) = self.links(self.told())[1]
        self.server.stop()
        self.assertEqual(self.rot(b"X-Spam-Quarantine: spam"), 1)
        self.server.start()
        self.assertEqual([row["reason"] for row in self.kept()], ["spam", "virus"])
        for link in (release, delete):
            for method in ("GET", "POST"):
                self.page(method, link, 503)
        self.deliver(spam("third"))
        self.assertEqual(len(self.links(self.told())), 1)
        self.assertIn("may do harm", self.quarantine("release", rotten, code=3))
        self.server.stop()
        self.server.configure(r"^keep = .*$", 'keep = "1s"', "quarantine")
        self.server.start()
        self.assertTrue(kura.eventually(lambda: self.ids() == [rotten]))
        self.assertLogged("can't be read: it stays")
        self.assertIn("1 message deleted", self.quarantine("delete", rotten))

    def rot(self, mark):
        """Flips one bit of what was written last of all that begins so; in how many places."""
        hits = 0
        for path in glob.glob(f"{self.server.directory}/store/shard-*/log-*"):
            with open(path, "r+b") as file:
                content = file.read()
                at = content.rfind(mark)
                if at >= 0:
                    file.seek(at)
                    file.write(bytes([content[at] ^ 1]))
                    hits += 1
        return hits


class Kept(Quarantine):
    def test_it_is_seen_by_no_client_and_no_client_can_get_at_it(self):
        inbox, junk = len(self.server.bodies()), len(self.server.bodies(mailbox="Junk"))
        before = self.usage(self.alice)
        for text in (b"", messages.lines(600 << 10)):
            self.deliver(spam("unseen", text))
        self.deliver(messages.header("wanted") + b"Hello.\r\n")
        self.assertEqual(len(self.ids("--account", self.alice)), 2)
        imap = self.server.imap()
        listed = b" ".join(imap.list()[1] + imap.list('""', "%")[1] + imap.lsub()[1])
        self.assertNotRegex(listed.lower(), b"quarantine")
        self.assertEqual(int(imap.select("INBOX")[1][0]), inbox + 1)
        self.assertEqual(imap.uid("SEARCH", "HEADER", "X-Mark", "unseen")[1], [b""])
        self.assertEqual(int(imap.select("Junk")[1][0]), junk)
        for name in ('"*quarantine*"', '"Quarantine"'):
            self.assertEqual(imap.status(name, "(MESSAGES)")[0], "NO")
            self.assertEqual(imap.select(name)[0], "NO")
        hidden = '"*quarantine*"'
        self.assertEqual(imap.create(hidden)[0], "NO")
        self.assertEqual(imap.subscribe(hidden)[0], "NO")
        self.assertEqual(imap.rename("Drafts", hidden)[0], "NO")
        self.assertEqual(imap.rename(hidden, "mine")[0], "NO")
        self.assertEqual(imap.delete(hidden)[0], "NO")
        self.assertEqual(imap.append(hidden, None, None, b"Subject: x\r\n\r\nx\r\n")[0], "NO")
        imap.select("INBOX")
        self.assertEqual(imap.copy("1", hidden)[0], "NO")
        # A user's own mailbox of that name is an ordinary one.
        self.assertEqual(imap.create("Quarantine")[0], "OK")
        self.assertEqual(imap.append("Quarantine", None, None, b"Subject: x\r\n\r\nx\r\n")[0], "OK")
        self.assertEqual(imap.select("Quarantine")[1], [b"1"])
        self.assertEqual(imap.delete("Quarantine")[0], "OK")
        imap.logout()
        self.assertEqual(self.server.pop3().stat()[0], inbox + 1)
        # The quota counts it: 2 and 1, one of them large.
        usage = self.usage(self.alice)
        self.assertEqual(usage["messages"] - before["messages"], 3)
        self.assertGreater(usage["bytes"] - before["bytes"], 600 << 10)
        self.done("store", "verify")

    def test_a_digest_has_room_where_kept_mail_has_used_the_quota_up(self):
        def quota(*limits):
            self.done("account", "quota", self.bob, *limits)
        self.addCleanup(quota)
        for number in range(3):
            self.deliver(spam(f"full {number}", messages.lines(20 << 10)), 1)
        quota("--quota-messages", str(self.usage(self.bob)["messages"]))
        with self.assertRaisesRegex(kura.Unexpected, "Mailbox full"):
            self.server.deliver(spam("no room"), 1)
        self.assertIn("told of 2 messages", self.quarantine("digest", "--account", self.bob))
        self.assertEqual([re.search("<b>(.*)</b>", row["subject"]).group(1) for row in self.kept()], ["full 1", "full 2"])
        self.assertEqual(len(self.links(self.digests(1)[-1])), 2)
        self.assertLogged("its oldest kept mail was expunged")
        # The same by size.
        quota("--quota", str(self.usage(self.bob)["bytes"] + 3000))
        self.deliver(spam("one more"), 1)
        self.assertIn("told of 1 message", self.quarantine("digest", "--account", self.bob))
        self.assertIn("one more", self.kept()[-1]["subject"])
        # Nothing goes where that would not help.
        quota()
        self.deliver(spam("untold"), 1)
        before = self.ids()
        quota("--quota-messages", "1")
        self.assertIn("quota", self.quarantine("digest", "--account", self.bob, code=1))
        self.assertEqual(self.ids(), before)

    def test_each_recipient_has_a_state_and_scripts_of_its_own(self):
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write('require ["fileinto", "reject"]; if header :contains "X-Mark" "each" { fileinto "Trash"; }')
            file.flush()
            self.done("sieve", "put", file.name, "--activate", "--account", self.bob)
        with kura.Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            for address in (self.alice, self.bob):
                wire.ask(f"RCPT TO:<{address}>", "250")
            wire.ask("DATA", "354")
            # Who is wanted after this is nobody whose mail other tests send.
            sent = spam("each").replace(b"x83920@", b"x77777@")
            wire.send(kura.stuffed(sent))
            self.assertTrue(wire.reply().startswith("250"))
        # No script has seen it, and the other has it when one has let it out.
        (bobs,) = self.ids("--account", self.bob)
        self.assertEqual(self.server.bodies(1, "Trash"), {})
        self.quarantine("release", bobs)
        self.assertEqual(self.ids("--account", self.bob), [])
        self.assertCameBack(self.newest(1), sent)
        self.assertEqual(self.server.bodies(1, "Trash"), {})
        self.assertIn("each", [re.search("<b>(.*)</b>", row["subject"]).group(1)
                               for row in self.kept("--account", self.alice)])

    def test_messages_are_listed_shown_and_handed_over_by_a_running_server_and_a_stopped_one(self):
        sent = self.deliver(spam("operator", b"<img src=http://203.0.113.9/x.png>\r\n"))
        self.deliver(spam("other"), 1)
        attached = (b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n" + BLATANT.split(b"Content-Type")[0]
                    + b"\r\n--b\r\nContent-Type: text/html\r\n\r\n" + BLATANT.split(b"\r\n\r\n", 1)[1]
                    + b"\r\n--b\r\nContent-Disposition: attachment; filename=\"bill.txt\"\r\n\r\nSECRET PAYLOAD \x1b]0;x\x07\r\n--b--\r\n")
        self.deliver(attached)
        domain = self.alice.split("@")[1]
        for running in (True, False):
            if not running:
                self.server.stop()
            self.assertEqual(len(self.ids()), 3)
            mine = self.ids("--account", self.alice)
            self.assertEqual(mine, self.ids("--domain", domain, "--account", self.alice))
            self.assertEqual(len(self.ids("--rule", "TEXT_ADVANCE_FEE", "--since", "1h")), 3)
            self.assertEqual(len(self.ids("--rule", "spam")), 3)
            self.assertEqual(self.ids("--rule", "virus") + self.ids("--since", "2031-01-01T00:00:00Z"), [])
            listed = self.quarantine("list")
            self.assertIn("3 messages in quarantine", listed)
            self.assertIn("TEXT_ADVANCE_FEE", listed)
            row = next(row for row in self.kept() if "operator" in row["subject"])
            self.assertEqual((row["account"], row["reason"]), (self.alice, "spam"))
            self.assertGreater(row["score"], 5)
            self.assertTrue(all(rule["reason"] for rule in row["rules"]))
            shown = self.quarantine("show", row["id"])
            self.assertIn("son of the late president", shown)
            self.assertIn("Subject: CONGRATULATIONS <b>operator</b>", shown)
            for never in ("\x1b", "<img", "<a href", "203.0.113.9/x.png"):
                self.assertNotIn(never, shown)
            shown = self.quarantine("show", next(i for i in mine if i != row["id"]))
            self.assertIn("[attached, not shown: bill.txt]", shown)
            self.assertNotIn("SECRET", shown)
            raw = subprocess.run([kura.BINARY, "quarantine", "show", row["id"], "--raw", "--dir", self.server.directory],
                                 capture_output=True, check=True, timeout=60).stdout
            self.assertCameBack(raw, sent)
        # A backup has it, and what is restored from it.
        with tempfile.TemporaryDirectory() as place:
            self.done("store", "backup", "--to", f"{place}/backup")
            restored = [kura.BINARY, "store", "restore", "--from", f"{place}/backup", "--dir", f"{place}/restored"]
            done = subprocess.run(restored, capture_output=True, text=True, check=False, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            listed = [kura.BINARY, "quarantine", "list", "--json", "--dir", f"{place}/restored"]
            done = subprocess.run(listed, capture_output=True, text=True, check=False, timeout=120)
            self.assertEqual(json.loads(done.stdout)["messages"], self.kept(), done.stderr)
            # Nor is it among what an account had at some time.
            then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            written = json.loads(self.done("store", "restore", "--account", self.alice, "--at", then,
                                           "--export", f"{place}/then", "--json"))
            there = os.listdir(f"{place}/then")
            self.assertIn("INBOX", there)
            self.assertNotRegex(" ".join(there).lower(), "quarantine")
            self.assertEqual(written["mailboxes"], len(there))
        # Without a word nothing is released; names that there are not are told.
        self.assertIn("--all", self.quarantine("release", code=1))
        self.assertIn("is not in quarantine", self.quarantine("release", f"{self.alice}:99", code=1))
        self.assertIn("names no message", self.quarantine("show", "7", code=1))
        self.assertIn("no account", self.quarantine("list", "--account", f"nobody@{domain}", code=1))
        self.assertIn("no domain", self.quarantine("list", "--domain", "nowhere.test", code=1))
        # On the stopped server, with the sender's name learned.
        self.assertIn("1 message released", self.quarantine("release", row["id"]))
        self.server.start()
        self.assertCameBack(self.newest(), sent)
        self.deliver(spam("since then"))
        self.assertIn(b"X-Spam-Sender: wanted\r\n", self.newest())
        self.assertIn("1 message deleted", self.quarantine("delete", "--account", self.bob, "--rule", "spam"))
        self.assertEqual(len(self.ids()), 1)
        self.quarantine("delete", "--all")
        counted = test_scan.metrics(self.server)
        self.assertEqual(counted['kura_quarantine_deleted_total{by="operator"}'], 2)

    def test_without_a_web_server_digests_name_the_postmaster_and_check_config_says_so(self):
        self.assertIn(f"the links of digests lead to https://mail.example.test:{self.port}", self.check().stdout)
        self.assertNotIn("over IMAP", self.check().stdout)
        self.server.stop()
        self.server.configure(r"^listen = .*$", "listen = []", section="web")
        self.assertIn("digests have no links", self.check().stdout)
        self.server.start()
        try:
            self.deliver(spam("no links"), 1)
            self.quarantine("digest", "--account", self.bob)
            text = self.digests(1)[-1].as_string()
            self.assertIn(f"postmaster@{self.bob.split('@')[1]}", text)
            self.assertNotIn("https://", text)
            self.quarantine("delete", "--account", self.bob)
            for old, new, said in [
                (r"^keep = .*$", 'keep = "0"', "quarantine.keep"),
                (r"^digest_at = .*$", 'digest_at = "7"', "07:00"),
                (r"^mailbox = .*$", 'mailbox = "INBOX"', "quarantine.mailbox"),
            ]:
                with open(f"{self.server.directory}/kura.toml") as file:
                    config = file.read()
                self.server.configure(old, new, "quarantine")
                found = self.check()
                self.assertEqual(found.returncode, 1)
                self.assertRegex(found.stderr, rf"kura\.toml:\d+: .*{said}")
                with open(f"{self.server.directory}/kura.toml", "w") as file:
                    file.write(config)
        finally:
            self.server.stop()
            self.server.configure(r"^listen = .*$", f'listen = ["127.0.0.1:{self.port}"]', section="web")
            self.server.start()


class Viruses(Quarantine):
    @classmethod
    def setUpClass(cls):
        cls.fake = scanners.Fake()
        cls.addClassCleanup(cls.fake.remove)
        cls.settings = [(r"^clamd = .*$", f'clamd = ["unix:{cls.fake.socket}"]', "scan"),
                        (r"^found = .*$", 'found = "quarantine"', "scan"),
                        (r"^cache_entries = .*$", "cache_entries = 0", "scan"),
                        (r"^enabled = false$", "enabled = true", "relay")]
        super().setUpClass()

    def test_a_virus_is_let_out_by_an_operator_who_means_it_alone(self):
        self.fake.behaviour = "found"
        for number, text in enumerate((b"small\r\n", messages.lines(500 << 10))):
            message = messages.header(f"virus {number}") + text
            self.deliver(message)
            (identity,) = self.ids()
            self.assertEqual(self.reason(identity), "virus")
            self.assertIn("clamav=found Fake.Virus", self.quarantine("show", identity))
            ((release, delete),) = self.links(self.told())
            self.assertEqual(release, None)
            self.assertIn("ask the postmaster", self.digests()[-1].as_string())
            self.assertIn("may do harm", self.quarantine("release", identity, code=3))
            self.assertEqual(self.ids(), [identity])
            self.assertIn("1 message released", self.quarantine("release", "--force", identity))
            self.assertCameBack(self.newest(), message)
        self.assertIn("not in quarantine any more", self.page("GET", delete, 410))
        self.assertEqual(test_scan.metrics(self.server)['kura_quarantined_total{reason="virus"}'], 2)
        # Who looks at a virus has not said that its sender is wanted.
        self.fake.behaviour = "clean"
        self.deliver(messages.header("clean") + b"small\r\n")
        self.assertIn(b"X-Virus-Scanned: ", self.newest())
        self.assertNotIn(b"X-Spam-Sender: ", self.newest())

    def test_a_virus_is_one_whatever_else_its_message_is_kept_back_for(self):
        self.fake.behaviour = "found"
        for action in ("mark", "junk", "quarantine"):
            self.server.stop()
            self.server.configure(r"^found = .*$", f'found = "{action}"', "scan")
            self.server.start()
            self.deliver(spam(action))
        rows = self.kept()
        self.assertEqual([row["reason"] for row in rows], ["virus"] * 3)
        self.assertEqual([release for release, _ in self.links(self.told())], [None] * 3)

    def test_what_would_leave_this_host_is_refused_and_kept_back_from_nobody_else_either(self):
        self.fake.behaviour = "found"
        self.assertNothingLeaves(550)


class Down(Quarantine):
    settings = [(r"^clamd = .*$", 'clamd = ["unix:/nonexistent/clamd.ctl"]', "scan"),
                (r"^when_down = .*$", 'when_down = "quarantine"', "scan"),
                (r"^enabled = false$", "enabled = true", "relay")]

    def test_what_would_leave_this_host_waits_for_the_scanner_and_what_stays_is_kept_back(self):
        self.assertNothingLeaves(451)
        self.deliver(messages.header("stays") + b"Hello.\r\n")
        (identity,) = self.ids()
        self.assertEqual(self.reason(identity), "unscanned")


class Shown(Quarantine):
    settings = [(r"^imap = .*$", "imap = true", "quarantine"), (r"^mailbox = .*$", 'mailbox = "Kept back"', "quarantine")]

    def test_where_the_operator_asks_for_it_it_can_be_read_over_IMAP_and_nothing_else(self):
        self.assertIn("users read all of it over IMAP, also what holds a virus, in the mailbox \"Kept back\"", self.check().stdout)
        imap = self.server.imap()
        for name in ('"Kept back"', '"Kept back/below"'):
            self.assertEqual(imap.create(name)[0], "NO")
        imap.logout()
        sent = self.deliver(spam("shown"))
        imap = self.server.imap()
        self.assertIn(b'"Kept back"', b" ".join(imap.list()[1]))
        self.assertIn(b"MESSAGES 1", imap.status('"Kept back"', "(MESSAGES)")[1][0])
        kind, _ = imap.select('"Kept back"', readonly=True)
        self.assertEqual(kind, "OK")
        self.assertCameBack(imap.uid("FETCH", "1", "(BODY[])")[1][0][1], sent)
        for command in (("COPY", "1", "INBOX"), ("MOVE", "1", "INBOX"), ("STORE", "1", "+FLAGS", r"(\Deleted)")):
            self.assertEqual(imap.uid(*command)[0], "NO", command)
        with self.assertRaises(imaplib.IMAP4.readonly):
            imap.select('"Kept back"')
        imap = self.server.imap()
        self.assertEqual(imap.append('"Kept back"', None, None, b"Subject: x\r\n\r\nx\r\n")[0], "NO")
        for refused in (imap.create('"Kept back"'), imap.delete('"Kept back"'), imap.rename("Drafts", '"Kept back"'),
                        imap.rename('"Kept back"', "mine")):
            self.assertEqual(refused[0], "NO")
        imap.logout()
        self.assertEqual(len(self.ids()), 1)
        # A mailbox that a user had before stays, and hides it.
        self.server.stop()
        self.server.configure(r"^mailbox = .*$", 'mailbox = "Drafts"', "quarantine")
        self.server.start()
        imap = self.server.imap()
        self.assertEqual(imap.select("Drafts")[1], [b"0"])
        self.assertEqual(imap.append("Drafts", None, None, b"Subject: x\r\n\r\nx\r\n")[0], "OK")
        imap.logout()


@unittest.skipUnless(names.program("nsd"), "no nsd on this host")
class Dmarc(Quarantine):
    @classmethod
    def setUpClass(cls):
        names.serve_for(cls, {"test.": test_auth.ZONE})
        super().setUpClass()

    @classmethod
    def configure_strangers(cls):
        test_auth.configure(cls.server, lines=[
            (r"^dmarc_quarantine = .*$", 'dmarc_quarantine = "quarantine"'),
            (r"^servers = .*$", f'servers = ["127.0.0.1:{cls.names.port}"]')])

    def test_what_its_authors_domain_asks_to_quarantine_is_kept_back_where_the_operator_says_so(self):
        message = messages.header("forged", From="x@doubtful.test") + b"Hello.\r\n"
        self.assertTrue(self.server.deliver(message, sender="x@doubtful.test").startswith("250"))
        (identity,) = self.ids()
        self.assertEqual(self.reason(identity), "dmarc")
        self.quarantine("release", identity)
        self.assertCameBack(self.newest(), message)
        # That the account wants its mail counts only for mail that is its.
        self.assertTrue(self.server.deliver(message, sender="x@doubtful.test").startswith("250"))
        self.assertEqual(len(self.ids()), 1)


if __name__ == "__main__":
    unittest.main()
