"""The port's rules: one suite that every adapter passes."""

import pytest
from tests.kit.images import KIB, MIB, dynamic_vhd, extension, fixed_vhd, noise, qcow2, uuid
from tests.unit.storage.conftest import Bench

from xenstack.host.storage.port import (
    MAX_VIRTUAL_SIZE,
    BodyTruncated,
    CannotShrink,
    Format,
    ImageRejected,
    ImageTooLarge,
    InvalidArgument,
    SrExists,
    SrFull,
    SrInUse,
    SrMissing,
    SrNotAttached,
    SrNotEmpty,
    Storage,
    StorageError,
    Unsupported,
    VdiExists,
    VdiInUse,
    VdiMissing,
)

PIB = 1 << 50
DATA = noise(300_000) + bytes(700_000) + noise(50_001, 2)  # ends within a sector, with a hole
SIZE = 2 * MIB


def padded(data: bytes, size: int = SIZE) -> bytes:
    return data.ljust(size, b"\0")


# SRs


def test_sr_life(storage: Storage) -> None:
    sr = uuid()
    with pytest.raises(SrMissing):
        storage.attach_sr(sr)
    storage.create_sr(sr)
    with pytest.raises(SrExists):
        storage.create_sr(sr)
    with pytest.raises(SrNotAttached):
        storage.space(sr)
    storage.attach_sr(sr)
    vdi = uuid()
    storage.create(sr, vdi, virtual_size=MIB)
    with pytest.raises(SrNotEmpty):
        storage.destroy_sr(sr)
    storage.activate(sr, vdi, "vm", read_only=False)
    with pytest.raises(SrInUse):
        storage.detach_sr(sr)
    storage.deactivate(sr, vdi, "vm")
    storage.detach_sr(sr)
    storage.detach_sr(sr)
    storage.deactivate(sr, vdi, "vm")
    storage.attach_sr(sr)
    assert storage.stat(sr, vdi).virtual_size == MIB
    storage.destroy(sr, vdi)
    storage.destroy_sr(sr)
    storage.destroy_sr(sr)
    assert sr not in storage.srs()


_UUID = "4d3f9b6a-1c52-4e0a-9f7b-2a8c6e5d1b70"  # fixed: a name of a test must not change from run to run


@pytest.mark.parametrize("bad", ["", "../x", "A" * 36, "0" * 36, _UUID.upper(), _UUID + "\n", "/" + _UUID[1:]])
def test_ids_are_uuids(bench: Bench, bad: str) -> None:
    vdi = bench.create(MIB)
    for call in (
        lambda: bench.storage.create_sr(bad),
        lambda: bench.storage.create(bench.sr, bad, virtual_size=MIB),
        lambda: bench.storage.clone(bench.sr, vdi, bad),
        lambda: bench.storage.copy(bench.sr, vdi, bad, uuid()),
        lambda: bench.storage.destroy(bench.sr, bad),
        lambda: bench.storage.stat(bad, vdi),
        lambda: bench.storage.introduce(bench.sr, bad),
    ):
        with pytest.raises(InvalidArgument):
            call()


def test_space_figures(bench: Bench) -> None:
    bench.storage.attach_sr(bench.sr, size_limit=8 * MIB)
    before = bench.storage.space(bench.sr)
    assert before.physical_size == 8 * MIB
    vdi = bench.filled(noise(MIB), 4 * MIB)
    after = bench.storage.space(bench.sr)
    assert after.virtual_allocation - before.virtual_allocation == 4 * MIB
    assert MIB <= after.physical_utilisation - before.physical_utilisation <= MIB + 64 * KIB
    assert MIB <= bench.storage.stat(bench.sr, vdi).physical_utilisation <= MIB + 64 * KIB


# VDIs


def test_new_vdi_reads_as_zeros_and_takes_little(bench: Bench) -> None:
    vdi = uuid()
    made = bench.storage.create(bench.sr, vdi, virtual_size=MIB + 1)
    assert (made.uuid, made.format, made.virtual_size) == (vdi, Format.QCOW2, MIB + 512)
    assert made.physical_utilisation <= 32 * KIB
    assert bench.get(vdi) == bytes(MIB + 512)
    with pytest.raises(VdiExists):
        bench.storage.create(bench.sr, vdi, virtual_size=MIB)
    with pytest.raises(VdiExists):
        bench.storage.create(bench.sr, vdi, virtual_size=MIB, format=Format.RAW)


