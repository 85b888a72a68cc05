"""Backups of a server under load, broken off and gone on with, restored elsewhere and compared."""

import base64
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import disks
import kura


def run(*arguments, environment=None):
    return subprocess.run(
        [kura.BINARY, *arguments], capture_output=True, text=True, timeout=120, check=False,
        env=environment,
    )


def objects(place):
    """Paths of all pieces in a backup directory."""
    found = []
    for folder, _, names in os.walk(os.path.join(place, "objects")):
        found += [os.path.join(folder, name) for name in names]
    return sorted(found)


def everything(server):
    """All messages of all accounts, as {(account, mailbox, UID): (flags, bytes)}."""
    found = {}
    for number, (address, _) in enumerate(server.accounts):
        imap = server.imap(number)
        for mailbox in ("INBOX", "Archive"):
            _, (count,) = imap.select(mailbox, readonly=True)
            if int(count) == 0:
                continue
            _, data = imap.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")
            for part in data:
                if isinstance(part, tuple):
                    head = part[0].decode()
                    uid = int(head.split("UID ")[1].split()[0].rstrip(")"))
                    flags = head.split("FLAGS (")[1].split(")")[0]
                    found[address, mailbox, uid] = (flags.replace("\\Recent", "").strip(), part[1])
        imap.logout()
    return found


