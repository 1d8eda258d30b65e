"""The host: a XenAPI toolstack for plain Linux. daemon.py is the composition root; adapters are known to it alone."""
