"""Cached images that no instance needs any more.

Nova calls this every `[image_cache] manager_interval`. An image goes when none of the instances Nova names was made
from it for `remove_unused_original_minimum_age_seconds`, counted from when this service first saw it unused: a
restart begins anew. Removing an image harms no instance, their disks are clones of their own.
"""

import time
from collections.abc import Iterable
from typing import Any

import nova.conf
from oslo_concurrency import lockutils
from oslo_log import log as logging

from xenstack.nova import disks, images
from xenstack.nova.host import Host
from xenstack.xenapi import errors

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class Expiry:
    """Remembers since when each cached image has been unused."""

    def __init__(self) -> None:
        self._unused_since: dict[str, float] = {}

    def run(self, host: Host, instances: Iterable[Any]) -> None:
        """Remove what has been unused long enough."""
        needed = {instance.image_ref for instance in instances}
        cached = images.all_cached(host)
        now = time.monotonic()
        self._unused_since = {image: self._unused_since.get(image, now) for image in cached if image not in needed}
        if not CONF.image_cache.remove_unused_base_images:
            return
        limit = CONF.image_cache.remove_unused_original_minimum_age_seconds
        for image, since in list(self._unused_since.items()):
            if now - since >= limit:
                self._remove(host, image, cached[image])

    def _remove(self, host: Host, image: str, vdi: str) -> None:
        with lockutils.lock(f"xenapi-image-{image}"):
            try:
                disks.destroy(host, vdi)
            except errors.XenAPIError as why:
                LOG.warning("Image %s, unused, cannot be removed: %s", image, why)
                return
            host.await_record("vdi", vdi, there=False)
        LOG.info("Image %s is removed from the SR: no instance needs it", image)
        del self._unused_since[image]
