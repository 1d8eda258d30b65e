"""Virtual environments from lock files with hashes: one with OpenStack, a small one for the host daemon alone.

An environment carries a stamp: the hash of its lock file and the Python it was made with. Another stamp, or none (the
installation was broken off), makes it anew in place. Everything lies in `state/install`, the tools' caches too.
"""

import hashlib
import sys
from pathlib import Path

from xenstack.install.progress import part
from xenstack.run import CommandFailed, run

_ADVICE = "check that Python packages can be reached (`pip download uv`), then run the same command again"


class Environment:
    """One virtual environment of a clone. `requirements` is the folder with the lock files."""

    def __init__(self, root: Path, name: str, lock: str) -> None:
        self._root = root
        self._install = root / "state" / "install"
        self._lock = root / "requirements" / lock
        self.folder = self._install / name
        self.python = self.folder / "bin" / "python"

    def ready(self) -> bool:
        """Whether the environment is what its lock file says."""
        stamp = self.folder / "stamp"
        return self.python.exists() and stamp.exists() and stamp.read_text() == self._stamp()

    def make(self) -> None:
        """Make it so. Raises InstallFailed."""
        lines = self._lock.read_text().splitlines()
        count = sum(bool(line.strip()) and not line.startswith((" ", "#", "-")) for line in lines)
        with part(f"{self.folder.name} ({count} Python packages)", _ADVICE):
            uv = _uv(self._root, self._install)
            # an absolute home: PATH may name another Python than the machine's
            run(uv, "venv", "-q", "--allow-existing", "--python", sys.executable, self.folder, env=self._settings())
            sync = ("pip", "sync", "-q", "--require-hashes", "--compile-bytecode", str(self._lock))
            run(uv, *sync, env=self._settings(), timeout_s=1800)
            (self.folder / "stamp").write_text(self._stamp())

    def link(self) -> None:
        """Let the environment see the clone's own code, as a wheel would, and Nova its driver."""
        site = next((self.folder / "lib").glob("python3.*/site-packages"))
        path = site / "xenstack-clone.pth"
        text = f"{self._root / 'src'}\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        link_shim(self._root / "src", site)

    def _stamp(self) -> str:
        return f"{sys.version.split()[0]} {hashlib.sha256(self._lock.read_bytes()).hexdigest()}\n"

    def _settings(self) -> dict[str, str]:
        return {"UV_CACHE_DIR": str(self._install / "cache"), "VIRTUAL_ENV": str(self.folder)}


def link_shim(source: Path, site: Path) -> None:
    """Put `nova/virt/xenapi` among Nova's drivers: Nova finds drivers in its own tree only (docs/decisions/0005).

    Does nothing where Nova is not installed; replaces a link to another clone.
    """
    drivers = site / "nova" / "virt"
    if not drivers.is_dir():
        return
    link, target = drivers / "xenapi", source / "nova" / "virt" / "xenapi"
    if link.is_symlink() and link.readlink() != target:
        link.unlink()
    if not link.exists():
        link.symlink_to(target)


def _uv(root: Path, install: Path) -> Path:
    """The installer, in an environment of its own, at the version that requirements/tools.txt names."""
    uv = install / "tools" / "bin" / "uv"
    lock = root / "requirements" / "tools.txt"
    stamp = install / "tools" / "stamp"
    if uv.exists() and stamp.exists() and stamp.read_text() == lock.read_text():
        return uv
    try:
        run(sys.executable, "-m", "venv", "--clear", install / "tools", timeout_s=120)
    except CommandFailed as why:
        raise CommandFailed(why.command, why.status, f"{why.output}\nDebian's python3-venv is needed") from why
    pip = (install / "tools" / "bin" / "pip", "install", "-q", "--no-cache-dir", "--require-hashes", "-r", lock)
    run(*pip, timeout_s=600)
    stamp.write_text(lock.read_text())
    return uv
