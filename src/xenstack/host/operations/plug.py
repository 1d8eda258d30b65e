"""VBD.plug, unplug, insert, eject and VIF.plug, unplug: a device of a running VM comes and goes."""

from dataclasses import dataclass

from xenstack.host.hypervisor.port import DiskFormat, VifSpec
from xenstack.host.network.port import tap_name
from xenstack.host.operations import allowed, spec, start, translate
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.rules import vbd as vbd_rules
from xenstack.host.storage.port import Opened
from xenstack.host.tasks.plan import Step, recipe, run


@dataclass
class DiskFacts:
    """One slot: the VBD, the VM's uuid, the slot's number, and its VDI's place."""

    vbd: str
    vm: str
    slot: str
    sr: str
    vdi: str
    user: str
    read_only: bool


def _disk(machine: Machine, vbd: str) -> DiskFacts | None:
    store = machine.store
    record = store.view("VBD", vbd)
    where = spec.place(store, vbd)
    if where is None:
        return None
    vm = store.get("VM", record["VM"], "uuid")
    slot = spec.slot_number(record["userdevice"])
    return DiskFacts(vbd, vm, slot, where.sr, where.vdi, where.user, where.read_only)


@recipe("VBD.plug", DiskFacts)
def plug_plan(machine: Machine, facts: DiskFacts) -> tuple[Step[DiskFacts], ...]:
    """The story of a disk that comes."""
    opened: list[Opened] = []

    def activate(f: DiskFacts) -> None:
        opened.append(machine.storage.activate(f.sr, f.vdi, f.user, read_only=f.read_only))

    return (
        Step("activate VDI", activate, lambda f: machine.storage.deactivate(f.sr, f.vdi, f.user)),
        Step(
            "attach disk",
            lambda f: machine.hypervisor.attach_disk(f.vm, spec.disk(machine.store, f.vbd, opened[-1])),
            lambda f: machine.hypervisor.detach_disk(f.vm, f.slot),
        ),
        Step("record", lambda f: disk_attached(machine, f.vbd), lambda f: _disk_detached(machine, f)),
    )


def disk_attached(machine: Machine, vbd: str) -> None:
    """Tell the clients that the disk is there."""
    store = machine.store
    with store.transaction():
        device = vbd_rules.device_name(store.get("VBD", vbd, "userdevice"))
        store.set("VBD", vbd, currently_attached=True, device=device)
        allowed.vbd(store, vbd)


@recipe("VBD.unplug", DiskFacts)
def unplug_plan(machine: Machine, facts: DiskFacts) -> tuple[Step[DiskFacts], ...]:
    """The story of a disk that goes. Once the guest has let go, forward is the only way."""
    return (
        Step("detach disk", lambda f: machine.hypervisor.detach_disk(f.vm, f.slot), final=True),
        Step("deactivate VDI", lambda f: machine.storage.deactivate(f.sr, f.vdi, f.user)),
        Step("record", lambda f: _disk_detached(machine, f)),
    )


def _disk_detached(machine: Machine, facts: DiskFacts) -> None:
    store = machine.store
    if store.exists("VBD", facts.vbd):
        with store.transaction():
            store.set("VBD", facts.vbd, currently_attached=False, device="")
            allowed.vbd(store, facts.vbd)


def plug_disk(machine: Machine, vbd: str) -> None:
    """Attach the VBD's disk to its running VM. The caller has claimed the VBD."""
    facts = _disk(machine, vbd)
    if facts is not None:
        with translate.spoken(machine.store, "VBD.plug", vbd):
            run(plug_plan(machine, facts), machine.task, machine.journal)


def unplug_disk(machine: Machine, vbd: str) -> None:
    """Take the VBD's disk out of its running VM. Raises DeviceDetachRejected when the guest keeps it."""
    facts = _disk(machine, vbd)
    if facts is not None:
        with translate.spoken(machine.store, "VBD.unplug", vbd):
            run(unplug_plan(machine, facts), machine.task, machine.journal)


@recipe("VBD.insert", DiskFacts)
def insert_plan(machine: Machine, facts: DiskFacts) -> tuple[Step[DiskFacts], ...]:
    """A medium goes into the drive of a running VM; `vdi` is not in the VBD's record yet."""
    opened: list[Opened] = []

    def activate(f: DiskFacts) -> None:
        opened.append(machine.storage.activate(f.sr, f.vdi, f.user, read_only=True))

    def insert(f: DiskFacts) -> None:
        medium = opened[-1]
        machine.hypervisor.insert_cd(f.vm, f.slot, medium.path, DiskFormat(medium.format.value))

    return (
        Step("activate VDI", activate, lambda f: machine.storage.deactivate(f.sr, f.vdi, f.user)),
        Step("insert medium", insert, lambda f: machine.hypervisor.eject_cd(f.vm, f.slot)),
        Step("record", lambda f: _inserted(machine, f), lambda f: _ejected(machine, f)),
    )


