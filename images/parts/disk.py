"""The bootable disk: an MBR, a FAT partition with syslinux, kernel and initramfs, and an ext4 root partition.

Every part is a file that a program fills from a directory and that is then copied to its place: `mke2fs -d` for ext4,
mtools for FAT, syslinux with an offset. No loop device and no mount are needed. Sizes are in sectors of 512 bytes.
"""

import shutil
import struct
from pathlib import Path

from xenstack.run import run

_SECTOR = 512
_MIB = 1024 * 1024 // _SECTOR
_BOOT_START, _BOOT_SIZE = _MIB, 31 * _MIB
_ROOT_START, _ROOT_SIZE = 32 * _MIB, 32 * _MIB
SIZE = (_ROOT_START + _ROOT_SIZE) * _SECTOR
"""Bytes: 64 MiB. The guest grows its last partition to the disk it finds itself on."""

LABEL = "guest-root"
KERNEL_LINE = "console=tty0 console=ttyS0,115200 quiet"
"""Kernel arguments of both ways to boot; the disk adds root=LABEL=..."""

_MBR_CODE = Path("/usr/lib/syslinux/mbr/mbr.bin")
_IDENTITY = "6e2d1f3a-7d0c-4b58-9a36-5e1c4f0b9a71"  # fixed: the same tree gives the same file system


def make(root: Path, kernel: Path, initrd: Path, work: Path, target: Path) -> None:
    """Write the disk to `target`; `work` is an empty folder for the parts. Raises CommandFailed or OSError."""
    boot, ext4 = work / "boot.img", work / "root.img"
    _fat(boot, kernel, initrd, work)
    _truncate(ext4, _ROOT_SIZE)
    environment = {"E2FSPROGS_FAKE_TIME": "1700000000"}
    features = "^has_journal,^metadata_csum,^64bit" + (",^orphan_file" if _knows_orphan_file() else "")
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", features, "-L", LABEL, "-U", _IDENTITY, "-E",
        f"hash_seed={_IDENTITY},resize=33554432", "-m", "0", "-d", root, ext4, env=environment)  # fmt: skip
    with target.open("wb") as disk:
        disk.truncate(SIZE)
        disk.write(_mbr())
        for part, start in ((boot, _BOOT_START), (ext4, _ROOT_START)):
            disk.seek(start * _SECTOR)
            with part.open("rb") as source:
                shutil.copyfileobj(source, disk)


def convert(raw: Path, target: Path, *options: str) -> None:
    """The same disk in another format: `options` are qemu-img's, such as -O qcow2."""
    run("qemu-img", "convert", "-f", "raw", *options, raw, target)


def _fat(image: Path, kernel: Path, initrd: Path, work: Path) -> None:
    _truncate(image, _BOOT_SIZE)
    settings = work / "mtoolsrc"
    settings.write_text("mtools_skip_check=1\n")
    environment = {"MTOOLSRC": str(settings), "SOURCE_DATE_EPOCH": "1700000000"}
    run("mformat", "-i", image, "-T", str(_BOOT_SIZE), "-H", str(_BOOT_START), "-h", "255", "-s", "63",
        "-N", "0x6e2d1f3a", "-v", "GUESTBOOT", "::", env=environment)  # fmt: skip
    config = work / "syslinux.cfg"
    config.write_text(
        "SERIAL 0 115200\nPROMPT 0\nTIMEOUT 1\nDEFAULT guest\nLABEL guest\n"
        f"  LINUX vmlinuz\n  INITRD initrd.gz\n  APPEND {KERNEL_LINE} root=LABEL={LABEL}\n"
    )
    run("mcopy", "-i", image, kernel, initrd, config, "::", env=environment)
    run("syslinux", "--install", image, env=environment)


def _mbr() -> bytes:
    """Boot code of syslinux, a fixed disk id and two entries; addresses count in sectors, not in cylinders."""
    entries = b"".join(
        struct.pack("<B3sB3sII", flag, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, size)
        for flag, kind, start, size in ((0x80, 0x0E, _BOOT_START, _BOOT_SIZE), (0, 0x83, _ROOT_START, _ROOT_SIZE))
    )
    code = _MBR_CODE.read_bytes()[:440].ljust(440, b"\0")
    return code + b"\x3a\x1f\x2d\x6e\0\0" + entries.ljust(64, b"\0") + b"\x55\xaa"


def _truncate(image: Path, sectors: int) -> None:
    with image.open("wb") as file:
        file.truncate(sectors * _SECTOR)


def _knows_orphan_file() -> bool:
    """Newer mke2fs turns orphan_file on by itself, which older kernels refuse; older mke2fs does not know the word."""
    version = run("mke2fs", "-V").stderr
    return "1.47" in version
