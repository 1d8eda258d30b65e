"""The database and the bus, and the schema of every project, each made by the project's own tool."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xenstack.cloud import layout
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import CONTROL
from xenstack.cloud.settings.infrastructure import MARIADB_SOCKET, database_script
from xenstack.cloud.settings.openstack import DATABASES
from xenstack.cloud.step import NotYet, Step
from xenstack.cloud.steps.services import service

# project: its package, and the databases it keeps
_PROJECTS = {  # in the order in which they are begun: everyone waits for Keystone, and Nova's takes longest
    "keystone": ("keystone", ("keystone",)),
    "nova": ("nova", ("nova_api", "nova_cell0", "nova")),
    "neutron": ("neutron", ("neutron",)),
    "placement": ("openstack-placement", ("placement",)),
    "glance": ("glance", ("glance",)),
}


def steps(cloud: Deployment) -> Iterator[Step]:
    cables = f"cables of {CONTROL}"
    yield service(
        cloud, CONTROL, "mariadb", title="MariaDB, private to the control plane", works=lambda: _answers(cloud)
    )
    yield service(
        cloud,
        CONTROL,
        "rabbitmq",
        title="RabbitMQ, the bus between OpenStack's services",
        needs=(cables,),
        works=lambda: _bus_answers(cloud),
    )
    yield Step(
        name="databases",
        title=f"a database for each of {', '.join(DATABASES)}, a user for each project",
        needs=("control/mariadb",),
        check=lambda: _databases(cloud),
        apply=lambda: _create(cloud),
        log=cloud.layout.log(CONTROL) / "mariadb.log",
    )
    for project in _PROJECTS:
        yield _schema(cloud, project)


def query(cloud: Deployment, statement: str) -> list[tuple[Any, ...]]:
    """Ask MariaDB as root, through its socket. Raises NotYet when it does not answer or refuses."""
    import pymysql

    socket = cloud.boxes[CONTROL].path(MARIADB_SOCKET)
    try:
        with pymysql.connect(unix_socket=str(socket), user="root", connect_timeout=5) as db, db.cursor() as cursor:
            cursor.execute(statement)
            rows = list(cursor.fetchall())
            db.commit()
            return rows
    except pymysql.MySQLError as why:
        raise NotYet(f"MariaDB: {why}") from why


def _answers(cloud: Deployment) -> None:
    query(cloud, "SELECT 1")


def _bus_answers(cloud: Deployment) -> None:
    from amqp import Connection
    from amqp.exceptions import AMQPError

    from xenstack.cloud import netns

    with netns.inside(cloud.boxes[CONTROL].running()):
        try:
            password = cloud.secrets.password("bus")
            address = f"{layout.CONTROL_ADDRESS}:{layout.BUS}"
            with Connection(address, userid="openstack", password=password, connect_timeout=5):
                return
        except (OSError, AMQPError) as why:
            raise NotYet(f"RabbitMQ: {why}") from why


def _databases(cloud: Deployment) -> None:
    found = {row[0] for row in query(cloud, "SHOW DATABASES")}
    users = {row[0] for row in query(cloud, "SELECT user FROM mysql.user")}
    if missing := (set(DATABASES) - found) | (set(DATABASES.values()) - users):
        raise NotYet(f"MariaDB lacks {', '.join(sorted(missing))}")


def _create(cloud: Deployment) -> None:
    for statement in database_script(cloud.secrets).splitlines():
        query(cloud, statement)


def _schema(cloud: Deployment, project: str) -> Step:
    package, databases = _PROJECTS[project]
    wanted = _installed(package)
    stamp = cloud.layout.data(CONTROL) / "schema" / project

    def check() -> None:
        """The stamp names the version whose tool finished; the tables themselves must be there too."""
        if not stamp.exists() or stamp.read_text() != wanted:
            raise NotYet(f"the schema of {project} was not made by {package} {wanted}")
        for name in databases:
            if not query(cloud, f"SELECT 1 FROM {name}.alembic_version"):  # noqa: S608 - our own constants
                raise NotYet(f"database {name} is empty")

    def apply() -> None:
        for command in _commands(cloud, project):
            # no state of a service is touched: a tool that was cut off is run again from its start
            cloud.boxes[CONTROL].run(*command, env=_environment(cloud), timeout_s=300)
        if project == "nova":
            _cell(cloud)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(wanted)

    return Step(
        name=f"schema of {project}",
        title=f"{', '.join(databases)}: tables of {package} {wanted}",
        needs=("databases",),
        check=check,
        apply=apply,
        log=cloud.layout.log(CONTROL) / "mariadb.log",
        advice="the tool's own words are above; `./xenstack up` runs it again",
    )


def _installed(package: str) -> str:
    """The version that is installed; a cloud may be described before anything is."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(to be installed)"


def _environment(cloud: Deployment) -> dict[str, str]:
    """keystone-manage bootstrap takes the password from here: a command line could be read by anyone."""
    return {"OS_BOOTSTRAP_PASSWORD": cloud.secrets.password("user admin")}


def _commands(cloud: Deployment, project: str) -> list[tuple[str, ...]]:
    where = cloud.layout

    def tool(program: str, *files: Path) -> tuple[str, ...]:
        options = [word for file in files for word in ("--config-file", str(file))]
        return (where.program(program), *options)

    if project == "glance":
        return [(*tool("glance-manage", where.etc("glance") / "glance-api.conf"), "db_sync")]
    if project == "placement":
        return [(*tool("placement-manage", where.etc("placement") / "placement.conf"), "db", "sync")]
    if project == "neutron":
        etc = where.etc("neutron")
        files = (etc / "neutron.conf", etc / "ml2_conf.ini")
        return [(*tool("neutron-db-manage", *files), "upgrade", "heads")]
    if project == "nova":
        manage = tool("nova-manage", where.etc("nova") / "nova.conf")
        return [(*manage, "api_db", "sync"), (*manage, "cell_v2", "map_cell0"), (*manage, "db", "sync")]
    assert project == "keystone"
    return [(*tool("keystone-manage", where.etc("keystone") / "keystone.conf"), *words) for words in _KEYSTONE]


_URL = f"http://{layout.CONTROL_ADDRESS}:{layout.IDENTITY}/v3"
_KEYSTONE: tuple[tuple[str, ...], ...] = (
    ("db_sync",),
    ("fernet_setup", "--keystone-user", "root", "--keystone-group", "root"),
    ("credential_setup", "--keystone-user", "root", "--keystone-group", "root"),
    (
        *("bootstrap", "--bootstrap-username", "admin", "--bootstrap-project-name", "admin"),
        *("--bootstrap-role-name", "admin", "--bootstrap-service-name", "keystone"),
        *("--bootstrap-region-id", "RegionOne"),
        *(word for face in ("admin", "public", "internal") for word in (f"--bootstrap-{face}-url", _URL)),
    ),
)


def _cell(cloud: Deployment) -> None:
    """cell1, with the database and the bus of nova.conf; a second one of the same would be refused."""
    if query(cloud, "SELECT 1 FROM nova_api.cell_mappings WHERE name = 'cell1'"):
        return
    conf = str(cloud.layout.etc("nova") / "nova.conf")
    words = (cloud.layout.program("nova-manage"), "--config-file", conf, "cell_v2", "create_cell", "--name", "cell1")
    cloud.boxes[CONTROL].run(*words, timeout_s=120)
