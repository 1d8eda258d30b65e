"""What a cloud may leave behind is found by the mark that it carries, and nothing without the mark is touched."""

import os
import shutil
from pathlib import Path

from xenstack.cloud import left
from xenstack.cloud.box import MARK
from xenstack.cloud.layout import Layout
from xenstack.run import running


def test_strays_are_found_and_ended(tmp_path: Path) -> None:
    mine, other = Layout(tmp_path / "a"), Layout(tmp_path / "b")
    with (
        running("sleep", "600", env={MARK: f"{mine.cloud}:control"}) as stray,
        running("sleep", "601", env={MARK: f"{other.cloud}:control"}) as neighbour,
        running("sleep", "602") as stranger,
    ):
        # a program that just began may not have its own command line yet: only its number is sure
        assert set(left.strays(mine)) == {stray.pid}
        assert f"{stray.pid} " in left.remains(tmp_path / "a", state_too=False)["process"][0]
        left.end_strays(mine)
        assert stray.wait(5) == -9
        assert left.strays(mine) == {}
        assert (neighbour.poll(), stranger.poll()) == (None, None)
        assert set(left.strays(other)) == {neighbour.pid}


def test_who_looks_is_no_stray(tmp_path: Path) -> None:
    """`down` may be called from a shell that was started in a box."""
    assert os.getpid() not in left.strays(Layout(tmp_path))


def test_state_that_is_left_is_told(tmp_path: Path) -> None:
    cloud = Layout(tmp_path).cloud
    cloud.mkdir(parents=True)
    assert left.remains(tmp_path, state_too=True)["file of the cloud"] == [str(cloud)]
    assert "file of the cloud" not in left.remains(tmp_path, state_too=False)
    shutil.rmtree(cloud)
    assert left.remains(tmp_path, state_too=True)["file of the cloud"] == []
