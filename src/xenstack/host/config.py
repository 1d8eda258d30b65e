"""The host daemon's configuration: one TOML file, one frozen dataclass.

The comment above a field is its documentation: unit, default and reason. What is wrong in a file is told field by
field, all at once, before anything starts. `python -m xenstack.host serve --show-config` prints what is in force.
"""

import ipaddress
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

GIB = 1 << 30


@dataclass(eq=False)
class ConfigError(Exception):
    """The configuration cannot be used: every field that is wrong, and why."""

    source: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source}: " + "; ".join(self.problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address that the daemon answers at."""

    # IP address and port as "ADDRESS:PORT" ("[ADDRESS]:PORT" for IPv6), or an absolute path for a unix socket.
    address: str
    # TLS with the certificate in the state directory, made at first start. Default: no (HIMN and unix sockets).
    tls: bool = False
    # "all", or "consoles": nothing but CONNECT /console, for networks that must not reach the API.
    serves: str = "all"

    @property
    def path(self) -> Path | None:
        """The unix socket's path, None for TCP."""
        return Path(self.address) if self.address.startswith("/") else None

    @property
    def host_port(self) -> tuple[str, int]:
        """Address and port of a TCP listener."""
        host, _, port = self.address.rpartition(":")
        return host.strip("[]"), int(port)

    def problems(self) -> list[str]:
        """What is wrong with it, in words."""
        found = []
        if self.serves not in ("all", "consoles"):
            found.append(f'serves: must be "all" or "consoles", not {self.serves!r}')
        if self.path is None:
            host, _, port = self.address.rpartition(":")
            try:
                ipaddress.ip_address(host.strip("[]"))
            except ValueError:
                found.append(f"address: {self.address!r} is neither ADDRESS:PORT nor an absolute path")
            if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
                found.append(f"address: the port in {self.address!r} must be 0 to 65535")
        elif len(self.address.encode()) > 100:
            found.append(f"address: a unix socket's path has at most 100 bytes: {self.address!r}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything the daemon is told. Paths that are not given lie in the state directory."""

    # Absolute path of the daemon's own folder: database, password, certificate, and by default all below.
    state: Path
    # Where to answer. Default: one unix socket `xapi.sock` in the state directory.
    listeners: tuple[Listener, ...] = ()
    # File with root's password in its first line, mode 0600; made with a random one when it is missing.
    # Default: `password` in the state directory.
    password_file: Path | None = None
    # "simulated" (tests, clients' authors) or "libvirt".
    hypervisor: str = "simulated"
    # libvirt's URI. Default: the system daemon's QEMU driver.
    libvirt_uri: str = "qemu:///system"
    # "simulated", or "openvswitch": the bridges of the Open vSwitch on this machine.
    network: str = "simulated"
    # "file": VDIs are files in the SR's folder; "simulated": they live in memory and are empty after a restart.
    storage: str = "file"
    # Folder of console sockets and the like; its path has at most 58 characters. Default: `run` in the state directory.
    run_dir: Path | None = None
    # Folder of the file SR. Default: `sr` in the state directory.
    sr_path: Path | None = None
    # Bytes that the SR's files may take; 0: what the file system has. Default 0.
    sr_limit: int = 0
    # Folder of kernels and ramdisks for direct boot; nothing else is booted. Default: `kernels` in the state directory.
    kernel_dir: Path | None = None
    # Folder with dom0 plugins. Default: `plugins` in the state directory.
    plugin_dir: Path | None = None
    # Folder for `console.<domid>` files. Default: `consoles` in the state directory.
    console_dir: Path | None = None
    # The host's name_label and hostname. Default: the machine's.
    host_name: str = field(default_factory=socket.gethostname)
    # The address that host.address and the management PIF show. Default: the first TCP listener's.
    host_address: str = ""
    # debug, info, warning or error. Default info.
    log_level: str = "info"
    # Threads that run calls. Default 16: most of them wait for the hypervisor or the disk.
    workers: int = 16
    # Seconds after which an unused session ends. Default one day, as xapi.
    session_timeout_s: int = 86_400
    # Bytes of the largest XML-RPC or JSON-RPC body. Default 16 MiB: the largest real ones are some hundred KiB.
    max_body: int = 16 << 20
    # Seconds that a client may take to send a request's head, or be silent within a body. Default 60.
    client_timeout_s: float = 60.0
    # Memory of the simulated host in bytes. Default 64 GiB.
    simulated_memory: int = 64 * GIB

    @property
    def kernels(self) -> Path:
        """Where kernels and ramdisks for direct boot may lie."""
        return self.kernel_dir or self.state / "kernels"

    @property
    def console_logs(self) -> Path:
        """Where `console.<domid>` files go."""
        return self.console_dir or self.state / "consoles"

    @property
    def run(self) -> Path:
        """Where console sockets go."""
        return self.run_dir or self.state / "run"

    @property
    def plugins(self) -> Path:
        """Where dom0 plugins lie."""
        return self.plugin_dir or self.state / "plugins"

    @property
    def sr(self) -> Path:
        """The file SR's folder."""
        return self.sr_path or self.state / "sr"

    @property
    def password(self) -> Path:
        """The file with root's password."""
        return self.password_file or self.state / "password"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.state / "host.sqlite"


_CHOICES = {
    "hypervisor": ("simulated", "libvirt"),
    "network": ("simulated", "openvswitch"),
    "storage": ("file", "simulated"),
    "log_level": ("debug", "info", "warning", "error"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "workers": (1, 256),
    "session_timeout_s": (10, 10 * 365 * 86_400),
    "max_body": (1 << 16, 1 << 30),
    "client_timeout_s": (1, 3600),
    "sr_limit": (0, 1 << 60),
    "simulated_memory": (1 << 28, 1 << 50),
}
_DEFAULTS = {  # the property that tells what an absent path becomes
    "password_file": "password",
    "run_dir": "run",
    "sr_path": "sr",
    "kernel_dir": "kernels",
    "plugin_dir": "plugins",
    "console_dir": "console_logs",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def problems(config: Config) -> list[str]:
    """What is wrong with a configuration, field by field."""
    found = []
    for name, words in _CHOICES.items():
        if getattr(config, name) not in words:
            found.append(f"{name}: must be one of {', '.join(words)}, not {getattr(config, name)!r}")
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(config, name) <= most:
            found.append(f"{name}: must be {least:g} to {most:g}, not {getattr(config, name)!r}")
    for each in fields(config):
        value = getattr(config, each.name)
        if isinstance(value, Path) and not value.is_absolute():
            found.append(f"{each.name}: must be an absolute path, not {str(value)!r}")
    if not _NAME.fullmatch(config.host_name):
        found.append(f"host_name: must be a host name, not {config.host_name!r}")
    for number, listener in enumerate(config.listeners):
        found += [f"listeners[{number}].{problem}" for problem in listener.problems()]
    return found


def parse(data: Mapping[str, Any], source: str) -> Config:
    """The configuration in a parsed TOML file. Raises ConfigError with every problem."""
    wrong: list[str] = []
    given: dict[str, Any] = {}
    known = {each.name: each for each in fields(Config)}
    for name, value in data.items():
        if name not in known:
            wrong.append(f"{name}: no such field")
        elif name == "listeners":
            given[name] = tuple(_listeners(value, wrong))
        else:
            given[name] = _value(name, str(known[name].type), value, wrong)
    if "state" not in data:
        wrong.append("state: missing; the daemon's own folder, an absolute path")
    if not wrong:
        config = Config(**given)
        wrong = problems(config)
        if not wrong:
            return config
    raise ConfigError(source, tuple(wrong))


def read(file: Path) -> Config:
    """The configuration in a file. Raises ConfigError."""
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as why:
        raise ConfigError(str(file), (f"cannot be read: {why.strerror}",)) from why
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as why:
        raise ConfigError(str(file), (f"is not TOML: {why}",)) from why
    return parse(data, str(file))


def _listeners(value: Any, wrong: list[str]) -> list[Listener]:
    if not isinstance(value, list):
        wrong.append("listeners: must be a list of tables")
        return []
    found = []
    kinds = {each.name: str(getattr(each.type, "__name__", each.type)) for each in fields(Listener)}
    for number, row in enumerate(value):
        where = f"listeners[{number}]"
        if not isinstance(row, dict) or "address" not in row or row.keys() - kinds.keys():
            wrong.append(f"{where}: must be a table with address, and maybe tls and serves")
            continue
        parts = {k: _value(f"{where}.{k}", kinds[k], v, wrong) for k, v in row.items()}
        if not any(p is None for p in parts.values()):
            found.append(Listener(**parts))
    return found


def _value(name: str, kind: str, value: Any, wrong: list[str]) -> Any:
    if "Path" in kind:
        expected: tuple[type, ...] = (str,)
    elif "bool" in kind:
        expected = (bool,)
    elif "float" in kind:
        expected = (int, float)
    elif "int" in kind:
        expected = (int,)
    else:
        expected = (str,)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        wrong.append(f"{name}: must be {' or '.join(t.__name__ for t in expected)}, not {type(value).__name__}")
        return None
    return Path(str(value)) if "Path" in kind else value


def show(config: Config) -> str:
    """What is in force, a line per field, as TOML."""
    lines = []
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name == "listeners":
            continue
        if value is None:
            value = getattr(config, _DEFAULTS[each.name])
        lines.append(f"{each.name} = {_toml(value)}")
    for listener in config.listeners:
        lines.append("\n[[listeners]]")
        lines += [f"{each.name} = {_toml(getattr(listener, each.name))}" for each in fields(listener)]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
