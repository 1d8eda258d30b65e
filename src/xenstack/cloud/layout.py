"""Where everything of a cloud is: folders, boxes, networks, addresses, ports. Pure data, no action.

A *box* is a machine of the deployment architecture, played by one process tree in its own namespaces:

  * ``fabric`` holds nothing but the bridges that join the others: management, tenant, public;
  * ``outside`` is the operator's and the Internet's seat: it sees floating IPs and the APIs, never a host;
  * ``control`` and ``network`` are the control plane and the network node;
  * ``dom0-N`` and ``domu-N`` are host N's control domain and its OpenStack domain, joined by the host internal
    management network (HIMN). dom0 is not on the management network: its own domU is the only way to it.

Every address lives inside a box. All of a cloud's state lives in one folder, `Layout.cloud`.
"""

from dataclasses import dataclass
from pathlib import Path

FABRIC = "fabric"
OUTSIDE = "outside"
CONTROL = "control"
NETWORK = "network"

MANAGEMENT = "10.99.0.0/24"
TUNNELS = "10.98.0.0/24"
PUBLIC = "172.24.4.0/24"
HIMN = "169.254.0.0/16"
FLAT = "10.20.0.0/24"
TENANT = "10.21.0.0/24"

CONTROL_ADDRESS = "10.99.0.1"
NETWORK_ADDRESS = "10.99.0.2"
OPERATOR_ADDRESS = "10.99.0.254"
NETWORK_TUNNEL = "10.98.0.2"
PUBLIC_GATEWAY = "172.24.4.1"
DOM0_HIMN = "169.254.0.1"
DOMU_HIMN = "169.254.0.2"

# the bridges of `fabric`; a box's interface on one carries the same name
BRIDGES = ("mgmt", "tenant", "public")

# ports: OpenStack's usual ones
DATABASE = 3306
BUS = 5672
IDENTITY = 5000
IMAGE = 9292
PLACEMENT = 8778
COMPUTE = 8774
METADATA = 8775
NETWORKING = 9696
NOVNC = 6080
# ports on the HIMN: XenAPI, OVSDB, OpenFlow for ovs-ofctl, OpenFlow of the agent, consoles
XENAPI = 80
XENAPI_TLS = 443
OVSDB = 6640
OPENFLOW = 6634
AGENT_OPENFLOW = 6633
CONSOLES = 8080
# what the domU forwards to CONSOLES, for novncproxy
DOMU_CONSOLES = 6900

MAX_HOSTS = 40  # domu-N is 10.99.0.(10+N); far below the operator's .254


def dom0(host: int) -> str:
    return f"dom0-{host}"


def domu(host: int) -> str:
    return f"domu-{host}"


def domu_address(host: int) -> str:
    return f"10.99.0.{10 + host}"


def tunnel_address(host: int) -> str:
    return f"10.98.0.{10 + host}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one clone. `cloud` may be deleted whenever no box runs; `install` is a cache."""

    root: Path
    hosts: int = 1
    state: Path | None = None  # another place for `cloud`, for what is only described

    @property
    def install(self) -> Path:
        """Tools, virtual environment, guest image: survives ``down --purge``."""
        return self.root / "state" / "install"

    @property
    def venv(self) -> Path:
        return self.install / "venv"

    @property
    def cache(self) -> Path:
        """What programs find again faster: of downloads, and of Python's entry points."""
        return self.install / "cache"

    @property
    def image(self) -> Path:
        """Where images/build puts the guest image."""
        return self.install / "image"

    @property
    def cloud(self) -> Path:
        """Everything else: configuration, data, logs, passwords, keys."""
        return self.state or self.root / "state" / "cloud"

    def etc(self, name: str) -> Path:
        """A folder of generated configuration, by service or box."""
        return self.cloud / "etc" / name

    def data(self, box: str) -> Path:
        """What a box keeps over a restart."""
        return self.cloud / "data" / box

    def log(self, box: str) -> Path:
        return self.cloud / "log" / box

    def box_folder(self, box: str) -> Path:
        """What starts a box: its first script, its supervisor's configuration, its process id."""
        return self.cloud / "boxes" / box

    @property
    def clouds_yaml(self) -> Path:
        return self.cloud / "clouds.yaml"

    @property
    def ssh_key(self) -> Path:
        return self.cloud / "id_demo"

    def program(self, name: str) -> str:
        """A program of the virtual environment."""
        return str(self.venv / "bin" / name)

    @property
    def boxes(self) -> tuple[str, ...]:
        hosts = range(1, self.hosts + 1)
        return (FABRIC, OUTSIDE, CONTROL, NETWORK, *(b for n in hosts for b in (dom0(n), domu(n))))
