"""VIFs: an instance's Neutron ports on the host's integration bridge.

The host puts `other_config["nicira-iface-id"]` (the key of Open vSwitch's own XenServer integration) as iface-id on
the bridge's port; Neutron's agent finds the port by it and wires it. Nothing is plugged from here.
"""

from typing import Any

from nova import exception
from nova.network import model

from xenstack.nova.host import Host
from xenstack.nova.records import Record

PORT = "nicira-iface-id"


def refuse(host: Host, vif: Any) -> None:
    """Refuse a port that could not be wired. Raises VirtualInterfacePlugException."""
    bridge = host.settings.ovs_integration_bridge
    reason = ""
    if vif["type"] != model.VIF_TYPE_OVS:
        reason = f"its binding is {vif['type']!r}, only 'ovs' can be plugged"
    elif vif.get("vnic_type", model.VNIC_TYPE_NORMAL) != model.VNIC_TYPE_NORMAL:
        reason = f"its vnic_type is {vif['vnic_type']!r}, only 'normal' can be plugged"
    elif vif.is_hybrid_plug_enabled():
        reason = "it wants a hybrid plug; Neutron's agent must use firewall_driver = openvswitch"
    elif vif["network"]["bridge"] and vif["network"]["bridge"] != bridge:
        reason = f"its bridge is {vif['network']['bridge']!r}, ovs_integration_bridge is {bridge!r}"
    if reason:
        raise exception.VirtualInterfacePlugException(f"Port {vif['id']} cannot be plugged: {reason}")


def create(host: Host, vm: str, device: int, vif: Any) -> str:
    """Add a VIF to a VM; answers its ref. Neutron's firewall guards the port, so the host must not: unlocked."""
    wanted = {
        "VM": vm,
        "device": str(device),
        "network": host.network,
        "MAC": vif["address"],
        "MTU": int(vif["network"].get_meta("mtu") or 1500),
        "other_config": {PORT: vif["id"]},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
        "locking_mode": "unlocked",
        "ipv4_allowed": [],
        "ipv6_allowed": [],
    }
    return str(host.call("VIF.create", wanted))


def of_vm(host: Host, vm: str) -> list[tuple[str, Record]]:
    """The VM's VIFs as the records show them."""
    return [(ref, vif) for ref, vif in host.records.all("vif") if vif["VM"] == vm]


def find(host: Host, vm: str, port: str) -> tuple[str, Record] | None:
    """The VIF of a Neutron port."""
    return next(((ref, vif) for ref, vif in of_vm(host, vm) if vif["other_config"].get(PORT) == port), None)


def free_device(host: Host, vm: str) -> int:
    """The lowest device number without a VIF."""
    taken = {vif["device"] for _, vif in of_vm(host, vm)}
    return next(number for number in range(len(taken) + 1) if str(number) not in taken)


def awaited(network_info: Any) -> list[tuple[str, str]]:
    """The events Neutron will send when it has wired the ports: one for each that is not active now."""
    return [("network-vif-plugged", vif["id"]) for vif in network_info if vif.get("active", True) is False]
