"""The port's rules for what comes in and goes out: one suite that every adapter passes."""

import pytest
from tests.kit.images import KIB, MIB, dynamic_vhd, extension, fixed_vhd, noise, qcow2, uuid
from tests.unit.storage.conftest import Bench

from xenstack.host.storage.port import (
    BodyTruncated,
    Format,
    ImageRejected,
    ImageTooLarge,
    SrFull,
    StorageError,
    Unsupported,
)

PIB = 1 << 50
DATA = noise(300_000) + bytes(700_000) + noise(50_001, 2)  # ends within a sector, with a hole
SIZE = 2 * MIB


def padded(data: bytes, size: int = SIZE) -> bytes:
    return data.ljust(size, b"\0")


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
