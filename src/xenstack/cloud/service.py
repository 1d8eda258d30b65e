"""What runs in a box: a service is a program that the box's supervisor starts, restarts and logs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One program of one box. Invariant: `config` lists every generated file it reads, so a change restarts it.

    `label` is its name for people ("nova-compute"); names are unique in a box only.
    """

    name: str
    box: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    config: tuple[Path, ...] = ()
    user: str = "root"
    folder: str = "/"
    folders: tuple[Path, ...] = ()  # what it wants to find: made before it starts
    stop_s: int = 5
    alone: bool = False  # its children outlive it: only the process itself is stopped

    @property
    def label(self) -> str:
        """The name over the whole cloud, as in `logs` and `status`."""
        return f"{self.box}/{self.name}"
