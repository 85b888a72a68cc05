"""A store that is damaged so that nothing serves it: what is salvaged, and read by a user afterwards."""

import glob
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import disks
import kura
import messages


def run(*arguments):
    return subprocess.run(
        [kura.BINARY, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def contents(directory):
    """Checksums of all files below the store."""
    found = {}
    for path in glob.glob(f"{directory}/store/**/*", recursive=True):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                found[path] = hashlib.sha256(file.read()).hexdigest()
    return found


def flags_and_bodies(server, account, mailbox):
    imap = server.imap(account)
    _, (count,) = imap.select(mailbox, readonly=True)
    validity = int(imap.untagged_responses["UIDVALIDITY"][0])
    found = {}
    if int(count):
        _, data = imap.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")
        for part in data:
            if isinstance(part, tuple):
                head = part[0].decode()
                flags = head.split("FLAGS (")[1].split(")")[0].replace("\\Recent", "").strip()
                found[int(head.split("UID ")[1].split()[0].rstrip(")"))] = (flags, part[1])
    imap.logout()
    return validity, found


class Salvage(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        pass

    def setUp(self):
        self.server = kura.Kura()
        self.addCleanup(self.server.remove)
        self.server.start()
        self.place = tempfile.mkdtemp(prefix="kura-salvaged-")
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.fill()
        self.before = self.everything(self.server)
        self.server.stop()

    def fill(self):
        for number in range(30):
            size = 400_000 if number % 10 == 9 else 3000
            message = messages.header(f"number {number}") + messages.lines(size, seed=number)
            for account in (0, 1):
                self.assertTrue(self.server.deliver(message, to=account).startswith("250"))
        imap = self.server.imap(0)
        imap.create("Work")
        imap.select("INBOX")
        imap.uid("COPY", "3:5", "Work")
        imap.uid("STORE", "2,4", "+FLAGS", r"(\Flagged $label)")
        imap.uid("STORE", "7", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.logout()

    def everything(self, server):
        boxes = [(0, "INBOX"), (0, "Work"), (1, "INBOX")]
        return {box: flags_and_bodies(server, *box) for box in boxes}

    def shards(self):
        return sorted(glob.glob(os.path.join(self.server.directory, "store/shard-*")))

    def segments(self, shard):
        """Files of the log that are in use."""
        used = []
        for path in sorted(glob.glob(os.path.join(shard, "log-*"))):
            with open(path, "rb") as file:
                if file.read(7) == b"KURASEG":
                    used.append(path)
        return used

    def refuses_to_serve(self, why):
        with self.assertRaises(kura.Failed) as refused:
            self.server.start()
        self.assertIn(why, str(refused.exception))

    def salvage(self, code):
        before = contents(self.server.directory)
        done = run(
            "store", "salvage", "--dir", self.server.directory, "--to", self.place, "--json"
        )
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertEqual(contents(self.server.directory), before, "the source was touched")
        return json.loads(done.stdout)

    def serve(self):
        fresh = kura.Kura(self.place)
        self.addCleanup(fresh.remove)
        fresh.accounts = list(self.server.accounts)
        fresh.start()
        verified = fresh.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)
        return fresh

    def test_without_any_index_and_with_broken_headers(self):
        for shard in self.shards():
            for path in glob.glob(os.path.join(shard, "checkpoint-*")):
                os.unlink(path)
            with open(os.path.join(shard, "superblock"), "r+b") as file:
                file.write(b"\xFF" * 8192)
            # The header of the first segment, and of its first batch.
            with open(self.segments(shard)[0], "r+b") as file:
                for offset in (20, 4096 + 20):
                    file.seek(offset)
                    byte = file.read(1)[0]
                    file.seek(offset)
                    file.write(bytes([byte ^ 0x40]))
        said = self.salvage(0)
        self.assertEqual((said["messages_lost"], said["records_lost"]), (0, 0), said)
        self.assertGreater(len(said["damage"]), 0)
        counted = {one["address"]: (one["saved"], one["lost"]) for one in said["by_account"]}
        self.assertEqual(sum(saved for saved, _ in counted.values()), said["messages"])
        self.assertLessEqual({address for address, _ in self.server.accounts}, set(counted))
        fresh = self.serve()
        self.assertEqual(self.everything(fresh), self.before)
        # What was given out last is not known: UIDs go on far above. What was expunged can
        # be brought back.
        self.assertTrue(fresh.deliver(b"Subject: new\r\n\r\nx\r\n").startswith("250"))
        self.assertEqual(max(flags_and_bodies(fresh, 0, "INBOX")[1]), 31 + (1 << 26))
        undelete = fresh.command(
            "store", "undelete", "--account", fresh.accounts[0][0], "--since", "1h", "--json"
        )
        self.assertEqual(json.loads(undelete.stdout)["all"], 1, undelete.stdout)

    def test_what_classifiers_have_learned_is_kept(self):
        self.server.start()
        self.teach(self.server)
        self.server.stop()
        for shard in self.shards():
            for path in glob.glob(os.path.join(shard, "checkpoint-*")):
                os.unlink(path)
            with open(os.path.join(shard, "superblock"), "r+b") as file:
                file.write(b"\xFF" * 8192)
            self.damage(self.segments(shard)[0], "erased")
        said = self.salvage(0)
        self.assertEqual(said["records_lost"], 0, said)
        self.assertTaught(self.serve())

    def test_a_missing_shard_keeps_the_server_off_and_costs_its_own_mail_alone(self):
        shards = self.shards()
        if len(shards) < 2:
            self.skipTest("one shard only")
        shutil.rmtree(shards[1])
        self.refuses_to_serve("is missing")
        said = self.salvage(3)
        self.assertEqual(said["shards_missing"], [1])
        self.assertEqual(len(said["emptied"]), 1)
        fresh = self.serve()
        lost = [address for address, _ in fresh.accounts].index(said["emptied"][0])
        for (account, mailbox), was in self.before.items():
            if account == lost:
                self.assertTrue(mailbox == "Work" or not flags_and_bodies(fresh, account, mailbox)[1])
            else:
                self.assertEqual(flags_and_bodies(fresh, account, mailbox), was)
        # Its owner logs in as before, and gets mail.
        self.assertTrue(fresh.deliver(b"Subject: new\r\n\r\nx\r\n", to=lost).startswith("250"))
        self.assertEqual(len(fresh.bodies(lost)), 1)

    def test_without_the_directory_mail_is_kept_under_names_that_say_so(self):
        shards = self.shards()
        if len(shards) < 2:
            self.skipTest("one shard only")
        shutil.rmtree(shards[0])
        os.unlink(os.path.join(self.server.directory, "layout.toml"))
        self.refuses_to_serve("layout.toml")
        said = self.salvage(3)
        self.assertEqual(said["shards_missing"], [0])
        self.assertEqual(len(said["named"]), 1, said)
        fresh = self.serve()
        named = said["named"][0]
        self.assertRegex(named["address"], r"^salvaged-\d+@")
        fresh.accounts = [(named["address"], named["password"])]
        bodies = [body for _, body in flags_and_bodies(fresh, 0, "INBOX")[1].values()]
        sent = [was for (_, box), (_, was) in self.before.items() if box == "INBOX"]
        self.assertIn(sorted(bodies), [sorted(body for _, body in was.values()) for was in sent])

    def test_without_the_directory_what_is_on_hold_has_an_address_again(self):
        shards = self.shards()
        if len(shards) < 2:
            self.skipTest("one shard only")
        server = self.server
        server.start()
        # One that was removed, and one that is there, both at home on the other shard.
        server.add_account("dora@example.test")
        server.add_account("emil@example.test")
        homes = {entry["address"]: entry["shard"] for entry in server.json("account", "list")}
        at_home = [address for address, shard in homes.items() if shard == 1]
        gone, there = at_home[-1], at_home[0]
        self.assertNotEqual(gone, there)
        message = messages.header("held") + messages.lines(3000, seed=7)
        self.assertTrue(server.deliver(message, to=gone).startswith("250"))
        for address in (gone, there):
            self.assertEqual(server.command("account", "hold", "add", address).returncode, 0)
        self.assertEqual(server.command("account", "remove", gone).returncode, 0)
        server.stop()
        shutil.rmtree(shards[0])
        said = self.salvage(3)
        self.assertEqual(len(said["held"]), 2, said)
        fresh = kura.Kura(self.place)
        self.addCleanup(fresh.remove)
        fresh.start()
        listed = {one["account"]: one for one in fresh.json("account", "hold", "list")}
        self.assertEqual(set(listed), {"there", "removed"})
        self.assertEqual({one["address"] for one in listed.values()}, set(said["held"]))
        held = listed["removed"]["address"]
        self.assertRegex(held, r"^salvaged-\d+@")
        place = os.path.join(self.place, "export")
        written = fresh.command("store", "undelete", "--account", held, "--since", "3650d", "--export", place)
        self.assertEqual(written.returncode, 0, written.stderr)
        (name,) = os.listdir(os.path.join(place, "INBOX", "cur"))
        with open(os.path.join(place, "INBOX", "cur", name), "rb") as file:
            self.assertTrue(file.read().endswith(message))
        # Its number is never another's.
        self.assertEqual(fresh.command("domain", "add", "example.test").returncode, 0)
        fresh.add_account("new@example.test")
        numbers = [one["number"] for one in listed.values()]
        self.assertEqual(fresh.command("account", "hold", "add", "new@example.test").returncode, 0)
        latest = fresh.json("account", "hold", "list")
        self.assertEqual(len({one["number"] for one in latest}), 3, (numbers, latest))
        self.assertEqual(fresh.command("account", "hold", "remove", held, "--removed").returncode, 0)
        self.assertEqual(len(fresh.json("account", "hold", "list")), 2)

    def damage(self, path, way):
        """A file of the log goes wrong as a whole."""
        if way == "gone":
            os.unlink(path)
            return
        with open(path, "r+b") as file:
            if way == "erased":
                file.write(bytes(64))
            else:
                file.truncate(way)

    def test_a_log_that_has_lost_a_file_is_not_opened_and_nothing_of_it_is_wiped(self):
        # Before the first checkpoint there is only this file to say that there was mail.
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        for number in range(8):
            for account in (0, 1):
                self.assertTrue(server.deliver(b"Subject: %d\r\n\r\nx\r\n" % number, to=account).startswith("250"))
        server.kill()
        self.server = server
        backups = tempfile.mkdtemp(prefix="kura-backup-")
        self.addCleanup(shutil.rmtree, backups, ignore_errors=True)
        for shard in self.shards():
            self.assertEqual(glob.glob(shard + "/checkpoint-*"), [])
            (victim,) = self.segments(shard)
            with open(victim, "rb") as file:
                whole = file.read()
            first = shard == self.shards()[0]
            for way in ("gone", "erased", 0, 4096) if first else ("erased",):
                with self.subTest(shard=os.path.basename(shard), way=way):
                    self.damage(victim, way)
                    before = contents(server.directory)
                    backup = [["backup", "--to", backups]] if way == "gone" else []
                    for command in (["verify"], *backup):
                        done = server.command("store", *command)
                        self.assertEqual(done.returncode, 1, f"{command}: {done.stdout}{done.stderr}")
                        self.assertIn("missing", done.stderr)
                        self.assertIn("kura store salvage", done.stderr)
                    self.refuses_to_serve("missing")
                    # The other shard may have been opened.
                    after = contents(server.directory)
                    changed = [path for path in before if after.get(path) != before[path]]
                    self.assertEqual([path for path in changed if path.startswith(shard)], [])
                    self.assertEqual([path for path in changed if "/log-" in path], [])
                    if way in ("gone", "erased"):
                        self.assertIn(os.path.basename(victim), done.stderr)
                    with open(victim, "wb") as file:
                        file.write(whole)
        (victim,) = self.segments(self.shards()[0])
        self.damage(victim, "erased")
        said = self.salvage(0)
        self.assertIn(os.path.basename(victim), str(said["damage"]))
        fresh = self.serve()
        for account in (0, 1):
            self.assertEqual(len(fresh.bodies(account)), 8)

    def test_without_checkpoints_and_headers_nothing_is_wiped(self):
        for shard in self.shards():
            for path in glob.glob(os.path.join(shard, "checkpoint-*")):
                os.unlink(path)
            self.damage(self.segments(shard)[0], "erased")
        before = contents(self.server.directory)
        self.refuses_to_serve("kura store salvage")
        after = contents(self.server.directory)
        self.assertEqual([path for path in before if after.get(path) != before[path]], [])
        self.assertEqual(self.salvage(0)["messages_lost"], 0)
        self.assertEqual(self.everything(self.serve()), self.before)

    def test_more_losses_than_are_listed_are_counted_by_account(self):
        ann = self.server.accounts[0][0]
        self.server.start()
        with kura.Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            for number in range(1100):
                for command, code in [("MAIL FROM:<x@y.test>", "250"), (f"RCPT TO:<{ann}>", "250"), ("DATA", "354"),
                                      (f"Subject: {number}\r\n\r\nx\r\n.", "250")]:
                    wire.ask(command, code)
        self.server.stop()
        # Checkpoints know them; their records are gone.
        for shard in self.shards():
            for path in self.segments(shard):
                os.unlink(path)
        done = run("store", "salvage", "--dir", self.server.directory, "--to", self.place)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"(?m)^lost: \d+ messages more than are listed here")
        self.assertRegex(done.stdout, rf"(?m)^{ann}: 0 messages saved, 11\d\d lost$")

    def test_a_superblock_that_is_lost_is_told_at_the_start(self):
        with open(os.path.join(self.shards()[0], "superblock"), "w"):
            pass
        self.server.start()
        self.assertLogged("shard-0 is empty: it is made anew, and the index from", self.server)
        self.server.stop()
        self.server.start()
        self.assertEqual(self.everything(self.server), self.before)

    def test_what_is_missing_is_named(self):
        shard = self.shards()[0]
        victim = self.segments(shard)[0]
        os.unlink(victim)
        said = self.salvage(3)
        self.assertGreater(said["segments_missing"], 0)
        self.assertRegex(str(said["damage"]), r"segments? \d+ .*missing")
        for path in glob.glob(shard + "/*"):
            os.unlink(path)
        shutil.rmtree(self.place)
        done = run("store", "salvage", "--dir", self.server.directory, "--to", self.place)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertIn("missing: shard 0", done.stdout)
        self.assertIn("unknown", done.stdout)

    def test_an_end_of_the_log_that_is_missing_is_said_in_words(self):
        self.server.start()
        for number in range(8):
            for account in (0, 1):
                self.assertTrue(self.server.deliver(messages.header(f"last {number}") + b"x\r\n", to=account).startswith("250"))
        self.server.kill()
        shard = self.shards()[0]
        newest = [path for path in self.server.segments() if path.startswith(shard)][-1]
        whole = os.stat(newest).st_size
        os.truncate(newest, 8192)
        done = run("store", "salvage", "--dir", self.server.directory, "--to", self.place)
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        name = os.path.basename(newest)
        self.assertRegex(done.stdout, rf"(?m)^missing: the end of the log of shard 0: {name}, .* cut off after 8192 of {whole} bytes\. .* the last record"
                                      r" found is LSN \d+, of 20.*Z.*nobody knows")
        if len(self.shards()) > 1:
            self.assertRegex(done.stdout, r"shard \d was written to until 20")
        self.assertRegex(done.stdout, r"(?m)^lost, as far as is known: ")

    def test_without_the_config_file_the_data_directory_is_enough(self):
        os.remove(os.path.join(self.server.directory, "kura.toml"))
        for name, octets in (("small.txt", 5), ("large.bin", 17 << 20)):
            with open(os.path.join(self.server.directory, name), "wb") as file:
                file.truncate(octets)
        before = contents(self.server.directory)
        done = run("store", "salvage", "--dir", self.server.directory, "--to", self.place)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(contents(self.server.directory), before, "the source was touched")
        self.assertIn("the config file was lost", done.stdout)
        self.assertIn(os.path.join(self.place, "kura.toml"), done.stdout)
        large = os.path.join(self.server.directory, "large.bin")
        self.assertRegex(done.stdout, rf"(?m)^not taken along: {large}: it has 17 MiB, and .*; copy it if it is needed$")
        self.assertNotIn("small.txt", done.stdout)
        self.assertTrue(os.path.exists(os.path.join(self.place, "small.txt")))
        self.assertFalse(os.path.exists(os.path.join(self.place, "large.bin")))
        listed = run("account", "list", "--dir", self.place)
        for address, _ in self.server.accounts:
            self.assertIn(address, listed.stdout, listed.stderr)
        verified = run("store", "verify", "--dir", self.place)
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)

    def test_neither_config_file_nor_store(self):
        done = run("store", "salvage", "--dir", "/nowhere", "--to", self.place)
        self.assertEqual(done.returncode, 1)
        self.assertIn("--dir DATA", done.stderr)

    def test_a_full_disk_is_said_and_left_empty(self):
        disk = disks.LoopDisk(self, 12)
        to = os.path.join(disk.place, "saved")
        done = run("store", "salvage", "--dir", self.server.directory, "--to", to)
        self.assertEqual(done.returncode, 1, done.stdout)
        for words in [to, "MiB free", "MiB more", "what was written is removed"]:
            self.assertIn(words, done.stderr)
        self.assertEqual([name for name in os.listdir(to) if name.startswith("store")], [])

    def test_a_running_server_and_a_directory_that_is_taken_are_left_alone(self):
        self.server.start()
        done = run("store", "salvage", "--dir", self.server.directory, "--to", self.place)
        self.assertEqual(done.returncode, 1)
        self.assertIn("stop the server", done.stderr)
        self.server.stop()
        self.salvage(0)
        done = run("store", "salvage", "--dir", self.server.directory, "--to", self.place)
        self.assertEqual(done.returncode, 1)
        self.assertIn("holds a store already", done.stderr)


if __name__ == "__main__":
    unittest.main()
