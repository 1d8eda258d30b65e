"""Is a specification one that every adapter must accept? Raises InvalidSpec with the reason when not.

Values come from XenAPI clients, so they are hostile: whatever ends up in XML, on a command line or in a file name is
matched against what it may be, here, once for all adapters.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from xenstack.host.hypervisor.port import (
    MAX_DISKS,
    MAX_VIFS,
    DiskKind,
    DiskSpec,
    DomainSpec,
    InvalidSpec,
    KernelBoot,
    VifSpec,
)

MAX_VCPUS = 64
MIN_MEMORY = 16 * 1024 * 1024
MAX_KERNEL_ARGS = 2000  # Linux on x86 keeps 2047 characters

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", re.IGNORECASE)
_TAP = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_SERIAL = re.compile(r"[A-Za-z0-9_.+-]{0,20}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")
_BOOT_ORDER = re.compile(r"[cdn]{0,3}")


def check_domain(spec: DomainSpec) -> None:
    """Raises InvalidSpec."""
    _require(_UUID.fullmatch(spec.uuid) is not None, f"{spec.uuid!r} is not a uuid in lower case")
    _require(spec.domid >= 0, "the domid is negative")
    _require(MIN_MEMORY <= spec.memory_target <= spec.memory_max, "memory_target is not within 16 MiB … memory_max")
    _require(1 <= spec.vcpus <= spec.vcpus_max <= MAX_VCPUS, f"vcpus is not within 1 … vcpus_max … {MAX_VCPUS}")
    if isinstance(spec.boot, KernelBoot):
        check_path(spec.boot.kernel)
        if spec.boot.ramdisk is not None:
            check_path(spec.boot.ramdisk)
        _require(spec.boot.args.isprintable(), "the kernel arguments hold control characters")
        _require(len(spec.boot.args) <= MAX_KERNEL_ARGS, f"more than {MAX_KERNEL_ARGS} characters of kernel arguments")
    else:
        order = spec.boot.order
        _require(
            _BOOT_ORDER.fullmatch(order) is not None and len(set(order)) == len(order),
            f"boot order {order!r} is not made of c, d and n",
        )
    for disk in spec.disks:
        check_disk(disk)
    for vif in spec.vifs:
        check_vif(vif)
    _unique("userdevice", (disk.userdevice for disk in spec.disks))
    _unique("VIF device", (vif.device for vif in spec.vifs))
    _unique("tap", (vif.tap for vif in spec.vifs))
    if spec.console_log is not None:
        check_path(spec.console_log)


def check_disk(disk: DiskSpec) -> None:
    """Raises InvalidSpec."""
    _number(disk.userdevice, MAX_DISKS, "userdevice")
    _require(_SERIAL.fullmatch(disk.serial) is not None, f"{disk.serial!r} is no disk serial number")
    if disk.path is None:
        _require(disk.kind is DiskKind.CD, "only a CD drive can be empty")
    else:
        check_path(disk.path)


def check_vif(vif: VifSpec) -> None:
    """Raises InvalidSpec."""
    _number(vif.device, MAX_VIFS, "VIF device")
    _require(_MAC.fullmatch(vif.mac) is not None, f"{vif.mac!r} is no unicast MAC address")
    _require(_TAP.fullmatch(vif.tap) is not None, f"{vif.tap!r} is no interface name")
    _require(68 <= vif.mtu <= 65535, f"MTU {vif.mtu} is not within 68 … 65535")


def check_path(path: Path) -> None:
    """Raises InvalidSpec unless the path is absolute, printable and free of `..`."""
    text = str(path)
    _require(
        path.is_absolute() and text.isprintable() and ".." not in path.parts,
        f"{text!r} is not an absolute, printable path",
    )


def check_memory_target(memory: int, memory_max: int) -> None:
    """Raises InvalidSpec."""
    _require(MIN_MEMORY <= memory <= memory_max, f"{memory} is not within 16 MiB … {memory_max}")


def check_vcpus(vcpus: int, vcpus_max: int) -> None:
    """Raises InvalidSpec."""
    _require(1 <= vcpus <= vcpus_max, f"{vcpus} CPUs are not within 1 … {vcpus_max}")


def check_same_devices(spec: DomainSpec, disks: Iterable[DiskSpec], vifs: Iterable[VifSpec]) -> None:
    """A suspended domain comes back with the devices it had. Raises InvalidSpec."""
    _require(
        {(d.userdevice, d.kind) for d in spec.disks} == {(d.userdevice, d.kind) for d in disks},
        "the disks are not those the domain was suspended with",
    )
    _require(
        {(v.device, v.mac.lower()) for v in spec.vifs} == {(v.device, v.mac.lower()) for v in vifs},
        "the VIFs are not those the domain was suspended with",
    )


def _number(text: str, limit: int, what: str) -> None:
    _require(
        _NUMBER.fullmatch(text) is not None and int(text) < limit, f"{what} {text!r} is not a number below {limit}"
    )


def _unique(what: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for value in values:
        _require(value not in seen, f"{what} {value} is used twice")
        seen.add(value)


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise InvalidSpec(reason)
