"""`logs`, `ssh` and `shell`: the operator goes and looks. Each ends by becoming another program."""

import os
import sys
from pathlib import Path

from xenstack.cloud import guest
from xenstack.cloud.api import ADMIN, DEMO
from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.layout import OUTSIDE, Layout
from xenstack.cloud.step import NotYet


def _cloud(root: Path) -> Deployment:
    """The running cloud. Raises NotYet when there is none."""
    hosts = known_hosts(root)
    if not hosts:
        raise NotYet("there is no cloud yet; `./xenstack up` makes one")
    cloud = Deployment(root, hosts)
    cloud.boxes[OUTSIDE].running()
    return cloud


def _become(words: list[str], variables: dict[str, str] | None = None) -> int:
    sys.stdout.flush()
    os.execvpe(words[0], words, {**os.environ, **(variables or {})})  # noqa: S606 - words, never a shell line


def logs(root: Path, name: str | None, *, follow: bool) -> int:
    """Show the log of a service ("control/keystone", or "keystone" where that says enough), or list all logs."""
    folder = Layout(root).cloud / "log"
    files = {str(f.relative_to(folder).with_suffix("")): f for f in sorted(folder.glob("*/*.log"))}
    if name is None:
        print("\n".join(files) or "there are no logs yet")
        return 0
    chosen = [f for label, f in files.items() if name in (label, label.partition("/")[2], label.partition("/")[0])]
    if not chosen:
        print(f"no log is called {name}; `./xenstack logs` lists them", file=sys.stderr)
        return 2
    return _become(["tail", *(("-n", "50", "-F") if follow else ("-n", "1000")), *map(str, chosen)])


def ssh(root: Path, server: str, command: list[str]) -> int:
    """Log in to a server of project demo over its floating IP, or run a command there."""
    cloud = _cloud(root)
    words = guest.ssh(cloud, guest.address(cloud, server), () if not command else ("-o", "BatchMode=yes"))
    return _become([*_seat(cloud), *words, *command])


def shell(root: Path, command: list[str], *, as_admin: bool) -> int:
    """A shell, or one command, on the operator's seat with OpenStack's client ready."""
    cloud = _cloud(root)
    where = cloud.layout
    variables = {
        "OS_CLIENT_CONFIG_FILE": str(where.clouds_yaml),
        "OS_CLOUD": ADMIN if as_admin else DEMO,
        "PATH": f"{where.venv}/bin:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "PYTHONWARNINGS": "ignore",
    }
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(proxy, None)  # the seat sees no proxy of the machine
    return _become([*_seat(cloud), *(command or [os.environ.get("SHELL", "/bin/bash")])], variables)


def _seat(cloud: Deployment) -> list[str]:
    """Only the network is the box's: the operator keeps files, terminal and processes."""
    return ["nsenter", "-t", str(cloud.boxes[OUTSIDE].running()), "-n", "--"]
