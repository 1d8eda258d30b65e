"""OpenStack's APIs, spoken from the operator's seat (box `outside`) through openstacksdk."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xenstack.cloud import netns
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import OUTSIDE
from xenstack.cloud.settings.openstack import IDENTITY_URL, REGION
from xenstack.cloud.step import NotYet

ADMIN, DEMO = "admin", "demo"  # users and their projects
_connections: dict[tuple[str, str], Any] = {}
_making = threading.Lock()


def credentials(cloud: Deployment, who: str) -> dict[str, Any]:
    """What clouds.yaml says of one of our users."""
    return {
        "auth": {
            "auth_url": IDENTITY_URL,
            "username": who,
            "password": cloud.secrets.password(f"user {who}"),
            "project_name": who,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": REGION,
        "identity_api_version": 3,
    }


@contextmanager
def connected(cloud: Deployment, who: str = ADMIN) -> Iterator[Any]:
    """An openstacksdk connection, on this thread and for the length of the block.

    What OpenStack refuses or fails to answer is raised as NotYet: to a step it means that its promise does not hold.
    """
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    with netns.inside(cloud.boxes[OUTSIDE].running()):
        try:
            yield _connection(cloud, who)
        except (SDKException, ClientException, OSError) as why:
            forget()  # it may hold a catalogue that has grown since
            raise NotYet(f"OpenStack: {type(why).__name__}: {why}") from why


def forget() -> None:
    """Log in anew next time: connections keep their token and the catalogue that came with it."""
    with _making:
        _connections.clear()


def _connection(cloud: Deployment, who: str) -> Any:
    import openstack

    key = (str(cloud.layout.root), who)
    with _making:
        if key not in _connections:
            _connections[key] = openstack.connect(load_yaml_config=False, load_envvars=False, **credentials(cloud, who))
        return _connections[key]


def checked(cloud: Deployment, look: Callable[[Any], str | None], who: str = ADMIN) -> Callable[[], None]:
    """A step's check: `look` gets a connection and answers None, or the reason why the promise does not hold."""

    def check() -> None:
        with connected(cloud, who) as api:
            reason = look(api)
        if reason:
            raise NotYet(reason)

    return check


def done(cloud: Deployment, make: Callable[[Any], None], who: str = ADMIN) -> Callable[[], None]:
    """A step's apply: `make` gets a connection."""

    def apply() -> None:
        with connected(cloud, who) as api:
            make(api)

    return apply
