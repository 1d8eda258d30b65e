"""VM.start: disks, switch ports, a paused domain, life, records; all of it or nothing."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from xenstack.host.hypervisor.port import DomainSpec
from xenstack.host.network.port import RateLimitUnsupported, tap_name
from xenstack.host.operations import allowed, residence, spec, translate
from xenstack.host.operations.machine import Machine
from xenstack.host.storage.port import Format, Opened
from xenstack.host.tasks.plan import Plan, Step, recipe, run
from xenstack.xenapi.errors import HostNotEnoughFreeMemory, NoHostsAvailable

log = logging.getLogger(__name__)


@dataclass
class Facts:
    """Everything VM.start decides; the journal keeps it.

    `disks`: per VBD with a VDI: [VBD ref, SR uuid, VDI uuid, user, "ro" or "rw", userdevice]. `drives`: the VBDs of
    empty CD drives. `vifs`: per VIF: [VIF ref, tap, device].
    `opened`: what storage answered, per VBD ref: [path, format].
    """

    vm: str
    uuid: str
    domid: int
    paused: bool
    disks: list[list[str]]
    drives: list[str]
    vifs: list[list[str]]
    opened: dict[str, list[str]] = field(default_factory=dict)


def decide(machine: Machine, vm: str, *, paused: bool, waking: bool = False) -> Facts:
    """Choose the domid, and read what is to be attached; a VM that wakes gets the devices it went to sleep with.

    Raises VdiInUse, VdiReadonly (sharing), HandleInvalid (a VDI or network that is gone).
    """
    store = machine.store
    record = store.view("VM", vm)
    domid = machine.journal.next_number("domid")
    disks, drives = [], []
    for vbd in record["VBDs"]:
        if waking and not store.get("VBD", vbd, "currently_attached"):
            continue
        where = spec.place(store, vbd)
        if where is not None:
            if (refusal := allowed.refusal_of_vbd(store, "attach", vbd)) is not None:
                raise refusal
            mode = "ro" if where.read_only else "rw"
            disks.append([vbd, where.sr, where.vdi, where.user, mode, store.get("VBD", vbd, "userdevice")])
        elif store.get("VBD", vbd, "type") == "CD":
            drives.append(vbd)
    vifs = [
        [vif, tap_name(domid, store.get("VIF", vif, "device")), store.get("VIF", vif, "device")]
        for vif in record["VIFs"]
        if not waking or store.get("VIF", vif, "currently_attached")
    ]
    return Facts(vm, record["uuid"], domid, paused, disks, drives, vifs)


def devices(machine: Machine, facts: Facts) -> tuple[Step[Facts], ...]:
    """The steps that make a domain's outside ready: shared with VM.resume."""

    def activate(f: Facts, vbd: str, sr: str, vdi: str, user: str, mode: str) -> None:
        opened = machine.storage.activate(sr, vdi, user, read_only=mode == "ro")
        f.opened[vbd] = [str(opened.path), opened.format.value]

    def attach(disk: list[str]) -> Step[Facts]:
        vbd, sr, vdi, user, mode, slot = disk
        return Step(
            f"activate disk {slot}",
            lambda f: activate(f, vbd, sr, vdi, user, mode),
            lambda f: machine.storage.deactivate(sr, vdi, user),
        )

    def plug(vif: str, tap: str, device: str) -> Step[Facts]:
        return Step(
            f"plug VIF {device}", lambda f: plug_port(machine, vif, f.domid), lambda f: machine.network.unplug(tap)
        )

    return (*(attach(disk) for disk in facts.disks), *(plug(*vif) for vif in facts.vifs))


def plug_port(machine: Machine, vif: str, domid: int) -> None:
    """Make the VIF's tap and its port in the switch, limited as the VIF says."""
    port = spec.port(machine.store, vif, domid)
    machine.network.plug(port)
    limit = spec.rate_limit(machine.store, vif)
    if limit is not None:
        try:
            machine.network.set_rate_limit(port.tap, limit)
        except RateLimitUnsupported as why:
            # the guest is worth more than its limit: xapi, too, starts it
            log.warning("VIF %s runs without its rate limit: %s", port.vif_uuid, why.reason)


