"""A hypervisor of nothing but records: fast, thousands of domains, the same words and failures as the real ones.

Its domains live in memory, and below `directory` as one small file each when one is given: then they outlive a killed
host daemon, as guests do. A guest boots at once, prints a login prompt, obeys its power button and lets go of devices,
unless a test says otherwise (`Guests`, `Faults`). Disk files are looked at only when `check_files` is set: simulated
storage has none. Consoles open when `consoles` is first called for a domain (thousands of sockets would cost more than
the domains); they speak real RFB.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from xenstack.host.faults import Faults
from xenstack.host.hypervisor import check
from xenstack.host.hypervisor.feed import Feed
from xenstack.host.hypervisor.guests import Guests
from xenstack.host.hypervisor.plain import spec_from_json, spec_to_json
from xenstack.host.hypervisor.port import (
    AfterReboot,
    BadDomainState,
    Consoles,
    DetachRejected,
    DeviceExists,
    DeviceMissing,
    DiskFormat,
    DiskKind,
    DiskSpec,
    Domain,
    DomainEvent,
    DomainExists,
    DomainMissing,
    DomainSpec,
    DomainState,
    EventKind,
    FileUnusable,
    Firmware,
    HostFacts,
    Hypervisor,
    KernelBoot,
    Listener,
    NotEnoughMemory,
    StopReason,
    Unavailable,
    Unsupported,
    Usage,
    VifSpec,
)
from xenstack.host.hypervisor.rfb import Screens

GIB = 1024**3
_IMAGE = 1 << 20  # bytes that a simulated suspend image has at most


@dataclass
class _Record:
    spec: DomainSpec
    state: DomainState
    started: float
    boots: int = 0


def _read_image(path: Path) -> str:
    """A suspend image's text. As with a real one, what lies behind its end (the rest of a disk) does not matter."""
    with path.open("rb") as file:
        return file.read(_IMAGE).partition(b"\0")[0].decode()


