"""The operation tables against what a real xapi answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from xenstack.host.rules import vbd as vbd_rules
from xenstack.host.rules import vdi as vdi_rules
from xenstack.host.rules import vif as vif_rules
from xenstack.host.rules import vm as vm_rules

RECORDED = json.loads((Path(__file__).parent / "xapi_vm_operations.json").read_text())
STATES = ("Halted", "Paused", "Suspended", "Running")
VM = {
    "power_state": "Halted", "current_operations": {}, "blocked_operations": {}, "is_a_template": False,
    "is_a_snapshot": False, "is_default_template": False, "is_control_domain": False, "other_config": {},
}  # fmt: skip
VBD = {"current_operations": {}, "type": "Disk", "mode": "RW", "empty": False, "unpluggable": True,
       "currently_attached": False}  # fmt: skip
VDI = {"current_operations": {}, "sharable": False, "read_only": False}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("operation", RECORDED["operations"])
def test_vm_operations_are_those_of_xapi(operation: str, state: str) -> None:
    refusal = vm_rules.check(operation, "ref", {**VM, "power_state": state})
    answer = ["ok"] if refusal is None else [w for w in refusal.wire() if w != "ref"]
    assert answer == RECORDED["operations"][operation][state]


def test_every_operation_was_recorded() -> None:
    assert set(vm_rules.STATES) == set(RECORDED["operations"])


@pytest.mark.parametrize("state", STATES)
def test_allowed_operations_are_those_of_xapi(state: str) -> None:
    assert vm_rules.allowed("ref", {**VM, "power_state": state}) == RECORDED["allowed"][state]


def test_a_template_allows_what_xapi_allows() -> None:
    assert vm_rules.allowed("ref", {**VM, "is_a_template": True}) == RECORDED["allowed"]["template"]


def refused(operation: str, **fields: Any) -> list[str]:
    refusal = vm_rules.check(operation, "ref", {**VM, **fields})
    return [] if refusal is None else refusal.wire()


def test_a_blocked_operation_says_who_blocked_it() -> None:
    assert refused("start", blocked_operations={"start": "maintenance"}) == ["OPERATION_BLOCKED", "ref", "maintenance"]


def test_a_template_cannot_start_and_a_default_one_cannot_go() -> None:
    assert refused("start", is_a_template=True) == ["VM_IS_TEMPLATE", "ref", "start"]
    assert refused("destroy", is_a_template=True) == []
    assert refused("destroy", is_a_template=True, is_default_template=True) == ["VM_IS_TEMPLATE", "ref", "destroy"]


def test_a_snapshot_cannot_start_but_go() -> None:
    snapshot = {"is_a_snapshot": True, "is_a_template": True}
    assert refused("start", **snapshot) == ["VM_IS_SNAPSHOT", "ref", "start"]
    assert refused("destroy", **snapshot) == []


def test_the_control_domain_is_nobodys() -> None:
    assert refused("hard_shutdown", is_control_domain=True, power_state="Running")[0] == "OPERATION_NOT_ALLOWED"


def test_one_operation_at_a_time() -> None:
    busy = {"power_state": "Running", "current_operations": {"task": "suspend"}}
    assert refused("pause", **busy) == ["OTHER_OPERATION_IN_PROGRESS", "VM", "ref", "suspend", "task"]


def test_the_impatient_may_stop_a_guest_that_does_not_follow() -> None:
    busy = {"power_state": "Running", "current_operations": {"task": "clean_shutdown"}}
    assert refused("hard_shutdown", **busy) == []
    assert refused("clean_shutdown", **busy)[0] == "OTHER_OPERATION_IN_PROGRESS"


@pytest.mark.parametrize(
    ("text", "slot", "name"),
    [
        ("0", 0, "xvda"),
        ("25", 25, "xvdz"),
        ("26", 26, "xvdaa"),
        ("xvdb", 1, "xvdb"),
        ("hda", 0, "xvda"),
        ("sdp", 15, "xvdp"),
    ],
)
def test_slots_have_numbers_and_names(text: str, slot: int, name: str) -> None:
    assert vbd_rules.position(text) == slot
    assert vbd_rules.device_name(text) == name


@pytest.mark.parametrize("text", ["", "x!y", "xvdq", "xvdaa", "-1", "٣", "12345"])
def test_what_is_no_slot(text: str) -> None:
    assert vbd_rules.position(text) is None
    assert vbd_rules.device_name(text) == ""


def vbd_refused(operation: str, state: str, *, rivals: tuple[dict[str, Any], ...] = (), **fields: Any) -> list[str]:
    vm = {**VM, "power_state": state}
    vdi = {**VDI, **{k: fields.pop(k) for k in ("sharable", "read_only") if k in fields}}
    refusal = vbd_rules.check(operation, "vbd", {**VBD, **fields}, "vm", vm, "vdi", vdi, rivals)
    return [] if refusal is None else refusal.wire()


def test_vbd_operations() -> None:
    assert vbd_refused("plug", "Halted") == ["VM_BAD_POWER_STATE", "vm", "running", "halted"]
    assert vbd_refused("plug", "Running") == []
    assert vbd_refused("plug", "Running", currently_attached=True) == ["DEVICE_ALREADY_ATTACHED", "vbd"]
    assert vbd_refused("unplug", "Running") == ["DEVICE_ALREADY_DETACHED", "vbd"]
    assert vbd_refused("unplug", "Running", currently_attached=True, unpluggable=False) == [
        "VBD_NOT_UNPLUGGABLE",
        "vbd",
    ]
    assert vbd_refused("eject", "Running") == ["VBD_NOT_REMOVABLE_MEDIA", "vbd"]
    assert vbd_refused("eject", "Running", type="CD", empty=True) == ["VBD_IS_EMPTY", "vbd"]
    assert vbd_refused("insert", "Running", type="CD") == ["VBD_NOT_EMPTY", "vbd"]
    assert vbd_refused("insert", "Suspended", type="CD", empty=True) == [
        "VM_BAD_POWER_STATE", "vm", "halted, running", "suspended",
    ]  # fmt: skip


def test_a_disk_has_one_writer_or_many_readers() -> None:
    writer, reader = {**VBD, "mode": "RW"}, {**VBD, "mode": "RO"}
    assert vbd_refused("attach", "Halted", rivals=(writer,)) == ["VDI_IN_USE", "vdi", "attach"]
    assert vbd_refused("attach", "Halted", rivals=(reader,)) == ["VDI_IN_USE", "vdi", "attach"]
    assert vbd_refused("attach", "Halted", rivals=(reader,), mode="RO") == []
    assert vbd_refused("attach", "Halted", rivals=(writer,), mode="RO") == ["VDI_IN_USE", "vdi", "attach"]
    assert vbd_refused("attach", "Halted", rivals=(writer,), sharable=True) == []
    assert vbd_refused("attach", "Halted", read_only=True) == ["VDI_READONLY", "vdi"]


def test_vdi_operations() -> None:
    def refused(operation: str, *vbds: dict[str, Any], attached: bool = True, **fields: Any) -> list[str]:
        refusal = vdi_rules.check(operation, "vdi", {**VDI, **fields}, "sr", attached, vbds)
        return [] if refusal is None else refusal.wire()

    used = {**VBD, "currently_attached": True}
    assert refused("destroy") == []
    assert refused("destroy", used) == ["VDI_IN_USE", "vdi", "destroy"]
    assert refused("resize", used) == ["VDI_IN_USE", "vdi", "resize"]
    assert refused("snapshot", used) == []
    assert refused("snapshot", sharable=True) == ["VDI_IS_SHARABLE", "vdi"]
    assert refused("resize", attached=False) == ["SR_HAS_NO_PBDS", "sr"]
    assert refused("destroy", current_operations={"t": "copy"})[0] == "OTHER_OPERATION_IN_PROGRESS"
    assert refused("clone", current_operations={"t": "copy"}) == []


def test_macs() -> None:
    assert vif_rules.valid_mac("02:00:00:00:00:01")
    assert not vif_rules.valid_mac("01:00:00:00:00:01")
    assert not vif_rules.valid_mac("ff:ff:ff:ff:ff:ff")
    assert not vif_rules.valid_mac("02:00:00:00:00")
    assert vif_rules.seeded_mac("seed", "0") == vif_rules.seeded_mac("seed", "0") != vif_rules.seeded_mac("seed", "1")
    assert vif_rules.valid_mac(vif_rules.seeded_mac("seed", "0"))
    assert vif_rules.valid_mac(vif_rules.random_mac())
