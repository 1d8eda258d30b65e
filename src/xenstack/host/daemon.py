"""The daemon: the composition root. It alone knows which adapters stand behind the ports.

The order of a start: configuration, database, adapters, the machine's own records, recovery (what the last daemon left
undone is undone, records are made true), and only then the listeners. A start after `kill -9` is the same start.

A stop (SIGTERM, SIGINT) closes the listeners, cancels what can be cancelled, gives running calls ten seconds, and
leaves guests running. What is still under way then is undone by the next start.
"""

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xenstack.host import inventory
from xenstack.host.api import certificate
from xenstack.host.api.console import Tunnels
from xenstack.host.api.dispatch import Dispatcher
from xenstack.host.api.events import Events
from xenstack.host.api.rpc import Rpc
from xenstack.host.api.server import Handlers, Server
from xenstack.host.api.sessions import Password, Sessions
from xenstack.host.api.transfer import Transfers
from xenstack.host.calls.call import Context, load_all
from xenstack.host.config import Config
from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import Hypervisor, HypervisorError
from xenstack.host.network.port import Network
from xenstack.host.operations import recover, repository
from xenstack.host.operations.news import News
from xenstack.host.storage.port import Storage
from xenstack.host.tasks.journal import Journal
from xenstack.host.tasks.queue import Queue
from xenstack.host.tasks.task import Task

log = logging.getLogger(__name__)

_METRICS_S = 15.0
_EXPIRE_S = 60.0


def hypervisor_of(config: Config) -> Hypervisor:
    """The adapter that the configuration names."""
    if config.hypervisor == "libvirt":
        from xenstack.host.hypervisor.libvirt.adapter import LibvirtHypervisor
        from xenstack.host.hypervisor.libvirt.settings import Settings

        return LibvirtHypervisor(Settings(uri=config.libvirt_uri, run_directory=config.run))
    from xenstack.host.hypervisor.simulated import SimulatedHypervisor

    return SimulatedHypervisor(config.state / "simulated" / "hypervisor", memory_total=config.simulated_memory)


def network_of(config: Config) -> Network:
    """The adapter that the configuration names."""
    if config.network == "openvswitch":
        from xenstack.host.network.openvswitch import OpenVSwitch, Settings

        return OpenVSwitch(Settings())
    from xenstack.host.network.simulated import SimulatedNetwork

    return SimulatedNetwork(config.state / "simulated" / "network")


def storage_of(config: Config) -> Storage:
    """The adapter that the configuration names."""
    if config.storage == "simulated":
        from xenstack.host.storage.simulated import SimulatedStorage

        return SimulatedStorage()
    from xenstack.host.storage.file.storage import FileStorage

    return FileStorage(config.sr)


