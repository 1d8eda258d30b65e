"""VM.hard_shutdown and VM.clean_shutdown, and what is put away whenever a domain is gone, whoever ended it."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from xenstack.host.hypervisor.port import DomainMissing
from xenstack.host.network.port import NetworkError, tap_name
from xenstack.host.operations import residence, spec, translate
from xenstack.host.operations.machine import NULL, Machine
from xenstack.host.storage.port import StorageError
from xenstack.host.tasks.plan import Step, recipe, run
from xenstack.xenapi.errors import VmShutdownTimeout

log = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S = 1200.0  # what a guest gets to shut down on request, as on xapi
AGAIN_S = 15.0  # how often the button is pressed: a guest that still boots does not hear the first time
_POLL_S = 0.5  # how often a waiting request looks whether its task was cancelled


@dataclass
class Facts:
    """What is put away. `disks`: [SR uuid, VDI uuid, user]; `image`, of the memory: [SR uuid, VDI uuid, VDI ref]."""

    vm: str
    uuid: str
    domid: int
    disks: list[list[str]]
    taps: list[str]
    image: list[str]


def decide(machine: Machine, vm: str) -> Facts:
    """Read what the VM holds."""
    store = machine.store
    record = store.view("VM", vm)
    taps = (
        [tap_name(record["domid"], store.get("VIF", v, "device")) for v in record["VIFs"]]
        if record["domid"] > 0
        else []
    )
    return Facts(vm, record["uuid"], record["domid"], disks(machine, vm), taps, image(machine, vm))


def disks(machine: Machine, vm: str) -> list[list[str]]:
    """The VDIs in the VM's slots: [SR uuid, VDI uuid, user]. A slot whose VDI is gone holds nothing."""
    found = []
    for vbd in machine.store.get("VM", vm, "VBDs"):
        vdi = machine.store.get("VBD", vbd, "VDI")
        if vdi != NULL and machine.store.exists("VDI", vdi) and (where := spec.place(machine.store, vbd)) is not None:
            found.append([where.sr, where.vdi, where.user])
    return found


def image(machine: Machine, vm: str) -> list[str]:
    """The VM's memory image: [SR uuid, VDI uuid, VDI ref], or nothing."""
    store = machine.store
    ref = store.get("VM", vm, "suspend_VDI")
    if ref == NULL or not store.exists("VDI", ref):
        return []
    return [store.get("SR", store.get("VDI", ref, "SR"), "uuid"), store.get("VDI", ref, "uuid"), ref]


def put_away(machine: Machine, facts: Facts) -> None:
    """Let go of a gone domain's taps and disks. What fails is logged and left to the next recovery: the VM is
    halted all the same, and its owner must not be told otherwise."""
    for tap in facts.taps:
        _try(f"unplug {tap}", partial(machine.network.unplug, tap))
    for sr, vdi, user in facts.disks:
        _try(f"deactivate {vdi}", partial(machine.storage.deactivate, sr, vdi, user))


def drop_image(machine: Machine, facts: Facts) -> None:
    """Delete the memory image, file and record."""
    if facts.image:
        sr, vdi, ref = facts.image
        _try(f"deactivate {vdi}", lambda: machine.storage.deactivate(sr, vdi, facts.uuid))
        _try(f"delete memory image {vdi}", lambda: machine.storage.destroy(sr, vdi))
        if machine.store.exists("VDI", ref):
            machine.store.delete("VDI", ref)


def _try(what: str, do: Callable[[], None]) -> None:
    try:
        do()
    except (NetworkError, StorageError):
        log.exception("cannot %s", what)


@recipe("VM.hard_shutdown", Facts)
def plan(machine: Machine, facts: Facts) -> tuple[Step[Facts], ...]:
    """A domain once destroyed does not come back: from the first step on there is only forward."""
    return (
        Step("destroy domain", lambda f: _destroy(machine, f), final=True),
        Step("put devices away", lambda f: put_away(machine, f)),
        Step("drop memory image", lambda f: drop_image(machine, f)),
        Step("record", lambda f: _record(machine, f)),
    )


def _destroy(machine: Machine, facts: Facts) -> None:
    """Whatever domain the VM has, when its record knows none: power_state_reset is for such VMs."""
    domain = machine.hypervisor.domain(facts.uuid)
    if domain is not None and facts.domid in (-1, domain.domid):
        machine.hypervisor.destroy(facts.uuid)


def _record(machine: Machine, facts: Facts) -> None:
    if machine.store.exists("VM", facts.vm):
        residence.halted(machine.store, facts.vm)


def stop(machine: Machine, vm: str) -> None:
    """Stop a VM at once: running, paused or suspended. The caller has claimed it."""
    with translate.spoken(machine.store, "VM.hard_shutdown", vm):
        run(plan(machine, decide(machine, vm)), machine.task, machine.journal)


def stop_politely(machine: Machine, vm: str, *, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
    """Press the power button and wait until the guest has gone.

    Raises VmShutdownTimeout when the guest does not follow; the VM runs on then, as it does after a cancel.
    """
    uuid = machine.store.get("VM", vm, "uuid")
    with translate.spoken(machine.store, "VM.clean_shutdown", vm):
        shut_down(machine, vm, uuid, timeout_s)
        run(plan(machine, decide(machine, vm)), machine.task, machine.journal)


def shut_down(machine: Machine, vm: str, uuid: str, timeout_s: float) -> None:
    """Press the power button until the domain is gone. Raises VmShutdownTimeout, TaskCancelled."""
    begun = time.monotonic()
    pressed = -AGAIN_S
    while True:
        machine.task.check_cancelled()
        waited = time.monotonic() - begun
        if waited >= timeout_s:
            raise VmShutdownTimeout(vm, str(timeout_s))
        if waited >= pressed + AGAIN_S:
            pressed = waited
            with suppress(DomainMissing):
                machine.hypervisor.request_shutdown(uuid)
        if machine.hypervisor.await_gone(uuid, _POLL_S):
            return
