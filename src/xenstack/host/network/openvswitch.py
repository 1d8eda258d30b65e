"""The network port on Open vSwitch, kernel or userspace datapath.

A VIF is a persistent tap and an Interface row that carries, in its external_ids, what Neutron's agent looks for
(iface-id, iface-status, attached-mac) and what XenServer's integration adds (xs-vif-uuid, xs-vm-uuid, xs-network-uuid).
By xs-vif-uuid the host finds its own ports again; rows without it belong to others.

Each change is one ovs-vsctl transaction, which waits until ovs-vswitchd has done it. Network devices are read through
`ip`, not through /sys: a network namespace need not have a /sys of its own.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from xenstack.host.network import check
from xenstack.host.network.port import (
    BridgeInUse,
    BridgeMissing,
    HostInterface,
    InvalidPort,
    Network,
    PortInUse,
    PortSpec,
    RateLimitUnsupported,
    SwitchUnavailable,
    parse_tap_name,
)
from xenstack.run import CommandFailed, Output, run

OUR_BRIDGE = "xenstack-bridge"  # external_ids key of bridges made by `create_bridge`
_UNKNOWN = PortSpec(tap="", bridge="", mac="", vif_uuid="", vm_uuid="", network_uuid="")
_NO_BRIDGE = re.compile(r'no (?:bridge named|row ")\s*([A-Za-z0-9_.-]+)"?(?: in table Bridge)?\s*$', re.MULTILINE)
_NOT_A_PIF = ("tun", "bridge", "openvswitch", "dummy", "ifb", "vxlan", "gre", "bareudp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """See the comment above each field."""

    # Where ovsdb-server listens: unix:PATH or tcp:ADDRESS:PORT.
    database: str = "unix:/run/openvswitch/db.sock"

    # netdev (userspace, everywhere) or system (the kernel's openvswitch module), for bridges of managed networks.
    datapath: str = "netdev"

    # Seconds a transaction may wait for ovs-vswitchd.
    timeout_s: int = 15


class OpenVSwitch:
    """The port (see port.py) on one Open vSwitch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    # -- bridges

    def check_bridge(self, bridge: str) -> None:
        check.check_bridge_name(bridge)
        if self._vsctl("br-exists", bridge, accept=(0, 2)).status == 2:
            raise BridgeMissing(bridge)

    def create_bridge(self, bridge: str) -> None:
        check.check_bridge_name(bridge)
        if bridge not in self.bridges():
            self._vsctl(
                *("--may-exist", "add-br", bridge, "--", "set", "Bridge", bridge),
                *(f"datapath_type={self._settings.datapath}", f"external_ids:{OUR_BRIDGE}=true"),
            )

    def destroy_bridge(self, bridge: str) -> None:
        check.check_bridge_name(bridge)
        if bridge not in self.bridges():
            return
        ours = self._vsctl("--if-exists", "get", "Bridge", bridge, f"external_ids:{OUR_BRIDGE}").stdout
        if "true" not in ours or self._vsctl("list-ports", bridge).stdout.split():
            raise BridgeInUse(bridge)
        self._vsctl("--if-exists", "del-br", bridge)

    def bridges(self) -> list[str]:
        return sorted(self._vsctl("list-br").stdout.split())

    # -- ports

    def plug(self, port: PortSpec) -> None:
        check.check_port(port)
        self.check_bridge(port.bridge)
        known = self._rows().get(port.tap)
        if known is not None and known.vif_uuid != port.vif_uuid:
            raise PortInUse(port.tap)
        link = self._links().get(port.tap)
        if link is not None and _kind(link) != "tun":
            raise PortInUse(port.tap)
        try:
            self._make_tap(port, exists=link is not None)
            if known is not None and known.bridge != port.bridge:
                self._vsctl("--if-exists", "del-port", port.tap)
            self._vsctl(
                *("--may-exist", "add-port", port.bridge, port.tap, "--", "set", "Interface", port.tap),
                *(f"external_ids:{key}={value}" for key, value in external_ids(port).items()),
            )
        except BaseException:
            if known is None:
                self._forget(port.tap)
            raise

    def unplug(self, tap: str) -> None:
        check.check_tap(tap)
        self._vsctl("--if-exists", "del-port", tap)
        if tap in self._links():
            # somebody else may remove it in this moment: absent is what was asked for
            run("ip", "link", "delete", "dev", tap, accept=(0, 1))
            if tap in self._links():
                raise PortInUse(tap)

    def ports(self) -> list[PortSpec]:
        links, rows = self._links(), self._rows()
        found = {
            tap: replace(row, mtu=int(links[tap]["mtu"])) if tap in links else row
            for tap, row in rows.items()
            if row.vif_uuid
        }
        for name, link in links.items():
            if name not in rows and parse_tap_name(name) is not None and _kind(link) == "tun":
                found[name] = replace(_UNKNOWN, tap=name, mac=str(link.get("address", "")), mtu=int(link["mtu"]))
        return [found[tap] for tap in sorted(found)]

    def set_rate_limit(self, tap: str, kbps: int | None) -> None:
        check.check_tap(tap)
        check.check_rate(kbps)
        row = self._rows().get(tap)
        if row is None:
            raise InvalidPort(f"no port {tap}")
        kbits = 0 if kbps is None else kbps * 8 * 1024 // 1000
        if kbits:
            self._check_policing(row)
        self._vsctl(
            *("set", "Interface", tap, f"ingress_policing_rate={kbits}"),
            f"ingress_policing_burst={max(kbits // 10, 100) if kbits else 0}",
        )

    # -- the machine

    def interfaces(self) -> list[HostInterface]:
        bridges = set(self.bridges())
        return [
            HostInterface(
                device=name,
                mac=str(link.get("address", "")),
                mtu=int(link["mtu"]),
                carrier="LOWER_UP" in link.get("flags", ()),
            )
            for name, link in sorted(self._links().items())
            if name not in bridges and link.get("link_type") == "ether" and _kind(link) not in _NOT_A_PIF
        ]

    # -- within

    def _make_tap(self, port: PortSpec, *, exists: bool) -> None:
        lines = [] if exists else [f"tuntap add dev {port.tap} mode tap"]
        lines.append(f"link set dev {port.tap} mtu {port.mtu} up")
        try:
            run("ip", "-batch", "-", stdin="".join(f"{line}\n" for line in lines))
        except CommandFailed as why:
            raise SwitchUnavailable(f"cannot make the tap {port.tap}: {why}") from why

    def _forget(self, tap: str) -> None:
        """Undo of a plug that failed, as far as it goes: its own failure is what the caller hears of."""
        with suppress(SwitchUnavailable):
            self._vsctl("--if-exists", "del-port", tap)
        run("ip", "link", "delete", "dev", tap, accept=(0, 1))

    def _check_policing(self, row: PortSpec) -> None:
        datapath = self._vsctl("get", "Bridge", row.bridge, "datapath_type").stdout.strip().strip('"')
        if datapath == "netdev":
            raise RateLimitUnsupported(
                f"bridge {row.bridge} has a userspace datapath, which reads frames before the kernel can police them"
            )
        try:
            run("tc", "qdisc", "replace", "dev", row.tap, "handle", "ffff:", "ingress")
            police = ("police", "rate", "1mbit", "burst", "10k", "drop")
            run("tc", "filter", "add", "dev", row.tap, "parent", "ffff:", "matchall", "action", *police)
        except CommandFailed as why:
            raise RateLimitUnsupported(f"the kernel cannot police {row.tap}: {why}") from why
        finally:
            run("tc", "qdisc", "del", "dev", row.tap, "ingress", accept=(0, 1, 2))

    def _rows(self) -> dict[str, PortSpec]:
        """Every Interface row by name; of one that is not ours only tap and bridge are told."""
        text = self._vsctl(
            *("--format=json", "--columns=name,ports", "list", "Bridge"),
            *("--", "--columns=_uuid,interfaces", "list", "Port"),
            *("--", "--columns=_uuid,name,external_ids,mtu", "list", "Interface"),
        ).stdout
        bridges, ports, interfaces = (json.loads(line)["data"] for line in text.splitlines())
        bridge_of_port = {port: name for name, ports_of_it in bridges for port in _set(ports_of_it)}
        bridge_of = {interface: bridge_of_port.get(port[1], "") for port, of_it in ports for interface in _set(of_it)}
        return {
            name: _port(name, bridge_of.get(uuid[1], ""), dict(ids[1]), _set(mtu))
            for uuid, name, ids, mtu in interfaces
        }

    def _links(self) -> dict[str, dict[str, Any]]:
        try:
            links = json.loads(run("ip", "-json", "-details", "link", "show").stdout)
        except CommandFailed as why:
            raise SwitchUnavailable(f"cannot read the network devices: {why}") from why
        return {link["ifname"]: link for link in links if link.get("ifname")}

    def _vsctl(self, *words: str, accept: tuple[int, ...] = (0,)) -> Output:
        timeout_s = self._settings.timeout_s
        options = (f"--db={self._settings.database}", f"--timeout={timeout_s}")
        try:
            return run("ovs-vsctl", *options, *words, accept=accept, timeout_s=timeout_s + 5)
        except CommandFailed as why:
            if "no bridge named" in why.output or ("no row" in why.output and "Bridge" in why.output):
                raise BridgeMissing(why.output.rpartition(" ")[2].strip()) from why
            raise SwitchUnavailable(str(why)) from why


