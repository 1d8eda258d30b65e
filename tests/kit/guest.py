"""A guest for tests of the hypervisor: Debian's kernel and busybox, up in seconds, a root shell on its serial port.

Not the guest image users get (images/): this one has no login and no network configuration, so a test can tell it what
to do through its text console. It is built once below state/install.
"""

import gzip
import lzma
import stat
from dataclasses import dataclass
from pathlib import Path

from xenstack.run import run

MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
    *("failover", "net_failover", "virtio_net", "virtio_balloon", "evdev", "button"),
    *("scsi_common", "scsi_mod", "libata", "ata_piix", "cdrom", "sr_mod"),
    *("pvpanic", "pvpanic-pci", "pvpanic-mmio"),
)
KERNEL_ARGS = "console=ttyS0 quiet panic=0"

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /var/run /var/log
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /modules.order); do insmod /modules/$m.ko 2>/dev/null; done
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\\nexec poweroff -f\\n' > /etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
while :; do acpid -d -f; sleep 0.2; done >/dev/null 2>&1 &
(sleep 0.2; echo 'login: ' >/dev/ttyS0) &
while :; do setsid sh -c 'exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1'; done
"""


@dataclass(frozen=True)
class Guest:
    """Files to boot from."""

    kernel: Path
    ramdisk: Path
    args: str = KERNEL_ARGS


def test_guest(folder: Path) -> Guest:
    """The guest, built below `folder` unless it is there already. Needs root's apt only the first time."""
    guest = Guest(folder / "vmlinuz", folder / "initrd.gz")
    if not (guest.kernel.exists() and guest.ramdisk.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        root = _unpack_kernel(folder)
        guest.kernel.write_bytes(next(root.glob("boot/vmlinuz-*")).read_bytes())
        part = folder / "initrd.part"
        part.write_bytes(gzip.compress(_ramdisk(root), 6))
        part.replace(guest.ramdisk)
        run("rm", "-rf", root)
    return guest


test_guest.__test__ = False  # type: ignore[attr-defined]


def _unpack_kernel(folder: Path) -> Path:
    depends = run("apt-cache", "depends", "--important", "linux-image-cloud-amd64").stdout
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends:" in line)
    run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=folder, timeout_s=300)
    archive = next(folder.glob("linux-image-*.deb"))
    root = folder / "root"
    run("dpkg-deb", "-x", archive, root)
    archive.unlink()
    return root


def _ramdisk(root: Path) -> bytes:
    files = {"init": (0o100755, INIT.encode()), "bin/busybox": (0o100755, Path("/bin/busybox").read_bytes())}
    found = []
    for name in MODULES:
        for module in root.rglob(f"{name}.ko*"):
            data = module.read_bytes()
            files[f"modules/{name}.ko"] = (0o100644, lzma.decompress(data) if module.suffix == ".xz" else data)
            found.append(name)
    files["modules.order"] = (0o100644, "\n".join(found).encode())
    return b"".join(
        [
            *(_cpio(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "modules", "etc", "dev")),
            _cpio("dev/console", stat.S_IFCHR | 0o600, b"", device=(5, 1)),
            *(_cpio(name, mode, data) for name, (mode, data) in files.items()),
            _cpio("TRAILER!!!", 0, b""),
        ]
    )


def _cpio(name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a newc archive."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
