"""One command at a time changes a cloud; long commands' times are kept."""

from pathlib import Path

import pytest

from xenstack.cloud import stopwatch
from xenstack.cloud.step import NotYet
from xenstack.cloud.turn import alone


def test_a_second_command_is_refused_by_name_and_let_in_afterwards(tmp_path: Path) -> None:
    with alone(tmp_path, "up"), pytest.raises(NotYet, match=r"xenstack up` \(process"), alone(tmp_path, "down"):
        pytest.fail("two at once")
    with alone(tmp_path, "down"):
        pass


def test_times_are_kept_and_replaced(tmp_path: Path) -> None:
    assert stopwatch.recall(tmp_path) == {}
    stopwatch.note(tmp_path, stopwatch.TEST, 61.04)
    stopwatch.note(tmp_path, stopwatch.FRESH, 300)
    stopwatch.note(tmp_path, stopwatch.TEST, 62)
    known = stopwatch.recall(tmp_path)
    assert {name: entry["seconds"] for name, entry in known.items()} == {stopwatch.TEST: 62, stopwatch.FRESH: 300}
    (tmp_path / "state" / "install" / "times.json").write_text("nonsense")
    assert stopwatch.recall(tmp_path) == {}
