"""A real daemon, everything simulated, for the tests of the HTTP edge."""

from collections.abc import Iterator

import pytest
from tests.kit.daemon import Daemon, daemon

from xenstack.xenapi.session import Session


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture
def session(host: Daemon) -> Iterator[Session]:
    with host.session() as made:
        yield made
