"""The control plane: Keystone first, then the services that check their tokens with it."""

import http
from collections.abc import Callable, Iterator
from typing import Any

from xenstack.cloud import layout
from xenstack.cloud.api import ADMIN, DEMO, connected, forget
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL, CONTROL_ADDRESS, OUTSIDE
from xenstack.cloud.settings.openstack import REGION, USERS
from xenstack.cloud.step import NotYet, Step, wait_until
from xenstack.cloud.steps.databases import query
from xenstack.cloud.steps.services import Check, answers, consumes, service

# Each service costs seconds of processor time to start. The longest chain (Neutron's server, agents, routers, a guest
# that answers) goes first; what nobody waits for starts beside the agents.
_SECOND = ("control/neutron-rpc", "control/neutron-api", "control/nova-conductor")
_FACES = ("public", "internal", "admin")
_SERVICES = {  # kind of service: its name and URL
    "image": ("glance", f"http://{CONTROL_ADDRESS}:{layout.IMAGE}"),
    "placement": ("placement", f"http://{CONTROL_ADDRESS}:{layout.PLACEMENT}"),
    "compute": ("nova", f"http://{CONTROL_ADDRESS}:{layout.COMPUTE}/v2.1"),
    "network": ("neutron", f"http://{CONTROL_ADDRESS}:{layout.NETWORKING}"),
}


def steps(cloud: Deployment) -> Iterator[Step]:
    def api(name: str, title: str, port: int, schema: str, *needs: str) -> Step:
        # Keystone has the processors for itself and the bus: everyone waits for those two
        first = () if name == "keystone" else ("catalogue", "control/rabbitmq")
        reached = (f"cables of {CONTROL}", f"schema of {schema}", *first, *needs)
        works = _serves(cloud, name, port)
        return service(cloud, CONTROL, name, title=title, needs=reached, works=works)

    def worker(name: str, title: str, queue: str, schema: str, *more: str) -> Step:
        needs = (f"cables of {CONTROL}", "control/rabbitmq", f"schema of {schema}", "catalogue", *more)
        return service(cloud, CONTROL, name, title=title, needs=needs, works=consumes(cloud, queue))

    yield _catalogue(cloud)
    yield api("keystone", "Keystone: who is who, and where each API is", layout.IDENTITY, "keystone")
    yield worker("neutron-rpc", "Neutron's server towards its agents", "q-plugin", "neutron")
    yield api(
        "neutron-api",
        "Neutron: networks, ports, routers, security groups",
        layout.NETWORKING,
        "neutron",
        "control/keystone",
    )
    yield api("placement", "Placement: what each host has left", layout.PLACEMENT, "placement", "control/keystone")
    yield worker("nova-conductor", "Nova's only way to its database for computes", "conductor", "nova")
    yield api("nova-api", "Nova: servers", layout.COMPUTE, "nova", "control/keystone", *_SECOND)
    yield worker("nova-scheduler", "Nova's choice of a host", "scheduler", "nova", *_SECOND)
    yield api("glance", "Glance: images", layout.IMAGE, "glance", "control/keystone", *_SECOND)
    yield api("nova-metadata", "Nova's metadata for guests", layout.METADATA, "nova", *_SECOND)
    yield service(
        cloud,
        CONTROL,
        "neutron-periodic",
        title="Neutron's periodic work",
        needs=("control/rabbitmq", "schema of neutron", "catalogue", *_SECOND),
    )
    yield service(
        cloud,
        CONTROL,
        "nova-novncproxy",
        title="consoles for browsers",
        needs=(f"cables of {CONTROL}", "schema of nova", *_SECOND),
        works=answers(cloud, layout.NOVNC),
    )


