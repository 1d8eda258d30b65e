"""The file SR: a directory of qcow2 and raw files, one per VDI, clones by copy-on-write."""

from xenstack.host.storage.file.storage import FileStorage

__all__ = ["FileStorage"]