class Backup(kura.TestCase):
    def setUp(self):
        self.place = tempfile.mkdtemp(prefix="kura-backup-")
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.server = kura.Kura()
        self.addCleanup(self.server.remove)
        self.server.start()

    @classmethod
    def setUpClass(cls):
        pass

    def fill(self, count=30, size=20_000):
        for number in range(count):
            body = (f"Subject: {number}\r\n\r\n" + f"line {number} of many\r\n" * (size // 20)).encode()
            self.assertTrue(self.server.deliver(body, to=number % 2).startswith("250"))
        imap = self.server.imap()
        imap.select("INBOX")
        imap.uid("STORE", "1:3", "+FLAGS", r"(\Flagged kept)")
        imap.uid("COPY", "2:4", "Archive")
        imap.uid("STORE", "5", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.logout()

    def backup(self, *more):
        done = self.server.command("store", "backup", "--to", self.place, "--json", *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def restored(self):
        """A server on what the newest backup gives."""
        other = kura.Kura()
        self.addCleanup(other.remove)
        done = run("store", "restore", "--from", self.place, "--dir", other.directory, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return other

    def compare(self, expected):
        self.server.stop()
        other = self.restored().start()
        found = everything(other)
        self.assertEqual(sorted(found), sorted(expected))
        for key, value in expected.items():
            self.assertTrue(found[key] == value, f"{key} differs")
        verified = other.command("store", "verify", "--json")
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)
        self.assertTrue(other.deliver(b"Subject: new\r\n\r\nIt goes on.\r\n").startswith("250"))
        other.stop()

    def test_it_is_named_after_the_time_as_of_which_it_is(self):
        self.fill(3)
        taken = self.backup()
        as_of = taken["as_of"].replace("-", "").replace(":", "").rstrip("Z")
        self.assertEqual(taken["name"][:15], as_of)
        lists = ("store", "restore", "--from", self.place, "--list")
        self.assertIn(f"{taken['name']}  as of {taken['as_of']}, ended {taken['ended']}  ", run(*lists).stdout)
        # One of before says when it ended.
        manifest = os.path.join(self.place, "manifests", taken["name"] + ".json")
        with open(manifest) as file:
            body = re.sub(r'"as_of_unix_millis":\d+,', "", file.read().rsplit("\n", 2)[0]) + "\n"
        with open(manifest, "w") as file:
            file.write(body + hashlib.sha256(body.encode()).hexdigest() + "\n")
        self.assertIn(f"{taken['name']}  ended {taken['ended']}  ", run(*lists).stdout)
        self.assertEqual(json.loads(run(*lists, "--json").stdout)[0]["as_of"], None)

    def test_hot_then_stopped_and_only_what_is_new_is_sent(self):
        self.fill()
        first = self.backup()
        self.assertEqual(first["pieces_sent"], first["pieces"])
        self.assertEqual(self.backup()["pieces_sent"], 0)
        self.assertTrue(self.server.deliver(b"Subject: more\r\n\r\nmore\r\n").startswith("250"))
        expected = everything(self.server)
        self.server.stop()
        stopped = self.backup()
        self.assertEqual(stopped["messages"], first["messages"] + 1)
        self.assertLess(stopped["pieces_sent"], stopped["pieces"] + 1)
        self.server.start()
        self.compare(expected)

    def test_what_classifiers_have_learned_comes_along(self):
        self.teach(self.server)
        self.backup()
        self.server.stop()
        other = self.restored()
        other.accounts = list(self.server.accounts)
        self.assertTaught(other)

    def test_files_that_the_configuration_names_come_along(self):
        elsewhere = tempfile.mkdtemp(prefix="kura-elsewhere-")
        self.addCleanup(shutil.rmtree, elsewhere, ignore_errors=True)
        own, = glob.glob(f"{self.server.directory}/certificates/*/chain.pem")
        with open(own) as file:
            certificate = file.read()
        named = {"gateway.password": "secret\n", "gateway.pem": certificate, "rules.toml": "", "first.sieve": "keep;\n",
                 "xx.zone": "203.0.113.0/24\n", "relay.pem": certificate}
        for name, text in named.items():
            with open(os.path.join(elsewhere, name), "w") as file:
                file.write(text)
        self.server.stop()
        self.server.configure(r"^\[spam\]\n", f'[spam]\nrules = "{elsewhere}/rules.toml"\n')
        self.server.configure(r"^\[sieve\]\n", f'[sieve]\nbefore = "{elsewhere}/first.sieve"\n')
        self.server.configure(r"^deny_files = \[\]\n", f'deny_files = ["{elsewhere}/xx.zone"]\n')
        self.server.configure(r"^\[relay\]\n", f'[relay]\nca_file = "{elsewhere}/relay.pem"\n')
        with open(os.path.join(self.server.directory, "kura.toml"), "a") as file:
            file.write(f'\n[[smart_host]]\nhost = "gateway.test"\nuser = "u"\n'
                       f'password_file = "{elsewhere}/gateway.password"\nca_file = "{elsewhere}/gateway.pem"\n')
        self.server.start()
        with open(os.path.join(self.server.directory, "old.dump"), "wb") as file:
            file.truncate(17 << 20)
        os.mkdir(os.path.join(self.server.directory, "notes"))
        # As certbot has it.
        os.rename(own, os.path.join(elsewhere, "chain1.pem"))
        os.symlink(os.path.join(elsewhere, "chain1.pem"), own)
        dump, notes = sorted(self.backup()["left_out"], key=lambda line: "notes" in line)
        self.assertIn("old.dump: it has 17 MiB", dump)
        self.assertIn("notes: it is a directory", notes)
        os.remove(file.name)
        self.server.stop()
        shutil.rmtree(elsewhere)
        other = self.restored().start()
        with open(os.path.join(other.directory, "smart-host-1.password")) as file:
            self.assertEqual(file.read(), "secret\n")
        with open(own.replace(self.server.directory, other.directory)) as chain:
            self.assertEqual(chain.read(), certificate)
        self.assertEqual(os.stat(file.name).st_mode & 0o077, 0)
        with open(os.path.join(other.directory, "kura.toml")) as file:
            self.assertNotIn(elsewhere, file.read())
        other.stop()

    def load(self, seconds, *more):
        return subprocess.Popen(
            [
                kura.BINARY, "bench", "smtp", "--target", f"127.0.0.1:{self.server.ports['smtp']}",
                "--to", ",".join(address for address, _ in self.server.accounts),
                "--messages", "1000000", "--open-rate", "300", "--sessions", "8", "--bytes", "20000",
                "--seconds", str(seconds), "--json", *more,
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def test_under_load_killed_and_gone_on_with(self):
        log = os.path.join(self.place + ".acknowledged")
        self.addCleanup(lambda: os.path.exists(log) and os.unlink(log))
        # What was acknowledged is written down when a load has ended: so there are two.
        self.load(4, "--log", log).wait(60)
        with open(log) as lines:
            before = {line.split()[0] for line in lines}
        self.assertGreater(len(before), 100)
        load = self.load(120)
        self.addCleanup(load.wait)
        self.addCleanup(load.kill)
        arrived = lambda: self.server.json("store", "stats")["messages"]
        self.assertTrue(kura.eventually(lambda: arrived() > len(before) + 100, 30), "no load")
        command = [
            kura.BINARY, "store", "backup", "--to", self.place, "--json", "--dir", self.server.directory,
        ]
        # A quick disk may be done before the kill: then another time, into an empty place.
        for _ in range(10):
            shutil.rmtree(self.place, ignore_errors=True)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as backup:
                end = time.monotonic() + 30
                while not objects(self.place) and time.monotonic() < end:
                    time.sleep(0.001)
                backup.send_signal(signal.SIGKILL)
            self.assertTrue(objects(self.place), "the backup sent nothing")
            if not os.path.exists(os.path.join(self.place, "manifests")):
                break
        else:
            self.fail("killed too late, ten times")
        refused = run("store", "restore", "--from", self.place, "--dir", self.place + ".none")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("no backup in it was ever finished", refused.stderr)
        taken = self.backup()
        # Whether a piece of the first one is used depends on which was sent; the incremental
        # test sees to that.
        self.assertIsNone(load.poll(), "the load has ended before the backup")
        load.kill()
        load.wait()
        self.server.stop()
        other = self.restored().start()
        texts = [text for _, text in everything(other).values()]
        identities = set()
        for text in texts:
            for line in text.split(b"\r\n\r\n", 1)[0].split(b"\r\n"):
                if line.lower().startswith(b"message-id:"):
                    identities.add(line.split(b":", 1)[1].strip().decode())
        self.assertGreaterEqual(taken["messages"], len(before))
        missing = {one for one in before if one not in identities}
        self.assertEqual(len(missing), 0, f"acknowledged before the backup, and not in it: {list(missing)[:3]}")
        self.assertEqual(len(texts), taken["messages"])
        other.stop()

    def test_a_flipped_byte_and_a_missing_piece_are_named_and_nothing_is_restored(self):
        self.fill(6)
        self.backup()
        piece = objects(self.place)[0]
        with open(piece, "r+b") as file:
            file.seek(9000)
            byte = file.read(1)
            file.seek(9000)
            file.write(bytes([byte[0] ^ 4]))
        target = self.place + ".restored"
        self.addCleanup(shutil.rmtree, target, ignore_errors=True)
        refused = run("store", "restore", "--from", self.place, "--dir", target)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertIn("is damaged", refused.stderr)
        self.assertIn(os.path.basename(piece), refused.stderr)
        self.assertIn("segment 1", refused.stderr)
        # All that is damaged is named, not the first of it alone.
        other = objects(self.place)[-1]
        hidden = other + ".hidden"
        os.rename(other, hidden)
        checked = run("store", "restore", "--from", self.place, "--check")
        self.assertEqual(checked.returncode, 3, checked.stderr)
        for path, what in ((piece, "its checksum does not match"), (other, "it is missing")):
            self.assertRegex(checked.stdout, f"{os.path.basename(path)} .shard ., segment .*: {what}; needed by ")
        self.assertIn("2 objects of it damaged", checked.stdout)
        self.assertIn("none that was looked at is whole", checked.stdout)
        os.rename(hidden, other)
        self.assertFalse(os.path.exists(os.path.join(target, "store")))
        self.assertFalse(os.path.exists(os.path.join(target, "store.restoring")))
        self.assertFalse(os.path.exists(target), "what it had made is left behind")
        # Nor is it taken for the place of a store.
        before = sorted(os.listdir(self.place))
        for inside in (self.place, os.path.join(self.place, "new")):
            refused = run("store", "restore", "--from", self.place, "--dir", inside)
            self.assertEqual(refused.returncode, 1, refused.stdout)
            self.assertIn("in the backup itself", refused.stderr)
        self.assertEqual(sorted(os.listdir(self.place)), before)
        os.unlink(piece)
        refused = run("store", "restore", "--from", self.place, "--dir", target)
        self.assertIn("it is missing", refused.stderr)
        # The next backup sends again what is missing.
        self.assertGreater(self.backup()["pieces_sent"], 0)
        self.assertEqual(run("store", "restore", "--from", self.place, "--check").returncode, 0)

    def test_a_copy_does_not_remove_the_backups_of_its_original(self):
        self.fill(6)
        messages = self.backup()["messages"]
        other = self.restored()
        backup = ("store", "backup", "--to", self.place, "--keep", "1", "--dir", other.directory)
        refused = run(*backup)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertIn("--take-over", refused.stderr)
        self.backup()
        listed = json.loads(run("store", "restore", "--from", self.place, "--list", "--json").stdout)
        self.assertEqual([one["messages"] for one in listed], [messages, messages])
        taken = run(*backup, "--take-over")
        self.assertEqual(taken.returncode, 0, taken.stderr)
        self.assertEqual(run(*backup).returncode, 0)
        original = run("store", "backup", "--to", self.place, "--dir", self.server.directory)
        self.assertIn("--take-over", original.stderr)
        lines = run("store", "restore", "--from", self.place, "--list").stdout.splitlines()
        self.assertEqual(len(lines), 1)
        self.assertIn(f"  {messages} messages  ", lines[0])
        self.compare(everything(self.server))

    def test_what_was_rolled_back_does_not_mix_with_what_was_to_come(self):
        self.server.small_segments()
        snapshot = self.place + ".snapshot"
        self.addCleanup(shutil.rmtree, snapshot, ignore_errors=True)
        first = self.backup()
        self.server.stop()
        shutil.copytree(self.server.directory, snapshot)
        lines = {}
        for line in ("gone", "goes on"):
            self.server.start()
            # More than two segments, in messages of one length.
            for number in range(12):
                text = f"Subject: {line:8} {number:4}\r\n\r\n".encode()
                text += base64.encodebytes(os.urandom(750_000)).replace(b"\n", b"\r\n")
                self.assertTrue(self.server.deliver(text).startswith("250"))
            lines[line] = everything(self.server)
            self.server.stop()
            if line == "gone":
                self.backup()
                shutil.rmtree(self.server.directory)
                shutil.copytree(snapshot, self.server.directory)
        backup = ("store", "backup", "--to", self.place, "--json", "--dir", self.server.directory)
        refused = run(*backup)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertIn("rolled back", refused.stderr)
        self.assertIn("--take-over", refused.stderr)
        taken = self.backup("--take-over")
        self.assertEqual(taken["pieces_sent"], taken["pieces"])
        self.assertEqual(self.backup()["pieces_sent"], 0)
        # The older ones stay, of their own time.
        listed = json.loads(run("store", "restore", "--from", self.place, "--list", "--json").stdout)
        self.assertEqual([one["messages"] for one in listed], [first["messages"]] + [first["messages"] + 12] * 3)
        self.assertEqual(run("store", "restore", "--from", self.place, "--check").returncode, 0)
        old = kura.Kura()
        self.addCleanup(old.remove)
        done = run("store", "restore", "--from", self.place, "--dir", old.directory, "--backup", listed[1]["name"])
        self.assertEqual(done.returncode, 0, done.stderr)
        old.accounts = list(self.server.accounts)
        old.start()
        self.assertTrue(everything(old) == lines["gone"])
        old.stop()
        self.server.start()
        self.compare(lines["goes on"])

    def test_a_place_of_before_goes_on_and_is_not_mixed_either(self):
        """Markers had no token, and the generation was that of the directory's secret."""
        self.fill(3)
        self.server.stop()
        with open(os.path.join(self.server.directory, "layout.toml")) as file:
            secret = bytes.fromhex(re.search(r'secret = "(\w+)"', file.read())[1])
        generation = hashlib.sha256(b"kura generation " + secret).hexdigest()[:16]
        marker = os.path.join(self.place, "kura-backup.json")
        self.backup()
        with open(marker) as file:
            new = json.load(file)
        os.rename(os.path.join(self.place, "objects", new["generation"]), os.path.join(self.place, "objects", generation))
        (name,) = os.listdir(os.path.join(self.place, "manifests"))
        path = os.path.join(self.place, "manifests", name)
        with open(path) as file:
            body = file.read().rsplit("\n", 2)[0].replace(new["generation"], generation) + "\n"
        with open(path, "w") as file:
            file.write(body + hashlib.sha256(body.encode()).hexdigest() + "\n")
        before = json.dumps({"format": 1, "store": new["store"], "generation": generation})
        with open(marker, "w") as file:
            file.write(before)
        self.assertEqual(run("store", "restore", "--from", self.place, "--check").returncode, 0)
        self.assertEqual(self.backup()["pieces_sent"], 0)
        # A store that is behind its newest backup was rolled back.
        with open(marker, "w") as file:
            file.write(before)
        newest = sorted(os.listdir(os.path.join(self.place, "manifests")))[-1]
        path = os.path.join(self.place, "manifests", newest)
        with open(path) as file:
            body = re.sub(r'"lsn":\d+', '"lsn":999999999', file.read().rsplit("\n", 2)[0], count=1) + "\n"
        with open(path, "w") as file:
            file.write(body + hashlib.sha256(body.encode()).hexdigest() + "\n")
        refused = run("store", "backup", "--to", self.place, "--dir", self.server.directory)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertIn("--take-over", refused.stderr)

    def test_what_the_retention_has_let_go_since_is_no_difference(self):
        """The restored store forgets it as soon as it is open."""
        self.server.stop()
        self.server.configure(r'^retention = .*', 'retention = "2s"')
        self.server.start()
        self.fill(20)
        expected = everything(self.server)
        self.backup()
        self.server.stop()
        time.sleep(3)
        other = self.restored()
        other.accounts = list(self.server.accounts)
        other.start()
        self.assertEqual(everything(other), expected)
        self.assertEqual(other.command("store", "verify").returncode, 0)
        other.stop()

    def test_uids_of_what_came_after_the_backup_are_not_given_out_again(self):
        def uids(server):
            imap = server.imap()
            imap.select("INBOX", readonly=True)
            validity = imap.untagged_responses["UIDVALIDITY"][0]
            _, (found,) = imap.uid("SEARCH", "ALL")
            imap.logout()
            return validity, [int(uid) for uid in found.split()]

        for number in range(2):
            self.assertTrue(self.server.deliver(b"Subject: old\r\n\r\nold\r\n").startswith("250"))
        self.backup()
        self.assertTrue(self.server.deliver(b"Subject: lost\r\n\r\nlost\r\n").startswith("250"))
        validity, before = uids(self.server)
        self.assertEqual(before, [1, 2, 3])
        self.server.stop()
        other = self.restored().start()
        self.assertTrue(other.deliver(b"Subject: new\r\n\r\nnew\r\n").startswith("250"))
        self.assertEqual(uids(other)[0], validity)
        first, second, new = uids(other)[1]
        self.assertEqual([first, second], before[:2])
        self.assertGreater(new, before[2])
        other.stop()

    def test_a_small_file_that_is_damaged_keeps_no_mail_from_coming_back(self):
        self.fill(4)
        expected = everything(self.server)
        self.backup()
        self.server.stop()
        (name,) = os.listdir(os.path.join(self.place, "manifests"))
        with open(os.path.join(self.place, "manifests", name)) as file:
            files = json.loads(file.readline())["files"]
        (chain,) = [one for one in files if one["path"].endswith("chain.pem")]
        for part in [one for one in files if one["path"] in ("kura.toml", "layout.toml")] + [chain]:
            with open(os.path.join(self.place, "files", part["sha256"]), "r+b") as file:
                file.write(b"??")
        other = kura.Kura()
        self.addCleanup(other.remove)
        restore = ("store", "restore", "--from", self.place, "--dir", other.directory)
        refused = run(*restore)
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (1, 1), refused.stderr)
        self.assertIn("(kura.toml): its checksum does not match", refused.stderr)
        self.assertIn("put a kura.toml of your own into", refused.stderr)
        shutil.copy(os.path.join(self.server.directory, "kura.toml"), other.directory)
        done = run(*restore)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn(f"but without {chain['path']}: ", done.stdout)
        chain = os.path.join(other.directory, chain["path"])
        self.assertFalse(os.path.exists(chain))
        shutil.copy(chain.replace(other.directory, self.server.directory), chain)
        other.accounts = list(self.server.accounts)
        other.start()
        self.assertEqual(everything(other), expected)
        other.stop()

    def test_a_disk_that_is_not_mounted_gets_no_backups_in_its_stead(self):
        self.fill(2)
        away = os.path.join(self.place, "mnt", "backup")
        refused = self.server.command("store", "backup", "--to", away)
        self.assertEqual((refused.returncode, refused.stderr.count("\n")), (1, 1), refused.stderr)
        self.assertIn(f"there is no directory {os.path.dirname(away)}; if a disk belongs there, mount it", refused.stderr)
        self.assertEqual(os.listdir(self.place), [])
        # The place of its mount is there, and empty.
        first, second = os.path.join(self.place, "one"), os.path.join(self.place, "two")
        begun = self.server.command("store", "backup", "--to", first)
        self.assertNotIn("a new place", begun.stdout, begun.stderr)
        self.assertNotIn("a new place", self.server.command("store", "backup", "--to", first).stdout)
        other = self.server.command("store", "backup", "--to", second)
        self.assertEqual(other.returncode, 0, other.stderr)
        self.assertIn(f"a new place was begun: {second} was empty", other.stdout)

    def test_bad_places_are_one_clear_line(self):
        self.fill(2)
        self.backup()
        other = kura.Kura()
        self.addCleanup(other.remove)
        other.start()
        foreign = other.command("store", "backup", "--to", self.place)
        self.assertEqual(foreign.returncode, 1)
        self.assertIn("backups of another store", foreign.stderr)
        occupied = run("store", "restore", "--from", self.place, "--dir", other.directory)
        self.assertIn("holds a store already", occupied.stderr)
        other.stop()
        plain = tempfile.mkdtemp(prefix="kura-plain-")
        self.addCleanup(shutil.rmtree, plain, ignore_errors=True)
        with open(os.path.join(plain, "something"), "w") as file:
            file.write("else")
        for arguments in (
            ["store", "backup", "--to", plain, "--dir", self.server.directory],
            ["store", "restore", "--from", plain, "--dir", plain + ".none"],
        ):
            refused = run(*arguments)
            self.assertEqual((refused.returncode, refused.stderr.count("\n")), (1, 1), refused.stderr)
            self.assertIn("is not a Kura backup", refused.stderr)
        os.rename(os.path.join(plain, "something"), os.path.join(plain, "lost+found"))
        fresh = run("store", "backup", "--to", plain, "--dir", self.server.directory)
        self.assertEqual(fresh.returncode, 0, fresh.stderr)
        missing = run("store", "restore", "--from", plain + ".none", "--dir", plain)
        self.assertIn("no such directory", missing.stderr)
        (name,) = os.listdir(os.path.join(self.place, "manifests"))
        path = os.path.join(self.place, "manifests", name)
        with open(path) as file:
            body = file.read().rsplit("\n", 2)[0].replace('"format":1', '"format":9') + "\n"
        with open(path, "w") as file:
            file.write(body + hashlib.sha256(body.encode()).hexdigest() + "\n")
        newer = run("store", "restore", "--from", self.place, "--check")
        self.assertEqual(newer.returncode, 3, newer.stderr)
        self.assertIn("format 9", newer.stdout)

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("mount"), "mounts a small file system")
    def test_a_full_target_says_so_and_the_next_try_goes_on(self):
        self.fill(60, 200_000)
        small = tempfile.mkdtemp(prefix="kura-small-")
        self.addCleanup(shutil.rmtree, small, ignore_errors=True)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", small], capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest("can't mount a tmpfs here")
        self.addCleanup(subprocess.run, ["umount", small], check=False)
        full = self.server.command("store", "backup", "--to", small)
        self.assertEqual(full.returncode, 1, full.stdout)
        self.assertIn("free some space there", full.stderr)
        self.assertServes()
        subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
        done = self.server.command("store", "backup", "--to", small, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(run("store", "restore", "--from", small, "--check").returncode, 0)

    def test_a_restore_onto_a_full_disk_says_how_much_is_missing(self):
        disk = disks.LoopDisk(self, 4)
        self.fill(3)
        self.backup()
        to = os.path.join(disk.place, "restored")
        # What is live is less than the room that segments take.
        with open(os.path.join(disk.place, "taken"), "wb") as file:
            file.write(bytes(2 << 20))
        done = run("store", "restore", "--from", self.place, "--dir", to)
        self.assertEqual(done.returncode, 1, done.stdout)
        for words in [to, "MiB free", "MiB more", "what was written is removed"]:
            self.assertIn(words, done.stderr)
        self.assertFalse(os.path.exists(to), "what it had made is left behind")

    def test_what_fails_at_its_last_step_can_be_started_again(self):
        self.fill(3)
        messages = self.backup()["messages"]
        self.server.stop()
        for make in (["restore", "--from", self.place, "--dir"], ["salvage", "--dir", self.server.directory, "--to"]):
            with self.subTest(make[0]):
                other = kura.Kura()
                self.addCleanup(other.remove)
                # Where the layout is to be written.
                stone = os.path.join(other.directory, "layout.new")
                os.mkdir(stone)
                failed = run("store", *make, other.directory)
                self.assertEqual(failed.returncode, 1, failed.stdout)
                self.assertIn("can be started again", failed.stderr)
                left = [name for name in os.listdir(other.directory) if name.startswith("store") or name == "layout.toml"]
                self.assertEqual(left, [])
                os.rmdir(stone)
                again = run("store", *make, other.directory, "--json")
                self.assertEqual(again.returncode, 0, again.stderr)
                if make[0] == "restore":
                    self.assertEqual(json.loads(again.stdout)["messages"], messages)
                occupied = run("store", *make, other.directory)
                self.assertIn("holds a store already", occupied.stderr)

    def test_what_is_interrupted_says_what_is_left_where_and_what_to_do(self):
        self.fill(10)
        self.backup()
        before = self.server.bodies()
        self.server.stop()
        for make, staging in ((["restore", "--from", self.place, "--dir"], "store.restoring"),
                              (["salvage", "--dir", self.server.directory, "--to"], "store.salvaging")):
            for seen in (staging, "store"):
                with self.subTest(make[0], seen=seen):
                    other = kura.Kura()
                    self.addCleanup(other.remove)
                    other.accounts = list(self.server.accounts)
                    making = subprocess.Popen([kura.BINARY, "store", *make, other.directory], stdout=subprocess.PIPE,
                                              stderr=subprocess.PIPE, text=True)
                    seen = os.path.join(other.directory, seen)
                    while not os.path.exists(seen) and making.poll() is None:
                        pass
                    making.send_signal(signal.SIGINT)
                    out, error = making.communicate(timeout=30)
                    self.assertEqual(making.returncode, 130, out + error)
                    self.assertIn(f"the {make[0]} was broken off", error)
                    if "no store was made" in error:
                        self.assertIn(f"what was written so far is in {other.directory}/{staging}", error)
                        again = run("store", *make, other.directory)
                        self.assertEqual(again.returncode, 0, again.stderr)
                    else:
                        self.assertIn(f"kura serve --config {other.directory}/kura.toml", error)
                    other.start()
                    self.assertEqual(other.bodies(), before)
                    other.stop()

    def test_a_clock_that_was_ahead_makes_no_backup_the_newest_for_good(self):
        self.fill(2)
        for number in range(2):
            name = self.backup()["name"]
            manifests = os.path.join(self.place, "manifests")
            os.rename(os.path.join(manifests, name + ".json"), os.path.join(manifests, f"2100010{number + 1}T000000000Z.json"))
        self.assertTrue(self.server.deliver(b"Subject: more\r\n\r\nmore\r\n").startswith("250"))
        taken = self.backup("--keep", "2")
        self.assertEqual((taken["name"], taken["ahead"]), ("21000102T000000001Z", "21000102T000000000Z"))
        self.assertEqual(sorted(os.listdir(manifests)), ["21000102T000000000Z.json", "21000102T000000001Z.json"])
        checked = json.loads(run("store", "restore", "--from", self.place, "--check", "--json").stdout)
        self.assertEqual((checked["name"], checked["messages"]), (taken["name"], taken["messages"]))
        said = self.server.command("store", "backup", "--to", self.place)
        self.assertIn("the clock was ahead then", said.stdout)

    def test_old_backups_go_and_what_is_kept_stays_whole(self):
        self.fill(4)
        for number in range(4):
            self.server.deliver(f"Subject: {number}\r\n\r\nx\r\n".encode())
            last = self.backup("--keep", "2")
        self.assertEqual(last["backups_removed"], 1)
        self.assertGreater(last["objects_removed"], 0)
        names = sorted(os.listdir(os.path.join(self.place, "manifests")))
        self.assertEqual(len(names), 2)
        for name in names:
            done = run("store", "restore", "--from", self.place, "--check", "--backup", name[:-5])
            self.assertEqual(done.returncode, 0, done.stderr)
        # What only the older one needs is looked at, too.
        self.assertEqual(run("store", "restore", "--from", self.place, "--check").returncode, 0)
        wanted = [set(re.findall(r'"sha256":"(\w+)"', open(os.path.join(self.place, "manifests", name)).read())) for name in names]
        digest = lambda path: hashlib.sha256(open(path, "rb").read()).hexdigest()
        # Where the newest is not whole, the newest that is is named.
        (only, *_) = [path for path in objects(self.place) if digest(path) in wanted[1] - wanted[0]]
        shutil.copy(only, only + "#")
        with open(only, "r+b") as file:
            file.write(b"?")
        done = run("store", "restore", "--from", self.place, "--check", "--json")
        self.assertEqual(done.returncode, 3, done.stdout)
        said = json.loads(done.stdout)
        self.assertEqual(said["whole"], names[0][:-5])
        self.assertEqual([one["backups"] for one in said["objects"]], [[names[1][:-5]]])
        os.rename(only + "#", only)
        (only, *_) = [path for path in objects(self.place) if digest(path) in wanted[0] - wanted[1]]
        with open(only, "r+b") as file:
            file.write(b"?")
        done = run("store", "restore", "--from", self.place, "--check")
        self.assertEqual(done.returncode, 3, done.stdout)
        self.assertRegex(done.stdout, f"backup {names[1][:-5]} is whole")
        self.assertRegex(done.stdout, f"{os.path.basename(only)} .*; needed by {names[0][:-5]}\n")
        self.assertIn(f"older backup {names[0][:-5]}: 1 object of it damaged", done.stdout)


if __name__ == "__main__":
    unittest.main()
