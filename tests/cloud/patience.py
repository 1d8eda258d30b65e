"""Waiting in tests: for a condition with a limit, and with the reason why it does not hold in the failure."""

import time
from collections.abc import Callable

_PAUSE_S = 0.4  # a poll costs the cloud processor time that what we wait for could use


def until(what: str, within_s: float, reason: Callable[[], str | None]) -> None:
    """Ask until `reason` answers None. Fails the test with its last answer after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while (why := reason()) is not None:
        assert time.monotonic() < deadline, f"{what}: not within {within_s:.0f} s: {why}"
        time.sleep(_PAUSE_S)
