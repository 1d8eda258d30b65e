"""Neutron's agents and the Open vSwitch under them: the network node's, and the one in each OpenStack domU.

The domU's agent is the stock one; its switch is dom0's, reached over the host internal management network:

  * OVSDB by TCP; OpenFlow the way round that Neutron does it: dom0's vswitchd connects to the agent;
  * `ovs-ofctl br-int`, which the firewall runs locally, goes through a forwarder to dom0's passive controller;
  * the interface monitor would run ovsdb-client locally: `minimize_polling` off avoids it. The agent then looks for
    new ports every `polling_interval`: 1 s instead of 2, since every server waits for it;
  * the tunnel's address sits on dom0's br-tenant; the domU holds it on its loopback too, for the agent's check.
"""

import shlex
from pathlib import Path

from xenstack.cloud import layout
from xenstack.cloud.layout import CONTROL_ADDRESS, NETWORK, Layout, domu, tunnel_address
from xenstack.cloud.secrets import Secrets
from xenstack.cloud.service import Service
from xenstack.cloud.settings.ini import Section, ini, write
from xenstack.cloud.settings.openstack import RABBIT, bus_url, forking, locks

OVS_SOCKET = "unix:/run/openvswitch/db.sock"
PRIVSEP_SOCKET = "/run/xenstack/privsep.sock"
_PRIVSEP = (
    *("privsep", "privsep_dhcp_release", "privsep_ovs_vsctl", "privsep_namespace", "privsep_conntrack"),
    "privsep_link",
)
_SECURITY: Section = {"enable_security_group": True, "firewall_driver": "openvswitch"}


def openvswitch(where: Layout, box: str, remotes: tuple[str, ...], tunnel: str) -> tuple[Service, ...]:
    """A private Open vSwitch. Its database lives as long as the box: Neutron and the host build its content anew.

    The third service puts `tunnel` on br-tenant whenever vswitchd made that interface anew, as each restart does.
    """
    folder = where.etc(box)
    database = write(
        folder / "ovsdb",
        "mkdir -p /run/openvswitch\n"
        "[ -e /run/openvswitch/conf.db ] ||"
        " ovsdb-tool create /run/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema\n"
        "exec ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock"
        f"{''.join(f' --remote={r}' for r in remotes)} --pidfile --unixctl=/run/openvswitch/ovsdb.ctl"
        " --verbose=file:off --verbose=syslog:off\n",
    )
    address = write(
        folder / "tunnel-address",
        "# br-tenant and its address vanish with every restart of ovs-vswitchd: put them back\n"
        "mend() {\n"
        f"  ip -4 -o address show dev br-tenant 2>/dev/null | grep -q ' {tunnel}/' && return\n"
        f"  ip link set br-tenant up 2>/dev/null && ip address replace {tunnel}/24 dev br-tenant\n"
        "}\n"
        "mend || true\n"
        "ip -o monitor link | while read -r line; do case $line in *br-tenant*) mend || true;; esac; done\n",
    )
    switch = (
        *("ovs-vswitchd", OVS_SOCKET, "--pidfile", "--unixctl=/run/openvswitch/vswitchd.ctl"),
        *("--verbose=file:off", "--verbose=syslog:off", "--verbose=console:warn"),
    )
    return (
        Service(name="ovsdb", box=box, command=("sh", "-e", str(database)), config=(database,)),
        Service(name="vswitchd", box=box, command=switch),
        Service(name="tunnel-address", box=box, command=("sh", "-e", str(address)), config=(address,)),
    )


