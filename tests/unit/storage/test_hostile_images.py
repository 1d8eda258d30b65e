"""Hostile images: whatever the bytes, an import ends soon, either well or with a typed error and nothing changed."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kit.images import MIB, dynamic_vhd, extension, fixed_vhd, noise, qcow2, sealed, uuid
from tests.unit.storage.conftest import Bench

from xenstack.host.storage.image.source import BrokenImage
from xenstack.host.storage.inspect import qcow2_header, refuse_strange, vhd_footer, vhd_table
from xenstack.host.storage.port import Format, ImageRejected, StorageError
from xenstack.host.storage.simulated import SimulatedStorage

DATA = noise(200_000)
SIZE = MIB
IMAGES = {
    "qcow2": (Format.QCOW2, qcow2(DATA, size=SIZE, cluster_bits=9)),
    "qcow2 large clusters": (Format.QCOW2, qcow2(DATA, size=SIZE)),
    "qcow2 version 2": (Format.QCOW2, qcow2(DATA, size=SIZE, version=2, cluster_bits=12)),
    "qcow2 compressed": (Format.QCOW2, qcow2(DATA, size=SIZE, compressed=True, cluster_bits=12)),
    "dynamic vhd": (Format.VHD, dynamic_vhd(DATA, size=SIZE, block=65536)),
    "fixed vhd": (Format.VHD, fixed_vhd(DATA.ljust(SIZE, b"\0"))),
}
RESEAL = st.booleans()

words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**62, 512, 1024, 65536, 2**31, 2**32 - 1, 2**56, 1 << 40]),
)


@pytest.fixture(scope="module")
def simulated() -> Bench:
    bench = Bench(SimulatedStorage(), uuid())
    bench.storage.create_sr(bench.sr)
    bench.storage.attach_sr(bench.sr, size_limit=64 * MIB)
    return bench


@pytest.mark.parametrize("name", IMAGES)
@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_images(simulated: Bench, name: str, data: st.DataObject) -> None:
    format, image = IMAGES[name]
    body = bytearray(image)
    tables = 8192 if len(image) > 8192 else len(image)
    for _ in range(data.draw(st.integers(1, 4))):
        near = data.draw(st.sampled_from([128, 2048, tables, len(body)]))
        at = data.draw(st.integers(0, near - 1)) // 4 * 4
        width, pack = data.draw(st.sampled_from([(1, "B"), (4, ">I"), (8, ">Q")]))
        word = data.draw(words) % (1 << 8 * width)
        at = min(at, len(body) - width)
        body[at : at + width] = struct.pack(pack, word)
    if format is Format.VHD and data.draw(RESEAL):
        for at, field in ((0, 64), (512, 36), (len(body) - 512, 64)):
            end = at + (1024 if field == 36 else 512)
            body[at:end] = sealed(bytes(body[at:end]), field)
    cut = data.draw(st.one_of(st.just(len(body)), st.integers(0, len(body))))
    vdi = simulated.create(SIZE)
    try:
        simulated.put(vdi, bytes(body[:cut]), format)
    except StorageError:
        assert simulated.get(vdi) == bytes(SIZE)
    finally:
        assert simulated.storage.users(simulated.sr, vdi) == ()
        simulated.storage.destroy(simulated.sr, vdi)
        assert simulated.used() == 0


@settings(max_examples=200, deadline=1000)
@given(st.binary(max_size=2000))
def test_headers_of_noise(junk: bytes) -> None:
    for parse in (qcow2_header, vhd_footer, lambda data: vhd_table(data, MIB)):
        for head in (b"", b"QFI\xfb\0\0\0\3", b"conectix", b"cxsparse"):
            with pytest.raises(ImageRejected):
                parse((head + junk)[:1500])


@settings(max_examples=200, deadline=1000)
@given(st.integers(0, 103), st.binary(min_size=1, max_size=8))
def test_header_fields(at: int, value: bytes) -> None:
    """Any change of a field is either refused or understood: never another exception."""
    head = bytearray(qcow2(b"", size=MIB)[:65536])
    head[at : at + len(value)] = value
    try:
        header = qcow2_header(bytes(head))
        refuse_strange(header)
    except ImageRejected:
        return
    assert 9 <= header.cluster_bits <= 21
    assert not header.backing_file
    assert not header.external_data


def accepted(image: bytes) -> None:
    refuse_strange(qcow2_header(image[:65536]))


def test_the_good_ones_pass() -> None:
    accepted(qcow2(DATA))
    accepted(qcow2(DATA, version=2))
    accepted(qcow2(DATA, incompatible=1))
    accepted(qcow2(DATA, extensions=extension(0x6803F857, bytes(96))))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (qcow2(DATA, version=1), "version"),
        (qcow2(DATA, backing=b"base"), "backing file"),
        (qcow2(DATA, backing=b"base", extensions=extension(0xE2792ACA, b"raw")), "backing file"),
        (qcow2(DATA, extensions=extension(0x6803F857, bytes(96)) + extension(0x44415441, b"x")), "external data file"),
        (qcow2(DATA, version=2, extensions=extension(0x44415441, b"x")), "external data file"),
        (qcow2(DATA, extensions=extension(0x0537BE77, bytes(16))), "encrypted"),
        (qcow2(DATA, extensions=struct.pack(">II", 7, 1 << 31)), "beyond the header"),
        (qcow2(DATA, crypt=2), "encrypted"),
        (qcow2(DATA, incompatible=8), "compression type"),
        (qcow2(DATA, incompatible=2), "corrupt"),
        (qcow2(DATA, incompatible=4), "external data file"),
    ],
)
def test_reasons(image: bytes, reason: str) -> None:
    with pytest.raises(ImageRejected) as refused:
        accepted(image)
    assert reason in refused.value.reason


VHD = dynamic_vhd(DATA, size=SIZE)


@pytest.mark.parametrize(
    ("at", "value", "sealed_at", "reason"),
    [
        (64, b"\0\0\0\1", None, "wrong checksum"),
        (48, b"\x7f", None, "wrong checksum"),
        (512 + 36, b"\0\0\0\1", None, "header with a wrong checksum"),
        (12, b"\0\2", 64, "version"),
        (48, b"\x7f", 64, "virtual size"),
        (48 + 7, b"\1", 64, "virtual size"),
        (60, b"\0\0\0\4", 64, "differencing"),
        (60, b"\0\0\0\5", 64, "type 5"),
        (16, b"\xff" * 8, 64, "impossible place"),
        (512 + 32, b"\0\0\0\3", 512 + 36, "blocks of"),
        (512 + 28, b"\0\0\0\0", 512 + 36, "0 table entries"),
        (512 + 16, b"\xff" * 8, 512 + 36, "impossible place"),
    ],
)
def test_vhd_reasons(at: int, value: bytes, sealed_at: int | None, reason: str) -> None:
    image = bytearray(VHD[:1536])
    image[at : at + len(value)] = value
    if sealed_at is not None:
        part = slice(0, 512) if sealed_at == 64 else slice(512, 1536)
        image[part] = sealed(bytes(image[part]), sealed_at - part.start)
    with pytest.raises(ImageRejected) as refused:
        vhd_table(bytes(image[512:]), vhd_footer(bytes(image[:512])).size)
    assert reason in refused.value.reason


def test_the_good_vhd_passes() -> None:
    assert vhd_table(VHD[512:1536], vhd_footer(VHD[:512]).size).entries == 1


def patched(image: bytes, at: int, word: int) -> bytes:
    return image[:at] + struct.pack(">Q", word) + image[at + 8 :]


L1 = 2 * 65536  # where tests/kit puts the tables of an image with 64 KiB clusters
L2 = 3 * 65536


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda image: patched(image, L1, 1 << 40), "no L2 table"),
        (lambda image: patched(image, L1, 512), "no L2 table"),
        (lambda image: patched(image, L2, 1 << 40), "no cluster"),
        (lambda image: patched(image, L2, 65536 + 512), "no cluster"),
        (lambda image: patched(image, L2, 1 << 62 | 65536), "compressed"),
        (lambda image: patched(image, L2, (1 << 63) - 1), "compressed"),
    ],
)
def test_lying_tables(simulated: Bench, damage: Callable[[bytes], bytes], reason: str) -> None:
    vdi = simulated.create(SIZE)
    with pytest.raises(ImageRejected) as refused:
        simulated.put(vdi, damage(qcow2(DATA, size=SIZE)), Format.QCOW2)
    assert reason in refused.value.reason
    simulated.storage.destroy(simulated.sr, vdi)


def test_a_table_is_not_used_twice(simulated: Bench) -> None:
    """1 MiB of body must not cost the work of 16 TiB."""
    size = 1 << 44
    image = bytearray(qcow2(DATA, size=size))
    entry = image[L1 : L1 + 8]
    image[L1 : L1 + 8 * (size >> 29)] = entry * (size >> 29)
    vdi = simulated.create(size)
    with pytest.raises(ImageRejected) as refused:
        simulated.put(vdi, bytes(image), Format.QCOW2)
    assert "used twice" in refused.value.reason
    simulated.storage.destroy(simulated.sr, vdi)


def test_broken_images_are_no_storage_errors() -> None:
    """BrokenImage never leaves the package: adapters turn it into ImageRejected or IoFailed."""
    assert not issubclass(BrokenImage, StorageError)
