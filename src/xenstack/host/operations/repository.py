"""SRs: made, attached, scanned, detached, deleted. One kind exists here: "file", a folder of images on the host."""

import uuid as uuids
from dataclasses import dataclass, field
from typing import Any

from xenstack.host.operations import allowed, disk, translate
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.tasks.plan import Step, recipe, run

TYPE = "file"


@dataclass
class Facts:
    """An SR that is to be."""

    sr: str
    ref: str
    pbd: str
    host: str
    values: dict[str, Any]
    device_config: dict[str, str] = field(default_factory=dict)


@recipe("SR.create", Facts)
def plan(machine: Machine, facts: Facts) -> tuple[Step[Facts], ...]:
    """The story of a new SR."""
    return (
        Step("make SR", lambda f: machine.storage.create_sr(f.sr), lambda f: machine.storage.destroy_sr(f.sr)),
        Step("attach SR", lambda f: attach(machine, f), lambda f: machine.storage.detach_sr(f.sr)),
        Step("record", lambda f: _record(machine, f), lambda f: _forget(machine, f)),
    )


def attach(machine: Machine, facts: Facts) -> None:
    """Make the SR usable, within the limit its device_config names."""
    machine.storage.attach_sr(facts.sr, size_limit=size_limit(facts.device_config))


def size_limit(device_config: dict[str, str]) -> int | None:
    """PBD.device_config:size_limit in bytes; None when there is no limit."""
    text = device_config.get("size_limit", "")
    return int(text) if text.isascii() and text.isdigit() and int(text) > 0 else None


def _record(machine: Machine, facts: Facts) -> None:
    store = machine.store
    with store.transaction():
        store.create("SR", {**facts.values, "uuid": facts.sr, "type": TYPE}, ref=facts.ref)
        pbd = {
            "host": facts.host,
            "SR": facts.ref,
            "device_config": facts.device_config,
            "currently_attached": True,
        }
        store.create("PBD", pbd, ref=facts.pbd)
        allowed.sr(store, facts.ref)
        disk.refresh_space(machine, facts.ref)


def _forget(machine: Machine, facts: Facts) -> None:
    for cls, ref in (("PBD", facts.pbd), ("SR", facts.ref)):
        if machine.store.exists(cls, ref):
            machine.store.delete(cls, ref)


def create(machine: Machine, values: dict[str, Any], device_config: dict[str, str]) -> str:
    """Make and attach an SR; returns its reference."""
    facts = Facts(
        str(uuids.uuid4()),
        f"OpaqueRef:{uuids.uuid4()}",
        f"OpaqueRef:{uuids.uuid4()}",
        machine.host_ref,
        values,
        device_config,
    )
    with translate.spoken(machine.store, "SR.create"):
        run(plan(machine, facts), machine.task, machine.journal)
    return facts.ref


def create_first(machine: Machine, limit: int) -> str:
    """The SR that every new host has, and that the pool uses unless told otherwise. `limit` in bytes, 0 for none."""
    config = {"size_limit": str(limit)} if limit else {}
    values = {"name_label": "Local storage", "content_type": "user", "physical_size": 0, "other_config": {}}
    sr = create(machine, values, config)
    with machine.store.transaction():
        machine.store.set("pool", machine.pool_ref, default_SR=sr, suspend_image_SR=sr, crash_dump_SR=sr)
        machine.store.set("host", machine.host_ref, suspend_image_sr=sr, crash_dump_sr=sr)
    return sr


def scan(machine: Machine, sr: str) -> None:
    """Compare the SR with its records: take in what is new there, mark what is missing, read every size again."""
    store = machine.store
    uuid = disk.sr_uuid(store, sr)
    known = {store.get("VDI", v, "uuid"): v for v in store.view("SR", sr)["VDIs"]}
    with translate.spoken(store, "SR.scan"):
        found = machine.storage.scan(uuid, frozenset(known))
    with store.transaction():
        for gone in found.missing:
            store.set("VDI", known[gone], missing=True)
        for vdi in found.vdis:
            sizes = {"virtual_size": vdi.virtual_size, "physical_utilisation": vdi.physical_utilisation}
            if vdi.uuid in known:
                store.set("VDI", known[vdi.uuid], missing=False, **sizes)
            elif not store.where("VDI", uuid=vdi.uuid):
                new = {"uuid": vdi.uuid, "location": vdi.uuid, "SR": sr, "type": "user", "managed": True, **sizes}
                store.create("VDI", new)
        allowed.sr(store, sr)
    disk.refresh_space(machine, sr)


def detach(machine: Machine, pbd: str) -> None:
    """PBD.unplug. Raises SrDeviceInUse while a guest uses one of its VDIs."""
    store = machine.store
    sr = store.get("PBD", pbd, "SR")
    with translate.spoken(store, "PBD.unplug"):
        machine.storage.detach_sr(store.get("SR", sr, "uuid"))
    with store.transaction():
        store.set("PBD", pbd, currently_attached=False)
        allowed.sr(store, sr)


def reattach(machine: Machine, pbd: str) -> None:
    """PBD.plug."""
    store = machine.store
    record = store.view("PBD", pbd)
    with translate.spoken(store, "PBD.plug"):
        machine.storage.attach_sr(
            store.get("SR", record["SR"], "uuid"), size_limit=size_limit(dict(record["device_config"]))
        )
    with store.transaction():
        store.set("PBD", pbd, currently_attached=True)
        allowed.sr(store, record["SR"])
    scan(machine, record["SR"])


def forget(machine: Machine, sr: str) -> None:
    """Drop the records of a detached SR; its files stay."""
    store = machine.store
    with store.transaction():
        record = store.view("SR", sr)
        for cls, refs in (("VDI", record["VDIs"]), ("PBD", record["PBDs"])):
            for ref in refs:
                store.delete(cls, ref)
        store.delete("SR", sr)
        for cls, field_name in (("pool", "default_SR"), ("pool", "suspend_image_SR"), ("pool", "crash_dump_SR"),
                                ("host", "suspend_image_sr"), ("host", "crash_dump_sr")):  # fmt: skip
            for ref in store.refs(cls):
                if store.get(cls, ref, field_name) == sr:
                    store.set(cls, ref, **{field_name: NULL})


def destroy(machine: Machine, sr: str) -> None:
    """Delete a detached SR without VDIs, and its records."""
    with translate.spoken(machine.store, "SR.destroy"):
        machine.storage.destroy_sr(machine.store.get("SR", sr, "uuid"))
    forget(machine, sr)
