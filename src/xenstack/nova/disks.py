"""VDIs and VBDs of an instance.

Every VDI that is an instance's carries `other_config["nova_instance_uuid"]`; the instance's disks are found by it,
whether or not a VM still has them. Device numbers: root 0, swap 2, config drive 3, ephemeral disks from 4 on (an HVM
guest can only have its CD drive among the first four).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

from nova import exception
from oslo_concurrency import lockutils
from oslo_log import log as logging

from xenstack.nova.host import Host
from xenstack.nova.insist import insist
from xenstack.nova.undo import Undo
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)

OWNER = "nova_instance_uuid"
GIB = 1 << 30

ROOT, SWAP, CONFIG_DRIVE, FIRST_EPHEMERAL = "0", "2", "3", 4


def clone_root(host: Host, instance: Any, image: str, undo: Undo) -> str:
    """Make the root disk from a cached image; answers its ref.

    A clone has its parent's other_config: until it has its own, it is an image whose own uuid is not the one it
    names, and so is never taken for a cached image (see images.py).
    """
    with lockutils.lock(f"xenapi-clone-{image}"):  # the host clones a VDI for one caller at a time
        vdi = str(insist(host, "vdi", "VDI.clone", image, {}))
    undo.add("destroy the root disk", partial(destroy, host, vdi))
    host.call("VDI.set_other_config", vdi, {OWNER: instance.uuid})
    host.call("VDI.set_name_label", vdi, f"{instance.name} root")
    return vdi


def root_size(instance: Any, virtual_size: int) -> int:
    """Bytes the root disk shall have: the flavor's, or the image's when the flavor says 0.

    Raises FlavorDiskSmallerThanImage.
    """
    wanted = int(instance.flavor.root_gb) * GIB
    if wanted == 0:
        return virtual_size
    if wanted < virtual_size:
        raise exception.FlavorDiskSmallerThanImage(flavor_size=wanted, image_size=virtual_size)
    return wanted


def create(host: Host, instance: Any, undo: Undo, *, name: str, size: int) -> str:
    """Make an empty VDI of `size` bytes for the instance; answers its ref."""
    wanted = vdi_record(host, name=f"{instance.name} {name}", size=size, other_config={OWNER: instance.uuid})
    vdi = str(host.call("VDI.create", wanted))
    undo.add(f"destroy the VDI for the {name}", partial(destroy, host, vdi))
    return vdi


def vdi_record(host: Host, *, name: str, size: int, other_config: dict[str, str]) -> dict[str, Any]:
    """The record for VDI.create in the chosen SR."""
    return {
        "name_label": name,
        "name_description": "",
        "SR": host.sr,
        "virtual_size": size,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": other_config,
        "xenstore_data": {},
        "sm_config": {},
        "tags": [],
    }


def attach(host: Host, vm: str, vdi: str, userdevice: str, *, bootable: bool = False) -> str:
    """Put a disk into a halted VM; answers the VBD's ref."""
    return _attach(host, vm, vdi, userdevice, {"mode": "RW", "type": "Disk", "bootable": bootable})


def attach_cd(host: Host, vm: str, vdi: str, userdevice: str) -> str:
    """Put a CD into a halted VM; answers the VBD's ref."""
    return _attach(host, vm, vdi, userdevice, {"mode": "RO", "type": "CD", "bootable": False})


def _attach(host: Host, vm: str, vdi: str, userdevice: str, kind: dict[str, Any]) -> str:
    wanted = {
        "VM": vm,
        "VDI": vdi,
        "userdevice": userdevice,
        "unpluggable": True,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        **kind,
    }
    return str(host.call("VBD.create", wanted))


def owned(host: Host, instance: Any) -> list[str]:
    """Refs of the VDIs the records show as the instance's."""
    return [ref for ref, vdi in host.records.all("vdi") if vdi.get("other_config", {}).get(OWNER) == instance.uuid]


def destroy(host: Host, vdi: str) -> None:
    """Remove a VDI. No error when it is gone."""
    try:
        insist(host, "vdi", "VDI.destroy", vdi)
    except (errors.HandleInvalid, errors.UuidInvalid):
        return


def destroy_all(host: Host, vdis: Iterable[str]) -> None:
    """Remove VDIs; one that fails does not keep the others. The first failure is raised at the end."""
    failure: errors.XenAPIError | None = None
    for vdi in vdis:
        try:
            destroy(host, vdi)
        except errors.XenAPIError as why:
            LOG.warning("VDI %s is not destroyed: %s", vdi, why)
            failure = failure or why
    if failure is not None:
        raise failure
