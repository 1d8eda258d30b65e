"""host and pool: what can be asked and told about this machine."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm_life import check_host
from xenstack.host.operations import residence, translate
from xenstack.xenapi.errors import InvalidValue, OperationNotAllowed


@call("host.compute_free_memory")
def compute_free_memory(context: Context, host: str) -> int:
    check_host(context, host)
    with translate.spoken(context.store, "host.compute_free_memory"):
        return context.hypervisor.facts().memory_free


@call("host.compute_memory_overhead")
def compute_memory_overhead(context: Context, host: str) -> int:
    context.store.view("host", host)
    return int(context.store.get("host", host, "memory_overhead"))


@call("host.get_servertime")
def get_servertime(context: Context, host: str) -> str:
    context.store.view("host", host)
    return residence.now()


@call("host.get_server_localtime")
def get_server_localtime(context: Context, host: str) -> str:
    """This host's clock runs in UTC."""
    context.store.view("host", host)
    return residence.now()


@call("host.enable")
def enable(context: Context, host: str) -> None:
    check_host(context, host)
    context.store.set("host", host, enabled=True)


@call("host.disable")
def disable(context: Context, host: str, auto_enable: bool) -> None:
    """No VM starts here until `enable`; those that run go on."""
    check_host(context, host)
    context.store.set("host", host, enabled=False)


@call("host.set_hostname_live")
def set_hostname_live(context: Context, host: str, hostname: str) -> None:
    """The name that clients see; the machine's own is its operator's."""
    check_host(context, host)
    if not hostname or len(hostname) > 253 or not all(c.isalnum() or c in ".-" for c in hostname):
        raise InvalidValue("hostname", hostname)
    context.store.set("host", host, hostname=hostname)


@call("host.get_uncooperative_resident_VMs")
def get_uncooperative_resident_VMs(context: Context, self: str) -> list[str]:
    context.store.view("host", self)
    return []


@call("host.assert_can_evacuate")
def assert_can_evacuate(context: Context, host: str) -> None:
    """There is no other host to go to: possible only when nothing runs."""
    check_host(context, host)
    if guests := _guests(context):
        raise OperationNotAllowed(f"{len(guests)} VMs run here, and there is no other host in the pool")


@call("host.get_vms_which_prevent_evacuation")
def get_vms_which_prevent_evacuation(context: Context, self: str) -> dict[str, list[str]]:
    check_host(context, self)
    return {vm: ["NO_HOSTS_AVAILABLE"] for vm in _guests(context)}


def _guests(context: Context) -> list[str]:
    store = context.store
    return [
        vm
        for vm in store.view("host", context.host_ref)["resident_VMs"]
        if not store.get("VM", vm, "is_control_domain")
    ]


@call("host.sync_data")
def sync_data(context: Context, host: str) -> None:
    """Records are on the disk before a call answers: nothing waits to be written."""
    context.store.view("host", host)


@call("host.has_extension")
def has_extension(context: Context, host: str, name: str) -> bool:
    context.store.view("host", host)
    return False


@call("host.get_management_interface")
def get_management_interface(context: Context, host: str) -> str:
    for pif in context.store.view("host", host)["PIFs"]:
        if context.store.get("PIF", pif, "management"):
            return str(pif)
    return "OpaqueRef:NULL"


@call("pool.sync_database")
def sync_database(context: Context) -> None:
    """One host: its database is the pool's."""


@call("pool.recover_slaves")
def recover_slaves(context: Context) -> list[str]:
    """One host: there is nobody to recover."""
    return []


@call("pool.has_extension")
def pool_has_extension(context: Context, self: str, name: str) -> bool:
    context.store.view("pool", self)
    return False


@call("pool.get_license_state")
def get_license_state(context: Context, self: str) -> dict[str, Any]:
    """Free software has no licence that ends."""
    context.store.view("pool", self)
    return {"edition": "free", "expiry": "never"}
