"""What an operator does, and does wrong: one clear line that says what, where, and how to mend."""

import json
import os
import re
import resource
import smtplib
import socket
import subprocess
import tempfile
import time
import tomllib
import unittest
import urllib.request

import kura

MIB = 1 << 20


def cli(*arguments, **options):
    return subprocess.run(
        [kura.BINARY, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )


class Mistakes(kura.TestCase):
    def assertOneLine(self, done, *words):
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, done.stderr)
        for word in words:
            self.assertIn(word, lines[0])
        self.assertNotIn("panicked", lines[0])

    def test_a_data_directory_in_use(self):
        done = cli("quickstart", "--dir", self.server.directory)
        self.assertOneLine(done, self.server.directory, "in use", str(self.server.process.pid))
        self.assertServes()

    def test_a_port_in_use(self):
        other = kura.Kura()
        self.addCleanup(other.remove)
        other.start()
        port = other.ports["imap"]
        other.stop()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", port))
            taken.listen()
            self.assertOneLine(cli("quickstart", "--dir", other.directory), f"127.0.0.1:{port}")
        other.start()

    def test_a_bad_config_key(self):
        path = os.path.join(self.server.directory, "wrong.toml")
        with open(os.path.join(self.server.directory, "kura.toml")) as file:
            good = file.read()
        with open(path, "w") as file:
            file.write("nonsense = 1\n" + good)
        for command in ["check-config", "serve"]:
            self.assertOneLine(cli(command, "--config", path), path + ":1", "nonsense")
        done = cli("check-config", "--config", os.path.join(self.server.directory, "kura.toml"))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_config_file_that_is_not_there(self):
        self.assertOneLine(cli("serve", "--config", "/nowhere/kura.toml"), "/nowhere/kura.toml")

    def test_a_directory_that_cannot_be_written(self):
        # Also for root, who may write anywhere else.
        self.assertOneLine(cli("quickstart", "--dir", "/proc/kura"), "/proc/kura")

    @unittest.skipIf(os.geteuid() != 0, "needs root, to become nobody")
    def test_a_directory_of_somebody_else(self):
        with tempfile.TemporaryDirectory() as place:
            copy = os.path.join(place, "kura")
            subprocess.run(["cp", kura.BINARY, copy], check=True)
            os.chmod(place, 0o755)
            closed = os.path.join(place, "closed")
            os.mkdir(closed, 0o755)
            done = subprocess.run(
                [copy, "quickstart", "--dir", f"{closed}/data"], capture_output=True, text=True,
                timeout=60, check=False, user=65534, group=65534, extra_groups=[],
            )
            self.assertOneLine(done, closed)

    @unittest.skipIf(os.geteuid() != 0, "needs root, to become nobody")
    def test_root_leaves_nothing_in_anothers_store_that_its_owner_may_not_open(self):
        with tempfile.TemporaryDirectory() as place:
            copy, data, restored = (os.path.join(place, name) for name in ("kura", "data", "restored"))
            subprocess.run(["cp", kura.BINARY, copy], check=True)
            os.chmod(place, 0o755)
            for path in (data, restored):
                os.mkdir(path)
                os.chown(path, 65534, 65534)
            with open(f"{data}/kura.toml", "w") as file:
                file.write('hostname = "mail.a.test"\ndata_dir = "."\n')
            os.chown(f"{data}/kura.toml", 65534, 65534)

            def run(*arguments, where=data, **who):
                return subprocess.run([copy, *arguments, "--dir", where], capture_output=True, text=True, timeout=60,
                                      check=False, **who)

            def of_root(below):
                paths = (os.path.join(folder, name) for folder, _, names in os.walk(below) for name in [".", *names])
                return [path for path in paths if os.stat(path).st_uid == 0]

            nobody = {"user": 65534, "group": 65534, "extra_groups": []}
            self.assertOneLine(run("domain", "add", "a.test"), data, "belongs to nobody", "sudo -u nobody")
            self.assertEqual(run("domain", "add", "a.test", **nobody).returncode, 0)
            self.assertOneLine(run("account", "add", "ann@a.test"), data, "belongs to nobody", "sudo -u nobody")
            self.assertOneLine(cli("serve", "--config", f"{data}/kura.toml"), data, "belongs to nobody", "chown -R root:")
            stranger = {"user": 65533, "group": 65533, "extra_groups": []}
            os.chmod(data, 0o700)
            self.assertOneLine(run("account", "list", **stranger), data)
            done = run("account", "add", "ann@a.test", **nobody)
            self.assertEqual(done.returncode, 0, done.stderr)
            # Beside the store root may do what only root can: private keys of others are
            # not for everybody.
            done = run("cert", "self-signed", "mail.a.test")
            self.assertEqual((done.returncode, of_root(data)), (0, []), done.stderr)
            done = run("store", "backup", "--to", f"{data}/backup", **nobody)
            self.assertEqual(done.returncode, 0, done.stderr)
            done = run("store", "restore", "--from", f"{data}/backup", where=restored)
            self.assertEqual((done.returncode, of_root(restored)), (0, []), done.stderr)
            self.assertIn("ann@a.test", run("account", "list", where=restored, **nobody).stdout)
            # What was left by a Kura of before is no fault of the disk.
            os.chown(f"{data}/store/shard-0/log-00000001", 0, 0)
            done = run("account", "list", **nobody)
            self.assertOneLine(done, "shard-0/log-00000001 belongs to root", "chown -R nobody:")
            self.assertNotIn("disk", done.stderr)

    def test_an_account_twice_and_in_an_unknown_domain(self):
        address = self.server.accounts[0][0]
        self.assertOneLine(self.server.command("account", "add", address), address)
        self.assertOneLine(self.server.command("account", "add", "a@elsewhere.example"), "elsewhere.example")

    def test_a_load_without_a_server(self):
        done = cli("bench", "smtp", "--target", "127.0.0.1:1", "--to", "a@example.test")
        self.assertOneLine(done, "127.0.0.1:1")

    def test_a_load_and_a_sink(self):
        there = f"127.0.0.1:{next(kura.GIVEN_OUT)}"
        sink = subprocess.Popen([kura.BINARY, "bench", "sink", "--json", "--listen", there], stdout=subprocess.PIPE)
        self.addCleanup(sink.stdout.close)
        self.addCleanup(sink.wait)
        self.addCleanup(sink.kill)
        # It says so when it listens.
        self.assertEqual(json.loads(sink.stdout.readline())["messages"], 0)
        self.assertOneLine(cli("bench", "sink", "--listen", there), there)
        load = ["bench", "smtp", "--target", there, "--to", "a@example.test", "--messages", "200", "--bytes", "70000"]
        for more in [(), ("--pipelining", "--messages-per-session", "7")]:
            done = cli(*load, *more)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        text = "Subject: x\r\n\r\n.\r\n..\r\n"
        with smtplib.SMTP(*there.split(":")) as client:
            client.sendmail("a@example.net", ["b@example.test"], text)
        taken = {"messages": 0}
        while taken["messages"] < 401:
            taken = json.loads(sink.stdout.readline())
        self.assertEqual(taken["messages"], 401)
        self.assertGreaterEqual(taken["octets"], 400 * 70000 + len(text))


