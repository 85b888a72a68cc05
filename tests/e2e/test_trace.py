"""What has become of messages: told by account, by other people's addresses, by Message-ID, running and stopped."""

import json
import unittest

import kura


class Traced(kura.TestCase):
    def trace(self, *arguments):
        done = self.server.command("trace", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def told(self, *arguments):
        done = self.server.command("trace", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_mail_is_told_by_whom_it_is_to_by_whom_it_is_from_and_by_its_id(self):
        ann, bob = (address for address, _ in self.server.accounts)
        for number in range(3):
            body = f"From: Carl <carl@c.test>\r\nTo: {ann}\r\nSubject: offer {number}\r\nMessage-ID: <{number}@c.test>\r\n\r\nx\r\n"
            self.assertTrue(self.server.deliver(body.encode(), to=0).startswith("250"))
        self.assertTrue(self.server.deliver(b"From: dan@d.test\r\nSubject: other\r\n\r\nx\r\n", to=1).startswith("250"))
        imap = self.server.imap()
        imap.select("INBOX")
        imap.uid("MOVE", "2", "Junk")
        imap.uid("STORE", "3", "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.logout()

        def check():
            all_of_ann = self.trace(ann)["messages"]
            self.assertEqual([row["subject"] for row in all_of_ann if row["mailbox"] == "Junk"], ["offer 1"])
            there = {row["subject"]: row["expunged"] for row in all_of_ann if row["mailbox"] == "INBOX"}
            self.assertIsNone(there["offer 0"])
            self.assertRegex(there["offer 2"], r"^20\d\d-.*Z$")
            self.assertIn("127.0.0.1", all_of_ann[0]["received"])
            of_carl = self.trace("CARL@c.test")["messages"]
            self.assertEqual({row["account"] for row in of_carl}, {ann})
            self.assertEqual({row["subject"] for row in of_carl}, {"offer 0", "offer 1", "offer 2"})
            (one,) = self.trace("<0@c.test>")["messages"]
            self.assertEqual((one["uid"], one["message_id"], one["account"]), (1, "<0@c.test>", ann))
            (one,) = self.trace(bob)["messages"]
            self.assertEqual((one["subject"], one["account"]), ("other", bob))
            self.assertEqual(self.trace("nobody@nowhere.test"), {"messages": [], "all": 0, "queue": [], "queue_all": 0})

        check()
        text = self.told("<1@c.test>")
        self.assertIn(f"{ann} in Junk, UID 1,", text)
        self.assertIn("subject: offer 1", text)
        self.assertRegex(self.told("<2@c.test>"), r"in INBOX, UID 3, \d+ octets, expunged 20")
        self.assertIn("nothing has come since then", self.told("nobody@nowhere.test"))
        done = self.server.command("trace", "carl")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("neither an address nor a Message-ID", done.stderr)
        self.server.stop()
        check()
        self.server.start()

    def test_subjects_are_told_as_people_read_them_and_do_no_harm(self):
        bob = self.server.accounts[1][0]
        encoded = "=?utf-8?B?R3LDvMOfZSDigK5mZHAuZXhlGw==?= =?iso-8859-1?Q?aus_K=F6ln?="
        body = f"From: =?utf-8?Q?J=C3=B6rg?= <joerg@e.test>\r\nSubject: {encoded}\r\nMessage-ID: <enc@e.test>\r\n\r\nx\r\n"
        self.assertTrue(self.server.deliver(body.encode(), to=1).startswith("250"))
        text = self.told("<enc@e.test>")
        self.assertIn("subject: Grüße \\u{202e}fdp.exeaus Köln\n", text)
        self.assertIn("from: Jörg <joerg@e.test>\n", text)
        self.assertNotIn("\x1b", text)
        imap = self.server.imap(1)
        imap.select("INBOX")
        (uid,) = imap.uid("SEARCH", None, "HEADER", "Message-ID", "enc@e.test")[1]
        imap.uid("STORE", uid.decode(), "+FLAGS", r"(\Deleted)")
        imap.expunge()
        imap.logout()
        gone = self.server.command("store", "undelete", "--account", bob, "--since", "1h").stdout
        self.assertIn("Grüße \\u{202e}fdp.exeaus Köln", gone)

    def test_many_are_told_as_the_latest_of_all(self):
        _, bob = (address for address, _ in self.server.accounts)
        before = self.trace(bob)["all"]
        smtp = self.server.smtp()
        for number in range(230):
            smtp.sendmail("", [bob], f"Subject: many {number}\r\n\r\nx\r\n")
        smtp.quit()
        told = self.trace(bob)
        self.assertEqual((told["all"], len(told["messages"])), (before + 230, 200))
        self.assertEqual(told["messages"][-1]["subject"], "many 229")
        self.assertIn(f"(200 of {before + 230}", self.told(bob))


if __name__ == "__main__":
    unittest.main()
