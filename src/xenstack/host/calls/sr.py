"""SR and PBD: storage repositories and their attachment to this host."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm import constructor_fields
from xenstack.host.operations import allowed, repository
from xenstack.host.rules import sr as rules
from xenstack.xenapi.errors import (
    HandleInvalid,
    HostOffline,
    OperationNotAllowed,
    PbdExists,
    SrHasNoPbds,
    SrUnknownDriver,
    SrUuidExists,
)


@call("SR.create")
def create(
    context: Context,
    host: str,
    device_config: dict[str, str],
    physical_size: int,
    name_label: str,
    name_description: str,
    type: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """`device_config:size_limit` is a limit in bytes on what the SR's files may take."""
    if host != context.host_ref:
        raise HostOffline(host)
    if type != repository.TYPE:
        raise SrUnknownDriver(type)
    values = {
        "name_label": name_label,
        "name_description": name_description,
        "content_type": content_type,
        "shared": shared,
        "sm_config": sm_config,
    }
    return repository.create(context, values, device_config)


@call("SR.introduce")
def introduce(
    context: Context,
    uuid: str,
    name_label: str,
    name_description: str,
    type: str,
    content_type: str,
    shared: bool,
    sm_config: dict[str, str],
) -> str:
    """A record only: a PBD makes it usable."""
    store = context.store
    if type != repository.TYPE:
        raise SrUnknownDriver(type)
    if store.where("SR", uuid=uuid):
        raise SrUuidExists(uuid)
    values = {
        "uuid": uuid,
        "name_label": name_label,
        "name_description": name_description,
        "type": type,
        "content_type": content_type,
        "shared": shared,
        "sm_config": sm_config,
        "physical_size": -1,
        "physical_utilisation": -1,
    }
    with store.transaction():
        sr = store.create("SR", values)
        allowed.sr(store, sr)
    return sr


@call("SR.get_supported_types")
def get_supported_types(context: Context) -> list[str]:
    return [repository.TYPE]


@call("SR.scan")
def scan(context: Context, sr: str) -> None:
    _check_attached(context, sr)
    repository.scan(context, sr)


@call("SR.update")
def update(context: Context, sr: str) -> None:
    _check_attached(context, sr)
    repository.scan(context, sr)


def _check_attached(context: Context, sr: str) -> None:
    if not allowed.attached(context.store, sr):
        raise SrHasNoPbds(sr)


@call("SR.destroy")
def destroy(context: Context, sr: str) -> None:
    store = context.store
    refusal = rules.check_destroy(sr, store.view("SR", sr), allowed.attached(store, sr))
    if refusal is not None:
        raise refusal
    repository.destroy(context, sr)


@call("SR.forget")
def forget(context: Context, sr: str) -> None:
    refusal = rules.check_forget(sr, allowed.attached(context.store, sr))
    if refusal is not None:
        raise refusal
    repository.forget(context, sr)


@call("SR.set_name_label")
def set_name_label(context: Context, sr: str, value: str) -> None:
    context.store.set("SR", sr, name_label=value)


@call("SR.set_name_description")
def set_name_description(context: Context, sr: str, value: str) -> None:
    context.store.set("SR", sr, name_description=value)


@call("SR.set_shared")
def set_shared(context: Context, sr: str, value: bool) -> None:
    context.store.set("SR", sr, shared=value)


@call("PBD.create", replaces_implicit=True)
def create_pbd(context: Context, args: dict[str, Any]) -> str:
    store = context.store
    values = constructor_fields("PBD", args) | {"currently_attached": False}
    for cls, field in (("host", "host"), ("SR", "SR")):
        if not store.exists(cls, values[field]):
            raise HandleInvalid(cls, values[field])
    with store.transaction():
        for other in store.view("SR", values["SR"])["PBDs"]:
            if store.get("PBD", other, "host") == values["host"]:
                raise PbdExists(values["SR"], values["host"], other)
        pbd = store.create("PBD", values)
        allowed.sr(store, values["SR"])
    return pbd


@call("PBD.plug")
def plug(context: Context, self: str) -> None:
    if not context.store.get("PBD", self, "currently_attached"):
        repository.reattach(context, self)


@call("PBD.unplug")
def unplug(context: Context, self: str) -> None:
    if context.store.get("PBD", self, "currently_attached"):
        repository.detach(context, self)


@call("PBD.destroy", replaces_implicit=True)
def destroy_pbd(context: Context, self: str) -> None:
    store = context.store
    with store.transaction():
        record = store.view("PBD", self)
        if record["currently_attached"]:
            raise OperationNotAllowed("PBD is currently attached")
        store.delete("PBD", self)
        if store.exists("SR", record["SR"]):
            allowed.sr(store, record["SR"])
