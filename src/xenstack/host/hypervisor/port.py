"""What the host asks of a hypervisor: domains, their devices and consoles, and news about them.

The rules every adapter keeps, and one test suite checks:

  * arguments and answers are plain data (frozen dataclasses), so that a port can be remote;
  * every call blocks and may be made from any thread, never from an event loop's. No call blocks for ever:
    each ends within the adapter's time limit, with `TimedOut` at worst;
  * the VM's uuid names the domain. A domain exists from `create_paused` (or `resume`) until it stops; a domain
    that has stopped is gone, with its sockets: nothing of it is kept but its console log, which is the caller's;
  * undo is easy: `destroy`, `detach_disk` and `detach_vif` succeed when there is nothing to undo;
  * the caller owns everything outside the domain: disk files, kernels, taps (made before `create_paused`, removed
    after the domain is gone; see host/network) and console logs. Their paths are the caller's choice;
  * a guest that shuts down, crashes or is killed stops, and the listeners hear why; whether to start it again is the
    caller's decision. A guest that reboots does what `DomainSpec.after_reboot` says;
  * listeners hear every change, also those the caller made itself. When news may have been lost (the hypervisor's
    daemon died and came back) they hear one `RELIST`: read `domains()` again and make records true.

Errors are the tree below `HypervisorError`; operations turn them into XenAPI errors. Any call may also raise
`Unavailable` or `TimedOut`. Memory is in bytes, time in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

MAX_DISKS = 16  # userdevice "0" to "15", as on xapi
MAX_VIFS = 7  # device "0" to "6", as on xapi


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"  # only an ISO or a disk that storage could not convert; slow


class DiskKind(StrEnum):
    DISK = "disk"
    CD = "cd"  # always read-only; its drive cannot be hot-plugged, its medium can be changed


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class DomainState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"


class AfterReboot(StrEnum):
    RESTART = "restart"  # the same domain starts over; listeners hear REBOOTED
    STOP = "stop"  # the domain stops; listeners hear STOPPED with reason REBOOT


class EventKind(StrEnum):
    STARTED = "started"  # created (paused) or read back from a file
    PAUSED = "paused"
    RESUMED = "resumed"  # unpaused
    REBOOTED = "rebooted"
    STOPPED = "stopped"
    DEVICE_REMOVED = "device_removed"  # the guest let go of a disk or VIF after `detach_*` had given up waiting
    RELIST = "relist"  # news may have been lost; `uuid` is ""


class StopReason(StrEnum):
    SHUTDOWN = "shutdown"  # the guest powered off
    REBOOT = "reboot"  # the guest rebooted and after_reboot is STOP
    CRASH = "crash"  # the guest panicked, or its device model died
    DESTROYED = "destroyed"  # `destroy` was called
    SUSPENDED = "suspended"  # `suspend` was called


@dataclass(frozen=True, slots=True)
class DiskBoot:
    """Start from firmware. `order` is XenAPI's: letters c (disk), d (CD), n (network), first one first."""

    order: str = "cd"


