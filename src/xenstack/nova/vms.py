"""VM records: what an instance becomes on the host, and what the host's states mean to Nova."""

from typing import Any

from nova import exception
from nova.compute import power_state
from nova.objects import fields

from xenstack.nova.host import Host
from xenstack.nova.records import NULL

MIB = 1 << 20

POWER = {
    "Running": power_state.RUNNING,
    "Paused": power_state.PAUSED,
    "Halted": power_state.SHUTDOWN,
    "Suspended": power_state.SUSPENDED,
}
"""XenAPI's power states as Nova's. A guest that crashed is Halted: XenAPI keeps no other trace of it."""


def record(host: Host, instance: Any, image_meta: Any) -> dict[str, Any]:
    """The full record for VM.create: xapi wants every field that has no default.

    The VM is HVM and starts from its first disk. Its memory is fixed: Nova does not balloon.
    """
    memory = instance.flavor.memory_mb * MIB
    return {
        "name_label": instance.name,
        "name_description": instance.display_name or "",
        "user_version": 1,
        "is_a_template": False,
        "affinity": host.ref,
        "memory_static_max": memory,
        "memory_dynamic_max": memory,
        "memory_dynamic_min": memory,
        "memory_static_min": 0,
        "memory_target": memory,
        "VCPUs_max": instance.flavor.vcpus,
        "VCPUs_at_startup": instance.flavor.vcpus,
        "VCPUs_params": {},
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "destroy",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": _boot(image_meta),
        "HVM_shadow_multiplier": 1.0,
        "platform": _platform(instance),
        "PCI_bus": "",
        "other_config": {"nova_uuid": instance.uuid},
        "recommendations": "",
        "xenstore_data": {},
        "ha_always_run": False,
        "ha_restart_priority": "",
        "tags": [],
        "blocked_operations": {},
        "domain_type": "hvm",
    }


def refuse_kind(instance: Any, image_meta: Any) -> None:
    """Refuse what an HVM guest of ours cannot be. Raises BuildAbortException."""
    mode = image_meta.properties.get("hw_vm_mode")
    if mode not in (None, fields.VMMode.HVM):
        raise exception.BuildAbortException(
            instance_uuid=instance.uuid, reason=f"hw_vm_mode {mode!r}: guests are started as hvm only"
        )
    if instance.kernel_id or instance.ramdisk_id:
        raise exception.BuildAbortException(
            instance_uuid=instance.uuid,
            reason="images with a kernel or ramdisk beside them are not supported: XenAPI takes kernels only from a "
            "folder of the host, and nothing puts them there",
        )


def _boot(image_meta: Any) -> dict[str, str]:
    firmware = image_meta.properties.get("hw_firmware_type")
    if firmware == fields.FirmwareType.UEFI:
        return {"order": "cd", "firmware": "uefi"}
    return {"order": "cd"}


def _platform(instance: Any) -> dict[str, str]:
    platform = {"acpi": "1", "apic": "true", "pae": "true", "nx": "true", "timeoffset": "0"}
    if instance.os_type == "windows":
        platform["viridian"] = "true"
    return platform


def find_left(host: Host, instance: Any) -> list[str]:
    """Refs of the instance's VMs, asked from the host itself: after a failure the records may lag behind."""
    found = []
    for ref in host.call("VM.get_by_name_label", instance.name):
        if ref != NULL and host.call("VM.get_other_config", ref).get("nova_uuid") == instance.uuid:
            found.append(str(ref))
    return found
