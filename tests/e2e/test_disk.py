"""A full disk and a flipped byte: what they may cost, and what not."""

import glob
import os
import shutil
import unittest

import kura
import messages
from disks import MIB, LoopDisk


def send_to(server, recipients, message):
    """The answer, be it to MAIL, to DATA or to the message."""
    with kura.Wire(server.ports["smtp"]) as wire:
        wire.expect("220")
        wire.ask("EHLO client.example.net", "250")
        commands = ["MAIL FROM:<sender@example.net>", *(f"RCPT TO:<{to}>" for to in recipients), "DATA"]
        for command in commands:
            wire.send(command.encode() + b"\r\n")
            reply = wire.reply()
            if not reply.startswith("354" if command == "DATA" else "250"):
                return reply
        wire.send(kura.stuffed(message))
        return wire.reply()


class FullDisk(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        pass  # each test has a server on a disk of its own

    def serve_on(self, megabytes, ballast_megabytes, profiled=False):
        disk = LoopDisk(self, megabytes)
        self.ballast = os.path.join(disk.place, "ballast")
        server = kura.Kura(os.path.join(disk.place, "kura"))
        if profiled:
            os.mkdir(server.directory)
            server.profiled = True
        self.server = server
        # The log stays outside, so that a full disk does not silence the server.
        server.log_path = os.path.join(disk.base, "log")
        self.addCleanup(server.remove)
        server.start()
        with open(self.ballast, "wb") as file:
            file.write(b"\0" * (ballast_megabytes * MIB))
            os.fsync(file.fileno())
        return server

    def fill(self, server, most):
        """Delivers until it is refused: (acknowledged bodies, the refusing reply). Over one connection, and pipelined:
        it takes thousands."""
        acknowledged = []
        envelope = f"MAIL FROM:<sender@example.net> BODY=8BITMIME\r\nRCPT TO:<{server.accounts[0][0]}>\r\nDATA\r\n"
        with kura.Wire(server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            for number in range(most):
                message = messages.header(f"filling {number}") + messages.lines(100_000, seed=number)
                wire.send(envelope.encode())
                for code in ("250", "250", "354"):
                    reply = wire.reply()
                    if not reply.startswith(code):  # at MAIL already
                        return acknowledged, reply
                wire.send(kura.stuffed(message))
                reply = wire.reply()
                if not reply.startswith("250"):
                    return acknowledged, reply
                acknowledged.append(message)
        self.fail(f"the disk was not full after {most} messages")

    def there(self, server, acknowledged):
        tails = {body[body.index(b"From: Sender"):] for body in server.bodies().values()}
        for number, message in enumerate(acknowledged):
            self.assertTrue(message in tails, f"acknowledged message {number} is gone")

    def test_a_full_disk_refuses_mail_and_loses_none(self):
        server = self.serve_on(512, 100)
        acknowledged, reply = self.fill(server, 6000)
        self.assertTrue(reply.startswith("452"), reply)
        self.assertGreater(len(acknowledged), 10)
        # It stays so, and is said at once.
        more, reply = self.fill(server, 1)
        self.assertEqual((more, reply[:3]), ([], "452"), reply)
        self.assertTrue(kura.eventually(lambda: "the disk is full" in server.log(), 5), "the log says nothing of it")
        # Reading and deleting work.
        self.there(server, acknowledged)
        imap = server.imap()
        # Upkeep may have given back some room meanwhile.
        for _ in range(500):
            kind, said = imap.append("INBOX", None, None, messages.header("kept by hand") + messages.lines(100_000))
            if kind != "OK":
                break
        self.assertEqual(kind, "NO")
        self.assertTrue(said[0].startswith(b"[UNAVAILABLE] The server's disk is full"), said)
        imap.select("INBOX")
        imap.uid("STORE", "1:5", "+FLAGS", r"(\Deleted)")
        self.assertEqual(imap.expunge()[0], "OK")
        self.assertEqual(imap.uid("SEARCH", None, "UID", "1:5"), ("OK", [b""]))
        imap.logout()
        acknowledged = acknowledged[5:]
        # A restart on the full disk loses nothing either.
        server.kill()
        server.start()
        self.there(server, acknowledged)
        # Space comes back: so does the mail.
        os.unlink(self.ballast)

        def taken():
            # At MAIL, too, it is refused until the server has looked again.
            return send_to(server, [server.accounts[0][0]], messages.header("again") + b"text\r\n").startswith("250")

        self.assertTrue(kura.eventually(taken, 30), "no mail is taken although there is space")
        self.there(server, acknowledged)
        verified = server.command("store", "verify")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)

    def test_a_message_to_two_shards_is_refused_as_a_whole(self):
        server = self.serve_on(144, 16, profiled=True)
        both = [address for address, _ in server.accounts[:2]]
        homes = {entry["shard"] for entry in server.json("account", "list") if entry["address"] in both}
        if len(homes) < 2:
            self.skipTest("both accounts have one home")
        # A shard that has expunged a little has room for some mail, and the other one has none.
        for _ in range(20):
            if not server.deliver(messages.header("first") + messages.lines(100_000), to=1).startswith("250"):
                break
        _, reply = self.fill(server, 6000)
        self.assertTrue(reply.startswith("452"), reply)
        sent = {}
        for number in range(30):
            # As it comes, and larger than a session's buffer.
            message = messages.header(f"to both {number}") + messages.lines(20_000 if number % 3 else 400_000, seed=number)
            sent[message] = send_to(server, both, message)
        self.assertTrue(any(reply.startswith("452") for reply in sent.values()), sent.values())

        def counted(account):
            tails = [body[body.index(b"From: Sender"):] for body in server.bodies(account).values()]
            return {message: tails.count(message) for message in sent}

        expected = [int(reply.startswith("250")) for reply in sent.values()]
        for account in (0, 1):
            self.assertEqual(list(counted(account).values()), expected, (account, sorted(sent.values())))
        # Whoever was refused and sends again is taken once there is space; nobody has it twice.
        os.unlink(self.ballast)
        again = [message for message, reply in sent.items() if not reply.startswith("250")]
        for message in again:
            self.assertTrue(kura.eventually(lambda: send_to(server, both, message).startswith("250"), 30))
        for account in (0, 1):
            self.assertEqual(list(counted(account).values()), [1] * len(sent), account)


class Together(kura.TestCase):
    """Accounts behind one name share an answer: what one of them can't have, the others are not left with."""

    def bring(self, name, message, server=None):
        """Over LMTP, which does not ask about quotas beforehand; the answer."""
        with kura.Wire((server or self.server).ports["lmtp"]) as wire:
            wire.expect("220")
            wire.ask("LHLO client.example.net", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{name}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            return wire.reply()

    def test_what_one_has_got_is_taken_back_when_another_can_not_have_it(self):
        server, name = self.server, "both@example.test"
        (first, _), (second, _) = server.accounts[:2]
        self.assertEqual(server.command("alias", "add", name, first, second).returncode, 0)
        for number, (size, quota) in enumerate([(3_000, "2000"), (400_000, "10000")]):
            message = messages.header(f"together {number}") + messages.lines(size, seed=number)
            self.assertEqual(server.command("account", "quota", second, "--quota", quota).returncode, 0)
            for _ in range(3):
                reply = self.bring(name, message)
                self.assertTrue(reply.startswith("452"), reply)
            self.assertEqual([len(server.bodies(account)) for account in (0, 1)], [number, number])
            self.assertLogged("taken back", server)
            self.assertEqual(server.command("account", "quota", second, "--quota", "1G").returncode, 0)
            reply = self.bring(name, message)
            self.assertTrue(reply.startswith("250"), reply)
            for account in (0, 1):
                self.assertEqual(len(server.bodies(account)), number + 1)
                self.assertCameBack(self.newest(account), message)

    def test_what_was_taken_back_is_no_duplicate_when_it_comes_again(self):
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        (first, _), (second, _) = server.accounts[:2]
        self.assertEqual(server.command("alias", "add", "both@example.test", first, second).returncode, 0)
        scripts = {first: 'require ["duplicate"];\nif duplicate { discard; }\n',
                   # It can't be sent on, and there is no room to keep it.
                   second: 'redirect "nobody-here@example.test";\n'}
        for account, script in scripts.items():
            path = os.path.join(server.directory, "script.sieve")
            with open(path, "w") as file:
                file.write(script)
            done = server.command("sieve", "put", path, "--account", account, "--activate")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        message = messages.header("once") + messages.lines(3000)
        self.assertEqual(server.command("account", "quota", second, "--quota", "2000").returncode, 0)
        reply = self.bring("both@example.test", message, server)
        self.assertTrue(reply.startswith("452"), reply)
        self.assertEqual([len(server.bodies(account)) for account in (0, 1)], [0, 0])
        self.assertEqual(server.command("account", "quota", second, "--quota", "1G").returncode, 0)
        for _ in range(2):
            reply = self.bring("both@example.test", message, server)
            self.assertTrue(reply.startswith("250"), reply)
            self.assertEqual(len(server.bodies(0)), 1, "the second time it is one")

    def test_what_was_kept_since_it_could_not_be_sent_on_is_taken_back(self):
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        both = [address for address, _ in server.accounts[:2]]
        self.assertEqual(server.command("alias", "add", "both@example.test", *both).returncode, 0)
        path = os.path.join(server.directory, "script.sieve")
        with open(path, "w") as file:
            file.write('redirect "nobody-here@example.test";\n')
        for account in both:
            done = server.command("sieve", "put", path, "--account", account, "--activate")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for number, (kept, refused) in enumerate([both, both[::-1]]):
            message = messages.header(f"kept {number}") + messages.lines(3000, seed=number)
            self.assertEqual(server.command("account", "quota", refused, "--quota", str(2500 * (number + 1))).returncode, 0)
            for _ in range(2):
                reply = self.bring("both@example.test", message, server)
                self.assertTrue(reply.startswith("452"), reply)
            self.assertLogged("not redirected; kept", server)
            self.assertEqual([len(server.bodies(account)) for account in (0, 1)], [number, number])
            self.assertEqual(server.command("account", "quota", refused, "--quota", "1G").returncode, 0)
            reply = self.bring("both@example.test", message, server)
            self.assertTrue(reply.startswith("250"), reply)
            self.assertEqual([len(server.bodies(account)) for account in (0, 1)], [number + 1, number + 1])

    def test_what_one_shard_has_committed_is_taken_back_when_the_disk_under_another_fails(self):
        disk = LoopDisk(self, 128)
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        both = [address for address, _ in server.accounts[:2]]
        homes = {entry["address"]: entry["shard"] for entry in server.json("account", "list")}
        if sorted(homes[address] for address in both) != [0, 1]:
            self.skipTest("both accounts have one home")
        server.stop()
        # The second shard has a disk of its own.
        shard, moved = os.path.join(server.directory, "store/shard-1"), os.path.join(disk.place, "shard-1")
        shutil.copytree(shard, moved)
        shutil.rmtree(shard)
        os.symlink(moved, shard)
        server.start()
        message = messages.header("together") + messages.lines(3000)

        send = lambda: send_to(server, both, message)
        disk.cut_power()
        whole = [account for account in (0, 1) if homes[both[account]] == 0][0]
        self.assertTrue(send().startswith("451"))
        self.assertLogged("taken back", server)
        # The store has halted, so the next try writes nothing anywhere.
        self.assertTrue(send().startswith("4"))
        self.assertEqual(server.bodies(whole), {})
        server.kill()
        disk.unmount()
        disk.mount()
        server.start()
        self.assertTrue(send().startswith("250"))
        for account in (0, 1):
            self.assertEqual(len(server.bodies(account)), 1)
        verified = server.command("store", "verify")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)


class FlippedByte(kura.TestCase):
    """Damage to one message is found, and costs that message alone."""

    COUNT = 20

    def setUp(self):
        name = self.id().rpartition(".")[2]
        self.marks = [f"MARK-{name}-{n:04}-MARK\r\n".encode() for n in range(self.COUNT)]
        self.sent = [
            messages.header(f"message {n}") + mark + messages.lines(5000, seed=n)
            for n, mark in enumerate(self.marks)
        ]
        if self.server.process is None:
            self.server.start()
        self.server.add_account(f"{name}@example.test")
        self.account = len(self.server.accounts) - 1
        for message in self.sent:
            self.assertTrue(self.server.deliver(message, to=self.account).startswith("250"))

    def flip(self, mark):
        """One bit, just behind where `mark` stands in a segment."""
        for path in glob.glob(f"{self.server.directory}/**/*", recursive=True):
            if not os.path.isfile(path):
                continue
            with open(path, "r+b") as file:
                offset = file.read().rfind(mark)
                if offset < 0:
                    continue
                offset += len(mark) + 100
                file.seek(offset)
                byte = file.read(1)[0]
                file.seek(offset)
                file.write(bytes([byte ^ 0x10]))
                os.fsync(file.fileno())
                # Direct reads see the disk, but tests should not depend on who reads how.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return path
        self.fail(f"{mark} is in no file")

    def check(self, damaged):
        imap = self.server.imap(self.account)
        imap.select("INBOX")
        whole, spoilt = 0, 0
        _, (uids,) = imap.uid("SEARCH", None, "ALL")
        for uid in uids.split():
            kind, data = imap.uid("FETCH", uid.decode(), "(BODY.PEEK[])")
            body = data[0][1] if data and isinstance(data[0], tuple) else None
            sent = body and body[body.find(b"From: Sender"):]
            if kind == "OK" and sent in self.sent:
                self.assertNotEqual(sent, self.sent[damaged])
                whole += 1
            else:
                # A damaged message is refused or left out; it is never handed out as
                # if it were whole.
                self.assertFalse(body and b"MARK" in body, "damaged bytes were handed out")
                spoilt += 1
        imap.logout()
        self.assertEqual(whole, self.COUNT - 1)
        self.assertLessEqual(spoilt, 1)
        verified = self.server.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 3, verified.stdout + verified.stderr)
        self.assertRegex(verified.stdout, r'"bad":\s*\[\s*"')
        # And mail goes on.
        self.assertTrue(self.server.deliver(self.sent[0], to=self.account).startswith("250"))

    def test_in_a_store_that_was_closed(self):
        self.server.stop()
        self.flip(self.marks[7])
        self.server.start()
        self.check(7)

    def test_in_the_part_of_the_log_that_is_read_after_a_kill(self):
        self.server.kill()
        self.flip(self.marks[7])
        self.server.start()
        self.check(7)

    def test_under_a_running_server(self):
        self.flip(self.marks[7])
        self.check(7)


if __name__ == "__main__":
    unittest.main()
