"""Domain XML: one function per element.

The guest sees its devices in the order of their XenAPI numbers, because each number has its own PCI slot:

    slot   02     03       04 … 0a         0b           10 … 1f
           VGA    balloon  VIF 0 … VIF 6   random data  disk 0 … disk 15

so a device that is hot-plugged lands where it would have been from the start. CD drives are IDE (four at most), in the
order of their userdevices. Every device has an alias of ours (`ua-disk-3`), by which it is found again.

What XenAPI knows and libvirt does not (domid, name) is kept in the domain's <metadata>. All values were checked
(host/hypervisor/check.py) or are encoded here; ElementTree escapes the rest.
"""

import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import quote

from xenstack.host.hypervisor.libvirt.settings import Settings
from xenstack.host.hypervisor.port import (
    AfterReboot,
    Consoles,
    DiskBoot,
    DiskFormat,
    DiskKind,
    DiskSpec,
    DomainSpec,
    KernelBoot,
    Unsupported,
    VifSpec,
)

NAMESPACE = "urn:xenstack:domain:1"
MAX_CDS = 4  # two IDE channels with two drives each

DRIVER_TYPES = {DiskFormat.RAW: "raw", DiskFormat.QCOW2: "qcow2", DiskFormat.VHD: "vpc"}

_SLOT_VIDEO, _SLOT_BALLOON, _SLOT_VIF, _SLOT_RANDOM, _SLOT_DISK = 0x02, 0x03, 0x04, 0x0B, 0x10

ET.register_namespace("xenstack", NAMESPACE)


def domain_xml(spec: DomainSpec, consoles: Consoles, settings: Settings) -> str:
    """The whole domain. Raises Unsupported for more CD drives than there can be."""
    domain = ET.Element("domain", type=settings.domain_type)
    _text(domain, "name", spec.uuid)  # libvirt wants it unique; XenAPI's name_label is not
    _text(domain, "uuid", spec.uuid)
    ET.SubElement(domain, "metadata").append(metadata(spec))
    _text(domain, "memory", str(spec.memory_max), unit="b")
    _text(domain, "currentMemory", str(spec.memory_target), unit="b")
    _text(domain, "vcpu", str(spec.vcpus_max), current=str(spec.vcpus), placement="static")
    domain.append(operating_system(spec, settings))
    domain.append(features(spec, settings))
    if settings.cpu_model:
        cpu = ET.SubElement(domain, "cpu", mode="custom", match="exact", check="none")
        _text(cpu, "model", settings.cpu_model, fallback="forbid")
    ET.SubElement(domain, "clock", offset="utc")
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart" if spec.after_reboot is AfterReboot.RESTART else "destroy")
    _text(domain, "on_crash", "destroy")
    domain.append(devices(spec, consoles, settings))
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def metadata(spec: DomainSpec) -> ET.Element:
    """What only XenAPI knows. The name is percent-encoded: it may hold what XML must not."""
    name = quote(spec.name, safe=" ", errors="replace")
    return ET.Element(f"{{{NAMESPACE}}}domain", domid=str(spec.domid), name=name)


def operating_system(spec: DomainSpec, settings: Settings) -> ET.Element:
    """<os>: firmware, or a kernel."""
    element = ET.Element("os")
    _text(element, "type", "hvm", arch="x86_64", machine=settings.machine)
    if isinstance(spec.boot, KernelBoot):
        _text(element, "kernel", str(spec.boot.kernel))
        if spec.boot.ramdisk is not None:
            _text(element, "initrd", str(spec.boot.ramdisk))
        _text(element, "cmdline", spec.boot.args)
    else:
        ET.SubElement(element, "bootmenu", enable="no")
    return element


def features(spec: DomainSpec, settings: Settings) -> ET.Element:
    """<features>. The bounded cache of translated code is for domains to which no CPU can come later.

    QEMU aborts when a CPU that is hot-plugged finds no free part of the cache, and a small one is soon full.
    """
    element = ET.Element("features")
    ET.SubElement(element, "acpi")
    ET.SubElement(element, "apic")
    if settings.domain_type == "qemu" and settings.tb_cache_MiB and spec.vcpus == spec.vcpus_max:
        tcg = ET.SubElement(element, "tcg")
        _text(tcg, "tb-cache", str(settings.tb_cache_MiB * spec.vcpus_max), unit="MiB")
    return element


def devices(spec: DomainSpec, consoles: Consoles, settings: Settings) -> ET.Element:
    """<devices>."""
    element = ET.Element("devices")
    ET.SubElement(element, "controller", type="usb", index="0", model="none")
    orders = boot_orders(spec)
    drives = 0
    for spec_of_disk in sorted(spec.disks, key=lambda d: int(d.userdevice)):
        drive = drives
        if spec_of_disk.kind is DiskKind.CD:
            drives += 1
            if drives > MAX_CDS:
                raise Unsupported(f"more than {MAX_CDS} CD drives")
        element.append(disk(spec_of_disk, drive=drive, boot_order=orders.get(f"disk-{spec_of_disk.userdevice}")))
    for spec_of_vif in sorted(spec.vifs, key=lambda v: int(v.device)):
        element.append(vif(spec_of_vif, settings, boot_order=orders.get(f"vif-{spec_of_vif.device}")))
    element.append(serial(consoles.text, spec.console_log))
    element.append(graphics(consoles.vnc))
    video = ET.SubElement(element, "video")
    ET.SubElement(video, "model", type="vga", vram="16384", heads="1", primary="yes")
    video.append(_slot(_SLOT_VIDEO))
    # the guest's free pages go back to the machine
    balloon = ET.SubElement(element, "memballoon", model="virtio", freePageReporting="on")
    balloon.append(_slot(_SLOT_BALLOON))
    random = ET.SubElement(element, "rng", model="virtio")
    _text(random, "backend", "/dev/urandom", model="random")
    random.append(_slot(_SLOT_RANDOM))
    ET.SubElement(element, "panic", model="isa")
    return element


