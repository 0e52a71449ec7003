"""What each role puts into machines before they boot, and how it is known to work afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyops_lab.roles import client, dns, etcd, monitor, postgres

if TYPE_CHECKING:
    from hyops_lab.lab import Lab


@dataclass(frozen=True)
class Role:
    """`prepare` writes the files and enables the units of a host that is off; `ready` waits until the role serves."""

    hosts: tuple[str, ...]
    prepare: Callable[[Lab, str], None]
    ready: Callable[[Lab], None]


ROLES = {
    "etcd": Role(etcd.MEMBERS, etcd.prepare, etcd.ready),
    "postgres": Role(postgres.SERVERS, postgres.prepare, postgres.ready),
    "dns": Role((dns.SERVER,), dns.prepare, dns.ready),
    "monitor": Role((monitor.SERVER, *postgres.SERVERS), monitor.prepare, monitor.ready),
    "client": Role((client.HOST,), client.prepare, client.ready),
}
