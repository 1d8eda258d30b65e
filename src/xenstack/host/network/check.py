"""Is a port or bridge one that every adapter must accept? Raises InvalidPort with the reason when not.

The values come from XenAPI clients and end up on a command line and in a kernel interface: they are hostile.
"""

import re

from xenstack.host.network.port import InvalidPort, PortSpec, parse_tap_name

# a bridge is also a network device: Linux allows 15 characters; no leading dash or dot
_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", re.IGNORECASE)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# iface-id is whatever the client wrote: a uuid from Neutron, but nothing says so; it must only be a harmless word
_PORT_ID = re.compile(r"[A-Za-z0-9_.:-]{0,128}")


def check_port(port: PortSpec) -> None:
    """Raises InvalidPort."""
    check_tap(port.tap)
    check_bridge_name(port.bridge)
    _require(_MAC.fullmatch(port.mac) is not None, f"{port.mac!r} is no unicast MAC address")
    for what, uuid in (("VIF", port.vif_uuid), ("VM", port.vm_uuid), ("network", port.network_uuid)):
        _require(_UUID.fullmatch(uuid) is not None, f"the {what}'s uuid {uuid!r} is none")
    _require(_PORT_ID.fullmatch(port.port_id) is not None, f"{port.port_id!r} is no port id")
    _require(68 <= port.mtu <= 65535, f"MTU {port.mtu} is not within 68 … 65535")


def check_tap(tap: str) -> None:
    """Raises InvalidPort unless `tap_name` could have made the name."""
    _require(parse_tap_name(tap) is not None, f"{tap!r} is not the name of a VIF's tap")


def check_bridge_name(bridge: str) -> None:
    """Raises InvalidPort."""
    _require(_BRIDGE.fullmatch(bridge) is not None, f"{bridge!r} is no bridge name")


def check_rate(kbps: int | None) -> None:
    """Raises InvalidPort."""
    _require(kbps is None or 0 < kbps <= 100_000_000, f"{kbps} KiB/s is no rate")


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise InvalidPort(reason)
