"""Certificates: asked for and taken in by hand, or issued and renewed by an ACME server, and served at once."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import unittest
import urllib.request

import kura
import names
from test_relay import until


def metrics(server):
    with open(f"{server.directory}/kura.toml") as file:
        address = re.search(r'\[metrics\]\s*listen = "([^"]+)"', file.read()).group(1)
    return urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()


def served(server, host, root):
    """The certificate, and its names, for a client that believes in `root` alone."""
    context = ssl.create_default_context(cafile=root)
    with socket.create_connection(("127.0.0.1", server.ports["imaps"]), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname=host) as tls:
            return [value for kind, value in tls.getpeercert()["subjectAltName"]], tls.getpeercert(True)


class Certificates(kura.TestCase):
    """Asked for, issued by an authority of the test's own, taken in, and served at once."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.place = tempfile.mkdtemp(prefix="kura-ca-")
        cls.addClassCleanup(shutil.rmtree, cls.place)
        with open(f"{cls.place}/ca.ext", "w") as file:
            file.write("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
        for name, by in [("root", None), ("between", "root"), ("other", None)]:
            names.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                          "-keyout", f"{cls.place}/{name}.key", "-subj", f"/CN={name}", "-out", f"{cls.place}/{name}.csr")
            cls.issue(name, by or name, extensions=True, own=by is None)

    @classmethod
    def issue(cls, name, by, days=30, extensions=False, own=False):
        issuer = ["-key", f"{cls.place}/{name}.key"] if own else [
            "-CA", f"{cls.place}/{by}.pem", "-CAkey", f"{cls.place}/{by}.key", "-CAcreateserial"]
        more = ["-extfile", f"{cls.place}/ca.ext"] if extensions else ["-copy_extensions", "copyall"]
        names.openssl("x509", "-req", "-in", f"{cls.place}/{name}.csr", *issuer, *more, "-days", str(days),
                      "-out", f"{cls.place}/{name}.pem")

    def command(self, *arguments, code=0):
        done = self.server.command(*arguments)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout if code == 0 else done.stderr

    def chain(self, *parts):
        path = f"{self.place}/chain-{len(os.listdir(self.place))}.pem"
        with open(path, "w") as file:
            for part in parts:
                file.write(open(f"{self.place}/{part}.pem").read())
        return path

    def request(self, host, *more, **how):
        with open(f"{self.place}/{host}.csr", "w") as file:
            file.write(self.command("cert", "csr", host, *more))
        self.issue(host, "between", **how)

    def served(self, host):
        return served(self.server, host, f"{self.place}/root.pem")

    def test_a_certificate_is_asked_for_taken_in_and_served_by_name(self):
        self.request("mail.c.test", "mta-sts.c.test")
        self.request("mail.d.test")
        said = self.command("cert", "import", "--chain", self.chain("mail.c.test", "between"), "--name", "mail.c.test")
        self.assertRegex(said, r"mail.c.test, mta-sts.c.test, (29|30) days left")
        self.command("cert", "import", "--chain", self.chain("mail.d.test", "between", "root"), "--name", "mail.d.test")
        # Without a restart, to each who asks for it.
        self.assertEqual(self.served("mail.c.test")[0], ["mail.c.test", "mta-sts.c.test"])
        self.assertEqual(self.served("mta-sts.c.test")[0], ["mail.c.test", "mta-sts.c.test"])
        self.assertEqual(self.served("mail.d.test")[0], ["mail.d.test"])
        keys = [path for path, _, files in os.walk(f"{self.server.directory}/certificates") if "request-key.pem" in files]
        self.assertEqual(keys, [], "what was asked for has come")
        # Renewed with the same key, TLSA records stay as they are.
        before = self.served("mail.d.test")[1]
        self.request("mail.d.test", "--keep-key", days=5)
        self.command("cert", "import", "--chain", self.chain("mail.d.test", "between"), "--name", "mail.d.test")
        after = self.served("mail.d.test")[1]
        self.assertNotEqual(before, after)

        def public(der):
            return names.openssl("x509", "-inform", "DER", "-pubkey", "-noout", given=der)

        self.assertEqual(public(before), public(after))
        listed = self.command("cert", "list")
        self.assertRegex(listed, r"mail.d.test: mail.d.test \(CN=between\), until 20\S+, [45] days left  RENEW SOON")
        self.assertRegex(metrics(self.server), r'kura_certificate_expires_seconds\{name="mail.d.test"\} [0-9]{10}')
        self.server.stop()
        self.server.start()
        self.assertTrue(kura.eventually(lambda: "expires soon" in self.server.log()), self.server.log())
        self.assertLogged("mail.d.test")

    def test_what_does_not_fit_is_refused_and_nothing_changes(self):
        self.request("mail.e.test")
        def listed():
            return re.sub(r"\d+ days", "", self.command("cert", "list"))

        before = listed()
        chain = self.chain("mail.e.test", "between")
        for words, arguments in [
            ("not for mail.example.test", ["--chain", chain]),
            ("not for mail.f.test", ["--chain", chain, "--name", "mail.f.test"]),
            ("does the key belong", ["--chain", chain, "--key", f"{self.place}/other.key", "--name", "mail.e.test"]),
            ("did not issue", ["--chain", self.chain("mail.e.test", "root"), "--name", "mail.e.test"]),
            ("none of the", ["--chain", self.chain("between", "root"), "--name", "between"]),
        ]:
            self.assertIn(words, self.command("cert", "import", *arguments, code=1))
        self.assertEqual(listed(), before)
        said = self.command("cert", "import", "--chain", self.chain("mail.e.test"), "--name", "mail.e.test")
        self.assertIn("but the chain ends with the host's own certificate", said)


