"""The file SR's own promises: what lies on the disk, failures at every step, a killed host, a full disk."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.conftest import Backends
from tests.kit.images import KIB, MIB, dynamic_vhd, noise, qcow2, uuid
from tests.unit.storage.conftest import Bench

from xenstack.host.storage.file import FileStorage, importer, storage
from xenstack.host.storage.file.budget import Budget
from xenstack.host.storage.file.folder import Folder
from xenstack.host.storage.port import (
    Format,
    ImageRejected,
    IoFailed,
    Recovered,
    SrFull,
    SrInUse,
    SrNotEmpty,
    StorageError,
    VdiMissing,
)

SOURCE = Path(storage.__file__).parents[4]


def folder(bench: Bench) -> Path:
    assert isinstance(bench.storage, FileStorage)
    return bench.storage._root / bench.sr


def names(bench: Bench) -> set[str]:
    return {path.name for path in folder(bench).iterdir()} - {".lock"}


def du(path: Path) -> int:
    return sum(one.stat().st_blocks * 512 for one in path.iterdir())


def restarted(bench: Bench) -> Recovered:
    """As after a restart of the host: recover, then attach."""
    bench.storage.close()
    fresh = FileStorage(folder(bench).parent)
    swept = fresh.recover()
    fresh.attach_sr(bench.sr)
    bench.storage = fresh
    return swept


# what lies on the disk


def test_names_and_du(file_bench: Bench) -> None:
    thin, raw = file_bench.filled(noise(MIB), 2 * MIB), file_bench.filled(noise(MIB), 2 * MIB, Format.RAW)
    assert names(file_bench) == {f"{thin}.qcow2", f"{raw}.raw"}
    assert file_bench.used() == du(folder(file_bench))
    opened = file_bench.storage.activate(file_bench.sr, raw, "vm", read_only=True)
    assert opened.path.read_bytes() == noise(MIB) + bytes(MIB)
    assert file_bench.storage.stat(file_bench.sr, raw).physical_utilisation == opened.path.stat().st_blocks * 512


def test_clone_of_an_unchanged_clone_adds_no_level(file_bench: Bench) -> None:
    image = file_bench.filled(noise(MIB))
    clones = [uuid() for _ in range(5)]
    for source, clone in zip([image, image, *clones], clones, strict=False):
        file_bench.storage.clone(file_bench.sr, source, clone)
    assert len([name for name in names(file_bench) if ".base." in name]) == 1
    assert file_bench.used() == du(folder(file_bench))


def test_long_chains_end_in_a_copy(file_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MAX_CHAIN", 3)
    vdi = file_bench.filled(noise(MIB))
    for seed in range(6):
        clone = uuid()
        file_bench.storage.clone(file_bench.sr, vdi, clone)
        write_directly(file_bench, vdi, noise(65_536, seed))
    assert isinstance(file_bench.storage, FileStorage)
    attached = file_bench.storage._attached[file_bench.sr]
    assert max(len(attached.chain(node)) for node in attached.vdis.values()) == 3
    assert file_bench.get(vdi) == noise(65_536, 5) + noise(MIB)[65_536:]


def write_directly(bench: Bench, vdi: str, data: bytes) -> None:
    """What a guest's write of the first cluster does to an overlay without data."""
    opened = bench.storage.activate(bench.sr, vdi, "guest", read_only=False)
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "write -q -s /dev/stdin 0 65536", opened.path], input=data, check=True
    )
    bench.storage.deactivate(bench.sr, vdi, "guest")


def test_a_clone_keeps_the_readers_path_true(file_bench: Bench) -> None:
    iso = file_bench.filled(noise(MIB))
    opened = file_bench.storage.activate(file_bench.sr, iso, "vm", read_only=True)
    with opened.path.open("rb") as before:
        file_bench.storage.clone(file_bench.sr, iso, uuid())
        assert before.read(4) == b"QFI\xfb"
    assert file_bench.storage.activate(file_bench.sr, iso, "other", read_only=True).path == opened.path


