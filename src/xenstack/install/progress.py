"""One line for each part of the installation, with its time; a failure says what to do."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xenstack.run import CommandFailed


@dataclass(eq=False)
class InstallFailed(Exception):
    """A part could not be installed. `advice` says what the operator can do."""

    part: str
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"installing {self.part} failed\n  why:     {self.reason}\n  what to do: {self.advice}"


@contextmanager
def part(name: str, advice: str, log: Path | None = None) -> Iterator[None]:
    """Time one part and say that it is done. Raises InstallFailed for a command or file that failed in it."""
    started = time.monotonic()
    try:
        yield
    except (CommandFailed, OSError) as why:
        where = f" (log: {log})" if log else ""
        raise InstallFailed(name, f"{why}{where}", advice) from why
    print(f"        install {name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
