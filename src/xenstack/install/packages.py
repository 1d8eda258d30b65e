"""Debian packages, as `src/xenstack/cloud/packages.txt` lists them.

Only what is missing is installed, without recommendations. Debian starts a service when its package is installed, and
again at each boot: here every service runs in a box of ours, so new packages' services are kept from starting and are
disabled. Services that the machine had before are not touched.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from xenstack.install.progress import part
from xenstack.run import CommandFailed, run

LIST = Path(__file__).parents[1] / "cloud" / "packages.txt"
_POLICY = Path("/usr/sbin/policy-rc.d")
ADVICE = "check that this is Debian 12 with working package sources (`apt-get update`), then run the same command again"
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def listed(text: str) -> dict[str, list[str]]:
    """The groups of the list: ``[group]`` opens one, a line is a package with ``# why``.

    Raises ValueError for a line outside a group, and for a package without its reason.
    """
    groups: dict[str, list[str]] = {}
    group: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        name, _, why = (word.strip() for word in line.partition("#"))
        if name.startswith("["):
            group = groups.setdefault(name.strip("[]"), [])
        elif name:
            if group is None or not why:
                raise ValueError(f"line {number}: {line!r} has no group above it, or does not say why")
            group.append(name)
    return groups


def missing(packages: list[str]) -> list[str]:
    """Those that are not installed."""
    shown = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages, accept=(0, 1)).stdout
    there = {line.split()[0] for line in shown.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in there]


def install(name: str, packages: list[str]) -> None:
    """Install what is missing of `packages`. Raises InstallFailed."""
    wanted = missing(packages)
    if not wanted:
        return
    with part(f"{name} ({len(wanted)} Debian packages)", ADVICE), _services_stay_off():
        refresh()
        apt = ("apt-get", "-qq", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300")
        run(*apt, *wanted, env=_QUIET, timeout_s=1800)
        if left := missing(packages):
            raise CommandFailed((*apt, *wanted), 0, f"apt-get said yes, but not installed are: {' '.join(left)}")
    _disable_services(wanted)


@cache
def refresh() -> None:
    """Read Debian's package lists anew, once in a process. Raises CommandFailed."""
    run("apt-get", "-qq", "update", env=_QUIET, timeout_s=600)


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """While packages are installed, invoke-rc.d is told (101: not allowed) to start nothing."""
    if _POLICY.exists() or _POLICY.is_symlink():  # the machine has a policy of its own
        yield
        return
    _POLICY.write_text("#!/bin/sh\n# xenstack installs packages; this file is gone when it has ended\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _disable_services(packages: list[str]) -> None:
    """Keep services of newly installed packages from starting at the next boot, where systemd runs."""
    if not Path("/run/systemd/system").is_dir():
        return
    files = run("dpkg", "-L", *packages, accept=(0, 1)).stdout.splitlines()
    units = sorted({Path(f).name for f in files if "/systemd/system/" in f and f.endswith((".service", ".socket"))})
    units = [u for u in units if "@" not in u]
    if units:
        run("systemctl", "disable", *units, accept=(0, 1), timeout_s=120)


def administrator() -> bool:
    """Whether this process may install packages."""
    return os.geteuid() == 0