def test_scan_tells_everything(file_bench: Bench) -> None:
    path, good = folder(file_bench), file_bench.create(MIB)
    short, strange, linked, lost, outside = uuid(), uuid(), uuid(), uuid(), uuid()
    (path / f"{short}.qcow2").write_bytes(b"QFI\xfb")
    (path / f"{strange}.raw").write_bytes(b"x")
    (path / f"{linked}.raw").symlink_to("/etc/passwd")
    (path / f"{lost}.qcow2").write_bytes(
        qcow2(b"", size=MIB, backing=f"{uuid()}.base.qcow2".encode(), extensions=b"\xe2\x79\x2a\xca\0\0\0\5qcow2\0\0\0")
    )
    (path / f"{outside}.qcow2").write_bytes(qcow2(b"", size=MIB, backing=b"/etc/passwd"))
    (path / "notes.txt").write_text("mine")
    found = file_bench.storage.scan(file_bench.sr, frozenset({good, short}))
    assert [vdi.uuid for vdi in found.vdis] == [good]
    assert found.missing == (short,)
    assert found.foreign == ("notes.txt",)
    assert {name.split(".")[0] for name, _ in found.damaged} == {short, strange, linked, lost, outside}
    for bad in (short, strange, linked, outside):
        with pytest.raises(ImageRejected):
            file_bench.storage.introduce(file_bench.sr, bad)
    restarted(file_bench)
    assert "notes.txt" in names(file_bench)
    file_bench.storage.destroy(file_bench.sr, good)
    with pytest.raises(SrNotEmpty):
        file_bench.storage.destroy_sr(file_bench.sr)


def test_introduce_a_file_from_elsewhere(file_bench: Bench) -> None:
    vdi, body = uuid(), noise(MIB)
    with pytest.raises(VdiMissing):
        file_bench.storage.introduce(file_bench.sr, vdi)
    (folder(file_bench) / f"{vdi}.raw").write_bytes(body)
    assert file_bench.storage.introduce(file_bench.sr, vdi).virtual_size == MIB
    assert file_bench.get(vdi) == body


def test_one_process_has_an_sr(file_bench: Bench) -> None:
    other = FileStorage(folder(file_bench).parent)
    with pytest.raises(SrInUse):
        other.attach_sr(file_bench.sr)
    with pytest.raises(SrInUse):
        other.recover()
    file_bench.storage.detach_sr(file_bench.sr)
    other.attach_sr(file_bench.sr)
    other.close()


def test_everything_is_there_after_a_restart(file_bench: Bench) -> None:
    image, clone, iso = file_bench.filled(noise(MIB), 2 * MIB), uuid(), file_bench.filled(noise(MIB), format=Format.RAW)
    file_bench.storage.clone(file_bench.sr, image, clone)
    before, used = names(file_bench), file_bench.used()
    assert restarted(file_bench) == Recovered(temporaries=(), bases=())
    assert (names(file_bench), file_bench.used()) == (before, used)
    assert file_bench.get(clone) == noise(MIB) + bytes(MIB)
    assert file_bench.get(iso) == noise(MIB)


# failures at every step

SMALL, OTHER = noise(128 * KIB, 1), noise(128 * KIB, 3)
CALLS = ["open", "pwrite", "ftruncate", "rename", "unlink", "link", "statvfs"]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, nth: int, code: int) -> Iterator[list[str]]:
    """The nth call that changes or asks the disk fails; gives the names of the calls made."""
    made: list[str] = []

    def wrap(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            made.append(name)
            if len(made) - 1 == nth:
                raise OSError(code, f"injected in {name} {nth}")
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(name, getattr(os, name)))
        yield made


