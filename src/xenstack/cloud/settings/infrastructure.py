"""MariaDB and RabbitMQ: small, private, and listening only where someone has to reach them."""

from xenstack.cloud import layout
from xenstack.cloud.box import Bind
from xenstack.cloud.layout import CONTROL, Layout
from xenstack.cloud.secrets import Secrets
from xenstack.cloud.service import Service
from xenstack.cloud.settings.ini import write
from xenstack.cloud.settings.openstack import DATABASES

MARIADB_SOCKET = "/run/mysqld/mysqld.sock"

# One operator's cloud: no replication, so no binary log; a crash of the machine may lose a second of writes.
_MARIADB = f"""[mariadbd]
user=mysql
datadir=/var/lib/mysql
socket={MARIADB_SOCKET}
pid-file=/run/mysqld/mysqld.pid
bind-address=127.0.0.1
port={layout.DATABASE}
skip-log-bin
skip-name-resolve
innodb_buffer_pool_size=64M
innodb_log_file_size=32M
innodb_flush_log_at_trx_commit=2
key_buffer_size=1M
aria_pagecache_buffer_size=1M
performance_schema=OFF
max_connections=400
character-set-server=utf8mb4
collation-server=utf8mb4_general_ci
"""


def binds(where: Layout) -> tuple[Bind, ...]:
    """The database keeps its files; the bus does not: after a start every queue is declared anew anyway."""
    return (Bind(where.data(CONTROL) / "mysql", "/var/lib/mysql", owner="mysql"),)


def mariadb(where: Layout) -> Service:
    conf = write(where.etc("mariadb") / "my.cnf", _MARIADB)
    # made on first need, so that a kill in the middle of it is mended by the next start: the marker comes last
    script = (
        "mkdir -p /run/mysqld && chown mysql: /run/mysqld\n"
        "if [ ! -e /var/lib/mysql/.complete ]; then\n"
        "  rm -rf /var/lib/mysql/*\n"
        f"  mariadb-install-db --defaults-file={conf} --auth-root-authentication-method=socket --skip-test-db\n"
        "  touch /var/lib/mysql/.complete\n"
        "fi\n"
        f"exec mariadbd --defaults-file={conf}\n"
    )
    first = write(where.etc("mariadb") / "run", script)
    return Service(name="mariadb", box=CONTROL, command=("sh", "-e", str(first)), config=(conf, first), stop_s=15)


def database_script(secrets: Secrets) -> str:
    """SQL that makes every database and user; it may run again and then only sets the passwords anew."""
    lines = []
    for user in sorted(set(DATABASES.values())):
        for host in ("127.0.0.1", "localhost"):
            lines.append(f"CREATE USER IF NOT EXISTS '{user}'@'{host}';")
            lines.append(f"ALTER USER '{user}'@'{host}' IDENTIFIED BY '{secrets.password(f'database {user}')}';")
    for name, user in DATABASES.items():
        lines.append(f"CREATE DATABASE IF NOT EXISTS {name};")
        lines += [f"GRANT ALL ON {name}.* TO '{user}'@'{host}';" for host in ("127.0.0.1", "localhost")]
    return "\n".join(lines) + "\n"


def rabbitmq(where: Layout, secrets: Secrets) -> Service:
    """One scheduler thread and no busy waiting: RabbitMQ is idle most of the time, on a machine with few cores."""
    etc = where.etc("rabbitmq")
    conf = write(
        etc / "rabbitmq.conf",
        f"listeners.tcp.1 = {layout.CONTROL_ADDRESS}:{layout.BUS}\n"
        f"default_user = openstack\ndefault_pass = {secrets.password('bus')}\n"
        "loopback_users = none\nlog.console = true\nlog.console.level = warning\nlog.file = false\n"
        "vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 100MB\n",
    )
    plugins = write(etc / "enabled_plugins", "[].\n")
    script = write(
        etc / "run",
        "install -d -o rabbitmq -m 0700 /run/rabbitmq /run/rabbitmq/etc /run/rabbitmq/log\n"
        f"install -o rabbitmq -m 0600 {conf} {plugins} /run/rabbitmq/etc\n"
        "exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups /usr/lib/rabbitmq/bin/rabbitmq-server\n",
    )
    env = {
        "HOME": "/run/rabbitmq",
        "RABBITMQ_NODENAME": "rabbit@localhost",
        "RABBITMQ_CONFIG_FILE": "/run/rabbitmq/etc/rabbitmq.conf",
        "RABBITMQ_ENABLED_PLUGINS_FILE": "/run/rabbitmq/etc/enabled_plugins",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_MNESIA_BASE": "/run/rabbitmq/mnesia",
        "RABBITMQ_LOG_BASE": "/run/rabbitmq/log",
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": "/run/rabbitmq/pid",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
        ),
    }
    files = (conf, plugins, script)
    return Service(name="rabbitmq", box=CONTROL, command=("sh", "-e", str(script)), env=env, config=files, stop_s=15)
