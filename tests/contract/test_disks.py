"""Disks: made, copied, grown, imported and exported; and everything bad that may come in a body."""

import os
import socket
import struct
from urllib.parse import urlsplit

import pytest
import XenAPI
from tests.contract.client import MIB, NULL, Client


def refused(call: object, *arguments: object) -> list[str]:
    with pytest.raises(XenAPI.Failure) as failure:
        call(*arguments)  # type: ignore[operator]
    return list(failure.value.details)


def content(client: Client, vdi: str) -> bytes:
    answer = client.download("/export_raw_vdi", vdi=vdi, format="raw")
    assert answer.status == 200
    return answer.body


PATTERN = os.urandom(64 << 10) + bytes(64 << 10) + os.urandom(128 << 10)


@pytest.fixture
def filled(client: Client) -> str:
    vdi = client.vdi(size=MIB)
    assert client.put("/import_raw_vdi", PATTERN, vdi=vdi, format="raw").status == 200
    return vdi


def test_create_and_destroy(client: Client) -> None:
    vdi = client.vdi(size=MIB + 1)
    record = client.api.VDI.get_record(vdi)
    assert int(record["virtual_size"]) >= MIB + 1
    assert record["location"] == record["uuid"]
    assert record["SR"] == client.sr
    assert vdi in client.api.SR.get_VDIs(client.sr)
    client.api.VDI.destroy(vdi)
    assert refused(client.api.VDI.destroy, vdi) == ["HANDLE_INVALID", "VDI", vdi]


@pytest.mark.parametrize("size", ["-1", str(1 << 60)])
def test_a_size_that_cannot_be(client: Client, size: str) -> None:
    before = client.api.VDI.get_all()
    assert refused(lambda: client.vdi(size=int(size)))[0] in ("INVALID_VALUE", "SR_BACKEND_FAILURE_1200", "SR_FULL")
    assert client.api.VDI.get_all() == before


def test_content_comes_back(client: Client, filled: str) -> None:
    assert content(client, filled)[: len(PATTERN)] == PATTERN
    assert set(content(client, filled)[len(PATTERN) :]) == {0}


def test_a_clone_is_its_own(client: Client, filled: str) -> None:
    copy = client.api.VDI.clone(filled)
    client.put("/import_raw_vdi", b"x" * 4096, vdi=copy, format="raw")
    assert content(client, filled)[: len(PATTERN)] == PATTERN
    assert content(client, copy)[:4096] == b"x" * 4096
    client.api.VDI.destroy(filled)
    assert content(client, copy)[:4096] == b"x" * 4096


def test_a_snapshot_knows_its_origin(client: Client, filled: str) -> None:
    snapshot = client.api.VDI.snapshot(filled)
    record = client.api.VDI.get_record(snapshot)
    assert (record["is_a_snapshot"], record["snapshot_of"]) == (True, filled)
    assert client.api.VDI.get_snapshots(filled) == [snapshot]
    assert content(client, snapshot)[: len(PATTERN)] == PATTERN


def test_a_copy_in_full(client: Client, filled: str) -> None:
    copy = client.api.VDI.copy(filled, client.sr)
    assert content(client, copy) == content(client, filled)


def test_grow_but_never_shrink(client: Client, filled: str) -> None:
    client.api.VDI.resize(filled, str(2 * MIB))
    assert client.api.VDI.get_virtual_size(filled) == str(2 * MIB)
    assert content(client, filled)[: len(PATTERN)] == PATTERN
    assert refused(client.api.VDI.resize, filled, str(MIB))[0] in ("VDI_TOO_SMALL", "SR_BACKEND_FAILURE_79")


@pytest.mark.parametrize("layout", ["vhd", "qcow2"])
def test_images_go_out_and_come_in_again(client: Client, filled: str, layout: str) -> None:
    image = client.download("/export_raw_vdi", vdi=filled, format=layout)
    assert image.status == 200
    again = client.vdi(size=MIB)
    assert client.put("/import_raw_vdi", image.body, vdi=again, format=layout).status == 200
    assert content(client, again) == content(client, filled)


def test_a_vm_with_its_disks_is_cloned(client: Client, filled: str) -> None:
    vm = client.vm()
    client.vbd(vm, filled)
    copy = client.api.VM.clone(vm, "contract-clone")
    (vbd,) = client.api.VM.get_VBDs(copy)
    vdi = client.api.VBD.get_VDI(vbd)
    assert vdi != filled
    assert content(client, vdi) == content(client, filled)
    snapshot = client.api.VM.snapshot(vm, "contract-snapshot")
    assert client.api.VM.get_snapshot_of(snapshot) == vm
    assert client.api.VM.get_is_a_snapshot(snapshot) is True


QCOW2 = struct.pack(
    ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, MIB, 0, 1, 0x30000, 0x10000, 1, 0, 0, 0, 0, 0, 4, 104
)


