"""Database hosts: the closed edge at boot, the fence agent beside PostgreSQL, and the runners' one way in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyops_lab.hosts import HOSTS
from hyops_lab.roles import postgres
from hyops_lab.wiring import common, service
from hyops_lab.wiring.keys import RUNNERS, KeyRing

if TYPE_CHECKING:
    from hyops_lab.lab import Lab

AGENT_CONFIG = "/etc/hyops/fence-agent.json"

EDGE = common.unit(
    "hyops: the database's edge is closed before the network is up",
    service=[
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart=/usr/bin/hyops fence install-edge --config {AGENT_CONFIG}",
    ],
    after="local-fs.target",
    before=f"network-pre.target {postgres.UNIT}",
)
AGENT = common.unit(
    "hyops fence agent: serves writes only while it holds the lease",
    service=[
        "Type=notify",
        f"ExecStart=/usr/bin/hyops service run fence-agent --config {AGENT_CONFIG}",
        "Restart=always",
        "RestartSec=200ms",
        "OOMScoreAdjust=-900",
        "RuntimeDirectory=hyops",
        "RuntimeDirectoryPreserve=yes",
        "StateDirectory=hyops/fence-agent",
        "NoNewPrivileges=no",
        "ProtectHome=yes",
    ],
    after="network.target hyops-edge.service hyops-fence-init.service",
)
INIT = common.unit(
    "hyops: the first generation of a new service",
    service=[
        "Type=oneshot",
        "ExecCondition=/bin/sh -c '! grep -Eqs generation.:[1-9] /var/lib/hyops/fence-agent/state.json'",
        f"ExecStart=/usr/bin/hyops fence init --config {AGENT_CONFIG} --wait-s 120",
        "TimeoutStartSec=180",
        "StateDirectory=hyops/fence-agent",
    ],
    after="network.target",
)


def wire(lab: Lab, keys: KeyRing, receipts: Sequence[str] = service.RECEIPTS) -> None:
    """Prepare both database hosts."""
    for host in postgres.SERVERS:
        common.add_users(lab, host, [common.HYOPS])
        lab.write(host, AGENT_CONFIG, json.dumps(agent_config(host, receipts), indent=2).encode())
        lab.write(host, "/etc/hyops/trusted_keys.json", keys.trusted)
        lab.write(host, "/etc/systemd/system/hyops-edge.service", EDGE)
        lab.write(host, "/etc/systemd/system/hyops-fence-agent.service", AGENT)
        for runner in RUNNERS:
            common.entrance(lab, host, common.HYOPS, keys.public(f"{runner}-target"), "/usr/bin/hyops agent-call")
        if host == postgres.PRIMARY:
            lab.write(host, "/etc/systemd/system/hyops-fence-init.service", INIT)
            lab.enable(host, "hyops-fence-init.service")
        lab.enable(host, "hyops-edge.service", "hyops-fence-agent.service")


def agent_config(host: str, receipts: Sequence[str] = service.RECEIPTS) -> dict[str, object]:
    """`/etc/hyops/fence-agent.json` of one host."""
    policy = service.policy(receipts)
    return {
        "api_version": "hybridops/v1",
        "kind": "FenceAgent",
        "service": service.SERVICE,
        "host": host,
        "members": policy["members"],
        "lease": policy["lease"],
        "receipts": policy["receipts"],
        "monitors": [HOSTS[vantage].address for vantage in service.VANTAGES],
        "postgres": {
            "unit": postgres.UNIT,
            "source": {
                "user": "replicator",
                "passfile": postgres.PASSFILE,
                "connect_timeout": "2",
                "keepalives_idle": "1",
                "keepalives_interval": "1",
                "keepalives_count": "3",
                "tcp_user_timeout": "3000",
                "application_name": host,
            },
        },
    }
