"""A private libvirtd as the deployment runs it: started by the recipe in instance.py, killed, and started again.

Needs root. libvirtd gets folders of its own in a mount namespace of its own; guests must outlive it.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.host.test_libvirt import LibvirtRig, Machine, test_guest
from tests.kit.hypervisor_rig import wait_until

from xenstack.host.hypervisor.libvirt.adapter import LibvirtHypervisor
from xenstack.host.hypervisor.libvirt.instance import write_configuration
from xenstack.host.hypervisor.libvirt.settings import Settings
from xenstack.host.hypervisor.port import DomainState, EventKind, HypervisorError, StopReason, TimedOut, Unavailable
from xenstack.run import running

REPOSITORY = Path(__file__).parents[2]
test_guest.__test__ = False  # type: ignore[attr-defined]

START = """
for name in etc:etc/libvirt lib:var/lib/libvirt log:var/log/libvirt cache:var/cache/libvirt run:run/libvirt; do
    mkdir -p "$1/${name%%:*}" "/${name#*:}" && mount --bind "$1/${name%%:*}" "/${name#*:}" || exit 1
done
exec tini -s -- libvirtd --config /etc/libvirt/libvirtd.conf --pid-file "$1/pid"
"""


class Libvirtd(Machine):
    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="xd-"))
        write_configuration(self.root / "etc")
        with (self.root / "etc" / "libvirtd.conf").open("a") as file:
            file.write(f'unix_sock_dir = "{self.root}"\n')
        self.stack = ExitStack()
        self.start()
        self.settings = Settings(
            uri=f"qemu+unix:///system?socket={self.root}/libvirt-sock",
            run_directory=self.root / "c",
            qemu_log_directory=self.root / "log" / "qemu",
            reconnect_wait_s=30,
        )
        self.hypervisor = LibvirtHypervisor(self.settings)

    def start(self) -> None:
        self.process = self.stack.enter_context(running("unshare", "--mount", "sh", "-c", START, "sh", self.root))

    def kill(self) -> None:
        pid = int((self.root / "pid").read_text())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[Libvirtd]:
    libvirtd = Libvirtd()
    yield libvirtd
    libvirtd.hypervisor.close()
    libvirtd.stack.close()
    shutil.rmtree(libvirtd.root, ignore_errors=True)


@pytest.fixture
def rig(libvirtd: Libvirtd, tmp_path: Path) -> Iterator[LibvirtRig]:
    rig = LibvirtRig(libvirtd, test_guest(REPOSITORY / "state" / "install" / "test-guest"), tmp_path)
    yield rig
    rig.close()


def test_life_over_the_socket(rig: LibvirtRig) -> None:
    spec = rig.start(rig.spec(vifs=(rig.vif("0"),)))
    rig.hypervisor.request_shutdown(spec.uuid)
    assert rig.hypervisor.await_gone(spec.uuid, 30)
    rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.SHUTDOWN)
    rig.assert_gone(spec)


def test_a_killed_libvirtd_leaves_guests_and_is_recovered_from(rig: LibvirtRig, libvirtd: Libvirtd) -> None:
    lives, dies = rig.start(rig.spec()), rig.spec()
    rig.hypervisor.create_paused(dies)
    libvirtd.kill()
    (qemu,) = libvirtd.processes(lives.uuid)
    (doomed,) = libvirtd.processes(dies.uuid)
    os.kill(doomed, signal.SIGKILL)
    heard = len(rig.heard.events)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(rig.hypervisor.domain(lives.uuid)))
    waiting.start()
    time.sleep(0.5)
    assert answers == [], "answered without a libvirtd"
    libvirtd.start()
    wait_until(lambda: any(e.kind is EventKind.RELIST for e in rig.heard.events[heard:]), 30, "RELIST")
    waiting.join(30)
    assert [getattr(answer, "state", None) for answer in answers] == [DomainState.RUNNING]
    assert libvirtd.processes(lives.uuid) == [qemu]
    rig.assert_gone(dies)
    rig.hypervisor.pause(lives.uuid)
    rig.heard.wait(lives.uuid, EventKind.PAUSED)
    rig.hypervisor.destroy(lives.uuid)
    rig.assert_gone(lives)


def test_no_libvirtd_is_told_in_bounded_time(tmp_path: Path) -> None:
    run_directory = Path(tempfile.mkdtemp(prefix="xn-"))
    uri = f"qemu+unix:///system?socket={tmp_path}/absent"
    hypervisor = LibvirtHypervisor(Settings(uri=uri, run_directory=run_directory, reconnect_wait_s=0.5))
    start = time.monotonic()
    with pytest.raises(Unavailable):
        hypervisor.domains()
    assert time.monotonic() - start < 5
    hypervisor.close()
    run_directory.rmdir()


def test_a_hung_libvirtd_does_not_block_for_ever(rig: LibvirtRig, libvirtd: Libvirtd) -> None:
    spec = rig.spec()
    rig.hypervisor.create_paused(spec)
    pid = int((libvirtd.root / "pid").read_text())
    impatient = LibvirtHypervisor(Settings(**{**_fields(libvirtd.settings), "call_timeout_s": 1.0}))
    impatient.domains()
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        with pytest.raises((TimedOut, Unavailable)) as failure:
            impatient.pause(spec.uuid)
        assert isinstance(failure.value, HypervisorError)
        assert time.monotonic() - start < 10
    finally:
        os.kill(pid, signal.SIGCONT)
        impatient.close()
    assert rig.hypervisor.domain(spec.uuid) is not None


def _fields(settings: Settings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}
