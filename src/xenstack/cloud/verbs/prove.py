"""`check`, `test` and `bench`: what the project says of itself, tried.

Groups of tests, from seconds to minutes: unit (nothing needed), contract (any XenAPI server: ours, simulated and on
QEMU), host (real QEMU and Open vSwitch), cloud (the real OpenStack; brings it up itself).
"""

import os
import sys
import time
from pathlib import Path

from xenstack.cloud.deployment import known_hosts
from xenstack.cloud.stopwatch import TEST, note
from xenstack.cloud.verbs.up import up
from xenstack.run import follow

GROUPS = ("unit", "contract", "host", "cloud")


def check(root: Path) -> int:
    """Format, lint, types, import rules, unit tests; all of them, even when one fails."""
    paths = [p for p in ("src", "tests", "images", "docs") if (root / p).exists()]
    lines = {
        "format": ("ruff", "format", "--check", *paths),
        "lint": ("ruff", "check", *paths),
        "types": ("mypy",),
        "imports": ("lint-imports",),
        "unit": ("pytest", "-q", "-n", "2", "tests/unit"),
    }
    return _all(root, {name: (_program(root, words[0]), *words[1:]) for name, words in lines.items()})


def test(root: Path, groups: list[str], options: list[str]) -> int:
    """Run groups of tests, each with pytest's own words; a backend that is missing is a failure, not a skip."""
    if unknown := set(groups) - set(GROUPS):
        raise ValueError(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    chosen, started = groups or list(GROUPS), time.monotonic()
    pytest = (_program(root, "pytest"), "--require-backends", *options)
    commands = {group: (*pytest, f"tests/{group}") for group in chosen if group != "cloud"}
    failed = _all(root, commands) if commands else 0
    if "cloud" in chosen:  # last, and started only now: the cloud takes processor time from what runs beside it
        hosts = max(2, known_hosts(root) or 0)  # what one host may not do to another is seen with two only
        failed |= up(root, hosts) or _all(root, {"cloud": (*pytest, "tests/cloud")})
    if not groups and not failed:
        note(root, TEST, time.monotonic() - started)
    return failed


def bench(root: Path, options: list[str]) -> int:
    """Measure; the program says what."""
    return follow(_program(root, "python"), str(root / "tests" / "bench"), *options, cwd=root, env=_environment(root))


def _all(root: Path, commands: dict[str, tuple[str, ...]]) -> int:
    results: dict[str, tuple[int, float]] = {}
    for name, words in commands.items():
        print(f"== {name}", flush=True)
        started = time.monotonic()
        results[name] = (follow(*words, cwd=root, env=_environment(root)), time.monotonic() - started)
    print("==", ", ".join(f"{n} {'ok' if r == 0 else 'FAILED'} ({s:.0f} s)" for n, (r, s) in results.items()))
    return int(any(status for status, _ in results.values()))


def _program(root: Path, name: str) -> str:
    return str(root / "state" / "install" / "venv" / "bin" / name)


def _environment(root: Path) -> dict[str, str]:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode every import costs double
    paths = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return {"XENSTACK_ROOT": str(root), "PATH": paths}
