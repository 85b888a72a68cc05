"""Mail filters: scripts go in by a client that we did not write, mail by SMTP and LMTP, and what became of it
is read over IMAP."""

import base64
import json
import os
import re
import signal
import subprocess
import tempfile
import unittest
import urllib.request

import kura
import messages
from kura import Wire, eventually, has

# As the rule editors of webmail and of desktop programs write them.
AS_ROUNDCUBE = """require ["copy","fileinto","imap4flags","envelope","relational","comparator-i;ascii-numeric"];
# rule:[Spam]
if anyof (header :contains "x-spam-flag" "YES")
{
\tfileinto "Junk";
\tstop;
}
# rule:[Lists]
if header :contains "list-id" "news.shop.test"
{
\taddflag "\\\\Seen";
\taddflag "$label1";
\tfileinto "Lists";
}
"""
AS_THUNDERBIRD = """require ["fileinto", "mailbox", "copy"];

# rule:[Invoices]
if allof (not header :contains "subject" ["re:"], header :contains ["subject"] ["invoice", "Rechnung"]) {
  fileinto :create :copy "Archive/Invoices";
  keep;
}
"""


def tagged(subject, **more):
    return messages.header(subject, **more) + b"text\r\n"


class SieveCase(kura.TestCase):
    """With a fresh pair of accounts for each test."""

    def setUp(self):
        name = re.sub(r"\W", "", self.id().rsplit("test_", 1)[1])[:40].lower()
        self.own, self.own_address = self.account(f"{name}1")
        self.other, self.other_address = self.account(f"{name}2")

    def account(self, name):
        address, _ = self.server.add_account(f"{name}@example.test")
        return len(self.server.accounts) - 1, address

    def put(self, script, account=None, name="main"):
        """With an operator's command; the client's way has tests of its own."""
        address = self.server.accounts[self.own if account is None else account][0]
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write(script)
            file.flush()
            done = self.server.command("sieve", "put", file.name, "--name", name, "--activate",
                                       "--account", address)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def send(self, message, to=None, sender="sender@example.net"):
        return self.server.deliver(message, self.own if to is None else to, sender)

    def took(self, message, to=None, sender="sender@example.net"):
        reply = self.send(message, to, sender)
        self.assertTrue(reply.startswith("250"), reply)

    def subjects(self, mailbox="INBOX", account=None):
        bodies = self.server.bodies(self.own if account is None else account, mailbox)
        return [subject_of(bodies[uid]) for uid in sorted(bodies)]

    def mailboxes(self):
        imap = self.server.imap(self.own)
        _, found = imap.list()
        imap.logout()
        return {line.decode().rsplit(' "/" ', 1)[1].strip('"') for line in found}


def subject_of(message):
    return re.search(rb"^Subject: (.*)\r$", message, re.M).group(1).decode()


