"""VDI: a virtual disk in an SR."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm import constructor_fields
from xenstack.host.operations import allowed, busy, disk, translate
from xenstack.host.operations.machine import NULL
from xenstack.xenapi.errors import (
    HandleInvalid,
    InvalidValue,
    LocationNotUnique,
    UuidInvalid,
    VdiIncompatibleType,
    VdiTooSmall,
)


@call("VDI.create", replaces_implicit=True)
def create(context: Context, args: dict[str, Any]) -> str:
    values = constructor_fields("VDI", args)
    if not context.store.exists("SR", values["SR"]):
        raise HandleInvalid("SR", values["SR"])
    if values["type"] == "cbt_metadata":
        raise VdiIncompatibleType("", "CBT metadata")
    if values["virtual_size"] <= 0:
        raise InvalidValue("virtual_size", str(values["virtual_size"]))
    return disk.make(context, disk.new_facts(context.store, "create", values), "create")


@call("VDI.destroy", replaces_implicit=True)
def destroy(context: Context, self: str) -> None:
    with busy.claim(context, "VDI", self, "destroy"):
        disk.destroy(context, self)


@call("VDI.clone")
def clone(context: Context, vdi: str, driver_params: dict[str, str]) -> str:
    with busy.claim(context, "VDI", vdi, "clone"):
        values = disk.copied_fields(context.store, vdi)
        return disk.make(context, disk.new_facts(context.store, "clone", values, vdi), "clone")


@call("VDI.snapshot")
def snapshot(context: Context, vdi: str, driver_params: dict[str, str]) -> str:
    with busy.claim(context, "VDI", vdi, "snapshot"):
        values = disk.snapshot_fields(context.store, vdi)
        return disk.make(context, disk.new_facts(context.store, "clone", values, vdi), "snapshot")


@call("VDI.copy")
def copy(context: Context, vdi: str, sr: str, base_vdi: str, into_vdi: str) -> str:
    """A full copy into `sr`. `into_vdi` is refused when it is too small, and else not supported here."""
    store = context.store
    store.view("VDI", vdi)
    if into_vdi not in ("", NULL):
        size = store.get("VDI", vdi, "virtual_size")
        if store.get("VDI", into_vdi, "virtual_size") < size:
            raise VdiTooSmall(into_vdi, str(size))
        raise InvalidValue("into_vdi", "this host copies into new VDIs only")
    if not store.exists("SR", sr):
        raise HandleInvalid("SR", sr)
    with busy.claim(context, "VDI", vdi, "copy"):
        values = disk.copied_fields(store, vdi) | {"SR": sr}
        return disk.make(context, disk.new_facts(store, "copy", values, vdi), "copy")


@call("VDI.resize")
def resize(context: Context, vdi: str, size: int) -> None:
    with busy.claim(context, "VDI", vdi, "resize"):
        disk.resize(context, vdi, size)


@call("VDI.update")
def update(context: Context, vdi: str) -> None:
    """Take the sizes from storage again."""
    store = context.store
    record = store.view("VDI", vdi)
    sr = disk.sr_uuid(store, record["SR"])
    with translate.spoken(store, "update"):
        now = context.storage.stat(sr, record["uuid"])
    store.set("VDI", vdi, virtual_size=now.virtual_size, physical_utilisation=now.physical_utilisation, missing=False)


@call("VDI.forget")
def forget(context: Context, vdi: str) -> None:
    """Drop the record; the data stays in the SR, and a scan finds it again."""
    store = context.store
    with busy.claim(context, "VDI", vdi, "forget"):
        record = store.view("VDI", vdi)
        with translate.spoken(store, "forget"):
            context.storage.forget(store.get("SR", record["SR"], "uuid"), record["uuid"])
        disk.drop_record(store, vdi)


@call("VDI.introduce")
def introduce(
    context: Context,
    uuid: str,
    name_label: str,
    name_description: str,
    SR: str,
    type: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool,
    virtual_size: int,
    physical_utilisation: int,
    metadata_of_pool: str,
    is_a_snapshot: bool,
    snapshot_time: str,
    snapshot_of: str,
) -> str:
    """Take data that lies in the SR under `location` (its uuid here) into the records."""
    store = context.store
    sr = disk.sr_uuid(store, SR)
    name = location or uuid
    if any(store.get("VDI", v, "location") == name for v in store.view("SR", SR)["VDIs"]):
        raise LocationNotUnique(SR, name)
    if store.where("VDI", uuid=name):
        raise UuidInvalid("VDI", name)
    with translate.spoken(store, "introduce"):
        found = context.storage.introduce(sr, name)
    values = {
        "uuid": found.uuid,
        "location": found.uuid,
        "name_label": name_label,
        "name_description": name_description,
        "SR": SR,
        "type": type,
        "sharable": sharable,
        "read_only": read_only,
        "other_config": other_config,
        "xenstore_data": xenstore_data,
        "sm_config": sm_config,
        "managed": True,
        "virtual_size": found.virtual_size,
        "physical_utilisation": found.physical_utilisation,
        "is_a_snapshot": is_a_snapshot,
        "snapshot_of": snapshot_of or NULL,
    }
    with store.transaction():
        ref = store.create("VDI", values)
        allowed.vdi(store, ref)
    return ref


@call("VDI.set_name_label")
def set_name_label(context: Context, self: str, value: str) -> None:
    context.store.set("VDI", self, name_label=value)


@call("VDI.set_name_description")
def set_name_description(context: Context, self: str, value: str) -> None:
    context.store.set("VDI", self, name_description=value)


@call("VDI.set_allow_caching")
def set_allow_caching(context: Context, self: str, value: bool) -> None:
    context.store.set("VDI", self, allow_caching=value)


@call("VDI.get_nbd_info")
def get_nbd_info(context: Context, self: str) -> list[Any]:
    """No network of this host serves NBD: nothing to connect to."""
    context.store.view("VDI", self)
    return []
