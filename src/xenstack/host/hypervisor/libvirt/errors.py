"""libvirt's failures in the port's words: one table.

libvirt's codes are coarse: most of what QEMU refuses is VIR_ERR_INTERNAL_ERROR with QEMU's own sentence, so the table
looks at code and sentence. What is not in it becomes a plain HypervisorError with every word libvirt said; whoever
handles that logs a traceback, because it is a case we did not know.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import libvirt

from xenstack.host.hypervisor.port import (
    DetachRejected,
    DeviceExists,
    DeviceMissing,
    DomainExists,
    DomainMissing,
    FileUnusable,
    HypervisorError,
    NotEnoughMemory,
    TimedOut,
    Unavailable,
    Unsupported,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A failure: of which verb, on which domain, and what the sentence's pattern found."""

    verb: str
    uuid: str
    match: re.Match[str]

    def __getitem__(self, group: int) -> str:
        return self.match[group] or ""


Make = Callable[[Seen], HypervisorError]

ANY = None

# (code or ANY, pattern of the sentence, what it means); the first that fits counts
TABLE: tuple[tuple[int | None, str, Make], ...] = (
    (libvirt.VIR_ERR_NO_DOMAIN, "", lambda s: DomainMissing(s.uuid)),
    (ANY, r"domain is not running|domain is no longer running", lambda s: DomainMissing(s.uuid)),
    (
        ANY,
        r"target (\w+) already exists|Duplicate ID '([^']+)'",
        lambda s: DeviceExists(s.uuid, s[1] or s[2]),
    ),
    (ANY, r"already (active|exists|defined)|is already being started", lambda s: DomainExists(s.uuid)),
    (libvirt.VIR_ERR_OPERATION_TIMEOUT, "", lambda s: TimedOut(s.verb, s.uuid)),
    (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "", lambda s: TimedOut(s.verb, s.uuid)),
    (libvirt.VIR_ERR_NO_CONNECT, "(.*)", lambda s: Unavailable(s[1])),
    (libvirt.VIR_ERR_RPC, "(.*)", lambda s: Unavailable(s[1])),
    (libvirt.VIR_ERR_INVALID_CONN, "(.*)", lambda s: Unavailable(s[1])),
    (
        ANY,
        r"(client socket is closed|Cannot (?:recv|write) data.*|End of file while reading data.*|Failed to connect.*"
        r"|internal error: client socket.*)",
        lambda s: Unavailable(s[1]),
    ),
    (
        ANY,
        r"Is another process using the image \[([^\]]+)\]",
        lambda s: FileUnusable(s[1], "in use by another disk"),
    ),
    (ANY, r"Could not open '([^']+)': ([^\n]+)", lambda s: FileUnusable(s[1], s[2])),
    (ANY, r"[Cc]annot access storage file '([^']+)'[^:]*: ([^\n]+)", lambda s: FileUnusable(s[1], s[2])),
    (ANY, r"could not load kernel '([^']+)': ([^\n]+)", lambda s: FileUnusable(s[1], s[2])),
    (
        ANY,
        r"could not (?:load|read|open).*initrd[^']*'([^']+)'",
        lambda s: FileUnusable(s[1], "unreadable"),
    ),
    (ANY, r"([Ii]mage is not in \S+ format|Invalid image|backing file)", lambda s: FileUnusable("", s[1])),
    (ANY, r"Failed to open file '([^']+)': ([^\n]+)", lambda s: FileUnusable(s[1], s[2])),
    (ANY, r"failed to create file '([^']+)': ([^\n]+)", lambda s: FileUnusable(s[1], s[2])),
    (ANY, r"(?i)no space left on device", lambda _: FileUnusable("", "no space left on device")),
    (ANY, r"(?i)cannot (?:set up guest memory|allocate memory)", lambda _: NotEnoughMemory(0, 0)),
    (libvirt.VIR_ERR_NO_MEMORY, "", lambda _: NotEnoughMemory(0, 0)),
    (libvirt.VIR_ERR_DEVICE_MISSING, "(.*)", lambda s: DeviceMissing(s.uuid, s[1])),
    (ANY, r"[Dd]evice ([\w-]+) is already in the process of unplug", lambda s: DetachRejected(s.uuid, s[1])),
    (libvirt.VIR_ERR_NO_SUPPORT, "(.*)", lambda s: Unsupported(s[1])),
    (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "(.*)", lambda s: Unsupported(s[1])),
    (libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "(.*)", lambda s: Unsupported(s[1])),
    (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, "(.*)", lambda s: Unsupported(s[1])),
)


def translate(why: libvirt.libvirtError, verb: str, uuid: str) -> HypervisorError:
    """The port's error for a failure of `verb` on the domain `uuid`."""
    code, sentence = why.get_error_code(), why.get_error_message() or str(why)
    return translate_words(code, sentence, verb, uuid)


def translate_words(code: int, sentence: str, verb: str, uuid: str) -> HypervisorError:
    """The same, from libvirt's code and sentence."""
    for wanted, pattern, make in TABLE:
        if wanted in (ANY, code) and (match := re.search(pattern, sentence)):
            return make(Seen(verb, uuid, match))
    return HypervisorError(f"{verb} of {uuid or 'no domain'}: libvirt error {code}: {sentence}")
