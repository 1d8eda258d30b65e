"""The one door to other programs.

Nothing else in xenstack starts a process. A command is a list of words, never a shell line; a failure
carries the command as a line to paste, its exit status and the end of what it printed.
"""

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    whole_env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = 60.0,
    accept: Sequence[int] = (0,),
) -> Output:
    """Run a program to its end.

    `env` is added to this process's environment; `whole_env` replaces it. Raises CommandFailed when the status is not
    in `accept`, when the program is missing (status 127) or when `timeout_s` passes (status None; it is killed).
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
            env=_environment(env, whole_env),
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


def _environment(added: Mapping[str, str] | None, whole: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if added is None:
        return whole
    return {**(os.environ if whole is None else whole), **added}


def run_bounded(
    *words: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    timeout_s: float,
    output_limit: int,
) -> Output:
    """Run a program that is not trusted to end or to be brief; it and its children get their own process group.

    Any status is accepted. Raises CommandFailed with status None when `timeout_s` passes or when it prints more than
    `output_limit` bytes to stdout or stderr; then the whole group is killed.
    """
    command = tuple(os.fspath(w) for w in words)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,
        )
    except OSError as why:
        raise CommandFailed(command, 127, str(why)) from why
    try:
        out, err = _read_both(process, time.monotonic() + timeout_s, output_limit)
        status = process.wait(max(timeout_s, 1.0))
    except (TimeoutError, subprocess.TimeoutExpired) as why:
        raise CommandFailed(command, None, str(why)) from why
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return Output(out.decode(errors="replace"), err.decode(errors="replace"), status)


def _read_both(process: "subprocess.Popen[bytes]", until: float, limit: int) -> tuple[bytes, bytes]:
    if process.stdout is None or process.stderr is None:
        raise ValueError("a program without pipes")
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    open_pipes = set(kept)
    while open_pipes:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("did not finish in time")
        ready, _, _ = select.select(open_pipes, (), (), left)
        for pipe in ready:
            piece = os.read(pipe.fileno(), 1 << 16)
            if not piece:
                open_pipes.discard(pipe)
            kept[pipe] += piece
            if len(kept[pipe]) > limit:
                raise TimeoutError(f"printed more than {limit} bytes")
    return bytes(kept[process.stdout]), bytes(kept[process.stderr])


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


def follow(
    *words: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Run a program to its end with this process's own input and output, for as long as it takes; its exit status.

    An interrupt from the terminal reaches it too: it gets the time to end by itself. Raises CommandFailed when it
    could not be started.
    """
    command = tuple(os.fspath(w) for w in words)
    try:
        with subprocess.Popen(command, env=None if env is None else {**os.environ, **env}, cwd=cwd) as process:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue
    except FileNotFoundError as why:
        raise CommandFailed(command, 127, str(why)) from why
