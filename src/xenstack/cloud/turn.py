"""One command at a time changes a clone's cloud: `up` beside `up` or `down` would start, or miss, every box twice."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xenstack.cloud.step import NotYet


@contextmanager
def alone(root: Path, verb: str) -> Iterator[None]:
    """Hold the clone's turn for a `with` block. Raises NotYet, naming who has it. It ends with its process."""
    path = root / "state" / "turn"  # not in the cloud's own folder, which a purge deletes
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as why:
            file.seek(0)
            raise NotYet(f"{file.read().strip() or 'another command'} is at work here; wait for its end") from why
        file.truncate(0)
        file.write(f"`./xenstack {verb}` (process {os.getpid()})")
        file.flush()
        yield
