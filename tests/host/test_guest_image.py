"""The guest image on real QEMU: both ways to boot, metadata from both sources, ssh, the power button.

Needs root (the image is built if it is not there) and QEMU; the only network is QEMU's own, on loopback.
"""

import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from xenstack.run import Output, run, start

REPOSITORY = Path(__file__).parents[2]
IMAGE = REPOSITORY / "state" / "install" / "image"
BOOT_S, OFF_S, LOGIN_S = 120.0, 60.0, 60.0  # far above what is measured: a busy machine is not a broken image
UUID = "0f4b1c52-6a50-4a63-9a3b-0d7e5c1e7c11"


@pytest.fixture(scope="session", autouse=True)
def image() -> Path:
    run(REPOSITORY / "images" / "build", IMAGE, timeout_s=300)
    return IMAGE


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a name with = and +", "-f", path)
    return path


def metadata(key: Path, uuid: str = UUID) -> dict[str, str]:
    """What Nova gives a server: file name -> content."""
    public = key.with_suffix(".pub").read_text()
    facts = {
        "uuid": uuid,
        "public_keys": {"demo": public},
        "keys": [{"name": "demo", "type": "ssh", "data": public}],
        "hostname": "my-server.example.org",
        "name": "My server",
        "launch_index": 0,
    }
    script = "#!/bin/sh\necho user data ran as $(id -un) >/dev/console\necho done >/root/user-data-ran\n"
    return {"meta_data.json": json.dumps(facts), "user_data": script}


def config_drive(folder: Path, files: dict[str, str]) -> Path:
    latest = folder / "drive" / "openstack" / "latest"
    latest.mkdir(parents=True)
    for name, content in files.items():
        (latest / name).write_text(content)
    target = folder / "config.iso"
    run("genisoimage", "-quiet", "-o", target, "-V", "config-2", "-r", "-J", "-l", folder / "drive")
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """A running guest. Its serial port is a file; its ssh port is on loopback."""

    def __init__(self, way: str, folder: Path, *options: str, network: str = "", memory_mib: int = 128) -> None:
        self.serial, self.port, self.known = folder / "serial", free_port(), folder / "known_hosts"
        self.monitor = folder / "qmp"
        boot: tuple[str, ...] = ("-kernel", f"{IMAGE}/vmlinuz", "-initrd", f"{IMAGE}/initrd.gz", "-append", "")
        if way == "kernel":
            boot = (*boot[:-1], json.loads((IMAGE / "manifest.json").read_text())["kernel_line"])
        else:
            disk = folder / "disk.qcow2"
            if not disk.exists():
                run("qemu-img", "create", "-q", "-f", "qcow2", "-b", IMAGE / "disk.qcow2", "-F", "qcow2", disk, "256M")
            boot = ("-drive", f"file={disk},if=virtio,cache=unsafe")
        # a small cache of translated code: with QEMU's large default a reset guest spends seconds on stale code
        self.process: Popen[bytes] = start(
            *("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg,tb-size=32", "-m", str(memory_mib)),
            *("-nodefaults", "-display", "none"),
            *("-vga", "std", "-serial", f"file:{self.serial}", "-qmp", f"unix:{self.monitor},server,nowait"),
            *("-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:22{network}"),
            *("-device", "virtio-net-pci,netdev=n,romfile=", *boot, *options),
        )

    def seen(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""

    def until(self, what: Callable[[], bool], within_s: float, title: str) -> None:
        end = time.monotonic() + within_s
        while not what():
            assert self.process.poll() is None, f"the guest ended while waiting for {title}:\n{self.seen()}"
            assert time.monotonic() < end, f"no {title} within {within_s} s:\n{self.seen()}"
            time.sleep(0.1)

    def until_says(self, pattern: str, within_s: float = BOOT_S) -> None:
        self.until(lambda: re.search(pattern, self.seen()) is not None, within_s, repr(pattern))

    def ssh(self, key: Path, command: str, user: str = "xen") -> Output:
        return run(
            *("ssh", "-i", key, "-p", str(self.port), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"),
            *("-o", f"UserKnownHostsFile={self.known}", "-o", "ConnectTimeout=20", "-o", "IdentitiesOnly=yes"),
            *("-F", "/dev/null", f"{user}@127.0.0.1", command),
            accept=range(256),
            timeout_s=60,
        )

    def until_ssh(self, key: Path) -> None:
        self.until(lambda: self.ssh(key, "true").status == 0, LOGIN_S, "ssh login")

    def qmp(self, command: str, **arguments: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self.monitor))
            stream = connection.makefile("rw")
            stream.readline()
            for execute, given in (("qmp_capabilities", {}), (command, arguments)):
                stream.write(json.dumps({"execute": execute, "arguments": given}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    assert "error" not in answer, answer


@contextmanager
def booted(way: str, folder: Path, *options: str, network: str = "", memory_mib: int = 128) -> Iterator[Machine]:
    machine = Machine(way, folder, *options, network=network, memory_mib=memory_mib)
    try:
        yield machine
    finally:
        machine.process.kill()
        machine.process.wait()


def test_kernel_boots_without_metadata_and_obeys_the_power_button(tmp_path: Path) -> None:
    with booted("kernel", tmp_path, memory_mib=96) as machine:
        machine.until_says(r"guest: network up: eth0 10\.0\.2\.15/24 via 10\.0\.2\.2")
        machine.until_says("guest login:", 30)
        machine.qmp("screendump", filename=str(tmp_path / "screen.ppm"))
        machine.qmp("system_powerdown")
        assert machine.process.wait(OFF_S) == 0
        assert "guest: power button" in machine.seen()
    picture = (tmp_path / "screen.ppm").read_bytes()
    width, height = picture.split(b"\n", 2)[1].split()
    assert len(set(picture[-3 * int(width) * int(height) :])) > 1, "the VGA screen is blank: no login prompt on it"


class _Service(http.server.BaseHTTPRequestHandler):
    files: dict[str, str] = {}  # noqa: RUF012 - replaced by each test that serves something

    def do_GET(self) -> None:
        body = self.files.get(self.path.removeprefix("/openstack/latest/"))
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or "")))
        self.end_headers()
        self.wfile.write((body or "").encode())

    def log_message(self, *words: object) -> None:
        pass


