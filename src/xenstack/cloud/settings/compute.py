"""The OpenStack domU of a host: nova-compute with our driver, and the way in for consoles."""

from xenstack.cloud import layout
from xenstack.cloud.layout import CONTROL_ADDRESS, Layout, domu, domu_address
from xenstack.cloud.secrets import Secrets
from xenstack.cloud.service import Service
from xenstack.cloud.settings.control import nova_common
from xenstack.cloud.settings.ini import Section, ini
from xenstack.cloud.settings.openstack import bus_url


def nova_compute(where: Layout, secrets: Secrets, host: int) -> Service:
    """nova-compute of host N. It logs in to its own dom0 only, with that host's password."""
    box = domu(host)
    xenserver: Section = {
        "connection_url": f"http://{layout.DOM0_HIMN}:{layout.XENAPI}",
        "connection_username": "root",
        "connection_password": secrets.password(f"host {host}"),
        "console_address": f"{domu_address(host)}:{layout.DOMU_CONSOLES}",
    }
    conf = ini(
        where.etc(box) / "nova.conf",
        {**nova_common(secrets), **_compute(where, secrets, host), "xenserver": xenserver},
    )
    command = (where.program("nova-compute"), "--config-file", str(conf))
    state = (where.data(box) / "nova",)
    return Service(name="nova-compute", box=box, command=command, config=(conf,), folders=state, stop_s=10)


def fake_compute(where: Layout, secrets: Secrets) -> Service:
    """A nova-compute with Nova's own fake driver, which `bench` compares ours with; it runs only then."""
    box = layout.CONTROL
    common = nova_common(secrets)
    default: Section = {
        "host": layout.NETWORK,  # Neutron binds ports only where one of its agents is
        "my_ip": CONTROL_ADDRESS,
        "transport_url": bus_url(secrets),
        "state_path": where.data(box) / "nova-fake",
        "compute_driver": "fake.FakeDriverWithoutFakeNodes",  # the plain one cannot start a second time
        "use_stderr": True,
    }
    conf = ini(where.etc("nova-fake") / "nova.conf", {**common, "DEFAULT": default, "vnc": {"enabled": False}})
    command = (where.program("nova-compute"), "--config-file", str(conf))
    state = (where.data(box) / "nova-fake",)
    return Service(name="nova-compute-fake", box=box, command=command, config=(conf,), folders=state)


def console_forward(host: int) -> Service:
    """novncproxy's way to the consoles: dom0 serves only consoles there, and only to its domU."""
    command = (
        "socat",
        f"TCP-LISTEN:{layout.DOMU_CONSOLES},bind={domu_address(host)},fork,reuseaddr",
        f"TCP:{layout.DOM0_HIMN}:{layout.CONSOLES}",
    )
    return Service(name="console-forward", box=domu(host), command=command)


def _compute(where: Layout, secrets: Secrets, host: int) -> dict[str, Section]:
    box = domu(host)
    return {
        "DEFAULT": {
            "host": box,
            "my_ip": domu_address(host),
            "transport_url": bus_url(secrets),
            "state_path": where.data(box) / "nova",
            "compute_driver": "xenapi.XenAPIDriver",
            "resume_guests_state_on_host_boot": True,
            "allow_resize_to_same_host": True,
            "service_down_time": 60,
            "use_stderr": True,
        },
        "vnc": {
            "enabled": True,
            "server_listen": "0.0.0.0",  # noqa: S104 - what Nova asks for; our driver listens nowhere
            "server_proxyclient_address": domu_address(host),
            "novncproxy_base_url": f"http://{CONTROL_ADDRESS}:{layout.NOVNC}/vnc_lite.html",
        },
    }
