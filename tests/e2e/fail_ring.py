"""Makes the calls that hand the stores' rings their work fail with EIO, as `strace -e inject` would, which can't
tell a store's ring from the executor's: `fail_ring.py PID`, until SIGTERM. Linux on x86-64 alone.

A store's ring is told by its size. Each thread of the process is traced; where `io_uring_enter` is called for such a
ring, the kernel is given a call that does not exist, and the thread finds EIO as its result.
"""

import ctypes
import errno
import os
import re
import signal
import sys

CQ_MASK = "3ff"  # COMPLETION_ENTRIES - 1, in storage/src/device/uring/ring.rs
ENTER = 426  # io_uring_enter
SEIZE, INTERRUPT, SYSCALL, GETREGS, SETREGS = 0x4206, 0x4207, 24, 12, 13
TRACESYSGOOD, WALL = 1, 0x40000000
AT_CALL = signal.SIGTRAP | 0x80
# Of the registers, in the order of `struct user_regs_struct`.
RAX, RDI, ORIG_RAX, COUNT = 10, 14, 15, 27

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread, data=None):
    if libc.ptrace(request, thread, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


def rings(process):
    """Descriptors of the stores' rings."""
    found = set()
    for name in os.listdir(f"/proc/{process}/fdinfo"):
        with open(f"/proc/{process}/fdinfo/{name}") as info:
            if re.search(rf"^CqMask:\s*(0x)?{CQ_MASK}$", info.read(), re.MULTILINE):
                found.add(int(name))
    return found


def at_call(thread, failing, of_stores):
    """A call begins or ends; `failing` holds the threads in a call that is made to fail."""
    registers = (ctypes.c_ulong * COUNT)()
    ptrace(GETREGS, thread, ctypes.addressof(registers))
    if thread in failing:
        failing.remove(thread)
        registers[RAX] = (1 << 64) - errno.EIO
        print("EIO", flush=True)
    elif registers[ORIG_RAX] == ENTER and registers[RDI] in of_stores and is_entry(registers):
        failing.add(thread)
        registers[ORIG_RAX] = (1 << 64) - 1
    else:
        return
    ptrace(SETREGS, thread, ctypes.addressof(registers))


def is_entry(registers):
    return registers[RAX] == (1 << 64) - errno.ENOSYS


def main(process):
    of_stores = rings(process)
    if not of_stores:
        sys.exit("no ring of a store found")
    for thread in map(int, os.listdir(f"/proc/{process}/task")):
        ptrace(SEIZE, thread, TRACESYSGOOD)
        ptrace(INTERRUPT, thread)
    # The kernel lets all of them go when this process ends; not inside of a call that was changed.
    over = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    print("attached", flush=True)
    failing = set()
    while not over or failing:
        thread, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            continue
        stopped = os.WSTOPSIG(status)
        if stopped == AT_CALL:
            at_call(thread, failing, of_stores)
        passed_on = 0 if stopped in (AT_CALL, signal.SIGTRAP) else stopped
        ptrace(SYSCALL, thread, passed_on)


if __name__ == "__main__":
    main(int(sys.argv[1]))