@pytest.mark.parametrize("size", [0, -1, MAX_VIRTUAL_SIZE + 1])
def test_impossible_sizes(bench: Bench, size: int) -> None:
    with pytest.raises(InvalidArgument):
        bench.create(size)


def test_largest_size(bench: Bench) -> None:
    vdi = bench.create(MAX_VIRTUAL_SIZE)
    assert bench.storage.stat(bench.sr, vdi).virtual_size == MAX_VIRTUAL_SIZE
    assert bench.storage.stat(bench.sr, vdi).physical_utilisation <= 32 * KIB


def test_vhd_is_no_format_of_vdis(bench: Bench) -> None:
    with pytest.raises(Unsupported):
        bench.create(MIB, Format.VHD)


def test_destroy_repeats(bench: Bench) -> None:
    vdi = bench.create(MIB)
    bench.storage.destroy(bench.sr, vdi)
    bench.storage.destroy(bench.sr, vdi)
    for call in (bench.storage.stat, bench.storage.users, bench.storage.introduce):
        with pytest.raises(VdiMissing):
            call(bench.sr, vdi)
    with pytest.raises(VdiMissing):
        bench.storage.import_vdi(bench.sr, vdi, format=Format.RAW)
    with pytest.raises(VdiMissing):
        bench.storage.export_vdi(bench.sr, vdi, format=Format.RAW)


def test_scan_compares_with_the_records(bench: Bench) -> None:
    here, orphan, missing = bench.create(MIB), bench.create(MIB), uuid()
    found = bench.storage.scan(bench.sr, frozenset({here, missing}))
    assert {vdi.uuid for vdi in found.vdis} == {here, orphan}
    assert (found.orphans, found.missing, found.damaged, found.foreign) == ((orphan,), (missing,), (), ())


def test_forget_keeps_and_introduce_finds(bench: Bench) -> None:
    vdi = bench.filled(DATA, SIZE)
    bench.storage.activate(bench.sr, vdi, "vm", read_only=True)
    with pytest.raises(VdiInUse):
        bench.storage.forget(bench.sr, vdi)
    bench.storage.deactivate(bench.sr, vdi, "vm")
    bench.storage.forget(bench.sr, vdi)
    assert bench.storage.scan(bench.sr).orphans == (vdi,)
    assert bench.storage.introduce(bench.sr, vdi).virtual_size == SIZE
    assert bench.get(vdi) == padded(DATA)


@pytest.mark.parametrize("format", [Format.QCOW2, Format.RAW])
def test_resize_grows_only(bench: Bench, format: Format) -> None:
    empty, clone = bench.create(MIB, format), uuid()
    bench.storage.clone(bench.sr, empty, clone)
    for vdi in (empty, clone):
        assert bench.storage.resize(bench.sr, vdi, 3 * MIB).virtual_size == 3 * MIB
        assert bench.storage.resize(bench.sr, vdi, 3 * MIB).virtual_size == 3 * MIB
        with pytest.raises(CannotShrink):
            bench.storage.resize(bench.sr, vdi, 2 * MIB)
        assert bench.get(vdi) == bytes(3 * MIB)


# clones


@pytest.mark.parametrize("format", [Format.QCOW2, Format.RAW])
def test_clones_are_independent(bench: Bench, format: Format) -> None:
    first, second, third = bench.filled(DATA, SIZE, format), uuid(), uuid()
    bench.storage.clone(bench.sr, first, second)
    bench.storage.clone(bench.sr, second, third)
    other = noise(SIZE, 7)
    bench.put(second, other)
    assert bench.get(first) == bench.get(third) == padded(DATA)
    assert bench.get(second) == other
    bench.storage.destroy(bench.sr, first)
    assert bench.get(third) == padded(DATA)