class Filing(SieveCase):
    def test_scripts_as_webmail_writes_them(self):
        imap = self.server.imap(self.own)
        imap.create("Lists")
        self.put(AS_ROUNDCUBE)
        self.took(tagged("spam", X_Spam_Flag="YES"))
        self.took(tagged("list", List_Id="<news.shop.test>"))
        self.took(tagged("plain"))
        self.assertEqual(self.subjects("Junk"), ["spam"])
        self.assertEqual(self.subjects("INBOX"), ["plain"])
        imap.select("Lists")
        _, data = imap.fetch("1", "(FLAGS)")
        self.assertIn(b"\\Seen", data[0])
        self.assertIn(b"$label1", data[0])
        imap.logout()

    def test_scripts_as_mail_programs_write_them_and_a_mailbox_is_made(self):
        self.put(AS_THUNDERBIRD)
        self.took(tagged("Your invoice"))
        self.took(tagged("re: invoice"))
        self.assertEqual(self.subjects("Archive/Invoices"), ["Your invoice"])
        self.assertEqual(self.subjects("INBOX"), ["Your invoice", "re: invoice"])
        imap = self.server.imap(self.own)
        _, subscribed = imap.lsub()
        imap.logout()
        self.assertTrue(any(b"Archive/Invoices" in line for line in subscribed), subscribed)

    def test_a_missing_mailbox_means_inbox(self):
        self.put('require "fileinto"; fileinto "Nowhere";')
        self.took(tagged("lost?"))
        self.put('require "fileinto"; fileinto "Nowhere"; fileinto "Nor here"; keep;')
        self.took(tagged("once"))
        self.assertEqual(self.subjects(), ["lost?", "once"])
        self.assertNotIn("Nowhere", self.mailboxes())

    def test_a_special_use_goes_before_the_name(self):
        self.put('require ["fileinto","special-use"]; fileinto :specialuse "\\\\Junk" "Nowhere";')
        self.took(tagged("junk"))
        self.assertEqual(self.subjects("Junk"), ["junk"])

    def test_many_mailboxes_get_one_body(self):
        names = [f"M{n}" for n in range(10)]
        self.put('require ["fileinto","mailbox"];' + "".join(f'fileinto :create "{n}";' for n in names))
        message = messages.header("many") + messages.lines(100_000)
        before = self.received()
        self.took(message)
        for name in names:
            self.assertEqual(self.subjects(name), ["many"])
        self.assertLess(self.received() - before, 150_000)
        self.assertCameBack(self.newest(self.own, "M7"), message)

    def received(self):
        done = self.server.command("store", "stats", "--json")
        return json.loads(done.stdout)["bytes_received"]

    def test_fifty_mailboxes_are_too_many_and_the_owner_is_told_once(self):
        script = 'require ["fileinto","mailbox"];' + "".join(f'fileinto :create "M{n}";' for n in range(50))
        self.put(script)
        self.took(tagged("first"))
        self.took(tagged("second"))
        self.assertCountEqual(self.subjects(), ["first", "Your mail filter has failed", "second"])
        note = next(body for body in self.server.bodies(self.own).values() if b"has failed" in body)
        self.assertIn(b"too many actions", note)
        self.assertIn(b"line 1, column", note)
        self.assertNotIn("M1", self.mailboxes())

    def test_discard(self):
        self.put('if header :contains "subject" "away" { discard; }')
        self.took(tagged("go away"))
        self.took(tagged("stay"))
        self.assertEqual(self.subjects(), ["stay"])

    def test_an_edited_header_is_what_is_read(self):
        self.put('require ["editheader","fileinto","copy","mailbox"];'
                 'fileinto :create :copy "Before"; addheader "X-Filter" "yes"; deleteheader "X-Gone";'
                 'fileinto :create :copy "After";')
        message = tagged("edited", X_Gone="secret")
        self.took(message)
        self.assertCameBack(self.newest(self.own, "Before"), message)
        for mailbox in ["After", "INBOX"]:
            body = self.newest(self.own, mailbox)
            self.assertIn(b"X-Filter: yes\r\n", body)
            self.assertNotIn(b"X-Gone", body)
            self.assertTrue(body.endswith(b"\r\n\r\ntext\r\n"), body)
        imap = self.server.imap(self.own)
        imap.select("After")
        _, data = imap.fetch("1", "(BODY.PEEK[HEADER.FIELDS (X-FILTER SUBJECT)])")
        self.assertIn(b"X-Filter: yes", data[0][1])
        imap.logout()

    def test_a_large_message_is_filed_and_gets_what_is_added_on_top(self):
        self.put('require ["editheader","fileinto","mailbox","body"];'
                 'if body :raw :contains "needle" { addheader "X-Filter" "yes"; fileinto :create "Large"; }')
        message = messages.header("large") + b"needle\r\n" + messages.lines(1 << 20)
        self.took(message)
        body = self.newest(self.own, "Large")
        self.assertIn(b"X-Filter: yes\r\n", body[:2000])
        self.assertTrue(body.endswith(message))

    def test_a_subaddress_names_a_mailbox(self):
        self.put('require ["envelope","subaddress","variables","fileinto","mailbox"];'
                 'if envelope :detail :matches "to" "*?" { fileinto :create "${0}"; }')
        self.took(tagged("sub"), to=self.own_address.replace("@", "+shop@"))
        self.assertEqual(self.subjects("shop"), ["sub"])

    def test_duplicates_are_seen_once(self):
        self.put('require "duplicate"; if duplicate { discard; }')
        for _ in range(3):
            self.took(tagged("again"))
        self.took(tagged("other"))
        self.assertEqual(self.subjects(), ["again", "other"])

    def test_an_included_script(self):
        self.put('require "fileinto"; fileinto "Junk";', name="part")
        self.put('require "include"; include :personal "part";', name="whole")
        self.took(tagged("included"))
        self.assertEqual(self.subjects("Junk"), ["included"])
        # What is put anew counts at once.
        self.put('require "fileinto"; fileinto "Trash";', name="part")
        self.put('require "include"; include :personal "part";', name="whole")
        self.took(tagged("anew"))
        self.assertEqual(self.subjects("Trash"), ["anew"])