# a small question that goes through token, policy and database, and who asks it
_PROBES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    # as a user: Neutron loads its policies at the first request that needs one (an administrator's question does
    # not), and refuses what arrives meanwhile. Nothing of the plan asks Neutron before this probe has.
    "neutron-api": (DEMO, lambda api: api.network.get("/security-groups?limit=1&fields=id")),
    "nova-api": (ADMIN, lambda api: api.compute.get("/servers?limit=1")),
    "glance": (ADMIN, lambda api: api.image.get("/images?limit=1")),
    "placement": (ADMIN, lambda api: api.placement.get("/resource_providers")),
}


def _serves(cloud: Deployment, name: str, port: int) -> Check:
    """The API answers, and answers a question that only a whole service can answer."""
    listens = answers(cloud, port)
    probe = _PROBES.get(name)

    def check() -> None:
        listens()
        if probe is None:
            return
        who, ask = probe
        with connected(cloud, who) as api:
            status = ask(api).status_code
        if status != http.HTTPStatus.OK:
            raise NotYet(f"{name} answers {status}")

    return check


def _catalogue(cloud: Deployment) -> Step:
    """Nova and Neutron read the catalogue once, when they start: it is there before any of them.

    Looked at in the database, so that a start with a full catalogue need not wait for Keystone.
    """

    def apply() -> None:
        wait_until(answers(cloud, layout.IDENTITY), 90)
        with connected(cloud) as api:
            _fill(cloud, api)
        forget()

    return Step(
        name="catalogue",
        title=f"service users {', '.join(USERS)}; endpoints; project and user demo",
        needs=("schema of keystone", f"cables of {OUTSIDE}", f"cables of {CONTROL}"),
        check=lambda: _complete(cloud),
        apply=apply,
        log=cloud.layout.log(CONTROL) / "keystone.log",
    )


def _complete(cloud: Deployment) -> None:
    users = {row[0] for row in query(cloud, "SELECT name FROM keystone.local_user")}
    kinds = {row[0] for row in query(cloud, "SELECT type FROM keystone.service")}
    if missing := ({*USERS, "demo"} - users) | (set(_SERVICES) - kinds):
        raise NotYet(f"Keystone lacks {', '.join(sorted(missing))}")
    ends = "SELECT s.type FROM keystone.endpoint e JOIN keystone.service s ON e.service_id = s.id"
    faces = [row[0] for row in query(cloud, ends)]
    if few := [kind for kind in _SERVICES if faces.count(kind) < len(_FACES)]:
        raise NotYet(f"the catalogue lacks endpoints of {', '.join(few)}")
    demo = "SELECT user_id FROM keystone.local_user WHERE name = 'demo'"
    if not query(cloud, f"SELECT 1 FROM keystone.assignment WHERE actor_id = ({demo})"):  # noqa: S608 - constants
        raise NotYet("user demo has no role")


def _fill(cloud: Deployment, api: Any) -> None:
    """Everything that is missing; what is there stays as it is. The order matters for `_complete`: demo is last."""
    identity = api.identity
    domain = "default"

    def project(name: str) -> Any:
        found = identity.find_project(name, domain_id=domain)
        return found or identity.create_project(name=name, domain_id=domain)

    def user(name: str) -> Any:
        found = identity.find_user(name, domain_id=domain)
        password = cloud.secrets.password(f"user {name}")
        return found or identity.create_user(name=name, domain_id=domain, password=password)

    def role(name: str) -> Any:
        return identity.find_role(name) or identity.create_role(name=name)

    service_project = project("service")
    for name in USERS:
        someone = user(name)
        for granted in ("admin", "service"):
            identity.assign_project_role_to_user(service_project, someone, role(granted))
    for kind, (name, url) in _SERVICES.items():
        found = next((s for s in identity.services() if s.type == kind), None)
        entry = found or identity.create_service(type=kind, name=name)
        known = {e.interface for e in identity.endpoints(service_id=entry.id)}
        for face in _FACES:
            if face not in known:
                identity.create_endpoint(service_id=entry.id, interface=face, url=url, region_id=REGION)
    identity.assign_project_role_to_user(project("demo"), user("demo"), role("member"))
