"""The composition: which boxes there are, what runs in each, and the settings each service reads.

`Deployment` is the one object that steps, status, tests and commands hold. Making it writes nothing but the
configuration files, and only those whose text changed.
"""

import json
from functools import cached_property
from pathlib import Path

from xenstack.cloud import layout
from xenstack.cloud.box import Box
from xenstack.cloud.layout import CONTROL, DOM0_HIMN, FABRIC, NETWORK, OUTSIDE, Layout, dom0, domu
from xenstack.cloud.secrets import Secrets, write_private
from xenstack.cloud.service import Service
from xenstack.cloud.settings import compute, control, host, infrastructure, networking
from xenstack.cloud.supervisor import Supervisor


def hosts_file(root: Path) -> Path:
    """How many hosts the cloud of this clone has; there is a cloud when the file exists."""
    return Layout(root).cloud / "cloud.json"


def known_hosts(root: Path) -> int | None:
    """The number of hosts of the cloud in this clone, None when none was ever started."""
    try:
        return int(json.loads(hosts_file(root).read_text())["hosts"])
    except FileNotFoundError:
        return None


class Deployment:
    """One clone's cloud."""

    def __init__(self, root: Path, hosts: int, state: Path | None = None) -> None:
        if not 1 <= hosts <= layout.MAX_HOSTS:
            raise ValueError(f"a cloud has 1 to {layout.MAX_HOSTS} hosts, not {hosts}")
        self.layout = Layout(root, hosts, state)
        self.layout.cloud.mkdir(parents=True, exist_ok=True)
        self.layout.cloud.chmod(0o700)
        self.secrets = Secrets(self.layout.cloud / "secrets.json")

    def remember(self) -> None:
        """Keep the number of hosts for the next command."""
        write_private(hosts_file(self.layout.root), json.dumps({"hosts": self.layout.hosts}) + "\n")

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Every box by name, in the order in which they start."""
        where, binds = self.layout, {CONTROL: infrastructure.binds(self.layout)}
        for n in range(1, where.hosts + 1):
            binds[dom0(n)] = host.binds(where, n)
        return {name: Box(where, name, self._services(name), binds.get(name, ())) for name in where.boxes}

    def supervisor(self, box: str) -> Supervisor:
        return Supervisor(self.boxes[box])

    @property
    def services(self) -> list[Service]:
        """Every service of every box."""
        return [s for box in self.boxes.values() for s in box.services]

    def service(self, box: str, name: str) -> Service:
        return next(s for s in self.boxes[box].services if s.name == name)

    @property
    def hosts(self) -> range:
        return range(1, self.layout.hosts + 1)

    def _services(self, box: str) -> tuple[Service, ...]:
        where, secrets = self.layout, self.secrets
        if box in (FABRIC, OUTSIDE):
            return ()
        if box == CONTROL:
            return (
                infrastructure.mariadb(where),
                infrastructure.rabbitmq(where, secrets),
                control.keystone(where, secrets),
                control.glance(where, secrets),
                control.placement(where, secrets),
                *control.neutron(where, secrets),
                *control.nova(where, secrets),
                compute.fake_compute(where, secrets),
            )
        if box == NETWORK:
            return (
                *networking.openvswitch(where, box, (), layout.NETWORK_TUNNEL),
                *networking.network_node(where, secrets),
            )
        number = int(box.rpartition("-")[2])
        if box == dom0(number):
            remotes = (f"ptcp:{layout.OVSDB}:{DOM0_HIMN}",)
            switch = networking.openvswitch(where, box, remotes, layout.tunnel_address(number))
            return (*switch, *host.services(where, secrets, number))
        assert box == domu(number)
        return (
            compute.console_forward(number),
            *networking.domu_agent(where, secrets, number),
            compute.nova_compute(where, secrets, number),
        )
