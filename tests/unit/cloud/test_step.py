"""The rules of a plan: what holds is left alone, what fails is told, and takes nothing with it but what needs it."""

from pathlib import Path

import pytest

from xenstack.cloud.deployment import Deployment
from xenstack.cloud.plan import plan
from xenstack.cloud.step import NotYet, Outcome, Report, Step, in_order, perform, run_plan
from xenstack.run import CommandFailed


class World:
    """What steps make true."""

    def __init__(self) -> None:
        self.true: set[str] = set()
        self.applied: list[str] = []

    def step(self, name: str, *needs: str, fails: Exception | None = None, lies: bool = False) -> Step:
        def check() -> None:
            if name not in self.true:
                raise NotYet(f"{name} is not there")

        def apply() -> None:
            assert set(needs) <= self.true
            self.applied.append(name)
            if fails:
                raise fails
            if not lies:
                self.true.add(name)

        return Step(name=name, title=name, needs=needs, check=check, apply=apply, within_s=0.2, log=Path("a.log"))


def outcomes(steps: list[Step]) -> dict[str, Outcome]:
    told: list[Report] = []
    reports = run_plan(steps, told.append)
    assert reports == told
    return {report.step.name: report.outcome for report in reports}


def test_a_second_run_changes_nothing() -> None:
    world = World()
    steps = [world.step("a"), world.step("b", "a"), world.step("c", "a", "b")]
    assert set(outcomes(steps).values()) == {Outcome.DONE}
    assert world.applied == ["a", "b", "c"]
    assert set(outcomes(steps).values()) == {Outcome.ALREADY}
    assert world.applied == ["a", "b", "c"]


@pytest.mark.parametrize(
    "why", [CommandFailed(("mkfs",), 1, "no space"), OSError("disk"), NotYet("later"), AttributeError("a defect")]
)
def test_a_failure_stops_only_what_needs_it_and_is_finished_by_the_next_run(why: Exception) -> None:
    world = World()
    failing = [world.step("a"), world.step("b", "a", fails=why), world.step("c", "b"), world.step("d", "a")]
    assert outcomes(failing) == {"a": Outcome.DONE, "b": Outcome.FAILED, "d": Outcome.DONE}
    mended = [world.step("a"), world.step("b", "a"), world.step("c", "b"), world.step("d", "a")]
    assert outcomes(mended) == {"a": Outcome.ALREADY, "b": Outcome.DONE, "c": Outcome.DONE, "d": Outcome.ALREADY}


def test_a_failure_names_the_step_the_command_the_log_and_what_to_do() -> None:
    report = perform(World().step("make it", fails=CommandFailed(("mkfs", "-t"), 1, "no space")))
    assert report.failure is not None
    for words in ("make it", "`mkfs -t`", "no space", "a.log", "./xenstack up"):
        assert words in str(report.failure)


def test_what_is_not_seen_to_work_did_not_happen() -> None:
    report = perform(World().step("a", lies=True))
    assert report.outcome is Outcome.FAILED
    assert "a is not there" in str(report.failure)


def test_a_plan_reads_from_top_to_bottom() -> None:
    world = World()
    with pytest.raises(ValueError, match="no earlier step"):
        in_order([world.step("a", "b"), world.step("b")])
    with pytest.raises(ValueError, match="two steps"):
        in_order([world.step("a"), world.step("a")])


@pytest.mark.parametrize("hosts", [1, 3])
def test_the_plan_of_the_cloud_is_in_order(tmp_path: Path, hosts: int) -> None:
    steps = plan(Deployment(Path(__file__).parents[3], hosts, state=tmp_path / "nothing"))
    in_order(steps)
    names = [step.name for step in steps]
    assert {f"box dom0-{n}" for n in range(1, hosts + 1)} <= set(names)
    assert not (tmp_path / "nothing" / "boxes").exists()  # describing makes no box
