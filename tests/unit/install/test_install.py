"""What `./xenstack` installs before a verb runs."""

import sys
from pathlib import Path

import pytest

from xenstack.install import packages
from xenstack.install.environment import Environment, link_shim
from xenstack.install.progress import InstallFailed, part
from xenstack.run import CommandFailed

ROOT = Path(__file__).parents[3]


def test_the_list_of_packages_gives_a_reason_for_each() -> None:
    groups = packages.listed(packages.LIST.read_text())
    names = [name for group in groups.values() for name in group]
    assert "python3-venv" in groups["build"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("line", ["gcc", "gcc  #", "gcc  # outside a group"])
def test_a_package_without_group_or_reason_is_refused(line: str) -> None:
    text = line if "outside" in line else f"[build]\n{line}"
    with pytest.raises(ValueError, match="gcc"):
        packages.listed(text)


def test_what_is_not_installed_is_seen() -> None:
    assert packages.missing(["dpkg", "xenstack-no-such-package"]) == ["xenstack-no-such-package"]


def clone(tmp_path: Path) -> Environment:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "lock.txt").write_text("six==1.17.0 \\\n    --hash=sha256:00\n")
    return Environment(tmp_path, "venv", "lock.txt")


def test_an_environment_is_ready_only_with_its_lock_files_stamp(tmp_path: Path) -> None:
    environment = clone(tmp_path)
    assert not environment.ready()
    environment.python.parent.mkdir(parents=True)
    environment.python.symlink_to(sys.executable)
    assert not environment.ready()  # broken off before its stamp
    (environment.folder / "stamp").write_text(environment._stamp())
    assert environment.ready()
    (tmp_path / "requirements" / "lock.txt").write_text("six==1.16.0\n")
    assert not environment.ready()


def test_nova_sees_the_driver_of_this_clone(tmp_path: Path) -> None:
    site, source = tmp_path / "site", tmp_path / "clone" / "src"
    link_shim(source, site)  # no Nova, no link
    assert not site.exists()
    (site / "nova" / "virt").mkdir(parents=True)
    (source / "nova" / "virt" / "xenapi").mkdir(parents=True)
    for before in (None, tmp_path / "another"):
        if before is not None:
            (site / "nova" / "virt" / "xenapi").unlink()
            (site / "nova" / "virt" / "xenapi").symlink_to(before)
        link_shim(source, site)
        link_shim(source, site)
        assert (site / "nova" / "virt" / "xenapi").resolve() == source / "nova" / "virt" / "xenapi"


def test_a_failed_part_names_itself_the_command_and_what_to_do() -> None:
    with pytest.raises(InstallFailed) as failure, part("Debian packages", "check the sources"):
        raise CommandFailed(("apt-get", "update"), 100, "no network")
    for words in ("Debian packages", "`apt-get update`", "no network", "check the sources"):
        assert words in str(failure.value)


def test_every_lock_file_has_hashes() -> None:
    for name in ("lock.txt", "host.txt", "tools.txt"):
        lines = (ROOT / "requirements" / name).read_text().splitlines()
        pinned = [line for line in lines if "==" in line]
        assert pinned
        assert all(line.endswith("\\") for line in pinned), name
