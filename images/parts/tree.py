"""The guest's file system: busybox, dropbear, the libraries they load, and the files of images/guest."""

import os
import shutil
from pathlib import Path

from parts import drivers
from xenstack.run import run

_LIBRARIES = (
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libcom_err.so.2",
    "libcrypt.so.1",
    "libe2p.so.2",
    "libext2fs.so.2",
    "libgmp.so.10",
    "libtomcrypt.so.1",
    "libtommath.so.1",
    "libuuid.so.1",
    "libz.so.1",
)
_DISK_ONLY = ("sbin/resize2fs", "lib/libe2p.so.2", "lib/libext2fs.so.2", "lib/libcom_err.so.2", "lib/libuuid.so.1")
"""What the initramfs can do without: it has no file system to grow."""


def make(packages: Path, files: Path, root: Path, version: str) -> None:
    """Make the tree in `root`. Raises OSError, or CommandFailed when a program does not start in it."""
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "lib", "proc", "sys", "dev", "run", "root", "tmp", "mnt"):
        (root / folder).mkdir(parents=True)
    for folder in ("home/xen", "var/lib/guest", "var/log", "etc/dropbear"):
        (root / folder).mkdir(parents=True)
    (root / "lib64").symlink_to("lib")
    (root / "etc" / "inittab").symlink_to("/run/inittab")  # written at boot, when the consoles are known
    shutil.copytree(files, root, dirs_exist_ok=True, symlinks=True)
    _programs(packages, root)
    drivers.copy(packages, root, version)
    for path in [root, *root.rglob("*")]:
        os.lchown(path, 0, 0)
    os.chown(root / "home" / "xen", 1000, 1000)
    for secret in (root / "etc" / "shadow", root / "root"):
        secret.chmod(0o700 if secret.is_dir() else 0o600)


def without_disk_programs(root: Path) -> None:
    """Take out what only a root disk needs."""
    for name in _DISK_ONLY:
        (root / name).unlink()


def _programs(packages: Path, root: Path) -> None:
    shutil.copy(packages / "bin" / "busybox", root / "bin" / "busybox")
    for name in run("chroot", root, "/bin/busybox", "--list-full").stdout.split():
        link = root / name
        if name != "bin/busybox" and not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")
    for library in _LIBRARIES:
        found = [p for p in packages.rglob(library) if "i386" not in str(p)]
        shutil.copy(found[0].resolve(), root / "lib" / library)
    for program in ("usr/sbin/dropbear", "usr/bin/dropbearkey", "sbin/resize2fs"):
        target = root / program
        target.unlink(missing_ok=True)
        shutil.copy(packages / program, target)
        # --help and -V need no terminal, file or network: this only proves that every library is there
        run("chroot", root, "/" + program, "-V" if program.endswith("dropbear") else "--help", accept=(0, 1))
    shutil.rmtree(root / "dev")  # dropbear left a random seed where it took /dev/urandom to be
    (root / "dev").mkdir()
