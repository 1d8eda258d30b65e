"""From libvirt's XML of a living domain back to the port's records, and the changes a suspended one needs."""

import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

from xenstack.host.hypervisor.libvirt.xml import DRIVER_TYPES, NAMESPACE, disk_alias, metadata, vif_alias
from xenstack.host.hypervisor.port import (
    Consoles,
    DiskFormat,
    DiskKind,
    DiskSpec,
    Domain,
    DomainSpec,
    DomainState,
    FileUnusable,
    VifSpec,
)

_FORMATS = {name: format for format, name in DRIVER_TYPES.items()}


def read_domain(text: str, state: DomainState) -> Domain | None:
    """The domain that the XML tells of; None when it is not one of ours."""
    root = ET.fromstring(text)  # noqa: S314  (libvirt wrote it)
    ours = root.find(f"./metadata/{{{NAMESPACE}}}domain")
    if ours is None:
        return None
    vcpu = root.find("vcpu")
    log = root.find("./devices/serial/log")
    return Domain(
        uuid=root.findtext("uuid", ""),
        name=unquote(ours.get("name", "")),
        domid=int(ours.get("domid", "0")),
        state=state,
        memory_max=_bytes(root.find("memory")),
        memory_target=_bytes(root.find("currentMemory")),
        vcpus=0 if vcpu is None else int(vcpu.get("current") or vcpu.text or 0),
        disks=read_disks(root),
        vifs=read_vifs(root),
        console_log=None if log is None else Path(log.get("file", "")),
    )


def read_disks(root: ET.Element) -> tuple[DiskSpec, ...]:
    """Disks and CD drives, in the order of their userdevices."""
    disks = []
    for element in root.iterfind("./devices/disk"):
        userdevice = _alias(element).removeprefix(disk_alias(""))
        source, driver = element.find("source"), element.find("driver")
        path = None if source is None or source.get("file") is None else Path(source.get("file", ""))
        disks.append(
            DiskSpec(
                userdevice=userdevice,
                path=path,
                format=_FORMATS["raw" if driver is None else driver.get("type", "raw")],
                kind=DiskKind.CD if element.get("device") == "cdrom" else DiskKind.DISK,
                read_only=element.find("readonly") is not None,
                serial=element.findtext("serial", ""),
            )
        )
    return tuple(sorted(disks, key=lambda disk: int(disk.userdevice)))


def read_vifs(root: ET.Element) -> tuple[VifSpec, ...]:
    """Network interfaces, in the order of their device numbers."""
    vifs = []
    for element in root.iterfind("./devices/interface"):
        vifs.append(
            VifSpec(
                device=_alias(element).removeprefix(vif_alias("")),
                mac=_attribute(element, "mac", "address"),
                tap=_attribute(element, "target", "dev"),
                mtu=int(_attribute(element, "mtu", "size") or 1500),
            )
        )
    return tuple(sorted(vifs, key=lambda vif: int(vif.device)))


def read_devices(text: str) -> tuple[tuple[DiskSpec, ...], tuple[VifSpec, ...]]:
    """Disks and VIFs of a domain's XML."""
    root = ET.fromstring(text)  # noqa: S314  (libvirt wrote it)
    return read_disks(root), read_vifs(root)


def has_alias(text: str, alias: str) -> bool:
    """Does the domain still have the device?"""
    root = ET.fromstring(text)  # noqa: S314  (libvirt wrote it)
    return any(found.get("name") == alias for found in root.iterfind("./devices/*/alias"))


def stops_at_reboot(text: str) -> bool:
    """Was the domain made with AfterReboot.STOP?"""
    return ET.fromstring(text).findtext("on_reboot") == "destroy"  # noqa: S314  (libvirt wrote it)


def takes_cpus(text: str) -> bool:
    """May a CPU be hot-plugged? Not into a domain with a bounded cache of translated code (see xml.features)."""
    return ET.fromstring(text).find("./features/tcg/tb-cache") is None  # noqa: S314  (libvirt wrote it)


def read_consoles(text: str) -> Consoles:
    """Where the domain listens. It may have been made with another run directory than today's."""
    root = ET.fromstring(text)  # noqa: S314  (libvirt wrote it)
    listen, source = root.find("./devices/graphics/listen"), root.find("./devices/serial/source")
    if listen is None or source is None:
        raise FileUnusable("", "the domain has no consoles")
    return Consoles(vnc=Path(listen.get("socket", "")), text=Path(source.get("path", "")))


def moved(image_xml: str, spec: DomainSpec, consoles: Consoles) -> str:
    """The XML of a suspended domain with all that may have changed on the host since: domid and name, disk files,
    taps, console sockets and log. The devices are the same (the caller checked); the guest sees no difference."""
    root = ET.fromstring(image_xml)  # noqa: S314  (libvirt wrote it)
    for kept in root.iterfind("metadata"):
        for old in kept.findall(f"{{{NAMESPACE}}}domain"):
            kept.remove(old)
        kept.append(metadata(spec))
    disks = {disk_alias(disk.userdevice): disk for disk in spec.disks}
    for element in root.iterfind("./devices/disk"):
        _move_disk(element, disks[_alias(element)])
    vifs = {vif_alias(vif.device): vif for vif in spec.vifs}
    for element in root.iterfind("./devices/interface"):
        for target in element.iterfind("target"):
            target.set("dev", vifs[_alias(element)].tap)
    for element in (*root.iterfind("./devices/serial"), *root.iterfind("./devices/console")):
        _move_serial(element, consoles.text, spec.console_log)
    for screen in root.iterfind("./devices/graphics"):
        screen.attrib.pop("socket", None)
        for listen in screen.iterfind("listen"):
            listen.set("socket", str(consoles.vnc))
    return ET.tostring(root, encoding="unicode")


def _move_serial(element: ET.Element, socket: Path, log: Path | None) -> None:
    for source in element.iterfind("source"):
        source.set("path", str(socket))
    for kept in element.findall("log"):
        if log is None:
            element.remove(kept)
        else:
            kept.set("file", str(log))


def _move_disk(element: ET.Element, disk: DiskSpec) -> None:
    for source in element.findall("source"):
        element.remove(source)
    for driver in element.iterfind("driver"):
        driver.set("type", DRIVER_TYPES[disk.format])
    if disk.path is not None:
        element.insert(1, ET.Element("source", file=str(disk.path)))


def _alias(element: ET.Element) -> str:
    return _attribute(element, "alias", "name")


def _attribute(element: ET.Element, tag: str, name: str) -> str:
    found = element.find(tag)
    return "" if found is None else found.get(name, "")


def _bytes(element: ET.Element | None) -> int:
    if element is None or not element.text:
        return 0
    units = {"b": 1, "bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
    return int(element.text) * units[element.get("unit", "KiB")]


def with_medium(text: str, userdevice: str, path: Path | None, format: DiskFormat) -> str:
    """The XML of a domain's CD drive with another medium, or (None) without one."""
    root = ET.fromstring(text)  # noqa: S314  (libvirt wrote it)
    for element in root.iterfind("./devices/disk"):
        if _alias(element) == disk_alias(userdevice):
            for stale in ("backingStore", "mirror"):
                for child in element.findall(stale):
                    element.remove(child)
            drive = DiskSpec(userdevice=userdevice, path=path, format=format, kind=DiskKind.CD)
            _move_disk(element, drive)
            return ET.tostring(element, encoding="unicode")
    raise ValueError(f"no CD drive {userdevice}")