def external_ids(port: PortSpec) -> dict[str, str]:
    """What the Interface row says about the VIF; the values are checked words that ovs-vsctl needs no quotes for."""
    return {
        "iface-id": f'"{port.port_id or port.vif_uuid}"',
        "iface-status": "active",
        "attached-mac": f'"{port.mac.lower()}"',
        "xs-vif-uuid": f'"{port.vif_uuid}"',
        "xs-vm-uuid": f'"{port.vm_uuid}"',
        "xs-network-uuid": f'"{port.network_uuid}"',
    }


def _port(name: str, bridge: str, ids: Mapping[str, str], mtu: list[Any]) -> PortSpec:
    return PortSpec(
        tap=name,
        bridge=bridge,
        mac=ids.get("attached-mac", ""),
        vif_uuid=ids.get("xs-vif-uuid", "") if parse_tap_name(name) else "",
        vm_uuid=ids.get("xs-vm-uuid", ""),
        network_uuid=ids.get("xs-network-uuid", ""),
        port_id=ids.get("iface-id", ""),
        mtu=int(mtu[0]) if mtu else 1500,
    )


def _set(value: Any) -> list[Any]:
    """OVSDB's notation of a set: one atom alone, or ["set", [atoms]]; an atom that is a uuid is ["uuid", text]."""
    if isinstance(value, list):
        if value[0] == "set":
            return [atom[1] if isinstance(atom, list) else atom for atom in value[1]]
        return [value[1]]
    return [value]


def _kind(link: Mapping[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


_KEEPS_THE_PORT: type[Network] = OpenVSwitch
