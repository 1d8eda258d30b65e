"""The command line: every verb explains itself, and says plainly what cannot be."""

from pathlib import Path

import pytest

from xenstack.cli import main

VERBS = ("up", "down", "status", "logs", "ssh", "shell", "test", "check", "explain", "bench", "host")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone in which nothing was ever started."""
    monkeypatch.setenv("XENSTACK_ROOT", str(tmp_path))
    return tmp_path


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert not [verb for verb in VERBS if f"\n    {verb} " not in said]


@pytest.mark.parametrize("verb", VERBS[:-1])
def test_every_verb_has_a_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"usage: xenstack {verb}" in capsys.readouterr().out


def test_an_unknown_verb_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["destroy"])
    assert end.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_status_of_no_cloud(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 3
    assert "the cloud is down" in capsys.readouterr().out
    assert main(["status", "--json"]) == 3
    assert '"running": false' in capsys.readouterr().out
    assert not list(clone.iterdir())


def test_ssh_without_a_cloud_says_what_to_do(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ssh", "demo-1"]) == 1
    assert "./xenstack up" in capsys.readouterr().err


def test_logs_of_nobody(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "keystone"]) == 2
    assert "no log is called keystone" in capsys.readouterr().err


def test_a_group_that_is_not_there(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "everything"]) == 1
    assert "unit, contract, host, cloud" in capsys.readouterr().err


def test_explain_shows_the_plan_and_makes_nothing(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--hosts", "2"]) == 0
    said = capsys.readouterr().out
    assert "control/keystone: " in said
    assert "dom0-2/host: " in said
    assert not list(clone.iterdir())


def test_explain_refuses_a_number_of_hosts(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--hosts", "-3"]) == 1
    assert "hosts" in capsys.readouterr().err
