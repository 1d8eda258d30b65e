"""dom0 of a host: the XenAPI daemon, the libvirtd under it, and what both keep."""

from xenstack.cloud.box import Bind
from xenstack.cloud.layout import Layout
from xenstack.cloud.secrets import Secrets
from xenstack.cloud.service import Service


def binds(where: Layout, number: int) -> tuple[Bind, ...]:
    return ()


def services(where: Layout, secrets: Secrets, number: int) -> tuple[Service, ...]:
    return ()
