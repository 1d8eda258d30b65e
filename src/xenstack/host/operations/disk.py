"""VDI.create, clone, snapshot, copy, resize, destroy, forget, introduce: a file and its record, both or neither.

The uuid and the reference of a new VDI are chosen first. Data is in storage before the record tells of it, and the
record is gone last, so that no client ever sees a VDI without its data.
"""

import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xenstack.host.database.store import Store
from xenstack.host.operations import allowed, residence, translate
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.storage.port import Format, Vdi
from xenstack.host.tasks.plan import Step, recipe, run
from xenstack.xenapi.errors import HandleInvalid, SrHasNoPbds


@dataclass
class NewFacts:
    """A VDI that is to be. `how`: create, clone, copy or adopt; `source`: [SR uuid, VDI uuid] for clone and copy.
    `values` are the record's fields; `size` and `used` (bytes) are what storage answered."""

    how: str
    sr: str
    vdi: str
    ref: str
    values: dict[str, Any]
    source: list[str] = field(default_factory=list)
    size: int = 0
    used: int = 0


def sr_uuid(store: Store, sr: str) -> str:
    """The uuid of an attached SR. Raises HandleInvalid, SrHasNoPbds."""
    if not store.exists("SR", sr):
        raise HandleInvalid("SR", sr)
    if not allowed.attached(store, sr):
        raise SrHasNoPbds(sr)
    return str(store.get("SR", sr, "uuid"))


def new_facts(store: Store, how: str, values: Mapping[str, Any], source: str = "") -> NewFacts:
    """Choose the new VDI's uuid and reference. `values["SR"]` must be attached."""
    sr = sr_uuid(store, values["SR"])
    vdi = str(uuids.uuid4())
    record = {**values, "uuid": vdi, "location": vdi, "managed": True}
    return NewFacts(how, sr, vdi, f"OpaqueRef:{uuids.uuid4()}", record, _source(store, source))


def _source(store: Store, source: str) -> list[str]:
    if not source:
        return []
    record = store.view("VDI", source)
    return [sr_uuid(store, record["SR"]), record["uuid"]]


def copied_fields(store: Store, source: str) -> dict[str, Any]:
    """What a clone, snapshot or copy takes over from its source's record."""
    record = store.view("VDI", source)
    names = ("name_label", "name_description", "SR", "virtual_size", "type", "sharable", "read_only", "other_config",
             "xenstore_data", "sm_config", "tags", "on_boot", "allow_caching")  # fmt: skip
    return {name: record[name] for name in names}


@recipe("VDI.new", NewFacts)
def plan(machine: Machine, facts: NewFacts) -> tuple[Step[NewFacts], ...]:
    """The story of a new VDI."""
    return (
        Step("make data", lambda f: _make(machine, f), lambda f: machine.storage.destroy(f.sr, f.vdi)),
        Step("record", lambda f: write_record(machine, f), lambda f: drop_record(machine.store, f.ref)),
    )


def _make(machine: Machine, facts: NewFacts) -> None:
    made = data(machine, facts)
    facts.size, facts.used = made.virtual_size, made.physical_utilisation


def data(machine: Machine, facts: NewFacts) -> Vdi:
    """Have storage make the VDI that the facts tell of."""
    storage = machine.storage
    match facts.how:
        case "create":
            layout = Format.RAW if facts.values.get("sm_config", {}).get("type") == "raw" else Format.QCOW2
            size = facts.values["virtual_size"]
            return storage.create(facts.sr, facts.vdi, virtual_size=size, format=layout)
        case "clone":
            return storage.clone(facts.sr, facts.source[1], facts.vdi)
        case _:
            from_sr, source = facts.source
            return storage.copy(from_sr, source, facts.sr, facts.vdi, progress=_cancellable(machine))


def _cancellable(machine: Machine) -> Any:
    def progress(done: float) -> None:
        machine.task.check_cancelled()
        machine.task.progress(done)

    return progress


def write_record(machine: Machine, facts: NewFacts) -> None:
    """The record of a VDI whose data is there."""
    store = machine.store
    with store.transaction():
        sizes = {"virtual_size": facts.size, "physical_utilisation": facts.used}
        store.create("VDI", {**facts.values, **sizes}, ref=facts.ref)
        allowed.vdi(store, facts.ref)


def drop_record(store: Store, ref: str) -> None:
    """No record any more; VBDs that point at it keep a dangling reference, as on xapi."""
    if store.exists("VDI", ref):
        store.delete("VDI", ref)


def make(machine: Machine, facts: NewFacts, operation: str) -> str:
    """Run the plan; returns the new VDI."""
    with translate.spoken(machine.store, operation):
        run(plan(machine, facts), machine.task, machine.journal)
    refresh_space(machine, facts.values["SR"])
    return facts.ref


def snapshot_fields(store: Store, source: str) -> dict[str, Any]:
    """What makes a clone a snapshot."""
    return {
        **copied_fields(store, source),
        "is_a_snapshot": True,
        "snapshot_of": source,
        "snapshot_time": residence.now(),
    }


@dataclass
class GoneFacts:
    """A VDI that is to go: its SR's and its own uuid, its reference."""

    sr: str
    vdi: str
    ref: str


@recipe("VDI.destroy", GoneFacts)
def destroy_plan(machine: Machine, facts: GoneFacts) -> tuple[Step[GoneFacts], ...]:
    """What is deleted does not come back: from the first step on there is only forward."""
    return (
        Step("delete data", lambda f: machine.storage.destroy(f.sr, f.vdi), final=True),
        Step("record", lambda f: _gone(machine, f)),
    )


def _gone(machine: Machine, facts: GoneFacts) -> None:
    store = machine.store
    with store.transaction():
        if not store.exists("VDI", facts.ref):
            return
        record = store.view("VDI", facts.ref)
        for snapshot in record["snapshots"]:
            if store.exists("VDI", snapshot):
                store.set("VDI", snapshot, snapshot_of=NULL)
        for vbd in record["VBDs"]:
            if store.get("VBD", vbd, "type") == "CD":
                store.set("VBD", vbd, VDI=NULL, empty=True)
            else:
                store.delete("VBD", vbd)
        store.delete("VDI", facts.ref)


def destroy(machine: Machine, vdi: str) -> None:
    """Delete a VDI that the caller has claimed, and its VBDs."""
    store = machine.store
    sr = store.get("VDI", vdi, "SR")
    facts = GoneFacts(sr_uuid(store, sr), store.get("VDI", vdi, "uuid"), vdi)
    with translate.spoken(store, "destroy"):
        run(destroy_plan(machine, facts), machine.task, machine.journal)
    refresh_space(machine, sr)


def resize(machine: Machine, vdi: str, size: int) -> None:
    """Grow a VDI that the caller has claimed. One call of the port, which is all or nothing: no plan."""
    store = machine.store
    record = store.view("VDI", vdi)
    sr = sr_uuid(store, record["SR"])
    with translate.spoken(store, "resize"):
        now = machine.storage.resize(sr, record["uuid"], size)
    store.set("VDI", vdi, virtual_size=now.virtual_size, physical_utilisation=now.physical_utilisation)
    refresh_space(machine, record["SR"])


def refresh_space(machine: Machine, sr: str) -> None:
    """Take the SR's figures from storage."""
    store = machine.store
    space = machine.storage.space(store.get("SR", sr, "uuid"))
    store.set(
        "SR",
        sr,
        physical_size=space.physical_size,
        physical_utilisation=space.physical_utilisation,
        virtual_allocation=space.virtual_allocation,
    )
