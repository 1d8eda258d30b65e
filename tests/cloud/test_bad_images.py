"""Images that must not become a guest's disk: the user reads why, and nothing of the attempt is left on the host.

Glance refuses some of them at the upload. So that the driver and the host are tried too, these come a second way: the
file of a good image is replaced in Glance's own store, as if somebody had got at it.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cloud.absence import unexplained
from tests.cloud.patience import until
from tests.cloud.tenant import BUILD_S, Tenant
from tests.kit import images

from xenstack.cloud import xenapi_call
from xenstack.cloud.layout import CONTROL
from xenstack.cloud.step import NotYet

SECRET = b"/etc/shadow"
EXTERNAL_DATA = 0x44415441  # qcow2's header extension that names a data file
NOISE = images.noise(256 * images.KIB)


def backed() -> bytes:
    return images.qcow2(NOISE, backing=SECRET)


def external() -> bytes:
    return images.qcow2(NOISE, extensions=images.extension(EXTERNAL_DATA, SECRET), incompatible=1 << 2)


def good() -> bytes:
    return images.qcow2(NOISE)


AT_UPLOAD: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "raw that says qcow2": (lambda: NOISE, "qcow2", "qcow2|format"),
    "vhd that says qcow2": (lambda: images.dynamic_vhd(NOISE), "qcow2", "vhd|format|qcow2"),
    "backing file": (backed, "qcow2", "safety|backing"),
    "external data file": (external, "qcow2", "safety|data"),
}
IN_STORE: dict[str, tuple[Callable[[], bytes], str]] = {
    "not what disk_format says": (lambda: images.fixed_vhd(NOISE), "its disk_format says qcow2|does not match"),
    "backing file": (backed, "safety check.*backing|backing_file"),
    "external data file": (external, "safety check.*data_file|external"),
    "truncated": (lambda: good()[: 128 * images.KIB], "did not send all of it"),
}


@pytest.mark.parametrize("case", AT_UPLOAD)
def test_refused_at_the_upload(tenant: Tenant, tmp_path: Path, case: str) -> None:
    content, disk_format, words = AT_UPLOAD[case]
    file = tmp_path / "image"
    file.write_bytes(content())
    with pytest.raises(NotYet, match=f"(?is)Glance: 4\\d\\d.*({words})"):
        tenant.upload("bad", file, disk_format)
    assert tenant.ask(lambda api: [i.name for i in api.image.images(name="test-bad")]) == []


@pytest.mark.parametrize("case", IN_STORE)
def test_refused_by_the_driver(tenant: Tenant, tmp_path: Path, case: str) -> None:
    content, words = IN_STORE[case]
    file = tmp_path / "image"
    bad, sound = content(), good()
    file.write_bytes(sound.ljust(max(len(bad), len(sound)), b"\0"))
    with tenant.image("bad", file, "qcow2") as image:
        stored = tenant.cloud.layout.data(CONTROL) / "glance" / "images" / image
        assert stored.stat().st_size == file.stat().st_size, "this is not where Glance keeps its images"
        stored.write_bytes(bad if case == "truncated" else bad.ljust(file.stat().st_size, b"\0"))
        assert_refused(tenant, image, words)


def test_qcow2_that_says_raw(tenant: Tenant, tmp_path: Path) -> None:
    """Glance lets everything be called raw. The guest would write a header of its choice into such a disk."""
    file = tmp_path / "image"
    file.write_bytes(good())
    with tenant.image("bad", file, "raw") as image:
        assert_refused(tenant, image, "its content is qcow2, its disk_format says raw")


def test_broken_inside(tenant: Tenant, tmp_path: Path) -> None:
    """A header without fault, a table that points beyond the file: only who reads it all can know."""
    file = tmp_path / "image"
    file.write_bytes(good()[: 300 * images.KIB])
    with tenant.image("bad", file, "qcow2") as image:
        assert_refused(tenant, image, "the host cannot read it: .*no cluster at")


def test_too_large_for_the_flavor(tenant: Tenant, tmp_path: Path) -> None:
    """Small as a file, 2 GiB for the guest; the flavor has 1 GiB."""
    file = tmp_path / "image"
    file.write_bytes(images.qcow2(NOISE, size=2 << 30))
    with tenant.image("bad", file, "qcow2") as image:
        assert_refused(tenant, image, "disk is too small|smaller than")


def assert_refused(tenant: Tenant, image: str, words: str) -> None:
    """A server from the image goes to ERROR with a fault that says why; the host has nothing of it, then or later."""
    server = tenant.create("bad", image)
    try:
        fault = tenant.until_status(server, "ERROR", BUILD_S)["fault"]
        with pytest.raises(AssertionError, match=f"(?is){words}"):  # pytest shows both sides of a match
            raise AssertionError(fault["message"])
        until("the host has nothing of it", 15, lambda: on_hosts(tenant, server, image))
    finally:
        tenant.delete(server)
    until("the host has nothing of it after the delete", 15, lambda: on_hosts(tenant, server, image))


def on_hosts(tenant: Tenant, server: str, image: str) -> str | None:
    """What any host has of the server or of the image."""
    for n in tenant.cloud.hosts:
        with xenapi_call.session(tenant.cloud, n) as call:
            for cls in ("VM", "VDI"):
                for record in call(f"{cls}.get_all_records").values():
                    if server in str(record) or image in str(record):
                        return f"{cls} {record['name_label']} {record['other_config']}"
        if strange := unexplained(tenant.cloud, n):
            return strange
    return None
