"""What the host asks of storage: SRs and the VDIs in them, and moving VDIs in and out.

The rules every adapter keeps, and one test suite checks:

  * arguments and answers are plain data (uuids, sizes in bytes, frozen dataclasses), so that a port can be remote;
    `ImportWriter` and `ExportReader` are the two exceptions: a body streams through them;
  * every call blocks and may be made from any thread, never from an event loop's;
  * the caller chooses every uuid first, so that it can undo whatever a call left behind, however far it got;
  * every call is all or nothing: after an error (also SrFull) files, figures and content are as before.
    After a `kill -9` the same is true once `recover` has run;
  * undo is easy: `destroy`, `deactivate`, `detach_sr`, `destroy_sr`, `abort` and `close` succeed when there is nothing;
  * a VDI's uuid and content belong to the caller; how VDIs share data (hidden read-only bases, as xapi's SM has them)
    belongs to the adapter. Nothing hidden outlives the last VDI that needs it;
  * a VDI has any number of read-only users, or one writer. What writes or destroys a VDI needs it without any user,
    what reads it needs it without a writer: else `VdiInUse`. Users live in memory: after a restart the caller
    activates again what the hypervisor's domains have open, before it does anything else;
  * no image is ever probed for its format, and none reaches QEMU before `inspect.py` has accepted its header.

Storage knows nothing of snapshots, read-only flags, names or sm_config: these are the records' matter.

Errors are the tree below `StorageError`, each with the XenAPI error it becomes. Sizes are in bytes.

The HTTP edge does this for `PUT /import_raw_vdi` (worker threads; `length` is Content-Length, None when chunked)::

    with storage.import_vdi(sr, vdi, format=Format.QCOW2, length=length) as body:
        for chunk in request:         # 64 KiB to 1 MiB each is best; bytes, bytearray or memoryview
            body.write(chunk)         # raises at the first byte too many: answer at once, close the connection
        info = body.finish()          # then, and only then, answer 200; set virtual_size and physical_utilisation
                                      # an exception, or leaving the block without finish(): the VDI is as before

and this for `GET /export_raw_vdi`::

    with storage.export_vdi(sr, vdi, format=Format.RAW) as body:
        send_head(content_length=body.length)
        for chunk in body:            # at most 1 MiB each
            send(chunk)               # leaving the block early ends the export and leaves nothing
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

MAX_VIRTUAL_SIZE = 16 << 40  # as XCP-ng allows for qcow2
SECTOR = 512  # virtual sizes are rounded up to whole sectors

Progress = Callable[[float], None]
"""Called with 0.0 to 1.0 now and then during a long call. If it raises (a cancel), the call is undone and raises it."""


def no_progress(done: float) -> None:
    """For callers that show no progress."""


class Format(StrEnum):
    """How an image's bytes are laid out. VDIs are kept as qcow2 (thin) or raw (sparse); vhd only travels."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VHD = "vhd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vdi:
    """A VDI as it is now. `physical_utilisation` is what its own file takes on the disk (`du`), shared bases not
    included; the guest sees `virtual_size` bytes."""

    uuid: str
    format: Format
    virtual_size: int
    physical_utilisation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SrSpace:
    """An SR's figures, named as XenAPI's fields. `physical_size` is the configured limit, or what the file system has
    for it (used by the SR + free), whichever is less; `physical_utilisation` is what all files of the SR take, hidden
    ones included; `virtual_allocation` is the sum of the VDIs' virtual sizes."""

    physical_size: int
    physical_utilisation: int
    virtual_allocation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What lies in an SR against what the caller expected.

    `vdis`: every good VDI, expected or not. `orphans`: uuids of good VDIs that were not expected (`SR.scan`
    introduces them, or they were forgotten). `missing`: expected uuids with no usable file. `damaged`: (name, reason)
    of files with a VDI's or base's name that are not usable. `foreign`: names that are none of ours; never touched.
    """

    vdis: tuple[Vdi, ...]
    orphans: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...]
    foreign: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What the hypervisor needs to open a VDI. `path` holds until the last `deactivate` (a clone keeps it true)."""

    path: Path
    format: Format
    read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What `recover` removed: names of temporary files and of hidden bases without children, per SR uuid."""

    temporaries: tuple[tuple[str, str], ...]
    bases: tuple[tuple[str, str], ...]


class StorageError(Exception):
    """Any failure of this port. A subclass tells what the caller can do."""


@dataclass(eq=False)
class InvalidArgument(StorageError):
    """An argument breaks a rule of this module (not a uuid, not a size, …). XenAPI: VALUE_NOT_SUPPORTED or ours."""

    reason: str


@dataclass(eq=False)
class Unsupported(StorageError):
    """This adapter cannot do what was asked. XenAPI: SR_OPERATION_NOT_SUPPORTED / VDI_INCOMPATIBLE_TYPE."""

    reason: str


@dataclass(eq=False)
class SrMissing(StorageError):
    """There is no such SR. XenAPI: SR_BACKEND_FAILURE (at PBD.plug)."""

    sr: str


@dataclass(eq=False)
class SrExists(StorageError):
    """The SR is there already. XenAPI: SR_UUID_EXISTS."""

    sr: str


@dataclass(eq=False)
class SrNotAttached(StorageError):
    """The SR must be attached first (PBD.plug). XenAPI: SR_NOT_ATTACHED (SR_HAS_NO_PBDS)."""

    sr: str


@dataclass(eq=False)
class SrNotEmpty(StorageError):
    """The SR still has VDIs, or files that are none of ours. XenAPI: SR_NOT_EMPTY."""

    sr: str


@dataclass(eq=False)
class SrInUse(StorageError):
    """VDIs of the SR are in use, or another process has the SR. XenAPI: SR_DEVICE_IN_USE (PBD.unplug)."""

    sr: str
    reason: str


@dataclass(eq=False)
class SrFull(StorageError):
    """The SR's limit is reached, or its file system is full. `needed` is 0 when not known. XenAPI: SR_FULL
    (parameters: requested, maximum)."""

    sr: str
    needed: int
    available: int


@dataclass(eq=False)
class VdiMissing(StorageError):
    """The SR has no such VDI. XenAPI: VDI_MISSING (sr, vdi)."""

    sr: str
    vdi: str


@dataclass(eq=False)
class VdiExists(StorageError):
    """The uuid is taken. XenAPI: UUID_INVALID or, for us, INTERNAL_ERROR."""

    sr: str
    vdi: str


@dataclass(eq=False)
class VdiInUse(StorageError):
    """The VDI's users (names given to `activate`, or "import", "export", "copy", …) do not allow this.
    XenAPI: VDI_IN_USE (vdi, operation)."""

    vdi: str
    users: tuple[str, ...]


@dataclass(eq=False)
class CannotShrink(StorageError):
    """A VDI never gets smaller. XenAPI: VDI_TOO_SMALL (vdi, minimum size)."""

    vdi: str
    virtual_size: int
    wanted: int


@dataclass(eq=False)
class ImageRejected(StorageError):
    """A body or file is not the image it should be, or a kind that is refused: bad header, backing file, external
    data file, encryption, unknown features, differencing VHD, … XenAPI: VDI_IO_ERROR for an HTTP import (reason in
    the answer's body)."""

    reason: str


@dataclass(eq=False)
class ImageTooLarge(StorageError):
    """The image's virtual size (for raw: the body) does not fit the VDI. XenAPI: VDI_TOO_SMALL (vdi, image size)."""

    vdi: str
    virtual_size: int
    image_size: int


@dataclass(eq=False)
class BodyTruncated(StorageError):
    """Fewer bytes came than were declared, or than the image's header promises. XenAPI: VDI_IO_ERROR."""

    received: int
    declared: int


@dataclass(eq=False)
class IoFailed(StorageError):
    """The disk, or a program we need, failed. XenAPI: VDI_IO_ERROR (VDI) or SR_BACKEND_FAILURE (SR)."""

    reason: str


class ImportWriter(Protocol):
    """Takes one body, from one thread at a time. Until `finish` returns the VDI is as it was; the writer is its only
    user ("import"). Raw: the VDI's content becomes the body, and zeros behind it; qcow2 and vhd: what the image holds,
    and zeros behind it. The VDI keeps its uuid, format and virtual size."""

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take more of the body; the chunk may be reused afterwards.

        Errors: ImageTooLarge, ImageRejected (as soon as the header is in), SrFull, IoFailed. After an error only
        `abort` is allowed.
        """

    def finish(self) -> Vdi:
        """The body is complete: check it, make it the VDI's content at one blow, and let go of the VDI.

        Errors: those of `write`, and BodyTruncated: fewer bytes than `length`, unless `length` was None or larger than
        any image can be (clients of XenAPI declare 1 PiB and just end the stream).
        """

    def abort(self) -> None:
        """Drop what came; the VDI is as it was, free again. No error after `finish` or a second time."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`abort`."""


class ExportReader(Protocol):
    """Gives one body, to one thread at a time. The reader is a read-only user of the VDI ("export") until `close`."""

    @property
    def length(self) -> int:
        """The body's length; known before the first byte."""

    def __iter__(self) -> Iterator[bytes]:
        """Chunks of at most 1 MiB. Errors: IoFailed. May be iterated once."""

    def close(self) -> None:
        """Let go of the VDI. No error a second time."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`close`."""


class Storage(Protocol):
    """The port. See the module's docstring for what holds for every call.

    Every call with `sr` may raise SrNotAttached, InvalidArgument and IoFailed; every call with an existing VDI also
    VdiMissing.
    """

    def recover(self) -> Recovered:
        """Remove what a killed host left: temporaries of imports, exports and half-made clones, and hidden bases
        without children. Once, at the start of the host, before any other call."""

    def create_sr(self, sr: str) -> None:
        """Make an empty SR; it is not attached. Errors: SrExists, SrFull."""

    def attach_sr(self, sr: str, *, size_limit: int | None = None) -> None:
        """Make the SR usable (PBD.plug) with a limit in bytes on what its files take; again with another limit changes
        the limit. The limit binds this port's calls; guests that fill their thin disks may exceed it.
        Errors: SrMissing, SrInUse (another process has it)."""

    def detach_sr(self, sr: str) -> None:
        """The reverse. No error when it is not attached. Errors: SrInUse."""

    def destroy_sr(self, sr: str) -> None:
        """Remove an empty SR, attached or not. No error when it is gone. Errors: SrNotEmpty."""

    def srs(self) -> list[str]:
        """The uuids of all SRs there are, attached or not, sorted."""

    def space(self, sr: str) -> SrSpace:
        """The SR's figures."""

    def scan(self, sr: str, expected: frozenset[str] = frozenset()) -> Scan:
        """Look at the SR again: what is there, against the uuids the caller's records have."""

    def create(self, sr: str, vdi: str, *, virtual_size: int, format: Format = Format.QCOW2) -> Vdi:
        """Make a VDI that reads as zeros; the size is rounded up to whole sectors. Thin: it takes almost no space.

        Errors: VdiExists, InvalidArgument (size 0 or above MAX_VIRTUAL_SIZE), SrFull, Unsupported (Format.VHD).
        """

    def destroy(self, sr: str, vdi: str) -> None:
        """Remove a VDI and whatever hidden base only it needed. No error when it is gone. Errors: VdiInUse."""

    def stat(self, sr: str, vdi: str) -> Vdi:
        """The VDI as it is now."""

    def clone(self, sr: str, vdi: str, new: str) -> Vdi:
        """Make a VDI with the same content; VDI.clone and VDI.snapshot are both this. Writing one never changes the
        other. For qcow2 it is copy-on-write (milliseconds, almost no space): the data becomes a hidden read-only base
        with both VDIs above it, or, when `vdi` has not changed since its last clone, the new VDI is put beside it.
        Raw VDIs, and chains longer than 30, are copied in full.

        Errors: VdiExists, SrFull, VdiInUse: `vdi` has a writer. QEMU keeps part of a written disk in its memory, so
        that no clone of a running guest's disk made from outside is safe: halt the VM (or detach the disk) first.
        """

    def copy(self, sr: str, vdi: str, to_sr: str, new: str, *, progress: Progress = no_progress) -> Vdi:
        """Make a full, independent copy, possibly in another SR. Errors: VdiExists, SrFull, VdiInUse (a writer)."""

    def resize(self, sr: str, vdi: str, virtual_size: int) -> Vdi:
        """Grow a VDI; the new part reads as zeros. The same size changes nothing. Errors: CannotShrink, VdiInUse
        (any user), SrFull, InvalidArgument."""

    def activate(self, sr: str, vdi: str, user: str, *, read_only: bool) -> Opened:
        """Register `user` (a VM's or VBD's uuid) and tell what to open. The same call again changes nothing.
        Errors: VdiInUse."""

    def deactivate(self, sr: str, vdi: str, user: str) -> None:
        """The user has closed it. No error when there is no such user, VDI or SR."""

    def users(self, sr: str, vdi: str) -> tuple[str, ...]:
        """Who has the VDI now, sorted."""

    def introduce(self, sr: str, vdi: str) -> Vdi:
        """Check a VDI's file that appeared in the SR and take it in (VDI.introduce). The same as `stat` for one that
        is known. Errors: VdiMissing, ImageRejected."""

    def forget(self, sr: str, vdi: str) -> None:
        """The caller drops its record; the file stays and `scan` shows it as an orphan. Errors: VdiInUse."""

    def import_vdi(self, sr: str, vdi: str, *, format: Format, length: int | None = None) -> ImportWriter:
        """Start to replace the VDI's content by a body in `format`. Errors: VdiInUse (any user), SrFull,
        ImageTooLarge (raw: a believable `length` above the VDI's size)."""

    def export_vdi(self, sr: str, vdi: str, *, format: Format) -> ExportReader:
        """Start to read the VDI's content as `format`: complete, with no backing file.

        Every format streams at once, nothing temporary is written. Errors: VdiInUse (a writer), Unsupported (vhd above
        2040 GiB).
        """

    def close(self) -> None:
        """Detach every SR and let go of everything. Users' disks stay open; no call is allowed afterwards."""
