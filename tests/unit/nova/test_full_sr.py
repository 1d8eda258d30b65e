"""A host whose SR is full: the user is told so, and nothing of the attempt is left."""

from collections.abc import Iterator

import pytest
from nova import exception
from tests.kit.daemon import Daemon, free_port
from tests.kit.images import noise, qcow2
from tests.unit.nova.cloud import MIB, make_instance
from tests.unit.nova.conftest import Compute

LIMIT = 4 * MIB


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """In place of the other tests' host: one whose SR holds 4 MiB."""
    folder = tmp_path_factory.mktemp("small")
    made = Daemon(state=folder / "state", port=free_port(), settings=f"sr_limit = {LIMIT}")
    made.state.mkdir(mode=0o700)
    made.start()
    yield made
    made.stop()


def files(host: Daemon) -> set[str]:
    return {f.name for f in (host.state / "sr").rglob("*") if f.is_file() and f.name != ".lock"}


@pytest.mark.parametrize("disk_format", ["raw", "qcow2"])
def test_an_image_that_does_not_fit(compute: Compute, host: Daemon, disk_format: str) -> None:
    before, there = compute.everything(), files(host)
    body = noise(2 * LIMIT)
    image = compute.images.add(qcow2(body) if disk_format == "qcow2" else body, disk_format)
    with pytest.raises(exception.NovaException, match=r"full|space|SR_"):
        compute.spawn(make_instance(image))
    assert compute.everything() == before
    assert files(host) == there


def test_what_fits_still_comes(compute: Compute) -> None:
    instance = make_instance(compute.images.add(noise(MIB), "raw"))
    compute.spawn(instance)
    assert compute.vm(instance)["power_state"] == "Running"
