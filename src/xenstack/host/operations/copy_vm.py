"""VM.clone, VM.copy, VM.snapshot and VM.provision's disks: the disks first, then every record in one transaction."""

import uuid as uuids
from dataclasses import dataclass
from typing import Any

from xenstack.host.operations import allowed, disk, residence, translate
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.rules import vif as vif_rules
from xenstack.host.tasks.plan import Step, recipe, run

_FRESH_VM = (
    "uuid", "allowed_operations", "current_operations", "power_state", "domid", "resident_on", "consoles", "VIFs",
    "VBDs", "VUSBs", "VTPMs", "VGPUs", "crash_dumps", "attached_PCIs", "snapshots", "children", "metrics",
    "guest_metrics", "suspend_VDI", "memory_target", "last_booted_record", "is_default_template", "blobs",
    "snapshot_info", "snapshot_metadata", "scheduled_to_be_resident_on", "appliance", "groups", "parent",
)  # fmt: skip
_FRESH_DEVICE = (
    "uuid",
    "allowed_operations",
    "current_operations",
    "currently_attached",
    "device",
    "metrics",
    "VDI",
    "VM",
)


@dataclass
class Facts:
    """A VM that is to be: its reference, name, and the new disks (disk.NewFacts as plain data) by the VBD they come
    from. `snapshot`: it is a snapshot of `source`, not a VM of its own."""

    source: str
    ref: str
    uuid: str
    name: str
    snapshot: bool
    disks: dict[str, dict[str, Any]]


def _decide(machine: Machine, source: str, name: str, *, snapshot: bool, to_sr: str, skip: set[str]) -> Facts:
    store = machine.store
    disks = {}
    for vbd in store.get("VM", source, "VBDs"):
        slot = store.view("VBD", vbd)
        if slot["type"] == "CD" or slot["empty"] or slot["VDI"] in skip or not store.exists("VDI", slot["VDI"]):
            continue
        values = disk.snapshot_fields(store, slot["VDI"]) if snapshot else disk.copied_fields(store, slot["VDI"])
        how = "clone"
        if to_sr != NULL:
            values["SR"], how = to_sr, "copy"
        disks[vbd] = vars(disk.new_facts(store, how, values, slot["VDI"]))
    return Facts(source, f"OpaqueRef:{uuids.uuid4()}", str(uuids.uuid4()), name, snapshot, disks)


@recipe("VM.clone", Facts)
def plan(machine: Machine, facts: Facts) -> tuple[Step[Facts], ...]:
    """The story of a copy."""

    def new_disk(number: int, vbd: str) -> Step[Facts]:
        def make(f: Facts) -> None:
            made = disk.data(machine, disk.NewFacts(**f.disks[vbd]))
            f.disks[vbd]["size"], f.disks[vbd]["used"] = made.virtual_size, made.physical_utilisation

        new = disk.NewFacts(**facts.disks[vbd])
        return Step(f"make disk {number}", make, lambda f: machine.storage.destroy(new.sr, new.vdi))

    return (
        *(new_disk(number, vbd) for number, vbd in enumerate(facts.disks)),
        Step("record", lambda f: _record(machine, f), lambda f: _unrecord(machine, f)),
    )


def _unrecord(machine: Machine, facts: Facts) -> None:
    with machine.store.transaction():
        forget(machine, facts.ref)
        for new in facts.disks.values():
            disk.drop_record(machine.store, new["ref"])


def _record(machine: Machine, facts: Facts) -> None:
    store = machine.store
    with store.transaction():
        source = store.view("VM", facts.source)
        values = {k: v for k, v in source.items() if k not in _FRESH_VM}
        values |= {"uuid": facts.uuid, "name_label": facts.name, "domid": -1}
        values["metrics"] = store.create("VM_metrics", {})
        if facts.snapshot:
            values |= {
                "is_a_snapshot": True,
                "is_a_template": True,
                "snapshot_of": facts.source,
                "snapshot_time": residence.now(),
                "snapshot_info": {
                    "power-state-at-snapshot": source["power_state"],
                    "disk-snapshot-type": "crash_consistent",
                },
            }
        else:
            values |= {"is_a_snapshot": False, "snapshot_of": NULL, "snapshot_time": residence.NEVER}
            values["other_config"] = {**source["other_config"], "mac_seed": str(uuids.uuid4())}
            values["other_config"].pop("default_template", None)
        store.create("VM", values, ref=facts.ref)
        for new in facts.disks.values():
            disk.write_record(machine, disk.NewFacts(**new))
        _record_devices(machine, facts, source)
        allowed.vm(store, facts.ref)


def _record_devices(machine: Machine, facts: Facts, source: Any) -> None:
    store = machine.store
    for vbd in source["VBDs"]:
        slot = store.view("VBD", vbd)
        if vbd not in facts.disks and slot["type"] != "CD":
            continue
        values = {k: v for k, v in slot.items() if k not in _FRESH_DEVICE}
        values["VDI"] = facts.disks[vbd]["ref"] if vbd in facts.disks else slot["VDI"]
        store.create("VBD", {**values, "VM": facts.ref})
    seed = store.get("VM", facts.ref, "other_config").get("mac_seed", facts.uuid)
    for vif in source["VIFs"]:
        record = store.view("VIF", vif)
        values = {k: v for k, v in record.items() if k not in _FRESH_DEVICE} | {"device": record["device"]}
        if not facts.snapshot:
            values["MAC"] = vif_rules.seeded_mac(seed, record["device"])
        store.create("VIF", {**values, "VM": facts.ref})


def copy(machine: Machine, source: str, name: str, *, to_sr: str = NULL) -> str:
    """A VM of its own: its disks are clones, or full copies in `to_sr`. The caller has claimed the source."""
    return _run(machine, _decide(machine, source, name, snapshot=False, to_sr=to_sr, skip=set()), "clone")


def snapshot(machine: Machine, source: str, name: str, *, skip: list[str]) -> str:
    """A snapshot, without the VDIs in `skip`. The caller has claimed the source. Raises VdiInUse for a disk that a
    running guest writes to."""
    return _run(machine, _decide(machine, source, name, snapshot=True, to_sr=NULL, skip=set(skip)), "snapshot")


def _run(machine: Machine, facts: Facts, operation: str) -> str:
    with translate.spoken(machine.store, operation, facts.source):
        run(plan(machine, facts), machine.task, machine.journal)
    for sr in {new["values"]["SR"] for new in facts.disks.values()}:
        disk.refresh_space(machine, sr)
    return facts.ref


def forget(machine: Machine, vm: str) -> None:
    """Delete the VM's record and those of everything that is nothing without it; its disks stay."""
    store = machine.store
    with store.transaction():
        if not store.exists("VM", vm):
            return
        record = store.view("VM", vm)
        vdis = {store.get("VBD", v, "VDI") for v in record["VBDs"]}
        for cls, refs in (("VBD", record["VBDs"]), ("VIF", record["VIFs"]), ("console", record["consoles"])):
            for ref in list(refs):
                store.delete(cls, ref)
        for cls, ref in (("VM_metrics", record["metrics"]), ("VM_guest_metrics", record["guest_metrics"])):
            if ref != NULL and store.exists(cls, ref):
                store.delete(cls, ref)
        for child in list(record["snapshots"]):
            if store.exists("VM", child):
                store.set("VM", child, snapshot_of=NULL)
        store.delete("VM", vm)
        for vdi in vdis:
            if vdi != NULL and store.exists("VDI", vdi):
                allowed.vdi(store, vdi)
