"""Where a verb's time went: one line in the log when it is done, with its round trips."""

import time
from typing import Any

from oslo_log import log as logging

from xenstack.nova.host import Host

LOG = logging.getLogger(__name__)


class Stopwatch:
    """Started when made. `step` ends a step: the time since the last one is its own."""

    def __init__(self, host: Host, instance: Any) -> None:
        self._session, self._instance = host.session, instance
        self._trips = host.session.round_trips
        self._began = self._last = time.monotonic()
        self._steps: list[str] = []

    def step(self, name: str) -> None:
        """The step with this name is done."""
        now = time.monotonic()
        LOG.debug("%s: done", name, instance=self._instance)
        self._steps.append(f"{name} {now - self._last:.2f}")
        self._last = now

    def done(self, verb: str) -> None:
        """Log the line."""
        trips = self._session.round_trips - self._trips
        total = self._last - self._began
        LOG.info(
            "%s in %.2f s and %d round trips: %s", verb, total, trips, ", ".join(self._steps), instance=self._instance
        )
