"""Runs, definitions and modes for the tests of access."""

from __future__ import annotations

import asyncio
from typing import Any

from hyops.access.circumstances import Circumstances, Target
from hyops.access.mode import AccessMode, resolve
from hyops.model.access import AccessOptions, ResolvedAccess
from hyops.model.vocabulary import DecisionType, ExecutionPlane
from hyops.ports.access import SshPlace
from hyops.testing.access import FakeProbes
from hyops.testing.clock import FakeClock

KEY = "A" * 43 + "="
LOGIN = SshPlace("", "", 22, "hyops", "/etc/hyops/target_key", "/etc/hyops/known_hosts", "")
DB = Target("cloud-db", "10.77.2.10", "cloud")
SITES = {"onprem": ["10.77.1.0/24"], "cloud": ["10.77.2.0/24"], "hub": ["10.77.3.0/24"]}
BASTION = {
    "address": "10.77.4.10",
    "user": "jump",
    "key_file": "/etc/hyops/bastion_key",
    "known_hosts": "/etc/hyops/bastion_hosts",
    "site": "edge",
}


def options(**body: Any) -> AccessOptions:
    """Options as a file would give them."""
    return AccessOptions.of({"site_networks": SITES, **body})


def run_of(plane: ExecutionPlane, **more: Any) -> Circumstances:
    """An unplanned failover of the on-prem site to `cloud-db`."""
    facts: dict[str, Any] = {
        "plane": plane,
        "runner_ref": "cloud-runner",
        "runner_site": "cloud",
        "env": "prod",
        "blueprint_ref": "dr/postgresql-warm-promote@v1",
        "decision_type": DecisionType.FAILOVER,
        "targets": (DB,),
        "failed_site": "onprem",
        "site_networks": SITES,
    }
    return Circumstances(**(facts | more))


def resolved(mode: AccessMode, run: Circumstances) -> ResolvedAccess:
    """The mode's answer."""
    return asyncio.run(resolve(mode, run, FakeClock()))


def probes(**more: Any) -> FakeProbes:
    """A world in which `cloud-db` answers."""
    return FakeProbes(**({"ran": {"cloud-db": True}} | more))