class Daemon:
    """One host. `start`, then `stop`; between them it serves."""

    def __init__(self, config: Config) -> None:
        """Open everything that is below the calls. Errors: OSError, ValueError, and what the adapters raise."""
        for folder in (config.state, config.kernels, config.console_logs, config.plugins, config.sr):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in ("hypervisor", "network"):
            if getattr(config, part) == "simulated":
                (config.state / "simulated" / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        load_all()
        self.config = config
        self.password = Password(config.password)
        self.store = Store(config.database)
        self.journal = Journal(config.database)
        self.hypervisor = hypervisor_of(config)
        self.network = network_of(config)
        self.storage = storage_of(config)
        self.sessions = Sessions(self.store, self.password, timeout_s=config.session_timeout_s)
        self.queue = Queue(config.workers)
        self.news = News(lambda _: self.context("", Task.hidden(self.store)))
        self.urls: list[str] = []
        self.host_ref = self.pool_ref = ""
        self._server: Server | None = None
        self._stopping = threading.Event()
        self._chores: threading.Thread | None = None

    def context(self, session: str, task: Task) -> Context:
        """What a handler works with."""
        return Context(
            store=self.store,
            hypervisor=self.hypervisor,
            storage=self.storage,
            network=self.network,
            journal=self.journal,
            config=self.config,
            host_ref=self.host_ref,
            pool_ref=self.pool_ref,
            session=session,
            task=task,
            sessions=self.sessions,
            queue=self.queue,
        )

    def prepare(self) -> None:
        """Make records true and undo what the last daemon left. Blocks; nobody is served yet."""
        facts, interfaces = self.hypervisor.facts(), self.network.interfaces()
        self.host_ref, self.pool_ref = inventory.refresh(self.store, self.config, facts, interfaces)
        if self.config.storage == "simulated":
            self._remember_simulated()
        machine = self.context("", Task.hidden(self.store))
        report = recover.recover(machine)
        log.info("recovered: %d domains running, %d swept", len(report.running), len(report.swept))
        if not self.store.refs("SR"):
            repository.create_first(machine, self.config.sr_limit)
        self.news.start()
        self._chores = threading.Thread(target=self._work, name="chores", daemon=True)
        self._chores.start()

    async def start(self) -> None:
        """Prepare, then answer at every listener. Errors: OSError (an address is taken, …)."""
        await asyncio.to_thread(self.prepare)
        events = Events(self.store, self.sessions)
        events.attach()
        self.sessions.on_close(events.forget_from_any_thread)
        dispatcher = Dispatcher(self.store, self.sessions, events, self.queue, self.context)
        rpc = Rpc(dispatcher, self.store.model, max_body=self.config.max_body)
        transfers = Transfers(self.store, self.sessions, self.queue, self.context)
        handlers = Handlers(
            xmlrpc=rpc.xmlrpc,
            jsonrpc=rpc.jsonrpc,
            import_vdi=transfers.put,
            export_vdi=transfers.get,
            console=Tunnels(self.store, self.sessions, self.context).connect,
        )
        self._server = Server(handlers, client_timeout_s=self.config.client_timeout_s, tls=self._tls)
        for listener in self.config.listeners:
            url = await self._server.listen(listener)
            self.urls.append(url)
            log.info("listening at %s (%s)", url, listener.serves)

    async def stop(self) -> None:
        """Stop serving; guests go on running."""
        self._stopping.set()
        if self._server is not None:
            await self._server.close()
        if not await asyncio.to_thread(self.queue.close):
            # a thread cannot be ended from outside; the journal undoes what it was doing at the next start
            log.warning("calls still run after the time they had: leaving them as a crash would")
            logging.shutdown()
            os._exit(0)
        self.close()

    def close(self) -> None:
        """Let go of everything below the calls."""
        self.news.stop()
        if self._chores is not None:
            self._chores.join(5.0)
        self.hypervisor.close()
        self.storage.close()
        self.journal.close()
        self.store.close()

    # ---- inside

    def _tls(self) -> ssl.SSLContext:
        addresses = [listener.host_port[0] for listener in self.config.listeners if listener.path is None]
        addresses += [self.config.host_address] if self.config.host_address else []
        return certificate.context(self.config.state, self.config.host_name, addresses)

    def _remember_simulated(self) -> None:
        """Simulated disks live in memory: after a restart those that have records come back empty."""
        there = set(self.storage.srs())
        for sr in self.store.refs("SR"):
            record = self.store.view("SR", sr)
            if record["uuid"] in there:
                continue
            log.warning("simulated SR %s comes back with %d empty disks", record["uuid"], len(record["VDIs"]))
            self.storage.create_sr(record["uuid"])
            self.storage.attach_sr(record["uuid"])
            for vdi in record["VDIs"]:
                held = self.store.view("VDI", vdi)
                self.storage.create(record["uuid"], held["uuid"], virtual_size=max(held["virtual_size"], 512))

    def _work(self) -> None:
        """What is done every now and then."""
        since_expiry = 0.0
        while not self._stopping.wait(_METRICS_S):
            since_expiry += _METRICS_S
            try:
                inventory.refresh_memory(self.store, self.host_ref, self.hypervisor.facts())
            except HypervisorError as why:
                log.warning("no memory figures: %s", why)
            except Exception:
                log.exception("a chore failed")
            if since_expiry >= _EXPIRE_S:
                since_expiry = 0.0
                self.sessions.expire()
                inventory.forget_old_tasks(self.store)


async def serve(config: Config, announce: Callable[[Daemon], Any]) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is called once, when every listener answers."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    daemon = Daemon(config)
    try:
        await daemon.start()
        announce(daemon)
        await stop.wait()
        log.info("stopping")
    finally:
        with contextlib.suppress(Exception):
            await daemon.stop()


def with_default_listener(config: Config) -> Config:
    """The configuration, with the unix socket when no listener was named."""
    from xenstack.host.config import Listener

    if config.listeners:
        return config
    return replace(config, listeners=(Listener(address=str(config.state / "xapi.sock")),))
