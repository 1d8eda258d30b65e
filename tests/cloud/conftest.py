"""The cloud that `./xenstack up` left, a user of it, and the one server that tests which change nothing share.

The group finds the cloud up and leaves it as it was. A cloud that is not up is a missing backend: a skip, or a failure
with --require-backends.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cloud.absence import unexplained
from tests.cloud.patience import until
from tests.cloud.tenant import Server, Tenant
from tests.conftest import Backends

from xenstack.cloud import xenapi_call
from xenstack.cloud.api import ADMIN, connected
from xenstack.cloud.deployment import Deployment, known_hosts
from xenstack.cloud.layout import domu
from xenstack.cloud.step import NotYet

ROOT = Path(os.environ.get("XENSTACK_ROOT") or Path(__file__).parents[2]).resolve()
_STRANGERS_S = 120.0


def pytest_configure(config: pytest.Config) -> None:
    """openstacksdk warns of itself, at each request."""
    for warning in ("OpenStackDeprecationWarning", "_RemovedInSDKWarning"):
        config.addinivalue_line("filterwarnings", f"ignore::openstack.warnings.{warning}")


@pytest.fixture(scope="session")
def cloud(backends: Backends) -> Deployment:
    """The running cloud: every box is there, every host answers, only our hosts take servers."""
    hosts = known_hosts(ROOT)
    if os.geteuid() != 0 or not hosts:
        backends.missing("root, and a cloud that `./xenstack up` has started")
    made = Deployment(ROOT, hosts or 1)
    try:
        for box in made.boxes.values():
            box.check()
        for n in made.hosts:
            with xenapi_call.session(made, n) as call:
                call("host.get_all")
        until("only the cloud's own hosts take servers", _STRANGERS_S, lambda: _strangers(made))
    except NotYet as why:
        backends.missing(f"a cloud that is up: {why}; `./xenstack up` starts it, `./xenstack status` looks at it")
    return made


def _strangers(cloud: Deployment) -> str | None:
    """`bench` adds a host with Nova's fake driver for as long as it runs."""
    ours = {domu(n) for n in cloud.hosts}
    with connected(cloud, ADMIN) as api:
        found = {s.host: s.state for s in api.compute.services() if s.binary == "nova-compute"}
    if strange := sorted(found.keys() - ours):
        return f"nova-compute of {strange} would take servers, too: `./xenstack bench` runs"
    down = [host for host in ours if found.get(host) != "up"]
    return f"Nova does not count nova-compute of {down} as up" if down else None


@pytest.fixture(scope="session")
def tenant(cloud: Deployment) -> Iterator[Tenant]:
    """A user of project demo. What an earlier run left is removed before and after."""
    user = Tenant(cloud)
    user.sweep()
    yield user
    user.sweep()


@pytest.fixture(scope="session")
def image(tenant: Tenant) -> Iterator[str]:
    """Our guest image, uploaded by the user as qcow2."""
    with tenant.image("qcow2", tenant.cloud.layout.image / "disk.qcow2", "qcow2") as made:
        yield made


@pytest.fixture(scope="session")
def shared(tenant: Tenant, image: str) -> Iterator[Server]:
    """One server with a floating IP for all tests that leave it running as they found it."""
    with tenant.server("shared", image, floating=True) as server:
        tenant.until_pings(server)
        tenant.until_ssh(server)
        yield server


@pytest.fixture
def guest(tenant: Tenant, shared: Server) -> Server:
    """The shared server, up and answering, whatever an earlier test that failed did to it."""
    seen = tenant.seen(shared.id)
    assert seen is not None, "the shared server is gone"
    if seen["status"] != "ACTIVE" or not tenant.pings(shared.floating):
        tenant.act(shared, {"reboot": {"type": "HARD"}})
        time.sleep(1)
        tenant.until_status(shared.id, "ACTIVE", 60)
        tenant.until_ssh(shared)
    return shared


@pytest.fixture(scope="module", autouse=True)
def accounted(cloud: Deployment, tenant: Tenant) -> Iterator[None]:
    """After each file of tests: whatever is on a host belongs to a server of Nova's, or is a cached image."""
    yield
    for n in cloud.hosts:
        until(f"nothing is left over on host {n}", 20, lambda n=n: unexplained(cloud, n))
