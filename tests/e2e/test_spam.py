"""Is it wanted? Scores, what follows from them, and learning from what users sort."""

import json
import os
import re
import subprocess
import tempfile
import time
import unittest
import urllib.request

import kura
import messages

WORDS = ("offer prize winner casino pills mortgage credit bonus cheap loan refinance guarantee viagra lottery "
         "meeting report minutes garden travel family project school concert recipe lecture holiday letter").split()


def wanted(number):
    text = " ".join(WORDS[13 + (number * 7 + place * place) % 13] for place in range(40))
    return messages.header(f"{WORDS[13 + number % 13]} {number}", From="Ann <ann@friends.test>") + text.encode() + b"\r\n"


def unwanted(number):
    text = " ".join(WORDS[(number * 5 + place * place) % 13] for place in range(40))
    return messages.header(f"{WORDS[number % 13]} {number}", From="Best Deals <deals@shop.test>") + text.encode() + b"\r\n"


# Advance fee, program, and forged everything: rules alone must see it.
BLATANT = (
    b"From: \"service@bank.test\" <x83920@free.test>\r\nSubject: CONGRATULATIONS YOU WON $5,000,000 !!\r\n"
    b"Content-Type: text/html\r\n\r\n<p>I am the son of the late president of Zaire. To transfer the sum of twenty million "
    b"United States dollars <a href=\"http://203.0.113.9/login\">www.bank.com</a>, act now. This message is not spam.</p>\r\n"
)


