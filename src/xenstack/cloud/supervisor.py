"""Asking a box's supervisor: start, restart and look at services through its socket, without any program."""

import xmlrpc.client
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from xenstack.cloud.box import Box
from xenstack.cloud.service import Service
from xenstack.cloud.step import NotYet

_ALREADY_STARTED, _NOT_RUNNING, _BAD_NAME, _ALREADY_ADDED = 60, 70, 10, 90


@dataclass(frozen=True, slots=True)
class State:
    """What the supervisor knows of a service. `pid` is 0 when none runs; as the box numbers it."""

    name: str
    running: bool
    pid: int
    since: float
    word: str
    detail: str


class Supervisor:
    """The supervisor of one box. Every call raises NotYet when the box does not run or does not answer."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def states(self) -> dict[str, State]:
        """Every service it knows."""
        return {i["name"]: _state(i) for i in self._ask("supervisor.getAllProcessInfo")}

    def state(self, name: str) -> State:
        return _state(self._ask("supervisor.getProcessInfo", name))

    def command(self, name: str) -> str:
        """The command line that it knows for a service; empty when it does not know the service."""
        known = {i["name"]: str(i["command"]) for i in self._ask("supervisor.getAllConfigInfo")}
        return known.get(name, "")

    def start(self, name: str) -> None:
        """Begin to start a service; it is no error that it runs."""
        self._ask("supervisor.startProcess", name, False, accept=(_ALREADY_STARTED,))

    def stop(self, name: str) -> None:
        """Stop a service and wait for its end; it is no error that it is stopped."""
        self._ask("supervisor.stopProcess", name, True, accept=(_NOT_RUNNING,))

    def learn(self, service: Service) -> None:
        """Take a service's present definition: new ones are added, changed ones stopped and replaced."""
        added, changed, _removed = self._ask("supervisor.reloadConfig")[0]
        if service.name in changed:
            self.stop(service.name)
            self._ask("supervisor.removeProcessGroup", service.name)
        if service.name in (*added, *changed):
            self._ask("supervisor.addProcessGroup", service.name, accept=(_ALREADY_ADDED,))

    def _ask(self, method: str, *arguments: Any, accept: tuple[int, ...] = ()) -> Any:
        from supervisor.xmlrpc import SupervisorTransport  # 30 ms that `explain` and `help` need not pay

        socket = self._box.path("/run/supervisor.sock")
        proxy = xmlrpc.client.ServerProxy(
            "http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{Path(socket)}")
        )
        try:
            return getattr(proxy, method)(*arguments)
        except xmlrpc.client.Fault as why:
            if why.faultCode in accept:
                return None
            raise NotYet(f"supervisor of {self._box.name}: {why.faultString}") from why
        except (OSError, HTTPException) as why:
            raise NotYet(f"supervisor of {self._box.name} does not answer: {why}") from why


def _state(info: dict[str, Any]) -> State:
    return State(
        name=info["name"],
        running=info["statename"] == "RUNNING",
        pid=info["pid"],
        since=float(info["start"]),
        word=info["statename"].lower(),
        detail=info["spawnerr"] or info["description"],
    )
