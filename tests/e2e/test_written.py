"""People the account has written to: their mail is expected, where it is proved to be theirs."""

import re
import smtplib
import time
import unittest

import kura
import messages
import names

ZONE = """
friend TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.friend TXT "v=DMARC1; p=none"
other TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.other TXT "v=DMARC1; p=none"
forged TXT "v=spf1 -all"
_dmarc.forged TXT "v=DMARC1; p=none"
"""


@unittest.skipUnless(names.program("nsd"), "needs nsd")
class WrittenTo(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        names.serve_for(cls, {"test.": ZONE})
        super().setUpClass()
        cls.server.stop()
        cls.server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        cls.server.configure(r"^servers = .*$", f'servers = ["127.0.0.1:{cls.names.port}"]')
        cls.server.configure(r"^enabled = false$", "enabled = true", "relay")
        cls.server.configure(r"^port = 25$", f"port = {names.free_port()}")
        cls.server.start()
        with smtplib.SMTP("127.0.0.1", cls.server.ports["submission"], timeout=60) as smtp:
            smtp.starttls(context=kura.careless_tls())
            user, password = cls.server.accounts[0]
            smtp.login(user, password)
            smtp.sendmail(user, ["Ann@Friend.test", "bob@forged.test", cls.server.accounts[1][0]],
                          messages.header("to friends") + b"Hello.\r\n")
        # Whom it has written to is remembered behind the reply.
        time.sleep(1)

    def status(self, sender, to=0):
        """The X-Spam-Status of mail from there; `to`: one account or several."""
        recipients = [to] if isinstance(to, int) else to
        with kura.Wire(self.server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask(f"MAIL FROM:<{sender}>", "250")
            for each in recipients:
                wire.ask(f"RCPT TO:<{self.server.accounts[each][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(messages.header("answer", From=f"Them <{sender}>") + b"Hello.\r\n"))
            wire.expect("250")
        got = self.newest(recipients[0])
        return re.search(rb"^X-Spam-Status:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", got, re.M)[0].decode()

    def test_who_was_written_to_is_known_to_that_account_and_after_a_crash(self):
        self.assertIn("WRITTEN_TO=-3.0", self.status("ann@friend.test"))
        self.server.kill()
        self.server.start()
        self.assertIn("WRITTEN_TO=-3.0", self.status("ann@friend.test"))
        self.assertNotIn("WRITTEN_TO", self.status("ann@friend.test", to=1))
        self.assertNotIn("WRITTEN_TO", self.status("ann@friend.test", to=[0, 1]), "one verdict is for both")

    def test_nobody_else_is_known_and_nobody_without_a_proof(self):
        self.assertNotIn("WRITTEN_TO", self.status("ann@other.test"))
        self.assertNotIn("WRITTEN_TO", self.status("x@friend.test"))
        self.assertNotIn("WRITTEN_TO", self.status("bob@forged.test"))


if __name__ == "__main__":
    unittest.main()
