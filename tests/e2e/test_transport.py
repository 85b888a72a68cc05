"""What protects mail on its way out: DNSSEC, DANE, MTA-STS, REQUIRETLS; against servers that keep to it and servers that do not.

The mail exchangers listen at port 25 of loopback addresses of their own, and the policy host at 443: that takes root.
"""

import email
import email.policy
import gzip
import hashlib
import http.server
import json
import os
import re
import shutil
import smtplib
import socket
import subprocess
import tempfile
import threading
import unittest
import unittest.mock
import urllib.request

import kura
import names
from sink import Sink, tls_context
from test_relay import PASSWORD, Sending, until

REQUIRETLS = ("PIPELINING", "8BITMIME", "SIZE 10000000", "REQUIRETLS")
# Mail exchangers: an honest one, one that promises REQUIRETLS, one whose certificate nobody vouches
# for, one without TLS.
HONEST, PROMISING, STRANGE, BARE, POLICIES = (f"127.25.77.{last}" for last in range(1, 6))


class Pki:
    """An authority, and certificates that it has signed."""

    def __init__(self):
        self.place = tempfile.mkdtemp(prefix="kura-pki-")
        self.make("ca", "/CN=Test authority", "-x509", "-days", "30")
        self.ca = f"{self.place}/ca.pem"

    def make(self, name, subject, *more):
        names.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", subject,
                      "-keyout", f"{self.place}/{name}.key", "-out", f"{self.place}/{name}.pem", *more)
        return f"{self.place}/{name}.pem", f"{self.place}/{name}.key"

    def self_signed(self, name):
        return self.make(name, f"/CN={name}", "-x509", "-days", "30", "-addext", f"subjectAltName=DNS:{name}")

    def signed(self, *hosts):
        """The chain, with the authority in it, and the key."""
        name = hosts[0]
        request, key = self.make(name, f"/CN={name}")
        with open(f"{self.place}/ext", "w") as file:
            file.write("subjectAltName=" + ",".join(f"DNS:{host}" for host in hosts))
        chain = f"{self.place}/{name}.chain"
        text = names.openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", f"{self.place}/ca.key",
                             "-CAcreateserial", "-days", "30", "-extfile", f"{self.place}/ext")
        with open(chain, "wb") as file, open(self.ca, "rb") as ca:
            file.write(text + ca.read())
        return chain, key

    def tlsa(self, chain, usage, selector):
        """With a SHA-256: of the first certificate, or of the last for usage 2."""
        with open(chain) as file:
            pems = file.read().split("-----END CERTIFICATE-----\n")[:-1]
        pem = (pems[-1 if usage == 2 else 0] + "-----END CERTIFICATE-----\n").encode()
        der = names.openssl("x509", "-outform", "DER", given=pem)
        if selector == 1:
            key = names.openssl("x509", "-pubkey", "-noout", given=pem)
            der = names.openssl("pkey", "-pubin", "-outform", "DER", given=key)
        return f"TLSA {usage} {selector} 1 {hashlib.sha256(der).hexdigest()}"

    def remove(self):
        shutil.rmtree(self.place, ignore_errors=True)


class PolicyHost:
    """Serves `policies`, by domain, over HTTPS; what is no text is answered with that status."""

    def __init__(self, address, certificate, key):
        self.policies, self.asked, self.posted = {}, [], []
        outer = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                domain = self.headers["Host"].removeprefix("mta-sts.")
                outer.asked.append(domain)
                policy = outer.policies.get(domain, 404)
                fine = isinstance(policy, str) and self.path == "/.well-known/mta-sts.txt"
                self.send_response(200 if fine else policy if isinstance(policy, int) else 404)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Location", "https://mta-sts.sts.test/.well-known/mta-sts.txt")
                text = policy.encode() if fine else b""
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_POST(self):
                text = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append((self.path, self.headers["Content-Type"], text))
                self.send_response(201)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_):  # who does not believe our certificate hangs up
                pass

        self.server = Server((address, 443), Answer)
        self.server.socket = tls_context(certificate, key).wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def policy(*hosts, mode="enforce", max_age=86400):
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {host}" for host in hosts), f"max_age: {max_age}"]
    return "".join(line + "\r\n" for line in lines)


