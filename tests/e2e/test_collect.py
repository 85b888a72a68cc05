"""Mail is collected from other servers: a real Dovecot with `kill -9` in between, and servers that lie, flood, hang and drip."""

import email
import email.policy
import glob
import json
import os
import random
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

import dovecot
import kura
import outside
from outside import message, number_of

SECRET = "a secret of there"
SHARED = {}


def setUpModule():
    server = SHARED["kura"] = kura.Kura()
    unittest.addModuleCleanup(server.remove)
    server.start()
    server.stop()
    names = outside.NoNames()
    unittest.addModuleCleanup(names.close)
    server.configure(r"^servers = .*$", f'servers = ["127.0.0.1:{names.port}"]')
    server.configure(r"^session_longest = .*$", 'session_longest = "4s"')
    if dovecot.is_possible():
        there = SHARED["dovecot"] = dovecot.Dovecot({name: SECRET for name in ("ann", "bob", "eve", "dan", "fay")})
        unittest.addModuleCleanup(there.remove)
        there.start()
        server.configure(r"^\[collect\]$", f'[collect]\nca_file = "{there.chain}"')
    server.start()


class Collecting(unittest.TestCase):
    """With one Kura for all; each test has accounts of its own."""

    @classmethod
    def setUpClass(cls):
        cls.server = SHARED["kura"]
        cls.domain = cls.server.accounts[0][0].partition("@")[2]

    def account(self):
        """The number of a new one."""
        self.server.add_account(f"user{len(self.server.accounts)}@{self.domain}")
        return len(self.server.accounts) - 1

    def address(self, account):
        return self.server.accounts[account][0]

    def outside(self, kind, *arguments, **more):
        there = kind(*arguments, **more)
        self.addCleanup(there.close)
        return there

    def command(self, *arguments, code=0, **more):
        done = self.server.command(*arguments, **more)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout} {done.stderr}")
        return done

    def add(self, account, there, *options, password="secret", protocol=None, name="there", tls="off"):
        """A source that is visited when the test says so, unless `options` say otherwise."""
        if isinstance(there, outside.Server):
            protocol = protocol or ("pop3" if isinstance(there, outside.Pop3) else "imap")
            there = f"{there.host}:{there.port}"
        if "--every" not in options:
            options += ("--on-demand",)
        if password is not None:
            options += ("--password-stdin",)
        user = () if "--user" in options else ("--user", "us")
        done = self.command(
            "collect", "add", self.address(account), there, "--protocol", protocol, "--tls", tls, "--name", name,
            *user, *options, "--json", input_text=None if password is None else password + "\n")
        return json.loads(done.stdout)

    def visit(self, account, name="there", fails=False):
        done = self.command("collect", "run", self.address(account), name, "--json", code=3 if fails else 0)
        (row,) = json.loads(done.stdout)
        return row

    def numbers(self, account, mailbox="INBOX"):
        bodies = self.server.bodies(account, mailbox).values()
        return sorted(number_of(body) for body in bodies if b"Subject: number" in body)

    def notes(self, account):
        bodies = self.server.bodies(account).values()
        parsed = [email.message_from_bytes(body, policy=email.policy.default) for body in bodies]
        return [one for one in parsed if (one["Subject"] or "").startswith("Mail from")]


