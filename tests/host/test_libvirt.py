"""The shared suite on real QEMU, through libvirt's driver inside this process, and what only real guests can show.

Needs root (taps) and QEMU; runs without libvirtd. Its guest is built once (tests/kit/guest.py).
"""

import ctypes
import itertools
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.kit.guest import Guest, test_guest
from tests.kit.hypervisor import HypervisorSuite
from tests.kit.hypervisor_rig import Rig, wait_until

from xenstack.host.hypervisor.libvirt.adapter import LibvirtHypervisor
from xenstack.host.hypervisor.libvirt.instance import embedded
from xenstack.host.hypervisor.libvirt.settings import Settings
from xenstack.host.hypervisor.port import (
    DiskFormat,
    DomainSpec,
    EventKind,
    FileUnusable,
    KernelBoot,
    StopReason,
    VifSpec,
)
from xenstack.run import run

REPOSITORY = Path(__file__).parents[2]
MIB = 1024 * 1024
_domids = itertools.count(os.getpid() % 30000 * 1000)


class Machine:
    """The adapter and its folders: one per test run, because libvirt's embedded driver has one root per process."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as tini -s is for libvirtd
        threading.Thread(target=_reap_qemu, daemon=True).start()
        self.root = Path(tempfile.mkdtemp(prefix="xs-"))
        settings = Settings(
            uri=embedded(self.root / "l"),
            run_directory=self.root / "run",
            qemu_log_directory=self.root / "l" / "log" / "qemu",
        )
        self.settings = settings
        self.hypervisor = LibvirtHypervisor(settings)

    def processes(self, uuid: str) -> list[int]:
        """QEMU processes of a domain, zombies left out."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and f"guest={uuid}".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found


def _reap_qemu() -> None:
    """Wait for dead QEMUs, and for no other child (those have somebody who waits for them)."""
    while True:
        time.sleep(0.05)
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system"):
                    os.waitpid(int(pid), os.WNOHANG)


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.hypervisor.close()
    shutil.rmtree(machine.root, ignore_errors=True)


@pytest.fixture(scope="session")
def guest() -> Guest:
    return test_guest(REPOSITORY / "state" / "install" / "test-guest")


