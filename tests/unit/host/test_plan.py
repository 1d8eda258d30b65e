"""The plan engine: nothing is left after a failure, a cancel or a crash, wherever it happens."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from xenstack.host.tasks import plan as engine
from xenstack.host.tasks.journal import Journal
from xenstack.host.tasks.plan import NoTask, Plan, Recipe, Step, Stuck, recipe, run, settle

STEPS = ("first", "second", "third")


@dataclass
class Facts:
    names: list[str]
    seen: list[str] = field(default_factory=list)


class World:
    """What the steps change: a set of things that exist."""

    def __init__(self) -> None:
        self.things: set[str] = set()
        self.broken_undo: str = ""

    def make(self, name: str) -> None:
        self.things.add(name)

    def remove(self, name: str) -> None:
        if name == self.broken_undo:
            raise OSError(f"{name} is stuck")
        self.things.discard(name)


def steps(world: World, facts: Facts) -> tuple[Step[Facts], ...]:
    return tuple(
        Step(n, lambda f, n=n: (world.make(n), f.seen.append(n)), lambda f, n=n: world.remove(n)) for n in facts.names
    )


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state.db")


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine.RECIPES, "test", Recipe("test", Facts, steps))


def break_after(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    def hook(plan: str, name: str) -> None:
        if name == step:
            raise error

    monkeypatch.setattr(engine, "after_step", [hook])


def make(world: World) -> Plan[Facts]:
    facts = Facts(list(STEPS))
    return Plan("test", facts, steps(world, facts))


def test_runs_every_step_in_order_and_leaves_no_journal(journal: Journal) -> None:
    world = World()
    facts = run(make(world), NoTask(), journal)
    assert facts.seen == list(STEPS)
    assert world.things == set(STEPS)
    assert journal.entries() == []


@pytest.mark.parametrize("step", STEPS)
def test_failure_undoes_every_step(step: str, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    break_after(monkeypatch, step, OSError("injected"))
    with pytest.raises(OSError, match="injected"):
        run(make(world), NoTask(), journal)
    assert world.things == set()
    assert journal.entries() == []


@pytest.mark.parametrize("step", STEPS)
def test_crash_is_undone_from_the_file_alone(
    step: str, tmp_path: Path, journal: Journal, declared: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    break_after(monkeypatch, step, OSError("injected"))
    monkeypatch.setattr(Journal, "stuck", lambda *_: None)
    monkeypatch.setattr(engine, "unwind", lambda *_: [("third", "as dead")])
    with pytest.raises(Stuck):
        run(make(world), NoTask(), journal)
    assert step in world.things
    monkeypatch.undo()
    monkeypatch.setitem(engine.RECIPES, "test", Recipe("test", Facts, steps))
    journal.close()
    again = Journal(tmp_path / "state.db")
    (entry,) = again.entries()
    assert entry.steps == STEPS[: STEPS.index(step) + 1]
    assert settle(world, again) == []
    assert world.things == set()
    assert again.entries() == []


def test_the_step_that_fails_half_way_is_undone_too(journal: Journal) -> None:
    world = World()

    def half(_: Facts) -> None:
        world.make("half")
        raise OSError("disk full")

    plan = Plan("test", Facts([]), (Step("half", half, lambda f: world.remove("half")),))
    with pytest.raises(OSError, match="disk full"):
        run(plan, NoTask(), journal)
    assert world.things == set()


def test_a_bad_undo_hides_no_other_and_keeps_the_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.broken_undo = "second"
    break_after(monkeypatch, "third", OSError("injected"))
    with pytest.raises(Stuck, match="second is stuck") as caught:
        run(make(world), NoTask(), journal)
    assert isinstance(caught.value.__cause__, OSError)
    assert world.things == {"second"}
    assert [e.stuck for e in journal.entries()] == [True]


def test_a_stuck_plan_is_tried_again(journal: Journal, declared: None, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.broken_undo = "second"
    break_after(monkeypatch, "third", OSError("injected"))
    with pytest.raises(Stuck):
        run(make(world), NoTask(), journal)
    assert settle(world, journal) == ["test: second: second is stuck"]
    assert len(journal.entries()) == 1
    world.broken_undo = ""
    assert settle(world, journal) == []
    assert world.things == set()
    assert journal.entries() == []


class Cancelled(Exception):
    pass


class CancelAt(NoTask):
    def __init__(self, after: int) -> None:
        self.left = after

    def check_cancelled(self) -> None:
        if self.left == 0:
            raise Cancelled
        self.left -= 1


@pytest.mark.parametrize("after", range(len(STEPS)))
def test_cancel_undoes(after: int, journal: Journal) -> None:
    world = World()
    with pytest.raises(Cancelled):
        run(make(world), CancelAt(after), journal)
    assert world.things == set()
    assert journal.entries() == []


def test_nothing_is_undone_after_a_final_step(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    final = Step[Facts]("final", lambda f: world.make("final"), final=True)
    plan = Plan("test", Facts(["first"]), (*steps(world, Facts(["first"])), final))
    break_after(monkeypatch, "final", OSError("injected"))
    with pytest.raises(OSError, match="injected"):
        run(plan, NoTask(), journal)
    assert world.things == {"first", "final"}
    assert journal.entries() == []


def test_a_final_step_that_fails_is_undone_like_any_other(journal: Journal) -> None:
    world = World()

    def fail(_: Facts) -> None:
        raise OSError("refused")

    plan = Plan("test", Facts(["first"]), (*steps(world, Facts(["first"])), Step("final", fail, final=True)))
    with pytest.raises(OSError, match="refused"):
        run(plan, NoTask(), journal)
    assert world.things == set()


def test_a_crash_behind_the_final_step_is_finished(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def forward(world: World, facts: Facts) -> tuple[Step[Facts], ...]:
        return (
            *steps(world, facts),
            Step("delete", lambda f: world.things.clear(), final=True),
            Step("tell", lambda f: world.make("told")),
        )

    monkeypatch.setitem(engine.RECIPES, "test", Recipe("test", Facts, forward))
    world.things.add("half")
    entry = journal.opened("test", {"names": ["first"], "seen": []})
    for name in ("first", "delete"):
        journal.entered(entry, name, {"names": ["first"], "seen": []})
    assert settle(world, journal) == []
    assert world.things == {"told"}
    assert journal.entries() == []


def test_progress_follows_the_plan(journal: Journal) -> None:
    class Seen(NoTask):
        def __init__(self) -> None:
            self.done: list[float] = []

        def progress(self, done: float) -> None:
            self.done.append(done)

    seen = Seen()
    run(make(World()), seen, journal)
    assert seen.done == [1 / 3, 2 / 3, 1.0]


def test_an_unknown_plan_in_the_journal_is_reported_and_kept(journal: Journal) -> None:
    journal.opened("VM.never", {})
    assert settle(None, journal) == ["VM.never: no such plan"]
    assert len(journal.entries()) == 1


def test_two_steps_of_one_name_are_refused(journal: Journal) -> None:
    twice = Step[Facts]("same", lambda f: None)
    with pytest.raises(ValueError, match="two steps of one name"):
        run(Plan("test", Facts([]), (twice, twice)), NoTask(), journal)


def test_a_name_is_declared_once(declared: None) -> None:
    with pytest.raises(ValueError, match="two plans"):
        recipe("test", Facts)(steps)


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    first = Journal(tmp_path / "state.db")
    assert [first.next_number("domid") for _ in range(3)] == [1, 2, 3]
    assert first.next_number("other") == 1
    first.close()
    assert Journal(tmp_path / "state.db").next_number("domid") == 4