class SimulatedHypervisor:
    """The port (see port.py), simulated. `faults` and `guests` are for tests."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        memory_total: int = 1024 * GIB,
        cpus: int = 64,
        check_files: bool = False,
    ) -> None:
        self.faults = Faults()
        self.guests = Guests()
        self._directory = directory
        self._memory_total = memory_total
        self._memory_used = 0
        self._cpus = cpus
        self._check_files = check_files
        self._changed = threading.Condition(threading.RLock())
        self._domains: dict[str, _Record] = {}
        self._images: dict[Path, str] = {}  # suspend images whose folder does not exist
        self._writers: dict[Path, str] = {}  # disk file -> the domain that may write it
        self._connected = True
        self._feed = Feed()
        self._screens = Screens()
        self._sockets: Path | None = None
        if directory is not None:
            self._load(directory)

    # -- life of a domain

    def create_paused(self, spec: DomainSpec) -> None:
        with self._verb("create_paused", spec.uuid):
            check.check_domain(spec)
            self._begin(spec)

    def resume(self, spec: DomainSpec, path: Path) -> None:
        with self._verb("resume", spec.uuid):
            check.check_domain(spec)
            try:
                before = spec_from_json(self._images[path] if path in self._images else _read_image(path))
            except (OSError, ValueError, KeyError, TypeError) as why:
                raise FileUnusable(str(path), "not a suspend image") from why
            check.check_same_devices(spec, before.disks, before.vifs)
            self._begin(spec)
            self._domains[spec.uuid].boots = 1  # it goes on, it does not boot again

    def unpause(self, uuid: str) -> None:
        with self._verb("unpause", uuid):
            record = self._record(uuid)
            if record.state is DomainState.PAUSED:
                record.state = DomainState.RUNNING
                if record.boots == 0:
                    self._boot(record)
                self._keep(record)
                self._tell(uuid, EventKind.RESUMED)

    def pause(self, uuid: str) -> None:
        with self._verb("pause", uuid):
            record = self._record(uuid)
            if record.state is DomainState.RUNNING:
                record.state = DomainState.PAUSED
                self._keep(record)
                self._tell(uuid, EventKind.PAUSED)

    def destroy(self, uuid: str) -> None:
        with self._verb("destroy", uuid):
            if uuid in self._domains:
                self._stop(uuid, StopReason.DESTROYED)

    def request_shutdown(self, uuid: str) -> None:
        with self._verb("request_shutdown", uuid):
            self._running(uuid)
            if not self.guests.ignores_power_button(uuid):
                self._stop(uuid, StopReason.SHUTDOWN)

    def request_reboot(self, uuid: str) -> None:
        with self._verb("request_reboot", uuid):
            self._running(uuid)
            if not self.guests.ignores_power_button(uuid):
                self._reboot(uuid)

    def reset(self, uuid: str) -> None:
        with self._verb("reset", uuid):
            self._reboot(uuid)

    def await_gone(self, uuid: str, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: uuid not in self._domains, timeout_s)

    def suspend(self, uuid: str, path: Path) -> None:
        with self._verb("suspend", uuid):
            record = self._record(uuid)
            try:
                if self._check_files or path.parent.is_dir():
                    path.write_text(spec_to_json(record.spec))
                else:  # simulated storage has no folders: its paths are names
                    self._images[path] = spec_to_json(record.spec)
            except OSError as why:
                path.unlink(missing_ok=True)
                raise FileUnusable(str(path), why.strerror or str(why)) from why
            self._stop(uuid, StopReason.SUSPENDED)

    # -- devices

    def attach_disk(self, uuid: str, disk: DiskSpec) -> None:
        with self._verb("attach_disk", uuid):
            check.check_disk(disk)
            record = self._record(uuid)
            if disk.kind is DiskKind.CD:
                raise Unsupported("a CD drive cannot be hot-plugged")
            if any(d.userdevice == disk.userdevice for d in record.spec.disks):
                raise DeviceExists(uuid, disk.userdevice)
            self._open_disk(uuid, disk)
            self._update(record, disks=(*record.spec.disks, disk))

    def detach_disk(self, uuid: str, userdevice: str, *, timeout_s: float = 20.0) -> None:  # noqa: ARG002
        with self._verb("detach_disk", uuid):
            record = self._domains.get(uuid)
            if record is None:
                return
            disk = next((d for d in record.spec.disks if d.userdevice == userdevice), None)
            if disk is None:
                return
            if disk.kind is DiskKind.CD:
                raise Unsupported("a CD drive cannot be hot-unplugged")
            if self.guests.keeps_devices(uuid):
                raise DetachRejected(uuid, userdevice)
            self._close_disk(uuid, disk)
            self._update(record, disks=tuple(d for d in record.spec.disks if d is not disk))

    def insert_cd(self, uuid: str, userdevice: str, path: Path, format: DiskFormat) -> None:
        with self._verb("insert_cd", uuid):
            check.check_path(path)
            record, drive = self._drive(uuid, userdevice)
            if drive.path is not None:
                raise DeviceExists(uuid, userdevice)
            full = replace(drive, path=path, format=format)
            self._open_disk(uuid, full)
            self._update(record, disks=tuple(full if d is drive else d for d in record.spec.disks))

    def eject_cd(self, uuid: str, userdevice: str) -> None:
        with self._verb("eject_cd", uuid):
            record, drive = self._drive(uuid, userdevice)
            empty = replace(drive, path=None, format=DiskFormat.RAW)
            self._update(record, disks=tuple(empty if d is drive else d for d in record.spec.disks))

    def attach_vif(self, uuid: str, vif: VifSpec) -> None:
        with self._verb("attach_vif", uuid):
            check.check_vif(vif)
            record = self._record(uuid)
            if any(v.device == vif.device for v in record.spec.vifs):
                raise DeviceExists(uuid, vif.device)
            self._update(record, vifs=(*record.spec.vifs, vif))

    def detach_vif(self, uuid: str, device: str, *, timeout_s: float = 20.0) -> None:  # noqa: ARG002
        with self._verb("detach_vif", uuid):
            record = self._domains.get(uuid)
            if record is None or all(v.device != device for v in record.spec.vifs):
                return
            if self.guests.keeps_devices(uuid):
                raise DetachRejected(uuid, device)
            self._update(record, vifs=tuple(v for v in record.spec.vifs if v.device != device))

    def set_memory_target(self, uuid: str, memory: int) -> None:
        with self._verb("set_memory_target", uuid):
            record = self._record(uuid)
            check.check_memory_target(memory, record.spec.memory_max)
            self._update(record, memory_target=memory)

    def set_vcpus(self, uuid: str, vcpus: int) -> None:
        with self._verb("set_vcpus", uuid):
            record = self._record(uuid)
            check.check_vcpus(vcpus, record.spec.vcpus_max)
            self._update(record, vcpus=vcpus)

    # -- questions

    def domain(self, uuid: str) -> Domain | None:
        with self._verb("domain", uuid):
            record = self._domains.get(uuid)
            return None if record is None else _told(record)

    def domains(self) -> list[Domain]:
        with self._verb("domains", ""):
            return [_told(record) for record in self._domains.values()]

    def consoles(self, uuid: str) -> Consoles:
        with self._verb("consoles", uuid):
            record = self._record(uuid)
            consoles = self._endpoints(uuid)
            self._screens.open(consoles.vnc, consoles.text, record.spec.name)
            return consoles

    def usage(self, uuid: str) -> Usage:
        with self._verb("usage", uuid):
            record = self._record(uuid)
            ran = time.monotonic() - record.started
            return Usage(cpu_s=max(0.0, ran) * 0.01, memory=record.spec.memory_target)

    def facts(self) -> HostFacts:
        with self._verb("facts", ""):
            return HostFacts(
                memory_total=self._memory_total,
                memory_free=self._memory_total - self._memory_used,
                cpus=self._cpus,
                sockets=1,
                cores_per_socket=self._cpus,
                threads_per_core=1,
                cpu_vendor="GenuineIntel",
                cpu_model="Simulated CPU",
                cpu_family=6,
                cpu_model_number=85,
                cpu_stepping=4,
                cpu_mhz=2000,
                cpu_flags=("fpu", "sse2", "avx", "avx2", "hypervisor"),
                hypervisor="simulated",
                hypervisor_version="1.0.0",
                capabilities=("hvm-3.0-x86_32", "hvm-3.0-x86_64", "xen-3.0-x86_64"),
            )

    def subscribe(self, listener: Listener) -> None:
        self._feed.subscribe(listener)

    def close(self) -> None:
        self._screens.close_all()
        self._feed.close()
        if self._sockets is not None:
            with contextlib.suppress(OSError):
                self._sockets.rmdir()

    # -- what a guest or the world does, for tests and demonstrations

    def guest_shuts_down(self, uuid: str) -> None:
        """The guest powers off by itself."""
        with self._changed:
            self._stop(uuid, StopReason.SHUTDOWN)

    def guest_crashes(self, uuid: str) -> None:
        """The guest panics."""
        with self._changed:
            self._stop(uuid, StopReason.CRASH)

    def guest_reboots(self, uuid: str) -> None:
        """The guest reboots by itself."""
        with self._changed:
            self._reboot(uuid)

    def guest_prints(self, uuid: str, text: str) -> None:
        """The guest writes to its serial console."""
        with self._changed:
            _print(self._record(uuid).spec, text)

    @contextmanager
    def connection_lost(self) -> Iterator[None]:
        """Every call raises Unavailable and no news are told within the block; then listeners hear RELIST."""
        self._connected = False
        try:
            yield
        finally:
            self._connected = True
            self._feed.publish(DomainEvent("", EventKind.RELIST))

    # -- within

    @contextmanager
    def _verb(self, verb: str, uuid: str) -> Iterator[None]:
        if not self._connected:
            raise Unavailable("the simulated hypervisor is switched off")
        self.faults.before(verb, uuid)
        with self._changed:
            yield
        self.faults.after(verb, uuid)

    def _record(self, uuid: str) -> _Record:
        record = self._domains.get(uuid)
        if record is None:
            raise DomainMissing(uuid)
        return record

    def _running(self, uuid: str) -> _Record:
        record = self._record(uuid)
        if record.state is not DomainState.RUNNING:
            raise BadDomainState(uuid, DomainState.RUNNING, record.state)
        return record

    def _drive(self, uuid: str, userdevice: str) -> tuple[_Record, DiskSpec]:
        record = self._record(uuid)
        for disk in record.spec.disks:
            if disk.userdevice == userdevice and disk.kind is DiskKind.CD:
                return record, disk
        raise DeviceMissing(uuid, userdevice)

    def _begin(self, spec: DomainSpec) -> None:
        """Make the domain of a checked specification, or nothing."""
        if spec.uuid in self._domains:
            raise DomainExists(spec.uuid)
        if spec.firmware is Firmware.UEFI:
            raise Unsupported("UEFI firmware")
        available = self._memory_total - self._memory_used
        if spec.memory_max > available:
            raise NotEnoughMemory(spec.memory_max, available)
        self._check_kernel(spec)
        opened: list[DiskSpec] = []
        try:
            for disk in spec.disks:
                self._open_disk(spec.uuid, disk)
                opened.append(disk)
            record = _Record(spec, DomainState.PAUSED, time.monotonic())
            if spec.console_log is not None:
                spec.console_log.touch()
            self._keep(record)
        except BaseException:
            for disk in opened:
                self._close_disk(spec.uuid, disk)
            raise
        self._domains[spec.uuid] = record
        self._memory_used += spec.memory_max
        self._tell(spec.uuid, EventKind.STARTED)

    def _check_kernel(self, spec: DomainSpec) -> None:
        if isinstance(spec.boot, KernelBoot) and self._check_files:
            for path in (spec.boot.kernel, spec.boot.ramdisk):
                if path is not None and not path.is_file():
                    raise FileUnusable(str(path), "no such file")

    def _stop(self, uuid: str, reason: StopReason) -> None:
        record = self._record(uuid)
        del self._domains[uuid]
        self._memory_used -= record.spec.memory_max
        for disk in record.spec.disks:
            self._close_disk(uuid, disk)
        if self._sockets is not None:
            endpoints = self._endpoints(uuid)
            self._screens.close(endpoints.vnc, endpoints.text)
        if self._directory is not None:
            (self._directory / f"{uuid}.json").unlink(missing_ok=True)
        self._tell(uuid, EventKind.STOPPED, reason)
        self._changed.notify_all()

    def _boot(self, record: _Record) -> None:
        record.boots += 1
        _print(record.spec, f"simulated guest {record.spec.name}\r\n\r\nlogin: ")

    def _reboot(self, uuid: str) -> None:
        record = self._record(uuid)
        if record.spec.after_reboot is AfterReboot.STOP:
            self._stop(uuid, StopReason.REBOOT)
        else:
            self._boot(record)
            self._tell(uuid, EventKind.REBOOTED)

    def _open_disk(self, uuid: str, disk: DiskSpec) -> None:
        if disk.path is None:
            return
        if self._check_files and not disk.path.is_file():
            raise FileUnusable(str(disk.path), "no such file")
        if disk.read_only or disk.kind is DiskKind.CD:
            return
        if disk.path in self._writers:
            raise FileUnusable(str(disk.path), "in use by another disk")
        self._writers[disk.path] = uuid

    def _close_disk(self, uuid: str, disk: DiskSpec) -> None:
        if disk.path is not None and not disk.read_only and self._writers.get(disk.path) == uuid:
            del self._writers[disk.path]

    def _update(self, record: _Record, **changes: object) -> None:
        record.spec = replace(record.spec, **changes)  # type: ignore[arg-type]
        self._keep(record)

    def _tell(self, uuid: str, kind: EventKind, reason: StopReason | None = None) -> None:
        if self._connected:
            self._feed.publish(DomainEvent(uuid, kind, reason))

    def _endpoints(self, uuid: str) -> Consoles:
        if self._sockets is None:  # short: a unix socket's path has at most 107 characters
            self._sockets = Path(tempfile.mkdtemp(prefix="xenstack-"))
        return Consoles(vnc=self._sockets / f"{uuid}.vnc", text=self._sockets / f"{uuid}.tty")

    def _keep(self, record: _Record) -> None:
        if self._directory is None:
            return
        path = self._directory / f"{record.spec.uuid}.json"
        part = path.with_suffix(".part")
        part.write_text(f"{record.state} {record.boots}\n{spec_to_json(record.spec)}")
        part.replace(path)

    def _load(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(directory):
            if entry.name.endswith(".json"):
                head, _, body = Path(entry.path).read_text().partition("\n")
                state, _, boots = head.partition(" ")
                record = _Record(spec_from_json(body), DomainState(state), time.monotonic(), int(boots))
                self._domains[record.spec.uuid] = record
                self._memory_used += record.spec.memory_max
                for disk in record.spec.disks:
                    if disk.path is not None and not disk.read_only and disk.kind is DiskKind.DISK:
                        self._writers[disk.path] = record.spec.uuid


def _told(record: _Record) -> Domain:
    spec = record.spec
    return Domain(
        uuid=spec.uuid,
        name=spec.name,
        domid=spec.domid,
        state=record.state,
        memory_max=spec.memory_max,
        memory_target=spec.memory_target,
        vcpus=spec.vcpus,
        disks=spec.disks,
        vifs=spec.vifs,
        console_log=spec.console_log,
    )


def _print(spec: DomainSpec, text: str) -> None:
    if spec.console_log is not None:
        with spec.console_log.open("a") as file:
            file.write(text)


_KEEPS_THE_PORT: type[Hypervisor] = SimulatedHypervisor
