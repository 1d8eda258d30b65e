"""Domains: the port, the simulator and the libvirt adapter."""
