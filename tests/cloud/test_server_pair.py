"""Two servers on one tenant network, what a security group does between them, and a config drive.

The second server starts from the raw image with a config drive, in a security group of its own that each test sets.
"""

import base64
from collections.abc import Iterator

import pytest
from tests.cloud.absence import vm_of
from tests.cloud.patience import until
from tests.cloud.tenant import PREFIX, Server, Tenant

from xenstack.cloud import xenapi_call

USER_DATA = "#!/bin/sh\necho this ran as $(id -un) >/root/user-data-ran\n"


@pytest.fixture(scope="module")
def group(tenant: Tenant) -> Iterator[str]:
    """A security group that lets nothing in."""
    made = tenant.ask(lambda api: api.network.create_security_group(name=PREFIX + "pair")).id
    yield made
    tenant.ask(lambda api: api.network.delete_security_group(made))


@pytest.fixture(scope="module")
def other(tenant: Tenant, group: str) -> Iterator[Server]:
    """The second server."""
    with (
        tenant.image("raw", tenant.cloud.layout.image / "disk.raw", "raw") as image,
        tenant.server(
            "other",
            image,
            floating=True,
            config_drive=True,
            user_data=base64.b64encode(USER_DATA.encode()).decode(),
            security_groups=[{"name": group}],
        ) as server,
    ):
        yield server


def close(tenant: Tenant, group: str) -> None:
    """Let nothing in."""

    def work(api: object) -> None:
        for rule in api.network.security_group_rules(security_group_id=group, direction="ingress"):  # type: ignore[attr-defined]
            api.network.delete_security_group_rule(rule)  # type: ignore[attr-defined]

    tenant.ask(work)


def let_in(tenant: Tenant, group: str, protocol: str, port: int | None = None) -> None:
    """Let one protocol in from everywhere."""
    ports = {} if port is None else {"port_range_min": port, "port_range_max": port}
    tenant.ask(
        lambda api: api.network.create_security_group_rule(
            security_group_id=group, direction="ingress", ethertype="IPv4", protocol=protocol, **ports
        )
    )


def pings(tenant: Tenant, from_: Server, to: Server) -> bool:
    return tenant.ssh(from_, f"ping -c 1 -W 1 {to.fixed}").status == 0


def test_a_security_group_blocks_and_allows(tenant: Tenant, guest: Server, other: Server, group: str) -> None:
    """The same ping, through the tunnel network's switch and through the router, closed, open, closed again."""
    close(tenant, group)
    tenant.until_login(other)
    until("closed: no ping", 20, lambda: "it answers" if pings(tenant, guest, other) else None)
    assert not tenant.pings(other.floating), "closed, but it answers a ping from the outside"
    let_in(tenant, group, "icmp")
    until("opened: servers ping each other", 30, lambda: None if pings(tenant, guest, other) else "no answer")
    assert tenant.pings(other.floating), "opened, but it does not answer a ping from the outside"
    assert tenant.ssh(other, "true").status == 255, "only ping was let in, and ssh works"
    close(tenant, group)
    until("closed again", 30, lambda: "it answers" if pings(tenant, guest, other) else None)


def test_config_drive(tenant: Tenant, other: Server, group: str) -> None:
    """Name, key and user data come from the drive, which is a CD that the guest cannot write."""
    close(tenant, group)
    let_in(tenant, group, "tcp", 22)
    tenant.until_ssh(other)
    log = tenant.console(other)
    assert f"metadata from the config drive: {other.name}, 1 keys" in log
    assert tenant.says(other, "hostname") == other.name
    until("the user data ran", 20, lambda: None if "ended with status 0" in tenant.console(other) else "not yet")
    assert tenant.says(other, "cat /root/user-data-ran") == "this ran as root"
    found = tenant.says(other, "mkdir -p /tmp/cd && mount -o ro $(findfs LABEL=config-2) /tmp/cd && "
                               "cat /tmp/cd/openstack/latest/meta_data.json; umount /tmp/cd")  # fmt: skip
    assert other.id in found
    with xenapi_call.session(tenant.cloud, other.host) as call:
        slots = [call("VBD.get_record", vbd) for vbd in vm_of(call, other)[1]["VBDs"]]
    assert sorted((s["type"], s["mode"]) for s in slots) == [("CD", "RO"), ("Disk", "RW")]
