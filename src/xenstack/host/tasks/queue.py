"""The threads that run calls, and the queue before them.

One bounded pool: what does not fit waits, what waits too long a line is refused (TOO_MANY_PENDING_TASKS). A call that
raises anything but a XenAPIError is our bug: INTERNAL_ERROR for the client, a traceback for us.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from xenstack.host.tasks.plan import Stuck
from xenstack.host.tasks.task import Task
from xenstack.xenapi.errors import InternalError, TaskCancelled, TooManyPendingTasks, XenAPIError

log = logging.getLogger(__name__)

_WAITING = 2_000  # calls that may wait; each is some kilobytes


class Queue:
    """Runs calls in threads; knows every task that can be cancelled."""

    def __init__(self, threads: int, *, waiting: int = _WAITING) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="call")
        self._room = threading.BoundedSemaphore(threads + waiting)
        self._lock = threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._doomed: set[str] = set()
        self._futures: set[Future[Any]] = set()

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run `work` in a thread. Errors: TooManyPendingTasks."""
        if not self._room.acquire(blocking=False):
            raise TooManyPendingTasks()
        try:
            future = self._pool.submit(work)
        except BaseException:
            self._room.release()
            raise
        with self._lock:
            self._futures.add(future)
        future.add_done_callback(self._done)
        return future

    def _done(self, future: Future[Any]) -> None:
        with self._lock:
            self._futures.discard(future)
        self._room.release()

    def start(self, task: Task, work: Callable[[], str]) -> None:
        """Run `work` for a task, which ends with what it returns (an XML-RPC value) or raises.

        Errors: TooManyPendingTasks; the task has ended then.
        """
        with self._lock:
            self._tasks[task.ref] = task
        try:
            future = self.submit(lambda: self._run(task, work))
        except XenAPIError as why:
            task.fail(why)
            self.forget(task)
            raise
        future.add_done_callback(lambda done: self._dropped(task) if done.cancelled() else None)

    def watch(self, task: Task) -> None:
        """Make a task known that runs elsewhere, so that it can be cancelled."""
        with self._lock:
            self._tasks[task.ref] = task

    def forget(self, task: Task) -> None:
        """The task has ended."""
        with self._lock:
            self._tasks.pop(task.ref, None)
            doomed = task.ref in self._doomed
            self._doomed.discard(task.ref)
        if doomed:
            task.destroy()

    def knows(self, ref: str) -> bool:
        """Whether the task is one of a call under way."""
        with self._lock:
            return ref in self._tasks

    def destroy_at_end(self, ref: str) -> bool:
        """Remove the task's record once it has ended; False when it has, and the record is the caller's to remove."""
        with self._lock:
            if ref not in self._tasks:
                return False
            self._doomed.add(ref)
            return True

    def cancel(self, ref: str) -> bool:
        """Ask a task to stop; False when no such task runs."""
        with self._lock:
            task = self._tasks.get(ref)
        if task is None:
            return False
        task.cancel()
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """Take no new calls, drop those that wait, ask tasks to stop, and wait for the calls that run.

        False when some still run after `timeout_s` (a clean_shutdown may wait for its guest for many minutes).
        """
        with self._lock:
            for task in self._tasks.values():
                task.cancel()
            known = set(self._futures)
        self._pool.shutdown(wait=False, cancel_futures=True)
        running = {future for future in known if not future.cancelled()}  # wait() would never see a dropped one end
        return not wait(running, timeout_s).not_done

    def _dropped(self, task: Task) -> None:
        task.fail(TaskCancelled(task.ref))
        self.forget(task)

    def _run(self, task: Task, work: Callable[[], str]) -> None:
        try:
            task.check_cancelled()
            task.succeed(work())
        except Exception as why:
            task.fail(promised(why, task.ref))
        finally:
            self.forget(task)


def promised(why: Exception, what: str) -> XenAPIError:
    """The error that a client sees for anything that was raised; surprises go to the log with their traceback."""
    if isinstance(why, XenAPIError):
        return why
    if isinstance(why, Stuck):
        log.error("%s: %s", what, why)
        return InternalError(str(why))
    log.error("%s failed", what, exc_info=why)
    return InternalError(f"{type(why).__name__}: {why}"[:500])
