"""The builder's parts, each against a reader that is not ours: no root, no packages, no network."""

import gzip
import os
import stat
import struct
import sys
from pathlib import Path

import pytest

from xenstack.run import run

IMAGES = Path(__file__).parents[3] / "images"
sys.path.insert(0, str(IMAGES))

from parts import archive, disk, drivers, image  # noqa: E402 - the path above makes it importable


def _members(cpio: bytes) -> dict[str, tuple[int, int, bytes]]:
    """name -> mode, owner, body of a newc archive, read by the format's description."""
    found, at = {}, 0
    while True:
        assert cpio[at : at + 6] == b"070701"
        numbers = [int(cpio[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_length, size = numbers[11], numbers[6]
        name = cpio[at + 110 : at + 110 + name_length - 1].decode()
        start = (at + 110 + name_length + 3) & ~3
        if name == "TRAILER!!!":
            return found
        found[name] = (numbers[1], numbers[2], cpio[start : start + size])
        at = (start + size + 3) & ~3


def test_archive_keeps_names_modes_links_and_bytes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "tool").write_bytes(b"12345")
    (tree / "bin" / "tool").chmod(0o755)
    (tree / "link").symlink_to("bin/tool")
    archive.write(tree, tmp_path / "a.gz")
    members = _members(gzip.decompress((tmp_path / "a.gz").read_bytes()))
    assert set(members) == {"bin", "bin/tool", "link"}
    assert members["bin/tool"] == (stat.S_IFREG | 0o755, os.getuid(), b"12345")
    assert members["link"][2] == b"bin/tool"
    assert stat.S_ISLNK(members["link"][0])
    assert stat.S_ISDIR(members["bin"][0])


def test_archive_is_the_same_for_the_same_tree(tmp_path: Path) -> None:
    for copy, age in (("one", 1), ("two", 2)):
        tree = tmp_path / copy
        tree.mkdir()
        (tree / "file").write_text("x")
        os.utime(tree / "file", (age, age))
        archive.write(tree, tmp_path / f"{copy}.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_archive_refuses_what_an_image_cannot_hold(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree" / "pipe")
    with pytest.raises(OSError, match="only files, folders and links"):
        archive.write(tmp_path / "tree", tmp_path / "a.gz")


def _kernel(folder: Path, **depends: str) -> None:
    modules = folder / "lib" / "modules" / "6.1"
    modules.mkdir(parents=True)
    for name in (*drivers.BOOT, *drivers.LATE, *depends):
        key = name.replace("-", "_")
        (modules / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.get(key, "").encode() + b"\0")


def test_drivers_come_after_what_they_depend_on(tmp_path: Path) -> None:
    _kernel(tmp_path, virtio_pci="virtio,virtio-ring", virtio="virtio_ring", virtio_ring="crc_builtin", sr_mod="virtio")
    drivers.copy(tmp_path, tmp_path / "root", "6.1")
    lists = tmp_path / "root" / "lib" / "modules"
    boot, late = ((lists / name).read_text().split() for name in ("boot", "late"))
    assert boot[:3] == ["virtio_ring.ko", "virtio.ko", "virtio_pci.ko"]
    assert not set(boot) & set(late)
    assert {f"{m}.ko" for m in drivers.BOOT} <= set(boot)
    assert all((lists / module).exists() for module in (*boot, *late))


def test_a_kernel_without_a_driver_is_refused(tmp_path: Path) -> None:
    _kernel(tmp_path)
    (tmp_path / "lib" / "modules" / "6.1" / "xen-netfront.ko").unlink()
    with pytest.raises(KeyError, match="xen_netfront"):
        drivers.copy(tmp_path, tmp_path / "root", "6.1")


def test_partition_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "mbr.bin"
    code.write_bytes(b"\xfa" * 440)
    monkeypatch.setattr(disk, "_MBR_CODE", code)
    sector = disk._mbr()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"
    boot, root = (struct.unpack("<B3sB3sII", sector[at : at + 16]) for at in (446, 462))
    assert (boot[0], boot[2], boot[4]) == (0x80, 0x0E, 2048)
    assert (root[0], root[2]) == (0, 0x83)
    assert boot[4] + boot[5] == root[4]
    assert (root[4] + root[5]) * 512 == disk.SIZE


def test_a_broken_or_older_manifest_means_build_again(tmp_path: Path) -> None:
    assert not image._up_to_date(tmp_path, "s")
    for bad in ("", "[]", "{}", '{"sources": "s", "files": {}}', '{"sources": "other"}'):
        (tmp_path / "manifest.json").write_text(bad)
        assert not image._up_to_date(tmp_path, "s")


def test_sources_change_with_a_file_and_with_its_mode(tmp_path: Path) -> None:
    script = tmp_path / "init"
    script.write_text("one")
    first = image._sources(tmp_path)
    assert image._sources(tmp_path) == first
    script.chmod(0o755)
    second = image._sources(tmp_path)
    script.write_text("two")
    assert len({first, second, image._sources(tmp_path)}) == 3


SCRIPTS = sorted(p for p in (IMAGES / "guest").rglob("*") if p.is_file() and p.read_bytes().startswith(b"#!"))


def test_there_are_scripts() -> None:
    assert {"init", "start", "metadata", "interface", "ssh"} <= {p.name for p in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_guest_scripts_parse_and_can_run(script: Path) -> None:
    run("busybox", "sh", "-n", script)
    assert script.stat().st_mode & 0o111