class Commands(kura.TestCase):
    def test_stats_of_a_running_and_of_a_stopped_store(self):
        def stats():
            done = self.server.command("store", "stats", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            return json.loads(done.stdout)

        before = stats()
        for number in range(10):
            self.server.deliver(b"Subject: %d\r\n\r\n" % number + b"x" * 70 + b"\r\n")
        running = stats()
        self.assertEqual(running["messages"] - before["messages"], 10)
        self.assertGreaterEqual(running["bytes_received"] - before["bytes_received"], 10 * 80)
        self.assertGreater(running["bytes_written"], before["bytes_written"])
        self.assertGreater(running["flushes"], before["flushes"])
        self.server.stop()
        stopped = stats()
        self.assertEqual(stopped["messages"], running["messages"])
        self.assertEqual(stopped["bytes_received"], running["bytes_received"])
        self.assertGreaterEqual(stopped["flushes"], running["flushes"])
        self.server.kill()
        self.server.start()
        self.assertEqual(stats()["bytes_received"], running["bytes_received"])

    def test_stats_for_people_have_a_line_for_each_shard(self):
        said = self.server.command("store", "stats").stdout
        self.assertRegex(said, r"(?m)^log_bytes +\d+ \(\d+ MiB\)$")
        self.assertRegex(said, r"(?m)^free_bytes +\d+ \(\d+ MiB\)$")
        shards = len(os.listdir(os.path.join(self.server.directory, "store")))
        if shards > 1:
            self.assertRegex(said, r"(?m)^shard 1: \d+ messages?, \d+ MiB of log, .* \d+ MiB free")
        found = os.statvfs(self.server.directory)
        with open(os.path.join(self.server.directory, "kura.toml"), "rb") as file:
            metrics = tomllib.load(file)["metrics"]["listen"]
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
            told = re.findall(r'(?m)^kura_store_free_bytes\{shard="\d+"\} (\d+)$', answer.read().decode())
        self.assertEqual(len(told), shards)
        for free in told:
            # Others write to the disk, too.
            self.assertLess(abs(int(free) - found.f_bavail * found.f_frsize), found.f_blocks * found.f_frsize / 4)

    def test_domains_accounts_aliases_and_passwords(self):
        def done(*arguments, **more):
            result = self.server.command(*arguments, **more)
            self.assertEqual(result.returncode, 0, f"{arguments}: {result.stderr}")
            return result.stdout

        done("domain", "add", "second.test")
        address = "carol@second.test"
        done("account", "add", address, "--password-stdin", input_text="first secret\n")
        done("alias", "add", "sales@second.test", address)
        self.assertTrue(self.server.deliver(b"Subject: s\r\n\r\n\r\n", to="sales@second.test").startswith("250"))
        self.server.accounts.append((address, "first secret"))
        account = len(self.server.accounts) - 1
        self.assertEqual(len(self.server.bodies(account)), 1)
        done("account", "passwd", address, "--password-stdin", input_text="second secret\n")
        self.server.accounts[account] = (address, "second secret")
        self.assertEqual(len(self.server.bodies(account)), 1)
        done("account", "quota", address, "--quota", "10K")
        reply = self.server.deliver(b"Subject: big\r\n\r\n" + b"x\r\n" * 7000, to=address)
        self.assertIn(reply[:3], ("452", "552"), reply)
        self.assertEqual(len(self.server.bodies(account)), 1)
        listed = json.loads(done("account", "list", "--json"))
        self.assertIn(address, [row["address"] for row in listed])
        done("alias", "remove", "sales@second.test")
        with self.assertRaises(kura.Failed):
            self.server.deliver(b"Subject: s\r\n\r\n\r\n", to="sales@second.test")
        done("account", "remove", address)
        del self.server.accounts[account]
        done("domain", "remove", "second.test")

    def test_certificates(self):
        self.assertIn("localhost", self.server.command("cert", "list").stdout)
        done = self.server.command("cert", "self-signed", "mail.second.test")
        self.assertEqual(done.returncode, 0, done.stderr)
        # The running server has it at once, for who asks for that name.
        context = kura.careless_tls()
        with socket.create_connection(("127.0.0.1", self.server.ports["imaps"])) as plain:
            with context.wrap_socket(plain, server_hostname="mail.second.test") as tls:
                self.assertIn(b"mail.second.test", tls.getpeercert(binary_form=True))

    def test_the_profile_shows_where_each_knob_is_from(self):
        shown = self.server.command("profile", "show")
        self.assertEqual(shown.returncode, 0, shown.stderr)
        for word in ["segment_bytes", "batch_bytes_max", "from:"]:
            self.assertIn(word, shown.stdout)

    def test_every_command_has_help(self):
        for command in ["quickstart", "serve", "check-config", "domain", "account", "alias", "cert",
                        "store", "profile", "bench"]:
            done = cli(command, "--help")
            self.assertEqual(done.returncode, 0, command)
            self.assertIn("Usage:", done.stdout)

    def test_quickstart_again_serves_what_is_there(self):
        self.server.deliver(b"Subject: kept\r\n\r\n\r\n")
        before = dict(self.server.ports), list(self.server.accounts[:2])
        count = len(self.server.bodies())
        self.server.stop()
        self.server.start()
        self.assertEqual((dict(self.server.ports), list(self.server.accounts[:2])), before)
        self.assertEqual(len(self.server.bodies()), count)


class Together(kura.TestCase):
    """Commands that run at the same time."""

    def add(self, addresses):
        command = [kura.BINARY, "account", "add", "--json", "--dir", self.server.directory]
        running = [
            subprocess.Popen(
                [*command, address], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True,
            )
            for address in addresses
        ]
        said = [process.communicate(timeout=60) for process in running]
        return [(process.returncode, *each) for process, each in zip(running, said)]

    def test_one_address_added_by_many_is_there_once(self):
        for number in range(3):
            address = f"same{number}@example.test"
            done = self.add([address] * 4)
            added = [json.loads(out) for code, out, _ in done if code == 0]
            self.assertEqual(len(added), 1, done)
            for code, _, err in done:
                self.assertTrue(code == 0 or "exists already" in err, err)
            self.server.accounts.append((address, added[0]["password"]))
            self.server.imap(len(self.server.accounts) - 1).logout()

    def test_different_addresses_added_at_once_are_all_there(self):
        addresses = [f"one-of-many{number}@example.test" for number in range(8)]
        self.assertEqual([code for code, _, _ in self.add(addresses)], [0] * 8)
        known = {row["address"] for row in json.loads(self.server.command("account", "list", "--json").stdout)}
        self.assertLessEqual(set(addresses), known)


class Idle(kura.TestCase):
    SESSIONS = 1000

    def test_a_thousand_idle_sessions_cost_little(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.SESSIONS + 200
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        address, password = self.server.accounts[0]
        self.server.deliver(b"Subject: one\r\n\r\ntext\r\n")

        def idle():
            wire = kura.Wire(self.server.ports["imap"])
            self.addCleanup(wire.socket.close)
            wire.line()
            wire.send(f'a LOGIN "{address}" "{password}"\r\nb SELECT INBOX\r\n'.encode())
            self.assertIn("b OK", wire.tagged("b"))
            wire.send(b"c IDLE\r\n")
            self.assertTrue(wire.line().startswith(b"+"))
            return wire

        # Before anybody has logged in: what the first sessions cause once (memory for
        # passwords, arenas of the allocator) counts too, so that nothing which is freed later
        # flatters the figure.
        before = self.server.resident_bytes()
        wires = [idle() for _ in range(self.SESSIONS)]
        time.sleep(1)
        grown = self.server.resident_bytes() - before
        print(f"\n  {self.SESSIONS} idle sessions: {grown / MIB:.1f} MiB", end=" ")
        self.assertLess(grown, 32 * MIB, f"{grown / MIB:.1f} MiB for {self.SESSIONS} sessions")
        # They are alive: news reaches every one of them.
        self.server.deliver(b"Subject: two\r\n\r\ntext\r\n")
        for wire in wires:
            self.assertIn(b"EXISTS", wire.line())


if __name__ == "__main__":
    unittest.main()
