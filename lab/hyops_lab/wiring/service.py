"""The protected service of the lab: its policy and its routes, as an operator would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyops_lab.hosts import ENDPOINT, HOSTS, ZONE
from hyops_lab.roles import dns, etcd, monitor

SERVICE, ENV = "pg", "lab"
VANTAGES = ("control", "witness", "cloud-runner")
BLUEPRINT = "dr/postgresql-warm-promote@v1"
LEASE_TTL_S, LEASE_MARGIN_S = 2.0, 0.25
RECEIPTS = ("observed", "powered-off", "lease-expired")
MEMBERS = {"onprem-db": "onprem-runner", "cloud-db": "cloud-runner"}
WAL_AGE_S_MAX = 1.0  # younger than this, the standby still hears the primary: then it is the path that is broken


def policy(receipts: Sequence[str] = RECEIPTS) -> dict[str, Any]:
    """`services/pg.yml`; a lab may accept fewer classes of receipts than usual."""
    probed = {"vantages": list(VANTAGES), "interval_s": 0.25, "timeout_s": 0.6, "max_age_s": 1.2}
    return {
        "api_version": "hybridops/v1",
        "kind": "ServicePolicy",
        "service": SERVICE,
        "env": ENV,
        "members": [
            {
                "host": host,
                "site": HOSTS[host].site,
                "address": HOSTS[host].address,
                "runner_ref": runner,
                "target_cloud": "none",
            }
            for host, runner in MEMBERS.items()
        ],
        "preferred": "onprem-db",
        "endpoint": {
            "name": ENDPOINT,
            "zone": ZONE,
            "authorities": [f"{HOSTS[dns.SERVER].address}:53"],
            "ttl_s": dns.TTL_S,
            "tsig_key_name": dns.KEY_NAME,
        },
        "lease": {
            "endpoints": [etcd.client_url(member) for member in etcd.MEMBERS],
            "ttl_s": LEASE_TTL_S,
            "margin_s": LEASE_MARGIN_S,
            "on_loss": "self-fence",
        },
        "signals": [
            {"name": "primary_answers", "source": "postgresql", "weight": 3.0, **probed},
            {"name": "primary_port", "source": "tcp", "weight": 1.0, **probed},
            {"name": "endpoint_resolves", "source": "dns", "weight": 0.0, **probed},
            {
                "name": "wal_received",
                "source": "postgresql",
                "about": "target",
                "comparator": "lte",
                "threshold": WAL_AGE_S_MAX,
                "weight": 0.0,
                **probed,
            },
            {
                "name": "primary_metrics",
                "source": "prometheus",
                "url": f"http://{HOSTS[monitor.SERVER].address}:{monitor.PROMETHEUS_PORT}",
                "query": 'pg_up{host="$host"}',
                "absence": "bad",
                "weight": 0.0,
                "interval_s": 1.0,
                "timeout_s": 0.9,
                "max_age_s": 5.0,
            },
        ],
        "quorum": 2,
        "confidence_min": 0.6,
        "confirm_for_s": 1.2,  # as long as a sample may be old: two looks and then silence confirm nothing
        "stable_for_s": 30.0,
        "cooldown_s": 10.0,
        "level": "trigger",
        "dr_mode": "warm_promote",
        "execution_plane": "runner-local",
        "receipts": list(receipts),
        "rto_s": 30.0,
        "rpo_s": 5.0,
        "options": {
            "probe": {"user": "hyops", "dbname": "app"},
            "vantage_sites": {vantage: HOSTS[vantage].site for vantage in VANTAGES},
        },
    }


def routes(receipts: Sequence[str] = RECEIPTS) -> dict[str, Any]:
    """`dispatcher_routes`: failover to the cloud, failback to the premises; the same blueprint both ways."""
    return {
        "env": ENV,
        "dispatcher_require_approval": True,
        "dispatcher_routes": {
            "failover": _route("onprem-db", "cloud-db", receipts),
            "failback": _route("cloud-db", "onprem-db", receipts),
        },
    }


def _route(source: str, target: str, receipts: Sequence[str]) -> dict[str, Any]:
    made = policy(receipts)
    shared = {name: made[name] for name in ("members", "endpoint", "lease", "receipts")}
    return {
        "target_kind": "blueprint",
        "target_ref": BLUEPRINT,
        "target_env": ENV,
        "execution_plane": made["execution_plane"],
        "runner_ref": MEMBERS[target],
        "requires_approval": True,
        "inputs": {"source": source, "target": target, **shared},
    }
