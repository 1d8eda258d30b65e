"""The host daemon with a death in it: `python -m tests.kit.faulty_daemon serve …`.

XENSTACK_FAULT names a moment, "PLAN:STEP" ("VM.start:create domain"): right after that step's work is done, before the
next one is journalled, the process kills itself as kill -9 would. Only tests load this module; the daemon itself has
no such switch.
"""

import os
import signal

from xenstack.host.__main__ import main
from xenstack.host.tasks import plan as engine

VARIABLE = "XENSTACK_FAULT"


def arm() -> None:
    """Die at the moment that the environment names."""
    moment = os.environ.get(VARIABLE, "")

    def die(plan: str, step: str) -> None:
        if f"{plan}:{step}" == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    if moment:
        engine.after_step.append(die)


if __name__ == "__main__":
    arm()
    raise SystemExit(main())
