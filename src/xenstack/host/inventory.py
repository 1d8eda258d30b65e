"""The records that a host has before any client makes one: made at the first start, made true again at every start.

pool, host, host_metrics, host_cpu, the control domain, storage driver, physical interfaces, one template. Everything
that describes the machine is what the ports answer; what they do not know is left empty, never invented.
"""

import platform
import time
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any

from xenstack.host.config import Config
from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import HostFacts
from xenstack.host.network.port import HostInterface
from xenstack.host.tasks.task import now
from xenstack.xenapi.model import NULL

_API = (2, 23)  # the data model's version
_VDI_OPERATIONS = ("CREATE", "DELETE", "ATTACH", "DETACH", "ACTIVATE", "DEACTIVATE", "CLONE", "SNAPSHOT", "RESIZE")
_HOST_OPERATIONS = ["provision", "vm_start", "vm_resume"]
_TASK_KEPT = timedelta(days=1)
_TASKS = 5_000
_TEMPLATE = "Other install media"


def version() -> str:
    """xenstack's own version as x.y.z; clients parse it."""
    try:
        return metadata.version("xenstack")
    except metadata.PackageNotFoundError:
        return "0.1.0"


def refresh(store: Store, config: Config, facts: HostFacts, interfaces: list[HostInterface]) -> tuple[str, str]:
    """Make every record of this module true; returns the host's and the pool's references."""
    with store.transaction():
        host = _host(store, config, facts)
        pool = _pool(store, host, facts)
        _cpus(store, host, facts)
        _control_domain(store, host, facts)
        _driver(store)
        _interfaces(store, host, interfaces)
        _template(store)
        for task in store.where("task", status="pending"):
            lost = ["INTERNAL_ERROR", "the host was restarted while the task was under way"]
            fields = {"status": "failure", "error_info": lost, "progress": 1.0, "finished": now()}
            store.set("task", task, **fields, allowed_operations=[], current_operations={})
    return host, pool


def forget_old_tasks(store: Store) -> None:
    """Tasks that ended a day ago, and all but the newest few thousand: clients forget to destroy theirs."""
    ended = [ref for ref, record in store.views("task") if record["status"] != "pending"]
    limit = (datetime.now(UTC) - _TASK_KEPT).strftime("%Y%m%dT%H:%M:%SZ")
    for position, ref in enumerate(ended):
        if position < len(ended) - _TASKS or store.get("task", ref, "finished") < limit:
            with store.transaction():
                if store.exists("task", ref):
                    store.delete("task", ref)


def refresh_memory(store: Store, host: str, facts: HostFacts) -> None:
    """host_metrics: what the hypervisor says about memory now."""
    metrics = store.get("host", host, "metrics")
    held = store.view("host_metrics", metrics)
    if (held["memory_total"], held["memory_free"]) != (facts.memory_total, facts.memory_free):
        sizes = {"memory_total": facts.memory_total, "memory_free": facts.memory_free}
        store.set("host_metrics", metrics, last_updated=now(), **sizes)


def _put(store: Store, cls: str, ref: str | None, values: dict[str, Any], first: dict[str, Any]) -> str:
    """Set `values` in the record, or create it with `first` as well."""
    if ref is None:
        return store.create(cls, {**first, **values})
    store.set(cls, ref, **values)
    return ref


def _only(store: Store, cls: str, **fields: Any) -> str | None:
    found = store.where(cls, **fields)
    return found[0] if found else None


def _cpu_info(facts: HostFacts) -> dict[str, str]:
    return {
        "cpu_count": str(facts.cpus),
        "socket_count": str(facts.sockets),
        "threads_per_core": str(facts.threads_per_core),
        "cores_per_socket": str(facts.cores_per_socket),
        "vendor": facts.cpu_vendor,
        "speed": f"{facts.cpu_mhz:.3f}",
        "modelname": facts.cpu_model,
        "family": str(facts.cpu_family),
        "model": str(facts.cpu_model_number),
        "stepping": str(facts.cpu_stepping),
        "flags": " ".join(facts.cpu_flags),
    }


def _software(facts: HostFacts, config: Config) -> dict[str, str]:
    own = version()
    found = {
        "product_brand": "xenstack",
        "product_version": own,
        "product_version_text": own,
        "product_version_text_short": ".".join(own.split(".")[:2]),
        "platform_name": "xenstack",
        "platform_version": own,
        "build_number": "0",
        "hostname": config.host_name,
        "linux": platform.release(),
        "network_backend": config.network,
        "hypervisor": f"{facts.hypervisor} {facts.hypervisor_version}",
        "xapi": f"{_API[0]}.{_API[1]}",
    }
    if facts.hypervisor.lower() == "xen":
        found["xen"] = facts.hypervisor_version
    return found


