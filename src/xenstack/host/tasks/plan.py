"""Long operations: a plan is data, one runner executes every plan.

A plan is an ordered list of steps; a step is `do` and, when it leaves something behind, `undo`.
Each step is journalled *before* its `do`, so after a failure, a cancel or a crash every step that may
have happened is undone, newest first. Rules for whoever writes a step:

  * `do` changes one thing; its name was chosen earlier (it is in the facts), so `undo` finds it however far `do` got;
  * `undo` succeeds when there is nothing to undo;
  * steps talk only through the facts, which are plain data: the journal must be able to keep them;
  * a step after which there is no way back (a disk is deleted, a guest runs on from its suspend image) is `final`: once
    it is done nothing is undone, and every step behind it is tried. A dead daemon that had entered it finishes the plan
    instead, so a final step and those behind it can be repeated: they succeed when their work is done already.

The caller sees the failure itself. An undo that fails does not stop the others, but then the caller
sees `Stuck`: the promise "all or nothing" is broken, and the journal keeps the entry for the next start.

A plan is declared once with `@recipe(name, Facts)`, which also files it by name: recovery rebuilds a plan
from its journalled facts with nothing but that name. What `do` needs beyond the ids in the facts (a domain's
description, a disk's path) is read from the records when the step runs, never when the plan is built.
"""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from xenstack.host.tasks.journal import Entry, Journal

log = logging.getLogger(__name__)

F = TypeVar("F")


class Progress(Protocol):
    """What a plan asks of the task it runs for."""

    def check_cancelled(self) -> None:
        """Raise TaskCancelled when somebody asked the task to stop."""

    def progress(self, done: float) -> None:
        """Report the done part, 0.0 to 1.0."""


class NoTask:
    """A plan run for nobody: it cannot be cancelled and reports to no one."""

    def check_cancelled(self) -> None:
        """Never cancelled."""

    def progress(self, done: float) -> None:
        """Nobody reads it."""


@dataclass(frozen=True)
class Step(Generic[F]):
    """One change of the world and the way back from it."""

    name: str
    do: Callable[[F], object]
    undo: Callable[[F], object] | None = None
    final: bool = False


@dataclass(frozen=True)
class Plan(Generic[F]):
    """The steps of one operation, bound to the facts that were decided before the first of them."""

    name: str
    facts: F
    steps: tuple[Step[F], ...]


@dataclass(eq=False)
class Stuck(Exception):
    """A plan failed and could not be undone completely. `left` says which undo failed, and why."""

    plan: str
    left: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.plan} failed and was not undone completely: {'; '.join(self.left)}"


@dataclass(frozen=True)
class Recipe(Generic[F]):
    """How to make the plan called `name`: from facts now, from the journal after a crash."""

    name: str
    facts: type[F]
    build: Callable[[Any, F], tuple[Step[F], ...]]

    def plan(self, context: Any, facts: F) -> Plan[F]:
        """The plan for these facts. `context` is whatever its steps work on."""
        return Plan(self.name, facts, self.build(context, facts))

    def rebuilt(self, context: Any, entry: Entry) -> Plan[F]:
        """The plan that an entry of the journal tells of. Raises TypeError when the facts are of another version."""
        return self.plan(context, self.facts(**entry.facts))


RECIPES: dict[str, Recipe[Any]] = {}
"""Every plan this host knows, by name."""

after_step: list[Callable[[str, str], None]] = []
"""Called with (plan, step) after each `do`, before the next step is journalled. Empty but for the tests that stop,
break or kill the daemon at a chosen moment."""


def recipe(
    name: str, facts: type[F]
) -> Callable[[Callable[[Any, F], tuple[Step[F], ...]]], Callable[[Any, F], Plan[F]]]:
    """Declare the plan `name`: the decorated function makes its steps, and from then on the whole plan."""

    def declare(build: Callable[[Any, F], tuple[Step[F], ...]]) -> Callable[[Any, F], Plan[F]]:
        if name in RECIPES:
            raise ValueError(f"two plans are called {name}")
        RECIPES[name] = Recipe(name, facts, build)
        return RECIPES[name].plan

    return declare


