"""allowed_operations, kept true: computed by `rules` whenever something they depend on has changed.

Call `vm` after a change of a VM or of its devices, `vdi` after a change of a VDI's users; both inside the transaction
that made the change, so that one event tells of all of it. An unchanged list writes nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from xenstack.host.database.store import Store
from xenstack.host.operations.machine import NULL
from xenstack.host.rules import sr as sr_rules
from xenstack.host.rules import vbd as vbd_rules
from xenstack.host.rules import vdi as vdi_rules
from xenstack.host.rules import vif as vif_rules
from xenstack.host.rules import vm as vm_rules
from xenstack.xenapi.errors import XenAPIError


def vm(store: Store, ref: str) -> None:
    """The VM, its VBDs and VIFs, and the VDIs behind them."""
    record = store.view("VM", ref)
    store.set("VM", ref, allowed_operations=vm_rules.allowed(ref, record))
    for each in record["VBDs"]:
        vbd(store, each)
    for each in record["VIFs"]:
        vif(store, each)


def vbd(store: Store, ref: str) -> None:
    """The VBD, and the VDI in it."""
    record = store.view("VBD", ref)
    operations = [op for op in vbd_rules.LISTED if refusal_of_vbd(store, op, ref) is None]
    store.set("VBD", ref, allowed_operations=operations)
    if record["VDI"] != NULL and store.exists("VDI", record["VDI"]):
        vdi(store, record["VDI"])


def vif(store: Store, ref: str) -> None:
    """The VIF."""
    operations = [op for op in vif_rules.LISTED if refusal_of_vif(store, op, ref) is None]
    store.set("VIF", ref, allowed_operations=operations)


def vdi(store: Store, ref: str) -> None:
    """The VDI."""
    operations = [op for op in vdi_rules.LISTED if refusal_of_vdi(store, op, ref) is None]
    store.set("VDI", ref, allowed_operations=operations)


def sr(store: Store, ref: str) -> None:
    """The SR, and every VDI in it."""
    store.set("SR", ref, allowed_operations=sr_rules.allowed(attached(store, ref)))
    for each in store.get("SR", ref, "VDIs"):
        vdi(store, each)


def attached(store: Store, sr_ref: str) -> bool:
    """An SR is attached when one of its PBDs is plugged."""
    return any(store.get("PBD", pbd, "currently_attached") for pbd in store.get("SR", sr_ref, "PBDs"))


def refusal_of_vm(store: Store, operation: str, ref: str) -> XenAPIError | None:
    """Why the VM refuses the operation now."""
    return vm_rules.check(operation, ref, store.view("VM", ref))


def refusal_of_vbd(store: Store, operation: str, ref: str) -> XenAPIError | None:
    """Why the VBD refuses the operation now."""
    record = store.view("VBD", ref)
    owner, disk = record["VM"], record["VDI"]
    medium = store.view("VDI", disk) if disk != NULL and store.exists("VDI", disk) else None
    return vbd_rules.check(
        operation, ref, record, owner, store.view("VM", owner), disk, medium, rivals(store, ref, medium)
    )


def rivals(store: Store, ref: str, medium: Mapping[str, Any] | None) -> Iterable[Mapping[str, Any]]:
    """The other VBDs that have the VDI, or are about to: attached or busy, in VMs that are not suspended."""
    for other in medium["VBDs"] if medium else ():
        record = store.view("VBD", other)
        if other == ref or not (record["currently_attached"] or record["current_operations"]):
            continue
        if store.get("VM", record["VM"], "power_state") != "Suspended":
            yield record


def refusal_of_vif(store: Store, operation: str, ref: str) -> XenAPIError | None:
    """Why the VIF refuses the operation now."""
    record = store.view("VIF", ref)
    return vif_rules.check(operation, ref, record, record["VM"], store.view("VM", record["VM"]))


def refusal_of_vdi(store: Store, operation: str, ref: str) -> XenAPIError | None:
    """Why the VDI refuses the operation now."""
    record = store.view("VDI", ref)
    users = [store.view("VBD", each) for each in record["VBDs"]]
    return vdi_rules.check(operation, ref, record, record["SR"], attached(store, record["SR"]), users)