def test_clone_shares_and_keeps_the_image(bench: Bench) -> None:
    image = bench.filled(noise(MIB), 4 * MIB)
    before = bench.used()
    clones = [uuid() for _ in range(20)]
    for clone in clones:
        made = bench.storage.clone(bench.sr, image, clone)
        assert (made.uuid, made.virtual_size, made.format) == (clone, 4 * MIB, Format.QCOW2)
        assert made.physical_utilisation <= 32 * KIB
    assert bench.used() - before <= 21 * 32 * KIB
    assert bench.storage.stat(bench.sr, image).uuid == image
    bench.storage.resize(bench.sr, clones[0], 8 * MIB)
    assert bench.get(clones[0]) == padded(noise(MIB), 8 * MIB)
    assert bench.get(image) == padded(noise(MIB), 4 * MIB)
    for clone in clones:
        bench.storage.destroy(bench.sr, clone)
    assert bench.used() == before
    bench.storage.destroy(bench.sr, image)
    assert not bench.storage.scan(bench.sr).vdis


def test_the_last_child_takes_the_base_along(bench: Bench) -> None:
    before = bench.used()
    vdis = [bench.filled(noise(MIB), 2 * MIB)]
    for _ in range(6):
        vdis.append(uuid())
        bench.storage.clone(bench.sr, vdis[-2], vdis[-1])
        bench.put(vdis[-1], noise(100_000, len(vdis)))
    for vdi in vdis:
        bench.storage.destroy(bench.sr, vdi)
    assert bench.used() == before
    bench.storage.destroy_sr(bench.sr)


def test_clone_refuses(bench: Bench) -> None:
    vdi, other = bench.create(MIB), bench.create(MIB)
    with pytest.raises(VdiExists):
        bench.storage.clone(bench.sr, vdi, other)
    with pytest.raises(VdiMissing):
        bench.storage.clone(bench.sr, uuid(), uuid())
    bench.storage.activate(bench.sr, vdi, "vm", read_only=False)
    new = uuid()
    for verb in (
        lambda: bench.storage.clone(bench.sr, vdi, new),
        lambda: bench.storage.copy(bench.sr, vdi, bench.sr, new),
        lambda: bench.storage.export_vdi(bench.sr, vdi, format=Format.RAW),
    ):
        with pytest.raises(VdiInUse) as refused:
            verb()
        assert refused.value.users == ("vm",)
    assert len(bench.storage.scan(bench.sr).vdis) == 2
    bench.storage.deactivate(bench.sr, vdi, "vm")
    bench.storage.activate(bench.sr, vdi, "vm", read_only=True)
    bench.storage.clone(bench.sr, vdi, new)
    assert bench.storage.users(bench.sr, vdi) == ("vm",)
    assert bench.storage.users(bench.sr, new) == ()


@pytest.mark.parametrize("format", [Format.QCOW2, Format.RAW])
def test_copy_to_another_sr(bench: Bench, format: Format) -> None:
    sr, new = uuid(), uuid()
    bench.storage.create_sr(sr)
    bench.storage.attach_sr(sr)
    vdi, middle = bench.filled(DATA, SIZE, format), uuid()
    bench.storage.clone(bench.sr, vdi, middle)
    seen: list[float] = []
    made = bench.storage.copy(bench.sr, middle, sr, new, progress=seen.append)
    assert (made.virtual_size, made.format) == (SIZE, format)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    bench.storage.destroy(bench.sr, vdi)
    bench.storage.destroy(bench.sr, middle)
    assert Bench(bench.storage, sr).get(new) == padded(DATA)


def test_cancelled_copy_leaves_nothing(bench: Bench) -> None:
    vdi, new = bench.filled(DATA, SIZE), uuid()
    before = bench.used()

    def cancel(done: float) -> None:
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        bench.storage.copy(bench.sr, vdi, bench.sr, new, progress=cancel)
    assert (bench.used(), bench.storage.users(bench.sr, vdi)) == (before, ())
    assert [one.uuid for one in bench.storage.scan(bench.sr).vdis] == [vdi]


# users


