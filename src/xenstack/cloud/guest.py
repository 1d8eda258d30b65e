"""The demo's guests as an operator meets them: by name, address, ping and ssh, from the outside."""

import json
from collections.abc import Sequence
from typing import Any

from xenstack.cloud.api import DEMO, connected
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import OUTSIDE
from xenstack.cloud.step import Hopeless, NotYet

DEMO_SERVER, _IMAGE, _FLAVOR, _KEY, _NETWORK, _PUBLIC = "demo-1", "guest", "small", "demo", "private", "public"

_WAKE = {"SHUTOFF": "start_server", "PAUSED": "unpause_server", "SUSPENDED": "resume_server"}


def inactive(api: Any) -> str | None:
    """Why the demo server is not up in Nova's eyes; None when it is."""
    server = api.compute.find_server(DEMO_SERVER)
    if not server:
        return f"there is no server {DEMO_SERVER}"
    server = api.compute.get_server(server)
    if server.status == "ACTIVE" and server.power_state == 1:
        return None
    fault = (getattr(server, "fault", None) or {}).get("message", "")
    if server.status == "ERROR":
        raise Hopeless(f"Nova gave {DEMO_SERVER} up: {fault}")
    doing = f", {server.task_state}" if server.task_state else ""
    return f"{DEMO_SERVER} is {server.status}{doing}, power state {server.power_state}"


def revive(api: Any) -> None:
    """Bring the demo server up: made when absent, woken when it sleeps, made anew when Nova gave it up."""
    server = api.compute.find_server(DEMO_SERVER)
    if server and server.status == "ERROR":
        api.compute.delete_server(server)
        api.compute.wait_for_delete(server, wait=60)
        server = None
    if not server:
        create(api, DEMO_SERVER)
    elif not server.task_state and (wake := _WAKE.get(server.status)):
        getattr(api.compute, wake)(server)


def create(api: Any, name: str, **values: Any) -> Any:
    """Ask for a server like the demo's; `values` replace or add what is asked."""
    wanted = {
        "image_id": api.image.find_image(_IMAGE).id,
        "flavor_id": api.compute.find_flavor(_FLAVOR).id,
        "networks": [{"uuid": api.network.find_network(_NETWORK).id}],
        "key_name": _KEY,
        **values,
    }
    return api.compute.create_server(name=name, **wanted)


def floating_address(api: Any, name: str) -> str | None:
    """The floating address of a server of this project."""
    server = api.compute.find_server(name)
    ports = {p.id for p in api.network.ports(device_id=server.id)} if server else set()
    return next((str(ip.floating_ip_address) for ip in api.network.ips() if ip.port_id in ports), None)


def fixed_address(api: Any, name: str) -> str | None:
    server = api.compute.find_server(name)
    ports = list(api.network.ports(device_id=server.id)) if server else []
    return str(ports[0].fixed_ips[0]["ip_address"]) if ports and ports[0].fixed_ips else None


def homeless(api: Any) -> str | None:
    return None if floating_address(api, DEMO_SERVER) else f"{DEMO_SERVER} has no floating IP"


def give_address(api: Any, name: str = DEMO_SERVER) -> None:
    """A floating IP for the server's first port; one that is free is used again."""
    port = next(iter(api.network.ports(device_id=api.compute.find_server(name).id)))
    free = next((ip for ip in api.network.ips() if not ip.port_id), None)
    if free:
        api.network.update_ip(free, port_id=port.id)
    else:
        public = api.network.find_network(_PUBLIC)
        api.network.create_ip(floating_network_id=public.id, port_id=port.id)


def address(cloud: Deployment, name: str) -> str:
    """The floating address of a demo server. Raises NotYet when there is no such server, or none with an address."""
    with connected(cloud, DEMO) as api:
        found = floating_address(api, name)
    if not found:
        raise NotYet(f"there is no server {name!r} with a floating IP in project demo")
    return found


def pings(cloud: Deployment, name: str) -> None:
    """Raises NotYet when the guest does not answer a ping within a second."""
    where = address(cloud, name)
    if cloud.boxes[OUTSIDE].run("ping", "-c1", "-W1", "-n", where, accept=(0, 1, 2)).status:
        raise NotYet(f"{name} does not answer ping at {where}")


def lets_in(cloud: Deployment, name: str) -> None:
    """Raises NotYet when a login with the demo key does not work."""
    done = cloud.boxes[OUTSIDE].run(*ssh(cloud, address(cloud, name)), "true", accept=range(256), timeout_s=30)
    if done.status:
        raise NotYet(f"ssh to {name}: {done.stderr.strip()[-300:]}")


def user(cloud: Deployment) -> str:
    """The user of our guest image, from its manifest."""
    manifest = cloud.layout.image / "manifest.json"
    return str(json.loads(manifest.read_text())["user"])


def ssh(cloud: Deployment, where: str, options: Sequence[str] = ("-o", "BatchMode=yes")) -> list[str]:
    """The words of a login. Host keys are not kept: a guest that is made anew has a new one at the same address."""
    return [
        *("ssh", "-i", str(cloud.layout.ssh_key), "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10"),
        *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
        *options,
        f"{user(cloud)}@{where}",
    ]
