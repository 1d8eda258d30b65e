"""What an operation works on: one host's records, ports and journal, and the task it runs for.

The calls' context is one; recovery and the news of the hypervisor have their own.
"""

from pathlib import Path
from typing import Protocol

from xenstack.host.database.store import Store
from xenstack.host.hypervisor.port import Hypervisor
from xenstack.host.network.port import Network
from xenstack.host.storage.port import Storage
from xenstack.host.tasks.journal import Journal
from xenstack.host.tasks.plan import Progress

NULL = "OpaqueRef:NULL"


class Task(Progress, Protocol):
    """A plan's task that also has a record."""

    @property
    def ref(self) -> str:
        """The task's reference: the key of current_operations while it works on an object."""


class Folders(Protocol):
    """The part of the host's configuration that operations need."""

    @property
    def kernels(self) -> Path:
        """Where kernels and ramdisks for direct boot may lie; nothing else is accepted."""

    @property
    def console_logs(self) -> Path:
        """Where `console.<domid>` files go."""


class Machine(Protocol):
    """One host."""

    @property
    def store(self) -> Store: ...
    @property
    def hypervisor(self) -> Hypervisor: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def network(self) -> Network: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def task(self) -> Task: ...
    @property
    def config(self) -> Folders: ...
    @property
    def host_ref(self) -> str: ...
    @property
    def pool_ref(self) -> str: ...
