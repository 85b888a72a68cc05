"""The servers with their filters: Kura with all or nothing switched on, and Postfix with rspamd and clamav-milter."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request

import mail
from servers import Kura, NotThere, PostfixDovecot, free_port, wait_for_port

SCRIPT = r"""require ["fileinto", "mailbox", "body", "imap4flags"];
if header :contains "list-id" ["announce", "devel"] { fileinto :create "Lists"; }
elsif address :domain :is "from" ["shop.test", "bank.test", "travel.test"] { fileinto :create "Shops"; }
elsif header :matches "subject" ["*invoice overdue*", "*out of office*"] { addflag "\\Flagged"; }
elsif size :over 5M { fileinto :create "Large"; }
elsif body :text :contains "the words that nobody writes" { discard; }
else { keep; }
"""


class FilteredKura(Kura):
    """`on`: all that looks at a message, but clamd, which is given by its socket."""

    def __init__(self, directory, users, binary, name, on, names, lessons, clamd=None):
        super().__init__(directory, users, binary)
        self.name, self.on, self.names, self.lessons, self.clamd = name, on, names, lessons, clamd

    def start(self):
        super().start()
        self.stop()
        config = os.path.join(self.data, "kura.toml")
        with open(config) as file:
            text = file.read()

        def put(key, value, section):
            nonlocal text
            start = text.index(f"\n[{section}]\n")
            changed, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text[start:], count=1, flags=re.M)
            if not count:
                raise NotThere(f"{section}.{key} is not in the configuration")
            text = text[:start] + changed

        put("trusted_networks", "[]", "auth")
        put("verify", str(self.on).lower(), "auth")
        put("dmarc", '"enforce"', "auth")
        put("servers", f'["127.0.0.1:{self.names.port}"]', "dns")
        put("enabled", str(self.on).lower(), "spam")
        put("enabled", str(self.on).lower(), "scan.attachments")
        if self.on:
            # Counted, and never too many.
            put("messages_min", "1000000", "scan.outbreak")
        if self.clamd:
            put("clamd", json.dumps([f"unix:{self.clamd}"]), "scan")
        with open(config, "w") as file:
            file.write(text)
        if self.on:
            spam, ham = self.lessons
            self.must("spam", "train", "--spam", str(spam), "--ham", str(ham))
            script = self.write("script.sieve", SCRIPT)
            for address, _ in self.accounts:
                self.must("sieve", "put", script, "--name", "filter", "--activate", "--account", address)
        self.again()

    def must(self, *arguments):
        done = self.command(*arguments)
        if done.returncode != 0:
            raise NotThere(f"kura {' '.join(arguments[:2])}: {done.stderr.strip()}")

    def again(self):
        child = self.spawn([self.binary, "serve", "--config", os.path.join(self.data, "kura.toml")], "kura.log")
        wait_for_port(self.smtp_port, child, self.path("kura.log"))


class FilteredPostfix(PostfixDovecot):
    """Postfix asks rspamd (a milter that scans by itself) and clamav-milter before it takes a message, and hands it to Dovecot."""

    def __init__(self, directory, users, names, lessons, clamd):
        super().__init__(directory, users, "maildir")
        self.name = "Postfix + rspamd + clamav-milter"
        self.names, self.lessons, self.clamd = names, lessons, clamd
        self.rspamd_port, self.controller_port, self.redis_port = free_port(), free_port(), free_port()
        self.milter_port = free_port()

    def prepare(self, more):
        milters = f"inet:127.0.0.1:{self.rspamd_port}, inet:127.0.0.1:{self.milter_port}"
        super().prepare(f"{more}\nsmtpd_milters = {milters}\nmilter_default_action = tempfail\nmilter_protocol = 6\n")

    def start(self):
        os.chmod(self.directory, 0o755)
        self.start_rspamd()
        config = self.write("clamav-milter.conf", f"""
