"""A few XenAPI calls to a host of the cloud, through its unix socket: for checks, status and an orderly stop.

XML-RPC over the box's own socket needs no client library and no address.
"""

import http.client
import socket
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import dom0
from xenstack.cloud.settings.host import API_SOCKET
from xenstack.cloud.step import NotYet

Call = Callable[..., Any]


class _Socket(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@contextmanager
def session(cloud: Deployment, number: int, timeout_s: float = 20.0) -> Iterator[Call]:
    """`call("VM.get_record", ref)` in a session of host N's root. Raises NotYet for whatever goes wrong."""
    path = cloud.boxes[dom0(number)].path(API_SOCKET)

    def ask(method: str, *arguments: Any) -> Any:
        connection = _Socket(path, timeout_s)
        try:
            body = xmlrpc.client.dumps(arguments, method).encode()
            connection.request("POST", "/", body, {"Content-Type": "text/xml"})
            reply = connection.getresponse().read()
        except (OSError, http.client.HTTPException) as why:
            raise NotYet(f"the host daemon of {dom0(number)} does not answer: {why}") from why
        finally:
            connection.close()
        try:
            (answer,), _ = xmlrpc.client.loads(reply)
        except (xmlrpc.client.Error, ValueError) as why:
            raise NotYet(f"the host daemon of {dom0(number)} does not speak XML-RPC: {why}") from why
        if not isinstance(answer, dict) or answer.get("Status") != "Success":
            failure = answer.get("ErrorDescription") if isinstance(answer, dict) else answer
            raise NotYet(f"{method} on {dom0(number)}: {failure!r}")
        return answer["Value"]

    opaque = ask("session.login_with_password", "root", cloud.secrets.password(f"host {number}"), "1.0", "xenstack")
    try:
        yield lambda method, *arguments: ask(method, opaque, *arguments)
    finally:
        ask("session.logout", opaque)


def guests(call: Call) -> dict[str, dict[str, Any]]:
    """Every guest's record by reference: no templates, no snapshots, no control domain."""
    return {
        ref: record
        for ref, record in call("VM.get_all_records").items()
        if not (record["is_a_template"] or record["is_a_snapshot"] or record["is_control_domain"])
    }