def test_readers_or_one_writer(bench: Bench) -> None:
    vdi = bench.create(MIB)
    opened = bench.storage.activate(bench.sr, vdi, "a", read_only=True)
    assert opened.read_only
    assert opened.format is Format.QCOW2
    bench.storage.activate(bench.sr, vdi, "b", read_only=True)
    bench.storage.activate(bench.sr, vdi, "b", read_only=True)
    with pytest.raises(VdiInUse) as refused:
        bench.storage.activate(bench.sr, vdi, "b", read_only=False)
    assert refused.value.users == ("a",)
    assert bench.storage.users(bench.sr, vdi) == ("a", "b")
    bench.storage.deactivate(bench.sr, vdi, "a")
    bench.storage.deactivate(bench.sr, vdi, "a")
    bench.storage.activate(bench.sr, vdi, "b", read_only=False)
    with pytest.raises(VdiInUse):
        bench.storage.activate(bench.sr, vdi, "c", read_only=True)


@pytest.mark.parametrize("read_only", [True, False])
def test_used_vdis_are_safe(bench: Bench, read_only: bool) -> None:
    vdi = bench.create(MIB)
    bench.storage.activate(bench.sr, vdi, "vm", read_only=read_only)
    for verb in (
        lambda: bench.storage.destroy(bench.sr, vdi),
        lambda: bench.storage.resize(bench.sr, vdi, 2 * MIB),
        lambda: bench.storage.import_vdi(bench.sr, vdi, format=Format.RAW),
    ):
        with pytest.raises(VdiInUse):
            verb()
    assert bench.storage.stat(bench.sr, vdi).virtual_size == MIB


def test_bodies_are_users(bench: Bench) -> None:
    vdi = bench.create(MIB)
    with bench.storage.import_vdi(bench.sr, vdi, format=Format.RAW):
        for verb in (
            lambda: bench.storage.destroy(bench.sr, vdi),
            lambda: bench.storage.activate(bench.sr, vdi, "vm", read_only=True),
            lambda: bench.storage.import_vdi(bench.sr, vdi, format=Format.RAW),
            lambda: bench.storage.clone(bench.sr, vdi, uuid()),
        ):
            with pytest.raises(VdiInUse):
                verb()
    with bench.storage.export_vdi(bench.sr, vdi, format=Format.RAW):
        bench.storage.activate(bench.sr, vdi, "vm", read_only=True)
        with pytest.raises(VdiInUse):
            bench.storage.destroy(bench.sr, vdi)
    bench.storage.deactivate(bench.sr, vdi, "vm")
    assert bench.storage.users(bench.sr, vdi) == ()
    bench.storage.destroy(bench.sr, vdi)


# imports