def _inserted(machine: Machine, facts: DiskFacts) -> None:
    vdi = machine.store.where("VDI", uuid=facts.vdi)[0]
    set_medium(machine, facts.vbd, vdi)


def _ejected(machine: Machine, facts: DiskFacts) -> None:
    if machine.store.exists("VBD", facts.vbd):
        set_medium(machine, facts.vbd, NULL)


def set_medium(machine: Machine, vbd: str, vdi: str) -> None:
    """Write which medium is in the drive; NULL for none."""
    store = machine.store
    with store.transaction():
        before = store.get("VBD", vbd, "VDI")
        store.set("VBD", vbd, VDI=vdi, empty=vdi == NULL)
        allowed.vbd(store, vbd)
        if before != NULL and store.exists("VDI", before):
            allowed.vdi(store, before)


def insert(machine: Machine, vbd: str, vdi: str) -> None:
    """Put the medium into the drive of a running or paused VM. The caller has claimed the VBD."""
    store = machine.store
    record, medium = store.view("VBD", vbd), store.view("VDI", vdi)
    facts = DiskFacts(
        vbd=vbd,
        vm=store.get("VM", record["VM"], "uuid"),
        slot=spec.slot_number(record["userdevice"]),
        sr=store.get("SR", medium["SR"], "uuid"),
        vdi=medium["uuid"],
        user=record["uuid"],
        read_only=True,
    )
    with translate.spoken(store, "VBD.insert", vbd):
        run(insert_plan(machine, facts), machine.task, machine.journal)


@recipe("VBD.eject", DiskFacts)
def eject_plan(machine: Machine, facts: DiskFacts) -> tuple[Step[DiskFacts], ...]:
    """The medium leaves the drive of a running VM."""
    return (
        Step("eject medium", lambda f: machine.hypervisor.eject_cd(f.vm, f.slot), final=True),
        Step("deactivate VDI", lambda f: machine.storage.deactivate(f.sr, f.vdi, f.user)),
        Step("record", lambda f: _ejected(machine, f)),
    )


def eject(machine: Machine, vbd: str) -> None:
    """Take the medium out of the drive of a running or paused VM. The caller has claimed the VBD."""
    facts = _disk(machine, vbd)
    if facts is not None:
        with translate.spoken(machine.store, "VBD.eject", vbd):
            run(eject_plan(machine, facts), machine.task, machine.journal)


@dataclass
class VifFacts:
    """One interface: the VIF, the VM's uuid and domid, the device number and the tap."""

    vif: str
    vm: str
    domid: int
    device: str
    tap: str


def _vif(machine: Machine, vif: str) -> VifFacts:
    store = machine.store
    record = store.view("VIF", vif)
    vm = store.view("VM", record["VM"])
    return VifFacts(vif, vm["uuid"], vm["domid"], record["device"], tap_name(vm["domid"], record["device"]))


@recipe("VIF.plug", VifFacts)
def plug_vif_plan(machine: Machine, facts: VifFacts) -> tuple[Step[VifFacts], ...]:
    """The story of an interface that comes."""

    def made(f: VifFacts) -> VifSpec:
        return spec.vif(machine.store, f.vif, f.domid)

    return (
        Step(
            "plug tap",
            lambda f: start.plug_port(machine, f.vif, f.domid),
            lambda f: machine.network.unplug(f.tap),
        ),
        Step(
            "attach interface",
            lambda f: machine.hypervisor.attach_vif(f.vm, made(f)),
            lambda f: machine.hypervisor.detach_vif(f.vm, f.device),
        ),
        Step("record", lambda f: _vif_attached(machine, f.vif, True), lambda f: _vif_attached(machine, f.vif, False)),
    )


@recipe("VIF.unplug", VifFacts)
def unplug_vif_plan(machine: Machine, facts: VifFacts) -> tuple[Step[VifFacts], ...]:
    """The story of an interface that goes."""
    return (
        Step("detach interface", lambda f: machine.hypervisor.detach_vif(f.vm, f.device), final=True),
        Step("unplug tap", lambda f: machine.network.unplug(f.tap)),
        Step("record", lambda f: _vif_attached(machine, f.vif, False)),
    )


def _vif_attached(machine: Machine, vif: str, attached: bool) -> None:
    store = machine.store
    if store.exists("VIF", vif):
        with store.transaction():
            store.set("VIF", vif, currently_attached=attached)
            allowed.vif(store, vif)


def plug_vif(machine: Machine, vif: str) -> None:
    """Attach the VIF to its running VM. The caller has claimed it."""
    with translate.spoken(machine.store, "VIF.plug", vif):
        run(plug_vif_plan(machine, _vif(machine, vif)), machine.task, machine.journal)


def unplug_vif(machine: Machine, vif: str) -> None:
    """Take the VIF out of its running VM. Raises DeviceDetachRejected when the guest keeps it."""
    with translate.spoken(machine.store, "VIF.unplug", vif):
        run(unplug_vif_plan(machine, _vif(machine, vif)), machine.task, machine.journal)
