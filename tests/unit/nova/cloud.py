"""Nova's side for driver tests: real Nova objects, an image service in memory, Neutron's events on request."""

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nova import exception, objects
from nova.network import model
from nova.objects import fields

objects.register_all()

MIB, GIB = 1 << 20, 1 << 30


@dataclass
class Images:
    """Stands in for Glance: what nova.image.glance.API answers, from memory."""

    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    bodies: dict[str, bytes] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)
    cut_at: int | None = None
    broken: Exception | None = None  # raised at the end of each download
    gate: threading.Event | None = None

    def add(self, body: bytes, disk_format: str, **more: Any) -> str:
        image = str(uuid.uuid4())
        self.known[image] = {
            "id": image,
            "disk_format": disk_format,
            "container_format": "bare",
            "size": len(body),
            **more,
        }
        self.bodies[image] = body
        return image

    def get(self, context: Any, image_id: str) -> dict[str, Any]:
        try:
            return self.known[image_id]
        except KeyError:
            raise exception.ImageNotFound(image_id=image_id) from None

    def download(self, context: Any, image_id: str, **_: Any) -> Iterator[bytes]:
        self.downloads.append(image_id)
        body = self.bodies[image_id][: self.cut_at]
        for start in range(0, len(body), 64 << 10):
            if self.gate is not None and start:
                assert self.gate.wait(30)
            yield body[start : start + (64 << 10)]
        if self.broken is not None:
            raise self.broken


class VirtAPI:
    """Stands in for the compute manager: an event that is due comes at once, or never."""

    def __init__(self) -> None:
        self.never = False
        self.fail = False
        self.waited: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def wait_for_instance_event(
        self, instance: Any, event_names: Any, *, timeout: int = 300, error_callback: Any = None
    ) -> Iterator[None]:
        yield
        self.waited += event_names
        if self.fail and event_names:
            error_callback(event_names[0], instance)
        if self.never and event_names:
            raise exception.InstanceEventTimeout()


def make_instance(image: str, **more: Any) -> objects.Instance:
    """An instance as the compute manager hands it to the driver."""
    number = uuid.uuid4()
    flavor = objects.Flavor(
        id=1, flavorid="1", name="tiny", memory_mb=96, vcpus=1, root_gb=more.pop("root_gb", 1), ephemeral_gb=0, swap=0,
        extra_specs={}, rxtx_factor=1.0, vcpu_weight=0, disabled=False, is_public=True,
    )  # fmt: skip
    values: dict[str, Any] = {
        "id": number.int % (1 << 30),
        "uuid": str(number),
        "display_name": "guest",
        "project_id": "p",
        "user_id": "u",
        "image_ref": image,
        "kernel_id": "",
        "ramdisk_id": "",
        "config_drive": "",
        "os_type": None,
        "launched_at": None,
        "flavor": flavor,
        "metadata": {},
        "system_metadata": {},
        "user_data": None,
        "key_name": None,
        "keypairs": objects.KeyPairList(objects=[]),
        "ec2_ids": objects.EC2Ids(instance_id="i-1", ami_id="ami-1", kernel_id=None, ramdisk_id=None),
        "device_metadata": None,
        "numa_topology": None,
        "availability_zone": "nova",
        "hostname": "guest",
        "launch_index": 0,
        "reservation_id": "r-1",
        "root_device_name": "/dev/xvda",
        "host": "domu-1",
        "node": "dom0-test",
        "deleted": False,
        "cleaned": False,
        "hidden": False,
    }
    return objects.Instance(**{**values, **more})


def make_image_meta(image: str, **properties: Any) -> objects.ImageMeta:
    return objects.ImageMeta(
        id=image, disk_format="raw", container_format="bare", properties=objects.ImageMetaProps(**properties)
    )


def make_port(*, active: bool = False, bridge: str = "br-int", kind: str = model.VIF_TYPE_OVS) -> model.VIF:
    """A Neutron port bound by ML2/OVS, as in instance.info_cache."""
    number = uuid.uuid4()
    network = model.Network(id=str(uuid.uuid4()), bridge=bridge, label="net", subnets=[], mtu=1450)
    mac = "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in number.bytes[:3])
    return model.VIF(
        id=str(number), address=mac, network=network, type=kind, active=active, vnic_type="normal",
        details={"port_filter": True, "ovs_hybrid_plug": False}, devname=f"tap{str(number)[:11]}",
    )  # fmt: skip


def ports(*made: model.VIF) -> model.NetworkInfo:
    return model.NetworkInfo(list(made))


__all__ = ["GIB", "MIB", "Images", "VirtAPI", "fields", "make_image_meta", "make_instance", "make_port", "ports"]
