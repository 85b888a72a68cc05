"""What an operator does with a host's profile: measure, look, plan, and check again."""

import json
import os
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree as xml

import kura


def cli(*arguments, cwd=None):
    return subprocess.run(
        [kura.BINARY, "profile", *arguments], capture_output=True, text=True, timeout=120,
        check=False, cwd=cwd,
    )


class Probe(unittest.TestCase):
    """One probe of three seconds for all tests of the class; on the disk that the tests run on."""

    @classmethod
    def setUpClass(cls):
        place = tempfile.TemporaryDirectory(prefix="kura-e2e-profile-")
        cls.addClassCleanup(place.cleanup)
        cls.place = place.name
        cls.disk = os.path.join(cls.place, "disk")
        os.mkdir(cls.disk)
        cls.file = os.path.join(cls.place, "measured.toml")
        start = time.monotonic()
        cls.done = cli("probe", "--dir", cls.disk, "--time", "3s", "--out", cls.file, "--json")
        cls.seconds = time.monotonic() - start

    def test_the_budget_is_kept_and_nothing_is_left_behind(self):
        # 3: what was measured is not to be trusted, on tmpfs, say. It worked all the same.
        self.assertIn(self.done.returncode, (0, 3), self.done.stderr)
        self.assertLess(self.seconds, 30)
        self.assertEqual(os.listdir(self.disk), [])

    def test_progress_is_plain_lines_when_nobody_watches(self):
        for phase in ["flush curve", "chains in flight", "metadata", "CPU"]:
            self.assertIn(phase, self.done.stderr)
        self.assertNotIn("\r", self.done.stderr)

    def test_everything_is_in_the_profile(self):
        said = json.loads(self.done.stdout)
        profile = said["profile"]
        for key in ["date", "kernel", "command"]:
            self.assertTrue(profile[key], key)
        self.assertIn("--time 3s", profile["command"])
        self.assertEqual({p["path"] for p in profile["curve"]}, {"write_fdatasync", "o_dsync", "rwf_dsync"})
        for key in ["chains", "throughput", "sustained", "metadata", "cpu"]:
            self.assertTrue(profile[key], key)
        for key in ["segment_bytes", "compaction_bytes_per_second", "zstd_level"]:
            self.assertIn("value", said["knobs"][key])
        self.assertIsInstance(said["findings"], list)

    def test_the_picture_is_an_svg_with_the_curve(self):
        tree = xml.parse(os.path.join(self.place, "measured.svg"))
        text = "".join(tree.getroot().itertext())
        for words in ["bytes in one durable write", "1 stream", "operating point"]:
            self.assertIn(words, text)

    def test_the_picture_is_written_over_nothing_else(self):
        with tempfile.TemporaryDirectory(prefix="kura-e2e-picture-") as place:
            picture = os.path.join(place, "disk.svg")
            with open(picture, "w") as file:
                file.write("a drawing")
            for out, say in (("new.svg", "new.toml"), ("disk.toml", "disk.svg is there already")):
                done = cli("probe", "--dir", place, "--time", "1s", "--out", os.path.join(place, out))
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(say, done.stderr)
            with open(picture) as file:
                self.assertEqual(file.read(), "a drawing")
            self.assertEqual(os.listdir(place), ["disk.svg"])

    def test_show_prints_figures_and_knobs_with_their_origin(self):
        shown = cli("show", "--profile", self.file)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        for word in ["p99 µs", "RWF_DSYNC", "zstd", "RSA-2048", "segment_bytes", "from:", "    = "]:
            self.assertIn(word, shown.stdout)

    def test_knobs_set_by_hand_win_and_outlive_another_probe(self):
        copy = os.path.join(self.place, "copy.toml")
        with open(self.file) as file, open(copy, "w") as out:
            out.write(file.read() + "\n[knobs]\nzstd_level = 7\n")
        shown = json.loads(cli("show", "--profile", copy, "--json").stdout)
        self.assertEqual(shown["knobs"]["zstd_level"]["value"], 7)
        cli("probe", "--dir", self.disk, "--time", "1s", "--out", copy)
        shown = json.loads(cli("show", "--profile", copy, "--json").stdout)
        self.assertEqual(shown["knobs"]["zstd_level"]["value"], 7)

    def test_a_misspelt_knob_is_named(self):
        wrong = os.path.join(self.place, "wrong.toml")
        with open(self.file) as file, open(wrong, "w") as out:
            out.write(file.read() + "\n[knobs]\nzstd_levle = 7\n")
        shown = cli("show", "--profile", wrong)
        self.assertEqual(shown.returncode, 1)
        self.assertIn("zstd_levle", shown.stderr)

    def test_a_file_that_is_no_profile_is_not_overwritten(self):
        precious = os.path.join(self.place, "precious.toml")
        with open(precious, "w") as out:
            out.write("precious = true\n")
        done = cli("probe", "--dir", self.disk, "--time", "1s", "--out", precious)
        self.assertEqual(done.returncode, 1)
        self.assertIn("not overwritten", done.stderr)
        with open(precious) as file:
            self.assertEqual(file.read(), "precious = true\n")

    def test_a_plan_for_this_host(self):
        asked = ["--users", "10", "--quota", "100M", "--mails-per-day", "500", "--profile", self.file]
        done = cli("plan", *asked, "--json")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        plan = json.loads(done.stdout)
        self.assertGreater(plan["needed_capacity_bytes"], 10 * 100 << 20)
        self.assertEqual(plan["shortfalls"], [])
        self.assertIn("this host carries that", cli("plan", *asked).stdout)