BODIES = {
    "raw": (Format.RAW, DATA),
    "qcow2": (Format.QCOW2, qcow2(DATA, size=len(DATA) // 512 * 512 + 512)),
    "qcow2 version 2": (Format.QCOW2, qcow2(DATA, version=2, size=MIB + 512 * KIB)),
    "qcow2 small clusters": (Format.QCOW2, qcow2(DATA, cluster_bits=12, size=SIZE)),
    "qcow2 compressed": (Format.QCOW2, qcow2(DATA, compressed=True, size=SIZE)),
    "fixed vhd": (Format.VHD, fixed_vhd(padded(DATA))),
    "dynamic vhd": (Format.VHD, dynamic_vhd(DATA, size=SIZE)),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("declared", ["exact", "none", "1 PiB"])
@pytest.mark.parametrize("kept", [Format.QCOW2, Format.RAW])
def test_import(bench: Bench, kind: str, declared: str, kept: Format) -> None:
    format, body = BODIES[kind]
    vdi = bench.filled(noise(SIZE, 9), format=kept)
    made = bench.put(vdi, body, format, {"exact": len(body), "none": None, "1 PiB": PIB}[declared])
    assert (made.uuid, made.virtual_size, made.format) == (vdi, SIZE, kept)
    assert made.physical_utilisation < 600 * KIB
    assert bench.get(vdi) == padded(DATA)
    assert bench.storage.users(bench.sr, vdi) == ()


@pytest.mark.parametrize("size", [1, 511, 65_535, 65_536, 65_537, 1_000_000])
def test_import_of_any_chunks(bench: Bench, size: int) -> None:
    vdi = bench.create(SIZE)
    body = DATA if size > 600 else DATA[:30_000]
    with bench.storage.import_vdi(bench.sr, vdi, format=Format.RAW, length=len(body)) as writer:
        for at in range(0, len(body), size):
            writer.write(memoryview(bytearray(body[at : at + size])))
        writer.finish()
    assert bench.get(vdi) == padded(body)


def rejected() -> dict[str, tuple[Format, bytes, type[StorageError]]]:
    cut = qcow2(noise(MIB))
    return {
        "raw too long": (Format.RAW, noise(SIZE + 1), ImageTooLarge),
        "raw as qcow2": (Format.QCOW2, DATA, ImageRejected),
        "raw as vhd": (Format.VHD, DATA, ImageRejected),
        "vhd as qcow2": (Format.QCOW2, dynamic_vhd(DATA), ImageRejected),
        "nothing as qcow2": (Format.QCOW2, b"", ImageRejected),
        "nothing as vhd": (Format.VHD, b"", ImageRejected),
        "qcow2 too large": (Format.QCOW2, qcow2(DATA, size=SIZE + 512), ImageTooLarge),
        "vhd too large": (Format.VHD, dynamic_vhd(DATA, size=SIZE + 512), ImageTooLarge),
        "fixed vhd too large": (Format.VHD, fixed_vhd(bytes(SIZE + 512)), ImageTooLarge),
        "qcow2 cut": (Format.QCOW2, cut[:-100_000], ImageRejected),
        "qcow2 cut to its header": (Format.QCOW2, cut[:65_536], ImageRejected),
        "vhd cut": (Format.VHD, dynamic_vhd(DATA)[:-70_000], ImageRejected),
        "backing file": (Format.QCOW2, qcow2(DATA, backing=b"/etc/passwd"), ImageRejected),
        "backing file json": (Format.QCOW2, qcow2(DATA, backing=b'json:{"driver":"raw"}'), ImageRejected),
        "backing format": (Format.QCOW2, qcow2(DATA, extensions=extension(0xE2792ACA, b"raw")), ImageRejected),
        "data file name": (Format.QCOW2, qcow2(DATA, extensions=extension(0x44415441, b"/dev/sda")), ImageRejected),
        "data file flag": (Format.QCOW2, qcow2(DATA, incompatible=4), ImageRejected),
        "encrypted": (Format.QCOW2, qcow2(DATA, crypt=1), ImageRejected),
        "corrupt": (Format.QCOW2, qcow2(DATA, incompatible=2), ImageRejected),
        "unknown feature": (Format.QCOW2, qcow2(DATA, incompatible=1 << 20), ImageRejected),
        "short L1": (Format.QCOW2, qcow2(DATA, l1_entries=0), ImageRejected),
        "huge L1": (Format.QCOW2, qcow2(DATA, l1_entries=1 << 30), ImageRejected),
        "differencing": (Format.VHD, dynamic_vhd(DATA, kind=4), ImageRejected),
        "more entries than needed": (Format.VHD, dynamic_vhd(b"", size=SIZE, block=512), ImageRejected),
    }  # fmt: skip


REJECTED = rejected()


@pytest.mark.parametrize("what", REJECTED)
@pytest.mark.parametrize("declared", [False, True])
def test_bad_body_changes_nothing(bench: Bench, what: str, declared: bool) -> None:
    format, body, error = REJECTED[what]
    vdi = bench.filled(DATA, SIZE)
    before = bench.used()
    with pytest.raises(error):
        bench.put(vdi, body, format, len(body) if declared else PIB)
    assert (bench.used(), bench.storage.users(bench.sr, vdi)) == (before, ())
    assert bench.get(vdi) == padded(DATA)


@pytest.mark.parametrize("kind", BODIES)
def test_truncated_body_changes_nothing(bench: Bench, kind: str) -> None:
    format, body = BODIES[kind]
    vdi = bench.filled(noise(SIZE, 9))
    before = bench.used()
    for cut in (0, 1, 511, 70_000, len(body) - 1):
        with pytest.raises(BodyTruncated) as refused:
            bench.put(vdi, body[:cut], format, len(body))
        assert (refused.value.received, refused.value.declared) == (cut, len(body))
    with pytest.raises(ImageRejected):
        bench.put(vdi, body + b"x", format, len(body))
    assert (bench.used(), bench.storage.users(bench.sr, vdi)) == (before, ())
    assert bench.get(vdi) == noise(SIZE, 9)


@pytest.mark.parametrize("format", Format)
def test_aborted_import_changes_nothing(bench: Bench, format: Format) -> None:
    vdi = bench.filled(DATA, SIZE)
    before = bench.used()
    writer = bench.storage.import_vdi(bench.sr, vdi, format=format)
    body = {Format.RAW: noise(MIB), Format.QCOW2: qcow2(noise(MIB)), Format.VHD: dynamic_vhd(noise(MIB))}[format]
    writer.write(body[:200_000])
    writer.abort()
    writer.abort()
    with bench.storage.import_vdi(bench.sr, vdi, format=format) as writer:
        writer.write(body[:200_000])
    assert (bench.used(), bench.storage.users(bench.sr, vdi)) == (before, ())
    assert bench.get(vdi) == padded(DATA)


def test_declared_raw_length_must_fit(bench: Bench) -> None:
    vdi = bench.create(MIB)
    with pytest.raises(ImageTooLarge):
        bench.storage.import_vdi(bench.sr, vdi, format=Format.RAW, length=MIB + 1)
    assert bench.storage.users(bench.sr, vdi) == ()


def test_import_into_a_clone(bench: Bench) -> None:
    image, clone = bench.filled(DATA, SIZE), uuid()
    before = bench.used()
    bench.storage.clone(bench.sr, image, clone)
    bench.put(clone, noise(100_000, 5))
    assert bench.get(image) == padded(DATA)
    assert bench.get(clone) == padded(noise(100_000, 5))
    bench.storage.destroy(bench.sr, clone)
    assert bench.used() == before


@pytest.mark.parametrize("format", Format)
def test_full_sr(bench: Bench, format: Format) -> None:
    body = {
        Format.RAW: noise(16 * MIB),
        Format.QCOW2: qcow2(noise(16 * MIB)),
        Format.VHD: dynamic_vhd(noise(16 * MIB)),
    }[format]
    vdi = bench.filled(DATA, 32 * MIB)
    bench.storage.attach_sr(bench.sr, size_limit=10 * MIB)
    before = bench.used()
    with pytest.raises(SrFull):
        bench.put(vdi, body, format)
    assert (bench.used(), bench.storage.users(bench.sr, vdi)) == (before, ())
    assert bench.get(vdi)[: len(DATA)] == DATA
    bench.storage.attach_sr(bench.sr, size_limit=before + 1000)
    for verb in (
        lambda: bench.create(MIB),
        lambda: bench.storage.clone(bench.sr, vdi, uuid()),
        lambda: bench.storage.copy(bench.sr, vdi, bench.sr, uuid()),
    ):
        with pytest.raises(SrFull) as full:
            verb()
        assert full.value.available <= 1000
    assert bench.used() == before
    assert len(bench.storage.scan(bench.sr).vdis) == 1


# exports


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("kept", [Format.QCOW2, Format.RAW])
def test_round_trip(bench: Bench, format: Format, kept: Format) -> None:
    first, second = bench.filled(DATA, SIZE, kept), bench.create(SIZE)
    clone = uuid()
    bench.storage.clone(bench.sr, first, clone)
    body = bench.get(clone, format)
    if format is not Format.RAW and kept is Format.QCOW2:
        assert len(body) < SIZE + 100 * KIB
    bench.put(second, body, format, len(body))
    assert bench.get(second) == padded(DATA)


@pytest.mark.parametrize("format", Format)
def test_export_that_ends_early(bench: Bench, format: Format) -> None:
    vdi = bench.filled(noise(3 * MIB))
    with bench.storage.export_vdi(bench.sr, vdi, format=format) as reader:
        assert len(next(iter(reader))) <= MIB
    reader.close()
    bench.storage.destroy(bench.sr, vdi)
    assert not bench.storage.scan(bench.sr).vdis


def test_vhd_has_a_largest_size(bench: Bench) -> None:
    vdi = bench.create(2041 << 30)
    with pytest.raises(Unsupported):
        bench.storage.export_vdi(bench.sr, vdi, format=Format.VHD)
    assert bench.storage.users(bench.sr, vdi) == ()
