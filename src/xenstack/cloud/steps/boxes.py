"""The machines: every box runs, and each has its cables.

Cables are veth pairs made from outside, by the process ids of the boxes: one end is an interface of the box, the
other a port of a bridge in `fabric`; a host's dom0 and domU share a pair of their own, the HIMN.
"""

from collections.abc import Iterator

from xenstack.cloud import layout
from xenstack.cloud.box import Box
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import BRIDGES, CONTROL, FABRIC, NETWORK, OUTSIDE, dom0, domu, domu_address
from xenstack.cloud.step import NotYet, Step
from xenstack.run import run


def steps(cloud: Deployment) -> Iterator[Step]:
    for box in cloud.boxes.values():
        yield _box(cloud, box)
    fabric = cloud.boxes[FABRIC]
    yield Step(
        name="fabric bridges",
        title=f"three bridges join the boxes: {', '.join(BRIDGES)}",
        needs=("box fabric",),
        check=lambda: _has(fabric, *BRIDGES),
        apply=lambda: _bridges(fabric),
    )
    yield _cables(cloud, OUTSIDE, ("mgmt", "public"))
    yield _cables(cloud, CONTROL, ("mgmt",))
    yield _cables(cloud, NETWORK, ("mgmt", "tenant", "public"))
    for n in cloud.hosts:
        yield _cables(cloud, dom0(n), ("tenant",))
        yield _cables(cloud, domu(n), ("mgmt",))
        yield _himn(cloud, n)


def _box(cloud: Deployment, box: Box) -> Step:
    what = ", ".join(s.name for s in box.services) or "no service"
    return Step(
        name=f"box {box.name}",
        title=f"namespaces and a supervisor for {what}",
        check=box.check,
        apply=lambda: None if box.pid() else box.start(),
        within_s=20,
        log=cloud.layout.log(box.name) / "box.log",
        advice="see the log; a kernel without one of the namespaces cannot run a box",
    )


def _has(box: Box, *interfaces: str) -> None:
    if missing := set(interfaces) - box.interfaces():
        raise NotYet(f"{box.name} has no {', '.join(sorted(missing))}")


def _inside(box: Box, script: str) -> None:
    """Give `ip` a batch of commands in the box's network; process ids are the machine's."""
    run("nsenter", "-t", str(box.running()), "-n", "ip", "-batch", "-", stdin=script)


def _bridges(fabric: Box) -> None:
    missing = [b for b in BRIDGES if b not in fabric.interfaces()]
    # no address and no multicast snooping: these are dumb switches
    _inside(fabric, "".join(f"link add {b} type bridge mcast_snooping 0\nlink set {b} up\n" for b in missing))


def _cables(cloud: Deployment, name: str, wires: tuple[str, ...]) -> Step:
    box, fabric = cloud.boxes[name], cloud.boxes[FABRIC]

    def plug() -> None:
        for wire in wires:
            if wire in box.interfaces():
                continue
            port = f"{wire[0]}-{name}"
            if port in fabric.interfaces():  # the other end went with a box that died
                _inside(fabric, f"link del {port}\n")
            _inside(
                fabric,
                f"link add {port} type veth peer name {wire} netns {box.running()}\nlink set {port} master {wire} up\n",
            )
            if wire != "mgmt":  # Open vSwitch in user space passes frames on without filling in checksums
                run("nsenter", "-t", str(fabric.running()), "-n", "ethtool", "-K", port, "tx", "off")
                run("nsenter", "-t", str(box.running()), "-n", "ethtool", "-K", wire, "tx", "off")
        _inside(box, "".join(f"link set {w} up\n" for w in wires) + addresses(name))

    return Step(
        name=f"cables of {name}",
        title=f"{name} is on {', '.join(wires)}",
        needs=("fabric bridges", f"box {name}"),
        check=lambda: _has(box, *wires),
        apply=plug,
    )


def addresses(box: str) -> str:
    """The commands for `ip` that give a box its addresses on the fabric's networks."""
    found = {
        OUTSIDE: (("mgmt", f"{layout.OPERATOR_ADDRESS}/24"), ("public", f"{layout.PUBLIC_GATEWAY}/24")),
        CONTROL: (("mgmt", f"{layout.CONTROL_ADDRESS}/24"),),
        NETWORK: (("mgmt", f"{layout.NETWORK_ADDRESS}/24"),),
    }.get(box, ())
    if box.startswith("domu-"):
        number = int(box.partition("-")[2])
        # the tunnel's address is dom0's; the agent in the domU wants to see it on an interface of its own
        found = (("mgmt", f"{domu_address(number)}/24"), ("lo", f"{layout.tunnel_address(number)}/32"))
    return "".join(f"address replace {address} dev {device}\n" for device, address in found)


def _himn(cloud: Deployment, number: int) -> Step:
    host, guest = cloud.boxes[dom0(number)], cloud.boxes[domu(number)]

    def check() -> None:
        _has(host, "himn")
        _has(guest, "himn")

    def plug() -> None:
        _inside(host, f"link add himn type veth peer name himn netns {guest.running()}\n")
        for box, address in ((host, layout.DOM0_HIMN), (guest, layout.DOMU_HIMN)):
            _inside(box, f"address replace {address}/16 dev himn\nlink set himn up\n")

    return Step(
        name=f"HIMN of host {number}",
        title=f"a cable between {host.name} and {guest.name}, which no one else is on",
        needs=(f"box {host.name}", f"box {guest.name}"),
        check=check,
        apply=plug,
    )
