"""PID 1 of a box: supervisord, with one fault mended. ``python -m xenstack.cloud.supervise`` takes its options.

Supervisor 4.3 leaves a dead program's pipes in its poll set until the next poll. When the program is restarted before
that, a new pipe may get the old one's number: the write end of a standard input is then polled for reading. A program
that closes its standard input (uWSGI does) makes that report POLLERR for ever, which supervisor overlooks: it polls on
without a pause and takes a whole processor. Here such a descriptor is dropped from the set, as supervisor does with a
closed one; whatever it still wants to read or write it registers again in its next round.
"""

import select
from typing import Any

from supervisor import poller, supervisord


def forget_broken(polling: type[Any]) -> None:
    """Teach a poller class of supervisor's to drop descriptors that have nothing to report but an error."""
    ignore_invalid = polling._ignore_invalid

    def ignore(self: Any, fd: int, events: int) -> bool:
        if events & select.POLLERR and not events & (self.READ | self.WRITE):
            events |= select.POLLNVAL
        return bool(ignore_invalid(self, fd, events))

    polling._ignore_invalid = ignore


def main() -> None:
    forget_broken(poller.PollPoller)
    supervisord.main()


if __name__ == "__main__":
    main()
