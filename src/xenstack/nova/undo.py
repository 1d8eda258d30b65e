"""The way back of a verb that failed half-way.

An undo is added *before* the step it undoes, so it must succeed when there is nothing to undo. After a failure all of
them run, newest first; one that fails is logged and does not stop the others, and the caller sees the first failure.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from oslo_log import log as logging

LOG = logging.getLogger(__name__)


class Undo:
    """A `with` block that runs what was added when it is left by an exception."""

    def __init__(self, instance: Any) -> None:
        self._instance = instance
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, undo: Callable[[], object]) -> None:
        """Remember how to undo the next step; `what` is for the log."""
        self._steps.append((what, undo))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        LOG.info("Undoing after %s", type(error).__name__, instance=self._instance)
        for what, undo in reversed(self._steps):
            try:
                undo()
            except Exception:
                LOG.exception("Could not undo: %s", what, instance=self._instance)
