"""The step of a service: its supervisor runs it, with its present settings, and it is seen to work."""

import http.client
import shlex
import time
from collections.abc import Callable

from xenstack.cloud import layout, netns
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL, CONTROL_ADDRESS
from xenstack.cloud.service import Service
from xenstack.cloud.step import NotYet, Step

Check = Callable[[], None]


def service(
    cloud: Deployment,
    box: str,
    name: str,
    *,
    title: str,
    needs: tuple[str, ...] = (),
    works: Check | None = None,
    within_s: float = 90,
) -> Step:
    """`works` raises NotYet until the service does its work; without it, running is all that can be seen."""
    what = cloud.service(box, name)

    def check() -> None:
        running(cloud, what)
        if works:
            works()

    def apply() -> None:
        supervisor = cloud.supervisor(box)
        for folder in what.folders:
            folder.mkdir(parents=True, exist_ok=True)
        cloud.boxes[box].write_supervisor()
        supervisor.learn(what)
        if stale(cloud, what):
            supervisor.stop(name)
        supervisor.start(name)

    return Step(
        name=what.label,
        title=title,
        needs=(f"box {box}", *needs),
        check=check,
        apply=apply,
        within_s=within_s,
        log=cloud.layout.log(box) / f"{name}.log",
        command=shlex.join(what.command),
        advice=f"read its log with `./xenstack logs {what.label}`, then run `./xenstack up` again",
    )


def running(cloud: Deployment, what: Service) -> None:
    """Raises NotYet unless the service runs since its settings last changed."""
    state = cloud.supervisor(what.box).state(what.name)
    if not state.running:
        raise NotYet(f"{what.label} is {state.word}: {state.detail}")
    if stale(cloud, what):
        raise NotYet(f"{what.label} runs with older settings")


def stale(cloud: Deployment, what: Service) -> bool:
    """Whether the service runs with other settings than its files now hold, or was started by another command."""
    supervisor = cloud.supervisor(what.box)
    state = supervisor.state(what.name)
    if state.running and supervisor.command(what.name) != shlex.join(what.command):
        return True
    # supervisor counts whole seconds: a file written in the second of the start counts as read
    return state.running and any(int(f.stat().st_mtime) > state.since for f in what.config)


def answers(cloud: Deployment, port: int, path: str = "/") -> Check:
    """An API of the control plane answers anything but a server's error."""

    def check() -> None:
        with netns.inside(cloud.boxes[CONTROL].running()):
            connection = http.client.HTTPConnection(CONTROL_ADDRESS, port, timeout=20)
            try:
                connection.request("GET", path)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException) as why:
                raise NotYet(f"port {port} does not answer: {why}") from why
            finally:
                connection.close()
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise NotYet(f"port {port} answers {status}")

    return check


def consumes(cloud: Deployment, queue: str) -> Check:
    """Someone takes messages from a queue of the bus: the service behind it has come up."""

    def check() -> None:
        from amqp import Connection  # 60 ms that `explain` need not pay
        from amqp.exceptions import AMQPError

        with netns.inside(cloud.boxes[CONTROL].running()):
            try:
                with Connection(
                    f"{CONTROL_ADDRESS}:{layout.BUS}",
                    userid="openstack",
                    password=cloud.secrets.password("bus"),
                    connect_timeout=5,
                ) as bus:
                    consumers = bus.channel().queue_declare(queue, passive=True).consumer_count
            except (OSError, AMQPError) as why:
                raise NotYet(f"queue {queue}: {why}") from why
        if not consumers:
            raise NotYet(f"nobody takes messages from queue {queue}")

    return check


def uptime(cloud: Deployment, what: Service) -> float:
    """Seconds since the service was started; 0 when it does not run."""
    state = cloud.supervisor(what.box).state(what.name)
    return time.time() - state.since if state.running else 0.0
