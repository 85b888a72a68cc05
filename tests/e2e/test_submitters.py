"""Mail programs that submit, byte for byte: msmtp and nodemailer, over STARTTLS and implicit TLS."""

import base64
import json
import os
import subprocess
import unittest

import kura
import messages

# Debian's; a node of another make does not look there by itself.
NODEMAILER = "/usr/share/nodejs/nodemailer"
SEND = """
const nodemailer = require(process.env.NODEMAILER);
const it = JSON.parse(require('fs').readFileSync(0));
const transport = nodemailer.createTransport({
  host: '127.0.0.1', port: it.port, secure: it.secure, requireTLS: true, tls: { rejectUnauthorized: false },
  auth: { user: it.user, pass: it.password },
});
transport.sendMail({ envelope: { from: it.user, to: it.to }, raw: Buffer.from(it.message, 'base64') })
  .then((sent) => console.log(JSON.stringify({ accepted: sent.accepted, rejected: sent.rejected, response: sent.response })))
  .catch((error) => { console.error(error.responseCode + ' ' + error.response); process.exit(1); });
"""
NAMES = ["dots", "eight bits", "empty body", "folded", "blank lines"]


class Submitting(kura.TestCase):
    def each(self, send):
        """Every way, with messages that are hard to keep."""
        for service in ("submission", "submissions"):
            # How the connection is encrypted says nothing about the message.
            for name in NAMES if service == "submission" else NAMES[:2]:
                with self.subTest(f"{service}, {name}"):
                    message = messages.ODD[name]
                    done = send(service, message, [self.server.accounts[0][0]])
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertCameBack(self.newest(), message)

    def refuses(self, send, code):
        """A wrong password, and a recipient who does not exist: told as the server says it, and nothing is delivered."""
        before = len(self.server.bodies())
        for service in ("submission", "submissions"):
            done = send(service, messages.ODD["plain"], [self.server.accounts[0][0]], password="wrong")
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("535 5.7.8", done.stderr)
            done = send(service, messages.ODD["plain"], ["nobody@example.test"])
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("550 5.1.1 No such user here", done.stderr)
            self.assertIn(code, done.stderr)
        self.assertEqual(len(self.server.bodies()), before)
        self.assertServes()


@kura.has("msmtp")
class Msmtp(Submitting):
    def send(self, service, message, to, password=None):
        user, right = self.server.accounts[1]
        implicit = service == "submissions"
        return subprocess.run(
            ["msmtp", "--file=/dev/null", "--host=127.0.0.1", f"--port={self.server.ports[service]}", "--tls=on",
             f"--tls-starttls={'off' if implicit else 'on'}", "--tls-certcheck=off", "--auth=on", f"--user={user}",
             "--passwordeval=printenv SECRET", f"--from={user}", "--set-from-header=off", "--set-date-header=off",
             "--timeout=30", *to],
            input=message.replace(b"\r\n", b"\n"), capture_output=True, timeout=60, check=False,
            env={**os.environ, "SECRET": password or right},
        )

    def text(self, *arguments, **more):
        done = self.send(*arguments, **more)
        done.stderr = done.stderr.decode(errors="replace")
        return done

    def test_msmtp_submits_byte_for_byte(self):
        self.each(self.text)

    def test_msmtp_is_told_of_a_wrong_password_and_of_a_recipient_who_does_not_exist(self):
        # EX_NOPERM and EX_UNAVAILABLE are exit codes; the words are the server's.
        self.refuses(self.text, "msmtp: ")


@unittest.skipUnless(os.path.isdir(NODEMAILER), "no node-nodemailer on this host (tests/run installs it)")
@kura.has("node")
class Nodemailer(Submitting):
    def send(self, service, message, to, password=None):
        user, right = self.server.accounts[1]
        said = {
            "port": self.server.ports[service], "secure": service == "submissions", "user": user,
            "password": password or right, "to": to, "message": base64.b64encode(message).decode(),
        }
        return subprocess.run(
            ["node", "-e", SEND], input=json.dumps(said), capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "NODEMAILER": NODEMAILER},
        )

    def test_nodemailer_submits_byte_for_byte(self):
        self.each(self.send)

    def test_nodemailer_is_told_of_a_wrong_password_and_of_a_recipient_who_does_not_exist(self):
        self.refuses(self.send, "5")

    def test_nodemailer_is_told_of_each_recipient(self):
        known = self.server.accounts[0][0]
        done = self.send("submission", messages.ODD["plain"], [known, "nobody@example.test"])
        self.assertEqual(done.returncode, 0, done.stderr)
        said = json.loads(done.stdout)
        self.assertEqual((said["accepted"], said["rejected"]), ([known], ["nobody@example.test"]))
        self.assertIn("Durable as", said["response"])
        self.assertCameBack(self.newest(), messages.ODD["plain"])


if __name__ == "__main__":
    unittest.main()
