"""The one host this driver drives: its session, its records, and the SR and network that were chosen at start.

`connect` refuses with one clear sentence (BadConfiguration) when the URL, the user, the SR or the bridge is wrong.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nova import exception
from oslo_log import log as logging

from xenstack.nova import session as sessions
from xenstack.nova.events import Watcher
from xenstack.nova.faults import BadConfiguration, HostUnreachable
from xenstack.nova.records import NULL, Change, Record, Records
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)

_TAKEN = re.compile("xenbr|xapi|vif|tap|eth")  # beginnings that a host keeps for itself; xapi refuses them, too
_NAME_LENGTH = 15  # of a network device, Linux
_SEEN_S = 10.0  # a change made by a call is seen in the event stream long before this


@dataclass(frozen=True)
class Host:
    """Invariant: `ref`, `sr` and `network` are refs that were there when the driver started."""

    session: sessions.Session
    records: Records
    watcher: Watcher
    settings: Any
    ref: str
    sr: str
    network: str

    def call(self, method: str, *arguments: Any) -> Any:
        """One XenAPI message. Raises XenAPIError, or Unreachable when the host does not answer."""
        return self.session.call(method, *arguments, timeout_s=float(self.settings.call_timeout))

    @property
    def record(self) -> Record:
        """The host's own record."""
        return self.records.get("host", self.ref) or {}

    def settle(self) -> None:
        """Return when the records are those of the host again, after the event stream broke."""
        if not self.watcher.in_step and not self.watcher.await_complete(self.settings.login_timeout * 2.0):
            raise HostUnreachable(reason="its event stream is broken and does not come back")

    def vm(self, instance: Any) -> tuple[str, Record]:
        """The instance's VM. Raises InstanceNotFound."""
        self.settle()
        found = self.records.vm_of(instance.uuid)
        if found is None:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return found

    def catch_up(self) -> None:
        """Return when the records show everything that has happened until now, also what no call has told us.

        XenAPI's own way: an injected event has a token, and the stream's tokens are greater once it has come by.
        """
        self.settle()
        token = str(self.call("event.inject", "host", self.ref))
        if not self.records.wait(lambda: self.records.token > token, _SEEN_S):
            LOG.warning("The event stream lags behind")

    def await_state(self, vm: str, *states: str) -> str:
        """Wait until the records show the VM in one of these power states, as a call has just made it.

        A guest may have gone on meanwhile (it powers off as soon as it runs): then its record is read once, and what
        it says is the answer. "" when the VM is gone.
        """
        known = self.records.get("vm", vm) is not None

        def seen() -> bool:
            record = self.records.get("vm", vm)
            return known if record is None else record["power_state"] in states

        if not self.records.wait(seen, _SEEN_S):
            try:
                self.records.put("vm", vm, self.call("VM.get_record", vm))
            except errors.HandleInvalid:
                self.records.put("vm", vm, None)
        record = self.records.get("vm", vm)
        return str(record["power_state"]) if record else ""

    def await_record(self, cls: str, ref: str, *, there: bool) -> None:
        """Wait until the records show an object that was just made, or show it no more. Not seen in time: go on."""
        if not self.records.wait(lambda: (self.records.get(cls, ref) is not None) == there, _SEEN_S):
            LOG.warning("The event stream does not show that %s %s is %s", cls, ref, "there" if there else "gone")


def connect(settings: Any, told: Callable[[Change], None]) -> Host:
    """Log in, start the watcher, choose the SR and the network. Raises BadConfiguration."""
    session = sessions.login(settings)
    try:
        return _choose(session, settings, told)
    except BaseException:
        session.close()
        raise


def _choose(session: sessions.Session, settings: Any, told: Callable[[Change], None]) -> Host:
    records = Records()
    ref = str(session.call("session.get_this_host", session.ref))
    records.host = ref

    watcher = Watcher(session, records, told=told, timeout_s=settings.event_timeout)
    watcher.start()
    try:
        if not watcher.await_complete(settings.login_timeout):
            raise BadConfiguration(reason=f"connection_url {settings.connection_url}: event.from does not answer")
        sr = choose_sr(records, settings.sr_matching_filter, ref)
        network = choose_network(session, records, settings.ovs_integration_bridge)
    except BaseException:
        watcher.stop()
        raise
    return Host(session, records, watcher, settings, ref, sr, network)


def choose_sr(records: Records, wanted: str, host: str) -> str:
    """The ref of the SR that the filter means. Raises BadConfiguration: none, several, or one not plugged here."""
    key, _, value = wanted.partition(":")
    plugged = {pbd["SR"] for _, pbd in records.all("pbd") if pbd["host"] == host and pbd["currently_attached"]}
    disks = {ref: sr for ref, sr in records.all("sr") if sr.get("content_type") not in ("iso", "disk")}
    if key == "default-sr" and value == "true":
        defaults = [pool["default_SR"] for _, pool in records.all("pool")]
        found = [ref for ref in defaults if ref in disks] or [ref for ref in disks if ref in plugged]
    elif key == "uuid":
        found = [ref for ref, sr in disks.items() if sr["uuid"] == value]
    elif key == "name":
        found = [ref for ref, sr in disks.items() if sr["name_label"] == value]
    elif key == "other-config" and "=" in value:
        name, _, text = value.partition("=")
        found = [ref for ref, sr in disks.items() if sr["other_config"].get(name) == text]
    else:
        raise BadConfiguration(reason=f"sr_matching_filter {wanted!r} is none of the forms it may have")
    if len(found) != 1:
        raise BadConfiguration(reason=f"sr_matching_filter {wanted!r} fits {len(found)} SRs of the host, not one")
    if found[0] not in plugged:
        raise BadConfiguration(reason=f"sr_matching_filter {wanted!r}: the SR is not plugged on this host")
    return found[0]


def choose_network(session: sessions.Session, records: Records, bridge: str) -> str:
    """The ref of the network bound to the integration bridge; makes it when there is none.

    It is unmanaged: the bridge is Neutron's, the host neither makes nor removes it. Raises BadConfiguration.
    """
    if _TAKEN.match(bridge) or not 1 <= len(bridge) <= _NAME_LENGTH:
        raise BadConfiguration(reason=f"ovs_integration_bridge {bridge!r} cannot be the name of Neutron's bridge")
    found = sorted(ref for ref, network in records.all("network") if network["bridge"] == bridge)
    if found:
        return found[0]
    wanted = {
        "name_label": f"OpenStack integration bridge {bridge}",
        "name_description": "Guests' interfaces; Neutron wires them",
        "MTU": 1500,
        "other_config": {},
        "bridge": bridge,
        "managed": False,
        "tags": [],
    }
    try:
        return str(session.call("network.create", wanted))
    except errors.XenAPIError as why:
        raise BadConfiguration(reason=f"ovs_integration_bridge {bridge!r}: the host refuses it: {why}") from why


def is_null(ref: str) -> bool:
    """Whether a reference is XenAPI's null."""
    return ref in (NULL, "")
