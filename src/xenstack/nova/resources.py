"""What the host has: inventory for Placement, and the compute node's record. All from the event cache: no round trip.

CPUs and memory are the host's (memory without what the hypervisor keeps for itself); disk is the one SR that holds
images and instances. dom0's own memory is part of the host's: reserve it with `reserved_host_memory_mb`.
"""

import datetime
import time
from typing import Any

import nova.conf
import os_resource_classes as orc
from nova.compute import utils as compute_utils
from nova.objects import fields
from nova.virt import node as nova_node
from oslo_serialization import jsonutils
from oslo_utils import versionutils

from xenstack.nova import traits
from xenstack.nova.host import Host
from xenstack.nova.records import Record

CONF = nova.conf.CONF

MIB, GIB = 1 << 20, 1 << 30

_ARCHITECTURES = {"x86_64": fields.Architecture.X86_64, "x86_32": fields.Architecture.I686}


def available(host: Host) -> dict[str, Any]:
    """The compute node's record, as ComputeDriver.get_available_resource wants it."""
    record, sr = host.record, host.records.get("sr", host.sr) or {}
    total, free = _memory(host)
    running = [vm for _, _, vm in host.records.instances() if vm["power_state"] in ("Running", "Paused")]
    size, used = int(sr.get("physical_size", 0)), int(sr.get("physical_utilisation", 0))
    return {
        "vcpus": _cpus(record),
        "memory_mb": total // MIB,
        "local_gb": size // GIB,
        "vcpus_used": sum(int(vm["VCPUs_max"]) for vm in running),
        "memory_mb_used": (total - free) // MIB,
        "local_gb_used": -(-used // GIB),
        "disk_available_least": (size - int(sr.get("virtual_allocation", 0))) // GIB,
        "hypervisor_type": hypervisor_type(record),
        "hypervisor_version": _version(record),
        "hypervisor_hostname": record["hostname"],
        "uuid": nova_node.get_local_node_uuid(),
        "cpu_info": jsonutils.dumps(_cpu_info(record)),
        "supported_instances": supported(record),
        "numa_topology": None,
        "pci_passthrough_devices": jsonutils.dumps([]),
        "stats": {"uptime": uptime(host)},
    }


def update_tree(host: Host, tree: Any, nodename: str, ratios: Any) -> None:
    """Put inventory and CPU traits into the provider tree; `ratios` is Nova's rule for allocation ratios."""
    record, sr = host.record, host.records.get("sr", host.sr) or {}
    ratio = ratios(tree.data(nodename).inventory)
    totals = {
        orc.VCPU: (_cpus(record), CONF.reserved_host_cpus),
        orc.MEMORY_MB: (_memory(host)[0] // MIB, CONF.reserved_host_memory_mb),
        orc.DISK_GB: (
            int(sr.get("physical_size", 0)) // GIB,
            compute_utils.convert_mb_to_ceil_gb(CONF.reserved_host_disk_mb),
        ),
    }
    inventory = {
        name: {
            "total": total,
            "reserved": min(reserved, total),
            "min_unit": 1,
            "max_unit": total,
            "step_size": 1,
            "allocation_ratio": ratio[name],
        }
        for name, (total, reserved) in totals.items()
        if total > 0  # Placement refuses an inventory of nothing
    }
    tree.update_inventory(nodename, inventory)
    have = traits.of_flags(str(record["cpu_info"].get("flags", "")))
    tree.add_traits(nodename, *sorted(have))
    tree.remove_traits(nodename, *sorted(traits.owned() - have))


def supported(record: Record) -> list[tuple[str, str, str]]:
    """(architecture, hypervisor, mode) of the guests the host says it runs, of those the driver makes: HVM."""
    kind = fields.HVType.XEN if _is_xen(record) else fields.HVType.QEMU
    found = []
    for capability in record["capabilities"]:
        ostype, _, rest = capability.partition("-")
        arch = _ARCHITECTURES.get(rest.rpartition("-")[2])
        if ostype == "hvm" and arch and (arch, kind, fields.VMMode.HVM) not in found:
            found.append((arch, kind, fields.VMMode.HVM))
    return found


def hypervisor_type(record: Record) -> str:
    """ "XenServer" for Xen behind XenAPI, as it has always been called in Nova; "QEMU" for a host without Xen."""
    return "XenServer" if _is_xen(record) else "QEMU"


def uptime(host: Host) -> str:
    """How long the host has been up, as `uptime` would say it; "" when the host does not tell."""
    try:
        booted = float(host.record.get("other_config", {}).get("boot_time", ""))
    except ValueError:
        return ""
    up = datetime.timedelta(seconds=max(0, int(time.time() - booted)))
    hours, minutes = up.seconds // 3600, up.seconds // 60 % 60
    return f"up {up.days} days, {hours}:{minutes:02}"


def _is_xen(record: Record) -> bool:
    return bool(record["software_version"].get("xen"))


def _cpus(record: Record) -> int:
    return int(record["cpu_info"].get("cpu_count", 0))


def _memory(host: Host) -> tuple[int, int]:
    """(total for guests, free), bytes."""
    metrics = host.records.get("host_metrics", host.record["metrics"]) or {}
    overhead = int(host.record.get("memory_overhead", 0))
    return max(0, int(metrics.get("memory_total", 0)) - overhead), int(metrics.get("memory_free", 0))


def _version(record: Record) -> int:
    software = record["software_version"]
    for key in ("xen", "product_version", "platform_version", "qemu"):
        digits = ".".join(str(software.get(key, "")).split("-")[0].split(".")[:3])
        try:
            return int(versionutils.convert_version_to_int(digits))
        except ValueError:
            continue
    return 0


def _cpu_info(record: Record) -> dict[str, Any]:
    info = record["cpu_info"]
    count, sockets = _cpus(record), int(info.get("socket_count", 1) or 1)
    return {
        "arch": fields.Architecture.X86_64,
        "vendor": info.get("vendor", ""),
        "model": info.get("modelname", ""),
        "features": str(info.get("flags", "")).split(),
        "topology": {"sockets": sockets, "cores": max(1, count // sockets), "threads": 1},
    }
