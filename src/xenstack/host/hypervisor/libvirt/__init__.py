"""The hypervisor adapter for libvirt with QEMU: TCG everywhere, KVM where the configuration says so.

    settings.py    what an installation may choose
    xml.py         domain XML, one function per element
    reading.py     XML of a living domain back to records
    errors.py      libvirt's failures in the port's words: one table
    connection.py  the event loop, reconnecting, news
    adapter.py     the port's verbs
    instance.py    how to run a private libvirtd (configuration files, start command)

Domains are transient: libvirt forgets one the moment it stops, and the host's database stays the only memory of VMs.
`import libvirt` happens nowhere else (import-linter holds it).
"""
