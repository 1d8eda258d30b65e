"""Something to show: networks, an image, a flavor, and one guest that answers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xenstack.cloud import guest, layout
from xenstack.cloud.api import ADMIN, DEMO, checked, done
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import NETWORK, OUTSIDE, domu
from xenstack.cloud.step import NotYet, Step
from xenstack.run import run

SERVER, IMAGE, FLAVOR, KEY = "demo-1", "guest", "small", "demo"
FLAT, PRIVATE, PUBLIC, ROUTER = "flat", "private", "public", "router"
MEMORY_MIB, DISK_GIB = 128, 1


def steps(cloud: Deployment) -> Iterator[Step]:
    yield _image_files(cloud)
    yield _key_file(cloud)
    yield _entity(cloud, "flavor", f"{FLAVOR}: {MEMORY_MIB} MiB, {DISK_GIB} GiB", ("nova-api",), _flavor, ADMIN)
    yield _entity(cloud, "public network", f"{layout.PUBLIC}, where floating IPs are", ("neutron-api",), _public, ADMIN)
    yield _entity(
        cloud,
        "flat network",
        f"{layout.FLAT} with DHCP, straight on the tenants' wire",
        ("neutron-api",),
        _flat,
        ADMIN,
        ("public network",),  # not at once: Neutron refused one of two first requests to make a network
    )
    yield _entity(
        cloud,
        "tenant network",
        f"{layout.TENANT} in a VXLAN tunnel, behind a router",
        ("neutron-api",),
        _private,
        DEMO,
        ("public network",),
    )
    yield _entity(
        cloud, "security group", "demo's default lets ping and ssh in", ("neutron-api",), _security_rules, DEMO
    )
    yield _entity(cloud, "key pair", "the key for demo's guests", ("nova-api",), _key_pair(cloud), DEMO, ("key file",))
    yield _entity(
        cloud, "image", f"{IMAGE}, as qcow2", ("glance",), _image(cloud), ADMIN, ("guest image",), within_s=120
    )
    yield from _server(cloud)


class Want:
    """A thing in OpenStack: how it is found, and how it is made when it is not."""

    def __init__(self, *, lacks: Any, make: Any) -> None:
        self.lacks = lacks
        self.make = make


def _entity(
    cloud: Deployment,
    name: str,
    title: str,
    apis: tuple[str, ...],
    want: Want,
    who: str,
    needs: tuple[str, ...] = (),
    within_s: float = 30,
) -> Step:
    return Step(
        name=name,
        title=title,
        needs=("catalogue", *(f"control/{api}" for api in apis), *needs),
        check=checked(cloud, want.lacks, who),
        apply=done(cloud, want.make, who),
        within_s=within_s,
        log=cloud.layout.log("control") / f"{apis[0]}.log",
    )


def _image_files(cloud: Deployment) -> Step:
    folder = cloud.layout.image
    build = cloud.layout.root / "images" / "build"

    def check() -> None:
        # the builder itself knows whether its sources changed; here only: is there a finished one?
        if not (folder / "manifest.json").exists():
            raise NotYet("no guest image was built yet")

    return Step(
        name="guest image",
        title="a small guest, built from Debian packages",
        check=check,
        apply=lambda: (run(build, str(folder), timeout_s=300), None)[1],
        advice="the builder's words are above; `images/build state/install/image` runs it alone",
    )


def _key_file(cloud: Deployment) -> Step:
    key = cloud.layout.ssh_key

    def check() -> None:
        if not (key.exists() and key.with_suffix(".pub").exists()):
            raise NotYet("there is no key yet")

    def make() -> None:
        key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "xenstack demo", "-f", str(key))

    return Step(name="key file", title="an ssh key, in the cloud's state", check=check, apply=make)


def _make_flavor(api: Any) -> None:
    api.compute.create_flavor(name=FLAVOR, ram=MEMORY_MIB, vcpus=1, disk=DISK_GIB)


_flavor = Want(lacks=lambda api: None if api.compute.find_flavor(FLAVOR) else f"no flavor {FLAVOR}", make=_make_flavor)


def _lacks_network(name: str) -> Any:
    def look(api: Any) -> str | None:
        network = api.network.find_network(name)
        return None if network and api.network.find_subnet(name) else f"no network {name}"

    return look


def _network(api: Any, name: str, cidr: str, *, subnet: dict[str, Any], **values: Any) -> None:
    network = api.network.find_network(name) or api.network.create_network(name=name, **values)
    if not api.network.find_subnet(name):
        api.network.create_subnet(name=name, network_id=network.id, ip_version=4, cidr=cidr, **subnet)


def _make_public(api: Any) -> None:
    _network(
        api,
        PUBLIC,
        layout.PUBLIC,
        subnet={
            "is_dhcp_enabled": False,
            "gateway_ip": layout.PUBLIC_GATEWAY,
            "allocation_pools": [{"start": "172.24.4.10", "end": "172.24.4.250"}],
        },
        provider_network_type="flat",
        provider_physical_network="public",
        is_router_external=True,
    )


def _make_flat(api: Any) -> None:
    _network(
        api,
        FLAT,
        layout.FLAT,
        subnet={"is_dhcp_enabled": True},
        provider_network_type="flat",
        provider_physical_network="tenant",
        is_shared=True,
    )


_public = Want(lacks=_lacks_network(PUBLIC), make=_make_public)
_flat = Want(lacks=_lacks_network(FLAT), make=_make_flat)


def _lacks_private(api: Any) -> str | None:
    if reason := _lacks_network(PRIVATE)(api):
        return str(reason)
    router = api.network.find_router(ROUTER)
    if not router or not router.external_gateway_info:
        return f"no router {ROUTER} to the public network"
    ports = list(api.network.ports(device_id=router.id))
    subnet = api.network.find_subnet(PRIVATE)
    inside = any(subnet.id == fixed["subnet_id"] for port in ports for fixed in port.fixed_ips)
    return None if inside else f"router {ROUTER} is not on network {PRIVATE}"


def _make_private(api: Any) -> None:
    _network(api, PRIVATE, layout.TENANT, subnet={"is_dhcp_enabled": True})
    outside = {"network_id": api.network.find_network(PUBLIC).id}
    router = api.network.find_router(ROUTER)
    if not router:
        router = api.network.create_router(name=ROUTER, external_gateway_info=outside)
    elif not router.external_gateway_info:
        api.network.update_router(router, external_gateway_info=outside)
    if _lacks_private(api):
        api.network.add_interface_to_router(router, subnet_id=api.network.find_subnet(PRIVATE).id)


_private = Want(lacks=_lacks_private, make=_make_private)
_LET_IN: tuple[dict[str, Any], ...] = (
    {"protocol": "icmp"},
    {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
)


def _default_group(api: Any) -> Any:
    """The project's default security group. Neutron makes it when first asked, and may not list it in that answer."""
    for _ in range(20):
        mine = api.network.security_groups(project_id=api.current_project_id, name="default")
        if found := next(iter(mine), None):
            return found
        time.sleep(0.5)
    raise NotYet("Neutron has made no default security group for the project")


