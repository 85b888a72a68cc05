"""Mail is collected from other servers: a real Dovecot with `kill -9` in between, and servers that lie, flood, hang and drip."""

import email
import email.policy
import glob
import json
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import dovecot
import kura
import outside
from outside import message, number_of

SECRET = "a secret of there"


class Collecting(unittest.TestCase):
    """With a Kura of its own for each test."""

    def server(self, more="", **settings):
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        server.stop()
        self.settle(server, **settings)
        with open(os.path.join(server.directory, "kura.toml"), "a") as file:
            file.write(more)
        return server.start()

    def settle(self, server, **settings):
        for key, value in {"session_longest": "20s", **settings}.items():
            text = value if isinstance(value, int) else f'"{value}"'
            if key == "ca_file":
                server.configure(r"^\[collect\]$", f"[collect]\n{key} = {text}")
            else:
                server.configure(rf"^{key} = .*$", f"{key} = {text}")

    def outside(self, kind, *arguments, **more):
        there = kind(*arguments, **more)
        self.addCleanup(there.close)
        return there

    def add(self, server, there, *options, password="secret", protocol=None, name="there", tls="off", account=0):
        """A source that is visited when the test says so, unless `options` say otherwise."""
        if isinstance(there, outside.Server):
            protocol = protocol or ("pop3" if isinstance(there, outside.Pop3) else "imap")
            there = f"127.0.0.1:{there.port}"
        if "--every" not in options:
            options += ("--on-demand",)
        if password is not None:
            options += ("--password-stdin",)
        user = () if "--user" in options else ("--user", "us")
        done = server.command(
            "collect", "add", server.accounts[account][0], there, "--protocol", protocol, "--tls", tls, "--name", name,
            *user, *options, "--json", input_text=None if password is None else password + "\n")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def run_once(self, server, name="there", fails=False, account=0):
        done = server.command("collect", "run", server.accounts[account][0], name, "--json")
        self.assertEqual(done.returncode, 3 if fails else 0, f"{done.stdout} {done.stderr}")
        (row,) = json.loads(done.stdout)
        return row

    def numbers(self, server, mailbox="INBOX", account=0):
        bodies = server.bodies(account, mailbox).values()
        return sorted(number_of(body) for body in bodies if b"Subject: number" in body)

    def notes(self, server, account=0):
        bodies = server.bodies(account).values()
        parsed = [email.message_from_bytes(body, policy=email.policy.default) for body in bodies]
        return [one for one in parsed if (one["Subject"] or "").startswith("Mail from")]


