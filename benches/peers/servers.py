"""The servers under load: Postfix and Dovecot as Debian configures them, and Kura.

Each runs as an instance of its own, with its own configuration, data and ports, in a directory of
its own; the system's services are never touched. Each is one child process of ours in the
foreground, with all its processes below it, and stops when that child is told to.

Flushing is neither weakened nor strengthened: Postfix syncs its queue files (no setting turns that
off), Dovecot has its default `mail_fsync = optimized`.
"""

import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import time

START_SECONDS = 60
MAIL_UID = 5000  # need not exist; Dovecot refuses system users


class NotThere(Exception):
    """A server could not be started; the text says what to do."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, child, log, seconds=START_SECONDS):
    """Until something listens. Gives up when the child has gone, and quotes its log."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if child.poll() is not None:
            break
        time.sleep(0.05)
    tail = ""
    if os.path.exists(log):
        with open(log, errors="replace") as lines:
            tail = "".join(lines.readlines()[-10:])
    raise NotThere(f"nothing listens on port {port} (exit {child.poll()}); its log ends:\n{tail}")


class Server:
    """What the load needs to know of a server."""

    name = ""
    lmtp = False

    def __init__(self, directory, users):
        self.directory = directory
        self.users = users
        self.children = []
        self.smtp_port = None
        self.imap_port = None
        self.accounts = [(f"user{n}@example.test", "benchmark") for n in range(users)]
        os.makedirs(directory, mode=0o755, exist_ok=True)

    def path(self, *parts):
        return os.path.join(self.directory, *parts)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def spawn(self, command, log):
        with open(self.path(log), "ab") as out:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self.children.append(child)
        return child

    def roots(self):
        """Process ids whose trees are the server."""
        return [child.pid for child in self.children]

    def drained(self):
        """Whether everything acknowledged has reached its mailbox. Costs the server nothing."""
        return True

    def stats(self):
        """The server's own counters of bytes and flushes, when it has any."""
        return None

    def version(self):
        return ""

    def stop(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in reversed(self.children):
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children = []


class Dovecot(Server):
    """Dovecot's LMTP into its own store. Also the second half of Postfix + Dovecot."""

    lmtp = True

    def __init__(self, directory, users, store, lmtp_socket=None):
        super().__init__(directory, users)
        self.store = store
        self.lmtp_socket = lmtp_socket
        self.name = f"dovecot-lmtp-{store}"

    def version(self):
        return "Dovecot " + subprocess.check_output(["dovecot", "--version"], text=True).split()[0]

    def start(self):
        mail = self.path("mail")
        os.makedirs(mail)
        os.chown(mail, MAIL_UID, MAIL_UID)
        self.imap_port = free_port()
        if self.lmtp_socket:
            listener = f"unix_listener {self.lmtp_socket} {{\n    mode = 0666\n  }}"
        else:
            self.smtp_port = free_port()
            listener = (
                f"inet_listener lmtp {{\n    address = 127.0.0.1\n    port = {self.smtp_port}\n  }}"
            )
        location = {"maildir": "maildir:~/Maildir", "mdbox": "mdbox:~/mdbox"}[self.store]
        self.write(
            "users",
            "".join(f"{name}:{{PLAIN}}{word}::::::\n" for name, word in self.accounts),
        )
        config = self.write(
            "dovecot.conf",
            f"""
base_dir = {self.path("run")}
state_dir = {self.path("state")}
log_path = {self.path("dovecot.log")}
protocols = imap lmtp
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = {location}
passdb {{
  driver = passwd-file
  args = username_format=%u {self.path("users")}
}}
userdb {{
  driver = static
  args = uid={MAIL_UID} gid={MAIL_UID} home={mail}/%n
}}
namespace inbox {{
  inbox = yes
}}
service lmtp {{
  {listener}
}}
service imap-login {{
  inet_listener imap {{
    address = 127.0.0.1
    port = {self.imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
""",
        )
        child = self.spawn(["dovecot", "-F", "-c", config], "start.log")
        wait_for_port(self.imap_port, child, self.path("dovecot.log"))
        if self.smtp_port:
            wait_for_port(self.smtp_port, child, self.path("dovecot.log"))


class Postfix(Server):
    """An instance of Postfix that takes mail over SMTP from this host."""

    def __init__(self, directory, users):
        super().__init__(directory, users)
        self.spool = self.path("spool")

    def version(self):
        postfix = subprocess.check_output(["postconf", "-d", "-h", "mail_version"], text=True).strip()
        return f"Postfix {postfix}"

    def prepare(self, more):
        """Its directories and configuration; `more` says where the mail goes."""
        self.smtp_port = free_port()
        config, data = self.path("postfix"), self.path("postfix-data")
        for directory in (config, data, self.spool):
            os.makedirs(directory)
        os.chown(data, pwd.getpwnam("postfix").pw_uid, 0)
        daemons = subprocess.check_output(
            ["postconf", "-d", "-h", "daemon_directory"], text=True
        ).strip()
        self.write(
            "postfix/main.cf",
            f"""
compatibility_level = 3.6
queue_directory = {self.spool}
data_directory = {data}
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.path("postfix.log")}
maillog_file_prefixes = {self.directory}
myhostname = mail.example.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
{more}
""",
        )
        self.write("postfix/master.cf", self.master_cf())
        subprocess.run(
            ["postfix", "-c", config, "check"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, check=False,
        )

    def launch(self):
        child = self.spawn(["postfix", "-c", self.path("postfix"), "start-fg"], "start.log")
        wait_for_port(self.smtp_port, child, self.path("postfix.log"))

    def master_cf(self):
        """Debian's services, without chroot, with an smtpd on our port."""
        lines = [f"127.0.0.1:{self.smtp_port} inet n - n - - smtpd"]
        for name, kind, private, wakeup, limit, command in [
            ("cleanup", "unix", "n", "-", "0", "cleanup"),
            ("qmgr", "unix", "n", "300", "1", "qmgr"),
            ("tlsmgr", "unix", "-", "1000?", "1", "tlsmgr"),
            ("rewrite", "unix", "-", "-", "-", "trivial-rewrite"),
            ("bounce", "unix", "-", "-", "0", "bounce"),
            ("defer", "unix", "-", "-", "0", "bounce"),
            ("trace", "unix", "-", "-", "0", "bounce"),
            ("verify", "unix", "-", "-", "1", "verify"),
            ("flush", "unix", "n", "1000?", "0", "flush"),
            ("proxymap", "unix", "-", "-", "-", "proxymap"),
            ("error", "unix", "-", "-", "-", "error"),
            ("retry", "unix", "-", "-", "-", "error"),
            ("discard", "unix", "-", "-", "-", "discard"),
            ("lmtp", "unix", "-", "-", "-", "lmtp"),
            ("smtp", "unix", "-", "-", "-", "smtp"),
            ("anvil", "unix", "-", "-", "1", "anvil"),
            ("scache", "unix", "-", "-", "1", "scache"),
            ("postlog", "unix-dgram", "n", "-", "1", "postlogd"),
        ]:
            lines.append(f"{name} {kind} {private} - n {wakeup} {limit} {command}")
        return "\n".join(lines) + "\n"

    def drained(self):
        """No queue file is left: what Postfix has acknowledged has gone on."""
        for queue in ("maildrop", "incoming", "active", "deferred"):
            for _, _, files in os.walk(os.path.join(self.spool, queue)):
                if files:
                    return False
        return True

    def stop(self):
        # `postfix start-fg` is a shell around the master: it is the master that has to be told.
        pid_file = os.path.join(self.spool, "pid/master.pid")
        if os.path.exists(pid_file):
            with open(pid_file) as file:
                pid = int(file.read())
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        super().stop()


class PostfixDovecot(Postfix):
    """Postfix takes the mail over SMTP, queues it, and hands it to Dovecot over LMTP."""

    def __init__(self, directory, users, store):
        super().__init__(directory, users)
        self.name = f"postfix-dovecot-{store}"
        self.dovecot = Dovecot(
            self.path("dovecot"), users, store, lmtp_socket=self.path("spool/private/dovecot-lmtp")
        )

    def version(self):
        return f"{super().version()}, {self.dovecot.version()}"

    def start(self):
        self.prepare(
            "virtual_mailbox_domains = example.test\n"
            "virtual_mailbox_maps = static:all\n"
            "virtual_transport = lmtp:unix:private/dovecot-lmtp"
        )
        self.dovecot.start()
        self.imap_port = self.dovecot.imap_port
        self.launch()

    def roots(self):
        return super().roots() + self.dovecot.roots()

    def stop(self):
        super().stop()
        self.dovecot.stop()


class Kura(Server):
    """Kura, from `quickstart`, with as many accounts as the others have."""

    name = "kura"

    def __init__(self, directory, users, binary):
        super().__init__(directory, users)
        self.binary = binary
        self.data = self.path("data")

    def version(self):
        return subprocess.check_output([self.binary, "--version"], text=True).strip()

    def start(self):
        ready = self.serve()
        self.accounts = [(each["address"], each["password"]) for each in ready["accounts"]]
        for number in range(self.users - len(self.accounts)):
            self.accounts.append(self.add_account(f"bench{number}@example.test", "benchmark"))

    def serve(self):
        """Until it is ready; what it says then."""
        command = [self.binary, "quickstart", "--json", "--free-ports", "--dir", self.data]
        log = open(self.path("kura.log"), "ab")
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            start_new_session=True, text=True,
        )
        log.close()
        self.children.append(child)
        answers, _, _ = select.select([child.stdout], [], [], START_SECONDS)
        line = child.stdout.readline() if answers else ""
        if not line:
            how = f"did not get ready in {START_SECONDS} s" if not answers else "ended"
            child.kill()
            child.wait()
            with open(self.path("kura.log"), errors="replace") as lines:
                raise NotThere(f"kura quickstart {how}:\n" + "".join(lines.readlines()[-10:]))
        ready = json.loads(line)
        self.smtp_port = ready["ports"]["smtp"]
        self.imap_port = ready["ports"]["imap"]
        return ready

    def add_account(self, address, password):
        subprocess.run(
            [self.binary, "account", "add", address, "--password-stdin", "--dir", self.data],
            input=password + "\n", text=True, check=True, stdout=subprocess.DEVNULL,
        )
        return address, password

    def command(self, *arguments):
        return subprocess.run(
            [self.binary, *arguments, "--dir", self.data], capture_output=True, text=True, check=False
        )

    def stats(self):
        out = self.command("store", "stats", "--json")
        return json.loads(out.stdout) if out.returncode == 0 else None


class Sink(Server):
    """Takes everything and keeps nothing: `kura bench sink` of that binary, or Postfix's smtp-sink without one."""

    def __init__(self, directory, kura):
        super().__init__(directory, 0)
        self.kura = kura

    def start(self):
        self.smtp_port = free_port()
        address = f"127.0.0.1:{self.smtp_port}"
        own = [self.kura, "bench", "sink", "--json", "--listen", address]
        child = self.spawn(own if self.kura else ["smtp-sink", "-u", "nobody", "-c", address, "1000"], "sink.log")
        wait_for_port(self.smtp_port, child, self.path("sink.log"))

    def taken(self):
        """So far: the last of the counts that it writes one behind the other."""
        with open(self.path("sink.log"), errors="replace") as file:
            found = re.findall(r'(?:"messages":|mesg=)(\d+)', file.read())
        return int(found[-1]) if found else 0


def install_missing():
    """Debian's packages, when they are not there."""
    needed = {"postfix": "postfix", "dovecot": "dovecot-core", "lmtp": "dovecot-lmtpd",
              "imap": "dovecot-imapd"}
    there = {
        "postfix": shutil.which("postfix"),
        "dovecot": shutil.which("dovecot"),
        "lmtp": os.path.exists("/usr/lib/dovecot/lmtp"),
        "imap": os.path.exists("/usr/lib/dovecot/imap"),
    }
    missing = [package for what, package in needed.items() if not there[what]]
    if not missing:
        return
    if os.geteuid() != 0:
        raise NotThere(f"run as root once, or install: apt-get install {' '.join(missing)}")
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    # Debian starts services after installing them; on loopback ports of our own they
    # are not wanted.
    subprocess.run(["apt-get", "update", "-q"], env=quiet, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *missing],
        env=dict(quiet, RUNLEVEL="1"), check=True, stdout=subprocess.DEVNULL,
    )
