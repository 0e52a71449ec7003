"""A jump host at the edge: one user whose keys can only reach the databases' sshd, and its pin at the runners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyops_lab.hosts import HOSTS, SITES
from hyops_lab.roles import postgres
from hyops_lab.wiring import common
from hyops_lab.wiring.keys import RUNNERS, KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

HOST = "witness"
USER = common.User("hyops-jump", 7103, "/nonexistent")
PINS = "/etc/hyops/bastion_hosts"


def wire(lab: Lab, keys: KeyRing) -> None:
    """Prepare the jump host and the runners' pins; who uses it is decided by the plan's execution plane."""
    common.add_users(lab, HOST, [USER])
    there = ",".join(f'permitopen="{HOSTS[server].address}:22"' for server in postgres.SERVERS)
    line = f'restrict,port-forwarding,{there},command="/bin/false"'
    lines = "".join(f"{line} {keys.public(f'{runner}-target')}\n" for runner in RUNNERS)
    lab.write(HOST, f"/etc/ssh/authorized_keys.d/{USER.name}", lines.encode())
    for runner in RUNNERS:
        lab.write(runner, PINS, common.known_hosts(lab, HOST))


def access() -> dict[str, Any]:
    """`options.access` of a runner."""
    return {
        "site_networks": {site: [f"{prefix}.0/24"] for site, prefix in SITES.items()},
        "onprem_sites": ["onprem"],
        "ready_wait_s": 2.0,
        "bastion": HOST,
        "bastions": {
            HOST: {
                "address": HOSTS[HOST].address,
                "user": USER.name,
                "key_file": "/etc/hyops/target_key",
                "known_hosts": PINS,
                "site": HOSTS[HOST].site,
            }
        },
    }
