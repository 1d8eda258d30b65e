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
from contextlib import suppress
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

    def sweep_sockets(self, uuid: str, exists: Callable[[str], bool]) -> None:
        """Remove the sockets of a domain that stopped, unless one with the same uuid was made meanwhile."""
        sockets = _sockets(self._run_directory, uuid)
        if sockets and not exists(uuid):
            _remove(sockets)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _work(self) -> None:
        logs: list[Path] = []
        rounds = 0
        while not self._stop.wait(INTERVAL_S):
            if rounds % RELIST_EVERY == 0:
                try:
                    logs = self.sweep()
                except HypervisorError as why:
                    log.debug("cannot list domains: %s", why)
            rounds += 1
            cut_logs(logs)

    def sweep(self) -> list[Path]:
        """Remove what domains that are gone left; answers the console logs of those that are not."""
        sockets = _sockets(self._run_directory, "*")
        domains = self._domains()
        alive = {domain.uuid for domain in domains}
        _remove({path: inode for path, inode in sockets.items() if path.stem not in alive})
        if self._qemu_logs is not None:
            oldest = time.time() - KEEP_QEMU_LOG_S
            for path in self._qemu_logs.glob("????????-????-????-????-????????????.log"):
                if path.stem not in alive and path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
        return [domain.console_log for domain in domains if domain.console_log is not None]


def _sockets(directory: Path, uuid: str) -> dict[Path, int]:
    """Console sockets and their inodes, by which a socket is told from a newer one of the same name."""
    found = {}
    for suffix in ("vnc", "tty"):
        for path in directory.glob(f"{uuid}.{suffix}"):
            with suppress(FileNotFoundError):
                found[path] = path.stat().st_ino
    return found


def _remove(sockets: dict[Path, int]) -> None:
    for path, inode in sockets.items():
        with suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()


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
