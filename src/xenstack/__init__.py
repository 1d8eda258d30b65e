"""OpenStack on Xen hosts through XenAPI, and a XenAPI toolstack for plain Linux."""
