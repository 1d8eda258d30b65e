"""QEMU processes of tests."""

import ctypes
import os
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@cache
def reap_qemu() -> None:
    """Become the parent of orphaned QEMUs and reap them at once, as tini -s does for a libvirtd: libvirt waits for a
    dead QEMU's process to be gone, and where PID 1 is slow that takes 2 s. Other children are left to who waits."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    threading.Thread(target=_work, daemon=True).start()


def _work() -> None:
    while True:
        time.sleep(0.05)
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                for pid in (task / "children").read_text().split():
                    _reap(int(pid))


def _reap(pid: int) -> None:
    with suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system"):
            os.waitpid(pid, os.WNOHANG)
