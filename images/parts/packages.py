"""Debian packages as a source of files: downloaded once into a cache, unpacked, never installed.

What is in the cache is used as it is, so a second build needs no network; delete the cache to get newer packages.
"""

import re
import shutil
from pathlib import Path

from xenstack.run import CommandFailed, run

KERNEL = "linux-image-cloud-amd64"
"""A metapackage. Debian's cloud kernel has Xen's front ends as modules (block, network) and built in (hvc console)."""

PROGRAMS = (
    "busybox-static",  # init, shell, DHCP client, getty, acpid, mdev: everything that is not below
    "dropbear-bin",  # the ssh server
    "e2fsprogs",  # resize2fs, on the disk only
    "libc6",
    "libcom-err2",
    "libcrypt1",
    "libext2fs2",
    "libgmp10",
    "libtomcrypt1",
    "libtommath1",
    "libuuid1",
    "zlib1g",
)


def unpack(cache: Path, into: Path) -> str:
    """Unpack every package into `into`. Returns the kernel's version, as its module folder has it.

    Raises CommandFailed when a package is neither cached nor to be downloaded, also with fresh package lists.
    """
    cache.mkdir(parents=True, exist_ok=True)
    try:
        debs = _all(cache)
    except CommandFailed:  # no package lists, or old ones that name versions which are gone
        run("apt-get", "-q", "update", timeout_s=600)
        debs = _all(cache)
    for deb in debs:
        run("dpkg-deb", "-x", deb, into, timeout_s=300)
    versions = sorted((into / "lib" / "modules").iterdir())
    return versions[-1].name


def _all(cache: Path) -> list[Path]:
    return [_cached(cache, name) or _download(cache, name) for name in (_kernel_package(cache), *PROGRAMS)]


def _cached(cache: Path, package: str) -> Path | None:
    found = sorted(cache.glob(f"{package}_*.deb"))
    return found[-1] if found else None


def _download(cache: Path, package: str) -> Path:
    part = cache / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    # apt drops its rights for downloads and warns when it cannot write here: as root it may just do it itself
    run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=part, timeout_s=600)
    (deb,) = part.glob("*.deb")
    deb.replace(cache / deb.name)
    part.rmdir()
    return cache / deb.name


def _kernel_package(cache: Path) -> str:
    """The package with the kernel itself: the metapackage depends on exactly one."""
    if cached := sorted(cache.glob("linux-image-[0-9]*.deb")):
        return cached[-1].name.split("_")[0]
    answer = run("apt-cache", "depends", KERNEL).stdout  # fails when the package is not known
    names = re.findall(r"Depends: (linux-image-[0-9]\S+)", answer)
    if len(names) != 1:
        raise CommandFailed(("apt-cache", "depends", KERNEL), 0, f"it names no kernel: {answer}")
    return str(names[0])
