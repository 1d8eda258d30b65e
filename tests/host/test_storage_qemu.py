"""The file SR against QEMU's own tools: what we write QEMU reads, what QEMU writes we read, sound by its own check."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.kit.images import KIB, MIB, noise, pieces, uuid

from xenstack.host.storage.file import FileStorage
from xenstack.host.storage.file.convert import convert_to_plain
from xenstack.host.storage.port import Format, SrFull, VdiInUse

SIZE = 8 * MIB
DATA = noise(700_000) + bytes(2 * MIB) + noise(300_123, 2)
QEMU_NAME = {Format.RAW: "raw", Format.QCOW2: "qcow2", Format.VHD: "vpc"}


def qemu_img(*words: str | Path) -> str:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


def qemu_io(path: Path, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "qcow2", *words, path], check=True, capture_output=True, text=True)
    assert "failed" not in done.stdout + done.stderr


@dataclass
class Sr:
    storage: FileStorage
    sr: str
    path: Path

    def filled(self, body: bytes = DATA, size: int = SIZE, format: Format = Format.RAW) -> str:
        vdi = uuid()
        self.storage.create(self.sr, vdi, virtual_size=size)
        self.put(vdi, body, format)
        return vdi

    def put(self, vdi: str, body: bytes, format: Format) -> None:
        with self.storage.import_vdi(self.sr, vdi, format=format, length=len(body)) as writer:
            for piece in pieces(body, MIB):
                writer.write(piece)
            writer.finish()

    def get(self, vdi: str, format: Format = Format.RAW) -> bytes:
        with self.storage.export_vdi(self.sr, vdi, format=format) as reader:
            return b"".join(reader)

    def file(self, vdi: str) -> Path:
        return self.path / f"{vdi}.qcow2"

    def check(self) -> None:
        """Every image is sound, without a single leaked cluster."""
        for path in self.path.glob("*.qcow2"):
            report = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", path))
            assert not report.get("corruptions"), path
            assert not report.get("leaks"), path

    def names(self) -> set[str]:
        return {path.name for path in self.path.iterdir()} - {".lock"}


@pytest.fixture
def sr(tmp_path: Path) -> Iterator[Sr]:
    storage, sr = FileStorage(tmp_path / "srs"), uuid()
    storage.create_sr(sr)
    storage.attach_sr(sr)
    yield Sr(storage, sr, tmp_path / "srs" / sr)
    storage.close()


@pytest.mark.parametrize("size", [512, MIB, 20 << 30, 16 << 40])
def test_qemu_accepts_new_images(sr: Sr, size: int) -> None:
    vdi, clone = uuid(), uuid()
    sr.storage.create(sr.sr, vdi, virtual_size=size)
    assert json.loads(qemu_img("info", "--output=json", "-f", "qcow2", sr.file(vdi)))["virtual-size"] == size
    sr.check()
    qemu_io(sr.file(vdi), "write -P 7 0 512")
    sr.storage.clone(sr.sr, vdi, clone)
    qemu_io(sr.file(clone), "read -P 7 0 512", f"write -P 8 {size - 512} 512", f"read -P 8 {size - 512} 512")
    sr.check()


def test_qemu_reads_our_imports(sr: Sr, tmp_path: Path) -> None:
    vdi = sr.filled()
    sr.check()
    (tmp_path / "raw").write_bytes(DATA.ljust(SIZE, b"\0"))
    qemu_img("compare", "-f", "qcow2", "-F", "raw", sr.file(vdi), tmp_path / "raw")


@pytest.mark.parametrize("format", Format)
def test_qemu_reads_our_exports(sr: Sr, tmp_path: Path, format: Format) -> None:
    vdi = sr.filled()
    clone = uuid()
    sr.storage.clone(sr.sr, vdi, clone)
    qemu_io(sr.file(clone), "write -P 5 1M 3k", "write -z 0 128k", "write -P 9 7M 1M")
    exported = tmp_path / "exported"
    exported.write_bytes(sr.get(clone, format))
    qemu_img("compare", "-f", "qcow2", "-F", QEMU_NAME[format], sr.file(clone), exported)
    if format is Format.QCOW2:
        qemu_img("check", "-f", "qcow2", exported)
    again = sr.filled(exported.read_bytes(), SIZE, format)
    assert sr.get(again) == sr.get(clone)
    sr.check()


OPTIONS = {
    "qcow2": (Format.QCOW2, []),
    "qcow2 version 2": (Format.QCOW2, ["-o", "compat=0.10"]),
    "qcow2 compressed": (Format.QCOW2, ["-c"]),
    "qcow2 compressed by zstd": (Format.QCOW2, ["-c", "-o", "compression_type=zstd"]),
    "qcow2 extended L2": (Format.QCOW2, ["-o", "extended_l2=on"]),
    "qcow2 512 byte clusters": (Format.QCOW2, ["-o", "cluster_size=512"]),
    "qcow2 2 MiB clusters": (Format.QCOW2, ["-o", "cluster_size=2M"]),
    "qcow2 preallocated": (Format.QCOW2, ["-o", "preallocation=metadata"]),
    "qcow2 lazy refcounts": (Format.QCOW2, ["-o", "lazy_refcounts=on,refcount_bits=1"]),
    "dynamic vhd": (Format.VHD, ["-o", "subformat=dynamic,force_size=on"]),
    "fixed vhd": (Format.VHD, ["-o", "subformat=fixed,force_size=on"]),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_we_read_qemus_images(sr: Sr, tmp_path: Path, kind: str) -> None:
    format, options = OPTIONS[kind]
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(DATA.ljust(SIZE, b"\0"))
    qemu_img("convert", "-f", "raw", "-O", QEMU_NAME[format], *options, raw, image)
    vdi = sr.filled(image.read_bytes(), SIZE + MIB, format)
    assert sr.get(vdi) == DATA.ljust(SIZE + MIB, b"\0")
    sr.check()
    assert sr.names() == {f"{vdi}.qcow2"}


def test_vhd_with_a_rounded_geometry(sr: Sr, tmp_path: Path) -> None:
    """qemu-img without force_size makes the disk larger, by cylinders."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(DATA.ljust(SIZE, b"\0"))
    qemu_img("convert", "-f", "raw", "-O", "vpc", raw, image)
    vdi = sr.filled(image.read_bytes(), SIZE + MIB, Format.VHD)
    assert sr.get(vdi) == DATA.ljust(SIZE + MIB, b"\0")


