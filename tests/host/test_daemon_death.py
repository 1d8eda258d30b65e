"""kill -9 of the daemon in the middle of operations, with real QEMU: nothing is lost, nothing is left, and guests that
ran before run on.

The daemon has libvirt's QEMU driver inside itself, so that its death is libvirt's, too: the worst case. Each operation
is broken at its worst moments: when its domain, its file or its image is there and the records do not know.
"""

import http.client
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import Backends
from tests.contract.client import NULL, Client, Server
from tests.contract.conftest import embedded
from tests.kit.daemon import Daemon, free_port
from tests.kit.faulty_daemon import VARIABLE
from tests.kit.guest import test_guest as built_guest
from tests.kit.qemu import reap_qemu

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20


class Host:
    """A daemon that may be killed and started again, and what is really there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemon = Daemon(state=root / "s", port=free_port(), command=("-m", "tests.kit.faulty_daemon"))
        self.daemon.settings = (
            f'hypervisor = "libvirt"\nlibvirt_uri = "{embedded(root / "l")}"\nrun_dir = "{root / "r"}"'
        )
        kernels = self.daemon.state / "kernels"
        kernels.mkdir(parents=True)
        guest = built_guest(REPOSITORY / "state" / "install" / "test-guest")
        shutil.copy(guest.kernel, kernels / "kernel")
        shutil.copy(guest.ramdisk, kernels / "ramdisk")
        self.boot = {"PV_kernel": "kernel", "PV_ramdisk": "ramdisk", "PV_args": guest.args}

    def start(self, fault: str = "") -> Client:
        """Start the daemon, armed; a client of it."""
        self.daemon.environment = {VARIABLE: fault}
        self.daemon.start()
        return Client(Server(self.daemon.url, "root", self.daemon.password, ours=True, qemu=True, boot=self.boot))

    def await_death(self) -> None:
        """The armed daemon has killed itself."""
        assert self.daemon.process is not None
        assert self.daemon.process.wait(60) == -9
        self.daemon.process = None

    def processes(self) -> dict[str, int]:
        """Every QEMU of this host: pid by the domain's uuid."""
        found = {}
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                if str(self.root).encode() in line and b"guest=" in line:
                    found[line.partition(b"guest=")[2][:36].decode()] = int(entry.name)
        return found

    def files(self) -> set[str]:
        """Every disk, bases and temporaries included."""
        return {f.name for f in (self.daemon.state / "sr").rglob("*") if f.is_file() and f.name != ".lock"}


@pytest.fixture
def host(backends: Backends) -> Iterator[Host]:
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        backends.missing("QEMU and root")
    reap_qemu()
    root = Path(tempfile.mkdtemp(prefix="xd-"))
    host = Host(root)
    yield host
    with suppress(Exception):
        host.daemon.kill()
        with host.start() as client:
            client.sweep()
    host.daemon.kill()
    for pid in host.processes().values():
        os.kill(pid, 9)
    shutil.rmtree(root, ignore_errors=True)


def bystander(client: Client) -> str:
    """A guest that has nothing to do with what dies."""
    vm = client.vm(name_label="contract-bystander")
    client.vbd(vm, client.vdi())
    client.api.VM.start(vm, False, False)
    return vm


def broken(client: Client, name: str, *arguments: object) -> None:
    """Ask for what the daemon dies of."""
    with pytest.raises((OSError, http.client.HTTPException)):
        getattr(client.api, name)(*arguments)


@pytest.mark.parametrize("step", ["activate disk 0", "create domain", "unpause", "record"])
def test_death_in_a_start(host: Host, step: str) -> None:
    client = host.start(f"VM.start:{step}")
    victim = client.vm()
    client.vbd(victim, client.vdi())
    before = host.files()
    broken(client, "VM.start", victim, False, False)
    host.await_death()
    client = host.start()
    record = client.api.VM.get_record(victim)
    assert (record["power_state"], record["domid"], record["current_operations"]) == ("Halted", "-1", {})
    assert record["consoles"] == []
    assert host.processes() == {}
    assert host.files() == before
    assert list((host.daemon.state / "consoles").iterdir()) == []
    client.api.VM.start(victim, False, False)
    assert client.api.VM.get_power_state(victim) == "Running"


