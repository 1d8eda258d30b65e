"""VM.suspend and VM.resume: a guest's memory into a VDI of its own, and back.

The image is a raw VDI of type suspend, in the SR that the VM, the host or the pool names. Once memory is written the
guest sleeps and nothing of the suspend is undone; once the guest runs again its image is worthless (its disks have
moved on), so that from there a resume only goes forward.
"""

import os
import uuid as uuids
from dataclasses import dataclass, field
from pathlib import Path

from xenstack.host.operations import allowed, residence, spec, start, stop, translate
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.storage.port import SECTOR, Format
from xenstack.host.tasks.plan import Step, recipe, run
from xenstack.xenapi.errors import VmHasNoSuspendVdi, VmNoSuspendSr

_MARGIN = 64 << 20  # device state and the image's own header, above the guest's memory


@dataclass
class Facts:
    """What a suspend decides. `disks` and `taps` as in stop.Facts; `path` is where storage put the image."""

    vm: str
    uuid: str
    sr: str
    sr_ref: str
    vdi: str
    vdi_ref: str
    size: int
    disks: list[list[str]]
    taps: list[str]
    path: str = ""


def suspend_sr(machine: Machine, vm: str) -> str:
    """The SR for the memory image: VM.suspend_SR, host.suspend_image_sr, pool.suspend_image_SR, pool.default_SR.

    Raises VmNoSuspendSr when none of them is there and attached.
    """
    store = machine.store
    for ref in (
        store.get("VM", vm, "suspend_SR"),
        store.get("host", machine.host_ref, "suspend_image_sr"),
        store.get("pool", machine.pool_ref, "suspend_image_SR"),
        store.get("pool", machine.pool_ref, "default_SR"),
    ):
        if ref != NULL and store.exists("SR", ref) and allowed.attached(store, ref):
            return str(ref)
    raise VmNoSuspendSr(vm)


def _decide(machine: Machine, vm: str) -> Facts:
    store = machine.store
    record = store.view("VM", vm)
    sr = suspend_sr(machine, vm)
    going = stop.decide(machine, vm)
    return Facts(
        vm=vm,
        uuid=record["uuid"],
        sr=store.get("SR", sr, "uuid"),
        sr_ref=sr,
        vdi=str(uuids.uuid4()),
        vdi_ref=f"OpaqueRef:{uuids.uuid4()}",
        size=record["memory_static_max"] + _MARGIN,
        disks=going.disks,
        taps=going.taps,
    )


@recipe("VM.suspend", Facts)
def plan(machine: Machine, facts: Facts) -> tuple[Step[Facts], ...]:
    """The story of a suspend."""
    return (
        Step("create memory image", lambda f: _create(machine, f), lambda f: machine.storage.destroy(f.sr, f.vdi)),
        Step("record memory image", lambda f: _record_image(machine, f), lambda f: _forget_image(machine, f)),
        Step("open memory image", lambda f: _open(machine, f), lambda f: _release(machine, f)),
        Step("write memory", lambda f: _write(machine, f), final=True),
        Step("close memory image", lambda f: _release(machine, f)),
        Step("put devices away", lambda f: stop.put_away(machine, _stopped(f))),
        Step("record", lambda f: residence.suspended(machine.store, f.vm)),
    )


def _create(machine: Machine, facts: Facts) -> None:
    machine.storage.create(facts.sr, facts.vdi, virtual_size=facts.size, format=Format.RAW)


def _record_image(machine: Machine, facts: Facts) -> None:
    store = machine.store
    values = {
        "uuid": facts.vdi,
        "name_label": f"Suspend image of {facts.uuid}",
        "SR": facts.sr_ref,
        "virtual_size": facts.size,
        "type": "suspend",
        "managed": True,
        "location": facts.vdi,
    }
    with store.transaction():
        store.create("VDI", values, ref=facts.vdi_ref)
        store.set("VM", facts.vm, suspend_VDI=facts.vdi_ref)
        allowed.vdi(store, facts.vdi_ref)


def _forget_image(machine: Machine, facts: Facts) -> None:
    with machine.store.transaction():
        if machine.store.exists("VM", facts.vm):
            machine.store.set("VM", facts.vm, suspend_VDI=NULL)
        if machine.store.exists("VDI", facts.vdi_ref):
            machine.store.delete("VDI", facts.vdi_ref)


