"""What the records say about a VM that runs here, rests, or sleeps: the only place that writes these fields together.

power_state, domid, resident_on, consoles, VM_metrics, and currently_attached of the devices change in one transaction,
so that clients hear of a start or a stop in one batch of events.
"""

import time

from xenstack.host.database.store import Store
from xenstack.host.operations import allowed
from xenstack.host.operations.machine import NULL
from xenstack.host.rules import vbd as vbd_rules

NEVER = "19700101T00:00:00Z"


def now() -> str:
    """This moment as the wire writes it."""
    return time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime())


def running(store: Store, vm: str, host: str, *, domid: int, state: str, memory: int, vcpus: int, summary: str) -> None:
    """The VM has a domain. `state` is Running or Paused; `memory` is its target in bytes; `summary` see spec.py."""
    with store.transaction():
        record = store.view("VM", vm)
        store.set(
            "VM",
            vm,
            power_state=state,
            domid=domid,
            resident_on=host,
            scheduled_to_be_resident_on=NULL,
            memory_target=memory,
            suspend_VDI=NULL,
            last_booted_record=summary,
        )
        for vbd in record["VBDs"]:
            slot = store.view("VBD", vbd)
            if not slot["empty"] or slot["type"] == "CD":
                store.set("VBD", vbd, currently_attached=True, device=vbd_rules.device_name(slot["userdevice"]))
        for vif in record["VIFs"]:
            store.set("VIF", vif, currently_attached=True)
        if not record["consoles"]:
            _console(store, vm, host)
        _measured(store, record["metrics"], vcpus=vcpus, memory=memory)
        allowed.vm(store, vm)


def paused(store: Store, vm: str, state: str) -> None:
    """The domain's CPUs were stopped or let go: `state` is Paused or Running."""
    with store.transaction():
        store.set("VM", vm, power_state=state)
        allowed.vm(store, vm)


def halted(store: Store, vm: str) -> None:
    """The VM has no domain and no memory image."""
    with store.transaction():
        _gone(store, vm)
        store.set("VM", vm, power_state="Halted", suspend_VDI=NULL)
        for vbd in store.get("VM", vm, "VBDs"):
            store.set("VBD", vbd, currently_attached=False, device="")
        for vif in store.get("VM", vm, "VIFs"):
            store.set("VIF", vif, currently_attached=False)
        allowed.vm(store, vm)


def suspended(store: Store, vm: str) -> None:
    """The VM has no domain but a memory image; its devices count as attached, as on xapi."""
    with store.transaction():
        _gone(store, vm)
        store.set("VM", vm, power_state="Suspended")
        allowed.vm(store, vm)


def _gone(store: Store, vm: str) -> None:
    record = store.view("VM", vm)
    for console in record["consoles"]:
        store.delete("console", console)
    if record["guest_metrics"] != NULL and store.exists("VM_guest_metrics", record["guest_metrics"]):
        store.delete("VM_guest_metrics", record["guest_metrics"])
    store.set("VM", vm, domid=-1, resident_on=NULL, memory_target=0, guest_metrics=NULL)
    _measured(store, record["metrics"], vcpus=0, memory=0)


def _console(store: Store, vm: str, host: str) -> None:
    ref = store.create("console", {"protocol": "rfb", "VM": vm})
    uuid = store.get("console", ref, "uuid")
    store.set("console", ref, location=f"https://{store.get('host', host, 'address')}/console?uuid={uuid}")


def _measured(store: Store, metrics: str, *, vcpus: int, memory: int) -> None:
    if metrics == NULL or not store.exists("VM_metrics", metrics):
        return
    started = {"start_time": now()} if vcpus else {}
    store.set(
        "VM_metrics",
        metrics,
        VCPUs_number=vcpus,
        memory_actual=memory,
        hvm=bool(vcpus),
        current_domain_type="hvm" if vcpus else "unspecified",
        last_updated=now(),
        **started,
    )
