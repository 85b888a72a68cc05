"""A domain on the air: mail that leaves is signed, and others verify it; what DNS has to say, and whether it does."""

import functools
import http.client
import json
import os
import plistlib
import re
import socket
import ssl
import subprocess
import sys
import threading
import unittest
from xml.etree import ElementTree

import kura
import messages
import names
import test_relay
from test_relay import until

# A verifier that we did not write: dkimpy, with the keys given rather than from DNS. Which
# signatures hold?
VERIFIER = """
import json, sys, dkim
given = json.load(sys.stdin)
def text(name, timeout=5):
    found = given["keys"].get(name.decode().rstrip("."))
    return found and found.encode()
def outcomes(octets):
    message = dkim.DKIM(octets)
    for index in range(sum(1 for name, _ in message.headers if name.lower() == b"dkim-signature")):
        try:
            yield bool(message.verify(index, dnsfunc=text))
        except dkim.DKIMException as fault:
            yield str(fault)
print(json.dumps([list(outcomes(one.encode("latin-1"))) for one in given["messages"]]))
"""


@functools.cache
def verifying_python():
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            done = subprocess.run([python, "-c", "import dkim, nacl"], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def all_verified(messages, keys):
    given = json.dumps({"keys": keys, "messages": [one.decode("latin-1") for one in messages]})
    done = subprocess.run([verifying_python(), "-c", VERIFIER], input=given.encode(), capture_output=True,
                          check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def verified(message, keys):
    return all_verified([message], keys)[0]


def signatures(message):
    """The tags of each, unfolded."""
    fields = re.findall(rb"^DKIM-Signature:((?:[^\r\n]*\r\n)(?:[ \t][^\r\n]*\r\n)*)", message, re.M)
    return [dict(tag.strip().split("=", 1) for tag in re.sub(r"\s+", "", field.decode()).split(";"))
            for field in fields]


# Lists in DNS (RFC 5782): of addresses, of domains, one that names us, one that is dead, one that
# lists all, and one that refuses.
LISTS = """
2.0.0.127.good A 127.0.0.2
2.0.0.127.bad A 127.0.0.2
1.2.0.192.bad A 127.0.0.4
1.2.0.192.bad TXT "seen in a trap"
test.names A 127.0.1.2
a.test.names A 127.0.1.4
2.0.0.127.names A 127.0.1.255
1.0.0.127.names A 127.0.1.255
*.all A 127.0.0.2
*.refuses A 127.255.255.254
"""


@unittest.skipUnless(names.program("nsd"), "no nsd on this host")
class Domains(unittest.TestCase):
    """What all of them need: a name server, and servers that send."""

    @classmethod
    def setUpClass(cls):
        zones = {"test.": test_relay.ZONE + LISTS, "2.0.192.in-addr.arpa.": "1 PTR mail.a.test.\n", "a.test.": ""}
        cls.names = names.NameServer(zones).start()

    @classmethod
    def tearDownClass(cls):
        cls.names.remove()

    server = test_relay.Relaying.server
    submit = test_relay.Relaying.submit
    queue = test_relay.Relaying.queue
    empty = test_relay.Relaying.empty
    filter = test_relay.Relaying.filter
    sink = test_relay.Relaying.sink

    def done(self, server, *arguments, code=0, **more):
        done = server.command(*arguments, **more)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout if code in (0, 3) else done.stderr

    def records(self, server, domain="a.test"):
        return json.loads(self.done(server, "dns", "print", domain, "--json"))["records"]

    def publish(self, server):
        self.names.set("a.test.", self.done(server, "dns", "print", "a.test"))

    def keys(self, server, domain="a.test"):
        return {one["name"]: one["value"] for one in self.records(server, domain) if one["what"] == "dkim"}


@unittest.skipUnless(verifying_python(), "no dkimpy on this host (tests/run installs it)")
class Signing(Domains):
    def test_what_users_send_is_signed_with_both_keys_and_dkimpy_agrees(self):
        sink = self.sink()
        server = self.server(sink.port)
        keys = self.keys(server)
        self.assertEqual(len(keys), 2)
        texts = {
            "plain": b"From: Ann <ann@a.test>\r\nTo: eve@there.test\r\nSubject: plain\r\n\r\nHello\r\n",
            "odd": "From: Änn <ann@a.test>\r\nSUBJECT: folded \r\n\t and  spaced\r\nTo: a@there.test\r\n"
                   "to: b@there.test\r\nList-Id: <l>\r\n\r\n  Grüße  \t\r\n\r\n.\r\n..\r\n\r\n\r\n".encode(),
            "empty body": b"From: ann@a.test\r\nSubject: empty body\r\n\r\n",
            "no header": b"\r\nOnly text\r\n",
            # Over the session's buffer: it streams into the log before its signature is known.
            "large": messages.header("large", From="ann@a.test") + messages.lines(900_000),
        }
        for name, text in texts.items():
            with self.subTest(name):
                sink.messages.clear()
                self.submit(server, "eve@there.test", text, options=["BODY=8BITMIME"])
                body = until("the message", lambda: list(sink.messages))[0][2]
                self.assertTrue(body.startswith(b"DKIM-Signature: "), body[:200])
                self.assertTrue(body.endswith(text), "not the same octets")
                # The verifier says no where it has to.
                changed = [body + b"P.S.\r\n", b"From: eve@there.test\r\n" + body]
                good, *bad = all_verified([body, *changed], keys)
                self.assertEqual(good, [True, True])
                self.assertFalse(any(True in one for one in bad), bad)
                found = signatures(body)
                self.assertEqual([one["a"] for one in found], ["rsa-sha256", "ed25519-sha256"])
                for one in found:
                    self.assertEqual((one["d"], one["c"]), ("a.test", "relaxed/relaxed"))
                    self.assertRegex(one["s"], r"^(rsa|ed)20\d{6}$")
                    self.assertEqual(int(one["x"]) - int(one["t"]), 21 * 86400)
                    signed = one["h"].lower().split(":")
                    for field in ("from", "to", "subject", "date", "message-id", "content-type", "reply-to"):
                        there = len(re.findall(rf"^{field}[ \t]*:".encode(), body.split(b"\r\n\r\n")[0], re.M | re.I))
                        self.assertEqual(signed.count(field), there + 1, field)
                    self.assertNotIn("received", signed)
        self.empty(server)

    def test_nobody_signs_for_another_and_what_is_passed_on_stays_as_it_is(self):
        sink = self.sink()
        server = self.server(sink.port)
        self.done(server, "domain", "add", "c.test", "--postmaster", "ann@a.test")
        server.accounts.append(("bob@c.test", test_relay.PASSWORD))
        self.done(server, "account", "add", "bob@c.test", "--password-stdin", input_text=test_relay.PASSWORD + "\n")
        # Ann is c.test's postmaster, too, and nobody else there.
        for author, domain in [("postmaster@c.test", "c.test"), ("bob@c.test", "a.test"), ("x@bank.test", "a.test")]:
            sink.messages.clear()
            self.submit(server, "eve@there.test", f"From: {author}\r\nSubject: x\r\n\r\nHello\r\n")
            body = until("the message", lambda: list(sink.messages))[0][2]
            self.assertEqual([one["d"] for one in signatures(body)], [domain] * 2, author)
            self.assertEqual(verified(body, self.keys(server, domain)), [True, True])
        # A stranger's message that a filter passes on carries no name of ours; an answer does.
        self.filter(server, 'require "vacation"; redirect "eve@there.test"; vacation "I am away";')
        sink.messages.clear()
        text = b"From: carl@there.test\r\nTo: ann@a.test\r\nSubject: hello\r\n\r\nHello\r\n"
        self.assertTrue(server.deliver(text, sender="carl@there.test").startswith("250"))
        found = {to[0]: body for _, to, body in until("both", lambda: len(sink.messages) == 2 and list(sink.messages))}
        self.assertEqual(signatures(found["eve@there.test"]), [])
        self.assertEqual(verified(found["carl@there.test"], self.keys(server)), [True, True])
        self.empty(server)

    def test_our_own_verifier_agrees_and_dmarc_passes(self):
        b = self.server(1, user="bob@b.test")
        b.stop()
        b.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        b.start()
        a = self.server(b.ports["smtp"])
        self.publish(a)
        text = b"From: ann@a.test\r\nSubject: there\r\n\r\nHello\r\n"
        self.submit(a, "bob@b.test", text)
        body = until("the message at b", lambda: list(b.bodies().values()))[0]
        results = re.sub(rb"\s+", b" ", body.split(b"\r\nDKIM-Signature")[0]).decode()
        self.assertRegex(results, r"dkim=pass header.d=a.test header.s=rsa\d+ header.a=rsa-sha256")
        self.assertRegex(results, r"dkim=pass header.d=a.test header.s=ed\d+ header.a=ed25519-sha256")
        self.assertIn("dmarc=pass (p=none) header.from=a.test", results)

    def test_keys_change_and_what_was_signed_before_still_verifies_after_a_crash(self):
        sink = self.sink()
        sink.answer = lambda verb, line: "421 later" if verb == "CONNECT" else True
        server = self.server(sink.port)
        first = self.keys(server)
        text = b"From: ann@a.test\r\nSubject: early\r\n\r\nHello\r\n"
        self.submit(server, "eve@there.test", text)
        server.kill()
        server.start()
        self.assertEqual(self.keys(server), first, "keys are as durable as mail")
        self.assertIn("no keys of a.test wait", self.done(server, "domain", "dkim", "activate", "a.test", "--force", code=1))
        said = self.done(server, "domain", "dkim", "rotate", "a.test")
        self.assertIn("wait", said)
        second = {name: value for name, value in self.keys(server).items() if name not in first}
        self.assertEqual(len(second), 2)
        for name in second:
            self.assertIn(name, said)
        # Twice is once.
        self.assertIn("wait already", self.done(server, "domain", "dkim", "rotate", "a.test"))
        # Nothing is signed with what nobody can look up.
        self.names.set("a.test.", "")
        said = self.done(server, "domain", "dkim", "activate", "a.test", code=1)
        self.assertIn("missing in DNS", said)
        self.publish(server)
        resolver = f"127.0.0.1:{self.names.port}"
        self.done(server, "domain", "dkim", "activate", "a.test", "--resolver", resolver)
        states = {row["name"]: row["state"] for row in json.loads(self.done(server, "domain", "dkim", "list", "--json"))}
        self.assertEqual(states, {**{name: "retired" for name in first}, **{name: "signing" for name in second}})
        self.submit(server, "eve@there.test", text.replace(b"early", b"late"))
        sink.answer = lambda verb, line: True
        self.done(server, "queue", "retry", "--all")
        until("both", lambda: len(sink.messages) == 2)
        for _, _, body in sink.messages:
            old = b"Subject: early" in body
            self.assertEqual(verified(body, first if old else second), [True, True])
            # What is retired is printed as long as that may be asked.
            self.assertEqual(verified(body, self.keys(server)), [True, True])
        # A backup has them.
        to = server.directory + "-backup"
        self.addCleanup(subprocess.run, ["rm", "-rf", to], check=True)
        self.done(server, "store", "backup", "--to", to)
        other = kura.Kura()
        self.addCleanup(other.remove)
        os.rmdir(other.directory)
        restored = subprocess.run([kura.BINARY, "store", "restore", "--from", to, "--dir", other.directory],
                                  capture_output=True, text=True, check=False)
        self.assertEqual(restored.returncode, 0, restored.stderr)
        self.assertEqual(self.keys(other), self.keys(server))
        for name in ("kura.toml", "quickstart-accounts.json"):
            self.assertNotIn("BEGIN", open(f"{server.directory}/{name}").read())
        self.done(server, "account", "remove", "ann@a.test", code=0)


class Records(Domains):
    def configured(self, **more):
        """A server for a.test at mail.a.test, and its zone as it prints it."""
        server = self.server(1)
        server.stop()
        server.configure(r'^hostname = .*$', 'hostname = "mail.a.test"\naddresses = ["192.0.2.1"]')
        server.configure(r"^timeout_seconds = .*$", "timeout_seconds = 1")
        for old, new in more.get("lines", []):
            server.configure(old, new)
        server.start()
        self.done(server, "cert", "self-signed", "mail.a.test", "mta-sts.a.test", "autoconfig.a.test")
        return server

    def check(self, server, code, *more):
        said = json.loads(self.done(server, "dns", "check", "a.test", "--json", *more, code=code))
        self.assertEqual(said["ok"], code == 0)
        return {(one["what"], one["name"], one["type"]): one for one in said["findings"]}

    def test_a_new_domain_has_all_that_it_needs(self):
        server = kura.Kura()
        self.addCleanup(server.remove)
        server.start()
        said = self.done(server, "domain", "add", "new.test", "--postmaster", "ann@new.test")
        self.assertIn("domain new.test added", said)
        self.assertIn("ann@new.test does not exist yet: kura account add ann@new.test", said)
        self.assertIn("mail for abuse@new.test goes to postmaster@new.test", said)
        self.assertEqual(said[said.index("; new.test, served by"):], self.done(server, "dns", "print", "new.test"))
        server.accounts = []
        server.add_account("ann@new.test")
        for user in ("postmaster", "abuse"):
            self.assertTrue(server.deliver(b"Subject: x\r\n\r\nx\r\n", to=f"{user}@new.test").startswith("250"))
        self.assertEqual(len(server.bodies()), 2)
        shown = json.loads(self.done(server, "domain", "show", "new.test", "--json"))
        self.assertEqual(len(shown["dkim"]), 2)
        # A second one has the first one's postmaster, unless it is told otherwise.
        said = self.done(server, "domain", "add", "other.test", "--abuse", "ann@new.test")
        self.assertIn("mail for abuse@other.test goes to ann@new.test", said)
        # An alias elsewhere that leads into it would lead to whoever has the domain next.
        self.done(server, "alias", "add", "list@other.test", "ann@new.test")
        self.done(server, "alias", "add", "x@new.test", "list@other.test")
        self.done(server, "alias", "remove", "list@other.test")
        said = self.done(server, "domain", "remove", "other.test", code=1)
        self.assertIn("alias x@new.test leads to list@other.test", said)
        self.done(server, "alias", "remove", "x@new.test")
        self.done(server, "domain", "remove", "other.test")
        self.assertNotIn("other.test", self.done(server, "alias", "list") + self.done(server, "domain", "dkim", "list"))
        # The trial's domain has no keys until it is asked for them, and then signs at once.
        self.assertIn("no DKIM keys", self.done(server, "dns", "print", "example.test"))
        self.assertIn("signed from now on", self.done(server, "domain", "dkim", "rotate", "example.test"))

    def test_a_zone_that_was_printed_is_ok_and_what_is_not_is_said(self):
        server = self.configured()
        zone = self.done(server, "dns", "print", "a.test")
        for kind in ("A", "MX", "TXT", "SRV", "TLSA"):
            self.assertRegex(zone, rf"(?m)^[a-z0-9._-]+\. 3600 IN {kind} ")
        self.assertIn("; in another zone: 1.2.0.192.in-addr.arpa. 3600 IN PTR mail.a.test.", zone)
        for line in self.done(server, "dns", "print", "a.test", "--one-line").splitlines():
            for text in re.findall(r'"([^"]*)"', line):
                self.assertLessEqual(len(text), 255)
        # NSD reads it as it is.
        self.names.set("a.test.", zone)
        resolver = ("--resolver", f"127.0.0.1:{self.names.port}")
        found = self.check(server, 0, *resolver)
        self.assertEqual({one["verdict"] for one in found.values()}, {"ok"})
        self.assertIn("no AD", found["tlsa", "_25._tcp.mail.a.test", "TLSA"]["why"])
        self.assertIn("and mail.a.test has 192.0.2.1", found["reverse", "1.2.0.192.in-addr.arpa", "PTR"]["why"])
        self.assertGreaterEqual(len(found), 15)
        # The configured name server does it, too; one that validates is told from
        # one that does not.
        self.check(server, 0)
        with Validating(self.names.port) as port:
            validated = self.check(server, 0, "--resolver", f"127.0.0.1:{port}")
        self.assertIn("validated it (AD)", validated["tlsa", "_25._tcp.mail.a.test", "TLSA"]["why"])
        spoiled = re.sub(r'(?s)rsa(\d+)._domainkey.a.test. 3600 IN TXT \(.*?\)', r'rsa\1._domainkey TXT "v=DKIM1; p=AAAA"', zone)
        for old, new in [("10 mail.a.test.", "10 elsewhere.test."), ("v=spf1 mx ~all", "v=spf1 -all"),
                         ("3 1 1 ", "3 1 1 00"), (f"{server.ports['imaps']} mail.a.test.", "143 mail.a.test.")]:
            self.assertIn(old, spoiled)
            spoiled = spoiled.replace(old, new, 1)
        spoiled = "\n".join(line for line in spoiled.splitlines() if "_dmarc" not in line and "_pop3s" not in line)
        self.names.set("a.test.", spoiled)
        self.names.set("2.0.192.in-addr.arpa.", "1 PTR elsewhere.test.\n")
        self.addCleanup(self.names.set, "2.0.192.in-addr.arpa.", "1 PTR mail.a.test.\n")
        found = self.check(server, 3, *resolver)
        verdicts = {}
        for (what, _, _), one in found.items():
            verdicts.setdefault(what, []).append(one["verdict"])
        for what, expected in {"mx": ["wrong"], "spf": ["wrong"], "dkim": ["ok", "wrong"], "dmarc": ["missing"],
                               "reverse": ["wrong"], "tlsa": ["wrong"], "address": ["ok"]}.items():
            self.assertEqual(sorted(verdicts[what]), expected, what)
        self.assertEqual(sorted(verdicts["service"]), ["missing"] + ["ok"] * 5 + ["wrong"])
        said = self.done(server, "dns", "check", "a.test", *resolver, code=3)
        self.assertIn('set   _dmarc.a.test. TXT "v=DMARC1; p=none; rua=mailto:postmaster@a.test"', said)
        self.assertIn("found 10 elsewhere.test.", said)
        self.assertIn("missing _pop3s._tcp.a.test SRV (optional)", said)
        # A resolver that is down is not a record that is missing.
        self.names.stop()
        self.addCleanup(self.names.start)
        found = self.check(server, 3, *resolver)
        self.assertEqual({one["verdict"] for (what, _, _), one in found.items() if what != "open_relay"}, {"unknown"})

    def test_who_relays_or_is_on_a_list_is_told(self):
        server = self.configured()
        self.names.set("a.test.", self.done(server, "dns", "print", "a.test"))
        smtp = f"127.0.0.1:{server.ports['smtp']}"
        said = self.done(server, "dns", "check", "a.test")
        self.assertIn(f"ok      {smtp} SMTP: strangers can't send through it", said)
        self.assertIn("note: no blocklists were asked", said)
        # What users may, and who is trusted, changes nothing for strangers.
        relay = self.check(server, 0)["open_relay", smtp, "SMTP"]
        self.assertEqual(len(relay["found"]), 3)
        for said in relay["found"]:
            self.assertRegex(said, r"to <.*relay-test@example.invalid>: 5\d\d ")
        # The commands read the file anew.
        server.configure(r"^blocklists = \[\]$", 'blocklists = ["good.test", "names.test", "dead.test", "all.test", "refuses.test"]')
        with open(f"{server.directory}/kura.toml", "a") as file:
            file.write('\n[[policy.dns_lists]]\nzone = "bad.test"\nscore = 1.0\n'
                       '\n[[policy.dns_lists]]\nzone = "friends.test"\nscore = -1.0\n')
        found = {name: one for (what, name, _), one in self.check(server, 3).items() if what == "blocklist"}
        self.assertEqual({name: one["verdict"] for name, one in found.items()}, {
            "1.2.0.192.good.test": "ok", "1.2.0.192.bad.test": "wrong", "a.test.names.test": "wrong",
            "mail.a.test.names.test": "ok", "dead.test": "missing", "all.test": "wrong", "refuses.test": "unknown",
            # What they were not asked about.
            "good.test": "ok", "bad.test": "ok", "names.test": "ok"})
        self.assertEqual(found["1.2.0.192.bad.test"]["found"], ["127.0.0.4", "seen in a trap"])
        self.assertIn("it is dead; take it out of dns.blocklists", found["dead.test"]["why"])
        self.assertIn("refuses to answer this resolver", found["refuses.test"]["why"])
        # Whoever takes what strangers send to others is told, and so are settings that
        # let strangers in.
        sink = self.sink()
        server.configure(r"^smtp = .*$", f'smtp = ["127.0.0.1:{sink.port}"]')
        server.configure(r"^trusted_networks = .*$", 'trusted_networks = ["127.0.0.0/8", "0.0.0.0/0"]')
        with open(f"{server.directory}/friends", "w") as file:
            file.write("192.0.2.0/24\n128.0.0.0/1\n")
        server.configure(r"^allow_files = .*$", 'allow_files = ["friends"]')
        server.configure(r"^blocklists = .*$", "blocklists = []")
        self.done(server, "alias", "add", "@a.test", "eve@there.test")
        found = self.check(server, 3)
        self.assertEqual(found["open_relay", f"127.0.0.1:{sink.port}", "SMTP"]["verdict"], "wrong")
        self.assertEqual(sink.messages, [])
        wide = found["open_relay", "auth.trusted_networks", "CONFIG"]
        self.assertEqual((wide["verdict"], wide["found"]), ("wrong", ["0.0.0.0/0"]))
        self.assertEqual(found["open_relay", "policy.allow", "CONFIG"]["found"], ["128.0.0.0/1"])
        self.assertIn("goes on to eve@there.test", found["open_relay", "@a.test", "CONFIG"]["why"])
        sink.close()
        found = self.check(server, 3)
        self.assertEqual(found["open_relay", f"127.0.0.1:{sink.port}", "SMTP"]["verdict"], "unknown")
        self.assertIn("has to be running", found["open_relay", f"127.0.0.1:{sink.port}", "SMTP"]["why"])
        server.configure(r"^smtp = .*$", f'smtp = ["127.0.0.1:{sink.port}"]\nproxy_protocol_from = {{ smtp = ["127.0.0.0/8"] }}')
        found = self.check(server, 3)
        self.assertIn("ask it from outside", found["open_relay", f"127.0.0.1:{sink.port}", "SMTP"]["why"])


class Web(Domains):
    """Policies and settings over HTTPS."""

    ADDRESS = "127.0.0.3"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.port = 443 if os.geteuid() == 0 else 8443
        zone = f"""mail A {cls.ADDRESS}
mta-sts CNAME mail
autoconfig CNAME mail
autodiscover CNAME mail
"""
        cls.names.set("a.test.", zone)

    def configured(self):
        server = self.server(1)
        server.stop()
        server.configure(r"^listen = \[\]$", f'listen = ["{self.ADDRESS}:{self.port}"]')
        server.configure(r"^hostname = .*$", f'hostname = "mail.a.test"\naddresses = ["{self.ADDRESS}"]')
        server.start()
        hosts = [f"{name}.a.test" for name in ("mail", "mta-sts", "autoconfig", "autodiscover")]
        self.done(server, "cert", "self-signed", *hosts)
        self.ca = f"{server.directory}/certificates/mail.a.test/chain.pem"
        return server

    def fetch(self, host, target, body=None):
        """Status, type and text; the certificate has to be valid for the host."""
        context = ssl.create_default_context(cafile=self.ca)
        with socket.create_connection((self.ADDRESS, self.port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=host) as tls:
                connection = http.client.HTTPConnection(host)
                connection.sock = tls
                connection.request("GET" if body is None else "POST", target, body, {"Connection": "close"})
                answer = connection.getresponse()
                return answer.status, answer.headers.get("Content-Type"), answer.read().decode()

    def test_others_and_mail_programs_find_what_they_look_for(self):
        server = self.configured()
        self.pages(server)
        if os.geteuid() == 0:
            # Others ask at port 443.
            self.checked(server)

    def pages(self, server):
        status, kind, policy = self.fetch("mta-sts.a.test", "/.well-known/mta-sts.txt")
        self.assertEqual((status, kind), (200, "text/plain"))
        self.assertEqual(policy, "version: STSv1\r\nmode: testing\r\nmx: mail.a.test\r\nmax_age: 604800\r\n")
        status, _, text = self.fetch("autoconfig.a.test", "/mail/config-v1.1.xml?emailaddress=ann%40a.test")
        self.assertEqual(status, 200)
        provider = ElementTree.fromstring(text).find("emailProvider")
        self.assertEqual(provider.get("id"), "a.test")
        found = {(one.get("type"), one.findtext("socketType")): (one.findtext("hostname"), int(one.findtext("port")))
                 for one in provider if one.tag.endswith("Server")}
        for kind, security, service in [("imap", "SSL", "imaps"), ("imap", "STARTTLS", "imap"), ("pop3", "SSL", "pop3s"),
                                        ("smtp", "SSL", "submissions"), ("smtp", "STARTTLS", "submission")]:
            self.assertEqual(found[kind, security], ("mail.a.test", server.ports[service]))
        asked = ('<?xml version="1.0"?><Autodiscover xmlns="http://schemas.microsoft.com/exchange/autodiscover/outlook/'
                 'requestschema/2006"><Request><EMailAddress>a&amp;b@a.test</EMailAddress></Request></Autodiscover>')
        status, _, text = self.fetch("autodiscover.a.test", "/Autodiscover/Autodiscover.xml", asked)
        self.assertEqual(status, 200)
        space = "{http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a}"
        protocols = {one.findtext(f"{space}Type"): one for one in ElementTree.fromstring(text).iter(f"{space}Protocol")}
        self.assertEqual(protocols["IMAP"].findtext(f"{space}Port"), str(server.ports["imaps"]))
        self.assertEqual(protocols["SMTP"].findtext(f"{space}LoginName"), "a&b@a.test")
        status, kind, text = self.fetch("mail.a.test", "/mail.mobileconfig?email=ann@a.test")
        self.assertEqual((status, kind.split(";")[0]), (200, "application/x-apple-aspen-config"))
        profile = plistlib.loads(text.encode())
        account = profile["PayloadContent"][0]
        self.assertEqual(account["IncomingMailServerPortNumber"], server.ports["imaps"])
        self.assertEqual((account["EmailAddress"], account["EmailAccountType"]), ("ann@a.test", "EmailTypeIMAP"))
        # Of others' domains nothing is said, and nothing of who has an account.
        for host, target in [("mta-sts.b.test", "/.well-known/mta-sts.txt"), ("mail.a.test", "/.well-known/mta-sts.txt"),
                             ("mail.a.test", "/mail.mobileconfig?email=x@b.test"), ("mail.a.test", "/"),
                             ("mail.a.test", "/metrics")]:
            with self.subTest(target):
                self.assertEqual(self.asked_as("mail.a.test", host, target), 404)
        self.assertEqual(self.fetch("mail.a.test", "/mail.mobileconfig?email=nobody@a.test")[0], 200)
        self.assertEqual(self.fetch("autodiscover.a.test", "/autodiscover/autodiscover.xml", "x" * 20_000)[0], 413)

    def asked_as(self, name, host, target):
        """With another Host than the certificate is for."""
        context = ssl.create_default_context(cafile=self.ca)
        with socket.create_connection((self.ADDRESS, self.port), timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=name) as tls:
                tls.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                return int(tls.recv(100).split()[1])

    def checked(self, server):
        printed = self.done(server, "dns", "print", "a.test")
        self.names.set("a.test.", printed)
        self.addCleanup(self.setUpClass_zone)

        def verdicts(*more):
            said = json.loads(server.command("dns", "check", "a.test", "--json", *more).stdout)
            return {one["name"]: (one["verdict"], one["why"]) for one in said["findings"]
                    if one["what"] in ("mta_sts", "mta_sts_host", "mta_sts_policy", "autoconfig")}

        found = verdicts("--ca-file", self.ca)
        self.assertEqual({verdict for verdict, _ in found.values()}, {"ok"}, found)
        self.assertEqual(len(found), 6)
        url = "https://mta-sts.a.test/.well-known/mta-sts.txt"
        # Others do not believe it.
        verdict, why = verdicts()[url]
        self.assertEqual(verdict, "wrong")
        self.assertIn("can't be fetched", why)
        # Another policy has another id: DNS is a step behind.
        server.stop()
        server.configure(r'^mta_sts = "testing"$', 'mta_sts = "enforce"')
        server.start()
        found = verdicts("--ca-file", self.ca)
        self.assertEqual(found["_mta-sts.a.test"], ("wrong", "the id is not that of our policy"))
        self.assertEqual(found[url][0], "ok")

    def setUpClass_zone(self):
        self.names.set("a.test.", f"mail A {self.ADDRESS}\n")


class Validating:
    """Passes questions on, and says of each answer to who asks for it that it has been validated."""

    def __init__(self, port):
        self.upstream = ("127.0.0.1", port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.serve)

    def __enter__(self):
        self.thread.start()
        return self.socket.getsockname()[1]

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.socket.close()

    def serve(self):
        while not self.stop.is_set():
            try:
                question, asker = self.socket.recvfrom(4096)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                    asking.settimeout(2)
                    asking.sendto(question, self.upstream)
                    answer = bytearray(asking.recv(4096))
            except OSError:
                continue
            answer[3] |= question[3] & 0x20
            self.socket.sendto(answer, asker)


if __name__ == "__main__":
    unittest.main()
