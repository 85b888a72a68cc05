"""DMARC and TLS reports: what others are told, read by programs that are not ours, and what others tell."""

import base64
import email
import email.policy
import gzip
import io
import json
import re
import smtplib
import subprocess
import tempfile
import time
import unittest
import urllib.request
import xml.etree.ElementTree as ElementTree
import zipfile

import kura
import messages
import names
from sink import Sink
from test_relay import PASSWORD, Sending, until

ZONE = """
ns A 127.0.0.1
client A 127.0.0.1
client TXT "v=spf1 a -all"
a MX 10 mx.a.test.
mx.a A 127.0.0.1
_dmarc.a TXT "v=DMARC1; p=reject"
b MX 10 mx.b.test.
mx.b A 127.0.0.1
b TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.b TXT "v=DMARC1; p=reject; sp=quarantine; adkim=s; rua=mailto:dmarc@b.test"
pass TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.pass TXT "v=DMARC1; p=none; rua=mailto:dmarc@there.test!10m,mailto:dmarc@refuses.test,https://a.test"
pass.test._report._dmarc.there TXT "v=DMARC1"
there MX 10 mx.there.test.
mx.there A 127.0.0.2
refuses MX 10 mx.there.test.
_dmarc.small TXT "v=DMARC1; p=none; rua=mailto:dmarc@small.test!100"
small MX 10 mx.there.test.
_dmarc.mute TXT "v=DMARC1; p=none"
"""
NAMESPACE = "{urn:ietf:params:xml:ns:dmarc-2.0}"


def mail(domain, subject, **more):
    return messages.header(subject, From=f"Somebody <somebody@{domain}>", **more) + b"Hello.\r\n"


def feedback(domain, name, records, begin=None):
    """A report as a large provider might write it (RFC 7489)."""
    begin = begin or int(time.time()) // 86400 * 86400 - 86400
    rows = "".join(
        f"<record><row><source_ip>{address}</source_ip><count>{count}</count><policy_evaluated>"
        f"<disposition>none</disposition><dkim>{dkim}</dkim><spf>{spf}</spf></policy_evaluated></row>"
        f"<identifiers><header_from>{domain}</header_from></identifiers><auth_results><spf><domain>other.test</domain>"
        f"<result>fail</result></spf></auth_results></record>" for address, count, dkim, spf in records)
    return (f'<?xml version="1.0" encoding="UTF-8" ?>\n<feedback><report_metadata><org_name>Big Mail</org_name>'
            f"<email>noreply@big.test</email><report_id>{name}</report_id><date_range><begin>{begin}</begin>"
            f"<end>{begin + 86399}</end></date_range></report_metadata><policy_published><domain>{domain}</domain>"
            f"<adkim>r</adkim><aspf>r</aspf><p>none</p><sp>none</sp><pct>100</pct></policy_published>{rows}</feedback>"
            ).encode()


