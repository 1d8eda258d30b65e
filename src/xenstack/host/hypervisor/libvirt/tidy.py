"""What a running host must clean up behind QEMU: console logs that grow, sockets and logs of dead QEMUs.

QEMU appends everything a guest writes to its console log, for ever. Once a second each log above MAX_LOG is cut: its
newest half is written back after the file was emptied (QEMU has it open for appending, so it goes on at the end). A few
bytes written in that instant may land before older ones.

A QEMU that exits removes its sockets; one that was killed cannot. libvirt keeps QEMU's own words in one log per domain
name for ever: such a log is removed with `destroy`, and KEEP_QEMU_LOG_S after any other end (it may tell why).
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from xenstack.host.hypervisor.port import Domain, HypervisorError

log = logging.getLogger(__name__)

MAX_LOG = 1024 * 1024  # bytes
KEEP_QEMU_LOG_S = 3600.0
INTERVAL_S = 1.0
RELIST_EVERY = 5  # rounds: domains are asked for less often than log sizes


class Tidy:
    """The thread that does it."""

    def __init__(
        self, run_directory: Path, qemu_log_directory: Path | None, domains: Callable[[], list[Domain]]
    ) -> None:
        self._run_directory = run_directory
        self._qemu_logs = qemu_log_directory
        self._domains = domains
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tidy", daemon=True)
        self._thread.start()

    def forget(self, uuid: str) -> None:
        """Remove what is left of a domain that is gone."""
        for suffix in ("vnc", "tty"):
            (self._run_directory / f"{uuid}.{suffix}").unlink(missing_ok=True)
        if self._qemu_logs is not None:
            (self._qemu_logs / f"{uuid}.log").unlink(missing_ok=True)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _work(self) -> None:
        logs: list[Path] = []
        rounds = 0
        while not self._stop.wait(INTERVAL_S):
            if rounds % RELIST_EVERY == 0:
                try:
                    logs = self._sweep()
                except HypervisorError as why:
                    log.debug("cannot list domains: %s", why)
            rounds += 1
            cut_logs(logs)

    def _sweep(self) -> list[Path]:
        """Remove what domains that are gone left; answers the console logs of those that are not."""
        sockets = {path: path.stat().st_ino for path in self._run_directory.glob("*-*.[vt][nt][cy]")}
        domains = self._domains()
        alive = {domain.uuid for domain in domains}
        for path, inode in sockets.items():
            # the number tells whether it is still the socket seen before the domains were listed
            if path.stem not in alive and path.exists() and path.stat().st_ino == inode:
                log.info("removing the socket %s of a domain that is gone", path)
                path.unlink(missing_ok=True)
        if self._qemu_logs is not None:
            oldest = time.time() - KEEP_QEMU_LOG_S
            for path in self._qemu_logs.glob("????????-????-????-????-????????????.log"):
                if path.stem not in alive and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
        return [domain.console_log for domain in domains if domain.console_log is not None]


def cut_logs(logs: Iterable[Path], limit: int = MAX_LOG) -> None:
    """Cut every log above `limit` bytes to its newest half."""
    for path in logs:
        try:
            if path.stat().st_size > limit:
                _cut(path, limit // 2)
        except FileNotFoundError:
            continue  # its domain is gone, and its caller removed it
        except OSError as why:
            log.warning("cannot cut the console log %s: %s", path, why)


def _cut(path: Path, keep: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        newest = os.pread(descriptor, keep, size - keep)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, newest)
    finally:
        os.close(descriptor)
