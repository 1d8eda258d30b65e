"""Who may speak to whom, where cables alone do not decide it: packet filters in the boxes.

The switch in user space reads frames from taps and veths, but Linux sees the same frames too and would answer ARP
and TCP on them for any of the box's addresses. So dom0 and the network node drop everything that does not come in
by the interface where it belongs, ARP included. A guest can then reach neither, whatever it puts into its frames.

Each box has one table, named after the hash of its rules: a changed rule set replaces the old one at the next `up`.
"""

import hashlib
from collections.abc import Iterator

from xenstack.cloud import layout
from xenstack.cloud.box import Box
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL_ADDRESS, DOM0_HIMN, DOMU_HIMN, NETWORK, OUTSIDE, TUNNELS, dom0, domu
from xenstack.cloud.step import NotYet, Step
from xenstack.run import run

_PREFIX = "xenstack_"
_ALWAYS = ("iif lo accept", "ct state established,related accept")


def steps(cloud: Deployment) -> Iterator[Step]:
    yield _step(cloud, NETWORK, "the network node is reached by the management network only", network_rules())
    yield _step(cloud, OUTSIDE, "the outside is no way round a router", outside_rules())
    for n in cloud.hosts:
        yield _step(cloud, dom0(n), "dom0 is reached by its own domU only, over the HIMN", dom0_rules())
        yield _step(cloud, domu(n), "the domU is reached by its switch and, for consoles, by control", domu_rules())


def dom0_rules() -> tuple[list[str], list[str]]:
    """(packet rules, ARP rules) of dom0; what no rule accepts is dropped."""
    ports = f"{layout.XENAPI}, {layout.XENAPI_TLS}, {layout.OVSDB}, {layout.OPENFLOW}, {layout.CONSOLES}"
    packets = [
        *_ALWAYS,
        f'iifname "himn" ip saddr {DOMU_HIMN} ip daddr {DOM0_HIMN} tcp dport {{ {ports} }} accept',
        f'iifname "himn" ip saddr {DOMU_HIMN} ip daddr {DOM0_HIMN} icmp type echo-request accept',
    ]
    arp = [
        f'iifname "himn" arp saddr ip {DOMU_HIMN} accept',
        f'iifname "br-tenant" arp saddr ip {TUNNELS} accept',  # a guest's own address is never one of these
    ]
    return packets, arp


def domu_rules() -> tuple[list[str], list[str]]:
    packets = [
        *_ALWAYS,
        f'iifname "himn" ip saddr {DOM0_HIMN} ip daddr {DOMU_HIMN} tcp dport {layout.AGENT_OPENFLOW} accept',
        f'iifname "himn" ip saddr {DOM0_HIMN} ip daddr {DOMU_HIMN} icmp type echo-request accept',
        f'iifname "mgmt" ip saddr {CONTROL_ADDRESS} tcp dport {layout.DOMU_CONSOLES} accept',
        'iifname "mgmt" icmp type echo-request accept',
    ]
    arp = [f'iifname "himn" arp daddr ip {DOMU_HIMN} accept', 'iifname "mgmt" accept']
    return packets, arp


def network_rules() -> tuple[list[str], list[str]]:
    packets = [*_ALWAYS, 'iifname "mgmt" icmp type echo-request accept']
    arp = ['iifname "mgmt" accept', f'iifname "br-tenant" arp saddr ip {TUNNELS} accept']
    return packets, arp


def outside_rules() -> tuple[list[str], list[str]]:
    packets = [
        *_ALWAYS,
        f'iifname "public" ip daddr {layout.PUBLIC_GATEWAY} icmp type echo-request accept',
        'iifname "mgmt" icmp type echo-request accept',
    ]
    arp = [f'iifname "public" arp daddr ip {layout.PUBLIC_GATEWAY} accept', 'iifname "mgmt" accept']
    return packets, arp


def ruleset(rules: tuple[list[str], list[str]]) -> tuple[str, str]:
    """(name of the table, nft script that makes it)."""
    packets, arp = ("\n".join(f"    {rule}" for rule in part) for part in rules)
    hook = "type filter hook input priority 0; policy drop;"
    body = "\n  chain input {{\n    {hook}\n{rules}\n  }}\n"
    text = body.format(hook=hook, rules=packets) + "@" + body.format(hook=hook, rules=arp)
    name = _PREFIX + hashlib.sha256(text.encode()).hexdigest()[:12]
    inet, arp_part = text.split("@")
    return name, f"table inet {name} {{{inet}}}\ntable arp {name} {{{arp_part}}}\n"


def _step(cloud: Deployment, name: str, title: str, rules: tuple[list[str], list[str]]) -> Step:
    box = cloud.boxes[name]
    table, script = ruleset(rules)

    def check() -> None:
        if ("inet", table) not in _tables(box) or ("arp", table) not in _tables(box):
            raise NotYet(f"{name} has not its packet filter")

    def apply() -> None:
        old = "".join(f"delete table {family} {t}\n" for family, t in _tables(box) if t.startswith(_PREFIX))
        _nft(box, "-f", "-", stdin=old + script)  # one transaction: never a moment without a filter
        ipv6 = "/proc/sys/net/ipv6/conf"
        if name != NETWORK:  # Neutron's routers may speak IPv6; the hosts and the outside do not
            box.run("sh", "-c", f"[ ! -d {ipv6} ] || echo 1 | tee {ipv6}/all/disable_ipv6 {ipv6}/default/disable_ipv6")

    return Step(name=f"isolation of {name}", title=title, needs=(f"box {name}",), check=check, apply=apply)


def _tables(box: Box) -> set[tuple[str, str]]:
    lines = _nft(box, "list", "tables").splitlines()
    return {(family, table) for _, family, table in (line.split() for line in lines)}


def _nft(box: Box, *words: str, stdin: str | None = None) -> str:
    return run("nsenter", "-t", str(box.running()), "-n", "nft", *words, stdin=stdin).stdout
