"""What the OpenStack services have in common: how they reach the database, the bus, Keystone, and each other."""

from pathlib import Path

from xenstack.cloud import layout
from xenstack.cloud.layout import Layout
from xenstack.cloud.secrets import Secrets
from xenstack.cloud.settings.ini import Section

REGION = "RegionOne"
IDENTITY_URL = f"http://{layout.CONTROL_ADDRESS}:{layout.IDENTITY}/v3"
DATABASES = {  # database: its user
    "keystone": "keystone",
    "glance": "glance",
    "placement": "placement",
    "nova_api": "nova",
    "nova": "nova",
    "nova_cell0": "nova",
    "neutron": "neutron",
}
USERS = ("glance", "placement", "nova", "neutron")  # the service users in Keystone

RABBIT: Section = {"rabbit_quorum_queue": False, "heartbeat_in_pthread": False}


def database(secrets: Secrets, name: str) -> Section:
    """A [database] section. The pools are small: one worker per service, and one operator."""
    user = DATABASES[name]
    password = secrets.password(f"database {user}")
    url = f"mysql+pymysql://{user}:{password}@127.0.0.1:{layout.DATABASE}/{name}?charset=utf8mb4"
    return {"connection": url, "max_pool_size": 5, "max_overflow": 20}


def bus_url(secrets: Secrets) -> str:
    return f"rabbit://openstack:{secrets.password('bus')}@{layout.CONTROL_ADDRESS}:{layout.BUS}/"


def login(secrets: Secrets, user: str) -> Section:
    """How a service speaks as itself."""
    return {
        "auth_type": "password",
        "auth_url": IDENTITY_URL,
        "username": user,
        "password": secrets.password(f"user {user}"),
        "project_name": "service",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
        "region_name": REGION,
    }


def token_check(secrets: Secrets, user: str) -> Section:
    """[keystone_authtoken]: how a service checks the tokens it is shown."""
    return {
        **login(secrets, user),
        "www_authenticate_uri": IDENTITY_URL,
        "service_token_roles": "service",
        "service_token_roles_required": True,
        "memcache_security_strategy": "None",
    }


def locks(box: str) -> Section:
    """[oslo_concurrency]. Locks die with the box."""
    return {"lock_path": f"/run/lock/{box}"}


def paste(where: Layout, *names: str) -> Path:
    """A file that a package of the virtual environment brought into its etc folder."""
    return where.venv.joinpath("etc", *names)


def forking(where: Layout, name: str) -> tuple[str, ...]:
    """The start of a daemon that forks workers (see `xenstack.cloud.frozen`)."""
    return (where.program("python"), "-m", "xenstack.cloud.frozen", where.program(name))
