"""A VM's life: start to destroy, what is refused when, and what its devices do meanwhile."""

from collections.abc import Iterator

import pytest
import XenAPI
from tests.contract.client import NULL, Client


def refused(call: object, *arguments: object) -> list[str]:
    with pytest.raises(XenAPI.Failure) as failure:
        call(*arguments)  # type: ignore[operator]
    return list(failure.value.details)


@pytest.fixture
def vm(client: Client) -> str:
    vm = client.vm()
    client.vbd(vm, client.vdi())
    client.vbd(vm, NULL, "3", type="CD", mode="RO")
    return vm


@pytest.fixture
def running(client: Client, vm: str) -> Iterator[str]:
    client.api.VM.start(vm, False, False)
    return vm  # type: ignore[return-value]


def state(client: Client, vm: str) -> str:
    return str(client.api.VM.get_power_state(vm))


def test_start_and_hard_shutdown(client: Client, vm: str) -> None:
    client.api.VM.start(vm, False, False)
    record = client.api.VM.get_record(vm)
    assert record["power_state"] == "Running"
    assert int(record["domid"]) > 0
    assert record["resident_on"] in client.api.host.get_all()
    assert record["current_operations"] == {}
    assert {"clean_shutdown", "hard_shutdown", "pause", "suspend"} <= set(record["allowed_operations"])
    (console,) = [c for c in record["consoles"] if client.api.console.get_protocol(c) == "rfb"]
    assert client.api.console.get_uuid(console) in client.api.console.get_location(console)
    assert all(client.api.VBD.get_currently_attached(v) for v in record["VBDs"])
    client.api.VM.hard_shutdown(vm)
    record = client.api.VM.get_record(vm)
    assert (record["power_state"], record["domid"], record["resident_on"]) == ("Halted", "-1", NULL)
    assert record["consoles"] == []
    assert not any(client.api.VBD.get_currently_attached(v) for v in record["VBDs"])


def test_start_paused_and_unpause(client: Client, vm: str) -> None:
    client.api.VM.start(vm, True, False)
    assert state(client, vm) == "Paused"
    client.api.VM.unpause(vm)
    assert state(client, vm) == "Running"
    client.api.VM.pause(vm)
    assert state(client, vm) == "Paused"


def test_start_on_this_host_and_on_none(client: Client, vm: str) -> None:
    assert refused(client.api.VM.start_on, vm, "OpaqueRef:none", False, False) == [
        "HANDLE_INVALID", "host", "OpaqueRef:none",
    ]  # fmt: skip
    client.api.VM.start_on(vm, client.api.host.get_all()[0], False, False)
    assert state(client, vm) == "Running"


def test_domids_are_never_used_twice(client: Client, vm: str) -> None:
    seen = []
    for _ in range(3):
        client.api.VM.start(vm, True, False)
        seen.append(int(client.api.VM.get_domid(vm)))
        client.api.VM.hard_shutdown(vm)
    assert seen == sorted(set(seen))


def test_what_a_halted_vm_refuses(client: Client, vm: str) -> None:
    for name, expected in {
        "pause": "running",
        "unpause": "paused",
        "suspend": "running",
        "clean_shutdown": "running",
        "hard_shutdown": "paused, suspended, running",
        "hard_reboot": "paused, running",
    }.items():
        assert refused(getattr(client.api.VM, name), vm) == ["VM_BAD_POWER_STATE", vm, expected, "halted"]
    assert refused(client.api.VM.resume, vm, False, False) == ["VM_BAD_POWER_STATE", vm, "suspended", "halted"]


def test_what_a_running_vm_refuses(client: Client, running: str) -> None:
    assert refused(client.api.VM.start, running, False, False) == ["VM_BAD_POWER_STATE", running, "halted", "running"]
    assert refused(client.api.VM.destroy, running)[:3] == ["VM_BAD_POWER_STATE", running, "halted, suspended"]
    assert refused(client.api.VM.clone, running, "contract-c")[0] == "VM_BAD_POWER_STATE"
    disk = client.api.VM.get_VBDs(running)[0]
    assert refused(client.api.VBD.destroy, disk)[0] == "OPERATION_NOT_ALLOWED"
    vdi = next(client.api.VBD.get_VDI(v) for v in client.api.VM.get_VBDs(running) if not client.api.VBD.get_empty(v))
    assert refused(client.api.VDI.destroy, vdi) == ["VDI_IN_USE", vdi, "destroy"]
    assert refused(client.api.VDI.resize, vdi, str(32 << 20)) == ["VDI_IN_USE", vdi, "resize"]


