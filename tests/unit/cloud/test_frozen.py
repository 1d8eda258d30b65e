"""A program started frozen runs as itself, and its children find their inheritance out of the collector's sight."""

import sys
from pathlib import Path

from xenstack.run import run

_PROGRAM = """
import gc, os, sys
print(sys.argv[1:], __name__, flush=True)
before = gc.get_freeze_count()
pid = os.fork()
if pid == 0:
    os._exit(0 if gc.get_freeze_count() > before + 1000 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_children_share(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(_PROGRAM)
    done = run(sys.executable, "-m", "xenstack.cloud.frozen", program, "--a", "b")
    assert done.stdout.splitlines() == ["['--a', 'b'] __main__", "0"]


def test_a_program_s_failure_is_its_own(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("raise SystemExit(7)\n")
    assert run(sys.executable, "-m", "xenstack.cloud.frozen", program, accept=(7,)).status == 7
