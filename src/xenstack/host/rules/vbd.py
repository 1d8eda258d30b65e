"""Which operation a VBD allows, and which VBD may be created at all.

Pure: records in, a refusal or None out. The checks and their order are xapi's, as recorded, but for one: xapi wants
PV drivers in an HVM guest before it plugs a disk; here the hypervisor plugs it and says so when it cannot.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from xenstack.xenapi.errors import (
    DeviceAlreadyAttached,
    DeviceAlreadyDetached,
    OperationNotAllowed,
    OtherOperationInProgress,
    VbdIsEmpty,
    VbdNotEmpty,
    VbdNotRemovableMedia,
    VbdNotUnpluggable,
    VdiInUse,
    VdiReadonly,
    VmBadPowerState,
    XenAPIError,
)

Record = Mapping[str, Any]

LISTED = ("attach", "eject", "unpause", "insert", "plug", "unplug", "unplug_force", "pause")
_PLUG = ("plug", "unplug", "unplug_force")
_VM_BUSY = ("clean_shutdown", "hard_shutdown", "suspend", "pause")
_NAMED = re.compile(r"(?:xvd|hd|sd)([a-p])")
_DEVICES = 256


def position(userdevice: str) -> int | None:
    """The number of a disk slot, from "0", "xvda", "hda" or "sda" alike; None when the text names no slot."""
    if userdevice.isascii() and userdevice.isdigit() and len(userdevice) <= 4:
        return int(userdevice)
    named = _NAMED.fullmatch(userdevice)
    return ord(named[1]) - ord("a") if named else None


def device_name(userdevice: str) -> str:
    """The name by which an attached disk is reported, VBD.device: xvda for slot 0."""
    slot = position(userdevice)
    if slot is None:
        return ""
    name = ""
    while slot >= 0:
        name = chr(ord("a") + slot % 26) + name
        slot = slot // 26 - 1
    return f"xvd{name}"


def free_devices(used: Iterable[str]) -> list[str]:
    """VM.get_allowed_VBD_devices: every slot that none of these userdevices takes."""
    taken = {position(u) for u in used}
    return [str(n) for n in range(_DEVICES - 1) if n not in taken]


def check(
    operation: str,
    ref: str,
    vbd: Record,
    vm_ref: str,
    vm: Record,
    vdi_ref: str,
    vdi: Record | None,
    rivals: Iterable[Record],
) -> XenAPIError | None:
    """Why this VBD refuses the operation; None when it does not.

    `vdi` is None when there is none (an empty drive, a dangling reference); `rivals` are the other VBDs of the VDI
    that are attached, or busy, in VMs that are not suspended.
    """
    if vbd["current_operations"]:
        task, busy = next(iter(vbd["current_operations"].items()))
        return OtherOperationInProgress("VBD", ref, busy, task)
    for refusal in (
        _medium(operation, ref, vbd),
        _power(operation, ref, vbd, vm_ref, vm),
        _sharing(operation, vbd, vdi_ref, vdi, rivals),
    ):
        if refusal is not None:
            return refusal
    return None


def _medium(operation: str, ref: str, vbd: Record) -> XenAPIError | None:
    if operation in ("unplug", "unplug_force") and not vbd["unpluggable"]:
        return VbdNotUnpluggable(ref)
    if operation in ("insert", "eject"):
        if vbd["type"] != "CD":
            return VbdNotRemovableMedia(ref)
        if operation == "eject" and vbd["empty"]:
            return VbdIsEmpty(ref)
        if operation == "insert" and not vbd["empty"]:
            return VbdNotEmpty(ref)
    return None


def _power(operation: str, ref: str, vbd: Record, vm_ref: str, vm: Record) -> XenAPIError | None:
    state = vm["power_state"]
    if operation in ("insert", "eject") and state == "Suspended":
        return VmBadPowerState(vm_ref, "halted, running", "suspended")
    if operation in ("pause", "unpause") and state not in ("Running", "Paused"):
        return VmBadPowerState(vm_ref, "running", state.lower())
    if operation not in _PLUG:
        return None
    if state != "Running":
        return VmBadPowerState(vm_ref, "running", state.lower())
    if operation == "plug" and vbd["currently_attached"]:
        return DeviceAlreadyAttached(ref)
    if operation != "plug" and not vbd["currently_attached"]:
        return DeviceAlreadyDetached(ref)
    busy = next((op for op in vm["current_operations"].values() if op in _VM_BUSY), None)
    if busy and operation != "unplug_force":
        return OperationNotAllowed(f"Current operation on VM:{vm_ref} is {busy}")
    if vbd["type"] == "CD":
        return OperationNotAllowed("HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected")
    return None


def _sharing(
    operation: str, vbd: Record, vdi_ref: str, vdi: Record | None, rivals: Iterable[Record]
) -> XenAPIError | None:
    if vdi is None or vbd["currently_attached"] or operation not in ("attach", "plug", "insert"):
        return None
    busy = {task: op for task, op in vdi["current_operations"].items() if op not in ("mirror", "copy")}
    if busy:
        task, op = next(iter(busy.items()))
        return OtherOperationInProgress("VDI", vdi_ref, op, task)
    writes = vbd["mode"] == "RW"
    others = list(rivals)
    if not vdi["sharable"] and others and (writes or any(other["mode"] == "RW" for other in others)):
        return VdiInUse(vdi_ref, operation)
    if writes and vdi["read_only"]:
        return VdiReadonly(vdi_ref)
    return None
