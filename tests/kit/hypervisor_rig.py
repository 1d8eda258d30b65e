"""What the suite of tests for hypervisor adapters needs around an adapter: guests to make, ears, and a way to wait."""

import os
import threading
import time
import uuid as uuids
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from xenstack.host.hypervisor.port import (
    DiskBoot,
    DiskFormat,
    DiskSpec,
    DomainEvent,
    DomainSpec,
    EventKind,
    Hypervisor,
    KernelBoot,
    StopReason,
    VifSpec,
)

MIB = 1024 * 1024


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.events: list[DomainEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: DomainEvent) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, uuid: str) -> list[tuple[EventKind, StopReason | None]]:
        return [(e.kind, e.reason) for e in self.events if e.uuid == uuid]

    def wait(self, uuid: str, kind: EventKind, reason: StopReason | None = None, *, timeout_s: float = 30) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: (kind, reason) in self.of(uuid), timeout_s), (
                f"{kind} {reason} not heard; heard {self.of(uuid)}"
            )


class Rig(ABC):
    """An adapter with what the suite needs around it."""

    hypervisor: Hypervisor
    directory: Path
    boot_timeout_s: float = 5

    def __init__(self) -> None:
        self.heard = Heard()
        self._domid = 0

    def spec(self, **changes: object) -> DomainSpec:
        """A small guest that obeys its power button; with one disk."""
        self._domid += 1
        uuid = str(uuids.uuid4())
        values: dict[str, object] = {
            "uuid": uuid,
            "name": "a guest",
            "domid": self._domid,
            "memory_max": 96 * MIB,
            "memory_target": 96 * MIB,
            "boot": self.boot(),
            "disks": (self.disk("0"),),
            "console_log": self.directory / f"console.{self._domid}",
        }
        return DomainSpec(**{**values, **changes})  # type: ignore[arg-type]

    def disk(self, userdevice: str, **changes: object) -> DiskSpec:
        """A fresh empty raw disk file."""
        path = self.directory / f"{uuids.uuid4()}.raw"
        path.touch()
        os.truncate(path, 8 * MIB)
        values: dict[str, object] = {"userdevice": userdevice, "path": path, "format": DiskFormat.RAW}
        return DiskSpec(**{**values, "serial": f"serial-{userdevice}", **changes})  # type: ignore[arg-type]

    @abstractmethod
    def boot(self) -> DiskBoot | KernelBoot: ...

    @abstractmethod
    def vif(self, device: str) -> VifSpec:
        """A VIF with a tap that exists."""

    @abstractmethod
    def leftovers(self, spec: DomainSpec) -> list[str]:
        """Whatever of the domain is still on the machine: processes, sockets, files of the adapter."""

    @abstractmethod
    def guest_reboots(self, spec: DomainSpec) -> None: ...

    @abstractmethod
    def guest_shuts_down(self, spec: DomainSpec) -> None: ...

    def start(self, spec: DomainSpec) -> DomainSpec:
        """A running guest at its login prompt."""
        self.hypervisor.create_paused(spec)
        self.hypervisor.unpause(spec.uuid)
        self.wait_for_login(spec)
        return spec

    def wait_for_login(self, spec: DomainSpec, times: int = 1) -> None:
        assert spec.console_log is not None
        log = spec.console_log
        wait_until(
            lambda: log.exists() and log.read_bytes().count(b"login:") >= times, self.boot_timeout_s, "a login prompt"
        )

    def assert_gone(self, spec: DomainSpec) -> None:
        assert self.hypervisor.domain(spec.uuid) is None
        assert spec.uuid not in {d.uuid for d in self.hypervisor.domains()}
        left = self.leftovers(spec)
        assert left == [], left