def verbs(bench: Bench, vdi: str, new: str) -> dict[str, Callable[[], object]]:
    return {
        "create": lambda: bench.storage.create(bench.sr, new, virtual_size=MIB),
        "create raw": lambda: bench.storage.create(bench.sr, new, virtual_size=MIB, format=Format.RAW),
        "clone": lambda: bench.storage.clone(bench.sr, vdi, new),
        "copy": lambda: bench.storage.copy(bench.sr, vdi, bench.sr, new),
        "resize": lambda: bench.storage.resize(bench.sr, new, 4 * MIB),
        "destroy": lambda: bench.storage.destroy(bench.sr, new),
        "import raw": lambda: bench.put(new, OTHER),
        "import qcow2": lambda: bench.put(new, qcow2(OTHER), Format.QCOW2),
        "import vhd": lambda: bench.put(new, dynamic_vhd(OTHER), Format.VHD),
        "import raw into raw": lambda: bench.put(vdi, OTHER),
    }


NEEDS_NEW = {"resize", "destroy", "import raw", "import qcow2", "import vhd"}


def state(bench: Bench) -> dict[str, object]:
    """Everything a caller can see, but not how it is stored."""
    found = bench.storage.scan(bench.sr)
    return {
        "vdis": {one.uuid: (one.virtual_size, one.format, bench.get(one.uuid)) for one in found.vdis},
        "users": [bench.storage.users(bench.sr, one.uuid) for one in found.vdis],
        "others": (found.damaged, found.foreign),
    }


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("verb", list(verbs(Bench(None, ""), "", "")))  # type: ignore[arg-type]
def test_failure_at_every_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, code: int
) -> None:
    for nth in range(200):
        root = tmp_path / str(nth)
        bench = Bench(FileStorage(root), uuid())
        bench.storage.create_sr(bench.sr)
        bench.storage.attach_sr(bench.sr)
        kept = Format.RAW if verb == "import raw into raw" else Format.QCOW2
        vdi, new = bench.filled(SMALL, 2 * len(SMALL), kept), uuid()
        if verb in NEEDS_NEW:
            bench.storage.clone(bench.sr, vdi, new)
        before, files, used = state(bench), names(bench), bench.used()
        refused = None
        with failing(monkeypatch, nth, code) as made:
            try:
                verbs(bench, vdi, new)[verb]()
            except StorageError as why:
                refused = why
        if refused is not None:
            assert isinstance(refused, SrFull if code == errno.ENOSPC else IoFailed)
            assert state(bench) == before
            assert names(bench) == files, f"left behind when {made[-1]} {nth} failed"
            assert bench.used() == used
        restarted(bench)
        assert bench.storage.scan(bench.sr).damaged == ()
        for one in bench.storage.scan(bench.sr).vdis:
            bench.storage.destroy(bench.sr, one.uuid)
        assert names(bench) == set(), "bases outlived the last VDI"
        bench.storage.close()
        if len(made) <= nth:
            assert nth > 0, "no step was broken"
            return
    pytest.fail("more steps than were broken")


# a killed host

WORK = """
    import sys, itertools
    from tests.kit.images import noise, qcow2, uuid
    from xenstack.host.storage.file import FileStorage
    from xenstack.host.storage.port import Format
    from pathlib import Path
    root, sr, image = sys.argv[1:]
    storage = FileStorage(Path(root))
    storage.attach_sr(sr)
    bodies = [(Format.RAW, noise(400_000, 2)), (Format.QCOW2, qcow2(noise(400_000, 2), size=1 << 20))]
    print("ready", flush=True)
    for n in itertools.count():
        clone, copy = uuid(), uuid()
        storage.clone(sr, image, clone)
        format, body = bodies[n % 2]
        with storage.import_vdi(sr, clone, format=format) as writer:
            for at in range(0, len(body), 50_000):
                writer.write(body[at:at + 50_000])
            writer.finish()
        storage.copy(sr, clone, sr, copy)
        storage.clone(sr, copy, uuid())
        storage.resize(sr, copy, 4 << 20)
        storage.destroy(sr, clone)
"""


