"""Runs modules of this folder one after the other: `run.py test_kill test_scrub`. One line for each test, with
its time; the last one is `N passed, M failed, K skipped`. A test of which subtests fail has failed once."""

import os
import sys
import time
import unittest


def owner(test):
    """The test that a subtest belongs to."""
    return getattr(test, "test_case", test).id()


class Result(unittest.TextTestResult):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.ran = []

    def startTest(self, test):
        super().startTest(test)
        self.ran.append(test.id())
        self.began = time.monotonic()

    def stopTest(self, test):
        super().stopTest(test)
        seconds, end = time.monotonic() - self.began, "ok"
        if test.id() in self.failed():
            end = "FAILED"
        elif test.id() in self.left():
            end = "skipped: " + next(why for one, why in self.skipped if owner(one) == test.id())
        self.stream.writeln(f"{seconds:7.1f} s  {test.id()}  {end}")
        self.stream.flush()

    def failed(self):
        wrong = {owner(test) for test, _ in self.failures + self.errors}
        return wrong | {test.id() for test in self.unexpectedSuccesses}

    def left(self):
        """Skipped; with a class or a module that is skipped as a whole, once."""
        return {owner(test) for test, _ in self.skipped} - self.failed()


def main(modules):
    sys.stderr = sys.stdout
    tests = unittest.defaultTestLoader.loadTestsFromNames(modules)
    runner = unittest.TextTestRunner(sys.stdout, verbosity=0, resultclass=Result, warnings="ignore")
    result = runner.run(tests)
    failed, left = result.failed(), result.left()
    passed = set(result.ran) - failed - left
    print(f"{len(passed)} passed, {len(failed)} failed, {len(left)} skipped", flush=True)
    return 1 if failed or not result.wasSuccessful() else 0


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    sys.exit(main(sys.argv[1:]))
