"""What every hypervisor adapter must do, whatever is behind it: one suite, run once per adapter.

A test module subclasses `HypervisorSuite` and provides the fixture `rig`. Assertions about the end of a thing are about
absence: of the domain, its process, its sockets; never "it is not running".
"""

import threading
import uuid as uuids
from dataclasses import replace
from pathlib import Path

import pytest
from tests.kit.hypervisor_rig import MIB, Rig, wait_until
from tests.kit.rfb import greet

from xenstack.host.hypervisor.port import (
    AfterReboot,
    BadDomainState,
    DeviceExists,
    DeviceMissing,
    DiskBoot,
    DiskFormat,
    DiskKind,
    DiskSpec,
    DomainExists,
    DomainMissing,
    DomainSpec,
    DomainState,
    EventKind,
    FileUnusable,
    Firmware,
    InvalidSpec,
    KernelBoot,
    NotEnoughMemory,
    StopReason,
    Unsupported,
    VifSpec,
)


class HypervisorSuite:
    """The suite. `rig` is the subclass's fixture."""

    # -- life and death

    def test_a_domain_is_made_paused_with_all_it_was_asked(self, rig: Rig) -> None:
        spec = rig.spec(
            name="<na\"me> & 'guest' ü",
            vcpus=1,
            vcpus_max=2,
            disks=(rig.disk("0"), rig.disk("3", read_only=True), _cd("1", None)),
            vifs=(rig.vif("0"), rig.vif("2")),
        )
        rig.hypervisor.create_paused(spec)
        domain = rig.hypervisor.domain(spec.uuid)
        assert domain is not None
        assert (domain.state, domain.name, domain.domid) == (DomainState.PAUSED, spec.name, spec.domid)
        assert (domain.memory_max, domain.memory_target, domain.vcpus) == (96 * MIB, 96 * MIB, 1)
        assert sorted(domain.disks, key=lambda d: d.userdevice) == sorted(spec.disks, key=lambda d: d.userdevice)
        assert domain.vifs == spec.vifs
        assert domain.console_log == spec.console_log
        assert domain in rig.hypervisor.domains()

    def test_life(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        rig.hypervisor.pause(spec.uuid)
        assert _state(rig, spec) is DomainState.PAUSED
        rig.hypervisor.pause(spec.uuid)
        rig.hypervisor.unpause(spec.uuid)
        rig.hypervisor.unpause(spec.uuid)
        assert _state(rig, spec) is DomainState.RUNNING
        rig.hypervisor.destroy(spec.uuid)
        rig.assert_gone(spec)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.DESTROYED)
        assert rig.heard.of(spec.uuid) == [
            (EventKind.STARTED, None),
            (EventKind.RESUMED, None),
            (EventKind.PAUSED, None),
            (EventKind.RESUMED, None),
            (EventKind.STOPPED, StopReason.DESTROYED),
        ]

    def test_destroy_of_nothing_and_of_a_paused_domain(self, rig: Rig) -> None:
        rig.hypervisor.destroy(str(uuids.uuid4()))
        spec = rig.spec()
        rig.hypervisor.create_paused(spec)
        rig.hypervisor.destroy(spec.uuid)
        rig.hypervisor.destroy(spec.uuid)
        rig.assert_gone(spec)

    def test_the_same_uuid_twice(self, rig: Rig) -> None:
        spec = rig.spec()
        rig.hypervisor.create_paused(spec)
        with pytest.raises(DomainExists):
            rig.hypervisor.create_paused(replace(rig.spec(), uuid=spec.uuid))
        assert _state(rig, spec) is DomainState.PAUSED

    def test_two_domains_may_have_one_name(self, rig: Rig) -> None:
        for spec in (rig.spec(name="twin"), rig.spec(name="twin")):
            rig.hypervisor.create_paused(spec)
        assert [d.name for d in rig.hypervisor.domains()] == ["twin", "twin"]

    def test_the_power_button(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        rig.hypervisor.request_shutdown(spec.uuid)
        assert rig.hypervisor.await_gone(spec.uuid, 30)
        rig.assert_gone(spec)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.SHUTDOWN)

    def test_a_paused_guest_has_no_power_button(self, rig: Rig) -> None:
        spec = rig.spec()
        rig.hypervisor.create_paused(spec)
        with pytest.raises(BadDomainState):
            rig.hypervisor.request_shutdown(spec.uuid)
        with pytest.raises(BadDomainState):
            rig.hypervisor.request_reboot(spec.uuid)
        assert not rig.hypervisor.await_gone(spec.uuid, 0.1)

    def test_requested_reboot(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        rig.hypervisor.request_reboot(spec.uuid)
        rig.heard.wait(spec.uuid, EventKind.REBOOTED)
        rig.wait_for_login(spec, 2)
        domain = rig.hypervisor.domain(spec.uuid)
        assert domain is not None
        assert (domain.state, domain.domid, domain.disks) == (DomainState.RUNNING, spec.domid, spec.disks)

    def test_requested_reboot_of_a_guest_that_must_stop(self, rig: Rig) -> None:
        spec = rig.start(rig.spec(after_reboot=AfterReboot.STOP))
        rig.hypervisor.request_reboot(spec.uuid)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.REBOOT)
        rig.assert_gone(spec)

    def test_reset_of_a_guest_that_must_stop(self, rig: Rig) -> None:
        spec = rig.start(rig.spec(after_reboot=AfterReboot.STOP))
        rig.hypervisor.reset(spec.uuid)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.REBOOT)
        rig.assert_gone(spec)

    def test_reset(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        rig.hypervisor.reset(spec.uuid)
        rig.heard.wait(spec.uuid, EventKind.REBOOTED)
        rig.wait_for_login(spec, 2)

    def test_the_guest_reboots_itself(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        rig.guest_reboots(spec)
        rig.heard.wait(spec.uuid, EventKind.REBOOTED)
        rig.wait_for_login(spec, 2)

    def test_the_guest_reboots_itself_and_must_stop(self, rig: Rig) -> None:
        spec = rig.start(rig.spec(after_reboot=AfterReboot.STOP))
        rig.guest_reboots(spec)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.REBOOT)
        rig.assert_gone(spec)

    def test_the_guest_powers_off(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        rig.guest_shuts_down(spec)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.SHUTDOWN)
        rig.assert_gone(spec)

    # -- suspend

    def test_suspend_and_resume_somewhere_else(self, rig: Rig) -> None:
        spec = rig.start(rig.spec(disks=(rig.disk("0"), _cd("1", None)), vifs=(rig.vif("0"),)))
        image = rig.directory / "suspend image"
        rig.hypervisor.suspend(spec.uuid, image)
        rig.assert_gone(spec)
        rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.SUSPENDED)
        assert image.stat().st_size > 0
        vif = replace(rig.vif("0"), mac=spec.vifs[0].mac)
        log = rig.directory / "console.resumed"
        after = replace(spec, domid=spec.domid + 100, console_log=log, vifs=(vif,))
        rig.hypervisor.resume(after, image)
        domain = rig.hypervisor.domain(spec.uuid)
        assert domain is not None
        assert (domain.state, domain.domid, domain.vifs) == (DomainState.PAUSED, after.domid, (vif,))
        assert domain.console_log == log
        rig.hypervisor.unpause(spec.uuid)
        rig.hypervisor.request_shutdown(spec.uuid)
        assert rig.hypervisor.await_gone(spec.uuid, 30), "the resumed guest does not hear its power button"
        assert image.exists(), "the image is the caller's"

    def test_suspend_to_nowhere_changes_nothing(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        image = rig.directory / "no such folder" / "image"
        with pytest.raises(FileUnusable):
            rig.hypervisor.suspend(spec.uuid, image)
        assert _state(rig, spec) is DomainState.RUNNING
        assert not image.exists()

    def test_resume_of_what_is_no_image(self, rig: Rig) -> None:
        image = rig.directory / "image"
        image.write_bytes(b"\0" * 4096)
        spec = rig.spec()
        with pytest.raises(FileUnusable):
            rig.hypervisor.resume(spec, image)
        with pytest.raises(FileUnusable):
            rig.hypervisor.resume(spec, rig.directory / "absent")
        rig.assert_gone(spec)

    def test_resume_with_other_devices(self, rig: Rig) -> None:
        spec = rig.spec(vifs=(rig.vif("0"),))
        rig.hypervisor.create_paused(spec)
        image = rig.directory / "image"
        rig.hypervisor.suspend(spec.uuid, image)
        for other in (
            replace(spec, disks=(*spec.disks, rig.disk("1"))),
            replace(spec, vifs=()),
            replace(spec, vifs=(replace(spec.vifs[0], mac="52:54:00:ff:ff:ff"),)),
        ):
            with pytest.raises(InvalidSpec):
                rig.hypervisor.resume(other, image)
            rig.assert_gone(spec)

    # -- disks

    def test_hot_plug_of_a_disk(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        disk = rig.disk("2")
        rig.hypervisor.attach_disk(spec.uuid, disk)
        assert _disks(rig, spec) == (*spec.disks, disk)
        with pytest.raises(DeviceExists):
            rig.hypervisor.attach_disk(spec.uuid, rig.disk("2"))
        rig.hypervisor.detach_disk(spec.uuid, "2")
        assert _disks(rig, spec) == spec.disks
        rig.hypervisor.detach_disk(spec.uuid, "2")
        rig.hypervisor.attach_disk(spec.uuid, disk)
        assert _disks(rig, spec) == (*spec.disks, disk)

    def test_hot_plug_into_a_paused_guest(self, rig: Rig) -> None:
        spec = rig.spec()
        rig.hypervisor.create_paused(spec)
        rig.hypervisor.attach_disk(spec.uuid, disk := rig.disk("1"))
        rig.hypervisor.attach_vif(spec.uuid, vif := rig.vif("1"))
        assert _disks(rig, spec) == (*spec.disks, disk)
        assert _vifs(rig, spec) == (vif,)

    def test_a_disk_that_cannot_be_opened(self, rig: Rig) -> None:
        absent = rig.directory / "absent.raw"
        spec = rig.spec(disks=(rig.disk("0"), DiskSpec(userdevice="1", path=absent, format=DiskFormat.RAW)))
        with pytest.raises(FileUnusable) as failure:
            rig.hypervisor.create_paused(spec)
        assert failure.value.path == str(absent)
        rig.assert_gone(spec)
        spec = rig.spec()
        rig.hypervisor.create_paused(spec)
        with pytest.raises(FileUnusable):
            rig.hypervisor.attach_disk(spec.uuid, DiskSpec(userdevice="1", path=absent, format=DiskFormat.RAW))
        assert _disks(rig, spec) == spec.disks

    def test_a_disk_has_one_writer(self, rig: Rig) -> None:
        first = rig.spec()
        rig.hypervisor.create_paused(first)
        second = rig.spec(disks=first.disks)
        with pytest.raises(FileUnusable):
            rig.hypervisor.create_paused(second)
        rig.assert_gone(second)
        rig.hypervisor.destroy(first.uuid)
        rig.hypervisor.create_paused(second)

    def test_detach_from_no_domain(self, rig: Rig) -> None:
        rig.hypervisor.detach_disk(str(uuids.uuid4()), "0")
        rig.hypervisor.detach_vif(str(uuids.uuid4()), "0")

    # -- CDs

    def test_media_change(self, rig: Rig) -> None:
        spec = rig.spec(disks=(rig.disk("0"), _cd("3", None)))
        rig.start(spec)
        medium = rig.disk("3").path
        assert medium is not None
        rig.hypervisor.eject_cd(spec.uuid, "3")
        rig.hypervisor.insert_cd(spec.uuid, "3", medium, DiskFormat.RAW)
        assert _disks(rig, spec)[1].path == medium
        with pytest.raises(DeviceExists):
            rig.hypervisor.insert_cd(spec.uuid, "3", medium, DiskFormat.RAW)
        rig.hypervisor.eject_cd(spec.uuid, "3")
        assert _disks(rig, spec)[1].path is None
        with pytest.raises(FileUnusable):
            rig.hypervisor.insert_cd(spec.uuid, "3", rig.directory / "absent", DiskFormat.RAW)
        for verb in (
            lambda: rig.hypervisor.insert_cd(spec.uuid, "0", medium, DiskFormat.RAW),
            lambda: rig.hypervisor.eject_cd(spec.uuid, "5"),
        ):
            with pytest.raises(DeviceMissing):
                verb()

    def test_cd_drives_are_not_hot_plugged(self, rig: Rig) -> None:
        spec = rig.spec(disks=(rig.disk("0"), _cd("3", None)))
        rig.hypervisor.create_paused(spec)
        with pytest.raises(Unsupported):
            rig.hypervisor.attach_disk(spec.uuid, _cd("4", None))
        with pytest.raises(Unsupported):
            rig.hypervisor.detach_disk(spec.uuid, "3")
        assert _disks(rig, spec) == spec.disks

    def test_two_guests_may_read_one_cd(self, rig: Rig) -> None:
        medium = rig.disk("3").path
        for _ in range(2):
            rig.hypervisor.create_paused(rig.spec(disks=(_cd("0", medium),)))

    # -- VIFs

    def test_hot_plug_of_a_vif(self, rig: Rig) -> None:
        spec = rig.start(rig.spec(vifs=(rig.vif("0"),)))
        vif = rig.vif("3")
        rig.hypervisor.attach_vif(spec.uuid, vif)
        assert _vifs(rig, spec) == (*spec.vifs, vif)
        with pytest.raises(DeviceExists):
            rig.hypervisor.attach_vif(spec.uuid, rig.vif("3"))
        rig.hypervisor.detach_vif(spec.uuid, "3")
        rig.hypervisor.detach_vif(spec.uuid, "3")
        assert _vifs(rig, spec) == spec.vifs

    # -- memory and CPUs

    def test_memory_target(self, rig: Rig) -> None:
        spec = rig.spec(memory_max=128 * MIB, memory_target=128 * MIB)
        rig.start(spec)
        rig.hypervisor.set_memory_target(spec.uuid, 112 * MIB)
        wait_until(lambda: rig.hypervisor.usage(spec.uuid).memory == 112 * MIB, 15, "the balloon")
        domain = rig.hypervisor.domain(spec.uuid)
        assert domain is not None
        assert (domain.memory_target, domain.memory_max) == (112 * MIB, 128 * MIB)
        with pytest.raises(InvalidSpec):
            rig.hypervisor.set_memory_target(spec.uuid, 129 * MIB)

    def test_vcpus(self, rig: Rig) -> None:
        spec = rig.start(rig.spec(vcpus_max=2))
        rig.hypervisor.set_vcpus(spec.uuid, 2)
        domain = rig.hypervisor.domain(spec.uuid)
        assert domain is not None
        assert domain.vcpus == 2
        with pytest.raises(InvalidSpec):
            rig.hypervisor.set_vcpus(spec.uuid, 3)

    def test_more_memory_than_there_is(self, rig: Rig) -> None:
        spec = rig.spec(memory_max=1 << 50, memory_target=1 << 50)
        with pytest.raises(NotEnoughMemory) as failure:
            rig.hypervisor.create_paused(spec)
        assert failure.value.needed == 1 << 50
        rig.assert_gone(spec)

    # -- what is refused

    @pytest.mark.parametrize(
        "changes",
        [
            {"uuid": "../../etc/passwd"},
            {"domid": -1},
            {"vcpus": 0},
            {"vcpus": 3, "vcpus_max": 2},
            {"memory_max": 1},
            {"memory_target": 1 << 30},
            {"boot": DiskBoot("x")},
            {"boot": DiskBoot("cc")},
            {"boot": KernelBoot(Path("relative"))},
            {"boot": KernelBoot(Path("/a/../b"))},
            {"boot": KernelBoot(Path("/k"), None, "line\nbreak")},
            {"boot": KernelBoot(Path("/k"), None, "x" * 3000)},
            {"console_log": Path("relative")},
            {"disks": (DiskSpec(userdevice="16", path=Path("/d")),)},
            {"disks": (DiskSpec(userdevice="01", path=Path("/d")),)},
            {"disks": (DiskSpec(userdevice="0", path=None),)},
            {"disks": (DiskSpec(userdevice="0", path=Path("/d")), DiskSpec(userdevice="0", path=Path("/e")))},
            {"disks": (DiskSpec(userdevice="0", path=Path("/d"), serial="a,b=c"),)},
            {"disks": (DiskSpec(userdevice="0", path=Path("/d"), serial="x" * 21),)},
            {"vifs": (VifSpec(device="7", mac="52:54:00:00:00:01", tap="t"),)},
            {"vifs": (VifSpec(device="0", mac="53:54:00:00:00:01", tap="t"),)},
            {"vifs": (VifSpec(device="0", mac="52:54:00:00:00:01", tap="t/../x"),)},
            {"vifs": (VifSpec(device="0", mac="52:54:00:00:00:01", tap="t", mtu=1),)},
        ],
        ids=str,
    )
    def test_bad_specifications(self, rig: Rig, changes: dict[str, object]) -> None:
        spec = rig.spec(**changes)
        with pytest.raises(InvalidSpec):
            rig.hypervisor.create_paused(spec)
        assert rig.hypervisor.domains() == []

    def test_firmware_we_do_not_have(self, rig: Rig) -> None:
        spec = rig.spec(boot=DiskBoot("c"), firmware=Firmware.UEFI)
        with pytest.raises(Unsupported):
            rig.hypervisor.create_paused(spec)
        rig.assert_gone(spec)

    def test_verbs_on_no_domain(self, rig: Rig) -> None:
        uuid = str(uuids.uuid4())
        h = rig.hypervisor
        assert h.domain(uuid) is None
        assert h.await_gone(uuid, 0)
        for verb in (
            lambda: h.unpause(uuid),
            lambda: h.pause(uuid),
            lambda: h.request_shutdown(uuid),
            lambda: h.request_reboot(uuid),
            lambda: h.reset(uuid),
            lambda: h.suspend(uuid, rig.directory / "image"),
            lambda: h.attach_disk(uuid, rig.disk("1")),
            lambda: h.attach_vif(uuid, rig.vif("1")),
            lambda: h.insert_cd(uuid, "1", rig.directory, DiskFormat.RAW),
            lambda: h.eject_cd(uuid, "1"),
            lambda: h.set_memory_target(uuid, 64 * MIB),
            lambda: h.set_vcpus(uuid, 1),
            lambda: h.consoles(uuid),
            lambda: h.usage(uuid),
        ):
            with pytest.raises(DomainMissing):
                verb()

    # -- consoles and facts

    def test_consoles(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        consoles = rig.hypervisor.consoles(spec.uuid)
        width, height = greet(consoles.vnc)
        assert width > 0
        assert height > 0
        assert greet(consoles.vnc) == (width, height), "a second client"
        assert consoles.text.is_socket()
        rig.hypervisor.destroy(spec.uuid)
        assert not consoles.vnc.exists()
        assert not consoles.text.exists()
        with pytest.raises(DomainMissing):
            rig.hypervisor.consoles(spec.uuid)

    def test_usage_and_facts(self, rig: Rig) -> None:
        spec = rig.start(rig.spec())
        assert rig.hypervisor.usage(spec.uuid).cpu_s >= 0
        facts = rig.hypervisor.facts()
        assert facts.memory_total >= facts.memory_free > 0
        assert facts.cpus >= facts.sockets >= 1
        assert facts.cpus <= facts.sockets * facts.cores_per_socket * facts.threads_per_core
        assert "hvm-3.0-x86_64" in facts.capabilities
        assert facts.cpu_flags
        assert facts.hypervisor_version[0].isdigit()

    # -- many at once

    def test_calls_from_many_threads(self, rig: Rig) -> None:
        specs = [rig.spec() for _ in range(4)]
        failures: list[BaseException] = []

        def live(spec: DomainSpec) -> None:
            try:
                rig.hypervisor.create_paused(spec)
                rig.hypervisor.unpause(spec.uuid)
                rig.hypervisor.pause(spec.uuid)
                rig.hypervisor.destroy(spec.uuid)
            except BaseException as why:
                failures.append(why)

        threads = [threading.Thread(target=live, args=(spec,)) for spec in specs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        for spec in specs:
            rig.assert_gone(spec)


def _cd(userdevice: str, path: Path | None) -> DiskSpec:
    return DiskSpec(userdevice=userdevice, path=path, format=DiskFormat.RAW, kind=DiskKind.CD, read_only=True)


def _state(rig: Rig, spec: DomainSpec) -> DomainState:
    domain = rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    return domain.state


def _disks(rig: Rig, spec: DomainSpec) -> tuple[DiskSpec, ...]:
    domain = rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    return tuple(sorted(domain.disks, key=lambda d: int(d.userdevice)))


def _vifs(rig: Rig, spec: DomainSpec) -> tuple[VifSpec, ...]:
    domain = rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    return tuple(sorted(domain.vifs, key=lambda v: int(v.device)))
