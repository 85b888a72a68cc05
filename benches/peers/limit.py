"""A disk as slow as asked: the kernel's own limit on what a group of processes writes to a device a second."""

import contextlib
import os

from servers import NotThere

V1 = "/sys/fs/cgroup/blkio"
V2 = "/sys/fs/cgroup"


class WriteLimit:
    """This process, and all that it starts, in a group of its own; left and removed at the end."""

    def __init__(self, directory):
        device = os.stat(directory).st_dev
        whole = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        if os.path.exists(os.path.join(whole, "partition")):
            whole = os.path.dirname(whole)
        try:
            with open(os.path.join(whole, "dev")) as file:
                self.device = file.read().strip()
        except OSError:
            raise NotThere(f"{directory} is on no block device: nothing to limit") from None
        self.is_v1 = os.path.exists(f"{V1}/blkio.throttle.write_bps_device")
        self.root = V1 if self.is_v1 else V2
        self.group = f"{self.root}/kura-bench-{os.getpid()}"
        self.tasks = "tasks" if self.is_v1 else "cgroup.procs"

    def __enter__(self):
        try:
            if not self.is_v1:
                _write(f"{V2}/cgroup.subtree_control", "+io")
            os.mkdir(self.group)
            _write(f"{self.group}/{self.tasks}", str(os.getpid()))
            self.set(None)
        except OSError as problem:
            self.__exit__()
            raise NotThere(f"no limit on the disk can be set: {problem}; run as root, on a host whose kernel "
                           "has the io (or blkio) controller of cgroups, or with --limit 0") from None
        return self

    def set(self, megabytes_per_second):
        """For what is written from now on; `None`: as fast as it goes."""
        limit = int(megabytes_per_second * 1e6) if megabytes_per_second else None
        if self.is_v1:
            _write(f"{self.group}/blkio.throttle.write_bps_device", f"{self.device} {limit or 0}")
        else:
            _write(f"{self.group}/io.max", f"{self.device} wbps={limit or 'max'}")

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            _write(f"{self.root}/{self.tasks}", str(os.getpid()))
        with contextlib.suppress(OSError):
            os.rmdir(self.group)


def _write(path, text):
    with open(path, "w") as file:
        file.write(text)