def test_images_with_snapshots_bring_their_present_state(sr: Sr, tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", image, str(MIB))
    qemu_io(image, "write -P 1 0 1M")
    qemu_img("snapshot", "-c", "old", image)
    qemu_io(image, "write -P 2 0 64k")
    vdi = sr.filled(image.read_bytes(), MIB, Format.QCOW2)
    assert sr.get(vdi) == b"\2" * 64 * KIB + b"\1" * (MIB - 64 * KIB)


def test_a_chain_that_guests_wrote(sr: Sr) -> None:
    """Clone, write, clone the clone, write both; every VDI keeps its own content, and nothing is left at the end."""
    expected = {sr.filled(): bytearray(DATA.ljust(SIZE, b"\0"))}
    for n in range(1, 6):
        source, clone = list(expected)[-1], uuid()
        sr.storage.clone(sr.sr, source, clone)
        expected[clone] = bytearray(expected[source])
        for vdi, byte, at in ((source, n, 64 * n), (clone, 100 + n, 1000 * n)):
            opened = sr.storage.activate(sr.sr, vdi, "guest", read_only=False)
            qemu_io(opened.path, f"write -P {byte} {at}k 5k")
            sr.storage.deactivate(sr.sr, vdi, "guest")
            expected[vdi][at * KIB : (at + 5) * KIB] = bytes([byte]) * 5 * KIB
    sr.check()
    for vdi, content in expected.items():
        assert sr.get(vdi) == content
    for vdi in list(expected)[::2]:
        sr.storage.destroy(sr.sr, vdi)
        del expected[vdi]
    sr.check()
    for vdi, content in expected.items():
        assert sr.get(vdi) == content
        sr.storage.destroy(sr.sr, vdi)
    assert sr.names() == set()


def test_resize_of_a_written_disk(sr: Sr) -> None:
    vdi, clone = sr.filled(), uuid()
    sr.storage.clone(sr.sr, vdi, clone)
    qemu_io(sr.file(clone), "write -P 1 0 64k")
    assert sr.storage.resize(sr.sr, clone, 5 << 40).virtual_size == 5 << 40
    assert sr.storage.resize(sr.sr, vdi, 20 << 30).virtual_size == 20 << 30
    sr.check()
    for path, size in ((sr.file(clone), 5 << 40), (sr.file(vdi), 20 << 30)):
        assert json.loads(qemu_img("info", "--output=json", path))["virtual-size"] == size
    qemu_io(sr.file(clone), "read -P 1 0 64k", f"read -P 0 {SIZE} 1M", f"write -P 3 {(5 << 40) - 512} 512")
    sr.check()
    found = sr.storage.scan(sr.sr)
    assert {one.uuid: one.virtual_size for one in found.vdis} == {clone: 5 << 40, vdi: 20 << 30}


def test_a_body_for_qemu_img_is_bounded_too(sr: Sr, tmp_path: Path) -> None:
    """The way through qemu-img obeys the SR's limit, and leaves nothing."""
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes((b"\1" * 4096 + noise(512)) * 8192)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd", raw, image)
    vdi = sr.filled(size=64 * MIB)
    sr.storage.attach_sr(sr.sr, size_limit=20 * MIB)
    assert image.stat().st_size < 10 * MIB
    before = sr.names()
    attached, plain = sr.storage._attached[sr.sr], sr.path / "plain"
    with pytest.raises(SrFull):
        convert_to_plain(attached, image, plain)
    assert plain.stat().st_size <= 20 * MIB
    plain.unlink()
    with pytest.raises(SrFull):
        sr.put(vdi, image.read_bytes(), Format.QCOW2)
    assert sr.names() == before
    assert sr.get(vdi)[: len(DATA)] == DATA


def test_a_disk_that_qemu_has_open_is_not_cloned(sr: Sr) -> None:
    vdi = sr.filled()
    opened = sr.storage.activate(sr.sr, vdi, "vm", read_only=False)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", opened.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as guest:
        assert guest.stdin is not None
        with pytest.raises(VdiInUse):
            sr.storage.clone(sr.sr, vdi, uuid())
        guest.stdin.write("write -P 1 0 64k\nquit\n")
    sr.storage.deactivate(sr.sr, vdi, "vm")
    sr.storage.clone(sr.sr, vdi, uuid())
    sr.check()
