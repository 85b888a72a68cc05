"""Two Kuras and a Postfix exchange mail as their zone, which is signed, says: by DANE and by MTA-STS, with signatures that hold.

Each listens at port 25 of a loopback address of its own; Postfix and one Kura ask unbound, which validates, the other asks
the name server itself. That takes root: Postfix gets a resolv.conf of its own.
"""

import email
import email.policy
import glob
import os
import pwd
import shutil
import signal
import smtplib
import subprocess
import tempfile
import unittest

import kura
import names
from test_relay import PASSWORD, Sending, until
from test_transport import Pki, missing

A, B, P, RESOLVER = "127.25.78.1", "127.25.78.2", "127.25.78.3", "127.25.78.53"
PROGRAMS = ("nsd", "ldns-signzone", "unbound", "postfix", "unshare")


class Unbound:
    """A resolver that validates, in front of a name server."""

    def __init__(self, address, upstream, anchor):
        self.directory = tempfile.mkdtemp(prefix="kura-unbound-")
        with open(f"{self.directory}/unbound.conf", "w") as file:
            file.write(f"""server:
  interface: {address}
  port: 53
  username: ""
  chroot: ""
  directory: "{self.directory}"
  pidfile: ""
  use-syslog: no
  logfile: "{self.directory}/log"
  do-ip6: no
  do-daemonize: no
  num-threads: 1
  do-not-query-localhost: no
  local-zone: "test." nodefault
  trust-anchor-file: "{anchor}"
  access-control: 127.0.0.0/8 allow
remote-control:
  control-enable: no
stub-zone:
  name: "."
  stub-addr: 127.0.0.1@{upstream}
stub-zone:
  name: "test."
  stub-addr: 127.0.0.1@{upstream}
""")
        self.process = subprocess.Popen([names.program("unbound"), "-d", "-c", f"{self.directory}/unbound.conf"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def remove(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        shutil.rmtree(self.directory, ignore_errors=True)


class Postfix:
    """With Debian's services, mail for p.test in a Maildir, DANE on the way out, and a resolver of its own."""

    def __init__(self, address, resolver, certificate, key):
        self.place = tempfile.mkdtemp(prefix="kura-postfix-")
        os.chmod(self.place, 0o755)
        self.config, self.spool = f"{self.place}/config", f"{self.place}/spool"
        owner = pwd.getpwnam("postfix").pw_uid
        for directory in (self.config, self.spool, f"{self.place}/data", f"{self.place}/mail"):
            os.mkdir(directory)
        os.chown(f"{self.place}/data", owner, 0)
        os.chown(f"{self.place}/mail", 65534, 65534)
        daemons = subprocess.check_output(["postconf", "-d", "-h", "daemon_directory"], text=True).strip()
        with open(f"{self.place}/resolv.conf", "w") as file:
            file.write(f"nameserver {resolver}\noptions edns0 trust-ad\n")
        with open(f"{self.config}/main.cf", "w") as file:
            file.write(f"""compatibility_level = 3.6
queue_directory = {self.spool}
data_directory = {self.place}/data
daemon_directory = {daemons}
maillog_file = {self.place}/log
maillog_file_prefixes = {self.place}
myhostname = mx.p.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = p.test
virtual_mailbox_base = {self.place}/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_received_header = yes
smtp_tls_security_level = dane
smtp_dns_support_level = dnssec
smtp_host_lookup = dns
smtp_tls_loglevel = 1
smtp_tls_CAfile =
""")
        services = [f"{address}:25 inet n - n - - smtpd"]
        for name, private, wakeup, limit, command in (
                ("cleanup", "n", "-", "0", "cleanup"), ("qmgr", "n", "300", "1", "qmgr"),
                ("tlsmgr", "-", "1000?", "1", "tlsmgr"), ("rewrite", "-", "-", "-", "trivial-rewrite"),
                ("bounce", "-", "-", "0", "bounce"), ("defer", "-", "-", "0", "bounce"), ("trace", "-", "-", "0", "bounce"),
                ("proxymap", "-", "-", "-", "proxymap"), ("smtp", "-", "-", "-", "smtp"), ("error", "-", "-", "-", "error"),
                ("retry", "-", "-", "-", "error"), ("virtual", "-", "-", "-", "virtual"), ("anvil", "-", "-", "1", "anvil"),
                ("scache", "-", "-", "1", "scache")):
            unprivileged = "n" if name == "virtual" else "-"
            services.append(f"{name} unix {private} {unprivileged} n {wakeup} {limit} {command}")
        services.append("postlog unix-dgram n - n - 1 postlogd")
        with open(f"{self.config}/master.cf", "w") as file:
            file.write("\n".join(services) + "\n")

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["postfix", "-c", self.config, "check"], check=False, **quiet)
        script = 'mount --bind "$1" /etc/resolv.conf && exec postfix -c "$2" start-fg'
        self.process = subprocess.Popen(["unshare", "-m", "sh", "-c", script, "sh", f"{self.place}/resolv.conf", self.config],
                                        **quiet)
        if not kura.eventually(lambda: os.path.exists(f"{self.place}/log") and "daemon started" in self.log(), 30):
            raise RuntimeError(f"Postfix does not start: {self.log() if os.path.exists(f'{self.place}/log') else ''}")
        return self

    def log(self):
        with open(f"{self.place}/log", errors="replace") as file:
            return file.read()

    def messages(self):
        found = []
        for path in glob.glob(f"{self.place}/mail/box/new/*"):
            with open(path, "rb") as file:
                found.append(file.read())
        return found

    def remove(self):
        # The process that we have started is a shell around the master.
        with open(f"{self.spool}/pid/master.pid") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        self.process.wait(20)
        shutil.rmtree(self.place, ignore_errors=True)


@unittest.skipIf(missing(), missing())
@unittest.skipIf(not all(map(names.program, PROGRAMS)), f"one of {', '.join(PROGRAMS)} is not installed (tests/run installs them)")
class Peers(Sending):
    @classmethod
    def setUpClass(cls):
        cls.pki = Pki()
        cls.addClassCleanup(cls.pki.remove)
        cls.names = names.SignedNames("ns A 127.0.0.1\n").start()
        cls.addClassCleanup(cls.names.remove)
        unbound = Unbound(RESOLVER, cls.names.port, cls.names.anchor)
        cls.addClassCleanup(unbound.remove)
        test = cls("one")
        cls.addClassCleanup(test.doCleanups)
        cls.a = test.peer("a", A, cls.pki.signed("mx.a.test", "mta-sts.a.test"))
        cls.b = test.peer("b", B, cls.pki.self_signed("mx.b.test"), f"{RESOLVER}:53")
        pair = cls.pki.self_signed("mx.p.test")
        zone = "ns A 127.0.0.1\n" + f"p MX 10 mx.p\nmx.p A {P}\n_25._tcp.mx.p {cls.pki.tlsa(pair[0], 3, 1)}\n"
        signer = names.Signer(2048, "p.test", "s")
        cls.signer = signer
        zone += signer.record()
        for server, domain in ((cls.a, "a.test"), (cls.b, "b.test")):
            zone += test.printed(server, domain)
        cls.names.set("test.", zone)
        # Whoever has asked before remembers that there was nothing.
        for server in (cls.a, cls.b):
            server.stop()
            server.start()
        cls.postfix = Postfix(P, RESOLVER, *pair)
        cls.addClassCleanup(cls.postfix.remove)
        cls.postfix.start()

    @classmethod
    def tearDownClass(cls):
        pass

    def one(self):
        """For the class's own servers."""

    def peer(self, name, address, pair, resolver=None):
        server = self.server(25, user=f"user@{name}.test")
        server.stop()
        host = f"mx.{name}.test"
        place = f"{server.directory}/certificates/{host}"
        os.mkdir(place)
        shutil.copy(pair[0], f"{place}/chain.pem")
        shutil.copy(pair[1], f"{place}/key.pem")
        server.configure(r"^hostname = .*$", f'hostname = "{host}"\naddresses = ["{address}"]')
        server.configure(r'^smtp = \["', f'smtp = ["{address}:25", "')
        server.configure(r"^trusted_networks = .*$", "trusted_networks = []")
        if resolver:
            server.configure(r"^servers = .*$", f'servers = ["{resolver}"]')
        # The other one begins to validate once it has proved the root's keys.
        mode = "required" if name == "a" else "auto"
        server.configure(r"^dnssec = .*$", f'dnssec = "{mode}"\ntrust_anchor = "{self.names.anchor}"')
        server.configure(r"^mta_sts = true$", f'mta_sts = true\nca_file = "{self.pki.ca}"', "relay")
        server.configure(r"^level = .*$", 'level = "info"', "log")
        if name == "a":
            server.configure(r"^listen = \[\]$", f'listen = ["{address}:443"]', "web")
            server.configure(r'^mta_sts = "testing"$', 'mta_sts = "enforce"', "web")
        return server.start()

    def printed(self, server, domain):
        """What DNS has to say of a domain of ours. That of a.test does without TLSA, so that its policy counts."""
        done = server.command("dns", "print", domain)
        self.assertEqual(done.returncode, 0, done.stderr)
        kept, inside = [], False
        for line in done.stdout.splitlines():
            is_tlsa = " TLSA " in line and domain == "a.test"
            inside = (inside or is_tlsa) and "(" in line or inside and ")" not in line
            if not is_tlsa and not inside:
                kept.append(line)
        return "\n".join(kept) + "\n"

    def sent(self, server, to):
        def line():
            with open(server.log_path, errors="replace") as log:
                return next((line for line in log if " sent " in line and f"to={to}" in line), None)
        return until(f"a line that mail for {to} was sent", line)

    def arrived(self, server, subject):
        def look():
            return next((body for body in server.bodies().values() if f"Subject: {subject}\r\n".encode() in body), None)
        return email.message_from_bytes(until(subject, look), policy=email.policy.default)

    def test_from_one_kura_to_another_by_dane(self):
        self.submit(self.a, "user@b.test", "From: user@a.test\r\nSubject: by dane\r\n\r\nHello\r\n")
        message = self.arrived(self.b, "by dane")
        self.assertIn('way="DANE"', self.sent(self.a, "user@b.test"))
        self.assertIn("dkim=pass", message["Authentication-Results"])
        self.assertIn("header.d=a.test", message["Authentication-Results"])
        self.assertIn("with ESMTPS", message["Received"])

    def test_and_back_by_the_policy_that_the_other_publishes(self):
        self.submit(self.b, "user@a.test", "From: user@b.test\r\nSubject: by policy\r\n\r\nHello\r\n")
        message = self.arrived(self.a, "by policy")
        self.assertIn('way="MTA-STS"', self.sent(self.b, "user@a.test"))
        self.assertIn("dkim=pass", message["Authentication-Results"])
        self.assertIn("header.d=b.test", message["Authentication-Results"])

    def test_to_postfix_by_dane(self):
        for server, name in ((self.a, "a"), (self.b, "b")):
            self.submit(server, f"{name}@p.test", f"From: user@{name}.test\r\nSubject: from {name}\r\n\r\nHello\r\n")
            found = until("the message", lambda: next((m for m in self.postfix.messages() if f"from {name}".encode() in m), None))
            self.assertIn('way="DANE"', self.sent(server, f"{name}@p.test"))
            self.assertIn(b"(using TLSv1.3", found)
            self.assertIn(b"DKIM-Signature:", found)

    def test_from_postfix_by_dane(self):
        message = b"From: them@p.test\r\nSubject: from postfix\r\n\r\nHello\r\n"
        with smtplib.SMTP(P, 25, timeout=60) as smtp:
            smtp.sendmail("them@p.test", ["user@b.test"], self.signer.sign(message))
        message = self.arrived(self.b, "from postfix")
        self.assertIn("Verified TLS connection established to mx.b.test", self.postfix.log())
        self.assertIn("dkim=pass", message["Authentication-Results"])
        self.assertIn("header.d=p.test", message["Authentication-Results"])

    def test_a_promise_between_kuras_is_kept(self):
        user = self.a.accounts[0][0]
        with smtplib.SMTP("127.0.0.1", self.a.ports["submission"], timeout=60) as smtp:
            smtp.starttls(context=kura.careless_tls())
            smtp.login(user, PASSWORD)
            smtp.sendmail(user, ["user@b.test"], b"From: user@a.test\r\nSubject: promised\r\n\r\nHello\r\n", ["REQUIRETLS"])
            # Postfix of today does not know it.
            smtp.sendmail(user, ["c@p.test"], b"From: user@a.test\r\nSubject: refused\r\n\r\nHello\r\n", ["REQUIRETLS"])
        self.arrived(self.b, "promised")
        notice = until("a notice", lambda: next((b for b in self.a.bodies().values() if b"c@p.test" in b), None))
        self.assertIn(b"5.7.30", notice)