def test_hard_reboot_runs_on(client: Client, running: str) -> None:
    client.api.VM.hard_reboot(running)
    assert state(client, running) == "Running"
    client.api.VM.pause(running)
    client.api.VM.hard_reboot(running)
    assert state(client, running) == "Running"


def test_suspend_and_resume(client: Client, running: str) -> None:
    client.api.VM.suspend(running)
    record = client.api.VM.get_record(running)
    assert (record["power_state"], record["domid"]) == ("Suspended", "-1")
    assert client.api.VDI.get_type(record["suspend_VDI"]) == "suspend"
    client.api.VM.resume(running, False, False)
    record = client.api.VM.get_record(running)
    assert (record["power_state"], record["suspend_VDI"]) == ("Running", NULL)


def test_a_suspended_vm_can_be_stopped_and_destroyed(client: Client, running: str) -> None:
    client.api.VM.suspend(running)
    image = client.api.VM.get_suspend_VDI(running)
    client.api.VM.destroy(running)
    assert image not in client.api.VDI.get_all()


def test_a_started_task_can_be_watched(client: Client, vm: str) -> None:
    task = client.task(client.jsonrpc("Async.VM.start", vm, False, False)["result"])
    assert (task["status"], task["progress"]) == ("success", 1.0)
    assert state(client, vm) == "Running"


def test_a_template_does_not_start(client: Client, vm: str) -> None:
    client.api.VM.set_is_a_template(vm, True)
    assert refused(client.api.VM.start, vm, False, False) == ["VM_IS_TEMPLATE", vm, "start"]
    assert "clone" in client.api.VM.get_allowed_operations(vm)


def test_a_blocked_operation(client: Client, vm: str) -> None:
    client.api.VM.add_to_blocked_operations(vm, "start", "by test")
    assert refused(client.api.VM.start, vm, False, False) == ["OPERATION_BLOCKED", vm, "by test"]


def test_more_memory_than_there_is(client: Client) -> None:
    huge = str(1 << 50)
    vm = client.vm(memory_static_max=huge, memory_dynamic_max=huge, memory_dynamic_min=huge)
    assert refused(client.api.VM.start, vm, False, False) == ["NO_HOSTS_AVAILABLE"]
    assert state(client, vm) == "Halted"


def test_memory_limits_stay_in_order(client: Client, vm: str) -> None:
    mib = 1 << 20
    client.api.VM.set_memory_limits(vm, str(32 * mib), str(96 * mib), str(64 * mib), str(96 * mib))
    assert client.api.VM.get_memory_dynamic_min(vm) == str(64 * mib)
    assert refused(client.api.VM.set_memory_static_max, vm, str(mib)) == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
    assert refused(client.api.VM.set_VCPUs_max, vm, "0")[0] == "INVALID_VALUE"


def test_hot_plug_of_a_disk(client: Client, running: str) -> None:
    vdi = client.vdi()
    vbd = client.vbd(running, vdi, "5")
    client.api.VBD.plug(vbd)
    assert client.api.VBD.get_record(vbd)["currently_attached"] is True
    assert client.api.VBD.get_device(vbd) == "xvdf"
    assert refused(client.api.VBD.plug, vbd) == ["DEVICE_ALREADY_ATTACHED", vbd]


def test_unplug_of_a_disk(client: Client, vm: str) -> None:
    if client.server.qemu:
        pytest.skip("a guest that boots does not let go of disks yet; tests/host waits for it")
    client.api.VM.start(vm, False, False)
    vbd = client.vbd(vm, client.vdi(), "5")
    client.api.VBD.plug(vbd)
    client.api.VBD.unplug(vbd)
    assert client.api.VBD.get_currently_attached(vbd) is False
    assert refused(client.api.VBD.unplug, vbd) == ["DEVICE_ALREADY_DETACHED", vbd]
    client.api.VBD.destroy(vbd)


