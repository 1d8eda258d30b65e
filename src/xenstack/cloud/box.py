"""A box: one process tree in its own network, process, mount, host-name and IPC namespaces.

Its PID 1 is supervisord, so whoever ends that one process ends the box with everything in it: processes, sockets,
mounts, network devices. Rules:

  * /run and /tmp are the box's own, empty at each start: socket paths are short and nobody else's;
  * what the box keeps lies under `Layout.data`, bound to the places where Debian's programs look for it;
  * the environment is built from nothing: no variable of the operator's shell reaches a service;
  * nothing inside is reached by a listening port of the machine: the supervisor is asked through
    /proc/PID/root/run/supervisor.sock, networks are wired from outside.
"""

import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenstack.cloud.layout import Layout
from xenstack.cloud.service import Service
from xenstack.cloud.step import NotYet
from xenstack.run import CommandFailed, Output, run, start

MARK = "XENSTACK_BOX"  # in the environment of every process of a box: <cloud folder>:<box>
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder of the cloud's state that the box sees at `there`, a folder that the machine has (empty) too."""

    here: Path
    there: str
    owner: str = "root"


class Box:
    """One box, running or not. Cheap to make: everything true about it is read from the system."""

    def __init__(self, layout: Layout, name: str, services: Sequence[Service], binds: Sequence[Bind] = ()) -> None:
        self.layout = layout
        self.name = name
        self.services = tuple(services)
        self._binds = tuple(binds)
        self._folder = layout.box_folder(name)

    # -- is it there?

    def pid(self) -> int | None:
        """PID 1 of the box, as the machine numbers it; None when the box does not run."""
        try:
            text, born, *boot = (self._folder / "pid").read_text().split()
            pid = int(text)
        except (FileNotFoundError, ValueError):
            return None
        # births are counted from the boot: after another one, a process of another program may have the same
        return pid if _birth(pid) == born and (not boot or boot == [_boot()]) else None

    def running(self) -> int:
        """PID 1. Raises NotYet when the box does not run."""
        pid = self.pid()
        if pid is None:
            raise NotYet(f"box {self.name} does not run")
        return pid

    def check(self) -> None:
        """Raises NotYet unless the box runs and its supervisor can be asked."""
        pid = self.running()
        if self.services and not Path(f"/proc/{pid}/root/run/supervisor.sock").exists():
            raise NotYet(f"the supervisor of {self.name} does not answer yet")

    # -- start and stop

    def start(self) -> None:
        """Start the box without its services. Raises CommandFailed with what it printed when it ends at once."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.layout.log(self.name).mkdir(parents=True, exist_ok=True)
        for bind in self._binds:
            bind.here.mkdir(parents=True, exist_ok=True)
        self.write_supervisor()
        script = self._folder / "first"
        script.write_text(self._first())
        words = [
            *("env", "-i", *(f"{k}={v}" for k, v in self.environment().items())),
            *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
            *("--propagation", "private", "--mount-proc", "sh", "-e", str(script)),
        ]
        log = self.layout.log(self.name) / "box.log"
        with log.open("ab") as out:
            parent = start(*words, log=out, cwd=Path("/"))
        deadline = time.monotonic() + 10
        while parent.poll() is None and time.monotonic() < deadline:
            if first := _children(parent.pid):
                (self._folder / "pid").write_text(f"{first[0]} {_birth(first[0])} {_boot()}\n")
                return
            time.sleep(0.01)
        raise CommandFailed(tuple(words), parent.poll(), log.read_text()[-2000:])

    def environment(self) -> dict[str, str]:
        """What every process of the box finds in its environment."""
        return {
            "PATH": f"{self.layout.venv}/bin:{_SBIN}",
            "HOME": "/root",
            "XDG_CACHE_HOME": str(self.layout.cache),
            "LANG": "C.UTF-8",
            "MALLOC_ARENA_MAX": "2",
            "PYTHONWARNINGS": "ignore",
            MARK: f"{self.layout.cloud}:{self.name}",
        }

    def kill(self) -> None:
        """End the box and everything in it, at once; returns when its processes are gone. No error when it is gone."""
        pid = self.pid()
        if pid is None:
            return
        parent = _parent(pid)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while _birth(pid) is not None or (parent is not None and _alive_unshare(parent)):
            if time.monotonic() > deadline:
                raise NotYet(f"box {self.name} (process {pid}) does not end")
            time.sleep(0.02)
        (self._folder / "pid").unlink(missing_ok=True)

    # -- work in it

    def run(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        accept: Sequence[int] = (0,),
    ) -> Output:
        """Run a program inside, to its end, in the box's environment and `env`. Raises NotYet, CommandFailed.

        `env` may hold a password: it is on no command line, and in no word about a failure.
        """
        enter = ("nsenter", "-t", str(self.running()), "-n", "-m", "-p", "-u", "-i", "--")
        variables = {**self.environment(), **(env or {})}
        return run(*enter, *words, whole_env=variables, timeout_s=timeout_s, accept=accept, cwd=Path("/"))

    def path(self, inside: str) -> Path:
        """A path of the box as the machine sees it. Raises NotYet."""
        return Path(f"/proc/{self.running()}/root{inside}")

    def interfaces(self) -> set[str]:
        """The network devices of the box. Raises NotYet."""
        lines = Path(f"/proc/{self.running()}/net/dev").read_text().splitlines()[2:]
        return {line.split(":")[0].strip() for line in lines}

    # -- what it is made of

    def _first(self) -> str:
        """The first program of the box: makes its places its own, then becomes the supervisor."""
        root = str(self.layout.root)
        lines = [
            "# Generated. Runs as PID 1 of the box in fresh namespaces, then becomes its supervisor.",
            f"hostname {self.name}",
            "mount -t sysfs -o ro sysfs /sys",
            "mount -t tmpfs -o mode=0755 tmpfs /run",
        ]
        if not root.startswith("/tmp/"):  # noqa: S108 - a clone under /tmp must stay visible in the box
            lines.append("mount -t tmpfs -o mode=1777 tmpfs /tmp")
        lines += [
            "mkdir -p /run/lock /run/netns /run/xenstack",
            f"mount --bind {shlex.quote(str(self._folder / 'hosts'))} /etc/hosts",
        ]
        for bind in self._binds:
            here, there = shlex.quote(str(bind.here)), shlex.quote(bind.there)
            lines += [f"chown {bind.owner}: {here}", f"mount --bind {here} {there}"]
        lines += ["ip link set lo up", "sysctl -qw net.ipv4.ip_forward=0"]
        (self._folder / "hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        if self.services:
            conf = shlex.quote(str(self._folder / "supervisord.conf"))
            python = shlex.quote(self.layout.program("python"))
            lines.append(f"exec {python} -m xenstack.cloud.supervise --nodaemon --silent -c {conf}")
        else:
            lines.append("exec tini -- sleep infinity")
        return "\n".join(lines) + "\n"

    def write_supervisor(self) -> bool:
        """Write the supervisor's configuration; True when it differs from what was there."""
        path = self._folder / "supervisord.conf"
        log = self.layout.log(self.name)
        parts = [
            "[supervisord]\nnodaemon=true\nuser=root\nminfds=4096\npidfile=/run/supervisord.pid\n"
            f"logfile={_percent(str(log / 'supervisord.log'))}\nlogfile_maxbytes=5MB\nlogfile_backups=1\n",
            "[unix_http_server]\nfile=/run/supervisor.sock\nchmod=0600\n",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n",
            *(_program(service, log) for service in self.services),
        ]
        text = "\n".join(parts)
        if path.exists() and path.read_text() == text:
            return False
        path.touch(mode=0o600, exist_ok=True)
        path.write_text(text)
        return True