def run(plan: Plan[F], task: Progress, journal: Journal) -> F:
    """Run the steps in order; returns the facts.

    Raises what the failing step raised, after undoing every step entered; `Stuck` when an undo failed too. Behind a
    final step nothing is undone and no step is left out: the first error is raised when all of them have been tried.
    """
    names = [step.name for step in plan.steps]
    if len(set(names)) != len(names):
        raise ValueError(f"{plan.name} has two steps of one name: {names}")
    entry = journal.opened(plan.name, _plain(plan.facts))
    entered: list[Step[F]] = []
    final = next((n for n, step in enumerate(plan.steps) if step.final), len(plan.steps))
    try:
        for number, step in enumerate(plan.steps[: final + 1]):
            task.check_cancelled()
            journal.entered(entry, step.name, _plain(plan.facts))
            entered.append(step)
            log.debug("%s: %s", plan.name, step.name)
            step.do(plan.facts)
            if number < final:
                _tell(plan, step)
            task.progress((number + 1) / len(plan.steps))
    except BaseException as why:
        log.info("%s: stopped in %s: %s", plan.name, entered[-1].name if entered else "nothing", why)
        if left := unwind(plan.name, entered, plan.facts):
            journal.stuck(entry, [name for name, _ in left])
            raise Stuck(plan.name, tuple(f"{name}: {reason}" for name, reason in left)) from why
        journal.closed(entry)
        raise
    failures = [] if final == len(plan.steps) else _go_on(plan, final, task, journal, entry)
    journal.closed(entry)
    if failures:
        raise failures[0]
    return plan.facts


def _go_on(plan: Plan[F], final: int, task: Progress, journal: Journal, entry: int) -> list[Exception]:
    """The steps behind the final one, which is done: each is tried, whatever became of those before it."""
    failures: list[Exception] = []
    for number, step in enumerate(plan.steps[final:], start=final):
        try:
            if number > final:
                journal.entered(entry, step.name, _plain(plan.facts))
                log.debug("%s: %s", plan.name, step.name)
                step.do(plan.facts)
            _tell(plan, step)
        except Exception as why:
            log.exception("%s: %s failed behind the point of no return", plan.name, step.name)
            failures.append(why)
        task.progress((number + 1) / len(plan.steps))
    return failures


def _tell(plan: Plan[Any], step: Step[Any]) -> None:
    for hook in after_step:
        hook(plan.name, step.name)


def unwind(name: str, entered: list[Step[F]], facts: F) -> list[tuple[str, str]]:
    """Undo the steps, newest first; every undo runs. Returns (step, why) of what failed."""
    left: list[tuple[str, str]] = []
    for step in reversed(entered):
        if step.undo is None:
            continue
        try:
            step.undo(facts)
        except Exception as why:
            log.exception("%s: cannot undo %s", name, step.name)
            left.append((step.name, str(why)))
    return left


def settle(context: Any, journal: Journal) -> list[str]:
    """Undo, or finish, every plan that a dead process left open. Returns what could not be settled, in words.

    An entry that cannot be settled stays in the journal with the steps that are left, so that the next start tries
    again. What it works on may have moved on by then: an undo names what it removes exactly (a domain by its domid).
    """
    left: list[str] = []
    for entry in journal.entries():
        known = RECIPES.get(entry.plan)
        if known is None:
            left.append(f"{entry.plan}: no such plan")
            continue
        plan = known.rebuilt(context, entry)
        failed = _finished(plan, entry) if _beyond_return(plan, entry) else _undone(plan, entry)
        if failed:
            journal.stuck(entry.id, [step for step, _ in failed])
            left.extend(f"{entry.plan}: {step}: {why}" for step, why in failed)
        else:
            journal.closed(entry.id)
    return left


def _beyond_return(plan: Plan[Any], entry: Entry) -> bool:
    return not entry.stuck and any(step.final and step.name in entry.steps for step in plan.steps)


def _undone(plan: Plan[Any], entry: Entry) -> list[tuple[str, str]]:
    log.info("%s: undone after the daemon died in %s", plan.name, entry.steps[-1] if entry.steps else "nothing")
    return unwind(plan.name, [step for step in plan.steps if step.name in entry.steps], plan.facts)


def _finished(plan: Plan[Any], entry: Entry) -> list[tuple[str, str]]:
    log.info("%s: finished after the daemon died in %s", plan.name, entry.steps[-1])
    first = next(n for n, step in enumerate(plan.steps) if step.final)
    left: list[tuple[str, str]] = []
    for step in plan.steps[first:]:
        try:
            step.do(plan.facts)
        except Exception as why:
            log.exception("%s: cannot finish %s", plan.name, step.name)
            left.append((step.name, str(why)))
    return left


def _plain(facts: object) -> dict[str, Any]:
    if not dataclasses.is_dataclass(facts) or isinstance(facts, type):
        raise TypeError(f"facts must be a dataclass, not {type(facts).__name__}")
    return dataclasses.asdict(facts)
