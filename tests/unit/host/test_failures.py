"""Every long operation, broken after each of its steps: by an error, and by the death of the daemon.

Before its point of no return an operation undoes itself: afterwards the world is what it was. Behind it the operation
is finished: by the caller's own thread after an error, by recovery after a death. Both are told by `snapshot`, which
holds every record, domain, tap, disk, disk user, log file and journal entry there is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.kit.machine import MIB, Machine

from xenstack.host.operations import truth
from xenstack.host.tasks import plan as engine
from xenstack.host.tasks.journal import Journal
from xenstack.host.tasks.task import Task
from xenstack.xenapi.errors import TaskCancelled


class Injected(Exception):
    """The failure that a test injects."""


@dataclass(frozen=True)
class Operation:
    """A plan, how a test gets there, and what is true when it has been finished."""

    plan: str
    steps: tuple[str, ...]
    prepare: Callable[[Machine], str]
    act: Callable[[Machine, str], Any]
    done: Callable[[Machine, str], bool]
    final: str = ""

    def undone(self, step: str) -> bool:
        """Whether a break after this step leads back."""
        return not self.final or self.steps.index(step) < self.steps.index(self.final)


def halted(m: Machine) -> str:
    return m.vm(disks=2, vifs=2, drive=True)


def running(m: Machine) -> str:
    vm = halted(m)
    m.call("VM.start", vm, False, False)
    return vm


def suspended(m: Machine) -> str:
    vm = running(m)
    m.call("VM.suspend", vm)
    return vm


def spare_disk(m: Machine) -> str:
    return m.disk(running(m), "5", m.vdi())


def plugged_disk(m: Machine) -> str:
    vbd = spare_disk(m)
    m.call("VBD.plug", vbd)
    return vbd


def spare_vif(m: Machine) -> str:
    return m.vif(running(m), "3")


def plugged_vif(m: Machine) -> str:
    vif = spare_vif(m)
    m.call("VIF.plug", vif)
    return vif


def drive(m: Machine) -> str:
    vm = running(m)
    return next(v for v in m.get("VM", vm, "VBDs") if m.get("VBD", v, "type") == "CD")


def loaded_drive(m: Machine) -> str:
    vbd = drive(m)
    m.call("VBD.insert", vbd, m.vdi())
    return vbd


def state(wanted: str) -> Callable[[Machine, str], bool]:
    def done(m: Machine, vm: str) -> bool:
        uuid = m.get("VM", vm, "uuid")
        alive = wanted in ("Running", "Paused")
        users = [u for users in m.disks().values() for u in users]
        return (
            m.get("VM", vm, "power_state") == wanted
            and (m.hypervisor.domain(uuid) is not None) == alive
            and bool(m.network.ports()) == alive
            and bool(users) == alive
            and bool(m.get("VM", vm, "consoles")) == alive
            and (m.get("VM", vm, "suspend_VDI") != "OpaqueRef:NULL") == (wanted == "Suspended")
            and len(m.disks()) == (3 if wanted == "Suspended" else 2)
        )

    return done


def attached(cls: str, wanted: bool) -> Callable[[Machine, str], bool]:
    def done(m: Machine, ref: str) -> bool:
        domain = m.hypervisor.domain(m.get("VM", m.get(cls, ref, "VM"), "uuid"))
        assert domain is not None
        if cls == "VBD":
            there = m.get("VBD", ref, "userdevice") in [d.userdevice for d in domain.disks]
            used = m.get("VBD", ref, "uuid") in [u for users in m.disks().values() for u in users]
            return there == used == m.get(cls, ref, "currently_attached") == wanted
        there = m.get("VIF", ref, "device") in [v.device for v in domain.vifs]
        used = m.get("VIF", ref, "uuid") in [p.vif_uuid for p in m.network.ports()]
        return there == used == m.get(cls, ref, "currently_attached") == wanted

    return done


def empty(m: Machine, vbd: str) -> bool:
    users = [u for users in m.disks().values() for u in users]
    return m.get("VBD", vbd, "empty") is True and m.get("VBD", vbd, "uuid") not in users


def no_disk(m: Machine, vdi: str) -> bool:
    return not m.store.exists("VDI", vdi) and m.disks() == {}


def never(m: Machine, ref: str) -> bool:
    raise AssertionError("this plan has no point of no return")


def start(m: Machine, vm: str) -> None:
    m.call("VM.start", vm, False, False)


def new_sr(m: Machine, _: str) -> None:
    m.call("SR.create", m.store.refs("host")[0], {}, 0, "second", "", "file", "", False, {})


OPERATIONS = (
    Operation(
        "VM.start",
        ("activate disk 0", "activate disk 1", "plug VIF 0", "plug VIF 1", "create domain", "unpause", "record"),
        halted,
        start,
        never,
    ),
    Operation(
        "VM.hard_shutdown",
        ("destroy domain", "put devices away", "drop memory image", "record"),
        running,
        lambda m, vm: m.call("VM.hard_shutdown", vm),
        state("Halted"),
        "destroy domain",
    ),
    Operation(
        "VM.suspend",
        (
            "create memory image",
            "record memory image",
            "open memory image",
            "write memory",
            "close memory image",
            "put devices away",
            "record",
        ),
        running,
        lambda m, vm: m.call("VM.suspend", vm),
        state("Suspended"),
        "write memory",
    ),
    Operation(
        "VM.resume",
        (
            "activate disk 0",
            "activate disk 1",
            "plug VIF 0",
            "plug VIF 1",
            "read memory",
            "unpause",
            "record",
            "drop memory image",
        ),
        suspended,
        lambda m, vm: m.call("VM.resume", vm, False, False),
        state("Running"),
        "unpause",
    ),
    Operation(
        "VM.clone",
        ("make disk 0", "make disk 1", "record"),
        halted,
        lambda m, vm: m.call("VM.clone", vm, "copy"),
        never,
    ),
    Operation(
        "VDI.new",
        ("make data", "record"),
        lambda m: m.vdi(),
        lambda m, vdi: m.call("VDI.clone", vdi, {}),
        never,
    ),
    Operation(
        "VDI.destroy",
        ("delete data", "record"),
        lambda m: m.vdi(),
        lambda m, vdi: m.call("VDI.destroy", vdi),
        no_disk,
        "delete data",
    ),
    Operation(
        "VBD.plug",
        ("activate VDI", "attach disk", "record"),
        spare_disk,
        lambda m, vbd: m.call("VBD.plug", vbd),
        never,
    ),
    Operation(
        "VBD.unplug",
        ("detach disk", "deactivate VDI", "record"),
        plugged_disk,
        lambda m, vbd: m.call("VBD.unplug", vbd),
        attached("VBD", False),
        "detach disk",
    ),
    Operation(
        "VBD.insert",
        ("activate VDI", "insert medium", "record"),
        drive,
        lambda m, vbd: m.call("VBD.insert", vbd, m.store.where("VDI", name_label="medium")[0]),
        never,
    ),
    Operation(
        "VBD.eject",
        ("eject medium", "deactivate VDI", "record"),
        loaded_drive,
        lambda m, vbd: m.call("VBD.eject", vbd),
        empty,
        "eject medium",
    ),
    Operation(
        "VIF.plug",
        ("plug tap", "attach interface", "record"),
        spare_vif,
        lambda m, vif: m.call("VIF.plug", vif),
        never,
    ),
    Operation(
        "VIF.unplug",
        ("detach interface", "unplug tap", "record"),
        plugged_vif,
        lambda m, vif: m.call("VIF.unplug", vif),
        attached("VIF", False),
        "detach interface",
    ),
    Operation("SR.create", ("make SR", "attach SR", "record"), lambda m: m.sr, new_sr, never),
)
CASES = [pytest.param(op, step, id=f"{op.plan}-{step}") for op in OPERATIONS for step in op.steps]


def prepared(machine: Machine, operation: Operation) -> str:
    subject = operation.prepare(machine)
    if operation.plan == "VBD.insert":
        machine.vdi(name_label="medium")
    return subject


def test_every_plan_has_its_test() -> None:
    """`test` is what the engine's own tests declare."""
    assert {op.plan for op in OPERATIONS} == set(engine.RECIPES) - {"test"}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.plan)