class Pebble:
    """A real ACME server, whose certificates are good for seconds."""

    def __init__(self, names_port, http, https, seconds):
        self.place = tempfile.mkdtemp(prefix="kura-pebble-")
        self.port, self.management = names.free_port(), names.free_port()
        with open(f"{self.place}/ext", "w") as file:
            file.write("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        names.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                      "/CN=root", "-keyout", f"{self.place}/root.key", "-out", f"{self.place}/root.pem", "-days", "30")
        names.openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                      "/CN=pebble", "-keyout", f"{self.place}/key.pem", "-out", f"{self.place}/csr.pem")
        names.openssl("x509", "-req", "-in", f"{self.place}/csr.pem", "-CA", f"{self.place}/root.pem", "-CAkey",
                      f"{self.place}/root.key", "-CAcreateserial", "-extfile", f"{self.place}/ext", "-out",
                      f"{self.place}/cert.pem", "-days", "30")
        with open(f"{self.place}/config.json", "w") as file:
            json.dump({"pebble": {
                "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self.management}",
                "certificate": f"{self.place}/cert.pem", "privateKey": f"{self.place}/key.pem",
                "httpPort": http, "tlsPort": https, "ocspResponderURL": "", "certificateValidityPeriod": seconds,
            }}, file)
        self.log = open(f"{self.place}/log", "wb")
        command = ["pebble", "-config", f"{self.place}/config.json", "-dnsserver", f"127.0.0.1:{names_port}"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log,
                                        env={**os.environ, "PEBBLE_VA_NOSLEEP": "1"})
        self.directory = f"https://127.0.0.1:{self.port}/dir"

    def root(self):
        """Of the certificates that it issues."""
        context = ssl.create_default_context(cafile=f"{self.place}/root.pem")
        text = urllib.request.urlopen(f"https://127.0.0.1:{self.management}/roots/0", context=context, timeout=10).read()
        with open(f"{self.place}/issuing.pem", "wb") as file:
            file.write(text)
        return f"{self.place}/issuing.pem"

    def remove(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        shutil.rmtree(self.place)


@unittest.skipUnless(names.program("nsd"), "no nsd on this host")
@kura.has("pebble")
class Acme(unittest.TestCase):
    """Certificates that nobody has to think of, from Debian's pebble."""

    ADDRESSES = {"one": "127.0.0.3", "two": "127.0.0.4", "three": "127.0.0.5"}

    @classmethod
    def setUpClass(cls):
        zone = "".join(f"mail.{name} A {address}\nmta-sts.{name} A {address}\n" for name, address in cls.ADDRESSES.items())
        cls.names = names.NameServer({"test.": zone + "ns A 127.0.0.1\n"}).start()
        cls.addClassCleanup(cls.names.remove)
        cls.http, cls.https = names.free_port(), names.free_port()
        cls.pebble = Pebble(cls.names.port, cls.http, cls.https, seconds=6)
        cls.addClassCleanup(cls.pebble.remove)
        until("pebble", lambda: b"Listening on" in open(f"{cls.pebble.place}/log", "rb").read())

    def serving(self, name, challenge, address=None):
        """A server for mail.NAME.test; its first certificate is self-signed."""
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        server.stop()
        address = address or self.ADDRESSES[name]
        server.configure(r"^hostname = .*$", f'hostname = "mail.{name}.test"')
        server.configure(r"^listen = \[\]$", f'listen = ["{address}:{self.https}"]')
        server.configure(r"^http = \[\]$", f'http = ["{address}:{self.http}"]')
        server.configure(r"^certificates = \[\]\nchallenge = .*\nretry_first = .*$",
                         f'directory = "{self.pebble.directory}"\nca_file = "{self.pebble.place}/root.pem"\n'
                         f'certificates = [["mail.{name}.test", "mta-sts.{name}.test"]]\n'
                         f'retry_first = "1s"\nchallenge = "{challenge}"')
        # Who has a self-signed certificate keeps its key; two has nothing at all.
        server.key = None
        shutil.rmtree(f"{server.directory}/certificates")
        if name != "two":
            done = server.command("cert", "self-signed", f"mail.{name}.test")
            self.assertEqual(done.returncode, 0, done.stderr)
            server.key = self.key(server, name)
        return server.start()

    def key(self, server, name):
        with open(f"{server.directory}/certificates/mail.{name}.test/key.pem") as file:
            return file.read()

    def waited(self, server, what, condition):
        try:
            return until(what, condition)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{server.log()}") from None

    def test_certificates_are_issued_by_either_challenge_and_renewed_without_a_restart(self):
        root = self.pebble.root()
        servers = {"one": self.serving("one", "tls-alpn-01"), "two": self.serving("two", "http-01")}

        def got(name, before=None):
            try:
                found = served(servers[name], f"mta-sts.{name}.test", root)[1]
            except ssl.SSLError:
                return None
            return found if found != before else None

        for name, server in servers.items():
            with self.subTest(name):
                first = self.waited(server, "a certificate", lambda: got(name))
                server.key = server.key or self.key(server, name)
                self.waited(server, "its renewal", lambda: got(name, before=first))
                # Whatever TLSA says still holds.
                self.assertEqual(self.key(server, name), server.key)
                self.assertRegex(metrics(server), r'kura_acme_orders_total\{result="issued"\} [2-9]')
                self.assertIn(f"mail.{name}.test", server.command("cert", "list").stdout)
                mode = os.stat(f"{server.directory}/certificates/acme-account.json").st_mode & 0o777
                self.assertEqual(mode, 0o600)

    def test_a_name_that_is_not_ours_is_tried_again_and_mail_goes_on(self):
        # Others find nobody at its address.
        server = self.serving("three", "http-01", address="127.0.0.6")
        self.waited(server, "two tries", lambda: re.search(r'result="failed"\} [2-9]', metrics(server)))
        log = server.log()
        self.assertIn("no certificate was issued; it is tried again", log)
        self.assertIn("127.0.0.5", log, "what the ACME server says is told")
        self.assertTrue(server.deliver(b"Subject: x\r\n\r\nx\r\n").startswith("250"))
        self.assertIn("mail.three.test (CN=mail.three.test)", server.command("cert", "list").stdout)


if __name__ == "__main__":
    unittest.main()
