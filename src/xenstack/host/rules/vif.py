"""Which operation a VIF allows, which MAC address and device number it may have.

Pure: records in, a refusal or None out. xapi's checks, as recorded.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from xenstack.xenapi.errors import (
    DeviceAlreadyAttached,
    DeviceAlreadyDetached,
    OperationNotAllowed,
    OtherOperationInProgress,
    VmBadPowerState,
    XenAPIError,
)

Record = Mapping[str, Any]

LISTED = ("attach", "unplug", "plug")
DEVICES = 16
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
_VM_BUSY = ("clean_shutdown", "hard_shutdown", "suspend", "pause")


def valid_mac(mac: str) -> bool:
    """An address that one interface may have: six octets, neither multicast nor broadcast."""
    return bool(_MAC.fullmatch(mac)) and not int(mac[:2], 16) & 1


def random_mac() -> str:
    """A locally administered address."""
    octets = bytearray(secrets.token_bytes(6))
    octets[0] = (octets[0] & 0xFC) | 0x02
    return octets.hex(":")


def seeded_mac(seed: str, device: str) -> str:
    """The address that a VM's `mac_seed` gives its interface `device`: the same for the same VM, each time."""
    octets = bytearray(hashlib.sha256(f"{seed}/{device}".encode()).digest()[:6])
    octets[0] = (octets[0] & 0xFC) | 0x02
    return octets.hex(":")


def valid_device(device: str) -> bool:
    """A VIF's device is a decimal number below DEVICES."""
    return device.isascii() and device.isdigit() and len(device) <= 2 and int(device) < DEVICES


def free_devices(used: Iterable[str]) -> list[str]:
    """VM.get_allowed_VIF_devices."""
    taken = set(used)
    return [str(n) for n in range(DEVICES) if str(n) not in taken]


def check(operation: str, ref: str, vif: Record, vm_ref: str, vm: Record) -> XenAPIError | None:
    """Why this VIF refuses the operation; None when it does not."""
    if vif["current_operations"]:
        task, busy = next(iter(vif["current_operations"].items()))
        return OtherOperationInProgress("VIF", ref, busy, task)
    if operation not in ("plug", "unplug", "unplug_force"):
        return None
    if vm["power_state"] != "Running":
        return VmBadPowerState(vm_ref, "running", vm["power_state"].lower())
    if operation == "plug" and vif["currently_attached"]:
        return DeviceAlreadyAttached(ref)
    if operation != "plug" and not vif["currently_attached"]:
        return DeviceAlreadyDetached(ref)
    busy_vm = next((op for op in vm["current_operations"].values() if op in _VM_BUSY), None)
    if busy_vm and operation != "unplug_force":
        return OperationNotAllowed(f"Current operation on VM:{vm_ref} is {busy_vm}")
    return None