@pytest.mark.parametrize("after_s", [0.002 * 2.3**n for n in range(6)])
def test_killed_at_any_moment(file_bench: Bench, after_s: float) -> None:
    image = file_bench.filled(noise(500_000), MIB)
    file_bench.storage.detach_sr(file_bench.sr)
    root = folder(file_bench).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parents[3])])}
    command = [sys.executable, "-c", textwrap.dedent(WORK), str(root), file_bench.sr, image]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        worker.send_signal(signal.SIGKILL)
    restarted(file_bench)
    found = file_bench.storage.scan(file_bench.sr)
    assert (found.damaged, found.foreign) == ((), ())
    assert not [name for name in names(file_bench) if name.endswith(".tmp")]
    assert file_bench.get(image) == noise(500_000).ljust(MIB, b"\0")
    first, second = noise(500_000).ljust(MIB, b"\0"), noise(400_000, 2).ljust(MIB, b"\0")
    for vdi in found.vdis:
        assert file_bench.get(vdi.uuid)[:MIB] in (first, second)
        file_bench.storage.destroy(file_bench.sr, vdi.uuid)
    assert names(file_bench) == set()
    file_bench.storage.destroy_sr(file_bench.sr)
    assert not folder(file_bench).exists()


def test_recover_removes_bases_without_children(file_bench: Bench) -> None:
    """What a kill between the two renames of a clone leaves, and a base that only such a base needs."""
    image, clone = file_bench.filled(noise(MIB)), uuid()
    file_bench.storage.clone(file_bench.sr, image, clone)
    (base,) = [name for name in names(file_bench) if ".base." in name]
    upper = f"{uuid()}.base.qcow2"
    (folder(file_bench) / upper).hardlink_to(folder(file_bench) / f"{image}.qcow2")
    temporary = f".{image}.0123456789ab.tmp"
    (folder(file_bench) / temporary).write_bytes(b"half")
    for vdi in (image, clone):
        (folder(file_bench) / f"{vdi}.qcow2").unlink()
    swept = restarted(file_bench)
    assert swept.temporaries == ((file_bench.sr, temporary),)
    assert set(swept.bases) == {(file_bench.sr, base), (file_bench.sr, upper)}
    assert names(file_bench) == set()


def test_recover_keeps_bases_when_a_file_is_damaged(file_bench: Bench) -> None:
    image, clone = file_bench.filled(noise(MIB)), uuid()
    file_bench.storage.clone(file_bench.sr, image, clone)
    before = names(file_bench)
    (folder(file_bench) / f"{clone}.qcow2").write_bytes(b"broken")
    (folder(file_bench) / f"{image}.qcow2").unlink()
    restarted(file_bench)
    assert names(file_bench) == before - {f"{image}.qcow2"}


# a full disk

FULL = """
    import sys, os
    from pathlib import Path
    from tests.kit.images import noise, qcow2, uuid
    from tests.unit.storage.conftest import Bench
    from xenstack.host.storage.file import FileStorage
    from xenstack.host.storage.file.folder import Folder
    from xenstack.host.storage.port import Format, SrFull
    Folder.check_space = lambda self, needed: 1 << 40  # others may fill the disk after we looked
    bench = Bench(FileStorage(Path(sys.argv[1])), uuid())
    bench.storage.create_sr(bench.sr)
    bench.storage.attach_sr(bench.sr)
    vdi = bench.filled(noise(1 << 20), 64 << 20)
    path = Path(sys.argv[1]) / bench.sr
    before = sorted(os.listdir(path)), bench.used()
    for body, format in ((noise(16 << 20), Format.RAW), (qcow2(noise(16 << 20)), Format.QCOW2)):
        try:
            bench.put(vdi, body, format)
        except SrFull:
            pass
        else:
            sys.exit("the disk was not full")
        assert (sorted(os.listdir(path)), bench.used()) == before
    filler = (path.parent / "filler").open("wb")
    try:
        while filler.write(bytes(4096)):
            filler.flush()
    except OSError:
        pass
    for verb in (
        lambda: bench.storage.create(bench.sr, uuid(), virtual_size=1 << 20),
        lambda: bench.storage.clone(bench.sr, vdi, uuid()),
        lambda: bench.storage.copy(bench.sr, vdi, bench.sr, uuid()),
    ):
        try:
            verb()
        except SrFull:
            pass
        else:
            sys.exit("the disk was not full")
        assert (sorted(os.listdir(path)), bench.used()) == before
    assert bench.get(vdi)[:1 << 20] == noise(1 << 20)
    print("fine")
"""


