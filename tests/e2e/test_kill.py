"""`kill -9` under load: what was acknowledged is there once, whole; UIDs are never reused."""

import os
import tempfile
import time
import unittest

import kura
import messages
from ledger import Ledger

ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))
SEED = int(os.environ.get("KILL_SEED", "1"))
RATE = 1500  # messages a second: enough to always have some in flight, few enough to check them all


class Kill(kura.TestCase):
    def test_nothing_acknowledged_is_lost_and_nothing_comes_twice(self):
        with tempfile.TemporaryDirectory() as place:
            ledger = Ledger(self, self.server, os.path.join(place, "acknowledged"), SEED)
            for number in range(ROUNDS):
                with self.subTest(round=number):
                    ledger.load_until(number, RATE, 0.7, self.server.kill)
                    self.server.start()
                    ledger.check()
                    ledger.expunge_some()
            self.assertGreater(ledger.total(), ROUNDS * 10, "hardly any load")
            ledger.check_again_after_a_stop()
        print(f"\n  {ROUNDS} kills, {ledger.summary()}", end=" ")


class Stop(kura.TestCase):
    def test_a_graceful_stop_finishes_the_transactions_under_way(self):
        # Several, so that some are on another core than the account that they deliver to.
        wires, messages_sent = [], [messages.header(f"under way {n}") + b"text\r\n" for n in range(12)]
        for number, message in enumerate(messages_sent):
            wire = kura.Wire(self.server.ports["smtp"])
            self.addCleanup(wire.socket.close)
            wire.expect("220")
            wire.ask("EHLO client.example.net", "250")
            wire.ask("MAIL FROM:<sender@example.net>", "250")
            wire.ask(f"RCPT TO:<{self.server.accounts[number % 2][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message)[:20])
            wires.append(wire)
        time.sleep(0.1)
        self.server.process.terminate()
        time.sleep(0.5)
        replies = []
        for wire, message in zip(wires, messages_sent):
            wire.send(kura.stuffed(message)[20:])
            replies.append(wire.reply())
        self.server.stop()
        self.server.start()
        there = [*self.server.bodies(0).values(), *self.server.bodies(1).values()]
        for reply, message in zip(replies, messages_sent):
            self.assertTrue(reply.startswith("250"), reply)
            self.assertEqual(sum(body.endswith(message) for body in there), 1)

    def test_sessions_are_told_of_a_stop(self):
        with kura.Wire(self.server.ports["imap"]) as wire:
            wire.line()
            self.server.stop()
            self.assertTrue(wire.line().startswith(b"* BYE"))
        self.server.start()
        self.assertServes()


if __name__ == "__main__":
    unittest.main()
