"""The driver's options, group [xenserver] of nova.conf: each with its unit, default, reason and bounds.

The group keeps the name it had in Nova until 2020, so that old configuration files still read; options whose job
is gone (image handlers, agent timeouts, root SSH, …) are gone too. Nova must know nothing of this module: it is
found through the `oslo.config.opts` entry point by the sample generator and registered by `driver.py`.
"""

from typing import Any

from oslo_config import cfg

GROUP = cfg.OptGroup(
    "xenserver",
    title="XenAPI host",
    help="How nova-compute reaches the one XenAPI host it drives (xapi of XCP-ng or XenServer, or the xenstack host).",
)

OPTIONS: list[Any] = [
    cfg.StrOpt(
        "connection_url",
        help="URL of the host's XenAPI: http:// or https:// with an address, or unix:// with the path of a socket. "
        "No default: the driver does not start without it. Over the host internal management network this is "
        "http://169.254.0.1.",
    ),
    cfg.StrOpt(
        "connection_username",
        default="root",
        help="User to log in as. XenAPI's own administrator is root of the host.",
    ),
    cfg.StrOpt("connection_password", secret=True, help="Password of connection_username. No default."),
    cfg.StrOpt(
        "connection_ca_file",
        help="PEM file with the authority, or the host's own certificate, that an https:// connection_url is checked "
        "against. Default: the system's authorities.",
    ),
    cfg.BoolOpt(
        "connection_verify",
        default=True,
        help="Whether an https:// host's certificate is checked at all. Turn it off only on a network that nobody "
        "else can reach.",
    ),
    cfg.StrOpt(
        "ovs_integration_bridge",
        default="br-int",
        help="Bridge of the host that guests' network interfaces are plugged into. br-int is what Neutron's Open "
        "vSwitch agent makes. The driver adds one unmanaged XenAPI network for it when there is none.",
    ),
    cfg.StrOpt(
        "sr_matching_filter",
        default="default-sr:true",
        help="Which SR holds images and disks: default-sr:true (the pool's default SR, or the only usable one), "
        "uuid:UUID, name:LABEL, or other-config:KEY=VALUE.",
    ),
    cfg.IntOpt(
        "login_timeout",
        default=10,
        min=1,
        max=300,
        help="Seconds to connect and log in. Ten: the host is next door, and a start that hangs helps nobody.",
    ),
    cfg.IntOpt(
        "call_timeout",
        default=600,
        min=30,
        max=86400,
        help="Seconds one call may take. Ten minutes: a suspend writes the guest's memory to disk.",
    ),
    cfg.StrOpt(
        "console_address",
        help="ADDRESS or ADDRESS:PORT at which nova-novncproxy reaches the host's consoles. Default: the address of "
        "connection_url, port 80. Set it when the proxy cannot reach the host itself: the host internal management "
        "network ends in the OpenStack domU, which forwards consoles and nothing else.",
    ),
    cfg.IntOpt(
        "image_chunk_size",
        default=1024 * 1024,
        min=16 * 1024,
        max=16 * 1024 * 1024,
        help="Bytes sent to the host at once while an image is imported. 1 MiB: larger gains nothing, smaller costs "
        "system calls.",
    ),
    cfg.IntOpt(
        "image_import_timeout",
        default=3600,
        min=60,
        max=86400,
        help="Seconds for the import of one image from the image service into the SR.",
    ),
    cfg.IntOpt(
        "event_timeout",
        default=30,
        min=1,
        max=300,
        help="Seconds one event.from may wait for news. Thirty, as xapi's own clients do: it bounds how long a dead "
        "connection goes unnoticed and costs two calls a minute.",
    ),
    cfg.IntOpt(
        "soft_reboot_timeout",
        default=120,
        min=1,
        max=3600,
        help="Seconds a guest has for a soft reboot before it is rebooted hard. 120, as Nova's libvirt driver.",
    ),
]


def register(conf: Any) -> None:
    """Make the options known to a ConfigOpts; a second time changes nothing."""
    conf.register_group(GROUP)
    conf.register_opts(OPTIONS, group=GROUP)


def list_opts() -> list[tuple[Any, list[Any]]]:
    """For oslo.config's sample generator and validator."""
    return [(GROUP, OPTIONS)]