def boot_orders(spec: DomainSpec) -> dict[str, int]:
    """`disk-<userdevice>` or `vif-<device>` -> place in the firmware's order, from 1; empty for a direct kernel."""
    if not isinstance(spec.boot, DiskBoot):
        return {}
    by_number = sorted(spec.disks, key=lambda d: int(d.userdevice))
    names = {
        "c": [f"disk-{d.userdevice}" for d in by_number if d.kind is DiskKind.DISK],
        "d": [f"disk-{d.userdevice}" for d in by_number if d.kind is DiskKind.CD],
        "n": [f"vif-{v.device}" for v in sorted(spec.vifs, key=lambda v: int(v.device))],
    }
    ordered = [name for letter in spec.boot.order for name in names[letter]]
    return {name: place for place, name in enumerate(ordered, 1)}


def disk_alias(userdevice: str) -> str:
    """The alias of a disk or CD drive."""
    return f"ua-disk-{userdevice}"


def vif_alias(device: str) -> str:
    """The alias of a network interface."""
    return f"ua-vif-{device}"


def disk(spec: DiskSpec, *, drive: int = 0, boot_order: int | None = None) -> ET.Element:
    """<disk>: virtio for a disk, IDE drive number `drive` for a CD."""
    is_cd = spec.kind is DiskKind.CD
    element = ET.Element("disk", type="file", device="cdrom" if is_cd else "disk")
    # The page cache of the machine is used and the guest's flushes are obeyed; O_DIRECT is not everywhere (tmpfs).
    driver = ET.SubElement(element, "driver", name="qemu", type=DRIVER_TYPES[spec.format], cache="writeback")
    if not is_cd:
        driver.set("discard", "unmap")
    if spec.path is not None:
        ET.SubElement(element, "source", file=str(spec.path))
    if is_cd:
        ET.SubElement(element, "target", dev=f"hd{'abcd'[drive]}", bus="ide")
    else:
        ET.SubElement(element, "target", dev=f"vd{chr(ord('a') + int(spec.userdevice))}", bus="virtio")
    if is_cd or spec.read_only:
        ET.SubElement(element, "readonly")
    if spec.serial:
        _text(element, "serial", spec.serial)
    if boot_order is not None:
        ET.SubElement(element, "boot", order=str(boot_order))
    ET.SubElement(element, "alias", name=disk_alias(spec.userdevice))
    if not is_cd:
        element.append(_slot(_SLOT_DISK + int(spec.userdevice)))
    return element


def vif(spec: VifSpec, settings: Settings, *, boot_order: int | None = None) -> ET.Element:
    """<interface> on a tap that exists: the host's network adapter made it and removes it, libvirt only opens it."""
    element = ET.Element("interface", type="ethernet")
    ET.SubElement(element, "mac", address=spec.mac.lower())
    ET.SubElement(element, "target", dev=spec.tap, managed="no")
    ET.SubElement(element, "model", type="virtio")
    driver = ET.SubElement(element, "driver", name="qemu")
    if not settings.offload:
        ET.SubElement(driver, "host", csum="off", gso="off", tso4="off", tso6="off", ecn="off", ufo="off")
        ET.SubElement(driver, "guest", csum="off", tso4="off", tso6="off", ecn="off", ufo="off")
    if boot_order is None:
        ET.SubElement(element, "rom", enabled="no")  # the network boot ROM delays every start by seconds under TCG
    else:
        ET.SubElement(element, "boot", order=str(boot_order))
    ET.SubElement(element, "mtu", size=str(spec.mtu))
    ET.SubElement(element, "alias", name=vif_alias(spec.device))
    element.append(_slot(_SLOT_VIF + int(spec.device)))
    return element


def serial(socket: Path, log: Path | None) -> ET.Element:
    """<serial>: the first serial port, on a unix socket and, all of it, in a log file (appended to, so that it can be
    cut from outside)."""
    element = ET.Element("serial", type="unix")
    ET.SubElement(element, "source", mode="bind", path=str(socket))
    if log is not None:
        ET.SubElement(element, "log", file=str(log), append="on")
    ET.SubElement(element, "target", port="0")
    return element


def graphics(socket: Path) -> ET.Element:
    """<graphics>: VNC on a unix socket, so that no port can be guessed or taken."""
    element = ET.Element("graphics", type="vnc")
    ET.SubElement(element, "listen", type="socket", socket=str(socket))
    return element


def to_text(element: ET.Element) -> str:
    """One element as libvirt wants it."""
    return ET.tostring(element, encoding="unicode")


def _slot(slot: int) -> ET.Element:
    return ET.Element("address", type="pci", domain="0x0000", bus="0x00", slot=f"0x{slot:02x}", function="0x0")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