def _open(machine: Machine, facts: Facts) -> None:
    facts.path = str(machine.storage.activate(facts.sr, facts.vdi, facts.uuid, read_only=False).path)


def _write(machine: Machine, facts: Facts) -> None:
    """Repeatable: when the domain is gone its memory was written.

    The hypervisor writes an image of any length; storage knows a raw VDI by its size in whole sectors, so the file is
    made as long as the VDI (by a hole: readers stop at the image's own end).
    """
    image = Path(facts.path)
    if machine.hypervisor.domain(facts.uuid) is not None:
        machine.hypervisor.suspend(facts.uuid, image)
    if image.is_file():
        whole = -(-image.stat().st_size // SECTOR) * SECTOR
        os.truncate(image, max(facts.size, whole))


def _release(machine: Machine, facts: Facts) -> None:
    machine.storage.deactivate(facts.sr, facts.vdi, facts.uuid)


def _stopped(facts: Facts) -> stop.Facts:
    return stop.Facts(facts.vm, facts.uuid, -1, facts.disks, facts.taps, [])


def suspend(machine: Machine, vm: str) -> None:
    """Put a running VM to sleep. The caller has claimed it."""
    with translate.spoken(machine.store, "VM.suspend", vm):
        run(plan(machine, _decide(machine, vm)), machine.task, machine.journal)


@dataclass
class ResumeFacts(start.Facts):
    """What a resume decides: what a start does, and the memory image: [SR uuid, VDI uuid, VDI ref]."""

    image: list[str] = field(default_factory=list)


@recipe("VM.resume", ResumeFacts)
def resume_plan(machine: Machine, facts: ResumeFacts) -> tuple[Step[ResumeFacts], ...]:
    """The story of a resume."""
    devices: tuple[Step[ResumeFacts], ...] = start.devices(machine, facts)  # type: ignore[assignment]
    live = () if facts.paused else (Step[ResumeFacts]("unpause", lambda f: _unpause(machine, f), final=True),)
    return (
        *devices,
        Step("read memory", lambda f: _read(machine, f), lambda f: start.drop_domain(machine, f)),
        *live,
        Step("record", lambda f: start.record(machine, f), lambda f: _sleep_again(machine, f)),
        Step("drop memory image", lambda f: stop.drop_image(machine, _woken(f)), final=True),
    )


def _read(machine: Machine, facts: ResumeFacts) -> None:
    sr, vdi, _ = facts.image
    opened = machine.storage.activate(sr, vdi, facts.uuid, read_only=True)
    try:
        machine.config.console_logs.mkdir(parents=True, exist_ok=True)
        machine.hypervisor.resume(start.domain(machine, facts), Path(opened.path))
    finally:
        machine.storage.deactivate(sr, vdi, facts.uuid)


def _unpause(machine: Machine, facts: ResumeFacts) -> None:
    """Repeatable: a guest that has died in between is not this plan's matter any more."""
    if machine.hypervisor.domain(facts.uuid) is not None:
        machine.hypervisor.unpause(facts.uuid)


def _sleep_again(machine: Machine, facts: ResumeFacts) -> None:
    with machine.store.transaction():
        machine.store.set("VM", facts.vm, suspend_VDI=facts.image[2])
        residence.suspended(machine.store, facts.vm)


def _woken(facts: ResumeFacts) -> stop.Facts:
    return stop.Facts(facts.vm, facts.uuid, -1, [], [], facts.image)


def resume(machine: Machine, vm: str, *, paused: bool) -> None:
    """Wake a suspended VM. The caller has claimed it. Raises VmHasNoSuspendVdi."""
    image = stop.image(machine, vm)
    if not image:
        raise VmHasNoSuspendVdi(vm)
    with translate.spoken(machine.store, "VM.resume", vm):
        going = start.decide(machine, vm, paused=paused, waking=True)
        old = spec.last_domid(machine.store.view("VM", vm))
        facts = ResumeFacts(**vars(going), image=image)
        run(resume_plan(machine, facts), machine.task, machine.journal)
        if old is not None:
            spec.console_log(machine, old).unlink(missing_ok=True)
