"""VM: made, copied and deleted; what it is allowed to do; where it may run."""

import uuid as uuids
from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm_life import check_host
from xenstack.host.operations import allowed, busy, copy_vm, destroy_vm, start
from xenstack.host.rules import vbd as vbd_rules
from xenstack.host.rules import vif as vif_rules
from xenstack.xenapi.errors import HandleInvalid, HostNotLive, NotSystemDomain, VmBadPowerState
from xenstack.xenapi.model import load

_DRIVE_OVERHEAD = 4 << 20  # bytes that a domain needs besides its memory: tables and the device model's share
_PER_CPU_OVERHEAD = 1 << 20


def constructor_fields(cls: str, args: dict[str, Any]) -> dict[str, Any]:
    """What a client may give to `create`; the server's own fields are ignored, as on xapi."""
    fields = load().classes[cls].fields
    return {k: v for k, v in args.items() if k in fields and fields[k].qualifier != "RO/runtime"}


@call("VM.create", replaces_implicit=True)
def create(context: Context, args: dict[str, Any]) -> str:
    """Little is checked here, as on xapi; what cannot run is refused when it is started."""
    store = context.store
    given = constructor_fields("VM", args)
    values = {
        **given,
        "power_state": "Halted",
        "suspend_VDI": "OpaqueRef:NULL",
        "last_booted_record": "",
        "memory_target": 0,
        "version": given.get("version", 0),
        "generation_id": given.get("generation_id") or "0:0",
        "hardware_platform_version": given.get("hardware_platform_version", 2),
        "has_vendor_device": given.get("has_vendor_device", True),
        "other_config": {"mac_seed": str(uuids.uuid4()), **given.get("other_config", {})},
    }
    values["memory_overhead"] = _overhead(values.get("VCPUs_max", 1))
    values["domain_type"] = _domain_type(values)
    with store.transaction():
        vm = store.create("VM", {**values, "metrics": store.create("VM_metrics", {})})
        allowed.vm(store, vm)
    return vm


def _domain_type(values: dict[str, Any]) -> str:
    """The type that a client did not name follows from the boot policy, as on xapi."""
    given = str(values.get("domain_type", "unspecified"))
    if given != "unspecified":
        return given
    return "hvm" if values.get("HVM_boot_policy") else "pv"


def _overhead(cpus: int) -> int:
    return _DRIVE_OVERHEAD + _PER_CPU_OVERHEAD * max(cpus, 1)


@call("VM.destroy", replaces_implicit=True)
def destroy(context: Context, self: str) -> None:
    with busy.claim(context, "VM", self, "destroy"):
        destroy_vm.destroy(context, self)


@call("VM.clone")
def clone(context: Context, vm: str, new_name: str) -> str:
    with busy.claim(context, "VM", vm, "clone"):
        return copy_vm.copy(context, vm, new_name)


@call("VM.copy")
def copy(context: Context, vm: str, new_name: str, sr: str) -> str:
    if sr != "OpaqueRef:NULL" and not context.store.exists("SR", sr):
        raise HandleInvalid("SR", sr)
    with busy.claim(context, "VM", vm, "copy"):
        return copy_vm.copy(context, vm, new_name, to_sr=sr)


@call("VM.snapshot")
def snapshot(context: Context, vm: str, new_name: str, ignore_vdis: list[str]) -> str:
    """The disks of a running guest cannot be cloned under it: VDI_IN_USE. Halted and suspended VMs can."""
    with busy.claim(context, "VM", vm, "snapshot"):
        return copy_vm.snapshot(context, vm, new_name, skip=ignore_vdis)


@call("VM.provision")
def provision(context: Context, vm: str) -> None:
    """Make a template's copy a VM. The disks in other_config:disks are the installer's matter: there are none here."""
    with busy.claim(context, "VM", vm, "provision"):
        context.store.set("VM", vm, is_a_template=False)


@call("VM.update_allowed_operations")
def update_allowed_operations(context: Context, self: str) -> None:
    with context.store.transaction():
        allowed.vm(context.store, self)


@call("VM.assert_operation_valid")
def assert_operation_valid(context: Context, self: str, op: str) -> None:
    busy.check(context.store, "VM", self, op)


@call("VM.get_allowed_VBD_devices")
def get_allowed_VBD_devices(context: Context, vm: str) -> list[str]:
    store = context.store
    return vbd_rules.free_devices(store.get("VBD", v, "userdevice") for v in store.view("VM", vm)["VBDs"])


@call("VM.get_allowed_VIF_devices")
def get_allowed_VIF_devices(context: Context, vm: str) -> list[str]:
    store = context.store
    return vif_rules.free_devices(store.get("VIF", v, "device") for v in store.view("VM", vm)["VIFs"])


@call("VM.get_possible_hosts")
def get_possible_hosts(context: Context, vm: str) -> list[str]:
    context.store.view("VM", vm)
    return [context.host_ref] if context.store.get("host", context.host_ref, "enabled") else []


@call("VM.assert_can_boot_here")
def assert_can_boot_here(context: Context, self: str, host: str) -> None:
    """Room for its memory, and its disks and networks are there."""
    if not context.store.exists("host", host):
        raise HostNotLive()
    check_host(context, host)
    start.check_room(context, self)
    for vbd in context.store.view("VM", self)["VBDs"]:
        vdi = context.store.get("VBD", vbd, "VDI")
        if vdi != "OpaqueRef:NULL":
            context.store.view("VDI", vdi)
    for vif in context.store.view("VM", self)["VIFs"]:
        context.store.view("network", context.store.get("VIF", vif, "network"))


@call("VM.assert_agile")
def assert_agile(context: Context, self: str) -> None:
    context.store.view("VM", self)


@call("VM.compute_memory_overhead")
def compute_memory_overhead(context: Context, vm: str) -> int:
    return _overhead(context.store.get("VM", vm, "VCPUs_max"))


@call("VM.maximise_memory")
def maximise_memory(context: Context, self: str, total: int, approximate: bool) -> int:
    """The most memory such a VM may have when `total` bytes are there for it and its overhead."""
    return max(total - _overhead(context.store.get("VM", self, "VCPUs_max")), 0)


@call("VM.get_cooperative")
def get_cooperative(context: Context, self: str) -> bool:
    context.store.view("VM", self)
    return True


@call("VM.get_boot_record")
def get_boot_record(context: Context, self: str) -> dict[str, Any]:
    busy.check(context.store, "VM", self, "get_boot_record")
    return context.store.record("VM", self)


@call("VM.query_services")
def query_services(context: Context, self: str) -> dict[str, str]:
    raise NotSystemDomain(self)


@call("VM.query_data_source")
def query_data_source(context: Context, self: str, data_source: str) -> float:
    """CPU time and memory of a running VM; there is no round-robin database here."""
    record = context.store.view("VM", self)
    if record["power_state"] not in ("Running", "Paused"):
        raise VmBadPowerState(self, "running;paused", record["power_state"].lower())
    usage = context.hypervisor.usage(record["uuid"])
    sources = {"memory": float(usage.memory), "cpu_time": usage.cpu_s}
    if data_source not in sources:
        raise HandleInvalid("data_source", data_source)
    return sources[data_source]


@call("VM.set_is_a_template", replaces_implicit=True)
def set_is_a_template(context: Context, self: str, value: bool) -> None:
    store = context.store
    with store.transaction():
        if value:
            busy.check(store, "VM", self, "make_into_template")
        fields = {} if value else {"is_default_template": False}
        store.set("VM", self, is_a_template=value, **fields)
        allowed.vm(store, self)
