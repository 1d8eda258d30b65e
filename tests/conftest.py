"""Options for every test: a missing backend (QEMU, root, Open vSwitch) skips, or fails where green must mean "ran"."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-backends", action="store_true", help="a backend that is not there is a failure")


class Backends:
    """Asked by fixtures of tests that need more than Python."""

    def __init__(self, required: bool) -> None:
        self._required = required

    def missing(self, what: str) -> None:
        """Skip the test, or fail it when backends are required."""
        if self._required:
            pytest.fail(f"--require-backends: {what}")
        pytest.skip(what)


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> Backends:
    return Backends(bool(request.config.getoption("--require-backends")))
