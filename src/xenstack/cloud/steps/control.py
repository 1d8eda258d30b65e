"""The control plane: Keystone first, then the services that check their tokens with it."""

from collections.abc import Iterator
from typing import Any

from xenstack.cloud import layout
from xenstack.cloud.api import checked, done
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL, CONTROL_ADDRESS, OUTSIDE
from xenstack.cloud.settings.openstack import REGION, USERS
from xenstack.cloud.step import Step
from xenstack.cloud.steps.services import answers, consumes, service

_SERVICES = {  # kind of service: its name and URL
    "image": ("glance", f"http://{CONTROL_ADDRESS}:{layout.IMAGE}"),
    "placement": ("placement", f"http://{CONTROL_ADDRESS}:{layout.PLACEMENT}"),
    "compute": ("nova", f"http://{CONTROL_ADDRESS}:{layout.COMPUTE}/v2.1"),
    "network": ("neutron", f"http://{CONTROL_ADDRESS}:{layout.NETWORKING}"),
}


def steps(cloud: Deployment) -> Iterator[Step]:
    def api(name: str, title: str, port: int, schema: str, *needs: str) -> Step:
        reached = (f"cables of {CONTROL}", f"schema of {schema}", *needs)
        return service(cloud, CONTROL, name, title=title, needs=reached, works=answers(cloud, port))

    def worker(name: str, title: str, queue: str, schema: str) -> Step:
        needs = (f"cables of {CONTROL}", "control/rabbitmq", f"schema of {schema}")
        return service(cloud, CONTROL, name, title=title, needs=needs, works=consumes(cloud, queue))

    yield api("keystone", "Keystone: who is who, and where each API is", layout.IDENTITY, "keystone")
    yield worker("neutron-rpc", "Neutron's server towards its agents", "q-plugin", "neutron")
    yield api("neutron-api", "Neutron: networks, ports, routers, security groups", layout.NETWORKING, "neutron")
    yield api("placement", "Placement: what each host has left", layout.PLACEMENT, "placement")
    yield worker("nova-conductor", "Nova's only way to its database for computes", "conductor", "nova")
    yield api("nova-api", "Nova: servers", layout.COMPUTE, "nova")
    yield worker("nova-scheduler", "Nova's choice of a host", "scheduler", "nova")
    yield api("glance", "Glance: images", layout.IMAGE, "glance")
    yield api("nova-metadata", "Nova's metadata for guests", layout.METADATA, "nova")
    yield service(
        cloud,
        CONTROL,
        "neutron-periodic",
        title="Neutron's periodic work",
        needs=("control/rabbitmq", "schema of neutron"),
    )
    yield service(
        cloud,
        CONTROL,
        "nova-novncproxy",
        title="consoles for browsers",
        needs=(f"cables of {CONTROL}", "schema of nova"),
        works=answers(cloud, layout.NOVNC),
    )
    yield Step(
        name="catalogue",
        title=f"service users {', '.join(USERS)}; endpoints; project and user demo",
        needs=("control/keystone", f"cables of {OUTSIDE}"),
        check=checked(cloud, _lacks),
        apply=done(cloud, lambda api: _fill(cloud, api)),
        log=cloud.layout.log(CONTROL) / "keystone.log",
    )


def _lacks(api: Any) -> str | None:
    identity = api.identity
    users = {user.name for user in identity.users()}
    types = {service.type for service in identity.services()}
    faces = len(list(identity.endpoints(interface="internal")))
    if missing := {*USERS, "demo"} - users:
        return f"Keystone lacks the users {', '.join(sorted(missing))}"
    if missing := set(_SERVICES) - types:
        return f"the catalogue lacks {', '.join(sorted(missing))}"
    if faces < len(_SERVICES) + 1:
        return "the catalogue lacks endpoints"
    demo = identity.find_user("demo")
    project = identity.find_project("demo")
    if not project or not list(identity.role_assignments(user_id=demo.id, scope_project_id=project.id)):
        return "user demo has no role in project demo"
    return None


def _fill(cloud: Deployment, api: Any) -> None:
    """Everything that is missing; what is there stays as it is. The order matters for `_lacks`: demo comes last."""
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
        for face in ("public", "internal", "admin"):
            if face not in known:
                identity.create_endpoint(service_id=entry.id, interface=face, url=url, region_id=REGION)
    identity.assign_project_role_to_user(project("demo"), user("demo"), role("member"))
