"""A user of project demo at work, through OpenStack's public APIs and the floating IPs: what a test lets him do.

Everything he makes is called `test-…`, and `sweep` removes what an earlier run that was killed has left. Whatever is
made in a `with` block is gone when it is left, also when the test failed.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.cloud.patience import until

from xenstack.cloud import guest, xenapi_call
from xenstack.cloud.api import ADMIN, DEMO, connected
from xenstack.cloud.deployment import Deployment
from xenstack.cloud.layout import OUTSIDE
from xenstack.cloud.step import NotYet
from xenstack.cloud.steps import demo
from xenstack.run import Output

T = TypeVar("T")
PREFIX = "test-"
BUILD_S, BOOT_S, GONE_S, POWER_S = 120.0, 150.0, 60.0, 90.0  # far above what is measured: busy is not broken


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ACTIVE, and where it is."""

    id: str
    name: str
    host: int
    vm_name: str
    port: str
    mac: str
    fixed: str
    floating: str = ""


class Tenant:
    """The user. `ask` runs something with his connection; the rest are words for what tests need often."""

    def __init__(self, cloud: Deployment) -> None:
        self.cloud = cloud

    def ask(self, work: Callable[[Any], T], who: str = DEMO) -> T:
        """What `work` answers when it is given an openstacksdk connection. Raises NotYet for OpenStack's refusals."""
        with connected(self.cloud, who) as api:
            return work(api)

    # -- images

    @contextmanager
    def image(self, name: str, file: Path, disk_format: str, **values: Any) -> Iterator[str]:
        """An uploaded image's id; afterwards neither Glance nor a host's cache has it."""
        made = self.upload(name, file, disk_format, **values)
        try:
            yield made
        finally:
            self.forget_image(made)

    def upload(self, name: str, file: Path, disk_format: str, **values: Any) -> str:
        """Upload a private image as its user does: in two requests, the second with the bytes. Raises NotYet."""
        wanted = {"name": PREFIX + name, "disk_format": disk_format, "container_format": "bare", **values}

        def work(api: Any) -> str:
            made = api.image.post("/images", json=wanted)
            made.raise_for_status()
            image = str(made.json()["id"])
            with file.open("rb") as data:
                headers = {"Content-Type": "application/octet-stream"}
                sent = api.image.put(f"/images/{image}/file", data=data, headers=headers)
            if not sent.ok:
                api.image.delete(f"/images/{image}")
                raise NotYet(f"Glance: {sent.status_code} {sent.text}")
            return image

        return self.ask(work)

    def forget_image(self, image: str) -> None:
        """Delete an image, and what hosts keep of it. No error when it is gone."""
        self.ask(lambda api: api.image.delete_image(image, ignore_missing=True))
        for n in self.cloud.hosts:
            with xenapi_call.session(self.cloud, n) as call:
                for ref, vdi in call("VDI.get_all_records").items():
                    if vdi["other_config"].get("image-id") == image:
                        call("VDI.destroy", ref)

    # -- servers

    @contextmanager
    def server(self, name: str, image: str, *, floating: bool = False, **values: Any) -> Iterator[Server]:
        """A server that is ACTIVE, with a floating IP when asked; it is deleted afterwards."""
        made = self.create(name, image, **values)
        address = ""
        try:
            self.until_status(made, "ACTIVE", BUILD_S)
            if floating:
                address = self.give_address(made)
            yield self.describe(made, address)
        finally:
            if address:
                self.take_address(address)
            self.delete(made)

    def create(self, name: str, image: str, **values: Any) -> str:
        """Ask for a server like the demo's; its id. `values` replace or add what is asked."""
        wanted = {"image_id": image, **values}
        return str(self.ask(lambda api: guest.create(api, PREFIX + name, **wanted)).id)

    def seen(self, server: str, who: str = DEMO) -> Any:
        """The server as the API shows it, None when there is none."""

        def work(api: Any) -> Any:
            answer = api.compute.get(f"/servers/{server}", microversion="2.79")
            return None if answer.status_code == 404 else answer.json()["server"]

        return self.ask(work, who)

    def until_status(self, server: str, status: str, within_s: float) -> Any:
        """Wait for a status with no task left; the server as it then is. Fails at once when it goes to ERROR."""
        found: list[Any] = []

        def reason() -> str | None:
            found[:] = [self.seen(server)]
            assert found[0] is not None, f"server {server} is gone: somebody else deleted it"
            now, task = found[0]["status"], found[0]["OS-EXT-STS:task_state"]
            if now == "ERROR" != status:
                raise AssertionError(f"{found[0]['name']} went to ERROR instead of {status}: {found[0].get('fault')}")
            return None if now == status and task is None else f"{now}, task {task}"

        until(f"server {server} comes to {status}", within_s, reason)
        return found[0]

    def describe(self, server: str, floating: str = "") -> Server:
        """Where the server is and what Neutron gave it."""
        port = self.ask(lambda api: next(iter(api.network.ports(device_id=server))))
        facts = self.seen(server, ADMIN)
        return Server(
            id=server,
            name=facts["name"],
            host=int(facts["OS-EXT-SRV-ATTR:host"].rpartition("-")[2]),
            vm_name=facts["OS-EXT-SRV-ATTR:instance_name"],
            port=port.id,
            mac=port.mac_address,
            fixed=port.fixed_ips[0]["ip_address"],
            floating=floating,
        )

    def act(self, server: Server | str, action: Mapping[str, Any]) -> None:
        """One of Nova's server actions, in the API's own words: {"reboot": {"type": "SOFT"}}. Raises NotYet."""
        where = server if isinstance(server, str) else server.id

        def work(api: Any) -> None:
            answer = api.compute.post(f"/servers/{where}/action", json=dict(action), microversion="2.79")
            if not answer.ok:
                raise NotYet(f"Nova: {answer.status_code} {answer.text}")

        self.ask(work)

    def console(self, server: Server) -> str:
        """The console log as Nova gives it."""

        def work(api: Any) -> str:
            answer = api.compute.post(f"/servers/{server.id}/action", json={"os-getConsoleOutput": {}})
            if not answer.ok:
                raise NotYet(f"Nova: {answer.status_code} {answer.text}")
            return str(answer.json()["output"])

        return self.ask(work)

    def until_login(self, server: Server) -> None:
        """Wait for the login prompt in the console log. It may come before the guest knows its name."""

        def reason() -> str | None:
            log = self.console(server)
            return None if re.search(r"^\S+ login: ", log, re.MULTILINE) else f"the log ends {log[-300:]!r}"

        until(f"{server.name} shows its login prompt", BOOT_S, reason)

    def delete(self, server: str, within_s: float = GONE_S) -> None:
        """Delete a server and wait until Nova does not know it any more. No error when it is gone."""
        self.ask(lambda api: api.compute.delete_server(server, ignore_missing=True))
        self.until_gone(server, within_s)

    def until_gone(self, server: str, within_s: float = GONE_S) -> None:
        """Wait until Nova does not know the server any more."""

        def reason() -> str | None:
            left = self.seen(server)
            return left and f"{left['status']}, task {left['OS-EXT-STS:task_state']}, fault {left.get('fault')}"

        until(f"server {server} is deleted", within_s, reason)

    # -- addresses

    def give_address(self, server: str) -> str:
        """A floating IP of its own for the server's first port."""

        def work(api: Any) -> str:
            port = next(iter(api.network.ports(device_id=server)))
            public = api.network.find_network(demo.PUBLIC)
            made = api.network.create_ip(floating_network_id=public.id, port_id=port.id, description=PREFIX)
            return str(made.floating_ip_address)

        return self.ask(work)

    def take_address(self, address: str) -> None:
        """Release a floating IP."""

        def work(api: Any) -> None:
            for ip in api.network.ips(floating_ip_address=address):
                api.network.delete_ip(ip)

        self.ask(work)

    # -- the guest, from the outside

    def pings(self, address: str) -> bool:
        """Whether one ping from the outside is answered within a second."""
        words = ("ping", "-c1", "-W1", "-n", address)
        return self.cloud.boxes[OUTSIDE].run(*words, accept=(0, 1, 2)).status == 0

    def until_pings(self, server: Server, within_s: float = BOOT_S) -> None:
        until(
            f"{server.name} answers ping at {server.floating}",
            within_s,
            lambda: (
                None if self.pings(server.floating) else f"no answer; its console says:\n{self._last_words(server)}"
            ),
        )

    def ssh(self, server: Server, command: str, *, timeout_s: float = 60) -> Output:
        """Run a command in the guest as root, over the floating IP. Status 255: the login itself failed."""
        alive = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")  # a guest may be reset under a login
        words = guest.ssh(self.cloud, server.floating, ("-o", "BatchMode=yes", *alive))
        words[-1] = f"root@{server.floating}"
        return self.cloud.boxes[OUTSIDE].run(*words, command, accept=range(256), timeout_s=timeout_s)

    def says(self, server: Server, command: str) -> str:
        """What a command in the guest prints. Fails the test when it does not end with 0."""
        done = self.ssh(server, command)
        assert done.status == 0, f"`{command}` in {server.name}: status {done.status}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def until_ssh(self, server: Server, within_s: float = BOOT_S) -> None:
        """Wait for the first login: sshd starts after the network, keys come from the metadata."""

        def reason() -> str | None:
            done = self.ssh(server, "true")
            return None if done.status == 0 else done.stderr.strip()[-300:] or f"status {done.status}"

        until(f"ssh to {server.name} at {server.floating}", within_s, reason)

    def boot_id(self, server: Server) -> str:
        """What the guest's kernel drew at its start: the same means that it was not rebooted."""
        return self.says(server, "cat /proc/sys/kernel/random/boot_id")

    def _last_words(self, server: Server) -> str:
        with suppress(NotYet):
            return self.console(server)[-600:]
        return "(no console log)"

    # -- order

    def sweep(self) -> None:
        """Remove everything that a run which was killed has left."""

        def work(api: Any) -> list[str]:
            for ip in api.network.ips(description=PREFIX):
                api.network.delete_ip(ip)
            return [s.id for s in api.compute.servers(details=False) if s.name.startswith(PREFIX)]

        for server in self.ask(work):
            self.delete(server)
        mine = self.ask(lambda api: api.current_project_id)
        for image in self.ask(lambda api: [i.id for i in api.image.images(owner=mine) if i.name.startswith(PREFIX)]):
            self.forget_image(image)
        self.ask(_sweep_rest)


def _sweep_rest(api: Any) -> None:
    for router in api.network.routers():
        if router.name.startswith(PREFIX):
            remove_router(api, router)
    for port in api.network.ports():
        if port.name.startswith(PREFIX):
            api.network.delete_port(port)
    for network in api.network.networks():
        if network.name.startswith(PREFIX):
            api.network.delete_network(network)
    for group in api.compute.server_groups():
        if group.name.startswith(PREFIX):
            api.compute.delete_server_group(group)
    for group in api.network.security_groups():
        if group.name.startswith(PREFIX):
            api.network.delete_security_group(group)


def remove_router(api: Any, router: Any) -> None:
    """Take a router off its subnets and delete it."""
    for port in api.network.ports(device_id=router.id):
        if port.device_owner == "network:router_interface":
            api.network.remove_interface_from_router(router, port_id=port.id)
    api.network.delete_router(router)


def metadata_of(tenant: Tenant, server: Server) -> dict[str, Any]:
    """What the metadata service tells the guest, asked from inside."""
    found = tenant.says(server, "wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")
    return dict(json.loads(found))
