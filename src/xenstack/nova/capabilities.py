"""What this driver can do, and why it does not do the rest.

`CAPABILITIES` is Nova's table; those that are True become COMPUTE_* traits. `REFUSED` names every driver method that
raises NotImplementedError, with the reason that the operator reads.
"""

from collections.abc import Callable
from typing import Any

CAPABILITIES = {
    "has_imagecache": True,
    "supports_evacuate": False,
    "supports_migrate_to_same_host": False,
    "supports_attach_interface": True,
    "supports_device_tagging": False,
    "supports_tagged_attach_interface": False,
    "supports_tagged_attach_volume": False,
    "supports_extend_volume": False,
    "supports_multiattach": False,
    "supports_trusted_certs": False,
    "supports_pcpus": False,
    "supports_accelerators": False,
    "supports_bfv_rescue": False,
    "supports_vtpm": False,
    "supports_secure_boot": False,
    "supports_socket_pci_numa_affinity": False,
    "supports_remote_managed_ports": False,
    "supports_stateless_firmware": False,
    "supports_address_space_passthrough": False,
    "supports_address_space_emulated": False,
    "supports_virtio_fs": False,
    "supports_mem_backing_file": False,
    "supports_ephemeral_encryption": False,
    "supports_ephemeral_encryption_luks": False,
    "supports_ephemeral_encryption_plain": False,
    "supports_image_type_raw": True,
    "supports_image_type_qcow2": True,
    "supports_image_type_vhd": True,
    "supports_image_type_aki": False,
    "supports_image_type_ami": False,
    "supports_image_type_ari": False,
    "supports_image_type_iso": False,
    "supports_image_type_vdi": False,
    "supports_image_type_vhdx": False,
    "supports_image_type_vmdk": False,
    "supports_image_type_ploop": False,
}

_LATER = "not part of this version of the driver"
_VOLUMES = "volumes are not part of this version of the driver"
_MIGRATION = "migration and resize are not part of this version of the driver"
_SHARES = "XenAPI has no file system sharing with guests"

REFUSED = {
    "attach_volume": _VOLUMES,
    "detach_volume": _VOLUMES,
    "swap_volume": _VOLUMES,
    "extend_volume": _VOLUMES,
    "get_all_volume_usage": _VOLUMES,
    "volume_snapshot_create": "only storage that keeps snapshots as files of its own needs it; XenAPI's does not",
    "volume_snapshot_delete": "only storage that keeps snapshots as files of its own needs it; XenAPI's does not",
    "snapshot": _LATER,
    "rescue": _LATER,
    "unrescue": _LATER,
    "rebuild": "Nova's own sequence of destroy and spawn is used",
    "migrate_disk_and_power_off": _MIGRATION,
    "finish_migration": _MIGRATION,
    "confirm_migration": _MIGRATION,
    "finish_revert_migration": _MIGRATION,
    "pre_live_migration": _MIGRATION,
    "live_migration": _MIGRATION,
    "live_migration_force_complete": _MIGRATION,
    "live_migration_abort": _MIGRATION,
    "rollback_live_migration_at_destination": _MIGRATION,
    "post_live_migration_at_source": _MIGRATION,
    "post_live_migration_at_destination": _MIGRATION,
    "check_can_live_migrate_destination": _MIGRATION,
    "check_can_live_migrate_source": _MIGRATION,
    "cleanup_live_migration_destination_check": _MIGRATION,
    "check_instance_shared_storage_local": _MIGRATION,
    "check_instance_shared_storage_remote": _MIGRATION,
    "get_diagnostics": _LATER,
    "get_instance_diagnostics": _LATER,
    "get_host_cpu_stats": _LATER,
    "block_stats": _LATER,
    "get_instance_disk_info": _MIGRATION,
    "set_admin_password": "it needs an agent in the guest, which XenAPI does not define",
    "host_power_action": _LATER,
    "host_maintenance_mode": _LATER,
    "set_host_enabled": _LATER,
    "trigger_crash_dump": _LATER,
    "quiesce": "XenAPI dropped quiesced snapshots",
    "unquiesce": "XenAPI dropped quiesced snapshots",
    "soft_delete": "Nova powers the instance off instead",
    "restore": "Nova powers the instance on instead",
    "get_spice_console": "XenAPI's consoles are VNC",
    "get_mks_console": "XenAPI's consoles are VNC",
    "get_serial_console": "novncproxy's serial twin cannot speak XenAPI's CONNECT",
    "mount_share": _SHARES,
    "umount_share": _SHARES,
    "is_share_mounted": _SHARES,
    "default_device_names_for_instance": "Nova's own names are right: the first after the root disk's",
    "get_device_name_for_instance": "Nova's own names are right: the first after the root disk's",
    "power_update_event": "only bare metal needs it",
}


def refusing(driver: type) -> type:
    """Class decorator: give a driver a method for every entry of REFUSED that raises NotImplementedError with it."""

    def refusal(method: str, reason: str) -> Callable[..., None]:
        def refuse(self: object, *arguments: Any, **named: Any) -> None:
            raise NotImplementedError(f"{method}: {reason}")

        refuse.__name__, refuse.__doc__ = method, f"Refused: {reason}."
        return refuse

    for method, reason in REFUSED.items():
        if method in vars(driver):
            raise TypeError(f"{method} is both defined and refused")
        setattr(driver, method, refusal(method, reason))
    return driver
