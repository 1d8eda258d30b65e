"""Kernel modules: the few the guest needs, in an order in which `insmod` can load them.

Two lists: `boot` is loaded before anything else; `late` (IDE and SCSI, which probe slowly, and CD file systems) in the
background, when a config drive is looked for, or when the root disk is on nothing faster.
"""

import re
import shutil
from pathlib import Path

BOOT = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio-rng",
    "virtio_balloon",
    "xen-blkfront",
    "xen-netfront",
    "evdev",  # evdev and button: the ACPI power button
    "button",
    "pvpanic-mmio",  # a guest that crashes tells its host
    "pvpanic-pci",
)
LATE = ("virtio_scsi", "ata_piix", "ata_generic", "sd_mod", "sr_mod", "isofs", "vfat", "nls_iso8859-1")


def copy(source: Path, root: Path, version: str) -> None:
    """Copy the modules and what they depend on from an unpacked kernel package to root/lib/modules, with the two lists.

    Raises KeyError for a module the kernel does not have.
    """
    known = {_name(file): file for file in (source / "lib" / "modules" / version).rglob("*.ko")}
    target = root / "lib" / "modules"
    target.mkdir(parents=True, exist_ok=True)
    seen: list[str] = []
    for title, wanted in (("boot", BOOT), ("late", LATE)):
        before = len(seen)
        for module in wanted:
            _visit(module.replace("-", "_"), known, seen)
        (target / title).write_text("".join(f"{known[m].name}\n" for m in seen[before:]))
    for module in seen:
        shutil.copy(known[module], target / known[module].name)


def _name(file: Path) -> str:
    return file.stem.replace("-", "_")


def _visit(module: str, known: dict[str, Path], seen: list[str]) -> None:
    if module in seen:
        return
    for needed in _depends(known[module]):
        if needed in known:  # else it is built in
            _visit(needed, known, seen)
    seen.append(module)


def _depends(file: Path) -> list[str]:
    """What a module's .modinfo section says it needs: NUL-terminated `depends=a,b`."""
    found = re.search(rb"\0depends=([^\0]*)\0", file.read_bytes())
    return [m.decode().replace("-", "_") for m in found.group(1).split(b",") if m] if found else []