def test_every_step_has_its_test(operation: Operation, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = prepared(machine, operation)
    seen: list[str] = []
    hook = lambda plan, step: seen.append(step) if plan == operation.plan else None  # noqa: E731
    monkeypatch.setattr(engine, "after_step", [hook])
    operation.act(machine, subject)
    assert tuple(seen) == operation.steps


def break_after(monkeypatch: pytest.MonkeyPatch, operation: Operation, step: str) -> None:
    def hook(plan: str, name: str) -> None:
        if (plan, name) == (operation.plan, step):
            raise Injected(f"injected in {step}")

    monkeypatch.setattr(engine, "after_step", [hook])


@pytest.mark.parametrize(("operation", "step"), CASES)
def test_failure(operation: Operation, step: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = prepared(machine, operation)
    before = machine.snapshot()
    break_after(monkeypatch, operation, step)
    with pytest.raises(Injected, match=f"injected in {step}"):
        operation.act(machine, subject)
    monkeypatch.undo()
    if operation.undone(step):
        assert machine.snapshot() == before
    else:
        machine.die()
        machine.recover()
        assert operation.done(machine, subject)
    assert machine.journal.entries() == []


@pytest.mark.parametrize(("operation", "step"), CASES)
def test_death(operation: Operation, step: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unwinding switched off, as in a dead process: recovery has the journal and the world, nothing else."""
    subject = prepared(machine, operation)
    machine.recover()
    before = machine.snapshot()
    break_after(monkeypatch, operation, step)
    monkeypatch.setattr(engine, "unwind", lambda *_: [("all", "dead")])
    monkeypatch.setattr(Journal, "stuck", lambda *_: None)
    monkeypatch.setattr(Journal, "closed", lambda *_: None)
    monkeypatch.setattr(truth, "settle_vm", lambda *_: None)
    with pytest.raises((Injected, engine.Stuck)):
        operation.act(machine, subject)
    monkeypatch.undo()
    machine.die()
    report = machine.recover()
    assert report.stuck == []
    if operation.undone(step):
        assert machine.snapshot() == before
    else:
        assert operation.done(machine, subject)
    assert machine.journal.entries() == []
    after = machine.snapshot()
    machine.die()
    assert machine.recover().stuck == []
    assert machine.snapshot() == after


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda op: op.plan)
def test_cancel_before_the_first_step(operation: Operation, machine: Machine) -> None:
    subject = prepared(machine, operation)
    before = machine.snapshot()
    task = Task.hidden(machine.store)
    task.cancel()
    original = machine.context
    machine.context = lambda _=None: original(task)  # type: ignore[method-assign]
    with pytest.raises(TaskCancelled):
        operation.act(machine, subject)
    assert machine.snapshot() == before


def test_cancel_in_the_middle(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = halted(machine)
    before = machine.snapshot()
    task = Task.hidden(machine.store)
    hook = lambda plan, step: task.cancel() if step == "create domain" else None  # noqa: E731
    monkeypatch.setattr(engine, "after_step", [hook])
    with pytest.raises(TaskCancelled):
        machine.call("VM.start", vm, False, False, task=task)
    assert machine.snapshot() == before


def test_a_cancel_behind_the_point_of_no_return_comes_too_late(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = running(machine)
    task = Task.hidden(machine.store)
    hook = lambda plan, step: task.cancel() if step == "destroy domain" else None  # noqa: E731
    monkeypatch.setattr(engine, "after_step", [hook])
    machine.call("VM.hard_shutdown", vm, task=task)
    assert state("Halted")(machine, vm)


def test_a_full_disk_leaves_nothing(machine: Machine) -> None:
    """The port's own failure, half way through a start."""
    vm = halted(machine)
    before = machine.snapshot()
    machine.hypervisor.faults.fail("create_paused", OSError("no space"), after=True)
    with pytest.raises(OSError, match="no space"):
        start(machine, vm)
    assert machine.snapshot() == before


def test_a_clone_of_many_disks_leaves_no_disk(machine: Machine) -> None:
    vm = machine.vm(disks=4, vifs=0)
    before = machine.snapshot()
    machine.vdi(size=MIB)
    calls = 0
    original = machine.storage.clone

    def third_fails(sr: str, vdi: str, new: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError("cable")
        return original(sr, vdi, new)

    machine.storage.clone = third_fails  # type: ignore[method-assign]
    with pytest.raises(OSError, match="cable"):
        machine.call("VM.clone", vm, "copy")
    assert len(machine.disks()) == len(before["disks"]) + 1
    assert machine.store.where("VM", name_label="copy") == []