def _closed(api: Any) -> list[dict[str, Any]]:
    """The rules that are missing."""
    group = _default_group(api)
    rules = list(api.network.security_group_rules(security_group_id=group.id, direction="ingress"))
    open_to_all = {r.protocol for r in rules if r.remote_ip_prefix == "0.0.0.0/0"}
    return [rule for rule in _LET_IN if rule["protocol"] not in open_to_all]


def _open(api: Any) -> None:
    group = _default_group(api)
    for rule in _closed(api):
        api.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ethertype="IPv4", remote_ip_prefix="0.0.0.0/0", **rule
        )


_security_rules = Want(
    lacks=lambda api: f"closed: {[r['protocol'] for r in _closed(api)]}" if _closed(api) else None, make=_open
)


def _key_pair(cloud: Deployment) -> Want:
    public = cloud.layout.ssh_key.with_suffix(".pub")

    def make(api: Any) -> None:
        api.compute.delete_keypair(KEY, ignore_missing=True)  # one of an older key file
        api.compute.create_keypair(name=KEY, public_key=public.read_text())

    def lacks(api: Any) -> str | None:
        found = api.compute.find_keypair(KEY)
        if not found or found.public_key.split()[:2] != public.read_text().split()[:2]:
            return "Nova does not have the key"
        return None

    return Want(lacks=lacks, make=make)


def _image(cloud: Deployment) -> Want:
    def lacks(api: Any) -> str | None:
        found = api.image.find_image(IMAGE)
        return None if found and found.status == "active" else f"no active image {IMAGE}"

    def make(api: Any) -> None:
        if broken := api.image.find_image(IMAGE):
            api.image.delete_image(broken)
        file: Path = cloud.layout.image / "disk.qcow2"
        with file.open("rb") as data:
            api.image.create_image(
                name=IMAGE,
                data=data,
                disk_format="qcow2",
                container_format="bare",
                visibility="public",
                min_disk=DISK_GIB,
                validate_checksum=False,
                use_import=False,
            )

    return Want(lacks=lacks, make=make)


def _server(cloud: Deployment) -> Iterator[Step]:
    hosts = [f"{domu(n)} has resources" for n in cloud.hosts]
    agents = [f"{NETWORK}/neutron-{kind}-agent" for kind in ("openvswitch", "l3", "dhcp", "metadata")]
    yield Step(
        name=SERVER,
        title="a guest on the tenant network",
        needs=(
            *hosts,
            *agents,
            *("flavor", "tenant network", "security group", "key pair", "image", "control/nova-metadata"),
        ),
        check=checked(cloud, guest.inactive, DEMO),
        apply=done(cloud, guest.revive, DEMO),
        within_s=180,
        log=cloud.layout.log(domu(1)) / "nova-compute.log",
        advice=f"`./xenstack shell -- openstack server show {SERVER}` says what Nova thinks of it",
    )
    yield Step(
        name="floating IP",
        title=f"{SERVER} has an address on the public network",
        needs=(SERVER,),
        check=checked(cloud, guest.homeless, DEMO),
        apply=done(cloud, guest.give_address, DEMO),
    )
    yield Step(
        name=f"{SERVER} answers",
        title="ping from the outside, through router and floating IP",
        needs=("floating IP", f"cables of {OUTSIDE}", f"isolation of {OUTSIDE}"),
        check=lambda: guest.pings(cloud, SERVER),
        within_s=150,
        advice=f"`./xenstack shell -- openstack console log show {SERVER}` shows how far it came",
    )
    yield Step(
        name=f"{SERVER} lets in",
        title="ssh with the demo key",
        needs=(f"{SERVER} answers",),
        check=lambda: guest.lets_in(cloud, SERVER),
        within_s=90,
    )
