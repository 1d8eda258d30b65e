"""A box as the machine sees it: whose process its number names, and what a command in it shows of its secrets.

No box is started here: this test's own process, with the namespaces it has, plays one.
"""

import os
from pathlib import Path

import pytest
from tests.conftest import Backends

from xenstack.cloud.box import MARK, Box
from xenstack.cloud.layout import Layout
from xenstack.cloud.step import NotYet
from xenstack.run import CommandFailed

SECRET = "not-to-be-shown"


def birth(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box(Layout(tmp_path, state=tmp_path / "cloud"), "control", ())
    made.layout.box_folder("control").mkdir(parents=True)
    return made


def say(box: Box, text: str) -> None:
    """Write the file that names the box's first process."""
    (box.layout.box_folder("control") / "pid").write_text(text)


def test_a_living_process_is_known_by_number_birth_and_boot(box: Box) -> None:
    say(box, f"{os.getpid()} {birth(os.getpid())} {boot()}\n")
    assert box.pid() == os.getpid()


@pytest.mark.parametrize("text", ["", "no number here", "{pid} 1 {boot}", "{pid} {birth} another-boot", "0 0 {boot}"])
def test_another_process_is_not_taken_for_the_box(box: Box, text: str) -> None:
    """A number that was given again, also after a reboot, and a file that was broken off."""
    say(box, text.format(pid=os.getpid(), birth=birth(os.getpid()), boot=boot()))
    assert box.pid() is None
    with pytest.raises(NotYet, match="does not run"):
        box.running()
    box.kill()  # and nobody is killed for it


def test_a_secret_reaches_the_command_and_nobody_else(box: Box, backends: Backends) -> None:
    if os.geteuid() != 0:
        backends.missing("root, to enter namespaces")
    say(box, f"{os.getpid()} {birth(os.getpid())} {boot()}\n")
    seen = box.run("sh", "-c", "env; tr '\\0' ' ' </proc/$PPID/cmdline", env={"SECRET": SECRET}).stdout
    lines = dict(line.split("=", 1) for line in seen.splitlines() if "=" in line and not line.startswith("nsenter"))
    assert lines["SECRET"] == SECRET
    assert lines[MARK] == f"{box.layout.cloud}:control"
    assert "PYTEST_CURRENT_TEST" not in lines, "the caller's environment is not the box's"
    assert seen.count(SECRET) == 1, "the command line of nsenter shows it"
    with pytest.raises(CommandFailed) as why:
        box.run("false", env={"SECRET": SECRET})
    assert SECRET not in str(why.value)
    assert SECRET not in " ".join(why.value.command)