def missing():
    tools = [tool for tool in ("nsd", "ldns-signzone") if not names.program(tool)]
    if os.geteuid() != 0:
        return "not root: ports 25 and 443 are out of reach"
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HONEST, 25))
        except OSError as error:
            return f"port 25 can't be had: {error}"
    return f"not installed: {', '.join(tools)} (tests/run installs it)" if tools else None


@unittest.skipIf(missing(), missing())
class Protected(Sending):
    """A sender, and others' servers in all conditions."""

    @classmethod
    def setUpClass(cls):
        cls.pki = Pki()
        cls.addClassCleanup(cls.pki.remove)
        honest = cls.pki.signed("mx.test", "mx.sts.test", "mx.astray.test")
        strange = cls.pki.self_signed("elsewhere.test")
        for address, pair, offers in ((HONEST, honest, REQUIRETLS[:-1]), (PROMISING, honest, REQUIRETLS),
                                      (STRANGE, strange, REQUIRETLS[:-1]), (BARE, None, REQUIRETLS[:-1])):
            sink = Sink(address, 25, offers, tls_context(*pair) if pair else None)
            cls.addClassCleanup(sink.close)
            setattr(cls, {HONEST: "honest", PROMISING: "promising", STRANGE: "strange", BARE: "bare"}[address], sink)
        cls.policies = PolicyHost(POLICIES, *cls.pki.signed(*(f"mta-sts.{name}.test" for name in (
            "sts", "fake", "astray", "moved", "odd", "trial", "first"))))
        cls.addClassCleanup(cls.policies.close)
        tlsa, other = cls.pki.tlsa, "TLSA 3 1 1 " + "00" * 32

        def domain(name, address, *records):
            return f"{name} MX 10 mx.{name}\nmx.{name} A {address}\n" + "".join(
                f"_25._tcp.mx.{name} {record}\n" for record in records)

        def sts(name, address):
            return domain(name, address) + f"_mta-sts.{name} TXT \"v=STSv1; id=1;\"\nmta-sts.{name} A {POLICIES}\n"

        zone = "ns A 127.0.0.1\n"
        zone += domain("ee", STRANGE, tlsa(strange[0], 3, 1), other)
        # An anchor vouches for a name: here for the recipient's domain behind the host's alias.
        zone += f"ta MX 10 alias.ta\nalias.ta CNAME mx\nmx A {HONEST}\n_25._tcp.mx {tlsa(honest[0], 2, 0)}\n"
        zone += domain("wrong", HONEST, other)
        zone += domain("useless", STRANGE, "TLSA 1 1 1 " + "00" * 32)
        zone += domain("naked", BARE, other)
        zone += domain("promise", PROMISING, tlsa(honest[0], 3, 1))
        zone += domain("none", HONEST, tlsa(honest[0], 3, 1))
        # Two hosts, of which the first can't be trusted.
        zone += f"two MX 10 mx.wrong\ntwo MX 20 mx\n"
        zone += sts("sts", HONEST) + sts("fake", STRANGE) + sts("astray", HONEST) + sts("moved", HONEST)
        zone += domain("moody", HONEST, tlsa(honest[0], 3, 1))
        zone += sts("odd", HONEST) + sts("trial", STRANGE) + sts("first", STRANGE)
        zone += f"_25._tcp.mx.first {tlsa(strange[0], 3, 1)}\n"
        cls.policies.policies = {
            "sts.test": policy("*.sts.test"), "fake.test": policy("mx.fake.test"), "astray.test": policy("mx.sts.test"),
            "moved.test": 302, "odd.test": "version: STSv2\r\n", "trial.test": policy("mx.trial.test", mode="testing"),
            "first.test": policy("mx.sts.test"),
        }
        zone += '_smtp._tls.wrong TXT "v=TLSRPTv1; rua=mailto:reports@plain.test"\n'
        zone += '_smtp._tls.ta TXT "v=TLSRPTv1; rua=mailto:ann@a.test"\n'
        zone += '_smtp._tls.ee TXT "v=TLSRPTv1; rua=mailto:nobody-at-all@a.test"\n'
        zone += '_smtp._tls.sts TXT "v=TLSRPTv1; rua=https://mta-sts.sts.test/tls"\n'
        plain = f"@ MX 10 mx\nmx A {HONEST}\n_25._tcp.mx {other}\n"
        promising = f"@ MX 10 mx\nmx A {PROMISING}\n"
        cls.zone = zone
        cls.names = names.SignedNames(zone, unsigned={"plain.test.": plain, "open.test.": promising},
                                      broken={"broken.test.": plain}).start()
        cls.addClassCleanup(cls.names.remove)
        test = cls("one")
        cls.sender = test.server(25, more="", **{})
        # Its cleanups belong to the class.
        cls._more = test
        cls.addClassCleanup(test.doCleanups)

    @classmethod
    def tearDownClass(cls):
        pass

    def one(self):
        """For the class's own server."""

    def server(self, port=25, directory=None, **settings):
        server = super().server(port, directory=directory, **settings)
        server.stop()
        server.configure(r"^dnssec = .*$", f'dnssec = "required"\ntrust_anchor = "{self.names.anchor}"')
        server.configure(r"^mta_sts = true$", f'mta_sts = true\nca_file = "{self.pki.ca}"', "relay")
        server.configure(r"^level = .*$", 'level = "info"', "log")
        return server.start()

    def submit(self, to, text="Subject: one\r\n\r\nHello\r\n", options=(), server=None):
        server = server or self.sender
        user = server.accounts[0][0]
        with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=60) as smtp:
            smtp.starttls(context=kura.careless_tls())
            smtp.login(user, PASSWORD)
            return smtp.sendmail(user, [to], text.encode(), options)

    def found_by(self, sink, to):
        return next((one for one in list(sink.messages) if to in one[1]), None)

    def assertArrives(self, to, sink, way, **more):
        """And the log says by which policy."""
        self.submit(to, **more)
        found = until(f"mail for {to}", lambda: self.found_by(sink, to))
        sent = until("a line in the log", lambda: next((line for line in self.lines(to) if " sent" in line), None))
        self.assertIn(way, sent)
        return found

    def lines(self, to):
        with open(self.sender.log_path, errors="replace") as log:
            return [line for line in log if f"to={to}" in line or f'to="{to}"' in line or to in line]

    def assertWaits(self, to, *words, **more):
        """Nobody has it, and operators are told why."""
        self.submit(to, **more)
        rows = until(f"a reason why {to} waits",
                     lambda: [row for row in self.queue(self.sender, "--domain", to.partition("@")[2]) if row["why"] and
                              "in the queue" not in row["why"] and any(word in row["why"] for word in words)] or None, 20)
        for word in words:
            self.assertIn(word, rows[0]["why"])
        for sink in (self.honest, self.strange, self.bare, self.promising):
            self.assertIsNone(self.found_by(sink, to))
        done = self.sender.command("queue", "remove", "--domain", to.partition("@")[2])
        self.assertEqual(done.returncode, 0, done.stderr)

    def to_ann(self):
        found = (email.message_from_bytes(body, policy=email.policy.default) for body in self.sender.bodies().values())
        return next((one for one in found if one["TLS-Report-Domain"] == "ta.test"), None)

    def bounce(self, about):
        """The notice about an address."""
        def look():
            bodies = self.sender.bodies()
            return next((body for body in bodies.values() if about.encode() in body and b"delivery-status" in body), None)
        return until(f"a notice about {about}", look).decode()


