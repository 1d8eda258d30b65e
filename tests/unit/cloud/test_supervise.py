"""The poll set of a box's supervisor: a pipe whose reader is gone does not keep it busy."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from supervisor.poller import PollPoller

from xenstack.cloud.supervise import forget_broken


@contextmanager
def stdin_without_reader(polling: type[Any]) -> Iterator[Any]:
    """A poller that holds the write end of a pipe for reading, as a reused number leaves it; the reader closed it."""
    poller = polling(SimpleNamespace(logger=None))
    reader, writer = os.pipe()
    try:
        poller.register_readable(writer)
        os.close(reader)
        yield poller
    finally:
        os.close(writer)


def test_supervisor_itself_stays_awake() -> None:
    """When this fails, supervisor has been mended and our module can go."""
    with stdin_without_reader(PollPoller) as poller:
        poller.poll(0.01)
        assert poller._poller.poll(0), "supervisor dropped the pipe by itself"


def test_ours_drops_it() -> None:
    class Mended(PollPoller):  # type: ignore[misc]
        pass

    forget_broken(Mended)
    with stdin_without_reader(Mended) as poller:
        assert poller.poll(0.01) == ([], [])
        assert not poller._poller.poll(0)
        assert not poller.readables


def test_a_pipe_with_data_is_still_read() -> None:
    class Mended(PollPoller):  # type: ignore[misc]
        pass

    forget_broken(Mended)
    reader, writer = os.pipe()
    poller = Mended(SimpleNamespace(logger=None))
    poller.register_readable(reader)
    os.write(writer, b"x")
    os.close(writer)
    assert poller.poll(1) == ([reader], [])
    os.close(reader)
