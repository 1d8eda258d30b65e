"""Bridges and VIF plumbing: the port, the simulator and the Open vSwitch adapter."""
