"""What Nova and Placement are told about the host."""

import json
import re

import nova.conf
import os_resource_classes as orc
import pytest
from nova.compute import provider_tree
from tests.unit.nova.cloud import make_instance
from tests.unit.nova.conftest import Compute

from xenstack.nova import resources, traits

CONF = nova.conf.CONF
GIB = 1 << 30


@pytest.fixture
def tree(compute: Compute) -> provider_tree.ProviderTree:
    made = provider_tree.ProviderTree()
    made.new_root("dom0-test", "7d1c1a4a-9f5e-4f83-8a1c-3c5f0f6f2b11")
    return made


def test_the_inventory_is_the_hosts(compute: Compute, tree: provider_tree.ProviderTree) -> None:
    CONF.set_override("reserved_host_memory_mb", 256)
    CONF.set_override("cpu_allocation_ratio", 3.0)
    try:
        compute.driver.update_provider_tree(tree, "dom0-test")
    finally:
        CONF.clear_override("reserved_host_memory_mb")
        CONF.clear_override("cpu_allocation_ratio")
    (host,) = compute.wire.call("host.get_all_records").values()
    metrics = compute.wire.call("host_metrics.get_record", host["metrics"])
    sr = compute.wire.call("SR.get_record", compute.driver.host.sr)
    inventory = tree.data("dom0-test").inventory
    assert inventory[orc.VCPU]["total"] == int(host["cpu_info"]["cpu_count"])
    assert inventory[orc.VCPU]["allocation_ratio"] == 3.0
    memory = (int(metrics["memory_total"]) - int(host["memory_overhead"])) >> 20
    assert inventory[orc.MEMORY_MB]["total"] == inventory[orc.MEMORY_MB]["max_unit"] == memory
    assert inventory[orc.MEMORY_MB]["reserved"] == 256
    assert inventory[orc.DISK_GB]["total"] == int(sr["physical_size"]) // GIB
    assert all(entry["total"] > 0 and entry["step_size"] == 1 for entry in inventory.values())


def test_cpu_traits_follow_the_hosts_flags(compute: Compute, tree: provider_tree.ProviderTree) -> None:
    tree.add_traits("dom0-test", "HW_CPU_X86_XOP", "CUSTOM_OPERATORS_OWN")
    compute.driver.update_provider_tree(tree, "dom0-test")
    (host,) = compute.wire.call("host.get_all_records").values()
    flags = host["cpu_info"]["flags"].split()
    have = tree.data("dom0-test").traits
    assert have == traits.of_flags(" ".join(flags)) | {"CUSTOM_OPERATORS_OWN"}
    assert ("HW_CPU_X86_SSE2" in have) == ("sse2" in flags)
    assert "HW_CPU_X86_XOP" not in have or "xop" in flags


def test_flags_become_traits() -> None:
    assert traits.of_flags("pni sse4_1 aes vmx rubbish") == {
        "HW_CPU_X86_SSE3",
        "HW_CPU_X86_SSE41",
        "HW_CPU_X86_AESNI",
    }


def test_the_compute_node_is_complete(compute: Compute) -> None:
    (node,) = compute.driver.get_available_nodes()
    empty = compute.driver.get_available_resource(node)
    compute.spawn(make_instance(compute.images.add(b"\0" * 512, "raw")))
    full = compute.driver.get_available_resource(node)
    assert full["hypervisor_hostname"] == node == "dom0-test"
    assert full["vcpus_used"] == empty["vcpus_used"] + 1
    assert full["memory_mb"] > 0
    assert full["local_gb"] > 0
    assert full["uuid"] == "7d1c1a4a-9f5e-4f83-8a1c-3c5f0f6f2b11"
    assert ("x86_64", full["supported_instances"][0][1], "hvm") in full["supported_instances"]
    assert json.loads(full["cpu_info"])["arch"] == "x86_64"
    assert full["hypervisor_version"] > 0


def test_what_a_host_reports_decides_what_is_supported() -> None:
    xen = {"capabilities": ["xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_64"], "software_version": {"xen": "4.17"}}
    assert resources.supported(xen) == [("i686", "xen", "hvm"), ("x86_64", "xen", "hvm")]
    qemu = {"capabilities": ["hvm-3.0-x86_64"], "software_version": {}}
    assert resources.supported(qemu) == [("x86_64", "qemu", "hvm")]


def test_the_host_itself(compute: Compute) -> None:
    (host,) = compute.wire.call("host.get_all_records").values()
    assert compute.driver.get_host_ip_addr() == host["address"]
    assert re.fullmatch(r"up \d+ days, \d+:\d\d", compute.driver.get_host_uptime())
    connector = compute.driver.get_volume_connector(None)
    assert (connector["ip"], connector["host"]) == (host["address"], "dom0-test")
    assert connector["initiator"] == host["iscsi_iqn"]
    assert compute.driver.default_root_device_name(None, None, None) == "/dev/xvda"


def test_looking_costs_no_round_trip(compute: Compute, tree: provider_tree.ProviderTree) -> None:
    instance = compute.running()
    before = compute.driver.host.session.round_trips
    compute.driver.get_info(instance)
    compute.driver.get_info(instance, use_cache=False)
    compute.driver.list_instances()
    compute.driver.list_instance_uuids()
    compute.driver.get_available_resource("dom0-test")
    compute.driver.update_provider_tree(tree, "dom0-test")
    compute.driver.get_host_uptime()
    assert compute.driver.host.session.round_trips == before
