"""The benchmark suite runs, and its page holds every plot. Its numbers mean nothing in so short a run."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

import kura

SUITE = os.path.join(kura.ROOT, "benches", "run")
PLOTS = [
    "Time of a flush by its size", "Bandwidth of synced writes by their size",
    "4 KiB messages, one command at a time", "4 KiB messages, pipelined", "Flushes per message, 4 KiB",
    "p99 of the 250, 4 KiB",
    "16 sessions, each as fast as it is answered", "At half of the rate just found, open loop",
    "MB/s, 16 sessions", "Bytes written per byte received, 16 sessions",
    "Server CPU per message, 16 sessions", "p99 of the 250 by size, 16 sessions",
    "From exec to the SMTP greeting",
    "What the store takes", "Bytes written per byte received", "Latency of the 250 at",
    "The log while expunging", "Server CPU per message", "Envelopes of a mailbox",
]


def suite(*arguments):
    return subprocess.run(
        [sys.executable, "-B", SUITE, *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )


class Suite(unittest.TestCase):
    """One run of all parts, with loads of a tenth of a second and without the peers."""

    @classmethod
    def setUpClass(cls):
        place = tempfile.TemporaryDirectory(prefix="kura-e2e-suite-")
        cls.addClassCleanup(place.cleanup)
        cls.place = place.name
        cls.disk = os.path.join(cls.place, "disk")
        os.mkdir(cls.disk)
        cls.out = os.path.join(cls.place, "out")
        cls.done = suite("--tiny", "--no-peers", "--kura", kura.BINARY, "--dir", cls.disk,
                         "--out", cls.out, "--seed", "7")
        cls.json = os.path.join(cls.out, "suite.json")

    def found(self):
        with open(self.json) as file:
            return json.load(file)

    def page(self):
        with open(os.path.join(self.out, "suite.html")) as file:
            return file.read()

    def test_a_run_ends_well_and_leaves_nothing_on_the_disk(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        self.assertEqual(os.listdir(self.disk), [])

    def test_the_json_says_where_the_numbers_are_from(self):
        found = self.found()
        run = found["run"]
        for key in ["date", "command", "commit", "dirty", "binary", "kernel", "cores", "memory_bytes",
                    "device", "load_average_before", "scale"]:
            self.assertIn(key, run)
        self.assertEqual((run["seed"], run["scale"], run["peers"]), (7, "tiny", False))
        self.assertIn("measured in this run", found["profile"]["from"])
        self.assertEqual(found["failed"], [])

    def test_every_part_has_its_numbers(self):
        found = self.found()
        loads = {(r["bytes"], r["sessions"], r["pipelining"]) for r in found["rows"]}
        for load in [(4096, 1, False), (4096, 16, False), (4096, 16, True), (65536, 16, False)]:
            self.assertIn(load, loads)
        for row in found["rows"]:
            self.assertEqual((row["lost"], row["duplicates"], row["errors"]), (0, 0, 0), row)
            self.assertGreater(row["messages_per_second"], 0)
            self.assertLessEqual(row["p50_us"], row["p999_us"])
            self.assertGreater(row["own_bytes_per_flush"], 0)
        self.assertEqual(sum("half_load" in row for row in found["rows"]), 1)
        self.assertTrue(found["disk"]["points"] and found["disk_after"]["points"])
        messages = [point["messages"] for point in found["recovery"]]
        self.assertEqual(messages, sorted(set(messages)))
        for point in found["recovery"]:
            self.assertEqual(point["lost"], 0)
            self.assertGreater(min(point["seconds"]), 0)
        self.assertEqual([(f["server"], f["messages"]) for f in found["fetch"]], [("kura", 100)] * 2)
        self.assertEqual(found["fetch"][1]["state"], "warm")
        (parts,) = found["compaction"]
        self.assertEqual(parts["without"]["expunged"], 0)
        # For each account a share, which is rounded.
        self.assertAlmostEqual(parts["with"]["expunged"], parts["with"]["acknowledged"], delta=2)
        self.assertGreaterEqual(parts["with"]["written_per_byte"], 1)
        # What is expunged is not kept for days, else there were nothing to compact.
        self.assertLess(parts["with"]["live_bytes_grown"], parts["without"]["live_bytes_grown"] / 2)
        self.assertGreater(min(parts["beside"]["rounds"].values()), 0)

    def test_the_page_holds_every_plot_and_nothing_from_elsewhere(self):
        page = self.page()
        titles = re.findall(r"<svg[^>]*role=\"img\"[^>]*><title[^>]*>([^<]*)</title>", page)
        self.assertEqual(len(titles), len(PLOTS), titles)
        for title, wanted in zip(titles, PLOTS):
            self.assertTrue(title.startswith(wanted), f"{title!r} is not {wanted!r}")
        self.assertNotRegex(page, r"<script|<link|src=|https?://|@import|url\(|NaN|\bnan\b|\binf\b")

    def test_the_page_names_commit_profile_seed_and_command(self):
        page, run = self.page(), self.found()["run"]
        for words in [(run["commit"] or "not in a git tree")[:12], "measured in this run", "<dd>7</dd>",
                      "--tiny --no-peers", run["kernel"], "load average before"]:
            self.assertIn(words, page)

    def test_goals_that_were_not_measured_are_listed_as_such(self):
        page = self.page()
        self.assertIn("the peer was not measured in this run", page)
        self.assertIn("10 M were not tried", page)
        # Three of the design's figures are met or missed by any run of Kura alone.
        self.assertGreaterEqual(len(re.findall(r'class="(?:met|missed)"', page)), 3)

    def test_no_text_leaves_its_plot(self):
        for svg in re.findall(r"<svg[^>]*role=\"img\".*?</svg>", self.page(), re.DOTALL):
            tree = xml.fromstring(svg)
            _, _, width, height = map(float, tree.get("viewBox").split())
            for text in (each for each in tree.iter("text") if not each.get("transform")):
                x, y, half = float(text.get("x")), float(text.get("y")), len(text.text) * 5.5 / 2
                left = {"middle": x - half, "end": x - 2 * half, "start": x}[text.get("text-anchor")]
                self.assertTrue(0 <= left <= width - 2 * half and 8 <= y <= height, text.text)

    def test_the_page_is_drawn_anew_from_the_json(self):
        again = os.path.join(self.place, "again")
        done = suite("--page-from", self.json, "--out", again)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(again, "suite.html")) as file:
            self.assertEqual(file.read(), self.page())

    def test_a_json_without_a_part_says_that_it_was_not_measured(self):
        found = self.found()
        del found["recovery"]
        page = self.redraw(json.dumps(found), 0)
        self.assertIn("Not measured in this run.", page)
        self.assertNotIn("From exec to the SMTP greeting", page)

    def test_a_profile_without_a_curve_is_enough(self):
        found = self.found()
        del found["profile"]["profile"]["curve"]
        self.assertIn("The profile has no such curve", self.redraw(json.dumps(found), 0))

    def test_a_lost_message_stands_at_the_top_and_fails_the_suite(self):
        found = self.found()
        found["rows"][0]["lost"] = 3
        problem = self.redraw(json.dumps(found), 1)
        self.assertIn("3 lost", problem)
        with open(os.path.join(self.place, "changed", "suite.html")) as file:
            self.assertIn("<li>Wrong: kura", file.read())

    def test_a_malformed_json_is_one_line(self):
        good = self.found()
        for change, words in [
            (lambda: "{ not json", "suite.json"),
            (lambda: "[]", "`run`"),
            (lambda: json.dumps({**good, "version": 99}), "99"),
            (lambda: json.dumps({k: v for k, v in good.items() if k != "failed"}), "'failed'"),
            (lambda: json.dumps({**good, "rows": [{"server": "kura"}]}), "lacks"),
            (lambda: json.dumps({**good, "recovery": "soon"}), "a value is not what it should be"),
        ]:
            with self.subTest(words):
                problem = self.redraw(change(), 1)
                self.assertEqual(len(problem.strip().splitlines()), 1, problem)
                self.assertIn(words, problem)

    def redraw(self, text, code):
        """The page of this JSON; or, with code 1, what the suite says."""
        place = os.path.join(self.place, "changed")
        os.makedirs(place, exist_ok=True)
        with open(os.path.join(place, "suite.json"), "w") as file:
            file.write(text)
        done = suite("--page-from", os.path.join(place, "suite.json"), "--out", place)
        self.assertEqual(done.returncode, code, done.stderr)
        if code:
            return done.stderr
        with open(os.path.join(place, "suite.html")) as file:
            return file.read()


if __name__ == "__main__":
    unittest.main()
