"""What Nova's image import costs: a raw body over HTTP into a qcow2 VDI, against `qemu-img convert` of the same file.

The daemon is a real one with the file SR; client and daemon share the machine, as nova-compute and dom0 do here.
Rounds alternate, medians are compared, and the content of the two images is.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import import_image
from tests.bench.table import Row
from tests.kit.daemon import Daemon, daemon

from xenstack.run import run
from xenstack.xenapi.session import Session

_CHUNK = 1 << 20


def rows(rounds: int = 5) -> list[Row]:
    """Raises XenAPIError, Unreachable, CommandFailed."""
    with tempfile.TemporaryDirectory(prefix="xenstack-bench-") as name:
        folder = Path(name)
        image, target = folder / "image.raw", folder / "converted.qcow2"
        import_image.make_image(image)
        ours, theirs = [], []
        (folder / "host").mkdir()
        with daemon(folder / "host") as host, host.session(timeout_s=120) as wire:
            sr = wire.call("pool.get_default_SR", wire.call("pool.get_all")[0])
            for _ in range(rounds):
                seconds, vdi, made = _import(host, wire, sr, image)
                ours.append(seconds)
                target.unlink(missing_ok=True)
                started = time.perf_counter()
                run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, target, timeout_s=300)
                theirs.append(time.perf_counter() - started)
                run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", made, target, timeout_s=300)
                wire.call("VDI.destroy", vdi)
    here, there = statistics.median(ours), statistics.median(theirs)
    return [
        Row(
            key="import.0 http",
            section="Images",
            what="import of 512 MiB raw with 200 MiB of data, HTTP to qcow2: speed against `qemu-img convert`",
            value=there / here,
            unit="×",
            target=0.5,
            better="more",
            note=f"{here:.2f} s against {there:.2f} s",
        )
    ]


def _import(host: Daemon, wire: Session, sr: str, image: Path) -> tuple[float, str, Path]:
    """Seconds of the transfer, the VDI, and the file that it made in the SR's folder."""
    before = _files(host)
    vdi = wire.call(
        "VDI.create",
        {
            "name_label": "bench",
            "name_description": "",
            "SR": sr,
            "virtual_size": image.stat().st_size,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "xenstore_data": {},
            "sm_config": {},
            "tags": [],
        },
    )
    started = time.perf_counter()
    wire.import_vdi(vdi, _chunks(image), length=image.stat().st_size, timeout_s=120)
    seconds = time.perf_counter() - started
    (made,) = _files(host) - before
    return seconds, vdi, made


def _files(host: Daemon) -> set[Path]:
    return set((host.state / "sr").rglob("*.qcow2"))


def _chunks(image: Path) -> Iterator[bytes]:
    with image.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
