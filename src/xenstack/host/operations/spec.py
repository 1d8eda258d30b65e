"""From records to what the ports want: a domain's description, a VIF's switch port, a disk's place.

Paths that a client chose are checked here: a kernel or ramdisk lies below the host's kernel directory, whatever
links and dots its name has, or the operation is refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import (
    AfterReboot,
    DiskBoot,
    DiskFormat,
    DiskKind,
    DiskSpec,
    DomainSpec,
    Firmware,
    KernelBoot,
    VifSpec,
)
from xenstack.host.network.port import PortSpec, tap_name
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.rules import vbd as vbd_rules
from xenstack.host.storage.port import Opened
from xenstack.xenapi.errors import InvalidDevice, InvalidValue

_SERIAL = 20  # what a virtio disk can carry


@dataclass(frozen=True, slots=True)
class Place:
    """Where a VBD's VDI lies: what `Storage.activate` takes. The VBD's uuid is the user."""

    sr: str
    vdi: str
    user: str
    read_only: bool


def place(store: Store, vbd: str) -> Place | None:
    """The VDI in the slot; None when it is empty. Raises HandleInvalid when the VDI is gone."""
    slot = store.view("VBD", vbd)
    if slot["empty"] or slot["VDI"] == NULL:
        return None
    medium = store.view("VDI", slot["VDI"])
    return Place(
        store.get("SR", medium["SR"], "uuid"),
        medium["uuid"],
        slot["uuid"],
        slot["mode"] == "RO" or slot["type"] == "CD",
    )


def disk(store: Store, vbd: str, opened: Opened | None) -> DiskSpec:
    """The slot as the hypervisor should make it, with the VDI that storage opened."""
    slot = store.view("VBD", vbd)
    return DiskSpec(
        userdevice=slot_number(slot["userdevice"]),
        path=opened.path if opened else None,
        format=DiskFormat(opened.format.value) if opened else DiskFormat.RAW,
        kind=DiskKind.CD if slot["type"] == "CD" else DiskKind.DISK,
        read_only=slot["mode"] == "RO" or slot["type"] == "CD",
        serial=slot["uuid"][:_SERIAL],
    )


def slot_number(userdevice: str) -> str:
    """The hypervisor's number for a userdevice. Raises InvalidDevice."""
    number = vbd_rules.position(userdevice)
    if number is None:
        raise InvalidDevice(userdevice)
    return str(number)


def vif(store: Store, ref: str, domid: int) -> VifSpec:
    """The interface as the hypervisor should make it; its tap is there already."""
    record = store.view("VIF", ref)
    return VifSpec(
        device=record["device"], mac=record["MAC"], tap=tap_name(domid, record["device"]), mtu=_mtu(store, record)
    )


def port(store: Store, ref: str, domid: int) -> PortSpec:
    """The interface as the virtual switch should make it."""
    record = store.view("VIF", ref)
    network = store.view("network", record["network"])
    return PortSpec(
        tap=tap_name(domid, record["device"]),
        bridge=network["bridge"],
        mac=record["MAC"],
        vif_uuid=record["uuid"],
        vm_uuid=store.get("VM", record["VM"], "uuid"),
        network_uuid=network["uuid"],
        port_id=record["other_config"].get("nicira-iface-id", ""),
        mtu=_mtu(store, record),
    )


def rate_limit(store: Store, ref: str) -> int | None:
    """VIF.qos_algorithm_params:kbps when the algorithm is ratelimit."""
    record = store.view("VIF", ref)
    kbps = record["qos_algorithm_params"].get("kbps", "")
    if record["qos_algorithm_type"] != "ratelimit" or not kbps.isascii() or not kbps.isdigit():
        return None
    return int(kbps)


def _mtu(store: Store, record: Any) -> int:
    mtu = record["MTU"] or store.get("network", record["network"], "MTU")
    return int(mtu) if mtu else 1500


