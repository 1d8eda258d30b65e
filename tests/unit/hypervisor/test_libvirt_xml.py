"""Domain XML against golden files, and back.

`REGENERATE=1` in the environment rewrites the files: read the difference before you commit it.
"""

import os
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from xenstack.host.hypervisor.libvirt import reading, xml
from xenstack.host.hypervisor.libvirt.settings import Settings
from xenstack.host.hypervisor.port import (
    AfterReboot,
    Consoles,
    DiskBoot,
    DiskFormat,
    DiskKind,
    DiskSpec,
    DomainSpec,
    DomainState,
    KernelBoot,
    Unsupported,
    VifSpec,
)

GOLDEN = Path(__file__).parent / "golden"
MIB = 1024 * 1024
UUID = "11111111-2222-4333-8444-555555555555"
SETTINGS = Settings(uri="qemu:///system", run_directory=Path("/run/c"))
CONSOLES = Consoles(vnc=Path(f"/run/c/{UUID}.vnc"), text=Path(f"/run/c/{UUID}.tty"))

DISKS = (
    DiskSpec(userdevice="3", path=Path("/sr/c.iso"), format=DiskFormat.RAW, kind=DiskKind.CD, read_only=True),
    DiskSpec(userdevice="0", path=Path("/sr/a.qcow2"), serial="0123-abc"),
    DiskSpec(userdevice="15", path=Path("/sr/b & <c>.vhd"), format=DiskFormat.VHD, read_only=True),
    DiskSpec(userdevice="4", path=None, format=DiskFormat.RAW, kind=DiskKind.CD, read_only=True),
)
VIFS = (
    VifSpec(device="1", mac="52:54:00:00:00:02", tap="vif7.1", mtu=1450),
    VifSpec(device="0", mac="52:54:00:AA:00:01", tap="vif7.0"),
)
DISK_GUEST = DomainSpec(
    uuid=UUID,
    name="web \x01 <1> ü",
    domid=7,
    memory_max=256 * MIB,
    memory_target=128 * MIB,
    vcpus=1,
    vcpus_max=4,
    boot=DiskBoot("dcn"),
    disks=DISKS,
    vifs=VIFS,
    console_log=Path("/log/console.7"),
)
KERNEL_GUEST = DomainSpec(
    uuid=UUID,
    name="small",
    domid=8,
    memory_max=96 * MIB,
    memory_target=96 * MIB,
    boot=KernelBoot(Path("/kernels/vmlinuz"), Path("/kernels/initrd"), 'console=ttyS0 x="<&>"'),
    after_reboot=AfterReboot.STOP,
)
CASES = {
    "disk-guest": (DISK_GUEST, SETTINGS),
    "kernel-guest": (KERNEL_GUEST, SETTINGS),
    "kvm-guest": (KERNEL_GUEST, replace(SETTINGS, domain_type="kvm", cpu_model="Nehalem", machine="q35")),
    "offloading-guest": (replace(KERNEL_GUEST, vifs=VIFS), replace(SETTINGS, offload=True, tb_cache_MiB=0)),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    spec, settings = CASES[case]
    text = xml.domain_xml(spec, CONSOLES, settings) + "\n"
    file = GOLDEN / f"{case}.xml"
    if os.environ.get("REGENERATE"):
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_has_a_case() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", ["disk-guest", "kernel-guest"])
def test_what_is_written_is_read_back(case: str) -> None:
    spec, settings = CASES[case]
    domain = reading.read_domain(xml.domain_xml(spec, CONSOLES, settings), DomainState.PAUSED)
    assert domain is not None
    for field in ("uuid", "name", "domid", "memory_max", "memory_target", "vcpus", "console_log"):
        assert getattr(domain, field) == getattr(spec, field), field
    assert domain.disks == tuple(sorted(spec.disks, key=lambda d: int(d.userdevice)))
    lower = (replace(vif, mac=vif.mac.lower()) for vif in spec.vifs)
    assert domain.vifs == tuple(sorted(lower, key=lambda v: int(v.device)))


def test_domains_of_others_are_not_ours() -> None:
    root = ET.fromstring(xml.domain_xml(KERNEL_GUEST, CONSOLES, SETTINGS))
    metadata = root.find("metadata")
    assert metadata is not None
    root.remove(metadata)
    assert reading.read_domain(ET.tostring(root, encoding="unicode"), DomainState.RUNNING) is None


def test_boot_order() -> None:
    assert xml.boot_orders(DISK_GUEST) == {
        "disk-3": 1,
        "disk-4": 2,
        "disk-0": 3,
        "disk-15": 4,
        "vif-0": 5,
        "vif-1": 6,
    }
    assert xml.boot_orders(replace(DISK_GUEST, boot=DiskBoot("c"))) == {"disk-0": 1, "disk-15": 2}
    assert xml.boot_orders(KERNEL_GUEST) == {}


def test_slots_never_collide() -> None:
    disks = tuple(DiskSpec(userdevice=str(n), path=Path(f"/d{n}")) for n in range(16))
    vifs = tuple(VifSpec(device=str(n), mac=f"52:54:00:00:00:{n:02x}", tap=f"vif1.{n}") for n in range(7))
    root = ET.fromstring(xml.domain_xml(replace(DISK_GUEST, disks=disks, vifs=vifs), CONSOLES, SETTINGS))
    slots = [address.get("slot") for address in root.iter("address")]
    assert len(slots) == len(set(slots)) == 16 + 7 + 3
    assert not {"0x00", "0x01"} & set(slots), "the chip set's own"


def test_four_cd_drives_and_no_more() -> None:
    cds = tuple(DiskSpec(userdevice=str(n), path=None, kind=DiskKind.CD, read_only=True) for n in range(5))
    xml.domain_xml(replace(DISK_GUEST, disks=cds[:4]), CONSOLES, SETTINGS)
    with pytest.raises(Unsupported):
        xml.domain_xml(replace(DISK_GUEST, disks=cds), CONSOLES, SETTINGS)


def test_a_suspended_domain_moves() -> None:
    before = xml.domain_xml(DISK_GUEST, CONSOLES, SETTINGS)
    after = replace(
        DISK_GUEST,
        name="other",
        domid=9,
        disks=tuple(replace(d, path=d.path and Path(f"/new{d.path}")) for d in DISKS),
        vifs=tuple(replace(v, tap=v.tap.replace("7", "9"), mac=v.mac.lower()) for v in VIFS),
        console_log=Path("/log/console.9"),
    )
    consoles = Consoles(vnc=Path("/elsewhere/v"), text=Path("/elsewhere/t"))
    text = reading.moved(before, after, consoles)
    domain = reading.read_domain(text, DomainState.PAUSED)
    assert domain is not None
    assert (domain.name, domain.domid, domain.console_log) == ("other", 9, Path("/log/console.9"))
    assert domain.disks == tuple(sorted(after.disks, key=lambda d: int(d.userdevice)))
    assert domain.vifs == tuple(sorted(after.vifs, key=lambda v: int(v.device)))
    assert reading.read_consoles(text) == consoles
    for old in ("vif7", "/run/c", "console.7", '"/sr'):
        assert old not in text


def test_media() -> None:
    text = xml.domain_xml(DISK_GUEST, CONSOLES, SETTINGS)
    empty = ET.fromstring(reading.with_medium(text, "3", None, DiskFormat.RAW))
    assert empty.find("source") is None
    full = ET.fromstring(reading.with_medium(text, "4", Path("/x.iso"), DiskFormat.QCOW2))
    source, driver = full.find("source"), full.find("driver")
    assert source is not None
    assert driver is not None
    assert (source.get("file"), driver.get("type")) == ("/x.iso", "qcow2")