class Sending(SieveCase):
    def test_a_redirect_here_passes_the_other_scripts_and_leaves_nothing(self):
        self.put(f'redirect "{self.other_address}";')
        self.put('require "fileinto"; fileinto "Junk";', account=self.other)
        message = tagged("moved on")
        self.took(message)
        self.assertEqual(self.subjects(), [])
        self.assertEqual(self.subjects("Junk", self.other), ["moved on"])
        self.assertCameBack(self.newest(self.other, "Junk"), message)
        self.assertEqual(self.newest(self.other, "Junk").count(b"Delivered-To"), 2)

    def test_a_large_message_is_redirected_whole(self):
        message = messages.header("3M") + messages.lines(3 << 20)
        self.put(f'redirect "{self.other_address}";')
        self.took(message)
        self.assertEqual(self.subjects(), [])
        self.assertCameBack(self.newest(self.other), message)
        self.put(f'require ["copy","fileinto"]; redirect :copy "{self.other_address}"; fileinto "Junk";')
        self.took(message)
        self.assertCameBack(self.newest(self.other), message)
        self.assertCameBack(self.newest(self.own, "Junk"), message)
        self.assertEqual(self.subjects(), [])

    def test_a_large_redirect_is_as_the_script_had_it_whatever_its_own_copy_got(self):
        message = messages.header("both") + messages.lines(1 << 20)
        edit, file = 'addheader "X-Filter" "yes";', 'fileinto "Junk";'
        redirect = f'redirect :copy "{self.other_address}";'
        for order, has_field in [((edit, file, redirect), True), ((redirect, edit, file), False)]:
            self.put('require ["copy","editheader","fileinto"];' + "".join(order))
            self.took(message)
            self.assertTrue(self.newest(self.own, "Junk").endswith(message))
            got = self.newest(self.other)
            self.assertTrue(got.endswith(message))
            self.assertEqual(b"X-Filter" in got, has_field)

    def test_what_was_answered_with_a_failure_is_no_duplicate(self):
        self.put('require "duplicate"; if duplicate { discard; } else { redirect "nobody-here@example.test"; }')
        message = messages.header("again") + messages.lines(20_000)
        self.quota("10K")
        self.assertRegex(self.plainly(message), "^(4|5)52 ")
        self.quota("1M")
        self.assertRegex(self.plainly(message), "^250 ")
        self.assertEqual(self.subjects(), ["again"])
        self.assertRegex(self.plainly(message), "^250 ")
        self.assertEqual(self.subjects(), ["again"])

    def quota(self, size, address=None):
        done = self.server.command("account", "quota", address or self.own_address, "--quota", size)
        self.assertEqual(done.returncode, 0, done.stderr)

    def plainly(self, message):
        """Without a size, so that only the store sees what does not fit."""
        with Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{self.own_address}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            return wire.reply()

    def test_one_member_of_an_alias_that_is_full_keeps_nothing_from_the_others(self):
        full = self.account("full")[1]
        member = self.account("member")
        team = "team@example.test"
        done = self.server.command("alias", "add", team, full, member[1])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.quota("10K", full)
        self.put(f'redirect "{self.other_address}";', account=member[0])
        self.put(f'redirect "{team}";')
        self.took(messages.header("team") + messages.lines(20_000))
        self.assertEqual(self.subjects(account=self.other), ["team"])
        # Not everybody has got it.
        self.assertEqual(self.subjects(), ["team"])

    def test_a_long_chain_of_redirects_ends_with_a_copy(self):
        chain = [self.account(f"chain{n}") for n in range(24)]
        for (account, _), (_, following) in zip(chain, chain[1:]):
            self.put(f'redirect "{following}";', account=account)
        self.took(tagged("chain"), to=chain[0][0])
        copies = [len(self.subjects(account=account)) for account, _ in chain]
        self.assertEqual((sum(copies), copies.index(1)), (1, 20))

    def test_redirects_in_a_circle_end_with_a_copy(self):
        self.put(f'redirect "{self.other_address}";')
        self.put(f'redirect "{self.own_address}";', account=self.other)
        self.took(tagged("round"))
        self.assertEqual(self.subjects() + self.subjects(account=self.other), ["round"])
        # And of what comes for both at once, nothing is lost.
        with Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{self.own_address}>", "250")
            wire.ask(f"RCPT TO:<{self.other_address}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(tagged("both")))
            wire.expect("250")
        self.assertIn("both", self.subjects() + self.subjects(account=self.other))

    def test_a_redirect_to_oneself_is_a_keep(self):
        self.put(f'redirect "{self.own_address}";')
        self.took(tagged("self"))
        self.assertEqual(self.subjects(), ["self"])

    def test_a_redirect_to_an_alias_of_oneself_and_another_reaches_both(self):
        done = self.server.command("alias", "add", "us@example.test", self.own_address, self.other_address)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.put('redirect "us@example.test";')
        self.took(tagged("us"))
        self.assertEqual((self.subjects(), self.subjects(account=self.other)), (["us"], ["us"]))

    def test_what_can_not_leave_yet_is_kept(self):
        self.put('redirect "someone@example.org";')
        self.took(tagged("outside"))
        self.put('redirect "nobody-here@example.test";')
        self.took(tagged("nobody"))
        self.assertEqual(self.subjects(), ["outside", "nobody"])
        large = messages.header("large") + messages.lines(1 << 20)
        self.put('redirect "someone@example.org";')
        self.took(large)
        self.assertCameBack(self.newest(self.own), large)

    def test_scripts_that_redirect_to_many_come_to_an_end(self):
        accounts = [self.account(f"fan{n}") for n in range(12)]
        for place, (account, _) in enumerate(accounts):
            targets = [accounts[(place + step) % len(accounts)][1] for step in range(1, 6)]
            self.put("".join(f'redirect "{target}";' for target in targets), account=account)
        self.took(tagged("flood"), to=accounts[0][0])
        copies = [len(self.subjects(account=account)) for account, _ in accounts]
        self.assertGreater(sum(copies), 0)
        self.assertLessEqual(max(copies), 1)

    def test_vacation_answers_once_and_again_after_a_kill(self):
        self.put('require ["vacation","fcc","mailbox"];'
                 f'vacation :days 7 :fcc "Replies" :create :addresses ["{self.own_address}"] "I am away.";')
        for subject in ["one", "two"]:
            self.took(tagged(subject, To=self.own_address), sender=self.other_address)
        self.assertEqual(self.subjects(account=self.other), ["Auto: one"])
        reply = self.newest(self.other)
        self.assertIn(b"Auto-Submitted: auto-replied (vacation)", reply)
        self.assertIn(b"I am away.", reply)
        self.assertEqual(self.subjects("Replies"), ["Auto: one"])
        self.assertEqual(self.subjects(), ["one", "two"])
        self.server.kill()
        self.server.start()
        self.took(tagged("three", To=self.own_address), sender=self.other_address)
        self.assertEqual(self.subjects(account=self.other), ["Auto: one"])
        # Nobody is answered who is not from here, until mail can leave.
        self.took(tagged("four", To=self.own_address))

    def test_a_rejection_is_the_answer_in_the_session(self):
        self.put('require "reject"; reject text:\r\nNot here.\r\nNever.\r\n.\r\n;')
        reply = self.send(tagged("refused"))
        self.assertTrue(reply.startswith("550 5.7.1 Not here.  Never."), reply)
        self.put('require "ereject"; ereject "Go away.";')
        self.assertTrue(self.send(messages.header("large") + messages.lines(1 << 20)).startswith("550 5.7.1 Go away."))
        self.assertEqual(self.subjects(), [])

    def to_both(self, port, message, sender, greeting="EHLO"):
        with Wire(self.server.ports[port]) as wire:
            wire.expect("220")
            wire.ask(f"{greeting} client.example.net", "250")
            wire.ask(f"MAIL FROM:<{sender}>", "250")
            wire.ask(f"RCPT TO:<{self.own_address}>", "250")
            wire.ask(f"RCPT TO:<{self.other_address}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            return [wire.reply() for _ in range(2 if greeting == "LHLO" else 1)]

    def test_where_others_take_it_the_sender_gets_a_report(self):
        self.put('require "reject"; reject "Not for me.";')
        sender, address = self.account("reporter")
        (reply,) = self.to_both("smtp", tagged("small"), address)
        self.assertTrue(reply.startswith("250"), reply)
        report = self.newest(sender)
        self.assertIn(b"report-type=delivery-status", report)
        self.assertIn(b"Not for me.", report)
        self.assertIn(b"Final-Recipient: rfc822; " + self.own_address.encode(), report)
        self.assertEqual(self.subjects(), [])
        # A sender elsewhere can't be told yet, and a large message is not at hand: it is kept.
        large = messages.header("large") + messages.lines(1 << 20)
        for message, sender in [(tagged("far"), "sender@example.net"), (large, address)]:
            (reply,) = self.to_both("smtp", message, sender)
            self.assertTrue(reply.startswith("250"), reply)
        self.assertEqual(self.subjects(), ["far", "large"])
        self.assertEqual(self.subjects(account=self.other), ["small", "far", "large"])

    def test_a_copy_that_was_thrown_away_does_not_stand_for_the_message(self):
        both = [(self.own, self.own_address), (self.other, self.other_address)]
        for (via, _), (owner, address) in [both, both[::-1]]:
            self.put(f'require "editheader"; addheader "X-Via" "me"; redirect "{address}";', account=via)
            self.put('if exists "X-Via" { discard; } else { redirect "someone@example.org"; }', account=owner)
            (reply,) = self.to_both("smtp", tagged("kept"), "sender@example.net")
            self.assertTrue(reply.startswith("250"), reply)
            self.assertEqual(self.subjects(account=owner), ["kept"])

    def test_who_is_refused_by_all_is_told_in_the_session(self):
        for account in [self.own, self.other]:
            self.put('require "reject"; reject "Nobody wants it.";', account=account)
        (reply,) = self.to_both("smtp", tagged("all"), "sender@example.net")
        self.assertTrue(reply.startswith("550 5.7.1 Nobody wants it."), reply)

    def test_lmtp_answers_for_each(self):
        self.put('require "reject"; reject "Not for me.";')
        first, second = self.to_both("lmtp", tagged("lmtp"), "sender@example.net", "LHLO")
        self.assertTrue(first.startswith("550"), first)
        self.assertTrue(second.startswith("250"), second)


class Operator(SieveCase):
    def test_scripts_survive_a_kill_and_go_with_their_account(self):
        self.put('require "fileinto"; fileinto "Junk";')
        self.server.kill()
        self.server.start()
        self.took(tagged("after"))
        self.assertEqual(self.subjects("Junk"), ["after"])
        self.assertEqual(self.server.command("account", "remove", self.own_address).returncode, 0)
        self.server.add_account(self.own_address)
        listed = self.server.command("sieve", "list", "--account", self.own_address, "--json")
        self.assertEqual(listed.stdout.strip(), "[]")

    def test_commands_work_on_a_running_and_a_stopped_server(self):
        def command(*arguments):
            return self.server.command("sieve", *arguments, "--account", self.own_address)

        for running in [True, False]:
            with self.subTest(running=running):
                if not running:
                    self.server.stop()
                self.put('keep;\n', name="one")
                self.put('discard;\n', name="two")
                listed = command("list").stdout
                self.assertRegex(listed, r"one +false +6\n")
                self.assertRegex(listed, r"two +true +9\n")
                self.assertEqual(command("get", "two").stdout, "discard;\n")
                refused = command("remove", "two")
                self.assertEqual(refused.returncode, 1)
                self.assertIn("active", refused.stderr)
                self.assertEqual(command("activate", "--none").stdout, "no script is active\n")
                self.assertEqual(command("remove", "two").returncode, 0)
                self.assertEqual(command("activate", "two").returncode, 1)
        self.server.start()

    def test_a_faulty_script_is_named_with_its_place(self):
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write('keep;\n  fileinot "x";\n')
            file.flush()
            checked = self.server.command("sieve", "put", file.name, "--account", self.own_address)
            self.assertEqual(checked.returncode, 1)
            self.assertIn("line 2, column 3", checked.stderr)
            checked = subprocess.run([kura.BINARY, "sieve", "check", file.name], capture_output=True, text=True)
            self.assertEqual(checked.returncode, 3)
            self.assertTrue(checked.stdout.startswith(f"{file.name}:2:3: "), checked.stdout)

    def test_a_script_that_is_too_large_is_refused_in_plain_words(self):
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write("# " + "x" * (3 << 20) + "\nkeep;\n")
            file.flush()
            done = self.server.command("sieve", "put", file.name, "--account", self.own_address)
        self.assertEqual(done.returncode, 1)
        self.assertIn("a script has at most 65536 bytes", done.stderr)

    def test_metrics_count(self):
        self.put("discard;")
        before = self.metric('kura_sieve_actions_total{action="discard"}')
        self.took(tagged("counted"))
        self.assertEqual(self.metric('kura_sieve_actions_total{action="discard"}'), before + 1)
        self.assertGreater(self.metric("kura_sieve_runs_total"), 0)

    def metric(self, name):
        with open(os.path.join(self.server.directory, "kura.toml")) as file:
            listen = re.search(r'\[metrics\]\s+listen = "([^"]+)"', file.read()).group(1)
        text = urllib.request.urlopen(f"http://{listen}/metrics").read().decode()
        return int(re.search(rf"^{re.escape(name)} (\d+)$", text, re.M).group(1))


class SystemScripts(kura.TestCase):
    def test_operators_scripts_run_around_the_users(self):
        server = self.server
        server.stop()
        scripts = {
            "before": 'require ["fileinto"]; if header :is "x-virus" "yes" { fileinto "Trash"; }',
            "after": 'require ["fileinto","include"]; include :global "junk";',
            "junk": 'require "fileinto"; if header :contains "subject" "casino" { fileinto "Junk"; }',
        }
        for name, text in scripts.items():
            with open(os.path.join(server.directory, f"{name}.sieve"), "w") as file:
                file.write(text)
        server.configure(
            r"^\[sieve\]\n",
            '[sieve]\nbefore = "before.sieve"\n[sieve.global]\njunk = "junk.sieve"\n'
            '[sieve.domains."example.test"]\nafter = "after.sieve"\n')
        server.start()
        server.deliver(tagged("casino"))
        server.deliver(tagged("virus casino", X_Virus="yes"))
        server.deliver(tagged("fine"))

        def subjects(mailbox):
            return [subject_of(body) for body in server.bodies(0, mailbox).values()]

        self.assertEqual(subjects("Junk"), ["casino"])
        self.assertEqual(subjects("Trash"), ["virus casino"])
        self.assertEqual(subjects("INBOX"), ["fine"])
        # A backup has them, under names of its own.
        with tempfile.TemporaryDirectory() as folder:
            done = server.command("store", "backup", "--to", f"{folder}/backup")
            self.assertEqual(done.returncode, 0, done.stderr)
            done = subprocess.run(
                [kura.BINARY, "store", "restore", "--from", f"{folder}/backup", "--dir", f"{folder}/new"],
                capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            done = subprocess.run(
                [kura.BINARY, "check-config", "--config", f"{folder}/new/kura.toml"],
                capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(f"{folder}/new/sieve-domain-1-after.sieve") as file:
                self.assertEqual(file.read(), scripts["after"])
        # They are read anew at SIGHUP; a faulty one changes nothing.
        path = os.path.join(server.directory, "junk.sieve")
        with open(path, "w") as file:
            file.write("kep;")
        checked = subprocess.run(
            [kura.BINARY, "check-config", "--config", os.path.join(server.directory, "kura.toml")],
            capture_output=True, text=True)
        self.assertEqual(checked.returncode, 1)
        self.assertIn("junk.sieve:1:1: unknown command `kep`", checked.stderr)
        server.process.send_signal(signal.SIGHUP)
        self.assertTrue(eventually(lambda: "scripts stay as they were" in server.log()))
        with open(path, "w") as file:
            file.write("discard;")
        server.process.send_signal(signal.SIGHUP)

        def is_gone():
            before = len(subjects("INBOX"))
            server.deliver(tagged("gone"))
            return len(subjects("INBOX")) == before

        self.assertTrue(eventually(is_gone))


@has("sieve-connect")
class SieveConnect(SieveCase):
    """Debian's sieve-connect, over STARTTLS, with the certificate checked."""

    def client(self, *arguments, account=None):
        address, password = self.server.accounts[self.own if account is None else account]
        reader, writer = os.pipe()
        os.write(writer, password.encode() + b"\n")
        os.close(writer)
        certificate = os.path.join(self.server.directory, "certificates/mail.example.test/chain.pem")
        try:
            return subprocess.run(
                ["sieve-connect", "-s", "localhost", "-4", "-p", str(self.server.ports["managesieve"]),
                 "--nosrv", "--noclearchan", "--tlscafile", certificate, "-u", address,
                 "--passwordfd", str(reader), *arguments],
                capture_output=True, text=True, timeout=60, pass_fds=[reader])
        finally:
            os.close(reader)

    def upload(self, script, name="main"):
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write(script)
            file.flush()
            return self.client("--localsieve", file.name, "--remotesieve", name, "--upload")

    def test_a_script_is_uploaded_activated_and_run(self):
        done = self.upload(AS_ROUNDCUBE)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.took(tagged("before", X_Spam_Flag="YES"))
        done = self.client("--remotesieve", "main", "--activate")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.took(tagged("after", X_Spam_Flag="YES"))
        self.assertEqual((self.subjects(), self.subjects("Junk")), (["before"], ["after"]))
        self.assertIn('"main" ACTIVE', self.client("--list").stdout)
        self.server.kill()
        self.server.start()
        self.assertIn('"main" ACTIVE', self.client("--list").stdout)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "got")
            self.client("--remotesieve", "main", "--localsieve", path, "--download")
            with open(path, newline="") as file:
                self.assertEqual(file.read(), AS_ROUNDCUBE)
        refused = self.client("--remotesieve", "main", "--delete")
        self.assertIn("active", refused.stdout + refused.stderr)
        self.client("--deactivate")
        self.assertEqual(self.client("--remotesieve", "main", "--delete").returncode, 0)
        self.assertEqual(self.client("--list").stdout.strip(), "")

    def test_a_bad_script_is_refused_with_its_place(self):
        done = self.upload('require "fileinto";\nfileinto Junk;\n')
        self.assertIn("line 2, column 10", done.stdout + done.stderr)
        self.assertEqual(self.client("--list").stdout.strip(), "")

    def test_a_wrong_password_is_no_login(self):
        self.server.accounts[self.own] = (self.own_address, "wrong")
        done = self.client("--list")
        self.assertNotEqual(done.returncode, 0)
        self.server.accounts[self.own] = (self.own_address, "a good password")


class ManageSieve(SieveCase):
    """What the client does not do, by hand."""

    def connect(self):
        wire = Wire(self.server.ports["managesieve"])
        self.addCleanup(wire.socket.close)
        self.until(wire)
        token = base64.b64encode(f"\0{self.own_address}\0a good password".encode()).decode()
        self.ask(wire, f'AUTHENTICATE "PLAIN" "{token}"', "OK")
        return wire

    def until(self, wire):
        """Lines up to OK, NO or BYE; what follows a literal's announcement on that line is read as well."""
        lines = []
        while True:
            line = wire.line().decode()
            lines.append(line)
            if line.startswith(("OK", "NO", "BYE")) or not line:
                literal = re.search(r"\{(\d+)\}\r\n$", line)
                if literal:
                    left = int(literal.group(1)) + 2
                    while left > 0:
                        more = wire.line().decode()
                        left -= len(more.encode())
                        lines.append(more)
                return "".join(lines)

    def ask(self, wire, command, word):
        wire.send(command.encode() + b"\r\n")
        reply = self.until(wire)
        self.assertRegex(reply, rf"(^|\r\n){word}", command)
        return reply

    def put_script(self, wire, name, script, word="OK"):
        octets = script.encode()
        return self.ask(wire, f'PUTSCRIPT "{name}" {{{len(octets)}+}}\r\n{script}', word)

    def test_limits_of_number_and_size(self):
        wire = self.connect()
        self.assertIn("QUOTA/MAXSIZE", self.ask(wire, 'HAVESPACE "x" 100000', "NO"))
        self.ask(wire, 'HAVESPACE "x" 60000', "OK")
        big = "# " + "x" * 60_000 + "\r\nkeep;\r\n"
        for number in range(4):
            self.put_script(wire, f"big{number}", big)
        self.assertIn("(QUOTA)", self.put_script(wire, "big4", big, "NO"))
        self.assertIn("(QUOTA)", self.ask(wire, 'HAVESPACE "x" 60000', "NO"))
        for number in range(28):
            self.put_script(wire, f"small{number}", "keep;")
        self.assertIn("QUOTA/MAXSCRIPTS", self.put_script(wire, "one more", "keep;", "NO"))
        self.put_script(wire, "small0", "discard;")

    def test_rename_keeps_what_is_active(self):
        wire = self.connect()
        self.put_script(wire, "one", "discard;")
        self.put_script(wire, "two", "keep;")
        self.ask(wire, 'SETACTIVE "one"', "OK")
        self.assertIn("ALREADYEXISTS", self.ask(wire, 'RENAMESCRIPT "one" "two"', "NO"))
        self.ask(wire, 'RENAMESCRIPT "one" "drei"', "OK")
        self.assertIn('"drei" ACTIVE', self.ask(wire, "LISTSCRIPTS", "OK"))
        self.took(tagged("gone"))
        self.assertEqual(self.subjects(), [])
        self.assertIn("NONEXISTENT", self.ask(wire, 'SETACTIVE "one"', "NO"))
        self.ask(wire, 'SETACTIVE ""', "OK")
        self.took(tagged("kept"))
        self.assertEqual(self.subjects(), ["kept"])

    def test_check_says_what_is_wrong_and_keeps_nothing(self):
        wire = self.connect()
        self.assertIn("line 1, column 1", self.ask(wire, 'CHECKSCRIPT "kep;"', "NO"))
        self.ask(wire, 'CHECKSCRIPT "keep;"', "OK")
        self.assertNotIn('"', self.ask(wire, "LISTSCRIPTS", "OK").replace('"Done"', ""))
        self.assertIn('"UNAUTHENTICATE"', self.ask(wire, "CAPABILITY", "OK"))

    def test_scripts_are_not_others(self):
        wire = self.connect()
        self.put_script(wire, "mine", "keep;")
        listed = self.server.command("sieve", "list", "--account", self.other_address, "--json")
        self.assertEqual(listed.stdout.strip(), "[]")


if __name__ == "__main__":
    unittest.main()
