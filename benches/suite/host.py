"""Where a run took place: what a number is worth nothing without."""

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time

from servers import NotThere


def _output(*command, cwd=None):
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _line(path):
    """The first line of a file of the kernel's; empty where there is none."""
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def cpu_model():
    with open("/proc/cpuinfo") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def device(disk):
    """Name, model, write cache, FUA, scheduler of a `meters.Disk`, as far as the kernel tells."""
    queue = f"/sys/block/{disk.name}/queue"
    fua = {"0": "no FUA", "1": "FUA"}.get(_line(f"{queue}/fua"), "")
    chosen = re.search(r"\[(.+)\]", _line(f"{queue}/scheduler"))
    about = [disk.name, _line(f"/sys/block/{disk.name}/device/model"), _line(f"{queue}/write_cache"),
             fua, chosen.group(1) if chosen else ""]
    return ", ".join(each for each in about if each)


def file_system(directory):
    """Type and options of the mount that a directory is on."""
    major_minor = "{}:{}".format(*(f(os.stat(directory).st_dev) for f in (os.major, os.minor)))
    with open("/proc/self/mountinfo") as lines:
        for fields in map(str.split, lines):
            if fields[2] == major_minor:
                rest = fields[fields.index("-") + 1:]
                return f"{rest[0]} ({fields[5]}; {rest[2]})"
    return ""


def facts(root, kura, was_given, disk, directory, options):
    status = _output("git", "status", "--porcelain", cwd=root)
    with open(kura, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(sys.argv),
        "commit": _output("git", "rev-parse", "HEAD", cwd=root) or None,
        "dirty": bool(status),
        # A binary that was given may be of another commit than the tree.
        "binary": {
            "given": was_given, "version": _output(kura, "--version"), "sha256": digest,
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(os.path.getmtime(kura))),
        },
        "seed": options.seed,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "cpu_model": cpu_model(),
        "memory_bytes": memory,
        "device": device(disk),
        "file_system": file_system(directory),
        "load_average_before": os.getloadavg()[0],
    }


def profile(kura, directory, seconds, given):
    """The text of the profile for all servers, and what `kura profile` says of it."""
    path = os.path.join(directory, "measured.toml")
    if given:
        shutil.copyfile(given, path)
        said = _output(kura, "profile", "show", "--profile", path, "--json")
        came = f"given: {os.path.basename(given)}"
        name = os.path.basename(given).removesuffix(".toml")
    else:
        # Exit code 3: flushes here are not to be trusted. It measured all the same, and says so.
        said = subprocess.run(
            [kura, "profile", "probe", "--dir", directory, "--time", f"{seconds}s", "--out", path,
             "--json"],
            capture_output=True, text=True, check=False,
        ).stdout
        came = f"measured in this run: kura profile probe --time {seconds}s"
        name = "measured"
    try:
        said = json.loads(said)
    except ValueError:
        raise NotThere("kura profile gave no profile" + (f" from {given}" if given else "")) from None
    with open(path) as file:
        text = file.read()
    return text, {"name": name, "from": came, **said}
