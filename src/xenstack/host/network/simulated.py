"""A virtual switch of nothing but records, with the same words and failures as the real one.

With `directory` its bridges are kept in one file there, its ports in a file each: they outlive a killed host daemon, as
taps do. Rate limits are not kept. Bridges
of unmanaged networks are "made by others": those named in `foreign_bridges` exist from the start.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from xenstack.host.faults import Faults
from xenstack.host.network import check
from xenstack.host.network.port import (
    BridgeInUse,
    BridgeMissing,
    HostInterface,
    InvalidPort,
    Network,
    PortInUse,
    PortSpec,
    SwitchUnavailable,
)


class SimulatedNetwork:
    """The port (see port.py), simulated. `faults` is for tests."""

    def __init__(self, directory: Path | None = None, *, foreign_bridges: tuple[str, ...] = ("br-int",)) -> None:
        self.faults = Faults()
        self._directory = directory
        self._lock = threading.RLock()
        self._foreign = set(foreign_bridges)
        self._own: set[str] = set()
        self._ports: dict[str, PortSpec] = {}
        self._rates: dict[str, int] = {}
        self._connected = True
        if directory is not None:
            self._load(directory)

    def check_bridge(self, bridge: str) -> None:
        with self._verb("check_bridge"):
            check.check_bridge_name(bridge)
            if bridge not in self._own | self._foreign:
                raise BridgeMissing(bridge)

    def create_bridge(self, bridge: str) -> None:
        with self._verb("create_bridge"):
            check.check_bridge_name(bridge)
            if bridge not in self._own | self._foreign:
                self._own.add(bridge)
                self._keep_bridges()

    def destroy_bridge(self, bridge: str) -> None:
        with self._verb("destroy_bridge"):
            if bridge in self._foreign or any(port.bridge == bridge for port in self._ports.values()):
                raise BridgeInUse(bridge)
            if bridge in self._own:
                self._own.remove(bridge)
                self._keep_bridges()

    def bridges(self) -> list[str]:
        with self._verb("bridges"):
            return sorted(self._own | self._foreign)

    def plug(self, port: PortSpec) -> None:
        with self._verb("plug", port.vif_uuid):
            check.check_port(port)
            self.check_bridge(port.bridge)
            known = self._ports.get(port.tap)
            if known is not None and known.vif_uuid != port.vif_uuid:
                raise PortInUse(port.tap)
            kept = replace(port, port_id=port.port_id or port.vif_uuid)
            if self._directory is not None:
                _write(self._directory / f"{port.tap}.port", asdict(kept))
            self._ports[port.tap] = kept

    def unplug(self, tap: str) -> None:
        with self._verb("unplug", tap):
            check.check_tap(tap)
            if self._ports.pop(tap, None) is not None:
                self._rates.pop(tap, None)
                if self._directory is not None:
                    (self._directory / f"{tap}.port").unlink(missing_ok=True)

    def ports(self) -> list[PortSpec]:
        with self._verb("ports"):
            return [self._ports[tap] for tap in sorted(self._ports)]

    def set_rate_limit(self, tap: str, kbps: int | None) -> None:
        with self._verb("set_rate_limit", tap):
            check.check_rate(kbps)
            if tap not in self._ports:
                raise InvalidPort(f"no port {tap}")
            if kbps is None:
                self._rates.pop(tap, None)
            else:
                self._rates[tap] = kbps

    def interfaces(self) -> list[HostInterface]:
        with self._verb("interfaces"):
            return [HostInterface(device="eth0", mac="52:54:00:00:00:01", mtu=1500, carrier=True)]

    # -- what the world does, for tests

    def add_foreign_bridge(self, bridge: str) -> None:
        """Somebody else (a Neutron agent) makes a bridge."""
        with self._lock:
            self._foreign.add(bridge)
            self._keep_bridges()

    def rate_limit(self, tap: str) -> int | None:
        """The limit in force, in KiB per second."""
        return self._rates.get(tap)

    @contextmanager
    def connection_lost(self) -> Iterator[None]:
        """Every call raises SwitchUnavailable within the block."""
        self._connected = False
        try:
            yield
        finally:
            self._connected = True

    # -- within

    @contextmanager
    def _verb(self, verb: str, uuid: str = "") -> Iterator[None]:
        if not self._connected:
            raise SwitchUnavailable("the simulated switch is switched off")
        self.faults.before(verb, uuid)
        with self._lock:
            yield
        self.faults.after(verb, uuid)

    def _keep_bridges(self) -> None:
        if self._directory is not None:
            _write(self._directory / "bridges.json", {"own": sorted(self._own), "foreign": sorted(self._foreign)})

    def _load(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if (bridges := directory / "bridges.json").exists():
            kept = json.loads(bridges.read_text())
            self._own = set(kept["own"])
            self._foreign |= set(kept["foreign"])
        for file in directory.glob("vif*.port"):
            port = PortSpec(**json.loads(file.read_text()))
            self._ports[port.tap] = port


def _write(path: Path, value: object) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value))
    part.replace(path)


_KEEPS_THE_PORT: type[Network] = SimulatedNetwork
