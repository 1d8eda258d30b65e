"""The port's verbs on libvirt.

Every libvirt call runs in a thread of its own with a time limit: a QEMU whose monitor hangs blocks that thread, not the
caller (keepalive notices a hung libvirtd, nothing notices a hung monitor). A call that fails because libvirtd died is
`Unavailable`, or repeated once when it only reads.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import libvirt

from xenstack.host.hypervisor import check
from xenstack.host.hypervisor.feed import Feed
from xenstack.host.hypervisor.libvirt import machine, reading, xml
from xenstack.host.hypervisor.libvirt.connection import Connection
from xenstack.host.hypervisor.libvirt.errors import translate
from xenstack.host.hypervisor.libvirt.news import News
from xenstack.host.hypervisor.libvirt.settings import SOCKET_PATH_LIMIT, Settings
from xenstack.host.hypervisor.libvirt.tidy import Tidy
from xenstack.host.hypervisor.port import (
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
    HypervisorError,
    InvalidSpec,
    KernelBoot,
    Listener,
    NotEnoughMemory,
    TimedOut,
    Unavailable,
    Unsupported,
    Usage,
    VifSpec,
)

T = TypeVar("T")

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.RUNNING,  # on its way down, not there
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
}  # what is not here (shut off, crashed) is gone

_ASK_AGAIN_S = 4.0  # a guest that is still booting loses the first request to let go of a device


class LibvirtHypervisor:
    """The port (see host/hypervisor/port.py) on libvirt's QEMU driver."""

    def __init__(self, settings: Settings) -> None:
        limit = SOCKET_PATH_LIMIT - len("/00000000-0000-4000-8000-000000000000.vnc")
        if len(str(settings.run_directory)) > limit:
            raise InvalidSpec(f"the run directory {settings.run_directory} is longer than {limit} characters")
        self._settings = settings
        settings.run_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._changed = threading.Condition()
        self._feed = Feed()
        self._tidy = Tidy(settings.run_directory, settings.qemu_log_directory, self.domains)
        self._feed.subscribe(self._sweep)  # first of all listeners: who hears STOPPED finds nothing left
        self._news = News(self._publish)
        self._connection = Connection(
            settings.uri,
            self._news.register,
            lambda: self._publish(DomainEvent("", EventKind.RELIST)),
            wait_s=settings.reconnect_wait_s,
        )

    # -- life of a domain

    def create_paused(self, spec: DomainSpec) -> None:
        check.check_domain(spec)
        self._check_possible(spec)
        text = xml.domain_xml(spec, self._new_consoles(spec.uuid), self._settings)
        self._start(
            spec,
            "create_paused",
            lambda connection: connection.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED),
            self._settings.create_timeout_s,
        )

    def resume(self, spec: DomainSpec, path: Path) -> None:
        check.check_domain(spec)
        check.check_path(path)
        self._check_possible(spec)
        if not path.is_file():
            raise FileUnusable(str(path), "no such file")
        try:
            image_xml = self._call("resume", spec.uuid, lambda c: c.saveImageGetXMLDesc(str(path)))
            disks, vifs = reading.read_devices(image_xml)
        except (Unavailable, TimedOut):
            raise
        except (HypervisorError, ValueError, KeyError) as why:
            raise FileUnusable(str(path), "not a suspend image") from why
        check.check_same_devices(spec, disks, vifs)
        text = reading.moved(image_xml, spec, self._new_consoles(spec.uuid))
        self._start(
            spec,
            "resume",
            lambda connection: connection.restoreFlags(str(path), text, libvirt.VIR_DOMAIN_SAVE_PAUSED),
            self._settings.image_timeout_s,
        )

    def unpause(self, uuid: str) -> None:
        if self._state(uuid) is not DomainState.RUNNING:
            self._on("unpause", uuid, lambda domain: domain.resume())

    def pause(self, uuid: str) -> None:
        if self._state(uuid) is not DomainState.PAUSED:
            self._on("pause", uuid, lambda domain: domain.suspend())

    def destroy(self, uuid: str) -> None:
        with suppress(DomainMissing):
            self._on("destroy", uuid, lambda domain: domain.destroy())
        if not self.await_gone(uuid, self._settings.call_timeout_s):
            raise TimedOut("destroy", uuid)
        self._tidy.forget(uuid)

    def request_shutdown(self, uuid: str) -> None:
        self._check_running(uuid)
        self._on("request_shutdown", uuid, lambda d: d.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))

    def request_reboot(self, uuid: str) -> None:
        self._check_running(uuid)
        if self._on("request_reboot", uuid, lambda domain: reading.stops_at_reboot(domain.XMLDesc())):
            self._news.reboot_requested(uuid)
        self._on("request_reboot", uuid, lambda d: d.reboot(libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN))

    def reset(self, uuid: str) -> None:
        self._on("reset", uuid, lambda domain: domain.reset())

    def await_gone(self, uuid: str, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while self._find(uuid) is not None:
            left = end - time.monotonic()
            if left <= 0:
                return False
            with self._changed:  # an event may have come just before: look again soon in any case
                self._changed.wait(min(left, 0.5))
        self._sweep(DomainEvent(uuid, EventKind.STOPPED))
        return True

    def suspend(self, uuid: str, path: Path) -> None:
        check.check_path(path)
        self._state(uuid)
        if not path.parent.is_dir():
            raise FileUnusable(str(path), "no such folder")
        try:
            self._on(
                "suspend",
                uuid,
                lambda domain: domain.saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED),
                self._settings.image_timeout_s,
            )
        except HypervisorError:
            path.unlink(missing_ok=True)
            raise
        self._tidy.forget(uuid)

    # -- devices

    def attach_disk(self, uuid: str, disk: DiskSpec) -> None:
        check.check_disk(disk)
        domain = self._existing(uuid)
        if disk.kind is DiskKind.CD:
            raise Unsupported("a CD drive cannot be hot-plugged")
        if any(d.userdevice == disk.userdevice for d in domain.disks):
            raise DeviceExists(uuid, disk.userdevice)
        _check_file(disk.path)
        self._attach("attach_disk", uuid, xml.to_text(xml.disk(disk)))

    def detach_disk(self, uuid: str, userdevice: str, *, timeout_s: float = 20.0) -> None:
        domain = self.domain(uuid)
        found = None if domain is None else next((d for d in domain.disks if d.userdevice == userdevice), None)
        if found is not None and found.kind is DiskKind.CD:
            raise Unsupported("a CD drive cannot be hot-unplugged")
        if found is not None:
            self._detach("detach_disk", uuid, userdevice, xml.disk_alias(userdevice), timeout_s)

    def insert_cd(self, uuid: str, userdevice: str, path: Path, format: DiskFormat) -> None:
        check.check_path(path)
        drive = self._drive(uuid, userdevice)
        if drive.path is not None:
            raise DeviceExists(uuid, userdevice)
        _check_file(path)
        self._change_medium("insert_cd", uuid, userdevice, path, format)

    def eject_cd(self, uuid: str, userdevice: str) -> None:
        if self._drive(uuid, userdevice).path is not None:
            self._change_medium("eject_cd", uuid, userdevice, None, DiskFormat.RAW)

    def attach_vif(self, uuid: str, vif: VifSpec) -> None:
        check.check_vif(vif)
        if any(v.device == vif.device for v in self._existing(uuid).vifs):
            raise DeviceExists(uuid, vif.device)
        self._attach("attach_vif", uuid, xml.to_text(xml.vif(vif, self._settings)))

    def detach_vif(self, uuid: str, device: str, *, timeout_s: float = 20.0) -> None:
        domain = self.domain(uuid)
        if domain is not None and any(v.device == device for v in domain.vifs):
            self._detach("detach_vif", uuid, device, xml.vif_alias(device), timeout_s)

    def set_memory_target(self, uuid: str, memory: int) -> None:
        check.check_memory_target(memory, self._existing(uuid).memory_max)
        self._on(
            "set_memory_target",
            uuid,
            lambda domain: domain.setMemoryFlags(memory // 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE),
        )

    def set_vcpus(self, uuid: str, vcpus: int) -> None:
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
        most = self._on("set_vcpus", uuid, lambda d: d.vcpusFlags(flags | libvirt.VIR_DOMAIN_VCPU_MAXIMUM))
        check.check_vcpus(vcpus, most)
        if vcpus > self._existing(uuid).vcpus and not self._on(
            "set_vcpus", uuid, lambda domain: reading.takes_cpus(domain.XMLDesc())
        ):
            raise Unsupported("QEMU could abort: the domain was started with all its CPUs")
        self._on("set_vcpus", uuid, lambda domain: domain.setVcpusFlags(vcpus, flags))

    # -- questions

    def domain(self, uuid: str) -> Domain | None:
        return self._find(uuid)

    def domains(self) -> list[Domain]:
        def read(connection: libvirt.virConnect) -> list[Domain]:
            handles = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return [told for handle in handles if (told := _told(handle)) is not None]

        return self._read("domains", "", read)

    def consoles(self, uuid: str) -> Consoles:
        self._existing(uuid)
        return reading.read_consoles(self._on("consoles", uuid, lambda domain: str(domain.XMLDesc())))

    def usage(self, uuid: str) -> Usage:
        _state, _max, kib, _cpus, cpu_ns = self._on("usage", uuid, lambda domain: domain.info())
        return Usage(cpu_s=cpu_ns / 1e9, memory=kib * 1024)

    def facts(self) -> HostFacts:
        version = int(self._read("facts", "", lambda connection: connection.getVersion()))
        total, available = machine.memory()
        cpu = machine.this_processor()
        return HostFacts(
            memory_total=total,
            memory_free=available,
            cpus=cpu.cpus,
            sockets=cpu.sockets,
            cores_per_socket=cpu.cores_per_socket,
            threads_per_core=cpu.threads_per_core,
            cpu_vendor=cpu.vendor,
            cpu_model=cpu.model,
            cpu_family=cpu.family,
            cpu_model_number=cpu.model_number,
            cpu_stepping=cpu.stepping,
            cpu_mhz=cpu.mhz,
            cpu_flags=cpu.flags,
            hypervisor="QEMU" if self._settings.domain_type == "qemu" else "QEMU/KVM",
            hypervisor_version=f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}",
            # xen-3.0: Linux kernels of PV guests start here too, as direct kernels with virtio devices
            capabilities=("xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_64"),
        )

    def subscribe(self, listener: Listener) -> None:
        self._feed.subscribe(listener)

    def close(self) -> None:
        self._tidy.close()
        self._connection.close()
        self._feed.close()

    # -- within: calls

    def _call(self, verb: str, uuid: str, work: Callable[[libvirt.virConnect], T], timeout_s: float | None = None) -> T:
        """Run `work` in a thread with a time limit; libvirt's errors become the port's."""
        connection = self._connection.get()
        answers: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

        def run() -> None:
            try:
                answers.put((work(connection), None))
            except BaseException as why:
                answers.put((None, why))

        threading.Thread(target=run, name=f"libvirt-{verb}", daemon=True).start()
        try:
            value, failure = answers.get(timeout=timeout_s or self._settings.call_timeout_s)
        except Empty:
            raise TimedOut(verb, uuid) from None
        if failure is None:
            return value  # type: ignore[return-value]
        if not isinstance(failure, libvirt.libvirtError):
            raise failure
        error = translate(failure, verb, uuid)
        if isinstance(error, Unavailable) or not connection.isAlive():
            self._connection.broken(connection, str(failure))
            error = Unavailable(str(failure))
        raise error from failure

    def _read(self, verb: str, uuid: str, work: Callable[[libvirt.virConnect], T]) -> T:
        """`_call` for what changes nothing: repeated once when the connection was dead."""
        try:
            return self._call(verb, uuid, work)
        except Unavailable:
            return self._call(verb, uuid, work)

    def _on(self, verb: str, uuid: str, work: Callable[[libvirt.virDomain], T], timeout_s: float | None = None) -> T:
        """`_call` with the domain. Raises DomainMissing."""
        return self._call(verb, uuid, lambda connection: work(connection.lookupByUUIDString(uuid)), timeout_s)

    def _start(
        self, spec: DomainSpec, verb: str, work: Callable[[libvirt.virConnect], object], timeout_s: float
    ) -> None:
        """Make a domain. libvirt may still be forgetting the one before with the same uuid: then again, for a while."""
        end = time.monotonic() + 5
        while True:
            if self._find(spec.uuid) is not None:
                raise DomainExists(spec.uuid)
            try:
                self._call(verb, spec.uuid, work, timeout_s)
                return
            except DomainExists:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)
            except NotEnoughMemory as why:
                raise NotEnoughMemory(spec.memory_max, machine.memory()[1]) from why

    # -- within: domains and devices

    def _find(self, uuid: str) -> Domain | None:
        try:
            return self._read("domain", uuid, lambda connection: _told(connection.lookupByUUIDString(uuid)))
        except DomainMissing:
            return None

    def _existing(self, uuid: str) -> Domain:
        domain = self._find(uuid)
        if domain is None:
            raise DomainMissing(uuid)
        return domain

    def _state(self, uuid: str) -> DomainState:
        return self._existing(uuid).state

    def _check_running(self, uuid: str) -> None:
        state = self._state(uuid)
        if state is not DomainState.RUNNING:
            raise BadDomainState(uuid, DomainState.RUNNING, state)

    def _drive(self, uuid: str, userdevice: str) -> DiskSpec:
        for disk in self._existing(uuid).disks:
            if disk.userdevice == userdevice and disk.kind is DiskKind.CD:
                return disk
        raise DeviceMissing(uuid, userdevice)

    def _attach(self, verb: str, uuid: str, text: str) -> None:
        self._on(verb, uuid, lambda domain: domain.attachDeviceFlags(text, libvirt.VIR_DOMAIN_AFFECT_LIVE))

    def _detach(self, verb: str, uuid: str, device: str, alias: str, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        ask = 0.0
        while self._has(verb, uuid, alias):
            if time.monotonic() >= ask:
                ask = time.monotonic() + _ASK_AGAIN_S
                try:
                    self._on(verb, uuid, lambda domain: domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE))
                except DomainMissing:
                    return
                except (DeviceMissing, DetachRejected):  # gone meanwhile, or asked before: look again
                    pass
            left = end - time.monotonic()
            if left <= 0:
                raise DetachRejected(uuid, device)
            with self._changed:
                self._changed.wait(min(left, 0.05))

    def _has(self, verb: str, uuid: str, alias: str) -> bool:
        try:
            return self._on(verb, uuid, lambda domain: reading.has_alias(domain.XMLDesc(), alias))
        except DomainMissing:
            return False

    def _change_medium(self, verb: str, uuid: str, userdevice: str, path: Path | None, format: DiskFormat) -> None:
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE

        def change(domain: libvirt.virDomain) -> None:
            domain.updateDeviceFlags(reading.with_medium(domain.XMLDesc(), userdevice, path, format), flags)

        self._on(verb, uuid, change)

    def _check_possible(self, spec: DomainSpec) -> None:
        """What is refused without troubling QEMU, with a better reason than QEMU would give."""
        if spec.firmware is Firmware.UEFI:
            raise Unsupported("UEFI firmware")
        for disk in spec.disks:
            _check_file(disk.path)
        if isinstance(spec.boot, KernelBoot):
            _check_file(spec.boot.kernel)
            _check_file(spec.boot.ramdisk)
        available = machine.memory()[1]
        if spec.memory_max > available:
            raise NotEnoughMemory(spec.memory_max, available)

    def _new_consoles(self, uuid: str) -> Consoles:
        run = self._settings.run_directory
        return Consoles(vnc=run / f"{uuid}.vnc", text=run / f"{uuid}.tty")

    def _sweep(self, event: DomainEvent) -> None:
        with suppress(HypervisorError):  # then the next round of the tidy thread does it
            if event.kind is EventKind.STOPPED:
                self._tidy.sweep_sockets(event.uuid, lambda uuid: self._find(uuid) is not None)
            elif event.kind is EventKind.RELIST:
                self._tidy.sweep()

    def _publish(self, event: DomainEvent) -> None:
        self._feed.publish(event)
        with self._changed:
            self._changed.notify_all()


def _told(handle: libvirt.virDomain) -> Domain | None:
    try:
        state = _STATES.get(handle.state()[0])
        return None if state is None else reading.read_domain(handle.XMLDesc(), state)
    except libvirt.libvirtError as why:
        if why.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # it went between two calls
            return None
        raise


def _check_file(path: Path | None) -> None:
    if path is not None and not path.is_file() and not path.is_block_device():
        raise FileUnusable(str(path), "no such file")


_KEEPS_THE_PORT: type[Hypervisor] = LibvirtHypervisor