class Dane(Protected):
    def test_certificates_that_dns_tells_of_are_believed_whoever_signed_them(self):
        self.assertArrives("a@ee.test", self.strange, "DANE")
        self.assertArrives("a@ta.test", self.honest, "DANE")

    def test_others_are_not_and_the_mail_waits(self):
        self.assertWaits("a@wrong.test", "no TLSA record fits its certificate (DANE)")
        self.assertWaits("a@naked.test", "does not offer TLS, which is required", "DANE")

    def test_another_host_of_the_domain_may_do(self):
        self.assertArrives("a@two.test", self.honest, "DANE")

    def test_the_queue_shows_by_which_policy_a_server_was_reached_that_has_no_time(self):
        self.honest.answer = lambda verb, line: "450 4.2.1 Not now" if verb == "RCPT" and "moody" in line else True
        self.submit("a@moody.test")
        row, = until("a first try", lambda: [row for row in self.queue(self.sender, "--domain", "moody.test")
                                             if "Not now" in row["why"]])
        shown = self.sender.command("queue", "show", row["id"]).stdout
        self.assertIn("(policy: DANE)", shown)
        self.honest.answer = lambda verb, line: True
        self.sender.command("queue", "retry", "--domain", "moody.test")
        until("the message", lambda: self.found_by(self.honest, "a@moody.test"))

    def test_records_without_use_ask_for_encryption_alone(self):
        self.assertArrives("a@useless.test", self.strange, "DANE without usable records")

    def test_records_that_nobody_has_signed_count_for_nothing(self):
        self.assertArrives("a@plain.test", self.honest, "no policy: opportunistic TLS")

    def test_what_should_be_signed_and_is_not_is_no_answer(self):
        self.assertWaits("a@broken.test", "DNSSEC: its answer is not proved")

    def test_who_takes_the_records_out_of_an_answer_gains_nothing(self):
        # That there is none is said by a zone that is not signed, and has nothing to
        # do with the name.
        tlsa, soa, ns = 52, 6, 2
        start = names.Liar.name("ns.test")
        lies = {
            "_25._tcp.mx.wrong.test": (0, names.Liar.record("plain.test", soa, start + start + bytes(20))),
            "_25._tcp.mx.naked.test": (3, names.Liar.record("plain.test", soa, start + start + bytes(20))),
            "_25._tcp.mx.ee.test": (3, names.Liar.record("plain.test", ns, start)),
            "_25._tcp.mx.none.test": (3, b""),
        }
        liar = names.Liar(self.names.port, lambda name, kind: lies.get(name) if kind == tlsa else None)
        self.addCleanup(liar.close)
        server = self.sender
        server.stop()
        server.configure(r"^servers = .*$", f'servers = ["127.0.0.1:{liar.port}"]')
        server.start()
        try:
            for name in ("wrong", "naked", "ee", "none"):
                told = liar.told
                self.assertWaits(f"liar@{name}.test", "DNS does not say which certificate it has (DANE)")
                self.assertGreater(liar.told, told)
        finally:
            server.stop()
            server.configure(r"^servers = .*$", f'servers = ["127.0.0.1:{self.names.port}"]')
            server.start()

    def test_who_says_that_tls_is_optional_gets_through(self):
        text = "Subject: one\r\nTLS-Required: No\r\n\r\nHello\r\n"
        self.assertArrives("b@wrong.test", self.honest, "TLS-Required: No", text=text)


    def again(self, server, *changes):
        server.stop()
        for old, new in changes:
            server.configure(old, new)
        server.start()

    def test_what_was_proved_once_is_demanded_over_restarts(self):
        server = self.server()
        # Nobody has signed below a delegation that says otherwise: the operator knows better.
        self.again(server, (r"^dnssec = .*$", 'dnssec = "auto"'), (r"^unsigned = .*$", 'unsigned = ["broken.test"]'))
        self.submit("o@ee.test", server=server)
        until("mail by DANE", lambda: self.found_by(self.strange, "o@ee.test"))
        self.submit("o@broken.test", server=server)
        until("mail for what is not signed", lambda: self.found_by(self.honest, "o@broken.test"))
        self.assertEqual(self.proofs(server), {"proved": "1", "demanded": "1"})
        # Somebody silences the first proof after a restart.
        liar = names.Liar(self.names.port, lambda name, kind: (2, b"") if (name, kind) == ("", 48) else None)
        self.addCleanup(liar.close)
        self.again(server, (r"^servers = .*$", f'servers = ["127.0.0.1:{liar.port}"]'))
        self.submit("p@plain.test", server=server)
        until("a reason", lambda: [row for row in self.queue(server) if "DNSSEC" in row["why"]])
        self.assertEqual(self.proofs(server), {"proved": "0", "demanded": "1"})
        with open(server.log_path, errors="replace") as log:
            self.assertRegex(log.read(), r"which were last proved on 20\d\d-.*mail for other hosts waits")
        # The operator has the last word, and another resolver.
        self.again(server, (r"^dnssec = .*$", 'dnssec = "off"'))
        until("mail without proof", lambda: self.found_by(self.honest, "p@plain.test"))
        self.assertEqual(self.proofs(server), {})
        self.again(server, (r"^dnssec = .*$", 'dnssec = "auto"'))
        self.submit("q@plain.test", server=server)
        until("mail without proof", lambda: self.found_by(self.honest, "q@plain.test"))
        self.assertEqual(self.proofs(server), {"proved": "0", "demanded": "0"})

    def test_what_was_proved_on_another_host_is_not_demanded_of_a_restored_one(self):
        server = self.server()
        self.again(server, (r"^dnssec = .*$", 'dnssec = "auto"'))
        # Nobody has to send mail for it.
        until("a proof", lambda: self.proofs(server) == {"proved": "1", "demanded": "1"})
        with tempfile.TemporaryDirectory() as place:
            done = server.command("store", "backup", "--to", place)
            self.assertEqual(done.returncode, 0, done.stderr)
            server.stop()
            shutil.rmtree(f"{server.directory}/store")
            os.remove(f"{server.directory}/layout.toml")
            done = subprocess.run([kura.BINARY, "store", "restore", "--from", place, "--config", f"{server.directory}/kura.toml"],
                                  capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
        liar = names.Liar(self.names.port, lambda name, kind: (2, b"") if (name, kind) == ("", 48) else None)
        self.addCleanup(liar.close)
        server.configure(r"^servers = .*$", f'servers = ["127.0.0.1:{liar.port}"]')
        server.start()
        self.assertEqual(self.proofs(server), {"proved": "0", "demanded": "0"})
        self.submit("t@plain.test", server=server)
        until("mail without proof", lambda: self.found_by(self.honest, "t@plain.test"))

    def proofs(self, server):
        with open(f"{server.directory}/kura.toml") as file:
            port = re.search(r'^\[metrics\]\nlisten = "127.0.0.1:(\d+)"', file.read(), re.M).group(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return dict(re.findall(r'^kura_dnssec\{is="(\w+)"\} (\d)$', answer.read().decode(), re.M))

    def test_a_file_without_certificates_is_told_and_nothing_starts(self):
        with open(f"{self.sender.directory}/kura.toml") as file:
            text = file.read()
        empty = f"{self.sender.directory}/empty.pem"
        open(empty, "w").close()
        for path, words in [(empty, "no certificate is in it"), (f"{self.sender.directory}/none.pem", "No such file")]:
            for command in ("check-config", "serve"):
                with tempfile.NamedTemporaryFile("w", suffix=".toml", dir=self.sender.directory) as file:
                    file.write(text.replace(self.pki.ca, path))
                    file.flush()
                    done = subprocess.run([kura.BINARY, command, "--config", file.name], capture_output=True, text=True,
                                          timeout=60, check=False)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn("relay.ca_file", done.stderr)
                self.assertIn(words, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_what_is_no_key_of_the_root_is_told_before_the_start(self):
        path = os.path.join(self.sender.directory, "kura.toml")
        with open(path) as file:
            text = file.read()
        for anchor, words in ((f"{self.pki.ca}", "dns.trust_anchor"), ("/nowhere", "dns.trust_anchor /nowhere")):
            with tempfile.NamedTemporaryFile("w", suffix=".toml", dir=self.sender.directory) as file:
                file.write(text.replace(self.names.anchor, anchor))
                file.flush()
                done = subprocess.run([kura.BINARY, "check-config", "--config", file.name], capture_output=True, text=True,
                                      timeout=60, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(words, done.stderr)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)


class Policies(Protected):
    def test_a_policy_in_force_wants_a_named_host_with_a_valid_certificate(self):
        self.assertArrives("a@sts.test", self.honest, "MTA-STS")
        self.assertWaits("a@fake.test", "certificate is not valid", "TLS is asked for by MTA-STS")
        self.assertWaits("a@astray.test", "the MTA-STS policy of astray.test does not name it")

    def test_a_policy_on_trial_keeps_nothing_back(self):
        self.assertArrives("a@trial.test", self.strange, "MTA-STS on trial")

    def test_what_is_no_policy_is_none(self):
        self.assertArrives("a@moved.test", self.honest, "no policy")
        self.assertArrives("a@odd.test", self.honest, "no policy")
        self.assertIn("moved.test", self.policies.asked)

    def test_dane_goes_before_a_policy(self):
        self.assertArrives("a@first.test", self.strange, "DANE")

    def test_a_policy_outlives_the_server_and_what_dns_says_of_it(self):
        self.assertArrives("b@sts.test", self.honest, "MTA-STS")
        asked = self.policies.asked.count("sts.test")
        self.sender.stop()
        self.sender.start()
        self.assertArrives("c@sts.test", self.honest, "MTA-STS")
        # Who answers in the place of DNS takes the policy out, and names another host.
        taken = "".join(line for line in self.zone.splitlines(True) if not line.startswith(("_mta-sts.sts ", "mx.sts ")))
        self.names.set("test.", taken + f"mx.sts A {STRANGE}\n")
        self.addCleanup(self.names.set, "test.", self.zone)
        self.sender.stop()
        self.sender.start()
        self.assertWaits("d@sts.test", "certificate is not valid", "TLS is asked for by MTA-STS")
        self.assertEqual(self.policies.asked.count("sts.test"), asked, "it was fetched again")


    def test_a_known_policy_holds_where_no_certificate_is_believed_any_more(self):
        self.assertArrives("e@sts.test", self.honest, "MTA-STS")
        server = self.sender
        server.stop()
        server.configure(r'^ca_file = ".*"$', "", "relay")
        with tempfile.TemporaryDirectory() as empty:
            nowhere = {"SSL_CERT_FILE": f"{empty}/none.pem", "SSL_CERT_DIR": empty}
            with unittest.mock.patch.dict(os.environ, nowhere):
                server.start()
            try:
                self.assertWaits("f@sts.test", "no certificates to believe in were found")
                until("a word about it", lambda: "MTA-STS policies can't be fetched" in server.log())
            finally:
                server.stop()
                server.configure(r"^mta_sts = true$", f'mta_sts = true\nca_file = "{self.pki.ca}"', "relay")
                server.start()


class Reports(Protected):
    def test_domains_that_ask_for_it_are_told_what_was_met(self):
        self.assertArrives("a@sts.test", self.honest, "MTA-STS")
        self.assertArrives("a@ta.test", self.honest, "DANE")
        self.assertArrives("a@plain.test", self.honest, "no policy")
        self.assertArrives("a@ee.test", self.strange, "DANE")
        self.assertWaits("a@wrong.test", "no TLSA record fits")
        shown = self.sender.command("domain", "tls-report").stdout
        self.assertRegex(shown, r"sts\.test  sts: 1 fine, 0 failed")
        self.assertRegex(shown, r"plain\.test  no-policy-found: 1 fine, 0 failed")
        self.assertRegex(shown, r"wrong\.test  tlsa: 0 fine, \d+ failed\n    \d+ times validation-failure at mx.wrong.test")
        self.assertEqual(self.sender.command("domain", "dkim", "rotate", "example.test").returncode, 0)
        done = self.sender.command("domain", "tls-report", "--send")
        self.assertEqual(sorted(done.stdout.splitlines()),
                         ["ee.test to nobody-at-all@a.test: lost: there is no such user here",
                          "sts.test to https://mta-sts.sts.test/tls: sent", "ta.test to ann@a.test: sent",
                          "wrong.test to reports@plain.test: sent"])
        (path, kind, text), = self.policies.posted
        self.assertEqual((path, kind), ("/tls", "application/tlsrpt+gzip"))
        told = json.loads(gzip.decompress(text))["policies"][0]
        self.assertEqual(told["policy"]["policy-string"], ["version: STSv1", "mode: enforce", "mx: *.sts.test", "max_age: 86400"])
        _, _, octets = until("the report", lambda: self.found_by(self.honest, "reports@plain.test"))
        self.assertTrue(octets.startswith(b"DKIM-Signature:"), octets[:300])
        message = email.message_from_bytes(octets, policy=email.policy.default)
        self.assertEqual((message["TLS-Report-Domain"], message["TLS-Report-Submitter"]), ("wrong.test", "mail.example.test"))
        self.assertTrue(message["Date"] and message["Message-ID"])
        self.assertEqual(message["From"].addresses[0].addr_spec, "postmaster@mail.example.test")
        packed = next(part for part in message.walk() if part.get_content_type() == "application/tlsrpt+gzip")
        told = json.loads(gzip.decompress(packed.get_content()))
        self.assertEqual(told["policies"][0]["policy"]["policy-type"], "tlsa")
        failure = told["policies"][0]["failure-details"][0]
        self.assertEqual((failure["result-type"], failure["receiving-ip"]), ("validation-failure", HONEST))
        # Whoever is here needs no queue.
        here = until("the report to Ann", self.to_ann)
        packed = next(part for part in here.walk() if part.get_content_type() == "application/tlsrpt+gzip")
        told = json.loads(gzip.decompress(packed.get_content()))["policies"][0]
        self.assertEqual((told["policy"]["policy-type"], told["summary"]["total-successful-session-count"]), ("tlsa", 1))
        # What was told is not told again; the report itself has been counted since.
        self.assertNotIn("wrong.test", self.sender.command("domain", "tls-report").stdout)


@unittest.skipUnless(names.tool("parsedmarc"), "no parsedmarc on this host (tests/run installs it)")
class ReadByOthers(Protected):
    def test_parsedmarc_understands_reports_as_they_were_sent(self):
        self.assertArrives("a@ta.test", self.honest, "DANE")
        self.assertWaits("a@wrong.test", "no TLSA record fits")
        done = self.sender.command("domain", "tls-report", "--send")
        self.assertEqual(done.returncode, 0, done.stderr)
        _, _, octets = until("the report", lambda: self.found_by(self.honest, "reports@plain.test"))
        mails = [octets, until("the report to Ann", self.to_ann).as_bytes()]
        with tempfile.TemporaryDirectory() as directory:
            files = [f"{directory}/{number}.eml" for number in range(len(mails))]
            for path, octets in zip(files, mails):
                with open(path, "wb") as file:
                    file.write(octets)
            done = subprocess.run([names.tool("parsedmarc"), "--offline", *files], capture_output=True, text=True, check=False,
                                  cwd=directory, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        found = {one["policies"][0]["policy_domain"]: one for one in json.loads(done.stdout)["smtp_tls_reports"]}
        self.assertEqual(set(found), {"wrong.test", "ta.test"}, done.stderr)
        wrong = found["wrong.test"]
        self.assertEqual((wrong["organization_name"], wrong["contact_info"]),
                         ("mail.example.test", "postmaster@mail.example.test"))
        policy = wrong["policies"][0]
        self.assertEqual((policy["policy_type"], policy["successful_session_count"]), ("tlsa", 0))
        self.assertEqual(policy["failed_session_count"], policy["failure_details"][0]["failed_session_count"])
        self.assertEqual(policy["failure_details"][0]["result_type"], "validation-failure")
        self.assertEqual(policy["failure_details"][0]["receiving_mx_hostname"], "mx.wrong.test")
        self.assertEqual(found["ta.test"]["policies"][0]["successful_session_count"], 1)


class RequireTls(Protected):
    def test_it_goes_where_all_is_proved_and_the_promise_is_kept(self):
        sender, _, _ = self.assertArrives("a@promise.test", self.promising, "DANE", options=["REQUIRETLS"])
        self.assertIn("REQUIRETLS", sender)

    def test_elsewhere_it_comes_back(self):
        self.submit("a@none.test", options=["REQUIRETLS"])
        self.assertIn("5.7.30", self.bounce("a@none.test"))
        self.submit("a@open.test", options=["REQUIRETLS"])
        self.assertIn("5.7.30", self.bounce("a@open.test"))

    def test_what_a_filter_redirects_goes_in_the_same_way(self):
        self.filter(self.sender, 'if header "subject" "on" { redirect "r@promise.test"; redirect "r@none.test"; }')
        with kura.Wire(self.sender.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("STARTTLS", "220")
            wire.start_tls()
            self.assertIn("REQUIRETLS", wire.ask("EHLO client.test", "250"))
            wire.ask("MAIL FROM:<ann@a.test> REQUIRETLS", "250")
            wire.ask(f"RCPT TO:<{self.sender.accounts[0][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(b"Subject: on\r\n\r\nHello\r\n.\r\n")
            wire.expect("250")
        sender, _, _ = until("the redirect", lambda: self.found_by(self.promising, "r@promise.test"))
        self.assertIn("REQUIRETLS", sender)
        self.assertIn("5.7.30", self.bounce("r@none.test"))

    def test_a_notice_asks_for_it_where_it_is_offered_and_goes_on_elsewhere(self):
        self.filter(self.sender, 'if header "subject" "back" { redirect "s@none.test"; }')
        for sender in ("back@promise.test", "back@plain.test", "back@open.test"):
            self.strange_letter(sender, "Subject: back\r\n")
        command, _, octets = until("the notice", lambda: self.found_by(self.promising, "back@promise.test"))
        self.assertRegex(command, r"<>.* REQUIRETLS")
        plain, _, others = until("the other notice", lambda: self.found_by(self.honest, "back@plain.test"))
        # Who promises it and can't be told from others is not asked for it.
        promised, _, third = until("the third", lambda: self.found_by(self.promising, "back@open.test"))
        for command in (plain, promised):
            self.assertNotIn("REQUIRETLS", command)
        way = until("a line in the log", lambda: next((one for one in self.lines("back@promise.test") if " sent" in one), None))
        self.assertIn("DANE", way)
        for notice in (octets, others, third):
            self.assertIn(b"5.7.30", notice)
            self.assertNotIn(b"A secret", notice)

    def test_what_others_write_from_the_null_path_keeps_its_protection(self):
        user = self.sender.accounts[0][0]
        for to in ("n@open.test", "n@plain.test"):
            with smtplib.SMTP("127.0.0.1", self.sender.ports["submission"], timeout=60) as smtp:
                smtp.starttls(context=kura.careless_tls())
                smtp.login(user, PASSWORD)
                smtp.sendmail("", [to], b"Subject: mine\r\n\r\nA secret\r\n", ["REQUIRETLS"])
        # So does a vacation's answer, whose words are its owner's.
        self.filter(self.sender, f'require "vacation"; vacation :addresses "{user}" "A secret";')
        self.strange_letter("away@plain.test", f"To: {user}\r\nSubject: away\r\n")
        for to in ("n@open.test", "n@plain.test", "away@plain.test"):
            line = until(f"the end of {to}", lambda: next((one for one in self.lines(to) if "failed for good" in one), None))
            self.assertIn("5.7.30", line)
            for sink in (self.honest, self.promising):
                self.assertIsNone(self.found_by(sink, to))

    def strange_letter(self, sender, header):
        """A stranger's, over TLS that it requires."""
        with kura.Wire(self.sender.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask("STARTTLS", "220")
            wire.start_tls()
            wire.ask("EHLO client.test", "250")
            wire.ask(f"MAIL FROM:<{sender}> REQUIRETLS RET=FULL", "250")
            wire.ask(f"RCPT TO:<{self.sender.accounts[0][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(header.encode() + b"\r\nA secret\r\n.\r\n")
            wire.expect("250")

    def test_it_is_for_tls_alone(self):
        with kura.Wire(self.sender.ports["smtp"]) as wire:
            wire.expect("220")
            self.assertNotIn("REQUIRETLS", wire.ask("EHLO client.test", "250"))
            wire.ask("MAIL FROM:<a@b.test> REQUIRETLS", "555")