def test_one_disk_has_one_writer(client: Client, running: str) -> None:
    vdi = next(client.api.VBD.get_VDI(v) for v in client.api.VM.get_VBDs(running) if not client.api.VBD.get_empty(v))
    other = client.vm()
    client.vbd(other, vdi)
    assert refused(client.api.VM.start, other, False, False)[:2] == ["VDI_IN_USE", vdi]
    assert state(client, other) == "Halted"


def test_a_cd_goes_in_and_out(client: Client, running: str) -> None:
    drive = next(v for v in client.api.VM.get_VBDs(running) if client.api.VBD.get_type(v) == "CD")
    medium = client.vdi()
    client.api.VBD.insert(drive, medium)
    assert client.api.VBD.get_VDI(drive) == medium
    assert refused(client.api.VBD.insert, drive, medium) == ["VBD_NOT_EMPTY", drive]
    client.api.VBD.eject(drive)
    assert client.api.VBD.get_empty(drive) is True
    assert refused(client.api.VBD.eject, drive) == ["VBD_IS_EMPTY", drive]


def test_slots(client: Client, vm: str) -> None:
    vdi = client.vdi()
    assert refused(client.vbd, vm, vdi, "0") == ["DEVICE_ALREADY_EXISTS", "0"]
    assert refused(client.vbd, vm, vdi, "hda") == ["DEVICE_ALREADY_EXISTS", "hda"]
    assert refused(client.vbd, vm, vdi, "x!y") == ["INVALID_DEVICE", "x!y"]
    assert client.api.VBD.get_userdevice(client.vbd(vm, vdi, "autodetect")) == "1"
    assert "0" not in client.api.VM.get_allowed_VBD_devices(vm)
    assert refused(lambda: client.vbd(vm, NULL, "4", type="CD")) == ["VBD_CDS_MUST_BE_READONLY"]


def test_interfaces(client: Client, vm: str) -> None:
    network = client.api.network.create(
        {"name_label": "contract-net", "name_description": "", "MTU": "1500", "other_config": {}}
    )
    vif = {"VM": vm, "network": network, "device": "0", "MAC": "", "MTU": "1500", "other_config": {},
           "qos_algorithm_type": "", "qos_algorithm_params": {}}  # fmt: skip
    ref = client.api.VIF.create(vif)
    record = client.api.VIF.get_record(ref)
    assert record["MAC_autogenerated"] is True
    assert len(record["MAC"]) == 17
    assert refused(client.api.VIF.create, vif) == ["DEVICE_ALREADY_EXISTS", "0"]
    assert refused(client.api.VIF.create, {**vif, "device": "1", "MAC": "nonsense"}) == ["MAC_INVALID", "nonsense"]
    assert refused(client.api.VIF.create, {**vif, "network": "OpaqueRef:none"})[:2] == ["HANDLE_INVALID", "network"]
    assert client.api.VM.get_allowed_VIF_devices(vm)[0] == "1"
    if not client.server.qemu:  # a real guest needs a real tap, which the simulated switch does not make
        client.api.VM.start(vm, False, False)
        assert client.api.VIF.get_currently_attached(ref) is True
        assert refused(client.api.VIF.destroy, ref)[0] == "OPERATION_NOT_ALLOWED"
        client.api.VIF.unplug(ref)
        assert client.api.VIF.get_currently_attached(ref) is False
        client.api.VM.hard_shutdown(vm)
    client.api.VIF.destroy(ref)


def test_destroy_takes_its_devices_and_leaves_its_disks(client: Client, vm: str) -> None:
    record = client.api.VM.get_record(vm)
    vdis = [client.api.VBD.get_VDI(v) for v in record["VBDs"] if not client.api.VBD.get_empty(v)]
    client.api.VM.destroy(vm)
    assert not set(record["VBDs"]) & set(client.api.VBD.get_all())
    assert set(vdis) <= set(client.api.VDI.get_all())
    assert refused(client.api.VM.get_record, vm) == ["HANDLE_INVALID", "VM", vm]
