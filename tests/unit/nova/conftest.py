"""The driver against a real host daemon, everything simulated, over the real wire."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nova.conf
import pytest
from nova.api.metadata import base as metadata
from nova.image import glance
from tests.kit.daemon import Daemon, daemon
from tests.unit.nova.cloud import MIB, Images, VirtAPI, make_image_meta, make_instance, make_port, ports

from xenstack.nova import options
from xenstack.nova.driver import XenAPIDriver
from xenstack.xenapi.session import Session

CONF = nova.conf.CONF
CLASSES = ("VM", "VDI", "VBD", "VIF")


@dataclass
class Compute:
    """One nova-compute's driver, and what a test wants to know about its host."""

    driver: XenAPIDriver
    virtapi: VirtAPI
    images: Images
    wire: Session
    told: list[Any] = field(default_factory=list)

    def spawn(self, instance: Any, *, power_on: bool = True, network: Any = None, **more: Any) -> None:
        self.driver.spawn(
            None, instance, make_image_meta(instance.image_ref, **more), [], None, {},
            network_info=ports(make_port()) if network is None else network, block_device_info={}, power_on=power_on,
        )  # fmt: skip

    def running(self, **more: Any) -> Any:
        """An instance that runs, from a small raw image."""
        instance = make_instance(self.images.add(b"\xeb" * MIB, "raw"), **more)
        self.spawn(instance)
        return instance

    def everything(self) -> dict[str, set[str]]:
        """The refs of all VMs, VDIs, VBDs and VIFs, asked from the host."""
        return {cls: set(self.wire.call(f"{cls}.get_all")) for cls in CLASSES}

    def vm(self, instance: Any) -> dict[str, Any]:
        """The instance's VM record, asked from the host."""
        (ref,) = self.wire.call("VM.get_by_name_label", instance.name)
        return {"ref": ref, **self.wire.call("VM.get_record", ref)}


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture
def configured(host: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """nova.conf for that daemon."""
    options.register(CONF)
    CONF([], project="nova", default_config_files=[])
    CONF.set_override("state_path", str(tmp_path))
    for name, value in {
        "connection_url": host.url,
        "connection_password": host.password,
        "event_timeout": 2,
    }.items():
        CONF.set_override(name, value, group="xenserver")
    (tmp_path / "compute_id").write_text("7d1c1a4a-9f5e-4f83-8a1c-3c5f0f6f2b11")
    yield
    CONF.clear_override("state_path")
    for name in ("connection_url", "connection_password", "event_timeout"):
        CONF.clear_override(name, group="xenserver")


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Images:
    made = Images()
    monkeypatch.setattr(glance, "API", lambda: made)
    # Nova's metadata asks its database and Neutron for these two
    monkeypatch.setattr(metadata, "_format_instance_mapping", lambda instance: {"ami": "xvda", "root": "/dev/xvda"})
    monkeypatch.setattr(metadata.security_group_api, "get_instance_security_groups", lambda context, instance: [])
    return made


@pytest.fixture
def compute(host: Daemon, configured: None, images: Images) -> Iterator[Compute]:
    """A driver after init_host. Whatever a test made on the host is removed afterwards."""
    virtapi = VirtAPI()
    driver = XenAPIDriver(virtapi)
    driver.init_host("domu-1")
    with host.session() as wire:
        made = Compute(driver, virtapi, images, wire)
        driver.register_event_listener(made.told.append)
        before = made.everything()
        yield made
        driver.cleanup_host("domu-1")
        clean(wire, before, made.everything())


def clean(wire: Session, before: dict[str, set[str]], after: dict[str, set[str]]) -> None:
    for vm in after["VM"] - before["VM"]:
        with contextlib.suppress(Exception):
            wire.call("VM.hard_shutdown", vm)
        wire.call("VM.destroy", vm)
    for vdi in after["VDI"] - before["VDI"]:
        wire.call("VDI.destroy", vdi)