class Plans(unittest.TestCase):
    def test_where_a_host_falls_short_is_said_and_is_an_exit_code(self):
        done = cli("plan", "--users", "10000", "--quota", "50G", "--mails-per-day", "9000000",
                   "--endurance-tb", "100", "--profile", "small-vm")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertNotIn("this host", done.stdout.replace("measures this host's", ""))
        for word in ["a host as the profile small-vm has it falls short", "disk:", "memory:", "rate:", "device life:"]:
            self.assertIn(word, done.stdout)

    def test_shipped_profiles_show_and_say_that_they_were_not_measured(self):
        for name in ["nvme-plp", "nvme-consumer", "sata-ssd", "raid-bbu", "rotating", "cloud-block", "small-vm"]:
            done = cli("show", "--profile", name)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("not measured on this host", done.stdout, name)
            self.assertNotRegex(done.stdout, "(?m)^measured", name)

    def test_mistakes_are_one_line_that_says_how_to_mend_it(self):
        with tempfile.TemporaryDirectory() as empty:
            for arguments, words in [
                (["show", "--profile", "nvme"], ["nvme-plp", "sata-ssd"]),
                (["probe", "--dir", "/nowhere/kura", "--time", "1s"], ["/nowhere/kura"]),
                (["probe", "--dir", empty, "--out", "/nowhere/p.toml"], ["/nowhere", "--out"]),
                (["plan", "--users", "1", "--quota", "1G", "--mails-per-day", "1"], ["kura.toml", "--profile"]),
                (["check"], ["kura.toml"]),
            ]:
                done = cli(*arguments, cwd=empty)
                self.assertEqual(done.returncode, 1, arguments)
                last = done.stderr.strip().splitlines()[-1]
                for word in words:
                    self.assertIn(word, last, arguments)

    def test_every_command_has_help_with_an_example(self):
        for command in ["probe", "show", "check", "plan"]:
            done = cli(command, "--help")
            self.assertEqual(done.returncode, 0, command)
            self.assertIn(f"Example: kura profile {command}", done.stdout)


class Check(kura.TestCase):
    def profile(self):
        return os.path.join(self.server.directory, "profile.toml")

    def test_the_host_is_what_its_profile_says_until_somebody_changes_it(self):
        done = self.server.command("profile", "check", "--json")
        said = json.loads(done.stdout)
        # Figures may drift on a busy host; facts may not.
        changed = [check for check in said["checks"] if check["verdict"] == "changed"]
        self.assertEqual(changed, [], done.stdout)
        self.assertEqual(done.returncode, 0 if said["same"] else 3)

        with open(self.profile()) as file:
            good = file.read()
        kernel = json.loads(self.server.command("profile", "show", "--json").stdout)["profile"]["kernel"]
        with open(self.profile(), "w") as file:
            file.write(good.replace(kernel, "2.6.32"))
        try:
            done = self.server.command("profile", "check")
            self.assertEqual(done.returncode, 3, done.stdout)
            self.assertIn("changed  kernel: was 2.6.32", done.stdout)
        finally:
            with open(self.profile(), "w") as file:
                file.write(good)
        self.assertServes()


if __name__ == "__main__":
    unittest.main()
