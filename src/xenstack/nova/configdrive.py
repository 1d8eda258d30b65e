"""The config drive: Nova's own ISO image, as a read-only CD of the guest.

Nova's builder runs genisoimage (`[DEFAULT] mkisofs_cmd`) in a temporary folder that is gone afterwards.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nova.api.metadata import base as metadata
from nova.virt import configdrive

from xenstack.nova import disks
from xenstack.nova.host import Host
from xenstack.nova.undo import Undo

_SECTOR = 512
_CHUNK = 1 << 20


def required(instance: Any) -> bool:
    """Whether the instance shall have one."""
    return bool(configdrive.required_by(instance))


def create(
    host: Host, instance: Any, injected_files: Any, admin_password: str | None, network_info: Any, undo: Undo
) -> str:
    """Build the drive and bring it onto the host as a VDI; answers its ref."""
    extra = {"admin_pass": admin_password} if admin_password else {}
    content = metadata.InstanceMetadata(instance, content=injected_files, extra_md=extra, network_info=network_info)
    with tempfile.TemporaryDirectory(prefix="xenapi-configdrive-") as folder:
        iso = Path(folder) / "config-2.iso"
        with configdrive.ConfigDriveBuilder(instance_md=content) as builder:
            builder.make_drive(str(iso))
        size = iso.stat().st_size
        vdi = disks.create(host, instance, undo, name="config drive", size=-(-size // _SECTOR) * _SECTOR)
        host.session.import_vdi(vdi, _chunks(iso), length=size, format="raw")
    return vdi


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