class Spam(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        # Loopback is a stranger like any other; nobody is asked who has sent a message.
        cls.server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        cls.server.configure(r"^verify = .*$", "verify = false")
        cls.server.configure(r"^level = .*$", 'level = "info"')
        cls.server.start()

    def status(self, message, mailbox="INBOX"):
        """The X-Spam-Status of the newest message, unfolded."""
        got = self.newest(0, mailbox)
        self.assertTrue(got.endswith(message.split(b"\r\n\r\n", 1)[1]), got[-500:])
        found = re.findall(rb"^X-Spam-Status:((?:[^\r\n]*\r\n)(?:[ \t][^\r\n]*\r\n)*)", got, re.M)
        self.assertEqual(len(found), 1, got[:2000])
        self.got = got
        return re.sub(rb"\s+", b" ", found[0]).decode()

    def test_an_ordinary_message_is_left_in_peace_and_comes_back_as_sent(self):
        message = wanted(1000)
        self.assertTrue(self.server.deliver(message).startswith("250"))
        self.assertRegex(self.status(message), r"^ No, score=-?[0-2]\.\d required=5\.0")
        self.assertNotIn(b"X-Spam-Flag", self.got)
        self.assertCameBack(self.got, message)

    def test_what_rules_see_goes_into_junk_with_its_reasons_and_a_mark(self):
        before = len(self.server.bodies())
        self.assertTrue(self.server.deliver(BLATANT).startswith("250"))
        status = self.status(BLATANT, "Junk")
        self.assertRegex(status, r"^ Yes, score=\d+\.\d required=5\.0 tests=")
        for rule in ["TEXT_ADVANCE_FEE", "URL_NUMERIC", "URL_MISMATCHED", "DATE_MISSING", "FROM_NAME_OTHER_ADDRESS"]:
            self.assertIn(rule + "=", status)
        self.assertIn(b"\r\nX-Spam-Flag: YES\r\n", self.got)
        self.assertEqual(len(self.server.bodies()), before)
        self.assertRegex(self.server.log(), r'spam="\d+\.\d .*TEXT_ADVANCE_FEE=')

    def test_forged_verdicts_are_renamed(self):
        forged = b"X-Spam-Status: No, score=-99\r\nX-Spam-Flag: NO\r\nX-Spam-Sender: wanted\r\n" + wanted(1001)
        self.assertTrue(self.server.deliver(forged).startswith("250"))
        self.assertNotIn("-99", self.status(forged))
        self.assertIn(b"\r\nX-Said-Status: No, score=-99\r\nX-Said-Flag: NO\r\nX-Said-Sender: wanted\r\n", self.got)

    def test_a_large_message_is_judged_by_its_beginning(self):
        message = BLATANT + b"<p>" + messages.lines(900_000)
        self.assertTrue(self.server.deliver(message).startswith("250"))
        self.assertIn("TEXT_ADVANCE_FEE=", self.status(message, "Junk"))

    def test_hostile_messages_have_a_verdict_in_time(self):
        head = messages.header("odd", Content_Type="multipart/mixed; boundary=x")
        parts = b"".join(b"--x\r\nContent-Type: text/html\r\n\r\n<a href=http://a.test/>b</a>\r\n" for _ in range(10_000))
        nested = b"".join(b"Content-Type: multipart/mixed; boundary=n%d\r\n\r\n--n%d\r\n" % (n, n) for n in range(1000))
        for name, message in {
            "parts": head + parts + b"--x--\r\n",
            "nesting": messages.header("deep")[:-2] + nested + b"\r\nx\r\n",
            "fields": b"X-Bomb: =?utf-8?q?=41?=\r\n" * 20_000 + wanted(1),
            "one line": messages.header("line", Content_Type="text/html") + b"<a href='" * 3_000_000 + b"\r\n",
            "encoded": messages.header("=?x?q?" * 3000) + (b"&#x41;<!--" * 80 + b"\r\n") * 250,
        }.items():
            with self.subTest(name):
                started = time.monotonic()
                # A line beyond what SMTP allows may be refused for that.
                self.assertRegex(self.server.deliver(message), "^250" if name != "one line" else "^(250|5)")
                self.assertLess(time.monotonic() - started, 20)
        self.assertServes()

    def test_a_users_script_sees_the_score_and_goes_before_it(self):
        address, _ = self.server.add_account("scripted@example.test")
        account = len(self.server.accounts) - 1
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write('require ["spamtestplus", "relational", "comparator-i;ascii-numeric", "fileinto"];\n'
                       'if spamtest :percent :value "ge" :comparator "i;ascii-numeric" "100" { fileinto "Trash"; }\n'
                       'elsif spamtest :percent :value "ge" :comparator "i;ascii-numeric" "10" { fileinto "Drafts"; }\n')
            file.flush()
            done = self.server.command("sieve", "put", file.name, "--activate", "--account", address)
        self.assertEqual(done.returncode, 0, done.stderr)
        doubtful = messages.header("WHAT A GREAT OFFER !!") + b"Hello.\r\n"
        for message, mailbox in ((BLATANT, "Trash"), (doubtful, "Drafts"), (wanted(3), "INBOX")):
            self.assertTrue(self.server.deliver(message, account).startswith("250"))
            self.assertIn(b"X-Spam-Status:", self.newest(account, mailbox), mailbox)
        self.assertEqual(self.server.bodies(account, "Junk"), {})

    def test_what_is_counted_can_be_read(self):
        self.server.deliver(BLATANT)
        with open(f"{self.server.directory}/kura.toml") as file:
            address = re.search(r'\[metrics\]\nlisten = "([^"]+)"', file.read()).group(1)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        self.assertRegex(text, r'kura_spam_verdicts_total\{action="junk"\} [1-9]')
        self.assertRegex(text, r"kura_spam_latency_seconds_count [1-9]")


class Learning(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        cls.server.configure(r"^verify = .*$", "verify = false")
        cls.server.configure(r"^learn = .*$", 'learn = "everybody"')
        cls.server.start()

    def train(self, numbers):
        return self.server.train(spam=[unwanted(number) for number in numbers], ham=[wanted(number) for number in numbers])

    def margin(self, message):
        """What the classifier adds to a message's score; None: it says nothing."""
        with tempfile.NamedTemporaryFile() as file:
            file.write(message)
            file.flush()
            done = self.server.command("spam", "test", "--json", file.name)
        self.assertEqual(done.returncode, 0, done.stderr)
        rules = json.loads(done.stdout)["rules"]
        return next((hit["score"] for hit in rules if hit["rule"] == "CLASSIFIER"), None)

    def settled(self, message):
        """The same, once nothing is being learned any more."""
        last, since = self.margin(message), time.monotonic()
        while time.monotonic() < since + 1.5:
            now = self.margin(message)
            if now != last:
                last, since = now, time.monotonic()
        return last

    def test_it_learns_from_files_and_from_what_users_sort_and_keeps_it(self):
        self.assertIsNone(self.margin(unwanted(500)))
        said = self.train(range(30))
        self.assertEqual(said, {"messages": 60, "learned": 60, "moved": 0, "left_out": 0})
        self.assertEqual(self.train(range(30)), {"messages": 60, "learned": 0, "moved": 0, "left_out": 0})
        self.assertGreater(self.margin(unwanted(500)), 1)
        self.assertLess(self.margin(wanted(500)), -1)

        # A new kind, which the rules do not know: delivered, then moved into Junk by a user.
        def strange(number):
            text = " ".join(f"zorblax{(number + place) % 9} quuxify" for place in range(30))
            return messages.header(f"zorblax {number}", From="Q <q@zorblax.test>") + text.encode() + b"\r\n"

        before = self.margin(strange(99))
        for number in range(8):
            self.assertTrue(self.server.deliver(strange(number)).startswith("250"))
        imap = self.server.imap()
        imap.select("INBOX")
        _, found = imap.uid("SEARCH", "SUBJECT", "zorblax")
        uids = ",".join(found[0].decode().split())
        self.assertEqual(imap.uid("MOVE", uids, "Junk")[0], "OK")
        self.assertTrue(kura.eventually(lambda: self.margin(strange(99)) > before + 1))
        learned = self.settled(strange(99))

        # It was a mistake: a keyword says so.
        imap.select("Junk")
        self.assertEqual(imap.uid("STORE", "1:*", "+FLAGS", "($NotJunk)")[0], "OK")
        self.assertTrue(kura.eventually(lambda: self.margin(strange(99)) < learned - 1))
        imap.logout()

        after = self.settled(strange(99))
        self.server.kill()
        self.server.start()
        self.assertEqual(self.margin(strange(99)), after)
        # And delivery goes by it.
        self.assertTrue(self.server.deliver(unwanted(777)).startswith("250"))
        found = [self.newest(0, mailbox) for mailbox in ("INBOX", "Junk") if self.server.bodies(0, mailbox)]
        self.assertTrue(any(b"777" in got and b"CLASSIFIER=" in got for got in found))
        self.server.stop()
        self.assertEqual(self.margin(strange(99)), after)
        self.server.start()


    def test_what_all_have_taught_is_forgotten_by_every_core(self):
        numbers = iter(range(800, 1000))
        said = lambda: {b"CLASSIFIER=" in self.delivered(unwanted(next(numbers))) for _ in range(8)}
        self.train(range(30))
        self.assertEqual(said(), {True})
        done = self.server.command("spam", "forget", "--shared")
        self.assertRegex(done.stdout, r"^forgotten: \d\d messages that the shared classifier had learned; ", done.stderr)
        self.assertEqual(said(), {False})
        self.server.kill()
        self.server.start()
        self.assertEqual(said(), {False})
        self.assertIsNone(self.margin(unwanted(500)))
        # What was known is learned anew, and forgotten as well while the server is down.
        self.assertEqual(self.train(range(30))["learned"], 60)
        self.server.stop()
        self.assertEqual(self.server.json("spam", "forget", "--shared"), {"shared": True, "messages": 60})
        done = self.server.command("spam", "forget", "--shared")
        self.assertEqual(done.stdout, "the shared classifier has learned nothing\n")
        self.server.start()
        self.assertEqual(said(), {False})

    def delivered(self, message):
        """As it is in whatever mailbox it has come into, which no other message is like."""
        self.assertTrue(self.server.deliver(message).startswith("250"))
        found = [got for mailbox in ("INBOX", "Junk") for got in self.server.bodies(0, mailbox).values() if got.endswith(message)]
        self.assertEqual(len(found), 1)
        return found[0]

    def test_a_message_that_is_sorted_the_other_way_moves_whoever_says_so(self):
        self.server.json("spam", "forget", "--shared")
        self.train(range(30))
        letter = messages.header("grebnix", From="G <g@grebnix.test>") + b"grebnix wobbulate frabjous\r\n" * 9

        def taught(**said):
            done = self.server.train(**said)
            return [done["learned"], done["moved"]]

        self.assertEqual(taught(spam=[letter]), [1, 0])
        as_spam = self.margin(letter)
        self.assertEqual(taught(ham=[letter]), [1, 1])
        self.assertLess(self.margin(letter), as_spam - 5)
        self.assertEqual(taught(ham=[letter]), [0, 0])
        # A user says the same, and otherwise.
        self.assertTrue(self.server.deliver(letter).startswith("250"))
        imap = self.server.imap()
        for start, to, sign in (("INBOX", "Junk", 1), ("Junk", "INBOX", -1)):
            before = self.margin(letter)
            imap.select(start)
            _, found = imap.uid("SEARCH", "SUBJECT", "grebnix")
            self.assertEqual(imap.uid("MOVE", found[0].decode(), to)[0], "OK")
            self.assertTrue(kura.eventually(lambda: sign * (self.margin(letter) - before) > 5))
        imap.logout()
        self.assertEqual(taught(ham=[letter]), [0, 0])
        self.assertEqual(taught(spam=[letter], ham=[letter]), [2, 2])
        self.assertEqual(self.server.json("spam", "forget", "--shared")["messages"], 61)


class TwoAccounts(kura.TestCase):
    """What one account sorts is its own business."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        cls.server.configure(r"^verify = .*$", "verify = false")
        cls.server.start()

    def both(self, message):
        """Delivers to both accounts in one transaction; the mailbox in which each has it, and what it has."""
        self.number = getattr(self, "number", 0) + 1
        mark = f"X-Mark: {self.number}\r\n".encode()
        with kura.Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            for address, _ in self.server.accounts[:2]:
                wire.ask(f"RCPT TO:<{address}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(mark + message))
            self.assertTrue(wire.reply().startswith("250"))
        found = []
        for account in range(2):
            for mailbox in ("INBOX", "Junk"):
                for got in self.server.bodies(account, mailbox).values():
                    if mark in got:
                        self.assertTrue(got.endswith(message))
                        found.append((mailbox, got.partition(mark)[0]))
        return found

    def move(self, account, start, to):
        imap = self.server.imap(account)
        imap.select(start)
        self.assertEqual(imap.uid("MOVE", "1:*", to)[0], "OK")
        imap.logout()


class Senders(TwoAccounts):
    def test_a_sender_whom_one_account_has_sorted_is_sorted_for_that_account_alone(self):
        letter = messages.header("letter", From="Shop <news@shop.test>") + b"Hello.\r\n"
        large = messages.header("large", From="\"Other name\" <News@Shop.test>") + messages.lines(700_000)
        self.assertEqual([place for place, _ in self.both(letter)], ["INBOX", "INBOX"])
        self.move(0, "INBOX", "Junk")
        places = lambda message: [place for place, _ in self.both(message)]
        self.assertTrue(kura.eventually(lambda: places(letter) == ["Junk", "INBOX"]))
        for message in (letter, large):
            (own, why), (other, nothing) = self.both(message)
            self.assertEqual((own, other), ("Junk", "INBOX"))
            self.assertIn(b"\r\nX-Spam-Sender: unwanted\r\n", why)
            self.assertNotIn(b"X-Spam-Sender", nothing)
        # It is kept, and it has taught the classifier nothing.
        self.server.kill()
        self.server.start()
        (own, why), (other, _) = self.both(letter)
        self.assertEqual((own, other), ("Junk", "INBOX"))
        self.assertNotIn(b"CLASSIFIER", why)
        # A change of mind. What rules call spam is filed as before for everybody else.
        spam = BLATANT.replace(b"x83920@free.test", b"news@shop.test")
        self.assertEqual(places(spam), ["Junk", "Junk"])
        self.move(0, "Junk", "INBOX")
        self.assertTrue(kura.eventually(lambda: places(spam) == ["INBOX", "Junk"]))
        self.assertEqual(places(BLATANT), ["Junk", "Junk"])


class Own(TwoAccounts):
    """What each account's own mail teaches, where no sender is known yet."""

    def mail(self, kind, number):
        """Each from somebody else; alike are only the words."""
        words = WORDS[:13] if kind == "offer" else WORDS[13:]
        text = " ".join(words[(number * 5 + place * place) % 13] for place in range(40))
        return messages.header(f"{kind} {number}", From=f"N <n{number}@host{number}.test>") + text.encode() + b"\r\n"

    def sort(self, account, subject, keyword):
        imap = self.server.imap(account)
        for mailbox in ("INBOX", "Junk"):
            imap.select(mailbox)
            _, found = imap.uid("SEARCH", "SUBJECT", subject)
            if uids := ",".join(found[0].decode().split()):
                self.assertEqual(imap.uid("STORE", uids, "+FLAGS", f"({keyword})")[0], "OK")
        imap.logout()

    def test_two_accounts_that_sort_the_same_mail_otherwise_have_each_its_own_verdict(self):
        places = lambda message: [place for place, _ in self.both(message)]
        for number in range(8):
            self.assertEqual(places(self.mail("offer", number)), ["INBOX", "INBOX"])
            self.assertEqual(places(self.mail("letter", number)), ["INBOX", "INBOX"])
        self.sort(0, "offer", "$Junk")
        self.sort(0, "letter", "$NotJunk")
        self.sort(1, "offer", "$NotJunk")
        self.sort(1, "letter", "$Junk")
        self.number_of_mail = 100

        def fresh(kind):
            self.number_of_mail += 1
            return self.mail(kind, self.number_of_mail)

        self.assertTrue(kura.eventually(lambda: places(fresh("offer")) == ["Junk", "INBOX"]))
        self.assertTrue(kura.eventually(lambda: places(fresh("letter")) == ["INBOX", "Junk"]))
        (_, why), (_, nothing) = self.both(fresh("offer"))
        self.assertRegex(why, rb"\r\nX-Spam-Account: Yes, score=\d+\.\d required=5\.0 tests=OWN_CLASSIFIER=\d+\.\d\r\n")
        self.assertNotIn(b"X-Spam-Account", nothing)
        self.assertNotIn(b"CLASSIFIER", nothing)
        # Nobody else's mail is judged by it, and a crash forgets nothing.
        self.server.kill()
        self.server.start()
        self.assertEqual(places(fresh("offer")), ["Junk", "INBOX"])
        self.assertEqual(places(fresh("letter")), ["INBOX", "Junk"])
        # A message that claims such a verdict has it renamed.
        self.assertTrue(self.server.deliver(b"X-Spam-Account: No, score=-99\r\n" + fresh("offer")).startswith("250"))
        self.assertIn(b"\r\nX-Said-Account: No, score=-99\r\n", self.newest(0, "Junk"))


class Forget(Own):
    """What an account has sorted goes again."""

    test_two_accounts_that_sort_the_same_mail_otherwise_have_each_its_own_verdict = None

    def forget(self, *what):
        done = self.server.command("spam", "forget", *what)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_what_an_account_has_sorted_is_forgotten_running_and_stopped(self):
        (ann, _), (bob, _) = self.server.accounts[:2]
        places = lambda message: [place for place, _ in self.both(message)]
        for number in range(8):
            self.both(self.mail("offer", number))
            self.both(self.mail("letter", 10 + number))
        for account in range(2):
            self.sort(account, "offer", "$Junk")
            self.sort(account, "letter", "$NotJunk")
        number = iter(range(100, 1000))
        fresh = lambda: self.mail("offer", next(number))
        known = self.mail("offer", 3)
        self.assertTrue(kura.eventually(lambda: places(fresh()) == ["Junk", "Junk"]))
        self.assertEqual(places(known), ["Junk", "Junk"])
        self.assertEqual(self.forget(ann), f"forgotten: 16 messages and 16 senders that {ann} had sorted\n")
        self.assertEqual([places(known), places(fresh())], [["INBOX", "Junk"]] * 2)
        self.assertEqual(self.forget(ann), f"{ann} has sorted nothing\n")
        self.server.stop()
        self.assertEqual(self.server.json("spam", "forget", bob), {"address": bob, "messages": 16, "senders": 16})
        self.server.start()
        self.assertEqual([places(known), places(fresh())], [["INBOX", "INBOX"]] * 2)
        self.server.kill()
        self.server.start()
        self.assertEqual(places(known), ["INBOX", "INBOX"])
        # It may sort anew; who is nobody is told so.
        self.sort(0, "offer", "$Junk")
        self.assertTrue(kura.eventually(lambda: places(known) == ["Junk", "INBOX"]))
        for arguments in ([], [ann, "--shared"]):
            done = self.server.command("spam", "forget", *arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn("--shared", done.stderr)
        done = self.server.command("spam", "forget", "nobody@example.test")
        self.assertEqual(done.returncode, 1)
        self.assertIn("no account nobody@example.test; `kura account list` shows", done.stderr)


class Many(Own):
    """One message for many accounts, each with a word of its own about it."""

    test_two_accounts_that_sort_the_same_mail_otherwise_have_each_its_own_verdict = None

    def to_all(self, message, look=True):
        """One transaction; where each has it."""
        self.number_of_mail = getattr(self, "number_of_mail", 0) + 1
        mark = f"M{self.number_of_mail}M"
        with kura.Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("MAIL FROM:<x@sender.test>", "250")
            for address, _ in self.server.accounts:
                wire.ask(f"RCPT TO:<{address}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(f"X-Mark: {mark}\r\n".encode() + message))
            self.assertTrue(wire.reply().startswith("250"))
        found = []
        for account in range(len(self.server.accounts) if look else 0):
            imap = self.server.imap(account)
            for mailbox in ("INBOX", "Junk"):
                imap.select(mailbox)
                if imap.uid("SEARCH", "HEADER", "X-Mark", mark)[1][0]:
                    found.append(mailbox)
            imap.logout()
        if look:
            self.assertEqual(len(found), len(self.server.accounts), "everybody has it, once")
        return found

    def test_a_message_for_many_is_filed_for_each_as_it_sorts(self):
        for number in range(10):
            self.server.add_account(f"many{number}@example.test")
        for number in range(6):
            self.to_all(self.mail("offer", number), look=False)
            self.to_all(self.mail("letter", number), look=False)
        for account in range(len(self.server.accounts)):
            junk, wanted = ("offer", "letter") if account % 2 else ("letter", "offer")
            self.sort(account, junk, "$Junk")
            self.sort(account, wanted, "$NotJunk")
        expected = ["Junk" if account % 2 else "INBOX" for account in range(len(self.server.accounts))]
        number = iter(range(100, 1000))
        self.assertTrue(kura.eventually(lambda: self.to_all(self.mail("offer", next(number))) == expected))


class Rules(kura.TestCase):
    def check(self, rules, place=r"^\[spam\]$", spam='[spam]\nrules = "own.toml"'):
        directory = self.server.directory
        with open(f"{directory}/own.toml", "w") as file:
            file.write(rules)
        with open(f"{directory}/kura.toml") as file:
            config = file.read()
        with open(f"{directory}/other.toml", "w") as file:
            file.write(re.sub(place, spam, config, count=1, flags=re.M))
        return subprocess.run([kura.BINARY, "check-config", "--config", f"{directory}/other.toml"],
                              capture_output=True, text=True, timeout=60)

    def test_faults_in_rules_are_named_before_the_server_starts(self):
        rule = '[[rule]]\nname = "MINE"\nscore = 1\nreason = "x"\n'
        self.server.stop()
        try:
            self.assertEqual(self.check(rule + "text = 'abc'\n").returncode, 0)
            for text, said in [
                (rule + "text = '('\n", "own.toml: rule \"MINE\": pattern"),
                (rule + "sort = 1\n", "own.toml: line 5: unknown field"),
                (rule + "text = 'abc'\n[[example]]\nmessage = \"Subject: x\\n\\nxyz\"\nfires = [\"MINE\"]\n",
                 "should match and does not"),
            ]:
                done = self.check(text)
                self.assertEqual(done.returncode, 1, text)
                self.assertIn(said, done.stderr)
            done = self.check("", "^reject_at = .*$", "reject_at = 1.0")
            self.assertEqual(done.returncode, 1)
            self.assertIn("spam.reject_at", done.stderr)
        finally:
            self.server.start()

    def test_rules_and_facts_are_listed(self):
        listed = self.server.command("spam", "rules").stdout
        self.assertIn("TEXT_ADVANCE_FEE", listed)
        self.assertIn("url_numeric", self.server.command("spam", "facts").stdout)


if __name__ == "__main__":
    unittest.main()
