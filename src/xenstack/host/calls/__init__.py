"""One handler per hand-written XenAPI message; generated messages need none."""
