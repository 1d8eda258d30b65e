"""Disks: the port, the simulator and the file SR."""