def test_full_disk(tmp_path: Path, backends: Backends) -> None:
    if os.geteuid() != 0:
        backends.missing("root, for a small tmpfs")
    mount = 'mount -t tmpfs -o size=6m none "$1" && exec "$2" -c "$3" "$1"'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), str(Path(__file__).parents[3])])}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, textwrap.dedent(FULL)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_writers_look_at_the_limit_again(file_bench: Bench) -> None:
    """Two imports that both fit alone do not fit together."""
    first, second = file_bench.create(64 * MIB), file_bench.create(64 * MIB)
    file_bench.storage.attach_sr(file_bench.sr, size_limit=40 * MIB)
    writers = [file_bench.storage.import_vdi(file_bench.sr, vdi, format=Format.RAW) for vdi in (first, second)]
    block, written = noise(MIB), 0
    with pytest.raises(SrFull):  # noqa: PT012 — either may be the one that is refused
        for n in range(64):
            writers[n % 2].write(block)
            written += 1
    assert 30 <= written <= 40
    for writer in writers:
        writer.abort()
    assert file_bench.used() < MIB


def test_what_is_promised_is_not_there_for_others(file_bench: Bench) -> None:
    file_bench.storage.attach_sr(file_bench.sr, size_limit=40 * MIB)
    assert isinstance(file_bench.storage, FileStorage)
    attached = file_bench.storage._attached[file_bench.sr]
    one, other = Budget(attached), Budget(attached)
    one.take(30 * MIB)
    with pytest.raises(SrFull) as refused:
        other.take(20 * MIB)
    assert refused.value.available <= 10 * MIB
    with pytest.raises(SrFull):
        attached.check_room(20 * MIB)
    one.close()
    other.take(20 * MIB)


def test_scan_during_an_import(file_bench: Bench) -> None:
    image, clone = file_bench.filled(noise(MIB)), uuid()
    file_bench.storage.clone(file_bench.sr, image, clone)
    with file_bench.storage.import_vdi(file_bench.sr, clone, format=Format.RAW) as writer:
        writer.write(noise(MIB, 2))
        assert len(file_bench.storage.scan(file_bench.sr).vdis) == 2
        writer.finish()
    assert names(file_bench) == {f"{image}.qcow2", f"{clone}.qcow2"}
    assert file_bench.get(clone) == noise(MIB, 2)


def test_import_swaps_once(file_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The VDI's file is the old one until the last moment."""
    vdi = file_bench.filled(noise(MIB))
    path = folder(file_bench) / f"{vdi}.qcow2"
    inode, seen = path.stat().st_ino, []
    real = Folder.tidy

    def tidy(self: Folder, base: str) -> None:
        seen.append(path.stat().st_ino)
        real(self, base)

    monkeypatch.setattr(importer.Folder, "tidy", tidy)
    with file_bench.storage.import_vdi(file_bench.sr, vdi, format=Format.RAW) as writer:
        writer.write(noise(MIB, 2))
        assert path.stat().st_ino == inode
        writer.finish()
    assert len(seen) == 1
    assert seen[0] != inode
    assert path.stat().st_ino == seen[0]