def test_metadata_service_gives_name_key_and_user_data(tmp_path: Path, key: Path) -> None:
    """169.254.169.254 is inside QEMU's own network here, and a program on loopback answers for it."""
    other = tmp_path / "other"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
    handler = type("Service", (_Service,), {"files": metadata(key)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    service = f"socat - TCP:127.0.0.1:{server.server_address[1]}"
    network = f",net=169.254.169.0/24,guestfwd=tcp:169.254.169.254:80-cmd:{service}"
    try:
        with booted("kernel", tmp_path, network=network) as machine:
            machine.until_says("guest: metadata from the metadata service: my-server, 1 keys")
            machine.until_says("user data ran as root", 30)
            machine.until_ssh(key)
            for user in ("root", "xen"):
                refused = machine.ssh(other, "true", user=user)
                assert refused.status == 255
                assert "Permission denied (publickey)" in refused.stderr  # no password is asked for
    finally:
        server.shutdown()
        server.server_close()


def host_key(machine: Machine, key: Path) -> str:
    return machine.ssh(key, "sha256sum < /etc/dropbear/dropbear_ed25519_host_key", user="root").stdout


def test_disk_takes_its_config_drive_grows_and_remembers(tmp_path: Path, key: Path) -> None:
    """The host key stays over a reboot, user data does not run again; in another server the key is another."""
    drive = str(config_drive(tmp_path, metadata(key)))
    with booted("disk", tmp_path, "-cdrom", drive) as machine:
        machine.until_says("guest: metadata from the config drive: my-server, 1 keys")
        machine.until_ssh(key)
        assert machine.ssh(key, "hostname; id -un").stdout.split() == ["my-server", "xen"]
        machine.until_says("user data ran as root", 30)
        consoles = machine.ssh(key, "ps", user="root").stdout
        assert "ttyS0" in consoles
        assert "tty1" in consoles
        size_kib = machine.ssh(key, "df -k / | tail -n 1 | awk '{print $2}'").stdout
        assert int(size_kib) > 200 * 1024, "the root file system did not grow to its 256 MiB disk"
        first = host_key(machine, key)
        machine.ssh(key, "rm /root/user-data-ran; sync; reboot", user="root")
        machine.until(lambda: machine.seen().count("guest: metadata from the config drive") == 2, BOOT_S, "second boot")
        machine.until_ssh(key)  # ssh itself checks that the host key is the known one
        assert host_key(machine, key) == first
        assert machine.ssh(key, "ls /root/user-data-ran", user="root").status == 1, "user data ran twice"
        machine.qmp("system_powerdown")
        assert machine.process.wait(OFF_S) == 0
    (tmp_path / "second").mkdir()
    other = str(config_drive(tmp_path / "second", metadata(key, uuid=UUID[::-1])))
    with booted("disk", tmp_path, "-cdrom", other) as machine:
        machine.known = tmp_path / "known_hosts_2"
        machine.until_says("guest: metadata from the config drive")
        machine.until_ssh(key)
        assert host_key(machine, key) not in ("", first), "a captured disk kept the first server's host key"


def test_a_second_build_changes_nothing(image: Path) -> None:
    before = {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in image.iterdir()}
    assert "up to date" in run(REPOSITORY / "images" / "build", image).stdout
    assert {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in image.iterdir()} == before
    assert "work" not in before