def zipped(data, name="big.test!a.test!1!2.xml"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def with_file(kind, file, subject="Report Domain: a.test Submitter: big.test Report-ID: <1>", author="noreply@big.test"):
    head = messages.header(subject, From=author, MIME_Version="1.0", Content_Type="multipart/mixed; boundary=b")
    body = base64.encodebytes(file).replace(b"\n", b"\r\n")
    return (head + b"--b\r\nContent-Type: text/plain\r\n\r\nA report.\r\n--b\r\nContent-Type: " + kind.encode()
            + b"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment\r\n\r\n" + body + b"--b--\r\n")


class Reporting(Sending):
    @classmethod
    def setUpClass(cls):
        cls.names = names.NameServer({"test.": ZONE}).start()

    def reporting(self, port, user, **reports):
        """A Kura that verifies all mail, and has these settings of reports."""
        server = self.server(port, user=user)
        server.stop()
        server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        server.configure(r'^level = .*$', 'level = "info"')
        for key, value in reports.items():
            server.configure(rf"^{key} = .*$", f"{key} = {json.dumps(value, ensure_ascii=False)}", "reports")
        return server.start()

    def deliver(self, server, message, sender, to=None):
        with kura.Wire(server.ports["smtp"]) as wire:
            wire.expect("220")
            wire.ask("EHLO client.test", "250")
            wire.ask(f"MAIL FROM:<{sender}>", "250")
            wire.ask(f"RCPT TO:<{to or server.accounts[0][0]}>", "250")
            wire.ask("DATA", "354")
            wire.send(kura.stuffed(message))
            reply = wire.reply()
            self.assertTrue(reply.startswith("250"), reply)

    def reports(self, server, *arguments):
        done = server.command("reports", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def logged(self, server):
        with open(server.log_path, errors="replace") as file:
            return re.sub("\x1b\\[[0-9;]*m", "", file.read())


class Sent(Reporting):
    def test_a_report_leaves_and_programs_of_others_read_it(self):
        port = names.free_port()
        sink = self.sink(address="127.0.0.2", port=port)
        server = self.reporting(port, "ann@a.test", dmarc=True, organization="Ärzte & Söhne", contact="postmaster@a.test")
        with open(f"{server.directory}/kura.toml") as file:
            host = re.search(r'^hostname = "(.+)"', file.read(), re.M).group(1)
        for number in range(3):
            self.deliver(server, mail("pass.test", f"one {number}"), "somebody@pass.test")
        self.deliver(server, mail("pass.test", "forged"), "x@client.test")
        for domain in ("small.test", "mute.test", "none.test"):
            self.deliver(server, mail(domain, "hello"), f"x@{domain}")
        # What is a report itself, and true, is none to report about.
        subject = "Report Domain: a.test Submitter: pass.test Report-ID: <1>"
        self.deliver(server, mail("pass.test", subject), "somebody@pass.test")
        # A stop loses no count.
        server.stop()
        server.start()
        sent = self.reports(server, "send")
        self.assertEqual([(one["domain"], one["to"], one["messages"]) for one in sent["sent"]],
                         [("pass.test", "dmarc@there.test", 4)])
        self.assertEqual((sent["unwanted"], sent["later"]), (1, []))
        self.assertEqual(self.reports(server, "send")["reports"], 0)
        self.empty(server)
        (sender, recipients, octets), = sink.messages
        self.assertTrue(sender.startswith("MAIL FROM:<>"), sender)
        self.assertEqual(recipients, ["dmarc@there.test"])
        log = self.logged(server)
        self.assertRegex(log, "larger than is wanted.*small.test")
        self.assertRegex(log, "have not agreed.*refuses.test")

        self.assertTrue(octets.startswith(b"DKIM-Signature: "), octets[:200])
        letter = email.message_from_bytes(octets, policy=email.policy.default)
        self.assertEqual(letter["From"], "Ärzte & Söhne <postmaster@a.test>")
        self.assertEqual(letter["Auto-Submitted"], "auto-generated")
        words, file = letter.iter_parts()
        self.assertIn("pass.test: 4 messages", words.get_content())
        today = int(time.time()) // 86400 * 86400
        name = file.get_filename()
        self.assertRegex(name, rf"^{re.escape(host)}!pass\.test!{today}!\d+\.xml\.gz$")
        self.assertEqual(file.get_content_type(), "application/gzip")
        self.assertRegex(letter["Subject"], rf"^Report Domain: pass\.test Submitter: {re.escape(host)} Report-ID: <\S+>$")
        xml = gzip.decompress(file.get_content())
        tree = ElementTree.fromstring(xml)
        found = [tuple(record.findtext(f".//{NAMESPACE}{key}") for key in ("source_ip", "count", "disposition", "reason/x", "header_from"))
                 for record in tree.iter(f"{NAMESPACE}record")]
        self.assertEqual(found, [("127.0.0.1", "3", "pass", None, "pass.test"), ("127.0.0.1", "1", "none", None, "pass.test")])
        self.assertEqual(tree.findtext(f"{NAMESPACE}report_metadata/{NAMESPACE}org_name"), "Ärzte & Söhne")

        with self.subTest("dmarc-cat"):
            self.read_by_dmarc_cat(name, file.get_content())

    def read_by_dmarc_cat(self, name, file):
        if not names.program("dmarc-cat"):
            self.skipTest("not installed: dmarc-cat (tests/run installs it)")
        with tempfile.TemporaryDirectory() as directory:
            with open(f"{directory}/{name}", "wb") as out:
                out.write(file)
            done = subprocess.run(["dmarc-cat", "-N", f"{directory}/{name}"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        said = done.stdout
        self.assertIn("Ärzte & Söhne", said)
        self.assertIn("pass.test", said)
        rows = [line.split() for line in said.splitlines() if line.startswith("127.0.0.1")]
        self.assertEqual(sorted(row[1] for row in rows), ["1", "3"], said)

    def test_what_dns_does_not_say_waits_through_a_crash(self):
        port = names.free_port()
        sink = self.sink(address="127.0.0.2", port=port)
        server = self.reporting(port, "ann@a.test", dmarc=True, contact="postmaster@a.test")
        server.stop()
        server.configure(r"^timeout_seconds = .*$", "timeout_seconds = 1", "dns")
        server.start()
        self.deliver(server, mail("pass.test", "one"), "somebody@pass.test")
        time.sleep(1.5)  # the answers' TTL
        self.names.stop()
        try:
            sent = self.reports(server, "send")
        finally:
            self.names.start()
        self.assertEqual((sent["reports"], len(sent["later"])), (0, 1), sent)
        server.kill()
        server.start()
        self.assertEqual(self.reports(server, "send")["reports"], 1)
        self.empty(server)
        self.assertEqual(len(sink.messages), 1)
        # What has left is forgotten, durably.
        server.kill()
        server.start()
        self.assertEqual(self.reports(server, "send")["reports"], 0)

    def test_one_server_reports_and_the_other_counts_it(self):
        owner = self.reporting(26, "dmarc@b.test", read=["dmarc@b.test"])
        receiver = self.reporting(owner.ports["smtp"], "ann@a.test", dmarc=True, contact="postmaster@a.test")
        printed = receiver.command("dns", "print", "a.test", "--one-line")
        self.assertEqual(printed.returncode, 0, printed.stderr)
        keys = "\n".join(line for line in printed.stdout.splitlines() if "_domainkey" in line)
        self.assertIn("DKIM1", keys)
        self.names.set("test.", ZONE + keys + "\n")
        for number in range(2):
            self.deliver(receiver, mail("b.test", f"forged {number}"), "x@client.test")
        self.assertEqual(self.reports(receiver, "send")["reports"], 1)
        listed = until("a report that is counted", lambda: self.reports(owner, "list"))
        self.assertEqual((listed[0]["domain"], listed[0]["passed"], listed[0]["failed"]), ("b.test", 0, 2))
        shown = self.reports(owner, "show", "--domain", "b.test")
        self.assertEqual(shown["reporters"][0]["reporter"], "a.test")
        source = shown["sources"][0]
        self.assertEqual((source["address"], source["messages"], source["passed_for"]), ("127.0.0.1", 2, ["client.test"]))
        words = owner.command("reports", "show", "--domain", "b.test").stdout
        self.assertIn("127.0.0.1 sent 2 messages as b.test that failed SPF and DKIM: 2 delivered", words)
        # The mail stays where it was delivered, and was verified.
        (body,) = owner.bodies().values()
        self.assertRegex(body, rb"dmarc=pass \(p=reject\)\s+header.from=a.test")


class Received(kura.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.address = cls.server.accounts[0][0]
        cls.domain = cls.address.partition("@")[2]
        cls.server.stop()
        cls.server.configure(r"^read = .*$", f'read = ["{cls.address.upper()}"]', "reports")
        cls.server.start()

    def show(self, domain=None, *arguments):
        done = self.server.command("reports", "show", "--domain", domain or self.domain, "--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def send(self, kind, file, **more):
        reply = self.server.deliver(with_file(kind, file, **more))
        self.assertTrue(reply.startswith("250"), reply)

    def logged(self, words):
        def find():
            with open(self.server.log_path, errors="replace") as file:
                return any(words in line for line in file)
        self.assertTrue(kura.eventually(find), f"not in the log: {words}\n{self.server.log()}")

    def sums(self, domain=None):
        found = self.show(domain)["days"]
        return tuple(sum(day[key] for day in found) for key in ("passed", "failed", "tls_passed", "tls_failed", "reports"))

    def becomes(self, expected, domain=None):
        self.assertTrue(kura.eventually(lambda: self.sums(domain) == expected), f"{self.sums(domain)} {self.server.log()}")

    def test_every_form_is_counted_once_and_shown_in_words(self):
        domain = f"forms.{self.domain}"
        rows = [("192.0.2.1", 40, "pass", "fail"), ("192.0.2.7", 31, "fail", "fail")]
        before = len(self.server.bodies())
        self.send("application/gzip", gzip.compress(feedback(domain, "r1", rows)))
        self.becomes((40, 31, 0, 0, 1), domain)
        self.send("application/zip", zipped(feedback(domain, "r2", rows)))
        self.send("text/xml", feedback(domain, "r3", rows))
        # The same again, in another form, is the same; another's of that name is not.
        self.send("application/zip", zipped(feedback(domain, "r1", rows)))
        self.send("application/zip", zipped(feedback(domain, "r1", rows)), author="x@small.test")
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86400))
        tls = {"organization-name": "Big Mail", "contact-info": "x@big.test", "report-id": "t1",
               "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
               "policies": [{"policy": {"policy-type": "sts", "policy-string": [], "policy-domain": domain, "mx-host": ["mx"]},
                             "summary": {"total-successful-session-count": 5, "total-failure-session-count": 2},
                             "failure-details": [{"result-type": "certificate-expired", "failed-session-count": 2,
                                                  "receiving-mx-hostname": "mx.a.test"}]}]}
        self.send("application/tlsrpt+gzip", gzip.compress(json.dumps(tls).encode()))
        self.send("application/tlsrpt+json", json.dumps(tls).encode())
        self.becomes((160, 124, 5, 2, 5), domain)
        self.assertEqual(len(self.server.bodies()), before + 7)
        words = self.server.command("reports", "show", "--domain", domain).stdout
        self.assertIn(f"192.0.2.7 sent 124 messages as {domain} that failed SPF and DKIM: 124 delivered", words)
        self.assertIn("2 TLS sessions to mx.a.test failed: certificate-expired", words)
        self.assertIn("big.test (Big Mail) says: ", words)
        listed = self.server.command("reports", "list", "--domain", domain).stdout
        self.assertRegex(listed, r"\d{4}-\d\d-\d\d  \S+  160 messages passed DMARC, 124 failed; 5 sessions with TLS, 2 failed")
        # From the log, and with the mail read once more.
        self.server.stop()
        self.server.start()
        self.becomes((160, 124, 5, 2, 5), domain)
        self.server.kill()
        self.server.start()
        self.becomes((160, 124, 5, 2, 5), domain)

    def test_a_large_report_that_streams_is_counted(self):
        domain = f"large.{self.domain}"
        rows = [(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number % 7 + 1, "fail", "fail") for number in range(3000)]
        self.send("text/xml", feedback(domain, "large", rows))
        self.becomes((0, sum(row[1] for row in rows), 0, 0, 1), domain)
        shown = self.show(domain)
        self.assertEqual(len(shown["sources"]), 200)
        self.assertEqual(shown["more_messages"] + sum(one["messages"] for one in shown["sources"]), sum(row[1] for row in rows))

    def test_what_is_wrong_is_a_line_in_the_log_and_no_more(self):
        domain = f"bad.{self.domain}"
        good = feedback(domain, "good", [("192.0.2.1", 4, "pass", "pass")])
        entities = b'<!DOCTYPE f [<!ENTITY a "' + b"a" * 100 + b'"><!ENTITY b "' + b"&a;" * 100 + b'">]>'
        long_ago = int(time.time()) - 400 * 86400
        for kind, file, words in [
            ("application/gzip", b"\x1f\x8b" + bytes(range(256)), "the gzip file is damaged"),
            ("application/gzip", gzip.compress(good)[:-20], "the gzip file is damaged"),
            ("application/zip", zipped(good)[:-20], "the zip file is damaged"),
            ("application/gzip", gzip.compress(bytes(100 << 20)), "unpacks to more than 24 MiB"),
            ("application/zip", zipped(bytes(30 << 20)), "unpacks to more than 24 MiB"),
            ("text/xml", good.replace(b"<feedback>", entities + b"<feedback>").replace(b"good", b"&b;"), "document type"),
            ("text/xml", b"<html>" + good, "no DMARC report"),
            ("application/json", b'{"a":' * 10_000, "no TLS report"),
            ("application/gzip", gzip.compress(gzip.compress(good)), "there is no XML or JSON in it"),
            ("text/xml", feedback("elsewhere.test", "x", []), "elsewhere.test, which is no domain of this host"),
            ("text/xml", feedback(domain, "x", [], long_ago), "a time that is long ago"),
        ]:
            self.send(kind, file)
            self.logged(words)
        # Ordinary mail there is no business of anybody.
        self.server.deliver(mail("friend.test", "hello"))
        self.send("application/gzip", gzip.compress(good))
        self.becomes((4, 0, 0, 0, 1), domain)
        with open(f"{self.server.directory}/kura.toml") as file:
            address = re.search(r'\[metrics\]\s*listen = "([^"]+)"', file.read()).group(1)
        text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
        self.assertRegex(text, r'kura_reports_total\{what="read"\} [1-9]')
        self.assertRegex(text, r'kura_reports_total\{what="refused"\} (1[1-9]|[2-9]\d)')
        self.assertServes()

    def test_the_operator_is_told_what_is_wrong_with_the_configuration(self):
        with open(f"{self.server.directory}/kura.toml") as file:
            text = file.read()
        for old, new, words in [("dmarc = false", "dmarc = true", "relay.enabled"), ("tls = false", "tls = true", "relay.enabled"), ('keep = "90d"', 'keep = "0"', "1d to 3650d")]:
            with tempfile.NamedTemporaryFile("w", dir=self.server.directory, suffix=".toml") as file:
                head, section, rest = text.partition("[reports]")
                file.write(head + section + rest.replace(old, new, 1))
                file.flush()
                done = subprocess.run([kura.BINARY, "check-config", "--config", file.name], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 1)
            self.assertIn(words, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        done = self.server.command("reports", "send")
        self.assertEqual((done.returncode, "relay.enabled" in done.stderr), (1, True))
        done = self.server.command("reports", "show", "--domain", "no domain")
        self.assertEqual((done.returncode, "no domain" in done.stderr), (1, True))


class Forged(Reporting):
    def test_a_report_from_nobody_knows_whom_is_not_counted(self):
        server = self.reporting(26, "dmarc@b.test", read=["dmarc@b.test"])
        file = gzip.compress(feedback("b.test", "r1", [("192.0.2.7", 31, "fail", "fail")]))
        for author, sender in [("noreply@a.test", "x@client.test"), ("noreply@none.test", "x@client.test"),
                               ("noreply@none.test", '"a; dmarc=pass header.from=none.test"@client.test')]:
            forged = b"Authentication-Results: mail.b.test; dmarc=pass header.from=a.test\r\n"
            self.deliver(server, forged + with_file("application/gzip", file, author=author), sender)
        until("three lines", lambda: self.logged(server).count("nothing shows that it is from") == 3)
        self.assertEqual(self.reports(server, "list"), [])
        self.deliver(server, with_file("application/gzip", file, author="noreply@pass.test"), "x@pass.test")
        until("a report", lambda: self.reports(server, "list"))


class Notices(Sending):
    """What senders are told, read by a program of others (flufl.bounce, as Mailman does)."""

    SCRIPT = """
import email, json, sys
from flufl.bounce import all_failures
print(json.dumps([[a.decode() for a in sorted(kind)] for kind in all_failures(email.message_from_bytes(sys.stdin.buffer.read()))]))
"""
    PYTHON = "/usr/bin/python3"

    @classmethod
    def setUpClass(cls):
        found = subprocess.run([cls.PYTHON, "-c", "import flufl.bounce"], capture_output=True, check=False)
        if found.returncode != 0:
            raise unittest.SkipTest("not installed: python3-flufl.bounce (tests/run installs it)")
        super().setUpClass()

    def failures(self, notice):
        """Addresses that fail for now, and for good."""
        done = subprocess.run([self.PYTHON, "-c", self.SCRIPT], input=notice, capture_output=True, timeout=60, check=True)
        return json.loads(done.stdout)

    def test_a_bounce_and_a_notice_of_delay_are_understood(self):
        sink = self.sink()
        answers = {"no": "550 5.1.1 No such user", "later": "450 4.2.1 Not now"}
        sink.answer = lambda verb, line: next((said for user, said in answers.items() if verb == "RCPT" and f"<{user}@" in line), True)
        server = self.server(sink.port, delay_notice="1s")
        self.submit(server, ["no@there.test", "later@there.test", "yes@there.test"])
        self.notices(server, 2)
        found = [self.failures(body) for body in server.bodies().values()]
        self.assertIn([[], ["no@there.test"]], found)
        self.assertIn([["later@there.test"], []], found)


if __name__ == "__main__":
    unittest.main()
