"""Nova loads drivers from nova.virt only; this name leads it to ours: ``compute_driver = xenapi.XenAPIDriver``."""

from xenstack.nova.driver import XenAPIDriver

__all__ = ["XenAPIDriver"]