MilterSocket inet:{self.milter_port}@127.0.0.1
ClamdSocket unix:{self.clamd}
Foreground yes
OnInfected Reject
OnFail Defer
AddHeader Replace
LogFile {self.path("clamav-milter.log")}
TemporaryDirectory {self.directory}
MaxFileSize 25M
""" + ("User root\n" if os.geteuid() == 0 else ""))
        child = self.spawn(["clamav-milter", "-c", config], "clamav-milter.out")
        wait_for_port(self.milter_port, child, self.path("clamav-milter.log"))
        super().start()

    def start_rspamd(self):
        """As Debian configures it, with Bayes in Redis, and our name server; without what asks the network, greylists or counts rates."""
        for part in ("rspamd/conf/override.d", "rspamd/db"):
            os.makedirs(self.path(part))
        base = self.path("rspamd")
        files = {
            "worker-normal.inc": "enabled = false;\n",
            "worker-controller.inc": f'bind_socket = "127.0.0.1:{self.controller_port}";\nsecure_ip = "127.0.0.1";\n',
            "worker-proxy.inc": f'bind_socket = "127.0.0.1:{self.rspamd_port}";\nmilter = yes;\ncount = {os.cpu_count()};\n'
                                'upstream "local" { default = yes; self_scan = yes; }\n',
            "worker-fuzzy.inc": "enabled = false;\n",
            "redis.conf": f'servers = "127.0.0.1:{self.redis_port}";\n',
            "classifier-bayes.conf": "autolearn = false;\n",
            "logging.inc": f'type = "file";\nfilename = "{base}/log";\nlevel = "warning";\n',
            # Loopback is a stranger: what is local is not verified.
            "options.inc": f'dns {{ nameserver = ["127.0.0.1:{self.names.port}"]; timeout = 1s; retransmits = 1; }}\n'
                           f'local_addrs = ["192.0.2.0/24"];\npidfile = "{base}/pid";\ncontrol_socket = "{base}/control mode=0600";\n',
        }
        for module in ("spf", "dkim", "dmarc", "arc"):
            files[f"{module}.conf"] = "check_local = true;\n"
        for module in ("rbl", "surbl", "asn", "fuzzy_check", "greylist", "ratelimit", "mx_check", "url_redirector", "dkim_signing",
                       "neural", "reputation", "replies", "history_redis"):
            files[f"{module}.conf"] = "enabled = false;\n"
        for name, text in files.items():
            self.write(f"rspamd/conf/override.d/{name}", text)
        command = ["rspamd", "-f", "-c", "/etc/rspamd/rspamd.conf", f"--var=LOCAL_CONFDIR={base}/conf",
                   f"--var=DBDIR={base}/db", f"--var=RUNDIR={base}", f"--var=LOGDIR={base}"]
        if os.geteuid() == 0:
            command += ["-u", "_rspamd", "-g", "_rspamd"]
            shutil.chown(base, "_rspamd", "_rspamd")
            subprocess.run(["chown", "-R", "_rspamd:_rspamd", base], check=True)
        redis = self.spawn(["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1", "--save", ""], "redis.log")
        wait_for_port(self.redis_port, redis, self.path("redis.log"))
        child = self.spawn(command, "rspamd.log")
        wait_for_port(self.rspamd_port, child, self.path("rspamd/log"), 120)
        wait_for_port(self.controller_port, child, self.path("rspamd/log"))
        for kind, directory in zip(("learnspam", "learnham"), self.lessons):
            for file in sorted(directory.iterdir()):
                request = urllib.request.Request(f"http://127.0.0.1:{self.controller_port}/{kind}", data=file.read_bytes())
                try:
                    urllib.request.urlopen(request, timeout=60).close()
                except urllib.error.HTTPError:
                    # Known already, or too short.
                    pass

    def looked_at(self):
        """How many messages rspamd has scanned."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.controller_port}/stat", timeout=30) as page:
            return json.loads(page.read())["scanned"]

    def symbols(self, message):
        """What rspamd finds in a message from loopback."""
        head = {"IP": "127.0.0.1", "From": mail.SENDER, "Helo": "client.test", "Rcpt": "user0@example.test"}
        url = f"http://127.0.0.1:{self.controller_port}/checkv2"
        with urllib.request.urlopen(urllib.request.Request(url, data=message, headers=head), timeout=60) as page:
            return sorted(json.loads(page.read())["symbols"])


def missing():
    """Debian's packages that are not there."""
    programs = {"postfix": "postfix", "dovecot": "dovecot-core", "rspamd": "rspamd", "redis-server": "redis-server",
                "clamav-milter": "clamav-milter"}
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    packages = [package for program, package in programs.items() if not shutil.which(program, path=path)]
    if not os.path.exists("/usr/lib/dovecot/lmtp"):
        packages.append("dovecot-lmtpd")
    return packages
