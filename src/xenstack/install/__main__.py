"""``./xenstack VERB``: install what the verb needs, then become it."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xenstack.install import INSTALLING, packages
from xenstack.install.environment import Environment
from xenstack.install.progress import InstallFailed, part

_ALL = ("up", "test", "check", "bench")  # verbs that install everything
_ROOTLESS = ("explain", "host", "help", "-h", "--help")
_LATER = ("down", "status", "logs", "ssh", "shell")  # verbs that look at what `up` has made


def main(words: list[str]) -> int:
    """Prepare, then replace this process; returns only when the verb cannot run."""
    root = Path(os.environ["XENSTACK_ROOT"])
    verb = words[0] if words else "--help"
    asked = {"-h", "--help"} & set(words[1:2])
    try:
        if verb not in _ROOTLESS and not packages.administrator():
            raise InstallFailed(verb, "it works with network namespaces", f"run it as root: sudo ./xenstack {verb}")
        full = Environment(root, "venv", "lock.txt")
        if not full.python.exists():
            os.environ[INSTALLING] = str(time.time())
        if verb in _ALL and not asked:
            everything(root, full)
        python = _python(root, verb, full)
    except InstallFailed as why:
        print(f"xenstack: {why}", file=sys.stderr)
        return 1
    path = f"{python.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(root / "src")}
    environment["XDG_CACHE_HOME"] = str(root / "state" / "install" / "cache")  # OpenStack's libraries keep one, too
    sys.stderr.flush()
    os.execve(python, [str(python), "-m", "xenstack.cli", *(words or ["--help"])], environment)  # noqa: S606 - words, no shell


def everything(root: Path, full: Environment) -> None:
    """All Debian packages and the whole environment; what the environment is built with comes first."""
    groups = packages.listed(packages.LIST.read_text())
    if not full.ready():
        packages.install("what Python packages are built with", groups["build"])
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(_packages, root, [name for group in groups.values() for name in group])
        if not full.ready():
            full.make()
        rest.result()
    full.link()


def _packages(root: Path, names: list[str]) -> None:
    """Everything of Debian; the guest image, unless it is built already, is made of packages of the newest lists."""
    packages.install("what runs", names)
    if not (root / "state" / "install" / "image" / "manifest.json").exists():
        with part("Debian's package lists", packages.ADVICE):
            packages.refresh()


def _python(root: Path, verb: str, full: Environment) -> Path:
    """The Python that runs the verb. Raises InstallFailed."""
    if full.ready():
        return full.python
    if verb == "host":  # needs no OpenStack, no root and nothing of Debian but python3-venv
        small = Environment(root, "host", "host.txt")
        if not small.ready():
            if packages.administrator():
                packages.install("the installer's own needs", ["python3-venv"])
            small.make()
        small.link()
        return small.python
    if verb in _LATER and verb != "down":  # what runs can be ended without what it was started with
        raise InstallFailed(verb, "nothing is installed in this clone", "run `./xenstack up` first")
    return Path(sys.executable)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
