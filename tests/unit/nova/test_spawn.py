"""Instances made and removed, and what they are on the host."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import nova.conf
import pytest
from nova import exception
from nova.compute import power_state
from tests.kit.images import dynamic_vhd, noise, qcow2
from tests.unit.nova.cloud import GIB, MIB, make_instance, make_port, ports
from tests.unit.nova.conftest import Compute

CONF = nova.conf.CONF
BODY = noise(3 * MIB)


def test_a_spawned_instance_runs_and_is_what_the_flavor_says(compute: Compute) -> None:
    instance = compute.running()
    vm = compute.vm(instance)
    assert vm["power_state"] == "Running"
    assert vm["other_config"]["nova_uuid"] == instance.uuid
    assert int(vm["memory_static_max"]) == 96 * MIB
    assert int(vm["VCPUs_max"]) == 1
    assert vm["HVM_boot_policy"] == "BIOS order"
    (vbd,) = (compute.wire.call("VBD.get_record", ref) for ref in vm["VBDs"])
    assert (vbd["userdevice"], vbd["type"], vbd["bootable"], vbd["mode"]) == ("0", "Disk", True, "RW")
    vdi = compute.wire.call("VDI.get_record", vbd["VDI"])
    assert int(vdi["virtual_size"]) == GIB
    assert vdi["other_config"] == {"nova_instance_uuid": instance.uuid}
    assert compute.driver.get_info(instance).state == power_state.RUNNING
    assert compute.driver.instance_exists(instance)
    assert instance.uuid in compute.driver.list_instance_uuids()
    assert instance.name in compute.driver.list_instances()
    assert compute.driver.get_num_instances() == 1


def test_the_port_is_wired_before_the_guest_runs(compute: Compute) -> None:
    up, down = make_port(active=True), make_port(active=False)
    instance = make_instance(compute.images.add(b"\0" * MIB, "raw"))
    compute.spawn(instance, network=ports(down, up))
    assert compute.virtapi.waited == [("network-vif-plugged", down["id"])]
    vifs = [compute.wire.call("VIF.get_record", ref) for ref in compute.vm(instance)["VIFs"]]
    assert {vif["device"]: (vif["MAC"], vif["other_config"]["nicira-iface-id"], vif["MTU"]) for vif in vifs} == {
        "0": (down["address"], down["id"], "1450"),
        "1": (up["address"], up["id"], "1450"),
    }
    (network,) = {vif["network"] for vif in vifs}
    record = compute.wire.call("network.get_record", network)
    assert (record["bridge"], record["managed"]) == ("br-int", False)


def test_an_instance_may_be_made_without_starting_it(compute: Compute) -> None:
    instance = make_instance(compute.images.add(b"\0" * MIB, "raw"))
    compute.spawn(instance, power_on=False)
    assert compute.driver.get_info(instance).state == power_state.SHUTDOWN


@pytest.mark.parametrize(
    ("body", "disk_format"), [(BODY, "raw"), (qcow2(BODY), "qcow2"), (dynamic_vhd(BODY, size=4 * MIB), "vhd")]
)
def test_the_guest_gets_the_image(compute: Compute, body: bytes, disk_format: str) -> None:
    instance = make_instance(compute.images.add(body, disk_format), root_gb=0)
    compute.spawn(instance)
    (vbd,) = (compute.wire.call("VBD.get_record", ref) for ref in compute.vm(instance)["VBDs"])
    compute.driver.power_off(instance)
    disk = b"".join(compute.wire.export_vdi(vbd["VDI"], format="raw"))
    assert disk[: len(BODY)] == BODY
    assert not disk[len(BODY) :].strip(b"\0")


def test_an_image_is_imported_once(compute: Compute) -> None:
    image = compute.images.add(b"\0" * MIB, "raw")
    for _ in range(3):
        compute.spawn(make_instance(image))
    assert compute.images.downloads == [image]
    cached = [
        vdi for vdi in compute.wire.call("VDI.get_all_records").values() if vdi["other_config"].get("image-id") == image
    ]
    assert len(cached) == 1
    assert cached[0]["other_config"]["image-vdi"] == cached[0]["uuid"]


def test_a_config_drive_is_an_iso_in_a_cd_drive(compute: Compute, tmp_path: Path) -> None:
    data = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()
    instance = make_instance(compute.images.add(b"\0" * MIB, "raw"), config_drive="True", user_data=data)
    compute.spawn(instance)
    vbds = [compute.wire.call("VBD.get_record", ref) for ref in compute.vm(instance)["VBDs"]]
    (drive,) = (vbd for vbd in vbds if vbd["type"] == "CD")
    assert (drive["userdevice"], drive["mode"]) == ("3", "RO")
    iso = tmp_path / "drive.iso"
    compute.driver.power_off(instance)
    iso.write_bytes(b"".join(compute.wire.export_vdi(drive["VDI"], format="raw")))

    def read(path: str) -> bytes:
        return subprocess.run(["isoinfo", "-R", "-x", path, "-i", str(iso)], check=True, capture_output=True).stdout

    assert json.loads(read("/openstack/latest/meta_data.json"))["uuid"] == instance.uuid
    assert read("/openstack/latest/user_data") == b"#!/bin/sh\necho hello\n"
    assert subprocess.run(["isoinfo", "-d", "-i", str(iso)], check=True, capture_output=True).stdout.count(
        b"Volume id: config-2"
    )


def test_destroy_leaves_nothing_but_the_image(compute: Compute) -> None:
    image = compute.images.add(b"\0" * MIB, "raw")
    compute.spawn(first := make_instance(image))
    compute.driver.destroy(None, first, None)
    before = compute.everything()
    compute.spawn(instance := make_instance(image, config_drive="True"))
    compute.driver.destroy(None, instance, None)
    assert compute.everything() == before
    assert not compute.driver.instance_exists(instance)
    with pytest.raises(exception.InstanceNotFound):
        compute.driver.get_info(instance)
    compute.driver.destroy(None, instance, None)
    compute.driver.cleanup(None, instance, None)
    assert compute.everything() == before


def test_destroy_may_leave_the_disks(compute: Compute) -> None:
    instance = compute.running()
    compute.driver.destroy(None, instance, None, destroy_disks=False)
    left = [
        vdi for vdi in compute.wire.call("VDI.get_all_records").values()
        if vdi["other_config"].get("nova_instance_uuid") == instance.uuid
    ]  # fmt: skip
    assert len(left) == 1
    compute.driver.cleanup(None, instance, None)
    assert not compute.driver.instance_exists(instance)


@pytest.mark.parametrize("state", ["paused", "suspended", "halted"])
def test_destroy_takes_an_instance_in_any_state(compute: Compute, state: str) -> None:
    image = compute.images.add(b"\0" * MIB, "raw")
    compute.spawn(first := make_instance(image))
    compute.driver.destroy(None, first, None)
    before = compute.everything()
    compute.spawn(instance := make_instance(image))
    verbs: dict[str, Any] = {
        "paused": lambda: compute.driver.pause(instance),
        "suspended": lambda: compute.driver.suspend(None, instance),
        "halted": lambda: compute.driver.power_off(instance),
    }
    verbs[state]()
    compute.driver.destroy(None, instance, None)
    assert compute.everything() == before


def test_the_same_instance_twice_is_refused(compute: Compute) -> None:
    instance = compute.running()
    with pytest.raises(exception.InstanceExists):
        compute.spawn(instance)
    assert compute.driver.get_info(instance).state == power_state.RUNNING


@pytest.mark.parametrize(
    ("port", "words"),
    [
        (make_port(kind="binding_failed"), "binding_failed"),
        (make_port(bridge="br-other"), "br-other"),
        (make_port(kind="bridge"), "only 'ovs'"),
    ],
)
def test_a_port_that_cannot_be_wired_is_refused(compute: Compute, port: Any, words: str) -> None:
    instance = make_instance(compute.images.add(b"\0" * MIB, "raw"))
    with pytest.raises(exception.VirtualInterfacePlugException, match=words):
        compute.spawn(instance, network=ports(port))
    assert not compute.wire.call("VM.get_by_name_label", instance.name)


def test_an_image_that_nobody_needs_is_removed_in_time(compute: Compute) -> None:
    before = compute.everything()
    image = compute.images.add(b"\0" * MIB, "raw")
    assert compute.driver.cache_image(None, image)
    assert not compute.driver.cache_image(None, image)
    kept = compute.everything()
    compute.driver.manage_image_cache(None, [make_instance(image)])
    compute.driver.manage_image_cache(None, [])
    assert compute.everything() == kept
    CONF.set_override("remove_unused_original_minimum_age_seconds", 0, group="image_cache")
    try:
        compute.driver.manage_image_cache(None, [make_instance(image)])
        assert compute.everything() == kept
        compute.driver.manage_image_cache(None, [])
    finally:
        CONF.clear_override("remove_unused_original_minimum_age_seconds", group="image_cache")
    assert compute.everything() == before
