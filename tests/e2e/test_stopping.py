"""A stop keeps nobody waiting. When who is sent away is measured, so this runs while no other module does."""

import signal
import time
import unittest

import kura


class Stopping(kura.TestCase):
    def test_who_only_waits_is_sent_away_at_once_and_an_unfinished_message_at_the_deadline(self):
        self.server.stop()
        self.server.configure(r"shutdown_grace_seconds = \d+", "shutdown_grace_seconds = 2")
        self.server.start()

        def session(*commands):
            wire = kura.Wire(self.server.ports["smtp"])
            self.addCleanup(wire.socket.close)
            wire.expect("220")
            for command, code in [("EHLO x", "250"), *commands]:
                wire.ask(command, code)
            return wire

        envelope = [("MAIL FROM:<a@b.test>", "250"), (f"RCPT TO:<{self.server.accounts[0][0]}>", "250")]
        idle, within = session(), session(*envelope)
        writing, finishing = (session(*envelope, ("DATA", "354")) for _ in range(2))
        writing.send(b"Subject: half\r\n\r\n")
        finishing.send(b"Subject: whole\r\n\r\n")
        time.sleep(0.2)
        start = time.monotonic()
        self.server.process.send_signal(signal.SIGTERM)
        for wire in [idle, within]:
            wire.expect("421")
            self.assertEqual(wire.line(), b"")
        self.assertLess(time.monotonic() - start, 1)
        finishing.send(b"text\r\n.\r\n")
        finishing.expect("250")
        finishing.expect("421")
        self.assertLess(time.monotonic() - start, 1.5)
        writing.expect("421")
        self.assertGreater(time.monotonic() - start, 1.5)
        self.server.stop()
        self.assertLogged("stopped")


if __name__ == "__main__":
    unittest.main()
