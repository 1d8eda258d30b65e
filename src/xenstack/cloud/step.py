"""A plan is steps with their needs; one runner executes every plan, in parallel where the needs allow.

The rules of a step:

  * `check` looks at the world and raises NotYet with the reason when the step's promise does not hold. It changes
    nothing and is fast;
  * `apply` makes the promise true, whatever a broken-off run left behind. It runs only when `check` refused;
  * afterwards `check` is asked again until it agrees or `within_s` passes: what is not seen to work did not happen.

So a plan that is run twice changes nothing the second time, and a plan that failed is finished by running it again.
A failing step does not stop the steps that do not need it.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from xenstack.run import CommandFailed

_FIRST_POLL_S, _SLOWEST_POLL_S = 0.1, 1.0  # checks cost processor time that what they wait for could use


@dataclass(eq=False)
class NotYet(Exception):
    """A step's promise does not hold (yet), and why."""

    reason: str

    def __str__(self) -> str:
        return self.reason


class Hopeless(NotYet):
    """A promise that does not hold and will not come true by waiting."""


@dataclass(eq=False)
class StepFailed(Exception):
    """A step could not be made true. `advice` says what the operator can do."""

    step: str
    reason: str
    log: Path | None
    advice: str
    command: str = ""

    def __str__(self) -> str:
        lines = {"why": self.reason, "command": self.command, "log": self.log, "what to do": self.advice}
        told = "".join(f"\n  {name + ':':<12}{value}" for name, value in lines.items() if value)
        return f"step {self.step} failed{told}"


def nothing() -> None:
    """The `apply` of a step that only waits for what others do."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One promise of a plan. `title` says it in words; `needs` names the steps that must hold first.

    `command` is what a step that starts a program starts, for the word about a failure.
    """

    name: str
    title: str
    check: Callable[[], None]
    apply: Callable[[], None] = nothing
    needs: tuple[str, ...] = ()
    within_s: float = 60.0
    log: Path | None = None
    command: str = ""
    advice: str = "mend the cause, then run `./xenstack up` again: it goes on where it stopped"

    def satisfied(self) -> bool:
        try:
            self.check()
        except NotYet:
            return False
        return True

    def verify(self) -> None:
        """Raises NotYet with the last reason when `check` does not agree within `within_s` seconds."""
        wait_until(self.check, self.within_s)


def wait_until(check: Callable[[], None], within_s: float) -> None:
    """Ask until `check` agrees. Raises NotYet with its last reason after `within_s` seconds."""
    deadline, pause = time.monotonic() + within_s, _FIRST_POLL_S
    while True:
        try:
            check()
        except NotYet as why:
            if time.monotonic() > deadline or isinstance(why, Hopeless):
                raise
            time.sleep(pause)
            pause = min(pause * 1.4, _SLOWEST_POLL_S)
        else:
            return


class Outcome(Enum):
    ALREADY = auto()
    DONE = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Report:
    """How one step ended, and the seconds it took."""

    step: Step
    outcome: Outcome
    seconds: float
    failure: StepFailed | None = None


def perform(step: Step) -> Report:
    """Make one step true. Never raises for a failure of the step itself: the report carries it."""
    started = time.monotonic()
    try:
        if step.satisfied():
            return Report(step, Outcome.ALREADY, time.monotonic() - started)
        step.apply()
        step.verify()
    except (NotYet, CommandFailed, OSError, ValueError, RuntimeError, LookupError) as why:
        reason = str(why) or type(why).__name__
        failure = StepFailed(step.name, reason, step.log, step.advice, step.command)
        return Report(step, Outcome.FAILED, time.monotonic() - started, failure)
    except Exception:
        # a defect of a step: it must not take the others, and the word about them, with it
        failure = StepFailed(step.name, traceback.format_exc(limit=-4), step.log, "report it: this is a defect")
        return Report(step, Outcome.FAILED, time.monotonic() - started, failure)
    return Report(step, Outcome.DONE, time.monotonic() - started)


def in_order(steps: Sequence[Step]) -> None:
    """Raises ValueError unless every need names an earlier step: so the plan reads from top to bottom."""
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            raise ValueError(f"two steps are called {step.name}")
        if unknown := set(step.needs) - seen:
            raise ValueError(f"{step.name} needs {sorted(unknown)}, which no earlier step promises")
        seen.add(step.name)


def run_plan(steps: Sequence[Step], tell: Callable[[Report], None], workers: int = 48) -> list[Report]:
    """Perform every step whose needs hold, several at once; `tell` hears of each as it ends (on this thread).

    A step whose need failed is left out. Returns the reports in the order in which the steps ended.
    """
    in_order(steps)
    waiting = {s.name: s for s in steps}
    holds: set[str] = set()
    reports: list[Report] = []
    running: dict[Future[Report], Step] = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="step")
    try:
        while True:
            for step in _ready(waiting.values(), holds):
                running[pool.submit(perform, step)] = waiting.pop(step.name)
            if not running:
                return reports
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step = running.pop(future)
                report = future.result()
                reports.append(report)
                if report.outcome is not Outcome.FAILED:
                    holds.add(step.name)
                tell(report)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt waits for no step


def _ready(waiting: Iterable[Step], holds: set[str]) -> list[Step]:
    return [s for s in waiting if set(s.needs) <= holds]
