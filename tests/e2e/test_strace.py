"""System calls of the real binary that fail with EIO: it says so, and nothing acknowledged is lost.

strace makes `fsync` and `fdatasync` fail, by which names in a directory become durable (of spare segments,
checkpoints, superblocks). The log is written and synced inside io_uring, where strace reaches no single sync, and it
can't tell the stores' rings from the executors', which must work; so `fail_ring.py` does what strace would, to
the stores' alone. EIO from the disk itself is in `test_power.py` and, at every operation, in the crash simulator.
"""

import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tomllib
import unittest
import urllib.request

import kura
import messages

SYNCS = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]
FAIL_RING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fail_ring.py")
HALTED = "the store has halted: a write failed"
GIVEN_UP = "the disk failed under a checkpoint, a copy or a spare"


@kura.has("strace")
class FailingCalls(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        pass  # each test has a server of its own

    def setUp(self):
        self.server = kura.Kura()
        self.addCleanup(self.server.remove)
        self.acknowledged = []
        self.injected = self.server.directory + ".strace"
        self.addCleanup(lambda: os.path.exists(self.injected) and os.unlink(self.injected))
        self.server.start()

    def strace(self, options):
        """Attached to all threads of the server; the test is skipped where that is not permitted."""
        command = ["strace", "-f", "-qq", "-o", self.injected, "-p", str(self.server.process.pid), *options]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.detach, tracer)

        def is_traced():
            return tracer.poll() is not None or self.traced_by(tracer.pid)

        self.assertTrue(kura.eventually(is_traced, 20), "strace does not attach")
        if tracer.poll() is not None:
            self.skipTest(f"strace may not attach here: {tracer.stderr.read().strip()}")
        return tracer

    def synced(self, *command):
        """Directories and files that a command syncs, in order."""
        done = subprocess.run(["strace", "-f", "-qq", "-y", "-e", "trace=fsync", "-o", self.injected, *command],
                              capture_output=True, text=True, timeout=120, check=False)
        if "ptrace" in done.stderr:
            self.skipTest(f"strace may not trace here: {done.stderr.strip()}")
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.injected) as lines:
            return re.findall(r"fsync\(\d+<([^>]*)>", lines.read())

    def test_the_names_of_shards_are_durable_before_mail_is(self):
        directory = os.path.realpath(self.server.directory)
        place = directory + ".backup"
        self.addCleanup(shutil.rmtree, place, ignore_errors=True)
        self.assertEqual(self.server.command("store", "backup", "--to", place).returncode, 0)
        self.server.stop()
        shutil.rmtree(os.path.join(directory, "store"))
        os.unlink(os.path.join(directory, "layout.toml"))
        synced = self.synced(kura.BINARY, "domain", "add", "b.test", "--dir", directory)
        shards = directory + "/store"
        self.assertIn(shards, synced)
        self.assertIn(directory, synced[synced.index(shards):])
        shutil.rmtree(shards)
        os.unlink(os.path.join(directory, "layout.toml"))
        synced = self.synced(kura.BINARY, "store", "restore", "--from", place, "--dir", directory)
        shards += ".restoring"
        self.assertIn(shards, synced)
        self.assertIn(directory, synced[synced.index(shards):])

    def traced_by(self, tracer):
        tasks = f"/proc/{self.server.process.pid}/task"
        for task in os.listdir(tasks):
            with open(f"{tasks}/{task}/status") as status:
                if f"TracerPid:\t{tracer}\n" not in status.read():
                    return False
        return True

    def detach(self, tracer):
        if tracer.poll() is None:
            tracer.terminate()
            tracer.wait(20)
        tracer.stderr.close()

    def assertInjected(self):
        with open(self.injected) as lines:
            self.assertIn("(INJECTED)", lines.read(), "strace made nothing fail")

    def deliver(self, number, to):
        """The reply, be it to MAIL already."""
        message = messages.header(f"message {number}") + messages.lines(2000, seed=number)
        try:
            reply = self.server.deliver(message, to=to)
        except kura.Unexpected as refused:
            reply = refused.reply
        if reply.startswith("250"):
            self.acknowledged.append((to, message))
        return reply

    def deliver_to_all(self, first, rounds):
        accounts = range(len(self.server.accounts))
        return [self.deliver(first + n, to) for n in range(rounds) for to in accounts]

    def assertNothingLost(self):
        """Every acknowledged message is there once, and nothing is damaged."""
        for account in range(len(self.server.accounts)):
            bodies = list(self.server.bodies(account).values())
            for to, message in self.acknowledged:
                if to == account:
                    there = sum(body.endswith(message) for body in bodies)
                    self.assertEqual(there, 1, "an acknowledged message is not there once")
        verified = self.server.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)

    def metrics(self):
        with open(os.path.join(self.server.directory, "kura.toml"), "rb") as file:
            address = tomllib.load(file)["metrics"]["listen"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
            return page.read().decode()

    def stats(self):
        asked = self.server.command("store", "stats", "--json")
        self.assertEqual(asked.returncode, 0, asked.stderr)
        return json.loads(asked.stdout)

    def test_syncs_that_fail_cost_a_checkpoint_and_are_told(self):
        self.assertEqual({reply[:3] for reply in self.deliver_to_all(0, 3)}, {"250"})
        self.assertEqual(self.stats()["given_up"], 0)
        tracer = self.strace(SYNCS)
        # Mail goes on: its own writes are durable by themselves.
        self.assertEqual({reply[:3] for reply in self.deliver_to_all(100, 3)}, {"250"})
        # Compaction wants a checkpoint, whose name can't be made durable.
        compacted = self.server.command("store", "compact")
        self.assertEqual(compacted.returncode, 1, compacted.stdout)
        self.assertRegex(compacted.stderr, "compaction was not finished: .*(os error 5|Input/output)")
        self.assertInjected()
        self.assertTrue(kura.eventually(lambda: GIVEN_UP in self.server.log(), 20), self.server.log())
        self.assertRegex(self.metrics(), r'kura_store_given_up_total\{shard="\d+"\} [1-9]')
        stats = self.stats()
        self.assertGreater(stats["given_up"], 0)
        self.assertFalse(stats["halted"])
        self.assertEqual({reply[:3] for reply in self.deliver_to_all(200, 3)}, {"250"})
        self.server.kill()
        self.detach(tracer)
        self.server.start()
        self.assertNothingLost()

    def test_a_core_that_loses_its_processor_as_it_starts_is_ready_all_the_same(self):
        # Calls into a ring return late, as where the host runs something else meanwhile: later than
        # the executor has time for a turn. Once one of the first calls, or every third one, made a
        # start hang for good.
        self.server.stop()
        config = os.path.join(self.server.directory, "kura.toml")
        for calls, microseconds in [*((call, 150000) for call in range(1, 6)), ("1+3", 7000)]:
            late = ["-e", "trace=io_uring_enter", "-e", f"inject=io_uring_enter:delay_exit={microseconds}:when={calls}"]
            with self.subTest(calls=calls), subprocess.Popen(
                ["strace", "-f", "-qq", "-o", self.injected, *late, kura.BINARY, "serve", "--config", config],
                stderr=subprocess.PIPE,
            ) as started:
                try:
                    logged = b""
                    while b" ready " not in logged and select.select([started.stderr], [], [], 30)[0]:
                        piece = os.read(started.stderr.fileno(), 1 << 16)
                        logged += piece
                        if not piece:
                            break
                    self.assertIn(b" ready ", logged, kura.threads_of(kura.children(started.pid)[0]))
                    with open(self.injected) as calls:
                        self.assertIn("(DELAYED)", calls.read(), "strace delayed nothing")
                finally:
                    for traced in kura.children(started.pid):
                        os.kill(traced, signal.SIGKILL)
                    started.wait(20)
        self.server.start()
        self.assertNothingLost()

    def test_a_start_whose_syncs_fail_starts_nothing_and_harms_nothing(self):
        self.assertEqual({reply[:3] for reply in self.deliver_to_all(0, 5)}, {"250"})
        self.server.kill()
        config = os.path.join(self.server.directory, "kura.toml")
        started = subprocess.run(
            ["strace", "-f", "-qq", "-o", self.injected, *SYNCS, kura.BINARY, "serve", "--config", config],
            capture_output=True, text=True, timeout=120, check=False,
        )
        self.assertInjected()
        self.assertEqual(started.returncode, 1, started.stderr)
        self.assertRegex(started.stderr, r"shard \d.*Input/output error")
        self.server.start()
        self.assertNothingLost()

    def fail_rings(self):
        tracer = subprocess.Popen(
            [sys.executable, "-B", FAIL_RING, str(self.server.process.pid)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        self.addCleanup(self.detach, tracer)
        self.addCleanup(tracer.stdout.close)
        if tracer.stdout.readline() != "attached\n":
            self.skipTest(f"nobody may be traced here: {tracer.stderr.read().strip()}")
        return tracer

    @unittest.skipUnless(platform.machine() == "x86_64", "fail_ring.py knows x86-64 alone")
    def test_a_log_that_can_not_be_written_halts_its_shard_and_it_is_told(self):
        self.assertEqual({reply[:3] for reply in self.deliver_to_all(0, 5)}, {"250"})
        tracer = self.fail_rings()
        refused = self.deliver(100, to=0)
        self.assertTrue(refused.startswith("451"), refused)
        tracer.terminate()
        self.assertIn("EIO\n", tracer.communicate(timeout=20)[0], "nothing was made to fail")
        # The ring works again. That shard takes nothing all the same; its users read what there is.
        self.assertTrue(kura.eventually(lambda: HALTED in self.server.log(), 20), self.server.log())
        refused = self.deliver(101, to=0)
        self.assertTrue(refused.startswith("451"), refused)
        self.assertRegex(self.metrics(), r'kura_store_halted\{shard="\d+"\} 1')
        self.assertTrue(self.stats()["halted"])
        self.assertGreaterEqual(len(self.server.bodies(0)), 5)
        self.server.kill()
        self.server.start()
        self.assertFalse(self.stats()["halted"])
        self.assertEqual({reply[:3] for reply in self.deliver_to_all(200, 2)}, {"250"})
        self.assertNothingLost()


if __name__ == "__main__":
    unittest.main()
