"""A real Dovecot on loopback, with POP3 and IMAP, with TLS and without, and users made for the test."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
UID = 65534


def program(name):
    return shutil.which(name, path=PATH)


def is_possible():
    """It starts processes under other users."""
    return os.geteuid() == 0 and program("dovecot") and os.path.exists("/usr/lib/dovecot/pop3")


def certificate(directory, name="there"):
    """A certificate for 127.0.0.1 that vouches for itself; (certificate, key)."""
    chain, key = os.path.join(directory, f"{name}.pem"), os.path.join(directory, f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
         "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )
    return chain, key


class Dovecot:
    def __init__(self, users):
        """`users` are names with their passwords."""
        self.directory = tempfile.mkdtemp(prefix="kura-dovecot-")
        os.chmod(self.directory, 0o755)
        self.mail = os.path.join(self.directory, "mail")
        os.makedirs(self.mail)
        os.chown(self.mail, UID, UID)
        self.chain, key = certificate(self.directory)
        with open(os.path.join(self.directory, "users"), "w") as file:
            file.writelines(f"{name}:{{PLAIN}}{word}::::::\n" for name, word in users.items())
        names = ("pop3", "pop3s", "imap", "imaps")
        held = [socket.socket() for _ in names]
        for one in held:
            one.bind(("127.0.0.1", 0))
        self.ports = {name: one.getsockname()[1] for name, one in zip(names, held)}
        for one in held:
            one.close()

        def service(protocol):
            plain, tls = self.ports[protocol], self.ports[protocol + "s"]
            return f"""service {protocol}-login {{
  inet_listener {protocol} {{
    address = 127.0.0.1
    port = {plain}
  }}
  inet_listener {protocol}s {{
    address = 127.0.0.1
    port = {tls}
    ssl = yes
  }}
}}
"""

        with open(os.path.join(self.directory, "dovecot.conf"), "w") as file:
            file.write(f"""base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.directory}/log
protocols = imap pop3
ssl = yes
ssl_cert = <{self.chain}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = maildir:~/Maildir
mail_max_userip_connections = 100
# Wrong passwords must not slow down what comes after them.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = username_format=%u {self.directory}/users
}}
userdb {{
  driver = static
  args = uid={UID} gid={UID} home={self.mail}/%n
}}
namespace inbox {{
  inbox = yes
  separator = .
  mailbox Sent {{
    special_use = \\Sent
    auto = create
  }}
}}
{service("pop3")}{service("imap")}""")
        self.process = None

    def start(self):
        with open(f"{self.directory}/start.log", "wb") as log:
            self.process = subprocess.Popen([program("dovecot"), "-F", "-c", f"{self.directory}/dovecot.conf"],
                                            stdout=log, stderr=log)
        for _ in range(200):
            try:
                for port in self.ports.values():
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return self
            except OSError:
                time.sleep(0.05)
        with open(f"{self.directory}/start.log") as log:
            raise RuntimeError(f"dovecot does not answer: {log.read()}")

    def remove(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def folder(self, user, name="INBOX"):
        path = os.path.join(self.mail, user, "Maildir")
        return path if name == "INBOX" else os.path.join(path, "." + name)

    def put(self, user, messages, folder="INBOX", flags="", when=None):
        """Messages into a Maildir, as a delivery agent does."""
        path = self.folder(user, folder)
        for part in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(path, part), exist_ok=True)
        for octets in messages:
            name = f"{time.time_ns()}.M{len(os.listdir(path))}.test"
            into = f"cur/{name}:2,{flags}" if flags else f"new/{name}"
            with open(os.path.join(path, into), "wb") as file:
                file.write(octets.replace(b"\r\n", b"\n"))
            if when is not None:
                os.utime(os.path.join(path, into), (when, when))
        top = os.path.join(self.mail, user)
        for root, _, files in os.walk(top):
            os.chown(root, UID, UID)
            for file in files:
                os.chown(os.path.join(root, file), UID, UID)

    def count(self, user, folder="INBOX"):
        path = self.folder(user, folder)
        return sum(len(os.listdir(os.path.join(path, part))) for part in ("new", "cur"))
