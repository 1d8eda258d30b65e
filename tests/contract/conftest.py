"""One suite for every XenAPI server.

Where it runs: against XENSTACK_CONTRACT_URL (with XENSTACK_CONTRACT_USER and XENSTACK_CONTRACT_PASSWORD) when that is
set, e.g. a test machine with XCP-ng; else against our daemon twice: simulated, and with real QEMU through libvirt.
Objects are named contract-* and removed; still, use a server that may be used for tests.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Backends
from tests.contract.client import Client, Server
from tests.kit.daemon import Daemon, free_port
from tests.kit.guest import test_guest as built_guest
from tests.kit.qemu import reap_qemu

REPOSITORY = Path(__file__).parents[2]
ELSEWHERE = os.environ.get("XENSTACK_CONTRACT_URL")


@dataclass
class Running:
    """A daemon of ours and what its guests boot."""

    daemon: Daemon
    qemu: bool


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        kinds = ["elsewhere"] if ELSEWHERE else ["simulated", "qemu"]
        metafunc.parametrize("server", kinds, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, backends: Backends) -> Iterator[Server]:
    if request.param == "elsewhere":
        user = os.environ.get("XENSTACK_CONTRACT_USER", "root")
        yield Server(str(ELSEWHERE), user, os.environ["XENSTACK_CONTRACT_PASSWORD"], ours=False, qemu=False)
        return
    qemu = request.param == "qemu"
    if qemu and (os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None):
        backends.missing("QEMU and root")
    root = Path(tempfile.mkdtemp(prefix="xc-"))  # short: unix sockets lie below it
    daemon = Daemon(state=root / "s", port=free_port())
    daemon.state.mkdir(mode=0o700)
    boot: dict[str, str] = {}
    if qemu:
        reap_qemu()
        daemon.settings = f'hypervisor = "libvirt"\nlibvirt_uri = "{embedded(root / "l")}"\nrun_dir = "{root / "r"}"'
        guest = built_guest(REPOSITORY / "state" / "install" / "test-guest")
        kernels = daemon.state / "kernels"
        kernels.mkdir(parents=True)
        shutil.copy(guest.kernel, kernels / "kernel")
        shutil.copy(guest.ramdisk, kernels / "ramdisk")
        boot = {"PV_kernel": "kernel", "PV_ramdisk": "ramdisk", "PV_args": guest.args}
    try:
        daemon.start()
        yield Server(daemon.url, daemon.user, daemon.password, ours=True, qemu=qemu, boot=boot, daemon=daemon)
    finally:
        with Client(Server(daemon.url, daemon.user, daemon.password, ours=True, qemu=qemu)) as client:
            client.sweep()
        daemon.stop()
        shutil.rmtree(root, ignore_errors=True)


def embedded(folder: Path) -> str:
    """libvirt's QEMU driver inside the daemon's process, with a folder of its own."""
    from xenstack.host.hypervisor.libvirt.instance import embedded as prepare

    return prepare(folder)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A fresh session; whatever the test made is removed after it."""
    with Client(server) as client:
        yield client
        client.sweep()
