"""Make the records true: what the hypervisor has is read, never remembered.

`settle_vm` compares one VM with its domain and changes whichever record differs; it may be called at any time for a
VM that no operation has claimed. News, failed operations and recovery all end here, so that there is one place that
knows what follows when a guest stopped on its own.
"""

import logging

from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import Domain, DomainState, StopReason
from xenstack.host.network.port import tap_name
from xenstack.host.operations import allowed, residence, spec, start, stop
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.rules import vbd as vbd_rules
from xenstack.xenapi.errors import XenAPIError

log = logging.getLogger(__name__)

_RESTART = ("restart", "coredump_and_restart", "rename_restart", "soft_reboot")
_STATES = {DomainState.RUNNING: "Running", DomainState.PAUSED: "Paused"}


def differs(machine: Machine, vm: str) -> bool:
    """Whether `settle_vm` would change anything: most news tell what an operation has already written."""
    store = machine.store
    record = store.view("VM", vm)
    domain = machine.hypervisor.domain(record["uuid"])
    if domain is None:
        return record["power_state"] in ("Running", "Paused")
    if record["power_state"] != _STATES[domain.state] or record["domid"] != domain.domid:
        return True
    return _devices(store, vm) != (
        {d.userdevice for d in domain.disks},
        {v.device for v in domain.vifs},
    )


def _devices(store: Store, vm: str) -> tuple[set[str], set[str]]:
    """The numbers of the disks and VIFs that the records call attached."""
    record = store.view("VM", vm)
    return (
        {
            spec.slot_number(store.get("VBD", v, "userdevice"))
            for v in record["VBDs"]
            if store.get("VBD", v, "currently_attached")
        },
        {store.get("VIF", v, "device") for v in record["VIFs"] if store.get("VIF", v, "currently_attached")},
    )


def settle_vm(machine: Machine, vm: str, reason: StopReason | None = None) -> None:
    """Make one VM's record true. `reason`, when it is known, is why its domain stopped: the VM's actions_after_* say
    whether it starts again."""
    store = machine.store
    record = store.view("VM", vm)
    if record["is_control_domain"] or record["is_a_template"]:
        return
    domain = machine.hypervisor.domain(record["uuid"])
    if domain is not None:
        _alive(machine, vm, domain)
    elif record["power_state"] in ("Running", "Paused"):
        _ended(machine, vm, reason)


def _alive(machine: Machine, vm: str, domain: Domain) -> None:
    store = machine.store
    record = store.view("VM", vm)
    state = _STATES[domain.state]
    if record["power_state"] in ("Running", "Paused") and record["domid"] == domain.domid:
        if record["power_state"] != state:
            log.info("VM %s is %s", record["uuid"], state)
            residence.paused(store, vm, state)
        _settle_devices(machine, vm, domain)
        return
    log.warning("VM %s runs in domain %d, its record said %s", record["uuid"], domain.domid, record["power_state"])
    image = stop.decide(machine, vm)
    vcpus, memory = domain.vcpus, domain.memory_target
    residence.running(
        store,
        vm,
        machine.host_ref,
        domid=domain.domid,
        state=state,
        memory=memory,
        vcpus=vcpus,
        summary=record["last_booted_record"],
    )
    _settle_devices(machine, vm, domain)
    stop.drop_image(machine, image)


def _settle_devices(machine: Machine, vm: str, domain: Domain) -> None:
    """currently_attached as the domain has it; what the guest has let go of is put away."""
    store = machine.store
    record = store.view("VM", vm)
    disks, vifs = {d.userdevice for d in domain.disks}, {v.device for v in domain.vifs}
    for vbd in record["VBDs"]:
        slot = store.view("VBD", vbd)
        there = spec.slot_number(slot["userdevice"]) in disks
        if slot["currently_attached"] and not there and (where := spec.place(store, vbd)) is not None:
            machine.storage.deactivate(where.sr, where.vdi, where.user)
        if slot["currently_attached"] != there:
            device = vbd_rules.device_name(slot["userdevice"]) if there else ""
            store.set("VBD", vbd, currently_attached=there, device=device)
    for vif in record["VIFs"]:
        device = store.get("VIF", vif, "device")
        if store.get("VIF", vif, "currently_attached") and device not in vifs:
            machine.network.unplug(tap_name(domain.domid, device))
        store.set("VIF", vif, currently_attached=device in vifs)
    allowed.vm(store, vm)


def _ended(machine: Machine, vm: str, reason: StopReason | None) -> None:
    store = machine.store
    record = store.view("VM", vm)
    facts = stop.decide(machine, vm)
    log.info("VM %s ended: %s", record["uuid"], reason.value if reason else "unknown reason")
    stop.put_away(machine, facts)
    if record["suspend_VDI"] != NULL and store.exists("VDI", record["suspend_VDI"]):
        residence.suspended(store, vm)
        return
    residence.halted(store, vm)
    actions = {
        StopReason.SHUTDOWN: record["actions_after_shutdown"],
        StopReason.REBOOT: record["actions_after_reboot"],
        StopReason.CRASH: record["actions_after_crash"],
    }
    if reason is not None and actions.get(reason) in _RESTART:
        try:
            start.start(machine, vm, paused=False, anywhere=False)
        except XenAPIError:
            log.exception("VM %s cannot be started again", record["uuid"])


def in_use(machine: Machine, domain: Domain) -> None:
    """Tell storage again which VDIs a domain has open: it forgets its users when the daemon stops."""
    store = machine.store
    found = store.where("VM", uuid=domain.uuid)
    if not found:
        return
    slots = {spec.slot_number(store.get("VBD", v, "userdevice")): v for v in store.get("VM", found[0], "VBDs")}
    for disk in domain.disks:
        vbd = slots.get(disk.userdevice)
        where = spec.place(store, vbd) if vbd and disk.path is not None else None
        if where is not None:
            machine.storage.activate(where.sr, where.vdi, where.user, read_only=where.read_only)