def test_death_beside_a_running_guest(host: Host) -> None:
    """The guest keeps its process, its domid and its disk; the daemon knows all of it again."""
    client = host.start("VM.clone:make disk 0")
    guest = bystander(client)
    record, pid = client.api.VM.get_record(guest), host.processes()
    other = client.vm()
    client.vbd(other, client.vdi())
    before = host.files()
    broken(client, "VM.clone", other, "contract-copy")
    host.await_death()
    assert host.processes() == pid
    client = host.start()
    after = client.api.VM.get_record(guest)
    for name in ("power_state", "domid", "resident_on", "consoles", "allowed_operations"):
        assert after[name] == record[name], name
    assert host.processes() == pid
    assert host.files() == before
    assert client.api.VM.get_by_name_label("contract-copy") == []
    vdi = client.api.VBD.get_VDI(record["VBDs"][0])
    assert client.jsonrpc("VDI.destroy", vdi)["error"]["message"] == "VDI_IN_USE"
    client.api.VM.pause(guest)
    client.api.VM.unpause(guest)
    client.api.VM.hard_shutdown(guest)
    assert host.processes() == {}


@pytest.mark.parametrize("step", ["destroy domain", "put devices away"])
def test_death_in_a_shutdown(host: Host, step: str) -> None:
    client = host.start(f"VM.hard_shutdown:{step}")
    victim = bystander(client)
    broken(client, "VM.hard_shutdown", victim)
    host.await_death()
    client = host.start()
    assert client.api.VM.get_power_state(victim) == "Halted"
    assert host.processes() == {}
    client.api.VM.start(victim, False, False)


@pytest.mark.parametrize(
    ("step", "state"),
    [("record memory image", "Running"), ("write memory", "Suspended"), ("put devices away", "Suspended")],
)
def test_death_in_a_suspend(host: Host, step: str, state: str) -> None:
    """Before the memory is written the guest runs on; from then on it sleeps, and can be woken."""
    client = host.start(f"VM.suspend:{step}")
    victim = bystander(client)
    before = host.files()
    broken(client, "VM.suspend", victim)
    host.await_death()
    client = host.start()
    record = client.api.VM.get_record(victim)
    assert record["power_state"] == state
    assert (record["suspend_VDI"] == NULL) == (state == "Running")
    assert (host.files() == before) == (state == "Running")
    if state == "Suspended":
        client.api.VM.resume(victim, False, False)
    assert client.api.VM.get_power_state(victim) == "Running"
    assert list(host.processes()) == [record["uuid"]]
    assert host.files() == before


@pytest.mark.parametrize(("step", "state"), [("read memory", "Suspended"), ("unpause", "Running")])
def test_death_in_a_resume(host: Host, step: str, state: str) -> None:
    client = host.start(f"VM.resume:{step}")
    victim = bystander(client)
    client.api.VM.suspend(victim)
    image = client.api.VM.get_suspend_VDI(victim)
    broken(client, "VM.resume", victim, False, False)
    host.await_death()
    client = host.start()
    record = client.api.VM.get_record(victim)
    assert record["power_state"] == state
    assert bool(host.processes()) == (state == "Running")
    assert (image in client.api.VDI.get_all()) == (state == "Suspended")


def test_death_in_a_disks_making_and_deleting(host: Host) -> None:
    client = host.start("VDI.new:make data")
    before = host.files()
    with pytest.raises((OSError, http.client.HTTPException)):
        client.vdi()
    host.await_death()
    client = host.start("VDI.destroy:delete data")
    assert host.files() == before
    vdi = client.vdi()
    broken(client, "VDI.destroy", vdi)
    host.await_death()
    client = host.start()
    assert host.files() == before
    assert vdi not in client.api.VDI.get_all()


@pytest.mark.parametrize("sent", [0, 3 * MIB], ids=["nothing of it", "half of it"])
def test_death_in_an_import(host: Host, sent: int) -> None:
    """The disk keeps what it had, the half that came is gone, and the same import works afterwards."""
    client = host.start()
    vdi = client.vdi()
    old, new = os.urandom(MIB), os.urandom(6 * MIB)
    assert client.put("/import_raw_vdi", old, vdi=vdi, format="raw").status == 200
    before = host.files()
    link = client.connection()
    link.putrequest("PUT", f"/import_raw_vdi?session_id={client.ref}&vdi={vdi}&format=raw")
    link.putheader("Content-Length", str(len(new)))
    link.endheaders()
    link.send(new[:sent])
    deadline = time.monotonic() + 10
    while host.files() == before and sent:
        assert time.monotonic() < deadline, "the import has not begun"
        time.sleep(0.02)
    host.daemon.kill()
    link.close()
    client = host.start()
    assert host.files() == before
    assert client.api.VDI.get_current_operations(vdi) == {}
    assert client.download("/export_raw_vdi", vdi=vdi, format="raw").body[: len(old)] == old
    assert client.put("/import_raw_vdi", new, vdi=vdi, format="raw").status == 200
    assert client.download("/export_raw_vdi", vdi=vdi, format="raw").body[: len(new)] == new