@unittest.skipUnless(dovecot.is_possible(), "no dovecot with POP3 on this host, or not as root")
class FromDovecot(Collecting):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.there = SHARED["dovecot"]

    def at(self, service):
        return f"127.0.0.1:{self.there.ports[service]}"

    def test_nothing_is_lost_and_nothing_comes_twice_when_the_server_is_killed_in_between(self):
        count, rounds = int(os.environ.get("COLLECTED", "150")), int(os.environ.get("KILL_ROUNDS", "6"))
        chance = random.Random(int(os.environ.get("KILL_SEED", "1")))

        def octets(number):
            return message(number, 700_000 if number % 60 == 7 else 300)

        for user in ("ann", "bob", "dan"):
            self.there.put(user, [octets(n) for n in range(count)])
        plan = {"ann": ("pop3s", "implicit", ["--delete"]), "bob": ("imaps", "implicit", []),
                "dan": ("imap", "starttls", ["--delete", "--mailbox", "From dan"])}
        accounts = {user: self.account() for user in plan}
        boxes = {"ann": "INBOX", "bob": "INBOX", "dan": '"From dan"'}
        for user, (service, tls, options) in plan.items():
            self.add(accounts[user], self.at(service), "--user", user, *options, password=SECRET, tls=tls,
                     protocol=service.rstrip("s"))
        deaths = 0
        for _ in range(rounds):
            runs = [subprocess.Popen([kura.BINARY, "collect", "run", self.address(account), "--dir",
                                      self.server.directory], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    for account in accounts.values()]
            time.sleep(chance.uniform(0.02, 0.2))
            deaths += sum(run.poll() is None for run in runs)
            self.server.kill()
            for run in runs:
                run.wait()
            self.server.start()
        self.assertGreater(deaths, 2, "the kills came too late")
        for user, account in accounts.items():
            # One visit may be too short for all of it on a busy machine.
            for _ in range(5):
                if self.server.command("collect", "run", self.address(account)).returncode == 0:
                    break
            self.assertEqual(self.numbers(account, boxes[user]), list(range(count)), user)
        for body in self.server.bodies(accounts["ann"]).values():
            self.assertTrue(body.endswith(octets(number_of(body))))
            self.assertIn(b"with POP3S id", body)
        self.assertEqual([self.there.count(user) for user in plan], [0, count, 0])
        for user, account in accounts.items():
            row = self.visit(account)
            self.assertEqual((row["now_collected"], row["now_deleted"]), (0, 0), user)
        self.assertNotIn(SECRET, self.server.log())

    def test_folders_keep_their_names_flags_and_dates(self):
        self.there.put("eve", [message(1)], flags="FS", when=1_600_000_000)
        self.there.put("eve", [message(2)], folder="Sent", flags="S")
        self.there.put("eve", [message(3)], folder="Work.2026")
        account = self.account()
        self.add(account, self.at("imaps"), "--user", "eve", "--all-folders", password=SECRET, protocol="imap",
                 tls="implicit")
        self.assertEqual(self.visit(account)["now_collected"], 3)
        found = [self.numbers(account, name) for name in ("INBOX", "Sent", "Work/2026")]
        self.assertEqual(found, [[1], [2], [3]])
        imap = self.server.imap(account)
        imap.select("INBOX")
        flags = imap.fetch("1", "(FLAGS INTERNALDATE)")[1][0]
        imap.logout()
        self.assertIn(b"\\Flagged", flags)
        self.assertIn(b"\\Seen", flags)
        self.assertIn(b"13-Sep-2020", flags)
        self.assertEqual(self.visit(account)["now_collected"], 0)
        # One by one, into mailboxes of choice.
        self.add(account, self.at("imap"), "--user", "eve", "--folder", "Work.2026=Old work", "--folder", "Gone",
                 password=SECRET, protocol="imap", tls="starttls", name="again")
        row = self.visit(account, "again", fails=True)
        self.assertIn('no folder "Gone"', row["why"])
        self.assertEqual(self.numbers(account, '"Old work"'), [3])

    def test_a_wrong_password_is_told_once(self):
        account = self.account()
        self.add(account, self.at("pop3"), "--user", "fay", password="wrong", protocol="pop3", name="p")
        for _ in range(2):
            row = self.visit(account, "p", fails=True)
            self.assertIn("[AUTH]", row["why"])
        self.assertEqual(row["failures"], 2)
        self.assertIn("User name or password", row["remedy"])
        (note,) = self.notes(account)
        self.assertIn("User name or password are wrong", note.get_content())
        self.assertNotIn("password wrong", self.server.log())


class FromAnywhere(Collecting):
    # ── identifiers that lie ────────────────────────────────────────────────────────────────────

    def test_a_server_that_uses_identifiers_again_loses_nothing(self):
        there = self.outside(outside.Pop3, [("a", message(1)), ("b", message(2))])
        account = self.account()
        self.add(account, there, "--delete")
        self.assertEqual(self.visit(account)["now_deleted"], 2)
        there.messages = [["a", message(3)], ["b", message(4)]]
        self.visit(account)
        self.assertEqual(self.numbers(account), [1, 2, 3, 4])
        # One that does not delete what it says it has deleted.
        there.deletes = False
        there.messages = [["c", message(5)]]
        for _ in range(3):
            self.visit(account)
        self.assertEqual(self.numbers(account), [1, 2, 3, 4, 5])

    def test_one_identifier_for_all_and_new_ones_for_all_double_nothing(self):
        there = self.outside(outside.Pop3, [("same", message(n)) for n in range(3)])
        account = self.account()
        self.add(account, there)
        for _ in range(2):
            row = self.visit(account)
        self.assertIn("share their identifiers", row["remark"])
        self.assertEqual(self.numbers(account), [0, 1, 2])
        there.messages = [[f"new{n}", message(n)] for n in range(4)]
        self.visit(account)
        there.messages = [[f"newer{n}", message(n)] for n in range(5)]
        for _ in range(2):
            self.visit(account)
        self.assertEqual(self.numbers(account), [0, 1, 2, 3, 4])

    def test_a_new_password_and_another_wish_do_not_collect_anew(self):
        there = self.outside(outside.Pop3, [("a", message(1)), ("b", message(2))])
        account = self.account()
        self.add(account, there)
        self.assertEqual(self.visit(account)["now_collected"], 2)
        there.password = "another"
        self.visit(account, fails=True)
        self.command("collect", "change", self.address(account), "there", "--password-stdin", "--delete",
                     input_text="another\n")
        row = self.visit(account)
        self.assertEqual((row["now_collected"], row["now_deleted"], row["failures"]), (0, 2, 0))
        self.assertEqual(self.numbers(account), [1, 2])
        self.command("collect", "change", self.address(account), "there", "--user", "", code=1)

    def test_another_UIDVALIDITY_doubles_nothing(self):
        there = self.outside(outside.Imap, {"INBOX": {n: message(n) for n in range(1, 6)}})
        account = self.account()
        self.add(account, there)
        self.assertEqual(self.visit(account)["now_collected"], 5)
        there.uid_validity = 2
        there.folders["INBOX"] = {n + 10: message(n) for n in range(1, 7)}
        self.assertEqual(self.visit(account)["now_collected"], 1)
        self.assertEqual(self.visit(account)["now_collected"], 0)
        self.assertEqual(self.numbers(account), [1, 2, 3, 4, 5, 6])

    # ── sizes and endlessness ───────────────────────────────────────────────────────────────────

    def test_what_is_too_large_is_left_and_told_once_whatever_the_server_says_of_it(self):
        there = self.outside(outside.Pop3, [("a", message(1)), ("b", message(2, 90_000)), ("c", message(3, 90_000))])
        there.sizes["c"] = 10
        account = self.account()
        self.add(account, there, "--size-max", "50K", "--delete")
        row = self.visit(account, fails=True)
        self.assertIn("octets of a message", row["why"])
        for _ in range(2):
            self.visit(account)
        self.assertEqual(self.numbers(account), [1])
        self.assertEqual([one[0] for one in there.messages], ["b", "c"])
        (note,) = self.notes(account)
        self.assertIn("2 messages are larger than the limit", note.get_content())

    def test_endless_messages_and_lines_cost_little_memory(self):
        pop3 = self.outside(outside.Pop3, [("a", message(1)), ("b", b"")])
        pop3.endless.add("b")
        imap = self.outside(outside.Imap, {"INBOX": {1: message(1), 2: message(2)}})
        imap.endless.add(2)
        imap.sizes[2] = 100
        endless = self.outside(outside.Pop3)
        endless.greeting = b"+OK " + b"x" * 10_000_000
        one, other = self.account(), self.account()
        self.add(one, pop3, "--size-max", "20M", name="pop3")
        self.add(other, imap, "--size-max", "20M", name="imap")
        self.add(one, endless, name="line")
        before = self.server.resident_bytes()
        for account, name in ((one, "pop3"), (other, "imap"), (one, "line")):
            self.assertIn("more than the limit", self.visit(account, name, fails=True)["why"])
        self.assertLess(self.server.resident_bytes() - before, 48 << 20)
        self.assertEqual((self.numbers(one), self.numbers(other)), ([1], [1]))

    # ── connections that break, hang and drip ───────────────────────────────────────────────────

    def test_a_message_at_which_the_server_breaks_off_does_not_keep_the_others(self):
        there = self.outside(outside.Pop3, [(f"u{n}", message(n)) for n in range(6)])
        there.breaks_at.add("u2")
        account = self.account()
        self.add(account, there, "--delete")
        for _ in range(2):
            row = self.visit(account, fails=True)
            self.assertIn("closed the connection", row["why"])
        self.assertEqual(self.numbers(account), [0, 1, 3, 4, 5])
        there.breaks_at.clear()
        self.visit(account)
        self.assertEqual(self.numbers(account), [0, 1, 2, 3, 4, 5])
        self.assertEqual(there.messages, [])
        imap = self.outside(outside.Imap, {"INBOX": {n: message(n) for n in range(1, 6)}})
        imap.breaks_at.add(2)
        other = self.account()
        self.add(other, imap)
        for _ in range(2):
            self.visit(other, fails=True)
        self.assertEqual(self.numbers(other), [1, 3, 4, 5])

    def test_silent_and_dripping_servers_keep_nobody_waiting_and_end(self):
        silent = self.outside(outside.Pop3)
        silent.silence = 60
        drips = self.outside(outside.Pop3, [("a", message(1, 20_000))])
        drips.drip = 0.05
        fine = self.outside(outside.Pop3, [("a", message(1))])
        account = self.account()
        self.add(account, silent, "--every", "1h", name="silent")
        self.add(account, drips, "--every", "1h", name="drips")
        self.add(account, fine, name="fine")
        self.assertEqual(self.visit(account, "fine")["now_collected"], 1)

        def state(name):
            return json.loads(self.command("collect", "show", self.address(account), name, "--json").stdout)

        for name in ("silent", "drips"):
            self.assertTrue(kura.eventually(lambda name=name: state(name)["failures"], 15), state(name))
            self.assertIn("did not come to an end within 4s", state(name)["why"])
        self.assertEqual(self.numbers(account), [1])
        # May mend itself: nobody is bothered with it.
        self.assertEqual(self.notes(account), [])

    def test_an_account_that_is_removed_during_a_visit_was_not_visited(self):
        silent = self.outside(outside.Pop3)
        silent.silence = 60
        account = self.account()
        self.add(account, silent)
        run = subprocess.Popen(
            [kura.BINARY, "collect", "run", self.address(account), "--dir", self.server.directory],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(run.kill)

        def state():
            return json.loads(self.command("collect", "show", self.address(account), "there", "--json").stdout)["state"]

        self.assertTrue(kura.eventually(lambda: state() == "being visited"))
        self.assertIn("and its mail removed", self.command("account", "remove", self.address(account)).stdout)
        said, why = run.communicate(timeout=60)
        self.assertEqual((run.returncode, said), (1, ""))
        self.assertIn("removed meanwhile", why)

    def test_many_sources_hold_few_connections_and_no_core(self):
        there = self.outside(outside.Pop3)
        there.silence = 60
        accounts = [self.account() for _ in range(3)]
        cores = len(glob.glob(f"{self.server.directory}/store/shard-*"))
        for account in accounts:
            for number in range(100):
                self.ask({"operation": "collect", "collect": "add", "source": {
                    "name": f"n{number}", "account": self.address(account), "protocol": "pop3", "host": there.host,
                    "port": there.port, "tls": "off", "user": "us", "secret": {"password": "x"}, "every": 900,
                    "leave": "forever", "octets_max": 1 << 20}})
        before, descriptors = self.cpu(), len(os.listdir(f"/proc/{self.server.process.pid}/fd"))
        time.sleep(1)
        self.assertLess(self.cpu() - before, 0.5, "seconds of CPU in one second, with nothing to do")
        self.assertLessEqual(there.open_max, 4 + cores)
        self.assertGreaterEqual(there.open_max, 2)
        self.assertLess(descriptors, 200)
        for account in accounts:
            self.command("account", "remove", self.address(account))
        rows = json.loads(self.command("collect", "list", "--json").stdout)
        self.assertEqual([row for row in rows if row["host"] == there.host], [])

    def ask(self, request):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(os.path.join(self.server.directory, "control.sock"))
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(control.makefile("rb").readline())
        self.assertIn("done", answer, answer)

    def cpu(self):
        with open(f"/proc/{self.server.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_a_certificate_that_nobody_vouches_for_is_told_once(self):
        with tempfile.TemporaryDirectory() as directory:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(*dovecot.certificate(directory))
            there = self.outside(outside.Imap, {"INBOX": {1: message(1)}}, tls=tls)
            account = self.account()
            self.add(account, there, tls="implicit")
            for _ in range(2):
                self.assertIn("certificate is not valid", self.visit(account, fails=True)["why"])
        (note,) = self.notes(account)
        self.assertIn("does not prove who it is", note.get_content())
        self.assertEqual(there.lines, [], "nothing is said to a server that does not prove who it is")

    # ── filters, tokens, commands ───────────────────────────────────────────────────────────────

    def test_what_is_collected_goes_through_the_filters(self):
        there = self.outside(outside.Pop3, [(f"u{n}", message(n)) for n in range(4)])
        account = self.account()
        script = 'require ["fileinto", "mailbox", "reject", "vacation"]; vacation "away";\n'
        script += 'if header :contains "Subject" "number 1" { fileinto :create "One"; }\n'
        script += 'elsif header :contains "Subject" "number 2" { discard; }\n'
        script += 'elsif header :contains "Subject" "number 3" { reject "no"; }\n'
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write(script)
            file.flush()
            self.command("sieve", "put", file.name, "--name", "f", "--activate", "--account", self.address(account))
        self.add(account, there, "--delete", "--mailbox", "There")
        for expected in (4, 0):
            self.assertEqual(self.visit(account)["now_collected"], expected)
        self.assertEqual(self.numbers(account, "One"), [1])
        # A rejection can't be said to anybody: it is kept.
        self.assertEqual(self.numbers(account, "There"), [0, 3])
        self.assertEqual(self.numbers(account), [])
        self.assertEqual(there.messages, [])
        body = next(iter(self.server.bodies(account, "One").values()))
        self.assertIn(b"Authentication-Results:", body)
        self.assertIn(b"X-Spam-Status:", body)
        self.assertNotIn(b"spf=", body)

    def test_one_box_for_many_is_split_by_what_the_header_says(self):
        ann, bob, eve, owner = (self.account() for _ in range(4))
        self.command("account", "quota", self.address(eve), "--quota", "2K")

        def to(number, *fields):
            return "".join(f"{field}\r\n" for field in fields).encode() + message(number)

        there = self.outside(outside.Pop3, [(f"u{n}", octets) for n, octets in enumerate([
            to(0, "Delivered-To: box@provider.test", f"X-Original-To: {self.address(ann)}"),
            to(1, f"Received: from a by b for <{self.address(bob)}>; Thu, 26 Nov 2026 10:00:00 +0000"),
            to(2, f"Delivered-To: {self.address(ann)}, {self.address(bob)}"),
            to(3, "Delivered-To: nobody@provider.test", f"To: {self.address(ann)}"),
            to(4, f"Delivered-To: {self.address(eve)}"),
            to(5, f"Delivered-To: {self.address(bob)}") + b"more of it\r\n" * 60_000,
        ])])
        self.add(owner, there, "--split", "--delete")
        self.assertEqual(self.visit(owner)["now_collected"], 6)
        found = [self.numbers(account) for account in (ann, bob, eve, owner)]
        # Who has no room does not keep the others from theirs.
        self.assertEqual(found, [[0, 2], [1, 2, 5], [], [3, 4]])
        self.assertEqual(there.messages, [])

    def shard(self, account):
        rows = json.loads(self.command("account", "list", "--json").stdout)
        return next(row["shard"] for row in rows if row["address"] == self.address(account))

    def test_what_one_of_several_has_no_room_for_is_not_deleted_there(self):
        owner = self.account()
        # At home on the same shard, so that one record files it for both.
        bob = next(one for one in iter(self.account, None) if self.shard(one) == self.shard(owner))
        self.command("account", "quota", self.address(owner), "--quota", "2K")
        octets = f"Delivered-To: {self.address(owner)}, {self.address(bob)}\r\n".encode() + message(7) + b"more\r\n" * 500
        there = self.outside(outside.Pop3, [("u7", octets)])
        self.add(owner, there, "--split", "--delete")
        for _ in range(3):
            self.visit(owner)
            self.assertEqual(self.numbers(bob), [7])
            self.assertEqual(len(there.messages), 1)

    def test_an_answer_without_an_octet_is_no_message_and_is_not_deleted_there(self):
        for kind, messages in ((outside.Pop3, [("a", b"")]), (outside.Imap, {"INBOX": {1: b""}})):
            there, account = self.outside(kind, messages), self.account()
            self.add(account, there, "--delete")
            for _ in range(2):
                self.assertEqual(self.visit(account)["now_collected"], 0)
            self.assertEqual(self.numbers(account), [])
            left = there.messages if kind is outside.Pop3 else there.folders["INBOX"]
            self.assertEqual(len(left), 1, kind)

    def test_a_token_is_read_from_its_file_at_each_visit(self):
        imap = self.outside(outside.Imap, {"INBOX": {1: message(1)}}, password=None, token="first")
        pop3 = self.outside(outside.Pop3, [("a", message(2))], password=None, token="first")
        account = self.account()
        token = os.path.join(self.server.directory, "token")
        for name, there in (("imap", imap), ("pop3", pop3)):
            self.add(account, there, "--token-file", token, password=None, name=name)
        self.assertIn("token file", self.visit(account, "imap", fails=True)["why"])
        for text, fails in (("old\n", True), ("first\n", False)):
            with open(token, "w") as file:
                file.write(text)
            for name in ("imap", "pop3"):
                self.visit(account, name, fails=fails)
        self.assertEqual(self.numbers(account), [1, 2])

    def test_messages_are_not_deleted_before_their_days_are_over(self):
        there = self.outside(outside.Pop3, [("a", message(1))])
        account = self.account()
        self.add(account, there, "--delete-after", "7")
        for _ in range(2):
            self.assertEqual(self.visit(account)["now_deleted"], 0)
        self.assertEqual(len(there.messages), 1)
        self.assertEqual(self.numbers(account), [1])

    def test_a_full_mailbox_leaves_the_rest_where_it_is(self):
        there = self.outside(outside.Pop3, [(f"u{n}", message(n, 20_000)) for n in range(5)])
        account = self.account()
        self.command("account", "quota", self.address(account), "--quota", "50K")
        self.add(account, there, "--delete")
        row = self.visit(account, fails=True)
        self.assertIn("quota", row["why"].lower())
        kept = self.numbers(account)
        self.assertEqual(kept + [number_of(octets) for _, octets in there.messages], [0, 1, 2, 3, 4])
        self.command("account", "quota", self.address(account))
        self.visit(account)
        self.assertEqual(self.numbers(account), [0, 1, 2, 3, 4])

    def test_commands_work_with_the_server_running_and_stopped_and_show_no_password(self):
        there = self.outside(outside.Pop3, [("a", message(1))])
        account = self.account()
        address, secret = self.address(account), "xyzzy-secret"
        for stopped in (True, False):
            if stopped:
                self.server.stop()
            self.add(account, there, "--every", "1h", password=secret, name="one")
            self.add(account, there, password=secret, name="two")
            said = "".join(self.command("collect", *arguments).stdout for arguments in (
                ["list"], ["list", address], ["list", address, "--json"], ["show", address, "one"],
                ["show", address, "two", "--json"]))
            self.assertIn("2 outside mailboxes", said)
            self.assertNotIn(secret, said)
            twice = self.command("collect", "add", address, "127.0.0.1:1", "--user", "u", "--name", "one",
                                 "--password-stdin", input_text="x\n", code=1)
            self.assertIn("already", twice.stderr)
            if stopped:
                self.assertIn("not running", self.command("collect", "run", address, code=1).stderr)
                self.server.start()
            self.command("collect", "show", address, "three", code=1)
            for name in ("one", "two"):
                self.command("collect", "remove", address, name)
            self.assertEqual(json.loads(self.command("collect", "list", address, "--json").stdout), [])
        self.assertNotIn(secret, self.server.log())
        for path in glob.glob(f"{self.server.directory}/store/shard-*/*"):
            self.assertEqual(os.stat(path).st_mode & 0o077, 0, path)

    def test_a_source_is_visited_by_its_schedule_and_after_a_restart(self):
        there = self.outside(outside.Pop3, [("a", message(1))])
        account = self.account()
        self.add(account, there, "--every", "1m")
        self.assertTrue(kura.eventually(lambda: self.numbers(account) == [1], 5))
        there.messages.append(["b", message(2)])
        self.server.stop()
        self.server.start()
        self.assertTrue(kura.eventually(lambda: self.numbers(account) == [1, 2], 5))
        self.command("account", "remove", self.address(account))
        rows = json.loads(self.command("collect", "list", "--json").stdout)
        self.assertEqual([row for row in rows if row["account"] == self.address(account)], [])
