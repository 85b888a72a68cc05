"""Kura with the profile of the run instead of one that each server measures for itself."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time

from servers import Kura, NotThere

# What is no part of the store, and stays when a directory starts over with another profile.
KEPT = {"kura.toml", "profile.toml", "certificates"}
GREETING_SECONDS = 120


def template(binary, profile, directory):
    """A directory to copy: configuration, certificate and the profile (its text), but no store."""
    server = Kura(directory, 0, binary)
    try:
        server.serve()
    finally:
        server.stop()
    for name in os.listdir(server.data):
        path = os.path.join(server.data, name)
        if name not in KEPT:
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    with open(os.path.join(server.data, "profile.toml"), "w") as file:
        file.write(profile)
    return server.data


class PreparedKura(Kura):
    """A copy of a template; with knobs set by hand where a part needs them, and one that remembers nothing expunged."""

    def __init__(self, directory, users, binary, original, knobs=None, is_forgetful=False):
        super().__init__(directory, users, binary)
        self.original, self.knobs, self.is_forgetful = original, knobs or {}, is_forgetful

    def start(self):
        shutil.copytree(self.original, self.data)
        path = os.path.join(self.data, "kura.toml")
        with open(path) as file:
            text = file.read()
        if self.is_forgetful:
            text, found = re.subn(r'^retention = .*$', 'retention = "0"', text, flags=re.MULTILINE)
            if found != 1:
                raise NotThere(f"{path} has {found} lines for the retention, not one")
        if self.knobs:
            text += "\n[knobs]\n" + "".join(f"{name} = {value}\n" for name, value in self.knobs.items())
        with open(path, "w") as file:
            file.write(text)
        super().start()

    def kill(self):
        """As a power cut would, except for the disk."""
        child = self.children.pop()
        child.send_signal(signal.SIGKILL)
        child.wait()

    def start_again(self, between):
        """Kills it, does `between`, and starts it."""
        self.kill()
        between()
        self.seconds_to_greeting()

    def seconds_to_greeting(self):
        """Starts it again, as an operator's service does; from exec to the first byte over SMTP."""
        command = [self.binary, "serve", "--config", os.path.join(self.data, "kura.toml")]
        with open(self.path("kura.log"), "ab") as log:
            start = time.monotonic()
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.children.append(child)
        while time.monotonic() < start + GREETING_SECONDS and child.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.smtp_port), 10) as smtp:
                    if smtp.recv(100).startswith(b"220 "):
                        return time.monotonic() - start
            except OSError:
                pass
            time.sleep(0.001)
        raise NotThere(f"no greeting after {time.monotonic() - start:.0f} s (exit {child.poll()})")