class LibvirtRig(Rig):
    boot_timeout_s = 60

    def __init__(self, machine: Machine, guest: Guest, directory: Path) -> None:
        super().__init__()
        self.machine, self.guest, self.directory = machine, guest, directory
        self.hypervisor: LibvirtHypervisor = machine.hypervisor
        self.hypervisor.subscribe(self.heard)
        self.taps: list[str] = []

    def boot(self) -> KernelBoot:
        return KernelBoot(self.guest.kernel, self.guest.ramdisk, self.guest.args)

    def vif(self, device: str) -> VifSpec:
        number = next(_domids)
        tap = f"vif{number}.{device}"
        run("ip", "tuntap", "add", tap, "mode", "tap")
        self.taps.append(tap)
        run("ip", "link", "set", tap, "up")
        return VifSpec(device=device, mac=f"52:54:00:00:{number // 256 % 256:02x}:{number % 256:02x}", tap=tap)

    def leftovers(self, spec: DomainSpec) -> list[str]:
        files = [str(file) for file in self.machine.root.rglob(f"*{spec.uuid[:20]}*") if file.suffix != ".log"]
        return files + [f"process {pid}" for pid in self.machine.processes(spec.uuid)]

    def guest_reboots(self, spec: DomainSpec) -> None:
        self.type(spec, "reboot -f")

    def guest_shuts_down(self, spec: DomainSpec) -> None:
        self.type(spec, "poweroff -f")

    def type(self, spec: DomainSpec, command: str) -> None:
        """Let the guest's root shell run a command."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.hypervisor.consoles(spec.uuid).text))
            link.sendall(f"\n{command}\n".encode())
            time.sleep(0.1)

    def ask(self, spec: DomainSpec, command: str) -> str:
        """What the guest's root shell answers to a command.

        Read from the socket, not from the log: QEMU may drop what it writes in the moment a client hangs up.
        """
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)
            link.connect(str(self.hypervisor.consoles(spec.uuid).text))
            link.sendall(f"\necho BE''GIN; {command}; echo E''ND\n".encode())
            said = b""
            while b"END" not in said.partition(b"BEGIN")[2]:
                more = link.recv(4096)
                assert more, f"the console hung up after {said!r}"
                said += more
        return said.partition(b"BEGIN")[2].partition(b"END")[0].decode(errors="replace").strip()

    def close(self) -> None:
        for domain in self.hypervisor.domains():
            self.hypervisor.destroy(domain.uuid)
        for tap in self.taps:
            run("ip", "link", "del", tap)


@pytest.fixture
def rig(machine: Machine, guest: Guest, tmp_path: Path) -> Iterator[LibvirtRig]:
    rig = LibvirtRig(machine, guest, tmp_path)
    yield rig
    rig.close()


class TestLibvirt(HypervisorSuite):
    """All of the shared suite."""


def test_the_guest_sees_its_devices_in_xenapi_order(rig: LibvirtRig) -> None:
    """Whatever the order they were given or plugged in: PCI slots follow userdevice and device numbers."""
    spec = rig.spec(disks=(rig.disk("5"), rig.disk("0")), vifs=(rig.vif("3"), rig.vif("0")))
    rig.start(spec)
    rig.hypervisor.attach_disk(spec.uuid, rig.disk("2"))
    rig.hypervisor.attach_vif(spec.uuid, rig.vif("1"))
    serials = "cd /sys/bus/pci/devices; for d in *; do cat $d/virtio*/block/*/serial 2>/dev/null && echo; done"
    wait_until(lambda: "serial-2" in rig.ask(spec, serials), 20, "the hot-plugged disk")
    assert rig.ask(spec, serials).split() == ["serial-0", "serial-2", "serial-5"]
    names = {name: slot for slot, name in (line.split() for line in rig.ask(spec, _VIF_SLOTS).splitlines())}
    domain = rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert [mac for mac, _ in sorted(names.items(), key=lambda item: item[1])] == [v.mac for v in domain.vifs]


_VIF_SLOTS = "cd /sys/bus/pci/devices; for d in *; do for n in $d/virtio*/net/*; do " + (
    '[ -e $n/address ] && echo "$d $(cat $n/address)"; done; done'
)


def test_a_crash_is_told_and_swept(rig: LibvirtRig) -> None:
    spec = rig.start(rig.spec())
    rig.type(spec, "echo c > /proc/sysrq-trigger")
    rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.CRASH)
    rig.assert_gone(spec)


def test_a_killed_qemu_is_told_and_swept(rig: LibvirtRig) -> None:
    spec = rig.spec()
    rig.hypervisor.create_paused(spec)
    (pid,) = rig.machine.processes(spec.uuid)
    os.kill(pid, signal.SIGKILL)
    rig.heard.wait(spec.uuid, EventKind.STOPPED, StopReason.CRASH)
    rig.assert_gone(spec)


def test_destroy_leaves_no_log_of_qemu(rig: LibvirtRig) -> None:
    spec = rig.spec()
    rig.hypervisor.create_paused(spec)
    logs = rig.machine.settings.qemu_log_directory
    assert logs is not None
    assert (logs / f"{spec.uuid}.log").exists()
    rig.hypervisor.destroy(spec.uuid)
    assert list(logs.glob(f"{spec.uuid}*")) == []


def test_the_console_log_is_bounded(rig: LibvirtRig) -> None:
    """A guest that prints 1.2 MB leaves at most 1 MiB, the end of it."""
    spec = rig.start(rig.spec())
    assert spec.console_log is not None
    log = spec.console_log
    rig.type(
        spec, "i=0; while [ $i -lt 3 ]; do head -c 400000 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo FINI''SHED"
    )
    wait_until(lambda: b"FINISHED" in log.read_bytes()[-2000:], 120, "1.2 MB of output")
    time.sleep(2.5)
    assert 0 < log.stat().st_size <= 1024 * 1024
    assert log.read_bytes()[:1] != b"\0", "a hole: QEMU does not append"
    assert b"FINISHED" in log.read_bytes()[-2000:]


def test_a_disk_that_is_no_qcow2(rig: LibvirtRig) -> None:
    disk = rig.disk("0", format=DiskFormat.QCOW2)
    spec = rig.spec(disks=(disk,))
    with pytest.raises(FileUnusable):
        rig.hypervisor.create_paused(spec)
    rig.assert_gone(spec)