def network_node(where: Layout, secrets: Secrets) -> tuple[Service, ...]:
    """L2, L3, DHCP and metadata agents of the network node."""
    etc = where.etc("neutron-network")
    conf = ini(etc / "neutron.conf", _common(where, secrets, NETWORK))
    local: Section = {"ovsdb_connection": OVS_SOCKET}
    ovs = ini(
        etc / "openvswitch_agent.ini",
        {
            "ovs": {
                **local,
                "datapath_type": "netdev",
                "bridge_mappings": "tenant:br-tenant,public:br-ex",
                "local_ip": layout.NETWORK_TUNNEL,
            },
            "agent": {"tunnel_types": "vxlan"},
            "securitygroup": _SECURITY,
        },
    )
    dhcp = ini(etc / "dhcp_agent.ini", {"DEFAULT": {"enable_isolated_metadata": True}, "ovs": local})
    l3 = ini(etc / "l3_agent.ini", {"DEFAULT": {"agent_mode": "legacy"}, "ovs": local})
    metadata = ini(
        etc / "metadata_agent.ini",
        {
            "DEFAULT": {
                "nova_metadata_host": CONTROL_ADDRESS,
                "nova_metadata_port": layout.METADATA,
                "metadata_proxy_shared_secret": secrets.password("metadata"),
                "metadata_workers": 0,
            },
        },
    )
    return (
        _privsep(where),
        _lean(where, NETWORK, "neutron-openvswitch-agent", conf, ovs),
        _stock(where, NETWORK, "neutron-l3-agent", conf, l3),
        _stock(where, NETWORK, "neutron-dhcp-agent", conf, dhcp),
        _lean(where, NETWORK, "neutron-metadata-agent", conf, metadata),
    )


def domu_agent(where: Layout, secrets: Secrets, host: int) -> tuple[Service, ...]:
    """The OVS agent of host N, and the forwarder for what it runs locally."""
    box = domu(host)
    etc = where.etc(box)
    conf = ini(etc / "neutron.conf", _common(where, secrets, box))
    ovs = ini(
        etc / "openvswitch_agent.ini",
        {
            "ovs": {
                "ovsdb_connection": f"tcp:{layout.DOM0_HIMN}:{layout.OVSDB}",
                "of_listen_address": layout.DOMU_HIMN,
                "of_listen_port": layout.AGENT_OPENFLOW,
                "datapath_type": "netdev",
                "bridge_mappings": "tenant:br-tenant",
                "local_ip": tunnel_address(host),
            },
            "agent": {"tunnel_types": "vxlan", "minimize_polling": False, "polling_interval": 1},
            "securitygroup": _SECURITY,
        },
    )
    forward = write(
        etc / "ofctl-forward",
        "# Neutron's firewall runs `ovs-ofctl br-int`: hand that to dom0's switch\n"
        "mkdir -p /run/openvswitch\n"
        "exec socat UNIX-LISTEN:/run/openvswitch/br-int.mgmt,fork,unlink-early"
        f" TCP:{layout.DOM0_HIMN}:{layout.OPENFLOW}\n",
    )
    return (
        Service(name="ofctl-forward", box=box, command=("sh", "-e", str(forward)), config=(forward,)),
        _lean(where, box, "neutron-openvswitch-agent", conf, ovs),
    )


def _common(where: Layout, secrets: Secrets, box: str) -> dict[str, Section]:
    return {
        "DEFAULT": {
            "host": box,
            "core_plugin": "ml2",
            "transport_url": bus_url(secrets),
            "state_path": "/run/neutron",  # leases and namespaces' files; the agents make them anew from the server
            "interface_driver": "openvswitch",
            "use_stderr": True,
        },
        "agent": {"root_helper": "", "report_interval": 10},
        "oslo_messaging_rabbit": RABBIT,
        "oslo_concurrency": locks("neutron"),
        **{section: {"helper_command": shlex.join(_helper(where))} for section in _PRIVSEP},
    }


def _privsep(where: Layout) -> Service:
    """The process that forks the L3 and DHCP agents' privileged helpers. They outlive its restart."""
    command = (where.program("python"), "-m", "xenstack.cloud.privsep", PRIVSEP_SOCKET)
    return Service(name="privsep", box=NETWORK, command=command, alone=True)


def _helper(where: Layout) -> tuple[str, ...]:
    """What Neutron runs for a helper: nothing of the environment's packages, so that it starts in milliseconds."""
    source = where.root / "src" / "xenstack" / "cloud" / "privsep.py"
    return (where.program("python"), "-I", "-S", str(source), PRIVSEP_SOCKET)


def _stock(where: Layout, box: str, program: str, *files: Path) -> Service:
    return Service(name=program, box=box, command=(*forking(where, program), *_options(files)), config=files, stop_s=2)


def _lean(where: Layout, box: str, program: str, *files: Path) -> Service:
    """An agent in one process (see `xenstack.cloud.agent`): saves its privsep helpers, 120 MiB each."""
    command = (where.program("python"), "-m", "xenstack.cloud.agent", program, *_options(files))
    return Service(name=program, box=box, command=command, config=files, stop_s=2)


def _options(files: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(word for file in files for word in ("--config-file", str(file)))