@dataclass(frozen=True, slots=True)
class KernelBoot:
    """Start a kernel directly. The caller has checked that the paths lie where kernels may lie."""

    kernel: Path
    ramdisk: Path | None = None
    args: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """One disk or CD drive of a domain.

    `userdevice` is a decimal number below MAX_DISKS, unique in the domain over both kinds; guests see disks in its
    order. `path` is None only for an empty CD drive. `serial` (at most 20 characters) is what the guest reads as the
    disk's serial number.
    """

    userdevice: str
    path: Path | None
    format: DiskFormat = DiskFormat.QCOW2
    kind: DiskKind = DiskKind.DISK
    read_only: bool = False
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VifSpec:
    """One network interface of a domain. `device` is a decimal number below MAX_VIFS; `tap` exists already."""

    device: str
    mac: str
    tap: str
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSpec:
    """Everything a new domain is made from.

    `name` is for people (name_label) and need not be unique. `domid` is kept with the domain and given back by
    `domains()`. Memory is in bytes: the guest gets at most `memory_max` (XenAPI's memory_static_max) and starts with
    a target of `memory_target`. `vcpus` of `vcpus_max` are on line at the start. `console_log` (its folder exists)
    gets everything the guest writes to its first serial port; the adapter keeps it below about 1 MiB by dropping
    the oldest part.
    """

    uuid: str
    name: str
    domid: int
    memory_max: int
    memory_target: int
    boot: DiskBoot | KernelBoot
    vcpus: int = 1
    vcpus_max: int = 1
    firmware: Firmware = Firmware.BIOS
    disks: tuple[DiskSpec, ...] = ()
    vifs: tuple[VifSpec, ...] = ()
    console_log: Path | None = None
    after_reboot: AfterReboot = AfterReboot.RESTART


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A domain that exists now, as the hypervisor tells it (never from the adapter's memory).

    `memory_target` is what the balloon has reached: it follows `set_memory_target` as fast as the guest lets it.
    """

    uuid: str
    name: str
    domid: int
    state: DomainState
    memory_max: int
    memory_target: int
    vcpus: int
    disks: tuple[DiskSpec, ...]
    vifs: tuple[VifSpec, ...]
    console_log: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Consoles:
    """Where to reach a domain's consoles: unix stream sockets, open while the domain exists.

    `vnc` speaks RFB without authentication from its first byte (the server greets first); several clients may connect.
    `text` is the first serial port, raw bytes in both directions; one client at a time.
    """

    vnc: Path
    text: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a domain used: CPU time in seconds since it was created, memory in bytes as the guest has it now."""

    cpu_s: float
    memory: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the hypervisor says about its machine. `capabilities` are XenAPI's (`hvm-3.0-x86_64`)."""

    memory_total: int
    memory_free: int
    cpus: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    cpu_vendor: str
    cpu_model: str
    cpu_family: int
    cpu_model_number: int
    cpu_stepping: int
    cpu_mhz: int
    cpu_flags: tuple[str, ...]
    hypervisor: str
    hypervisor_version: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """News about one domain. `reason` is set when, and only when, `kind` is STOPPED."""

    uuid: str
    kind: EventKind
    reason: StopReason | None = None


Listener = Callable[[DomainEvent], None]
"""Called on the adapter's own thread, one event at a time, in order: it must return at once and call no port."""


class HypervisorError(Exception):
    """Any failure of this port. A subclass tells what the caller can do; this class itself means: our bug or theirs."""


@dataclass(eq=False)
class DomainMissing(HypervisorError):
    """No domain with this uuid exists (it never did, or it stopped)."""

    uuid: str


@dataclass(eq=False)
class DomainExists(HypervisorError):
    """A domain with this uuid exists already."""

    uuid: str


@dataclass(eq=False)
class BadDomainState(HypervisorError):
    """The verb does not fit the domain's state."""

    uuid: str
    expected: str
    actual: str


@dataclass(eq=False)
class DeviceExists(HypervisorError):
    """The userdevice or VIF device number is taken."""

    uuid: str
    device: str


@dataclass(eq=False)
class DeviceMissing(HypervisorError):
    """The domain has no such disk, CD drive or VIF."""

    uuid: str
    device: str


@dataclass(eq=False)
class DetachRejected(HypervisorError):
    """The guest did not let go of the device in time; the request stands (see EventKind.DEVICE_REMOVED)."""

    uuid: str
    device: str


@dataclass(eq=False)
class NotEnoughMemory(HypervisorError):
    """The machine has not the memory for this domain. Bytes."""

    needed: int
    available: int


@dataclass(eq=False)
class FileUnusable(HypervisorError):
    """A disk, kernel, ramdisk or suspend image is missing, locked by another user of it, or not what it should be."""

    path: str
    reason: str


@dataclass(eq=False)
class Unsupported(HypervisorError):
    """This adapter, or this hypervisor, cannot do what was asked."""

    reason: str


@dataclass(eq=False)
class InvalidSpec(HypervisorError):
    """An argument breaks a rule of this module."""

    reason: str


@dataclass(eq=False)
class Unavailable(HypervisorError):
    """The hypervisor does not answer. The adapter goes on reconnecting; a later call may succeed."""

    reason: str


@dataclass(eq=False)
class TimedOut(HypervisorError):
    """The hypervisor took too long. What the call wanted may or may not have happened: read the state again."""

    verb: str
    uuid: str


class Hypervisor(Protocol):
    """The port. See the module's docstring for what holds for every call."""

    def create_paused(self, spec: DomainSpec) -> None:
        """Make a domain; it is paused. All or nothing.

        Errors: DomainExists, InvalidSpec, FileUnusable, NotEnoughMemory, Unsupported (firmware, …).
        """

    def unpause(self, uuid: str) -> None:
        """Let a domain run; nothing happens when it runs already. Errors: DomainMissing."""

    def pause(self, uuid: str) -> None:
        """Stop a domain's CPUs; nothing happens when it is paused already. Errors: DomainMissing."""

    def destroy(self, uuid: str) -> None:
        """Stop a domain at once and return when it is gone, with its process and sockets. No error when it is gone."""

    def request_shutdown(self, uuid: str) -> None:
        """Press the guest's power button (ACPI) and return; the guest may ignore it. Errors: DomainMissing,
        BadDomainState (paused). Wait for STOPPED, or with `await_gone`."""

    def request_reboot(self, uuid: str) -> None:
        """Ask the guest to reboot (ACPI) and return; it may ignore it. When it obeys, `after_reboot` says what becomes
        of the domain. Errors: DomainMissing, BadDomainState (paused)."""

    def reset(self, uuid: str) -> None:
        """Start the guest over at once, as a reset button does: same domain, devices and domid. With after_reboot STOP
        the domain stops instead. Errors: DomainMissing.

        To reboot with new CPU or memory settings, `destroy` and `create_paused` instead.
        """

    def await_gone(self, uuid: str, timeout_s: float) -> bool:
        """Wait until the domain is gone; False when it still exists after `timeout_s`."""

    def suspend(self, uuid: str, path: Path) -> None:
        """Write the domain's memory and devices to `path` (not there yet, or replaced), then stop it. After a failure
        the domain is as it was and `path` is absent. Errors: DomainMissing, FileUnusable (no space, …)."""

    def resume(self, spec: DomainSpec, path: Path) -> None:
        """Make the domain that `suspend` wrote to `path`; it is paused. `path` stays: the caller removes it.

        `spec` gives what the host may have changed in between: domid, disk paths, taps, console log. Its devices must
        be those the domain had. Errors: DomainExists, FileUnusable, InvalidSpec (other devices), NotEnoughMemory.
        """

    def attach_disk(self, uuid: str, disk: DiskSpec) -> None:
        """Hot-plug a disk. Errors: DomainMissing, DeviceExists, FileUnusable, InvalidSpec, Unsupported (a CD drive)."""

    def detach_disk(self, uuid: str, userdevice: str, *, timeout_s: float = 20.0) -> None:
        """Hot-unplug a disk: returns when the guest has let go and the file is closed. No error when there is no
        such disk or no such domain. Errors: DetachRejected, Unsupported (a CD drive)."""

    def insert_cd(self, uuid: str, userdevice: str, path: Path, format: DiskFormat) -> None:
        """Put a medium into a CD drive. Errors: DomainMissing, DeviceMissing, DeviceExists (not empty),
        FileUnusable."""

    def eject_cd(self, uuid: str, userdevice: str) -> None:
        """Take the medium out, also when the guest has locked the tray. No error when the drive is empty.
        Errors: DomainMissing, DeviceMissing."""

    def attach_vif(self, uuid: str, vif: VifSpec) -> None:
        """Hot-plug a network interface on an existing tap. Errors: DomainMissing, DeviceExists, InvalidSpec."""

    def detach_vif(self, uuid: str, device: str, *, timeout_s: float = 20.0) -> None:
        """Hot-unplug a network interface: returns when the guest has let go. No error when there is none.
        Errors: DetachRejected."""

    def set_memory_target(self, uuid: str, memory: int) -> None:
        """Ask the guest's balloon driver for another size, at most memory_max. Errors: DomainMissing, InvalidSpec."""

    def set_vcpus(self, uuid: str, vcpus: int) -> None:
        """Change the number of CPUs on line, 1 to vcpus_max. Errors: DomainMissing, InvalidSpec, Unsupported."""

    def domain(self, uuid: str) -> Domain | None:
        """The domain, or None when there is none."""

    def domains(self) -> list[Domain]:
        """All domains that this port made and that still exist, those made before a restart of the host included."""

    def consoles(self, uuid: str) -> Consoles:
        """Where the domain's consoles are. Errors: DomainMissing."""

    def usage(self, uuid: str) -> Usage:
        """CPU time and memory of a domain. Errors: DomainMissing."""

    def facts(self) -> HostFacts:
        """About the machine."""

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` for every event from now on."""

    def close(self) -> None:
        """Let go of the hypervisor; domains go on running. No call is allowed afterwards."""
