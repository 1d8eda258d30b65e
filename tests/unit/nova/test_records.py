"""The record cache and the undo stack, without a host."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from xenstack.nova.records import NULL, Change, Event, Records
from xenstack.nova.undo import Undo


def vm(uuid: str = "i-1", state: str = "Running", **more: Any) -> dict[str, Any]:
    return {
        "uuid": f"vm of {uuid}",
        "power_state": state,
        "other_config": {"nova_uuid": uuid} if uuid else {},
        "domid": "1" if state in ("Running", "Paused") else "-1",
        "resident_on": NULL,
        "affinity": NULL,
        "current_operations": {},
        **more,
    }


def event(ref: str, record: dict[str, Any] | None, cls: str = "vm") -> Event:
    return Event(cls, ref, record)


def test_a_change_of_power_state_is_told_once() -> None:
    records = Records()
    assert records.apply([event("r", vm(state="Halted"))], complete=True) == [Change("i-1", "", "Halted")]
    assert records.apply([event("r", vm(state="Running"))], complete=False) == [Change("i-1", "Halted", "Running")]
    assert records.apply([event("r", vm(state="Running"))], complete=False) == []
    assert records.apply([event("r", None)], complete=False) == [Change("i-1", "Running", "")]
    assert records.vm_of("i-1") is None


def test_what_a_complete_batch_lacks_is_gone() -> None:
    records = Records()
    records.apply([event("a", vm("i-1")), event("b", vm("i-2")), event("d", {"uuid": "x"}, "vdi")], complete=True)
    assert records.apply([event("b", vm("i-2"))], complete=True) == [Change("i-1", "Running", "")]
    assert [uuid for uuid, _, _ in records.instances()] == ["i-2"]
    assert records.all("vdi") == []


@pytest.mark.parametrize(
    "foreign",
    [
        vm(""),
        vm(is_a_template=True),
        vm(is_a_snapshot=True),
        vm(is_control_domain=True),
        vm(resident_on="other host"),
        vm(state="Halted", affinity="other host"),
    ],
)
def test_other_vms_are_no_instances_of_this_host(foreign: dict[str, Any]) -> None:
    records = Records()
    records.host = "this host"
    assert records.apply([event("r", foreign)], complete=True) == []
    assert records.instances() == []
    assert records.vm_of("i-1") is None


def test_a_console_log_outlives_its_domain() -> None:
    records = Records()
    records.apply([event("r", vm(domid="7"))], complete=True)
    records.apply([event("r", vm(state="Halted"))], complete=False)
    assert records.last_domid("r") == 7
    records.apply([event("r", None)], complete=False)
    assert records.last_domid("r") == -1


def test_waiting_ends_with_the_news() -> None:
    records = Records()
    assert not records.wait(lambda: records.get("vm", "r") is not None, 0.01)
    thread = threading.Timer(0.05, lambda: records.put("vm", "r", vm()))
    thread.start()
    assert records.wait(lambda: records.get("vm", "r") is not None, 10)
    thread.join()


def test_undo_runs_newest_first_all_of_it_and_shows_the_first_failure() -> None:
    done: list[str] = []

    def broken() -> None:
        done.append("broken")
        raise ValueError("an undo that fails")

    instance = SimpleNamespace(uuid="i-1")

    def verb() -> None:
        with Undo(instance) as undo:
            undo.add("first", lambda: done.append("first"))
            undo.add("broken", broken)
            undo.add("last", lambda: done.append("last"))
            raise KeyError("the failure")

    with pytest.raises(KeyError, match="the failure"):
        verb()
    assert done == ["last", "broken", "first"]
    with Undo(instance) as undo:
        undo.add("never", lambda: done.append("never"))
    assert "never" not in done