@unittest.skipUnless(dovecot.is_possible(), "no dovecot with POP3 on this host, or not as root")
class FromDovecot(Collecting):
    @classmethod
    def setUpClass(cls):
        cls.there = dovecot.Dovecot({name: SECRET for name in ("ann", "bob", "eve", "dan", "fay")}).start()
        cls.addClassCleanup(cls.there.remove)

    def at(self, service):
        return f"localhost:{self.there.ports[service]}"

    def test_nothing_is_lost_and_nothing_comes_twice_when_the_server_is_killed_in_between(self):
        count = 150
        chance = random.Random(int(os.environ.get("KILL_SEED", "1")))
        for user in ("ann", "bob", "dan"):
            self.there.put(user, [message(n, 300 if n % 40 else 700_000) for n in range(count)])
        server = self.server(ca_file=self.there.chain)
        ann, bob = server.accounts[0][0], server.accounts[1][0]
        plan = [(ann, "pop3s", "ann", "pop3", "implicit", ["--delete"]), (bob, "imaps", "bob", "imap", "implicit", []),
                (bob, "imap", "dan", "imap", "starttls", ["--delete", "--mailbox", "From dan"])]
        for number, (account, service, user, protocol, tls, options) in enumerate(plan):
            self.add(server, self.at(service), "--user", user, *options, password=SECRET, protocol=protocol, tls=tls,
                     name=user, account=0 if account == ann else 1)
        for _ in range(8):
            runs = [subprocess.Popen([kura.BINARY, "collect", "run", account, user, "--dir", server.directory],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    for account, _, user, _, _, _ in plan]
            time.sleep(chance.uniform(0.02, 0.35))
            server.kill()
            for run in runs:
                run.wait()
            server.start()
        before = len(self.numbers(server)) + len(self.numbers(server, account=1))
        for account, name in ((0, "ann"), (1, "bob"), (1, "dan")):
            self.run_once(server, name, account=account)
        self.assertEqual(self.numbers(server), list(range(count)), f"of which {before} before the last run")
        self.assertEqual(self.numbers(server, account=1), list(range(count)))
        self.assertEqual(self.numbers(server, '"From dan"', account=1), list(range(count)))
        for body in server.bodies(0).values():
            self.assertTrue(body.endswith(message(number_of(body), 300 if number_of(body) % 40 else 700_000)))
            self.assertIn(b"with POP3S id", body)
        self.assertEqual([self.there.count(user) for user in ("ann", "bob", "dan")], [0, count, 0])
        # And nothing more comes of another visit.
        for account, name in ((0, "ann"), (1, "bob"), (1, "dan")):
            row = self.run_once(server, name, account=account)
            self.assertEqual((row["now_collected"], row["now_deleted"]), (0, 0), name)
        self.assertNotIn(SECRET, server.log())

    def test_folders_keep_their_names_flags_and_dates(self):
        self.there.put("eve", [message(1)], flags="FS")
        self.there.put("eve", [message(2)], folder="Sent", flags="S")
        self.there.put("eve", [message(3)], folder="Work.2026")
        server = self.server(ca_file=self.there.chain)
        self.add(server, self.at("imaps"), "--user", "eve", "--all-folders", password=SECRET, protocol="imap",
                 tls="implicit")
        self.assertEqual(self.run_once(server)["now_collected"], 3)
        found = [self.numbers(server, name) for name in ("INBOX", "Sent", "Work/2026")]
        self.assertEqual(found, [[1], [2], [3]])
        imap = server.imap()
        imap.select("INBOX")
        flags = imap.fetch("1", "(FLAGS)")[1][0]
        imap.logout()
        self.assertIn(b"\\Flagged", flags)
        self.assertIn(b"\\Seen", flags)
        self.assertEqual(self.run_once(server)["now_collected"], 0)
        # One by one, into mailboxes of choice.
        self.add(server, self.at("imap"), "--user", "eve", "--folder", "Work.2026=Old work", "--folder", "Gone",
                 password=SECRET, protocol="imap", tls="starttls", name="again")
        row = self.run_once(server, "again", fails=True)
        self.assertIn('no folder "Gone"', row["why"])
        self.assertEqual(self.numbers(server, '"Old work"'), [3])

    def test_a_wrong_password_and_a_strange_certificate_are_told_once(self):
        server = self.server()
        self.add(server, self.at("imaps"), "--user", "fay", password=SECRET, protocol="imap", tls="implicit", name="c")
        self.add(server, self.at("pop3"), "--user", "fay", password="wrong", protocol="pop3", name="p")
        for _ in range(2):
            for name, why in (("c", "certificate"), ("p", "[AUTH]")):
                row = self.run_once(server, name, fails=True)
                self.assertIn(why, row["why"])
        self.assertEqual(row["failures"], 2)
        notes = self.notes(server)
        self.assertEqual(len(notes), 2)
        texts = "".join(note.get_content() for note in notes)
        self.assertIn("User name or password are wrong", texts)
        self.assertIn("does not prove who it is", texts)
        self.assertNotIn("wrong\n", server.log())


class FromAnywhere(Collecting):
    # ── identifiers that lie ────────────────────────────────────────────────────────────────────

    def test_a_server_that_uses_identifiers_again_loses_nothing(self):
        there = self.outside(outside.Pop3, [("a", message(1)), ("b", message(2))])
        server = self.server()
        self.add(server, there, "--delete")
        self.assertEqual(self.run_once(server)["now_deleted"], 2)
        there.messages = [["a", message(3)], ["b", message(4)]]
        self.run_once(server)
        self.assertEqual(self.numbers(server), [1, 2, 3, 4])
        # One that does not delete what it says it has deleted.
        there.deletes = False
        there.messages = [["c", message(5)]]
        for _ in range(3):
            self.run_once(server)
        self.assertEqual(self.numbers(server), [1, 2, 3, 4, 5])

    def test_one_identifier_for_all_and_new_ones_for_all_double_nothing(self):
        there = self.outside(outside.Pop3, [("same", message(n)) for n in range(3)])
        server = self.server()
        self.add(server, there)
        for _ in range(2):
            row = self.run_once(server)
        self.assertIn("share their identifiers", row["remark"])
        self.assertEqual(self.numbers(server), [0, 1, 2])
        there.messages = [[f"new{n}", message(n)] for n in range(4)]
        self.run_once(server)
        there.messages = [[f"newer{n}", message(n)] for n in range(5)]
        for _ in range(2):
            self.run_once(server)
        self.assertEqual(self.numbers(server), [0, 1, 2, 3, 4])

    def test_another_UIDVALIDITY_doubles_nothing(self):
        there = self.outside(outside.Imap, {"INBOX": {n: message(n) for n in range(1, 6)}})
        server = self.server()
        self.add(server, there)
        self.assertEqual(self.run_once(server)["now_collected"], 5)
        there.uid_validity = 2
        there.folders["INBOX"] = {n + 10: message(n) for n in range(1, 7)}
        self.assertEqual(self.run_once(server)["now_collected"], 1)
        self.assertEqual(self.run_once(server)["now_collected"], 0)
        self.assertEqual(self.numbers(server), [1, 2, 3, 4, 5, 6])

    # ── sizes and endlessness ───────────────────────────────────────────────────────────────────

    def test_what_is_too_large_is_left_and_told_once_whatever_the_server_says_of_it(self):
        there = self.outside(outside.Pop3, [("a", message(1)), ("b", message(2, 90_000)), ("c", message(3, 90_000))])
        there.sizes["c"] = 10
        server = self.server()
        self.add(server, there, "--size-max", "50K", "--delete")
        row = self.run_once(server, fails=True)
        self.assertIn("octets of a message", row["why"])
        for _ in range(2):
            self.run_once(server)
        self.assertEqual(self.numbers(server), [1])
        self.assertEqual([one[0] for one in there.messages], ["b", "c"])
        notes = self.notes(server)
        self.assertEqual(sum("larger than the limit" in note.get_content() for note in notes), 1)

    def test_endless_messages_and_lines_cost_little_memory(self):
        pop3 = self.outside(outside.Pop3, [("a", message(1)), ("b", b"")])
        pop3.endless.add("b")
        imap = self.outside(outside.Imap, {"INBOX": {1: message(1), 2: message(2)}})
        imap.endless.add(2)
        imap.sizes[2] = 100
        endless = self.outside(outside.Pop3)
        endless.greeting = b"+OK " + b"x" * 10_000_000
        server = self.server()
        self.add(server, pop3, name="pop3")
        self.add(server, imap, name="imap", account=1)
        self.add(server, endless, name="line")
        before = server.resident_bytes()
        for name, account in (("pop3", 0), ("imap", 1), ("line", 0)):
            row = self.run_once(server, name, fails=True, account=account)
            self.assertIn("more than the limit", row["why"])
        self.assertLess(server.resident_bytes() - before, 64 << 20)
        self.assertEqual((self.numbers(server), self.numbers(server, account=1)), ([1], [1]))

    # ── connections that break, hang and drip ───────────────────────────────────────────────────

    def test_a_message_at_which_the_server_breaks_off_does_not_keep_the_others(self):
        there = self.outside(outside.Pop3, [(f"u{n}", message(n)) for n in range(6)])
        there.breaks_at.add("u2")
        server = self.server()
        self.add(server, there, "--delete")
        for _ in range(3):
            row = self.run_once(server, fails=True)
            self.assertIn("closed the connection", row["why"])
        self.assertEqual(self.numbers(server), [0, 1, 3, 4, 5])
        there.breaks_at.clear()
        self.run_once(server)
        self.assertEqual(self.numbers(server), [0, 1, 2, 3, 4, 5])
        self.assertEqual(there.messages, [])
        imap = self.outside(outside.Imap, {"INBOX": {n: message(n) for n in range(1, 6)}})
        imap.breaks_at.add(2)
        self.add(server, imap, name="imap", account=1)
        for _ in range(2):
            self.run_once(server, "imap", fails=True, account=1)
        self.assertEqual(self.numbers(server, account=1), [1, 3, 4, 5])

    def test_silent_and_dripping_servers_hold_their_own_places_and_end(self):
        silent = self.outside(outside.Pop3)
        silent.silence = 60
        drips = self.outside(outside.Pop3, [("a", message(1, 20_000))])
        drips.drip = 0.05
        fine = self.outside(outside.Pop3, [("a", message(1))])
        server = self.server(session_longest="2s", sessions_per_host_max=20)
        self.add(server, silent, "--every", "1h", name="silent")
        self.add(server, drips, "--every", "1h", name="drips")
        self.add(server, fine, name="fine")
        self.assertEqual(self.run_once(server, "fine")["now_collected"], 1)

        def state(name):
            shown = server.command("collect", "show", server.accounts[0][0], name, "--json")
            return json.loads(shown.stdout)

        for name in ("silent", "drips"):
            self.assertTrue(kura.eventually(lambda name=name: state(name)["failures"], 15), state(name))
            self.assertIn("did not come to an end within 2s", state(name)["why"])
        self.assertEqual(self.numbers(server), [1])
        # May mend itself: nobody is bothered with it.
        self.assertEqual(self.notes(server), [])

    def test_many_sources_hold_few_connections_and_no_core(self):
        there = self.outside(outside.Pop3)
        there.silence = 60
        server = self.server(session_longest="60s", sessions_max=6, sessions_per_host_max=4)
        account = server.accounts[0][0]
        for number in range(60):
            account = f"user{number}@" + server.accounts[0][0].partition("@")[2]
        sources = 0
        for account, _ in server.accounts[:2]:
            for number in range(100):
                self.ask(server, {"operation": "collect", "collect": "add", "source": {
                    "name": f"n{number}", "account": account, "protocol": "pop3", "host": "127.0.0.1",
                    "port": there.port, "tls": "off", "user": "us", "secret": {"password": "x"}, "every": 900,
                    "leave": "forever", "octets_max": 1 << 20}})
                sources += 1
        self.assertEqual(sources, 200)
        time.sleep(1)
        before = self.cpu(server)
        time.sleep(2)
        self.assertLess(self.cpu(server) - before, 0.6, "seconds of CPU in two seconds, with nothing to do")
        cores = len(glob.glob(f"{server.directory}/store/shard-*"))
        self.assertLessEqual(there.open_max, 4 + cores)
        self.assertGreaterEqual(there.open_max, 1)

    def ask(self, server, request):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(os.path.join(server.directory, "control.sock"))
            control.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(control.makefile("rb").readline())
        self.assertIn("done", answer, answer)
        return answer["done"]

    def cpu(self, server):
        with open(f"/proc/{server.process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # ── filters, tokens, commands ───────────────────────────────────────────────────────────────

    def test_what_is_collected_goes_through_the_filters(self):
        there = self.outside(outside.Pop3, [(f"u{n}", message(n)) for n in range(4)])
        server = self.server()
        script = 'require ["fileinto", "mailbox", "reject", "vacation"]; vacation "away";\n'
        script += 'if header :contains "Subject" "number 1" { fileinto :create "One"; }\n'
        script += 'elsif header :contains "Subject" "number 2" { discard; }\n'
        script += 'elsif header :contains "Subject" "number 3" { reject "no"; }\n'
        with tempfile.NamedTemporaryFile("w", suffix=".sieve") as file:
            file.write(script)
            file.flush()
            put = server.command("sieve", "put", file.name, "--name", "f", "--activate", "--account",
                                 server.accounts[0][0])
        self.assertEqual(put.returncode, 0, put.stderr)
        self.add(server, there, "--delete", "--mailbox", "There")
        for expected in (4, 0):
            self.assertEqual(self.run_once(server)["now_collected"], expected)
        self.assertEqual(self.numbers(server, "One"), [1])
        # A rejection can't be said to anybody: it is kept.
        self.assertEqual(self.numbers(server, "There"), [0, 3])
        self.assertEqual(self.numbers(server), [])
        self.assertEqual(there.messages, [])
        body = next(iter(server.bodies(0, "One").values()))
        self.assertIn(b"Authentication-Results:", body)
        self.assertNotIn(b"spf=", body)

    def test_a_token_is_read_from_its_file_at_each_visit(self):
        imap = self.outside(outside.Imap, {"INBOX": {1: message(1)}}, password=None, token="first")
        pop3 = self.outside(outside.Pop3, [("a", message(2))], password=None, token="first")
        server = self.server()
        token = os.path.join(server.directory, "token")
        for name, there in (("imap", imap), ("pop3", pop3)):
            self.add(server, there, "--token-file", token, password=None, name=name)
        self.assertIn("token file", self.run_once(server, "imap", fails=True)["why"])
        for text, fails in (("old\n", True), ("first\n", False)):
            with open(token, "w") as file:
                file.write(text)
            self.run_once(server, "imap", fails=fails)
            self.run_once(server, "pop3", fails=fails)
        self.assertEqual(self.numbers(server), [1, 2])

    def test_messages_are_deleted_when_their_days_are_over_and_not_before(self):
        there = self.outside(outside.Pop3, [("a", message(1))])
        server = self.server()
        self.add(server, there, "--delete-after", "7")
        for _ in range(2):
            self.assertEqual(self.run_once(server)["now_deleted"], 0)
        self.assertEqual(len(there.messages), 1)
        self.assertEqual(self.numbers(server), [1])

    def test_a_full_mailbox_leaves_the_rest_where_it_is(self):
        there = self.outside(outside.Pop3, [(f"u{n}", message(n, 20_000)) for n in range(5)])
        server = self.server()
        account = server.accounts[0][0]
        self.assertEqual(server.command("account", "quota", account, "--quota", "50K").returncode, 0)
        self.add(server, there, "--delete")
        row = self.run_once(server, fails=True)
        self.assertIn("quota", row["why"].lower())
        kept = self.numbers(server)
        self.assertEqual(kept + [number_of(octets) for _, octets in there.messages], [0, 1, 2, 3, 4])
        self.assertEqual(server.command("account", "quota", account).returncode, 0)
        self.run_once(server)
        self.assertEqual(self.numbers(server), [0, 1, 2, 3, 4])

    def test_commands_work_with_the_server_running_and_stopped_and_show_no_password(self):
        there = self.outside(outside.Pop3, [("a", message(1))])
        server = self.server()
        account = server.accounts[0][0]
        secret = "xyzzy-secret"
        for stopped in (True, False):
            if stopped:
                server.stop()
            self.add(server, there, "--every", "1h", password=secret, name="one")
            self.add(server, there, password=secret, name="two")
            said = ""
            for arguments in (["list"], ["list", account, "--json"], ["show", account, "one"],
                              ["show", account, "two", "--json"]):
                done = server.command("collect", *arguments)
                self.assertEqual(done.returncode, 0, done.stderr)
                said += done.stdout
            self.assertIn("2 outside mailboxes", said)
            self.assertNotIn(secret, said)
            twice = server.command("collect", "add", account, "127.0.0.1:1", "--user", "u", "--name", "one",
                                   "--password-stdin", input_text="x\n")
            self.assertEqual(twice.returncode, 1)
            self.assertIn("already", twice.stderr)
            if stopped:
                done = server.command("collect", "run", account)
                self.assertEqual(done.returncode, 1)
                self.assertIn("not running", done.stderr)
                server.start()
            self.assertEqual(server.command("collect", "show", account, "three").returncode, 1)
            for name in ("one", "two"):
                self.assertEqual(server.command("collect", "remove", account, name).returncode, 0)
            self.assertEqual(json.loads(server.command("collect", "list", "--json").stdout), [])
        self.assertNotIn(secret, server.log())
        for path in glob.glob(f"{server.directory}/store/shard-*/*"):
            self.assertEqual(os.stat(path).st_mode & 0o077, 0, path)

    def test_a_source_is_visited_by_its_schedule_and_after_a_restart(self):
        there = self.outside(outside.Pop3, [("a", message(1))])
        server = self.server()
        self.add(server, there, "--every", "1m")
        self.assertTrue(kura.eventually(lambda: self.numbers(server) == [1], 5))
        there.messages.append(["b", message(2)])
        server.stop()
        server.start()
        self.assertTrue(kura.eventually(lambda: self.numbers(server) == [1, 2], 5))
        # A source that goes with its account leaves nobody to visit it.
        account = server.accounts[0][0]
        self.assertEqual(server.command("account", "remove", account).returncode, 0)
        self.assertEqual(json.loads(server.command("collect", "list", "--json").stdout), [])