def qcow2(**changes: object) -> bytes:
    """A small qcow2 header with something wrong in it."""
    image = bytearray(QCOW2.ljust(0x40000, b"\0"))
    if "backing" in changes:
        name = b"/etc/passwd"
        image[8:16] = struct.pack(">Q", 0x200)
        image[16:20] = struct.pack(">I", len(name))
        image[0x200 : 0x200 + len(name)] = name
    if "external" in changes:
        image[72:80] = struct.pack(">Q", 4)  # incompatible feature: external data file
    return bytes(image)


BAD_IMAGES = {
    "not a qcow2": ("qcow2", b"this is no image" * 4096),
    "qcow2 with a backing file": ("qcow2", qcow2(backing=True)),
    "qcow2 with an external data file": ("qcow2", qcow2(external=True)),
    "not a vhd": ("vhd", b"x" * 65536),
    "empty qcow2": ("qcow2", b""),
    "raw that is too long": ("raw", b"x" * (2 * MIB)),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_refused_and_changes_nothing(client: Client, filled: str, name: str) -> None:
    layout, body = BAD_IMAGES[name]
    before = content(client, filled)
    answer = client.put("/import_raw_vdi", body, vdi=filled, format=layout)
    assert answer.status != 200 or b"HTTP/1.1 500" in answer.body
    assert content(client, filled) == before
    assert client.api.VDI.get_current_operations(filled) == {}


def test_a_truncated_upload_changes_nothing(client: Client, filled: str) -> None:
    before = content(client, filled)
    parts = urlsplit(client.server.url)
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=20) as link:
        link.sendall(
            f"PUT /import_raw_vdi?session_id={client.ref}&vdi={filled}&format=raw HTTP/1.1\r\n"
            f"Host: x\r\nContent-Length: {MIB}\r\n\r\n".encode()
            + b"y" * 100_000
        )
        link.shutdown(socket.SHUT_WR)
        while link.recv(4096):
            pass
    assert content(client, filled) == before
    assert client.api.VDI.get_current_operations(filled) == {}


def test_bad_requests(client: Client, filled: str) -> None:
    assert client.put("/import_raw_vdi", b"x", vdi=filled, format="tiff").status in (0, 404)
    assert client.put("/import_raw_vdi", b"x", vdi="OpaqueRef:none", format="raw").status in (0, 404, 500)
    assert client.http("PUT", f"/import_raw_vdi?vdi={filled}&format=raw", b"x").status in (0, 401)
    stranger = client.http("GET", f"/export_raw_vdi?vdi={filled}&format=raw&session_id=OpaqueRef:none")
    assert stranger.status in (401, 500)
    assert PATTERN[:64] not in stranger.body
    assert content(client, filled)[: len(PATTERN)] == PATTERN


def test_an_sr_that_is_full(client: Client) -> None:
    if not client.server.ours:
        pytest.skip("needs an SR with a limit")
    host = client.api.host.get_all()[0]
    sr = client.api.SR.create(host, {"size_limit": str(MIB)}, "0", "contract-small", "", "file", "user", False, {})
    try:
        vdi = client.vdi(size=16 * MIB, SR=sr)
        answer = client.put("/import_raw_vdi", os.urandom(8 * MIB), vdi=vdi, format="raw")
        assert answer.status != 200 or b"HTTP/1.1 500" in answer.body
        assert set(content(client, vdi)) == {0}
        assert int(client.api.SR.get_physical_utilisation(sr)) <= MIB
        client.api.VDI.destroy(vdi)
    finally:
        (pbd,) = client.api.SR.get_PBDs(sr)
        client.api.PBD.unplug(pbd)
        client.api.SR.destroy(sr)
    assert sr not in client.api.SR.get_all()


def test_an_sr_that_is_scanned_forgets_and_finds(client: Client, filled: str) -> None:
    if not client.server.ours:
        pytest.skip("the SR of another server may have a life of its own")
    uuid = client.api.VDI.get_uuid(filled)
    client.api.VDI.forget(filled)
    assert filled not in client.api.VDI.get_all()
    client.api.SR.scan(client.sr)
    found = client.api.VDI.get_by_uuid(uuid)
    client.api.VDI.set_name_label(found, "contract-found")
    assert content(client, found)[: len(PATTERN)] == PATTERN


def test_srs_refuse(client: Client) -> None:
    host = client.api.host.get_all()[0]
    create = client.api.SR.create
    assert refused(create, host, {}, "0", "contract-sr", "", "nothing", "", False, {}) == [
        "SR_UNKNOWN_DRIVER",
        "nothing",
    ]
    assert refused(client.api.SR.destroy, client.sr) == ["SR_HAS_PBD", client.sr]
    assert refused(client.api.SR.forget, client.sr) == ["SR_HAS_PBD", client.sr]
    assert refused(lambda: client.vdi(SR="OpaqueRef:none")) == ["HANDLE_INVALID", "SR", "OpaqueRef:none"]
    assert refused(lambda: client.vdi(SR=NULL)) == ["HANDLE_INVALID", "SR", NULL]
