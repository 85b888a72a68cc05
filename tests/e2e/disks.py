"""File systems of a test's own, on loop devices: small ones, and ones that lose power."""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile

import kura

MIB = 1 << 20
# _IOR('X', 125, u32): the file system stops here and now. What it has not written is lost,
# its journal's tail included, as in a power cut; every later write gets EIO. The same number
# on ext4 and xfs.
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


class LoopDisk:
    """Mounted until the test ends; the test is skipped where that is not permitted."""

    def __init__(self, case, megabytes, kind="ext4"):
        self.base = tempfile.mkdtemp(prefix="kura-disk-")
        self.image, self.place = os.path.join(self.base, "image"), os.path.join(self.base, "mount")
        os.mkdir(self.place)
        case.addCleanup(shutil.rmtree, self.base, ignore_errors=True)
        with open(self.image, "wb") as file:
            file.truncate(megabytes * MIB)
        try:
            subprocess.run([f"mkfs.{kind}", "-q", self.image], check=True, capture_output=True)
            self.mount()
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", b"") or b""
            case.skipTest(f"no loop mount here: {error} {detail.decode(errors='replace').strip()}")
        case.addCleanup(subprocess.run, ["umount", "-l", self.place], check=False, capture_output=True)

    def mount(self):
        """What was shut down may live on for a moment, while the kernel takes apart the rings of whoever was killed:
        a mount then finds the same dead file system again."""

        def is_alive():
            command = ["mount", "-o", "loop", self.image, self.place]
            subprocess.run(command, check=True, capture_output=True)
            try:
                with tempfile.TemporaryFile(dir=self.place):
                    return True
            except OSError:
                self.unmount()
                return False

        if not kura.eventually(is_alive, 20):
            raise kura.Failed(f"{self.image} is mounted, and dead")

    def unmount(self):
        def gone():
            command = ["umount", self.place]
            return subprocess.run(command, check=False, capture_output=True).returncode == 0

        if not kura.eventually(gone, 10):
            raise kura.Failed(f"{self.place} can't be unmounted")

    def cut_power(self):
        place = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(place, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(place)