def opened(facts: Facts) -> dict[str, Opened]:
    """What storage opened, by VBD."""
    modes = {disk[0]: disk[4] for disk in facts.disks}
    return {
        vbd: Opened(path=Path(path), format=Format(layout), read_only=modes[vbd] == "ro")
        for vbd, (path, layout) in facts.opened.items()
    }


def domain(machine: Machine, facts: Facts) -> DomainSpec:
    """The domain these facts make."""
    return spec.domain(
        machine,
        facts.vm,
        domid=facts.domid,
        opened=opened(facts),
        drives=facts.drives,
        vifs=[vif[0] for vif in facts.vifs],
    )


def record(machine: Machine, facts: Facts) -> None:
    """Tell the clients."""
    made = domain(machine, facts)
    residence.running(
        machine.store,
        facts.vm,
        machine.host_ref,
        domid=facts.domid,
        state="Paused" if facts.paused else "Running",
        memory=made.memory_target,
        vcpus=made.vcpus,
        summary=spec.summary(made),
    )


def destroy_domain(machine: Machine, uuid: str, domid: int) -> None:
    """Destroy this very domain; a later one of the same VM is left alone."""
    domain = machine.hypervisor.domain(uuid)
    if domain is not None and domain.domid == domid:
        machine.hypervisor.destroy(uuid)


def _create(machine: Machine, facts: Facts) -> None:
    machine.config.console_logs.mkdir(parents=True, exist_ok=True)
    machine.hypervisor.create_paused(domain(machine, facts))


def drop_domain(machine: Machine, facts: Facts) -> None:
    """The way back from a domain that was made: it goes, and its console log."""
    destroy_domain(machine, facts.uuid, facts.domid)
    spec.console_log(machine, facts.domid).unlink(missing_ok=True)


def _forget(machine: Machine, facts: Facts) -> None:
    if machine.store.exists("VM", facts.vm):
        residence.halted(machine.store, facts.vm)


@recipe("VM.start", Facts)
def plan(machine: Machine, facts: Facts) -> tuple[Step[Facts], ...]:
    """The story of a start."""
    live = () if facts.paused else (Step[Facts]("unpause", lambda f: machine.hypervisor.unpause(f.uuid)),)
    return (
        *devices(machine, facts),
        Step("create domain", lambda f: _create(machine, f), lambda f: drop_domain(machine, f)),
        *live,
        Step("record", lambda f: record(machine, f), lambda f: _forget(machine, f)),
    )


def start(machine: Machine, vm: str, *, paused: bool, anywhere: bool) -> None:
    """Start a halted VM that the caller has claimed.

    `anywhere`: the caller named no host, so that lack of room is NO_HOSTS_AVAILABLE.
    """
    try:
        with translate.spoken(machine.store, "VM.start", vm):
            old = spec.last_domid(machine.store.view("VM", vm))
            run(_plan(machine, vm, paused=paused), machine.task, machine.journal)
            if old is not None:
                spec.console_log(machine, old).unlink(missing_ok=True)
    except HostNotEnoughFreeMemory as why:
        if anywhere:
            raise NoHostsAvailable() from why
        raise


def _plan(machine: Machine, vm: str, *, paused: bool) -> Plan[Facts]:
    return plan(machine, decide(machine, vm, paused=paused))


def check_room(machine: Machine, vm: str) -> None:
    """Raise HostNotEnoughFreeMemory when the machine has less memory than the VM needs at once."""
    record = machine.store.view("VM", vm)
    facts = machine.hypervisor.facts()
    needed = record["memory_static_max"]
    if needed > facts.memory_free:
        raise HostNotEnoughFreeMemory(str(needed), str(facts.memory_free))
