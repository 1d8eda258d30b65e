"""A spawn or import that fails leaves nothing on the host: asserted as absence, over the wire."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from nova import exception
from tests.kit.images import extension, noise, qcow2
from tests.unit.nova.cloud import MIB, make_instance
from tests.unit.nova.conftest import Compute

from xenstack.nova.faults import HostFailed
from xenstack.nova.session import Session
from xenstack.xenapi.errors import InternalError

SPAWN = (
    "VDI.clone", "VDI.set_other_config", "VDI.set_name_label", "VDI.resize", "VDI.create", "task.create",
    "event.from", "VM.create", "VBD.create", "VIF.create", "VM.start_on", "VM.unpause",
)  # fmt: skip


@pytest.fixture
def cached(compute: Compute) -> Iterator[str]:
    """An image that is in the SR already."""
    image = compute.images.add(b"\0" * MIB, "raw")
    compute.spawn(instance := make_instance(image))
    compute.driver.destroy(None, instance, None)
    return image


def calls_of(monkeypatch: pytest.MonkeyPatch, *, fail: str = "", after: bool = False) -> list[str]:
    """Record the messages the driver sends; the first one named `fail` fails, before or after the host did it."""
    seen: list[str] = []
    send = Session._send
    main = threading.get_ident()

    def recorded(self: Session, method: str, arguments: Any, timeout_s: Any) -> Any:
        if threading.get_ident() != main:
            return send(self, method, arguments, timeout_s)
        first = method == fail and fail not in seen
        seen.append(method)
        if first and not after:
            raise InternalError("injected")
        answer = send(self, method, arguments, timeout_s)
        if first:
            raise InternalError("injected")
        return answer

    monkeypatch.setattr(Session, "_send", recorded)
    return seen


def test_every_step_of_a_spawn_is_covered(compute: Compute, cached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls_of(monkeypatch)
    compute.spawn(make_instance(cached, config_drive="True"))
    assert set(seen) - {"task.destroy"} == set(SPAWN)


@pytest.mark.parametrize("step", SPAWN)
def test_a_step_that_is_refused_leaves_nothing(
    compute: Compute, cached: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = compute.everything()
    instance = make_instance(cached, config_drive="True")
    with monkeypatch.context() as patch:
        calls_of(patch, fail=step)
        with pytest.raises(HostFailed, match="injected"):
            compute.spawn(instance)
    assert compute.everything() == before
    assert not compute.driver.instance_exists(instance)


# A clone or VDI whose answer was lost has no name that an undo could find it by: `sweep` removes it at the next start.
LOST = ("VDI.clone", "VDI.create")


@pytest.mark.parametrize("step", [step for step in SPAWN if step not in LOST])
def test_a_step_that_worked_and_then_failed_leaves_nothing(
    compute: Compute, cached: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = compute.everything()
    instance = make_instance(cached, config_drive="True")
    with monkeypatch.context() as patch:
        calls_of(patch, fail=step, after=True)
        with pytest.raises(HostFailed, match="injected"):
            compute.spawn(instance)
    assert compute.everything() == before


@pytest.mark.parametrize("step", LOST)
def test_what_a_lost_answer_left_is_removed(
    compute: Compute, cached: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = compute.everything()
    instance = make_instance(cached, config_drive="True")
    with monkeypatch.context() as patch:
        calls_of(patch, fail=step, after=True)
        with pytest.raises(HostFailed):
            compute.spawn(instance)
    compute.driver.destroy(None, instance, None)  # as Nova does after a failed build
    if step == "VDI.clone":
        compute.driver.cleanup_host("domu-1")
        compute.driver.init_host("domu-1")
    assert compute.everything() == before


def test_neutron_that_does_not_wire_the_port_leaves_nothing(compute: Compute, cached: str) -> None:
    before = compute.everything()
    compute.virtapi.never = True
    with pytest.raises(exception.VirtualInterfaceCreateException):
        compute.spawn(make_instance(cached))
    assert compute.everything() == before


def test_neutron_that_fails_the_port_leaves_nothing(compute: Compute, cached: str) -> None:
    before = compute.everything()
    compute.virtapi.fail = True
    with pytest.raises(exception.VirtualInterfaceCreateException):
        compute.spawn(make_instance(cached))
    assert compute.everything() == before


def test_a_host_without_the_memory_is_told_so(compute: Compute, cached: str) -> None:
    before = compute.everything()
    instance = make_instance(cached)
    instance.flavor.memory_mb = 1 << 20
    with pytest.raises(exception.ComputeResourcesUnavailable):
        compute.spawn(instance)
    assert compute.everything() == before


BAD = {
    "qcow2 called raw": (qcow2(noise(MIB)), "raw"),
    "raw called qcow2": (noise(MIB), "qcow2"),
    "raw called vhd": (noise(MIB), "vhd"),
    "backing file": (qcow2(noise(MIB), backing=b"/etc/passwd"), "qcow2"),
    "data file": (qcow2(noise(MIB), incompatible=4, extensions=extension(0x44415441, b"/etc/passwd")), "qcow2"),
    "vmdk": (b"KDMV" + bytes(MIB), "vmdk"),
    "nothing": (b"", "raw"),
    "short qcow2": (qcow2(noise(MIB))[:50], "qcow2"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_image_that_is_not_what_it_says_is_refused(compute: Compute, name: str) -> None:
    before = compute.everything()
    body, disk_format = BAD[name]
    image = compute.images.add(body, disk_format)
    with pytest.raises(exception.ImageUnacceptable, match=image):
        compute.spawn(make_instance(image))
    assert compute.everything() == before


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_a_truncated_download_leaves_nothing(compute: Compute, disk_format: str) -> None:
    before = compute.everything()
    body = noise(2 * MIB) if disk_format == "raw" else qcow2(noise(2 * MIB))
    image = compute.images.add(body, disk_format)
    compute.images.cut_at = 3 << 19
    with pytest.raises(exception.ImageUnacceptable, match="sent 1572864 of its"):
        compute.spawn(make_instance(image))
    assert compute.everything() == before
    compute.images.cut_at = None
    compute.spawn(make_instance(image))


def test_a_download_that_breaks_off_is_told_to_the_user(compute: Compute) -> None:
    """Also a checksum that is wrong at the end. Nova would try other hosts, and say that none are left."""
    before = compute.everything()
    image = compute.images.add(noise(2 * MIB), "raw")
    compute.images.broken = OSError("checksum mismatch")
    with pytest.raises(exception.ImageUnacceptable, match="did not send all of it: checksum mismatch"):
        compute.spawn(make_instance(image))
    assert compute.everything() == before


def test_an_image_that_only_the_host_sees_is_broken_is_told_to_the_user(compute: Compute) -> None:
    """Its header is without fault; its tables point beyond its end."""
    before = compute.everything()
    image = compute.images.add(qcow2(noise(2 * MIB))[:MIB], "qcow2")
    with pytest.raises(exception.ImageUnacceptable, match="the host cannot read it"):
        compute.spawn(make_instance(image))
    assert compute.everything() == before


def test_an_image_larger_than_the_flavor_is_refused_before_it_travels(compute: Compute) -> None:
    before = compute.everything()
    image = compute.images.add(qcow2(noise(MIB), size=2 << 30), "qcow2")
    with pytest.raises(exception.FlavorDiskSmallerThanImage):
        compute.spawn(make_instance(image, root_gb=1))
    assert compute.everything() == before


def test_an_import_killed_half_way_is_swept_at_the_next_start(compute: Compute) -> None:
    before = compute.everything()
    compute.wire.call("VDI.create", {
        "name_label": "left", "name_description": "", "SR": compute.driver.host.sr, "virtual_size": MIB,
        "type": "user", "sharable": False, "read_only": False, "xenstore_data": {}, "sm_config": {}, "tags": [],
        "other_config": {"image-import": str(compute.driver.host.record["uuid"])},
    })  # fmt: skip
    compute.driver.cleanup_host("domu-1")
    compute.driver.init_host("domu-1")
    assert compute.everything() == before


def test_imports_of_one_image_wait_for_each_other(compute: Compute) -> None:
    image = compute.images.add(b"\0" * MIB, "raw")
    compute.images.gate = threading.Event()
    made = [make_instance(image) for _ in range(4)]
    threads = [threading.Thread(target=compute.spawn, args=(instance,)) for instance in made]
    for thread in threads:
        thread.start()
    compute.images.gate.set()
    for thread in threads:
        thread.join(60)
    assert compute.images.downloads == [image]
    assert set(compute.driver.list_instance_uuids()) == {instance.uuid for instance in made}


def test_volumes_and_kernels_are_refused_with_a_reason(compute: Compute, cached: str) -> None:
    before = compute.everything()
    with pytest.raises(exception.BuildAbortException, match="kernel"):
        compute.spawn(make_instance(cached, kernel_id="k"))
    with pytest.raises(exception.BuildAbortException, match="hw_vm_mode"):
        compute.spawn(make_instance(cached), hw_vm_mode="xen")
    assert compute.everything() == before
