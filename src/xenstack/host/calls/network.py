"""network: a bridge of the virtual switch under a XenAPI name. `managed` ones are made here, the others by Neutron."""

from typing import Any

from xenstack.host.calls.call import Context, call
from xenstack.host.calls.vm import constructor_fields
from xenstack.host.operations import translate
from xenstack.xenapi.errors import InvalidValue, NetworkContainsPif, NetworkContainsVif

_NEVER_TWICE = "xapi"


@call("network.create", replaces_implicit=True)
def create(context: Context, args: dict[str, Any]) -> str:
    """Without a bridge's name a free xapiN is chosen. A managed network's bridge is there when the call returns."""
    store = context.store
    values = constructor_fields("network", args)
    values.setdefault("managed", True)
    if not values.get("MTU"):
        values["MTU"] = 1500
    if values["MTU"] < 0:
        raise InvalidValue("MTU", str(values["MTU"]))
    if not values.get("bridge"):
        used = {store.get("network", n, "bridge") for n in store.refs("network")}
        values["bridge"] = next(name for n in range(10_000) if (name := f"{_NEVER_TWICE}{n}") not in used)
    if values["managed"]:
        with translate.spoken(store, "network.create"):
            context.network.create_bridge(values["bridge"])
    return store.create("network", values)


@call("network.destroy", replaces_implicit=True)
def destroy(context: Context, self: str) -> None:
    """Refused while a PIF or an attached VIF is in it; detached VIFs keep a dangling reference, as on xapi."""
    store = context.store
    record = store.view("network", self)
    if record["PIFs"]:
        raise NetworkContainsPif(record["PIFs"][0])
    attached = [v for v in record["VIFs"] if store.get("VIF", v, "currently_attached")]
    if attached:
        raise NetworkContainsVif(attached[0])
    if record["managed"]:
        with translate.spoken(store, "network.destroy"):
            context.network.destroy_bridge(record["bridge"])
    store.delete("network", self)


@call("network.set_default_locking_mode")
def set_default_locking_mode(context: Context, network: str, value: str) -> None:
    context.store.set("network", network, default_locking_mode=value)
