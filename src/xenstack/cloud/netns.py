"""Work inside a box's network without starting a process: a thread may belong to another network namespace.

Linux keeps the namespace per thread, so one thread can speak to the cloud's APIs while the rest of the program
stays outside. A socket keeps the namespace in which it was made.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the network namespace: {os.strerror(error)}")


@contextmanager
def inside(pid: int) -> Iterator[None]:
    """The calling thread's network is that of process `pid` for the length of the block. Needs root."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)
