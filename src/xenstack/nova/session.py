"""The only door to the host: the XenAPI client session, made from nova.conf, with a count of round trips.

Round trips are counted by thread, HTTP transfers included, because each verb runs in one thread: what a spawn costs is
the difference before and after it.
"""

import http.client
import threading
from collections.abc import Mapping
from typing import Any

from xenstack.nova.faults import BadConfiguration
from xenstack.xenapi import session
from xenstack.xenapi.errors import SessionAuthenticationFailed, XenAPIError


class _Count(threading.local):
    trips = 0


class Session(session.Session):
    """A session that knows how many round trips the calling thread has made."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._count = _Count()
        self._closed = False

    @property
    def round_trips(self) -> int:
        """Requests that this thread has sent so far."""
        return self._count.trips

    def close(self) -> None:
        """Log out for good: the watcher, which is in a call at that moment, must not log in again."""
        self._closed = True
        super().close()

    def _login(self) -> str:
        if self._closed:
            raise session.Unreachable(self.url, "this service is stopping")
        return super()._login()

    def _send(self, method: str, arguments: tuple[Any, ...], timeout_s: float | None) -> Any:
        self._count.trips += 1
        return super()._send(method, arguments, timeout_s)

    def _http(
        self, verb: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], timeout_s: float | None
    ) -> http.client.HTTPConnection:
        self._count.trips += 1
        return super()._http(verb, path, query, headers, timeout_s)


def login(settings: Any) -> Session:
    """Log in to the host that nova.conf names. Raises BadConfiguration: which setting is wrong, and how."""
    for name in ("connection_url", "connection_password"):
        if not getattr(settings, name):
            raise BadConfiguration(reason=f"{name} is not set")
    url = settings.connection_url
    try:
        context = None
        if url.startswith("https:"):
            context = session.tls(ca_file=settings.connection_ca_file, verify=settings.connection_verify)
        made = Session(
            url,
            settings.connection_username,
            settings.connection_password,
            originator="nova-compute",
            timeout_s=float(settings.login_timeout),
            tls_context=context,
        )
    except (ValueError, OSError) as why:
        raise BadConfiguration(reason=f"connection_url {url!r}: {why}") from why
    try:
        made.call("session.get_uuid", made.ref)
    except SessionAuthenticationFailed as why:
        who = settings.connection_username
        raise BadConfiguration(
            reason=f"connection_username {who!r} and connection_password are refused by {url}"
        ) from why
    except (session.Unreachable, XenAPIError) as why:
        raise BadConfiguration(reason=f"connection_url {url}: {why}") from why
    return made
