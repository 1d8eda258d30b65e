"""The image cache: every image is imported once into the SR as a VDI, and instances' root disks are its clones.

Rules:

  * a cached image is a VDI with `other_config["image-id"]` = the image and `other_config["image-vdi"]` = its own uuid.
    The second is set when, and only when, its content is complete and checked. A clone inherits both and has another
    uuid: until it is renamed it cannot be mistaken for the image;
  * nothing is imported whose content is not what its disk_format says (oslo.utils' inspectors, the rule Nova has
    since CVE-2024-32498), which refers to a file outside itself, or which is larger than the flavor's disk;
  * imports of one image wait for each other; of different images they run side by side;
  * a VDI whose import did not end carries `other_config["image-import"]` = "<host uuid>": `sweep` removes it at start.

Images travel as they are: the host converts them. Formats: raw, qcow2, vhd (dynamic).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from nova import exception
from nova.image import glance
from oslo_concurrency import lockutils
from oslo_log import log as logging
from oslo_utils.imageutils import format_inspector

from xenstack.nova import disks
from xenstack.nova.host import Host
from xenstack.nova.records import Record
from xenstack.xenapi import errors

LOG = logging.getLogger(__name__)

IMAGE, OWN, IMPORTING = "image-id", "image-vdi", "image-import"

FORMATS = ("raw", "qcow2", "vhd")
_HEAD_LIMIT = 8 << 20  # every inspector has decided long before
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Cached:
    """An image in the SR."""

    vdi: str
    virtual_size: int


def provide(host: Host, context: Any, instance: Any, image_meta: Any) -> Cached:
    """The instance's image as a VDI of the SR, imported when it is not there yet.

    Raises ImageUnacceptable, FlavorDiskSmallerThanImage, or what the image service raises.
    """
    if (cached := find(host, image_meta.id)) is None:
        with lockutils.lock(f"xenapi-image-{image_meta.id}"):
            if (cached := find(host, image_meta.id)) is None:
                cached = _import(host, context, image_meta.id, instance)
    disks.root_size(instance, cached.virtual_size)
    return cached


def cache(host: Host, context: Any, image_id: str) -> bool:
    """Import an image ahead of need; False when it is there already."""
    with lockutils.lock(f"xenapi-image-{image_id}"):
        if find(host, image_id) is not None:
            return False
        _import(host, context, image_id, None)
        return True


def find(host: Host, image_id: str) -> Cached | None:
    """The cached image, or None."""
    for ref, vdi in host.records.all("vdi"):
        if vdi["SR"] == host.sr and _is_cached(vdi, image_id):
            return Cached(ref, int(vdi["virtual_size"]))
    return None


def all_cached(host: Host) -> dict[str, str]:
    """Every cached image of the SR, with its VDI."""
    found = {}
    for ref, vdi in host.records.all("vdi"):
        image = vdi.get("other_config", {}).get(IMAGE)
        if image and vdi["SR"] == host.sr and _is_cached(vdi, image):
            found[image] = ref
    return found


def _is_cached(vdi: Record, image_id: str) -> bool:
    config = vdi.get("other_config", {})
    return bool(config.get(IMAGE) == image_id and config.get(OWN) == vdi["uuid"] and not vdi.get("is_a_snapshot"))


def sweep(host: Host) -> None:
    """Remove what imports and clones of this driver left when it was killed: called once, before any spawn."""
    mine = host.record.get("uuid")
    for ref, vdi in host.records.all("vdi"):
        config = vdi.get("other_config", {})
        half_made = config.get(IMPORTING) == mine and not vdi["VBDs"]
        if half_made or (OWN in config and config[OWN] != vdi["uuid"] and not vdi["VBDs"]):
            LOG.info("Removing VDI %s, which an interrupted build left", vdi["uuid"])
            disks.destroy_all(host, [ref])


def _import(host: Host, context: Any, image_id: str, instance: Any) -> Cached:
    api = glance.API()
    image = api.get(context, image_id)
    disk_format, length = image.get("disk_format"), image.get("size")
    if disk_format not in FORMATS or image.get("container_format") not in (None, "bare"):
        kind = f"{disk_format} in {image.get('container_format')}"
        raise _refused(image_id, f"{kind} is not supported, only {', '.join(FORMATS)} in bare")
    chunks = _downloaded(image_id, api.download(context, image_id))
    head, inspector = _inspect(image_id, disk_format, chunks)
    size = _virtual_size(image_id, disk_format, inspector, length)
    if instance is not None:
        disks.root_size(instance, size)
    LOG.info("Importing image %s: %s, %d bytes for the guest", image_id, disk_format, size)
    wanted = disks.vdi_record(
        host, name=f"image {image_id}", size=size, other_config={IMPORTING: str(host.record["uuid"])}
    )
    vdi = str(host.call("VDI.create", wanted))
    try:
        body = _sized(_counted(image_id, chain(head, chunks), length), host.settings.image_chunk_size)
        try:
            host.session.import_vdi(vdi, body, length=length, format=disk_format)
        except errors.VdiIoError as why:
            # said before any guest had the disk: it is about the image. Nova would try the next host in vain
            raise _refused(image_id, f"the host cannot read it: {why}") from why
        record = host.call("VDI.get_record", vdi)
        host.call("VDI.set_other_config", vdi, {IMAGE: image_id, OWN: str(record["uuid"])})
    except BaseException:
        _discard(host, vdi)
        raise
    host.records.wait(lambda: _is_cached(host.records.get("vdi", vdi) or {"uuid": ""}, image_id), 10.0)
    return Cached(vdi, int(record["virtual_size"]))


def _discard(host: Host, vdi: str) -> None:
    try:
        disks.destroy(host, vdi)
    except Exception:
        LOG.exception("VDI %s of an import that failed is not removed; the next start of this service does it", vdi)


def _inspect(image_id: str, disk_format: str, chunks: Iterator[bytes]) -> tuple[list[bytes], Any]:
    """Read as much as the inspectors need; answers what was read and the inspector whose format it is."""
    head: list[bytes] = []

    def kept() -> Iterator[bytes]:
        for chunk in chunks:
            head.append(chunk)
            yield chunk

    wrapper = format_inspector.InspectWrapper(kept())
    read = 0
    try:
        for chunk in wrapper:
            read += len(chunk)
            if wrapper.formats is not None or read > _HEAD_LIMIT:
                break
        if wrapper.formats is None:
            wrapper.close()
        found = wrapper.format
        found.safety_check()
    except format_inspector.SafetyCheckFailed as why:
        raise _refused(image_id, f"it does not pass the safety check: {why}") from why
    except format_inspector.ImageFormatError as why:
        raise _refused(image_id, f"its content does not match disk_format {disk_format}: {why}") from why
    # A disk image with a partition table is "gpt" to the inspectors and "raw" to everybody else.
    if str(found) != disk_format and not (disk_format == "raw" and str(found) == "gpt"):
        raise _refused(image_id, f"its content is {found}, its disk_format says {disk_format}")
    return head, found


def _virtual_size(image_id: str, disk_format: str, inspector: Any, length: int | None) -> int:
    size = length if disk_format == "raw" else int(inspector.virtual_size)
    if not size:
        raise _refused(image_id, "its size is not known, or 0")
    return -(-size // _SECTOR) * _SECTOR


def _downloaded(image_id: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The chunks; a connection that breaks off and a checksum that is wrong are the image's fault to its user."""
    try:
        yield from chunks
    except OSError as why:  # requests' and glanceclient's errors are
        raise _refused(image_id, f"the image service did not send all of it: {why}") from why


def _counted(image_id: str, chunks: Iterator[bytes], length: int | None) -> Iterator[bytes]:
    """The chunks; a stream that is shorter or longer than the image service said is no image."""
    sent = 0
    for chunk in chunks:
        sent += len(chunk)
        if length is not None and sent > length:
            raise _refused(image_id, f"the image service sent more than its {length} bytes")
        yield chunk
    if length is not None and sent != length:
        raise _refused(image_id, f"the image service sent {sent} of its {length} bytes")


def _sized(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of at least `size`, the last one excepted: fewer and larger writes."""
    waiting: list[bytes] = []
    have = 0
    for chunk in chunks:
        waiting.append(chunk)
        have += len(chunk)
        if have >= size:
            yield b"".join(waiting) if len(waiting) > 1 else chunk
            waiting, have = [], 0
    if waiting:
        yield b"".join(waiting)


def _refused(image_id: str, reason: str) -> exception.ImageUnacceptable:
    return exception.ImageUnacceptable(image_id=image_id, reason=reason)
