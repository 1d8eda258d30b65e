"""The one door to other programs.

Nothing else in xenstack starts a process. A command is a list of words, never a shell line; a failure
carries the command as a line to paste, its exit status and the end of what it printed.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SHOWN = 2000  # characters of output that a failure shows


@dataclass(eq=False)
class CommandFailed(Exception):
    """A program ended with a failure, could not be started, or took too long (status None)."""

    command: tuple[str, ...]
    status: int | None
    output: str

    def __str__(self) -> str:
        how = "did not finish in time" if self.status is None else f"ended with status {self.status}"
        return f"`{shlex.join(self.command)}` {how}: {self.output.strip()[-_SHOWN:]}"


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished program printed."""

    stdout: str
    stderr: str
    status: int


def run(
    *words: str | os.PathLike[str],
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = 60.0,
    accept: Sequence[int] = (0,),
) -> Output:
    """Run a program to its end.

    `env` is added to this process's environment. Raises CommandFailed when the status is not in `accept`,
    when the program is missing (status 127) or when `timeout_s` passes (status None; the program is killed).
    """
    command = tuple(os.fspath(w) for w in words)
    try:
        done = subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as why:
        raise CommandFailed(command, 127, str(why)) from why
    except subprocess.TimeoutExpired as why:
        seen = why.stderr or why.stdout or b""
        raise CommandFailed(command, None, seen.decode(errors="replace") if isinstance(seen, bytes) else seen) from why
    if done.returncode not in accept:
        raise CommandFailed(command, done.returncode, done.stderr or done.stdout)
    return Output(done.stdout, done.stderr, done.returncode)


def start(
    *words: str | os.PathLike[str],
    log: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program in its own session and return at once; its output goes to `log` (default: nowhere)."""
    return subprocess.Popen(
        [os.fspath(w) for w in words],
        stdin=subprocess.DEVNULL,
        stdout=log or subprocess.DEVNULL,
        stderr=subprocess.STDOUT if log else subprocess.DEVNULL,
        env=None if env is None else {**os.environ, **env},
        cwd=cwd,
        start_new_session=True,
    )


@contextmanager
def running(
    *words: str | os.PathLike[str], env: Mapping[str, str] | None = None, stop_after_s: float = 5.0
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program for the length of a `with` block: terminated, then killed after `stop_after_s` seconds."""
    process = start(*words, env=env)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(stop_after_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