def console_log(machine: Machine, domid: int) -> Path:
    """The file that keeps what the domain's guest wrote to its serial port."""
    return machine.config.console_logs / f"console.{domid}"


def domain(
    machine: Machine, vm: str, *, domid: int, opened: dict[str, Opened], drives: list[str], vifs: list[str]
) -> DomainSpec:
    """The whole domain. `opened` has, by VBD reference, the VDIs that storage opened; `drives` are empty CD drives.

    Raises InvalidValue (kernel paths), InvalidDevice.
    """
    store = machine.store
    record = store.view("VM", vm)
    slots = [*opened, *drives]
    return DomainSpec(
        uuid=record["uuid"],
        name=record["name_label"],
        domid=domid,
        memory_max=record["memory_static_max"],
        memory_target=min(record["memory_dynamic_max"] or record["memory_static_max"], record["memory_static_max"]),
        boot=boot(machine, record),
        vcpus=record["VCPUs_at_startup"],
        vcpus_max=max(record["VCPUs_max"], record["VCPUs_at_startup"]),
        firmware=Firmware.UEFI if record["HVM_boot_params"].get("firmware") == "uefi" else Firmware.BIOS,
        disks=tuple(sorted((disk(store, v, opened.get(v)) for v in slots), key=lambda d: int(d.userdevice))),
        vifs=tuple(sorted((vif(store, v, domid) for v in vifs), key=lambda v: int(v.device))),
        console_log=console_log(machine, domid),
        after_reboot=AfterReboot.RESTART if record["actions_after_reboot"] == "restart" else AfterReboot.STOP,
    )


def boot(machine: Machine, record: Any) -> DiskBoot | KernelBoot:
    """How the guest starts: its kernel directly, when the record names one, else firmware in HVM_boot_params' order."""
    if record["PV_kernel"]:
        ramdisk = record["PV_ramdisk"]
        return KernelBoot(
            kernel=_kernel_file(machine, "PV_kernel", record["PV_kernel"]),
            ramdisk=_kernel_file(machine, "PV_ramdisk", ramdisk) if ramdisk else None,
            args=" ".join(a for a in (record["PV_args"], record["PV_legacy_args"]) if a),
        )
    order = "".join(letter for letter in record["HVM_boot_params"].get("order", "cd").lower() if letter in "cdn")
    return DiskBoot(order=order or "cd")


def _kernel_file(machine: Machine, field: str, name: str) -> Path:
    folder = machine.config.kernels.resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise InvalidValue(field, f"{name} is not a file below the host's kernel directory")
    return path


def summary(domain: DomainSpec) -> str:
    """What a domain was made from, but for ids that are new each time: VM.last_booted_record.

    A reboot compares it with what the domain would be made from now, and rebuilds the domain only when it differs.
    """
    made = {
        "memory": domain.memory_max,
        "vcpus": domain.vcpus,
        "vcpus_max": domain.vcpus_max,
        "firmware": domain.firmware.value,
        "boot": [str(domain.boot.kernel), str(domain.boot.ramdisk), domain.boot.args]
        if isinstance(domain.boot, KernelBoot)
        else domain.boot.order,
        "after_reboot": domain.after_reboot.value,
        "disks": [[d.userdevice, d.kind.value, d.serial, d.read_only] for d in domain.disks],
        "vifs": [[v.device, v.mac, v.mtu] for v in domain.vifs],
    }
    return json.dumps({"domid": domain.domid, "made": made}, sort_keys=True)


def same_summary(one: str, other: str) -> bool:
    """Whether two summaries tell of the same domain, domid aside."""
    try:
        return bool(json.loads(one)["made"] == json.loads(other)["made"])
    except (ValueError, TypeError, KeyError):
        return False


def last_domid(record: Any) -> int | None:
    """The domid of the VM's last domain, running or not; None when it never ran."""
    try:
        return int(json.loads(record["last_booted_record"])["domid"])
    except (ValueError, TypeError, KeyError):
        return None