@pytest.mark.parametrize("step", ["activate VDI", "attach disk", "record"])
def test_death_in_a_hot_plug(host: Host, step: str) -> None:
    """The guest runs on without the disk, and gets it when asked again."""
    client = host.start(f"VBD.plug:{step}")
    guest = bystander(client)
    vdi = client.vdi()
    vbd = client.vbd(guest, vdi, "5")
    before, pid = host.files(), host.processes()
    broken(client, "VBD.plug", vbd)
    host.await_death()
    client = host.start()
    assert host.processes() == pid
    assert host.files() == before
    record = client.api.VBD.get_record(vbd)
    assert record["current_operations"] == {}
    if not record["currently_attached"]:
        client.api.VBD.plug(vbd)
    assert client.api.VBD.get_currently_attached(vbd) is True
    assert client.jsonrpc("VDI.destroy", vdi)["error"]["message"] == "VDI_IN_USE"
    client.api.VM.hard_shutdown(guest)
    assert client.api.VBD.get_currently_attached(vbd) is False
    client.api.VBD.destroy(vbd)
    client.api.VDI.destroy(vdi)


@pytest.mark.parametrize("step", ["activate VDI", "insert medium"])
def test_death_in_a_change_of_medium(host: Host, step: str) -> None:
    """An insert is undone, an eject is finished; the drive can be used afterwards."""
    client = host.start(f"VBD.insert:{step}")
    guest = client.vm(name_label="contract-guest")
    drive = client.vbd(guest, NULL, "3", type="CD", mode="RO")
    medium = client.vdi()
    client.api.VM.start(guest, False, False)
    pid = host.processes()
    broken(client, "VBD.insert", drive, medium)
    host.await_death()
    client = host.start("VBD.eject:eject medium")
    assert client.api.VBD.get_empty(drive) is True
    client.api.VBD.insert(drive, medium)
    assert client.jsonrpc("VDI.destroy", medium)["error"]["message"] == "VDI_IN_USE"
    broken(client, "VBD.eject", drive)
    host.await_death()
    client = host.start()
    assert (client.api.VBD.get_empty(drive), client.api.VBD.get_VDI(drive)) == (True, NULL)
    assert host.processes() == pid
    client.api.VDI.destroy(medium)


@pytest.mark.parametrize("step", ["make SR", "attach SR", "record"])
def test_death_in_the_making_of_an_sr(host: Host, step: str) -> None:
    host.start()  # makes the first SR, by the same plan
    host.daemon.stop()
    client = host.start(f"SR.create:{step}")
    before, folders = client.api.SR.get_all(), sorted((host.daemon.state / "sr").iterdir())
    (machine,) = client.api.host.get_all()
    broken(client, "SR.create", machine, {}, "0", "contract-sr", "", "file", "user", False, {})
    host.await_death()
    client = host.start()
    assert client.api.SR.get_all() == before
    assert client.api.SR.get_by_name_label("contract-sr") == []
    assert len(client.api.PBD.get_all()) == len(before)
    assert sorted((host.daemon.state / "sr").iterdir()) == folders


def test_kill_from_outside_while_many_things_happen(host: Host) -> None:
    """No chosen moment: starts, clones and shutdowns go on when the daemon is killed."""
    client = host.start()
    guest = bystander(client)
    pid = host.processes()
    disks = client.vdi()
    vms = [client.vm(name_label=f"contract-{n}") for n in range(3)]
    for vm in vms:
        client.vbd(vm, client.vdi())
        client.jsonrpc("Async.VM.start", vm, False, False)
    for _ in range(5):
        client.jsonrpc("Async.VDI.clone", disks)
    time.sleep(0.3)
    host.daemon.kill()
    client = host.start()
    records = client.api.VM.get_all_records()
    running = {r["uuid"] for r in records.values() if r["power_state"] == "Running" and not r["is_control_domain"]}
    assert running == set(host.processes())
    assert pid.items() <= host.processes().items()
    assert client.api.VM.get_power_state(guest) == "Running"
    assert all(r["current_operations"] == {} for r in records.values())
    client.api.SR.scan(client.sr)
    assert all(r["managed"] and not r["missing"] for r in client.api.VDI.get_all_records().values())
    client.sweep()
    assert host.processes() == {}
    for vdi in client.api.VDI.get_all():
        client.api.VDI.destroy(vdi)
    assert host.files() == set()


def test_a_guest_that_ends_while_nobody_looks(host: Host) -> None:
    client = host.start()
    guest = bystander(client)
    host.daemon.kill()
    (pid,) = host.processes().values()
    os.kill(pid, 9)
    client = host.start()
    record = client.api.VM.get_record(guest)
    assert (record["power_state"], record["domid"], record["consoles"]) == ("Halted", "-1", [])
    client.api.VM.start(guest, False, False)
    assert client.api.VM.get_power_state(guest) == "Running"
