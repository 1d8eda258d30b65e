"""The port's rules: one suite that every adapter passes."""

import pytest
from tests.kit.images import KIB, MIB, noise, uuid
from tests.unit.storage.conftest import Bench

from xenstack.host.storage.port import (
    MAX_VIRTUAL_SIZE,
    CannotShrink,
    Format,
    InvalidArgument,
    SrExists,
    SrInUse,
    SrMissing,
    SrNotAttached,
    SrNotEmpty,
    Storage,
    Unsupported,
    VdiExists,
    VdiInUse,
    VdiMissing,
)

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
