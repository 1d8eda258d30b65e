"""What the host asks of its virtual switch: a tap per running VIF, plugged into the bridge of its XenAPI network.

The rules every adapter keeps, and one test suite checks:

  * arguments and answers are plain data; calls block, from any thread, and never for ever;
  * a VIF's tap is named `vif<domid>.<device>` (`tap_name`); that name is what plug and unplug share. No two VIFs
    ever share one, because domids are not reused;
  * `plug` is all or nothing, and repeats: the same plug again changes nothing. `unplug` succeeds when there is nothing;
  * the switch's own database says what is plugged: `ports()` reads it, so a restarted host can find and sweep what
    no running domain uses. Ports and bridges of others (a Neutron agent's patch ports) are never touched;
  * bridges of unmanaged networks (Neutron's br-int) are made by others: `BridgeMissing` until they have done it.

Any call may raise `SwitchUnavailable`. Operations turn the errors into XenAPI errors.
"""

import re
from dataclasses import dataclass
from typing import Protocol

_TAP = re.compile(r"vif(0|[1-9][0-9]{0,7})\.(0|[1-9][0-9]?)")  # at most 14 characters; Linux allows 15


def tap_name(domid: int, device: str) -> str:
    """The name of the tap of a domain's VIF. Raises InvalidPort when the kernel could not have such a name."""
    name = f"vif{domid}.{device}"
    if not _TAP.fullmatch(name):
        raise InvalidPort(f"domid {domid} and device {device!r} make no interface name")
    return name


def parse_tap_name(name: str) -> tuple[int, str] | None:
    """(domid, device) of a tap that `tap_name` made, None for any other interface."""
    match = _TAP.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSpec:
    """One VIF's port.

    `port_id` is VIF.other_config["nicira-iface-id"], the Neutron port's uuid ("" when the VIF has none: then the VIF's
    own uuid becomes iface-id, as XenServer does). It becomes `external_ids:iface-id`, with `iface-status=active`,
    `attached-mac`, `xs-vif-uuid`, `xs-vm-uuid`, `xs-network-uuid` beside it. `mtu` is in bytes.
    """

    tap: str
    bridge: str
    mac: str
    vif_uuid: str
    vm_uuid: str
    network_uuid: str
    port_id: str = ""
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInterface:
    """A network device of the machine that is neither a guest's tap nor virtual-switch furniture: a PIF's device."""

    device: str
    mac: str
    mtu: int
    carrier: bool


class NetworkError(Exception):
    """Any failure of this port."""


@dataclass(eq=False)
class InvalidPort(NetworkError):
    """An argument breaks a rule of this module."""

    reason: str


@dataclass(eq=False)
class BridgeMissing(NetworkError):
    """The bridge is not there (yet). XenAPI: BRIDGE_NOT_AVAILABLE."""

    bridge: str


@dataclass(eq=False)
class BridgeInUse(NetworkError):
    """The bridge cannot be removed: something else than its own port is in it."""

    bridge: str


@dataclass(eq=False)
class PortInUse(NetworkError):
    """The tap's name is taken by something that is not this VIF's port."""

    tap: str


@dataclass(eq=False)
class RateLimitUnsupported(NetworkError):
    """The machine cannot limit this interface's rate; nothing was changed."""

    reason: str


@dataclass(eq=False)
class SwitchUnavailable(NetworkError):
    """The virtual switch, or its database, does not answer."""

    reason: str


class Network(Protocol):
    """The port. See the module's docstring for what holds for every call."""

    def check_bridge(self, bridge: str) -> None:
        """Errors: BridgeMissing."""

    def create_bridge(self, bridge: str) -> None:
        """Make the bridge of a managed network; nothing happens when it is there. Errors: InvalidPort (the name)."""

    def destroy_bridge(self, bridge: str) -> None:
        """Remove a bridge made by `create_bridge`. No error when it is gone. Errors: BridgeInUse (also for a bridge
        that this port did not make)."""

    def bridges(self) -> list[str]:
        """All bridges of the switch, sorted."""

    def plug(self, port: PortSpec) -> None:
        """Make the tap, bring it up with its MTU and add it to the bridge. All or nothing.

        Errors: BridgeMissing, PortInUse, InvalidPort.
        """

    def unplug(self, tap: str) -> None:
        """Remove the port and the tap. No error when either is gone. Errors: InvalidPort (not a VIF's tap name)."""

    def ports(self) -> list[PortSpec]:
        """Every VIF port of the switch, and every VIF tap of the machine that lost its port (bridge "")."""

    def set_rate_limit(self, tap: str, kbps: int | None) -> None:
        """Limit what the guest may send, in KiB per second as XenAPI's qos_algorithm_params:kbps; None: no limit.

        Errors: InvalidPort (no such port), RateLimitUnsupported.
        """

    def interfaces(self) -> list[HostInterface]:
        """The machine's own network devices, sorted by name."""
