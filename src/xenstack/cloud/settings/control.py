"""The control plane: Keystone, Glance, Placement, Nova and Neutron's servers, one worker each.

Each function writes the files of one project. The APIs run in uWSGI as released: no server of their own is left.
"""

from pathlib import Path

from xenstack.cloud import layout
from xenstack.cloud.layout import CONTROL, CONTROL_ADDRESS, Layout
from xenstack.cloud.secrets import Secrets
from xenstack.cloud.service import Service
from xenstack.cloud.settings.ini import Section, ini, write
from xenstack.cloud.settings.openstack import RABBIT, bus_url, database, forking, locks, login, paste, token_check

_THREADS = 4  # requests that one API answers at the same time


def keystone(where: Layout, secrets: Secrets) -> Service:
    etc = where.etc("keystone")
    conf = ini(
        etc / "keystone.conf",
        {
            "DEFAULT": {"use_stderr": True},
            "database": database(secrets, "keystone"),
            "token": {"provider": "fernet"},
            # a check of a service user's password runs at each token; the default of 12 costs 0.3 s of a core
            "identity": {"password_hash_rounds": 4},
            "cache": {"enabled": True, "backend": "oslo_cache.dict"},
            "fernet_tokens": {"key_repository": where.data(CONTROL) / "keystone" / "fernet"},
            "fernet_receipts": {"key_repository": where.data(CONTROL) / "keystone" / "fernet"},
            "credential": {"key_repository": where.data(CONTROL) / "keystone" / "credential"},
        },
    )
    env = {"OS_KEYSTONE_CONFIG_FILES": str(conf)}
    return _api(where, "keystone", "keystone.wsgi.api", layout.IDENTITY, env, (conf,))


def glance(where: Layout, secrets: Secrets) -> Service:
    etc, data = where.etc("glance"), where.data(CONTROL) / "glance"
    conf = ini(
        etc / "glance-api.conf",
        {
            "DEFAULT": {"enabled_backends": "file:file", "use_stderr": True},
            "database": database(secrets, "glance"),
            "keystone_authtoken": token_check(secrets, "glance"),
            "paste_deploy": {"flavor": "keystone", "config_file": paste(where, "glance", "glance-api-paste.ini")},
            "glance_store": {"default_backend": "file"},
            "file": {"filesystem_store_datadir": data / "images"},
            "os_glance_staging_store": {"filesystem_store_datadir": data / "staging"},
            "os_glance_tasks_store": {"filesystem_store_datadir": data / "tasks"},
            "image_format": {"disk_formats": ("raw", "qcow2", "vhd", "iso", "ari", "aki", "ami")},
            "oslo_concurrency": locks("glance"),
        },
    )
    env = {"OS_GLANCE_CONFIG_DIR": str(etc)}
    return _api(where, "glance", "glance.wsgi.api", layout.IMAGE, env, (conf,))


def placement(where: Layout, secrets: Secrets) -> Service:
    conf = ini(
        where.etc("placement") / "placement.conf",
        {
            "DEFAULT": {"use_stderr": True},
            "api": {"auth_strategy": "keystone"},
            "placement_database": database(secrets, "placement"),
            "keystone_authtoken": token_check(secrets, "placement"),
        },
    )
    env = {"OS_PLACEMENT_CONFIG_DIR": str(conf.parent)}
    return _api(where, "placement", "placement.wsgi.api", layout.PLACEMENT, env, (conf,))


def nova(where: Layout, secrets: Secrets) -> tuple[Service, ...]:
    conf = ini(where.etc("nova") / "nova.conf", {**nova_common(secrets), **_nova_control(where, secrets)})
    # Nova's WSGI start-up insists on finding this file beside nova.conf
    source = paste(where, "nova", "api-paste.ini")  # absent where a cloud is only described
    pipelines = write(conf.parent / "api-paste.ini", source.read_text() if source.exists() else "")
    env = {"OS_NOVA_CONFIG_DIR": str(conf.parent)}

    def daemon(name: str) -> Service:
        # novncproxy forks for each connection and shares nothing for long
        start = (where.program(name),) if name == "nova-novncproxy" else forking(where, name)
        command = (*start, "--config-file", str(conf))
        folders = (where.data(CONTROL) / "nova",)
        return Service(name=name, box=CONTROL, command=command, config=(conf,), folders=folders)

    return (
        _api(where, "nova-api", "nova.wsgi.osapi_compute", layout.COMPUTE, env, (conf, pipelines)),
        _api(where, "nova-metadata", "nova.wsgi.metadata", layout.METADATA, env, (conf, pipelines)),
        daemon("nova-conductor"),
        daemon("nova-scheduler"),
        daemon("nova-novncproxy"),
    )


