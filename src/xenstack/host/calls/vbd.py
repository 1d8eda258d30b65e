"""VBD: a disk slot of a VM."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm import constructor_fields
from xenstack.host.operations import allowed, busy, plug
from xenstack.host.operations.machine import NULL
from xenstack.host.rules import vbd as rules
from xenstack.xenapi.errors import (
    DeviceAlreadyExists,
    HandleInvalid,
    InvalidDevice,
    OperationNotAllowed,
    VbdCdsMustBeReadonly,
    VbdNotRemovableMedia,
    VdiReadonly,
    VmBadPowerState,
)


@call("VBD.create", replaces_implicit=True)
def create(context: Context, args: dict[str, Any]) -> str:
    """The checks and their order are xapi's. `userdevice` may be a number, a name (xvdb) or "autodetect"."""
    store = context.store
    values = constructor_fields("VBD", args) | {"currently_attached": False, "device": ""}
    with store.transaction():
        vm = values["VM"]
        owner = store.view("VM", vm)
        if values["type"] == "CD" and values["mode"] != "RO":
            raise VbdCdsMustBeReadonly()
        values["userdevice"] = _slot(context, owner, values["userdevice"])
        _check_medium(context, values)
        if values["empty"]:
            values["VDI"] = NULL
        vbd = store.create("VBD", values)
        allowed.vbd(store, vbd)
    return vbd


def _slot(context: Context, owner: Any, wanted: str) -> str:
    used = {rules.position(context.store.get("VBD", v, "userdevice")) for v in owner["VBDs"]}
    if wanted == "autodetect":
        return rules.free_devices(str(n) for n in used if n is not None)[0]
    number = rules.position(wanted)
    if number is None:
        raise InvalidDevice(wanted)
    if number in used:
        raise DeviceAlreadyExists(wanted)
    return wanted


def _check_medium(context: Context, values: dict[str, Any]) -> None:
    if values["empty"]:
        if values["type"] != "CD":
            raise VbdNotRemovableMedia("in constructor")
        return
    vdi = values["VDI"]
    if not context.store.exists("VDI", vdi):
        raise HandleInvalid("VDI", vdi)
    if values["mode"] == "RW" and context.store.get("VDI", vdi, "read_only"):
        raise VdiReadonly(vdi)


@call("VBD.destroy", replaces_implicit=True)
def destroy(context: Context, self: str) -> None:
    store = context.store
    with store.transaction():
        record = store.view("VBD", self)
        if record["currently_attached"]:
            owner = store.get("VM", record["VM"], "uuid")
            raise OperationNotAllowed(f"VBD '{record['uuid']}' still attached to '{owner}'")
        if record["current_operations"]:
            busy.check(store, "VBD", self, "attach")
        store.delete("VBD", self)
        if record["VDI"] != NULL and store.exists("VDI", record["VDI"]):
            allowed.vdi(store, record["VDI"])


@call("VBD.plug")
def plug_(context: Context, self: str) -> None:
    with busy.claim(context, "VBD", self, "plug"):
        plug.plug_disk(context, self)


@call("VBD.unplug")
def unplug(context: Context, self: str) -> None:
    with busy.claim(context, "VBD", self, "unplug"):
        plug.unplug_disk(context, self)


@call("VBD.unplug_force")
def unplug_force(context: Context, self: str) -> None:
    """The guest is asked as politely as by unplug: a disk cannot be torn from it."""
    with busy.claim(context, "VBD", self, "unplug_force"):
        plug.unplug_disk(context, self)


@call("VBD.insert")
def insert(context: Context, vbd: str, vdi: str) -> None:
    store = context.store
    with busy.claim(context, "VBD", vbd, "insert"):
        store.view("VDI", vdi)
        if store.get("VM", store.get("VBD", vbd, "VM"), "power_state") in ("Running", "Paused"):
            plug.insert(context, vbd, vdi)
        else:
            plug.set_medium(context, vbd, vdi)


@call("VBD.eject")
def eject(context: Context, vbd: str) -> None:
    store = context.store
    with busy.claim(context, "VBD", vbd, "eject"):
        if store.get("VM", store.get("VBD", vbd, "VM"), "power_state") in ("Running", "Paused"):
            plug.eject(context, vbd)
        else:
            plug.set_medium(context, vbd, NULL)


@call("VBD.assert_attachable")
def assert_attachable(context: Context, self: str) -> None:
    busy.check(context.store, "VBD", self, "attach")


@call("VBD.set_mode")
def set_mode(context: Context, self: str, value: str) -> None:
    store = context.store
    with store.transaction():
        vm = store.get("VBD", self, "VM")
        state = store.get("VM", vm, "power_state")
        if state != "Halted":
            raise VmBadPowerState(vm, "halted", state.lower())
        store.set("VBD", self, mode=value)
        allowed.vbd(store, self)
