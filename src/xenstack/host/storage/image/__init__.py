"""Disk images in pure Python: reading qcow2, VHD and raw, writing qcow2, streaming all three.

No process, no temporary copy; hostile images do not reach QEMU, because what their tables say is checked here.
"""