def _program(service: Service, log: Path) -> str:
    """One service in the supervisor's words. A service that dies is started again, with growing pauses, for good."""
    group = "false" if service.alone else "true"
    env = ",".join(f'{k}="{_percent(v)}"' for k, v in service.env.items())
    return (
        f"[program:{service.name}]\n"
        f"command={_percent(shlex.join(service.command))}\n"
        f"directory={service.folder}\nuser={service.user}\n"
        + (f"environment={env}\n" if env else "")
        + "autostart=false\nautorestart=true\nstartsecs=1\nstartretries=1000\n"
        f"stopwaitsecs={service.stop_s}\nredirect_stderr=true\n"
        f"stopasgroup={group}\nkillasgroup={group}\n"
        f"stdout_logfile={_percent(str(log / (service.name + '.log')))}\n"
        "stdout_logfile_maxbytes=20MB\nstdout_logfile_backups=1\n"
    )


def _percent(text: str) -> str:
    """Supervisor expands %(name)s everywhere."""
    return text.replace("%", "%%")


def _birth(pid: int) -> str | None:
    """When the process began, in clock ticks since boot: with the pid it names a process for ever. None: gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _boot() -> str:
    """The name that the kernel gave this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _alive_unshare(pid: int) -> bool:
    """The box's parent, which ends as soon as it has seen its child's end."""
    try:
        return pid != 1 and Path(f"/proc/{pid}/comm").read_text().strip() == "unshare" and _birth(pid) is not None
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