def nova_common(secrets: Secrets) -> dict[str, Section]:
    """What nova.conf says in every box."""
    return {
        "oslo_messaging_rabbit": RABBIT,
        "keystone_authtoken": token_check(secrets, "nova"),
        "service_user": {**login(secrets, "nova"), "send_service_user_token": True},
        "placement": login(secrets, "placement"),
        "glance": {**login(secrets, "glance"), "endpoint_override": f"http://{CONTROL_ADDRESS}:{layout.IMAGE}"},
        "neutron": {
            **login(secrets, "neutron"),
            "service_metadata_proxy": True,
            "metadata_proxy_shared_secret": secrets.password("metadata"),
        },
        "spice": {"enabled": False},
        "oslo_concurrency": locks("nova"),
    }


def _nova_control(where: Layout, secrets: Secrets) -> dict[str, Section]:
    return {
        "DEFAULT": {
            "my_ip": CONTROL_ADDRESS,
            "host": CONTROL,
            "transport_url": bus_url(secrets),
            "state_path": where.data(CONTROL) / "nova",
            "allow_resize_to_same_host": True,
            "service_down_time": 60,
            "use_stderr": True,
            "web": "",  # browsers bring their own noVNC; the proxy speaks its protocol on /
        },
        "api": {"auth_strategy": "keystone"},
        "wsgi": {"api_paste_config": where.etc("nova") / "api-paste.ini"},
        "api_database": database(secrets, "nova_api"),
        "database": database(secrets, "nova"),
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 15},
        "conductor": {"workers": 1},
        "filter_scheduler": {"track_instance_changes": False},
        "vnc": {"enabled": True, "novncproxy_host": CONTROL_ADDRESS, "novncproxy_port": layout.NOVNC},
        "console": {"allowed_origins": CONTROL_ADDRESS},
    }


def neutron(where: Layout, secrets: Secrets) -> tuple[Service, ...]:
    etc = where.etc("neutron")
    conf = ini(etc / "neutron.conf", _neutron_server(where, secrets))
    ml2 = ini(etc / "ml2_conf.ini", _ml2())
    env = {"OS_NEUTRON_CONFIG_DIR": str(etc), "OS_NEUTRON_CONFIG_FILES": f"{conf.name};{ml2.name}"}
    files = ("--config-file", str(conf), "--config-file", str(ml2))

    def daemon(name: str, program: str) -> Service:
        return Service(name=name, box=CONTROL, command=(*forking(where, program), *files), config=(conf, ml2))

    return (
        _api(where, "neutron-api", "neutron.wsgi.api", layout.NETWORKING, env, (conf, ml2)),
        daemon("neutron-rpc", "neutron-rpc-server"),
        daemon("neutron-periodic", "neutron-periodic-workers"),
    )


def _neutron_server(where: Layout, secrets: Secrets) -> dict[str, Section]:
    return {
        "DEFAULT": {
            "host": CONTROL,
            "core_plugin": "ml2",
            "service_plugins": "router",
            "transport_url": bus_url(secrets),
            "state_path": where.data(CONTROL) / "neutron",
            "auth_strategy": "keystone",
            "api_paste_config": paste(where, "neutron", "api-paste.ini"),
            "api_workers": 1,
            "rpc_workers": 1,
            "rpc_state_report_workers": 0,
            "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True,
            "agent_down_time": 40,
            "dhcp_agents_per_network": 1,
            "use_stderr": True,
        },
        "database": database(secrets, "neutron"),
        "keystone_authtoken": token_check(secrets, "neutron"),
        "nova": login(secrets, "nova"),
        "placement": login(secrets, "placement"),
        "oslo_messaging_rabbit": RABBIT,
        "oslo_concurrency": locks("neutron"),
    }


def _ml2() -> dict[str, Section]:
    return {
        "ml2": {
            "type_drivers": ("flat", "vlan", "vxlan"),
            "tenant_network_types": "vxlan",
            "mechanism_drivers": "openvswitch",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": ("tenant", "public")},
        "ml2_type_vlan": {"network_vlan_ranges": "tenant:100:200"},
        "ml2_type_vxlan": {"vni_ranges": "1:1000"},
        "securitygroup": {"enable_security_group": True, "firewall_driver": "openvswitch"},
    }


def _api(where: Layout, name: str, module: str, port: int, env: dict[str, str], config: tuple[Path, ...]) -> Service:
    """A WSGI application in uWSGI, as its project documents it."""
    command = (
        *(where.program("uwsgi"), "--http-socket", f"{CONTROL_ADDRESS}:{port}", "--module", f"{module}:application"),
        *("--virtualenv", str(where.venv), "--processes", "1", "--threads", str(_THREADS), "--enable-threads"),
        *("--thunder-lock", "--buffer-size", "65535", "--http-chunked-input", "--add-header", "Connection: close"),
        *("--die-on-term", "--need-app", "--disable-logging", "--no-orphans", "--procname-prefix", f"{name} "),
    )
    return Service(name=name, box=CONTROL, command=command, env=env, config=config)