def _host(store: Store, config: Config, facts: HostFacts) -> str:
    known = _only(store, "host")
    metrics = store.get("host", known, "metrics") if known else NULL
    if not store.exists("host_metrics", metrics):
        metrics = store.create("host_metrics", {})
    values = {
        "address": config.host_address,
        "metrics": metrics,
        "software_version": _software(facts, config),
        "capabilities": list(facts.capabilities),
        "cpu_info": _cpu_info(facts),
        "API_version_major": _API[0],
        "API_version_minor": _API[1],
        "API_version_vendor": "xenstack",
        "allowed_operations": _HOST_OPERATIONS,
    }
    first = {
        "name_label": config.host_name,
        "hostname": config.host_name,
        "enabled": True,
        "sched_policy": "",
        "virtual_hardware_platform_versions": [0, 1, 2],
    }
    host = _put(store, "host", known, values, first)
    now = time.time()
    started = {
        "agent_start_time": f"{int(now)}.",
        "boot_time": f"{int(now - time.clock_gettime(time.CLOCK_BOOTTIME))}.",
    }
    store.set("host", host, other_config={**store.get("host", host, "other_config"), **started})
    refresh_memory(store, host, facts)
    return host


def _pool(store: Store, host: str, facts: HostFacts) -> str:
    info = {k: v for k, v in _cpu_info(facts).items() if k in ("cpu_count", "socket_count", "vendor")}
    return _put(store, "pool", _only(store, "pool"), {"master": host, "cpu_info": info}, {})


def _cpus(store: Store, host: str, facts: HostFacts) -> None:
    known = {store.get("host_cpu", ref, "number"): ref for ref in store.refs("host_cpu")}
    values = {
        "host": host,
        "vendor": facts.cpu_vendor,
        "speed": facts.cpu_mhz,
        "modelname": facts.cpu_model,
        "family": facts.cpu_family,
        "model": facts.cpu_model_number,
        "stepping": str(facts.cpu_stepping),
        "flags": " ".join(facts.cpu_flags),
    }
    for number in range(facts.cpus):
        _put(store, "host_cpu", known.pop(number, None), values, {"number": number})
    for gone in known.values():
        store.delete("host_cpu", gone)


def _control_domain(store: Store, host: str, facts: HostFacts) -> None:
    known = _only(store, "VM", is_control_domain=True)
    metrics = store.get("VM", known, "metrics") if known else store.create("VM_metrics", {})
    values: dict[str, Any] = {
        "name_label": f"Control domain on host: {store.get('host', host, 'name_label')}",
        "name_description": "The control domain of this host",
        "power_state": "Running",
        "domid": 0,
        "resident_on": host,
        "affinity": host,
        "metrics": metrics,
        "VCPUs_max": facts.cpus,
        "VCPUs_at_startup": facts.cpus,
        "allowed_operations": [],
    }
    vm = _put(store, "VM", known, values, {"is_control_domain": True})
    store.set("VM_metrics", metrics, VCPUs_number=facts.cpus)
    store.set("host", host, control_domain=vm)


def _driver(store: Store) -> None:
    names = ["SR_UPDATE", "SR_SCAN", *(f"VDI_{each}" for each in _VDI_OPERATIONS)]
    values = {
        "name_label": "File",
        "name_description": "A folder of qcow2 and raw images on this host",
        "vendor": "xenstack",
        "version": version(),
        "required_api_version": "1.1",
        "capabilities": names,
        "features": dict.fromkeys(names, 1),
        "supported_image_formats": ["qcow2", "raw"],
    }
    _put(store, "SM", _only(store, "SM", type="file"), values, {"type": "file"})


def _interfaces(store: Store, host: str, interfaces: list[HostInterface]) -> None:
    known = {store.get("PIF", ref, "device"): ref for ref in store.refs("PIF")}
    for each in interfaces:
        ref = known.pop(each.device, None)
        metrics = store.get("PIF", ref, "metrics") if ref else store.create("PIF_metrics", {})
        values: dict[str, Any] = {"MAC": each.mac, "MTU": each.mtu, "metrics": metrics, "currently_attached": True}
        first: dict[str, Any] = {"device": each.device, "host": host, "physical": True}
        if ref is None:
            label = f"Network of {each.device}"
            first["network"] = store.create("network", {"name_label": label, "managed": False, "MTU": each.mtu})
        _put(store, "PIF", ref, values, first)
        store.set("PIF_metrics", metrics, carrier=each.carrier)
    for gone in known.values():
        network = store.get("PIF", gone, "network")
        store.delete("PIF", gone)
        if store.exists("network", network) and not store.get("network", network, "VIFs"):
            store.delete("network", network)


def _template(store: Store) -> None:
    if store.where("VM", name_label=_TEMPLATE, is_default_template=True):
        return
    values: dict[str, Any] = {
        "name_label": _TEMPLATE,
        "name_description": "For a guest whose system is installed from a medium, or that brings its own disk",
        "is_a_template": True,
        "is_default_template": True,
        "memory_static_max": 1 << 30,
        "memory_dynamic_max": 1 << 30,
        "memory_dynamic_min": 1 << 30,
        "memory_static_min": 128 << 20,
        "VCPUs_max": 1,
        "VCPUs_at_startup": 1,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "dc"},
        "domain_type": "hvm",
        "platform": {"acpi": "1", "apic": "true", "pae": "true", "nx": "true"},
        "other_config": {"default_template": "true", "install-methods": "cdrom"},
        "allowed_operations": ["changing_dynamic_range", "clone", "copy", "provision", "destroy", "export"],
        "metrics": store.create("VM_metrics", {}),
    }
    store.create("VM", values)
